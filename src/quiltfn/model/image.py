"""Image: the files of a runtime, known by the digest of their content."""

from enum import StrEnum

import msgspec


class Archive(StrEnum):
    """How an image is packed for its way to the server."""

    TAR = "application/x-tar"
    GZIP = "application/gzip"


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a runtime, unpacked. `files` without directories; `is_new`: not there before."""

    digest: str
    files: int
    size_bytes: int
    is_new: bool
