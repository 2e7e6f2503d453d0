"""The routes for the versions of a function."""

from typing import Protocol

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.http import pages
from quiltfn.api.http.response import Response
from quiltfn.api.http.route import (
    RequestContext,
    Route,
)
from quiltfn.api.routes.function_list import FunctionListServices
from quiltfn.api.routes.functions import (
    DEFAULT_ALIAS,
    function_response,
    moves_default,
)
from quiltfn.api.routes.parameters import CURSOR, FUNCTION, LIMIT, READ, WRITE
from quiltfn.functions.lifecycle import Lifecycle
from quiltfn.model.cursors import from_cursor


class VersionServices(FunctionListServices, Protocol):
    """The services for the routes of versions."""

    lifecycle: Lifecycle


async def list_function_versions(context: RequestContext[VersionServices]) -> Response:
    """List the versions of a function, newest first."""
    entry, query = context.entry(), context.query
    limit = pages.limit_of(context, pages.PAGE_MAX)
    after = from_cursor(query["cursor"], "") if "cursor" in query else None
    current, show = entry.function.current_version, context.sees_values
    async with pages.reserved(context):
        page = await context.services.lifecycle.versions(entry, after, limit)
        shown = ((one.id, shapes.version(one, current, show=show)) for one in page.items)
        return await pages.page_response(context, "versions", shown, limit, page.next_cursor)


async def rollback_function(context: RequestContext[VersionServices]) -> Response:
    """Roll back to an earlier version, without creating a new one. Aliases follow: the default
    alias names the earlier version, and all other aliases stop sending invocations to the
    previously current version (rolled_back says so). With default_alias=keep, the default alias
    stays as it is.
    """
    moves = moves_default(context) is not False
    entry = await context.services.lifecycle.rollback(
        context.entry(), context.body.version, moves_default=moves
    )
    return await function_response(context, entry)


ROUTES = [
    Route(
        "GET",
        FUNCTION + "/versions",
        list_function_versions,
        scope=READ,
        answer=wire.VersionPage,
        parameters=(LIMIT, CURSOR),
    ),
    Route(
        "POST",
        FUNCTION + "/rollback",
        rollback_function,
        scope=WRITE,
        answer=wire.Function,
        body=wire.Rollback,
        codes=("RATE_LIMITED",),
        parameters=(DEFAULT_ALIAS,),
        action="function.rollback",
    ),
]
