"""The route that follows the events of a tenant."""

from collections.abc import AsyncGenerator
from typing import Protocol

from quiltfn.api.fleet_node import FleetNode
from quiltfn.api.http import event_stream
from quiltfn.api.http.event_stream import EVENT_STREAM
from quiltfn.api.http.response import Response
from quiltfn.api.http.route import Parameter, RequestContext, Route, RouteServices
from quiltfn.api.routes.parameters import LAST_EVENT, READ
from quiltfn.calls.events import Events
from quiltfn.model.errors import Unprocessable
from quiltfn.model.event import WORDS, Event, EventType, types_of


class EventServices(RouteServices, Protocol):
    """The services for the route of events."""

    events: Events
    fleet: FleetNode


async def list_events(context: RequestContext[EventServices]) -> Response:
    """Follow the tenant's events, from now on, as server-sent events: changes of functions, starts
    and ends of invocations, instance counts, changes of queues, ticks of schedules. They contain
    nothing that callers or handlers wrote. After a disconnect, resume with Last-Event-ID within a
    minute. A reset event means that the client resumed too late; a gap event means that it read too
    slowly, or that a node's events are missing. In a fleet, the stream has the events of all nodes.
    """
    query, services = context.query, context.services
    event_stream.check_follows(context)
    function_id = query.get("function_id")
    if function_id is not None:
        services.catalog.by_id(context.tenant_id, function_id)
    last_id = context.headers.get("last-event-id")
    with event_stream.opened(context) as stream:
        found = services.events.reader(
            context.tenant_id, function_id, _types(query.get("types")), last_id
        )
        await services.fleet.joined(context.tenant_id)
        return stream.response(_framed(found), is_endless=True)


def _types(text: str | None) -> frozenset[EventType] | None:
    if text is None:
        return None
    words = text.split(",")
    for word in words:
        if word not in WORDS:
            expected = f"a comma-separated list of: {', '.join(WORDS)}"
            raise Unprocessable.field("types", expected, text, "function,invocation.ended")
    return types_of(words)


async def _framed(events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
    # At once, so that a client sees whether a proxy buffers the stream.
    yield event_stream.HEARTBEAT
    try:
        async for event in events:
            yield event_stream.event(event.type, event.data, event.id)
    finally:
        await events.aclose()


# --- the routes ---

FOLLOW_EVENTS = Parameter(
    name="follow",
    about="must be true, unless Accept includes text/event-stream",
    schema={"type": "boolean"},
    example=True,
)
EVENTS_OF_FUNCTION = Parameter(name="function_id", about="only events of this function")
EVENT_TYPES = Parameter(
    name="types",
    about=f"only these types, comma-separated: {', '.join(WORDS)}",
    example="function,invocation.ended",
)
ROUTES = [
    Route(
        "GET",
        "/api/events",
        list_events,
        scope=READ,
        answer=str,
        texts=(EVENT_STREAM,),
        parameters=(FOLLOW_EVENTS, EVENTS_OF_FUNCTION, EVENT_TYPES, LAST_EVENT),
        codes=("CAPACITY_FULL", "NOT_FOUND"),
    ),
]
