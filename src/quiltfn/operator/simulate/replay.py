"""Replays a trace of invocations per minute, and computes the cost of a keep-alive policy.

The policies are the server's own classes, except `hybrid`. The replay simulates one instance per
function, since further instances start and end with the load under every policy. It skips the first
invocation of each function, which no policy can predict. Idle time lasts from the end of an
invocation to the next invocation, to the end of the instance or to the end of the trace. Each
pre-warm adds a minute of idle time, for the work of a possibly useless start.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from quiltfn.model.keepalive import MINUTE_S, KeepAlive, Windows

PREWARM_S = 60.0
# Maximum number of simulated invocations per minute; with more, an instance idles only for seconds.
PLACED_MAX = 4
MIB_PER_GIB = 1024.0


class Placement(StrEnum):
    """The assumed times of invocations within a minute, which the trace does not have."""

    START = "start"  # all at its start
    EVEN = "even"  # spread evenly: one in the middle, two at the quarters


@dataclass(frozen=True, slots=True)
class TracedFunction:
    """One function: its invocations in each minute, the duration of one, its memory."""

    name: str
    calls: Sequence[int]
    duration_s: float = 0.0
    memory_mib: float = 0.0


@dataclass(slots=True)
class Cost:
    """The cost of a policy. The idle time includes a minute for each of the `prewarms`."""

    calls: int = 0
    cold: int = 0
    idle_s: float = 0.0
    gib_s: float = 0.0
    prewarms: int = 0

    @property
    def idle_minutes(self) -> float:
        return self.idle_s / MINUTE_S

    @property
    def gib_minutes(self) -> float:
        return self.gib_s / MINUTE_S


@dataclass(slots=True)
class _Function:
    policy: KeepAlive
    busy_until: float


def replay(
    functions: Sequence[TracedFunction], make: Callable[[], KeepAlive], placed: Placement
) -> Cost:
    """Replays all functions' invocations in order of time. `make`: creates a policy."""
    cost = Cost()
    known: dict[int, _Function] = {}
    for at, number in arrivals(functions, placed):
        traced = functions[number]
        function = known.get(number)
        if function is None:
            function = known[number] = _Function(make(), at)
        else:
            cost.calls += 1
            if at >= function.busy_until:
                function.policy.ended(function.busy_until)
            if at > function.busy_until:
                cost.cold += not _idled(function, at, traced.memory_mib, cost)
        function.policy.called(at)
        function.busy_until = max(function.busy_until, at + traced.duration_s)
    for number, function in known.items():
        traced = functions[number]
        end = len(traced.calls) * MINUTE_S
        if end > function.busy_until:
            function.policy.ended(function.busy_until)
            _idled(function, end, traced.memory_mib, cost)
    return cost


def _idled(function: _Function, until: float, memory_mib: float, cost: Cost) -> bool:
    """Adds the cost of an idle time. Returns whether an instance exists at its end."""
    windows = function.policy.windows()
    idle_s, prewarms = spent(windows, function.busy_until, until)
    cost.idle_s += idle_s
    cost.gib_s += idle_s * memory_mib / MIB_PER_GIB
    cost.prewarms += prewarms
    return any(window.begins < until <= window.ends for window in windows)


def spent(windows: Windows, since: float, until: float) -> tuple[float, int]:
    """Returns the idle seconds between the end of an invocation and the next one, and the number of
    pre-warms.
    """
    idle_s, prewarms = 0.0, 0
    for window in windows:
        if window.begins >= until:
            break
        idle_s += min(window.ends, until) - window.begins
        if window.begins > since:
            prewarms += 1
            idle_s += PREWARM_S
    return idle_s, prewarms


def arrivals(functions: Sequence[TracedFunction], placed: Placement) -> Iterator[tuple[float, int]]:
    """Yields the time of each invocation and the index of its function, in order of time."""
    length = max((len(one.calls) for one in functions), default=0)
    for minute in range(length):
        found = [
            ((minute + within) * MINUTE_S, number)
            for number, one in enumerate(functions)
            if minute < len(one.calls) and one.calls[minute]
            for within in _places(one.calls[minute], placed)
        ]
        yield from sorted(found)


def _places(calls: int, placed: Placement) -> list[float]:
    if placed is Placement.START:
        return [0.0]
    shown = min(calls, PLACED_MAX)
    return [(place + 0.5) / shown for place in range(shown)]


class Frontier:
    """The fewest cold starts of a policy for a total idle time: the lower convex hull of the
    policy's costs with several settings. A point between two settings is the cost of mixing them.

    The hull favours the fixed rule, to which other policies are compared: a line through all points
    would include settings that nobody would choose.
    """

    def __init__(self, points: Iterable[tuple[float, float]]) -> None:
        hull: list[tuple[float, float]] = []
        for point in sorted(points):
            if hull and point[1] >= hull[-1][1]:
                continue  # more idle time without fewer cold starts
            while len(hull) > 1 and not _turns_left(hull[-2], hull[-1], point):
                hull.pop()
            hull.append(point)
        self.hull = hull

    def at(self, idle: float) -> float | None:
        """Returns the cold starts at an idle time; None outside of the simulated range."""
        for left, right in pairwise(self.hull):
            if left[0] <= idle <= right[0]:
                share = (idle - left[0]) / (right[0] - left[0])
                return left[1] + share * (right[1] - left[1])
        return None


Point = tuple[float, float]


def _turns_left(a: Point, b: Point, c: Point) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) > 0


def frontier(costs: Iterable[Cost]) -> Frontier:
    """Computes the frontier of cold starts over idle minutes."""
    return Frontier((one.idle_minutes, one.cold) for one in costs)
