"""The scheduler, continued: the cold start reason that a waiting call gets."""

from typing import Any

import pytest

from promises import promise
from quiltfn.model.cold_start import ColdStartReason
from unit.pool_simulation import PoolSimulation, a_pool

pytestmark = promise("C12")

FIRST, UPDATED, EVICTED = ColdStartReason.FIRST, ColdStartReason.UPDATED, ColdStartReason.EVICTED
SCALED_OUT, REPLACED = ColdStartReason.SCALED_OUT, ColdStartReason.REPLACED


def reason(sim: PoolSimulation) -> ColdStartReason:
    """The reason for the cold start of the next call."""
    caller = sim.acquire()
    while caller not in sim.answers:
        (sim.gone if sim.leaving else sim.started)((sim.leaving or sim.starting)[0])
    assert sim.answers[caller].cold  # type: ignore[union-attr]
    number = sim.held(caller)
    assert number is not None
    return sim.pool.instances[number].reason


@pytest.mark.parametrize(
    ("limits", "story", "expected"),
    [
        ({}, "", FIRST),
        ({}, "acquire, failed 1", FIRST),
        # After a pause and a deploy, the reasons start anew.
        ({"ready": 1}, "close, finish, promote a", FIRST),
        ({"ready": 1}, "acquire", SCALED_OUT),
        ({"ready": 1}, "promote b", UPDATED),
        # After the grace period, a rollback to the previous version counts as an update.
        ({"ready": 1}, "promote b, acquire, started 2, pass_time 60, promote a", UPDATED),
        ({"ready": 1, "idle_s": 300.0}, "pass_time 300", EVICTED),
        # The instance ended since a failed update needed its place.
        ({"ready": 1, "max_instances": 1}, "prepare b, gone 1, failed 2", EVICTED),
        # An instance ends badly: while idle, by itself, during its call, or while it is cleaned.
        ({"ready": 1}, "lost 1", REPLACED),
        ({"ready": 1}, "acquire, release_sick 1", REPLACED),
        ({"ready": 1}, "acquire, lost 1, release 1", REPLACED),
        ({"ready": 1, "recycle_s": 5.0}, "acquire, release 1, pass_time 5", REPLACED),
        # Only the end of the last instance counts.
        ({"ready": 2, "idle_s": 300.0}, "lost 1, pass_time 300", EVICTED),
        # A bad end is not the reason if other instances are ready: they would have served the call
        # if they had been free.
        ({"ready": 2}, "lost 1, acquire", SCALED_OUT),
    ],
)
def test_why_an_instance_is_started(
    limits: dict[str, Any], story: str, expected: ColdStartReason
) -> None:
    assert reason(a_pool(**limits).live(story)) is expected


def test_those_that_are_started_before_any_is_ready_are_first_ones_too() -> None:
    sim = a_pool().live("acquire, acquire")
    assert [instance.reason for instance in sim.pool.instances.values()] == [FIRST, FIRST]


def test_an_update_with_a_maximum_of_one_is_the_reason_of_its_cold_start() -> None:
    sim = a_pool(ready=1, max_instances=1).live("acquire, prepare b")
    waiting = sim.acquire()
    sim.live("release 1, gone 1, started 2, promote b")
    assert sim.held(waiting) == 2
    assert sim.pool.instances[2].reason is UPDATED
