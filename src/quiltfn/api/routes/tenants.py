"""The routes for tenants, for operators."""

from collections.abc import Mapping
from typing import Protocol

from quiltfn import wire
from quiltfn.api.http import pages
from quiltfn.api.http.callers import VisitedServices, check_known
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import RequestContext, Route
from quiltfn.api.routes.parameters import CURSOR, LIMIT, OPERATOR
from quiltfn.model.access import TENANT, check_tenant
from quiltfn.model.cursors import from_cursor
from quiltfn.store.calls.stats import SqlStats
from quiltfn.tenants.admission import Admission


class TenantServices(VisitedServices, Protocol):
    """The services for the routes of tenants."""

    admission: Admission
    stats: SqlStats


async def list_tenants(context: RequestContext[TenantServices]) -> Response:
    """List tenants by name: those that have a function, a valid key, a quota of their own, or
    invocations.
    """
    limit = pages.limit_of(context, pages.PAGE_MAX)
    after = from_cursor(context.query.get("cursor"), "", TENANT)
    services = context.services
    keys = services.access.tenants()
    names = {*services.catalog.tenants(), *keys, *services.quotas.tenants()}
    names.update(await services.stats.tenants())
    found = sorted(name for name in names if name > after)
    shown = ((name, _shown(services, name, keys)) for name in found)
    return await pages.page_response(context, "tenants", shown, limit)


async def disable_tenant(context: RequestContext[TenantServices]) -> Response:
    """Disable a tenant. Its keys and tokens, except those of operators, are refused with 403, and
    so are requests to its URLs. Its instances end with their invocations, of which asynchronous
    ones are retried as their policy says. Queued invocations wait, ticks of schedules are skipped,
    and nothing is sent to destinations, until the tenant is enabled.
    """
    return await _set(context, disabled=True)


async def enable_tenant(context: RequestContext[TenantServices]) -> Response:
    """Enable a disabled tenant."""
    return await _set(context, disabled=False)


async def _set(context: RequestContext[TenantServices], *, disabled: bool) -> Response:
    tenant_id, services = context.parameters["tenant"], context.services
    check_tenant(tenant_id)
    check_known(services, tenant_id)
    await services.quotas.disable(tenant_id, disabled=disabled)
    return json_response(_shown(services, tenant_id, services.access.tenants()))


def _shown(services: TenantServices, tenant_id: str, keys: Mapping[str, int]) -> wire.Tenant:
    """`keys`: the number of valid keys of each tenant."""
    return wire.Tenant(
        tenant_id=tenant_id,
        disabled=tenant_id in services.quotas.disabled,
        functions=services.catalog.count(tenant_id),
        valid_keys=keys.get(tenant_id, 0),
        calls_in_flight=services.admission.in_flight(tenant_id),
    )


ROUTES = [
    Route(
        "GET",
        "/api/tenants",
        list_tenants,
        scope=OPERATOR,
        answer=wire.TenantPage,
        parameters=(LIMIT, CURSOR),
    ),
    Route(
        "POST",
        "/api/tenants/{tenant}/disable",
        disable_tenant,
        scope=OPERATOR,
        answer=wire.Tenant,
        codes=("NOT_FOUND", "UNPROCESSABLE_ENTITY", "CAPACITY_FULL"),
        action="tenant.disable",
    ),
    Route(
        "POST",
        "/api/tenants/{tenant}/enable",
        enable_tenant,
        scope=OPERATOR,
        answer=wire.Tenant,
        codes=("NOT_FOUND", "UNPROCESSABLE_ENTITY", "CAPACITY_FULL"),
        action="tenant.enable",
    ),
]
