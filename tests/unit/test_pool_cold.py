"""The scheduler, continued: why an instance was started, as the call that waited for it is told."""

import pytest

from promises import promise
from quiltfn.model.cold_start import ColdStartReason
from unit.pool_simulation import PoolSimulation, a_pool

pytestmark = promise("C12")


def reason(sim: PoolSimulation) -> ColdStartReason:
    """Of the cold start of the call that comes now."""
    caller = sim.acquire()
    while caller not in sim.answers:
        (sim.gone if sim.leaving else sim.started)((sim.leaving or sim.starting)[0])
    assert sim.answers[caller].cold  # type: ignore[union-attr]
    number = sim.held(caller)
    assert number is not None
    return sim.pool.instances[number].reason


def test_the_first_one_since_the_start_is_the_first() -> None:
    assert reason(a_pool()) is ColdStartReason.FIRST


def test_those_that_are_started_before_any_is_ready_are_first_ones_too() -> None:
    sim = a_pool()
    sim.acquire(), sim.acquire()
    assert [one.reason for one in sim.pool.instances.values()] == [
        ColdStartReason.FIRST,
        ColdStartReason.FIRST,
    ]


def test_after_a_start_that_failed_the_next_is_still_the_first() -> None:
    sim = a_pool()
    sim.acquire()
    sim.failed(1)
    assert reason(sim) is ColdStartReason.FIRST


def test_after_a_pause_and_a_deploy_it_begins_anew() -> None:
    sim = a_pool(ready=1)
    sim.close("paused")
    sim.finish()
    sim.promote("a")
    assert reason(sim) is ColdStartReason.FIRST


def test_where_others_are_busy_it_was_scaled_out() -> None:
    sim = a_pool(ready=1)
    sim.acquire()
    assert reason(sim) is ColdStartReason.SCALED_OUT


def test_of_another_content_it_was_updated() -> None:
    sim = a_pool(ready=1)
    sim.promote("b")
    assert reason(sim) is ColdStartReason.UPDATED


def test_an_update_with_a_maximum_of_one_is_the_reason_of_its_cold_start() -> None:
    sim = a_pool(ready=1, max_instances=1)
    sim.acquire()
    sim.prepare("b")
    waiting = sim.acquire()
    sim.release(1)
    sim.gone(1)
    sim.started(2)
    sim.promote("b")
    assert sim.held(waiting) == 2
    assert sim.pool.instances[2].reason is ColdStartReason.UPDATED


def test_after_the_grace_a_rollback_to_what_served_before_is_an_update() -> None:
    sim = a_pool(ready=1)
    sim.promote("b")
    reason(sim)
    sim.pass_time(60)
    sim.finish()
    sim.promote("a")
    assert reason(sim) is ColdStartReason.UPDATED


def test_after_the_idle_rule_it_was_evicted() -> None:
    sim = a_pool(ready=1, idle_s=300.0)
    sim.pass_time(300)
    assert reason(sim) is ColdStartReason.EVICTED


def test_after_an_update_that_failed_took_its_room_it_was_evicted() -> None:
    sim = a_pool(ready=1, max_instances=1)
    sim.prepare("b")
    sim.gone(1)
    sim.failed(2)
    assert reason(sim) is ColdStartReason.EVICTED


@pytest.mark.parametrize("end", ["sick", "lost under its call", "lost idle", "never clean"])
def test_after_a_bad_end_it_was_replaced(end: str) -> None:
    sim = a_pool(ready=1, recycle_s=5.0, idle_s=300.0)
    if end != "lost idle":
        sim.acquire()
    if end.startswith("lost"):
        sim.lost(1)
    if end != "lost idle":
        sim.release(1, healthy=end != "sick")
    if end == "never clean":
        sim.pass_time(5)
    assert sim.leaving == [1]
    assert reason(sim) is ColdStartReason.REPLACED


def test_what_counts_is_how_the_last_one_went() -> None:
    sim = a_pool(ready=2, idle_s=300.0)
    sim.lost(1)
    sim.pass_time(300)
    assert reason(sim) is ColdStartReason.EVICTED


def test_a_bad_end_beside_others_that_are_ready_is_no_reason() -> None:
    # They would have served the call, had they been free.
    sim = a_pool(ready=2)
    sim.lost(1)
    sim.acquire()
    assert reason(sim) is ColdStartReason.SCALED_OUT
