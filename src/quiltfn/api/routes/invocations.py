"""The routes of invocations: their inputs, outputs and records."""

from typing import Protocol

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.call_response import call_response, truncated
from quiltfn.api.http import pages, parse
from quiltfn.api.http.budgets import SHORT_BYTES, CallOutputBudget
from quiltfn.api.http.byte_range import OCTETS, part_of
from quiltfn.api.http.guards import check_connection
from quiltfn.api.http.long_json import JsonList, WithTexts, head_response, long_json_response
from quiltfn.api.http.response import FUNCTION_VERSION, INVOCATION_ID, Response, json_response
from quiltfn.api.http.route import Parameter, RequestContext, Route
from quiltfn.api.routes.invoke import AcceptServices, accepted, accepted_by_id
from quiltfn.api.routes.parameters import (
    IDEMPOTENCY,
    INVOCATION,
    INVOKE,
    PLACED,
    RANGE,
    READ,
    WRITE,
)
from quiltfn.calls.timeline import call_timeline
from quiltfn.calls.work import Replay
from quiltfn.model.errors import NotFound
from quiltfn.model.invocation import FINAL, Invocation
from quiltfn.model.output import STREAMS

WAIT_MAX_S = 60


class InvocationServices(AcceptServices, Protocol):
    """The services for the routes of invocations."""


async def get_invocation(context: RequestContext[InvocationServices]) -> Response:
    """Show the record of an invocation. With wait_seconds, the response comes as soon as the
    invocation is over, or after that time.
    """
    wait = parse.integer(context.query.get("wait_seconds", "0"), "wait_seconds", 0, WAIT_MAX_S)
    if wait:
        check_connection(context.request)
        invocation_id = _invocation_id(context)
        with context.services.budgets.waits.taken(context.tenant_id):
            await context.services.work.wait(context.entry(), invocation_id, wait)
        context.services.access.check_holds(context.caller)
    if context.request.method == "HEAD":
        outline = await context.services.work.outline(context.entry(), _invocation_id(context))
        return head_response(truncated(outline))
    async with pages.reserved(context):
        record = await _record(context)
        return await long_json_response(context, shapes.long_invocation(record), truncated(record))


async def get_invocation_output(context: RequestContext[InvocationServices]) -> Response:
    """Read the output of an invocation, byte for byte. The header Range requests a part. The record
    has the same output as text, with U+FFFD for bytes that aren't UTF-8.
    """
    stream = parse.one_of(context.query.get("stream", "stdout"), "stream", STREAMS, "stderr")
    async with pages.reserved(context):
        record = await _record(context)
        if record.status not in FINAL:
            raise NotFound("the call has not ended yet", hint="ask again once it has")
        whole: bytes = getattr(record, stream)
        # Responses have no validators, so If-Range never matches: the whole body is sent.
        wanted = None if "if-range" in context.headers else context.headers.get("range")
        headers = [("accept-ranges", "bytes"), ("content-type", OCTETS), *truncated(record)]
        part = part_of(len(whole), wanted)
        if part is None:
            return Response(headers=headers, body=whole)
        first, end = part
        headers.append(("content-range", f"bytes {first}-{end - 1}/{len(whole)}"))
        return Response(status=206, headers=headers, body=whole[first:end])


async def get_invocation_timeline(context: RequestContext[InvocationServices]) -> Response:
    """Show the timeline of an invocation, phase by phase in microseconds, and the reason of a cold
    start. The timeline of a running invocation extends to now. queued: in the wait queue. placed
    and specialised: the wait while a sandbox was created and specialised for its version; cold
    starts only. ran: from the hand-over to the handler's end. recorded: writing its records. The
    response also has its attempts, the invocation that caused it, those that it caused, and the
    names of its variables.
    """
    services = context.services
    found = await call_timeline(services.work, context.entry(), _invocation_id(context))
    return json_response(shapes.timeline(found))


async def _record(context: RequestContext[InvocationServices]) -> Invocation:
    """The record that the path names."""
    return await context.services.work.record(context.entry(), _invocation_id(context))


async def cancel_invocation(context: RequestContext[InvocationServices]) -> Response:
    """Cancel a waiting or running invocation: its processes are killed. An invocation that is
    already over stays as it is: 409.
    """
    record = await context.services.work.cancel(context.entry(), _invocation_id(context))
    async with pages.reserved(context):
        return await long_json_response(context, shapes.long_invocation(record))


async def list_invocation_attempts(context: RequestContext[InvocationServices]) -> Response:
    """List an invocation's attempts that are over, first to last."""
    async with pages.reserved(context):
        found = await context.services.work.attempts(context.entry(), _invocation_id(context))
        attempts = JsonList("attempts", context.services.budgets.turn)
        for attempt in found:
            await attempts.add(shapes.attempt(attempt))
        return attempts.response({})


async def get_invocation_input(context: RequestContext[InvocationServices]) -> Response:
    """Show the input of an invocation. The function's record policy says which inputs are stored:
    by default, those of asynchronous invocations.
    """
    async with pages.reserved(context):
        record, given = await context.services.work.input(context.entry(), _invocation_id(context))
        shown = wire.InvocationInput(
            payload=None if given.payload is None else "",
            environment=given.environment,
            version=given.version,
            source=record.source,
            caller=given.caller,
            parent_invocation_id=record.parent_invocation_id,
        )
        texts = {} if given.payload is None else {"payload": given.payload}
        return await long_json_response(context, WithTexts(shown, texts))


async def replay_invocation(context: RequestContext[InvocationServices]) -> Response:
    """Replay the stored input of an invocation, on any version, with the payload in the body if
    there is one. The new invocation has its own id and record. The response is that of an invoke.
    """
    services, body = context.services, context.body or wire.Replay()
    context.body = None
    run = Replay(
        version=body.version,
        is_async=body.mode == "async",
        caller=context.caller.credential,
        traceparent=context.headers.get("traceparent"),
        payload=body.payload.encode() if isinstance(body.payload, str) else body.payload,
        invocation_id=context.invocation_id,
    )
    output = CallOutputBudget(services.budgets.outputs, context.tenant_id)

    def reserve(size: int) -> None:
        """Count the input as if the caller had sent it as a body."""
        if size > SHORT_BYTES:
            services.budgets.bodies.reserve(size, context.tenant_id, is_call=True)
            context.reserved_bytes += size

    with services.admission.call(context.tenant_id), output:
        record = await services.work.replay(
            context.entry(), _invocation_id(context), run, output, reserve
        )
        return accepted(record) if run.is_async else await call_response(context, record)


def _invocation_id(context: RequestContext[InvocationServices]) -> str:
    return context.parameters["invocation_id"]


# --- the routes ---

STREAM = Parameter(
    name="stream",
    about="stream (default: stdout)",
    schema={"enum": list(STREAMS)},
)
WAIT = Parameter(
    name="wait_seconds",
    about="respond as soon as the invocation is over, or after this many seconds",
    schema={"type": "integer", "minimum": 0, "maximum": WAIT_MAX_S},
)
ROUTES = [
    Route(
        "GET",
        INVOCATION,
        get_invocation,
        scope=READ,
        answer=wire.Invocation,
        parameters=(WAIT,),
        headers=("x-output-truncated",),
        is_about_call=True,
    ),
    Route(
        "GET",
        INVOCATION + "/output",
        get_invocation_output,
        scope=READ,
        answer=str,
        texts=(OCTETS,),
        also={206: bytes},
        parameters=(STREAM, RANGE),
        codes=("RANGE_NOT_SATISFIABLE",),
        headers=("x-output-truncated", "accept-ranges", "content-range"),
        is_about_call=True,
    ),
    Route(
        "GET",
        INVOCATION + "/timeline",
        get_invocation_timeline,
        scope=READ,
        answer=wire.Timeline,
        is_about_call=True,
    ),
    Route(
        "POST",
        INVOCATION + "/cancel",
        cancel_invocation,
        scope=INVOKE,
        answer=wire.Invocation,
        codes=("CONFLICT", "RUNTIME_UNAVAILABLE"),
        action="invocation.cancel",
        for_visitors=True,
        is_about_call=True,
    ),
    Route(
        "GET",
        INVOCATION + "/attempts",
        list_invocation_attempts,
        scope=READ,
        answer=wire.AttemptList,
        is_about_call=True,
    ),
    Route(
        "GET", INVOCATION + "/input", get_invocation_input, scope=WRITE, answer=wire.InvocationInput
    ),
    Route(
        "POST",
        INVOCATION + "/replay",
        replay_invocation,
        scope=WRITE,
        answer=wire.Invocation,
        body=wire.Replay,
        needs_body=False,
        is_invoke=True,
        is_idempotent=True,
        parameters=(IDEMPOTENCY,),
        codes=(*PLACED, "CONFLICT"),
        also={202: wire.Invocation},
        headers=(INVOCATION_ID, FUNCTION_VERSION, "server-timing", "x-output-truncated"),
        action="invocation.replay",
        found=accepted_by_id,
    ),
]
