"""An OpenTelemetry collector: accepts OTLP over HTTP, and stores the decoded data.

It decodes with OpenTelemetry's published messages, not with code of the sender.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from timeouts import scaled

REQUESTS: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
}


class Collector:
    """Responds with `status` after `delay_s` seconds; stores only accepted data."""

    def __init__(self) -> None:
        self.status, self.delay_s = 200, 0.0
        self._ends = threading.Event()
        self.spans: list[Span] = []
        self.logs: list[LogRecord] = []
        self.metrics: dict[str, Metric] = {}
        self.resource: dict[str, Any] = {}
        self.headers: list[dict[str, str]] = []
        self.faults: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Collector]:
        self._thread.start()
        try:
            yield self
        finally:
            self._ends.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
        assert self.faults == []

    def named(self, name: str, count: int = 1, within_s: float = 10.0) -> list[Span]:
        """The spans with this name, once `count` of them have arrived."""
        self.wait(lambda: len([one for one in self.spans if one.name == name]) >= count, within_s)
        return [one for one in self.spans if one.name == name]

    def wait(self, holds: Any, within_s: float = 10.0) -> None:
        end = time.monotonic() + scaled(within_s)
        while not holds():
            assert time.monotonic() < end, sorted(one.name for one in self.spans)
            time.sleep(0.01)

    def _take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        self.headers.append(headers)
        if headers.get("content-type") != "application/x-protobuf" or path not in REQUESTS:
            self.faults.append(f"{path} {headers}")
            return
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        given = REQUESTS[path].FromString(body)
        if path == "/v1/traces":
            parts = given.resource_spans
            self.spans += [
                one for part in parts for scope in part.scope_spans for one in scope.spans
            ]
        elif path == "/v1/logs":
            parts = given.resource_logs
            found = [
                one for part in parts for scope in part.scope_logs for one in scope.log_records
            ]
            self.logs += found
        else:
            parts = given.resource_metrics
            for part in parts:
                for scope in part.scope_metrics:
                    self.metrics.update({one.name: one for one in scope.metrics})
        for part in parts:
            self.resource = values(part.resource.attributes)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector._ends.wait(collector.delay_s)
                if collector.status == 200:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    collector._take(self.path, headers, body)
                self.send_response(collector.status)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Logs nothing."""

        return Handler


def values(attributes: Any) -> dict[str, Any]:
    """Converts attributes to a dict."""
    return {one.key: value_of(one) for one in attributes}


def value_of(pair: KeyValue) -> Any:
    kind = pair.value.WhichOneof("value")
    return None if kind is None else getattr(pair.value, kind)
