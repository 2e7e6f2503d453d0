"""The data directory: its lock, and checks that required files exist.

The server locks the directory and `quiltfn.lock` in it. The kernel releases both locks when the
process ends in any way. The lock file also records the state at the last server's end, so that the
next server notices files that were deleted, cut or replaced in between:

    open                        "closed" after the database was closed properly
    database 0123456789 …       the `application_id` of the file
                                (`store/database/sqlite_header.py`); two values while that changes
    commit 0123456789           the number of the last committed transaction
    spool +-                    which of the two segments held records
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
from pathlib import Path
from typing import Literal

import msgspec

OWNER_ONLY = 0o600
STAMP_MAX_BYTES = 1_000_000  # a sparse file
RESTORING = "restore.unfinished"
SPOOLS = ("journal-a.spool", "journal-b.spool")
NOTE = re.compile(
    r"(open|closed) *\ndatabase (\d{10}) (\d{10})\ncommit (\d{10})\nspool ([+-]{2})\n"
)
NODE = "node"  # has the name of the node whose records are here
SESSION = "session"  # has the PostgreSQL session with this server's locks
COMMIT_AT, SPOOL_AT = 45, 62  # the offsets of the last two values in the note


def open_own(path: Path, flags: int) -> int:
    """Opens or creates a regular file. Raises `OSError` for a link or anything else."""
    opened = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, OWNER_ONLY)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    return opened


def replace_file(path: Path, text: str) -> None:
    """Writes a small file of the server's own atomically: a crash leaves the old or the new
    content. Raises `OSError`.
    """
    fresh = path.with_name(f"{path.name}.new")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


class StoreBroken(Exception):
    """The data on disk is unusable; the text says why. The server must not start."""


class Note(msgspec.Struct, frozen=True):
    """The last server's note in the lock file. `owners`: the `application_id`s of the database
    file.
    """

    word: str
    owners: tuple[int, ...] = ()
    commit: int | None = None
    spools: str = "--"


class DataDirectory:
    """The directory and its locks. Methods block, so call them from a thread."""

    def __init__(self, path: Path, *, has_database: bool = True) -> None:
        """`has_database`: whether `quiltfn.db` belongs in it; a spool always does."""
        self.path, self._has_database = path, has_database
        self.database = path / "quiltfn.db"
        self._stamp = os.fspath(path / "keys.stamp")
        self.log = path / "quiltfn.db-wal"
        self.holds_lock = False
        # The last server's note. Read once, after locking.
        self.note = Note("")
        # `problem`: why nothing can be stored now. `notices`: about the start, for the operator.
        self.problem: str | None = None
        self.notices: list[str] = []
        self._lock = self._directory = -1
        # Identities of the database and its log as opened: SQLite keeps writing to these files.
        self._served: dict[str, os.stat_result] = {}
        # Identities of the directory and the lock file as opened.
        self._entered: os.stat_result
        self._locked: os.stat_result

    def enter(self, alone: bool, wait_s: float) -> None:
        """Takes the lock, and waits up to `wait_s` for another process to release it.

        If `alone` is False and another process has the lock, this returns without it.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._lock = open_own(self.path / "quiltfn.lock", os.O_RDWR | os.O_CREAT)
            self._entered, self._locked = os.fstat(self._directory), os.fstat(self._lock)
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
        self.note = self._read_note()

    def open_spool(self) -> None:
        """Locks a directory that has only a spool, because the database is shared and elsewhere."""
        self.enter(alone=True, wait_s=0)
        self.mark("open", (0, 0), 0, self.note.spools)

    def check(self) -> bool:
        """Whether the database must be created. Raises `StoreBroken` if something is missing."""
        self.check_restored()
        if not self.database.exists():
            left = [name for name in (self.log.name, *SPOOLS) if (self.path / name).exists()]
            if left or self.note.word:
                traces = f" ({', '.join(left)} is still there)" if left else ""
                raise StoreBroken(
                    f"{self.database} is missing, but this directory had one{traces}. Put it back, "
                    "restore a backup, name the database with --store if it was PostgreSQL, or "
                    "start with another, empty directory."
                )
            return True
        return False

    def check_restored(self) -> None:
        """Raises `StoreBroken` if a restore was interrupted."""
        if (self.path / RESTORING).exists():
            raise StoreBroken(
                f"A restore into {self.path} was cut off. Do it again: quiltfn restore."
            )

    def keep_for_node(self, name: str) -> None:
        """Marks the directory as this node's. Raises `StoreBroken` if it belongs to another node:
        this node's own records, in another directory, would be missed, and work could run twice.
        """
        path = self.path / NODE
        with contextlib.suppress(FileNotFoundError):
            found = path.read_text("ascii", "replace").strip()
            if found == name:
                return
            raise StoreBroken(
                f"{self.path} is the data directory of the node {found}, and this one is {name}. "
                "Name its own directory, or an empty one, with --data-dir."
            )
        replace_file(path, f"{name}\n")
        self.sync()

    def keep_session(self, session: str) -> None:
        """Records the PostgreSQL session whose lock keeps other servers out."""
        replace_file(self.path / SESSION, f"{session}\n")

    def session(self) -> str:
        """The session that was recorded last; empty if there is none."""
        with contextlib.suppress(OSError):
            return (self.path / SESSION).read_text("ascii", "replace").strip()
        return ""

    def is_filled(self, spool: str) -> bool:
        """Whether the segment has any content."""
        with contextlib.suppress(OSError):
            return (self.path / spool).stat().st_size > 0
        return False

    def mark(
        self, word: Literal["open", "closed"], owners: tuple[int, int], commit: int, spools: str
    ) -> None:
        """Writes the lock file. Only for the holder of the lock."""
        # The log's name must be on disk before "open": "open" without a log means that it was
        # deleted.
        self.sync()
        text = (
            f"{word:<6}\ndatabase {owners[0]:010} {owners[1]:010}\n"
            f"commit {commit:010}\nspool {spools}\n"
        )
        os.pwrite(self._lock, text.encode(), 0)
        os.ftruncate(self._lock, len(text))
        os.fsync(self._lock)

    def mark_keys_changed(self) -> None:
        """Changes `keys_token` for every process."""
        # If the disk is full, other processes notice at their next query of the database.
        with contextlib.suppress(OSError):
            file = open_own(Path(self._stamp), os.O_WRONLY | os.O_CREAT)
            try:
                # The size changes, because file times are too coarse for quick changes.
                os.ftruncate(file, os.fstat(file).st_size % STAMP_MAX_BYTES + 1)
            finally:
                os.close(file)

    def keys_token(self) -> object:
        """A value that differs after every `mark_keys_changed` by any process."""
        try:
            found = os.stat(self._stamp, follow_symlinks=False)
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size

    def forget(self) -> None:
        """Empties the lock file, since a restored copy replaces the last server's files."""
        os.ftruncate(self._lock, 0)
        os.fsync(self._lock)

    def committed(self, commit: int) -> None:
        """Records the number of a committed transaction. Not synced, since it is needed only after
        `kill -9`.
        """
        # An older number makes the next start less strict, not wrong.
        with contextlib.suppress(OSError):
            os.pwrite(self._lock, b"%010d" % commit, COMMIT_AT)

    def holds(self, spool: str, anything: bool) -> None:
        """Records whether a segment holds records."""
        with contextlib.suppress(OSError):
            os.pwrite(self._lock, b"+" if anything else b"-", SPOOL_AT + SPOOLS.index(spool))

    def look(self) -> None:
        """Checks that files are still at their paths; sets `problem`."""
        try:
            if not os.path.samestat(os.stat(self.path), self._entered):
                self.problem = "another directory was put in place of the data directory"
                return
            if not self._served and self._has_database:
                names = self.database.name, self.log.name
                self._served = {name: self._stat(name) for name in names}
            for name, served in self._served.items():
                if not os.path.samestat(self._stat(name), served):
                    self.problem = f"another {name} was put in place of the one that is served from"
                    return
            if self.holds_lock and not self._is_locked_by_name():
                self._lock_again()
        except OSError as error:
            part = f" ({error.filename})" if error.filename in self._served else ""
            self.problem = (
                f"the data directory was removed, or a part of it{part}: {error.strerror}"
            )
            return
        self.problem = None

    def add_notice(self, notice: str) -> None:
        """Adds a notice about this start for the operator, to the log and health."""
        import structlog  # noqa: PLC0415 - not needed beside a server

        self.notices.append(notice)
        structlog.get_logger("quiltfn.store").warning(notice)

    def sync(self) -> None:
        """Syncs the directory, so that its names survive a power cut."""
        os.fsync(self._directory)

    def retire(self, commit: int) -> None:
        """Writes "closed" before the last connection closes, which removes the log.

        Also done by a tool, if the server has died meanwhile.
        """
        if self._lock >= 0 and (self.holds_lock or self._try_lock()):
            # If the disk is full, the next start reports a missing log.
            with contextlib.suppress(OSError):
                note = self._read_note()
                owners = (*note.owners, 0, 0)[:2]
                self.mark("closed", (owners[0], owners[1]), commit, note.spools)

    def leave(self) -> None:
        """Releases the locks. Harmless when repeated."""
        for descriptor in (self._lock, self._directory):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock, self._directory, self.holds_lock = -1, -1, False

    def _try_lock(self) -> bool:
        """Takes both locks. Deleting files can't remove the directory's lock."""
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._directory, fcntl.LOCK_UN)
            return False
        self.holds_lock = True
        return True

    def _is_locked_by_name(self) -> bool:
        try:
            named = self._stat("quiltfn.lock")
        except FileNotFoundError:
            return False
        return os.path.samestat(named, self._locked)

    def _stat(self, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=self._directory, follow_symlinks=False)

    def _lock_again(self) -> None:
        """Restores a removed lock file. The lock on the directory kept other servers out."""
        note = os.pread(self._lock, 4096, 0)
        (self.path / "quiltfn.lock").unlink(missing_ok=True)
        fresh = open_own(self.path / "quiltfn.lock", os.O_RDWR | os.O_CREAT | os.O_EXCL)
        fcntl.flock(fresh, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(fresh, note, 0)
        os.dup2(fresh, self._lock, inheritable=False)
        self._locked = os.fstat(fresh)
        os.close(fresh)
        self.sync()

    def _read_note(self) -> Note:
        text = os.pread(self._lock, 4096, 0).decode("ascii", "replace")
        found = NOTE.fullmatch(text)
        if found is None:  # from an older release, which wrote only the word, or a new file
            return Note(text.strip() if text.strip() in ("open", "closed") else "")
        word, first, two, commit, spools = found.groups()
        owners = int(first), int(two)
        # A start that failed before it had a database has recorded zeros.
        return Note(word, owners if any(owners) else (), int(commit), spools)
