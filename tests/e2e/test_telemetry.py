"""A real server that sends telemetry to a collector, and the effects of a failing collector."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import httpx
import pytest

from e2e.server import Server, until
from promises import promise
from service.otlp_collector import Collector

pytestmark = [pytest.mark.sandbox, promise("O1", "O3")]
TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADER = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector().running() as collector:
        yield collector


def made(server: Server, handler: str) -> str:
    body = {"name": "traced", "handler": handler, "runtime": "shell"}
    function: str = server.call("POST", "/api/functions", body).json()["function_id"]
    assert server.call("POST", f"/api/functions/{function}/deploy").json()["state"] == "active"
    return f"/api/functions/{function}/invoke"


def traced(server: Server, path: str) -> httpx.Response:
    return server.http.post(path, json={}, headers={"traceparent": HEADER})


def test_a_call_on_a_real_server_is_traced_and_a_collector_that_goes_away_harms_no_call(
    another: Callable[..., Server], collector: Collector
) -> None:
    server = another(options=f"--otlp-endpoint {collector.url} --otlp-metrics-s 1").start()
    path = made(server, "sleep 0.05; echo $TRACEPARENT")
    answer = traced(server, path)
    (handler,) = collector.named("handler")
    (call,) = collector.named("invoke traced")
    (request,) = collector.named("POST /api/functions/{function_id}/invoke")
    assert request.parent_span_id.hex() == HEADER[36:52]
    assert (call.parent_span_id, handler.parent_span_id) == (request.span_id, call.span_id)
    assert answer.json()["stdout"].strip() == f"00-{TRACE}-{handler.span_id.hex()}-01"
    took = handler.end_time_unix_nano - handler.start_time_unix_nano
    assert 50_000_000 <= took <= answer.json()["duration_ms"] * 1_000_000
    collector.wait(lambda: collector.metrics)
    assert collector.resource["service.name"] == "quiltfn"
    # The log lines of a request arrive as well, with the span of the request.
    traced(server, "/api/functions/invoke/nobody")
    collector.wait(lambda: [one for one in collector.logs if one.trace_id.hex() == TRACE])
    # From now on, the collector accepts nothing.
    collector.status = 400
    for _ in range(5):
        assert server.call("POST", path, {}).json()["status"] == "success"
    complaint = "the collector does not accept telemetry"
    until(lambda: complaint in server.log.read_text(), 20.0)
    assert server.log.read_text().count(complaint) == 1
    metrics = server.call("GET", "/metrics").text
    assert 'quiltfn_otlp_dropped_total{reason="failed"' in metrics
    collector.status = 200
    traced(server, path)
    until(lambda: "the collector accepts telemetry again" in server.log.read_text(), 20.0)


def test_the_event_of_a_url_has_the_header_of_the_trace(
    another: Callable[..., Server], collector: Collector
) -> None:
    """The event is encoded as JSON by an encoder that only accepts exact types: the header must be
    a `str`.
    """
    server = another(options=f"--otlp-endpoint {collector.url}").start()
    body = {"name": "shown", "handler": "json:dumps", "runtime": "python"}
    path = "/api/functions/" + server.call("POST", "/api/functions", body).json()["function_id"]
    assert server.call("POST", f"{path}/deploy").json()["state"] == "active"
    assert server.call("PUT", f"{path}/url", {"auth": "none"}).status_code == 200
    answer = server.http.get("/fn/shown")
    assert answer.status_code == 200, answer.text
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", answer.json()["headers"]["traceparent"])


def test_a_server_that_cannot_read_its_headers_does_not_start(
    another: Callable[..., Server], collector: Collector, tmp_path: object
) -> None:
    headers = f"{tmp_path}/headers"
    with open(headers, "w") as file:
        file.write("no header\n")
    options = f"--otlp-endpoint {collector.url} --otlp-headers-file {headers}"
    server = another(options=options)
    server.start_without_waiting()
    assert server.wait() == 78
    assert "otlp_headers_file: line 1 must be a header" in server.log.read_text()
