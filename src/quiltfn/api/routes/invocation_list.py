"""The routes that list invocations: of one function, or of all functions of a tenant."""

from collections.abc import Mapping
from typing import Any, Protocol

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.http import pages, parse
from quiltfn.api.http.response import Response
from quiltfn.api.http.route import Parameter, RequestContext, Route, RouteServices
from quiltfn.api.routes.parameters import CURSOR, FUNCTION, GONE, LIMIT, MOMENT, READ
from quiltfn.model.errors import Unprocessable
from quiltfn.model.invocation import Source, Status
from quiltfn.ports import InvocationQuery
from quiltfn.store.calls.journal import SpoolJournal
from quiltfn.wire.numbers import VERSION_NUMBER_MAX

OUTPUTS = ("full", "none")
DURATION_MAX_MS = 999_999_999


class CallListServices(RouteServices, Protocol):
    """The services for the lists of invocations."""

    journal: SpoolJournal


async def list_invocations(context: RequestContext[CallListServices]) -> Response:
    """List a function's invocations, newest first. If only few of very many match, a page can be
    short or empty although there is a next_cursor.
    """
    entry, limit = context.entry(), pages.limit_of(context)
    output = parse.one_of(context.query.get("output", "full"), "output", OUTPUTS, "none")
    wanted = InvocationQuery(
        function_id=entry.function.id,
        limit=limit,
        max_bytes=context.services.limits.page_max,
        with_output=output == "full",
        **_filters(context.query),
    )
    async with pages.reserved(context):
        page = await context.services.journal.query(wanted)
        shown = ((one.invocation_id, shapes.long_invocation(one)) for one in page.items)
        return await pages.page_response(context, "invocations", shown, limit, page.next_cursor)


async def list_tenant_invocations(context: RequestContext[CallListServices]) -> Response:
    """List the invocations of all functions, newest first, without their output. If only few of
    very many match, a page can be short or empty although there is a next_cursor.
    """
    query, limit = context.query, pages.limit_of(context)
    function_id, tenant_id = query.get("function_id"), context.tenant_id
    if function_id is not None:
        context.services.catalog.by_id(tenant_id, function_id)
    wanted = InvocationQuery(
        function_id=function_id,
        tenant_id=tenant_id if function_id is None else None,
        limit=limit,
        with_output=False,
        **_filters(query),
    )
    async with pages.reserved(context):
        page = await context.services.journal.query(wanted)
        shown = ((one.invocation_id, shapes.invocation_summary(one)) for one in page.items)
        return await pages.page_response(context, "invocations", shown, limit, page.next_cursor)


def _filters(query: Mapping[str, str]) -> dict[str, Any]:
    """The filter fields of an `InvocationQuery`. Raises `Unprocessable`."""
    found: dict[str, Any] = {"cursor": query.get("cursor")}
    if "status" in query:
        found["status"] = Status(parse.one_of(query["status"], "status", tuple(Status), "success"))
    if "cold_start" in query:
        found["cold_start"] = parse.boolean(query["cold_start"], "cold_start")
    if "min_duration_ms" in query:
        slow = parse.integer(query["min_duration_ms"], "min_duration_ms", 0, DURATION_MAX_MS)
        found["min_duration_ms"] = slow
    if "source" in query:
        found["source"] = Source(parse.one_of(query["source"], "source", tuple(Source), "async"))
    if "version" in query:
        found["version"] = parse.integer(query["version"], "version", 1, VERSION_NUMBER_MAX)
    for name, field in (("from", "since"), ("to", "until")):
        if name in query:
            found[field] = parse.integer(query[name], name, 0, parse.UNIX_MAX)
    if found.get("since", 0) > found.get("until", parse.UNIX_MAX):
        raise Unprocessable.field("from", "at or before to", query["from"])
    return found


# --- the routes ---

STATUS = Parameter(
    name="status", about="only invocations with this status", schema={"enum": list(Status)}
)
COLD = Parameter(
    name="cold_start",
    about="true: only cold starts; false: only warm starts",
    schema={"type": "boolean"},
)
SLOW = Parameter(
    name="min_duration_ms",
    about="only invocations with at least this duration in milliseconds",
    schema={"type": "integer", "minimum": 0, "maximum": DURATION_MAX_MS},
)
SOURCE = Parameter(
    name="source", about="only invocations from this source", schema={"enum": list(Source)}
)
VERSION = Parameter(
    name="version",
    about="only invocations that ran this version",
    schema={"type": "integer", "minimum": 1, "maximum": VERSION_NUMBER_MAX},
)
SINCE = Parameter(
    name="from",
    about="only invocations accepted at or after this time, in Unix seconds",
    schema=MOMENT,
)
UNTIL = Parameter(
    name="to",
    about="only invocations accepted before this time, in Unix seconds",
    schema=MOMENT,
)
OF_ONE = Parameter(name="function_id", about="only invocations of this function")
WITH_OUTPUT = Parameter(
    name="output",
    about="full (default), or none to leave stdout and stderr empty",
    schema={"enum": list(OUTPUTS)},
)
ROUTES = [
    Route(
        "GET",
        FUNCTION + "/invocations",
        list_invocations,
        scope=READ,
        answer=wire.InvocationPage,
        parameters=(LIMIT, CURSOR, STATUS, COLD, SLOW, SOURCE, VERSION, SINCE, UNTIL, WITH_OUTPUT),
    ),
    Route(
        "GET",
        "/api/invocations",
        list_tenant_invocations,
        scope=READ,
        answer=wire.InvocationSummaryPage,
        parameters=(LIMIT, CURSOR, OF_ONE, STATUS, COLD, SLOW, SOURCE, VERSION, SINCE, UNTIL),
        codes=GONE,
    ),
]
