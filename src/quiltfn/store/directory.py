"""The data directory: who may write in it, and whether everything that must be there is.

One file, `quiltfn.lock`, does two things. Its lock says that a process is the keeper of the
directory; the lock ends with the process, however that ends. Its word says how the last keeper
left: "open" until it has closed the database, "closed" from then on. With the word, a database or a
write-ahead log that somebody deleted is told apart from a first start and from a clean end.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
from pathlib import Path
from typing import Literal

OWNER_ONLY = 0o600
STAMP_MAX_BYTES = 1_000_000  # all of it a hole
SPOOLS = ("journal-a.spool", "journal-b.spool")


def open_own(path: Path, flags: int) -> int:
    """A file of ours, opened or made. Raises `OSError` for a link or anything but a file."""
    opened = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, OWNER_ONLY)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    return opened


class StoreBroken(Exception):
    """What is on disk cannot be used as it is (a sentence). The server must not start on it."""


class DataDirectory:
    """The directory and its lock. Every method may block: call them from a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = path / "quiltfn.db"
        self._stamp = path / "keys.stamp"
        self.is_keeper = False
        self._lock = -1

    def enter(self, alone: bool, wait_s: float) -> None:
        """Becomes the keeper, waiting up to `wait_s` for another one to leave.

        Who need not be `alone` does not wait and is a visitor where there is a keeper already.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = open_own(self.path / "quiltfn.lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            reason = error.strerror
            raise StoreBroken(
                f"The data directory {self.path} cannot be used: {reason}."
            ) from error
        until = time.monotonic() + (wait_s if alone else 0)
        while not self._try_lock():
            if time.monotonic() >= until:
                if alone:
                    self.leave()
                    raise StoreBroken(f"Another quiltfn is serving from {self.path}.")
                return
            time.sleep(0.02)

    def check(self) -> bool:
        """Whether the database is to be made. Raises `StoreBroken` where something is missing."""
        wal = Path(f"{self.database}-wal")
        if not self.database.exists():
            left = [name for name in (wal.name, *SPOOLS) if (self.path / name).exists()]
            if left or self._word():
                traces = f" ({', '.join(left)} is still there)" if left else ""
                raise StoreBroken(
                    f"{self.database} is missing, but this directory had one{traces}. Put it back, "
                    "restore a backup, or start with another, empty directory."
                )
            return True
        if self.is_keeper and self._word() == "open" and not wal.exists():
            raise StoreBroken(
                f"{wal} is missing, and the last server did not end by itself: the newest writes "
                f"are in that file. Put it back or restore a backup; deleting "
                f"{self.path}/quiltfn.lock accepts what {self.database.name} holds alone."
            )
        return False

    def mark(self, word: Literal["open", "closed"]) -> None:
        """Says how it stands with the database. Only the keeper does."""
        self.sync()  # The log's name first: "open" without a log means that one was deleted.
        os.pwrite(self._lock, word.encode(), 0)
        os.ftruncate(self._lock, len(word))
        os.fsync(self._lock)

    def stamp_keys(self) -> None:
        """Lets every process that looks at `keys_stamp` see that keys were changed."""
        # A full disk: others see it when they next ask the database.
        with contextlib.suppress(OSError):
            file = open_own(self._stamp, os.O_WRONLY | os.O_CREAT)
            try:
                # The time alone is too coarse for two changes in a row.
                os.ftruncate(file, os.fstat(file).st_size % STAMP_MAX_BYTES + 1)
            finally:
                os.close(file)

    def keys_stamp(self) -> object:
        """Another value after every `stamp_keys`, in whatever process."""
        try:
            found = os.stat(self._stamp, follow_symlinks=False)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def sync(self) -> None:
        """Makes the names in the directory durable."""
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def retire(self) -> None:
        """Before the last connection closes, which removes the log: notes that this is in order.

        A visitor notes it too where the keeper has died meanwhile.
        """
        if self._lock >= 0 and (self.is_keeper or self._try_lock()):
            with contextlib.suppress(OSError):  # A full disk: the next start says what is missing.
                self.mark("closed")

    def leave(self) -> None:
        """Gives the lock back. Harmless when repeated."""
        if self._lock >= 0:
            os.close(self._lock)
        self._lock, self.is_keeper = -1, False

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.is_keeper = True
        return True

    def _word(self) -> str:
        return os.pread(self._lock, 16, 0).decode("ascii", "replace")
