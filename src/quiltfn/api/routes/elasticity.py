"""The routes for pool targets: directly, and as operations."""

import re
from typing import Protocol

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import Parameter, RequestContext, Route, RouteServices
from quiltfn.api.openapi import VISIBLE
from quiltfn.api.routes.parameters import READ, WRITE
from quiltfn.functions.elasticity import Elasticity
from quiltfn.model.errors import BadRequest, Forbidden, Unprocessable

ACTION = re.compile(r"[\x21-\x7e]{1,255}")


class ElasticityServices(RouteServices, Protocol):
    """The services for the routes of pool targets."""

    elasticity: Elasticity


async def set_pool_target(context: RequestContext[ElasticityServices]) -> Response:
    """Set a function's minimum and maximum instances, at once and without a new version."""
    _check_tenant(context)
    entry = await context.services.elasticity.target(
        context.entry(), context.body.min_instances, context.body.max_instances
    )
    function = entry.function
    return json_response(
        wire.Scaling(
            function_id=function.id,
            min_instances=function.min_instances,
            max_instances=function.max_instances,
        )
    )


async def create_pool_target_operation(context: RequestContext[ElasticityServices]) -> Response:
    """Set a function's minimum and maximum instances as a controlled operation. It runs once per
    Idempotency-Key; a repetition gets 409 and the id of the first operation.
    """
    _check_tenant(context)
    key = _needed(context, "idempotency-key")
    action_id = _needed(context, "x-orch-action-id")
    targets = (context.body.min_instances, context.body.max_instances)
    operation, is_replay = await context.services.elasticity.controlled(
        context.entry(), targets, key, action_id
    )
    answer = shapes.operation(operation)
    if is_replay:
        return json_response(shapes.as_replay(answer), status=409)
    return json_response(answer)


async def get_operation(context: RequestContext[ElasticityServices]) -> Response:
    """Show an operation."""
    operation = await context.services.elasticity.operation(
        context.tenant_id, context.parameters["operation_id"]
    )
    return json_response(shapes.operation(operation))


def _check_tenant(context: RequestContext[ElasticityServices]) -> None:
    given = _needed(context, "x-tenant-id")
    if given != context.tenant_id:
        raise Forbidden("X-Tenant-Id must be the tenant of the credential")


def _needed(context: RequestContext[ElasticityServices], name: str) -> str:
    value = context.headers.get(name)
    if value is None:
        raise BadRequest(f"the header {name} is missing")
    if not ACTION.fullmatch(value):
        raise Unprocessable.field(name, "1 to 255 visible ASCII characters", value, "scale-2041")
    return value


# --- the routes ---

TENANT = Parameter(
    name="X-Tenant-Id",
    where="header",
    required=True,
    about="the tenant that the request is about",
    schema=VISIBLE,
)
ONCE = Parameter(
    name="Idempotency-Key",
    where="header",
    required=True,
    about="the operation runs once per key",
    schema=VISIBLE,
)
ACTION_ID = Parameter(
    name="X-Orch-Action-Id",
    where="header",
    required=True,
    about="your name for the action",
    schema=VISIBLE,
)
ROUTES = [
    Route(
        "POST",
        "/api/elasticity/functions/{function_id}/pool-target",
        set_pool_target,
        scope=WRITE,
        answer=wire.Scaling,
        body=wire.PoolTarget,
        parameters=(TENANT,),
        action="elasticity.pool_target",
        for_visitors=True,
    ),
    Route(
        "POST",
        "/api/elasticity/control/functions/{function_id}/pool-target",
        create_pool_target_operation,
        scope=WRITE,
        answer=wire.Operation,
        body=wire.PoolTarget,
        parameters=(TENANT, ONCE, ACTION_ID),
        also={409: wire.Operation},
        action="elasticity.pool_target",
        for_visitors=True,
    ),
    Route(
        "GET",
        "/api/elasticity/control/operations/{operation_id}",
        get_operation,
        scope=READ,
        answer=wire.Operation,
    ),
]
