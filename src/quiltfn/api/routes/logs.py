"""The routes that show the output of invocations, once or as a stream."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from quiltfn import wire
from quiltfn.api.call_response import truncated
from quiltfn.api.fleet_node import FleetNode
from quiltfn.api.http import event_stream, parse
from quiltfn.api.http.event_stream import EVENT_STREAM
from quiltfn.api.http.response import Header, Response, encode
from quiltfn.api.http.route import Parameter, RequestContext, Route, RouteServices
from quiltfn.api.live_output import OutputReader, follow_call, follow_function, written
from quiltfn.api.routes.parameters import FUNCTION, INVOCATION, LAST_EVENT, READ
from quiltfn.calls.invoke import Invoker
from quiltfn.model.errors import Unprocessable
from quiltfn.model.output import STREAMS
from quiltfn.store.calls.journal import SpoolJournal

PLAIN = "text/plain; charset=utf-8"
TAIL_MAX = 1_000_000
# The form of an event id: offsets in stdout and stderr, and the attempt. A client that reads only
# one stream may send an offset in that stream instead.
POSITION = re.compile(r"([0-9]{1,15})-([0-9]{1,15})(?:-([0-9]{1,9}))?")
OFFSET = re.compile(r"[0-9]{1,15}")


class Position(NamedTuple):
    """Byte offsets in each stream of the output of `attempt`; None: the current attempt."""

    at: Mapping[str, int]
    attempt: int | None


class LogServices(RouteServices, Protocol):
    """The services for the routes of logs."""

    invoker: Invoker
    journal: SpoolJournal
    fleet: FleetNode


async def get_invocation_logs(context: RequestContext[LogServices]) -> Response:
    """Read the output of an invocation so far: both streams, in their original order. With follow,
    the output comes as server-sent events, also while the invocation runs: `stdout` and `stderr`,
    `gap` for output that isn't stored, and finally `end` with the record. After a disconnect,
    resume with Last-Event-ID.
    """
    services, query = context.services, context.query
    follows = event_stream.follows(context)
    streams = _streams(query)
    position, tail = _start_of(context, streams)
    at, attempt = position
    function_id, invocation_id = context.entry().function.id, context.parameters["invocation_id"]
    reader = OutputReader(services.journal, function_id, invocation_id, streams)
    find = partial(services.invoker.running_call, function_id, invocation_id)
    running = find()
    headers: list[Header] = []
    if running is not None:
        reader.attach(running)
    else:
        headers += truncated((await reader.load()).record)
    if tail is not None:
        at = await reader.last_lines(tail)
    reader.start(at, attempt)
    if not follows:
        return Response(headers=[*headers, ("content-type", PLAIN)], body=written(reader))
    with event_stream.opened(context) as stream:
        return stream.response(follow_call(reader, find))


async def get_function_logs(context: RequestContext[LogServices]) -> Response:
    """Follow the output of all invocations of a function, running and later ones, as server-sent
    events: for each invocation `started`, `stdout`, `stderr`, and `end` with its record. Each event
    names its invocation. A reader that is more than 1,000 invocations behind gets a `gap` with the
    number of those left out. In a fleet, the stream has the invocations on all nodes; output of a
    lost node is a `gap` with its node_id.
    """
    event_stream.check_follows(context)
    services, function_id = context.services, context.entry().function.id
    streams = _streams(context.query)
    with event_stream.opened(context) as stream:
        own = follow_function(services.invoker, services.journal, function_id, streams)
        together = services.fleet.streamed_by_all(context, own, _lost)
        if together is None:
            return stream.response(own, is_endless=True)
        try:
            await together.start()
        except BaseException:
            together.close()
            raise
        return stream.response(together.events(), is_endless=True, on_close=together.close)


def _lost(node: str) -> bytes:
    return event_stream.event("gap", encode(wire.CallsGap(calls=0, node_id=node)))


def _streams(query: Mapping[str, str]) -> Sequence[str]:
    stream = query.get("stream")
    return STREAMS if stream is None else (parse.one_of(stream, "stream", STREAMS, "stderr"),)


def _start_of(
    context: RequestContext[LogServices], streams: Sequence[str]
) -> tuple[Position, int | None]:
    """The start position, or the number of last lines to start with."""
    query, tail = context.query, None
    if "tail" in query:
        tail = parse.integer(query["tail"], "tail", 0, TAIL_MAX)
    # Last-Event-ID takes precedence: a client that reconnects repeats its query.
    if "last-event-id" in context.headers:
        position = _position(context.headers["last-event-id"], "Last-Event-ID", streams)
        return position._replace(attempt=position.attempt or 1), None
    if "offset" in query and tail is not None:
        raise Unprocessable.field("tail", "left out where there is an offset", query["tail"])
    return _position(query.get("offset", "0-0"), "offset", streams), tail


def _position(text: str, name: str, streams: Sequence[str]) -> Position:
    if (found := POSITION.fullmatch(text)) is not None:
        at = {"stdout": int(found[1]), "stderr": int(found[2])}
        return Position(at, int(found[3]) if found[3] else None)
    if len(streams) == 1 and OFFSET.fullmatch(text):
        return Position(dict.fromkeys(STREAMS, 0) | {streams[0]: int(text)}, None)
    expected = "the id of an event, such as 120-0, or with stream a number of bytes"
    raise Unprocessable.field(name, expected, text, "120-0")


# --- the routes ---

FOLLOW = Parameter(
    name="follow",
    about="true: stream as server-sent events, as with Accept: text/event-stream",
    schema={"type": "boolean"},
)
ONE_STREAM = Parameter(
    name="stream", about="only this stream (default: both)", schema={"enum": list(STREAMS)}
)
TAIL = Parameter(
    name="tail",
    about="start with this many of the last lines",
    schema={"type": "integer", "minimum": 0, "maximum": TAIL_MAX},
)
BEGIN = Parameter(
    name="offset",
    about="start after the event with this id; with stream, after this many bytes of it",
    schema={"type": "string", "pattern": "^[0-9]{1,15}(-[0-9]{1,15}(-[0-9]{1,9})?)?$"},
)
ROUTES = [
    Route(
        "GET",
        INVOCATION + "/logs",
        get_invocation_logs,
        scope=READ,
        answer=str,
        texts=("text/plain", EVENT_STREAM),
        parameters=(FOLLOW, ONE_STREAM, TAIL, BEGIN, LAST_EVENT),
        codes=("CAPACITY_FULL",),
        headers=("x-output-truncated",),
        is_about_call=True,
    ),
    Route(
        "GET",
        FUNCTION + "/logs",
        get_function_logs,
        scope=READ,
        answer=str,
        texts=(EVENT_STREAM,),
        parameters=(FOLLOW, ONE_STREAM),
        codes=("CAPACITY_FULL",),
    ),
]
