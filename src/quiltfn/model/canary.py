"""Decides from a canary's own invocations when it is rolled back.

A rule allows a share of invocations to fail, or one in a hundred to be slower than `p99_ms`. A
version is rolled back if LEAST or more invocations break the rule, and if a version at exactly the
allowed rate would have that many in less than one of ONE_IN samples (an exact one-sided binomial
test). The test is repeated after each invocation, so a version at exactly the allowed rate is
wrongly rolled back more often, in some 1.3% of cases. `tests/unit/test_canary.py` limits that to
3%.
"""

import math

import msgspec

# Fewer failures are never significant, even among very few invocations.
LEAST = 3
ONE_IN = 1_000
SLOW_RATE = 0.01


class RollbackRule(msgspec.Struct, frozen=True, kw_only=True):
    """`error_rate`: the share of invocations that may fail; `p99_ms`: the time within which 99 of
    100 invocations must end; None: no limit. `within_s`: the rule applies for this long after the
    alias was set.
    """

    error_rate: float | None = None
    p99_ms: int | None = None
    within_s: int = 300


class CanaryCounters(msgspec.Struct):
    """Counts of a version's invocations. `slow`: those that took longer than `p99_ms`."""

    calls: int = 0
    failed: int = 0
    slow: int = 0

    def add(self, rule: RollbackRule, duration_ms: int | None, *, failed: bool) -> None:
        """Counts an ended invocation."""
        self.calls += 1
        self.failed += failed
        self.slow += rule.p99_ms is not None and (duration_ms or 0) > rule.p99_ms


def verdict(rule: RollbackRule, counters: CanaryCounters) -> str | None:
    """Why the version must be rolled back, with the figures; None: it may stay."""
    if rule.error_rate is not None and is_beyond(counters.failed, counters.calls, rule.error_rate):
        allowed = f"{rule.error_rate * 100:g} %"
        return f"{counters.failed} of {counters.calls} attempts failed, where {allowed} may"
    slow, calls = counters.slow, counters.calls
    if rule.p99_ms is not None and is_beyond(slow, calls, SLOW_RATE):
        return f"{slow} of {calls} attempts took longer than {rule.p99_ms} ms, where 1 % may"
    return None


def is_beyond(count: int, calls: int, rate: float) -> bool:
    """Whether `count` or more out of `calls` are too unlikely at this rate."""
    return count >= LEAST and tail(count, calls, rate, 1 / ONE_IN) * ONE_IN < 1


def tail(count: int, calls: int, rate: float, enough: float = 1.0) -> float:
    """The probability that an event of the probability `rate` happens `count` times or more in
    `calls`. If it reaches `enough`, the result is any number from `enough` on. Stopping early saves
    time: for a million invocations the sum has thousands of terms, and it is computed after each
    one.
    """
    if count <= calls * rate:
        return 1.0  # about a half or more: not significant
    logs = math.lgamma(calls + 1) - math.lgamma(count + 1) - math.lgamma(calls - count + 1)
    term = math.exp(logs + count * math.log(rate) + (calls - count) * math.log1p(-rate))
    total = 0.0
    for at in range(count, calls + 1):  # the terms decrease from here on
        total += term
        if total >= enough or term < total * 1e-9:
            break
        term *= (calls - at) / (at + 1) * rate / (1 - rate)
    return total
