"""Spans of ended calls and requests, and their traces. Nothing is sent."""

from __future__ import annotations

from typing import Any

import pytest

from contract.stores import a_call, a_function
from manual_clock import ManualClock
from promises import promise
from quiltfn.base.ids import new_id
from quiltfn.model.cold_start import ColdStartReason
from quiltfn.model.delivery import Delivery, DeliveryStatus
from quiltfn.model.invocation import Invocation, Source, Status
from quiltfn.model.timeline import Timeline
from quiltfn.observe import trace
from quiltfn.observe.trace import (
    Answered,
    Kind,
    Span,
    SpanContext,
    Tracer,
    parsed,
    span_of,
    work_trace,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"
CALLER = SpanContext(int(TRACE, 16), int(SPAN, 16), is_sampled=True)


class Kept:
    """A tracer, and the traces that it passed on."""

    def __init__(self, ratio: float = 1.0) -> None:
        self.clock = ManualClock()
        self.over: list[trace.Traced] = []
        self.tracer = Tracer(self.clock.unix, self.clock.now, ratio, self.over.append)

    @property
    def spans(self) -> list[Span]:
        return [span for one in self.over for span in one.spans()]

    @property
    def by_name(self) -> dict[str, Span]:
        return {span.name: span for span in self.spans}


def a_record(**more: Any) -> Invocation:
    given = {"status": Status.SUCCESS, "timeline": Timeline(None, 20, 0, 0, 900, 80)}
    return a_call(a_function(name="f"), **given | more)


def a_delivery(record: Invocation, **more: Any) -> Delivery:
    given: dict[str, Any] = {
        **{"id": new_id(), "tenant_id": "t", "function_id": record.function_id},
        **{"invocation_id": record.invocation_id, "policy_field": "on_success", "attempts": 1},
        **{"status": DeliveryStatus.WAITING, "body": b"", "due_at_ms": 0, "expires_at_ms": 0},
    }
    return Delivery(**given | more)


def test_a_header_is_read_as_the_w3c_says() -> None:
    assert parsed(HEADER) == CALLER
    assert CALLER.traceparent == HEADER
    unsampled = parsed(HEADER[:-2] + "00")
    assert unsampled is not None
    assert not unsampled.is_sampled
    assert parsed(f"cc-{TRACE}-{SPAN}-09-what-comes-later") == CALLER


@pytest.mark.parametrize(
    "header",
    [
        *(None, "", "x", HEADER.upper(), f"{HEADER}-more", f" {HEADER}", f"{HEADER}\n"),
        *(f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01"),
        *(f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE}-{SPAN}-1"),
    ],
)
def test_what_is_no_such_header_begins_a_trace(header: str | None) -> None:
    assert parsed(header) is None
    begun = Kept().tracer.request(header)
    assert begun.parent_id is None
    assert begun.context.is_sampled


def test_a_request_continues_its_callers_trace() -> None:
    kept = Kept()
    begun = kept.tracer.request(HEADER)
    assert (begun.context.trace_id, begun.parent_id) == (CALLER.trace_id, CALLER.span_id)
    kept.clock.time += 2
    kept.tracer.answered(begun, Answered("GET /x", {}, "HTTP 503"))
    (span,) = kept.spans
    assert (span.name, span.kind, span.error) == ("GET /x", Kind.SERVER, "HTTP 503")
    assert span.end_ns - span.start_ns == 2 * trace.NS


@promise("O1")
def test_the_phases_of_a_cold_call_follow_each_other_and_fill_its_time() -> None:
    kept = Kept()
    phases = Timeline(ColdStartReason.FIRST, 700, 2000, 3000, 5000, 400)
    record = a_record(cold_start=True, timeline=phases, version=7)
    traceparent = kept.tracer.handler_traceparent(
        record.invocation_id, 1, HEADER, is_accepted=False
    )
    kept.tracer.call_ended(record, HEADER)
    spans = kept.by_name
    call, handler = spans["invoke f"], spans["handler"]
    assert traceparent == handler.context.traceparent
    assert call.parent_id == CALLER.span_id
    assert {one.context.trace_id for one in kept.spans} == {CALLER.trace_id}
    assert call.end_ns - call.start_ns == phases.total * 1000
    order = ["queue", "sandbox create", "sandbox specialise", "handler"]
    at = call.start_ns
    for name in order:
        assert spans[name].start_ns == at, name
        at = spans[name].end_ns
    assert call.end_ns - at == phases.recorded * 1000
    sandbox = spans["sandbox"]
    assert sandbox.attributes == {"quiltfn.cold_start_reason": "first"}
    assert {spans[name].parent_id for name in order[1:3]} == {sandbox.context.span_id}
    assert {spans[name].parent_id for name in ("queue", "sandbox", "handler")} == {
        call.context.span_id
    }
    assert call.attributes["faas.version"] == "7"


def test_a_warm_call_has_no_sandbox_to_wait_for() -> None:
    kept = Kept()
    kept.tracer.call_ended(a_record(), HEADER)
    assert [one.name for one in kept.spans] == ["invoke f", "handler"]


def test_a_call_that_failed_says_why_and_a_call_without_an_instance_has_no_handler() -> None:
    kept = Kept()
    message = "the handler exited with code 3"
    ended = {"exit_code": 3, "error_message": "KeyError: 1", "own_message": message}
    kept.tracer.call_ended(a_record(status=Status.FAILED, **ended), HEADER)
    assert kept.by_name["invoke f"].error == kept.by_name["handler"].error == message
    kept.over.clear()
    kept.tracer.call_ended(a_record(status=Status.CANCELLED, timeline=None), HEADER)
    (span,) = kept.spans
    assert (span.error, span.start_ns) == ("cancelled", span.end_ns)


@promise("O5")
def test_nothing_is_kept_of_what_a_handler_wrote_or_a_receiver_got() -> None:
    kept = Kept()
    kept.tracer.call_ended(a_record(stdout=b"SECRET", stderr=b"SECRET"), HEADER)
    record = a_record(due_at=1)
    kept.tracer.delivery_tried(a_delivery(record, body=b"SECRET"), 0.0, to_function=False)
    assert len(kept.over) == 2
    assert "SECRET" not in repr(kept.over)
    assert "SECRET" not in repr(kept.spans)


@promise("O2")
def test_accepted_work_has_a_trace_of_its_own_by_its_id() -> None:
    kept = Kept()
    record = a_record(due_at=1, source=Source.ASYNC, attempt=2, status=Status.FAILED)
    kept.tracer.work_accepted(record, HEADER)
    kept.tracer.call_ended(record, HEADER)
    delivery = a_delivery(record, status=DeliveryStatus.DELIVERED, attempts=3)
    kept.tracer.delivery_tried(delivery, kept.clock.now(), to_function=True)
    spans = kept.by_name
    root, attempt, deliver = spans["accept f"], spans["attempt f"], spans["deliver"]
    assert root.context == (work_trace(record.invocation_id), span_of(record.invocation_id), True)
    assert (root.parent_id, root.link) == (None, CALLER)
    assert attempt.parent_id == deliver.parent_id == root.context.span_id
    assert {one.context.trace_id for one in kept.spans} == {root.context.trace_id}
    kinds = (root.kind, attempt.kind, deliver.kind)
    assert kinds == (Kind.PRODUCER, Kind.CONSUMER, Kind.PRODUCER)
    assert deliver.context.traceparent == kept.tracer.delivery_traceparent(delivery)
    # The span of the delivery has a link to the trace of its receiver, which gets the span as its
    # context.
    assert deliver.link == (work_trace(delivery.id), span_of(delivery.id), True)


def test_the_spans_of_a_call_and_its_attempts_have_ids_of_their_own() -> None:
    invocation_id = new_id()
    ids = [span_of(invocation_id)]
    for attempt in range(1, 11):
        ids += [span_of(invocation_id, attempt), span_of(invocation_id, attempt, is_handler=True)]
    assert len(set(ids)) == len(ids)
    assert all(0 < number < 1 << 64 for number in ids)


def test_the_caller_decides_whether_its_trace_is_sent() -> None:
    for ratio in (0.0, 1.0):
        for flags, is_sent in (("00", False), ("01", True)):
            kept = Kept(ratio)
            header = f"{HEADER[:-2]}{flags}"
            begun = kept.tracer.request(header)
            kept.tracer.answered(begun, Answered("GET /x", {}))
            kept.tracer.call_ended(a_record(), header)
            kept.tracer.work_accepted(a_record(due_at=1), header)
            assert len(kept.over) == (3 if is_sent else 0)
            traceparent = kept.tracer.handler_traceparent(new_id(), 1, header, is_accepted=False)
            assert traceparent.endswith(flags)


def test_of_traces_that_begin_here_the_share_is_sent() -> None:
    kept = Kept(0.25)
    sent = sum(kept.tracer.request(None).context.is_sampled for _ in range(4000))
    assert 800 < sent < 1200
    # For asynchronous calls without a request, sampling depends on the random part of the id.
    for _ in range(2000):
        kept.tracer.work_accepted(a_record(due_at=1), None)
    assert 400 < len(kept.over) < 600


def test_a_request_decides_for_its_work_and_what_is_delivered_of_it() -> None:
    kept = Kept(0.0)
    record = a_record(due_at=1)
    kept.tracer.work_accepted(record, HEADER)
    kept.tracer.call_ended(record, None)  # the call was cancelled while it waited
    kept.tracer.delivery_tried(a_delivery(record), 0.0, to_function=False)
    assert [one.name for one in kept.spans] == ["accept f", "attempt f", "handler", "deliver"]
    # Another process does not know this decision, so it goes by the id.
    later = Kept(0.0)
    later.tracer.delivery_tried(a_delivery(record), 0.0, to_function=False)
    assert later.over == []


def test_decisions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "DECISIONS_MAX", 10)
    kept = Kept(0.0)
    for _ in range(50):
        kept.tracer.work_accepted(a_record(due_at=1), HEADER)
    assert len(kept.tracer._decisions) == 10
