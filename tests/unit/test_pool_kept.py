"""The scheduler, continued: what is kept for a rollback, and what is parked instead of stopped."""

from quiltfn.model.actions import Hand
from quiltfn.model.cold_start import ColdStartReason
from quiltfn.model.pool import PoolCounts, PoolLimits
from unit.pool_world import BUSY, PARKED, READY, RECYCLING, TERMINATING, WARMING, World, a_pool

# Kept for a rollback -------------------------------------------------------------------------


def after_an_update(**limits: float) -> World:
    """Instance 1 is of "a" and kept, 2 is of "b" and ready."""
    world = a_pool(ready=1, **limits)
    world.prepare("b")
    world.started(2)
    world.switch("b")
    assert world.states() == {1: PARKED, 2: READY}
    return world


def test_a_kept_instance_counts_as_warming() -> None:
    assert after_an_update().pool.counts() == PoolCounts(warming=1, ready=1)


def test_the_first_call_after_a_rollback_is_warm() -> None:
    world = after_an_update()
    world.pass_time(59)
    world.prepare("a")
    assert world.stands == ["a"]
    world.switch("a")
    caller = world.acquire()
    assert world.answers[caller] == Hand(1, caller, cold=False)
    assert world.states()[2] == PARKED  # and so is the way forward again


def test_after_the_grace_it_leaves() -> None:
    world = after_an_update()
    world.pass_time(60)
    assert world.states() == {1: TERMINATING, 2: READY}


def test_where_there_is_no_grace_nothing_is_kept() -> None:
    world = a_pool(ready=1, grace_s=0.0)
    world.switch("b")
    assert world.states() == {1: TERMINATING}


def test_at_the_maximum_it_gives_way_to_a_call() -> None:
    world = after_an_update(max_instances=2)
    world.acquire()
    assert world.states() == {1: PARKED, 2: BUSY}
    world.acquire()
    assert world.states()[1] == TERMINATING


def test_at_the_maximum_it_gives_way_to_a_standby() -> None:
    world = after_an_update(max_instances=2)
    world.prepare("c")
    assert world.states() == {1: TERMINATING, 2: READY}


def test_one_that_is_still_cleaned_gives_way_too() -> None:
    # Ann's long call on the version before ends and its instance is being cleaned, to be kept. Ben
    # needs its room, and cleaning may take seconds: it is not worth waiting for.
    world = a_pool(ready=1, max_instances=2)
    world.acquire()
    world.prepare("b")
    world.started(2)
    world.switch("b")
    world.release(1)
    assert world.states() == {1: RECYCLING, 2: READY}
    world.acquire(), world.acquire()
    assert world.states()[1] == TERMINATING


def test_a_pause_ends_it() -> None:
    world = after_an_update()
    world.close()
    assert world.states() == {1: TERMINATING, 2: TERMINATING}


def test_who_waits_while_it_is_taken_back_had_a_cold_start() -> None:
    world = after_an_update()
    world.acquire()
    waiting = world.acquire()
    world.pass_time(0.001)
    world.switch("a")
    assert world.answers[waiting] == Hand(1, waiting, cold=True)


def test_one_that_is_taken_back_is_worth_something_again() -> None:
    world = World(PoolLimits())
    world.switch("a")
    caller = world.acquire()
    world.now += 0.5
    world.started(1)
    world.cancel(caller)
    world.switch("b")
    assert world.pool.instances[1].worth == 0
    world.switch("a")
    assert world.pool.instances[1].worth > 0


# Parked instead of stopped -------------------------------------------------------------------


def a_parked_one(**limits: float) -> World:
    """Instance 1 is of "c", which is worth parking."""
    world = World(PoolLimits(**limits))  # type: ignore[arg-type]
    world.switch("c")
    caller = world.acquire()
    world.started(1)
    world.cancel(caller)
    world.pass_time(300)
    assert world.states() == {1: PARKED}
    return world


def test_a_parked_one_counts_as_warming() -> None:
    assert a_parked_one().pool.counts() == PoolCounts(warming=1)


def test_the_next_call_gets_it_at_once_and_cold_since_it_was_evicted() -> None:
    world = a_parked_one()
    caller = world.acquire()
    assert world.answers[caller] == Hand(1, caller, cold=True)
    assert world.pool.instances[1].why is ColdStartReason.EVICTED


def test_the_call_after_that_is_warm() -> None:
    world = a_parked_one()
    world.acquire()
    world.release(1)
    world.cleaned(1)
    caller = world.acquire()
    assert world.answers[caller] == Hand(1, caller, cold=False)


def test_only_the_last_one_is_parked() -> None:
    world = World(PoolLimits())
    world.switch("c")
    callers = [world.acquire(), world.acquire()]
    world.started(1), world.started(2)
    for caller in callers:
        world.cancel(caller)
    world.pass_time(300)
    assert sorted(world.states().values()) == [PARKED, TERMINATING]


def test_after_its_time_it_leaves() -> None:
    world = a_parked_one(park_s=1000.0)
    world.pass_time(999)
    assert world.states() == {1: PARKED}
    world.pass_time(1)
    assert world.states() == {1: TERMINATING}


def test_it_is_taken_back_by_a_higher_minimum() -> None:
    world = a_parked_one()
    world.set_scaling(min_instances=1)
    assert world.states() == {1: READY}


def test_it_is_taken_back_by_a_deploy() -> None:
    world = a_parked_one()
    world.prepare("c")
    assert world.states() == {1: READY}
    assert world.stands == ["c"]


def test_one_that_dies_while_it_is_parked_was_no_eviction() -> None:
    world = a_parked_one()
    world.lost(1)
    world.gone(1)
    world.acquire()
    assert world.states() == {2: WARMING}
    assert world.pool.instances[2].why is ColdStartReason.REPLACED
