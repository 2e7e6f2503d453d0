"""Image: the files of a runtime, known by the digest of their content."""

from enum import StrEnum

import msgspec


class Archive(StrEnum):
    """How an image is packed for its way to the server."""

    TAR = "application/x-tar"
    GZIP = "application/gzip"


# What a file, link or directory takes of a disk beside its content, and an image beside its files.
ENTRY_BYTES = 4096
NOT_MEASURED = -1


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a runtime, unpacked. `files` without directories; `entries` with them.
    `is_new`: not there before."""

    digest: str
    files: int
    entries: int
    size_bytes: int
    is_new: bool

    @property
    def counted_bytes(self) -> int:
        """What it counts against a quota: small files take room, too."""
        return counted_bytes(self.size_bytes, self.entries)


class TenantImage(msgspec.Struct, frozen=True):
    """That an image is a tenant's, and what it counts against the tenant's quota."""

    tenant_id: str
    digest: str
    counted_bytes: int

    @property
    def is_measured(self) -> bool:
        """Whether it is known what it counts."""
        return self.counted_bytes != NOT_MEASURED


def counted_bytes(size_bytes: int, entries: int) -> int:
    """What files of that many bytes in all, and that many entries, count against a quota."""
    return size_bytes + ENTRY_BYTES * (entries + 1)
