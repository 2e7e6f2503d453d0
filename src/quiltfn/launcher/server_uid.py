"""The server's uid: one for each data directory, which it owns.

A data directory keeps its owner across restarts. It gets a new owner if a server with the same uid
runs elsewhere on the machine (the directory is a copy), or if it has the uid that all servers of
earlier releases shared.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from quiltfn.launcher import confine
from quiltfn.launcher.state import SERVER_UIDS, SHARED_UID, UID_BASE, UIDS_DIR, UIDS_PER_SANDBOX

# Files in which single bytes are locked, even beyond the end: one byte for each uid in use, or for
# each data directory in use. They belong to root, so that no server can hold a lock.
UIDS, DIRECTORIES = "servers", "directories"
# As long as the store waits for its lock.
WAIT_S = 5.0
# The store locks the directory; earlier releases locked a file in it.
STORE_LOCKS = (".", "quiltfn.lock")
TRIES = 1000


class InUse(Exception):
    """Another server uses the data directory (a sentence for the operator)."""


class ServerUid:
    """Reserves a data directory for this server. `uid`: the user that owns it.

    Raises `InUse`, `confine.NotReadable` or OSError.
    """

    def __init__(self, data_dir: Path, wait_s: float = WAIT_S) -> None:
        with contextlib.ExitStack() as held, _named(data_dir):
            for parent in data_dir.resolve().parents:
                if parent.exists() and parent.stat().st_uid in SERVER_UIDS:
                    raise confine.NotReadable(
                        f"{data_dir} lies in {parent}, which belongs to another server: name "
                        "another --data-dir"
                    )
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, directory)
            seen = os.fstat(directory)
            UIDS_DIR.mkdir(mode=0o700, exist_ok=True)
            uids, directories = (
                os.open(UIDS_DIR / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                for name in (UIDS, DIRECTORIES)
            )
            held.callback(os.close, uids)
            held.callback(os.close, directories)
            which = hashlib.sha256(f"{seen.st_dev}:{seen.st_ino}".encode()).digest()
            place = int.from_bytes(which[:8]) >> 2
            _wait(lambda: _lock_byte(directories, place), data_dir, wait_s)
            self.uid = _take(uids, seen.st_uid)
            if seen.st_uid == self.uid:
                confine.prepare_data_dir(data_dir, self.uid)
            else:
                with _store_is_free(directory, data_dir, wait_s):
                    confine.prepare_data_dir(data_dir, self.uid)
            self._held = held.pop_all()

    def close(self) -> None:
        """Releases the directory and the uid."""
        self._held.close()


@contextlib.contextmanager
def _named(data_dir: Path) -> Iterator[None]:
    """Adds the path to an OSError from an operation on a descriptor, which lacks it."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(data_dir)
        raise


def _take(locks: int, owner: int) -> int:
    if owner in SERVER_UIDS and owner != SHARED_UID and _lock_byte(locks, owner - UID_BASE):
        return owner
    for _ in range(TRIES):
        number = 1 + int.from_bytes(os.urandom(8)) % (UIDS_PER_SANDBOX - 1)
        if _lock_byte(locks, number):
            return UID_BASE + number
    raise OSError("every uid for servers is taken on this machine")


def _lock_byte(locks: int, place: int) -> bool:
    """Locks one byte for the open file description; its last descriptor releases the lock."""
    # struct flock of fcntl.h
    lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
    return _try(lambda: fcntl.fcntl(locks, fcntl.F_OFD_SETLK, lock))


def _try(lock: Callable[[], object]) -> bool:
    try:
        lock()
    except BlockingIOError:
        return False
    return True


def _wait(is_locked: Callable[[], bool], data_dir: Path, wait_s: float) -> None:
    until = time.monotonic() + wait_s
    while not is_locked():
        if time.monotonic() >= until:
            raise InUse(f"Another quiltfn is serving from {data_dir}.")
        time.sleep(0.02)


@contextlib.contextmanager
def _store_is_free(directory: int, data_dir: Path, wait_s: float) -> Iterator[None]:
    """Holds the store's locks: no tool or server of another release may have it open."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.ExitStack() as held:
        for name in STORE_LOCKS:
            with contextlib.suppress(FileNotFoundError):
                lock = os.open(name, flags, dir_fd=directory)
                held.callback(os.close, lock)
                take = functools.partial(fcntl.flock, lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _wait(functools.partial(_try, take), data_dir, wait_s)
        yield
