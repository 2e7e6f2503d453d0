"""Image: the files of a runtime, known by the digest of their content."""

from enum import StrEnum

import msgspec


class Archive(StrEnum):
    """How an image is packed for its upload."""

    TAR = "application/x-tar"
    GZIP = "application/gzip"


class Contents(StrEnum):
    """What an uploaded archive holds."""

    FILES = "files"  # of a runtime, at /app
    ROOTFS = "rootfs"  # a finished root file system
    IMAGE = "image"  # an execution image: an OCI layout, or what `docker save` writes
    COPY = "copy"  # what another node has unpacked and checked; not to be uploaded


UPLOADED = (Contents.FILES, Contents.ROOTFS, Contents.IMAGE)


# What each file, link or directory takes on disk beside its content, and each image once more.
ENTRY_BYTES = 4096
NOT_MEASURED = -1


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a runtime, unpacked. `files`: without directories; `entries`: with them.
    `is_new`: it did not exist before. `environment`: the variables that an execution image says its
    programs expect. `interpreters`: kind of runtime → path of the program in a root file system,
    links resolved.
    """

    digest: str
    files: int
    entries: int
    size_bytes: int
    is_new: bool
    environment: dict[str, str] = {}
    interpreters: dict[str, str] = {}

    @property
    def counted_bytes(self) -> int:
        """What it counts against a quota. Many small files take space, too."""
        return counted_bytes(self.size_bytes, self.entries)


class ImageFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file or a link in an image. `path`: below its root, without a slash first. `size_bytes`: 0
    of a link.
    """

    path: str
    size_bytes: int
    is_link: bool = False
    is_executable: bool = False


class PackageKind(StrEnum):
    """Whose package it is."""

    PYTHON = "python"
    NODE = "node"


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A package that an image has, by what it says of itself."""

    kind: PackageKind
    name: str
    version: str


class TenantImage(msgspec.Struct, frozen=True):
    """An image that a tenant has, and what it counts against the tenant's quota."""

    tenant_id: str
    digest: str
    counted_bytes: int

    @property
    def is_measured(self) -> bool:
        """Whether its size is known."""
        return self.counted_bytes != NOT_MEASURED


def counted_bytes(size_bytes: int, entries: int) -> int:
    """What an image of that many bytes and entries counts against a quota."""
    return size_bytes + ENTRY_BYTES * (entries + 1)
