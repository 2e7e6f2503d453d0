"""The scheduler, told in examples: read from top to bottom.

A `World` stands for everything outside the pool: it starts, cleans and removes sandboxes when a
test says so, and complains about whatever breaks a promise. Instances and callers are numbered
from 1. `a_pool()` is open and serves the content "a". What deploys, updates and new targets do to a
pool is told in `test_pool_changes.py`.
"""

import pytest

from quiltfn.model.actions import (
    FULL,
    WAITED_TOO_LONG,
    Destroy,
    Fail,
    Hand,
    Refuse,
)
from quiltfn.model.pool import Pool, PoolCounts, PoolLimits, summed
from quiltfn.model.state_machine import InvalidTransition
from unit.pool_world import BUSY, READY, RECYCLING, TERMINATING, WARMING, a_pool

# A call wants an instance --------------------------------------------------------------------


def test_a_warm_call_is_handed_a_ready_instance_at_once() -> None:
    world = a_pool(ready=1)
    caller = world.acquire()
    assert world.answers[caller] == Hand(1, caller, cold=False)
    assert world.states() == {1: BUSY}


def test_of_several_ready_instances_the_one_used_last_is_handed_out() -> None:
    # Its caches are the warmest, and only so the others grow old enough to leave.
    world = a_pool(ready=2)
    first = world.acquire()
    used = world.held(first)
    world.pass_time(1)
    world.release(used)
    world.cleaned(used)
    assert world.held(world.acquire()) == used


def test_a_cold_call_has_an_instance_started_and_is_handed_it() -> None:
    world = a_pool()
    caller = world.acquire()
    assert world.states() == {1: WARMING}
    assert caller not in world.answers
    world.started(1)
    assert world.answers[caller] == Hand(1, caller, cold=True)


def test_each_cold_call_has_a_start_of_its_own_up_to_the_maximum() -> None:
    world = a_pool(max_instances=2)
    for _ in range(3):
        world.acquire()
    assert world.states() == {1: WARMING, 2: WARMING}


def test_at_the_maximum_a_call_waits_in_line_and_is_handed_what_is_given_back() -> None:
    world = a_pool(ready=1, max_instances=1)
    world.acquire()
    second, third = world.acquire(), world.acquire()
    world.release(1)
    assert not {second, third} & world.answers.keys()  # not before it is clean
    world.cleaned(1)
    assert world.answers[second] == Hand(1, second, cold=False)
    assert world.waiting.keys() == {third}


def test_a_full_line_refuses_the_next_call_at_once() -> None:
    world = a_pool(max_instances=1, line_max=2)
    world.acquire(), world.acquire()
    third = world.acquire()
    assert world.answers[third] == Refuse(third, FULL)


def test_a_call_is_refused_once_it_has_waited_for_too_long() -> None:
    world = a_pool(max_instances=1, line_wait_s=10.0)
    first = world.acquire()
    world.pass_time(6)
    second = world.acquire()
    world.pass_time(4)
    # One is in line before who comes again, and calls take at least the ten seconds it has waited.
    assert world.answers[first] == Refuse(first, WAITED_TOO_LONG, retry_s=20)
    assert second not in world.answers


def test_a_function_that_is_not_open_refuses_with_its_state() -> None:
    pool = Pool(PoolLimits())
    assert pool.acquire(1, 0.0) == [Refuse(1, "pending")]


# A call goes away ----------------------------------------------------------------------------


def test_a_call_cancelled_while_in_line_leaves_it_and_the_start_is_for_the_next() -> None:
    world = a_pool()
    caller = world.acquire()
    world.cancel(caller)
    world.started(1)
    assert world.states() == {1: READY}
    assert caller not in world.answers


def test_a_call_cancelled_in_the_tick_it_was_handed_an_instance_passes_it_on() -> None:
    # Ann's browser gives up at the very moment at which Ben's call ends: the pool has handed Ben's
    # instance to Ann, but Ann's task wakes up cancelled and never uses it. Cem is next in line; if
    # the instance were forgotten now, he and everybody after him would wait for nothing.
    world = a_pool(ready=1, max_instances=1)
    world.acquire()
    ann, cem = world.acquire(), world.acquire()
    world.release(1)
    world.cleaned(1)
    assert world.held(ann) == 1
    world.cancel(ann)
    assert world.answers[cem] == Hand(1, cem, cold=False)


def test_an_instance_that_was_handed_over_but_never_used_is_ready_without_cleaning() -> None:
    world = a_pool(ready=1)
    world.cancel(world.acquire())
    assert world.states() == {1: READY}


def test_to_cancel_a_call_that_is_not_there_is_harmless() -> None:
    world = a_pool(ready=1)
    assert world.pool.cancel(99, world.now) == []


# An instance is given back -------------------------------------------------------------------


def test_a_healthy_instance_is_recycled_and_then_ready() -> None:
    world = a_pool(ready=1)
    world.acquire()
    world.release(1)
    assert world.states() == {1: RECYCLING}
    world.cleaned(1)
    assert world.states() == {1: READY}


def test_a_sick_instance_is_destroyed_and_counts_until_it_is_gone() -> None:
    world = a_pool(ready=1, max_instances=1)
    world.acquire()
    second = world.acquire()
    world.release(1, healthy=False)
    assert world.states() == {1: TERMINATING}  # no room for another before it is gone
    world.gone(1)
    assert world.states() == {2: WARMING}
    world.started(2)
    assert world.answers[second] == Hand(2, second, cold=True)


def test_a_call_waits_five_milliseconds_for_a_recycling_instance_and_then_has_one_started() -> None:
    world = a_pool(ready=1)
    world.acquire()
    world.release(1)
    caller = world.acquire()
    assert world.states() == {1: RECYCLING}
    world.pass_time(0.004)
    assert world.states() == {1: RECYCLING}
    world.pass_time(0.001)
    assert world.states() == {1: RECYCLING, 2: WARMING}
    world.cleaned(1)  # whichever comes first is handed over
    assert world.answers[caller] == Hand(1, caller, cold=False)


def test_only_as_many_calls_wait_for_recycling_instances_as_there_are() -> None:
    world = a_pool(ready=1)
    world.acquire()
    world.release(1)
    world.acquire(), world.acquire()
    assert world.states() == {1: RECYCLING, 2: WARMING}


def test_the_wake_up_for_the_patience_is_never_asked_for_in_the_past() -> None:
    # 1000.0 + 0.005 - 1000.0 is less than 0.005 in floating point: an alarm that rings at exactly
    # the right time must find the call impatient, or it would ring again and again.
    world = a_pool(ready=1)
    world.acquire()
    world.release(1)
    world.acquire()
    (at,) = set(world.wakes)
    world.pass_time(at - world.now)
    assert 2 in world.states()


def test_an_instance_that_does_not_get_clean_is_given_up() -> None:
    world = a_pool(ready=1, recycle_s=5.0)
    world.acquire()
    world.release(1)
    world.pass_time(5)
    assert world.states() == {1: TERMINATING}
    world.cleaned(1)  # too late
    assert world.states() == {1: TERMINATING}


# An instance cannot be made ------------------------------------------------------------------


def test_a_failed_start_fails_the_first_in_line_and_nobody_else() -> None:
    world = a_pool(max_instances=1)
    first, second = world.acquire(), world.acquire()
    world.failed(1, "no such directory")
    assert world.answers[first] == Fail(first, 1, "no such directory")
    assert world.states() == {2: WARMING}  # the second has an attempt of its own
    assert second not in world.answers


def test_a_failed_start_of_the_minimum_is_tried_again_later_and_not_at_once() -> None:
    world = a_pool(min_instances=1)
    world.pass_time(1)
    world.failed(1)
    assert world.states() == {}
    world.pass_time(1)
    assert world.states() == {2: WARMING}


# Sandboxes that end by themselves ------------------------------------------------------------


@pytest.mark.parametrize("recycling", [False, True])
def test_a_lost_sandbox_is_never_handed_out(recycling: bool) -> None:
    world = a_pool(ready=1)
    if recycling:
        world.acquire()
        world.release(1)
    world.lost(1)
    assert world.states() == {1: TERMINATING}
    world.acquire()
    assert world.states() == {1: TERMINATING, 2: WARMING}


def test_a_sandbox_lost_under_a_call_is_reported_by_that_call() -> None:
    world = a_pool(ready=1)
    world.acquire()
    world.lost(1)
    assert world.states() == {1: BUSY}
    world.release(1)
    assert world.states() == {1: TERMINATING}


# The whole -----------------------------------------------------------------------------------


def test_never_more_instances_than_the_maximum_whatever_they_are_doing() -> None:
    # World complains about any start above it; here is one of each kind.
    world = a_pool(ready=3, max_instances=4)
    for _ in range(3):
        world.acquire()
    world.release(1)
    world.release(2, healthy=False)
    for _ in range(5):
        world.acquire()
    assert sorted(world.states().values()) == [BUSY, RECYCLING, TERMINATING, WARMING]


def test_counts_are_the_five_states_and_their_sum() -> None:
    one = PoolCounts(warming=1, ready=2, busy=3, recycling=4, terminating=5)
    assert one.total == 15
    assert summed([one, one, PoolCounts()]).total == 30


def test_an_event_that_cannot_be_is_a_bug_and_says_what_happened_before() -> None:
    world = a_pool(ready=1)
    with pytest.raises(InvalidTransition, match="before: started, leased"):
        world.pool.started(1, world.now)


def test_destroy_is_said_once_for_an_instance() -> None:
    world = a_pool(ready=1)
    assert world.pool.lost(1, 0.0) == [Destroy(1)]
    assert world.pool.lost(1, 0.0) == []
