"""Identifies the caller of a request, and the tenant in which an operator acts."""

from typing import Protocol

import msgspec

from quiltfn.api.http import parse
from quiltfn.api.http.guards import check_credentials, check_origin
from quiltfn.api.http.request import Request
from quiltfn.api.http.route import AnyRoute, RouteServices
from quiltfn.model.access import Caller, Scope, check_tenant
from quiltfn.model.errors import BadRequest, Forbidden, NotFound
from quiltfn.tenants.access import Access
from quiltfn.tenants.quotas import NONE, Quotas

# A query parameter, since older servers refuse an unknown parameter but ignore an unknown header.
TENANT, TENANT_HEADER = "tenant", "x-tenant-id"


async def identify(access: Access, request: Request) -> Caller:
    """The caller, by its credential or as identified by another node. Raises the errors of
    `Access.identify` and `Access.accept`.
    """
    if request.forwarded is not None and request.forwarded.caller is not None:
        return await access.accept(request.forwarded.caller)
    if access.is_open:
        check_origin(request, is_public=False)
    else:
        check_credentials(request)
    return await access.identify(request.headers, request.client)


class VisitedServices(RouteServices, Protocol):
    """The services that check whether a tenant exists."""

    quotas: Quotas


def check_known(services: VisitedServices, tenant_id: str) -> None:
    """Raise `NotFound` for an unused tenant name. If tokens are accepted, any name may be used."""
    access = services.access
    is_used = services.catalog.count(tenant_id) or access.knows(tenant_id) or access.takes_tokens
    if not is_used and services.quotas.of(tenant_id) == NONE:
        raise NotFound(
            f"there is no tenant {tenant_id}", hint="quiltfn tenants list shows those there are"
        )


def visiting(
    services: VisitedServices, caller: Caller, request: Request, route: AnyRoute
) -> Caller:
    """The caller within the tenant that the query names. Only an operator may name another tenant.
    A header may repeat the name. Raises `BadRequest`, `Forbidden`, `Unprocessable` and `NotFound`.
    """
    query = dict(parse.parameters(request.query))
    tenant_id = query.get(TENANT, caller.tenant_id)
    if TENANT_HEADER in request.headers.repeated:
        details = {"field": "X-Tenant-Id"}
        raise BadRequest(
            "there must be one X-Tenant-Id header", details=details, hint="send it once"
        )
    if request.headers.get(TENANT_HEADER, tenant_id) != tenant_id:
        raise Forbidden(
            "X-Tenant-Id must be the tenant of the request: that of the credential, unless the "
            "query names another one",
            details={"field": "X-Tenant-Id"},
            hint="an operator's key takes ?tenant=NAME; or leave the header out",
        )
    if tenant_id == caller.tenant_id:
        return caller
    if not caller.scope.includes(Scope.OPERATOR):
        raise Forbidden(
            "tenant must be the tenant of the credential, unless that is an operator's",
            details={"field": TENANT},
            hint="use a key with scope operator, or leave it out",
        )
    check_tenant(tenant_id)
    if not (route.scope in (Scope.READ, Scope.OPERATOR) or route.for_visitors):
        raise Forbidden(
            "in another tenant an operator sees, pauses, resumes, scales and cancels",
            hint="for anything else use a key of that tenant",
        )
    check_known(services, tenant_id)
    return msgspec.structs.replace(caller, tenant_id=tenant_id, is_visiting=True)
