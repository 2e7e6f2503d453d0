"""A database in PostgreSQL.

Transactions that write take turns, as in SQLite: each first takes quiltfn's own lock in PostgreSQL
and holds it until its commit. So data that a writer has read stays unchanged until it commits, with
any number of servers: increments of counts and sums are safe, numbers of changes appear in order,
two starts never get the same epoch, and writers cannot deadlock. This does not slow down a single
server, which writes in one thread. Several servers share the waits for commits.

A server that shares its database stores nothing once other servers have taken its node over: each
of its transactions checks the node's epoch once it has the lock.

A server that is alone in its database holds another lock while it is connected, so that no second
server starts. Nodes of a fleet share that lock, and each also locks its name.
"""

import asyncio
import contextlib
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import psycopg
from psycopg import sql
from sqlalchemy import Connection, exc, text

from quiltfn import __version__
from quiltfn.model.errors import OutcomeUnknown, StoreUnavailable
from quiltfn.ports import ClockReading
from quiltfn.store.database import compatibility, nodes
from quiltfn.store.database.changes import TOLD
from quiltfn.store.database.database import BUSY, NOTHING_MISSING, Database, Unstorable, Work
from quiltfn.store.database.directory import SPOOLS, DataDirectory, StoreBroken
from quiltfn.store.database.disk_reserve import FULL, DiskFull
from quiltfn.store.database.locks import check_fleet, free_name_lock, try_name_lock
from quiltfn.store.database.nodes import Boot
from quiltfn.store.database.postgres_connection import (
    APPLICATION,
    NAMESPACE,
    NO_ANSWER,
    NOT_ALLOWED,
    READ_ONLY,
    RETRIED,
    STUCK_S,
    WRITER,
    code_of,
    end_session,
    end_sessions_of_past_starts,
    end_stuck_writer,
    engine,
    is_lost,
    is_of_database,
    parameters,
    reason_of,
    run_alone,
    session_of,
    try_servers_lock,
)
from quiltfn.store.database.postgres_notices import CHANNEL, listen
from quiltfn.store.database.postgres_timeline import PostgresTimeline
from quiltfn.store.database.quick_connection import QuickConnection
from quiltfn.store.database.sql import driver
from quiltfn.store.database.tables import REVISION

T = TypeVar("T")

OLDEST = 15  # the oldest supported major version of PostgreSQL
# Statements are planned for their actual parameters: a tenant may have ten records or ten million.
READ = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL plan_cache_mode = force_custom_plan"
)
# All in one message. The transaction sees everything that was committed before it got the lock.
WRITE = (
    "BEGIN; SET LOCAL lock_timeout = {wait_ms}; "
    f"SELECT pg_advisory_xact_lock({NAMESPACE}, {WRITER}), pg_current_xact_id()::text"
)
# For servers that share a database. Runs after the lock was taken, so it sees all earlier commits.
OWN_EPOCH = "SELECT epoch FROM node WHERE name = {name}"
WRITE_FENCED = (
    f"{WRITE}; SET LOCAL synchronous_commit = off; SELECT pg_current_xact_id()::text, ({OWN_EPOCH})"
)
# Writers release the lock before their commit is on the disk and on a standby. A second transaction
# then writes a few bytes into PostgreSQL's log and waits for both, which includes all earlier
# commits. The transactions of many servers share that wait.
WAIT_FOR_DISK = "SELECT pg_logical_emit_message(true, 'quiltfn', '')"
COMMIT_SHARED = f"COMMIT; {WAIT_FOR_DISK}"
# These values change after a crash and on a promoted standby. PostgreSQL then reuses the numbers of
# transactions that had not reached the disk or the standby.
LIFE = "pg_postmaster_start_time()::text, (SELECT stats_reset::text FROM pg_stat_archiver)"
WHAT_BECAME = (
    "SELECT CASE WHEN {number}::xid8 < pg_snapshot_xmax(pg_current_snapshot())"
    f" THEN pg_xact_status({{number}}::xid8) ELSE 'in progress' END, {LIFE}"
)
FULL_CODE, LOCKED_CODE = "53100", "55P03"
TRIES, LOOK_AGAIN_S = 3, 0.05
# How long a reader waits for earlier readers: each of them may need seconds to find out that
# PostgreSQL does not respond.
READ_WAIT_MAX_S = 10.0
TABLE_WAIT_MS = 1000
HELD = (
    "Another session, such as a backup or a long query, holds what the start needs of the "
    "database. Nothing was changed: start again."
)
OTHER_SERVER = "Another quiltfn is serving from this database."
FLEET_SERVER = (
    "Another quiltfn is serving from this database alone, without --fleet: stop it first."
)
SAME_NAME = (
    "A node named {name} is serving from this database already. Each node has a name of its own: "
    "quiltfn fleet add-node makes the file of another one."
)
FENCED = "this node was taken over or started again elsewhere, and stores nothing more"


def setting(connection: Connection, name: str) -> str:
    """The value of a setting of PostgreSQL."""
    return str(run_alone(connection, f"SHOW {name}")[0][0])


def note_life(connection: Connection) -> None:
    """Stores the `LIFE` of PostgreSQL on the connection."""
    (connection.info[LIFE],) = run_alone(connection, f"SELECT {LIFE}")


def check_usable(connection: Connection) -> None:
    """Raises `StoreBroken` if the database cannot be used for a store."""
    version = int(setting(connection, "server_version_num")) // 10_000
    if version < OLDEST:
        raise StoreBroken(f"PostgreSQL {version} is too old: {OLDEST} or newer is needed.")
    if setting(connection, "server_encoding") != "UTF8":
        raise StoreBroken(
            "The database must have the encoding UTF8: CREATE DATABASE … ENCODING 'UTF8'."
        )
    if run_alone(connection, "SELECT pg_is_in_recovery()")[0][0]:
        raise StoreBroken("This PostgreSQL is a standby and takes no writes. Name the primary.")


class NotStored(Exception):
    """The transaction certainly had no effect; a retry may succeed."""


class PostgresDatabase(Database):
    """`Database` in PostgreSQL. A lost connection is replaced at the next use."""

    def __init__(
        self,
        url: str,
        password: str | None,
        data_dir: Path,
        busy_timeout_s: float,
        node_id: str,
        fleet_id: str = "",
    ) -> None:
        """Blocks. `data_dir`: has this server's spool, and a reserve for the spool's disk only.
        `fleet_id`: the fleet that the server is a node of, or empty. Raises `StoreBroken` for an
        invalid URL.
        """
        self.timeline = PostgresTimeline(data_dir)  # the timeline of its connections
        self._make = partial(engine, url, password, timeline=self.timeline)
        self._engine, self._fleet_id = self._make(), fleet_id
        super().__init__(DataDirectory(data_dir, has_database=False), busy_timeout_s, node_id)
        self._is_alone = False
        self._application = APPLICATION
        self._listens_with: Mapping[str, Any] = parameters(url, password)
        self._writer: Connection | None = None
        self._reader: Connection | None = None

    @property
    def _is_shared(self) -> bool:
        """Whether transactions belong to a server that shares its database."""
        return self._boot is not None and not self._is_alone

    def _close_reader(self) -> None:
        self._close("_reader")

    def _close_writer(self) -> None:
        self._close("_writer")
        self.directory.retire(0)

    async def read(self, work: Work[T]) -> T:
        """All of `work` sees one state."""
        return await self._looked(work, self._in_one_state)

    async def poll(self, work: Work[T]) -> T:
        return await self._looked(work, self._by_itself)

    def quick_connection(self) -> QuickConnection:
        """Opens another connection, for statements that must not wait behind records."""
        return QuickConnection(self._make(is_quick=True, application=self._application))

    async def clock(self) -> ClockReading | None:
        return None if self._is_alone else await self.read(_read_clock)

    async def listen(self, hear: Callable[[str], None]) -> None:
        await listen(self._listens_with, self.timeline, self.boot.epoch, hear)

    async def end_node_session(self, name: str) -> None:
        """As in `Database`."""

        def work(connection: Connection) -> None:
            free_name_lock(connection, name)
            end_sessions_of_past_starts(connection)

        await self.poll(work)

    def condition(self) -> tuple[bool, str]:
        """PostgreSQL itself finds damage if it has checksums enabled."""
        return True, "; ".join(self.directory.notices) or NOTHING_MISSING

    # Reading, in its thread ------------------------------------------------------------------

    async def _looked(self, work: Work[T], within: Callable[[Connection, Work[T]], T]) -> T:
        loop, until = asyncio.get_running_loop(), time.monotonic() + READ_WAIT_MAX_S
        return await loop.run_in_executor(self._reader_thread, self._look, work, within, until)

    def _look(self, work: Work[T], within: Callable[[Connection, Work[T]], T], until: float) -> T:
        if time.monotonic() > until:
            raise StoreUnavailable(NO_ANSWER)
        try:
            return self._look_once(work, within)
        except NotStored:  # The connection was lost: retry with a new one.
            pass
        try:
            return self._look_once(work, within)
        except NotStored as error:
            raise StoreUnavailable(str(error)) from error.__cause__

    def _look_once(self, work: Work[T], within: Callable[[Connection, Work[T]], T]) -> T:
        if is_lost(self._reader):
            self._close("_reader")
            self._reader = self._connected()
        assert self._reader is not None
        try:
            return within(self._reader, work)
        except Exception as error:
            self._raise(error, self._reader)

    @staticmethod
    def _in_one_state(reader: Connection, work: Work[T]) -> T:
        transaction = reader.begin()
        try:
            run_alone(reader, READ)
            found = work(reader)
            # With nothing to commit, COMMIT cannot fail. ROLLBACK would make psycopg forget all
            # prepared statements, including those of polls.
            with contextlib.suppress(Exception):
                run_alone(reader, "COMMIT")
        finally:
            with contextlib.suppress(Exception):
                transaction.rollback()
        return found

    @staticmethod
    def _by_itself(reader: Connection, work: Work[T]) -> T:
        """Sends one message in place of three."""
        try:
            return work(reader)
        finally:  # SQLAlchemy assumes an open transaction
            with contextlib.suppress(Exception):
                reader.rollback()

    # Writing, in its thread ------------------------------------------------------------------

    def _perform(self, work: Work[T], deadline: float, frees: bool) -> T:
        """While time is left, retries if `work` certainly was not stored. There is no reserve on
        PostgreSQL's disk, so `frees` has no effect.
        """
        del frees
        problem: Exception | None = None
        for _ in range(TRIES):
            if time.monotonic() >= deadline:
                break
            self._check_directory()
            try:
                return self._perform_once(work, deadline)
            except NotStored as error:
                problem = error
        if problem is not None:
            raise StoreUnavailable(str(problem)) from problem.__cause__
        raise StoreUnavailable(BUSY)

    def _perform_once(self, work: Work[T], deadline: float) -> T:
        writer = self._served(deadline)
        life = writer.info[LIFE]
        try:
            transaction = writer.begin()
            try:
                number = self._begin(writer, deadline - time.monotonic())
                writer.info.pop(TOLD, None)
                result = work(writer)
                self._tell(writer)
            except BaseException:
                with contextlib.suppress(Exception):
                    transaction.rollback()
                raise
        except (exc.DataError, psycopg.DataError) as error:
            # Without the cause, which contains the value.
            raise Unstorable(reason_of(error)) from None
        except Exception as error:
            self._raise(error, writer)
        try:
            if self._is_shared:
                run_alone(writer, COMMIT_SHARED)
            transaction.commit()  # possibly a no-op
        except Exception as error:
            self._find_out(error, writer, number, life, deadline)
        return result

    def _find_out(
        self,
        error: Exception,
        writer: Connection,
        number: str,
        life: Sequence[str],
        deadline: float,
    ) -> None:
        """After a commit that failed or got no response: returns if the transaction is stored, and
        raises as `_raise` does if it isn't.
        """
        fails_alone = not is_lost(writer)
        if fails_alone:  # Without this, SQLAlchemy considers the transaction open.
            self._close("_writer")
        try:
            if self._was_committed(number, life, deadline):
                return
        except NotStored:
            if fails_alone and code_of(error) == FULL_CODE:
                self._raise(error, None)
            raise

    def _begin(self, writer: Connection, wait_s: float) -> str:
        """Begins a transaction that writes; returns its number. Raises `StoreUnavailable` if other
        servers have taken the node over, and so have ended its work.
        """
        if not self._is_shared:
            return str(self._begin_in_turn(writer, WRITE, wait_s)[1])
        assert self._boot is not None
        name = sql.Literal(self._boot.node_id).as_string(driver(writer))
        found = self._begin_in_turn(writer, WRITE_FENCED, wait_s, name=name)
        if found[1] != self._boot.epoch:
            raise StoreUnavailable(FENCED)
        return str(found[0])

    @staticmethod
    def _begin_in_turn(writer: Connection, begin: str, wait_s: float, **names: str) -> Any:
        """Runs `begin`, which takes the lock, and returns its row. A stuck holder of the lock loses
        it.
        """
        first_s = min(wait_s, STUCK_S + 0.2)

        def begun(most_s: float) -> Any:
            wait_ms = max(1, int(most_s * 1000))
            return run_alone(writer, begin.format(wait_ms=wait_ms, **names))[0]

        try:
            return begun(first_s)
        except psycopg.errors.LockNotAvailable:
            # End the stuck session even if no time is left now: the next write may have as little.
            run_alone(writer, "ROLLBACK")
            end_stuck_writer(writer)
            if first_s == wait_s:
                raise
        return begun(wait_s - first_s)

    def _tell(self, writer: Connection) -> None:
        """Notifies other servers, if any, of the kinds of changes in the transaction."""
        kinds = sorted(writer.info.pop(TOLD, ()))
        if kinds and not self._is_alone:
            epoch = 0 if self._boot is None else self._boot.epoch
            notices = ", ".join(f"pg_notify('{CHANNEL}', '{one} {epoch}')" for one in kinds)
            run_alone(writer, f"SELECT {notices}")

    def _served(self, deadline: float) -> Connection:
        """The writer's connection; a new one first takes the server lock."""
        if is_lost(self._writer):
            self._close("_writer")
            made = self._connected()
            try:
                note_life(made)
                if self._boot is not None:
                    self._take_servers_lock(made, deadline)
            except Exception as error:
                made.close()
                self._raise(error, None)
            self._writer = made
        assert self._writer is not None
        return self._writer

    def _take_servers_lock(self, connection: Connection, deadline: float) -> None:
        """Takes the server lock, and a node also the lock of its name, as soon as they are free.
        PostgreSQL may need a moment to notice that the last holder's connection is lost, or about
        ten seconds if the holder's machine is down. Raises `StoreUnavailable`.
        """
        message = FLEET_SERVER if self._fleet_id else OTHER_SERVER
        while not try_servers_lock(connection, alone=self._is_alone):
            self._end_left_session(connection)
            _wait_until(deadline, message)
        while self._fleet_id and not try_name_lock(connection, self._node_id):
            self._end_left_session(connection)
            _wait_until(deadline, SAME_NAME.format(name=self._node_id))
        if self.directory.holds_lock:
            with contextlib.suppress(OSError):  # the disk may be full
                self.directory.keep_session(session_of(connection))

    def _end_left_session(self, connection: Connection) -> None:
        """Ends the last session of this directory that had the lock. Its server has ended, but a
        device on the way to PostgreSQL may keep the connection open for ever.
        """
        if self.directory.holds_lock:
            end_session(connection, self.directory.session())

    def _was_committed(self, number: str, life: Sequence[str], deadline: float) -> bool:
        """Finds out the outcome of a transaction whose commit got no response. Raises `NotStored`
        if it certainly had no effect, and `OutcomeUnknown` if that is unknown at the deadline.
        `life`: PostgreSQL's `LIFE` when the transaction began. If it has changed, the transaction
        may be lost and its number reused, so "committed" proves nothing.
        """
        ask = WHAT_BECAME.format(number=f"'{number}'")
        while True:
            answer, now, is_on_disk = None, life, False
            with contextlib.suppress(StoreUnavailable, NotStored):
                answer, *now = self._told(ask, deadline)
                if answer == "committed":
                    self._told(WAIT_FOR_DISK, deadline)
                    is_on_disk = True
            is_same = tuple(now) == tuple(life)
            if answer == "committed" and is_same and is_on_disk:
                return True
            if answer == "aborted" or (answer == "in progress" and not is_same):
                break
            if (answer == "committed" and not is_same) or time.monotonic() >= deadline:
                raise OutcomeUnknown
            time.sleep(LOOK_AGAIN_S)
        raise NotStored("the connection to the database ended before the change was stored")

    def _told(self, question: str, deadline: float) -> Sequence[str]:
        """The row that a query outside of a transaction returns."""
        writer = self._served(deadline)
        try:
            found: Sequence[str] = run_alone(writer, question)[0]
        except Exception as error:
            self._raise(error, writer)
        return found

    # Opening, in the writer's thread ---------------------------------------------------------

    def _open(self, alone: bool) -> None:
        self.directory.enter(alone or bool(self._fleet_id), self.busy_timeout_s)
        if self.directory.holds_lock:
            self.directory.check_restored()
            if self._fleet_id:
                self.directory.keep_for_node(self._node_id)
            self.reserve.start()
        try:
            self._writer = self._engine.connect()
        except Exception as error:
            if not is_of_database(error):
                raise
            # Not `StoreBroken`, since a retry of the start may succeed.
            message = f"PostgreSQL accepts no connections: {reason_of(error)}"
            raise StoreUnavailable(message) from error
        try:
            self._open_or_tell(alone, self._writer)
        except Exception as error:
            if not is_of_database(error):
                raise
            if code_of(error) == FULL_CODE:
                raise DiskFull(f"{FULL} where PostgreSQL is, and a start needs some") from error
            if code_of(error) == LOCKED_CODE:
                raise StoreUnavailable(HELD) from error
            raise StoreBroken(f"PostgreSQL cannot be used: {reason_of(error)}.") from error

    def _open_or_tell(self, alone: bool, writer: Connection) -> None:
        self._check(writer)
        note_life(writer)
        is_server = alone or bool(self._node_id)
        if is_server:
            self._is_alone = alone
            self._take_servers_lock(writer, time.monotonic() + self.busy_timeout_s)
        check_fleet(writer, self._fleet_id, alone=alone)
        self._make_or_migrate(writer)
        if self.directory.holds_lock:
            self._take_over(writer)
        if is_server:
            with writer.begin():
                self._begin(writer, self.busy_timeout_s)
                compatibility.check(writer)  # a newer version may have started meanwhile
                boot = nodes.next_boot(writer, self._node_id, alone)
                nodes.register(writer, boot, __version__ if self._fleet_id else "")
            self._boot = boot
            self._name_sessions(writer, boot)
            with writer.begin():  # ends the transaction, too
                end_sessions_of_past_starts(writer)

    def _name_sessions(self, writer: Connection, boot: Boot) -> None:
        """Names this session and later ones after this start, so that other starts can end leftover
        sessions. A name in the URL has precedence.
        """
        if self._listens_with["application_name"] != APPLICATION:
            return
        self._application = f"{APPLICATION} {boot.epoch} {boot.node_id}"
        self._engine = self._make(application=self._application)
        self._listens_with = {**self._listens_with, "application_name": self._application}
        name = sql.Literal(self._application).as_string(driver(writer))
        run_alone(writer, f"SET application_name = {name}")

    def _check(self, connection: Connection) -> None:
        """Checks that this PostgreSQL is usable; adds notices of settings that can lose data."""
        check_usable(connection)
        for name in ("fsync", "full_page_writes"):
            if setting(connection, name) == "off":
                self.directory.add_notice(
                    f"PostgreSQL runs with {name} off: a power cut can lose what was acknowledged"
                )

    def _make_or_migrate(self, connection: Connection) -> None:
        """Creates the schema in an empty database, or upgrades an older one, even while servers of
        the previous version use it. Raises `StoreBroken` and `StoreUnavailable` if versions are
        incompatible, and then changes nothing.
        """
        named = text("SELECT to_regclass(:name) IS NOT NULL")
        with connection.begin():
            self._begin(connection, self.busy_timeout_s)
            is_made = connection.execute(named, {"name": "alembic_version"}).scalar_one()
            if not is_made and connection.execute(named, {"name": "invocation"}).scalar_one():
                raise StoreBroken("The database has tables that are not of quiltfn.")
            found = self._revision(connection) if is_made else ""
            if found < REVISION:
                self._migrate(connection, is_made)
            compatibility.check(connection)
            if self._fleet_id:
                compatibility.check_nodes(connection, self._node_id)
            if self._fleet_id or self._is_alone:
                compatibility.close_to_older(connection)
        if is_made and found < REVISION:
            self.directory.add_notice("the schema was brought up to date")
        if found > REVISION:
            self.directory.add_notice(f"the schema is of a newer quiltfn ({found})")

    def _migrate(self, connection: Connection, is_made: bool) -> None:
        if is_made and not (self._is_alone or self._fleet_id):
            raise StoreBroken(
                "No server has brought the database up to date yet: start one of this version."
            )
        # While a migration waits for a locked table, others queue behind it.
        limits = {
            "lock_timeout": TABLE_WAIT_MS,
            "statement_timeout": 0,
            "idle_in_transaction_session_timeout": 0,
        }
        run_alone(
            connection, "; ".join(f"SET LOCAL {name} = {one}" for name, one in limits.items())
        )
        # Imported late: see `migrate` in `database.py`.
        from quiltfn.store import migrations  # noqa: PLC0415

        migrations.upgrade_in(connection)

    def _revision(self, connection: Connection) -> str:
        query = "SELECT version_num FROM alembic_version"
        return str(connection.exec_driver_sql(query).scalar())

    def _take_over(self, connection: Connection) -> None:
        """Records that the spool in the data directory belongs to this database from now on. Raises
        `StoreBroken` if it has records of another database.
        """
        directory, note = self.directory, self.directory.note
        ours = identity(connection)
        if note.owners and ours not in note.owners:
            left = [one for one in SPOOLS if directory.is_filled(one)]
            if left:
                raise StoreBroken(
                    f"{', '.join(left)} in {directory.path} holds records of another database. "
                    "Start that one once and stop it in order, or name another --data-dir."
                )
            directory.add_notice("the database is another one than the last server's")
        directory.mark("open", (ours, ours), 0, note.spools)
        directory.look()

    # -----------------------------------------------------------------------------------------

    def _connected(self) -> Connection:
        try:
            return self._engine.connect()
        except Exception as error:
            self._raise(error, None)

    def _raise(self, error: Exception, connection: Connection | None) -> NoReturn:
        """Raises the error that `Database` promises; reraises programming errors unchanged."""
        code = code_of(error)
        is_ours = isinstance(error, exc.IntegrityError | exc.ProgrammingError)
        if (is_ours and code != NOT_ALLOWED) or not is_of_database(error):
            raise error
        # if the URL names several servers, a new connection finds a writable one
        if code == READ_ONLY:
            self._close("_writer")
        if code == FULL_CODE:
            raise DiskFull(f"{FULL} where PostgreSQL is: nothing can be stored") from error
        if code == LOCKED_CODE:
            raise StoreUnavailable(BUSY) from error
        message = f"the database does not answer as it should: {reason_of(error)}"
        if code in RETRIED or (connection is not None and is_lost(connection)):
            raise NotStored(message) from error
        raise StoreUnavailable(message) from error

    def _close(self, which: str) -> None:
        connection: Connection | None = getattr(self, which)
        setattr(self, which, None)
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()


def _wait_until(deadline: float, message: str) -> None:
    """Waits a moment, or after the deadline raises `StoreUnavailable` with `message`."""
    if time.monotonic() >= deadline:
        raise StoreUnavailable(message)
    time.sleep(LOOK_AGAIN_S)


def _read_clock(connection: Connection) -> ClockReading:
    asked = time.monotonic()
    (found,) = run_alone(connection, "SELECT extract(epoch FROM clock_timestamp())::float8")
    error_s = (time.monotonic() - asked) / 2
    return ClockReading(unix_s=found[0], at=asked + error_s, error_s=error_s)


def identity(connection: Connection) -> int:
    """A 31-bit number that distinguishes this database from all others, in all clusters."""
    query = (
        "SELECT system_identifier, (SELECT oid FROM pg_database WHERE datname = current_database())"
        " FROM pg_control_system()"
    )
    ((cluster, database),) = run_alone(connection, query)
    return 1 + zlib.crc32(f"{cluster} {database}".encode()) % 0x7FFF_FFFE


@contextlib.contextmanager
def connected_alone(url: str, password: str | None) -> Iterator[Connection]:
    """A connection without a time limit on statements, while no server uses the store.

    Raises `StoreBroken`, also for errors in the block.
    """
    try:
        with engine(url, password, is_hurried=False).connect() as connection:
            check_usable(connection)
            if not try_servers_lock(connection, alone=True):
                raise StoreBroken(f"A server uses {url}: stop it first.")
            yield connection
    except (exc.DBAPIError, psycopg.Error) as error:
        raise StoreBroken(f"{url} cannot be used: {reason_of(error)}.") from error
