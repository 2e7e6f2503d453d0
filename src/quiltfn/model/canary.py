"""When a version that gets a part of the calls is taken back, judged by its own calls.

A rule allows a part of them to fail, or one of a hundred to be slower than `p99_ms`. A version is
taken back once so many did that the rule's own rate would bring about less than ONE_IN of such
samples (an exact one-sided binomial test), and at least LEAST. It is looked at after each call, so
a version that is exactly at its rate is wrongly taken back more often than that:
in some 1.3% of cases; `tests/unit/test_canary.py` holds it to 3%.
"""

import math

import msgspec

# Fewer failures say nothing, however few calls there were.
LEAST = 3
ONE_IN = 1_000
SLOW_RATE = 0.01


class RollbackRule(msgspec.Struct, frozen=True, kw_only=True):
    """`error_rate`: the part of the calls that may fail; `p99_ms`: 99 of 100 calls end within that;
    None: any. `within_s`: for how long after the alias was set this holds.
    """

    error_rate: float | None = None
    p99_ms: int | None = None
    within_s: int = 300


class CanaryCounters(msgspec.Struct):
    """What the calls of the version came to. `slow`: those that took longer than `p99_ms`."""

    calls: int = 0
    failed: int = 0
    slow: int = 0

    def add(self, rule: RollbackRule, duration_ms: int | None, *, failed: bool) -> None:
        """Counts a call that has ended."""
        self.calls += 1
        self.failed += failed
        self.slow += rule.p99_ms is not None and (duration_ms or 0) > rule.p99_ms


def verdict(rule: RollbackRule, counters: CanaryCounters) -> str | None:
    """Why the version is to be taken back, with the figures; None: it is not."""
    if rule.error_rate is not None and is_beyond(counters.failed, counters.calls, rule.error_rate):
        allowed = f"{rule.error_rate * 100:g} %"
        return f"{counters.failed} of {counters.calls} attempts failed, where {allowed} may"
    slow, calls = counters.slow, counters.calls
    if rule.p99_ms is not None and is_beyond(slow, calls, SLOW_RATE):
        return f"{slow} of {calls} attempts took longer than {rule.p99_ms} ms, where 1 % may"
    return None


def is_beyond(count: int, calls: int, rate: float) -> bool:
    """Whether so many of the calls, or more, are too unlikely at that rate."""
    return count >= LEAST and tail(count, calls, rate, 1 / ONE_IN) * ONE_IN < 1


def tail(count: int, calls: int, rate: float, enough: float = 1.0) -> float:
    """The probability of `count` or more of `calls`, each with the probability `rate`; where it is
    `enough` or more, some number from there on. It is asked for after each call, and of a million
    calls it has thousands of terms.
    """
    if count <= calls * rate:
        return 1.0  # it is a half or more, and of no interest
    logs = math.lgamma(calls + 1) - math.lgamma(count + 1) - math.lgamma(calls - count + 1)
    term = math.exp(logs + count * math.log(rate) + (calls - count) * math.log1p(-rate))
    total = 0.0
    for at in range(count, calls + 1):  # the terms become less from here on
        total += term
        if total >= enough or term < total * 1e-9:
            break
        term *= (calls - at) / (at + 1) * rate / (1 - rate)
    return total
