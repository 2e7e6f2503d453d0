"""The routes over functions: what each does, parse being done: call a verb, render."""

from collections.abc import Awaitable

from quiltfn import wire
from quiltfn.api import live_call, shapes
from quiltfn.api.call_response import call_response, truncated
from quiltfn.api.fleet_node import FleetNode
from quiltfn.api.http import event_stream, pages, parse
from quiltfn.api.http.budgets import CallOutputBudget
from quiltfn.api.http.byte_range import OCTETS, part_of
from quiltfn.api.http.etags import if_match
from quiltfn.api.http.event_stream import EVENT_STREAM
from quiltfn.api.http.guards import check_connection
from quiltfn.api.http.long_json import head_response, long_json_response
from quiltfn.api.http.response import FUNCTION_VERSION, INVOCATION_ID, Response, json_response
from quiltfn.api.http.route import (
    Called,
    CalledFunction,
    Found,
    Handler,
    Parameter,
    RequestContext,
    Route,
)
from quiltfn.api.live_call import cancelled_if_lost, stream_call
from quiltfn.api.routes import work
from quiltfn.api.routes.aliases import AliasServices, entry_called, names_version, version_named
from quiltfn.api.routes.function_list import PoolServices, shown_function
from quiltfn.api.routes.parameters import (
    CURSOR,
    GONE,
    IDEMPOTENCY,
    IF_MATCH,
    INVOKE,
    LIMIT,
    MOMENT,
    PLACED,
    RANGE,
    READ,
    WRITE,
)
from quiltfn.api.routes.work import WAIT_MAX_S, WorkServices, accept_call, wants_async
from quiltfn.base.ids import new_id
from quiltfn.calls.invoke import Request
from quiltfn.calls.timeline import call_timeline
from quiltfn.functions.catalog import Entry
from quiltfn.functions.urls import Urls
from quiltfn.model.cursors import from_cursor
from quiltfn.model.errors import (
    NotFound,
    Unprocessable,
)
from quiltfn.model.invocation import FINAL, Invocation
from quiltfn.model.output import STREAMS
from quiltfn.model.pool import sum_counts
from quiltfn.model.url import path_of
from quiltfn.model.version import Version
from quiltfn.store.calls.journal import SpoolJournal
from quiltfn.wire.numbers import VERSION_NUMBER_MAX

# What an update makes of the default alias.
MOVES = ("move", "keep")


class FunctionServices(WorkServices, PoolServices, AliasServices):
    """What the routes of functions and their calls take."""

    journal: SpoolJournal
    fleet: FleetNode
    urls: Urls


async def create_function(context: RequestContext[FunctionServices]) -> Response:
    """Create a function with version 1. Its state is pending until it is deployed."""
    new, spec = shapes.split(context.body)
    services = context.services
    await services.lifecycle.catch_up()  # other nodes may have made some
    services.admission.check_functions(context.tenant_id, services.catalog.count(context.tenant_id))
    entry = await services.lifecycle.create(context.tenant_id, new, spec)
    function = entry.function
    answer = wire.CreatedFunction(
        function_id=function.id, name=function.name, state=function.state, version=1
    )
    return json_response(answer, status=201, object_id=function.id)


async def get_function(context: RequestContext[FunctionServices]) -> Response:
    """Show one function. Send its ETag as If-Match with an update that must not overwrite another
    change. x-function-url is its path over plain HTTP, if it has a URL.
    """
    entry = context.entry()
    response = await _shown(context, entry)
    if context.services.urls.of(entry.function.id) is not None:
        path = path_of(context.tenant_id, entry.function.name)
        response.headers.append(("x-function-url", path))
    return response


async def get_function_by_name(context: RequestContext[FunctionServices]) -> Response:
    """Show one function by its name."""
    return await _shown(context, context.entry_by_name())


async def update_function(context: RequestContext[FunctionServices]) -> Response:
    """Update a function by making a new version. Existing versions never change. Fields that are
    left out keep their values, and null resets a field that can be null. For an active function the
    response comes once the new version is current, or with error_message if it cannot start. Then
    the default alias is the new version. It stays as it is with default_alias=keep; and without
    default_alias, if the code is the same and the alias sends calls to another version than the
    one that was current, such as after a rollback by itself.
    """
    moves = _moves_default(context)
    changes = shapes.changes_of(context.body)
    if not changes:
        known = ", ".join(wire.FunctionChanges.__struct_fields__)
        raise Unprocessable(
            "an update must name at least one field",
            details={"expected": f"one or more of: {known}", "example": {"handler": "echo hello"}},
        )
    entry = context.entry()
    lifecycle, expected = context.services.lifecycle, if_match(context)
    return await _shown(
        context, await lifecycle.update(entry, changes, expected, moves_default=moves)
    )


def _moves_default(context: RequestContext[FunctionServices]) -> bool | None:
    """Whether the default alias is to move; None: the request does not say."""
    asked = context.query.get("default_alias")
    if asked is None:
        return None
    return parse.one_of(asked, "default_alias", MOVES, "keep") == "move"


async def delete_function(context: RequestContext[FunctionServices]) -> Response:
    """Delete a function. New and waiting calls get 404 at once; running calls have 5 seconds to
    end.
    """
    entry = context.entry()
    await context.services.lifecycle.delete(entry)
    return Response(status=204, object_name=entry.function.name)


async def deploy_function(context: RequestContext[FunctionServices]) -> Response:
    """Deploy a function by starting its instances. The response has the state active; or error, and
    error_message says why; or deploying after 20 seconds.
    """
    return await _shown(context, await context.services.lifecycle.deploy(context.entry()))


async def pause_function(context: RequestContext[FunctionServices]) -> Response:
    """Pause a function. New and waiting calls are refused, running calls finish, and no instance is
    kept.
    """
    await context.services.lifecycle.pause(context.entry())
    return json_response(wire.PauseResult())


async def resume_function(context: RequestContext[FunctionServices]) -> Response:
    """Resume a paused function by deploying it again."""
    return await _shown(context, await context.services.lifecycle.resume(context.entry()))


def invoke_function(context: RequestContext[FunctionServices]) -> Awaitable[Response]:
    """Call a function and wait for its end. A handler that fails is a normal response: look at
    status and exit_code.
    """
    return _invoke(context, context.entry())


def invoke_function_by_name(context: RequestContext[FunctionServices]) -> Awaitable[Response]:
    """Call a function by its name and wait for its end. NAME@VERSION and NAME@ALIAS call it as
    ?version= and ?alias= do.
    """
    return _invoke(context, entry_called(context))


def called_by_id(context: RequestContext[FunctionServices]) -> CalledFunction | None:
    """The function that the request calls; None: it only has the call accepted."""
    if wants_async(context):
        return None
    entry = context.entry()
    return CalledFunction(entry, names_version(context, entry))


def called_by_name(context: RequestContext[FunctionServices]) -> CalledFunction | None:
    """As `called_by_id`."""
    if wants_async(context):
        return None
    entry = entry_called(context)
    return CalledFunction(entry, names_version(context, entry))


def _request(
    context: RequestContext[FunctionServices], output: CallOutputBudget, version: Version | None
) -> Request:
    """The call that the body describes, under an id. The body is not kept, because the call may
    wait long.
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


async def _invoke(context: RequestContext[FunctionServices], entry: Entry) -> Response:
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


async def get_invocation(context: RequestContext[FunctionServices]) -> Response:
    """Show the record of one call. With wait_seconds the answer comes as soon as the call is over,
    else as it is once the time is.
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


async def get_invocation_output(context: RequestContext[FunctionServices]) -> Response:
    """Read the output of one call, byte for byte. Range asks for a part of it. The record of the
    call has the same output as text, with U+FFFD for bytes that are not UTF-8.
    """
    stream = parse.one_of(context.query.get("stream", "stdout"), "stream", STREAMS, "stderr")
    async with pages.reserved(context):
        record = await _record(context)
        if record.status not in FINAL:
            raise NotFound("the call has not ended yet", hint="ask again once it has")
        whole: bytes = getattr(record, stream)
        # There are no validators, so no If-Range can match, and then the whole body is sent.
        wanted = None if "if-range" in context.headers else context.headers.get("range")
        headers = [("accept-ranges", "bytes"), ("content-type", OCTETS), *truncated(record)]
        part = part_of(len(whole), wanted)
        if part is None:
            return Response(headers=headers, body=whole)
        first, end = part
        headers.append(("content-range", f"bytes {first}-{end - 1}/{len(whole)}"))
        return Response(status=206, headers=headers, body=whole[first:end])


async def get_invocation_timeline(context: RequestContext[FunctionServices]) -> Response:
    """Show where the time of one call went, phase by phase, in microseconds, and why it was cold;
    while it runs, by now. queued: in the wait queue. placed and specialised: the wait while a
    sandbox was made and became one of this version; cold calls only. ran: from the hand-over to the
    handler's end. recorded: writing its records. Beside that: its attempts, the call that caused it
    and those that it caused, and the names of its variables.
    """
    services = context.services
    found = await call_timeline(services.work, context.entry(), context.parameters["invocation_id"])
    return json_response(shapes.timeline(found))


async def list_function_versions(context: RequestContext[FunctionServices]) -> Response:
    """List the versions of a function, newest first."""
    entry, query = context.entry(), context.query
    limit = pages.limit_of(context, pages.PAGE_MAX)
    after = from_cursor(query["cursor"], "") if "cursor" in query else None
    current, show = entry.function.current_version, context.sees_values
    async with pages.reserved(context):
        page = await context.services.lifecycle.versions(entry, after, limit)
        shown = ((one.id, shapes.version(one, current, show=show)) for one in page.items)
        return await pages.page_response(context, "versions", shown, limit, page.next_cursor)


async def rollback_function(context: RequestContext[FunctionServices]) -> Response:
    """Go back to an earlier version. This makes no new version. Aliases go with it: the default
    alias is that version then, and every other one that named the version which was current until
    then, or split calls with it, loses that; rolled_back says so. With default_alias=keep the
    default alias stays as it is.
    """
    moves = _moves_default(context) is not False
    entry = await context.services.lifecycle.rollback(
        context.entry(), context.body.version, moves_default=moves
    )
    return await _shown(context, entry)


async def get_function_pool(context: RequestContext[FunctionServices]) -> Response:
    """Count the instances of a function. Ready instances can take a call now; busy includes
    instances that are being cleaned after a call.
    """
    entry = context.entry()
    counts = context.services.fleet.pools.counts(entry.function.id)
    return json_response(shapes.pool(entry.function.id, counts))


async def get_function_egress(context: RequestContext[FunctionServices]) -> Response:
    """Show what a function can reach on the network, how many attempts were refused since the
    server started, and where the first of them were to go.
    """
    entry = context.entry()
    refused = await context.services.pools.egress(entry.function.id)
    return json_response(
        wire.Egress(
            function_id=entry.function.id,
            network=entry.version.spec.runtime_snapshot.network,
            blocked_count=refused.attempts,
            blocked_destinations=[
                wire.BlockedDestination(address=one.address, port=one.port, protocol=one.protocol)
                for one in refused.destinations
            ],
        )
    )


async def get_pool_stats(context: RequestContext[FunctionServices]) -> Response:
    """Count all instances of the tenant by state."""
    services = context.services
    pools = services.fleet.pools
    own = services.catalog.owned(context.tenant_id, pools.occupied())
    counts = sum_counts(pools.counts(function_id) for function_id in own)
    return json_response(shapes.pool_stats(counts))


async def _record(context: RequestContext[FunctionServices]) -> Invocation:
    """The record that the path names."""
    return await context.services.work.record(context.entry(), context.parameters["invocation_id"])


async def _shown(context: RequestContext[FunctionServices], entry: Entry) -> Response:
    async with pages.reserved_for(context, entry.version.spec.size):
        function = shown_function(context, entry)
        return json_response(function, headers=[("etag", f'"{entry.fingerprint()}"')])


# --- the routes ---

STREAM = Parameter(
    name="stream",
    about="which stream; stdout by default",
    schema={"enum": list(STREAMS)},
)
ON_DISCONNECT = Parameter(
    name="X-On-Disconnect",
    where="header",
    about="cancel: the call ends when its caller goes away; continue, the default: it goes on",
    schema={"enum": list(live_call.ON_DISCONNECT)},
)
MODE = Parameter(
    name="mode",
    about="async: answer 202 once the call is queued, as Prefer: respond-async; sync: wait",
    schema={"enum": ["sync", "async"]},
)
PREFER = Parameter(
    name="Prefer",
    where="header",
    about="respond-async: answer 202 once the call is queued",
)
DELAY = Parameter(
    name="delay_seconds",
    about="of an asynchronous call: start it so many seconds from now at the earliest",
    schema={"type": "integer", "minimum": 0, "maximum": work.DELAY_MAX_S},
)
NOT_BEFORE = Parameter(
    name="not_before",
    about="of an asynchronous call: start it at this time at the earliest, in Unix seconds, at "
    "most a year from now",
    schema=MOMENT,
)
CALLED_VERSION = Parameter(
    name="version",
    about="run this version and not the current one; any but that takes scope write, unless an "
    "alias names it",
    schema={"type": "integer", "minimum": 1, "maximum": VERSION_NUMBER_MAX},
)
CALLED_ALIAS = Parameter(
    name="alias", about="run the version that this alias of the function names", example="live"
)
WAIT = Parameter(
    name="wait_seconds",
    about="answer as soon as the call is over, else after so many seconds",
    schema={"type": "integer", "minimum": 0, "maximum": work.WAIT_MAX_S},
)
DEFAULT_ALIAS = Parameter(
    name="default_alias",
    about="move: the default alias of the function, if it has one, is the version that is current "
    "then; keep: it stays, and so do calls that name no version. Without it an update that leaves "
    "the code as it is keeps an alias that names another version than the current one; all else "
    "moves it",
    schema={"enum": list(MOVES)},
    example="keep",
)
CREATE = Route(
    handler=create_function,
    scope=WRITE,
    answer=wire.CreatedFunction,
    status=201,
    body=wire.NewFunction,
    is_idempotent=True,
    parameters=(IDEMPOTENCY,),
    codes=("CONFLICT", "RATE_LIMITED", "CAPACITY_FULL"),
    action="function.create",
)
GET = Route(
    handler=get_function,
    scope=READ,
    answer=wire.Function,
    headers=("x-function-url",),
)
UPDATE = Route(
    handler=update_function,
    scope=WRITE,
    answer=wire.Function,
    body=wire.FunctionChanges,
    parameters=(IF_MATCH, DEFAULT_ALIAS),
    codes=("RATE_LIMITED", "CONFLICT", "PRECONDITION_FAILED"),
    action="function.update",
)
DELETE = Route(handler=delete_function, scope=WRITE, status=204, action="function.delete")
DEPLOY = Route(
    handler=deploy_function,
    scope=WRITE,
    answer=wire.Function,
    codes=("UNPROCESSABLE_ENTITY",),
    action="function.deploy",
)
PAUSE = Route(
    handler=pause_function,
    scope=WRITE,
    answer=wire.PauseResult,
    codes=("CONFLICT", "UNPROCESSABLE_ENTITY"),
    action="function.pause",
    for_visitors=True,
)
RESUME = Route(
    handler=resume_function,
    scope=WRITE,
    answer=wire.Function,
    codes=("CONFLICT", "UNPROCESSABLE_ENTITY"),
    action="function.resume",
    for_visitors=True,
)


def invoking(handler: Handler, found: Found, called: Called) -> Route:
    return Route(
        handler=handler,
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
VERSIONS = Route(
    handler=list_function_versions,
    scope=READ,
    answer=wire.VersionPage,
    parameters=(LIMIT, CURSOR),
)
ROLLBACK = Route(
    handler=rollback_function,
    scope=WRITE,
    answer=wire.Function,
    body=wire.Rollback,
    codes=("RATE_LIMITED",),
    parameters=(DEFAULT_ALIAS,),
    action="function.rollback",
)
POOL = Route(handler=get_function_pool, scope=READ, answer=wire.Pool)
EGRESS = Route(handler=get_function_egress, scope=READ, answer=wire.Egress)
POOL_STATS = Route(handler=get_pool_stats, scope=READ, answer=wire.PoolStats)
BY_ID = invoking(invoke_function, work.accepted_by_id, called_by_id)
BY_NAME = invoking(invoke_function_by_name, work.accepted_by_name, called_by_name)
GET_BY_NAME = Route(
    handler=get_function_by_name,
    scope=READ,
    answer=wire.Function,
    codes=GONE,
)
