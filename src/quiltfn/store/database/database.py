"""The interface of a database for the classes of the store.

`sqlite.py` implements it with a file in the data directory, `postgresql.py` with PostgreSQL.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection, UniqueConstraint, exc

from quiltfn.ports import ClockReading
from quiltfn.store.files.directory import DataDirectory
from quiltfn.store.files.disk_reserve import DiskReserve
from quiltfn.store.fleet.nodes import Boot

T = TypeVar("T")
Work = Callable[[Connection], T]
NOTHING_MISSING = "nothing is known to be missing"
BUSY = "the database does not take writes at the moment: it is busy"


class Unstorable(Exception):
    """The database rejects a value to be stored: a bug of quiltfn's. Other values can be stored."""


class Database(Protocol):
    """Transactions; only one at a time writes, in any process.

    So what a write has read stays unchanged until its end, and changes have an order.
    """

    # This server's data directory, with its lock, the spool and the disk reserve.
    directory: DataDirectory
    reserve: DiskReserve
    busy_timeout_s: float  # how long a write may wait for others
    problem: str | None  # why the last write failed, or the next ones will
    # Whether the database is a file whose free pages can be returned to the disk.
    has_free_pages: bool

    @property
    def boot(self) -> Boot:
        """This start of the server. Raises `StoreBroken` for a tool beside a server."""
        ...

    async def open(self, alone: bool) -> None:
        """Opens, creates or migrates the database. Raises `StoreBroken`."""
        ...

    async def aclose(self) -> None:
        """Closes it. Harmless when repeated."""
        ...

    async def write(
        self, work: Work[T], after: Callable[[], None] | None = None, *, frees: bool = False
    ) -> T:
        """Runs `work` in one transaction and syncs it. `after` runs in the same thread, after the
        commit. `work` may be retried if it had no effect for sure.

        `frees`: the write removes something, so on a full disk it may use the reserve. Raises
        `DiskFull` or another `StoreUnavailable`, at the latest after the busy timeout, which
        includes the time in the queue. Any other error is about `work` only.
        """
        ...

    async def unsure(self) -> None:
        """Returns once `write` has raised `OutcomeUnknown` since the last return: the database may
        then have changes that this server doesn't know.
        """

    async def write_or_put_off(self, work: Work[None], after: Callable[[], None]) -> None:
        """Like `write`, for a write at the start: on a full disk the server still starts, and
        `work` runs once the reserve is back.
        """
        ...

    async def refill_reserve(self) -> bool:
        """Allocates the reserve for a full disk if it was used, then runs deferred writes; returns
        whether the reserve exists and nothing is deferred.
        """
        ...

    async def read(self, work: Work[T]) -> T:
        """Runs `work` on the last committed state. Raises `StoreUnavailable`. `work` may be retried
        if the database did not respond to all of it.
        """
        ...

    async def poll(self, work: Work[T]) -> T:
        """Like `read`, without a transaction, for one statement that is repeated often."""
        ...

    async def clock(self) -> ClockReading | None:
        """Reads the database's clock, which several servers share; None if that is this machine's.
        Raises `StoreUnavailable`.
        """
        ...

    async def listen(self, hear: Callable[[str], None]) -> None:
        """Calls back for each `Notice` of another server until it is cancelled; after a gap that
        may have lost notices, calls back with every kind. Returns at once if the database cannot
        send notices.
        """
        ...

    async def end_node_session(self, name: str) -> None:
        """Ends the session that holds the lock of a node that was taken over, and all sessions of
        past starts. Raises `StoreUnavailable`.
        """
        ...

    def condition(self) -> tuple[bool, str]:
        """As `SqlStore` says."""
        ...


class Quickly(Protocol):
    """Runs statements, each a transaction, without waiting behind records. Raises
    `StoreUnavailable`.
    """

    def __call__(self, work: Callable[[Connection], T], /) -> Awaitable[T]: ...


def violated(error: exc.IntegrityError, constraint: UniqueConstraint) -> bool:
    """Whether this constraint failed. SQLite names its columns and PostgreSQL the constraint."""
    diagnostic = getattr(error.orig, "diag", None)
    if diagnostic is not None:
        return bool(diagnostic.constraint_name == constraint.name)
    columns = ", ".join(f"{column.table.name}.{column.name}" for column in constraint.columns)
    return str(error.orig).endswith(columns)


def migrate(connection: Connection) -> None:
    """Migrates to the newest schema in one transaction. Raises `StoreBroken`."""
    # Imported late: Alembic takes longer to import than the database takes to open, and only a
    # first start or an upgrade needs it.
    from quiltfn.store import migrations  # noqa: PLC0415

    migrations.upgrade(connection)
