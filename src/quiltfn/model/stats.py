"""Statistics of invocations: the sums of a function's invocations over a stretch of time.

Latencies are counted in bins whose bounds grow by a constant factor, as in DDSketch (Masson, Rim
and Lee, VLDB 2019). So a percentile is within 5 % of a real latency, and statistics add up without
loss. Statistics have at most some 260 bins, but mostly a handful.

A stretch has the length of a step (`STEPS`) and begins at a multiple of it. Ended invocations are
added to a stretch of 10 seconds; older stretches are folded into longer ones. Each invocation is in
exactly one stretch at any time.
"""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from quiltfn.model.invocation import FINAL, Invocation, Status

ERROR_MAX = 0.05
GROWTH = (1 + ERROR_MAX) / (1 - ERROR_MAX)
_LOG_GROWTH = math.log(GROWTH)

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
FINEST_S = 10
# How long statistics of each step are kept, in seconds. Then they are folded into the next step,
# which means added up.
KEPT_S: Mapping[int, int] = {
    FINEST_S: HOUR_S,
    MINUTE_S: DAY_S,
    5 * MINUTE_S: 8 * DAY_S,
    HOUR_S: 400 * DAY_S,
}
STEPS = tuple(KEPT_S)
# Replaces the function's id in sums over functions that aren't listed separately any more.
ANY_FUNCTION = ""
MIB_PER_GB = 1024


class CallStats(msgspec.Struct, array_like=True, gc=False):
    """Sums over invocations; mutable, and can be added up.

    `calls`: how many ended, by status. `latency`: how many invocations are in each bin (see
    `bin_of`). `mib_ms`: memory limit times duration, of every attempt; invocations that share an
    instance divide its time. `cpu_us`: measured CPU time, in microseconds. `egress_refused`:
    connections refused by networks of instances. `queued`: asynchronous invocations that were
    queued. `http_errors`: successful invocations whose HTTP response had a status of 500 or more.
    """

    calls: dict[str, int] = {}
    cold_starts: int = 0
    latency: dict[int, int] = {}
    mib_ms: int = 0
    cpu_us: int = 0
    egress_refused: int = 0
    queued: int = 0
    http_errors: int = 0

    def add_ended(self, record: Invocation) -> None:
        """Adds a completed attempt, and its invocation if it is over."""
        self.mib_ms += record.mib_ms
        if not record.is_final:
            return
        status = record.status.value
        self.calls[status] = self.calls.get(status, 0) + 1
        self.cold_starts += record.cold_start
        self.http_errors += record.is_http_error
        latency = latency_us(record)
        if latency is not None:
            at = bin_of(latency)
            self.latency[at] = self.latency.get(at, 0) + 1

    def add(self, other: "CallStats") -> None:
        """Adds other statistics."""
        for status, count in other.calls.items():
            self.calls[status] = self.calls.get(status, 0) + count
        for at, count in other.latency.items():
            self.latency[at] = self.latency.get(at, 0) + count
        self.cold_starts += other.cold_starts
        self.mib_ms += other.mib_ms
        self.cpu_us += other.cpu_us
        self.egress_refused += other.egress_refused
        self.queued += other.queued
        self.http_errors += other.http_errors

    @property
    def count(self) -> int:
        """How many invocations ended."""
        return sum(self.calls.values())

    @property
    def errors(self) -> int:
        """How many invocations ended without success, or with an HTTP response of 5xx."""
        return self.count - self.calls.get(Status.SUCCESS.value, 0) + self.http_errors

    @property
    def gb_seconds(self) -> float:
        return gb_seconds_of(self.mib_ms)

    def percentiles_ms(self, *shares: float) -> list[float | None]:
        """For each share, the latency that this share of the invocations did not exceed, in
        milliseconds, within 5 %. None if no invocation has a latency. `shares`: ascending.
        """
        left = list(shares)
        known, seen = sum(self.latency.values()), 0
        found: list[float | None] = []
        for at in sorted(self.latency):
            seen += self.latency[at]
            while left and seen >= left[0] * known:
                del left[0]
                found.append(round(middle_us(at) / 1000, 3))
        return found or [None] * len(shares)


class Stretch(NamedTuple):
    """Identifies statistics: owner, length in seconds, and start, in Unix seconds."""

    tenant_id: str
    step_s: int
    start: int
    function_id: str


def gb_seconds_of(mib_ms: int) -> float:
    """Converts MiB times milliseconds to GB-seconds (of 1024 MiB)."""
    return mib_ms / MIB_PER_GB / 1000


def latency_us(record: Invocation) -> int | None:
    """From acceptance to the end, in microseconds; the duration if there is no timeline. None if
    unknown, as for an invocation whose server died.
    """
    if record.timeline is not None:
        return record.timeline.total
    return None if record.duration_ms is None else record.duration_ms * 1000


def bin_of(latency: int) -> int:
    """The bin of a latency in microseconds: bin n reaches from GROWTH^(n-1) to GROWTH^n."""
    return math.ceil(math.log(latency) / _LOG_GROWTH) if latency > 1 else 0


def middle_us(at: int) -> float:
    """A latency within 5 % of every other one in the bin."""
    return 2 * GROWTH**at / (GROWTH + 1)


def floor_to(step_s: int, at: int) -> int:
    """The start of the stretch that contains a point in time."""
    return at - at % step_s


def of_ended(ended: Iterable[Invocation]) -> dict[Stretch, CallStats]:
    """The statistics that completed attempts add, by stretch."""
    sums: dict[Stretch, CallStats] = {}
    for record in ended:
        if record.status not in FINAL:
            continue
        at = record.ended_at or 0
        key = Stretch(record.tenant_id, FINEST_S, at - at % FINEST_S, record.function_id)
        found = sums.get(key)
        if found is None:
            found = sums[key] = CallStats()
        found.add_ended(record)
    return sums


def folded(stats: Iterable[tuple[Stretch, CallStats]], step_s: int) -> dict[Stretch, CallStats]:
    """Adds up statistics of shorter stretches over `step_s` seconds each."""
    sums: dict[Stretch, CallStats] = {}
    for key, part in stats:
        into = Stretch(key.tenant_id, step_s, floor_to(step_s, key.start), key.function_id)
        sums.setdefault(into, CallStats()).add(part)
    return sums


def next_step(step_s: int) -> int | None:
    """The next longer step, into which this one is folded; None for the longest."""
    at = STEPS.index(step_s) + 1
    return STEPS[at] if at < len(STEPS) else None


def folded_before(step_s: int, now: int) -> int:
    """Statistics of a step that start before this time are folded, or removed if the step is the
    longest. The time is a multiple of the next step.
    """
    return floor_to(next_step(step_s) or step_s, now - KEPT_S[step_s])
