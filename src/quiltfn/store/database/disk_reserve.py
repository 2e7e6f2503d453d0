"""Disk space set aside for writes that must succeed on a full disk.

The space is taken by a file, `reserve`, that is never read. When the disk is full, the end of a
running invocation or a write that frees space, such as a DELETE, releases it. After that the server
accepts neither invocations nor other writes until the file can be created again. A start first
releases the reserve, since it has to write before it can know whether the disk is full.
"""

import contextlib
import errno
import os
import sqlite3
from pathlib import Path

from quiltfn.model.errors import StoreUnavailable
from quiltfn.store.database.directory import open_own

RESERVE_BYTES = 32 * 1024 * 1024
FULL = "the disk is full"
REFUSED = f"{FULL}: only what frees room is taken, such as deleting a function"
# With less free space than this, an I/O error counts as a full disk.
NEXT_TO_NOTHING_BYTES = 1024 * 1024


class DiskFull(StoreUnavailable):
    """The disk has no space for what is to be stored."""


class DiskReserve:
    """The reserve's file. Until the first `refill`, writes are accepted without the file.

    `is_spent`: only ends of invocations and writes that free space are accepted.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "reserve"
        self.is_spent = False

    def refill(self) -> bool:
        """Allocates the file if it is missing; returns whether it exists. Blocks."""
        self.is_spent = not (self._size() == RESERVE_BYTES or self._make())
        return not self.is_spent

    def release(self) -> bool:
        """Frees the space for the next write; returns whether the file existed."""
        if self._size() == 0:
            return False
        self.is_spent = True
        with contextlib.suppress(OSError):
            file = open_own(self._path, os.O_RDWR)
            try:
                os.ftruncate(file, 0)
            finally:
                os.close(file)
            return True
        return False

    def start(self) -> None:
        """At a start: frees the space and refuses nothing until `refill`. Blocks."""
        self.release()
        self.is_spent = False

    @property
    def has_room(self) -> bool:
        """Whether the disk has room for the file."""
        return _free_bytes(self._path.parent) >= RESERVE_BYTES

    def _make(self) -> bool:
        try:
            file = open_own(self._path, os.O_RDWR | os.O_CREAT)
        except OSError:
            return False
        try:
            os.posix_fallocate(file, 0, RESERVE_BYTES)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file, 0)
            return False
        finally:
            os.close(file)
        return True

    def _size(self) -> int:
        try:
            return os.stat(self._path, follow_symlinks=False).st_size
        except OSError:
            return 0


def is_full(error: BaseException | None, where: Path) -> bool:
    """Whether a full disk caused the error: SQLite or the kernel says so, or little space is
    free.
    """
    error = getattr(error, "orig", None) or error  # SQLAlchemy wraps SQLite's error.
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return code == sqlite3.SQLITE_FULL
    return _free_bytes(where) < NEXT_TO_NOTHING_BYTES


def _free_bytes(where: Path) -> float:
    """Infinite if unknown."""
    try:
        found = os.statvfs(where)
    except OSError:
        return float("inf")
    return found.f_bavail * found.f_frsize
