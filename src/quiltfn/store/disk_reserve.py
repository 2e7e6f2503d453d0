"""Room on the disk that is set aside, for what has to work when there is no other left.

It is a file, `reserve`, that nobody reads. The end of a call that was under way, and a write that
frees something, such as a DELETE, may let go of it when the disk is full. From then on nothing else
is taken, neither a new call nor another write, until there is room to make the file again. A start
lets go of it first, for it has to write before it can know.
"""

import contextlib
import errno
import os
import sqlite3
from pathlib import Path

from quiltfn.model.errors import StoreUnavailable
from quiltfn.store.directory import open_own

RESERVE_BYTES = 32 * 1024 * 1024
FULL = "the disk is full"
REFUSED = f"{FULL}: only what frees room is taken, such as deleting a function"
# What a write of ours may need; with less free, an error that has no better reason is this one.
NEXT_TO_NOTHING_BYTES = 1024 * 1024


class DiskFull(StoreUnavailable):
    """There is no room on the disk for what is to be kept."""


class DiskReserve:
    """The file. Writes are refused for it only after the first `refill`.

    `is_spent`: only ends of calls and writes that free something are accepted.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "reserve"
        self.is_spent = False

    def refill(self) -> bool:
        """Makes it whole where it is not; whether it is now. Blocks."""
        self.is_spent = not (self._size() == RESERVE_BYTES or self._make())
        return not self.is_spent

    def release(self) -> bool:
        """Gives the room to whoever writes next; whether there was any."""
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
        """At a start: lets go, and refuses nothing until `refill`. Blocks."""
        self.release()
        self.is_spent = False

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
    """Whether that is why: SQLite says so, the kernel does, or hardly anything is free."""
    error = getattr(error, "orig", None) or error  # SQLAlchemy's own stands around SQLite's.
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return code == sqlite3.SQLITE_FULL
    try:
        found = os.statvfs(where)
    except OSError:
        return False
    return found.f_bavail * found.f_frsize < NEXT_TO_NOTHING_BYTES
