"""Replaces the content of a data directory by a restored copy.

The copy is written and checked beside the old content. While files are moved, a mark in the
directory keeps servers from starting, so a restore that was cut off never looks complete. Running
the same restore again finishes it.
"""

import contextlib
import ctypes
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from quiltfn.store.files.directory import RESTORING, DataDirectory, StoreBroken

NEW, REPLACED = "restore.new", "replaced-"
# Files that are no data: our own marks, and what the root of a file system has.
NO_DATA = {"quiltfn.lock", "keys.stamp", RESTORING, NEW, "lost+found"}


@contextlib.contextmanager
def replace_data(data_dir: Path, replace: bool) -> Iterator[Path]:
    """Yields an empty directory. What it has at the end of the block becomes the data directory.

    With `replace`, the old content is moved into `replaced-…`. After an exception nothing has
    changed. Raises `StoreBroken`.
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
            # Of its own also within a second: what is there is never replaced.
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
    """The data files that are there. An empty `images` does not count."""
    return sorted(
        one
        for one in data_dir.iterdir()
        if one.name not in NO_DATA and not (one.name == "images" and not any(one.iterdir()))
    )


def _on_disk(directory: Path) -> None:
    """Syncs the file system of the directory."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(opened) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(directory))
    finally:
        os.close(opened)
