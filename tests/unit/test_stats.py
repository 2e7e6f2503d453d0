"""Statistics of calls: what is counted, percentiles, and aggregation."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promises import promise
from quiltfn.model.invocation import Invocation, Status, WorkOutcome
from quiltfn.model.stats import (
    ERROR_MAX,
    KEPT_S,
    STEPS,
    CallStats,
    Stretch,
    bin_of,
    folded,
    folded_before,
    middle_us,
    next_step,
    of_ended,
)
from quiltfn.model.timeline import Timeline
from quiltfn.ports import FunctionCounters

NOW = 1_760_000_000
FINAL = [one for one in Status if one not in (Status.QUEUED, Status.RUNNING)]
DAY_US = 86_400_000_000
LATENCIES = st.integers(1, DAY_US)


def a_call(**changes: Any) -> Invocation:
    record = Invocation(
        invocation_id="c",
        tenant_id="acme",
        function_id="f",
        function_name="hello",
        execution_node_id="node-1",
        status=Status.SUCCESS,
        ended_at=NOW + 13,
        duration_ms=2,
        memory_mib=512,
        timeline=Timeline(None, 100, 0, 0, 1200, 50),
    )
    return msgspec.structs.replace(record, **changes)


def test_a_call_is_counted_with_its_latency_and_its_memory() -> None:
    stats = CallStats()
    stats.add_ended(a_call())
    stats.add_ended(a_call(status=Status.FAILED, cold_start=True))
    assert (stats.calls, stats.count, stats.errors) == ({"success": 1, "failed": 1}, 2, 1)
    assert stats.cold_starts == 1
    assert stats.mib_ms == 2 * 512 * 2
    assert stats.gb_seconds == pytest.approx(2 * 0.5 * 0.002)
    # Percentiles are more exact than a millisecond, like the timeline. The record rounds up to two
    # milliseconds.
    median, high = stats.percentiles_ms(0.5, 0.99)
    assert median == high == pytest.approx(1.35, rel=ERROR_MAX)


@promise("U17")
@pytest.mark.parametrize(
    ("changes", "errors"),
    [
        ({"http_status": 200}, 0),
        ({"http_status": 404}, 0),
        ({"http_status": 500}, 1),
        ({"http_status": 599}, 1),
        ({"http_status": 500, "status": Status.FAILED}, 1),
        ({"http_status": 200, "status": Status.FAILED}, 1),
        ({"status": Status.CANCELLED}, 1),
    ],
)
def test_a_success_with_a_status_from_500_is_an_error(changes: dict[str, Any], errors: int) -> None:
    record, stats, counters = a_call(**changes), CallStats(), FunctionCounters()
    stats.add_ended(record)
    stats.add(stats)
    counters.count(record)
    assert record.is_error == bool(errors)
    assert (stats.count, stats.errors, counters.error_count) == (2, 2 * errors, errors)
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(stats), type=CallStats)
    assert kept == stats


def test_statistics_of_releases_before_are_read() -> None:
    before = [{"success": 2}, 1, {3: 2}, 8, 9, 1, 4]
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(before), type=CallStats)
    assert (kept.count, kept.errors, kept.queued) == (2, 0, 4)


def test_a_call_without_a_timeline_has_its_duration_and_one_without_either_no_latency() -> None:
    stats = CallStats()
    stats.add_ended(a_call(status=Status.INTERRUPTED, timeline=None, duration_ms=None))
    assert (stats.count, stats.latency, stats.mib_ms) == (1, {}, 0)
    assert stats.percentiles_ms(0.5, 0.99) == [None, None]
    stats.add_ended(a_call(timeline=None, duration_ms=40))
    assert stats.percentiles_ms(0.5) == [pytest.approx(40, rel=ERROR_MAX)]


@given(LATENCIES)
def test_a_latency_is_within_five_percent_of_its_bin(latency: int) -> None:
    assert abs(middle_us(bin_of(latency)) - latency) <= ERROR_MAX * latency * (1 + 1e-9)


def test_a_day_and_a_microsecond_have_some_260_bins_between_them() -> None:
    assert bin_of(1) == bin_of(0) == 0
    assert bin_of(DAY_US) < 260


@promise("D37")
@given(st.lists(LATENCIES, min_size=1, max_size=200), st.floats(0.01, 1))
def test_a_percentile_is_near_the_call_of_that_rank(latencies: Sequence[int], share: float) -> None:
    stats = CallStats()
    for latency in latencies:
        stats.latency[bin_of(latency)] = stats.latency.get(bin_of(latency), 0) + 1
    truth = sorted(latencies)[math.ceil(share * len(latencies) - 1e-9) - 1]
    (estimate,) = stats.percentiles_ms(share)
    assert estimate is not None
    assert abs(estimate * 1000 - truth) <= ERROR_MAX * truth * (1 + 1e-9) + 0.5 + 1e-6


def test_the_bound_of_a_percentile_can_be_missed() -> None:
    """Negative control: with bins twice as wide, the same check fails."""
    wide = [2 * GROWTH_OF_TWO**at / (GROWTH_OF_TWO + 1) for at in range(40)]
    latency = GROWTH_OF_TWO**20  # the latency is at the end of a bin
    assert min(abs(one - latency) for one in wide) > ERROR_MAX * latency


GROWTH_OF_TWO = ((1 + ERROR_MAX) / (1 - ERROR_MAX)) ** 2

ENDED = st.lists(
    st.builds(
        a_call,
        status=st.sampled_from(FINAL),
        function_id=st.sampled_from(["f", "g"]),
        tenant_id=st.sampled_from(["acme", "umbrella"]),
        ended_at=st.integers(NOW, NOW + 7200),
        duration_ms=st.none() | st.integers(0, 86_400_000),
        cold_start=st.booleans(),
        memory_mib=st.integers(0, 4096),
        timeline=st.none() | st.builds(Timeline, st.none(), *[LATENCIES] * 5),
        outcome=st.none() | st.just(WorkOutcome(retry_at_ms=NOW)),
    ),
    max_size=40,
)


def whole(sums: dict[Stretch, CallStats]) -> dict[tuple[str, str], CallStats]:
    """The totals of each function over the whole time."""
    found: dict[tuple[str, str], CallStats] = {}
    for key, stats in sums.items():
        found.setdefault((key.tenant_id, key.function_id), CallStats()).add(stats)
    return found


@given(ENDED, st.integers(0, 40))
def test_adding_up_in_parts_is_adding_up_at_once(ended: list[Invocation], cut: int) -> None:
    parts, at_once = of_ended(ended[:cut]), of_ended(ended)
    for key, stats in of_ended(ended[cut:]).items():
        parts.setdefault(key, CallStats()).add(stats)
    assert parts == at_once


@given(ENDED)
def test_folding_step_by_step_loses_nothing(ended: list[Invocation]) -> None:
    sums = of_ended(ended)
    truth = whole(sums)
    for step in STEPS[1:]:
        sums = folded(sums.items(), step)
        assert whole(sums) == truth
        assert all(key.step_s == step and key.start % step == 0 for key in sums)
    calls = sum(one.count for one in truth.values())
    assert calls == sum(one.is_final for one in ended)


@given(ENDED)
def test_what_is_encoded_is_read_back(ended: list[Invocation]) -> None:
    for stats in of_ended(ended).values():
        text = msgspec.msgpack.encode(stats)
        assert msgspec.msgpack.decode(text, type=CallStats) == stats


@given(st.integers(NOW, NOW + 10**8))
def test_steps_nest_and_what_is_folded_is_a_whole_number_of_the_next(now: int) -> None:
    for step in STEPS:
        longer = next_step(step)
        before = folded_before(step, now)
        assert now - KEPT_S[step] - (longer or step) < before <= now - KEPT_S[step]
        if longer is not None:
            assert longer % step == 0
            assert before % longer == 0
            assert KEPT_S[longer] > KEPT_S[step]
    assert next_step(STEPS[-1]) is None
