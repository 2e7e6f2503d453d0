"""KeepAlive: when an idle instance of a function is to be there, learnt from the calls before.

Rule 1: no clock, no I/O; a policy sees only what has happened, never what will.
Rule 2: `called` and `ended` are on the way of every call and cost a microsecond; all that takes
longer is in `windows`, which is asked once a function has been idle for some seconds.
Rule 3: an answer is a few stretches of time; before, between and behind them nothing is kept.

Times are seconds on any clock that only goes forward. Three policies:

- `Fixed`: an idle time, the same for all.
- `Hybrid`: the published one, to compare with (Shahrad et al., Serverless in the Wild, USENIX ATC
  2020, section 4), without its ARIMA branch. Not offered as a setting.
- `Histogram`: ours. How likely a call is in each coming minute is put together from what this
  function did and what functions in general do; a dynamic programme then finds the cheapest plan
  of keeping, stopping and starting again, where a cold start has a price in idle time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

MINUTE_S = 60.0
# How far ahead we plan, in minutes: four hours, as the published policy does.
HORIZON = 240
# A cold start is worth so many times the idle time of the fixed rule: four of it cost about as
# much idle time as the rule itself does.
PRICE_IN_IDLE_TIMES = 4.0
# Whatever was learnt, for so long after a call the next one finds its instance.
AT_LEAST_S = 10.0


@dataclass(frozen=True, slots=True)
class Window:
    """From `begins` to `ends` an instance is to be there. One that begins later than the idle time
    did is a pre-warm: an instance is started for it."""

    begins: float
    ends: float


Windows = tuple[Window, ...]


class KeepAlive(Protocol):
    """What one function's calls teach about its next one."""

    def called(self, at: float) -> None:
        """A call arrived. Constant time."""

    def ended(self, at: float) -> None:
        """A call is over. Constant time. Harmless when others still run."""

    def windows(self) -> Windows:
        """When an instance is to be there, if no call comes. Asked while the function is idle; in
        order, apart from each other, none before the end of the last call. None before any call."""


def is_wanted(windows: Windows, at: float) -> bool:
    """Whether an idle instance is to be there now."""
    return any(one.begins <= at < one.ends for one in windows)


def next_change(windows: Windows, after: float) -> float | None:
    """When `is_wanted` will next say something else; None: never."""
    edges = (edge for one in windows for edge in (one.begins, one.ends))
    return next((edge for edge in edges if edge > after), None)


class Fixed:
    """Kept for `idle_s` after the end of the last call."""

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


class Hybrid:
    """The published hybrid histogram policy: idle times in bins of a minute over four hours;
    stopped at once and started again at 0.9 of the 5th percentile (rounded down to its bin; the
    first bin: kept), unloaded at 1.1 of the 99th (rounded up).

    Without a representative histogram (coefficient of variation of the bins' counts at most 2, or
    half of the idle times beyond the last bin) `idle_s` as in `Fixed`. The paper lets ARIMA predict
    functions with too many such idle times; that is left out, and `idle_s` serves them.
    """

    __slots__ = ("_beyond", "_counts", "_ended", "_squares", "_total", "idle_s")

    def __init__(self, idle_s: float) -> None:
        self.idle_s = idle_s
        self._counts = [0] * HORIZON
        self._total = self._squares = self._beyond = 0
        self._ended: float | None = None

    def called(self, at: float) -> None:
        if self._ended is None:
            return
        gap = int((at - self._ended) / MINUTE_S)
        self._ended = None
        if gap >= HORIZON:
            self._beyond += 1
            return
        self._squares += 2 * self._counts[gap] + 1
        self._counts[gap] += 1
        self._total += 1

    def ended(self, at: float) -> None:
        self._ended = at

    def windows(self) -> Windows:
        since = self._ended
        if since is None:
            return ()
        if not self._is_representative():
            return (Window(since, since + self.idle_s),)
        head, tail = self._percentile(0.05), self._percentile(0.99) + 1
        begins = since if head == 0 else since + 0.9 * head * MINUTE_S
        return (Window(begins, since + 1.1 * tail * MINUTE_S),)

    def _is_representative(self) -> bool:
        if self._beyond >= self._total:
            return False
        mean = self._total / HORIZON
        return self._squares / HORIZON - mean * mean > (2.0 * mean) ** 2

    def _percentile(self, share: float) -> int:
        """The bin in which it lies."""
        seen = 0
        for gap, count in enumerate(self._counts):
            seen += count
            if seen >= share * self._total:
                return gap
        return HORIZON - 1


# What `Histogram` is made of. Round numbers; docs/reference/keep-alive.md says how little they
# matter.
REMEMBERED = 2880  # minutes of a function's past, one bit each
GAPS = 128  # of which so many gaps count
FADES = 0.98  # a gap against the next younger one
BLURRED = 0.15  # share of a gap that counts for the minute before, and for the one after
OTHERS = 1.5  # what functions in general do weighs like so many gaps of one's own
LAGS = (5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240)  # minutes; what people write into timers
LEVELS = 8
BEYOND = HORIZON + 1


class Commons:
    """What functions in general do: gaps in minutes, by how many gaps their function had shown
    before (0, 1, 2 and 3, 4 to 7, …). All functions of a server share one.

    The young count more: each weighs a little more than the one before, which costs a
    multiplication where letting all others fade would cost a walk.
    """

    __slots__ = ("_levels", "_weights")
    GROWS = 1.001
    TOO_HEAVY = 1e9

    def __init__(self) -> None:
        # To begin with, any order of magnitude is as likely as any other.
        start = [2.0 / ((gap + 1) * (gap + 2)) for gap in range(BEYOND)] + [2.0 / BEYOND]
        self._levels = [list(start) for _ in range(LEVELS)]
        self._weights = [1.0] * LEVELS

    def saw(self, shown: int, gap: int) -> None:
        """A function that had shown so many gaps showed this one."""
        level = min(shown.bit_length(), LEVELS - 1)
        weight = self._weights[level] = self._weights[level] * self.GROWS
        count(self._levels[level], gap, weight)
        if weight > self.TOO_HEAVY:
            self._levels[level] = [one / weight for one in self._levels[level]]
            self._weights[level] = 1.0

    def gaps(self, shown: int) -> tuple[list[float], float]:
        """Weights by gap, not to be changed, and the weight that makes one of now 1."""
        level = min(shown.bit_length(), LEVELS - 1)
        return self._levels[level], self._weights[level]


def count(gaps: list[float], gap: int, weight: float) -> None:
    """Adds one gap, blurred."""
    if not 1 < gap < BEYOND:
        gaps[min(gap, BEYOND)] += weight
        return
    aside = BLURRED * weight
    gaps[gap] += weight - 2 * aside
    gaps[gap - 1] += aside
    gaps[gap + 1] += aside


class Histogram:
    """Keeps, stops and starts again where that is cheapest, if a cold start costs as much as an
    instance that idles for `worth_s`.

    Time is cut into minutes around the first call, so that a timer falls into the middle of one
    and may be half a minute early or late. Of its past a function keeps the minutes in which it
    was called, as bits of one number: 400 bytes.
    """

    __slots__ = ("_calls", "_commons", "_ended", "_minute", "_origin", "_plan", "_shown", "worth_s")

    def __init__(self, worth_s: float, commons: Commons | None = None) -> None:
        self.worth_s = worth_s
        self._commons = commons or Commons()
        self._origin: float | None = None
        self._ended = 0.0
        self._minute = 0
        self._calls = 1  # bit n: a call n minutes before `_minute`
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
        self._commons.saw(self._shown, min(passed, BEYOND))
        self._shown += 1
        self._minute = minute
        self._calls = ((self._calls << passed) | 1) & ALL if passed < REMEMBERED else 1
        self._plan = None

    def ended(self, at: float) -> None:
        self._ended = at

    def windows(self) -> Windows:
        if self._origin is None:
            return ()
        # Minute n of the plan is the one around `base` + n minutes.
        base = self._origin + self._minute * MINUTE_S
        surely = self._ended + AT_LEAST_S
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
        """For each coming minute: how likely its call is, if none came before."""
        gaps = self._gaps()
        own, after_such = histograms(gaps)
        others, unit = self._commons.gaps(self._shown)
        # Of each, what has not come before the minute; all of these run backwards.
        left = zip(
            accumulate(own[::-1]),
            accumulate(after_such[::-1]),
            accumulate(others[::-1]),
            strict=True,
        )
        behind = zip(own[::-1], after_such[::-1], others[::-1], left, strict=True)
        next(behind)  # the gaps beyond the horizon
        # Others as `OTHERS` gaps more, and that as one gap more after such a gap: a beta prior
        # each. What never happened to anybody has a chance too, as small as it is.
        never = 1e-9 * unit
        chances = [
            (such + (one + OTHERS * (other + never) / (other_left + never)) / (one_left + OTHERS))
            / (such_left + 1.0)
            for one, such, other, (one_left, such_left, other_left) in behind
        ]
        return list(map(max, reversed(chances), echoes(self._calls)))

    def _gaps(self) -> list[int]:
        """In minutes, the oldest first."""
        runs = f"{self._calls:b}".rsplit("1", GAPS + 1)[1:-1]
        return [min(len(zeros) + 1, BEYOND) for zeros in runs]


WEIGHTS = [FADES**age for age in range(GAPS)]


def histograms(gaps: Sequence[int]) -> tuple[list[float], list[float]]:
    """Of all the gaps, the oldest first, and of those that followed one like the last."""
    own: dict[int, float] = {}
    such: dict[int, float] = {}
    for gap, before, weight in zip(gaps[::-1], [*gaps[-2::-1], 0], WEIGHTS, strict=False):
        own[gap] = own.get(gap, 0.0) + weight
        if before == gaps[-1]:
            such[gap] = such.get(gap, 0.0) + weight
    return blurred(own), blurred(such)


def blurred(weights: Mapping[int, float]) -> list[float]:
    found = [0.0] * (BEYOND + 1)
    for gap, weight in weights.items():
        count(found, gap, weight)
    return found


ALL = (1 << REMEMBERED) - 1


def echoes(calls: int) -> list[float]:
    """For each coming minute: how well a call some round time before it has foretold one so far.

    Several timers on one function, or a timer among other calls, show no gap twice, yet every
    call comes back an hour later. Foretold is what came within a minute of it; two that did not
    come are thought to every lag.
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
            one = young & -young
            young ^= one
            minute = lag - one.bit_length() + 1
            best[minute] = max(best[minute], did)
    return best


def plan(chances: Sequence[float], minute_costs: float, first: int) -> list[tuple[int, int]]:
    """The cheapest stretches of minutes, both ends included, to have an instance in.

    `chances[n]`: of a call in minute n if none came before. A cold start costs 1, an idle minute
    `minute_costs`, and so does every start of an instance ahead of a call. An instance is there in
    minute `first`; in minute 0 it stays in any case. Solved from the last minute backwards.
    """
    last = len(chances) - 1
    if first > last:
        return []
    kept = lacking = 0.0  # what the minutes behind cost, with an instance and without
    stays, starts = bytearray(last + 1), bytearray(last + 1)  # what to do on entering the minute
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


def maker(policy: str, idle_s: float) -> Callable[[], KeepAlive]:
    """What makes a policy for each function of a server; those of one maker learn together.

    `idle_s` is the fixed rule's idle time, and what `histogram` costs as well, about.
    """
    if policy == "fixed" or idle_s == 0:
        return lambda: Fixed(idle_s)
    if policy == "histogram":
        commons = Commons()
        return lambda: Histogram(PRICE_IN_IDLE_TIMES * idle_s, commons)
    raise ValueError(f"a keep-alive policy is one of {', '.join(POLICIES)}, not {policy}")
