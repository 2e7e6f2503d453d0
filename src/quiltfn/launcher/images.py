"""The files of runtimes, as sandboxes see them at /app: one read-only mount for each image.

The server, which unpacked them, names an image by its digest and nothing else. It is the server's
directory, so what stands there is not trusted to be what it should be: only a real directory is
bound, opened step by step without following a link, and from then on it is reached by the mount.
"""

import contextlib
import os
from pathlib import Path

from quiltfn.launcher import syscalls

OPEN = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Of mounts; each namespace that is made copies all of them. The one that was not wanted for the
# longest time goes: a sandbox that has it keeps it.
MOUNTED_MAX = 512
FENCE = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV


class Images:
    """Mounts below `mounts`, in the launcher's own mount namespace, each made when first wanted."""

    def __init__(self, store: Path, mounts: Path) -> None:
        self._store, self._mounts = store, mounts
        # What is mounted, and which directory of the store it was then: an image that was collected
        # and uploaded again is another directory of the same name.
        self._bound: dict[str, tuple[int, int]] = {}

    def path(self, digest: str) -> Path:
        """Where the image is mounted. Raises OSError if there is none of that digest."""
        target = self._mounts / digest
        image = self._open(digest)
        try:
            seen = os.fstat(image)
            which = (seen.st_dev, seen.st_ino)
            if self._bound.get(digest) != which:
                if self._bound.pop(digest, None) is not None:
                    syscalls.unmount(target)
                self._make_room()
                target.mkdir(mode=0o755, exist_ok=True)
                syscalls.bind(f"/proc/self/fd/{image}", target, FENCE)
            self._bound.pop(digest, None)
            self._bound[digest] = which  # as the last one wanted
        finally:
            os.close(image)
        return target

    def _make_room(self) -> None:
        while len(self._bound) >= MOUNTED_MAX:
            oldest = next(iter(self._bound))
            syscalls.unmount(self._mounts / oldest)
            os.rmdir(self._mounts / oldest)
            del self._bound[oldest]

    def close(self) -> None:
        """Takes every mount away; a sandbox that still lives keeps its own."""
        for digest in self._bound:
            with contextlib.suppress(OSError):
                syscalls.unmount(self._mounts / digest)
        self._bound.clear()

    def _open(self, digest: str) -> int:
        store = os.open(self._store, OPEN)
        try:
            return os.open(digest, OPEN, dir_fd=store)
        finally:
            os.close(store)
