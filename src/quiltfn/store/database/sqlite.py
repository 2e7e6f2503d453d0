"""A database in one SQLite file.

There is one connection for writing, so writes of this process queue instead of failing at a lock.
Readers see the last commit (write-ahead log) and never wait.
"""

import asyncio
import contextlib
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    exc,
    pool,
)

from quiltfn.model.errors import StoreUnavailable
from quiltfn.store.database import consistency, nodes, sql, sqlite_header
from quiltfn.store.database.check import IntegrityCheck
from quiltfn.store.database.database import BUSY, NOTHING_MISSING, Database, Work, migrate
from quiltfn.store.database.directory import OWNER_ONLY, DataDirectory, StoreBroken, open_own
from quiltfn.store.database.disk_reserve import FULL, REFUSED, DiskFull, is_full
from quiltfn.store.database.tables import REVISION

T = TypeVar("T")

CHECK_ALL_BELOW_BYTES = 64 * 1024 * 1024
# Names of copies. Releases up to 0.1.0 use the second name, and remove every file of that name
# before they refuse a newer schema.
KEPT, BEFORE = "quiltfn.db.kept-", "quiltfn.db.before-"
WAL = "PRAGMA journal_mode = WAL"
# Per connection, in KiB. Frequent changes, such as those of the audit log, fill the cache; then its
# size is stable.
CACHE_KIB = 2000
ALWAYS = (
    f"PRAGMA cache_size = -{CACHE_KIB}",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    f"PRAGMA journal_size_limit = {64 * 1024 * 1024}",
    # When the log has this many pages, a commit copies it into the database, and later writes wait.
    # With the default of 1,000 and scattered writes, such as those of retention, that takes 20 ms.
    "PRAGMA wal_autocheckpoint = 250",
)
# A statement that runs a trigger records the pages that it changes, to undo them if needed. By
# default SQLite writes all beyond 64 KiB into a file, page by page. Set only for the writer, and
# only after a migration, since creating an index would also sort its rows in memory.
UNDO_IN_MEMORY = "PRAGMA temp_store = MEMORY"
BUSY_STEPS = 64


class SqliteDatabase(Database):
    """The database in `quiltfn.db`. Other servers exist only if they share the directory."""

    has_free_pages = True

    def __init__(self, directory: DataDirectory, busy_timeout_s: float, node_id: str = "") -> None:
        super().__init__(directory, busy_timeout_s, node_id)
        self._is_registered = False  # whether the epoch of the boot is stored
        self.check = IntegrityCheck(directory.database)
        self._busy_ms = 0  # the writer's current timeout
        self._writer: Connection
        self._reader: Connection

    def condition(self) -> tuple[bool, str]:
        messages = [*self.directory.notices, *([self.check.message] if self.check.message else [])]
        return not self.check.is_damaged, "; ".join(messages) or NOTHING_MISSING

    async def read(self, work: Work[T]) -> T:
        """As in `Database`."""

        def run() -> T:
            with self._translate_errors(), self._reader.begin():
                return work(self._reader)

        return await asyncio.get_running_loop().run_in_executor(self._reader_thread, run)

    def _perform(self, work: Work[T], deadline: float, frees: bool) -> T:
        self._check_directory()  # first: the reserve is in the directory, too
        if self.reserve.is_spent and not frees:
            raise DiskFull(REFUSED)
        try:
            return self._perform_once(work, deadline)
        except DiskFull:
            if not (frees and self.reserve.release()):
                raise
            return self._perform_once(work, deadline)

    def _perform_once(self, work: Work[T], deadline: float) -> T:
        left = deadline - time.monotonic()
        if left <= 0:
            raise StoreUnavailable(BUSY)
        with self._translate_errors():
            driver = self._driver()
            self._wait_at_most(left)
            changes = driver.total_changes
            with self._writer.begin():
                result = work(self._writer)
                # A transaction without changes writes nothing, so it succeeds on a full disk.
                number = self._count() if driver.total_changes != changes else None
        if number is not None:
            self._is_registered = True
            self.directory.committed(number)
        return result

    def _wait_at_most(self, seconds: float) -> None:
        """Sets how long the next statements wait for other processes. The time is rounded down to a
        step, so that the setting rarely changes.
        """
        step_ms = max(1, int(self.busy_timeout_s * 1000 / BUSY_STEPS))
        busy_ms = max(1, int(seconds * 1000) // step_ms * step_ms)
        if busy_ms != self._busy_ms:
            self._driver().execute(f"PRAGMA busy_timeout = {busy_ms}").close()
            self._busy_ms = busy_ms

    def _driver(self) -> Any:
        return sql.driver(self._writer)

    def _count(self) -> int:
        """Numbers the open transaction; see `sqlite_header.py`. The first transaction of a server
        also stores its epoch.
        """
        if self._boot is not None and not self._is_registered:
            nodes.register(self._writer, self._boot)
        number = sqlite_header.following(self._number("user_version"))
        self._driver().execute(f"PRAGMA user_version = {number}").close()
        return number

    def _number(self, pragma: str) -> int:
        number: int = self._driver().execute(f"PRAGMA {pragma}").fetchone()[0]
        return number

    # Opening, in the threads -----------------------------------------------------------------

    def _open(self, alone: bool) -> None:
        try:
            self._open_writer(alone)
        except StoreBroken as error:
            if is_full(error.__cause__, self.directory.path):
                raise DiskFull(f"{FULL}, and a start needs some room: {error}") from error
            raise

    def _open_writer(self, alone: bool) -> None:
        self.directory.enter(alone, self.busy_timeout_s)
        if self.directory.holds_lock:
            self.reserve.start()
        path = self.directory.database
        is_new = self.directory.check()
        if is_new and not self.directory.holds_lock:
            raise StoreBroken(f"{path} is just being made by another process; try again.")
        try:
            if is_new:
                self._make()
            if path.stat().st_size == 0:
                raise StoreBroken(f"{path} is empty. Restore a backup.")
            # O_PATH, because closing an ordinary descriptor would release SQLite's locks.
            named = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(named).st_mode):
                    raise StoreBroken(f"{path} is not a file. Restore a backup.")
                os.chmod(f"/proc/self/fd/{named}", OWNER_ONLY)
            finally:
                os.close(named)
            if self.directory.holds_lock:
                consistency.examine(self.directory)
            self._writer = self._engine(path, "BEGIN IMMEDIATE", WAL).connect()
            self._check()
            self._driver().execute(UNDO_IN_MEMORY).close()
            if self.directory.holds_lock:
                self._take_over()
            if alone or self._node_id:
                with self._writer.begin():
                    self._boot = nodes.next_boot(self._writer, self._node_id, alone)
        except (exc.DBAPIError, sqlite3.Error, OSError) as error:
            reason = getattr(error, "orig", None) or getattr(error, "strerror", None) or error
            raise StoreBroken(
                f"{path} cannot be used: {reason}. Restore a backup if the file is damaged."
            ) from error

    def _take_over(self) -> None:
        """Gives the file a new `application_id`, so that no other log is mistaken for its own.

        The note has room for two numbers: the old one and the new one. So the contents of an
        earlier log are first moved into the file.
        """
        directory, spools = self.directory, self.directory.note.spools
        last, ours = self._number("application_id"), 1 + secrets.randbelow(sqlite_header.NUMBERS)
        noted, commit = directory.note.owners, self._number("user_version")
        owners = (noted[0], noted[1]) if last in noted else (last, last)
        try:
            if self._is_moved_into_file("PASSIVE"):
                owners = last, ours
                directory.mark(
                    "open" if directory.note.word == "open" else "closed", owners, commit, spools
                )
                with self._writer.begin():
                    self._driver().execute(f"PRAGMA application_id = {ours}").close()
                # On a full disk, keep the space of the log for writes that must succeed then.
                if self._is_moved_into_file("TRUNCATE" if self.reserve.has_room else "PASSIVE"):
                    owners = ours, ours
        except (exc.DBAPIError, sqlite3.Error) as error:
            if not is_full(error, directory.path):
                raise  # on a full disk, the last server's log stays
        directory.mark("open", owners, commit, spools)
        directory.look()
        if directory.note.word == "open" and not self._is_small():
            self.check.start()

    def _is_moved_into_file(self, mode: str) -> bool:
        """Moves the log's contents into the file; returns False if a reader prevented that in part.
        `mode`: TRUNCATE also frees the space of the log.
        """
        command = f"PRAGMA wal_checkpoint({mode})"
        is_busy, there, moved = self._driver().execute(command).fetchone()
        return not is_busy and there == moved

    def _is_small(self) -> bool:
        return self.directory.database.stat().st_size < CHECK_ALL_BELOW_BYTES

    def _retire(self) -> None:
        number = self.directory.note.commit or 0
        with contextlib.suppress(exc.DBAPIError, sqlite3.Error):
            number = self._number("user_version")
        self.directory.retire(number)

    def _open_reader(self) -> None:
        path = self.directory.database
        self._reader = self._engine(path, "BEGIN", "PRAGMA query_only = ON").connect()
        with self._reader.begin():
            self._reader.exec_driver_sql("SELECT 1 FROM probe")

    def _make(self) -> None:
        """Creates a database under another name and renames it when it is complete.

        So a start that is killed in between leaves no file that looks like a damaged database.
        """
        path, fresh = self.directory.database, Path(f"{self.directory.database}.new")
        for leftover in (fresh, Path(f"{fresh}-wal"), Path(f"{fresh}-shm")):
            leftover.unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, OWNER_ONLY))
        # auto_vacuum, which `vacuum.py` needs, can only be set before there are tables.
        pragmas = ("PRAGMA auto_vacuum = INCREMENTAL", WAL)
        with self._engine(fresh, "BEGIN IMMEDIATE", *pragmas).connect() as connection:
            migrate(connection)
        fresh.replace(path)
        self.directory.sync()

    def _check(self) -> None:
        """Checks that the database is undamaged and ours; migrates an older schema."""
        path, connection = self.directory.database, self._writer
        with connection.begin():
            names = connection.exec_driver_sql("SELECT name FROM sqlite_schema").scalars().all()
            if "alembic_version" not in names:
                raise StoreBroken(f"{path} is not a database of quiltfn.")
            found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
        copy = None
        if found != REVISION:
            if not self.directory.holds_lock:
                raise StoreBroken(
                    f"{path} is in use by another version of quiltfn (stop it first)."
                )
            copy = self._keep_copy(str(found)) if str(found) < REVISION else None
            migrate(connection)  # refuses a newer schema, for which the copies are kept
        with connection.begin():  # checks functions and versions only, unless the database is small
            for bound in ("1",) if self._is_small() else ("function", "version"):
                result = connection.exec_driver_sql(f"PRAGMA quick_check({bound})").scalar()
                if result != "ok":
                    raise StoreBroken(f"{path} is damaged: {result}. Restore a backup.")
        if copy is not None:
            self._keep_only(copy)

    def _keep_copy(self, revision: str) -> str:
        """Copies the database before a migration, so that the older release can use it again.
        Returns the name of the copy.
        """
        path, copy = self.directory.database, f"{KEPT}{revision}"
        fresh = path.with_name(f"{copy}.new")
        try:
            self._copy_to(fresh)
        except BaseException:  # A partial copy would waste scarce space.
            for left in (fresh, Path(f"{fresh}-journal")):
                left.unlink(missing_ok=True)
            raise
        fresh.replace(path.with_name(copy))
        self.directory.sync()
        return copy

    def _keep_only(self, copy: str) -> None:
        """Removes the copies of earlier migrations, after a successful one."""
        for name in (KEPT, BEFORE):
            for other in self.directory.database.parent.glob(f"{name}*"):
                if other.name != copy:
                    other.unlink()
        self.directory.add_notice(f"the schema was brought up to date; {copy} is the old one")

    def _copy_to(self, fresh: Path) -> None:
        fresh.unlink(missing_ok=True)
        os.close(open_own(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        with closing(sqlite3.connect(fresh)) as target:
            self._driver().backup(target)
            target.execute("PRAGMA journal_mode = DELETE")
        descriptor = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC)
        os.fsync(descriptor)
        os.close(descriptor)

    def _engine(self, path: Path, begin: str, *pragmas: str) -> Engine:
        # The driver begins no transactions by itself; `begin` says how each one starts.
        engine = create_engine(
            URL.create("sqlite", database=str(path)),  # escapes the path
            poolclass=pool.NullPool,
            connect_args={
                "isolation_level": None,
                "check_same_thread": False,
                "timeout": self.busy_timeout_s,
            },
        )

        @event.listens_for(engine, "connect")
        def prepare(driver: Any, _record: object) -> None:
            try:
                for pragma in (*pragmas, *ALWAYS):
                    answer = driver.execute(pragma).fetchone()
                    if pragma == WAL and answer != ("wal",):
                        raise StoreBroken(f"{path} cannot have a write-ahead log where it is.")
            except BaseException:
                driver.close()
                raise

        @event.listens_for(engine, "begin")
        def start(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turns errors of the database into `StoreUnavailable`; programming errors pass."""
        try:
            yield
        except (exc.IntegrityError, exc.ProgrammingError):
            raise
        except (exc.DBAPIError, sqlite3.Error) as error:
            if is_full(error, self.directory.path):
                raise DiskFull(f"{FULL}: nothing can be stored") from error
            # Only the driver's text: SQLAlchemy's has the statement and its values.
            reason = getattr(error, "orig", None) or error
            raise StoreUnavailable(
                f"the database does not answer as it should: {reason}"
            ) from error

    def _close_reader(self) -> None:
        self.check.stop()
        self._close("_reader")

    def _close_writer(self) -> None:
        """Closing the last connection copies the log into the database."""
        if hasattr(self, "_writer"):
            self._retire()
        self._close("_writer")

    def _close(self, which: str) -> None:
        connection: Connection | None = self.__dict__.pop(which, None)
        if connection is not None:
            connection.close()
