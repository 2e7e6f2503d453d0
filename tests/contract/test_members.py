"""The nodes of a fleet in the store: which are present, and what happens to the work of a lost
one.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import pytest
from msgspec.structs import replace
from sqlalchemy import update

from contract.pieces import HOUR_MS, NOW_MS, NOW_S, a_piece, an_accepted, begun, claimed
from contract.stores import (
    SHARED_STORES,
    SharedStoreOpener,
    a_call,
    a_stored_function,
    an_id,
    an_operation,
    done,
    not_none,
    on_postgresql,
    rows,
)
from manual_clock import ManualClock
from promises import promise
from quiltfn.model.delivery import DeliveryStatus
from quiltfn.model.end_cause import NODE_LOST
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.function import Function
from quiltfn.model.idempotency import IdempotentRequest, StoredResponse
from quiltfn.model.invocation import Invocation, Status, WorkOutcome
from quiltfn.model.member import (
    REPORTED_MAX,
    Member,
    NodeState,
    Presence,
    Report,
    bounded,
)
from quiltfn.model.pool_load import PoolLoad
from quiltfn.model.retention import StorageLimit
from quiltfn.model.tenant_load import TenantLoad
from quiltfn.model.work import AsyncPolicy, Backoff, Destination
from quiltfn.ports.fleet import NodeRemoved
from quiltfn.store import (
    SpoolJournal,
    SqlDeliveries,
    SqlIdempotencyStore,
    SqlOperations,
    SqlPolicies,
    SqlStats,
    SqlStore,
    SqlWork,
)
from quiltfn.store.database import nodes, tables
from quiltfn.store.database.postgresql import PostgresDatabase
from quiltfn.store.fleet.members import SqlMembers
from timeouts import scaled

pytestmark = promise("N30")

LOST = b'{"error":"lost"}'
LATER_MS = NOW_MS + HOUR_MS
REQUEST = IdempotentRequest(tenant_id="t", method="POST", path="/f", key="k", body_digest="d")
TWICE = AsyncPolicy(max_attempts=2, backoff=Backoff(first=1, jitter=0))
OF_POSTGRESQL = pytest.mark.parametrize("open_shared", ["postgresql"], indirect=True)
LOADS = [PoolLoad("f", 2, 0, 3, 1, 4, 1, 2, 3, 4, 1)]
TENANTS = [TenantLoad("acme", 3, 5, 2.25)]
BUSY = Report(
    memory_free_mib=512.5, running=3, queued=1, pools=LOADS, tenants=TENANTS, is_leaving=True
)

T = TypeVar("T")


class Node(NamedTuple):
    store: SqlStore
    journal: SpoolJournal
    members: SqlMembers
    work: SqlWork


@contextlib.asynccontextmanager
async def a_node(
    open_shared: SharedStoreOpener, path: Path, name: str, *, spool: str = ""
) -> AsyncIterator[Node]:
    """A node of a fleet at its start. `spool`: the directory of its spool (default: the node's
    name).
    """
    clock = ManualClock(NOW_S)
    async with open_shared(path / "shared", name) as store, contextlib.AsyncExitStack() as stack:
        database = store.database
        quickly: Any = database.write
        if isinstance(database, PostgresDatabase):
            connection = database.quick_connection()
            stack.push_async_callback(connection.aclose)
            quickly = connection.run
        journal = SpoolJournal(database, path / (spool or name), clock)
        await journal.start()
        stack.push_async_callback(closed, journal)
        # SQLite would register the node only with its first write.
        await database.write(lambda connection: nodes.register(connection, database.boot, "1.0"))
        members = SqlMembers(database, quickly, clock, LOST)
        await members.register(f"{name}:7000", Report())
        yield Node(store, journal, members, SqlWork(database))


@pytest.fixture
async def two_nodes(
    open_shared: SharedStoreOpener, tmp_path: Path
) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes of a fleet: "one" and "two"."""
    async with (
        a_node(open_shared, tmp_path, "two") as second,
        a_node(open_shared, tmp_path, "one") as first,
    ):
        yield first, second


async def closed(journal: SpoolJournal) -> None:
    """End a journal, even if it can store nothing any more."""
    with contextlib.suppress(StoreUnavailable):
        await journal.aclose()


async def killed(node: Node) -> Member:
    """End a node as `kill -9` would: its spool stays."""
    node.journal._close()
    if node.journal._timer is not None:
        node.journal._timer.cancel()
    node.journal._written = node.journal._kept  # the journal has nothing left to commit
    cast("Any", node.journal)._close = lambda: None
    return await own_row(node)


async def own_row(node: Node) -> Member:
    found = await connected(node.members.read)
    return next(one for one in found if one.name == node.members.name)


async def connected(ask: Callable[[], Awaitable[T]]) -> T:
    """Make a request of a node whose sessions another node has ended, until the node has
    reconnected.
    """
    async with asyncio.timeout(scaled(10)):
        while True:
            with contextlib.suppress(StoreUnavailable):
                return await ask()
            await asyncio.sleep(0.02)


# Members -------------------------------------------------------------------------------------


async def test_each_node_sees_the_others_and_what_they_report(two_nodes) -> None:
    first, second = two_nodes
    beaten = not_none(await first.members.beat(BUSY))
    for node in (first, second):
        found = {member.name: member for member in await node.members.read()}
        assert found["one"] == beaten
        assert (found["one"].beat, found["one"].report) == (1, BUSY)
        assert (found["two"].beat, found["two"].report) == (0, Report())
        assert found["two"].address == "two:7000"
        assert {member.presence for member in found.values()} == {Presence.PRESENT}
    assert found["one"].epoch != found["two"].epoch
    again = not_none(await first.members.beat(BUSY))
    assert (again.beat, again.report) == (2, BUSY)
    (after,) = [one for one in await second.members.read() if one.name == "one"]
    # The report has not changed, so it is not read again.
    assert after.report is found["one"].report
    await first.members.beat(Report(running=1))
    (changed,) = [one for one in await second.members.read() if one.name == "one"]
    assert changed.report == Report(running=1)


async def test_a_start_of_the_same_name_ends_the_one_before(open_shared, tmp_path) -> None:
    async with a_node(open_shared, tmp_path, "one") as first:
        async with a_node(open_shared, tmp_path, "one", spool="other") as second:
            assert await connected(lambda: first.members.beat(BUSY)) is None
            assert await second.members.beat(BUSY) is not None
            # There is nothing any more that this node could release.
            await connected(first.members.leave)
            assert (await own_row(second)).presence is Presence.PRESENT


async def test_a_removed_node_stays_removed_and_does_not_start(open_shared, tmp_path) -> None:
    async with a_node(open_shared, tmp_path, "two") as other:
        async with a_node(open_shared, tmp_path, "one") as node:
            await other.members.set_state("one", NodeState.REMOVED)
            assert not_none(await node.members.beat(BUSY)).state is NodeState.REMOVED
            kept = not_none(await other.members.set_state("one", NodeState.READY))
            assert kept.state is NodeState.REMOVED
        with pytest.raises(NodeRemoved, match="one was removed"):
            async with a_node(open_shared, tmp_path, "one"):
                raise AssertionError


async def test_a_node_that_left_comes_back_as_an_operator_wants_it(open_shared, tmp_path) -> None:
    async with a_node(open_shared, tmp_path, "one") as node:
        assert await node.members.set_state("nobody", NodeState.CORDONED) is None
        assert await node.members.set_state("one", NodeState.CORDONED) is not None
        assert not_none(await node.members.beat(BUSY)).state is NodeState.CORDONED
        await node.members.leave()
        await node.members.leave()
        assert await node.members.beat(BUSY) is None
        left = await own_row(node)
        assert left.presence is Presence.LEFT
        assert left.report == Report()  # nobody needs the report any more
    async with a_node(open_shared, tmp_path, "one") as node:
        back = await own_row(node)
        assert (back.presence, back.state) == (Presence.PRESENT, NodeState.CORDONED)
        assert (await node.members.beat(BUSY)) is not None


def test_a_report_names_the_largest_pools_alone() -> None:
    many = [PoolLoad(f"f{n}", 1, n, 0, 0, n) for n in range(REPORTED_MAX + 100)]
    kept = bounded(many)
    assert len(kept) == REPORTED_MAX
    assert {one.idle for one in kept} == set(range(100, REPORTED_MAX + 100))
    assert bounded(many[:3]) == many[:3]


# Taking over ---------------------------------------------------------------------------------


async def left_of(node: Node, function: Function) -> dict[str, str]:
    """Create one of everything that a killed node may have; return the ids."""
    running = replace(a_call(function), execution_node_id=node.members.name)
    node.journal.opened(running)
    await SqlPolicies(node.store.database).save_async(function.id, TWICE)
    call = await an_accepted(node.work, function, expires_at_ms=NOW_MS + HOUR_MS)
    (record,) = await claimed(node.work, function)
    node.journal.opened(replace(begun(record), execution_node_id=node.members.name))
    await node.journal.synced()
    unknown = await an_accepted(node.work, function, expires_at_ms=NOW_MS + HOUR_MS)
    await claimed(node.work, function)
    assert await SqlIdempotencyStore(node.store.database).reserve(REQUEST, NOW_S) is None
    operation = replace(an_operation(NOW_S), operation_id=an_id())
    await SqlOperations(node.store.database).add(operation)
    return {
        "running": running.invocation_id,
        "begun": call,
        "unknown": unknown,
        "operation": operation.operation_id,
    }


async def a_claimed_delivery(node: Node, function: Function) -> None:
    """A delivery with the id d, which the node is sending."""
    policy = AsyncPolicy(on_success=Destination(url="https://example.org/"))
    await SqlPolicies(node.store.database).save_async(function.id, policy)
    await an_accepted(node.work, function, expires_at_ms=NOW_MS + HOUR_MS)
    (record,) = await claimed(node.work, function)
    ended = replace(done(begun(record)), outcome=WorkOutcome(destination_id="d"))
    node.journal.closed(ended)
    await node.journal.synced()
    sender = SqlDeliveries(node.store.database, node.work)
    assert len(await sender.claim(function.id, 5, LATER_MS)) == 1


async def test_a_start_leaves_what_a_running_node_has(open_shared, tmp_path) -> None:
    """A start ends what earlier starts of the same node left, and nothing of other nodes."""

    async def at_start(node: Node) -> tuple[int, int]:
        """What a server does at its start; how many operations and deliveries it takes."""
        database = node.store.database
        await SqlIdempotencyStore(database).start(LOST)
        operations = await SqlOperations(database).interrupted()
        due = await SqlDeliveries(database, node.work).load()
        return len(operations), len(due)

    def answer(node: Node) -> Awaitable[StoredResponse | None]:
        return SqlIdempotencyStore(node.store.database).reserve(REQUEST, NOW_S)

    async with a_node(open_shared, tmp_path, "one") as first:
        function = await a_stored_function(first.store)
        await left_of(first, function)
        await a_claimed_delivery(first, function)
        async with a_node(open_shared, tmp_path, "two") as second:
            assert await at_start(second) == (0, 0)
            assert not_none(await answer(second)).status is None
    async with a_node(open_shared, tmp_path, "one") as again:  # control
        assert await at_start(again) == (1, 1)
        assert not_none(await answer(again)).status == 503


async def test_what_a_lost_node_had_is_ended_or_tried_again(open_shared, tmp_path) -> None:
    async with a_node(open_shared, tmp_path, "two") as second:
        function = await a_stored_function(second.store)
        ours = replace(a_call(function), execution_node_id="two")
        second.journal.opened(ours)
        await second.journal.synced()
        async with a_node(open_shared, tmp_path, "one") as first:
            calls = await left_of(first, function)
            seen = await killed(first)
            takeover = not_none(await second.members.take_over(seen))
            assert (takeover.calls, takeover.work, takeover.answers) == (1, 2, 1)
            assert await connected(lambda: first.members.beat(BUSY)) is None
            gone = await own_row(first)
            assert (gone.presence, gone.epoch) == (Presence.GONE, takeover.epoch)
        ended = not_none(await second.journal.get(function.id, calls["running"]))
        assert (ended.status, ended.error_message) == (Status.INTERRUPTED, NODE_LOST.sentence)
        (queue,) = await second.work.load()
        assert queue.waiting == 2
        for call in (calls["begun"], calls["unknown"]):
            (attempt,) = await second.work.attempts(call)
            assert attempt.status is Status.INTERRUPTED
            waits = not_none(await second.journal.get(function.id, call))
            assert (waits.status, waits.attempt) == (Status.QUEUED, 2)
        again = not_none(await SqlIdempotencyStore(second.store.database).reserve(REQUEST, NOW_S))
        assert (again.status, again.body) == (503, LOST)
        operation = not_none(
            await SqlOperations(second.store.database).get("t", calls["operation"])
        )
        assert (operation.status, operation.retryable) == ("failed", True)
        # Invocations on other nodes continue.
        assert await second.journal.get(function.id, ours.invocation_id) == ours


async def test_the_slots_of_a_lost_node_are_free(open_shared, tmp_path) -> None:
    """The slots must be free even if the node's name has characters that end a string."""
    lost, other = "lo'st\"", "an other"
    held = {node: {"count": 2, "wanted": 3, "epoch": 1, "turn": 1} for node in (lost, other)}
    async with (
        a_node(open_shared, tmp_path, "one") as first,
        a_node(open_shared, tmp_path, lost) as node,
    ):
        await a_stored_function(first.store)
        await first.store.database.write(
            lambda connection: connection.execute(update(tables.slot).values(held=held)).close()
        )
        await node.members.beat(BUSY)
        assert await first.members.take_over(await own_row(node)) is not None
        assert (await own_row(node)).report == Report()
        ((found,),) = rows(tmp_path / "shared", "SELECT held FROM slot")
        left = found if isinstance(found, dict) else json.loads(str(found))
        assert left == {other: held[other]}


async def test_work_that_may_be_tried_once_is_given_up(two_nodes) -> None:
    first, second = two_nodes
    function = await a_stored_function(second.store)
    call = await an_accepted(first.work, function, expires_at_ms=NOW_MS + HOUR_MS)
    await claimed(first.work, function)
    await second.members.take_over(await killed(first))
    ended = not_none(await second.journal.get(function.id, call))
    assert (ended.status, ended.error_message) == (Status.INTERRUPTED, NODE_LOST.sentence)
    (dead,) = (await second.work.dead_letters(function.id, 10, None)).items
    assert dead.invocation_id == call
    assert await second.work.load() == []


async def test_of_several_that_take_over_one_does(open_shared, tmp_path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        first, *others = [
            await stack.enter_async_context(a_node(open_shared, tmp_path, name))
            for name in ("one", "two", "three", "four")
        ]
        function = await a_stored_function(first.store)
        await left_of(first, function)
        seen = await killed(first)
        results = await asyncio.gather(*(other.members.take_over(seen) for other in others))
        assert len([one for one in results if one is not None]) == 1
        (stored,) = await others[0].store.load()
        assert stored.counters.invocation_count == 1


async def test_nobody_takes_over_a_node_that_has_moved(two_nodes) -> None:
    first, second = two_nodes
    seen = await own_row(first)
    await first.members.beat(BUSY)
    assert await second.members.take_over(seen) is None
    assert await second.members.take_over(replace(await own_row(first), epoch=99)) is None
    left = await own_row(first)
    await first.members.leave()
    assert await second.members.take_over(left) is None
    assert (await own_row(first)).presence is Presence.LEFT
    assert await second.members.take_over(await own_row(first)) is not None
    # A second take-over finds nothing left.
    assert await second.members.take_over(await own_row(first)) is not None
    assert (await own_row(first)).presence is Presence.GONE


async def test_deliveries_of_a_lost_node_are_sent_by_others(two_nodes) -> None:
    first, second = two_nodes
    function = await a_stored_function(second.store)
    await a_claimed_delivery(first, function)
    others = SqlDeliveries(second.store.database, second.work)
    assert list(await others.claim(function.id, 5, LATER_MS)) == []
    assert not_none(await second.members.take_over(await killed(first))).deliveries == 1
    assert [one.id for one in await others.claim(function.id, 5, LATER_MS)] == ["d"]


# Ends that arrive late -----------------------------------------------------------------------


async def counted(node: Node, function: Function) -> tuple[int, int, dict[str, int]]:
    """The number of calls and errors of the function, and of its calls by status."""
    found = not_none(await node.store.find(function.id))
    stats = SqlStats(node.store.database, ManualClock(NOW_S), StorageLimit())
    by_status: dict[str, int] = {}
    for _, sums in await stats.of_function("default", function.id, (0, 2**40), 10):
        for status, number in sums.calls.items():
            by_status[status] = by_status.get(status, 0) + number
    calls = {status: number for status, number in by_status.items() if number}
    return found.counters.invocation_count, found.counters.error_count, calls


@contextlib.asynccontextmanager
async def with_late_end(
    open_shared: SharedStoreOpener, path: Path, policy: AsyncPolicy | None = None
) -> AsyncIterator[tuple[Node, Node, Function, Invocation]]:
    """Two nodes. The first one was taken over while it had accepted work. The success of this work
    is in the node's spool, and the node was not restarted yet.
    """
    async with a_node(open_shared, path, "two") as second:
        function = await a_stored_function(second.store)
        await SqlPolicies(second.store.database).save_async(function.id, policy)
        async with a_node(open_shared, path, "one") as first:
            await an_accepted(first.work, function, expires_at_ms=NOW_MS + HOUR_MS)
            (record,) = await claimed(first.work, function)
            running = replace(begun(record), execution_node_id="one")
            first.journal.opened(running)
            await first.journal.synced()
            first.journal._commit_after_s = 1000
            destination_id = an_id() if policy and policy.on_success else None
            outcome = WorkOutcome(destination_id=destination_id)
            first.journal.closed(replace(done(running), outcome=outcome))
            seen = await killed(first)
            assert await second.members.take_over(seen) is not None
        yield first, second, function, running


@promise("N32")
async def test_the_true_end_of_a_call_replaces_an_assumed_one(open_shared, tmp_path) -> None:
    async with a_node(open_shared, tmp_path, "two") as second:
        function = await a_stored_function(second.store)
        async with a_node(open_shared, tmp_path, "one") as first:
            running = replace(a_call(function), execution_node_id="one", cold_start=True)
            first.journal.opened(running)
            await first.journal.synced()
            first.journal._commit_after_s = 1000
            first.journal.closed(done(running))
            assert await second.members.take_over(await killed(first)) is not None
        assert await counted(second, function) == (1, 1, {"interrupted": 1})
        async with a_node(open_shared, tmp_path, "one"):
            assert await second.journal.get(function.id, running.invocation_id) == done(running)
            assert await counted(second, function) == (1, 0, {"success": 1})


async def test_the_true_end_of_work_that_was_given_up_replaces_that(open_shared, tmp_path) -> None:
    async with with_late_end(open_shared, tmp_path) as (_, second, function, running):
        call = running.invocation_id
        assert len((await second.work.dead_letters(function.id, 10, None)).items) == 1
        async with a_node(open_shared, tmp_path, "one"):
            found = await second.journal.get(function.id, call)
            assert found == replace(done(running), outcome=None)
            assert (await second.work.dead_letters(function.id, 10, None)).items == []
            (attempt,) = await second.work.attempts(call)
            assert attempt.status is Status.SUCCESS
            assert await counted(second, function) == (1, 0, {"success": 1})


@promise("N32")
async def test_a_late_end_does_not_end_work_that_is_tried_again(open_shared, tmp_path) -> None:
    async with with_late_end(open_shared, tmp_path, TWICE) as (_, two, function, running):
        call = running.invocation_id
        async with a_node(open_shared, tmp_path, "one"):
            waits = not_none(await two.journal.get(function.id, call))
            assert (waits.status, waits.attempt) == (Status.QUEUED, 2)
            (again,) = await claimed(two.work, function, now_ms=NOW_MS + 60_000)
            assert (again.invocation_id, again.attempt) == (call, 2)
            (attempt,) = await two.work.attempts(call)
            assert attempt.status is Status.INTERRUPTED


async def test_a_late_end_does_not_change_a_call_that_was_redriven(open_shared, tmp_path) -> None:
    async with with_late_end(open_shared, tmp_path) as (_, two, function, running):
        call = running.invocation_id
        again = a_piece(function)
        assert await two.work.redrive(function.id, [(call, again)]) == [again.record.invocation_id]
        async with a_node(open_shared, tmp_path, "one"):
            assert not_none(await two.journal.get(function.id, call)).status is Status.INTERRUPTED


@promise("N32")
@pytest.mark.parametrize("is_tried", [True, False])
async def test_a_late_delivery_names_its_original(open_shared, tmp_path, is_tried: bool) -> None:
    """The receiver may have got the first delivery, so the second one names it. A first delivery
    that was never tried is no longer sent.
    """
    to = Destination(url="https://example.com/", secret="whsec_" + "A" * 32)
    policy = AsyncPolicy(on_success=to, on_failure=to)
    async with with_late_end(open_shared, tmp_path, policy) as (_, two, function, _running):
        deliveries = SqlDeliveries(two.store.database, two.work)
        later, first = NOW_MS + HOUR_MS, None
        if is_tried:
            (delivery,) = await deliveries.claim(function.id, 1, later)
            assert json.loads(delivery.body)["data"]["status"] == "interrupted"
            assert json.loads(delivery.body)["data"]["replaces"] is None
            await deliveries.finish(replace(delivery, status=DeliveryStatus.DELIVERED))
            first = delivery.id
        async with a_node(open_shared, tmp_path, "one"):
            (second,) = await deliveries.claim(function.id, 10, later)
            data = json.loads(second.body)["data"]
            assert (data["status"], data["replaces"]) == ("success", first)
            assert second.id != first


# PostgreSQL ----------------------------------------------------------------------------------


@promise("N32")
@OF_POSTGRESQL
async def test_a_node_that_was_taken_over_stores_nothing_more(two_nodes) -> None:
    first, second = two_nodes
    function = await a_stored_function(second.store)
    await an_accepted(second.work, function, expires_at_ms=NOW_MS + HOUR_MS)
    await second.members.take_over(await own_row(first))
    with pytest.raises(StoreUnavailable, match="taken over"):
        await claimed(first.work, function)
    with pytest.raises(StoreUnavailable, match="taken over"):
        await a_stored_function(first.store)
    first.journal.opened(replace(a_call(function), execution_node_id="one"))
    with pytest.raises(StoreUnavailable, match="taken over"):
        await first.journal.synced()
    # Control: the other node can claim the work.
    assert len(await claimed(second.work, function)) == 1


@OF_POSTGRESQL
async def test_a_beat_does_not_wait_behind_records_that_are_stored(two_nodes) -> None:
    first, second = two_nodes
    begun_at, free = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def long(_connection: object) -> None:
        loop.call_soon_threadsafe(begun_at.set)
        asyncio.run_coroutine_threadsafe(free.wait(), loop).result()

    writing = asyncio.ensure_future(second.store.database.write(long))
    await begun_at.wait()
    # This write gives up before PostgreSQL ends the other transaction.
    first.store.database.busy_timeout_s = 0.5
    with pytest.raises(StoreUnavailable):  # control: another write does wait
        await asyncio.wait_for(first.store.database.write(lambda _: None), scaled(30))
    async with asyncio.timeout(scaled(2)):
        assert await first.members.beat(BUSY) is not None
        assert await second.members.beat(BUSY) is not None
    free.set()
    await writing


@OF_POSTGRESQL
async def test_starts_at_once_get_epochs_of_their_own(open_shared, tmp_path) -> None:
    assert open_shared is SHARED_STORES["postgresql"]
    names = [f"n{number}" for number in range(4)] + ["twin", "twin"]
    async with contextlib.AsyncExitStack() as stack:
        stores = await asyncio.gather(
            *(
                stack.enter_async_context(
                    on_postgresql(tmp_path / "shared", alone=False, node_id=name)
                )
                for name in names
            )
        )
        assert len({store.database.boot.epoch for store in stores}) == len(names)
        twins = [store.database for store in stores[-2:]]
        newest = max(twins, key=lambda twin: twin.boot.epoch)
        ((kept,),) = rows(tmp_path / "shared", "SELECT epoch FROM node WHERE name = 'twin'")
        assert kept == newest.boot.epoch
        for twin in twins:
            if twin is newest:
                await twin.write(lambda _: None)
            else:
                with pytest.raises(StoreUnavailable, match="started again"):
                    await twin.write(lambda _: None)
