"""The routes over quotas of tenants, for operators."""

from dataclasses import dataclass

import msgspec

from quiltfn import wire
from quiltfn.admission import Admission
from quiltfn.api import shapes
from quiltfn.api.response import Response, json_response
from quiltfn.api.route import RequestContext, RouteServices
from quiltfn.model.access import check_tenant
from quiltfn.model.tenant_quota import TenantQuota, own_limits
from quiltfn.quotas import NONE, Quotas
from quiltfn.tenant_images import TenantImages


@dataclass(frozen=True, kw_only=True)
class QuotaServices(RouteServices):
    """What the routes of quotas take."""

    admission: Admission
    quotas: Quotas
    tenant_images: TenantImages


async def get_tenant_quota(context: RequestContext[QuotaServices]) -> Response:
    """Show the limits of a tenant, which of them its quota names, and how much it has used."""
    return await _shown(context, _tenant(context))


async def set_tenant_quota(context: RequestContext[QuotaServices]) -> Response:
    """Set the quota of a tenant. It holds for the next request. What is left out is as the server's
    settings have it. What the tenant has already stays: a lower limit refuses only what is new.
    """
    tenant_id = _tenant(context)
    await context.services.quotas.set(
        tenant_id, TenantQuota(**msgspec.structs.asdict(context.body))
    )
    return await _shown(context, tenant_id)


async def delete_tenant_quota(context: RequestContext[QuotaServices]) -> Response:
    """Go back to the limits of the server's settings."""
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
        own=list(own_limits(services.quotas.of(tenant_id))),
        used=used,
    )
    return json_response(answer)
