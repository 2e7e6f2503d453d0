"""Jobs on images: their inputs, limits and code. Their cost depends on the uploader. `processes`
runs each job in a separate process.
"""

import ctypes
import gzip
import os
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from quiltfn.images import archive_rules, contents
from quiltfn.images.root_file_system import Unpacked, unpack_image, unpack_tar
from quiltfn.images.tar import Source
from quiltfn.images.unpack import DIRECTORY, ImageLimits, Unpacker
from quiltfn.model.errors import Unprocessable
from quiltfn.model.image import Archive, Contents, Package

MIB = 1024 * 1024
# The memory limit: a base for every process, and more for each entry of an image that is unpacked.
LEAST_MEMORY_BYTES, ENTRY_MEMORY_BYTES = 512 * MIB, 4096
LIST_MAX_S = 30


class JobLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a job. `file_bytes`: the maximum size of each file that it writes."""

    cpu_s: int
    memory_bytes: int
    file_bytes: int


class Unpack(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Unpack the archive in the file into the empty directory `place`, and sync it to disk."""

    place: str
    archive: Archive
    contents: Contents
    limits: ImageLimits

    @property
    def uses(self) -> JobLimits:
        return JobLimits(
            cpu_s=self.limits.unpack_max_s,
            memory_bytes=LEAST_MEMORY_BYTES + ENTRY_MEMORY_BYTES * self.limits.files_max,
            file_bytes=self.limits.unpacked_max_bytes,
        )


class ListPackages(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """List the packages below `root`."""

    root: str

    @property
    def uses(self) -> JobLimits:
        return JobLimits(cpu_s=LIST_MAX_S, memory_bytes=LEAST_MEMORY_BYTES, file_bytes=0)


Job = Unpack | ListPackages


class Packages(msgspec.Struct, frozen=True, tag=True):
    """The packages of an image, and whether the list is complete."""

    found: list[Package]
    is_complete: bool


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The archive was refused; the fields are those of the error."""

    message: str
    details: dict[str, str] | None


class Failed(msgspec.Struct, frozen=True, tag=True):
    """A system call failed, for example because the disk is full."""

    errno: int


Outcome = Unpacked | Packages | Refused | Failed


def outcome_of(job: Job, file: BinaryIO | None) -> Outcome:
    """Runs the job. All errors that its input can cause are returned as an outcome. Blocks."""
    try:
        if isinstance(job, ListPackages):
            found, is_complete = contents.packages_of(Path(job.root))
            return Packages(found, is_complete)
        assert file is not None
        return _unpack(job, file)
    except Unprocessable as error:
        return Refused(str(error), error.details)
    except MemoryError:
        return Refused(str(archive_rules.refusal("unpacking it takes too much memory")), None)
    except OSError as error:
        return Failed(error.errno or 0)


def _unpack(job: Unpack, file: BinaryIO) -> Unpacked:
    root = os.open(job.place, DIRECTORY)
    try:
        unpacked = _unpacked(job, file, root)
        # Truncated: otherwise the archive, no longer needed, would be synced to disk as well.
        file.truncate(0)
        _sync(root)
    finally:
        os.close(root)
    if job.contents not in (Contents.ROOTFS, Contents.IMAGE):
        return unpacked
    found = contents.interpreters_of(Path(job.place), unpacked.environment)
    return msgspec.structs.replace(unpacked, interpreters=found)


def _unpacked(job: Unpack, file: BinaryIO, root: int) -> Unpacked:
    limits = job.limits
    if job.contents is Contents.ROOTFS:
        return unpack_tar(file, root, limits)
    if job.contents is Contents.IMAGE:
        return unpack_image(file, root, limits)
    file.seek(0)
    if job.archive is Archive.GZIP:
        file = cast("BinaryIO", gzip.GzipFile(fileobj=file, mode="rb"))
    is_copy = job.contents is Contents.COPY
    check_link = archive_rules.check_target if is_copy else archive_rules.check_link
    source = Source(file, limits.archive_max_bytes, limits.headers_max)
    return Unpacked(Unpacker(root, limits, check_link).unpack(source))


def _sync(directory: int) -> None:
    """Syncs the whole file system to disk, in one system call instead of one for each file."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(directory) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
