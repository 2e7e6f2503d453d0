"""The scheduler, continued: why an instance was started, as the call that waited for it is told."""

import pytest

from quiltfn.model.cold_start import ColdStartReason
from unit.pool_world import World, a_pool


def reason(world: World) -> ColdStartReason:
    """Of the cold start of the call that comes now."""
    caller = world.acquire()
    while caller not in world.answers:
        (world.gone if world.leaving else world.started)((world.leaving or world.starting)[0])
    assert world.answers[caller].cold  # type: ignore[union-attr]
    number = world.held(caller)
    assert number is not None
    return world.pool.instances[number].why


def test_the_first_one_since_the_start_is_the_first() -> None:
    assert reason(a_pool()) is ColdStartReason.FIRST


def test_those_that_are_started_before_any_stands_are_first_ones_too() -> None:
    world = a_pool()
    world.acquire(), world.acquire()
    assert [one.why for one in world.pool.instances.values()] == [
        ColdStartReason.FIRST,
        ColdStartReason.FIRST,
    ]


def test_after_a_start_that_failed_the_next_is_still_the_first() -> None:
    world = a_pool()
    world.acquire()
    world.failed(1)
    assert reason(world) is ColdStartReason.FIRST


def test_after_a_pause_and_a_deploy_it_begins_anew() -> None:
    world = a_pool(ready=1)
    world.close("paused")
    world.finish()
    world.switch("a")
    assert reason(world) is ColdStartReason.FIRST


def test_where_others_are_busy_it_was_scaled_out() -> None:
    world = a_pool(ready=1)
    world.acquire()
    assert reason(world) is ColdStartReason.SCALED_OUT


def test_of_another_content_it_was_updated() -> None:
    world = a_pool(ready=1)
    world.switch("b")
    assert reason(world) is ColdStartReason.UPDATED


def test_an_update_with_a_maximum_of_one_is_the_reason_of_its_cold_start() -> None:
    world = a_pool(ready=1, max_instances=1)
    world.acquire()
    world.prepare("b")
    waiting = world.acquire()
    world.release(1)
    world.gone(1)
    world.started(2)
    world.switch("b")
    assert world.held(waiting) == 2
    assert world.pool.instances[2].why is ColdStartReason.UPDATED


def test_after_the_grace_a_rollback_to_what_served_before_is_an_update() -> None:
    world = a_pool(ready=1)
    world.switch("b")
    reason(world)
    world.pass_time(60)
    world.finish()
    world.switch("a")
    assert reason(world) is ColdStartReason.UPDATED


def test_after_the_idle_rule_it_was_evicted() -> None:
    world = a_pool(ready=1, idle_s=300.0)
    world.pass_time(300)
    assert reason(world) is ColdStartReason.EVICTED


def test_after_an_update_that_could_not_stand_took_its_room_it_was_evicted() -> None:
    world = a_pool(ready=1, max_instances=1)
    world.prepare("b")
    world.gone(1)
    world.failed(2)
    assert reason(world) is ColdStartReason.EVICTED


@pytest.mark.parametrize("end", ["sick", "lost under its call", "lost idle", "never clean"])
def test_after_a_bad_end_it_was_replaced(end: str) -> None:
    world = a_pool(ready=1, recycle_s=5.0, idle_s=300.0)
    if end != "lost idle":
        world.acquire()
    if end.startswith("lost"):
        world.lost(1)
    if end != "lost idle":
        world.release(1, healthy=end != "sick")
    if end == "never clean":
        world.pass_time(5)
    assert world.leaving == [1]
    assert reason(world) is ColdStartReason.REPLACED


def test_what_counts_is_how_the_last_one_went() -> None:
    world = a_pool(ready=2, idle_s=300.0)
    world.lost(1)
    world.pass_time(300)
    assert reason(world) is ColdStartReason.EVICTED


def test_a_bad_end_beside_others_that_stand_is_no_reason() -> None:
    # They would have served the call, had they been free.
    world = a_pool(ready=2)
    world.lost(1)
    world.acquire()
    assert reason(world) is ColdStartReason.SCALED_OUT
