"""KeepAlive: predicts from earlier invocations when a function needs an idle instance.

Rule 1: no clock, no I/O; a policy sees only past events.
Rule 2: `called` and `ended` run in every invocation and take a microsecond. Slower work is done by
`windows`, which runs once a function has been idle for some seconds.
Rule 3: a prediction consists of a few periods; outside of them no instance is kept.

Times are in seconds of any clock that only goes forward. Two policies:

- `Fixed`: an idle time, the same for all.
- `Histogram`: estimates the probability of an invocation in each coming minute from the history of
  this function and of functions in general. A dynamic programme then finds the cheapest plan of
  keeping, stopping and starting an instance; a cold start has a price in idle time.

`quiltfn simulate` compares both with a policy from a paper (`operator/simulate/hybrid.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Protocol

import msgspec

MINUTE_S = 60.0
# The planning horizon in minutes: four hours, as in that paper.
HORIZON = 240
# The price of a cold start, in idle times of the fixed rule. At four, the total idle time of
# instances is about the same as with the fixed rule.
PRICE_IN_IDLE_TIMES = 4.0
# An instance stays at least this long after an invocation, even if the history predicts none.
KEEP_AT_LEAST_S = 10.0


class Window(msgspec.Struct, frozen=True):
    """An instance should exist from `begins` to `ends`. For a window that begins later than the
    idle time, the pool starts an instance: a pre-warm.
    """

    begins: float
    ends: float


Windows = tuple[Window, ...]


class KeepAlive(Protocol):
    """Predicts one function's next invocation from its earlier ones."""

    def called(self, at: float) -> None:
        """An invocation arrived. Constant time."""

    def ended(self, at: float) -> None:
        """An invocation has ended, perhaps while others still run. Constant time."""

    def windows(self) -> Windows:
        """When an instance should exist if no invocation comes; called while the function is idle.

        The windows are in order and don't touch each other. They begin at or after the end of the
        last invocation. Empty before the first invocation.
        """


def is_wanted(windows: Windows, at: float) -> bool:
    """Whether the pool should have an idle instance now."""
    return any(one.begins <= at < one.ends for one in windows)


def next_change(windows: Windows, after: float) -> float | None:
    """When `is_wanted` changes next; None: never."""
    edges = (edge for one in windows for edge in (one.begins, one.ends))
    return next((edge for edge in edges if edge > after), None)


class Fixed:
    """Keeps an instance for `idle_s` after the end of the last invocation."""

    __slots__ = ("_ended", "idle_s")

    def __init__(self, idle_s: float) -> None:
        self.idle_s = idle_s
        self._ended: float | None = None

    def called(self, at: float) -> None:
        pass

    def ended(self, at: float) -> None:
        self._ended = at

    def windows(self) -> Windows:
        return () if self._ended is None else (Window(self._ended, self._ended + self.idle_s),)


# The constants of `Histogram`. They are round numbers; docs/reference/keep-alive.md shows that the
# results hardly depend on them.
HISTORY_MINUTES = 2880  # how long a function's invocations are remembered, one bit a minute
GAPS_MAX = 128  # the number of latest gaps between invocations that count
DECAY = 0.98  # weight of a gap relative to the next younger one
BLUR = 0.15  # share of a gap that counts for each neighbouring minute
PRIOR_WEIGHT = 1.5  # the history of other functions counts as this many gaps of this one
LAGS = (5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240)  # minutes; usual periods of timers
LEVELS = 8
OVERFLOW = HORIZON + 1


class SharedGaps:
    """Gaps between invocations, in minutes, of all functions of a server, in levels by the number
    of earlier gaps of their function (0, 1, 2 and 3, 4 to 7, …).

    Newer gaps count more: each gets a slightly larger weight than the one before. This is one
    multiplication; to lower the weights of all others would take a loop.
    """

    __slots__ = ("_levels", "_weights")
    GROWTH = 1.001
    WEIGHT_MAX = 1e9

    def __init__(self) -> None:
        # Initially every order of magnitude is equally likely.
        start = [2.0 / ((gap + 1) * (gap + 2)) for gap in range(OVERFLOW)] + [2.0 / OVERFLOW]
        self._levels = [list(start) for _ in range(LEVELS)]
        self._weights = [1.0] * LEVELS

    def record(self, shown: int, gap: int) -> None:
        """Records a gap of a function with `shown` earlier gaps."""
        level = min(shown.bit_length(), LEVELS - 1)
        weight = self._weights[level] = self._weights[level] * self.GROWTH
        count(self._levels[level], gap, weight)
        if weight > self.WEIGHT_MAX:
            self._levels[level] = [one / weight for one in self._levels[level]]
            self._weights[level] = 1.0

    def gaps(self, shown: int) -> tuple[list[float], float]:
        """The weight of each gap (do not change it), and the weight of a gap recorded now."""
        level = min(shown.bit_length(), LEVELS - 1)
        return self._levels[level], self._weights[level]


def count(gaps: list[float], gap: int, weight: float) -> None:
    """Adds one gap; a part of it goes to the neighbouring minutes."""
    if not 1 < gap < OVERFLOW:
        gaps[min(gap, OVERFLOW)] += weight
        return
    aside = BLUR * weight
    gaps[gap] += weight - 2 * aside
    gaps[gap - 1] += aside
    gaps[gap + 1] += aside


class Histogram:
    """Keeps, stops and starts an instance at the lowest cost, where a cold start costs as much as
    an instance that idles for `worth_s`.

    Time is divided into minutes; the first is centred on the first invocation, so that a timer
    falls into the middle of a minute and may be half a minute early or late. The minutes in which
    the function was invoked are stored as bits of one number: 400 bytes.
    """

    __slots__ = ("_calls", "_ended", "_minute", "_origin", "_plan", "_shared", "_shown", "worth_s")

    def __init__(self, worth_s: float, shared: SharedGaps | None = None) -> None:
        self.worth_s = worth_s
        self._shared = shared or SharedGaps()
        self._origin: float | None = None
        self._ended = 0.0
        self._minute = 0
        self._calls = 1  # bit n: invoked n minutes before `_minute`
        self._shown = 0
        self._plan: tuple[int, list[tuple[int, int]]] | None = None

    def called(self, at: float) -> None:
        if self._origin is None:
            self._origin = self._ended = at
            return
        minute = int((at - self._origin) / MINUTE_S + 0.5)
        passed = minute - self._minute
        if passed <= 0:
            return
        self._shared.record(self._shown, min(passed, OVERFLOW))
        self._shown += 1
        self._minute = minute
        self._calls = (
            ((self._calls << passed) | 1) & HISTORY_MASK if passed < HISTORY_MINUTES else 1
        )
        self._plan = None

    def ended(self, at: float) -> None:
        self._ended = at

    def windows(self) -> Windows:
        if self._origin is None:
            return ()
        # Minute n of the plan is centred on `base` + n minutes.
        base = self._origin + self._minute * MINUTE_S
        surely = self._ended + KEEP_AT_LEAST_S
        first = max(0, int((surely - base) / MINUTE_S + 0.5))
        if self._plan is None or self._plan[0] != first:
            self._plan = first, plan(self._chances(), MINUTE_S / self.worth_s, first)
        found = [Window(self._ended, surely)]
        for begins, ends in self._plan[1]:
            from_s = base + (begins - 0.5) * MINUTE_S
            until_s = base + (ends + 0.5) * MINUTE_S
            if begins == first:
                found[0] = Window(self._ended, max(surely, until_s))
            else:
                found.append(Window(from_s, until_s))
        return tuple(found)

    def _chances(self) -> list[float]:
        """The probability of an invocation in each coming minute if none came in the minutes before
        it.
        """
        gaps = self._gaps()
        own, after_such = histograms(gaps)
        others, unit = self._shared.gaps(self._shown)
        # All sequences run backwards, to get sums from each minute to the last one.
        left = zip(
            accumulate(own[::-1]),
            accumulate(after_such[::-1]),
            accumulate(others[::-1]),
            strict=True,
        )
        behind = zip(own[::-1], after_such[::-1], others[::-1], left, strict=True)
        next(behind)  # the gaps beyond the horizon
        # Two beta priors: the history of other functions counts as `PRIOR_WEIGHT` more gaps, and
        # the result as one more gap after a gap like the last. A gap that no function ever had
        # keeps a very small probability.
        never = 1e-9 * unit
        chances = [
            (
                such
                + (one + PRIOR_WEIGHT * (other + never) / (other_left + never))
                / (one_left + PRIOR_WEIGHT)
            )
            / (such_left + 1.0)
            for one, such, other, (one_left, such_left, other_left) in behind
        ]
        return list(map(max, reversed(chances), lag_chances(self._calls)))

    def _gaps(self) -> list[int]:
        """The gaps in minutes, oldest first."""
        runs = f"{self._calls:b}".rsplit("1", GAPS_MAX + 1)[1:-1]
        return [min(len(zeros) + 1, OVERFLOW) for zeros in runs]


WEIGHTS = [DECAY**age for age in range(GAPS_MAX)]


def histograms(gaps: Sequence[int]) -> tuple[list[float], list[float]]:
    """Two histograms of `gaps` (oldest first): of all gaps, and of those after a gap like the last
    one.
    """
    own: dict[int, float] = {}
    such: dict[int, float] = {}
    for gap, before, weight in zip(gaps[::-1], [*gaps[-2::-1], 0], WEIGHTS, strict=False):
        own[gap] = own.get(gap, 0.0) + weight
        if before == gaps[-1]:
            such[gap] = such.get(gap, 0.0) + weight
    return blurred(own), blurred(such)


def blurred(weights: Mapping[int, float]) -> list[float]:
    found = [0.0] * (OVERFLOW + 1)
    for gap, weight in weights.items():
        count(found, gap, weight)
    return found


HISTORY_MASK = (1 << HISTORY_MINUTES) - 1


def lag_chances(calls: int) -> list[float]:
    """For each coming minute: the share of earlier invocations that were followed by another one
    after the usual period that ends in that minute.

    If a function has several timers, or a timer and other callers, no gap may occur twice, although
    each timer's invocation repeats, for example, after an hour. An invocation counts as followed if
    another came within a minute of the expected time. Two misses are added to every lag, so that
    few observations do not count as certainty.
    """
    best = [0.0] * (HORIZON + 1)
    about = calls | (calls << 1) | (calls >> 1)
    for lag in LAGS:
        could = (calls >> lag).bit_count()
        if not could:
            continue
        did = ((calls >> lag) & about).bit_count() / (could + 2)
        young = calls & ((1 << lag) - 1)
        while young:
            lowest = young & -young
            young ^= lowest
            minute = lag - lowest.bit_length() + 1
            best[minute] = max(best[minute], did)
    return best


def plan(chances: Sequence[float], minute_costs: float, first: int) -> list[tuple[int, int]]:
    """The cheapest periods, as first and last minute, in which to have an instance.

    `chances[n]`: the probability of an invocation in minute n if none came before. A cold start
    costs 1; an idle minute, and the start of an instance ahead of its invocation, cost
    `minute_costs` each. In minute `first` an instance exists; in minute 0 it always stays. The plan
    is computed backwards from the last minute.
    """
    last = len(chances) - 1
    if first > last:
        return []
    kept = lacking = 0.0  # the cost of all later minutes, with and without an instance
    # the decision at the start of the minute
    stays, starts = bytearray(last + 1), bytearray(last + 1)
    for minute in range(last, -1, -1):
        chance = chances[minute]
        none = 1.0 - chance
        with_one = minute_costs * (1.0 - chance * 0.5) + none * kept
        without = chance + none * lacking
        stays[minute] = with_one <= without
        starts[minute] = with_one + minute_costs < without
        kept = min(with_one, without)
        lacking = min(without, with_one + minute_costs)
    there = first == 0 or bool(stays[first])
    found: list[tuple[int, int]] = []
    for minute in range(first, last + 1):
        if minute > first:
            there = bool(stays[minute] if there else starts[minute])
        if there and found and found[-1][1] == minute - 1:
            found[-1] = found[-1][0], minute
        elif there:
            found.append((minute, minute))
    return found


POLICIES = ("fixed", "histogram")


def policy_maker(policy: str, idle_s: float) -> Callable[[], KeepAlive]:
    """Returns a factory for the policy objects of a server's functions, which share their history.

    `idle_s`: the idle time of the fixed rule; the total idle time of `histogram` is about the same.
    Raises `ValueError` for an unknown policy.
    """
    if policy == "fixed" or idle_s == 0:
        return lambda: Fixed(idle_s)
    if policy == "histogram":
        shared = SharedGaps()
        return lambda: Histogram(PRICE_IN_IDLE_TIMES * idle_s, shared)
    raise ValueError(f"a keep-alive policy is one of {', '.join(POLICIES)}, not {policy}")
