"""A running invocation can be cancelled by its id and its output followed, in fake and in real
sandboxes.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contract.sandboxes import Kind
from contract.stores import a_function, a_version, eventually, not_none
from promises import promise
from quiltfn.base.clock import SystemClock
from quiltfn.calls.invoke import Invoker, Request, RunningCall
from quiltfn.functions.catalog import Entry
from quiltfn.model.function import FunctionState
from quiltfn.model.invocation import Invocation, Status
from quiltfn.model.limits import PoolLimits
from quiltfn.model.output import OutputLog
from quiltfn.pool.local import LocalPools
from quiltfn.ports import FunctionCounters
from quiltfn.store import SpoolJournal, SqlStore, open_sqlite
from timeouts import scaled

pytestmark = promise("P17", "P18")


class Server:
    """Invoker and pools over a real store, without HTTP and lifecycle."""

    def __init__(self, pools: LocalPools, journal: SpoolJournal, store: SqlStore) -> None:
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
    async with open_sqlite(tmp_path) as store:
        journal = SpoolJournal(store.database, tmp_path, SystemClock())
        await journal.start()
        pools = LocalPools(kind.sandboxes, SystemClock())
        yield Server(pools, journal, store)
        await pools.aclose()
        await journal.aclose()


async def test_a_call_is_ended_by_its_id_and_the_next_gets_its_place(server: Server) -> None:
    entry = await server.function("sleep 20")
    call, waits = server.call(entry), server.call(entry)
    first, second = await server.until_running(1)
    began = time.monotonic()
    record = await server.invoker.cancel(entry.function.id, first, "enough of it")
    assert time.monotonic() - began < scaled(5)
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
    record = not_none(await server.invoker.cancel(entry.function.id, second))
    assert (record.status, record.started_at) == (Status.CANCELLED, None)
    assert await waits == record == await server.journal.get(entry.function.id, second)
    await server.invoker.cancel(entry.function.id, first)
    await call


@pytest.mark.parametrize("delay", [0, 16, 18, 20, 22, 24])
async def test_cancelling_near_the_end_of_a_call_gives_one_end(server: Server, delay: int) -> None:
    entry = await server.function("sleep 0.02")
    for _ in range(5):
        begun: asyncio.Future[RunningCall] = asyncio.get_running_loop().create_future()
        call = server.call(entry, on_start=begun.set_result)
        invocation_id = (await begun).record.invocation_id
        await asyncio.sleep(delay / 1000)
        record = await server.invoker.cancel(entry.function.id, invocation_id)
        ended = await call
        assert record in (None, ended)
        assert ended.status in (Status.SUCCESS, Status.CANCELLED)
        assert await server.journal.get(entry.function.id, invocation_id) == ended


class Reader:
    """Reads a running invocation's output piece by piece."""

    def __init__(self) -> None:
        self.taken = {"stdout": b"", "stderr": b""}
        self.log: OutputLog | None = None

    def attach(self, running: RunningCall) -> None:
        assert running.record.status is Status.RUNNING
        self.log = running.output
        self.log.watch(self.take)

    def take(self) -> None:
        assert self.log is not None
        for stream, size in self.log.sizes.items():
            self.taken[stream] += self.log.read(stream, len(self.taken[stream]), size)


@promise("A37")
async def test_what_readers_see_is_what_the_record_has(server: Server, kind: Kind) -> None:
    entry = await server.function(kind.long_output)
    readers = [Reader(), Reader()]
    server.invoker.listen(entry.function.id, readers[0].attach)
    record = await server.call(entry, on_start=readers[1].attach)
    assert record.status is Status.SUCCESS
    assert len(record.stdout) > 6_000_000
    for reader in readers:
        assert reader.taken == {"stdout": record.stdout, "stderr": record.stderr}
        assert reader.log is not None
        assert reader.log.is_closed
        assert set(reader.log.sizes.values()) == {0}, "a closed log holds bytes"
    server.invoker.unlisten(entry.function.id, readers[0].attach)
    assert not server.invoker._listeners


async def test_a_call_that_nobody_follows_is_found_by_its_id(server: Server) -> None:
    entry = await server.function("sleep 20")
    call = server.call(entry)
    (call_id,) = await server.until_running(1)
    running = not_none(server.invoker.running_call(entry.function.id, call_id))
    assert running.record.invocation_id == call_id
    assert server.invoker.running_call("another", call_id) is None
    assert [it.record for it in server.invoker.running_calls(entry.function.id)] == [running.record]
    await server.invoker.cancel(entry.function.id, call_id)
    await call
    assert running.output.is_closed
    assert server.invoker.running_call(entry.function.id, call_id) is None


async def test_the_output_of_a_record_is_read_by_parts(server: Server, kind: Kind) -> None:
    entry = await server.function(kind.long_output)
    record = await server.call(entry)
    ids = (entry.function.id, record.invocation_id)
    for _ in range(2):  # from memory, and from the database
        outline = not_none(await server.journal.outline(*ids))
        assert outline.sizes == {"stdout": len(record.stdout), "stderr": 0}
        assert (outline.record.status, outline.record.stdout) == (Status.SUCCESS, b"")
        part = await server.journal.read_output(*ids, "stdout", 6_000_000, 65_536)
        assert part == record.stdout[6_000_000:6_065_536]
        assert await server.journal.read_output(*ids, "stdout", 10**9, 10) == b""
        assert await server.journal.read_output(*ids, "stderr", 0, 10) == b""
        assert await server.journal.outline("another", record.invocation_id) is None
        await server.journal.synced()
