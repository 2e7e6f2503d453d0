"""Which responses are compressed, for which clients and routes."""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator

import pytest

from promises import promise
from quiltfn.api.http import compression
from quiltfn.api.http.budgets import SHORT_BYTES, ResponseBudget
from quiltfn.api.http.compression import FROM_BYTES, Compression, wants_gzip
from quiltfn.api.http.request import Headers
from quiltfn.api.http.response import JSON, Response
from timeouts import scaled

pytestmark = promise("A65")

ASKS = Headers({"accept-encoding": "gzip"})


def a_response(size: int = FROM_BYTES, kind: str = JSON, **more: str) -> Response:
    headers = [("content-type", kind), *more.items()]
    return Response(headers=headers, body=b"x" * size)


async def applied(response: Response, headers: Headers = ASKS) -> Response:
    await Compression(ResponseBudget()).apply(response, headers)
    return response


@pytest.mark.parametrize("size", [FROM_BYTES, SHORT_BYTES, SHORT_BYTES + 1, 1_000_000])
async def test_a_long_answer_is_compressed_and_says_so(size: int) -> None:
    response = await applied(a_response(size))
    assert response.header("content-encoding") == "gzip"
    assert response.header("vary") == "accept-encoding"
    assert isinstance(response.body, bytes)
    assert gzip.decompress(response.body) == b"x" * size
    # The client did not ask for compression, but the header Vary tells caches about it.
    plain = await applied(a_response(size), Headers())
    assert (plain.body, plain.header("content-encoding")) == (b"x" * size, None)
    assert plain.header("vary") == "accept-encoding"


async def test_what_all_clients_share_is_compressed_once_for_all() -> None:
    body = b"a" * 100_000
    some = [Response(headers=[("content-type", JSON)], body=body, is_shared=True) for _ in "ab"]
    first, second = [await applied(one) for one in some]
    assert first.body is second.body
    assert first.is_shared
    assert isinstance(first.body, bytes)
    assert gzip.decompress(first.body) == body


async def a_stream() -> AsyncIterator[bytes]:
    yield b"x" * FROM_BYTES


@pytest.mark.parametrize(
    "response",
    [
        a_response(FROM_BYTES - 1),
        a_response(kind="application/octet-stream"),
        a_response(etag='"abc"'),
        Response(status=206, headers=[("content-type", "text/plain")], body=b"x" * FROM_BYTES),
        Response(headers=[("content-type", "text/event-stream")], body=a_stream()),
    ],
    ids=["short", "octets", "etag", "part", "stream"],
)
async def test_what_is_never_compressed(response: Response) -> None:
    before = response.body
    await applied(response)
    assert response.body == before
    assert response.header("vary") is None
    assert response.header("content-encoding") is None


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("x-gzip", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("gzip;q=nonsense", False),
        ("br, deflate", False),
        ("identity", False),
        ("", False),
        ("a," * (compression.NAMES_MAX - 1) + "gzip", True),
        ("a," * compression.NAMES_MAX + "gzip", False),
    ],
)
def test_accept_encoding_is_read_as_rfc_9110_says(given: str, wanted: bool) -> None:
    assert wants_gzip(Headers({"accept-encoding": given})) is wanted


async def test_long_answers_are_compressed_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    budget, go_on, at_once = ResponseBudget(), threading.Event(), list[int]()
    under_way = 0

    def slow(body: bytes) -> bytes:
        nonlocal under_way
        assert len(body) == size
        under_way += 1
        at_once.append(under_way)
        assert threading.current_thread() is not threading.main_thread()
        go_on.wait(scaled(5))
        under_way -= 1
        return b"packed"

    monkeypatch.setattr(compression, "gzipped", slow)
    monkeypatch.setattr(compression, "WAITING_MAX", 3)
    packer, size = Compression(budget), SHORT_BYTES + 1
    responses = [a_response(size) for _ in range(5)]
    tasks = [asyncio.ensure_future(packer.apply(one, ASKS)) for one in responses]
    await asyncio.sleep(0.02)
    assert budget.held == 3 * size
    assert [task.done() for task in tasks] == [False] * 3 + [True] * 2
    go_on.set()
    await asyncio.gather(*tasks)
    assert at_once == [1, 1, 1]
    assert [one.body == b"packed" for one in responses] == [True] * 3 + [False] * 2
    assert budget.held == 0
