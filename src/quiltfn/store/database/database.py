"""What the classes of the store need of a database, whichever it is.

`sqlite.py` has one in a file of the data directory, `postgresql.py` one in PostgreSQL.
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
    """A value of what was to be stored is none that the database takes: a mistake of ours. Others
    can be stored.
    """


class Database(Protocol):
    """Transactions, one writing one at a time, whichever process it is of.

    So what a write has read stays as it is until its end, and changes have an order.
    """

    # The data directory of this server, with its lock, the spool and the disk reserve.
    directory: DataDirectory
    reserve: DiskReserve
    busy_timeout_s: float  # How long a write may wait for others.
    problem: str | None  # Why the last write failed, or the next ones will.
    # Whether it has a file of its own, whose free pages can be given back to the disk.
    has_free_pages: bool

    @property
    def boot(self) -> Boot:
        """This start of the server. Raises `StoreBroken` for a tool beside a server."""
        ...

    async def open(self, alone: bool) -> None:
        """Opens, makes or migrates the database. Raises `StoreBroken`."""
        ...

    async def aclose(self) -> None:
        """Closes it. Harmless when repeated."""
        ...

    async def write(
        self, work: Work[T], after: Callable[[], None] | None = None, *, frees: bool = False
    ) -> T:
        """Runs `work` in one transaction and syncs it. `after` runs in the same thread, after the
        commit. `work` may be run again where it surely had no effect.

        `frees`: the write removes something, so on a full disk it may use the reserve. Raises
        `DiskFull` or another `StoreUnavailable`, at the latest after the busy timeout. That is
        counted from the call of this method, time in the queue included. Whatever else it raises is
        about `work` alone.
        """
        ...

    async def unsure(self) -> None:
        """Returns once `write` has raised `OutcomeUnknown` since this returned last: then there may
        be something in the database that nobody here knows of.
        """

    async def write_or_put_off(self, work: Work[None], after: Callable[[], None]) -> None:
        """Like `write`, for what a start stores: on a full disk the server starts all the same, and
        `work` is done when the reserve is there again.
        """
        ...

    async def refill_reserve(self) -> bool:
        """Allocates the reserve for a full disk, if it was used, and then does what was put off;
        returns whether the reserve is there and nothing is put off any more.
        """
        ...

    async def read(self, work: Work[T]) -> T:
        """Runs `work` on the last committed state. Raises `StoreUnavailable`. `work` may be run
        again where the database did not answer it to the end.
        """
        ...

    async def poll(self, work: Work[T]) -> T:
        """Like `read`, for one statement that is made again and again: it has no transaction around
        it.
        """
        ...

    async def clock(self) -> ClockReading | None:
        """What the clock of the database says that several servers share; None where that is this
        machine's. Raises `StoreUnavailable`.
        """
        ...

    async def listen(self, hear: Callable[[str], None]) -> None:
        """Calls back for each `Notice` of another server, and with each of them after a time in
        which some may have been missed, until it is cancelled. Returns at once where the database
        has no way to tell them.
        """
        ...

    async def end_node_session(self, name: str) -> None:
        """Ends the session that keeps other servers of the name of a node out, which was taken
        over, and all sessions of starts that are over. Raises `StoreUnavailable`.
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
    """Whether that constraint is why. SQLite names its columns and PostgreSQL the constraint."""
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
