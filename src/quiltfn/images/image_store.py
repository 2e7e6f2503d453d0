"""The directory of images: one subdirectory per image, named by the digest of its content.

Rule 1: an image gets its name only once it is complete and on disk.
Rule 2: images are immutable; an unused image is removed as a whole.
Rule 3: the next start removes leftovers of a crash (names that start with a dot).
"""

import asyncio
import contextlib
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
from typing import BinaryIO, TypeVar, cast

import msgspec

from quiltfn.base.task_group import TaskGroup
from quiltfn.base.uninterrupted import uninterrupted
from quiltfn.images import contents as image_contents
from quiltfn.images.archive_rules import refusal
from quiltfn.images.jobs import ListPackages, Packages, Unpack
from quiltfn.images.pack import packed
from quiltfn.images.package_cache import PackageCache
from quiltfn.images.processes import JobProcesses, JobRunner
from quiltfn.images.root_file_system import Unpacked
from quiltfn.images.turns import FairTurns
from quiltfn.images.unpack import DIRECTORY, ImageLimits
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.image import Archive, Contents, Image, ImageFile, Package, counted_bytes
from quiltfn.ports import Clock

T = TypeVar("T")

DIGEST = re.compile(r"[0-9a-f]{64}")
WRITE_BYTES = 1024 * 1024
# Maximum number of images that are unpacked at a time, and that are read for the API.
UNPACKED_AT_ONCE = READ_AT_ONCE = 2
# The size of the pieces in which an archive is sent.
SENT_BYTES = 64 * 1024


class ImageDirectory:
    """All images on this machine, by the digest of their content. Call `start` first."""

    def __init__(
        self, path: Path, clock: Clock, limits: ImageLimits, jobs: JobRunner | None = None
    ) -> None:
        self._path, self._clock, self._limits = path, clock, limits
        self._jobs = jobs or JobProcesses()
        self._used_at: dict[str, float] = {}
        # Limited, since unpacking competes with invocations for cores and the disk.
        self._unpacking = FairTurns(UNPACKED_AT_ONCE)
        # Limited for the same reason.
        self._reading = FairTurns(READ_AT_ONCE)
        self._packages = PackageCache()
        # The number of transfers of each image, which stays until they end.
        self._sent: Counter[str] = Counter()
        self._removing = TaskGroup()

    def start(self) -> None:
        """Creates the directory, and removes leftovers of a crash. Blocks.

        Raises `StoreUnavailable` if the directory cannot be used.
        """
        with _translate_errors("the directory of images cannot be used"):
            self._path.mkdir(mode=0o700, exist_ok=True)
            for entry in self._path.iterdir():
                if DIGEST.fullmatch(entry.name):
                    self._used_at[entry.name] = self._clock.now()
                elif entry.name.startswith("."):
                    _remove(entry)

    async def take(
        self,
        archive: Archive,
        chunks: AsyncIterator[bytes],
        admit: Callable[[Image], None] = lambda _: None,
        contents: Contents = Contents.FILES,
        tenant_id: str = "",
    ) -> Image:
        """Unpacks an archive; the image is on disk when this returns. Tenants take turns, here and
        in `files`, `read` and `packages`; the server itself acts as the tenant "".

        `admit` runs in a thread once the content is known; its exceptions propagate. Raises
        `Unprocessable` with the reason for an invalid archive, and `StoreUnavailable` if there is
        no room. After an error, nothing is left.
        """
        with _translate_errors("the image could not be stored"):
            with tempfile.TemporaryFile(dir=self._path, prefix=".upload-") as opened:
                file = cast("BinaryIO", opened)
                await self._receive(chunks, file)
                async with self._unpacking.of(tenant_id):
                    return await self._keep(archive, contents, file, admit)

    def hold(self, digest: str) -> bool:
        """Whether the image is there; if so, renews its grace time in `collect`. Never waits."""
        if digest not in self._used_at:
            return False
        self._used_at[digest] = self._clock.now()
        return True

    def all(self) -> Collection[str]:
        """A live view of the digests of all images."""
        return self._used_at.keys()

    async def archive(self, digest: str) -> AsyncGenerator[bytes, None]:
        """Yields an existing image as a tar archive, in pieces of up to 64 KiB; `take` turns them
        into an image with the same digest. Protects the image from removal until the end. Raises
        `StoreUnavailable`.
        """
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
        """Removes images that were neither in use nor held for `grace_s`; returns their number."""
        now, removed = self._clock.now(), 0
        self._used_at.update((one, now) for one in in_use if one in self._used_at)
        for digest in list(self._used_at):
            # In one step of the event loop, so that no caller gets an image that is being removed.
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
        """Finds the first program with one of the `names` in the directories of `path`, a PATH, of
        an existing root file system; None if it has none. Raises `StoreUnavailable`.
        """
        with _translate_errors("the image cannot be read"):
            root = self._path / digest
            return await asyncio.to_thread(image_contents.program_of, root, names, path)

    async def measure(self, digest: str) -> int | None:
        """Returns the size of an image, as `Image.counted_bytes`; None if it does not exist."""
        return await asyncio.to_thread(_measured, self._path / digest)

    async def missing(self, digests: Collection[str]) -> Sequence[str]:
        """Returns those of the digests that have no files on this machine's disk."""

        def look() -> list[str]:
            return [one for one in digests if not (self._path / one).is_dir()]

        return await asyncio.to_thread(look)

    async def files(
        self, digest: str, after: str, count: int, tenant_id: str = ""
    ) -> Sequence[ImageFile]:
        """Returns up to `count` files and links of an existing image, sorted by path, starting
        after the path `after`. Raises `StoreUnavailable`.
        """

        def look(is_wanted: Callable[[], bool]) -> list[ImageFile]:
            return image_contents.files_of(self._path / digest, after, count, is_wanted)

        return await self._read(tenant_id, look)

    async def read(self, digest: str, path: str, most: int, tenant_id: str = "") -> bytes | None:
        """Reads a file of an existing image by its path; None if there is no such file, or only a
        link. Raises `StoreUnavailable`, and `Unprocessable` if it has more than `most` bytes.
        """
        return await self._read(
            tenant_id, lambda _: image_contents.read(self._path / digest, path, most)
        )

    async def packages(self, digest: str, tenant_id: str = "") -> tuple[Sequence[Package], bool]:
        """Returns the packages of an existing image, and whether the list is complete. Raises
        `StoreUnavailable`.
        """
        with _translate_errors("the image cannot be read"):
            async with self._reading.of(tenant_id):
                known = self._packages.get(digest)
                if known is not None:
                    return known.found, known.is_complete
                listed = await self._jobs.run(ListPackages(root=str(self._path / digest)))
                assert isinstance(listed, Packages)
                self._packages.put(digest, listed)
                return listed.found, listed.is_complete

    async def _read(self, tenant_id: str, look: Callable[[Callable[[], bool]], T]) -> T:
        """Runs `look` in a thread. Its argument returns whether a caller still waits for the
        result.
        """
        is_wanted = True
        with _translate_errors("the image cannot be read"):
            async with self._reading.of(tenant_id):
                looking = asyncio.ensure_future(asyncio.to_thread(look, lambda: is_wanted))
                try:
                    return await asyncio.shield(looking)
                except asyncio.CancelledError:
                    is_wanted = False
                    await asyncio.wait([looking])
                    raise

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
        await asyncio.to_thread(file.flush)

    async def _keep(
        self,
        archive: Archive,
        contents: Contents,
        file: BinaryIO,
        admit: Callable[[Image], None],
    ) -> Image:
        """Unpacks and names the image; leaves nothing after a failure."""
        fresh = self._path / f".new-{secrets.token_hex(8)}"
        job = Unpack(place=str(fresh), archive=archive, contents=contents, limits=self._limits)
        try:
            await uninterrupted(asyncio.to_thread(fresh.mkdir, 0o755))
            unpacked = await self._jobs.run(job, file)
            assert isinstance(unpacked, Unpacked)
            # Not cancelled from here on: an image that isn't registered would never be removed.
            return await uninterrupted(self._name_and_note(fresh, unpacked, admit))
        finally:
            await uninterrupted(asyncio.to_thread(_remove, fresh))

    async def _name_and_note(
        self, fresh: Path, unpacked: Unpacked, admit: Callable[[Image], None]
    ) -> Image:
        image, place = await asyncio.to_thread(self._place, fresh, unpacked, admit)
        target = self._path / image.digest
        if not image.is_new and not target.is_dir():  # `collect` has removed it meanwhile
            image = msgspec.structs.replace(image, is_new=True)
            await asyncio.to_thread(self._name, place, target)
        self._used_at[image.digest] = self._clock.now()
        if not image.is_new:
            self._removing.spawn(asyncio.to_thread(_remove, place))
        return image

    def _place(
        self, fresh: Path, unpacked: Unpacked, admit: Callable[[Image], None]
    ) -> tuple[Image, Path]:
        """Admits and names unpacked files, in a thread. Returns the image and the path of its
        files.

        If the image exists already, the new files get a path of their own and are removed later:
        the duration of an upload must not reveal whether another tenant has the image.
        """
        tree = unpacked.tree
        target = self._path / tree.digest
        image = Image(
            digest=tree.digest,
            files=tree.files,
            entries=tree.entries,
            size_bytes=tree.size_bytes,
            is_new=not target.is_dir(),
            environment=unpacked.environment,
            interpreters=unpacked.interpreters,
        )
        admit(image)
        place = target if image.is_new else self._path / f".old-{secrets.token_hex(8)}"
        self._name(fresh, place)
        return image, place

    def _name(self, files: Path, name: Path) -> None:
        """Renames the files, and syncs the name to disk."""
        files.rename(name)
        directory = os.open(self._path, DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _measured(path: Path) -> int | None:
    """The counted size of the image at `path`; None if there is no image."""
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
def _translate_errors(doing: str) -> Iterator[None]:
    """Turns `OSError`, such as a full disk, into `StoreUnavailable` without a path in it."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"{doing}: {error.strerror}") from error
