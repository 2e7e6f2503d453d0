"""Two nodes share a function: its instances move to where invocations wait, and never exceed its
maximum.

The slots are in PostgreSQL, the pools have fake sandboxes, and a test sets the state of each lease.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as changed
from sqlalchemy import Connection, text

import postgresql
from contract.stores import a_stored_function, a_version, eventually, on_postgresql, url_of
from promises import promise
from quiltfn.base.clock import SystemClock
from quiltfn.fleet import slots as keeper_module
from quiltfn.fleet.lease import LeaseState, LeaseTimes, NodeLease
from quiltfn.fleet.sandboxes import GatedSandboxes
from quiltfn.fleet.slots import SlotKeeper
from quiltfn.model.actions import Closed
from quiltfn.model.errors import CapacityFull, RuntimeUnavailable, StoreUnavailable
from quiltfn.model.function import Function
from quiltfn.model.invocation import CallResult
from quiltfn.model.limits import PoolLimits
from quiltfn.model.slots import FunctionSlots
from quiltfn.model.version import Version
from quiltfn.pool.local import LocalPools
from quiltfn.ports import Call, Clock, NotPrepared
from quiltfn.ports.fleet import NodeEpoch
from quiltfn.sandbox.fake import FakeSandbox, FakeSandboxes
from quiltfn.store import SqlStore
from quiltfn.store.database.postgres_connection import engine
from quiltfn.store.database.quick_connection import QuickConnection
from quiltfn.store.fleet.slots import SqlSlots, free
from timeouts import scaled

HANDLER = "echo hello"
MOST = 2


@dataclass
class Lossy(SqlSlots):
    """`Slots` over a network that loses responses while `loses` is set."""

    slots: SqlSlots
    loses: bool = False
    is_away: bool = False

    async def hold(self, node: NodeEpoch, wants: Any) -> Any:
        if self.is_away:
            raise StoreUnavailable("the network is cut")
        found = await self.slots.hold(node, wants)
        if self.loses:
            raise StoreUnavailable("the answer was lost")
        return found

    async def held(self, node: str) -> Any:
        return await self.slots.held(node)

    async def of(self, function_ids: Any) -> Any:
        if self.is_away:
            raise StoreUnavailable("the network is cut")
        return await self.slots.of(function_ids)


@dataclass
class OneNode:
    """One node with its pools and slots."""

    name: str
    slots: Lossy
    clock: Clock
    fakes: FakeSandboxes = field(default_factory=FakeSandboxes)

    def __post_init__(self) -> None:
        self.boottime = self.renewed = 1000.0
        times = LeaseTimes(start_s=10, end_s=60)
        self.lease = NodeLease(lambda: self.renewed, times, lambda: self.boottime)
        gated = GatedSandboxes(self.fakes, self.lease, self.fakes.end_by)
        self.pools = LocalPools(gated, SystemClock(), problem=self.lease.problem)
        own = NodeEpoch(self.name, 1)
        self.keeper = SlotKeeper(self.slots, self.pools, lambda: own, self.lease, self.clock)
        self.pools.on_change.connect(self.keeper.pool_changed)

    async def call(self, function: Function, seconds: float = 0.0) -> CallResult:
        call = Call(payload=None, environment={}, replaces_environment=False, timeout_s=30)
        async with self.pools.lease(function.id) as lease:
            await asyncio.sleep(seconds)
            return await lease.call(call)

    async def use(self, function: Function, begun: list[None], ends: asyncio.Event) -> CallResult:
        """Invokes the function, which keeps its instance until the event is set."""
        call = Call(payload=None, environment={}, replaces_environment=False, timeout_s=30)
        async with self.pools.lease(function.id) as lease:
            begun.append(None)
            await ends.wait()
            return await lease.call(call)

    def prepared(self, function: Function) -> contextlib.AbstractAsyncContextManager[Any]:
        """A block in which an instance of another version is ready."""
        return self.pools.prepared(function.id, a_version(function, 2), limits(), 1)

    async def cut_off(self, seconds: float) -> None:
        """Makes the node's last renewal of its lease this many seconds old."""
        self.boottime = self.renewed + seconds
        await self.keeper.lease_changed(self.lease.state)


@dataclass
class TwoNodes:
    store: SqlStore
    function: Function
    version: Version
    first: OneNode
    second: OneNode

    async def now(self) -> FunctionSlots:
        (found,) = await self.first.slots.slots.of([self.function.id])
        return found

    async def held(self) -> dict[str, int]:
        return {name: count for name, count in (await self.now()).held.items() if count}

    async def scale(self, most: int) -> None:
        stored = await self.store.find(self.function.id)
        assert stored is not None
        await self.store.save(changed(stored.function, max_instances=most))


async def becomes(true: Callable[[], Any]) -> None:
    """Waits for a condition, which may be a coroutine's result."""

    async def holds() -> bool:
        found = true()
        return bool(await found if asyncio.iscoroutine(found) else found)

    await eventually(holds)


async def are_held(nodes: TwoNodes, **held: int) -> None:
    """Waits until the nodes hold these numbers of slots."""

    async def is_so() -> bool:
        return await nodes.held() == held

    await becomes(is_so)


@contextlib.asynccontextmanager
async def busy(function: Function, *where: OneNode) -> AsyncIterator[asyncio.Event]:
    """Keeps an instance busy on each of these nodes, until the event is set or the block ends."""
    begun, ends = list[None](), asyncio.Event()
    calls = [asyncio.ensure_future(one.use(function, begun, ends)) for one in where]
    try:
        await becomes(lambda: len(begun) == len(where))
        yield ends
    finally:
        ends.set()
        await asyncio.gather(*calls)


async def two_idle(function: Function, node: OneNode) -> None:
    """Makes two instances of the node idle, by two concurrent invocations."""
    async with busy(function, node, node):
        pass


async def started(node: OneNode, function: Function) -> asyncio.Future[CallResult]:
    """An invocation that has got an instance of the node."""
    call = asyncio.ensure_future(node.call(function, 30))
    pools = node.pools._pools
    await becomes(lambda: any(pool.model.counts().busy for pool in pools.values()))
    return call


def limits(**changes: Any) -> PoolLimits:
    return changed(PoolLimits(max_instances=MOST, queue_wait_s=20.0, grace_s=0.0), **changes)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(keeper_module, "SWEEP_S", 0.02)
    yield
    postgresql.drop_databases()


@contextlib.asynccontextmanager
async def node(path: Path, name: str) -> AsyncIterator[OneNode]:
    connection = QuickConnection(engine(url_of(path), is_quick=True))
    node = OneNode(name, Lossy(SqlSlots(connection.run)), SystemClock())
    running = asyncio.ensure_future(node.keeper.run())
    ticking = asyncio.ensure_future(ticks(node))
    try:
        yield node
    finally:
        node.slots.loses = node.slots.is_away = False
        ticking.cancel()
        await node.pools.aclose()
        running.cancel()
        await asyncio.wait([running, ticking])
        await node.keeper.aclose()
        await connection.aclose()
        assert not node.fakes.alive


async def ticks(node: OneNode) -> None:
    while True:
        await asyncio.sleep(0.05)
        node.pools.tick()


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[TwoNodes]:
    async with on_postgresql(tmp_path) as store:
        added = text("INSERT INTO node (name, epoch) VALUES ('one', 1), ('two', 1)")
        await store.database.write(lambda connection: connection.execute(added).close())
        function = await a_stored_function(store, max_instances=MOST)
        version = a_version(function, handler=HANDLER)
        async with node(tmp_path, "one") as first, node(tmp_path, "two") as second:
            both = TwoNodes(store, function, version, first, second)
            for each in (first, second):
                each.pools.open(function.id, version, limits())
            with counted(both):
                yield both
        query = text("SELECT value ->> 'wanted' FROM slot, json_each(held)")
        left = await store.database.read(
            lambda connection: connection.execute(query).scalars().all()
        )
        assert set(left) <= {"0"}  # a node that stops returns all slots


class Counted(dict[str, FakeSandbox]):
    """The sandboxes of one node. `started` is called at each start."""

    def __init__(self, started: Callable[[], None]) -> None:
        self._started = started

    def __setitem__(self, sandbox_id: str, sandbox: FakeSandbox) -> None:
        super().__setitem__(sandbox_id, sandbox)
        self._started()


@contextlib.contextmanager
def counted(both: TwoNodes) -> Iterator[None]:
    """Counts the sandboxes of both nodes at every start, independently of the keepers."""
    most = 0

    def started() -> None:
        nonlocal most
        most = max(most, len(both.first.fakes.alive) + len(both.second.fakes.alive))

    for node in (both.first, both.second):
        node.fakes.alive = Counted(started)
    yield
    assert most <= MOST, f"{most} instances at a time"


# Invocations ---------------------------------------------------------------------------------


async def test_a_call_gets_a_slot_and_then_an_instance(nodes: TwoNodes) -> None:
    assert await nodes.held() == {}
    assert (await nodes.first.call(nodes.function)).stdout == b"hello\n"
    assert await nodes.held() == {"one": 1}
    await nodes.first.call(nodes.function)  # a warm invocation needs no other slot
    assert await nodes.held() == {"one": 1}


async def test_all_that_wait_are_asked_for_at_once(nodes: TwoNodes) -> None:
    calls = [nodes.first.call(nodes.function, 0.2) for _ in range(5)]
    running = asyncio.gather(*calls)
    await are_held(nodes, one=2)
    assert not await nodes.second.keeper.obtain(nodes.function.id)
    assert list(nodes.second.keeper.others(nodes.function.id)) == ["one"]
    await running
    assert nodes.first.fakes.most_alive == MOST


async def test_a_call_waits_where_other_nodes_have_every_instance(nodes: TwoNodes) -> None:
    """An invocation waits as in a full pool, until another node returns a slot."""
    async with busy(nodes.function, nodes.first, nodes.first) as ends:
        waiting = asyncio.ensure_future(nodes.second.call(nodes.function))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        ends.set()
        assert (await waiting).stdout == b"hello\n"
    assert (await nodes.held())["two"] == 1


@promise("N12")
async def test_an_idle_instance_makes_way_for_a_call_elsewhere(nodes: TwoNodes) -> None:
    await two_idle(nodes.function, nodes.first)
    assert len(nodes.first.fakes.alive) == MOST
    async with asyncio.timeout(scaled(2)):
        await nodes.second.call(nodes.function)
    assert await nodes.held() == {"one": 1, "two": 1}  # node two takes only the slot that it needs


async def test_who_gives_up_is_not_waited_for(nodes: TwoNodes) -> None:
    """An invocation waits for a slot and is cancelled. Idle instances on other nodes must then
    stay.
    """

    async def wanted() -> int:
        return (await nodes.now()).wanted_by_others("one")

    async def is_forgotten() -> bool:
        return await wanted() == 0

    async with busy(nodes.function, nodes.first, nodes.first):
        waiting = asyncio.ensure_future(nodes.second.call(nodes.function))
        await becomes(wanted)
        waiting.cancel()
        await becomes(is_forgotten)
    await asyncio.sleep(0.1)
    assert len(nodes.first.fakes.alive) == MOST


async def test_unused_slots_go_back(nodes: TwoNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_module, "UNUSED_S", 0.2)
    await nodes.first.call(nodes.function)

    async def is_free() -> bool:
        # evicts the instance once it was cleaned
        nodes.first.pools.evict_idle(nodes.function.id, 1)
        return await nodes.held() == {}

    await becomes(is_free)
    await nodes.first.call(nodes.function)


# The maximum of instances --------------------------------------------------------------------


@promise("N11")
async def test_a_lowered_maximum_ends_the_surplus(nodes: TwoNodes) -> None:
    """Busy instances end after their invocations, and get no new ones before."""
    async with busy(nodes.function, nodes.first, nodes.second) as ends:
        assert await nodes.held() == {"one": 1, "two": 1}
        await nodes.scale(1)
        later = [asyncio.ensure_future(nodes.second.call(nodes.function)) for _ in range(3)]
        await asyncio.sleep(0.2)
        assert not any(call.done() for call in later)
        ends.set()

    async def is_lowered() -> bool:
        return sum((await nodes.held()).values()) == 1

    await asyncio.gather(*later)
    await becomes(is_lowered)
    assert len(nodes.first.fakes.alive) + len(nodes.second.fakes.alive) == 1


async def test_a_deleted_function_s_slots_go_with_it(nodes: TwoNodes) -> None:
    await nodes.first.call(nodes.function)
    await nodes.store.delete(nodes.function.id)
    first = nodes.first
    await becomes(lambda: not first.fakes.alive and not first.keeper.held(nodes.function.id))


# Deployments ---------------------------------------------------------------------------------


async def test_a_version_is_prepared_in_a_pool_that_held_nothing(nodes: TwoNodes) -> None:
    async with nodes.first.prepared(nodes.function) as preparation:
        assert len(nodes.first.fakes.alive) == 1
        assert await nodes.held() == {"one": 1}
        preparation.promote()
    await nodes.first.call(nodes.function)


async def test_a_version_is_prepared_while_idle_instances_are_elsewhere(nodes: TwoNodes) -> None:
    await two_idle(nodes.function, nodes.second)
    async with asyncio.timeout(scaled(4)), nodes.first.prepared(nodes.function):
        assert await nodes.held() == {"one": 1, "two": 1}


async def test_a_preparation_waits_where_every_instance_is_busy(nodes: TwoNodes) -> None:
    async with busy(nodes.function, nodes.second, nodes.second):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2), nodes.first.prepared(nodes.function):
                raise AssertionError("it had no place")
    assert (await nodes.first.call(nodes.function)).stdout == b"hello\n"


async def test_who_waits_for_a_place_hears_that_the_function_was_paused(nodes: TwoNodes) -> None:
    async def prepare() -> None:
        async with nodes.first.prepared(nodes.function):
            raise AssertionError("it had no place")

    async with busy(nodes.function, nodes.second, nodes.second):
        preparing = asyncio.ensure_future(prepare())
        await asyncio.sleep(0.1)
        nodes.first.pools.close(nodes.function.id, Closed.PAUSED)
        with pytest.raises(NotPrepared, match="paused"):
            await preparing


# Unknown outcomes -----------------------------------------------------------------------------


async def test_an_answer_that_is_lost_costs_no_slot(nodes: TwoNodes) -> None:
    nodes.first.slots.loses = True
    call = asyncio.ensure_future(nodes.first.call(nodes.function))
    await are_held(nodes, one=1)
    assert nodes.first.keeper.held(nodes.function.id) == 0
    assert not nodes.first.fakes.alive
    nodes.first.slots.loses = False
    await call
    assert await nodes.held() == {"one": 1}


async def test_an_answer_to_a_return_that_is_lost_costs_nothing_either(nodes: TwoNodes) -> None:
    await two_idle(nodes.function, nodes.first)
    nodes.first.slots.is_away = True
    nodes.first.pools.evict_idle(nodes.function.id, 2)
    await asyncio.sleep(0.1)
    nodes.first.slots.is_away = False
    async with asyncio.timeout(scaled(3)):
        await asyncio.gather(*[nodes.second.call(nodes.function, 0.1) for _ in range(2)])


async def test_a_node_that_was_taken_over_ends_what_it_has(nodes: TwoNodes) -> None:
    call = await started(nodes.first, nodes.function)
    taken = text("UPDATE node SET epoch = 2 WHERE name = 'one'")

    def take_over(connection: Connection) -> None:
        connection.execute(taken).close()
        free(connection, "one")

    call.cancel()
    await nodes.store.database.write(take_over)
    await becomes(lambda: not nodes.first.fakes.alive)
    back = text("UPDATE node SET epoch = 1 WHERE name = 'one'")
    await nodes.store.database.write(lambda connection: connection.execute(back).close())


# Expired leases -------------------------------------------------------------------------------


@promise("N13")
async def test_a_node_that_is_cut_off_starts_nothing_and_keeps_what_runs(nodes: TwoNodes) -> None:
    await nodes.first.call(nodes.function)
    await nodes.first.cut_off(11)
    assert nodes.first.lease.state is LeaseState.STALE
    await nodes.first.call(nodes.function)  # uses the existing instance
    created = len(nodes.first.fakes.created)
    slow = asyncio.ensure_future(nodes.first.call(nodes.function, 0.3))
    other = asyncio.ensure_future(nodes.first.call(nodes.function))
    await asyncio.gather(slow, other)
    assert len(nodes.first.fakes.created) == created
    nodes.first.pools.evict_idle(nodes.function.id, 1)
    await asyncio.sleep(0.05)
    with pytest.raises((RuntimeUnavailable, CapacityFull), match=r"not reached the store for 11 s"):
        await nodes.first.call(nodes.function)
    await nodes.first.cut_off(0)
    await nodes.first.call(nodes.function)


@promise("N93")
async def test_a_call_that_waited_at_a_node_that_is_cut_off_is_told_so(nodes: TwoNodes) -> None:
    """The error must not say that every instance is busy: the node has none, and may start none."""
    nodes.first.slots.is_away = True
    await nodes.first.cut_off(11)
    nodes.first.pools.set_scaling(nodes.function.id, limits(queue_wait_s=0.2))
    with pytest.raises(CapacityFull, match="has not reached the store for 11 s"):
        await nodes.first.call(nodes.function)


@promise("N73")
async def test_a_start_after_a_renewal_ignores_the_deadline_before(nodes: TwoNodes) -> None:
    """A launcher that only knew the expired deadline would refuse to start the instance."""
    node = nodes.first
    node.fakes.end_by(node.lease.deadline)
    node.boottime += 120
    # the task that tells the launcher of renewals checks only every 250 ms
    node.renewed = node.boottime
    await node.call(nodes.function)
    assert node.fakes.deadline == node.lease.deadline


async def test_at_its_deadline_a_node_ends_everything(nodes: TwoNodes) -> None:
    call = await started(nodes.first, nodes.function)
    call.cancel()
    await asyncio.wait([call])
    await nodes.first.cut_off(61)
    assert not nodes.first.fakes.alive
    assert nodes.first.keeper.held(nodes.function.id) == 0
    await nodes.first.cut_off(0)
    await nodes.first.call(nodes.function)
    assert await nodes.held() == {"one": 1}
