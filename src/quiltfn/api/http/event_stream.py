"""Server-sent events (WHATWG HTML, section 9.2): their framing and their heartbeat.

A route that answers with a stream does this:

    with event_stream.opened(context) as stream:  # refused if too many are open
        ...  # checks that may raise a refusal
        return stream.response(events)

`events` is an async generator of events encoded by `event`, or of parts of them. The stream
requests the next event only once the client has read most of the previous ones, and closes the
generator when the client disconnects.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from quiltfn.api.http import parse
from quiltfn.api.http.guards import check_connection
from quiltfn.api.http.request import Headers
from quiltfn.api.http.response import Header, Response
from quiltfn.api.http.stream_slots import StreamSlots
from quiltfn.model.errors import Unprocessable

if TYPE_CHECKING:
    from quiltfn.api.http.route import AnyContext

EVENT_STREAM = "text/event-stream"
# The limit on types read from Accept; further ones are ignored.
TYPES_MAX = 64
HEARTBEAT_S = 15.0
# A comment: clients ignore it, and proxies see that the connection is in use.
HEARTBEAT = b":\n\n"
# No proxy on the way may cache or buffer a stream.
HEADERS: tuple[Header, ...] = (
    ("content-type", EVENT_STREAM),
    ("cache-control", "no-store"),
    ("x-accel-buffering", "no"),
)

Events = AsyncGenerator[bytes, None]


def event(name: str, data: bytes, event_id: str | None = None) -> bytes:
    """One event. `data`: JSON in one line. `event_id`: a client that reconnects sends it as
    Last-Event-ID to get the events after this one.
    """
    identified = "" if event_id is None else f"id: {event_id}\n"
    return b"%bevent: %b\ndata: %b\n\n" % (identified.encode(), name.encode(), data)


def wants_events(headers: Headers) -> bool:
    """Whether Accept names the type of event streams; `*/*` does not count."""
    given = ",".join(headers.getlist("accept")).lower()
    if EVENT_STREAM not in given:
        return False
    for token in given.split(",")[:TYPES_MAX]:
        kind, *parameters = (part.strip() for part in token.split(";"))
        if kind == EVENT_STREAM:
            return not any(part in ("q=0", "q=0.0", "q=0.00", "q=0.000") for part in parameters)
    return False


def follows(context: "AnyContext") -> bool:
    """Whether the client requests events, by `follow` or else by Accept. Raises `Unprocessable`."""
    given = context.query.get("follow")
    return wants_events(context.headers) if given is None else parse.boolean(given, "follow")


def check_follows(context: "AnyContext") -> None:
    """For routes with only events: raises `Unprocessable` if the client doesn't request them."""
    if not follows(context):
        raise Unprocessable.field("follow", "true", context.query.get("follow"), "true")


class EventStream:
    """A slot and the response body that occupies it: events, and a heartbeat after 15 seconds
    without an event. `aclose` closes the generator of the events and frees the slot.
    The stream ends once `may_go_on` returns False: a credential that became invalid gets no more
    events.
    """

    def __init__(
        self, slots: StreamSlots, tenant_id: str, may_go_on: Callable[[], bool] = lambda: True
    ) -> None:
        self._slots, self._tenant_id, self._may_go_on = slots, tenant_id, may_go_on
        self._events: Events | None = None
        self._next: asyncio.Task[bytes] | None = None
        self._on_close: Callable[[], None] | None = None
        self._is_within = False  # whether the last chunk was an incomplete event
        self._is_ended = self._is_free = False
        slots.take(tenant_id)

    def response(
        self,
        events: Events,
        headers: Iterable[Header] = (),
        *,
        is_endless: bool = False,
        on_close: Callable[[], None] | None = None,
    ) -> Response:
        """The response that streams `events`. `is_endless`: the events do not end by themselves, so
        a shutdown has to end them. `on_close`: called at the end, also if the client disconnected
        before the start.
        """
        self._events, self._on_close = events, on_close
        if is_endless:
            self._slots.note(self, is_open=True)
        return Response(headers=[*headers, *HEADERS], body=self)

    def __enter__(self) -> "EventStream":
        return self

    def __exit__(self, *_: object) -> None:
        if self._events is None:  # refused, or failed
            self._free()

    def __aiter__(self) -> "EventStream":
        return self

    async def __anext__(self) -> bytes:
        if self._is_ended or self._events is None:
            raise StopAsyncIteration
        if self._next is None:
            self._next = asyncio.ensure_future(_next_of(self._events))
        await asyncio.wait({self._next}, timeout=None if self._is_within else HEARTBEAT_S)
        if not self._may_go_on():  # `aclose` cancels the pending event
            self._is_ended = True
            raise StopAsyncIteration
        if not self._next.done():
            return HEARTBEAT
        task, self._next = self._next, None
        if task.cancelled():  # `end` was called
            raise StopAsyncIteration
        chunk = task.result()
        if not chunk:
            raise StopAsyncIteration
        self._is_within = not chunk.endswith(b"\n\n")
        return chunk

    def end(self) -> None:
        """Ends the stream as if there were no more events."""
        self._is_ended = True
        if self._next is not None:
            self._next.cancel()

    async def aclose(self) -> None:
        self._is_ended = True
        task, self._next = self._next, None
        try:
            if task is not None:
                task.cancel()
                await asyncio.wait({task})
                if not task.cancelled():
                    task.exception()  # marks it as retrieved: the client is gone
            if self._events is not None:
                await self._events.aclose()
        finally:
            self._free()

    def _free(self) -> None:
        if not self._is_free:
            self._is_free = True
            self._slots.note(self, is_open=False)
            self._slots.release(self._tenant_id)
            if self._on_close is not None:
                self._on_close()


async def _next_of(events: Events) -> bytes:
    """The next event; empty after the last, since StopAsyncIteration cannot leave a task."""
    with contextlib.suppress(StopAsyncIteration):
        return await anext(events)
    return b""


def opened(context: "AnyContext") -> EventStream:
    """Reserves a slot for the stream that answers this request. Use it in a `with` block, which
    frees the slot unless `EventStream.response` was called. Raises `RateLimited` and
    `CapacityFull`.
    """
    check_connection(context.request)
    services = context.services
    return EventStream(
        services.budgets.streams,
        context.tenant_id,
        partial(services.access.still_holds, context.caller),
    )
