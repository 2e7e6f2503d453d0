"""Prometheus metrics. Labels are bounded: no tenant, function or path is ever one."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    generate_latest,
)
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from quiltfn.model.invocation import FINAL, Invocation, Status
from quiltfn.model.pool import PoolCounts, sum_counts
from quiltfn.model.url import Refusal

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900),
    *(3600, 14_400, 86_400),
)

registry = CollectorRegistry()
_calls = Counter(
    "quiltfn_invocations",
    "Calls that ended, by status and by how their instance was found.",
    ("status", "start"),
    registry=registry,
)


class Durations(Collector):
    """A histogram that every call counts in: prometheus_client's own looks through its buckets and
    takes three locks for each.
    """

    def __init__(self, name: str, about: str) -> None:
        self._name, self._about = name, about
        self._counts, self._sum = [0] * (len(SECONDS) + 1), 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(SECONDS, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterable[Metric]:
        bounds = [*map(str, map(float, SECONDS)), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._about, buckets, self._sum)


_attempts = Counter(
    "quiltfn_work_attempts",
    "Attempts at accepted work that ended, by status.",
    ("status",),
    registry=registry,
)
_dead_letters = Counter(
    "quiltfn_dead_letters",
    "Accepted work that was given up, by why.",
    ("reason",),
    registry=registry,
)
# From the start at 0: of a series that begins with 1, nobody could see the increase.
for _reason in ("attempts", "age"):
    _dead_letters.labels(_reason)
_queued = Gauge("quiltfn_queued_calls", "Accepted work that waits, due or not.", registry=registry)
_oldest_due = Gauge(
    "quiltfn_queue_oldest_due_seconds",
    "For how long the accepted work that waits has been due, the first of it; else 0.",
    registry=registry,
)
_duration = Durations(
    "quiltfn_invocation_duration_seconds",
    "From the hand-over to the handler until its end was seen.",
)
registry.register(_duration)
_refused = Counter(
    "quiltfn_refused_requests", "Requests that were refused, by code.", ("code",), registry=registry
)
_refused_by_urls = Counter(
    "quiltfn_url_refused_calls",
    "Calls of functions' URLs that were refused, by why.",
    ("reason",),
    registry=registry,
)
for _refusal in Refusal:
    _refused_by_urls.labels(_refusal)
_blocked = Counter(
    "quiltfn_egress_blocked",
    "Attempts of handlers to reach what their network refuses, counted when an instance ends.",
    registry=registry,
)
_evictions = Counter(
    "quiltfn_evicted_instances",
    "Idle instances that were ended because others needed their memory or their place.",
    registry=registry,
)
_instances = Gauge(
    "quiltfn_instances", "Instances on this node, by state.", ("state",), registry=registry
)
_prewarmed = Gauge(
    "quiltfn_prewarmed_sandboxes",
    "Sandboxes that are ready and not yet an instance of any version.",
    registry=registry,
)
_prewarmed_old_name = Gauge(
    "quiltfn_stem_cells", "The old name of quiltfn_prewarmed_sandboxes.", registry=registry
)
_held = Gauge(
    "quiltfn_memory_held_mebibytes",
    "What instances and prewarmed sandboxes count against the memory budget.",
    registry=registry,
)
_budget = Gauge(
    "quiltfn_memory_budget_mebibytes",
    "The memory for all instances together.",
    registry=registry,
)
_images = Gauge(
    "quiltfn_image_bytes",
    "What the images of all runtimes count, each once: content, and 4,096 for each file.",
    registry=registry,
)
_waiting = Gauge("quiltfn_waiting_calls", "Calls that wait for an instance.", registry=registry)
_exported = Counter(
    "quiltfn_otlp_exported",
    "Spans, log records and metrics that the collector has taken, by signal.",
    ("signal",),
    registry=registry,
)
_not_exported = Counter(
    "quiltfn_otlp_dropped",
    "Likewise those that it did not get: it failed, or too many waited (calls and requests then).",
    ("signal", "reason"),
    registry=registry,
)
_build = Gauge("quiltfn_build", "1, with the version as a label.", ("version",), registry=registry)
_store_ok = Gauge(
    "quiltfn_store_ok",
    "1 while the database takes writes, records of calls included, else 0.",
    registry=registry,
)
# Of a server that is alone there are none of these.
_members = Gauge(
    "quiltfn_fleet_members",
    "Nodes of the fleet by what they do, as this one sees them: ready, cordoned, draining, left, "
    "gone or removed.",
    ("state",),
    registry=registry,
)
_unmoved = Gauge(
    "quiltfn_fleet_beat_age_seconds",
    "For how long this node has seen no beat of another one.",
    ("node",),
    registry=registry,
)
_take_overs = Counter(
    "quiltfn_fleet_take_overs", "Lost nodes that this one has taken over.", registry=registry
)
_image_fetches = Counter(
    "quiltfn_fleet_image_fetches",
    "Images that this node needed and got from another one, by outcome: fetched or failed.",
    ("outcome",),
    registry=registry,
)
_images_lacking = Gauge(
    "quiltfn_fleet_images_lacking_copies",
    "Images of this node that are on fewer nodes than they should be.",
    registry=registry,
)


def started(version: str) -> None:
    """Once, at start."""
    _build.labels(version).set(1)
    _store_ok.set(1)


# Found once: looking a label up takes a lock each time.
_counters = {
    (status, cold): _calls.labels(status, "cold" if cold else "warm")
    for status in FINAL
    for cold in (True, False)
}


def count_call(record: Invocation) -> None:
    """A call has ended."""
    _counters[record.status, record.cold_start].inc()
    if record.duration_ms is not None:
        _duration.observe(record.duration_ms / 1000)


def count_attempt(ended: Status) -> None:
    """An attempt at accepted work has ended."""
    _attempts.labels(ended).inc()


def count_dead_letter(reason: str) -> None:
    """Accepted work was given up."""
    _dead_letters.labels(reason).inc()


def count_blocked(attempts: int) -> None:
    """An instance has ended whose network had refused that many attempts."""
    _blocked.inc(attempts)


def count_eviction() -> None:
    """An idle instance was ended because memory was short, or its tenant's quota used up."""
    _evictions.inc()


def count_refusal(code: str) -> None:
    """A request was refused with an error code."""
    _refused.labels(code).inc()


def count_url_refusal(reason: Refusal) -> None:
    """A URL refused a call."""
    _refused_by_urls.labels(reason).inc()


def count_exported(signal: str, count: int) -> None:
    """The collector has taken so many."""
    _exported.labels(signal).inc(count)


def count_not_exported(signal: str, reason: str, count: int) -> None:
    """So many were dropped. `reason`: "failed" or "full"."""
    _not_exported.labels(signal, reason).inc(count)


def show_memory(held_mib: float, budget_mib: float) -> None:
    """What counts against the memory budget at this moment."""
    _held.set(held_mib)
    _budget.set(budget_mib)


def show_prewarmed(count: int) -> None:
    """The prewarmed sandboxes there are at this moment."""
    _prewarmed.set(count)
    _prewarmed_old_name.set(count)


def show_images(counted_bytes: int) -> None:
    """What images count at this moment."""
    _images.set(counted_bytes)


def show_pools(counts: Iterable[PoolCounts]) -> None:
    """The instances, as they are counted at this moment."""
    total = sum_counts(counts)
    for state in ("warming", "ready", "busy", "recycling", "terminating"):
        _instances.labels(state).set(getattr(total, state))


def show_waiting(waiting: int) -> None:
    """How many calls wait, over all functions."""
    _waiting.set(waiting)


def show_queue(waiting: int, oldest_due_s: float) -> None:
    """The accepted work that waits at this moment."""
    _queued.set(waiting)
    _oldest_due.set(oldest_due_s)


def show_store(fine: bool) -> None:
    """Whether the database takes writes at this moment."""
    _store_ok.set(1 if fine else 0)


def show_members(states: Mapping[str, int], ages_s: Mapping[str, float]) -> None:
    """The nodes of the fleet: how many are in each state, and how old the last beat of each is."""
    _members.clear()
    for state, count in states.items():
        _members.labels(state).set(count)
    _unmoved.clear()
    for node, age_s in ages_s.items():
        _unmoved.labels(node).set(age_s)


def count_take_over() -> None:
    """This node has taken another one over."""
    _take_overs.inc()


def count_image_fetch(outcome: str) -> None:
    """This node has got an image from another one, or has not."""
    _image_fetches.labels(outcome).inc()


def show_images_lacking(count: int) -> None:
    """How many images of this node lack a copy at this moment."""
    _images_lacking.set(count)


def families() -> list[Metric]:
    """Everything, as prometheus_client collects it."""
    return list(registry.collect())


def text() -> str:
    """Everything, in the text format."""
    return generate_latest(registry).decode()
