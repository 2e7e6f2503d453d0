"""A small file system for a data directory, which can be filled to the last byte and emptied
again.
"""

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from e2e.server import short_dir


class Disk:
    """`data` is the server's data directory; `fill` leaves no space for it."""

    def __init__(self, at: Path) -> None:
        self.at, self.data, self._ballast = at, at / "data", at / "fill"

    def fill(self) -> None:
        """Fills the disk in ever smaller pieces until not even a byte fits."""
        file = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (1 << 20, 1 << 14, 1 << 12, 512):
                with contextlib.suppress(NoRoom):
                    while True:
                        write(file, bytes(size))
        finally:
            os.fsync(file)
            os.close(file)

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


class NoRoom(Exception):
    """The disk is full."""


def write(file: int, data: bytes) -> None:
    try:
        if os.write(file, data) != len(data):
            raise NoRoom
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise NoRoom from None


@contextlib.contextmanager
def small_disk(kind: str, size_mib: int) -> Iterator[Disk]:
    """Mounts a small file system. `kind`: tmpfs, or ext4 on a loop device."""
    with short_dir() as root:
        at, image = root / "disk", root / "image"
        at.mkdir()
        if kind == "tmpfs":
            mount = ["-t", "tmpfs", "-o", f"size={size_mib}m,mode=755", "quiltfn-test"]
        else:
            with image.open("wb") as file:
                file.truncate(size_mib << 20)
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
            mount = ["-o", "loop", str(image)]
        subprocess.run(["mount", *mount, str(at)], check=True)
        try:
            yield Disk(at)
        finally:
            subprocess.run(["umount", str(at)], check=True)
