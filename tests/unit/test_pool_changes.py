"""Examples of how the pool handles a deploy, an update, a pause and a change of its scaling."""

from quiltfn.model.actions import Assign, Closed, Prepared, PrepareFailed, Refuse, Start
from quiltfn.model.pool import Pool, PoolCounts, PoolLimits
from unit.pool_simulation import BUSY, PARKED, READY, TERMINATING, WARMING, PoolSimulation, a_pool

# Deploy and update: prepare, then promote or abandon -----------------------------------------


def test_a_deploy_makes_instances_ready_before_the_function_is_open() -> None:
    sim = PoolSimulation(PoolLimits()).live("prepare a 2, started 1")
    assert sim.ready_digests == []
    assert sim.live("started 2").ready_digests == ["a"]
    assert sim.live("promote a").states() == {1: READY, 2: READY}


def test_a_deploy_whose_instance_cannot_be_made_fails() -> None:
    pool = Pool(PoolLimits())
    assert pool.prepare("a", 1, 0.0) == [Start(1, "a")]
    assert pool.failed(1, "no such directory", 0.0) == [PrepareFailed("a", "no such directory")]
    assert pool.prepared is None


def test_an_update_that_fails_leaves_nothing_and_the_old_version_serves_on() -> None:
    sim = a_pool(ready=1).live("prepare b 2, started 2, failed 3")
    assert sim.ready_digests == ["not b"]
    assert sim.states() == {1: READY, 2: TERMINATING}
    assert sim.held(sim.acquire()) == 1


def test_the_old_version_serves_until_the_new_one_is_promoted() -> None:
    sim = a_pool(ready=2)
    running = sim.acquire()
    sim.prepare("b")
    assert sim.held(sim.acquire()) in (1, 2)  # the old instances continue to serve
    sim.started(3)
    assert sim.ready_digests == ["b"]
    sim.promote("b")
    assert sim.held(sim.acquire()) == 3
    old = sim.held(running)
    sim.release(old)  # type: ignore[arg-type]
    sim.cleaned(old)  # type: ignore[arg-type]
    assert sim.states()[old] == PARKED  # type: ignore[index]  # the call that ran on the old version ended on it
    sim.pass_time(60)
    assert sim.states()[old] == TERMINATING  # type: ignore[index]


def test_to_prepare_the_current_version_takes_no_time() -> None:
    sim = a_pool(ready=1)
    assert sim.pool.prepare("a", 1, sim.now) == [Prepared("a")]


def test_at_the_maximum_an_idle_old_instance_gives_way_to_the_new_content() -> None:
    sim = a_pool(ready=2, max_instances=2)
    sim.prepare("b")
    (gone,) = sim.leaving
    sim.gone(gone)
    assert sorted(sim.states().values()) == [READY, WARMING]


def test_with_a_maximum_of_one_a_promotion_costs_one_cold_start_and_fails_no_call() -> None:
    sim = a_pool(ready=1, max_instances=1).live("acquire, prepare b")
    waiting = sim.acquire()
    sim.release(1)
    assert sim.states() == {1: TERMINATING}  # the instance ends although a call waits for it
    assert sim.live("gone 1, started 2").ready_digests == ["b"]
    assert waiting not in sim.answers
    sim.promote("b")
    assert sim.answers[waiting] == Assign(2, waiting, cold=True)


def test_a_version_is_prepared_with_fewer_where_busy_instances_take_its_room() -> None:
    # Two long calls hold two of four instances. Waiting for their end would keep the other two,
    # which are ready, from the waiting calls.
    sim = a_pool(ready=4, max_instances=4, min_instances=4)
    sim.live("acquire, acquire, prepare b 4")
    assert sim.ready_digests == []
    for number in sim.leaving:
        sim.gone(number)
    for number in sim.starting:
        sim.started(number)
    assert sim.ready_digests[-1] == "b"


def test_to_abandon_a_prepared_version_ends_its_instances_and_the_queue_is_served() -> None:
    sim = a_pool(ready=1, max_instances=1).live("prepare b, gone 1")
    waiting = sim.acquire()
    # Instance 2 was stopped while it was being started.
    sim.live("abandon, started 2, gone 2, started 3")
    assert sim.answers[waiting] == Assign(3, waiting, cold=True)


def test_a_promotion_abandons_another_prepared_version() -> None:
    # The current version needs the place of the prepared one. With a maximum of one, no call could
    # be served otherwise.
    sim = a_pool(max_instances=1).live("prepare b, started 1, promote a")
    assert sim.states() == {1: TERMINATING}


# Close: pause, delete, stop ------------------------------------------------------------------


def test_closing_refuses_who_waits_ends_the_idle_and_lets_the_running_finish() -> None:
    sim = a_pool(ready=1, max_instances=2)
    running = sim.acquire()
    waiting = sim.acquire()
    sim.close(Closed.PAUSED)
    assert sim.answers[waiting] == Refuse(waiting, Closed.PAUSED)
    assert sim.states() == {1: BUSY, 2: TERMINATING}
    assert sim.held(running) == 1
    sim.release(1)
    assert sim.states()[1] == TERMINATING
    late = sim.acquire()
    assert sim.answers[late] == Refuse(late, Closed.PAUSED)


def test_an_instance_stopped_while_it_was_being_made_is_removed_whether_made_or_not() -> None:
    for end in ("started", "failed"):
        assert a_pool().live(f"acquire, close, {end} 1, finish").states() == {}


# Scaling -------------------------------------------------------------------------------------


def test_a_lower_maximum_ends_idle_instances_at_once_and_busy_ones_as_they_are_given_back() -> None:
    sim = a_pool(ready=4, max_instances=4)
    first, _second = sim.acquire(), sim.acquire()
    sim.set_scaling(max_instances=1)
    assert sim.counts() == PoolCounts(busy=2, terminating=2)
    sim.release(sim.held(first))  # type: ignore[arg-type]
    assert sim.counts() == PoolCounts(busy=1, terminating=3)


def test_a_higher_maximum_starts_instances_for_the_wait_queue_at_once() -> None:
    sim = a_pool(ready=1, max_instances=1).live("acquire, acquire")
    sim.set_scaling(max_instances=2)
    assert sim.states() == {1: BUSY, 2: WARMING}


def test_a_lower_maximum_lowers_how_many_are_to_be_prepared() -> None:
    sim = PoolSimulation(PoolLimits(max_instances=4)).live("prepare a 3, started 1")
    sim.set_scaling(max_instances=1)
    sim.finish()
    assert sim.ready_digests[-1:] == ["a"]


def test_the_minimum_is_started_by_itself_and_restored_after_a_loss() -> None:
    sim = a_pool(min_instances=2).live("pass_time 0, finish")
    assert sim.counts() == PoolCounts(ready=2)
    assert sim.live("lost 1, finish, pass_time 1, finish").counts() == PoolCounts(ready=2)


def test_idle_instances_leave_after_the_idle_time_down_to_the_minimum_oldest_first() -> None:
    sim = a_pool(ready=3, min_instances=1, idle_s=300.0)
    sim.pass_time(299)
    caller = sim.acquire()
    last = sim.held(caller)
    sim.cancel(caller)
    sim.pass_time(1)
    assert {number for number, state in sim.states().items() if state == READY} == {last}
    sim.finish()
    sim.pass_time(1000)
    assert sim.states() == {last: READY}
