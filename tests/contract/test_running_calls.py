"""A running call is ended by its id and its output is followed, in fake and in real sandboxes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from contract.sandboxes import Kind
from contract.stores import a_function, a_version, eventually
from quiltfn.catalog import Entry
from quiltfn.clock import SystemClock
from quiltfn.invoke import Invoker, Request
from quiltfn.model.function import FunctionState
from quiltfn.model.invocation import Invocation, Status
from quiltfn.model.limits import PoolLimits
from quiltfn.pool.local import LocalPools
from quiltfn.ports import FunctionCounters
from quiltfn.store import SpoolJournal, SqliteStore

READ_AT_ONCE = 256 * 1024  # by the event loop, of one connection


class Server:
    """Invoker and pools over a real store, without HTTP and lifecycle."""

    def __init__(self, pools: LocalPools, journal: SpoolJournal, store: SqliteStore) -> None:
        self.pools, self.journal, self.store = pools, journal, store
        self.invoker = Invoker(pools, journal, SystemClock(), "node-1")

    async def function(self, handler: str, **limits: float) -> Entry:
        function = a_function(state=FunctionState.ACTIVE)
        version = a_version(function, handler=handler)
        await self.store.create(function, version)
        self.pools.open(function.id, version, PoolLimits(max_instances=1, **limits))  # type: ignore[arg-type]
        return Entry(function, version, FunctionCounters())

    def call(self, entry: Entry, **request: object) -> "asyncio.Task[Invocation]":
        return asyncio.ensure_future(self.invoker.invoke(entry, Request(**request)))  # type: ignore[arg-type]

    async def until_running(self, count: int) -> list[str]:
        async def all_run() -> bool:
            await asyncio.sleep(0)
            calls = self.invoker._calls.values()
            return sum(call.is_handed_over for call in calls) == count

        await eventually(all_run)
        return list(self.invoker._calls)


@pytest.fixture
async def server(kind: Kind, tmp_path: Path) -> AsyncIterator[Server]:
    async with SqliteStore.open(tmp_path) as store:
        journal = SpoolJournal(store.database, tmp_path, SystemClock())
        await journal.start()
        pools = LocalPools(kind.sandboxes, SystemClock())
        yield Server(pools, journal, store)
        await pools.aclose()
        await journal.aclose()


class Sink:
    """Takes pieces until it has `most` bytes, and more once a test empties it."""

    def __init__(self, most: float = float("inf")) -> None:
        self.most = most
        self.taken = {"stdout": b"", "stderr": b""}
        self.held = 0
        self.ready: Callable[[], None] | None = None

    def write(self, stream: str, data: bytes, ready: Callable[[], None]) -> bool:
        self.taken[stream] += data
        self.held += len(data)
        self.ready = ready
        return self.held < self.most

    def empty(self) -> None:
        self.held = 0
        if self.ready is not None:
            self.ready()


async def test_a_call_is_ended_by_its_id_and_the_next_gets_its_place(server: Server) -> None:
    entry = await server.function("sleep 20")
    call, waits = server.call(entry), server.call(entry)
    first, second = await server.until_running(1)
    began = time.monotonic()
    record = await server.invoker.cancel(entry.function.id, first, "enough of it")
    assert time.monotonic() - began < 5
    assert record is not None
    assert (record.status, record.error_message) == (Status.CANCELLED, "enough of it")
    assert await call == record == await server.journal.get(entry.function.id, first)
    assert await server.until_running(1) == [second]
    await server.invoker.cancel(entry.function.id, second)
    assert (await waits).status is Status.CANCELLED

    async def is_empty() -> bool:
        await asyncio.sleep(0.002)
        return not server.pools.occupied()

    await eventually(is_empty)


async def test_a_cancelled_call_in_line_is_never_started(server: Server) -> None:
    entry = await server.function("sleep 20")
    call, waits = server.call(entry), server.call(entry)
    first, second = await server.until_running(1)
    record = await server.invoker.cancel(entry.function.id, second)
    assert record is not None
    assert (record.status, record.started_at) == (Status.CANCELLED, None)
    assert await waits == record == await server.journal.get(entry.function.id, second)
    await server.invoker.cancel(entry.function.id, first)
    await call


@pytest.mark.parametrize("delay", [0, 16, 18, 20, 22, 24])
async def test_cancelling_around_the_end_of_a_call_gives_one_end(
    server: Server, delay: int
) -> None:
    entry = await server.function("sleep 0.02")
    for _ in range(5):
        call = server.call(entry)
        (invocation_id,) = await server.until_running(1)
        await asyncio.sleep(delay / 1000)
        record = await server.invoker.cancel(entry.function.id, invocation_id)
        ended = await call
        assert record in (None, ended)
        assert ended.status in (Status.SUCCESS, Status.CANCELLED)
        assert await server.journal.get(entry.function.id, invocation_id) == ended


async def test_output_reaches_the_sink_and_the_record(server: Server, kind: Kind) -> None:
    entry, sink = await server.function(kind.long_output), Sink()
    record = await server.call(entry, output_sink=sink)
    assert record.status is Status.SUCCESS
    assert sink.taken == {"stdout": record.stdout, "stderr": record.stderr}
    assert len(record.stdout) > 6_000_000


async def test_a_slow_sink_holds_the_handler_up_and_no_other_call(
    server: Server, kind: Kind
) -> None:
    slow, sink = await server.function(kind.long_output), Sink(most=65_536)
    other = await server.function("echo hello")
    call = server.call(slow, output_sink=sink)

    async def is_full() -> bool:
        await asyncio.sleep(0.002)
        return sink.held >= 65_536

    await eventually(is_full)
    await asyncio.sleep(0.1)
    assert sink.held <= 65_536 + 2 * READ_AT_ONCE
    assert not call.done()
    assert (await server.call(other)).status is Status.SUCCESS
    while not call.done():
        sink.empty()
        await asyncio.sleep(0)
    record = await call
    assert (record.status, sink.taken["stdout"]) == (Status.SUCCESS, record.stdout)


async def test_a_sink_that_stays_full_keeps_no_call_from_its_deadline(
    server: Server, kind: Kind
) -> None:
    entry, sink = await server.function(kind.long_output), Sink(most=1)
    record = await server.call(entry, output_sink=sink, timeout_seconds=1)
    assert record.status is Status.TIMEOUT
    taken = len(sink.taken["stdout"])
    sink.empty()
    assert (await server.call(entry)).status is Status.SUCCESS
    assert len(sink.taken["stdout"]) == taken


async def test_a_call_with_a_full_sink_can_be_cancelled(server: Server, kind: Kind) -> None:
    entry, sink = await server.function(kind.long_output), Sink(most=1)
    call = server.call(entry, output_sink=sink)

    async def is_full() -> bool:
        await asyncio.sleep(0.002)
        return sink.held > 0

    await eventually(is_full)
    (invocation_id,) = await server.until_running(1)
    record = await server.invoker.cancel(entry.function.id, invocation_id)
    assert record is not None
    assert (await call).status is record.status is Status.CANCELLED
