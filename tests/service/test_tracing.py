"""Telemetry of a whole platform on fake sandboxes, as a collector receives it over HTTP."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import httpx
import pytest
import requests
import structlog
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from metric_values import sample_value
from promises import promise
from quiltfn.api.app import make_app
from quiltfn.api.http import tracing
from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response
from quiltfn.api.http.route import RequestContext, Route
from quiltfn.api.http.tracing import traced as traced_app
from quiltfn.base.clock import SystemClock
from quiltfn.model.access import Scope
from quiltfn.observe import log, metrics, otlp, trace
from quiltfn.observe.otlp_answers import session
from quiltfn.observe.trace import Answered
from quiltfn.server.telemetry import CannotSend, headers_of, open_telemetry
from quiltfn.settings import Settings
from service.in_process import request_of
from service.otlp_collector import Collector, values
from service.platform_harness import FACTS, open_harness, until
from service.routes import Web
from timeouts import scaled

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
HEADER = f"00-{TRACE}-{SPAN}-01"
HOST = {"host": "127.0.0.1", "content-type": "application/json"}


@pytest.fixture(autouse=True)
def sends_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "SEND_EVERY_S", 0.02)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector().running() as collector:
        yield collector


@pytest.fixture
def said() -> Iterator[list[dict[str, Any]]]:
    """The lines of the log, in the form in which they are written."""
    lines: list[dict[str, Any]] = []

    def keep(_logger: Any, _method: str, line: Any) -> Any:
        lines.append(dict(line))
        raise structlog.DropEvent

    before = structlog.get_config()
    processors = [structlog.processors.add_log_level, log._hand_on, keep]
    structlog.configure(processors=processors, cache_logger_on_first_use=False)
    yield lines
    structlog.configure(**before)


class Traced(Web):
    """A client of a platform that sends its telemetry to a collector."""

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self("POST", path, body or {}, headers=sent)

    async def invoke(self, name: str = "f", **headers: str) -> dict[str, Any]:
        answer = await self.post(f"/api/functions/invoke/{name}", **headers)
        assert answer.status_code in (200, 202), answer.text
        found: dict[str, Any] = answer.json()
        return found


@asynccontextmanager
async def open_traced(path: Path, url: str, **settings: Any) -> AsyncIterator[Traced]:
    clock: Any = SystemClock()
    settings |= {"otlp_endpoint": url}
    async with open_harness(path, clock=clock, settings=settings) as harness:
        yield Traced(harness)


@pytest.fixture
async def traced(tmp_path: Path, collector: Collector) -> AsyncIterator[Traced]:
    async with open_traced(tmp_path, collector.url) as traced:
        yield traced


async def got(collector: Collector, name: str, count: int = 1) -> list[Span]:
    return await asyncio.to_thread(collector.named, name, count)


def ids(span: Span) -> tuple[str, str, str]:
    return span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()


@promise("O1")
async def test_a_trace_goes_from_caller_to_handler(traced: Traced, collector: Collector) -> None:
    await traced.harness.active("echo $TRACEPARENT")
    record = await traced.invoke(traceparent=HEADER)
    (handler,) = await got(collector, "handler")
    (request,) = await got(collector, "POST /api/functions/invoke/{name}")
    (call,) = await got(collector, "invoke f")
    assert ids(request)[::2] == (TRACE, SPAN)
    assert ids(call)[::2] == (TRACE, ids(request)[1])
    assert ids(handler)[::2] == (TRACE, ids(call)[1])
    assert record["stdout"].strip() == f"00-{TRACE}-{ids(handler)[1]}-01"
    assert request.start_time_unix_nano <= call.start_time_unix_nano
    assert call.end_time_unix_nano <= request.end_time_unix_nano
    assert (request.kind, call.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_INTERNAL)
    about = values(request.attributes)
    assert about["http.response.status_code"] == 200
    assert about["url.path"] == "/api/functions/invoke/f"
    about = values(call.attributes)
    assert about["faas.invocation_id"] == record["invocation_id"]
    assert (about["faas.name"], about["quiltfn.status"]) == ("f", "success")
    assert about["quiltfn.tenant_id"] == "default"
    assert collector.resource["service.name"] == "quiltfn"
    assert collector.resource["service.instance.id"] == FACTS.node_id


@promise("O1")
async def test_a_cold_call_shows_its_sandbox_and_why(traced: Traced, collector: Collector) -> None:
    await traced.harness.active("sleep 0.1", min_instances=0, max_instances=2)
    traced.harness.sandboxes.start_s = 0.01
    await asyncio.gather(traced.invoke(), traced.invoke())
    (made,) = await got(collector, "sandbox create")
    (sandbox,) = await got(collector, "sandbox")
    assert ids(made)[2] == ids(sandbox)[1]
    assert values(sandbox.attributes)["quiltfn.cold_start_reason"] in ("first", "scaled_out")
    assert made.end_time_unix_nano - made.start_time_unix_nano >= 9_000_000


@promise("A84")
async def test_a_failed_call_is_an_error_no_refusal(traced: Traced, collector: Collector) -> None:
    await traced.harness.active("zz-4711")  # its log contains this handler's name
    assert "zz-4711" in (await traced.invoke())["error_message"]
    (call,) = await got(collector, "invoke f")
    assert call.status.code == Status.STATUS_CODE_ERROR
    assert call.status.message == "the handler exited with code 127"
    assert (await traced.post("/api/functions/invoke/nobody")).status_code == 404
    requests = await got(collector, "POST /api/functions/invoke/{name}", 2)
    assert {one.status.code for one in requests} == {Status.STATUS_CODE_UNSET}
    assert values(requests[-1].attributes)["http.response.status_code"] == 404


async def test_unsampled_calls_are_told_and_not_sent(traced: Traced, collector: Collector) -> None:
    await traced.harness.active("echo $TRACEPARENT")
    record = await traced.invoke(traceparent=f"{HEADER[:-2]}00")
    assert re.fullmatch(f"00-{TRACE}-[0-9a-f]{{16}}-00", record["stdout"].strip())
    await traced.invoke(traceparent=HEADER)
    await got(collector, "handler")
    assert len([one for one in collector.spans if one.name == "handler"]) == 1


async def test_health_and_metrics_have_no_spans(traced: Traced, collector: Collector) -> None:
    for path in ("/health", "/metrics", "/api/functions/help", "/api/functions"):
        await traced.ask(200, "GET", path)
    await got(collector, "GET /api/functions")
    assert {one.name for one in collector.spans} == {
        "GET /api/functions",
        "GET /api/functions/help",
    }


async def answer(_: RequestContext[Any]) -> Response:
    return Response()


async def spans_of(
    route: Route[Any], request: Request, share: float, status: int = 200
) -> list[trace.Traced]:
    """The traces of a request that are sent. `share`: the sampled share of traces that begin
    here.
    """
    over: list[trace.Traced] = []
    clock = SystemClock()

    async def app(_: Request) -> Response:
        return Response(status=status)

    tracer = trace.Tracer(clock.unix, clock.now, share, over.append)
    await traced_app(app, lambda _: route, tracer)(request)
    return over


@pytest.mark.parametrize("scope", [None, Scope.INVOKE])
async def test_a_stranger_does_not_decide_what_is_sent(scope: Scope | None) -> None:
    """An unauthenticated request cannot have its trace sent: the trace begins anew in quiltfn,
    which samples a share.
    """
    route = Route("POST", "/x", answer, scope=scope, is_invoke=True)
    request = request_of("POST", "/x", {"traceparent": HEADER})
    assert bool(await spans_of(route, request, share=0.0)) is (scope is not None)
    assert (TRACE in request.headers["traceparent"]) is (scope is not None)


async def test_a_stranger_does_not_decide_how_much_a_span_holds() -> None:
    """Spans must be short, since thousands may wait for a collector."""
    route, lengths = Route("POST", "/x", answer, scope=None, is_invoke=True), []
    for length in (100, 10_000):
        request = request_of("POST", "/" + "x" * (length - 1), {})
        traces = await spans_of(route, request, share=1.0, status=401)
        spans = [span for traced in traces for span in traced.spans()]
        lengths += [len(str(span.attributes["url.path"])) for span in spans]
    assert lengths == [100, 512]


@promise("O2")
async def test_accepted_work_links_to_its_request(traced: Traced, collector: Collector) -> None:
    """An invocation that has failed in all its attempts is sent to another function as its failure
    destination.
    """
    first = await traced.harness.active("exit 3")
    await traced.harness.active("echo $TRACEPARENT", name="told")
    policy = {
        "max_attempts": 2,
        "backoff_seconds": {"first": 0.1, "factor": 1, "most": 1, "jitter": 0},
        "on_failure": {"function": "told"},
    }
    path = f"/api/functions/{first.function.id}/async-policy"
    await traced.good("PUT", path, policy)
    record = await traced.invoke(traceparent=HEADER, prefer="respond-async")
    assert record["status"] == "queued"
    attempts = await got(collector, "attempt f", 2)
    (root,), (request,) = (
        await got(collector, "accept f"),
        await got(collector, "POST /api/functions/invoke/{name}"),
    )
    work = record["invocation_id"].replace("-", "")
    assert ids(root)[::2] == (work, "")
    (link,), (back,) = root.links, request.links
    assert (link.trace_id.hex(), link.span_id.hex()) == ids(request)[:2]
    assert ids(request)[::2] == (TRACE, SPAN)
    assert (back.trace_id.hex(), back.span_id.hex()) == ids(root)[:2]
    assert {ids(one)[::2] for one in attempts} == {(work, ids(root)[1])}
    assert len({ids(one)[1] for one in attempts}) == 2
    assert sorted(values(one.attributes)["quiltfn.attempt"] for one in attempts) == [1, 2]
    assert {one.kind for one in attempts} == {Span.SPAN_KIND_CONSUMER}
    # The delivery belongs to the trace of the asynchronous invocation; the invocation that it
    # causes has its own trace.
    (deliver,) = await got(collector, "deliver")
    assert ids(deliver)[::2] == (work, ids(root)[1])
    (caused,) = await got(collector, "accept told")
    assert (caused.links[0].trace_id.hex(), caused.links[0].span_id.hex()) == ids(deliver)[:2]
    assert (deliver.links[0].trace_id.hex(), deliver.links[0].span_id.hex()) == ids(caused)[:2]
    (attempt,) = await got(collector, "attempt told")
    assert ids(attempt)[::2] == ids(caused)[:2]


@pytest.mark.parametrize(("status", "code"), [(204, "UNSET"), (410, "ERROR")])
async def test_a_receiver_of_a_callback_is_told_of_the_span_of_the_try(
    traced: Traced, collector: Collector, status: int, code: str
) -> None:
    received: list[str] = []

    async def post(_url: str, headers: Mapping[str, str], _body: bytes) -> int:
        received.append(headers["traceparent"])
        return status

    async def aclose() -> None:
        """The fake sender has nothing to close."""

    traced.harness.services.deliveries._sender = SimpleNamespace(post=post, aclose=aclose)
    entry = await traced.harness.active()
    hook = {"url": "https://hook.example/x", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
    path = f"/api/functions/{entry.function.id}/async-policy"
    await traced.good("PUT", path, {"on_success": hook})
    record = await traced.invoke(prefer="respond-async")
    (deliver,), (root,) = await got(collector, "deliver"), await got(collector, "accept f")
    work = record["invocation_id"].replace("-", "")
    assert ids(deliver)[::2] == (work, ids(root)[1])
    assert received == [f"00-{work}-{ids(deliver)[1]}-01"]
    assert deliver.kind == Span.SPAN_KIND_CLIENT
    assert values(deliver.attributes)["quiltfn.http_status"] == status
    assert deliver.status.code == getattr(Status, f"STATUS_CODE_{code}")


async def test_cancelled_waiting_work_has_a_span(traced: Traced, collector: Collector) -> None:
    entry = await traced.harness.active()
    answer = await traced.post("/api/functions/invoke/f?mode=async&delay_seconds=3600")
    call = f"/api/functions/{entry.function.id}/invocations/{answer.json()['invocation_id']}"
    assert (await traced.post(f"{call}/cancel")).status_code == 200
    (root,), (attempt,) = await got(collector, "accept f"), await got(collector, "attempt f")
    assert ids(attempt)[::2] == ids(root)[:2]
    assert values(attempt.attributes)["quiltfn.status"] == "cancelled"


async def test_a_replay_belongs_to_its_request(traced: Traced, collector: Collector) -> None:
    entry = await traced.harness.active("echo $TRACEPARENT")
    record = await traced.invoke(prefer="respond-async")
    await got(collector, "attempt f")
    call = f"/api/functions/{entry.function.id}/invocations/{record['invocation_id']}"
    again = await traced.post(f"{call}/replay", {"mode": "sync"}, traceparent=HEADER)
    assert again.status_code == 200, again.text
    assert again.json()["stdout"].startswith(f"00-{TRACE}-")


# Metrics and logs --------------------------------------------------------------------------


@promise("O6")
async def test_metrics_have_the_names_of_the_route(tmp_path: Path, collector: Collector) -> None:
    async with open_traced(tmp_path, collector.url, otlp_metrics_s=1.0) as traced:
        await traced.harness.active()
        await traced.invoke()
        await traced("GET", "/api/functions/nobody")
        await asyncio.to_thread(collector.wait, lambda: collector.metrics)
        text = (await traced("GET", "/metrics")).text
    names = set(re.findall(r"^(quiltfn_\w+?)(?:_bucket|_count|_sum)?[{ ]", text, re.MULTILINE))
    names = {name for name in names if not name.endswith("_created")}
    # The counter of exported items is missing from the first export, since it counts only completed
    # exports.
    assert set(collector.metrics) | {"quiltfn_otlp_exported_total"} >= names
    calls = collector.metrics["quiltfn_invocations_total"].sum
    assert calls.is_monotonic
    warm = {"status": "success", "start": "warm"}
    (point,) = [one for one in calls.data_points if values(one.attributes) == warm]
    assert f'{{start="warm",status="success"}} {point.as_double}' in text
    (duration,) = collector.metrics["quiltfn_invocation_duration_seconds"].histogram.data_points
    assert duration.count == sum(duration.bucket_counts) > 0
    assert len(duration.bucket_counts) == len(duration.explicit_bounds) + 1
    assert list(duration.explicit_bounds) == list(metrics.SECONDS)
    ready = collector.metrics["quiltfn_instances"].gauge.data_points
    assert {values(one.attributes)["state"]: one.as_double for one in ready}["ready"] == 1


async def test_lines_of_the_log_name_the_request(
    tmp_path: Path, collector: Collector, said: list[dict[str, Any]]
) -> None:
    async with open_traced(tmp_path, collector.url) as traced:
        answer = await traced.post(
            "/api/functions", {"name": "made", "handler": "true"}, traceparent=HEADER
        )
        assert answer.status_code == 201
        await asyncio.to_thread(
            collector.wait, lambda: [one for one in collector.logs if one.trace_id]
        )
    (line,) = [one for one in collector.logs if one.trace_id.hex() == TRACE]
    (request,) = [one for one in collector.spans if one.name == "POST /api/functions"]
    assert line.span_id == request.span_id
    assert (line.body.string_value, line.severity_text) == ("request", "info")
    about = values(line.attributes)
    assert (about["path"], about["status"]) == ("/api/functions", 201)
    assert [one["trace_id"] for one in said if one["event"] == "request"] == [TRACE]


@promise("O5")
@pytest.mark.usefixtures("said")
async def test_nothing_of_callers_or_handlers_is_sent(tmp_path: Path, collector: Collector) -> None:
    secret = "kept-between-us"
    async with open_traced(tmp_path, collector.url) as traced:
        await traced.harness.active("cat", environment={"NAME": secret})
        body = {"payload": secret, "environment": {"OTHER": secret}}
        path = "/api/functions/invoke/f"
        for how in ("", "?mode=async", f"?unknown={secret}"):
            await traced.post(f"{path}{how}", body, authorization=f"Bearer {secret}")
        await got(collector, "attempt f")
        await got(collector, "POST /api/functions/invoke/{name}", 3)
    assert collector.logs
    assert secret not in f"{collector.spans} {collector.logs}"


async def test_only_the_named_signals_are_sent(tmp_path: Path, collector: Collector) -> None:
    given = {"otlp_signals": "metrics", "otlp_metrics_s": 1.0}
    async with open_traced(tmp_path, collector.url, **given) as traced:
        await traced.harness.active("echo $TRACEPARENT")
        record = await traced.invoke(traceparent=HEADER)
        await asyncio.to_thread(collector.wait, lambda: collector.metrics)
    assert record["stdout"].strip() == HEADER  # the header is unchanged, as without telemetry
    assert (collector.spans, collector.logs) == ([], [])


async def test_what_is_left_is_sent_when_the_server_ends(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "SEND_EVERY_S", 3600.0)
    async with open_traced(tmp_path, collector.url) as traced:
        await traced.harness.active()
        await traced.invoke()
        assert collector.spans == []
    assert {"invoke f", "handler"} <= {one.name for one in collector.spans}


# A collector that accepts nothing ----------------------------------------------------------


def dropped(signal: str, reason: str) -> float:
    labels = {"signal": signal, "reason": reason}
    return sample_value("quiltfn_otlp_dropped_total", labels)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "TIMEOUT_S", 0.3)
    monkeypatch.setattr(otlp, "FLUSH_S", 0.5)


async def more_dropped(before: float, signal: str = "traces") -> None:
    await until(lambda: dropped(signal, "failed") > before)


def complaints(said: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in said if "collector" in one["event"]]


@promise("O3")
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("status", "delay_s"),
    [(0, 0), (400, 0), (503, 0), (200, 30)],
    ids=["down", "refuses", "busy", "slow"],
)
async def test_calls_do_not_notice_a_collector_that_takes_nothing(
    tmp_path: Path,
    collector: Collector,
    status: int,
    delay_s: float,
    said: list[dict[str, Any]],
) -> None:
    before = dropped("traces", "failed")
    collector.status, collector.delay_s = status, delay_s
    # the port of `discard`, where nothing listens
    url = collector.url if status else "http://127.0.0.1:9"
    async with open_traced(tmp_path, url, otlp_signals="traces,metrics") as traced:
        await traced.harness.active()
        for _ in range(3):
            assert (await traced.invoke())["status"] == "success"
            await more_dropped(before)
            before = dropped("traces", "failed")
    (complaint,) = complaints(said)
    assert (complaint["level"], complaint["url"]) == ("warning", f"{url}/v1/traces")
    assert complaint["reason"]


@promise("O3")
@pytest.mark.usefixtures("quick")
async def test_a_collector_that_comes_back_gets_what_comes_then(
    tmp_path: Path, collector: Collector, said: list[dict[str, Any]]
) -> None:
    collector.status = 400
    before = dropped("traces", "failed")
    async with open_traced(tmp_path, collector.url, otlp_signals="traces") as traced:
        await traced.harness.active()
        await traced.invoke()
        await more_dropped(before)
        collector.status = 200
        await traced.invoke()
        await got(collector, "handler")
    events = [one["event"] for one in complaints(said)]
    assert [event.split(";")[0] for event in events] == [
        "the collector does not accept telemetry",
        "the collector accepts telemetry again",
    ]


@promise("O3")
@pytest.mark.usefixtures("quick")
async def test_what_waits_for_a_slow_collector_is_bounded_and_counted(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "TRACED_MAX", 20)
    monkeypatch.setattr(otlp, "SEND_EVERY_S", 3600.0)
    before = dropped("traces", "full")
    async with open_traced(tmp_path, collector.url) as traced:
        await traced.harness.active()
        for _ in range(30):  # each iteration adds two entries: the request and the invocation
            await traced.invoke()
        assert dropped("traces", "full") == before + 40
    assert len([one for one in collector.spans if one.name == "handler"]) == 10


async def test_lines_that_wait_are_bounded_in_number_and_length(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "SEND_EVERY_S", 3600.0)
    given = Settings(otlp_endpoint=collector.url)
    before = dropped("logs", "full")
    async with open_telemetry(given, FACTS, SystemClock(), None) as telemetry:
        assert telemetry.sender is not None
        for number in range(otlp.LINES_MAX + 10):
            telemetry.sender.put_line({"event": "x" * 100_000, "level": "info", "number": number})
    assert dropped("logs", "full") == before + 10
    assert len(collector.logs) == otlp.LINES_MAX
    assert {len(one.body.string_value) for one in collector.logs} == {otlp.TEXT_MAX}
    # The oldest lines are kept, since they show how a problem began.
    assert values(collector.logs[0].attributes)["number"] == 0


@contextmanager
def answering(*parts: bytes, pause_s: float = 0.0) -> Iterator[tuple[str, list[int]]]:
    """A server that repeats the last part of its response as long as the client reads. Yields its
    URL, and the number of bytes that each connection accepted.
    """
    taken: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):  # the listener is closed at the end
                while True:
                    connection, _ = listening.accept()
                    taken.append(0)
                    with connection, suppress(OSError):
                        connection.recv(1 << 16)
                        for part in (*parts[:-1], *itertools.repeat(parts[-1], 1000)):
                            connection.sendall(part)
                            taken[-1] += len(part)
                            time.sleep(pause_s)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", taken
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_an_answer_without_an_end_is_not_read_to_it() -> None:
    chunk = b"10000\r\n%b\r\n" % bytes(65_536)
    with answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", chunk) as (url, taken):
        with session(5.0) as client:
            assert client.post(url, b"spans", timeout=scaled(5.0)).status_code == 200
        with suppress(requests.RequestException):  # control: a client without a limit
            requests.post(url, b"spans", timeout=scaled(5.0))
    # The kernel's buffers accept some bytes even if the client reads none.
    assert taken[0] < 16 * 1024 * 1024 < 60 * 1024 * 1024 < taken[1]


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
    with answering(head, b"x", pause_s=0.05) as (url, taken), session(0.2) as client:
        assert client.post(url, b"spans", timeout=scaled(5.0)).status_code == 200
    assert taken[0] < len(head) + 500


async def test_a_redirect_takes_nothing(collector: Collector, said: list[dict[str, Any]]) -> None:
    collector.status = 302
    before = dropped("logs", "failed")
    given = Settings(otlp_endpoint=collector.url)
    async with open_telemetry(given, FACTS, SystemClock(), None) as telemetry:
        assert telemetry.sender is not None
        telemetry.sender.put_line({"event": "x", "level": "info"})
        await more_dropped(before, "logs")
    assert "302" in complaints(said)[0]["reason"]


# Settings ----------------------------------------------------------------------------------


async def test_headers_of_a_file_are_sent_with_everything(collector: Collector) -> None:
    given = Settings(otlp_endpoint=f"{collector.url}/", otlp_metrics_s=1.0)
    text = b"# of the collector\nx-api-key: s3cret, with: a colon\n\nX-Scope: a\n"
    async with open_telemetry(given, FACTS, SystemClock(), text) as telemetry:
        assert telemetry.tracer is not None
        begun = telemetry.tracer.request(None)
        telemetry.tracer.answered(begun, Answered("GET /x", {}))
        await got(collector, "GET /x")
    assert {one["x-api-key"] for one in collector.headers} == {"s3cret, with: a colon"}
    assert {one["x-scope"] for one in collector.headers} == {"a"}


@pytest.mark.parametrize("line", ["a key", ": value", "na me: value", "name: v\x07"])
def test_a_line_that_is_no_header_is_refused_by_its_number(line: str) -> None:
    with pytest.raises(CannotSend, match=r"otlp_headers_file: line 2 must be"):
        headers_of(f"good: 1\n{line}\n".encode())


async def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("opentelemetry.exporter") or name == "quiltfn.observe.otlp":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    given = Settings(otlp_endpoint="http://127.0.0.1:4318")
    with pytest.raises(CannotSend, match=r"install quiltfn\[otel\]"):
        async with open_telemetry(given, FACTS, SystemClock(), None):
            pass


@promise("O4")
async def test_a_call_without_a_collector_makes_no_call_for_it(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        entry = await harness.active()
        called: list[str] = []

        def seen(frame: FrameType, event: str, _: object) -> None:
            if event == "call" and frame.f_code.co_filename in (trace.__file__, tracing.__file__):
                called.append(frame.f_code.co_name)

        app = make_app(harness.services)
        request = request_of("POST", f"/api/functions/{entry.function.id}/invoke", HOST, b"{}")
        sys.setprofile(seen)
        try:
            response = await app(request)
        finally:
            sys.setprofile(None)
    assert (response.status, called) == (200, [])


@promise("O4")
def test_nothing_of_opentelemetry_is_imported_without_an_endpoint() -> None:
    script = (
        "import sys, quiltfn.server.main\n"
        "print([name for name in sys.modules if 'opentelemetry' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
