"""Pages of a list: at least one whole entry, as many as the size limit allows, and a cursor."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from quiltfn.api.http import parse
from quiltfn.api.http.budgets import SHORT_BYTES
from quiltfn.api.http.long_json import JsonList
from quiltfn.api.http.response import Response
from quiltfn.api.http.route import AnyContext
from quiltfn.model.cursors import to_cursor
from quiltfn.ports import TenantFunctions

PAGE_MAX, PAGE_DEFAULT = 1000, 50
# Lists that are older than pagination: a page with the whole list has no cursor field.
WITHOUT_LAST_CURSOR = frozenset({"packages", "runtimes", "versions"})
# JSON takes at most six bytes for a character, in addition to the text itself.
JSON_FACTOR = 8


def limit_of(context: AnyContext, default: int = PAGE_DEFAULT) -> int:
    """The maximum number of entries on the page. Raises `Unprocessable`."""
    return parse.integer(context.query.get("limit", str(default)), "limit", 1, PAGE_MAX)


def functions_of(context: AnyContext) -> TenantFunctions:
    """The tenant's functions that a list is about, selected by `function_id` and `cluster_id`.
    Raises `NotFound`.
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


def name_of(context: AnyContext, function_id: str) -> str | None:
    """The name of a function in a list. None: the function was deleted meanwhile."""
    entry = context.services.catalog.known(function_id)
    return None if entry is None else entry.function.name


def reserved(context: AnyContext) -> AbstractAsyncContextManager[None]:
    """Reserve memory while a page is built: for the data read, its entries, and the whole page.
    Raises `CapacityFull`.
    """
    size = 3 * context.services.limits.page_max
    return context.services.budgets.responses.reserve(size, context.tenant_id)


def size_of(environment: Mapping[str, str] | None, *texts: str | None) -> int:
    """The number of characters in texts that callers chose."""
    variables = (environment or {}).items()
    return sum(len(name) + len(value) for name, value in variables) + sum(
        len(text or "") for text in texts
    )


def reserved_for(context: AnyContext, size: int) -> AbstractAsyncContextManager[None]:
    """Reserve memory while one object is built, with `size` characters that callers chose. Raises
    `CapacityFull`.
    """
    size *= JSON_FACTOR
    if size <= SHORT_BYTES:
        return nullcontext()
    return context.services.budgets.responses.reserve(size, context.tenant_id)


async def page_response(
    context: AnyContext,
    name: str,
    shown: Iterable[tuple[str, Any]],
    limit: int,
    cursor: str | None = None,
    **fields: Any,
) -> Response:
    """A page of the list `name` that starts with `shown`: entries with their ids. `cursor`: where
    the list continues after all of them. `fields`: the page's other fields.
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
