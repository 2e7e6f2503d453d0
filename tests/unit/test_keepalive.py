"""Keep-alive policies, which use a function's past calls to keep or start an instance for the next
one.
"""

import math
from itertools import pairwise
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from promises import promise
from quiltfn.model import keepalive
from quiltfn.model.keepalive import (
    Fixed,
    Histogram,
    KeepAlive,
    SharedGaps,
    Window,
    is_wanted,
    next_change,
    plan,
    policy_maker,
)
from quiltfn.operator.simulate.hybrid import Hybrid

WORTH_S = 1200.0
MINUTE = 60.0
P = TypeVar("P", bound=KeepAlive)


def observed(policy: P, *minutes: float) -> P:
    for minute in minutes:
        policy.called(minute * MINUTE)
        policy.ended(minute * MINUTE + 1)
    return policy


def every(minutes: float, times: int) -> list[float]:
    return [minutes * number for number in range(times)]


def test_fixed_is_the_idle_rule_and_a_function_never_called_has_no_windows() -> None:
    assert observed(Fixed(300), 0, 7).windows() == (Window(421, 721),)
    assert Fixed(300).windows() == Histogram(WORTH_S).windows() == Hybrid(300).windows() == ()


def test_is_wanted_and_next_change_agree() -> None:
    windows = (Window(0, 10), Window(50, 70))
    assert [is_wanted(windows, at) for at in (0, 9.9, 10, 50, 70)] == [
        True,
        True,
        False,
        True,
        False,
    ]
    assert [next_change(windows, at) for at in (0, 10, 55, 70)] == [10, 50, 70, None]


@pytest.mark.parametrize("period", [10, 17, 60, 180])
def test_a_timer_is_stopped_and_started_again_just_before_its_next_call(period: int) -> None:
    policy = observed(Histogram(WORTH_S), *every(period, 12))
    last = period * 11 * MINUTE
    windows = policy.windows()
    assert is_wanted(windows, last + period * MINUTE)
    assert not is_wanted(windows, last + period * MINUTE / 2)
    until = [min(one.ends, last + period * MINUTE) - one.begins for one in windows[:2]]
    assert sum(until) <= 3 * MINUTE


def test_a_timer_that_is_half_a_minute_early_or_late_finds_its_instance() -> None:
    policy = observed(Histogram(WORTH_S), *every(20, 12))
    for seconds in (-25, 25):
        assert is_wanted(policy.windows(), 12 * 20 * MINUTE + seconds)


def test_two_timers_on_one_function_are_both_foretold() -> None:
    # Calls at :00, :07 and :31 of each hour.
    minutes = [60 * hour + minute for hour in range(8) for minute in (0, 7, 31)]
    policy = observed(Histogram(WORTH_S), *minutes)
    assert is_wanted(policy.windows(), 8 * 60 * MINUTE)
    policy = observed(policy, 480)
    assert is_wanted(policy.windows(), 487 * MINUTE)
    assert not is_wanted(policy.windows(), 484 * MINUTE)


def test_where_gaps_say_nothing_it_keeps_without_a_break() -> None:
    # Negative control: without a pattern, nothing is stopped and started ahead.
    minutes = [0, 1, 3, 8, 9, 12, 18, 19, 23, 25, 30, 31, 38, 40, 43]
    (window,) = observed(Histogram(WORTH_S), *minutes).windows()
    assert window.begins == minutes[-1] * MINUTE + 1
    assert window.ends - window.begins >= 5 * MINUTE


def test_a_dearer_cold_start_is_waited_for_longer() -> None:
    def kept(worth_s: float) -> float:
        found = observed(Histogram(worth_s), 0, 3, 11, 12, 30, 34).windows()
        return sum(one.ends - one.begins for one in found)

    assert kept(60) < kept(1200) < kept(20_000)


def test_a_new_function_learns_from_the_others() -> None:
    shared = SharedGaps()
    for _ in range(200):
        observed(Histogram(WORTH_S, shared), 0, 45)
    at = 45 * MINUTE
    assert is_wanted(observed(Histogram(WORTH_S, shared), 0).windows(), at)
    assert not is_wanted(observed(Histogram(WORTH_S), 0).windows(), at)


def test_what_others_did_long_ago_fades_and_stays_finite() -> None:
    shared = SharedGaps()
    shared.record(0, 9)
    for _ in range(30_000):
        shared.record(0, 2)
    gaps, unit = shared.gaps(0)
    assert gaps[9] / sum(gaps) < 1e-6
    assert 0 < unit <= SharedGaps.WEIGHT_MAX


def test_the_past_of_a_function_stays_small() -> None:
    policy = observed(Histogram(WORTH_S), *every(1, 10_000))
    assert policy._calls.bit_length() == keepalive.HISTORY_MINUTES


def test_hybrid_keeps_fixed_until_it_knows_and_then_prewarms() -> None:
    assert observed(Hybrid(300), 0).windows() == (Window(1, 301),)
    (window,) = observed(Hybrid(300), *every(20, 9)).windows()
    ended = 160 * MINUTE + 1
    # All idle times are 19 min 59 s, which is bin 19: from 0.9 * 19 to 1.1 * 20 minutes.
    assert window.begins == pytest.approx(ended + 0.9 * 19 * MINUTE)
    assert window.ends == pytest.approx(ended + 1.1 * 20 * MINUTE)
    # Most of these gaps are longer than those that the histogram counts.
    assert observed(Hybrid(300), *every(300, 9)).windows()[0].ends == 300 * 8 * MINUTE + 301


@promise("P9")
def test_the_plan_is_the_cheapest_of_all_plans() -> None:
    chances, costs = [0.1, 0.02, 0.5, 0.01, 0.3, 0.05], 0.09

    def priced(there: list[bool]) -> float:
        total, alive, before = 0.0, 1.0, True
        for chance, now in zip(chances, there, strict=True):
            total += alive * (costs * (now and not before))
            total += alive * (costs * (1 - chance / 2) if now else chance)
            alive, before = alive * (1 - chance), now
        return total

    plans = [[True, *(bool(n >> bit & 1) for bit in range(5))] for n in range(32)]
    best = min(plans, key=priced)
    found = [
        any(begins <= minute <= ends for begins, ends in plan(chances, costs, 0))
        for minute in range(6)
    ]
    assert priced(found) == pytest.approx(priced(best))


def test_maker_knows_its_policies_and_shares_what_is_learnt() -> None:
    assert isinstance(policy_maker("fixed", 300)(), Fixed)
    assert isinstance(policy_maker("histogram", 0)(), Fixed)
    make = policy_maker("histogram", 300)
    first, other = make(), make()
    assert isinstance(first, Histogram)
    assert isinstance(other, Histogram)
    assert first.worth_s == WORTH_S
    assert first._shared is other._shared
    with pytest.raises(ValueError, match="fixed, histogram"):
        policy_maker("lucky", 300)


GAPS_MAX = st.lists(st.tuples(st.floats(0, 40_000), st.floats(0, 2000)), min_size=1, max_size=60)


@promise("P9")
@pytest.mark.parametrize("policy", ["fixed", "histogram", "hybrid"])
@given(gaps=GAPS_MAX, idle_s=st.floats(1, 86_400))
def test_windows_are_in_order(policy: str, gaps: list[tuple[float, float]], idle_s: float) -> None:
    it = Hybrid(idle_s) if policy == "hybrid" else policy_maker(policy, idle_s)()
    at = 1e6
    for gap, took in gaps:
        at += gap
        it.called(at)
        at += took
        it.ended(at)
    edges = [edge for one in it.windows() for edge in (one.begins, one.ends)]
    assert edges
    assert all(math.isfinite(edge) and edge >= at for edge in edges)
    assert all(a < b for a, b in pairwise(edges))
    if policy == "fixed":
        assert edges == [at, at + idle_s]
