"""When a version is rolled back because of its own calls."""

import math
import random

import pytest

from promises import promise
from quiltfn.model.canary import (
    LEAST,
    ONE_IN,
    CanaryCounters,
    RollbackRule,
    is_beyond,
    tail,
    verdict,
)

pytestmark = promise("W23")

RULE = RollbackRule(error_rate=0.05)


def calls_until_taken_back(failing: float, seed: int, most: int = 2_000) -> int | None:
    """How many calls RULE takes until it rolls a version back, if the share `failing` of them
    fails. None: it never does.
    """
    dice, counters = random.Random(seed), CanaryCounters()
    for number in range(1, most + 1):
        counters.add(RULE, 1, failed=dice.random() < failing)
        if verdict(RULE, counters) is not None:
            return number
    return None


@pytest.mark.parametrize(("calls", "rate"), [(1, 0.5), (20, 0.05), (300, 0.01), (40, 0.9)])
def test_the_tail_is_that_of_the_binomial_distribution(calls: int, rate: float) -> None:
    for count in range(math.floor(calls * rate) + 1, calls + 1):
        exact = sum(
            math.comb(calls, at) * rate**at * (1 - rate) ** (calls - at)
            for at in range(count, calls + 1)
        )
        assert tail(count, calls, rate) == pytest.approx(exact, rel=1e-6)


def test_the_tail_of_many_calls_is_found() -> None:
    assert 0 < tail(5_300, 100_000, 0.05) < 1e-4
    assert tail(5_000, 100_000, 0.05) == 1.0
    assert tail(100_000, 100_000, 0.001) == 0.0  # the result is smaller than the smallest float


@pytest.mark.parametrize("calls", [10_000, 1_000_000])
def test_what_is_asked_after_each_call_is_told_after_few_terms(calls: int) -> None:
    asked = 0

    class Calls(int):
        """A number that counts the terms of the sum: each term subtracts from it once."""

        def __sub__(self, other: int) -> int:
            nonlocal asked
            asked += 1
            return int(self) - other

    for sigmas in (0.1, 1.0, 2.0):
        count = round(calls / 2 + sigmas * math.sqrt(calls) / 2)
        assert tail(count, Calls(calls), 0.5, 1 / ONE_IN) >= 1 / ONE_IN
        assert not is_beyond(count, calls, 0.5)
    assert asked < math.sqrt(calls)


def test_less_than_three_failures_say_nothing() -> None:
    assert calls_until_taken_back(1.0, seed=1) == LEAST
    assert not is_beyond(LEAST - 1, LEAST - 1, 0.001)
    assert not is_beyond(LEAST, LEAST, 0.5)


def test_a_version_that_fails_four_times_as_often_as_it_may_is_taken_back_soon() -> None:
    found = [calls_until_taken_back(0.2, seed) for seed in range(200)]
    taken = [one for one in found if one is not None]
    assert len(taken) == len(found)
    assert sorted(taken)[100] < 60
    assert max(taken) < 400


def test_noise_seldom_takes_a_version_back() -> None:
    """Of 500 versions that fail exactly as often as allowed, and are checked after each of 2,000
    calls, only few are rolled back.
    """
    assert sum(calls_until_taken_back(0.05, seed) is not None for seed in range(500)) <= 15
    assert all(calls_until_taken_back(0.02, seed) is None for seed in range(100))


def test_slow_calls_take_a_version_back_as_well() -> None:
    rule, counters = RollbackRule(p99_ms=100), CanaryCounters()
    for number in range(200):
        counters.add(rule, 100, failed=number % 2 == 0)
    assert verdict(rule, counters) is None, "failures are not its rule, and 100 ms are not slow"
    for _ in range(10):
        counters.add(rule, 101, failed=False)
    reason = "10 of 210 attempts took longer than 100 ms, where 1 % may"
    assert verdict(rule, counters) == reason


def test_the_verdict_has_the_figures() -> None:
    assert (
        verdict(RULE, CanaryCounters(calls=9, failed=7)) == "7 of 9 attempts failed, where 5 % may"
    )
    assert verdict(RULE, CanaryCounters(calls=9, failed=1)) is None
