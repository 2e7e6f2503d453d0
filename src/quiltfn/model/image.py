"""Image: the files of a runtime, identified by the digest of their content."""

from enum import StrEnum

import msgspec


class Archive(StrEnum):
    """How an image is packed for its upload."""

    TAR = "application/x-tar"
    GZIP = "application/gzip"


class Contents(StrEnum):
    """What an uploaded archive contains."""

    FILES = "files"  # files of a runtime, at /app
    ROOTFS = "rootfs"  # a finished root file system
    IMAGE = "image"  # a container image: an OCI layout, or what `docker save` writes
    COPY = "copy"  # unpacked and checked by another node; clients cannot upload it


UPLOADED = (Contents.FILES, Contents.ROOTFS, Contents.IMAGE)


# Disk space of each file, link or directory besides its content, plus once for each image.
ENTRY_BYTES = 4096
NOT_MEASURED = -1


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """The unpacked files of a runtime. `files`: the number without directories; `entries`: the
    number with directories. `is_new`: the image did not exist before. `environment`: the variables
    that a container image declares for its programs. `interpreters`: for each kind of runtime, the
    path of its program in a root file system, with links resolved.
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
        """The bytes that the image counts against a quota, including an overhead for each entry."""
        return counted_bytes(self.size_bytes, self.entries)


class ImageFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file or link in an image. `path`: relative to its root, without a leading slash.
    `size_bytes`: 0 for a link.
    """

    path: str
    size_bytes: int
    is_link: bool = False
    is_executable: bool = False


class PackageKind(StrEnum):
    """The language of a package."""

    PYTHON = "python"
    NODE = "node"


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A package in an image, as its own metadata describes it."""

    kind: PackageKind
    name: str
    version: str


class TenantImage(msgspec.Struct, frozen=True):
    """An image of a tenant, and the bytes it counts against the tenant's quota."""

    tenant_id: str
    digest: str
    counted_bytes: int

    @property
    def is_measured(self) -> bool:
        """Whether the image's size was measured."""
        return self.counted_bytes != NOT_MEASURED


def counted_bytes(size_bytes: int, entries: int) -> int:
    """The bytes that an image of this size and number of entries counts against a quota."""
    return size_bytes + ENTRY_BYTES * (entries + 1)
