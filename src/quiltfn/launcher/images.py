"""Read-only mounts of images, by their digest. Each image has one; if a sandbox's root cannot
combine code and packages by itself, each pair of them has one, too.

The server unpacks images and names them by their digest alone. It can change its directory at any
time, so names are not trusted: a directory is opened step by step without following links, and then
mounted. Later uses go through the mount.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from quiltfn.launcher import syscalls
from quiltfn.launcher.roots import lay_over

OPEN = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# The maximum number of mounted images; each new mount namespace copies all mounts. Above this
# number, the least recently used image is unmounted; sandboxes that use it keep their mounts.
MOUNTED_MAX = 512
FENCE = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV


class Images:
    """Mounts below `mounts`, in the launcher's own mount namespace, each made at its first use."""

    def __init__(self, store: Path, mounts: Path) -> None:
        self._store, self._mounts = store, mounts
        # Mounted images, with device and inode of their directories: an image that was removed and
        # uploaded again is another directory with the same name.
        self._bound: dict[str, tuple[int, ...]] = {}

    def path(self, digest: str) -> Path:
        """The path of the image's mount, made if needed. Raises OSError if there is no image."""
        with self._opened(digest) as image:
            return self._mounted(
                digest,
                _identity(image),
                lambda target: syscalls.bind(f"/proc/self/fd/{image}", target, FENCE),
            )

    def pair(self, code: str, packages: str) -> Path:
        """Like `path`, for the files of `code` over those of `packages`."""
        with self._opened(code) as upper, self._opened(packages) as lower:
            return self._mounted(
                f"{code}-{packages}",
                _identity(upper) + _identity(lower),
                lambda target: lay_over((upper, lower), target),
            )

    def _mounted(self, name: str, which: tuple[int, ...], mount: Callable[[Path], None]) -> Path:
        target = self._mounts / name
        if self._bound.get(name) != which:
            if self._bound.pop(name, None) is not None:
                syscalls.unmount(target)
            self._make_room()
            target.mkdir(mode=0o755, exist_ok=True)
            mount(target)
        self._bound.pop(name, None)
        self._bound[name] = which  # moved to the end: the most recently used
        return target

    def _make_room(self) -> None:
        while len(self._bound) >= MOUNTED_MAX:
            oldest = next(iter(self._bound))
            syscalls.unmount(self._mounts / oldest)
            os.rmdir(self._mounts / oldest)
            del self._bound[oldest]

    def close(self) -> None:
        """Removes every mount; running sandboxes keep theirs."""
        for name in self._bound:
            with contextlib.suppress(OSError):
                syscalls.unmount(self._mounts / name)
        self._bound.clear()

    @contextlib.contextmanager
    def _opened(self, digest: str) -> Iterator[int]:
        image = self._open(digest)
        try:
            yield image
        finally:
            os.close(image)

    def _open(self, digest: str) -> int:
        store = None  # the directory does not exist before the first image
        try:
            store = os.open(self._store, OPEN)
            return os.open(digest, OPEN, dir_fd=store)
        except FileNotFoundError:
            raise FileNotFoundError(f"image {digest} is not on this machine") from None
        finally:
            if store is not None:
                os.close(store)


def _identity(directory: int) -> tuple[int, ...]:
    seen = os.fstat(directory)
    return seen.st_dev, seen.st_ino
