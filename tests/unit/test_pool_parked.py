"""The scheduler, continued: what is kept for a rollback, and what is parked instead of stopped."""

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
    """Instance 1 is of "a" and kept, 2 is of "b" and ready."""
    sim = a_pool(ready=1, **limits)
    sim.prepare("b")
    sim.started(2)
    sim.promote("b")
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
    assert sim.states()[2] == PARKED  # and so is the way forward again


def test_after_the_grace_it_leaves() -> None:
    sim = after_an_update()
    sim.pass_time(60)
    assert sim.states() == {1: TERMINATING, 2: READY}


def test_where_there_is_no_grace_nothing_is_kept() -> None:
    sim = a_pool(ready=1, grace_s=0.0)
    sim.promote("b")
    assert sim.states() == {1: TERMINATING}


def test_at_the_maximum_it_gives_way_to_a_call() -> None:
    sim = after_an_update(max_instances=2)
    sim.acquire()
    assert sim.states() == {1: PARKED, 2: BUSY}
    sim.acquire()
    assert sim.states()[1] == TERMINATING


def test_at_the_maximum_it_gives_way_to_a_prepared_version() -> None:
    sim = after_an_update(max_instances=2)
    sim.prepare("c")
    assert sim.states() == {1: TERMINATING, 2: READY}


def test_one_that_is_still_cleaned_gives_way_too() -> None:
    # Ann's long call on the version before ends and its instance is being cleaned, to be kept. Ben
    # needs its room, and cleaning may take seconds: it is not worth waiting for.
    sim = a_pool(ready=1, max_instances=2)
    sim.acquire()
    sim.prepare("b")
    sim.started(2)
    sim.promote("b")
    sim.release(1)
    assert sim.states() == {1: RECYCLING, 2: READY}
    sim.acquire(), sim.acquire()
    assert sim.states()[1] == TERMINATING


def test_a_pause_ends_it() -> None:
    sim = after_an_update()
    sim.close()
    assert sim.states() == {1: TERMINATING, 2: TERMINATING}


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
    """Instance 1 is of "c", which is worth parking."""
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


def test_the_call_after_that_is_warm() -> None:
    sim = a_parked_one()
    sim.acquire()
    sim.release(1)
    sim.cleaned(1)
    caller = sim.acquire()
    assert sim.answers[caller] == Assign(1, caller, cold=False)


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
    sim.pass_time(999)
    assert sim.states() == {1: PARKED}
    sim.pass_time(1)
    assert sim.states() == {1: TERMINATING}


def test_it_is_taken_back_by_a_higher_minimum() -> None:
    sim = a_parked_one()
    sim.set_scaling(min_instances=1)
    assert sim.states() == {1: READY}


def test_it_is_taken_back_by_a_deploy() -> None:
    sim = a_parked_one()
    sim.prepare("c")
    assert sim.states() == {1: READY}
    assert sim.ready_digests == ["c"]


def test_one_that_dies_while_it_is_parked_was_no_eviction() -> None:
    sim = a_parked_one()
    sim.lost(1)
    sim.gone(1)
    sim.acquire()
    assert sim.states() == {2: WARMING}
    assert sim.pool.instances[2].reason is ColdStartReason.REPLACED


# Started only to be parked -------------------------------------------------------------------


def after_a_restart(
    version: str = "c", memory_mib: float = 1024, **limits: float
) -> PoolSimulation:
    """Version "c", which is worth parking, serves, and there is no instance yet."""
    sim = PoolSimulation(
        PoolLimits(**limits),  # type: ignore[arg-type]
        lambda given: Pool(given, Memory(budget_mib=memory_mib)),
    )
    sim.promote(version)
    return sim


def one_that_was_parked_ahead(**limits: float) -> PoolSimulation:
    sim = after_a_restart("c", 1024, **limits)
    sim.park()
    sim.started(1)
    assert sim.states() == {1: PARKED}
    return sim


def test_after_a_restart_one_is_started_and_parked() -> None:
    sim = after_a_restart()
    assert sim.pool.lacks_parked(sim.now)
    sim.park()
    assert sim.states() == {1: WARMING}
    assert not sim.pool.lacks_parked(sim.now)
    sim.started(1)
    assert sim.states() == {1: PARKED}


def test_it_counts_the_limit_while_it_is_made_and_then_what_it_uses() -> None:
    sim = after_a_restart()
    sim.park()
    assert sim.pool.counts().memory_mib == 256
    sim.started(1)
    sim.pool.measured(1, 96.5)
    assert sim.pool.counts().memory_mib == 96.5


def test_the_first_call_gets_what_was_parked_ahead_and_was_the_first() -> None:
    sim = one_that_was_parked_ahead()
    caller = sim.acquire()
    assert sim.answers[caller] == Assign(1, caller, cold=True)
    assert sim.pool.instances[1].reason is ColdStartReason.FIRST


def test_a_call_that_comes_while_one_is_made_to_be_parked_gets_that_one() -> None:
    sim = after_a_restart()
    sim.park()
    caller = sim.acquire()
    sim.started(1)
    assert sim.answers[caller] == Assign(1, caller, cold=True)
    assert sim.states() == {1: BUSY}


def test_a_minimum_that_is_set_while_one_is_made_to_be_parked_has_it_ready() -> None:
    sim = after_a_restart()
    sim.park()
    sim.set_scaling(min_instances=1)
    sim.started(1)
    assert sim.states() == {1: READY}


def test_none_is_started_where_versions_are_not_worth_parking() -> None:
    sim = after_a_restart(version="a")
    sim.park()
    assert sim.states() == {}


def test_none_is_started_where_nothing_is_parked() -> None:
    sim = after_a_restart(park_s=0)
    sim.park()
    assert sim.states() == {}


def test_none_is_started_beside_one_that_serves() -> None:
    sim = after_a_restart()
    sim.acquire()
    assert not sim.pool.lacks_parked(sim.now)


def test_none_is_started_beyond_half_of_the_memory() -> None:
    sim = after_a_restart(memory_mib=511)
    sim.park()
    assert sim.states() == {}
    assert sim.pool.lacks_parked(sim.now)  # it is started once there is room
    assert not sim.short  # and nothing is evicted for it
    sim.pool.memory.budget_mib = 512
    sim.park()
    assert sim.states() == {1: WARMING}


def test_after_a_call_that_failed_one_is_parked_again() -> None:
    # Ann's call needs too much memory and the kernel kills it, and the instance with it. Ben's
    # call, a minute later, must not wait for the imports.
    sim = one_that_was_parked_ahead()
    sim.acquire()
    sim.release(1, healthy=False)
    sim.gone(1)
    assert sim.pool.lacks_parked(sim.now)
    sim.park()
    sim.started(2)
    assert sim.states() == {2: PARKED}
    sim.acquire()
    assert sim.pool.instances[2].reason is ColdStartReason.REPLACED


def test_what_was_evicted_is_not_parked_again_for_a_while() -> None:
    sim = one_that_was_parked_ahead()
    sim.evict(1)
    sim.gone(1)
    assert not sim.pool.lacks_parked(sim.now)
    assert sim.pool.lacks_parked(sim.now + PARK_AGAIN_S)


def test_a_start_that_failed_is_not_repeated_for_a_while() -> None:
    sim = after_a_restart()
    sim.park()
    sim.failed(1)
    assert not sim.pool.lacks_parked(sim.now)
    assert sim.pool.lacks_parked(sim.now + PARK_AGAIN_S)


def test_nor_is_one_whose_module_ends_it() -> None:
    sim = one_that_was_parked_ahead()
    sim.lost(1)
    sim.gone(1)
    assert not sim.pool.lacks_parked(sim.now)


def test_a_new_version_may_be_parked_at_once() -> None:
    sim = after_a_restart()
    sim.park()
    sim.failed(1)
    sim.promote("a")
    sim.promote("c")
    assert sim.pool.lacks_parked(sim.now)


def test_after_a_pause_none_is_started() -> None:
    sim = after_a_restart()
    sim.close()
    sim.park()
    assert sim.states() == {}
