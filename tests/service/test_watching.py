"""Each node gets the events of all nodes. The nodes are in this process, and tests break their
connections.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from contract.stores import a_call, a_function, done
from manual_clock import ManualClock
from promises import promise
from quiltfn.api.http.request import Headers, Request
from quiltfn.calls import events as events_module
from quiltfn.calls.events import KEPT_EVENTS, ONE_BY_ONE, Events
from quiltfn.fleet import watching as module
from quiltfn.fleet.watching import TENANTS_MAX, OwnEvents, Watching
from quiltfn.model.counts import PoolCounts
from quiltfn.model.event import Event, EventType
from quiltfn.model.forwarded import ForwardedCall
from quiltfn.model.function import Function, FunctionState
from quiltfn.ports.peers import Asker
from quiltfn.ports.placement import PeerUnavailable
from quiltfn.ports.streamed_body import StreamedBody
from quiltfn.ports.work import QueueCounts
from service.platform_harness import until
from timeouts import scaled

pytestmark = promise("N52")

FUNCTION = a_function(state=FunctionState.ACTIVE)
TENANT = FUNCTION.tenant_id
OTHERS = replace(FUNCTION, id="of-umbrella", tenant_id="umbrella")


class Network:
    """Delivers requests between nodes. `lost`: nodes that cannot be reached."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.lost: set[str] = set()
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.said = b""  # all data that was transferred
        self.under_way: list[asyncio.Event] = []
        self.arrives = asyncio.Event()  # while this is cleared, nothing arrives
        self.arrives.set()

    @contextlib.asynccontextmanager
    async def request(
        self,
        node: str,
        method: str,
        target: bytes,
        headers: Sequence[tuple[str, str]],
        body: bytes | StreamedBody,
        call: ForwardedCall | None,
    ) -> AsyncIterator[Any]:
        del call
        assert isinstance(body, bytes)
        if node in self.lost:
            raise PeerUnavailable("it cannot be reached", may_have_run=False)
        self.requests.append((node, json.loads(body)))
        request = Request(method, target.decode(), Headers(dict(headers)))
        request.feed(body)
        response = await self.nodes[node].own.answer(request, Asker("asking", None))
        broken = asyncio.Event()
        self.under_way.append(broken)
        pieces: Any = response.body
        if isinstance(pieces, bytes):
            pieces = one_piece(pieces)
        try:
            yield SimpleNamespace(status=response.status, body=self._pieces(pieces, broken))
        finally:
            self.under_way.remove(broken)
            await pieces.aclose()

    async def _pieces(
        self, pieces: AsyncIterator[bytes], broken: asyncio.Event
    ) -> AsyncIterator[bytes]:
        while True:
            await self.arrives.wait()
            coming = asyncio.ensure_future(anext(pieces, b""))
            ending = asyncio.ensure_future(broken.wait())
            try:
                await asyncio.wait({coming, ending}, return_when=asyncio.FIRST_COMPLETED)
                if ending.done():
                    raise PeerUnavailable("the connection has ended", may_have_run=True)
                piece = coming.result()
            finally:
                for task in (coming, ending):
                    task.cancel()
                await asyncio.wait({coming, ending})
            if not piece:
                return
            self.said += piece
            yield piece

    def cut(self) -> None:
        """Ends every connection."""
        for event in self.under_way:
            event.set()


async def one_piece(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


class Node:
    """The parts of a node that concern events, connected as in `server/platform.py`."""

    def __init__(self, network: Network, name: str, epoch: int) -> None:
        self.network, self.name = network, name
        self.clock = ManualClock(1000.0)
        self.counts = {name: PoolCounts(ready=1)}
        self.events = Events(self.clock, epoch, lambda _: self._all(), queue_counts)
        self.heard = Events(self.clock, epoch, lambda _: self.counts[name], None)
        self.own = OwnEvents(self.heard)
        peers: Any = network  # this fake does not report whether a request was sent
        self.watching = Watching(self.events, peers, self._counted)
        self.events.on_followed.connect(self.watching.followed_changed)
        network.nodes[name] = self

    def _all(self) -> PoolCounts:
        return PoolCounts(ready=sum(one.ready for one in self.counts.values()))

    def _counted(self, node: str, function_id: str, counts: PoolCounts) -> None:
        assert function_id == FUNCTION.id
        self.counts[node] = counts

    def tell(self, report: Callable[[Events], None]) -> None:
        for events in (self.events, self.heard):
            report(events)

    def called(self, function: Function = FUNCTION) -> str:
        """Starts and ends an invocation of the function; returns its id."""
        call = a_call(function)
        self.tell(lambda events: events.call_started(call))
        self.tell(lambda events: events.call_ended(done(call)))
        return call.invocation_id

    def reads(self, *others: str) -> None:
        self.watching.read(others)

    async def reader(self, tenant: str = TENANT, **more: Any) -> AsyncGenerator[Event, None]:
        found = self.events.reader(tenant, **more)
        await self.watching.joined(tenant)
        return found

    async def aclose(self) -> None:
        await self.watching.aclose()
        await self.events.aclose()
        await self.heard.aclose()


async def queue_counts(_function_id: str) -> QueueCounts:
    return QueueCounts(queued=3, delayed=2, running=1, dead_letters=4, oldest_due_ms=None)


@pytest.fixture
async def nodes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Network, Node, Node]]:
    """Two nodes, `a` and `b`, that know each other."""
    monkeypatch.setattr(events_module, "EVERY_S", 0.02)
    monkeypatch.setattr(module, "AGAIN_S", 0.02)
    network = Network()
    a, b = Node(network, "a", 7), Node(network, "b", 8)
    a.reads("b")
    b.reads("a")
    yield network, a, b
    for node in network.nodes.values():
        await node.aclose()
    assert not network.under_way, "a stream is left"


async def next_of(reader: AsyncGenerator[Event, None], *kinds: EventType) -> dict[str, Any]:
    """The data of the next event, which must have one of these types."""
    async with asyncio.timeout(scaled(5)):
        event = await anext(reader)
    assert event.type in kinds, (event.type, event.data)
    data: dict[str, Any] = json.loads(event.data)
    return data


async def call_of(reader: AsyncGenerator[Event, None]) -> str:
    """Reads the start and the end of one invocation; returns its id."""
    started = await next_of(reader, EventType.INVOCATION_STARTED)
    ended = await next_of(reader, EventType.INVOCATION_ENDED)
    assert started["invocation_id"] == ended["invocation_id"]
    return str(started["invocation_id"])


async def nothing_more(reader: AsyncGenerator[Event, None]) -> bool:
    """Whether the reader waits for an event. The reader cannot be used after that."""
    task = asyncio.ensure_future(anext(reader))
    await asyncio.wait({task}, timeout=0.1)
    task.cancel()
    await asyncio.wait({task})
    return task.cancelled()


Nodes = tuple[Network, Node, Node]


@promise("N51")
async def test_a_reader_sees_the_calls_of_every_node_once(nodes: Nodes) -> None:
    _, a, b = nodes
    at_a, at_b = await a.reader(), await b.reader()
    for node in (a, b, b):
        call = node.called()
        assert await call_of(at_a) == call
        assert await call_of(at_b) == call
    assert await nothing_more(at_a)
    assert await nothing_more(at_b)


@promise("N51")
async def test_nobody_asks_with_no_follower(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "KEPT_S", 0.05)
    network, a, b = nodes
    b.called()
    await asyncio.sleep(0.05)
    assert network.requests == []
    reader = await a.reader()
    b.called()
    await call_of(reader)
    assert len(network.under_way) == 1
    await reader.aclose()
    a.clock.time += 1
    # the stream ends together with the events kept for readers that return
    await until(lambda: not network.under_way)
    b.clock.time += 1
    await until(lambda: not b.heard.followed)


async def test_a_look_at_the_same_nodes_wakes_nobody(nodes: Nodes) -> None:
    """Each node has one task for each other node, and reads the list of nodes at every heartbeat:
    unchanged lists must not wake these tasks.
    """
    _, a, _ = nodes
    a.reads("b", "c")
    before = a.watching._changed
    a.reads("c", "b")
    assert not before.is_set()
    a.reads("b")
    assert before.is_set()


@promise("N51")
async def test_what_is_of_another_tenant_or_not_asked_for_stays_where_it_is(nodes: Nodes) -> None:
    network, a, b = nodes
    reader = await a.reader(types=frozenset((EventType.INVOCATION_ENDED,)))
    other = await a.reader(function_id="another")
    b.events.reader(OTHERS.tenant_id)  # a reader of that tenant on node b
    secret = b.called(OTHERS)
    call = b.called()
    assert (await next_of(reader, EventType.INVOCATION_ENDED))["invocation_id"] == call
    assert await nothing_more(other)
    assert secret.encode() not in network.said
    assert OTHERS.id.encode() not in network.said
    assert call.encode() in network.said


async def test_changes_of_functions_are_not_told_by_two_nodes(nodes: Nodes) -> None:
    """Each node reports changes of functions itself, since it learns of them from the store, as in
    `server/platform.py`.
    """
    _, a, b = nodes
    reader = await a.reader()
    for node in (a, b):
        node.events.function_changed(None, FUNCTION)
    await next_of(reader, EventType.FUNCTION_CREATED)
    assert await nothing_more(reader)


async def test_counts_of_instances_are_sums(nodes: Nodes) -> None:
    _, a, b = nodes
    reader = await a.reader()
    b.counts["b"] = PoolCounts(ready=4)
    b.tell(lambda events: events.pool_changed(TENANT, FUNCTION.id))
    assert (await next_of(reader, EventType.POOL))["ready"] == 1 + 4
    a.counts["a"] = PoolCounts()
    a.tell(lambda events: events.pool_changed(TENANT, FUNCTION.id))
    assert (await next_of(reader, EventType.POOL))["ready"] == 4
    assert await nothing_more(reader)


async def test_a_queue_is_counted_by_the_reader_s_node_and_told_once(nodes: Nodes) -> None:
    _, a, b = nodes
    reader = await a.reader()
    for node in (a, b):
        node.tell(lambda events: events.queue_changed(TENANT, FUNCTION.id))
    for node in (a, b):
        node.tell(lambda events: events.schedule_fired(TENANT, "s", FUNCTION.id, "i"))
    found = [await next_of(reader, EventType.SCHEDULE_FIRED, EventType.QUEUE) for _ in range(3)]
    assert sum("schedule" in one for one in found) == 2
    [queue] = [one for one in found if "queued" in one]
    assert queue["dead_letters"] == 4


@promise("N51")
async def test_with_many_calls_the_bound_of_a_function_is_one_node_s(nodes: Nodes) -> None:
    _, a, b = nodes
    reader = await a.reader()
    for _ in range(200):
        a.called()
        b.called()
    started = ended = alone = 0
    async with asyncio.timeout(scaled(5)):
        while ended < 400 or started < 400:
            event = await anext(reader)
            data = json.loads(event.data)
            alone += event.type is not EventType.CALLS
            is_sum = event.type is EventType.CALLS
            if is_sum or event.type is EventType.INVOCATION_STARTED:
                started += data["started"] if is_sum else 1
            if is_sum or event.type is EventType.INVOCATION_ENDED:
                ended += sum(data["ended"].values()) if is_sum else 1
    assert (started, ended) == (400, 400)
    assert alone <= ONE_BY_ONE
    assert await nothing_more(reader)


async def test_a_connection_that_breaks_loses_nothing(nodes: Nodes) -> None:
    """The node asks again for the events after the last one that it got."""
    network, a, b = nodes
    reader = await a.reader()
    for _ in range(3):
        first = b.called()
        assert await call_of(reader) == first
        network.cut()
        assert b.called() == await call_of(reader)
    assert len(network.requests) == 4


async def test_a_node_that_is_lost_is_a_gap_and_comes_again_when_it_is_back(nodes: Nodes) -> None:
    network, a, b = nodes
    reader = await a.reader(function_id=FUNCTION.id)
    network.lost.add("b")
    network.cut()
    assert await next_of(reader, EventType.GAP) == {"events": None, "node_id": "b"}
    call = a.called()
    assert await call_of(reader) == call
    late = b.called()
    network.lost.clear()
    assert await call_of(reader) == late  # node b kept the event
    assert await nothing_more(reader)


async def test_who_follows_while_a_node_is_lost_hears_it_is_back(nodes: Nodes) -> None:
    network, a, b = nodes
    network.lost.add("b")
    reader = await a.reader()
    await next_of(reader, EventType.GAP)
    b.called()
    network.lost.clear()
    assert await next_of(reader, EventType.GAP) == {"events": None, "node_id": "b"}
    assert b.called() == await call_of(reader)


@pytest.mark.parametrize("where", ["asking", "taking"])
async def test_a_mistake_of_ours_is_a_gap_and_the_node_is_followed_again(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    network, a, b = nodes
    reader = await a.reader(types=frozenset((EventType.INVOCATION_ENDED, EventType.GAP)))
    mistakes = [RuntimeError("a mistake")]
    owner: Any = network if where == "asking" else a.events
    name = "request" if where == "asking" else "heard"
    as_before = getattr(owner, name)

    def mistaken(*args: Any) -> Any:
        if mistakes:
            raise mistakes.pop()
        return as_before(*args)

    monkeypatch.setattr(owner, name, mistaken)
    if where == "asking":
        network.cut()
    b.called()
    assert await next_of(reader, EventType.GAP) == {"events": None, "node_id": "b"}
    assert not mistakes
    await until(lambda: network.under_way)
    call = b.called()
    async with asyncio.timeout(scaled(5)):
        while (await next_of(reader, EventType.INVOCATION_ENDED))["invocation_id"] != call:
            pass


async def test_nothing_is_followed_behind_the_end(nodes: Nodes) -> None:
    network, a, _ = nodes
    await a.reader()
    await until(lambda: network.under_way)
    await a.watching.aclose()
    a.reads("b")
    await asyncio.sleep(0.05)
    assert not network.under_way
    assert len(network.requests) == 1


async def test_a_node_that_was_started_again_is_a_gap(nodes: Nodes) -> None:
    network, a, b = nodes
    reader = await a.reader()
    await b.aclose()
    again = Node(network, "b", 9)
    network.cut()
    assert await next_of(reader, EventType.GAP) == {"events": None, "node_id": "b"}
    assert again.called() == await call_of(reader)


async def test_a_node_that_leaves_is_followed_no_more_and_a_new_one_is(nodes: Nodes) -> None:
    network, a, b = nodes
    reader = await a.reader()
    c = Node(network, "c", 9)
    a.reads("b", "c")
    await next_of(reader, EventType.GAP)  # node c may have had events before a knew it
    assert c.called() == await call_of(reader)
    a.reads("c")
    assert await next_of(reader, EventType.GAP) == {"events": None, "node_id": "b"}
    b.called()
    assert c.called() == await call_of(reader)
    a.reads("b", "c")
    assert await next_of(reader, EventType.INVOCATION_STARTED)  # node b had kept the event


async def test_a_slow_link_is_a_gap_with_a_number_and_no_queue(nodes: Nodes) -> None:
    network, a, b = nodes
    reader = await a.reader()
    await until(lambda: b.heard.followed)
    network.arrives.clear()
    await asyncio.sleep(0.05)
    many = KEPT_EVENTS + 100
    for _ in range(many):
        b.heard.schedule_fired(TENANT, "s", FUNCTION.id, "i")
    [ring] = b.heard._rings.values()
    assert len(ring.kept) == KEPT_EVENTS
    network.arrives.set()
    count = 0
    while True:
        gap = await next_of(reader, EventType.SCHEDULE_FIRED, EventType.GAP)
        if "events" in gap:
            assert gap == {"events": many - KEPT_EVENTS - count, "node_id": "b"}
            break
        count += 1


async def test_who_comes_back_with_an_id_misses_nothing_of_any_node(nodes: Nodes) -> None:
    _, a, b = nodes
    reader = await a.reader()
    first = b.called()
    async with asyncio.timeout(scaled(5)):
        [_, last] = [await anext(reader) for _ in range(2)]
    assert json.loads(last.data)["invocation_id"] == first
    await reader.aclose()
    second, third = b.called(), a.called()
    back = await a.reader(last_id=last.id)
    assert {await call_of(back), await call_of(back)} == {second, third}
    elsewhere = await b.reader(last_id=last.id)
    await next_of(elsewhere, EventType.RESET)


async def test_streams_end_and_are_resumed(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams end after seconds, so that a removed node is refused when it resumes its stream."""
    monkeypatch.setattr(module, "STREAM_S", 0.05)
    network, a, b = nodes
    reader = await a.reader()
    calls = []
    async with asyncio.timeout(scaled(5)):
        while len(network.requests) <= 2:
            calls.append(b.called())
            await asyncio.sleep(0.03)
    assert [await call_of(reader) for _ in calls] == calls
    assert await nothing_more(reader)


async def test_a_tenant_that_is_followed_later_is_told_beside_the_first(nodes: Nodes) -> None:
    network, a, b = nodes
    first = await a.reader()
    second = await a.reader(OTHERS.tenant_id)
    calls = b.called(), b.called(OTHERS)
    assert (await call_of(first), await call_of(second)) == calls
    assert len(network.under_way) == 1


async def test_what_a_node_may_ask_for_is_bounded(nodes: Nodes) -> None:
    b = nodes[2]

    async def answer(body: bytes) -> int:
        request = Request("POST", "/fleet/events", Headers({}))
        request.feed(body)
        return (await b.own.answer(request, Asker("a", None))).status

    many = {f"t{n}": None for n in range(TENANTS_MAX + 1)}
    assert await answer(json.dumps({"tenants": many}).encode()) == 400
    assert await answer(b'{"tenants": 7}') == 400
    assert await answer(b"x" * 1_000_000) == 413
    assert b.heard.followed == set()


async def test_a_node_that_says_what_cannot_be_read_is_a_lost_one(nodes: Nodes) -> None:
    network, a, b = nodes

    async def answer(_request: Request, _asker: Asker) -> Any:
        return SimpleNamespace(status=200, body=one_piece(b'{"not": "a line"}\n'))

    reader = await a.reader()
    b.own.answer = answer  # type: ignore[method-assign,assignment]
    network.cut()
    assert await next_of(reader, EventType.GAP) == {"events": None, "node_id": "b"}
