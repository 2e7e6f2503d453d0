"""A node's reactions to the store's list of members, and to a store that does not respond."""

import asyncio
from collections.abc import Sequence

import pytest
import structlog
from msgspec.structs import replace

from manual_clock import ManualClock
from quiltfn.fleet import membership as module
from quiltfn.fleet.membership import Loss, Membership
from quiltfn.fleet.observer import Observer, Times
from quiltfn.model.errors import Conflict, NotFound, StoreUnavailable
from quiltfn.model.member import Member, NodeState, Presence, Report, TakenOver
from quiltfn.store.fleet.members import SqlMembers
from timeouts import scaled

TIMES = Times(beat_s=1, fence_s=3, end_s=5, reap_s=8)


class Table(SqlMembers):
    """`SqlMembers` of node `a`, in memory."""

    def __init__(self, *names: str) -> None:
        self.rows = {name: Member(name=name, epoch=1, version="1") for name in names}
        self.away = False
        self.may_take_over = asyncio.Event()
        self.may_take_over.set()
        self.taken: list[str] = []
        self.while_beating = lambda: None

    def _answer(self) -> None:
        if self.away:
            raise StoreUnavailable("it is away")

    async def register(self, address: str, report: Report) -> Member:
        self.rows["a"] = replace(self.rows["a"], address=address, report=report)
        return self.rows["a"]

    async def beat(self, report: Report) -> Member | None:
        self.while_beating()
        self._answer()
        own = self.rows["a"]
        if own.epoch != 1:
            return None
        self.rows["a"] = replace(own, beat=own.beat + 1, report=report)
        return self.rows["a"]

    async def read(self) -> Sequence[Member]:
        self._answer()
        return [self.rows[name] for name in sorted(self.rows)]

    async def set_state(self, name: str, state: NodeState) -> Member | None:
        known = self.rows.get(name)
        if known is not None and known.state is not NodeState.REMOVED:
            self.rows[name] = replace(known, state=state)
        return self.rows.get(name)

    async def leave(self) -> None:
        self._answer()
        self.rows["a"] = replace(self.rows["a"], presence=Presence.LEFT)

    async def take_over(self, seen: Member) -> TakenOver | None:
        await self.may_take_over.wait()
        self._answer()
        self.taken.append(seen.name)
        self.rows[seen.name] = replace(seen, epoch=9, presence=Presence.GONE)
        return TakenOver(name=seen.name, epoch=9, calls=1, work=2, deliveries=3, answers=4)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    clock = ManualClock(1000.0)
    monkeypatch.setattr(module, "boottime", lambda: clock.time)
    return clock


def a_node(table: Table, clock: ManualClock) -> Membership:
    return Membership(table, Observer("a", TIMES), clock)


async def turns(node: Membership, clock: ManualClock, count: int) -> None:
    for _ in range(count):
        await node.turn()
        await asyncio.sleep(0)
        clock.time += 1


async def test_a_node_is_silent_from_the_fence_to_the_take_over(clock: ManualClock) -> None:
    table = Table("a", "b", "c", "d", "e")
    table.rows["c"] = replace(table.rows["c"], presence=Presence.LEFT)
    table.rows["d"] = replace(table.rows["d"], state=NodeState.REMOVED)
    table.rows["e"] = replace(table.rows["e"], version="")  # this server has no fleet
    node = a_node(table, clock)
    reports = []
    for _ in range(12):
        await turns(node, clock, 1)
        reports.append(node.silent())
    # b was first seen at the first look; the clock advances one second after each look.
    assert reports == [[]] * 2 + [["b"]] * 8 + [[]] * 2


async def test_a_slow_take_over_holds_up_no_beat(clock: ManualClock) -> None:
    table = Table("a", "b")
    node = a_node(table, clock)
    table.may_take_over.clear()
    await turns(node, clock, 20)
    assert table.rows["a"].beat == 20
    assert node.problem is None
    table.may_take_over.set()
    await node.settled()
    # node b is taken over once, though this was due at many looks
    assert (table.taken, node.taken_over) == (["b"], 1)


async def test_a_take_over_that_fails_is_tried_again(clock: ManualClock) -> None:
    table = Table("a", "b")
    node = a_node(table, clock)
    table.may_take_over.clear()
    await turns(node, clock, 9)
    table.away = True
    table.may_take_over.set()
    await node.settled()
    table.away = False
    assert table.taken == []
    await turns(node, clock, 1)
    await node.settled()
    assert table.taken == ["b"]


async def test_a_renewal_counts_from_before_it_was_sent(clock: ManualClock) -> None:
    table = Table("a")
    node = a_node(table, clock)

    def answers_late() -> None:
        clock.time += 2

    table.while_beating = answers_late
    began = clock.time
    await node.turn()
    assert node.renewed_at() == began
    assert clock.time == began + 2


async def test_a_store_that_is_away_is_told_after_the_fence_time(clock: ManualClock) -> None:
    table = Table("a", "b")
    node = a_node(table, clock)
    await turns(node, clock, 1)
    table.away = True
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            await node.turn()
        clock.time += 1
        late = clock.time - node.renewed_at()
        assert (node.problem is None) is (late < TIMES.fence_s)
    table.away = False
    await turns(node, clock, 7)
    # No heartbeat was seen while the store was away, so no node has been silent for long.
    assert (table.taken, node.problem) == ([], None)


async def test_outages_are_logged(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("a")
    node = a_node(table, clock)
    turns_left = 200

    async def sleep(seconds: float) -> None:
        nonlocal turns_left
        clock.time += seconds
        turns_left -= 1
        table.away = turns_left >= 70
        if not turns_left:
            raise asyncio.CancelledError

    table.away = True
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with structlog.testing.capture_logs() as lines, pytest.raises(asyncio.CancelledError):
        await node.run()
    events = [one["event"] for one in lines]
    # The store was away for 65 s, and was asked 130 times.
    assert events == ["no heartbeat was stored: it is away"] * 3 + ["heartbeats are stored again"]


async def test_a_node_taken_over_says_so_once_and_beats_no_more(clock: ManualClock) -> None:
    table = Table("a", "b")
    node = a_node(table, clock)
    losses: list[Loss] = []
    node.on_lost.connect(losses.append)
    await turns(node, clock, 1)
    table.rows["a"] = replace(table.rows["a"], epoch=9, presence=Presence.GONE)
    async with asyncio.timeout(scaled(5)):
        await node.run()
    assert losses == [Loss.TAKEN_OVER]
    assert node.problem == Loss.TAKEN_OVER
    await node.leave()  # there is no membership to end
    assert table.rows["a"].presence is Presence.GONE


async def test_a_state_is_heard_with_the_next_beat_and_ones_own_at_once(clock: ManualClock) -> None:
    table = Table("a", "b")
    node = a_node(table, clock)
    heard: list[NodeState] = []
    node.on_state.connect(heard.append)
    await table.set_state("a", NodeState.CORDONED)
    await turns(node, clock, 2)
    assert heard == [NodeState.CORDONED]
    await node.set_state("a", NodeState.DRAINING)
    assert heard == [NodeState.CORDONED, NodeState.DRAINING]
    await node.set_state("b", NodeState.REMOVED)
    with pytest.raises(Conflict, match="was removed"):
        await node.set_state("b", NodeState.READY)
    with pytest.raises(NotFound):
        await node.set_state("c", NodeState.READY)
    assert heard == [NodeState.CORDONED, NodeState.DRAINING]


async def test_a_node_acts_at_once_on_the_state_that_it_gave_another(clock: ManualClock) -> None:
    table = Table("a", "b")
    node = a_node(table, clock)
    keeping: list[set[str]] = []
    node.on_read.connect(lambda members: keeping.append({one.name for one in members if one.keeps}))
    await turns(node, clock, 1)
    await node.set_state("b", NodeState.DRAINING)
    assert keeping == [{"a", "b"}, {"a"}]


async def test_a_removed_node_ends(clock: ManualClock) -> None:
    table = Table("a")
    node = a_node(table, clock)
    await table.set_state("a", NodeState.REMOVED)
    async with asyncio.timeout(scaled(5)):
        await node.run()
    assert node.lost is Loss.REMOVED


async def test_the_list_has_each_node_with_the_age_of_its_beat(clock: ManualClock) -> None:
    table = Table("a", "b")
    table.rows["alone"] = Member(name="alone", epoch=3)  # this server once used the database alone
    node = a_node(table, clock)
    await turns(node, clock, 4)
    own, other = await node.all()
    assert (own.member.name, own.is_own) == ("a", True)
    assert (other.member.name, other.is_own, other.unmoved_s) == ("b", False, 4.0)
    assert [own.is_silent, other.is_silent] == [False, True]
    table.rows["b"] = replace(table.rows["b"], state=NodeState.REMOVED)
    assert not (await node.all())[1].is_silent
