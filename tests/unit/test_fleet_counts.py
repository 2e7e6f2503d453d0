"""The instances of all nodes, as one of them knows them."""

from typing import Any

from manual_clock import ManualClock
from promises import promise
from quiltfn.fleet.counts import FleetCounts
from quiltfn.model.counts import PoolCounts
from quiltfn.model.member import Member, NodeState, Presence, Report
from quiltfn.model.pool_load import NO_VERSION, PoolLoad
from quiltfn.ports import PoolCounting

pytestmark = promise("N50")

F, G = "f", "g"
QUIET_S, BEAT_S = 10.0, 2.0


class Own:
    """`PoolCounting` of the node itself."""

    def __init__(self) -> None:
        self.pools = {F: PoolCounts(ready=1, busy=1)}

    def counts(self, function_id: str) -> PoolCounts:
        return self.pools.get(function_id, PoolCounts())

    def occupied(self) -> list[str]:
        return list(self.pools)

    def waiting(self) -> int:
        return 2


class Known:
    """What node `a` knows about all nodes."""

    def __init__(self) -> None:
        self.clock = ManualClock(100.0)
        self.own: PoolCounting = Own()
        self.counts = FleetCounts("a", self.own, self.clock, QUIET_S, BEAT_S)

    def read(self, *members: Member) -> None:
        self.counts.read(members)


def member(name: str, *loads: PoolLoad, beat: int = 1, queued: int = 0, **more: Any) -> Member:
    report = Report(pools=loads, queued=queued)
    return Member(name=name, epoch=1, beat=beat, version="1", report=report, **more)


def load(function_id: str = F, ready: int = 1, **more: int) -> PoolLoad:
    return PoolLoad(function_id, 1, ready=ready, **more)


def test_counts_are_the_sum_over_the_nodes_and_the_own_ones_are_counted_once() -> None:
    known = Known()
    known.read(member("a", load(ready=9)), member("b", load(busy=3), load(G), queued=5))
    assert known.counts.counts(F) == PoolCounts(ready=2, busy=4)
    assert known.counts.counts(G) == PoolCounts(ready=1)
    assert known.counts.counts("h") == PoolCounts()
    assert list(known.counts.occupied()) == [F, G]
    assert known.counts.waiting() == 2 + 5
    assert known.counts.nodes() == ["b"]
    counts = PoolCounts(warming=2, ready=3, busy=4, recycling=5, terminating=6, parked=1)
    assert PoolLoad(G, NO_VERSION).with_counts(counts).counts == counts, "in every state"


def test_a_node_that_says_nothing_for_the_fence_time_is_left_out_until_it_does() -> None:
    known = Known()
    known.read(member("b", load(G)))
    known.clock.time += QUIET_S - 0.1
    known.read(member("b", load(G)))
    assert known.counts.counts(G).ready == 1
    known.clock.time += 0.2
    known.read(member("b", load(G)))
    assert known.counts.counts(G).ready == 0
    assert (known.counts.waiting(), list(known.counts.occupied()), known.counts.nodes()) == (
        2,
        [F],
        [],
    )
    known.read(member("b", load(G, ready=2), beat=2))
    assert known.counts.counts(G).ready == 2


def test_a_node_that_left_or_was_taken_over_is_left_out_and_a_drained_one_is_not() -> None:
    known = Known()
    for presence in (Presence.LEFT, Presence.GONE):
        known.read(member("b", load(G)))
        assert known.counts.counts(G).ready == 1
        known.read(member("b", load(G), presence=presence))
        assert known.counts.counts(G).ready == 0
    known.read(member("b", load(G, ready=0, busy=2), state=NodeState.DRAINING))
    assert known.counts.counts(G).busy == 2


def test_what_a_node_says_with_an_answer_is_newer_than_its_last_report() -> None:
    known = Known()
    known.read(member("b", load(G)))
    known.counts.update("b", G, PoolCounts(busy=1))
    known.read(member("b", load(G)))
    assert known.counts.counts(G) == PoolCounts(busy=1)
    known.counts.update("b", G, PoolCounts())
    assert list(known.counts.occupied()) == [F]
    # The next report to be read may be older than the counts of `update`.
    known.read(member("b", load(G, ready=7), beat=2))
    assert known.counts.counts(G).ready == 0
    known.clock.time += BEAT_S
    known.read(member("b", load(G, ready=7), beat=3))
    assert known.counts.counts(G).ready == 7
    # These counts are from a node that has just left.
    known.counts.update("nobody", G, PoolCounts(busy=1))
    assert known.counts.counts(G).busy == 0
