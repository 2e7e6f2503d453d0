"""The routes that invoke a function, at once or asynchronously."""

from collections.abc import Awaitable
from typing import Protocol

from quiltfn import wire
from quiltfn.api import live_call, shapes
from quiltfn.api.call_response import call_response
from quiltfn.api.http import event_stream, parse
from quiltfn.api.http.budgets import CallOutputBudget
from quiltfn.api.http.event_stream import EVENT_STREAM
from quiltfn.api.http.response import FUNCTION_VERSION, INVOCATION_ID, Response, json_response
from quiltfn.api.http.route import (
    AnyContext,
    Called,
    CalledFunction,
    Found,
    Handler,
    Parameter,
    RequestContext,
    Route,
    RouteServices,
)
from quiltfn.api.live_call import LiveServices, cancelled_if_lost, stream_call
from quiltfn.api.routes.aliases import AliasServices, entry_called, names_version, version_named
from quiltfn.api.routes.parameters import FUNCTION, IDEMPOTENCY, INVOKE, MOMENT, PLACED
from quiltfn.base.ids import new_id
from quiltfn.calls.invoke import Request
from quiltfn.calls.work import Cause, Work
from quiltfn.functions.catalog import Entry
from quiltfn.model.errors import (
    Unprocessable,
)
from quiltfn.model.invocation import Invocation
from quiltfn.model.version import Version
from quiltfn.ports.work import Input
from quiltfn.tenants.admission import Admission
from quiltfn.wire.numbers import VERSION_NUMBER_MAX
from quiltfn.wire.work import MODES

RESPOND_ASYNC = "respond-async"
DELAY_MAX_S = 365 * 86_400


class AcceptServices(RouteServices, Protocol):
    """The services for queueing invocations."""

    admission: Admission
    work: Work


class InvokeServices(AliasServices, AcceptServices, LiveServices, Protocol):
    """The services for invoking functions."""


def invoke_function(context: RequestContext[InvokeServices]) -> Awaitable[Response]:
    """Invoke a function and wait for the end. A handler that fails is a normal response: look at
    status and exit_code.
    """
    return _invoke(context, context.entry())


def invoke_function_by_name(context: RequestContext[InvokeServices]) -> Awaitable[Response]:
    """Invoke a function by its name and wait for the end. NAME@VERSION and NAME@ALIAS work like
    ?version= and ?alias=.
    """
    return _invoke(context, entry_called(context))


def called_by_id(context: RequestContext[InvokeServices]) -> CalledFunction | None:
    """The function that the request invokes. None: the request queues an asynchronous
    invocation.
    """
    if wants_async(context):
        return None
    entry = context.entry()
    return CalledFunction(entry, names_version(context, entry))


def called_by_name(context: RequestContext[InvokeServices]) -> CalledFunction | None:
    """As `called_by_id`."""
    if wants_async(context):
        return None
    entry = entry_called(context)
    return CalledFunction(entry, names_version(context, entry))


def _request(
    context: RequestContext[InvokeServices], output: CallOutputBudget, version: Version | None
) -> Request:
    """The invocation that the body describes, with an id. The body is freed, because the invocation
    may wait for a long time.
    """
    body, context.body = context.body or wire.NewInvocation(), None
    return Request(
        payload=None if body.payload is None else body.payload.encode(),
        environment=body.environment,
        timeout_seconds=body.timeout_seconds,
        traceparent=context.headers.get("traceparent"),
        may_write=context.sees_values,
        long_output=output,
        invocation_id=context.invocation_id or new_id(),
        version=version,
        client=context.request,
    )


async def _invoke(context: RequestContext[InvokeServices], entry: Entry) -> Response:
    headers, version = context.headers, None
    if context.query or "prefer" in headers:
        version = await version_named(context, entry)
        if wants_async(context):
            return await accept_call(context, entry, version)
    services = context.services
    tenant_id = context.tenant_id
    output = CallOutputBudget(services.budgets.outputs, tenant_id)
    if "accept" in headers and event_stream.wants_events(headers):
        return await stream_call(context, entry, _request(context, output, version), output)
    with services.admission.call(tenant_id), output:
        request = _request(context, output, version)
        if "x-on-disconnect" in headers:
            async with cancelled_if_lost(context, entry, request):
                record = await services.invoker.invoke(entry, request)
        else:
            record = await services.invoker.invoke(entry, request)
        await services.work.keep_input(record, request, context.caller.credential)
        return await call_response(context, record)


def wants_async(context: AnyContext) -> bool:
    """Whether to queue the invocation: `mode=async`, or `Prefer: respond-async` (RFC 7240)."""
    query = context.query
    mode = query.get("mode")
    if mode is not None:
        parse.one_of(mode, "mode", MODES, "async")
    is_async = mode == "async" or (mode is None and _prefers_async(context))
    for name in ("delay_seconds", "not_before"):
        if name in query and not is_async:
            expected = "left out, or sent with mode=async or Prefer: respond-async"
            raise Unprocessable.field(name, expected, query[name])
    return is_async


def _prefers_async(context: AnyContext) -> bool:
    if "prefer" not in context.headers:
        return False
    preferences = ",".join(context.headers.getlist("prefer")).split(",")
    return any(one.partition(";")[0].strip().lower() == RESPOND_ASYNC for one in preferences)


async def accept_call(
    context: RequestContext[AcceptServices], entry: Entry, version: Version | None = None
) -> Response:
    """Queues the invocation that the body describes: 202, once it is on disk. `version`: the
    version to run, even if another one is current by then.
    """
    services = context.services
    body, context.body = context.body or wire.NewInvocation(), None
    given = Input(
        payload=None if body.payload is None else body.payload.encode(),
        environment=body.environment,
        timeout_seconds=body.timeout_seconds,
        caller=context.caller.credential,
        may_write=context.sees_values,
        traceparent=context.headers.get("traceparent"),
        version=None if version is None else version.number,
    )
    cause = Cause(invocation_id=context.invocation_id)
    with services.admission.call(context.tenant_id):
        record = await services.work.accept(entry, given, _due_at_ms(context), cause, version)
    return accepted(record)


async def accepted_before(
    context: RequestContext[AcceptServices], entry: Entry, invocation_id: str
) -> Response | None:
    """202, without output, for the invocation of the function that was queued under this id. None:
    it wasn't queued. Raises `NotFound` if there is no such invocation.
    """
    record = await context.services.work.outline(entry, invocation_id)
    return None if record.due_at is None else accepted(record)


async def accepted_by_id(
    context: RequestContext[AcceptServices], invocation_id: str
) -> Response | None:
    """202 for the invocation that an earlier request for this function has queued."""
    return await accepted_before(context, context.entry(), invocation_id)


async def accepted_by_name(
    context: RequestContext[InvokeServices], invocation_id: str
) -> Response | None:
    """202 for the invocation that an earlier request for the function of this name has queued."""
    return await accepted_before(context, entry_called(context), invocation_id)


def _due_at_ms(context: RequestContext[AcceptServices]) -> int | None:
    """When the invocation may start, in Unix milliseconds. None: now."""
    query = context.query
    if not query:
        return None
    delay, not_before = query.get("delay_seconds"), query.get("not_before")
    if delay is not None and not_before is not None:
        raise Unprocessable.field("not_before", "left out where there is delay_seconds", not_before)
    clock = context.services.work.clock
    if delay is not None:
        seconds = parse.integer(delay, "delay_seconds", 0, DELAY_MAX_S)
        return int((clock.trusted() + seconds) * 1000)
    if not_before is None:
        return None
    now = clock.unix()
    latest = min(parse.UNIX_MAX, int(now) + DELAY_MAX_S)
    is_whole = not_before.isascii() and not_before.isdigit()
    # The store cannot hold arbitrarily large numbers.
    if not (is_whole and len(not_before) <= len(str(latest)) and int(not_before) <= latest):
        expected = f"Unix seconds, a whole number up to {latest} (a year from now)"
        raise Unprocessable.field("not_before", expected, not_before, int(now) + 3600)
    # The caller uses the wall clock; the queue uses trusted time, which does not jump.
    return int((clock.trusted() + int(not_before) - now) * 1000)


def accepted(record: Invocation) -> Response:
    """Status 202 with the record of a queued invocation, and the address of that record."""
    headers = [
        ("location", f"/api/functions/{record.function_id}/invocations/{record.invocation_id}"),
        ("preference-applied", RESPOND_ASYNC),
        (INVOCATION_ID, record.invocation_id),
    ]
    return json_response(shapes.invocation(record), status=202, headers=headers)


# --- the routes ---

ON_DISCONNECT = Parameter(
    name="X-On-Disconnect",
    where="header",
    about="cancel: the invocation is cancelled when its caller disconnects; continue (default): "
    "it goes on",
    schema={"enum": list(live_call.ON_DISCONNECT)},
)
MODE = Parameter(
    name="mode",
    about="async: respond with 202 once the invocation is queued, as with Prefer: respond-async; "
    "sync: wait",
    schema={"enum": ["sync", "async"]},
)
PREFER = Parameter(
    name="Prefer",
    where="header",
    about="respond-async: respond with 202 once the invocation is queued",
)
DELAY = Parameter(
    name="delay_seconds",
    about="asynchronous invocations: minimum delay before the start, in seconds",
    schema={"type": "integer", "minimum": 0, "maximum": DELAY_MAX_S},
)
NOT_BEFORE = Parameter(
    name="not_before",
    about="asynchronous invocations: earliest start, in Unix seconds, at most a year from now",
    schema=MOMENT,
)
CALLED_VERSION = Parameter(
    name="version",
    about="version to run instead of the current one; others need scope write, unless an alias "
    "names them",
    schema={"type": "integer", "minimum": 1, "maximum": VERSION_NUMBER_MAX},
)
CALLED_ALIAS = Parameter(
    name="alias", about="alias of the function whose version to run", example="live"
)


def invoking(
    path: str,
    handler: Handler[InvokeServices],
    found: Found[InvokeServices],
    called: Called[InvokeServices],
) -> Route[InvokeServices]:
    return Route(
        "POST",
        path,
        handler,
        scope=INVOKE,
        answer=wire.Invocation,
        body=wire.NewInvocation,
        needs_body=False,
        is_invoke=True,
        is_idempotent=True,
        parameters=(
            IDEMPOTENCY,
            ON_DISCONNECT,
            PREFER,
            MODE,
            DELAY,
            NOT_BEFORE,
            CALLED_VERSION,
            CALLED_ALIAS,
        ),
        texts=(EVENT_STREAM,),
        codes=(*PLACED, "CONFLICT"),
        also={202: wire.Invocation},
        headers=(INVOCATION_ID, FUNCTION_VERSION, "server-timing", "x-output-truncated"),
        found=found,
        called=called,
    )


ROUTES = [
    invoking(FUNCTION + "/invoke", invoke_function, accepted_by_id, called_by_id),
    invoking(
        "/api/functions/invoke/{name}", invoke_function_by_name, accepted_by_name, called_by_name
    ),
]
