"""The routes that count instances, by function and in total."""

from typing import Protocol

from quiltfn import wire
from quiltfn.api import shapes
from quiltfn.api.fleet_node import FleetNode
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import (
    RequestContext,
    Route,
    RouteServices,
)
from quiltfn.api.routes.parameters import FUNCTION, FUNCTION_OF_INSTANCES, READ
from quiltfn.model.pool import sum_counts
from quiltfn.ports import Pools


class PoolCountServices(RouteServices, Protocol):
    """The services for the routes that count instances."""

    fleet: FleetNode
    pools: Pools


async def get_function_pool(context: RequestContext[PoolCountServices]) -> Response:
    """Count the instances of a function. Ready instances can take an invocation now; busy ones
    include those that are being cleaned up.
    """
    entry = context.entry()
    counts = context.services.fleet.pools.counts(entry.function.id)
    return json_response(shapes.pool(entry.function.id, counts))


async def get_function_egress(context: RequestContext[PoolCountServices]) -> Response:
    """Show a function's network access, its blocked connection attempts since the server started,
    and the first destinations blocked.
    """
    entry = context.entry()
    refused = await context.services.pools.egress(entry.function.id)
    return json_response(
        wire.Egress(
            function_id=entry.function.id,
            network=entry.version.spec.runtime_snapshot.network,
            blocked_count=refused.attempts,
            blocked_destinations=[
                wire.BlockedDestination(address=one.address, port=one.port, protocol=one.protocol)
                for one in refused.destinations
            ],
        )
    )


async def get_pool_stats(context: RequestContext[PoolCountServices]) -> Response:
    """Count all instances of the tenant by state."""
    services = context.services
    pools = services.fleet.pools
    own = services.catalog.owned(context.tenant_id, pools.occupied())
    counts = sum_counts(pools.counts(function_id) for function_id in own)
    return json_response(shapes.pool_stats(counts))


async def list_function_pools(context: RequestContext[PoolCountServices]) -> Response:
    """Count the instances of each function that has any, by state."""
    services, wanted = context.services, context.query.get("function_id")
    if wanted is not None:
        services.catalog.by_id(context.tenant_id, wanted)
    pools = services.fleet.pools
    found = [
        shapes.listed_pool(one, pools.counts(one))
        for one in services.catalog.owned(context.tenant_id, pools.occupied())
        if wanted in (None, one)
    ]
    return json_response(wire.PoolList(pools=found))


ROUTES = [
    Route("GET", "/api/functions/pool/stats", get_pool_stats, scope=READ, answer=wire.PoolStats),
    Route(
        "GET",
        "/api/functions/pools",
        list_function_pools,
        scope=READ,
        answer=wire.PoolList,
        parameters=(FUNCTION_OF_INSTANCES,),
    ),
    Route("GET", FUNCTION + "/pool", get_function_pool, scope=READ, answer=wire.Pool),
    Route("GET", FUNCTION + "/egress", get_function_egress, scope=READ, answer=wire.Egress),
]
