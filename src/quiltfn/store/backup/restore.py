"""Replaces the content of a data directory with a restored copy.

The copy is written and checked next to the old content. While files are moved, a marker file in the
directory prevents servers from starting, so an interrupted restore is never taken for a complete
one. Running the same restore again finishes it.
"""

import contextlib
import ctypes
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from quiltfn.store.database.directory import RESTORING, DataDirectory, StoreBroken

NEW, REPLACED = "restore.new", "replaced-"
# Files that are not data: our own marker files, and those in the root of a new file system.
NO_DATA = {"quiltfn.lock", "keys.stamp", RESTORING, NEW, "lost+found"}


@contextlib.contextmanager
def replace_data(data_dir: Path, replace: bool) -> Iterator[Path]:
    """Yields an empty directory; at the end of the block its content replaces the data directory's.

    With `replace`, the old content is moved into `replaced-…`. After an exception in the block
    nothing has changed. Raises `StoreBroken`.
    """
    directory = DataDirectory(data_dir)
    directory.enter(alone=True, wait_s=0)
    try:
        is_begun = (data_dir / RESTORING).exists()
        old = [one for one in _data(data_dir) if not one.name.startswith(REPLACED)]
        if old and not replace and not is_begun:
            raise StoreBroken(
                f"{data_dir} is not empty ({old[0].name} is there). Name another --data-dir, or "
                "say --replace: what is there is moved aside then."
            )
        place = data_dir / NEW
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(mode=0o700)
        try:
            yield place
            _on_disk(place)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        (data_dir / RESTORING).touch(mode=0o600)
        directory.sync()
        if old:
            # The name is unique even within a second, so that nothing is overwritten.
            prefix = time.strftime(f"{REPLACED}%Y%m%dT%H%M%SZ-", time.gmtime())
            aside = Path(tempfile.mkdtemp(prefix=prefix, dir=data_dir))
            for path in old:
                path.rename(aside / path.name)
        directory.forget()
        for path in place.iterdir():
            path.rename(data_dir / path.name)
        place.rmdir()
        directory.sync()
        (data_dir / RESTORING).unlink()
        directory.sync()
    finally:
        directory.leave()


def _data(data_dir: Path) -> list[Path]:
    """The data files in the directory. An empty `images` does not count."""
    return sorted(
        one
        for one in data_dir.iterdir()
        if one.name not in NO_DATA and not (one.name == "images" and not any(one.iterdir()))
    )


def _on_disk(directory: Path) -> None:
    """Syncs the directory's file system to disk."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(opened) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(directory))
    finally:
        os.close(opened)
