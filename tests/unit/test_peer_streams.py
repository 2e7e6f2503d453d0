"""Event streams of several nodes, merged into one for the reader."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from types import SimpleNamespace
from typing import Any, Self

import pytest

from promises import promise
from quiltfn.api.http.response import CutShort
from quiltfn.api.http.stream_slots import StreamSlots
from quiltfn.fleet import peer_streams
from quiltfn.fleet.peer_streams import Together
from quiltfn.model.errors import CapacityFull
from quiltfn.ports.placement import PeerUnavailable
from timeouts import scaled

pytestmark = promise("N54")

LOST = object()


class Source:
    """The stream of a node, whose pieces a test sends."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[Any] = asyncio.Queue()
        self.asked = 0
        self.sent = 0

    def says(self, *pieces: object) -> None:
        for piece in pieces:
            self.pieces.put_nowait(piece)

    async def body(self) -> AsyncGenerator[bytes, None]:
        while (piece := await self.pieces.get()) is not None:
            if piece is LOST:
                raise PeerUnavailable("the connection has ended", may_have_run=True)
            self.sent += 1
            yield piece


class Nodes:
    """A node and its peers, by name. Within `async with`, a reader reads events of all nodes."""

    def __init__(self, *names: str) -> None:
        self.own, self.names = Source(), list(names)
        self.there = {name: Source() for name in names}
        self.unreachable: set[str] = set()
        self.mistakes: list[Exception] = []
        self.slots = StreamSlots(3, 2, "streams open")
        self.answers = asyncio.Event()
        self.answers.set()

    def together(self) -> Together:
        own = self.own.body()
        return Together(own, lambda: self.names, self.ask, gap, self.slots, "t")

    async def __aenter__(self) -> Self:
        together = self.together()
        await together.start()
        self.events = together.events()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.events.aclose()

    async def read(self, count: int) -> list[bytes]:
        async with asyncio.timeout(scaled(5)):
            return [await anext(self.events) for _ in range(count)]

    @contextlib.asynccontextmanager
    async def ask(self, node: str) -> AsyncIterator[Any]:
        if node in self.unreachable:
            raise PeerUnavailable("it cannot be reached", may_have_run=False)
        source = self.there[node]
        source.asked += 1
        if self.mistakes:
            raise self.mistakes.pop()
        await self.answers.wait()
        body = source.body()
        try:
            yield SimpleNamespace(status=200, body=body)
        finally:
            await body.aclose()


def gap(node: str) -> bytes:
    return b"gap %b\n\n" % node.encode()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_streams, "LOOK_EVERY_S", 0.01)


async def test_what_every_node_sends_comes_once() -> None:
    async with Nodes("b", "c") as nodes:
        nodes.own.says(b"own\n\n")
        nodes.there["b"].says(b"b1\n\n", b"b2\n\n")
        nodes.there["c"].says(b"c\n\n")
        found = await nodes.read(4)
        assert sorted(found) == [b"b1\n\n", b"b2\n\n", b"c\n\n", b"own\n\n"]
        assert found.index(b"b1\n\n") < found.index(b"b2\n\n")
        assert [source.asked for source in nodes.there.values()] == [1, 1]


async def test_a_reader_waits_until_other_nodes_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes("b", "c")
    nodes.unreachable.add("c")  # the reader does not wait for an unreachable node
    nodes.answers.clear()
    together = nodes.together()
    following = asyncio.ensure_future(together.start())
    await asyncio.sleep(0.02)
    assert not following.done()
    nodes.answers.set()
    async with asyncio.timeout(scaled(5)):
        await following
    assert nodes.there["b"].asked == 1
    together.close()
    # A node that does not respond delays the others only for a short time.
    monkeypatch.setattr(peer_streams, "BEGINS_WITHIN_S", 0.01)
    nodes.answers.clear()
    async with asyncio.timeout(scaled(5)):
        await (slow := nodes.together()).start()
        events = slow.events()
        assert {await anext(events), await anext(events)} == {gap("b"), gap("c")}
        await events.aclose()
    slow.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        await asyncio.wait(tasks, timeout=scaled(5))
    assert all(one.done() for one in tasks)


async def test_no_event_is_sent_within_another_one() -> None:
    async with Nodes("b") as nodes:
        nodes.there["b"].says(b"data: be")
        assert await nodes.read(1) == [b"data: be"]
        nodes.own.says(b"own\n\n")
        nodes.there["b"].says(b"gun\n", b"\n")
        assert await nodes.read(3) == [b"gun\n", b"\n", b"own\n\n"]


async def test_a_node_that_is_lost_is_a_gap_and_comes_again() -> None:
    async with Nodes("b") as nodes:
        nodes.there["b"].says(b"b1\n\n")
        await nodes.read(1)
        nodes.unreachable.add("b")
        nodes.there["b"].says(LOST)
        assert await nodes.read(1) == [b"gap b\n\n"]
        await asyncio.sleep(0.1)  # the node is asked again, but the reader gets one gap
        nodes.unreachable.clear()
        nodes.there["b"].says(b"b2\n\n")
        assert await nodes.read(1) == [b"b2\n\n"]


async def test_a_mistake_of_ours_is_a_gap_and_the_node_is_asked_again() -> None:
    nodes = Nodes("b")
    nodes.mistakes.append(RuntimeError("a mistake"))
    async with nodes:
        assert await nodes.read(1) == [b"gap b\n\n"]
        nodes.there["b"].says(b"b1\n\n")
        assert await nodes.read(1) == [b"b1\n\n"]


async def test_a_stream_ends_where_a_node_was_lost_within_an_event() -> None:
    """The rest of the event is lost, so a reader could not tell where the next one begins."""
    async with Nodes("b") as nodes:
        nodes.there["b"].says(b"data: be")
        await nodes.read(1)
        nodes.there["b"].says(LOST)
        with pytest.raises(CutShort):
            await nodes.read(1)


async def test_a_stream_ends_where_an_event_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events of other nodes must not be sent in the middle of an unfinished one."""
    monkeypatch.setattr(peer_streams, "EVENT_MAX_S", 0.1)
    async with Nodes("b") as nodes:
        nodes.there["b"].says(b"data: be")
        await nodes.read(1)
        for _ in range(5):  # the event continues a little at a time, but does not end
            await asyncio.sleep(0.03)
            nodes.there["b"].says(b"x")
            nodes.own.says(b"data: own\n\n")
        with pytest.raises(CutShort, match="not ended an event in time"):
            async with asyncio.timeout(scaled(5)):
                await nodes.read(9)


async def test_a_node_that_joins_is_asked_and_what_it_did_before_is_a_gap() -> None:
    async with Nodes() as nodes:
        nodes.own.says(b"own\n\n")
        await nodes.read(1)
        nodes.there["d"] = Source()
        nodes.names.append("d")
        assert await nodes.read(1) == [b"gap d\n\n"], "it waits for another event"
        nodes.there["d"].says(b"d\n\n")
        assert await nodes.read(1) == [b"d\n\n"]


async def test_a_reader_that_is_slow_holds_back_the_node() -> None:
    async with Nodes("b") as nodes:
        nodes.there["b"].says(*[b"b\n\n"] * 100)
        await nodes.read(1)
        await asyncio.sleep(0.05)
        assert nodes.there["b"].sent <= 4
        assert await nodes.read(99) == [b"b\n\n"] * 99


async def test_it_ends_with_this_node_s_own() -> None:
    async with Nodes("b") as nodes:
        nodes.own.says(b"own\n\n", None)
        assert [one async for one in nodes.events] == [b"own\n\n"]


async def test_there_are_so_many_and_no_more() -> None:
    nodes = Nodes()
    first, _ = nodes.together(), nodes.together()
    with pytest.raises(CapacityFull):
        nodes.together()
    first.close()
    nodes.together()


async def test_nothing_is_left_when_the_reader_goes() -> None:
    nodes = Nodes("b", "c")
    before = asyncio.all_tasks()
    async with nodes:
        nodes.own.says(b"own\n\n")
        await nodes.read(1)
    assert asyncio.all_tasks() == before
