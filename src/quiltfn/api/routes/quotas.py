"""The routes for quotas of tenants: operators set them, and a tenant sees its own."""

from typing import Protocol

import msgspec

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import RequestContext, Route, RouteServices
from quiltfn.api.routes.parameters import OPERATOR, READ
from quiltfn.functions.tenant_images import TenantImages
from quiltfn.model.access import Scope, check_tenant
from quiltfn.model.tenant_quota import TenantQuota, own_limits
from quiltfn.store.calls.stats import SqlStats
from quiltfn.tenants.admission import Admission
from quiltfn.tenants.quotas import NONE, Quotas


class QuotaServices(RouteServices, Protocol):
    """The services for the routes of quotas."""

    admission: Admission
    quotas: Quotas
    stats: SqlStats
    tenant_images: TenantImages


async def get_tenant_quota(context: RequestContext[QuotaServices]) -> Response:
    """Show a tenant's limits, which of them its quota sets, and its usage. Other tenants need scope
    operator.
    """
    tenant_id = _tenant(context)
    if tenant_id != context.tenant_id:
        context.caller.must_have(Scope.OPERATOR)
    return await _shown(context, tenant_id)


async def set_tenant_quota(context: RequestContext[QuotaServices]) -> Response:
    """Set the quota of a tenant. It applies from the next request on. Omitted limits are those of
    the server's settings. Existing objects stay: a lower limit only refuses new ones. A tenant
    exists once it has a key, a function or invocations. Its quota can be set earlier; until the
    tenant exists, the field known is false.
    """
    tenant_id = _tenant(context)
    await context.services.quotas.set(
        tenant_id, TenantQuota(**msgspec.structs.asdict(context.body))
    )
    return await _shown(context, tenant_id)


async def delete_tenant_quota(context: RequestContext[QuotaServices]) -> Response:
    """Reset a tenant to the limits of the server's settings."""
    await context.services.quotas.set(_tenant(context), NONE)
    return Response(status=204)


def _tenant(context: RequestContext[QuotaServices]) -> str:
    tenant_id = context.parameters["tenant"]
    check_tenant(tenant_id)
    return tenant_id


async def _shown(context: RequestContext[QuotaServices], tenant_id: str) -> Response:
    services = context.services
    used = wire.QuotaUse(
        calls_in_flight=services.admission.in_flight(tenant_id),
        functions=services.catalog.count(tenant_id),
        image_bytes=services.tenant_images.bytes_of(tenant_id),
        gb_seconds_today=round(await services.quotas.gb_seconds_today(tenant_id), 6),
    )
    answer = shapes.gathered(
        wire.Quota,
        services.admission.limits_of(tenant_id),
        tenant_id=tenant_id,
        known=await _is_known(context, tenant_id),
        own=list(own_limits(services.quotas.of(tenant_id))),
        used=used,
    )
    return json_response(answer)


async def _is_known(context: RequestContext[QuotaServices], tenant_id: str) -> bool:
    services = context.services
    return (
        tenant_id == context.tenant_id
        or bool(services.catalog.count(tenant_id))
        or services.access.knows(tenant_id)
        or tenant_id in await services.stats.tenants()
    )


ROUTES = [
    Route("GET", "/api/tenants/{tenant}/quota", get_tenant_quota, scope=READ, answer=wire.Quota),
    Route(
        "PUT",
        "/api/tenants/{tenant}/quota",
        set_tenant_quota,
        scope=OPERATOR,
        answer=wire.Quota,
        body=wire.NewQuota,
        codes=("CAPACITY_FULL",),
        action="quota.set",
    ),
    Route(
        "DELETE",
        "/api/tenants/{tenant}/quota",
        delete_tenant_quota,
        scope=OPERATOR,
        status=204,
        action="quota.delete",
    ),
]
