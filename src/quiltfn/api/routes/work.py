"""The routes over accepted work: asynchronous calls, policies, attempts, inputs, dead letters."""

from typing import TypeVar

import msgspec

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.call_response import call_response
from quiltfn.api.http import pages, parse
from quiltfn.api.http.budgets import SHORT_BYTES, CallOutputBudget
from quiltfn.api.http.long_json import JsonList, WithTexts, long_json_response
from quiltfn.api.http.response import FUNCTION_VERSION, INVOCATION_ID, Response, json_response
from quiltfn.api.http.route import RequestContext, Route, RouteServices
from quiltfn.api.routes.aliases import entry_called
from quiltfn.api.routes.parameters import (
    CURSOR,
    GONE,
    IDEMPOTENCY,
    INVOKE,
    LIMIT,
    OF_FUNCTION,
    OF_LABEL,
    PLACED,
    READ,
    WRITE,
)
from quiltfn.calls.invoke import Invoker
from quiltfn.calls.work import Cause, Replay, Work
from quiltfn.functions.catalog import Entry
from quiltfn.model.callback import check_secret, check_url
from quiltfn.model.errors import NotFound, Unprocessable
from quiltfn.model.invocation import Invocation, Status
from quiltfn.model.version import MASK, Version
from quiltfn.model.work import AsyncPolicy, Backoff, Destination, RecordPolicy
from quiltfn.ports import TenantFunctions
from quiltfn.ports.work import Input
from quiltfn.tenants.admission import Admission
from quiltfn.wire.masking import without_path
from quiltfn.wire.work import MODES

RESPOND_ASYNC = "respond-async"
DELAY_MAX_S = 365 * 86_400
WAIT_MAX_S = 60


class WorkServices(RouteServices):
    """What the routes of accepted work take."""

    admission: Admission
    invoker: Invoker
    work: Work


W = TypeVar("W", bound=WorkServices)


# --- accepting ---------------------------------------------------------------------------------


def wants_async(context: RequestContext[W]) -> bool:
    """Whether the call is to be queued: `mode=async`, or `Prefer: respond-async` (RFC 7240)."""
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


def _prefers_async(context: RequestContext[W]) -> bool:
    if "prefer" not in context.headers:
        return False
    preferences = ",".join(context.headers.getlist("prefer")).split(",")
    return any(one.partition(";")[0].strip().lower() == RESPOND_ASYNC for one in preferences)


async def accept_call(
    context: RequestContext[W], entry: Entry, version: Version | None = None
) -> Response:
    """Queues the call that the body describes: 202, once it is on disk. `version`: the one that it
    runs on, whatever is current by then.
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
        record = await services.work.accept(entry, given, _due_at_ms(context), cause)
    return accepted(record)


async def accepted_before(
    context: RequestContext[W], entry: Entry, invocation_id: str
) -> Response | None:
    """202 for a call of the function that was queued under this id, without its output; None if
    none was. Raises `NotFound` if there is no such call.
    """
    record = await context.services.work.outline(entry, invocation_id)
    return None if record.due_at is None else accepted(record)


async def accepted_by_id(context: RequestContext[W], invocation_id: str) -> Response | None:
    """202 for the call that an earlier request for this function has queued."""
    return await accepted_before(context, context.entry(), invocation_id)


async def accepted_by_name(context: RequestContext[W], invocation_id: str) -> Response | None:
    """202 for the call that an earlier request for the function of this name has queued."""
    return await accepted_before(context, entry_called(context), invocation_id)


def _due_at_ms(context: RequestContext[W]) -> int | None:
    """When the call may start, in Unix milliseconds; None: now."""
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
    # No store takes a number of any size.
    if not (is_whole and len(not_before) <= len(str(latest)) and int(not_before) <= latest):
        expected = f"Unix seconds, a whole number up to {latest} (a year from now)"
        raise Unprocessable.field("not_before", expected, not_before, int(now) + 3600)
    # The caller's time is the wall clock's; the queue keeps a time that does not jump.
    return int((clock.trusted() + int(not_before) - now) * 1000)


def accepted(record: Invocation) -> Response:
    """202 with the record of a call that was queued, and where to look for it."""
    headers = [
        ("location", f"/api/functions/{record.function_id}/invocations/{record.invocation_id}"),
        ("preference-applied", RESPOND_ASYNC),
        (INVOCATION_ID, record.invocation_id),
    ]
    return json_response(shapes.invocation(record), status=202, headers=headers)


# --- policies ----------------------------------------------------------------------------------


async def get_async_policy(context: RequestContext[WorkServices]) -> Response:
    """Show how a function's asynchronous calls are run."""
    entry = context.entry()
    policy = context.services.work.policies.policy_of(entry.function.id)
    return json_response(_policy(policy, show=context.sees_values))


async def set_async_policy(context: RequestContext[WorkServices]) -> Response:
    """Set how a function's asynchronous calls are run: how often, after which waits, how many at a
    time, and who is told of their end. What is left out takes the default. It applies to calls
    that wait already.
    """
    entry, body = context.entry(), context.body
    policy = AsyncPolicy(
        max_attempts=body.max_attempts,
        backoff=Backoff(**msgspec.structs.asdict(body.backoff_seconds)),
        retry_on=tuple(Status(one) for one in body.retry_on),
        max_age_seconds=body.max_age_seconds,
        max_queued=body.max_queued,
        max_concurrency=body.max_concurrency,
        on_success=_destination(context, entry, body.on_success, "on_success"),
        on_failure=_destination(context, entry, body.on_failure, "on_failure"),
    )
    await context.services.work.policies.set_policy(entry.function.id, policy)
    return json_response(_policy(policy, show=True))


async def delete_async_policy(context: RequestContext[WorkServices]) -> Response:
    """Go back to the default: one attempt, and nobody is told."""
    await context.services.work.policies.set_policy(context.entry().function.id, None)
    return Response(status=204)


async def get_record_policy(context: RequestContext[WorkServices]) -> Response:
    """Show what is kept of a function's calls besides their records."""
    policy = context.services.work.policies.record_policy_of(context.entry().function.id)
    return json_response(wire.RecordPolicy(keep_input=policy.keep_input))


async def set_record_policy(context: RequestContext[WorkServices]) -> Response:
    """Set whose inputs are kept. It applies to calls from now on."""
    policy = RecordPolicy(keep_input=context.body.keep_input)
    await context.services.work.policies.set_record_policy(context.entry().function.id, policy)
    return json_response(context.body)


def _destination(
    context: RequestContext[WorkServices],
    entry: Entry,
    given: wire.NewDestination | None,
    name: str,
) -> Destination | None:
    """Raises `Unprocessable` that names the field for what cannot be a destination."""
    if given is None:
        return None
    example = {"function": "record-failure"}
    if (given.function is None) == (given.url is None):
        raise Unprocessable.field(name, "either a function or a url", None, example)
    if given.function is not None:
        if given.secret is not None:
            raise Unprocessable.field(f"{name}.secret", "left out: it goes with a url", None)
        try:
            target = context.services.catalog.by_name(context.tenant_id, given.function)
        except NotFound:
            expected = "the name of a function of the tenant"
            raise Unprocessable.field(f"{name}.function", expected, given.function) from None
        if target.function.id == entry.function.id:
            raise Unprocessable.field(f"{name}.function", "another function", given.function)
    else:
        check_url(given.url or "", f"{name}.url")
        check_secret(given.secret or "", f"{name}.secret")
    return Destination(function=given.function, url=given.url, secret=given.secret)


def _policy(policy: AsyncPolicy, *, show: bool) -> wire.AsyncPolicy:
    """`show`: whether the caller may see the secrets."""

    def masked(one: Destination | None) -> wire.Destination | None:
        if one is None:
            return None
        if show or one.url is None:
            return wire.Destination(function=one.function, url=one.url, secret=one.secret)
        return wire.Destination(url=without_path(one.url), secret=MASK)

    return wire.AsyncPolicy(
        max_attempts=policy.max_attempts,
        backoff_seconds=wire.Backoff(**msgspec.structs.asdict(policy.backoff)),
        retry_on=[str(one) for one in policy.retry_on],
        max_age_seconds=policy.max_age_seconds,
        max_queued=policy.max_queued,
        max_concurrency=policy.max_concurrency,
        on_success=masked(policy.on_success),
        on_failure=masked(policy.on_failure),
    )


# --- one call ----------------------------------------------------------------------------------


async def cancel_invocation(context: RequestContext[WorkServices]) -> Response:
    """Cancel a call, whether it waits or runs: its processes are killed. A call that is over
    already stays as it is: 409.
    """
    record = await context.services.work.cancel(context.entry(), _invocation_id(context))
    async with pages.reserved(context):
        return await long_json_response(context, shapes.long_invocation(record))


async def list_invocation_attempts(context: RequestContext[WorkServices]) -> Response:
    """List the attempts at a call that are over, first to last."""
    async with pages.reserved(context):
        found = await context.services.work.attempts(context.entry(), _invocation_id(context))
        attempts = JsonList("attempts", context.services.budgets.turn)
        for one in found:
            await attempts.add(shapes.attempt(one))
        return attempts.response({})


async def get_invocation_input(context: RequestContext[WorkServices]) -> Response:
    """Show what a call was given. Inputs of asynchronous calls are kept with their records, others
    where the function's record policy says so.
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


async def replay_invocation(context: RequestContext[WorkServices]) -> Response:
    """Run the kept input of a call again, on the current version or any other, with another payload
    where the body has one. The new call has an id and a record of its own. Answers as an invoke
    does.
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
        """It counts as a body that the caller had sent."""
        if size > SHORT_BYTES:
            services.budgets.bodies.reserve(size, context.tenant_id, is_call=True)
            context.reserved_bytes += size

    with services.admission.call(context.tenant_id), output:
        record = await services.work.replay(
            context.entry(), _invocation_id(context), run, output, reserve
        )
        return accepted(record) if run.is_async else await call_response(context, record)


# --- dead letters and the queue ----------------------------------------------------------------


async def list_dead_letters(context: RequestContext[WorkServices]) -> Response:
    """List a function's asynchronous calls that were given up, newest first: they were out of
    attempts, or too old to be started.
    """
    return await _dead_letters(context, context.entry())


async def list_tenant_dead_letters(context: RequestContext[WorkServices]) -> Response:
    """List the asynchronous calls of all functions that were given up, newest first."""
    return await _dead_letters(context, pages.functions_of(context))


async def _dead_letters(
    context: RequestContext[WorkServices], of: Entry | TenantFunctions
) -> Response:
    limit, cursor = pages.limit_of(context), context.query.get("cursor")
    async with pages.reserved(context):
        page = await context.services.work.dead_letters(of, limit, cursor)
        shown = (
            (one.invocation_id, shapes.dead_letter(one, pages.name_of(context, one.function_id)))
            for one in page.items
        )
        return await pages.page_response(context, "dead_letters", shown, limit, page.next_cursor)


async def redrive_dead_letters(context: RequestContext[WorkServices]) -> Response:
    """Queue calls again that were given up, each under a new id. Ids that name no dead letter are
    left out. The answer says how many were queued and how many dead letters are left.
    """
    body = context.body
    if (body.invocation_ids is None) == (not body.all):
        expected = "given, or all true, and not both"
        raise Unprocessable.field("invocation_ids", expected, None, {"all": True})
    done = await context.services.work.redrive(context.entry(), body.invocation_ids)
    return json_response(
        wire.RedriveResult(
            redriven=len(done.invocation_ids),
            invocation_ids=list(done.invocation_ids),
            remaining=done.remaining,
        )
    )


async def delete_dead_letter(context: RequestContext[WorkServices]) -> Response:
    """Drop a dead letter. The record of its call stays."""
    await context.services.work.drop(context.entry(), _invocation_id(context))
    return Response(status=204)


async def get_function_queue(context: RequestContext[WorkServices]) -> Response:
    """Count a function's asynchronous calls that are not over."""
    entry, now_ms = context.entry(), _now_ms(context)
    counts = await context.services.work.counts(entry, now_ms)
    return json_response(shapes.queue(counts, entry.function.id, entry.function.name, now_ms))


async def list_queues(context: RequestContext[WorkServices]) -> Response:
    """Count the asynchronous calls of each function that has some that are not over, or dead
    letters.
    """
    limit, cursor, now_ms = pages.limit_of(context), context.query.get("cursor"), _now_ms(context)
    of = pages.functions_of(context)
    async with pages.reserved(context):
        page = await context.services.work.queues(of, limit, cursor, now_ms)
        shown = (
            (one, shapes.queue(counts, one, pages.name_of(context, one), now_ms))
            for one, counts in page.items
        )
        return await pages.page_response(context, "queues", shown, limit, page.next_cursor)


def _now_ms(context: RequestContext[WorkServices]) -> int:
    return int(context.services.work.clock.trusted() * 1000)


def _invocation_id(context: RequestContext[WorkServices]) -> str:
    return context.parameters["invocation_id"]


# --- the routes ---

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
GET_ASYNC_POLICY = Route(handler=get_async_policy, scope=READ, answer=wire.AsyncPolicy)
SET_ASYNC_POLICY = Route(
    handler=set_async_policy,
    scope=WRITE,
    answer=wire.AsyncPolicy,
    body=wire.NewAsyncPolicy,
    action="async_policy.set",
)
DELETE_ASYNC_POLICY = Route(
    handler=delete_async_policy, scope=WRITE, status=204, action="async_policy.delete"
)
GET_RECORD_POLICY = Route(handler=get_record_policy, scope=READ, answer=wire.RecordPolicy)
SET_RECORD_POLICY = Route(
    handler=set_record_policy,
    scope=WRITE,
    answer=wire.RecordPolicy,
    body=wire.RecordPolicy,
    action="record_policy.set",
)
DEAD_LETTERS = Route(
    handler=list_dead_letters,
    scope=READ,
    answer=wire.DeadLetterPage,
    parameters=(LIMIT, CURSOR),
)
REDRIVE = Route(
    handler=redrive_dead_letters,
    scope=WRITE,
    answer=wire.RedriveResult,
    body=wire.Redrive,
    is_idempotent=True,
    parameters=(IDEMPOTENCY,),
    codes=("CAPACITY_FULL", "SHUTTING_DOWN", "FUNCTION_NOT_ACTIVE", "CONFLICT"),
    action="dead_letters.redrive",
)
DROP = Route(handler=delete_dead_letter, scope=WRITE, status=204, action="dead_letter.delete")
QUEUE = Route(handler=get_function_queue, scope=READ, answer=wire.FunctionQueue)
ALL_DEAD_LETTERS = Route(
    handler=list_tenant_dead_letters,
    scope=READ,
    answer=wire.DeadLetterPage,
    parameters=(LIMIT, CURSOR, OF_FUNCTION, OF_LABEL),
    codes=GONE,
)
QUEUES = Route(
    handler=list_queues,
    scope=READ,
    answer=wire.QueuePage,
    parameters=(LIMIT, CURSOR, OF_FUNCTION, OF_LABEL),
    codes=GONE,
)
