"""Responses that are streams, from a route of the application to the client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from promises import promise
from quiltfn.api.http.response import Response
from quiltfn.api.http.route import RequestContext, Route
from quiltfn.api.routes.table import ROUTES
from quiltfn.model.access import Scope
from service.platform_harness import open_harness
from service.served import served
from timeouts import scaled

pytestmark = promise("A33")

CHUNK = b"y" * 65536
CHUNKS = 512
REQUEST = "{} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nX-Request-Id: mine\r\n\r\n"


async def stream_numbers(_context: RequestContext[Any]) -> Response:
    """Send a stream of equal chunks."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(CHUNKS):
            yield CHUNK

    return Response(headers=[("content-type", "application/octet-stream")], body=chunks())


async def keep_numbers(context: RequestContext[Any]) -> Response:
    """Send a stream to a request that may be repeated."""
    response = await stream_numbers(context)
    response.status = 201
    return response


TABLE = [
    Route("GET", "/numbers", stream_numbers, scope=Scope.READ, answer=str, parameters=()),
    Route("POST", "/numbers", keep_numbers, scope=Scope.WRITE, answer=str, is_idempotent=True),
    *ROUTES,
]


@contextlib.asynccontextmanager
async def serving(path: Path) -> AsyncIterator[int]:
    """Serves the routes of this test, and yields the port."""
    async with open_harness(path) as harness, served(harness, TABLE) as port:
        yield port


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    async with serving(tmp_path) as port:
        yield port


async def ask(port: int, line: str, *headers: str) -> tuple[bytes, bytes]:
    """The head and the body of the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = REQUEST.format(line).replace("\r\n\r\n", "".join(f"\r\n{one}" for one in headers))
    writer.write(head.encode() + b"\r\n\r\n")
    async with asyncio.timeout(scaled(20)):
        answer = await reader.read()
    writer.close()
    got, _, body = answer.partition(b"\r\n\r\n")
    return got, body


async def test_a_stream_has_all_that_every_response_has(port: int) -> None:
    head, body = await ask(port, "GET /numbers")
    assert head.startswith(b"HTTP/1.1 200 OK\r\ndate: ")
    for line in (b"x-request-id: mine", b"x-frame-options: DENY", b"transfer-encoding: chunked"):
        assert line in head
    assert body.count(CHUNK) == CHUNKS
    assert body.endswith(b"\r\n0\r\n\r\n")


async def test_a_stream_is_refused_as_everything_else(port: int) -> None:
    head, body = await ask(port, "GET /numbers?some=1")
    assert head.startswith(b"HTTP/1.1 422 ")
    assert b'"request_id":"mine"' in body
    head, _ = await ask(port, "GET /numbers", "Origin: https://evil.test")
    assert head.startswith(b"HTTP/1.1 403 ")


async def test_a_repetition_of_a_stream_is_told_that_it_was_executed(port: int) -> None:
    key = "Idempotency-Key: k"
    head, body = await ask(port, "POST /numbers", key)
    assert head.startswith(b"HTTP/1.1 201 ")
    assert body.count(CHUNK) == CHUNKS
    head, body = await ask(port, "POST /numbers", key)
    assert head.startswith(b"HTTP/1.1 409 ")
    assert b"was executed" in body
