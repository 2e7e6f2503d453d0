"""PostgreSQL differs from a file: it ends connections, responds late or never, is shared by
servers, sorts text by a language, and stores no U+0000.
"""

import asyncio
import contextlib
import socket
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from msgspec.structs import replace
from psycopg.conninfo import make_conninfo
from sqlalchemy import Connection, exc

import postgresql
from contract.stores import (
    BUSY_TIMEOUT_S,
    HELD_S,
    a_call,
    a_function,
    a_stored_function,
    a_version,
    an_operation,
    done,
    not_none,
    on_postgresql,
    opened_journal,
    rows,
    url_of,
    with_schema,
)
from e2e.server import until
from postgresql import PASSWORD, Cluster
from promises import promise
from quiltfn.base.ids import new_id
from quiltfn.model.errors import Conflict, OutcomeUnknown, StoreUnavailable
from quiltfn.model.idempotency import IdempotentRequest
from quiltfn.ports.fleet import History
from quiltfn.store import SqlIdempotencyStore, SqlKeys, SqlOperations, SqlStore, StoreBroken
from quiltfn.store.database import postgres_connection, tables
from quiltfn.store.database.database import Unstorable
from quiltfn.store.database.disk_reserve import DiskFull
from quiltfn.store.database.postgres_connection import engine, run_alone
from quiltfn.store.database.postgresql import PostgresDatabase
from quiltfn.store.database.sql import driver, run, sql
from quiltfn.store.opening_postgresql import open_postgresql
from timeouts import scaled

COUNT = "SELECT count FROM probe"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with on_postgresql(tmp_path) as opened:
        yield opened


def count_one(connection: Connection) -> None:
    run(connection, "probe")


def a_database(cluster: Cluster, name: str = "a") -> str:
    """A database with the schema; returns its URL."""
    url = cluster.create(name)
    with_schema(url)
    return url


@contextlib.asynccontextmanager
async def servers(
    url: str, path: Path, *names: str, **options: Any
) -> AsyncIterator[list[SqlStore]]:
    """Servers that share one database, and start at the same time."""
    async with contextlib.AsyncExitStack() as stack:
        starting = (
            open_postgresql(url, path / name, node_id=name, alone=False, **options)
            for name in names
        )
        yield await asyncio.gather(*map(stack.enter_async_context, starting))


# The schema ----------------------------------------------------------------------------------


async def test_the_baseline_makes_the_tables_that_the_code_uses(store: SqlStore) -> None:
    differences = await store.database.read(
        lambda c: compare_metadata(
            MigrationContext.configure(c, opts={"compare_type": True}), tables.metadata
        )
    )
    # A path may be too long for an index, so the key of responses is a digest of it.
    unexpected = [one for one in differences if "idempotent_answer_key" not in str(one)]
    assert unexpected == []
    is_whole, reason = store.condition()
    assert is_whole
    assert "fsync off" in reason  # the tests' own PostgreSQL runs without fsync


async def test_every_text_compares_by_its_bytes(store: SqlStore, tmp_path: Path) -> None:
    query = (
        "SELECT table_name, column_name FROM information_schema.columns "
        "WHERE table_schema = 'public' AND data_type = 'text' AND collation_name {} 'C'"
    )
    assert len(rows(tmp_path, query.format("="))) > 100
    assert rows(tmp_path, query.format("IS DISTINCT FROM")) == []
    names = ["B", "a", "Z-1", "z", "é", "_"]
    for name in names:
        await a_stored_function(store, name=name)
    # The database itself sorts by a language.
    assert rows(tmp_path, "SELECT 'a' < 'B'") == [(True,)]
    found = rows(tmp_path, "SELECT name FROM function ORDER BY name")
    assert [one for (one,) in found] == sorted(names)


async def test_two_starting_servers_make_one_schema_and_get_two_epochs(tmp_path: Path) -> None:
    url = postgresql.database_of(tmp_path)
    async with servers(url, tmp_path, "one", "two", "three", "four") as opened:
        assert sorted(store.database.boot.epoch for store in opened) == [1, 2, 3, 4]


async def test_a_database_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    url = postgresql.database_of(tmp_path)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("CREATE TABLE invocation (n int)")
    with pytest.raises(StoreBroken, match="not of quiltfn"):
        async with open_postgresql(url, tmp_path):
            pass
    assert rows_of(url, "SELECT to_regclass('function') IS NULL") == [(True,)]


def rows_of(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as driver:
        return driver.execute(query.encode()).fetchall()


async def test_a_database_of_another_encoding_is_refused(tmp_path: Path) -> None:
    cluster = postgresql.running()
    cluster.run(
        f"CREATE DATABASE ascii OWNER {postgresql.ROLE} ENCODING 'SQL_ASCII' "
        "LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
    )
    try:
        with pytest.raises(StoreBroken, match="UTF8"):
            async with open_postgresql(cluster.url("ascii"), tmp_path):
                pass
    finally:
        cluster.drop("ascii")


FILTERS = dict.fromkeys(("status", "cold_start", "min_duration_ms", "source", "version"))
VALUES = {
    **(FILTERS | {"owner": "o", "before": "g", "start": "", "parent": "p", "tenant_id": "t"}),
    **{"most": 9, "entries": 5, "above": 1, "function_id": "f", "now": 1, "epoch": 2, "node": "n"},
    **{"alone": False, "bytes": 1, "is_begun": False, "machine": "", "after": "", "ids": "[]"},
}
HOURS: dict[str, object] = {"step_s": 10, "start": 1, "before": 9}


HOT: list[tuple[str, str, dict[str, object]]] = [
    ("records_of_function", "invocation_listing", {}),
    ("step_of_function", "invocation_listing", {}),
    ("ended_records", "invocation_of_tenant", {}),
    ("step_of_ended", "invocation_of_tenant", {}),
    ("open_records", "invocation_open", {}),
    ("step_of_open", "invocation_open", {}),
    ("children_of", "invocation_children", {}),
    ("oldest_of_tenant", "invocation_of_tenant", {"with_open": True}),
    ("oldest_of_tenant", "invocation_open_output", {"with_open": True}),
    ("oldest_ended", "invocation_of_tenant", {}),
    ("claim_work", "work_due", {}),
    ("too_old", "work_due", {}),
    ("next_inputs", "input_of_tenant", {}),
    ("stats_of_tenant", "call_stats_pkey", HOURS),
    ("stats_of_function", "call_stats_of_function", HOURS),
    ("stats_by_age", "call_stats_by_age", HOURS | {"read": "[]"}),
]


async def test_hot_statements_find_their_rows_by_an_index(store: SqlStore) -> None:
    """With few rows, PostgreSQL prefers to read a whole table; here, it avoids this if an index can
    be used.
    """

    def plans(connection: Connection) -> list[str]:
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
        return [
            "\n".join(
                connection.exec_driver_sql(
                    f"EXPLAIN {sql(connection, name)}", VALUES | more
                ).scalars()
            )
            for name, _, more in HOT
        ]

    for (name, index, _), plan in zip(HOT, await store.database.write(plans), strict=True):
        assert index in plan, name
        assert "Seq Scan on invocation" not in plan, name


# Errors without stored values ----------------------------------------------------------------


async def test_a_wrong_password_is_not_told(cluster: Cluster, tmp_path: Path) -> None:
    a_database(cluster)
    async with open_postgresql(cluster.tcp_url("a", None), tmp_path, password=PASSWORD) as store:
        await store.ping()
    with pytest.raises(StoreUnavailable, match="password authentication failed") as error:
        async with open_postgresql(
            cluster.tcp_url("a", None), tmp_path, password="not the secret one"
        ):
            pass
    assert "not the secret one" not in str(error.value)
    with pytest.raises(StoreBroken, match="URL") as refused:
        async with open_postgresql("postgresql://u:hidden@host/a?nonsense=1", tmp_path):
            pass
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("statement", "raised", "reason"),
    [
        ("UPDATE node SET epoch = CAST(%s AS integer)", Unstorable, "SQLSTATE 22P02"),
        ("SELECT %s FROM nowhere", exc.ProgrammingError, "does not exist"),
        (
            "SELECT %s::text, pg_cancel_backend(pg_backend_pid()), pg_sleep(9)",
            StoreUnavailable,
            "SQLSTATE 57014",
        ),
    ],
)
async def test_an_error_of_the_database_hides_what_was_to_be_stored(
    store: SqlStore, statement: str, raised: type[Exception], reason: str
) -> None:
    value = "-".join(("secret", "1"))  # tracebacks have lines of this file

    def write(connection: Connection) -> None:
        connection.exec_driver_sql(statement, (value,))

    with pytest.raises(raised, match=reason) as error:
        await store.database.write(write)
    assert value not in "".join(traceback.format_exception(error.value))
    assert (store.database.problem is None) is (raised is not StoreUnavailable)
    await store.ping()
    assert store.database.problem is None


async def test_read_only_roles_and_databases_are_named(cluster: Cluster, tmp_path: Path) -> None:
    url = a_database(cluster)
    async with open_postgresql(url, tmp_path) as store:
        await store.ping()
        cluster.run("REVOKE UPDATE ON probe FROM quiltfn", "a")
        with pytest.raises(StoreUnavailable, match="permission denied for table probe"):
            await store.ping()
        cluster.run("GRANT UPDATE ON probe TO quiltfn", "a")
        await store.ping()
        cluster.run("ALTER DATABASE a SET default_transaction_read_only = on")
        cluster.disconnect("a")
        with pytest.raises(StoreUnavailable, match="read-only transaction"):
            await store.ping()
        cluster.run("ALTER DATABASE a RESET default_transaction_read_only")
        await store.ping()  # the store has opened another connection


async def test_a_full_disk_of_postgresql_is_told_as_one(store: SqlStore, tmp_path: Path) -> None:
    with psycopg.connect(url_of(tmp_path), autocommit=True) as other:
        other.execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$"
        )
        other.execute(
            "CREATE TRIGGER full_disk BEFORE UPDATE ON probe EXECUTE FUNCTION full_disk()"
        )
        with pytest.raises(DiskFull):
            await store.ping()
        assert store.database.problem is not None
        other.execute("DROP TRIGGER full_disk ON probe")
    await store.ping()
    assert store.database.problem is None


# Text that PostgreSQL does not accept unchanged ----------------------------------------------

WHOLE = "\0a\x1ab\x1a0\0\0 é \N{GRINNING FACE} \x1a"


async def test_text_with_nul_is_stored_whole(store: SqlStore, tmp_path: Path) -> None:
    function = a_function(description=WHOLE, error_message=WHOLE, cluster_id=WHOLE)
    version = a_version(function, handler="echo " + WHOLE.replace("\0", ""))
    await store.create(function, version)
    found = not_none(await store.find(function.id))
    assert (found.function, found.version) == (function, version)
    for text in (WHOLE, "", "\0", "\x1a0", "\x1a1", "plain"):
        saved = await store.save(replace(found.function, description=text))
        found = not_none(await store.find(function.id))
        assert found.function == saved
    plain = done(a_call(function))
    odd = done(a_call(function), stdout=b"\0\xff\x1a")
    odd = replace(odd, error_message=WHOLE, stderr=b"\0")
    async with opened_journal(store, tmp_path) as journal:
        for record in (odd, plain):
            journal.closed(record)
        await journal.synced()
        for record in (odd, plain):
            assert await journal.get(function.id, record.invocation_id) == record


async def test_an_answer_to_a_long_path_is_kept(store: SqlStore) -> None:
    """An index entry may take at most a third of a page, so the path can't be in it."""
    answers = SqlIdempotencyStore(store.database)
    request = IdempotentRequest(
        tenant_id="t",
        method="POST",
        path="/" + "".join(new_id() for _ in range(300)),
        key="k",
        body_digest="d",
    )
    assert await answers.reserve(request, 1) is None
    await answers.complete(request, 200, {"a": "\0"}, b"\0")
    found = not_none(await answers.reserve(request, 2))
    assert (found.status, found.headers, found.body) == (200, {"a": "\0"}, b"\0")


# Ended connections ---------------------------------------------------------------------------


async def test_a_connection_ended_by_postgresql_is_remade(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = a_database(cluster)
    async with open_postgresql(url, tmp_path) as store:
        for number in range(1, 4):
            await store.ping()
            await store.newest_change()
            # The store has a connection for writes and one for reads.
            assert cluster.disconnect("a") >= 2
            await store.ping()
            await store.newest_change()
            assert rows_of(url, COUNT) == [(2 * number,)]
    # The user of a connection gets the error, and can report it in the format of the log.
    caplog.clear()
    with pytest.raises(psycopg.Error), engine(url).connect() as connection:
        run_alone(connection, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert [one.getMessage() for one in caplog.records] == []


@promise("N91")
async def test_a_connection_left_in_the_middle_of_a_batch_is_remade(store: SqlStore) -> None:
    """PostgreSQL has announced the end of the connection, but the end has not arrived yet."""

    def leave(connection: Connection) -> None:
        driver(connection).pgconn.enter_pipeline_mode()
        raise psycopg.OperationalError("cannot exit pipeline mode with uncollected results")

    for ask in (store.database.write, store.database.read):
        with pytest.raises(StoreUnavailable, match="uncollected results"):
            await ask(leave)
        assert await ask(lambda connection: run_alone(connection, "SELECT 1")) == [(1,)]
    await store.ping()


async def test_records_outlive_a_killed_postgresql(cluster: Cluster, tmp_path: Path) -> None:
    """The journal continues without PostgreSQL, and no accepted record is lost or duplicated."""
    url = a_database(cluster)
    async with open_postgresql(url, tmp_path) as store:
        function = await a_stored_function(store)
        taken = 0
        async with opened_journal(store, tmp_path, retry_after_s=0.05) as journal:

            async def load(seconds: float) -> None:
                nonlocal taken
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    record = a_call(function)
                    journal.opened(record)
                    journal.closed(done(record))
                    taken += 1
                    await asyncio.sleep(0.001)

            await load(0.3)
            await asyncio.to_thread(cluster.kill)
            await load(0.5)
            with pytest.raises(StoreUnavailable):
                await store.ping()
            assert journal.problem is not None
            await asyncio.to_thread(cluster.start)
            await load(0.3)
            async with asyncio.timeout(scaled(10)):
                while journal.problem is not None:
                    await asyncio.sleep(0.05)
                    with contextlib.suppress(StoreUnavailable):
                        await journal.synced()
            await journal.synced()
        assert not_none(await store.find(function.id)).counters.invocation_count == taken
    assert rows_of(url, "SELECT count(*) FROM invocation WHERE status = 'success'") == [(taken,)]
    assert rows_of(url, "SELECT number FROM usage WHERE kind = 'record'") == [(taken,)]


async def test_a_postgresql_that_stands_still_is_not_waited_for(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This is like a disk that hangs: the kernel keeps the connections, and nothing responds."""
    monkeypatch.setattr(postgres_connection, "ANSWER_MAX_S", 1.0)
    url = a_database(cluster)
    async with open_postgresql(url, tmp_path, busy_timeout_s=BUSY_TIMEOUT_S) as store:
        await asyncio.gather(store.ping(), store.newest_change())
        store.database.busy_timeout_s = HELD_S
        with cluster.frozen():
            asked = [store.ping(), store.newest_change(), store.ping()]
            async with asyncio.timeout(scaled(20)):
                results = await asyncio.gather(*asked, return_exceptions=True)
        assert [type(one) for one in results] == [StoreUnavailable] * 3
        # PostgreSQL has not ended the old connection yet.
        store.database.busy_timeout_s = BUSY_TIMEOUT_S
        await store.ping()
        await store.newest_change()
        assert rows_of(url, COUNT)[0][0] in (2, 3)


@promise("N91")
async def test_waiting_readers_are_told(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """If each reader waited for seconds, the queue of requests would last as long as the outage."""
    database: Any = store.database
    quick = database.quick_connection()
    for ask in (database.read, database.poll, quick.run):
        with monkeypatch.context() as patch:
            patch.setattr("quiltfn.store.database.postgresql.READ_WAIT_MAX_S", 0.2)
            patch.setattr("quiltfn.store.database.quick_connection.WAIT_MAX_S", 0.2)
            slow = asyncio.ensure_future(ask(lambda _: time.sleep(0.5)))
            others = [asyncio.ensure_future(ask(lambda _: None)) for _ in range(3)]
            for task in others:
                with pytest.raises(StoreUnavailable, match="has not answered"):
                    await task
            await slow
        assert await ask(lambda _: "all is well") == "all is well"
    await quick.aclose()


class Wire:
    """A proxy for a connection to PostgreSQL. It cuts the connection once at the end of a
    transaction: before PostgreSQL has read the commit, or instead of its response. With "hold", it
    holds the commit up until `goes_on`.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.cut: str | None = None
        self.has_cut, self.goes_on = threading.Event(), threading.Event()
        self.is_held = False
        self._is_over = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._is_over = True
        self.has_cut.set()  # everything that still waits for the cut ends
        self.goes_on.set()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
        for thread in self._threads:
            thread.join()
        self._listening.close()

    def _accept(self) -> None:
        while True:
            near, _ = self._listening.accept()
            if self._is_over:
                near.close()
                return
            if self.is_held:
                self.goes_on.wait()
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                near.close()
                continue
            answers_end = threading.Event()
            for thread in (
                threading.Thread(target=self._forth, args=(near, far, answers_end)),
                threading.Thread(target=self._back, args=(near, far, answers_end)),
            ):
                self._threads.append(thread)
                thread.start()

    def _forth(self, near: socket.socket, far: socket.socket, answers_end: threading.Event) -> None:
        while data := _received(near):
            if self.cut is not None and (b"COMMIT" in data or b"ROLLBACK" in data):
                if self.cut == "hold":
                    self.is_held = True
                    self.has_cut.set()
                    self.goes_on.wait()
                elif self.cut == "answer":
                    answers_end.set()
                    far.sendall(data)
                    time.sleep(0.2)  # PostgreSQL commits meanwhile
                self.cut = None
                _end(near)
                self.has_cut.set()
                break
            with contextlib.suppress(OSError):  # PostgreSQL may have ended
                far.sendall(data)
        _end(far)

    def _back(self, near: socket.socket, far: socket.socket, answers_end: threading.Event) -> None:
        while data := _received(far):
            if not answers_end.is_set():
                with contextlib.suppress(OSError):
                    near.sendall(data)
        _end(near)
        near.close()
        far.close()


@contextlib.asynccontextmanager
async def wired(
    cluster: Cluster, path: Path, **options: Any
) -> AsyncIterator[tuple[SqlStore, Wire, str]]:
    """A store that reaches PostgreSQL through a `Wire`, and the database's URL without it."""
    url, wire = a_database(cluster), Wire(cluster.port)
    through = make_conninfo(
        host="127.0.0.1", port=wire.port, user=postgresql.ROLE, dbname="a", sslmode="disable"
    )
    try:
        async with open_postgresql(through, path, password=PASSWORD, **options) as store:
            yield store, wire, url
    finally:
        wire.close()


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65_536)
    except OSError:
        return b""


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("cut", ["answer", "question"])
async def test_a_commit_without_an_answer(cluster: Cluster, tmp_path: Path, cut: str) -> None:
    async with wired(cluster, tmp_path) as (store, wire, url):
        await store.ping()
        wire.cut = cut
        await store.ping()
        assert wire.has_cut.is_set()
        assert rows_of(url, COUNT) == [(2,)]
        function = a_function(name="one")
        wire.has_cut.clear()
        wire.cut = cut
        await store.create(function, a_version(function))
        assert wire.has_cut.is_set()
        again = a_function(name="one")
        with pytest.raises(Conflict):
            await store.create(again, a_version(again))


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(("code", "expected"), [("57014", None), ("53100", DiskFull)])
async def test_a_commit_that_fails_on_a_connection_that_stays_is_made_again(
    tmp_path: Path, alone: bool, code: str, expected: type[Exception] | None
) -> None:
    """The commit fails as if a person cancelled the statement, or the disk was full briefly."""
    url = url_of(tmp_path)
    fails_once = f"""
        CREATE SEQUENCE tries;
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('tries') = 1 THEN RAISE 'as if' USING ERRCODE = '{code}'; END IF;
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER fails AFTER INSERT ON function
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail()"""
    async with open_postgresql(url, tmp_path, node_id="one", alone=alone) as store:
        with psycopg.connect(url, autocommit=True) as other:
            other.execute(fails_once)
        function = a_function(name="one")
        if expected is None:
            await store.create(function, a_version(function))
        else:
            with pytest.raises(expected):
                await store.create(function, a_version(function))
        another = a_function(name="two")
        await store.create(another, a_version(another))
        names = {one.function.name for one in await store.load()}
        assert names == ({"one", "two"} if expected is None else {"two"})


@pytest.mark.parametrize("is_same", [True, False])
async def test_a_commit_is_stored_once_a_disk_and_a_standby_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_same: bool
) -> None:
    """PostgreSQL has got the commit, but the connection ended before the commit was durable."""
    url = url_of(tmp_path)
    life = ("1", "a")
    async with open_postgresql(url, tmp_path, node_id="one") as store:
        database: Any = store.database
        answers: list[Any] = [("committed", *life), StoreUnavailable("it has ended")]
        answers += [("committed", *(life if is_same else ("2", "b"))), ("",)]

        def say(*_: object) -> Any:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(database, "_told", say)
        deadline = time.monotonic() + 5
        if is_same:
            assert database._was_committed("7", life, deadline)
            assert not answers
        else:
            with pytest.raises(OutcomeUnknown):
                database._was_committed("7", life, deadline)
        monkeypatch.undo()


@promise("N91")
@pytest.mark.parametrize("alone", [True, False])
async def test_a_commit_ahead_of_its_standby_is_refused(tmp_path: Path, alone: bool) -> None:
    """If a person cancels the hanging commit, PostgreSQL no longer waits for the standby and
    reports no error. The store must notice this.
    """
    options = (*postgresql.OPTIONS, "wal_level=replica", "max_wal_senders=1")
    with postgresql.started(options) as cluster:
        url, is_over = a_database(cluster), threading.Event()
        where: dict[str, Any] = {} if alone else {"alone": False, "node_id": "one"}

        def cancel() -> None:
            cancelled = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
            while not is_over.wait(0.05):
                cluster.run(f"{cancelled} WHERE wait_event = 'SyncRep'")

        def waits_for(name: str) -> None:
            cluster.run(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
            cluster.stop()  # a restart, since PostgreSQL does not report when a reload is complete
            cluster.start()

        person = threading.Thread(target=cancel)
        async with open_postgresql(url, tmp_path, busy_timeout_s=BUSY_TIMEOUT_S, **where) as store:
            await store.ping()
            database: Any = store.database
            waits_for("nobody")
            quick = database.quick_connection()
            person.start()
            try:
                store.database.busy_timeout_s = scaled(1.0)
                with pytest.raises(OutcomeUnknown):
                    await store.ping()
                with pytest.raises(StoreUnavailable, match="the wait for the standby"):
                    await quick.run(count_one)
            finally:
                is_over.set()
                person.join()
                await quick.aclose()
                waits_for("")
            store.database.busy_timeout_s = BUSY_TIMEOUT_S
            await store.ping()


@promise("N86")
async def test_a_commit_is_no_other_with_its_number(cluster: Cluster, tmp_path: Path) -> None:
    """The number of a transaction that did not reach the disk or the standby is given to another
    one, which must not be taken for the first.
    """

    def lose_and_give_the_number_again() -> None:
        wire.has_cut.wait()
        cluster.kill()
        cluster.start()
        with psycopg.connect(url, autocommit=True) as other:
            for _ in range(20):
                other.execute("SELECT pg_current_xact_id()")
        wire.goes_on.set()

    async with wired(cluster, tmp_path, busy_timeout_s=scaled(20.0)) as (store, wire, url):
        await store.wait_swept()  # the connection of other writes could be cut otherwise
        await store.ping()
        wire.cut = "hold"
        losing = asyncio.ensure_future(asyncio.to_thread(lose_and_give_the_number_again))
        with pytest.raises(StoreUnavailable, match="did not tell"):
            await store.database.write(count_one)
        await losing
        assert rows_of(url, COUNT) == [(1,)]
        await store.ping()
        assert rows_of(url, COUNT) == [(2,)]


@promise("N84")
async def test_no_primary_from_before_a_known_failover(cluster: Cluster, tmp_path: Path) -> None:
    url = a_database(cluster)
    async with open_postgresql(url, tmp_path) as store:
        database = store.database
        assert isinstance(database, PostgresDatabase)
        timeline = database.timeline
        assert timeline.newest.timeline == 1
        quick = database.quick_connection()
        await quick.run(count_one)
        await store.newest_change()
        assert not timeline.learn(History(timeline.newest.cluster, 1))
        # This timeline is of another database.
        assert not timeline.learn(History(timeline.newest.cluster + 1, 7))
        assert timeline.learn(History(timeline.newest.cluster, 2))
        message = r"is on timeline 1, and this fleet has gone on to 2: .* Stop it"
        for ask in (lambda: quick.run(count_one), store.ping, store.newest_change):
            with pytest.raises(StoreUnavailable, match=message):
                await ask()
        await quick.aclose()
    with pytest.raises(StoreUnavailable, match=message):  # this holds after a restart, too
        async with open_postgresql(url, tmp_path):
            pass
    assert rows_of(url, COUNT) == [(1,)]


async def test_nothing_is_reread_if_a_connection_ends(cluster: Cluster, tmp_path: Path) -> None:
    """A reader may add to its results as it goes, such as statistics that are read in slices. It
    must not run twice.
    """
    async with wired(cluster, tmp_path) as (store, wire, _):
        found: list[object] = []

        def add(connection: Connection) -> None:
            found.append(connection.exec_driver_sql(COUNT).scalar_one())
            wire.cut = "question"

        await store.database.read(add)
        assert wire.has_cut.is_set()
        assert found == [0]
        await store.newest_change()


async def test_a_commit_nobody_knows_of_is_unknown(cluster: Cluster, tmp_path: Path) -> None:
    async with wired(cluster, tmp_path, busy_timeout_s=BUSY_TIMEOUT_S) as (store, wire, url):
        stopping: list[threading.Thread] = []

        def stop_when_cut() -> None:
            wire.has_cut.wait()
            cluster.stop()

        def cut_for_good(connection: Connection) -> None:
            count_one(connection)
            cut_at_commit()

        def cut_at_commit() -> None:
            wire.cut = "answer"
            stopping.append(threading.Thread(target=stop_when_cut))
            stopping[0].start()

        # A short time, after which the outcome is unknown.
        store.database.busy_timeout_s = scaled(1.0)
        with pytest.raises(StoreUnavailable, match="did not tell"):
            await store.database.write(cut_for_good)
        await asyncio.to_thread(stopping[0].join)
        await asyncio.to_thread(cluster.start)
        store.database.busy_timeout_s = BUSY_TIMEOUT_S
        await store.ping()
        assert rows_of(url, COUNT) == [(2,)]

        # An operation that was refused must not count as in progress when it is repeated.
        operations, operation = SqlOperations(store.database), an_operation(1)
        wire.has_cut.clear()
        stopping.clear()
        cut_at_commit()
        store.database.busy_timeout_s = scaled(1.0)
        with pytest.raises(StoreUnavailable, match="did not tell"):
            await operations.add(operation)
        await asyncio.to_thread(stopping[0].join)
        await asyncio.to_thread(cluster.start)
        store.database.busy_timeout_s = BUSY_TIMEOUT_S
        held = "SELECT operation_id FROM operation"
        assert rows_of(url, held) == [(operation.operation_id,)]
        again = replace(operation, operation_id="another")
        assert await operations.add(again) is None
        assert await operations.add(operation) == again
        assert rows_of(url, held) == [("another",)]


# Several servers -----------------------------------------------------------------------------


async def test_a_server_that_is_alone_lets_no_other_in(tmp_path: Path) -> None:
    url = postgresql.database_of(tmp_path)
    async with open_postgresql(url, tmp_path / "one", node_id="one") as store:
        for alone in (True, False):
            with pytest.raises(
                StoreUnavailable, match="Another quiltfn is serving from this database"
            ):
                async with open_postgresql(
                    url, tmp_path / "two", node_id="two", alone=alone, busy_timeout_s=HELD_S
                ):
                    pass
        # A tool is no server.
        async with open_postgresql(url, tmp_path / "tool", alone=False) as tool:
            await tool.ping()
        await store.ping()
    async with open_postgresql(url, tmp_path / "two", node_id="two", alone=False) as store:
        with pytest.raises(StoreUnavailable, match="Another quiltfn"):
            async with open_postgresql(url, tmp_path / "one", busy_timeout_s=HELD_S):
                pass
        async with open_postgresql(url, tmp_path / "one", node_id="one", alone=False):
            await store.ping()


async def test_a_server_that_lost_its_place_to_another_stores_nothing_more(tmp_path: Path) -> None:
    url = postgresql.database_of(tmp_path)
    cluster = postgresql.running()
    async with open_postgresql(url, tmp_path / "one", node_id="one") as node:
        await node.ping()
        cluster.disconnect(postgresql.name_of(url))
        async with open_postgresql(url, tmp_path / "two", node_id="two") as two:
            await two.ping()
            with pytest.raises(StoreUnavailable, match="Another quiltfn"):
                await node.ping()
            assert rows_of(url, COUNT) == [(2,)]
        await node.ping()  # the other server has ended


def sessions_of(url: str) -> list[str]:
    """The names of the sessions in the database, except this query's own."""
    return [
        str(row[0])
        for row in rows_of(
            url,
            "SELECT application_name FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() ORDER BY 1",
        )
    ]


def has_sessions(url: str, expected: list[str]) -> bool:
    return sessions_of(url) == expected


@promise("N95")
@pytest.mark.parametrize("name", ["one", "n" * 80])
async def test_a_start_ends_sessions_of_earlier_starts(tmp_path: Path, name: str) -> None:
    url, named = postgresql.database_of(tmp_path), name[:53]
    # Sessions of another program, of a tool, and of a start that other servers do not know of yet.
    others = ["another", "quiltfn", "quiltfn 99 new"]
    async with contextlib.AsyncExitStack() as stack:
        made = [
            stack.enter_context(psycopg.connect(url, application_name=one))
            for one in [*others, f"quiltfn 1 {name}", f"quiltfn 1 {name}"]
        ]
        assert len(made) == 5
        for epoch, alone in ((1, False), (2, True)):
            directory = tmp_path / str(epoch)
            async with open_postgresql(url, directory, node_id=name, alone=alone) as store:
                await store.ping()
                await store.newest_change()
                own = [f"quiltfn {epoch} {named}"] * 2
                left = [f"quiltfn 1 {named}"] * 2 * (epoch == 1)
                expected = sorted([*others, *own, *left])
                until(partial(has_sessions, url, expected))


async def test_a_start_ends_no_session_of_servers_in_another_schema(tmp_path: Path) -> None:
    """These servers have the same role and database, and smaller epochs."""
    url = postgresql.database_of(tmp_path)
    with psycopg.connect(url) as driver:
        driver.execute("CREATE SCHEMA other")
    theirs = "SELECT pid FROM pg_stat_activity WHERE application_name = 'quiltfn 1 a' ORDER BY 1"
    there = f"{url}&options=-csearch_path%3Dother"
    async with open_postgresql(there, tmp_path / "a", node_id="a", alone=False) as other:
        await other.newest_change()
        before = rows_of(url, theirs)
        assert len(before) == 2
        for count in range(3):
            directory = tmp_path / str(count)
            async with open_postgresql(url, directory, node_id="b", alone=False) as store:
                await store.database.end_node_session("c")
        await asyncio.sleep(0.2)
        assert rows_of(url, theirs) == before


async def test_a_url_may_say_what_sessions_are_called(tmp_path: Path) -> None:
    url = f"{postgresql.database_of(tmp_path)}&application_name=mine"
    async with open_postgresql(url, tmp_path / "one", node_id="one") as store:
        await store.ping()
        await store.newest_change()
        assert set(sessions_of(url)) == {"mine"}


def take_writers_lock(session: psycopg.Connection) -> None:
    """Take the lock of writers until the end of the transaction, as a write does."""
    lock = f"{postgres_connection.NAMESPACE}, {postgres_connection.WRITER}"
    session.execute(f"SELECT pg_advisory_xact_lock({lock})".encode())


async def test_a_write_waits_for_others_within_limits(store: SqlStore, tmp_path: Path) -> None:
    await store.wait_swept()  # the first writes of a server may wait for longer
    store.database.busy_timeout_s = HELD_S
    with psycopg.connect(url_of(tmp_path)) as other:
        take_writers_lock(other)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="busy"):
            await store.ping()
        assert time.monotonic() - began < scaled(2)
        assert await store.newest_change() == 0  # readers don't wait for the lock
    store.database.busy_timeout_s = BUSY_TIMEOUT_S
    await store.ping()


def count_in_a_pipeline(connection: Connection) -> None:
    rows = [("x", 1), ("y", 1)]
    driver(connection).cursor().executemany("SELECT %s, %s", rows)


@promise("N85")
@pytest.mark.parametrize("last", [count_one, count_in_a_pipeline])
async def test_others_write_while_a_server_stands_still_in_a_transaction(
    tmp_path: Path, last: Callable[[Connection], None]
) -> None:
    """Other servers must not wait for the whole time of one that hangs. PostgreSQL's own limit does
    not end a session after a pipeline.
    """
    url = postgresql.database_of(tmp_path)
    async with servers(url, tmp_path, "one", "two") as (first, second):
        first.database.busy_timeout_s, second.database.busy_timeout_s = 20.0, scaled(5.0)
        begun, has_written = threading.Event(), threading.Event()
        tries: list[float] = []

        def stand_still(connection: Connection) -> None:
            last(connection)
            tries.append(time.monotonic())
            begun.set()
            # Wait until the second server has written, which must not wait for the first one.
            if len(tries) == 1:
                assert has_written.wait(scaled(20))

        stored = asyncio.ensure_future(first.database.write(stand_still))
        await asyncio.to_thread(begun.wait)
        await second.ping()  # the second server succeeds within the time that it may wait
        assert time.monotonic() - tries[0] > 2.5  # PostgreSQL's time limit has passed
        has_written.set()
        await stored
        assert len(tries) == 2


async def test_writes_that_wait_for_each_other_end_one_that_stands_still(tmp_path: Path) -> None:
    """Each of these writes has little time left when its turn comes, and none of them waits for
    long enough. Together, they must end the session that hangs.
    """
    url = postgresql.database_of(tmp_path)
    async with open_postgresql(url, tmp_path / "a", node_id="a", busy_timeout_s=1.0) as store:
        with psycopg.connect(url_of(tmp_path), application_name="quiltfn 1 other") as other:
            take_writers_lock(other)
            other.cursor().executemany("SELECT %s", [("x",), ("y",)])
            began = time.monotonic()
            while True:
                with contextlib.suppress(StoreUnavailable):
                    await store.ping()
                    break
                assert time.monotonic() - began < scaled(8)
            with contextlib.suppress(psycopg.Error):
                other.rollback()


async def test_a_migration_that_takes_its_time_is_not_ended(tmp_path: Path) -> None:
    """The lock is held by a migration or a command: their sessions don't have the name of a
    server's start, and must not be ended.
    """
    url = postgresql.database_of(tmp_path)
    async with open_postgresql(url, tmp_path / "a", node_id="a", busy_timeout_s=5.0) as store:
        with psycopg.connect(url_of(tmp_path), application_name="quiltfn") as other:
            take_writers_lock(other)
            with pytest.raises(StoreUnavailable, match="busy"):
                await store.ping()
            other.execute("SELECT 1")
        await store.ping()


async def test_several_servers_that_count_the_same_lose_nothing(tmp_path: Path) -> None:
    """Each server adds to usage, counters of functions and statistics at the same time as the
    others.
    """
    url = postgresql.database_of(tmp_path)
    async with servers(url, tmp_path, *"012") as stores, contextlib.AsyncExitStack() as stack:
        journals = [
            await stack.enter_async_context(
                opened_journal(store, tmp_path / name, commit_after_s=0.002)
            )
            for store, name in zip(stores, "012", strict=True)
        ]
        functions = [
            await a_stored_function(stores[0], tenant_id=tenant) for tenant in "ab" for _ in "12"
        ]

        async def load(number: int) -> None:
            journal = journals[number]
            order = functions[number:] + functions[:number]
            for _ in range(100):
                for function in order:
                    record = a_call(function)
                    journal.opened(record)
                    journal.closed(done(record))
                await asyncio.sleep(0.001)
            await journal.synced()

        await asyncio.gather(*(load(number) for number in range(3)))
        for stored in await stores[0].load():
            assert stored.counters.invocation_count == 300
    usage = "SELECT tenant_id, number FROM usage WHERE kind = 'record' ORDER BY 1"
    assert rows_of(url, usage) == [("a", 600), ("b", 600)]
    truth = "SELECT tenant_id, sum(size_bytes) FROM invocation GROUP BY 1 ORDER BY 1"
    kept = "SELECT tenant_id, bytes FROM usage WHERE kind = 'record' ORDER BY 1"
    assert rows_of(url, truth) == rows_of(url, kept)


async def test_what_is_asked_again_and_again_is_planned_once(store: SqlStore) -> None:
    """The plan is kept even with other reads in between: planning takes nine tenths of such a
    query's time.
    """
    prepared = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%%key_revision%%'"

    def look(connection: Connection) -> object:
        return connection.exec_driver_sql(prepared).scalar_one()

    def level(connection: Connection) -> object:
        return connection.exec_driver_sql("SHOW transaction_isolation").scalar_one()

    keys = SqlKeys(store.database)
    assert await store.database.poll(look) == 0
    for _ in range(5):
        await keys.revision()
        assert await store.database.read(level) == "repeatable read"
    assert await store.database.poll(look) == 1
    assert await store.database.poll(level) == "read committed"


async def test_a_spool_with_records_of_another_database_is_refused(tmp_path: Path) -> None:
    first, second = (postgresql.database_of(tmp_path / name) for name in ("a", "b"))
    spool = tmp_path / "data" / "journal-a.spool"
    async with open_postgresql(first, tmp_path / "data") as store:
        async with opened_journal(store, tmp_path / "data"):
            pass
    spool.write_bytes(b"a record")
    with pytest.raises(StoreBroken, match="of another database"):
        async with open_postgresql(second, tmp_path / "data"):
            pass
    spool.write_bytes(b"")
    async with open_postgresql(second, tmp_path / "data") as store:
        assert "another one" in store.condition()[1]
