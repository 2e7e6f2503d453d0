"""The routes of invocations: their inputs, outputs and records."""

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.call_response import call_response, truncated
from quiltfn.api.http import pages, parse
from quiltfn.api.http.budgets import SHORT_BYTES, CallOutputBudget
from quiltfn.api.http.byte_range import OCTETS, part_of
from quiltfn.api.http.guards import check_connection
from quiltfn.api.http.long_json import JsonList, WithTexts, head_response, long_json_response
from quiltfn.api.http.response import FUNCTION_VERSION, INVOCATION_ID, Response, json_response
from quiltfn.api.http.route import (
    Parameter,
    RequestContext,
    Route,
)
from quiltfn.api.routes.invoke import InvokeServices, accepted, accepted_by_id
from quiltfn.api.routes.parameters import (
    IDEMPOTENCY,
    INVOKE,
    PLACED,
    RANGE,
    READ,
    WRITE,
)
from quiltfn.calls.timeline import call_timeline
from quiltfn.calls.work import Replay
from quiltfn.model.errors import (
    NotFound,
)
from quiltfn.model.invocation import FINAL, Invocation
from quiltfn.model.output import STREAMS
from quiltfn.store.calls.journal import SpoolJournal

WAIT_MAX_S = 60


class InvocationServices(InvokeServices):
    """What the routes over invocations take."""

    journal: SpoolJournal


async def get_invocation(context: RequestContext[InvocationServices]) -> Response:
    """Show the record of one call. With wait_seconds the response is sent when the call ends, or
    after that many seconds, with the record as it is then.
    """
    wait = parse.integer(context.query.get("wait_seconds", "0"), "wait_seconds", 0, WAIT_MAX_S)
    if wait:
        check_connection(context.request)
        invocation_id = context.parameters["invocation_id"]
        with context.services.budgets.waits.taken(context.tenant_id):
            await context.services.work.wait(context.entry(), invocation_id, wait)
        context.services.access.check_holds(context.caller)
    if context.request.method == "HEAD":
        outline = await context.services.work.outline(
            context.entry(), context.parameters["invocation_id"]
        )
        return head_response(truncated(outline))
    async with pages.reserved(context):
        record = await _record(context)
        return await long_json_response(context, shapes.long_invocation(record), truncated(record))


async def get_invocation_output(context: RequestContext[InvocationServices]) -> Response:
    """Read the output of one call, byte for byte. Range asks for a part of it. The record of the
    call has the same output as text, with U+FFFD for bytes that are not UTF-8.
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
    """Show where the time of one call went, phase by phase, in microseconds, and why it was cold;
    of a running call, so far. queued: in the wait queue. placed and specialised: the wait while a
    sandbox was made and became one of this version; cold calls only. ran: from the hand-over to the
    handler's end. recorded: writing its records. Beside that: its attempts, the call that caused it
    and those that it caused, and the names of its variables.
    """
    services = context.services
    found = await call_timeline(services.work, context.entry(), context.parameters["invocation_id"])
    return json_response(shapes.timeline(found))


async def _record(context: RequestContext[InvocationServices]) -> Invocation:
    """The record that the path names."""
    return await context.services.work.record(context.entry(), context.parameters["invocation_id"])


async def cancel_invocation(context: RequestContext[InvocationServices]) -> Response:
    """Cancel a call, whether it waits or runs: its processes are killed. A call that has ended
    stays as it is: 409.
    """
    record = await context.services.work.cancel(context.entry(), _invocation_id(context))
    async with pages.reserved(context):
        return await long_json_response(context, shapes.long_invocation(record))


async def list_invocation_attempts(context: RequestContext[InvocationServices]) -> Response:
    """List the ended attempts of a call, oldest first."""
    async with pages.reserved(context):
        found = await context.services.work.attempts(context.entry(), _invocation_id(context))
        attempts = JsonList("attempts", context.services.budgets.turn)
        for attempt in found:
            await attempts.add(shapes.attempt(attempt))
        return attempts.response({})


async def get_invocation_input(context: RequestContext[InvocationServices]) -> Response:
    """Show what a call was given. Inputs of asynchronous calls are kept with their records, others
    if the function's record policy says so.
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
    """Run the kept input of a call again, on the current version or any other, with another payload
    if the body has one. The new call has an id and a record of its own. Answers as an invoke does.
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
        """Counts the input as if the caller had sent it as a body."""
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
    about="which stream; stdout by default",
    schema={"enum": list(STREAMS)},
)
WAIT = Parameter(
    name="wait_seconds",
    about="respond when the call ends, but after this many seconds at the latest",
    schema={"type": "integer", "minimum": 0, "maximum": WAIT_MAX_S},
)
INVOCATION = Route(
    handler=get_invocation,
    scope=READ,
    answer=wire.Invocation,
    parameters=(WAIT,),
    headers=("x-output-truncated",),
    is_about_call=True,
)
OUTPUT = Route(
    handler=get_invocation_output,
    scope=READ,
    answer=str,
    texts=(OCTETS,),
    also={206: bytes},
    parameters=(STREAM, RANGE),
    codes=("RANGE_NOT_SATISFIABLE",),
    headers=("x-output-truncated", "accept-ranges", "content-range"),
    is_about_call=True,
)
TIMELINE = Route(
    handler=get_invocation_timeline,
    scope=READ,
    answer=wire.Timeline,
    is_about_call=True,
)
CANCEL = Route(
    handler=cancel_invocation,
    scope=INVOKE,
    answer=wire.Invocation,
    codes=("CONFLICT", "RUNTIME_UNAVAILABLE"),
    action="invocation.cancel",
    for_visitors=True,
    is_about_call=True,
)
ATTEMPTS = Route(
    handler=list_invocation_attempts,
    scope=READ,
    answer=wire.AttemptList,
    is_about_call=True,
)
INPUT = Route(handler=get_invocation_input, scope=WRITE, answer=wire.InvocationInput)
REPLAY = Route(
    handler=replay_invocation,
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
)
