"""The archive of a backup: an uncompressed tar file.

    quiltfn.db, journal-a.spool, journal-b.spool
    images/<digest>.tar          each image, named by the digest of its content
    manifest.json                facts about the backup, and the digest of all bytes before it

Members are read and written in pieces, so none is completely in memory.
"""

import hashlib
import json
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from quiltfn.images.archive_rules import check_target
from quiltfn.images.tar import Source
from quiltfn.images.unpack import DIRECTORY, ImageLimits, Unpacker
from quiltfn.model.errors import Unprocessable
from quiltfn.store import StoreBroken

FORMAT = 1
MANIFEST, MANIFEST_MAX_BYTES = "manifest.json", 64 * 1024
PIECE = 1024 * 1024
DIGEST = re.compile(r"[0-9a-f]{64}")
FILES = ("quiltfn.db", "journal-a.spool", "journal-b.spool")


class ImageVanished(Exception):
    """An unused image was removed while it was read. A new snapshot won't refer to it."""


# Texts with these characters are shown to root; control characters of terminals are excluded.
WORD = re.compile(r"[0-9A-Za-z._+-]{1,64}")
LARGEST = 253_402_300_799  # the last second of the year 9999


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """`sha256`: the hash of the archive up to this member. `revision`: of the database's schema.

    Raises `ValueError` for values that no valid archive has.
    """

    format: int
    quiltfn: str
    revision: str
    made_at: int
    functions: int
    records: int
    images: int
    sha256: str

    def __post_init__(self) -> None:
        numbers = (self.format, self.made_at, self.functions, self.records, self.images)
        words: tuple[Any, ...] = (self.quiltfn, self.revision, self.sha256)
        if not all(type(one) is int and 0 <= one <= LARGEST for one in numbers):
            raise ValueError("a field is not a valid number")
        if not all(type(one) is str and WORD.fullmatch(one) for one in words):
            raise ValueError("a field is not a valid word")


class Hashed:
    """A file for writing, and the hash of the bytes written so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        self._file.write(data)
        return len(data)

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


class Writer:
    """Writes one archive from the beginning of `file`."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.seek(0)
        file.truncate()
        self._hashed = Hashed(file)

    def add_file(self, name: str, path: Path) -> None:
        with path.open("rb") as source:
            self._header(name, os.fstat(source.fileno()).st_size)
            _copy(source, self._hashed, os.fstat(source.fileno()).st_size)
        self._pad()

    def add_image(self, images: Path, digest: str) -> None:
        """Adds an image. Raises `ImageVanished`."""
        try:
            root = os.open(images / digest, DIRECTORY)
            try:
                size = sum(len(header) + _padded(length) for header, _, length in _walk(root))
                self._header(f"images/{digest}.tar", size + 2 * tarfile.BLOCKSIZE)
                for header, path, length in _walk(root):
                    self._hashed.write(header)
                    if length:
                        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                        with open(os.open(path, flags, dir_fd=root), "rb") as source:
                            _copy(source, self._hashed, length)
                        self._hashed.write(bytes(_padded(length) - length))
                self._hashed.write(bytes(2 * tarfile.BLOCKSIZE))
            finally:
                os.close(root)
        except FileNotFoundError:
            raise ImageVanished(digest) from None
        self._pad()

    def finish(self, **facts: int | str) -> None:
        """Writes the manifest, and syncs the archive to disk."""
        manifest = Manifest(format=FORMAT, sha256=self._hashed.sha256, **facts)  # type: ignore[arg-type]
        data = json.dumps(asdict(manifest), indent=2).encode() + b"\n"
        self._header(MANIFEST, len(data))
        self._hashed.write(data)
        self._pad()
        self._hashed.write(bytes(2 * tarfile.BLOCKSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _header(self, name: str, size: int) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        self._hashed.write(info.tobuf(tarfile.PAX_FORMAT))

    def _pad(self) -> None:
        self._hashed.write(bytes(-self._file.tell() % tarfile.BLOCKSIZE))


class Reader:
    """Reads an archive in a seekable file, after a check of the whole archive.

    Raises `StoreBroken` if it is damaged, incomplete, or not a backup.
    """

    def __init__(self, file: BinaryIO, shown: str) -> None:
        self._file, self._shown = file, shown
        # Name → start and size of the content.
        self._members: dict[str, tuple[int, int]] = {}
        self.manifest = self._read()

    @property
    def images(self) -> list[str]:
        """The digests of the images."""
        named = (Path(name) for name in self._members)
        return [one.stem for one in named if one.parent.name == "images"]

    def copy(self, name: str, target: BinaryIO) -> None:
        at, size = self._members[name]
        self._file.seek(at)
        _copy(self._file, target, size)

    def unpack(self, digest: str, root: int) -> None:
        """Unpacks an image into the empty directory `root`. Raises `StoreBroken` if its content
        does not match its digest.
        """
        at, size = self._members[f"images/{digest}.tar"]
        self._file.seek(at)
        limits = ImageLimits(unpacked_max_bytes=size, files_max=size // tarfile.BLOCKSIZE)
        source = Source(
            cast("BinaryIO", _Part(self._file, size)), limits.archive_max_bytes, limits.headers_max
        )
        try:
            # Also allows the links of base images; the digest below proves that this is the image.
            found = Unpacker(root, limits, check_target).unpack(source).digest
        except Unprocessable as error:
            raise StoreBroken(f"{self._shown}: image {digest}: {error}.") from None
        if found != digest:
            raise StoreBroken(
                f"{self._shown}: the content of image {digest} does not match its name."
            )

    def _read(self) -> Manifest:
        self._file.seek(0)
        try:
            with tarfile.open(fileobj=self._file, mode="r:") as archive:
                for member in archive:
                    self._members[member.name] = (member.offset_data, member.size)
                    if member.name == MANIFEST:
                        return self._checked(member)
        except (tarfile.TarError, RecursionError):  # RecursionError: for a long chain of long names
            pass
        except OSError as error:
            raise StoreBroken(f"{self._shown} cannot be read: {error.strerror}.") from None
        raise StoreBroken(f"{self._shown} is not a backup, or is incomplete.")

    def _checked(self, member: tarfile.TarInfo) -> Manifest:
        at, size = self._members.pop(MANIFEST)
        self._file.seek(at)
        try:
            text = self._file.read(min(size, MANIFEST_MAX_BYTES))
            manifest = Manifest(**json.loads(text))
        except (TypeError, ValueError, RecursionError):
            raise StoreBroken(f"{self._shown} is damaged: its manifest is invalid.") from None
        if manifest.format != FORMAT:
            raise StoreBroken(f"{self._shown} was created by a newer quiltfn ({manifest.quiltfn}).")
        self._file.seek(0)
        digest = hashlib.sha256()
        left = member.offset
        while left:
            piece = self._file.read(min(left, PIECE))
            if not piece:
                break
            digest.update(piece)
            left -= len(piece)
        if digest.hexdigest() != manifest.sha256:
            raise StoreBroken(f"{self._shown} is damaged: its content does not match its checksum.")
        wanted = {name for name in self._members if name not in FILES}
        if not set(FILES) <= set(self._members) or not all(map(_is_image, wanted)):
            raise StoreBroken(f"{self._shown} is not a backup of quiltfn.")
        return manifest


class _Part:
    """The next `size` bytes of a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data


def _is_image(name: str) -> bool:
    return bool(re.fullmatch(rf"images/{DIGEST.pattern}\.tar", name))


def _walk(root: int) -> Iterator[tuple[bytes, str, int]]:
    """Yields each entry of an image: its header, its path, and the size of its content."""
    for where, directories, files, at in os.fwalk(".", dir_fd=root, follow_symlinks=False):
        for name in sorted((*directories, *files)):
            path = os.path.normpath(os.path.join(where, name))
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            info = tarfile.TarInfo(path)
            info.mode = found.st_mode & 0o777
            if stat.S_ISDIR(found.st_mode):
                info.type = tarfile.DIRTYPE
            elif stat.S_ISLNK(found.st_mode):
                info.type, info.linkname = tarfile.SYMTYPE, os.readlink(name, dir_fd=at)
            else:
                info.size = found.st_size
            yield info.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape"), path, info.size


def _padded(size: int) -> int:
    return size + -size % tarfile.BLOCKSIZE


def _copy(source: BinaryIO, target: "BinaryIO | Hashed", size: int) -> None:
    """Copies exactly `size` bytes. Raises `StoreBroken` if there are fewer."""
    left = size
    while left:
        piece = source.read(min(left, PIECE))
        if not piece:
            raise StoreBroken("A file became shorter while it was read; try again.")
        target.write(piece)
        left -= len(piece)
