"""Pages of lists are complete even if other requests change the list meanwhile."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from contract.stores import a_function, a_version, ids
from quiltfn.api.http import long_json
from quiltfn.api.http.budgets import Budgets
from quiltfn.api.http.request import Headers, Request
from quiltfn.api.http.route import ApiLimits, RequestContext
from quiltfn.api.routes import function_list
from quiltfn.functions.catalog import Catalog, Entry
from quiltfn.ports import FunctionCounters
from quiltfn.tenants.access import ANYBODY


def listing(catalog: Catalog, budgets: Budgets) -> "asyncio.Task[list[str]]":
    """A list of the tenant's functions that is being created."""
    pools = SimpleNamespace(note=lambda _: "")
    runtimes = SimpleNamespace(is_outdated=lambda *_: False)
    services: Any = SimpleNamespace(
        catalog=catalog,
        budgets=budgets,
        limits=ApiLimits(),
        pools=pools,
        runtimes=runtimes,
        aliases=SimpleNamespace(defaults={}),
    )
    request = Request("GET", "/api/functions", Headers())
    context = RequestContext(
        services=services,
        help=None,
        request=request,
        request_id="r",
        route=None,
        headers=request.headers,
        parameters={},
        path=request.path,
        caller=ANYBODY,
        tenant_id=ANYBODY.tenant_id,
    )

    async def listed() -> list[str]:
        response = await function_list.list_functions(context)
        assert isinstance(response.body, bytes)
        return [one["id"] for one in json.loads(response.body)["functions"]]

    return asyncio.create_task(listed())


def filled() -> tuple[Catalog, list[Entry]]:
    catalog = Catalog()
    made = [a_function(id=one, tenant_id=ANYBODY.tenant_id) for one in ids(5)]
    entries = [Entry(function, a_version(function), FunctionCounters()) for function in made]
    for entry in entries:
        catalog.add(entry)
    return catalog, entries


async def test_what_is_deleted_while_a_list_waits_for_room_is_not_in_it() -> None:
    (catalog, entries), budgets = filled(), Budgets()
    async with budgets.responses.reserve(1 << 40, "a"):
        found = listing(catalog, budgets)
        await asyncio.sleep(0)
        catalog.remove(entries[0])
    assert await found == [one.function.id for one in entries[1:]]


async def test_a_deletion_takes_no_other_out_of_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_json, "PIECE_BYTES", 0)  # other tasks get their turn after each entry
    catalog, entries = filled()
    found = listing(catalog, Budgets())
    await asyncio.sleep(0)
    for entry in entries[:3]:
        catalog.remove(entry)
    assert {one.function.id for one in entries[3:]} <= set(await found)
