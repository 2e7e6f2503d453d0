"""Event streams: framing, keep-alive comments, limits and their end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from promises import promise
from quiltfn.api.http import event_stream
from quiltfn.api.http.event_stream import HEARTBEAT, EventStream, event, wants_events
from quiltfn.api.http.request import Headers
from quiltfn.api.http.stream_slots import StreamSlots
from quiltfn.model.errors import CapacityFull, RateLimited

pytestmark = promise("A42")


def test_an_event_is_lines_and_an_empty_one() -> None:
    assert event("end", b'{"a":1}') == b'event: end\ndata: {"a":1}\n\n'
    assert event("stdout", b"{}", "3-0") == b"id: 3-0\nevent: stdout\ndata: {}\n\n"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("text/event-stream", True),
        ("application/json, Text/Event-Stream;q=0.5", True),
        ("text/event-stream;q=0", False),
        ("*/*", False),
        ("text/*", False),
        ("application/json", False),
        ("", False),
        ("a/b," * (event_stream.TYPES_MAX - 1) + "text/event-stream", True),
        ("a/b," * event_stream.TYPES_MAX + "text/event-stream", False),
    ],
)
def test_a_stream_is_sent_to_who_names_it(accept: str, wanted: bool) -> None:
    assert wants_events(Headers(accept=accept)) is wanted
    assert not wants_events(Headers())


class Source:
    """Events that a test sends, and whether their generator was closed."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.is_closed = False

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            while chunk := await self.queue.get():
                yield chunk
        finally:
            self.is_closed = True


async def test_a_heartbeat_comes_where_no_event_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.01)
    slots, source = StreamSlots(), Source()
    stream = EventStream(slots, "t")
    stream.response(source.events())
    assert await anext(stream) == HEARTBEAT
    assert await anext(stream) == HEARTBEAT
    source.queue.put_nowait(b"one")
    source.queue.put_nowait(b"two")
    source.queue.put_nowait(b"")
    assert [chunk async for chunk in stream if chunk != HEARTBEAT] == [b"one", b"two"]
    await stream.aclose()
    assert (source.is_closed, slots.open) == (True, 0)


async def test_a_stream_that_is_left_closes_its_events_and_frees_its_slot() -> None:
    slots, source = StreamSlots(), Source()
    stream, never_read = EventStream(slots, "t"), EventStream(slots, "t")
    stream.response(source.events())
    never_read.response(Source().events(), is_endless=True)
    waits = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.01)
    waits.cancel()
    await asyncio.wait({waits})
    await stream.aclose()
    await stream.aclose()
    assert (source.is_closed, slots.open) == (True, 1)
    await never_read.aclose()
    assert slots.open == 0


async def test_an_error_of_the_events_reaches_who_sends_them() -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        yield b"one"
        raise ValueError("a mistake")

    slots = StreamSlots()
    stream = EventStream(slots, "t")
    stream.response(broken())
    assert await anext(stream) == b"one"
    with pytest.raises(ValueError, match="a mistake"):
        await anext(stream)
    await stream.aclose()
    assert slots.open == 0


async def test_the_end_of_the_server_ends_what_would_not_end_by_itself() -> None:
    slots, endless, ends = StreamSlots(), Source(), Source()
    stream, other = EventStream(slots, "t"), EventStream(slots, "t")
    stream.response(endless.events(), is_endless=True)
    other.response(ends.events())
    waits, goes_on = (asyncio.ensure_future(anext(it)) for it in (stream, other))
    await asyncio.sleep(0.01)
    slots.end()
    with pytest.raises(StopAsyncIteration):
        await waits
    ends.queue.put_nowait(b"the end")
    assert await goes_on == b"the end"
    await stream.aclose()
    await other.aclose()
    assert slots.open == 0


async def test_nothing_is_sent_for_a_credential_that_is_no_longer_valid() -> None:
    slots, source, is_valid = StreamSlots(), Source(), [True]
    stream = EventStream(slots, "t", lambda: is_valid[0])
    stream.response(source.events(), is_endless=True)
    source.queue.put_nowait(b"one")
    assert await anext(stream) == b"one"
    is_valid[0] = False
    source.queue.put_nowait(b"a secret")
    assert [chunk async for chunk in stream] == []
    await stream.aclose()
    assert (source.is_closed, slots.open) == (True, 0)


def test_a_tenant_has_so_many_streams_and_all_tenants_have_so_many() -> None:
    slots = StreamSlots(of_tenant=2, of_all=3)
    slots.take("a")
    slots.take("a")
    with pytest.raises(RateLimited, match="2 streams"):
        slots.take("a")
    slots.take("b")
    with pytest.raises(CapacityFull, match="3 streams"):
        slots.take("b")
    slots.release("a")
    slots.take("b")
    assert slots.open == 3


def test_a_slot_is_free_where_the_request_is_refused() -> None:
    slots = StreamSlots()
    context: Any = SimpleNamespace(
        request=SimpleNamespace(is_reserved=False),
        services=SimpleNamespace(
            access=SimpleNamespace(still_holds=lambda _caller: True),
            budgets=SimpleNamespace(streams=slots),
        ),
        caller=None,
        tenant_id="t",
    )
    with event_stream.opened(context):
        assert slots.open == 1
    assert slots.open == 0
    context.request.is_reserved = True
    with pytest.raises(CapacityFull), event_stream.opened(context):
        pass
    assert slots.open == 0
