"""Pages of a list: whole entries, as many as their bytes allow and at least one, and a cursor."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from quiltfn.api.http import parse
from quiltfn.api.http.budgets import SHORT_BYTES
from quiltfn.api.http.long_json import JsonList
from quiltfn.api.http.response import Response
from quiltfn.api.http.route import RequestContext, S
from quiltfn.model.cursors import to_cursor
from quiltfn.ports import TenantFunctions

PAGE_MAX, PAGE_DEFAULT = 1000, 50
# Lists that clients knew before there were pages: a page that is the whole list has no cursor.
WITHOUT_LAST_CURSOR = frozenset({"packages", "runtimes", "versions"})
# JSON takes six bytes at most for one character, which is there beside the text itself.
JSON_FACTOR = 8


def limit_of(context: RequestContext[S], default: int = PAGE_DEFAULT) -> int:
    """How many entries the page may have at most. Raises `Unprocessable`."""
    return parse.integer(context.query.get("limit", str(default)), "limit", 1, PAGE_MAX)


def functions_of(context: RequestContext[S]) -> TenantFunctions:
    """The functions that a list over the tenant is about, by `function_id` and `cluster_id`. Raises
    `NotFound`.
    """
    catalog, tenant_id, query = context.services.catalog, context.tenant_id, context.query
    function_id, label = query.get("function_id"), query.get("cluster_id")
    if function_id is None and label is None:
        return TenantFunctions(tenant_id)
    if function_id is None:
        found = list(catalog.of_tenant(tenant_id))
    else:
        found = [catalog.by_id(tenant_id, function_id)]
    ids = [one.function.id for one in found if label in (None, one.function.cluster_id)]
    return TenantFunctions(tenant_id, ids)


def name_of(context: RequestContext[S], function_id: str) -> str | None:
    """The name of a function that a list names; None: it is gone by now."""
    entry = context.services.catalog.known(function_id)
    return None if entry is None else entry.function.name


def reserved(context: RequestContext[S]) -> AbstractAsyncContextManager[None]:
    """The memory of a page while it is made: what was read, its entries, and the whole. Raises
    `CapacityFull`.
    """
    size = 3 * context.services.limits.page_max
    return context.services.budgets.responses.reserve(size, context.tenant_id)


def size_of(environment: Mapping[str, str] | None, *texts: str | None) -> int:
    """Characters of texts that callers chose."""
    variables = (environment or {}).items()
    return sum(len(name) + len(value) for name, value in variables) + sum(
        len(text or "") for text in texts
    )


def reserved_for(context: RequestContext[S], size: int) -> AbstractAsyncContextManager[None]:
    """The memory of one object, while it is made, with `size` characters that callers chose.
    Raises `CapacityFull`.
    """
    size *= JSON_FACTOR
    if size <= SHORT_BYTES:
        return nullcontext()
    return context.services.budgets.responses.reserve(size, context.tenant_id)


async def page_response(
    context: RequestContext[S],
    name: str,
    shown: Iterable[tuple[str, Any]],
    limit: int,
    cursor: str | None = None,
    **fields: Any,
) -> Response:
    """The page of the list called `name` that begins with `shown`: entries with their ids.
    `cursor`: where it goes on behind all of them. `fields`: what the page has beside them.
    """
    entries = JsonList(name, context.services.budgets.turn)
    count, size, last, most = 0, 0, "", context.services.limits.page_max
    for key, entry in shown:
        if count == limit:
            cursor = to_cursor(last)
            break
        size += await entries.add(entry)
        if count and size > most:
            entries.drop_last()
            cursor = to_cursor(last)
            break
        count, last = count + 1, key
    page = dict(fields)
    if cursor is not None or name not in WITHOUT_LAST_CURSOR:
        page["next_cursor"] = cursor
    links = parse.next_link(context.path, context.query, limit, cursor)
    return entries.response(page, links.items())
