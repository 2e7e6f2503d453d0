"""Shared parts of the suites of the store and the journal: implementations, and test data."""

import asyncio
import contextlib
import os
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, closing
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
from msgspec.structs import replace
from sqlalchemy import Connection

import postgresql
import sqlite_template
from forked import forked
from manual_clock import ManualClock
from quiltfn.model.audit import AuditEntry
from quiltfn.model.function import Function, FunctionState
from quiltfn.model.invocation import CallResult, ExitKind, Invocation, Status
from quiltfn.model.operation import Operation
from quiltfn.model.version import Version, VersionSpec
from quiltfn.ports import InvocationQuery, Page
from quiltfn.store import SpoolJournal, SqlStore, open_sqlite
from quiltfn.store.database import database, nodes, postgres_connection
from quiltfn.store.opening_postgresql import open_postgresql
from timeouts import scaled

T = TypeVar("T")

# How many seconds a write waits for other writers, and for earlier writes in its thread, which
# other tests may delay. HELD_S: the same time for tests that hold the lock until a write gives up.
BUSY_TIMEOUT_S, HELD_S = scaled(5.0), 0.3


@contextlib.asynccontextmanager
async def on_postgresql(
    path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S, **options: Any
) -> AsyncIterator[SqlStore]:
    """The store in the directory's PostgreSQL database, which the first opening creates."""
    url = url_of(path)
    async with open_postgresql(url, path, busy_timeout_s=busy_timeout_s, **options) as store:
        yield store


def on_sqlite(
    path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S, **options: Any
) -> AbstractAsyncContextManager[SqlStore]:
    """The store in the directory's SQLite file, which the first opening creates."""
    return open_sqlite(path, busy_timeout_s=busy_timeout_s, **options)


def opened_as_before(path: Path, **options: Any) -> AbstractAsyncContextManager[SqlStore]:
    """For a child process: opens a directory's store as its parent did, in PostgreSQL if `url_of`
    has created a database there.
    """
    return (on_postgresql if is_on_postgresql(path) else on_sqlite)(path, **options)


def url_of(path: Path) -> str:
    """The URL of the directory's database, stored in a file there for other processes."""
    noted = path / "postgresql.url"
    if not noted.exists():
        path.mkdir(parents=True, exist_ok=True)
        noted.write_text(postgresql.database_of(path, with_schema))
    return noted.read_text()


def with_schema(url: str) -> None:
    """Creates the schema in an empty database."""
    made = postgres_connection.engine(url)
    with made.connect() as connection:
        database.migrate(connection)


# One entry for each implementation of the ports. Each can open the same directory again and again.
StoreOpener = Callable[[Path], AbstractAsyncContextManager[SqlStore]]
STORES: dict[str, StoreOpener] = {
    "sqlite": lambda path: on_sqlite(sqlite_template.with_schema(path)),
    "postgresql": on_postgresql,
}


# For tests of SQLite's own features: its file, its plans, its locks.
OF_SQLITE = pytest.mark.parametrize("open_store", ["sqlite"], indirect=True)

# One entry for each store that several servers can share; the second argument is the node's name.
SharedStoreOpener = Callable[[Path, str], AbstractAsyncContextManager[SqlStore]]
SHARED_STORES: dict[str, SharedStoreOpener] = {
    "sqlite": lambda path, node_id: on_sqlite(
        sqlite_template.with_schema(path), alone=False, node_id=node_id
    ),
    "postgresql": lambda path, node_id: on_postgresql(path, alone=False, node_id=node_id),
}


@contextlib.asynccontextmanager
async def opened_journal(
    store: SqlStore, path: Path, **options: Any
) -> AsyncIterator[SpoolJournal]:
    """A started journal, which is closed at the end, whatever its state."""
    journal = SpoolJournal(store.database, path, ManualClock(), **options)
    await journal.start()
    try:
        yield journal
    finally:
        await journal.aclose()


async def restart(store: SqlStore) -> None:
    """Simulate a restart of the server without closing the store: begin a new boot."""
    database: Any = store.database
    boot = database.boot._replace(epoch=database.boot.epoch + 1)
    await database.write(lambda connection: nodes.register(connection, boot))
    database._boot = boot


def an_id() -> str:
    """A UUIDv7."""
    stamp = f"{time.time_ns() // 1_000_000:012x}"
    rest = os.urandom(9).hex()
    return f"{stamp[:8]}-{stamp[8:]}-7{rest[:3]}-8{rest[3:6]}-{rest[6:18]}"


def ids(count: int) -> list[str]:
    """Several ids, oldest first."""
    return sorted(an_id() for _ in range(count))


def a_function(**changes: Any) -> Function:
    function = Function(
        id=an_id(),
        tenant_id="default",
        name=f"f-{an_id()[-12:]}",
        cluster_id=None,
        description=None,
        owner_node_id="node-1",
        state=FunctionState.PENDING,
        current_version=1,
        min_instances=0,
        max_instances=5,
        created_at=1_760_000_000,
        updated_at=1_760_000_000,
    )
    return replace(function, **changes)


def a_version(function: Function, number: int = 1, **spec: Any) -> Version:
    made = VersionSpec(**{"handler": "echo hello", **spec})
    return Version(
        id=an_id(),
        function_id=function.id,
        number=number,
        spec=made,
        digest=made.digest(),
        description=function.description,
        created_at=1_760_000_000 + number,
    )


async def a_stored_function(store: SqlStore, **changes: Any) -> Function:
    function = a_function(**changes)
    await store.create(function, a_version(function))
    return function


def a_call(function: Function, **changes: Any) -> Invocation:
    """The record of an invocation before its hand-over."""
    record = Invocation(
        invocation_id=an_id(),
        tenant_id=function.tenant_id,
        function_id=function.id,
        function_name=function.name,
        execution_node_id="node-1",
        status=Status.RUNNING,
        started_at=1_760_000_100,
    )
    return replace(record, **changes)


def done(
    record: Invocation, code: int = 0, stdout: bytes = b"hello\n", duration_ms: int = 3
) -> Invocation:
    """The record after its handler exited with `code`."""
    ended = CallResult(kind=ExitKind.EXITED, code=code, stdout=stdout)
    final = record.after(ended, now=1_760_000_101, duration_ms=duration_ms)
    return replace(final, own_message=None)  # the message is not stored in a column


def an_operation(created_at: int) -> Operation:
    """An operation in progress."""
    return Operation(
        operation_id="o",
        tenant_id="t",
        operation_type="elasticity.function_pool_target",
        idempotency_key="k",
        action_id="a",
        status="running",
        reason_code=None,
        reason_message=None,
        retryable=False,
        created_at=created_at,
    )


def an_entry(**changes: Any) -> AuditEntry:
    """An entry of the audit log."""
    entry = AuditEntry(
        id=an_id(),
        at=1_760_000_000,
        tenant_id="default",
        credential="open",
        action="function.create",
        object_id=None,
        status=201,
        error_code=None,
        address="127.0.0.1",
        request_id="r-1",
    )
    return replace(entry, **changes)


def child_environment() -> dict[str, str]:
    """The environment for a Python process with this one's imports."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """The rows in the database of a data directory."""
    if is_on_postgresql(path):
        with psycopg.connect(url_of(path)) as driver:
            return driver.execute(query.encode()).fetchall()
    with closing(sqlite3.connect(path / "quiltfn.db")) as connection:
        return connection.execute(query).fetchall()


def change(path: Path, *statements: str) -> None:
    """Changes the database of a data directory directly."""
    if is_on_postgresql(path):
        with psycopg.connect(url_of(path)) as driver:
            for statement in statements:
                driver.execute(statement.encode())
        return
    with closing(sqlite3.connect(path / "quiltfn.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def not_none(value: T | None) -> T:
    """The value; fails if it is None."""
    assert value is not None
    return value


async def pages_of(read: Callable[[str | None], Awaitable[Page[T]]]) -> list[Sequence[T]]:
    """Reads a list page by page to its end. `read`: reads the page behind a cursor."""
    found, cursor = list[Sequence[T]](), None
    while len(found) < 1000:
        page = await read(cursor)
        found.append(page.items)
        if (cursor := page.next_cursor) is None:
            return found
    raise AssertionError("the list does not end")


async def record_pages(journal: SpoolJournal, **query: Any) -> list[Sequence[Invocation]]:
    """The pages of a list of records."""
    given = InvocationQuery(**query)
    return await pages_of(lambda cursor: journal.query(replace(given, cursor=cursor)))


async def ids_left(journal: SpoolJournal, function: Function) -> list[str]:
    """The ids of the records that are still found, oldest first."""
    pages = await record_pages(journal, function_id=function.id, limit=1000)
    return [record.invocation_id for page in pages for record in page][::-1]


async def said_before_a_kill(after_s: float, child: Callable[..., None], *given: Any) -> list[str]:
    """Runs a process, and kills it some time after its line "ready"; returns what it wrote since,
    up to the last complete line.
    """
    with forked(child, *given) as process:
        lines = await process.lines()
        while (line := await lines.readline()) != b"ready\n":
            assert line  # earlier lines are notices about the start
        reading = asyncio.create_task(lines.read())
        await asyncio.sleep(after_s)
        process.kill()
        output = (await reading).decode()
        assert process.wait() == -signal.SIGKILL
    return output[: output.rfind("\n") + 1].splitlines()


async def explained(store: SqlStore, statement: str, values: Any = ()) -> list[str]:
    """The steps of SQLite's plan for a statement."""

    def read(connection: Connection) -> list[str]:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
        return [str(row[3]) for row in plan]

    return await store.database.read(read)


def is_on_postgresql(path: Path) -> bool:
    """Whether the directory's store was opened by `on_postgresql`."""
    return (path / "postgresql.url").exists()


async def eventually(true: Callable[[], Awaitable[bool]], within_s: float = 5.0) -> None:
    """Waits until the condition holds."""
    until = time.monotonic() + scaled(within_s)
    while not await true():
        assert time.monotonic() < until, "it did not come about"
        await asyncio.sleep(0.01)


@contextlib.contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Limits files of this process to `size` bytes: the kernel cuts writes short there, and further
    ones fail, as on a full disk.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
