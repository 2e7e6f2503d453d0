"""Headroom: a pool serves exactly as many more calls without a wait as it says."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from promises import promise
from quiltfn.model.counts import Headroom
from quiltfn.model.memory import Footprint, Memory
from quiltfn.model.pool import Pool, PoolLimits
from quiltfn.model.quota import Quota
from unit.node_simulation import NodeSimulation
from unit.pool_simulation import FINDS_MISTAKES, PoolSimulation
from unit.test_arbiter import SIZES
from unit.test_arbiter import STORIES as STORIES_OF_SEVERAL
from unit.test_arbiter import live_through as live_through_several
from unit.test_pool_property import EVENTS, QUEUE_MAX, STORIES, targets

pytestmark = promise("W12")


def so_many_are_served(sim: PoolSimulation, pass_time: Callable[[float], object]) -> None:
    """Check that as many calls as there is headroom for are served before a running call ends."""
    headroom = sim.pool.headroom().total
    waited = len(sim.waiting)
    callers = [sim.acquire() for _ in range(min(headroom, QUEUE_MAX - waited))]
    for _ in range(3):
        sim.finish(release=False)
        pass_time(0.006)
    assert not set(callers) & set(sim.waiting), f"of {headroom} some wait"


def live_through(story: list[tuple[str, int]], size: int, make: type[Pool] = Pool) -> None:
    sim = PoolSimulation(PoolLimits(**targets(size // 4, size)), make)  # type: ignore[arg-type]
    sim.promote("a")
    for event, choice in story:
        EVENTS[event](sim, choice)
    so_many_are_served(sim, sim.pass_time)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(story=STORIES, size=st.integers(0, 63))
def test_as_many_calls_as_headroom_for_are_served(story: list[tuple[str, int]], size: int) -> None:
    live_through(story, size)


# An instance that was started to be parked becomes ready while a call of its pool waits for memory.
WANTED_WHEN_IT_COMES_UP = [
    *[("acquire", 0, 0), ("cancel while waiting", 0, 0)] * 5,
    *[("promote at once", 0, 2), ("park", 0, 0)],
    *[("acquire", 1, 0), ("acquire", 1, 0), ("acquire", 0, 0)],
]
# An idle instance turns out to use more than it was counted with, so the memory held exceeds the
# budget.
MORE_THAN_MAY_BE = [
    *[("acquire", 0, 0)] * 10,
    *[("acquire three", 1, 0), ("all quiet", 0, 0), ("time", 0, 3), ("measure", 0, 6)],
]


@example(story=WANTED_WHEN_IT_COMES_UP, which=0)
@example(story=MORE_THAN_MAY_BE, which=1)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(story=STORIES_OF_SEVERAL, which=st.integers(0, 2))
def test_and_so_where_pools_share_the_memory(story: list[tuple[str, int, int]], which: int) -> None:
    class Node(NodeSimulation):
        def drain(self) -> None:
            """Do nothing: each story ends with `so_many_are_served` instead."""

    node = Node(list(SIZES))
    live_through_several(story, node)
    so_many_are_served(node.members[which], node.pass_time)


class ForgetsWhoWaits(Pool):
    def headroom(self, max_instances: int | None = None) -> Headroom:
        line, self.queue.waiting = self.queue.waiting, type(self.queue.waiting)()
        headroom = super().headroom(max_instances)
        self.queue.waiting = line
        return headroom


class CountsTheBusy(Pool):
    def headroom(self, max_instances: int | None = None) -> Headroom:
        return Headroom(super().headroom(max_instances).idle + self.counts().busy)


@pytest.mark.parametrize("mistake", [ForgetsWhoWaits, CountsTheBusy])
def test_a_mistake_is_found(mistake: type[Pool]) -> None:
    """Negative control: each planted mistake must be found."""

    @settings(FINDS_MISTAKES, max_examples=2000)
    @given(story=STORIES, size=st.integers(0, 63))
    def every_story(story: list[tuple[str, int]], size: int) -> None:
        live_through(story, size, mistake)

    with pytest.raises(AssertionError, match="some wait"):
        every_story()


def serving(limits: PoolLimits, memory: Memory | None = None, quota: Quota | None = None) -> Pool:
    pool = Pool(limits, memory, quota=quota)
    pool.promote("a", 0.0, Footprint(limit_mib=100.0, idle_mib=10.0))
    return pool


def test_what_is_idle_counts_apart_from_what_may_be_started() -> None:
    pool = serving(PoolLimits(max_instances=3))
    assert pool.headroom() == Headroom(0, 3)
    pool.acquire(1, 0.0)
    assert pool.headroom() == Headroom(0, 2)  # one instance is being started for the waiting call
    pool.started(1, 1.0)
    assert pool.headroom() == Headroom(0, 2)
    pool.release(1, 2.0, healthy=True)
    assert pool.headroom() == Headroom(1, 2)  # an instance that is being cleaned counts as idle


def test_memory_and_the_quota_of_the_tenant_bound_it() -> None:
    """There is no headroom for a closed function, or while another function waits for memory."""
    assert serving(PoolLimits(), Memory(budget_mib=250.0)).headroom() == Headroom(0, 2)
    assert serving(PoolLimits(), quota=Quota(limit=4, used=3)).headroom() == Headroom(0, 1)
    assert Pool(PoolLimits()).headroom() == Headroom()
    memory = Memory()
    pool = serving(PoolLimits(), memory)
    memory.waiting["another pool"] = 0.0
    assert pool.headroom() == Headroom()
