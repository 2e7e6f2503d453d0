"""The routes that list all functions of a tenant."""

from collections.abc import Callable
from typing import Protocol

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.http import pages, parse
from quiltfn.api.http.response import Response
from quiltfn.api.http.route import Parameter, RequestContext, Route, RouteServices
from quiltfn.api.routes.parameters import CURSOR, LIMIT, READ
from quiltfn.functions.aliases import Aliases
from quiltfn.functions.catalog import Entry
from quiltfn.functions.function_list import (
    FunctionQuery,
    FunctionSort,
    Order,
    first_of,
    position_from_cursor,
    position_text,
)
from quiltfn.functions.runtimes import Runtimes
from quiltfn.model.errors import Unprocessable
from quiltfn.model.function import FunctionState
from quiltfn.ports import Pools

VIEWS = ("full", "brief")
LISTED_STATES = tuple(one for one in FunctionState if one is not FunctionState.DELETED)
TEXT_MAX_CHARACTERS = 200


class FunctionListServices(RouteServices, Protocol):
    """The services for showing functions."""

    aliases: Aliases
    pools: Pools
    runtimes: Runtimes


async def list_functions(context: RequestContext[FunctionListServices]) -> Response:
    """List the tenant's functions, oldest first or in the order of `sort`. With
    sort=last_invoked_at, functions that were never invoked come first, or last with order=desc.
    Keep q, sort and order from page to page. view=brief leaves out handlers and environments.
    """
    wanted, limit = _query(context), pages.limit_of(context, pages.PAGE_MAX)
    view = parse.one_of(context.query.get("view", "full"), "view", VIEWS, "brief")
    async with pages.reserved(context):
        entries = context.services.catalog.of_tenant(
            context.tenant_id, wanted.begins_behind, newest_first=wanted.is_newest_first
        )
        found = await first_of(entries, wanted, limit + 1)
        shown = (
            (position_text(position, wanted.sort), _shown(context, entry, view))
            for position, entry in found
        )
        return await pages.page_response(context, "functions", shown, limit)


def _query(context: RequestContext[FunctionListServices]) -> FunctionQuery:
    """The filters and the order of the list. Raises `Unprocessable`."""
    query = context.query
    text, state = query.get("q"), query.get("state")
    if text is not None and not 1 <= len(text) <= TEXT_MAX_CHARACTERS:
        expected = f"1 to {TEXT_MAX_CHARACTERS} characters"
        raise Unprocessable.field("q", expected, f"{len(text)} characters", "resize")
    if state is not None:
        parse.one_of(state, "state", LISTED_STATES, "active")
    default = FunctionSort.CREATED_AT
    sort = FunctionSort(
        parse.one_of(query.get("sort", default), "sort", tuple(FunctionSort), "name")
    )
    order = parse.one_of(query.get("order", Order.ASCENDING), "order", tuple(Order), "desc")
    cursor = query.get("cursor")
    return FunctionQuery(
        text=text,
        state=None if state is None else FunctionState(state),
        cluster_id=query.get("cluster_id"),
        also=_outdated(context),
        sort=sort,
        order=Order(order),
        after=None if cursor is None else position_from_cursor(cursor, sort),
    )


def _outdated(
    context: RequestContext[FunctionListServices],
) -> Callable[[Entry], bool] | None:
    """The filter for the parameter `outdated`. None: no such parameter."""
    wanted = context.query.get("outdated")
    if wanted is None:
        return None
    is_wanted, runtimes = parse.boolean(wanted, "outdated"), context.services.runtimes
    return lambda entry: (
        runtimes.is_outdated(entry.function.tenant_id, entry.version.spec) is is_wanted
    )


def _shown(
    context: RequestContext[FunctionListServices], entry: Entry, view: str
) -> wire.Function | wire.FunctionSummary:
    if view == "brief":
        default = context.services.aliases.defaults.get(entry.function.id)
        return shapes.function_summary(entry, default)
    return shown_function(context, entry)


def shown_function(context: RequestContext[FunctionListServices], entry: Entry) -> wire.Function:
    """The function with all fields that the caller may see."""
    services, spec = context.services, entry.version.spec
    return shapes.function(
        entry,
        services.aliases.defaults.get(entry.function.id),
        note=services.pools.note(entry.function.id),
        is_outdated=services.runtimes.is_outdated(entry.function.tenant_id, spec),
        show=context.sees_values,
    )


# --- the routes ---

STATE = Parameter(
    name="state",
    about="only functions in this state",
    schema={"enum": list(LISTED_STATES)},
)
CLUSTER = Parameter(name="cluster_id", about="only functions with this label")
TEXT = Parameter(
    name="q",
    about="only functions with this text in their name or description, ignoring case",
    schema={"type": "string", "minLength": 1, "maxLength": TEXT_MAX_CHARACTERS},
    example="hello",
)
OUTDATED = Parameter(
    name="outdated",
    about="true: only functions whose runtime was replaced after their version was created, and "
    "that get the new one with their next update; false: only the others",
    schema={"type": "boolean"},
)
SORT = Parameter(
    name="sort",
    about="sort key (default: created_at)",
    schema={"enum": list(FunctionSort)},
)
ORDER = Parameter(
    name="order", about="asc (default) or desc", schema={"enum": list(Order)}, example="desc"
)
VIEW = Parameter(
    name="view",
    about="brief: without handler and environment",
    schema={"enum": list(VIEWS)},
)
ROUTES = [
    Route(
        "GET",
        "/api/functions",
        list_functions,
        scope=READ,
        answer=wire.FunctionPage | wire.FunctionSummaryPage,
        parameters=(LIMIT, CURSOR, STATE, CLUSTER, TEXT, OUTDATED, SORT, ORDER, VIEW),
    ),
]
