"""The scheduler, continued: instances kept for a rollback, or parked instead of stopped."""

from typing import Any

import pytest

from promises import promise
from quiltfn.model.actions import Assign
from quiltfn.model.cold_start import ColdStartReason
from quiltfn.model.memory import Memory
from quiltfn.model.pool import PARK_AGAIN_S, Pool, PoolCounts, PoolLimits
from unit.pool_simulation import (
    BUSY,
    PARKED,
    READY,
    RECYCLING,
    TERMINATING,
    WARMING,
    PoolSimulation,
    a_pool,
)

pytestmark = promise("P6", "P20")

# Kept for a rollback -------------------------------------------------------------------------


def after_an_update(**limits: float) -> PoolSimulation:
    """Instance 1 has version "a" and is kept, 2 has version "b" and is ready."""
    sim = a_pool(ready=1, **limits).live("prepare b, started 2, promote b")
    assert sim.states() == {1: PARKED, 2: READY}
    return sim


def test_a_kept_instance_counts_as_warming() -> None:
    assert after_an_update().counts() == PoolCounts(warming=1, ready=1, parked=1)


def test_the_first_call_after_a_rollback_is_warm() -> None:
    sim = after_an_update()
    sim.pass_time(59)
    sim.prepare("a")
    assert sim.ready_digests == ["a"]
    sim.promote("a")
    caller = sim.acquire()
    assert sim.answers[caller] == Assign(1, caller, cold=False)
    assert sim.states()[2] == PARKED  # a return to "b" is possible, too


@pytest.mark.parametrize(
    ("limits", "story", "states"),
    [
        # The grace period is over, so the kept instance ends.
        ({}, "pass_time 60", {1: TERMINATING, 2: READY}),
        ({}, "close", {1: TERMINATING, 2: TERMINATING}),
        # At the maximum, the kept instance ends for a call, and for a prepared version.
        ({"max_instances": 2}, "acquire", {1: PARKED, 2: BUSY}),
        ({"max_instances": 2}, "acquire, acquire", {1: TERMINATING, 2: BUSY}),
        ({"max_instances": 2}, "prepare c", {1: TERMINATING, 2: READY}),
    ],
)
def test_how_long_one_is_kept(limits: dict[str, int], story: str, states: dict[int, str]) -> None:
    assert after_an_update(**limits).live(story).states() == states


def test_where_there_is_no_grace_nothing_is_kept() -> None:
    sim = a_pool(ready=1, grace_s=0.0)
    sim.promote("b")
    assert sim.states() == {1: TERMINATING}


def test_one_that_is_still_cleaned_gives_way_too() -> None:
    # Ann's long call on the previous version ends, and its instance is being cleaned in order to be
    # kept. Ben needs its place. Cleaning may take seconds, so it is ended instead.
    sim = a_pool(ready=1, max_instances=2)
    sim.live("acquire, prepare b, started 2, promote b, release 1")
    assert sim.states() == {1: RECYCLING, 2: READY}
    sim.acquire(), sim.acquire()
    assert sim.states()[1] == TERMINATING


def test_who_waits_while_it_is_taken_back_had_a_cold_start() -> None:
    sim = after_an_update()
    sim.acquire()
    waiting = sim.acquire()
    sim.pass_time(0.001)
    sim.promote("a")
    assert sim.answers[waiting] == Assign(1, waiting, cold=True)


def test_one_that_is_taken_back_is_worth_something_again() -> None:
    sim = PoolSimulation(PoolLimits())
    sim.promote("a")
    caller = sim.acquire()
    sim.now += 0.5
    sim.started(1)
    sim.cancel(caller)
    sim.promote("b")
    assert sim.pool.instances[1].worth == 0
    sim.promote("a")
    assert sim.pool.instances[1].worth > 0


# Parked instead of stopped -------------------------------------------------------------------


def a_parked_one(**limits: float) -> PoolSimulation:
    """Instance 1 has version "c", which is worth parking."""
    sim = PoolSimulation(PoolLimits(**limits))  # type: ignore[arg-type]
    sim.promote("c")
    caller = sim.acquire()
    sim.started(1)
    sim.cancel(caller)
    sim.pass_time(300)
    assert sim.states() == {1: PARKED}
    return sim


def test_a_parked_one_counts_as_warming() -> None:
    assert a_parked_one().counts() == PoolCounts(warming=1, parked=1)


def test_the_next_call_gets_it_at_once_and_cold_since_it_was_evicted() -> None:
    sim = a_parked_one()
    caller = sim.acquire()
    assert sim.answers[caller] == Assign(1, caller, cold=True)
    assert sim.pool.instances[1].reason is ColdStartReason.EVICTED
    caller = sim.live("release 1, cleaned 1").acquire()
    assert sim.answers[caller] == Assign(1, caller, cold=False)  # the next call is warm


def test_only_the_last_one_is_parked() -> None:
    sim = PoolSimulation(PoolLimits())
    sim.promote("c")
    callers = [sim.acquire(), sim.acquire()]
    sim.started(1), sim.started(2)  # type: ignore[func-returns-value]
    for caller in callers:
        sim.cancel(caller)
    sim.pass_time(300)
    assert sorted(sim.states().values()) == [PARKED, TERMINATING]


def test_after_its_time_it_leaves() -> None:
    sim = a_parked_one(park_s=1000.0)
    assert sim.live("pass_time 999").states() == {1: PARKED}
    assert sim.live("pass_time 1").states() == {1: TERMINATING}


def test_it_is_taken_back_by_a_higher_minimum_or_a_deploy() -> None:
    scaled, deployed = a_parked_one(), a_parked_one()
    scaled.set_scaling(min_instances=1)
    deployed.prepare("c")
    assert scaled.states() == deployed.states() == {1: READY}
    assert deployed.ready_digests == ["c"]


def test_one_that_dies_while_it_is_parked_was_no_eviction() -> None:
    sim = a_parked_one().live("lost 1, gone 1, acquire")
    assert sim.states() == {2: WARMING}
    assert sim.pool.instances[2].reason is ColdStartReason.REPLACED


# Started only to be parked -------------------------------------------------------------------

AHEAD = "park, started 1"


def after_a_restart(
    version: str = "c", memory_mib: float = 1024, **limits: float
) -> PoolSimulation:
    """Version "c", which is worth parking, is current, and there is no instance yet."""
    sim = PoolSimulation(
        PoolLimits(**limits),  # type: ignore[arg-type]
        lambda given: Pool(given, Memory(budget_mib=memory_mib)),
    )
    sim.promote(version)
    return sim


@pytest.mark.parametrize(
    ("given", "story", "states"),
    [
        ({}, "park", {1: WARMING}),
        ({}, "park, started 1", {1: PARKED}),
        ({}, "close, park", {}),
        ({"version": "a"}, "park", {}),  # version "a" is not worth parking
        ({"park_s": 0}, "park", {}),
        ({"memory_mib": 511}, "park", {}),  # an instance may use at most half of the memory
        ({"memory_mib": 512}, "park", {1: WARMING}),
        # Ann's call needs too much memory, so the kernel kills it and its instance. Ben's call, a
        # minute later, must not wait for the imports.
        ({}, f"{AHEAD}, acquire, release_sick 1, gone 1, park, started 2", {2: PARKED}),
    ],
)
def test_restarts_park_one(given: dict[str, Any], story: str, states: dict[int, str]) -> None:
    sim = after_a_restart(**given).live(story)
    assert sim.states() == states
    assert not sim.short, "something is to be evicted for it"


@pytest.mark.parametrize(
    ("memory_mib", "story", "lacks_one", "lacks_one_later"),
    [
        (1024, "", True, True),
        (1024, "park", False, False),
        (1024, "acquire", False, False),  # a call already starts an instance
        (511, "park", True, True),  # the instance is started only once there is room
        (1024, f"{AHEAD}, acquire, release_sick 1, gone 1", True, True),
        # For a while, no instance is started to be parked if the last one was evicted, failed to
        # start or was ended by its module.
        (1024, f"{AHEAD}, evict 1, gone 1", False, True),
        (1024, "park, failed 1", False, True),
        (1024, f"{AHEAD}, lost 1, gone 1", False, True),
        (1024, "park, failed 1, promote a, promote c", True, True),  # a new version may be started
    ],
)
def test_when_one_is_to_be_parked(
    memory_mib: float, story: str, lacks_one: bool, lacks_one_later: bool
) -> None:
    sim = after_a_restart(memory_mib=memory_mib).live(story)
    lacks = (sim.pool.lacks_parked(sim.now), sim.pool.lacks_parked(sim.now + PARK_AGAIN_S))
    assert lacks == (lacks_one, lacks_one_later)


def test_it_counts_the_limit_while_it_is_made_and_then_what_it_uses() -> None:
    sim = after_a_restart()
    sim.park()
    assert sim.pool.counts().memory_mib == 256
    sim.started(1)
    sim.pool.measured(1, 96.5)
    assert sim.pool.counts().memory_mib == 96.5


@pytest.mark.parametrize(
    ("story", "number", "reason"),
    [
        (AHEAD, 1, ColdStartReason.FIRST),
        (f"{AHEAD}, acquire, release_sick 1, gone 1, park, started 2", 2, ColdStartReason.REPLACED),
    ],
)
def test_the_next_call_gets_the_parked_one(
    story: str, number: int, reason: ColdStartReason
) -> None:
    sim = after_a_restart().live(story)
    caller = sim.acquire()
    assert sim.answers[caller] == Assign(number, caller, cold=True)
    assert sim.pool.instances[number].reason is reason


def test_a_call_that_comes_while_one_is_made_to_be_parked_gets_that_one() -> None:
    sim = after_a_restart().live("park")
    caller = sim.acquire()
    sim.started(1)
    assert sim.answers[caller] == Assign(1, caller, cold=True)


def test_a_minimum_that_is_set_while_one_is_made_to_be_parked_has_it_ready() -> None:
    sim = after_a_restart().live("park")
    sim.set_scaling(min_instances=1)
    assert sim.live("started 1").states() == {1: READY}
