"""Traces: the work for a request or an invocation, exported as spans once it has ended.

| span | kind | from | until |
|---|---|---|---|
| a request, by its route | server | its head was read | its response begins |
| invoke, in the request | internal | the invocation was requested | its record is closed |
| queue, sandbox, handler, in invoke | internal | a phase of its timeline began | the phase ended |
| accept: root of an asynchronous invocation's trace | producer | it was created | it is on disk |
| attempt, in accept | consumer | the attempt began | its record is closed |
| deliver, in accept | client or producer | a try began | the try ended |

Most ids derive from invocation ids: a handler gets the id of its span before the span exists, and
later steps, also in other processes, find an asynchronous invocation's trace by its id. So nothing
is stored between two steps. `otlp.py` exports the spans. No OpenTelemetry library is imported.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import msgspec

from quiltfn.model.delivery import Delivery, DeliveryStatus
from quiltfn.model.invocation import Invocation, Source, Status
from quiltfn.model.timeline import Timeline

# W3C Trace Context. Of headers of later versions, only the known part is read.
TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
SAMPLED = 0x01
# The size of the random part of a trace id, which decides the sampling of all traces.
RANDOM_BITS = 56
# Maximum number of stored sampling decisions; those that follow from the id are not stored.
DECISIONS_MAX = 10_000
MESSAGE_MAX = 512
NS = 1_000_000_000
# An invocation that finds a free instance starts within this time; longer counts as a wait.
WAIT_AT_LEAST_US = 500
TRIGGERS: Mapping[Source, str] = {Source.SCHEDULE: "timer", Source.DESTINATION: "pubsub"}

Value = str | int | bool


class Kind(StrEnum):
    """The span kinds of OpenTelemetry."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class SpanContext(NamedTuple):
    """The ids of a span, and whether its trace is exported."""

    trace_id: int
    span_id: int
    is_sampled: bool

    @property
    def traceparent(self) -> str:
        """The value of a traceparent header."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.is_sampled:02x}"


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A finished span. Times in Unix nanoseconds. `error`: why it failed, if it did."""

    name: str
    kind: Kind
    context: SpanContext
    parent_id: int | None
    start_ns: int
    end_ns: int
    attributes: Mapping[str, Value] = {}
    error: str | None = None
    link: SpanContext | None = None


class Traced(Protocol):
    """Finished work that can produce its spans later and elsewhere."""

    def spans(self) -> Iterator[Span]:
        """Yields a parent before its children."""
        ...


# The request being answered, for log lines.
current: ContextVar[SpanContext | None] = ContextVar("current", default=None)


def parsed(traceparent: str | None) -> SpanContext | None:
    """The span that a caller's header names; None if the header is missing or invalid."""
    if traceparent is None:
        return None
    found = TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    context = SpanContext(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & SAMPLED))
    return context if context.trace_id and context.span_id else None


def work_trace(invocation_id: str) -> int:
    """The trace id of an asynchronous invocation: the number in the invocation's id."""
    return int(invocation_id.replace("-", ""), 16)


def span_of(some_id: str, attempt: int = 0, *, is_handler: bool = False) -> int:
    """The id of a span, derived from the id of an invocation or a delivery. `attempt`: the
    attempt's number; 0: the span `accept`.
    """
    return int(some_id[19:23] + some_id[24:], 16) + 2 * attempt + is_handler


class Tracer:
    """Decides what is traced, and passes on finished work.

    `unix` and `now`: the clocks, in seconds. `sample_ratio`: the sampled share of traces that begin
    here; for other traces, their caller decides. `put`: receives finished work; must not raise or
    wait.
    """

    def __init__(
        self,
        unix: Callable[[], float],
        now: Callable[[], float],
        sample_ratio: float,
        put: Callable[[Traced], None],
    ) -> None:
        self._unix, self._now, self._put = unix, now, put
        self._bound = round(sample_ratio * (1 << RANDOM_BITS))
        self._decisions: dict[str, bool] = {}

    # Requests --------------------------------------------------------------------------------

    def request(self, traceparent: str | None) -> "RequestTrace":
        """Begins the trace of a request with this header."""
        caller = parsed(traceparent)
        if caller is None:
            trace_id = random.getrandbits(128) or 1
            is_sampled, parent_id = self._is_sampled(trace_id), None
        else:
            trace_id, parent_id, is_sampled = caller
        context = SpanContext(trace_id, random.getrandbits(64) or 1, is_sampled)
        return RequestTrace(context, parent_id, self._now())

    def answered(self, trace: "RequestTrace", about: "Answered") -> None:
        """Records the beginning of the response."""
        if trace.context.is_sampled:
            end_ns = self._unix_ns()
            start_ns = end_ns - round((self._now() - trace.started) * NS)
            self._put(_Request(trace.context, trace.parent_id, start_ns, end_ns, about))

    # Invocations -----------------------------------------------------------------------------

    def handler_traceparent(
        self, invocation_id: str, attempt: int, traceparent: str | None, *, is_accepted: bool
    ) -> str:
        """The traceparent for the handler. `traceparent`: that of the request. `is_accepted`:
        whether the invocation is asynchronous.
        """
        parent = self._parent_of(invocation_id, traceparent, is_accepted)
        span_id = span_of(invocation_id, attempt, is_handler=True)
        return SpanContext(parent.trace_id, span_id, parent.is_sampled).traceparent

    def call_ended(self, record: Invocation, traceparent: str | None) -> None:
        """Passes on a recorded invocation, or an attempt of an asynchronous one."""
        is_accepted = record.due_at is not None
        parent = self._parent_of(record.invocation_id, traceparent, is_accepted)
        if parent.is_sampled:
            self._put(
                _Call(
                    trace_id=parent.trace_id,
                    parent_id=parent.span_id or None,
                    end_ns=self._unix_ns(),
                    invocation_id=record.invocation_id,
                    tenant_id=record.tenant_id,
                    function_id=record.function_id,
                    function_name=record.function_name,
                    status=record.status,
                    exit_code=record.exit_code,
                    message=(record.public_message or "")[:MESSAGE_MAX],
                    http_status=record.http_status,
                    is_error=record.is_error,
                    cold_start=record.cold_start,
                    timeline=record.timeline,
                    version=record.version,
                    source=record.source,
                    attempt=record.attempt,
                    is_accepted=is_accepted,
                )
            )

    # Asynchronous invocations ----------------------------------------------------------------

    def work_accepted(self, record: Invocation, traceparent: str | None) -> None:
        """Passes on a stored asynchronous invocation. `traceparent`: that of its origin."""
        root = self._parent_of(record.invocation_id, traceparent, is_accepted=True)
        if root.is_sampled:
            link, end_ns = parsed(traceparent), self._unix_ns()
            attributes = _of_function(record.tenant_id, record.function_id, record.function_name)
            attributes |= {"faas.invocation_id": record.invocation_id}
            attributes |= {"quiltfn.source": record.source.value}
            self._put(_Accepted(root, end_ns, attributes, link))

    def delivery_traceparent(self, delivery: Delivery) -> str:
        """The traceparent for the receiver of a delivery."""
        return self._delivery_context(delivery).traceparent

    def delivery_tried(self, after: Delivery, started: float, *, to_function: bool) -> None:
        """Passes on a finished try. `after`: the delivery after the try. `started`: in monotonic
        seconds.
        """
        context = self._delivery_context(after)
        if context.is_sampled:
            end_ns = self._unix_ns()
            start_ns = end_ns - round((self._now() - started) * NS)
            without = msgspec.structs.replace(after, body=b"")
            self._put(_Delivered(context, start_ns, end_ns, without, to_function))

    def _delivery_context(self, delivery: Delivery) -> SpanContext:
        root = self._parent_of(delivery.invocation_id, None, is_accepted=True)
        span_id = span_of(delivery.id, delivery.attempts)
        return SpanContext(root.trace_id, span_id, root.is_sampled)

    def _parent_of(
        self, invocation_id: str, traceparent: str | None, is_accepted: bool
    ) -> SpanContext:
        """The parent of an invocation's span; for an asynchronous one, the root of its own trace.
        `span_id` 0: none.

        An asynchronous invocation is sampled if its request was. That decision is kept while there
        is room, since a delivery does not know the request. Without the decision, or without a
        request, the id decides.
        """
        asked = parsed(traceparent)
        if not is_accepted:
            if asked is not None:
                return asked
            trace_id = work_trace(invocation_id)
            return SpanContext(trace_id, 0, self._is_sampled(trace_id))
        trace_id = work_trace(invocation_id)
        by_id = self._is_sampled(trace_id)
        is_sampled = self._decisions.get(invocation_id, by_id)
        if asked is not None and asked.is_sampled is not is_sampled:
            is_sampled = asked.is_sampled
            self._decisions[invocation_id] = is_sampled
            if len(self._decisions) > DECISIONS_MAX:
                del self._decisions[next(iter(self._decisions))]
        return SpanContext(trace_id, span_of(invocation_id), is_sampled)

    def _is_sampled(self, trace_id: int) -> bool:
        return trace_id & ((1 << RANDOM_BITS) - 1) < self._bound

    def _unix_ns(self) -> int:
        return int(self._unix() * NS)


class RequestTrace(NamedTuple):
    """A request being answered. `started`: in monotonic seconds."""

    context: SpanContext
    parent_id: int | None
    started: float


class Answered(NamedTuple):
    """The facts about a response. `error`: why the server failed; None: it succeeded. `work_id`:
    the id of the asynchronous invocation.
    """

    name: str
    attributes: Mapping[str, Value]
    error: str | None = None
    work_id: str | None = None


class _Request(NamedTuple):
    context: SpanContext
    parent_id: int | None
    start_ns: int
    end_ns: int
    about: Answered

    def spans(self) -> Iterator[Span]:
        about, work_id = self.about, self.about.work_id
        link = None
        if work_id is not None:
            link = SpanContext(work_trace(work_id), span_of(work_id), is_sampled=True)
        yield Span(
            name=about.name,
            kind=Kind.SERVER,
            context=self.context,
            parent_id=self.parent_id,
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            attributes=about.attributes,
            error=about.error,
            link=link,
        )


class _Call(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The fields of a record for tracing, without the output: it may be long or confidential."""

    trace_id: int
    parent_id: int | None
    end_ns: int
    invocation_id: str
    tenant_id: str
    function_id: str
    function_name: str
    status: Status
    exit_code: int | None
    message: str
    http_status: int | None
    is_error: bool
    cold_start: bool
    timeline: Timeline | None
    version: int | None
    source: Source
    attempt: int
    is_accepted: bool

    def spans(self) -> Iterator[Span]:
        phases = self.timeline or Timeline(None, 0, 0, 0, 0, 0)
        start_ns = self.end_ns - phases.total * 1000
        span_id = span_of(self.invocation_id, self.attempt)
        failed = (self.message or self._why()) if self.is_error else None
        yield Span(
            name=f"{'attempt' if self.is_accepted else 'invoke'} {self.function_name}",
            kind=Kind.CONSUMER if self.is_accepted else Kind.INTERNAL,
            context=SpanContext(self.trace_id, span_id, is_sampled=True),
            parent_id=self.parent_id,
            start_ns=start_ns,
            end_ns=self.end_ns,
            attributes=self._attributes(),
            error=failed,
        )
        at, made = start_ns, random.getrandbits(64) or 1
        sandbox = phases.placed + phases.specialised
        if phases.queued >= WAIT_AT_LEAST_US:
            yield from self._phase("queue", span_id, at, phases.queued)
        at += phases.queued * 1000
        reason = {"quiltfn.cold_start_reason": phases.reason.value} if phases.reason else {}
        yield from self._phase("sandbox", span_id, at, sandbox, span_id=made, attributes=reason)
        yield from self._phase("sandbox create", made, at, phases.placed)
        at += phases.placed * 1000
        yield from self._phase("sandbox specialise", made, at, phases.specialised)
        at += phases.specialised * 1000
        handler_id = span_of(self.invocation_id, self.attempt, is_handler=True)
        yield from self._phase("handler", span_id, at, phases.ran, span_id=handler_id, error=failed)

    def _phase(
        self, name: str, parent_id: int, start_ns: int, took_us: int, **more: Any
    ) -> Iterator[Span]:
        """The span of a phase, if the phase took any time. `more`: its id and other fields."""
        if took_us:
            own_id = more.pop("span_id", None) or random.getrandbits(64) or 1
            yield Span(
                name=name,
                kind=Kind.INTERNAL,
                context=SpanContext(self.trace_id, own_id, is_sampled=True),
                parent_id=parent_id,
                start_ns=start_ns,
                end_ns=start_ns + took_us * 1000,
                **more,
            )

    def _why(self) -> str:
        is_http = self.status is Status.SUCCESS
        return f"HTTP {self.http_status}" if is_http else self.status.value

    def _attributes(self) -> dict[str, Value]:
        attributes = _of_function(self.tenant_id, self.function_id, self.function_name)
        attributes |= {
            "faas.invocation_id": self.invocation_id,
            "faas.coldstart": self.cold_start,
            "faas.trigger": TRIGGERS.get(self.source, "http"),
            "quiltfn.source": self.source.value,
            "quiltfn.status": self.status.value,
        }
        if self.version is not None:
            attributes["faas.version"] = str(self.version)
        if self.exit_code is not None:
            attributes["quiltfn.exit_code"] = self.exit_code
        if self.http_status is not None:
            attributes["quiltfn.http_status"] = self.http_status
        if self.is_accepted:
            attributes["quiltfn.attempt"] = self.attempt
        return attributes


class _Accepted(NamedTuple):
    context: SpanContext
    end_ns: int
    attributes: dict[str, Value]
    link: SpanContext | None

    def spans(self) -> Iterator[Span]:
        made_ns = (self.context.trace_id >> 80) * 1_000_000  # an id begins with its creation time
        yield Span(
            name=f"accept {self.attributes['faas.name']}",
            kind=Kind.PRODUCER,
            context=self.context,
            parent_id=None,
            start_ns=min(made_ns, self.end_ns),
            end_ns=self.end_ns,
            attributes=self.attributes,
            link=self.link,
        )


class _Delivered(NamedTuple):
    context: SpanContext
    start_ns: int
    end_ns: int
    delivery: Delivery
    to_function: bool

    def spans(self) -> Iterator[Span]:
        after = self.delivery
        attributes: dict[str, Value] = {
            "quiltfn.delivery_id": after.id,
            "quiltfn.attempt": after.attempts,
            "quiltfn.destination": after.policy_field,
            "quiltfn.status": after.status.value,
            "quiltfn.tenant_id": after.tenant_id,
            "quiltfn.function_id": after.function_id,
        }
        if after.http_status is not None:
            attributes["quiltfn.http_status"] = after.http_status
        is_over = after.status is DeliveryStatus.DELIVERED
        link = None
        if is_over and self.to_function:  # the destination's invocation has the delivery's id
            link = SpanContext(work_trace(after.id), span_of(after.id), is_sampled=True)
        yield Span(
            name="deliver",
            kind=Kind.PRODUCER if self.to_function else Kind.CLIENT,
            context=self.context,
            parent_id=span_of(after.invocation_id),
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            attributes=attributes,
            error=None if is_over else (after.error_message or "")[:MESSAGE_MAX],
            link=link,
        )


def _of_function(tenant_id: str, function_id: str, name: str) -> dict[str, Value]:
    return {
        "faas.name": name,
        "quiltfn.function_id": function_id,
        "quiltfn.tenant_id": tenant_id,
    }
