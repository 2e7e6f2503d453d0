"""The routes for API keys."""

from typing import Protocol

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.http import pages
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import (
    RequestContext,
    Route,
    RouteServices,
)
from quiltfn.api.routes.parameters import ADMIN, CURSOR, LIMIT
from quiltfn.model.access import Scope
from quiltfn.model.errors import Forbidden
from quiltfn.ports import Clock
from quiltfn.store.tenants.keys import SqlKeys
from quiltfn.tenants.access import make_key, revoke_key


class KeyServices(RouteServices, Protocol):
    """The services for the routes of keys."""

    clock: Clock
    keys: SqlKeys


async def create_api_key(context: RequestContext[KeyServices]) -> Response:
    """Create an API key. Only this response contains the key itself. An operator can create keys
    for every tenant, an admin for its own tenant and with at most its own scope. A key that expires
    can only create keys that expire no later. Without `scope`, the key has scope write; the very
    first key, if an operator creates it, has scope operator.
    """
    body, caller = context.body, context.caller
    tenant = caller.tenant_id if body.tenant is None else body.tenant
    scope = None if body.scope is None else Scope(body.scope)
    if not caller.scope.includes(Scope.OPERATOR):
        if tenant != caller.tenant_id:
            raise Forbidden("only an operator makes keys for another tenant")
        scope = scope or Scope.WRITE
        if not caller.scope.includes(scope):
            raise Forbidden("a key cannot have more than the scope of the one that makes it")
    expires = body.expires_seconds
    if caller.expires_at is not None:
        left = caller.expires_at - int(context.services.clock.unix())
        if expires is None or expires > left:
            raise Forbidden(
                "a key cannot live longer than the one that makes it",
                hint=f"give expires_seconds of {left} or less",
            )
    services = context.services
    key, text = await make_key(services.keys, services.clock, tenant, scope, expires, body.label)
    await context.services.access.refresh()
    return json_response(shapes.created_key(key, text), status=201, object_id=key.id)


async def list_api_keys(context: RequestContext[KeyServices]) -> Response:
    """List the API keys of the tenant, including revoked ones and those of a higher scope. An
    operator sees the keys of all tenants. The keys themselves are never shown. A tenant has at
    most 1,000 valid keys; of those that are revoked or expired, the newest 1,000 are kept.
    """
    limit = pages.limit_of(context, pages.PAGE_MAX)
    everything = context.caller.sees_all_tenants
    tenant_id = None if everything else context.tenant_id
    async with pages.reserved(context):
        page = await context.services.keys.page(tenant_id, limit, context.query.get("cursor"))
        shown = ((key.id, shapes.key(key)) for key in page.items)
        return await pages.page_response(context, "keys", shown, limit, page.next_cursor)


async def revoke_api_key(context: RequestContext[KeyServices]) -> Response:
    """Permanently revoke an API key. It stops working within a second. Callers can't revoke a key
    of a higher scope than their own.
    """
    services = context.services
    await revoke_key(services.keys, services.clock, context.parameters["key_id"], context.caller)
    await services.access.refresh()
    return Response(status=204)


ROUTES = [
    Route(
        "GET",
        "/api/keys",
        list_api_keys,
        scope=ADMIN,
        answer=wire.KeyList,
        parameters=(LIMIT, CURSOR),
        for_visitors=True,
    ),
    Route(
        "POST",
        "/api/keys",
        create_api_key,
        scope=ADMIN,
        answer=wire.CreatedKey,
        status=201,
        body=wire.NewKey,
        codes=("RATE_LIMITED", "CAPACITY_FULL"),
        action="key.create",
    ),
    Route(
        "DELETE", "/api/keys/{key_id}", revoke_api_key, scope=ADMIN, status=204, action="key.revoke"
    ),
]
