"""Server-sent events (WHATWG HTML, section 9.2): their framing and their heartbeat.

A route that answers with a stream does this:

    with event_stream.opened(context) as stream:  # refused here where there are too many
        ...  # what may still be refused
        return stream.response(events_of(…))

`events_of` is an async generator of events as `event` makes them, or of parts of them. It is asked
for the next one only when the client has taken most of those before, and it is closed when the
client is gone.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from quiltfn.api.http import parse
from quiltfn.api.http.guards import check_connection
from quiltfn.api.http.request import Headers
from quiltfn.api.http.response import Header, Response
from quiltfn.api.http.stream_slots import StreamSlots
from quiltfn.model.errors import Unprocessable

if TYPE_CHECKING:
    from quiltfn.api.http.route import RequestContext

EVENT_STREAM = "text/event-stream"
# Types that Accept may name; others are not looked at.
TYPES_MAX = 64
HEARTBEAT_S = 15.0
# A comment: clients pass over it, and proxies see that the connection is in use.
HEARTBEAT = b":\n\n"
# Nothing on the way may keep a stream or hold it back until it is long enough.
HEADERS: tuple[Header, ...] = (
    ("content-type", EVENT_STREAM),
    ("cache-control", "no-store"),
    ("x-accel-buffering", "no"),
)

Events = AsyncGenerator[bytes, None]


def event(name: str, data: bytes, event_id: str | None = None) -> bytes:
    """One event. `data`: JSON in one line. `event_id`: what a client that comes back sends as
    Last-Event-ID to get the events after this one.
    """
    identified = "" if event_id is None else f"id: {event_id}\n"
    return b"%bevent: %b\ndata: %b\n\n" % (identified.encode(), name.encode(), data)


def wants_events(headers: Headers) -> bool:
    """Whether Accept names the type of event streams; a `*/*` does not."""
    given = ",".join(headers.getlist("accept")).lower()
    if EVENT_STREAM not in given:
        return False
    for one in given.split(",")[:TYPES_MAX]:
        kind, *parameters = (part.strip() for part in one.split(";"))
        if kind == EVENT_STREAM:
            return not any(part in ("q=0", "q=0.0", "q=0.00", "q=0.000") for part in parameters)
    return False


def follows(context: "RequestContext[Any]") -> bool:
    """Whether the client asks for events: by `follow`, else by Accept. Raises `Unprocessable`."""
    given = context.query.get("follow")
    return wants_events(context.headers) if given is None else parse.boolean(given, "follow")


def check_follows(context: "RequestContext[Any]") -> None:
    """For routes that have events alone: raises `Unprocessable` if they are not asked for."""
    if not follows(context):
        raise Unprocessable.field("follow", "true", context.query.get("follow"), "true")


class EventStream:
    """A slot, and then the body of the response that has it: the events, and a heartbeat wherever
    none comes for 15 seconds. `aclose` closes the generator of the events and frees the slot.
    It ends once `may_go_on` says no: nothing is sent for a credential that is no longer valid.
    """

    def __init__(
        self, slots: StreamSlots, tenant_id: str, may_go_on: Callable[[], bool] = lambda: True
    ) -> None:
        self._slots, self._tenant_id, self._may_go_on = slots, tenant_id, may_go_on
        self._events: Events | None = None
        self._next: asyncio.Task[bytes] | None = None
        self._on_close: Callable[[], None] | None = None
        self._is_within = False  # whether the last chunk was a part of an event
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
        """The response that streams `events`. `is_endless`: they come for as long as the client
        stays, so the end of the server has to end them. `on_close`: is called once it is over,
        also if the client left before it began.
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
        if not self._may_go_on():  # `aclose` ends what it waited for
            self._is_ended = True
            raise StopAsyncIteration
        if not self._next.done():
            return HEARTBEAT
        task, self._next = self._next, None
        if task.cancelled():  # by `end`
            raise StopAsyncIteration
        chunk = task.result()
        if not chunk:
            raise StopAsyncIteration
        self._is_within = not chunk.endswith(b"\n\n")
        return chunk

    def end(self) -> None:
        """Ends it as if there were no more events."""
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
                    task.exception()  # marks it as seen: nobody is there to be told
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
    """The next event; nothing after the last. StopAsyncIteration cannot leave a task."""
    with contextlib.suppress(StopAsyncIteration):
        return await anext(events)
    return b""


def opened(context: "RequestContext[Any]") -> EventStream:
    """A slot for the stream that answers this request. To be used in a `with` block, which frees it
    unless `EventStream.response` was called. Raises `RateLimited` and `CapacityFull`.
    """
    check_connection(context.request)
    services = context.services
    return EventStream(
        services.budgets.streams,
        context.tenant_id,
        partial(services.access.still_holds, context.caller),
    )
