"""Putting a restored copy in the place of whatever a data directory holds, or of nothing.

The copy is laid out and looked through beside the rest. It is moved into its place under a mark,
with which no server starts, so that an end half-way leaves nothing that looks whole; the same
restore, begun again, finishes it.
"""

import contextlib
import ctypes
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from quiltfn.store.directory import RESTORING, DataDirectory, StoreBroken

NEW, REPLACED = "restore.new", "replaced-"
# What is nobody's data: our own, and what a file system's root directory has.
NO_DATA = {"quiltfn.lock", "keys.stamp", RESTORING, NEW, "lost+found"}


@contextlib.contextmanager
def replace_data(data_dir: Path, replace: bool) -> Iterator[Path]:
    """An empty directory; what is in it at the end of the block is the data directory's content.

    What was there is moved into `replaced-…` if it may be replaced; after an exception it is as it
    was. Raises `StoreBroken`.
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
            aside = data_dir / f"{REPLACED}{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
            aside.mkdir(mode=0o700, exist_ok=True)
            for one in old:
                one.rename(aside / one.name)
        directory.forget()
        for one in place.iterdir():
            one.rename(data_dir / one.name)
        place.rmdir()
        directory.sync()
        (data_dir / RESTORING).unlink()
        directory.sync()
    finally:
        directory.leave()


def _data(data_dir: Path) -> list[Path]:
    """What is there and is data. An empty `images` is none."""
    return sorted(
        one
        for one in data_dir.iterdir()
        if one.name not in NO_DATA and not (one.name == "images" and not any(one.iterdir()))
    )


def _on_disk(directory: Path) -> None:
    """Everything of its file system."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(opened) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(directory))
    finally:
        os.close(opened)
