"""The scheduler, continued: deploy, update, pause and new targets, told in examples."""

from quiltfn.model.actions import (
    CannotStand,
    Hand,
    Refuse,
    Stands,
    Start,
)
from quiltfn.model.pool import Pool, PoolCounts, PoolLimits
from unit.pool_world import BUSY, PARKED, READY, TERMINATING, WARMING, World, a_pool

# Deploy and update: prepare, then switch or abandon ------------------------------------------


def test_a_deploy_makes_instances_ready_before_the_function_is_open() -> None:
    world = World(PoolLimits())
    world.prepare("a", 2)
    world.started(1)
    assert world.stands == []
    world.started(2)
    assert world.stands == ["a"]
    world.switch("a")
    assert world.states() == {1: READY, 2: READY}


def test_a_deploy_whose_instance_cannot_be_made_does_not_stand() -> None:
    pool = Pool(PoolLimits())
    assert pool.prepare("a", 1, 0.0) == [Start(1, "a")]
    assert pool.failed(1, "no such directory", 0.0) == [CannotStand("a", "no such directory")]
    assert pool.standby is None


def test_of_an_update_that_cannot_stand_nothing_is_left_and_the_old_content_serves_on() -> None:
    world = a_pool(ready=1)
    world.prepare("b", 2)
    world.started(2)
    world.failed(3)
    assert world.stands == ["not b"]
    assert world.states() == {1: READY, 2: TERMINATING}
    assert world.held(world.acquire()) == 1


def test_an_update_serves_with_the_old_until_the_new_stands_and_then_switches() -> None:
    world = a_pool(ready=2)
    running = world.acquire()
    world.prepare("b")
    assert world.held(world.acquire()) in (1, 2)  # the old ones go on serving
    world.started(3)
    assert world.stands == ["b"]
    world.switch("b")
    assert world.held(world.acquire()) == 3
    old = world.held(running)
    world.release(old)
    world.cleaned(old)
    assert world.states()[old] == PARKED  # who ran on the old content ended on it
    world.pass_time(60)
    assert world.states()[old] == TERMINATING


def test_to_prepare_what_already_serves_stands_at_once() -> None:
    world = a_pool(ready=1)
    assert world.pool.prepare("a", 1, world.now) == [Stands("a")]


def test_at_the_maximum_an_idle_old_instance_gives_way_to_the_new_content() -> None:
    world = a_pool(ready=2, max_instances=2)
    world.prepare("b")
    (gone,) = world.leaving
    world.gone(gone)
    assert sorted(world.states().values()) == [READY, WARMING]


def test_with_a_maximum_of_one_a_switch_costs_one_cold_start_and_fails_no_call() -> None:
    world = a_pool(ready=1, max_instances=1)
    world.acquire()
    world.prepare("b")
    waiting = world.acquire()
    world.release(1)
    assert world.states() == {1: TERMINATING}  # it gives way although somebody waits for it
    world.gone(1)
    world.started(2)
    assert world.stands == ["b"]
    assert waiting not in world.answers
    world.switch("b")
    assert world.answers[waiting] == Hand(2, waiting, cold=True)


def test_a_standby_stands_with_fewer_where_only_busy_instances_are_in_its_way() -> None:
    # Two long calls hold two of four instances: to wait for them would keep the other two, which
    # stand by already, from a line of callers.
    world = a_pool(ready=4, max_instances=4, min_instances=4)
    world.acquire(), world.acquire()
    world.prepare("b", 4)
    assert world.stands == []
    for number in world.leaving:
        world.gone(number)
    for number in world.starting:
        world.started(number)
    assert world.stands[-1] == "b"


def test_to_abandon_a_standby_ends_its_instances_and_serves_the_line_as_before() -> None:
    world = a_pool(ready=1, max_instances=1)
    world.prepare("b")
    world.gone(1)
    waiting = world.acquire()
    world.abandon()
    world.started(2)  # it was stopped while it was being made
    world.gone(2)
    world.started(3)
    assert world.answers[waiting] == Hand(3, waiting, cold=True)


def test_a_switch_gives_up_whatever_else_stood_by() -> None:
    # Its place is in the way of what serves: with a maximum of one, of everything.
    world = a_pool(max_instances=1)
    world.prepare("b")
    world.started(1)
    world.switch("a")
    assert world.states() == {1: TERMINATING}


# Close: pause, delete, stop ------------------------------------------------------------------


def test_closing_refuses_who_waits_ends_the_idle_and_lets_the_running_finish() -> None:
    world = a_pool(ready=1, max_instances=2)
    running = world.acquire()
    waiting = world.acquire()
    world.close("paused")
    assert world.answers[waiting] == Refuse(waiting, "paused")
    assert world.states() == {1: BUSY, 2: TERMINATING}
    assert world.held(running) == 1
    world.release(1)
    assert world.states()[1] == TERMINATING
    late = world.acquire()
    assert world.answers[late] == Refuse(late, "paused")


def test_an_instance_stopped_while_it_was_being_made_is_removed_whether_made_or_not() -> None:
    for end in (World.started, World.failed):
        world = a_pool()
        world.acquire()
        world.close()
        end(world, 1)
        world.finish()
        assert world.states() == {}


# Targets -------------------------------------------------------------------------------------


def test_a_lower_maximum_ends_idle_instances_at_once_and_busy_ones_as_they_are_given_back() -> None:
    world = a_pool(ready=4, max_instances=4)
    first, _second = world.acquire(), world.acquire()
    world.set_scaling(max_instances=1)
    assert world.pool.counts() == PoolCounts(busy=2, terminating=2)
    world.release(world.held(first))
    assert world.pool.counts() == PoolCounts(busy=1, terminating=3)


def test_a_higher_maximum_starts_instances_for_the_line_at_once() -> None:
    world = a_pool(ready=1, max_instances=1)
    world.acquire(), world.acquire()
    world.set_scaling(max_instances=2)
    assert world.states() == {1: BUSY, 2: WARMING}


def test_a_maximum_that_shrinks_below_what_was_to_stand_asks_for_no_more_than_it() -> None:
    world = World(PoolLimits(max_instances=4))
    world.prepare("a", 3)
    world.started(1)
    world.set_scaling(max_instances=1)
    world.finish()
    assert world.stands[-1:] == ["a"]


def test_the_minimum_is_started_by_itself_and_restored_after_a_loss() -> None:
    world = a_pool(min_instances=2)
    world.pass_time(0)
    world.finish()
    assert world.pool.counts() == PoolCounts(ready=2)
    world.lost(1)
    world.finish()
    world.pass_time(1)
    world.finish()
    assert world.pool.counts() == PoolCounts(ready=2)


def test_idle_instances_leave_after_the_idle_time_down_to_the_minimum_oldest_first() -> None:
    world = a_pool(ready=3, min_instances=1, idle_s=300.0)
    world.pass_time(299)
    caller = world.acquire()
    last = world.held(caller)
    world.cancel(caller)
    world.pass_time(1)
    assert {number for number, state in world.states().items() if state == READY} == {last}
    world.finish()
    world.pass_time(1000)
    assert world.states() == {last: READY}
