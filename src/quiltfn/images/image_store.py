"""The directory of images: one directory for each, named by the digest of its content.

Rule 1: an image gets its name only when it is complete and on disk.
Rule 2: nothing in an image is ever changed; an image that nobody uses is removed as a whole.
Rule 3: what a crash leaves (names that start with a dot) is removed by the next start.
"""

import asyncio
import contextlib
import ctypes
import gzip
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Sequence,
)
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from quiltfn.images import archive_rules, contents
from quiltfn.images.archive_rules import refusal
from quiltfn.images.pack import packed
from quiltfn.images.root_file_system import Unpacked, unpack_image, unpack_tar
from quiltfn.images.tar import Source
from quiltfn.images.unpack import DIRECTORY, ImageLimits, Unpacker
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.image import Archive, Contents, Image, ImageFile, Package, counted_bytes
from quiltfn.ports import Clock

DIGEST = re.compile(r"[0-9a-f]{64}")
WRITE_BYTES = 1024 * 1024
# An archive that is sent goes in pieces of so many bytes.
SENT_BYTES = 64 * 1024


class ImageDirectory:
    """`ports.Images` in a directory. Call `start` first."""

    def __init__(self, path: Path, clock: Clock, limits: ImageLimits) -> None:
        self._path, self._clock, self._limits = path, clock, limits
        self._used_at: dict[str, float] = {}
        # One at a time: unpacking keeps a core and the disk busy, which calls need, too.
        self._unpacking = asyncio.Lock()
        # Likewise, of what a page is made of.
        self._reading = asyncio.Lock()
        # How often each is being sent: so long it stays.
        self._sent: Counter[str] = Counter()
        self._removing: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Makes the directory, and removes what a crash has left in it. Blocks.

        Raises `StoreUnavailable` if the directory cannot be used.
        """
        with _translate_errors("the directory of images cannot be used"):
            self._path.mkdir(mode=0o700, exist_ok=True)
            for one in self._path.iterdir():
                if DIGEST.fullmatch(one.name):
                    self._used_at[one.name] = self._clock.now()
                elif one.name.startswith("."):
                    _remove(one)

    async def take(
        self,
        archive: Archive,
        chunks: AsyncIterator[bytes],
        admit: Callable[[Image], None] = lambda _: None,
        contents: Contents = Contents.FILES,
    ) -> Image:
        with _translate_errors("the image could not be kept"):
            with tempfile.TemporaryFile(dir=self._path, prefix=".upload-") as file:
                await self._receive(chunks, cast("BinaryIO", file))
                async with self._unpacking:
                    keeping = asyncio.ensure_future(
                        self._keep(_Upload(archive, contents, cast("BinaryIO", file)), admit)
                    )
                    try:
                        return await asyncio.shield(keeping)
                    except asyncio.CancelledError:
                        # A thread goes on: what it leaves must be known, or nobody removes it.
                        await asyncio.wait([keeping])
                        raise

    def hold(self, digest: str) -> bool:
        if digest not in self._used_at:
            return False
        self._used_at[digest] = self._clock.now()
        return True

    def all(self) -> Collection[str]:
        return self._used_at.keys()

    async def archive(self, digest: str) -> AsyncGenerator[bytes, None]:
        self._sent[digest] += 1
        pieces = packed(self._path / digest)
        try:
            with _translate_errors("the image cannot be read"):
                while piece := await asyncio.to_thread(next, pieces, b""):
                    for start in range(0, len(piece), SENT_BYTES):
                        yield piece[start : start + SENT_BYTES]
        finally:
            self._sent[digest] -= 1
            if not self._sent[digest]:
                del self._sent[digest]

    async def collect(self, in_use: frozenset[str], grace_s: float) -> int:
        now, removed = self._clock.now(), 0
        self._used_at.update((one, now) for one in in_use if one in self._used_at)
        for digest in list(self._used_at):
            # In one step of the event loop, so that nobody is given an image that is going.
            if digest in self._sent:
                self._used_at[digest] = self._clock.now()
            if now - self._used_at[digest] < grace_s:
                continue
            del self._used_at[digest]
            gone = self._path / f".old-{digest}-{secrets.token_hex(4)}"
            (self._path / digest).rename(gone)
            await asyncio.to_thread(_remove, gone)
            removed += 1
        return removed

    async def program(self, digest: str, names: Sequence[str], path: str) -> str | None:
        with _translate_errors("the image cannot be read"):
            root = self._path / digest
            return await asyncio.to_thread(contents.program_of, root, names, path)

    async def measure(self, digest: str) -> int | None:
        return await asyncio.to_thread(_measured, self._path / digest)

    async def missing(self, digests: Collection[str]) -> Sequence[str]:
        def look() -> list[str]:
            return [one for one in digests if not (self._path / one).is_dir()]

        return await asyncio.to_thread(look)

    async def files(self, digest: str, after: str, count: int) -> Sequence[ImageFile]:
        with _translate_errors("the image cannot be read"):
            async with self._reading:
                root = self._path / digest
                return await asyncio.to_thread(contents.files_of, root, after, count)

    async def read(self, digest: str, path: str, most: int) -> bytes | None:
        with _translate_errors("the image cannot be read"):
            async with self._reading:
                return await asyncio.to_thread(contents.read, self._path / digest, path, most)

    async def packages(self, digest: str) -> tuple[Sequence[Package], bool]:
        with _translate_errors("the image cannot be read"):
            async with self._reading:
                return await asyncio.to_thread(contents.packages_of, self._path / digest)

    async def _receive(self, chunks: AsyncIterator[bytes], file: BinaryIO) -> None:
        held, most, taken = bytearray(), self._limits.archive_max_bytes, 0
        async for chunk in chunks:
            held += chunk
            taken += len(chunk)
            if taken > most:
                raise refusal(f"the archive has more than {most} bytes")
            if len(held) >= WRITE_BYTES:
                await asyncio.to_thread(file.write, bytes(held))
                held.clear()
        await asyncio.to_thread(file.write, bytes(held))

    async def _keep(self, upload: "_Upload", admit: Callable[[Image], None]) -> Image:
        image, place = await asyncio.to_thread(self._unpack, upload, admit)
        target = self._path / image.digest
        if not image.is_new and not target.is_dir():  # it was collected meanwhile
            image = msgspec.structs.replace(image, is_new=True)
            await asyncio.to_thread(self._name, place, target)
        self._used_at[image.digest] = self._clock.now()
        if not image.is_new:
            task = asyncio.ensure_future(asyncio.to_thread(_remove, place))
            self._removing.add(task)
            task.add_done_callback(self._removing.discard)
        return image

    def _unpack(self, upload: "_Upload", admit: Callable[[Image], None]) -> tuple[Image, Path]:
        """Runs in a thread. Returns the image and where its files are. Leaves nothing if it fails.

        If the image exists already, the new files get a path of their own and are removed later:
        the time that an upload takes must not tell whether another tenant has the image.
        """
        fresh = self._path / f".new-{secrets.token_hex(8)}"
        fresh.mkdir(mode=0o755)
        try:
            root = os.open(fresh, DIRECTORY)
            try:
                unpacked = self._unpacked(upload, root)
                upload.file.truncate(0)  # it is of no use any more, and would be synced as well
                _sync(root)
            finally:
                os.close(root)
            tree, is_root = unpacked.tree, upload.contents in (Contents.ROOTFS, Contents.IMAGE)
            target = self._path / tree.digest
            image = Image(
                digest=tree.digest,
                files=tree.files,
                entries=tree.entries,
                size_bytes=tree.size_bytes,
                is_new=not target.is_dir(),
                environment=unpacked.environment,
                interpreters=contents.interpreters_of(fresh, unpacked.environment)
                if is_root
                else {},
            )
            admit(image)
            place = target if image.is_new else self._path / f".old-{secrets.token_hex(8)}"
            self._name(fresh, place)
            return image, place
        finally:
            _remove(fresh)

    def _name(self, files: Path, name: Path) -> None:
        """The files have the name, and it is on disk, when this returns."""
        files.rename(name)
        directory = os.open(self._path, DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _unpacked(self, upload: "_Upload", root: int) -> Unpacked:
        file, limits = upload.file, self._limits
        if upload.contents is Contents.ROOTFS:
            return unpack_tar(file, root, limits)
        if upload.contents is Contents.IMAGE:
            return unpack_image(file, root, limits)
        file.seek(0)
        if upload.archive is Archive.GZIP:
            file = cast("BinaryIO", gzip.GzipFile(fileobj=file, mode="rb"))
        is_copy = upload.contents is Contents.COPY
        check_link = archive_rules.check_target if is_copy else archive_rules.check_link
        source = Source(file, limits.archive_max_bytes)
        return Unpacked(Unpacker(root, limits, check_link).unpack(source))


class _Upload(msgspec.Struct, frozen=True):
    archive: Archive
    contents: Contents
    file: BinaryIO


def _sync(directory: int) -> None:
    """Syncs the whole file system to disk: one call instead of one for each file."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(directory) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _measured(path: Path) -> int | None:
    """What the image at `path` counts, or None if there is none."""
    if not path.is_dir():
        return None
    size = entries = 0
    for where, directories, files in os.walk(path):
        entries += len(directories) + len(files)
        for name in files:
            status = os.lstat(Path(where) / name)
            size += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return counted_bytes(size, entries)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _translate_errors(what: str) -> Iterator[None]:
    """Turns `OSError`, such as a full disk, into `StoreUnavailable` without a path in it."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"{what}: {error.strerror}") from error
