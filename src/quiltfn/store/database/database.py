"""The interface of a database for the classes of the store.

`sqlite.py` implements it with a file in the data directory, `postgresql.py` with PostgreSQL.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    UniqueConstraint,
    delete,
    exc,
    select,
    tuple_,
)

from quiltfn.model.errors import Conflict, OutcomeUnknown, StoreUnavailable
from quiltfn.ports import ClockReading
from quiltfn.store.database import nodes
from quiltfn.store.database.directory import DataDirectory
from quiltfn.store.database.disk_reserve import REFUSED, DiskFull, DiskReserve
from quiltfn.store.database.nodes import Boot

T = TypeVar("T")
Work = Callable[[Connection], T]
BATCH_ROWS = 1000
NOTHING_MISSING = "nothing is known to be missing"
BUSY = "the database accepts no writes at the moment: it is busy"


class Unstorable(Exception):
    """The database rejects a value to be stored: a bug in quiltfn. Other values can be stored."""


class Database:
    """Transactions. At any time, at most one transaction writes, in all processes together.

    So data that a write has read stays unchanged until its end, and changes have an order.
    Databases block and an event loop must not, so one thread writes and one thread reads, each with
    a connection.
    """

    # Whether the database is a file whose free pages can be returned to the disk.
    has_free_pages = False

    def __init__(self, directory: DataDirectory, busy_timeout_s: float, node_id: str) -> None:
        """`directory`: this server's own, with its lock, the spool and the disk reserve.
        `busy_timeout_s`: how long a write may wait for others.
        """
        self.directory, self.busy_timeout_s, self._node_id = directory, busy_timeout_s, node_id
        self.problem: str | None = None  # why the last write failed, or why later ones will fail
        self.reserve = DiskReserve(directory.path)
        self._boot: Boot | None = None
        # Deferred writes of a start on a full disk, each with a function to call after its commit.
        self._put_off: list[tuple[Work[None], Callable[[], None]]] = []
        self._is_unsure = asyncio.Event()
        self._writer_thread = ThreadPoolExecutor(1, "store-writer")
        self._reader_thread = ThreadPoolExecutor(1, "store-reader")

    @property
    def boot(self) -> Boot:
        """This start of the server. Raises `StoreBroken` in a tool beside a server."""
        return nodes.of_server(self._boot)

    async def open(self, alone: bool) -> None:
        """Opens, creates or migrates the database: succeeds, or leaves nothing open. Raises
        `StoreBroken`.
        """
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._writer_thread, self._open, alone)
            await loop.run_in_executor(self._reader_thread, self._open_reader)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Closes it."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._reader_thread, self._close_reader)
        await loop.run_in_executor(self._writer_thread, self._close_writer)
        self._reader_thread.shutdown()
        self._writer_thread.shutdown()
        self.directory.leave()

    async def write(
        self, work: Work[T], after: Callable[[], None] | None = None, *, frees: bool = False
    ) -> T:
        """Runs `work` in one transaction and syncs it. `after` runs in the same thread, after the
        commit. `work` may be retried if it certainly had no effect.

        `frees`: the write removes something, so on a full disk it may use the reserve. Raises
        `DiskFull` or another `StoreUnavailable`, at the latest after the busy timeout, which
        includes the time in the queue. Other errors concern only this `work`.
        """
        deadline = time.monotonic() + self.busy_timeout_s
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._writer_thread, self._transact, work, deadline, after, frees
            )
        except OutcomeUnknown:
            self._is_unsure.set()
            raise

    async def delete(self, key: Sequence[Column[Any]], *conditions: ColumnElement[bool]) -> int:
        """Deletes rows in several transactions, so that other writes can run in between. `key`: the
        columns of the table's key. Returns how many rows were deleted.
        """
        some = select(*key).where(*conditions).limit(BATCH_ROWS)
        batch = delete(key[0].table).where(tuple_(*key).in_(some))
        removed, last = 0, BATCH_ROWS
        while last == BATCH_ROWS:
            last = await self.write(lambda c: c.execute(batch).rowcount, frees=True)
            removed += last
        return removed

    async def unsure(self) -> None:
        """Waits until `write` raises `OutcomeUnknown`, or returns at once if it has since the last
        time: the database may then have changes that this server doesn't know.
        """
        await self._is_unsure.wait()
        self._is_unsure.clear()

    async def write_or_put_off(self, work: Work[None], after: Callable[[], None]) -> None:
        """Like `write`, for a write at the server's start: on a full disk the server still starts,
        and `work` runs once the reserve exists again.
        """
        try:
            await self.write(work, after)
        except DiskFull:
            self._put_off.append((work, after))

    async def refill_reserve(self) -> bool:
        """Allocates the reserve for a full disk if it was used, then runs deferred writes; returns
        whether the reserve exists and nothing is deferred.
        """
        loop = asyncio.get_running_loop()
        is_there = await loop.run_in_executor(self._writer_thread, self.reserve.refill)
        while self._put_off:
            try:
                await self.write(*self._put_off[0])
            except StoreUnavailable:  # `problem` reports the failure, and the next call retries
                return False
            del self._put_off[0]
        return is_there

    async def read(self, work: Work[T]) -> T:
        """Runs `work` on the last committed state. Raises `StoreUnavailable`. `work` may be retried
        if the database did not respond to all statements.
        """
        raise NotImplementedError

    async def poll(self, work: Work[T]) -> T:
        """Like `read`, for one statement that is repeated often, perhaps without a transaction."""
        return await self.read(work)

    async def clock(self) -> ClockReading | None:
        """Reads the clock that servers with this database share; None if it is this machine's
        clock. Raises `StoreUnavailable`.
        """
        return None

    async def listen(self, hear: Callable[[str], None]) -> None:
        """Calls back for each `Notice` of another server, until cancelled. After a gap in which
        notices may have been lost, calls back with every kind. Returns at once if the database
        cannot send notices.
        """

    async def end_node_session(self, name: str) -> None:
        """Ends the session that holds the lock of a node that was taken over, and all sessions of
        past starts. Raises `StoreUnavailable`.
        """

    def condition(self) -> tuple[bool, str]:
        """Whether the data is undamaged, as far as known, and a message for the operator."""
        raise NotImplementedError

    # In the threads --------------------------------------------------------------------------

    def _open(self, alone: bool) -> None:
        raise NotImplementedError

    def _open_reader(self) -> None:
        """Connects the reader, if the database does not do so at the first use."""

    def _close_reader(self) -> None:
        raise NotImplementedError

    def _close_writer(self) -> None:
        raise NotImplementedError

    def _perform(self, work: Work[T], deadline: float, frees: bool) -> T:
        """Runs `work` in one transaction and syncs it."""
        raise NotImplementedError

    def _transact(
        self, work: Work[T], deadline: float, after: Callable[[], None] | None, frees: bool
    ) -> T:
        try:
            result = self._perform(work, deadline, frees)
        except StoreUnavailable as error:
            self.problem = str(error)
            raise
        self.problem = REFUSED if self.reserve.is_spent else None
        if after is not None:
            after()
        return result

    def _check_directory(self) -> None:
        """Raises `StoreUnavailable` if files of the data directory were removed or replaced."""
        self.directory.look()
        if self.directory.problem is not None:
            raise StoreUnavailable(self.directory.problem)


class Quickly(Protocol):
    """Runs statements, each in its own transaction, which never wait for records that are being
    stored. Raises `StoreUnavailable`.
    """

    def __call__(self, work: Callable[[Connection], T], /) -> Awaitable[T]: ...


def violated(error: exc.IntegrityError, constraint: UniqueConstraint) -> bool:
    """Whether this constraint failed. SQLite names its columns and PostgreSQL the constraint."""
    diagnostic = getattr(error.orig, "diag", None)
    if diagnostic is not None:
        return bool(diagnostic.constraint_name == constraint.name)
    columns = ", ".join(f"{column.table.name}.{column.name}" for column in constraint.columns)
    return str(error.orig).endswith(columns)


def name_taken(name: str, by: str) -> Conflict:
    """The error for a name that another row of the tenant has."""
    details = {"field": "name", "expected": "a name that is free", "received": name}
    return Conflict(f"name {name!r} is taken by another {by}", details=details)


def migrate(connection: Connection) -> None:
    """Migrates to the newest schema in one transaction. Raises `StoreBroken`."""
    # Imported late: importing Alembic takes longer than opening the database, and only a first
    # start or an upgrade needs it.
    from quiltfn.store import migrations  # noqa: PLC0415

    migrations.upgrade(connection)
