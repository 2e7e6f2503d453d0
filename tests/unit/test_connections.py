"""Which connection is closed for a new one."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from promises import promise
from quiltfn.api.http import budgets
from quiltfn.api.http import connections as module
from quiltfn.api.http.budgets import MIB, ResponseBudget
from quiltfn.api.http.connections import RESERVED, TRIES, ConnectionLimits, Connections, SlotKind

MOST = 3 * TRIES


@dataclass(eq=False)
class Peer:
    """A connection that is busy, or idle since a given time."""

    idle_since: float | None
    is_arriving: bool = False
    is_streaming: bool = False
    was_cut: bool = False
    looks: int = 0
    waiting: int = 0
    is_shared: bool = False
    bytes_taken: int = 0

    def unsent(self) -> int:
        return self.waiting

    def held(self) -> int:
        return 0 if self.is_shared else self.waiting

    def taken(self) -> int:
        return self.bytes_taken

    def finish(self) -> None:
        raise AssertionError

    def cut(self) -> None:
        assert not self.was_cut
        self.was_cut = True


@dataclass(eq=False)
class Counting(Peer):
    """Counts how often its state is read."""

    def __getattribute__(self, name: str) -> object:
        if name == "idle_since":
            self.looks += 1
        return super().__getattribute__(name)


def full(*idle_since: float | None, kind: type[Peer] = Peer) -> tuple[Connections, list[Peer]]:
    connections = Connections(ConnectionLimits(most=len(idle_since)))
    peers = [kind(since) for since in idle_since]
    assert {connections.add(one) for one in peers} == {SlotKind.REGULAR}
    return connections, peers


def ended_for(connections: Connections, peers: list[Peer]) -> int | None:
    """The index of the peer whose connection is closed for a new one, which stays busy. None: no
    connection is closed.
    """
    before = [one.was_cut for one in peers]
    slot = connections.add(Peer(None))
    ended = [at for at, one in enumerate(peers) if one.was_cut and not before[at]]
    assert len(ended) <= 1
    assert (slot is SlotKind.REGULAR) == bool(ended)
    for at in ended:
        connections.remove(peers[at])
    return ended[0] if ended else None


def test_the_one_that_has_been_idle_longest_ends_whichever_came_first() -> None:
    connections, peers = full(30, 10, None, 20)
    assert [ended_for(connections, peers) for _ in range(4)] == [1, 3, 0, None]
    assert len(connections) == 5  # The last connection took a reserved slot.


def test_use_after_a_look_counts() -> None:
    """Connections are ordered when the first one has to end. Two are used after that, and one ends;
    the old order must not decide about them.
    """
    connections, peers = full(1, 2, 3, 4, 5, None)
    assert ended_for(connections, peers) == 0
    peers[1].idle_since, peers[2].idle_since, peers[5].idle_since = 8, None, 7
    connections.remove(peers[3])
    assert connections.add(Peer(9)) is SlotKind.REGULAR  # There is a free slot.
    assert [ended_for(connections, peers) for _ in range(3)] == [4, 5, 1]
    assert not peers[2].was_cut
    assert not peers[3].was_cut


def test_it_is_the_longest_of_many_even_far_behind() -> None:
    connections, peers = full(*range(MOST, 0, -1))
    order = [ended_for(connections, peers) for _ in range(MOST)]
    assert order == list(range(MOST - 1, -1, -1))


def test_a_new_connection_looks_at_few_others() -> None:
    """A new connection must be cheap if all others are busy and, on average, if many end one after
    another.
    """
    connections, peers = full(*[None] * MOST, kind=Counting)
    looks_before = sum(one.looks for one in peers)
    assert ended_for(connections, peers) is None
    assert 0 < sum(one.looks for one in peers) - looks_before <= TRIES
    connections, peers = full(*range(MOST), kind=Counting)
    for _ in range(MOST):
        assert ended_for(connections, peers) is not None
    assert sum(one.looks for one in peers) <= 3 * MOST


def test_negative_control_acceptance_order_ends_another(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_order(self: Connections) -> bool:
        return module._make_way(self._regular, lambda it: it.idle_since is not None)

    monkeypatch.setattr(Connections, "_end_idlest", in_order)
    connections, peers = full(30, 10, None, 20)
    assert ended_for(connections, peers) == 0


def test_of_the_reserved_ones_the_first_whose_request_is_not_complete_ends() -> None:
    connections, _ = full(None)
    reserved = [Peer(None, is_arriving=at in (3, 5)) for at in range(RESERVED)]
    assert {connections.add(one) for one in reserved} == {SlotKind.RESERVED}
    for _ in range(2):
        assert connections.add(Peer(None)) is SlotKind.RESERVED
    assert [at for at, one in enumerate(reserved) if one.was_cut] == [3, 5]
    assert connections.add(Peer(None)) is SlotKind.NONE


@promise("N71")
def test_clients_are_quiet_once_none_has_asked_for_some_time() -> None:
    connections, peers = full(1, 2, 3)
    assert connections.are_quiet_since(3)
    assert not connections.are_quiet_since(2.9)
    peers[0].idle_since = None
    assert not connections.are_quiet_since(3)
    connections.remove(peers[0])
    assert connections.are_quiet_since(3)
    connections = Connections(ConnectionLimits(most=1))
    assert [connections.add(one) for one in (Peer(None), Peer(4))][1] is SlotKind.RESERVED
    assert not connections.are_quiet_since(5)


class Readers:
    """Readers of responses that share a budget. A new reader has taken nothing yet."""

    def __init__(self, budget: int) -> None:
        self.responses = ResponseBudget(budget)
        self.connections = Connections(ConnectionLimits(most=9), self.responses)
        self.peers: dict[str, Peer] = {}

    def add(self, peers: Mapping[str, Peer]) -> None:
        self.peers |= peers
        for peer in peers.values():
            self.connections.add(peer)
            self.connections.paused(peer)

    def look(self, now: float, taken: Mapping[str, int]) -> None:
        """Let the server look at all readers once. `taken`: how many bytes each reader takes
        afterwards.
        """
        self.connections.look(now)
        for name, size in taken.items():
            self.peers[name].bytes_taken += size

    def cut(self) -> list[str]:
        return [name for name, peer in self.peers.items() if peer.was_cut]

    def remove(self, *names: str) -> None:
        for name in names:
            self.connections.remove(self.peers.pop(name))

    @asynccontextmanager
    async def wanting(self, size: int) -> AsyncIterator[asyncio.Future[None]]:
        """A request that waits for this much memory; it must have got the memory at the end."""

        async def respond() -> None:
            async with self.responses.reserve(size, "a"):
                pass

        waits = asyncio.ensure_future(respond())
        await asyncio.sleep(0)
        yield waits
        with suppress(asyncio.CancelledError):
            await waits


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "RESPONSE_WAIT_S", 30.0)


async def test_those_standing_still_end_as_others_need() -> None:
    """One look ends those readers that have taken nothing for longest; none if no request waits."""
    readers = Readers(100)

    def add(count: int, waiting: int) -> None:
        for now in range(count):
            readers.add({f"{now}": Peer(None, waiting=waiting)})
            readers.look(now, {})

    add(6, 50)
    readers.look(20, {})
    assert readers.cut() == []
    async with readers.wanting(60):
        readers.look(21, {})
        # 300 bytes are held, 100 are allowed, and 60 are wanted.
        assert readers.cut() == list("012345")
        readers.remove(*"012345")
    add(3, 20)
    async with readers.wanting(50):
        readers.look(20, {})
        assert readers.cut() == ["0"]
        readers.remove("0")


@promise("A89")
async def test_slow_ones_end_as_many_as_others_need_memory_slowest_first() -> None:
    """A reader that takes nothing ends before slow ones. Readers of shared data stay: ending them
    would free no memory.
    """
    readers = Readers(100 * MIB)
    speeds = {"300": 300_000, "100": 100_000, "stops": 500_000, "200": 200_000, "shared": 70_000}
    readers.add({n: Peer(None, waiting=25 * MIB, is_shared=n == "shared") for n in speeds})
    assert readers.responses.held == 100 * MIB  # shared data is not counted
    async with readers.wanting(45 * MIB) as waits:
        for now in range(4):
            if now == 3:  # requests must have waited this long
                assert readers.cut() == []
                waits.cancel()
                await asyncio.sleep(0)
            readers.look(now, speeds)
    readers.look(4, speeds)
    readers.look(5, speeds | {"stops": 0})
    async with readers.wanting(45 * MIB):
        for now in (6, 7, 8):
            readers.look(now, speeds | {"stops": 0})
        assert readers.cut() == ["100", "stops"]
        readers.remove("100", "stops")
    async with readers.wanting(101 * MIB):
        for now in (9, 12):
            readers.look(now, {name: 3 * speeds[name] for name in ("200", "300")})
        assert readers.cut() == ["300", "200"]
        readers.remove("200", "300")


@promise("A89")
@pytest.mark.parametrize("is_served", [True, False])
async def test_slow_ones_stay_while_those_who_wait_are_served(is_served: bool) -> None:
    """A request waits for memory all the time, which a few fast readers with one key can cause.
    Slow readers end only if no request is served: as many as free the memory for the next request,
    and none with a small response.
    """
    readers = Readers(100 * MIB)
    sizes = {"slow": 50 * MIB, "slower": 40 * MIB, "stream": MIB // 8, "small": MIB // 2}
    readers.add(
        {n: Peer(None, is_streaming=n == "stream", waiting=size) for n, size in sizes.items()}
    )

    async def respond() -> None:
        async with readers.responses.reserve(30 * MIB, "a"):
            pass

    waiting = [asyncio.ensure_future(respond()) for _ in range(4)]
    for now in range(20):
        await asyncio.sleep(0)
        assert readers.responses.missing
        readers.look(now, dict.fromkeys(sizes, 100_000) | {"slow": 200_000})
        readers.responses.served += is_served
        if readers.cut():
            break
    assert readers.cut() == ["slower"] * (not is_served)
    assert now == (19 if is_served else 3)
    readers.remove(*sizes)
    await asyncio.gather(*waiting)
    assert readers.responses.served == (24 if is_served else 4)


async def test_those_that_hold_little_end_where_nothing_else_helps() -> None:
    readers = Readers(MIB)
    readers.add({name: Peer(None, waiting=MIB // 2) for name in "abc"})
    async with readers.wanting(MIB // 2):
        for now in range(4):
            readers.look(now, dict.fromkeys("abc", 30_000))
        assert readers.cut() == ["a", "b"]
        readers.remove(*"abc")


@promise("A89")
async def test_who_comes_anew_to_read_slowly_ends_before_who_reads_on() -> None:
    """Formerly, a reader that had just begun did not count as slow, so others ended for it. The
    order is by the time that a reader still needs, not by the time since it began.
    """
    readers = Readers(100 * MIB)
    slow = {"stream": 100_000, "first": 100_000, "second": 100_000}
    readers.add({"honest": Peer(None, waiting=30 * MIB)})
    readers.add({"stream": Peer(None, is_streaming=True, waiting=MIB // 8)})
    readers.add({n: Peer(None, waiting=36 * MIB) for n in ("first", "second")})
    async with readers.wanting(30 * MIB):
        for now in range(12):
            if now in (4, 8):
                readers.remove("first", "second")
                readers.add({n: Peer(None, waiting=36 * MIB) for n in ("first", "second")})
            await asyncio.sleep(0)
            readers.look(now, slow | {"honest": 2 * MIB})
            if readers.cut():
                break
        assert readers.cut() in (["first"], ["second"])
        readers.remove(*readers.peers)


@pytest.mark.parametrize(
    ("wanted", "fast_speed", "expected"),
    [
        (24, 5 * MIB, []),  # the fast reader frees enough within four seconds
        # The fast reader takes too long, and the slow one's memory would not suffice.
        (24, MIB // 2, ["fast"]),
        # The fast reader takes too long, and the slow one's memory suffices.
        (11, MIB // 2, ["slow"]),
        (50, MIB // 8, []),  # readers can't free enough: responses are being created
    ],
)
async def test_slow_ones_end_if_it_helps(wanted: int, fast_speed: int, expected: list[str]) -> None:
    """Formerly, a slow download ended for a list that then got its memory from another reader."""
    readers = Readers(48 * MIB)
    readers.add({"fast": Peer(None, waiting=30 * MIB), "slow": Peer(None, waiting=6 * MIB)})
    async with readers.responses.reserve(6 * MIB, "b"):  # a response that is being created
        async with readers.wanting(wanted * MIB) as waits:
            for now in range(4):
                readers.look(now, {"fast": fast_speed, "slow": 70_000})
            assert readers.cut() == expected
            waits.cancel()


@promise("A39")
@pytest.mark.parametrize(
    ("is_streaming", "takes", "is_cut"),
    [(True, 1, False), (True, 0, True), (False, 1, True), (False, 100_000, False)],
)
def test_only_dead_readers_of_streams_are_cut(is_streaming: bool, takes: int, is_cut: bool) -> None:
    readers = Readers(MIB)
    readers.peers["reader"] = Peer(None, is_streaming=is_streaming, waiting=65_536)
    readers.connections.add(readers.peers["reader"])
    for now in range(0, 100, 10):
        if not readers.cut():
            readers.look(now, {"reader": takes})
    assert bool(readers.cut()) is is_cut
