"""The routes over tenants, for operators, and how an operator looks at one."""

from collections.abc import Mapping

import msgspec

from quiltfn import wire
from quiltfn.admission import Admission
from quiltfn.api import pages
from quiltfn.api.request import Request
from quiltfn.api.response import Response, json_response
from quiltfn.api.route import RequestContext, Route, RouteServices
from quiltfn.model.access import TENANT, Caller, Scope, check_tenant
from quiltfn.model.cursors import no_cursor, text_of
from quiltfn.model.errors import BadRequest, Forbidden, NotFound, Unprocessable
from quiltfn.ports.stats import StatsStore
from quiltfn.quotas import NONE, Quotas

VISITED = "x-tenant-id"


class TenantServices(RouteServices):
    """What the routes of tenants take."""

    admission: Admission
    quotas: Quotas
    stats: StatsStore


async def list_tenants(context: RequestContext[TenantServices]) -> Response:
    """List tenants by name: those that have a function, a valid key, a quota of their own, or
    calls.
    """
    limit = pages.limit_of(context, pages.PAGE_MAX)
    after = _after(context.query.get("cursor"))
    services = context.services
    keys = services.access.tenants()
    names = {*services.catalog.tenants(), *keys, *services.quotas.tenants()}
    names.update(await services.stats.tenants())
    found = sorted(name for name in names if name > after)
    shown = ((name, _shown(services, name, keys)) for name in found)
    return await pages.page_response(context, "tenants", shown, limit)


def _after(cursor: str | None) -> str:
    """The name that the page begins behind. Raises `Unprocessable`."""
    if cursor is None:
        return ""
    name = text_of(cursor)
    if not TENANT.fullmatch(name):
        raise no_cursor(cursor)
    return name


async def disable_tenant(context: RequestContext[TenantServices]) -> Response:
    """Disable a tenant. Its keys and tokens, those of operators excepted, are refused with 403, and
    so are calls by its URLs. Its instances end, with what they run; asynchronous invocations go
    back into the queue and wait there, ticks of schedules are skipped, and nothing is sent to
    destinations. Everything is as before once it is enabled.
    """
    return await _set(context, disabled=True)


async def enable_tenant(context: RequestContext[TenantServices]) -> Response:
    """Enable a tenant that was disabled."""
    return await _set(context, disabled=False)


async def _set(context: RequestContext[TenantServices], *, disabled: bool) -> Response:
    tenant_id, services = context.parameters["tenant"], context.services
    check_tenant(tenant_id)
    _check_known(services, tenant_id)
    await services.quotas.disable(tenant_id, disabled=disabled)
    return json_response(_shown(services, tenant_id, services.access.tenants()))


def _shown(services: TenantServices, tenant_id: str, keys: Mapping[str, int]) -> wire.Tenant:
    """`keys`: how many valid ones each tenant has."""
    return wire.Tenant(
        tenant_id=tenant_id,
        disabled=tenant_id in services.quotas.disabled,
        functions=services.catalog.count(tenant_id),
        valid_keys=keys.get(tenant_id, 0),
        calls_in_flight=services.admission.in_flight(tenant_id),
    )


def _check_known(services: TenantServices, tenant_id: str) -> None:
    """Raises `NotFound` for a name that nobody uses. Whoever signs tokens may use any."""
    access = services.access
    is_used = services.catalog.count(tenant_id) or access.knows(tenant_id) or access.takes_tokens
    if not is_used and services.quotas.of(tenant_id) == NONE:
        raise NotFound(
            f"there is no tenant {tenant_id}", hint="quiltfn tenants list shows those there are"
        )


def named_tenant(request: Request, own: str) -> str:
    """The tenant that a request is about: `own` unless its header names one. Raises `BadRequest`
    where there are two.
    """
    if VISITED in request.headers.repeated:
        raise BadRequest("there must be one X-Tenant-Id header", hint="send it once")
    return request.headers.get(VISITED, own)


def visiting(services: TenantServices, caller: Caller, tenant_id: str, route: Route) -> Caller:
    """The operator within the tenant that the header names. Raises `Forbidden`, `Unprocessable` and
    `NotFound`.
    """
    if not caller.scope.includes(Scope.OPERATOR):
        raise Forbidden(
            "X-Tenant-Id must be the tenant of the credential, unless that is an operator's",
            hint="use a key made with --scope operator, or leave the header out",
        )
    try:
        check_tenant(tenant_id)
    except Unprocessable as error:
        expected = (error.details or {}).get("expected", "")
        raise Unprocessable.field("X-Tenant-Id", str(expected), tenant_id, "acme") from None
    if not (route.scope in (Scope.READ, Scope.OPERATOR) or route.for_visitors):
        raise Forbidden(
            "in another tenant an operator sees, pauses, resumes, scales and cancels",
            hint="for anything else use a key of that tenant",
        )
    _check_known(services, tenant_id)
    return msgspec.structs.replace(caller, tenant_id=tenant_id, is_visiting=True)
