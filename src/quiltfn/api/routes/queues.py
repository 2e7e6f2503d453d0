"""The routes for queues and dead letters."""

from typing import Protocol

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.http import pages
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import RequestContext, Route, RouteServices
from quiltfn.api.routes.parameters import (
    CURSOR,
    FUNCTION,
    GONE,
    IDEMPOTENCY,
    LIMIT,
    OF_FUNCTION,
    OF_LABEL,
    READ,
    WRITE,
)
from quiltfn.calls.work import Work
from quiltfn.functions.catalog import Entry
from quiltfn.model.errors import Unprocessable
from quiltfn.ports import TenantFunctions


class QueueServices(RouteServices, Protocol):
    """The services for the routes of queues."""

    work: Work


async def list_dead_letters(context: RequestContext[QueueServices]) -> Response:
    """List a function's dead letters, newest first: asynchronous invocations that ran out of
    attempts or became too old.
    """
    return await _dead_letters(context, context.entry())


async def list_tenant_dead_letters(context: RequestContext[QueueServices]) -> Response:
    """List the dead letters of all functions, newest first."""
    return await _dead_letters(context, pages.functions_of(context))


async def _dead_letters(
    context: RequestContext[QueueServices], of: Entry | TenantFunctions
) -> Response:
    limit, cursor = pages.limit_of(context), context.query.get("cursor")
    async with pages.reserved(context):
        page = await context.services.work.dead_letters(of, limit, cursor)
        shown = (
            (one.invocation_id, shapes.dead_letter(one, pages.name_of(context, one.function_id)))
            for one in page.items
        )
        return await pages.page_response(context, "dead_letters", shown, limit, page.next_cursor)


async def redrive_dead_letters(context: RequestContext[QueueServices]) -> Response:
    """Redrive dead letters: queue each again under a new id. Ids that name no dead letter are
    ignored. The response has the number queued and the number of dead letters left.
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


async def delete_dead_letter(context: RequestContext[QueueServices]) -> Response:
    """Drop a dead letter. The record of its invocation stays."""
    await context.services.work.drop(context.entry(), context.parameters["invocation_id"])
    return Response(status=204)


async def get_function_queue(context: RequestContext[QueueServices]) -> Response:
    """Count a function's asynchronous invocations that aren't over."""
    entry, now_ms = context.entry(), _now_ms(context)
    counts = await context.services.work.counts(entry, now_ms)
    return json_response(shapes.queue(counts, entry.function.id, entry.function.name, now_ms))


async def list_queues(context: RequestContext[QueueServices]) -> Response:
    """Count the asynchronous invocations that aren't over, and dead letters, by function; functions
    without any are left out.
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


def _now_ms(context: RequestContext[QueueServices]) -> int:
    return int(context.services.work.clock.trusted() * 1000)


ROUTES = [
    Route(
        "GET",
        FUNCTION + "/dead-letters",
        list_dead_letters,
        scope=READ,
        answer=wire.DeadLetterPage,
        parameters=(LIMIT, CURSOR),
    ),
    Route(
        "POST",
        FUNCTION + "/dead-letters/redrive",
        redrive_dead_letters,
        scope=WRITE,
        answer=wire.RedriveResult,
        body=wire.Redrive,
        is_idempotent=True,
        parameters=(IDEMPOTENCY,),
        codes=("CAPACITY_FULL", "SHUTTING_DOWN", "FUNCTION_NOT_ACTIVE", "CONFLICT"),
        action="dead_letters.redrive",
    ),
    Route(
        "DELETE",
        FUNCTION + "/dead-letters/{invocation_id}",
        delete_dead_letter,
        scope=WRITE,
        status=204,
        action="dead_letter.delete",
    ),
    Route("GET", FUNCTION + "/queue", get_function_queue, scope=READ, answer=wire.FunctionQueue),
    Route(
        "GET",
        "/api/queues",
        list_queues,
        scope=READ,
        answer=wire.QueuePage,
        parameters=(LIMIT, CURSOR, OF_FUNCTION, OF_LABEL),
        codes=GONE,
    ),
    Route(
        "GET",
        "/api/dead-letters",
        list_tenant_dead_letters,
        scope=READ,
        answer=wire.DeadLetterPage,
        parameters=(LIMIT, CURSOR, OF_FUNCTION, OF_LABEL),
        codes=GONE,
    ),
]
