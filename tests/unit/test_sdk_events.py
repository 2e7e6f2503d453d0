"""Parsing events from the bytes of a stream, for both clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from quiltfn.sdk import (
    ApiError,
    AsyncClient,
    Client,
    ConnectionFailed,
    End,
    Event,
    Gap,
    Output,
    Started,
)
from quiltfn.sdk.events import EventReader
from unit.canned_server import ID, INVOCATION, Canned


def sent(name: str, data: Any, event_id: str = "") -> bytes:
    identified = f"id: {event_id}\n" if event_id else ""
    return f"{identified}event: {name}\ndata: {json.dumps(data)}\n\n".encode()


STREAM = b"".join(
    [
        sent("started", {"invocation_id": "i1", "cold_start": True}),
        b":\n\n",
        sent("stdout", {"offset": 0, "text": "é\n"}, "3-0"),
        sent("stderr", {"offset": 0, "base64": "//4="}, "3-2"),
        sent("later", {"of": "a newer server"}),
        sent("gap", {"stream": "stdout", "offset": 3, "bytes": 7}),
        sent("end", INVOCATION),
    ]
)
EVENTS: list[type[Event]] = [Started, Output, Output, Gap, End]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_events_are_the_same_however_their_bytes_are_cut(size: int) -> None:
    chunks = (STREAM[at : at + size] for at in range(0, len(STREAM), size))
    reader = EventReader()
    started, out, err, gap, end = reader.read(chunks)
    assert started == Started("i1", cold_start=True)
    assert out == Output("stdout", 0, "é\n".encode())
    assert isinstance(out, Output)
    assert out.text == "é\n"
    assert err == Output("stderr", 0, b"\xff\xfe")
    assert gap == Gap(stream="stdout", offset=3, bytes=7)
    assert isinstance(end, End)
    assert end.invocation.status == "success"
    assert reader.last_id == "3-2"


def test_a_stream_without_its_end_is_a_failure() -> None:
    with pytest.raises(ConnectionFailed, match="before the invocation"):
        list(EventReader().read(iter([STREAM[:100]])))
    endless = EventReader(is_endless=True)
    with pytest.raises(ConnectionFailed):
        list(endless.read(iter([STREAM])))


def test_an_error_in_a_stream_is_raised() -> None:
    body = {"error": "the server is ending", "error_code": "SHUTTING_DOWN", "request_id": "r"}
    with pytest.raises(ApiError, match="the server is ending") as caught:
        list(EventReader().read(iter([sent("error", body)])))
    assert caught.value.code == "SHUTTING_DOWN"


def answer(request: httpx.Request) -> httpx.Response:
    assert request.headers["accept"] == "text/event-stream"
    if "missing" in request.url.path:
        return httpx.Response(404, json={"error": "no such function", "error_code": "NOT_FOUND"})
    return httpx.Response(200, content=STREAM)


def test_both_clients_give_the_same_events() -> None:
    with Client(transport=Canned(answer)) as client:
        found = list(client.functions.stream("hello", {"a": 1}, on_disconnect="cancel"))

    async def gathered(events: AsyncIterator[Event]) -> list[Event]:
        return [one async for one in events]

    async def ask() -> list[Event]:
        async with AsyncClient(transport=httpx.MockTransport(answer)) as client:
            return await gathered(client.functions.follow_invocation_logs(ID, "i1"))

    assert [type(one) for one in found] == EVENTS
    assert asyncio.run(ask()) == found


def test_a_refusal_is_raised_as_everywhere() -> None:
    with (
        Client(transport=Canned(answer)) as client,
        pytest.raises(ApiError, match="no such function"),
    ):
        next(client.functions.stream("missing"))
