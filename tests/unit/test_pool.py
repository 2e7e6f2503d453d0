"""Examples of the scheduler, to be read from top to bottom.

`PoolSimulation` is everything outside of the pool: it starts, cleans and removes sandboxes when a
test says so, and fails if a promise is broken. Instances and callers are numbered from 1.
`a_pool()` is open and serves version "a"; `live` performs events, given by the names of their
methods. Deploys, updates and changes of scaling are in `test_pool_changes.py`.
"""

import pytest

from quiltfn.model.actions import Assign, Closed, Destroy, Fail, Full, Refuse
from quiltfn.model.pool import Pool, PoolCounts, PoolLimits, sum_counts
from quiltfn.model.state_machine import InvalidTransition
from unit.pool_simulation import BUSY, READY, RECYCLING, TERMINATING, WARMING, a_pool

# A call needs an instance --------------------------------------------------------------------


def test_a_warm_call_is_handed_a_ready_instance_at_once() -> None:
    sim = a_pool(ready=1)
    caller = sim.acquire()
    assert sim.answers[caller] == Assign(1, caller, cold=False)
    assert sim.states() == {1: BUSY}


def test_a_call_that_cannot_wait_gets_a_ready_instance_or_changes_nothing() -> None:
    sim = a_pool(ready=1, max_instances=1)
    caller = sim.acquire_at_once()
    assert caller is not None
    assert sim.answers[caller] == Assign(1, caller, cold=False)
    assert sim.acquire_at_once() is None
    waiting = sim.acquire()
    sim.release(1)
    assert sim.acquire_at_once() is None  # others have waited for it
    sim.cleaned(1)
    assert sim.held(waiting) == 1
    sim.release(1)
    assert sim.acquire_at_once() is None  # it is not clean yet
    sim.cleaned(1)
    assert sim.acquire_at_once() is not None
    closed = a_pool()
    assert closed.acquire_at_once() is None
    assert closed.states() == {}  # none was started


def test_of_several_ready_instances_the_one_used_last_is_handed_out() -> None:
    # The caches of this instance are the warmest, and only this way the other instances become idle
    # for long enough to end.
    sim = a_pool(ready=2)
    first = sim.acquire()
    used = sim.held(first)
    sim.pass_time(1)
    sim.release(used)  # type: ignore[arg-type]
    sim.cleaned(used)  # type: ignore[arg-type]
    assert sim.held(sim.acquire()) == used


def test_a_cold_call_has_an_instance_started_and_is_handed_it() -> None:
    sim = a_pool()
    caller = sim.acquire()
    assert sim.states() == {1: WARMING}
    assert caller not in sim.answers
    sim.started(1)
    assert sim.answers[caller] == Assign(1, caller, cold=True)


def test_each_cold_call_has_a_start_of_its_own_up_to_the_maximum() -> None:
    sim = a_pool(max_instances=2).live("acquire, acquire, acquire")
    assert sim.states() == {1: WARMING, 2: WARMING}


def test_at_the_maximum_a_call_waits_and_is_handed_what_is_given_back() -> None:
    sim = a_pool(ready=1, max_instances=1)
    sim.acquire()
    second, third = sim.acquire(), sim.acquire()
    sim.release(1)
    assert not {second, third} & sim.answers.keys()  # no call gets the instance before it is clean
    sim.cleaned(1)
    assert sim.answers[second] == Assign(1, second, cold=False)
    assert sim.waiting.keys() == {third}


def test_a_full_wait_queue_refuses_the_next_call_at_once() -> None:
    sim = a_pool(max_instances=1, queue_max=2).live("acquire, acquire")
    third = sim.acquire()
    assert sim.answers[third] == Refuse(third, Full.QUEUE)


def test_a_call_is_refused_once_it_has_waited_for_too_long() -> None:
    sim = a_pool(max_instances=1, queue_wait_s=10.0)
    first = sim.acquire()
    sim.pass_time(6)
    second = sim.acquire()
    sim.pass_time(4)
    # A repetition of the first call would wait behind the second one. Calls are assumed to take at
    # least the ten seconds that the first one has waited.
    assert sim.answers[first] == Refuse(first, Full.WAITED_TOO_LONG, retry_after_s=20)
    assert second not in sim.answers


def test_a_function_that_is_not_open_refuses_with_its_state() -> None:
    pool = Pool(PoolLimits())
    assert pool.acquire(1, 0.0) == [Refuse(1, Closed.PENDING)]


# A caller leaves -----------------------------------------------------------------------------


def test_a_call_cancelled_in_the_wait_queue_leaves_it_and_the_start_is_for_the_next() -> None:
    sim = a_pool().live("acquire, cancel 1, started 1")
    assert sim.states() == {1: READY}
    assert sim.answers == {}


def test_a_call_cancelled_at_its_hand_over_passes_its_instance_on() -> None:
    # Ann's caller leaves at the very moment at which Ben's call ends: the pool has handed Ben's
    # instance to Ann, but Ann's task wakes up cancelled and never uses it. Cem is next; if the
    # instance were forgotten now, Cem and all later callers would wait in vain.
    sim = a_pool(ready=1, max_instances=1)
    sim.acquire()
    ann, cem = sim.acquire(), sim.acquire()
    assert sim.live("release 1, cleaned 1").held(ann) == 1
    sim.cancel(ann)
    assert sim.answers[cem] == Assign(1, cem, cold=False)


def test_an_instance_that_was_handed_over_but_never_used_is_ready_without_cleaning() -> None:
    sim = a_pool(ready=1)
    sim.cancel(sim.acquire())
    assert sim.states() == {1: READY}


def test_to_cancel_a_call_that_is_not_there_is_harmless() -> None:
    sim = a_pool(ready=1)
    assert sim.pool.cancel(99, sim.now) == []


# An instance is released ---------------------------------------------------------------------


def test_a_healthy_instance_is_recycled_and_then_ready() -> None:
    sim = a_pool(ready=1).live("acquire, release 1")
    assert sim.states() == {1: RECYCLING}
    assert sim.live("cleaned 1").states() == {1: READY}


def test_a_sick_instance_is_destroyed_and_counts_until_it_is_gone() -> None:
    sim = a_pool(ready=1, max_instances=1)
    sim.acquire()
    second = sim.acquire()
    sim.release_sick(1)
    assert sim.states() == {1: TERMINATING}  # another instance has no room before this one is gone
    assert sim.live("gone 1").states() == {2: WARMING}
    sim.started(2)
    assert sim.answers[second] == Assign(2, second, cold=True)


def test_a_call_waits_five_milliseconds_for_a_recycling_instance_and_then_has_one_started() -> None:
    sim = a_pool(ready=1).live("acquire, release 1")
    caller = sim.acquire()
    assert sim.live("pass_time 0.004").states() == {1: RECYCLING}
    assert sim.live("pass_time 0.001").states() == {1: RECYCLING, 2: WARMING}
    sim.cleaned(1)  # the first instance to be clean is handed over
    assert sim.answers[caller] == Assign(1, caller, cold=False)


def test_only_as_many_calls_wait_for_recycling_instances_as_there_are() -> None:
    sim = a_pool(ready=1).live("acquire, release 1, acquire, acquire")
    assert sim.states() == {1: RECYCLING, 2: WARMING}


def test_the_wake_up_for_the_patience_is_never_asked_for_in_the_past() -> None:
    # 1000.0 + 0.005 - 1000.0 is less than 0.005 in floating point: a timer that fires at exactly
    # the right time must find that the call has waited long enough, or it would fire again and
    # again.
    sim = a_pool(ready=1).live("acquire, release 1, acquire")
    (at,) = set(sim.wakes)
    sim.pass_time(at - sim.now)
    assert 2 in sim.states()


def test_an_instance_that_does_not_get_clean_is_given_up() -> None:
    sim = a_pool(ready=1, recycle_s=5.0).live("acquire, release 1, pass_time 5")
    assert sim.states() == {1: TERMINATING}
    assert sim.live("cleaned 1").states() == {1: TERMINATING}  # the instance is clean too late


# An instance cannot be started ---------------------------------------------------------------


def test_a_failed_start_fails_the_first_in_the_wait_queue_and_nobody_else() -> None:
    sim = a_pool(max_instances=1)
    first, second = sim.acquire(), sim.acquire()
    sim.failed(1, "no such directory")
    assert sim.answers[first] == Fail(first, 1, "no such directory")
    assert sim.states() == {2: WARMING}  # the second call has its own attempt
    assert second not in sim.answers


def test_a_failed_start_of_the_minimum_is_tried_again_later_and_not_at_once() -> None:
    sim = a_pool(min_instances=1).live("pass_time 1, failed 1")
    assert sim.states() == {}
    assert sim.live("pass_time 1").states() == {2: WARMING}


# Sandboxes that die --------------------------------------------------------------------------


@pytest.mark.parametrize("story", ["lost 1", "acquire, release 1, lost 1"])
def test_a_lost_sandbox_is_never_handed_out(story: str) -> None:
    sim = a_pool(ready=1).live(story)
    assert sim.states() == {1: TERMINATING}
    assert sim.live("acquire").states() == {1: TERMINATING, 2: WARMING}


def test_a_sandbox_lost_under_a_call_is_reported_by_that_call() -> None:
    sim = a_pool(ready=1).live("acquire, lost 1")
    assert sim.states() == {1: BUSY}
    assert sim.live("release 1").states() == {1: TERMINATING}


# All together --------------------------------------------------------------------------------


def test_never_more_instances_than_the_maximum_whatever_they_are_doing() -> None:
    # PoolSimulation fails at any start above the maximum. The instances here are in four states.
    sim = a_pool(ready=3, max_instances=4)
    sim.live("acquire, acquire, acquire, release 1, release_sick 2")
    for _ in range(5):
        sim.acquire()
    assert sorted(sim.states().values()) == [BUSY, RECYCLING, TERMINATING, WARMING]


def test_counts_are_the_five_states_and_their_sum() -> None:
    counts = PoolCounts(warming=1, ready=2, busy=3, recycling=4, terminating=5, parked=1)
    assert counts.total == 15
    assert sum_counts([counts, counts, PoolCounts()]).total == 30
    assert sum_counts([counts, counts]).parked == 2


def test_an_event_that_cannot_be_is_a_bug_and_says_what_happened_before() -> None:
    sim = a_pool(ready=1)
    with pytest.raises(InvalidTransition, match="before: started, leased"):
        sim.pool.started(1, sim.now)


def test_destroy_is_said_once_for_an_instance() -> None:
    sim = a_pool(ready=1)
    assert sim.pool.lost(1, 0.0) == [Destroy(1)]
    assert sim.pool.lost(1, 0.0) == []
