"""Sends spans, log lines and metrics to a collector: OTLP over HTTP, by OpenTelemetry's exporters.

Imported only if a server has a collector: the import takes 0.1 s and some megabytes. One thread
does all costly work; producers only append to bounded queues. If a collector is down, slow or
refuses data, that data is lost, and no producer waits.
"""

import contextlib
import logging
import ssl
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from itertools import pairwise
from typing import Any, Generic, TypeVar, cast

import msgspec
import structlog
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics import export as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanKind, TraceFlags
from opentelemetry.trace import SpanContext as OtelContext
from opentelemetry.trace.status import Status, StatusCode
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from quiltfn.observe import metrics
from quiltfn.observe.otlp_answers import session
from quiltfn.observe.trace import Kind, Span, SpanContext, Traced

TRACES, LOGS, METRICS = "traces", "logs", "metrics"
# Queue limits, enough for some seconds of a busy server: about ten megabytes.
TRACED_MAX, LINES_MAX = 8192, 2048
TEXT_MAX = 4096
# Maximum numbers per message: of invocations and requests (some hundred spans), and of lines.
TRACED_AT_ONCE, LINES_AT_ONCE = 200, 500
SEND_EVERY_S = 1.0
# Seconds for which the thread may hold the interpreter lock while invocations need the lock. With
# Python's default of 5 ms, the 99th percentile of waiting times was three times as high.
SWITCH_S = 0.0005
TIMEOUT_S = 10.0
FLUSH_S = 3.0
KINDS = {kind: SpanKind[kind.name] for kind in Kind}
SEVERITIES = {
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
}
SCOPE = InstrumentationScope("quiltfn")
T = TypeVar("T")

_log = structlog.get_logger("quiltfn.otlp")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The destination of telemetry. `endpoint`: without the path of a signal. `resource`: the
    attributes of the sender, by OpenTelemetry's names.
    """

    endpoint: str
    signals: frozenset[str]
    headers: Mapping[str, str]
    resource: Mapping[str, str]

    def url(self, signal: str) -> str:
        return f"{self.endpoint.rstrip('/')}/v1/{signal}"


class Bounded(Generic[T]):
    """The queue of one signal. When it is full, further items are dropped and counted."""

    def __init__(self, signal: str, most: int) -> None:
        self._signal, self._most = signal, most
        self._waiting: deque[T] = deque()

    def put(self, item: T) -> None:
        if len(self._waiting) < self._most:
            self._waiting.append(item)
        else:
            metrics.count_not_exported(1, self._signal, "full")

    def take(self, most: int) -> list[T]:
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]

    def __len__(self) -> int:
        return len(self._waiting)


class Sender:
    """Sends queued telemetry until `close`. `unix`: the wall clock, in seconds."""

    def __init__(self, target: Target, unix: Callable[[], float]) -> None:
        self._target, self._unix = target, unix
        self._resource = Resource(dict(target.resource))
        self._started_ns = self._unix_ns()
        self._traced: Bounded[Traced] = Bounded(TRACES, TRACED_MAX)
        self._lines: Bounded[tuple[int, dict[str, Any]]] = Bounded(LOGS, LINES_MAX)
        self._families: Sequence[Metric] | None = None
        self._reasons = _Reasons()
        # The failing signals. When the first one fails, the log gets one line for all.
        self._failing: set[str] = set()
        self._told_of: str | None = None
        paths = ssl.get_default_verify_paths()  # the machine's authorities, not those of a package
        more: dict[str, Any] = {
            "headers": dict(target.headers),
            "timeout": TIMEOUT_S,
            "compression": Compression.NoCompression,
            "certificate_file": paths.cafile or paths.capath,
        }
        self._spans_out = OTLPSpanExporter(target.url(TRACES), session=session(TIMEOUT_S), **more)
        self._logs_out = OTLPLogExporter(target.url(LOGS), session=session(TIMEOUT_S), **more)
        self._metrics_out = OTLPMetricExporter(
            target.url(METRICS), session=session(TIMEOUT_S), **more
        )
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="otlp", daemon=True)

    def start(self) -> None:
        self._reasons.listen()
        self._switched_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        self._thread.start()

    def put_traced(self, traced: Traced) -> None:
        """Queues finished work, for its spans."""
        self._traced.put(traced)

    def put_line(self, line: MutableMapping[str, Any]) -> None:
        """Queues a log line."""
        kept = {name: _short(value) for name, value in line.items()}
        self._lines.put((self._unix_ns(), kept))

    def put_metrics(self, families: Sequence[Metric]) -> None:
        """Sets the current metrics, which replace earlier ones that were not sent yet."""
        self._families = families

    def close(self) -> None:
        """Sends the remaining data, for up to three seconds. Blocks: call it in a thread."""
        self._ending.set()
        self._thread.join(FLUSH_S)
        for exporter in (self._spans_out, self._logs_out, self._metrics_out):
            exporter.shutdown()  # ends exporters' waits between attempts
        self._thread.join(0.5)
        sys.setswitchinterval(self._switched_s)
        self._reasons.unlisten()

    # In the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            is_ending = self._ending.wait(SEND_EVERY_S)
            try:
                self._send_spans()
                self._send_lines()
                self._send_metrics()
            except Exception:  # a bug must not end all telemetry
                with contextlib.suppress(Exception):  # standard error may be closed
                    _log.exception("telemetry could not be created and is lost")
            if is_ending:
                return

    def _send_spans(self) -> None:
        while some := self._traced.take(TRACED_AT_ONCE):
            spans = [self._span(span) for one in some for span in one.spans()]
            if not self._send(TRACES, len(spans), lambda: self._spans_out.export(spans)):  # noqa: B023
                return

    def _send_lines(self) -> None:
        while some := self._lines.take(LINES_AT_ONCE):
            records = [self._record(at_ns, line) for at_ns, line in some]
            if not self._send(LOGS, len(records), lambda: self._logs_out.export(records)):  # noqa: B023
                return

    def _send_metrics(self) -> None:
        families, self._families = self._families, None
        if families is not None:
            now_ns = self._unix_ns()
            found = [
                one for family in families for one in of_family(family, self._started_ns, now_ns)
            ]
            data = self._metrics_data(found)
            self._send(METRICS, len(found), lambda: self._metrics_out.export(data))

    def _send(self, signal: str, count: int, export: Callable[[], Any]) -> bool:
        """Sends one message. Returns False if it was not accepted."""
        self._reasons.last = ""
        try:
            is_taken = export().name == "SUCCESS"
        except Exception as error:
            is_taken, self._reasons.last = False, repr(error)
        if is_taken:
            metrics.count_exported(count, signal)
            self._failing.discard(signal)
            if self._told_of == signal:
                self._told_of = None
                _log.info("the collector accepts telemetry again")
            return True
        metrics.count_not_exported(count, signal, "failed")
        if self._told_of is None and signal not in self._failing:
            self._told_of = signal
            _log.warning(
                "the collector does not accept telemetry; unsent telemetry is dropped and counted",
                url=self._target.url(signal),
                reason=self._reasons.last,
            )
        self._failing.add(signal)
        return False

    # By OpenTelemetry's names ----------------------------------------------------------------

    def _span(self, span: Span) -> ReadableSpan:
        parent = None
        if span.parent_id is not None:
            of_caller = SpanContext(span.context.trace_id, span.parent_id, is_sampled=True)
            parent = _context(of_caller, is_remote=span.kind is not Kind.INTERNAL)
        status = Status() if span.error is None else Status(StatusCode.ERROR, span.error)
        return ReadableSpan(
            name=span.name,
            context=_context(span.context),
            parent=parent,
            resource=self._resource,
            attributes=dict(span.attributes),
            links=() if span.link is None else (Link(_context(span.link, is_remote=True)),),
            kind=KINDS[span.kind],
            status=status,
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=SCOPE,
        )

    def _record(self, at_ns: int, line: dict[str, Any]) -> ReadableLogRecord:
        line.pop("timestamp", None)
        level = str(line.pop("level", "info"))
        trace_id, span_id = line.pop("trace_id", None), line.pop("span_id", None)
        record = LogRecord(
            timestamp=at_ns,
            observed_timestamp=at_ns,
            body=line.pop("event", ""),
            severity_text=level,
            severity_number=SEVERITIES.get(level, SeverityNumber.INFO),
            attributes=line,
        )
        if trace_id is not None and span_id is not None:
            record.trace_id, record.span_id = int(trace_id, 16), int(span_id, 16)
        return ReadableLogRecord(record, self._resource, SCOPE)

    def _metrics_data(self, found: Sequence[otel.Metric]) -> otel.MetricsData:
        scope = otel.ScopeMetrics(SCOPE, found, "")
        return otel.MetricsData([otel.ResourceMetrics(self._resource, [scope], "")])

    def _unix_ns(self) -> int:
        return int(self._unix() * 1e9)


class _Reasons(logging.Handler):
    """Keeps the exporters' messages off standard error, and stores the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""
        self._loggers = [logging.getLogger(name) for name in ("opentelemetry", "urllib3")]

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            self.last = self.last or record.getMessage()[:TEXT_MAX]

    def listen(self) -> None:
        for logger in self._loggers:
            logger.addHandler(self)
            logger.propagate = False

    def unlisten(self) -> None:
        for logger in self._loggers:
            logger.removeHandler(self)
            logger.propagate = True


def of_family(family: Metric, started_ns: int, now_ns: int) -> Iterable[otel.Metric]:
    """Converts a Prometheus metric to OpenTelemetry, with the same name as in /metrics."""
    times: dict[str, Any] = {"start_time_unix_nano": started_ns, "time_unix_nano": now_ns}
    samples = [one for one in family.samples if not one.name.endswith("_created")]
    if not samples:
        return
    about, name = family.documentation, samples[0].name
    data: otel.DataT
    if family.type == "histogram":
        name, data = family.name, _histogram(samples, times)
    else:
        points = [
            otel.NumberDataPoint(attributes=dict(one.labels), value=one.value, **times)
            for one in samples
        ]
        if family.type == "counter":
            data = otel.Sum(points, otel.AggregationTemporality.CUMULATIVE, is_monotonic=True)
        else:
            data = otel.Gauge(points)
    yield otel.Metric(name, about, "", data)


def _histogram(samples: Sequence[Sample], times: Mapping[str, Any]) -> otel.Histogram:
    """A histogram for OpenTelemetry, which counts values between two bounds; Prometheus counts all
    values below a bound.
    """
    buckets = [(one.labels["le"], int(one.value)) for one in samples if "le" in one.labels]
    below = [0, *(count for _, count in buckets)]
    total = next(one.value for one in samples if one.name.endswith("_sum"))
    point = otel.HistogramDataPoint(
        attributes={},
        count=below[-1],
        sum=total,
        bucket_counts=[after - before for before, after in pairwise(below)],
        explicit_bounds=[float(bound) for bound, _ in buckets[:-1]],
        min=cast("float", None),  # None means unknown in OTLP
        max=cast("float", None),
        **times,
    )
    return otel.Histogram([point], otel.AggregationTemporality.CUMULATIVE)


def _context(context: SpanContext, *, is_remote: bool = False) -> OtelContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.is_sampled else TraceFlags.DEFAULT)
    return OtelContext(context.trace_id, context.span_id, is_remote, flags)


def _short(value: Any) -> Any:
    """A value for a log record: numbers unchanged, all others as text of limited length."""
    return value if isinstance(value, bool | int | float) else str(value)[:TEXT_MAX]
