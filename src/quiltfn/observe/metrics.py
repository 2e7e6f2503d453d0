"""Prometheus metrics. Labels have few values: never a tenant, function or path.

This module counts; `prometheus_client` renders the text on request. That library is imported only
on the first request: together with its HTTP server, it would take a fifteenth of a start's import
time.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol, cast

from quiltfn.model.invocation import FINAL, Invocation
from quiltfn.model.pool import PoolCounts, sum_counts
from quiltfn.model.url import Refusal

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector

SECONDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900),
    *(3600, 14_400, 86_400),
)


class _Numbers:
    """The series of a metric by label values. `known`: values of its only label, whose series start
    at 0: if a series began with 1, its first increase would be invisible. Any thread may call the
    methods.
    """

    def __init__(
        self, name: str, about: str, labels: tuple[str, ...] = (), known: Iterable[str] = ()
    ) -> None:
        self.name, self.about, self.labels = name, about, labels
        self._lock = threading.Lock()
        # For each series, the value and the monotonic time of its first count.
        self._series: dict[tuple[str, ...], tuple[float, float]] = {}
        if not labels:
            self.add(0)
        for label in known:
            self.add(0, label)
        _all.append(self)

    def add(self, amount: float, *labels: str) -> None:
        with self._lock:
            number, since = self._series.get(labels) or (0.0, time.monotonic())
            self._series[labels] = number + amount, since

    def count(self, *labels: str) -> None:
        self.add(1, *labels)

    def set(self, number: float, *labels: str) -> None:
        with self._lock:
            self._series[labels] = float(number), 0.0

    def clear(self) -> None:
        with self._lock:
            self._series.clear()

    def family(self) -> "Metric":
        """Converts the metric to prometheus_client's type."""
        raise NotImplementedError

    def series(self) -> list[tuple[tuple[str, ...], tuple[float, float]]]:
        with self._lock:
            return list(self._series.items())


class Counter(_Numbers):
    """A value that only grows."""

    def family(self) -> "Metric":
        from prometheus_client.metrics_core import CounterMetricFamily  # noqa: PLC0415 - see above

        found = CounterMetricFamily(self.name, self.about, labels=self.labels)
        for labels, (number, since) in self.series():
            found.add_metric(labels, number, created=_began_unix + since)
        return found


class Gauge(_Numbers):
    """A current value."""

    def family(self) -> "Metric":
        from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415 - see above

        found = GaugeMetricFamily(self.name, self.about, labels=self.labels)
        for labels, (number, _) in self.series():
            found.add_metric(labels, number)
        return found


class Durations:
    """A histogram of durations."""

    def __init__(self, name: str, about: str) -> None:
        self._name, self._about = name, about
        self._counts, self._sum = [0] * (len(SECONDS) + 1), 0.0
        _all.append(self)

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(SECONDS, seconds)] += 1
        self._sum += seconds

    def family(self) -> "Metric":
        from prometheus_client.metrics_core import HistogramMetricFamily  # noqa: PLC0415 - see above

        bounds = [*map(str, map(float, SECONDS)), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        return HistogramMetricFamily(self._name, self._about, buckets, self._sum)


class _Any(Protocol):
    def family(self) -> "Metric": ...


_all: list[_Any] = []
# The Unix time at which the monotonic clock was 0.
_began_unix = 0.0
_calls = Counter(
    "quiltfn_invocations",
    "Invocations that ended, by status and by how their instance was found.",
    ("status", "start"),
)
_http_errors = Counter(
    "quiltfn_http_errors",
    "Invocations of status success whose HTTP response had a status of 5xx. They count as errors, "
    "as do all invocations with another status.",
)
count_attempt = Counter(
    "quiltfn_work_attempts",
    "Attempts of asynchronous invocations that ended, by status.",
    ("status",),
).count
count_dead_letter = Counter(
    "quiltfn_dead_letters",
    "Asynchronous invocations that were dead-lettered, by reason.",
    ("reason",),
    known=("attempts", "age"),
).count
_queued = Gauge("quiltfn_queued_calls", "Queued asynchronous invocations, due or delayed.")
_oldest_due = Gauge(
    "quiltfn_queue_oldest_due_seconds",
    "Time since the oldest queued asynchronous invocation became due; 0 without any.",
)
_duration = Durations(
    "quiltfn_invocation_duration_seconds",
    "Time from the handover to the handler until its end was noticed.",
)
# Each is called with a code or reason of refused requests.
count_refusal = Counter(
    "quiltfn_refused_requests", "Requests that were refused, by code.", ("code",)
).count
count_url_refusal = Counter(
    "quiltfn_url_refused_calls",
    "Refused requests to function URLs, by reason.",
    ("reason",),
    known=Refusal,
).count
# Called with the number of attempts.
count_blocked = Counter(
    "quiltfn_egress_blocked",
    "Connection attempts of handlers that their network blocked, counted when an instance ends.",
).add
count_eviction = Counter(
    "quiltfn_evicted_instances",
    "Idle instances that were evicted because others needed their memory or their slot.",
).count
_instances = Gauge("quiltfn_instances", "Instances on this node, by state.", ("state",))
_prewarmed = Gauge(
    "quiltfn_prewarmed_sandboxes",
    "Prewarmed sandboxes, which are not instances of a version yet.",
)
_prewarmed_old_name = Gauge("quiltfn_stem_cells", "The old name of quiltfn_prewarmed_sandboxes.")
_held = Gauge(
    "quiltfn_memory_held_mebibytes",
    "Memory of the budget that instances and prewarmed sandboxes reserve.",
)
_budget = Gauge("quiltfn_memory_budget_mebibytes", "The memory budget of all instances.")
show_images = Gauge(
    "quiltfn_image_bytes",
    "Size of all runtimes' images, each counted once: content, and 4,096 for each file.",
).set
show_waiting = Gauge("quiltfn_waiting_calls", "Invocations that wait for an instance.").set
# Both are called with a number and its labels.
count_exported = Counter(
    "quiltfn_otlp_exported",
    "Spans, log records and metrics that the collector has accepted, by signal.",
    ("signal",),
).add
count_not_exported = Counter(
    "quiltfn_otlp_dropped",
    "Spans, log records and metrics that were dropped, because the collector failed or the queue "
    "was full (then counted as invocations and requests), by signal.",
    ("signal", "reason"),
).add
_build = Gauge("quiltfn_build", "1, with the version as a label.", ("version",))
_store_ok = Gauge(
    "quiltfn_store_ok",
    "1 while the database accepts writes, including records of invocations; otherwise 0.",
)
# Absent on a standalone server.
_members = Gauge(
    "quiltfn_fleet_members",
    "Nodes of the fleet by state, as seen by this node: ready, cordoned, draining, left, gone or "
    "removed.",
    ("state",),
)
_unmoved = Gauge(
    "quiltfn_fleet_beat_age_seconds",
    "Time since this node has seen the last heartbeat of another node.",
    ("node",),
)
count_take_over = Counter(
    "quiltfn_fleet_take_overs", "Lost nodes that this node has taken over."
).count
count_image_fetch = Counter(
    "quiltfn_fleet_image_fetches",
    "Images that this node requested from another node, by outcome: fetched or failed.",
    ("outcome",),
).count
show_images_lacking = Gauge(
    "quiltfn_fleet_images_lacking_copies",
    "Images of this node that have too few copies on other nodes.",
).set


def started(version: str, unix: float) -> None:
    """Call once, at start. `unix`: Unix seconds now."""
    global _began_unix
    _began_unix = unix - time.monotonic()
    _build.set(1, version)
    _store_ok.set(1)


# These series start at 0, like those with `known` values.
_http_errors.add(0)
for _status in FINAL:
    for _start in ("cold", "warm"):
        _calls.add(0, _status.value, _start)


def count_call(record: Invocation) -> None:
    """Counts an ended invocation."""
    _calls.add(1, record.status.value, "cold" if record.cold_start else "warm")
    if record.is_http_error:
        _http_errors.add(1)
    if record.duration_ms is not None:
        _duration.observe(record.duration_ms / 1000)


def show_memory(held_mib: float, budget_mib: float) -> None:
    """Sets the memory reserved from the budget."""
    _held.set(held_mib)
    _budget.set(budget_mib)


def show_prewarmed(count: int) -> None:
    """Sets the number of prewarmed sandboxes."""
    _prewarmed.set(count)
    _prewarmed_old_name.set(count)


def show_pools(counts: Iterable[PoolCounts]) -> None:
    """Sets the numbers of instances."""
    total = sum_counts(counts)
    for state in ("warming", "ready", "busy", "recycling", "terminating"):
        _instances.set(getattr(total, state), state)


def show_queue(waiting: int, oldest_due_s: float) -> None:
    """Sets the size and age of the queue."""
    _queued.set(waiting)
    _oldest_due.set(oldest_due_s)


def show_store(fine: bool) -> None:
    """Sets whether the database accepts writes."""
    _store_ok.set(1 if fine else 0)


def show_members(states: Mapping[str, int], ages_s: Mapping[str, float]) -> None:
    """Sets the number of nodes in each state, and the age of each node's last heartbeat."""
    _members.clear()
    for state, count in states.items():
        _members.set(count, state)
    _unmoved.clear()
    for node, age_s in ages_s.items():
        _unmoved.set(age_s, node)


def families() -> "list[Metric]":
    """Converts all metrics to prometheus_client's types."""
    return [one.family() for one in _all]


class _Registry:
    """The interface that `generate_latest` expects."""

    def collect(self) -> "Iterable[Metric]":
        return families()


def text() -> tuple[str, str]:
    """Renders all metrics as text, and returns its media type. Call it in a thread, since it may
    first import the library.
    """
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest  # noqa: PLC0415 - see above

    return generate_latest(cast("Collector", _Registry())).decode(), CONTENT_TYPE_LATEST
