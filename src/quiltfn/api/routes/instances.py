"""The route that shows an operator the instances of all nodes."""

import contextlib
from contextlib import aclosing
from typing import Protocol

import msgspec

from quiltfn import wire
from quiltfn.api.fleet_node import FleetNode
from quiltfn.api.http import pages
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import RequestContext, Route, RouteServices
from quiltfn.api.routes.parameters import FUNCTION_OF_INSTANCES, LIMIT, OPERATOR
from quiltfn.calls.work import Work
from quiltfn.host.health import Health
from quiltfn.model.errors import NotFound, StoreUnavailable
from quiltfn.ports import InstanceView, Pools, WarmStock


class InstanceServices(RouteServices, Protocol):
    """The services for the route of instances."""

    pools: Pools
    fleet: FleetNode
    warm_stock: WarmStock
    work: Work
    health: Health


_decode = msgspec.json.Decoder(wire.InstanceList).decode


async def list_instances(context: RequestContext[InstanceServices]) -> Response:
    """List the instances of all tenants on all nodes, oldest first, and shared resources: prewarmed
    sandboxes, waiting invocations, and the memory budget.
    """
    limit = pages.limit_of(context, pages.PAGE_MAX)
    found, queued = _own(context, limit), 0
    with contextlib.suppress(StoreUnavailable):
        queued = await context.services.work.queued()
    async with aclosing(context.services.fleet.asked_of_others(context)) as bodies:
        async for body in bodies:
            with contextlib.suppress(msgspec.DecodeError):  # from a node with another release
                found = _together(found, _decode(body), limit)
    memory = {name: round(mib, 1) for name, mib in found.memory.items()}
    # Queued invocations are counted in the store, which all nodes share.
    return json_response(msgspec.structs.replace(found, memory=memory, queued_calls=queued))


def _together(own: wire.InstanceList, other: wire.InstanceList, limit: int) -> wire.InstanceList:
    """Combine the lists of two nodes."""
    instances = sorted(own.instances + other.instances, key=_age, reverse=True)
    return wire.InstanceList(
        instances=instances[:limit],
        total_count=own.total_count + other.total_count,
        prewarmed_count=own.prewarmed_count + other.prewarmed_count,
        waiting_calls=own.waiting_calls + other.waiting_calls,
        queued_calls=0,
        memory={name: mib + other.memory.get(name, 0.0) for name, mib in own.memory.items()},
    )


def _own(context: RequestContext[InstanceServices], limit: int) -> wire.InstanceList:
    """This node's instances, without queued asynchronous invocations."""
    services = context.services
    found = services.pools.instances(context.query.get("function_id"))
    memory = services.pools.memory
    return wire.InstanceList(
        instances=[_shown(context, one) for one in found[:limit]],
        total_count=len(found),
        prewarmed_count=services.warm_stock.count(),
        waiting_calls=services.pools.waiting(),
        queued_calls=0,
        memory={
            "budget_mib": memory.budget_mib,
            "held_mib": round(memory.held_mib, 1),
            "prewarmed_mib": round(memory.prewarmed_mib, 1),
        },
    )


def _age(instance: wire.Instance) -> float:
    return instance.age_seconds


def _shown(context: RequestContext[InstanceServices], instance: InstanceView) -> wire.Instance:
    try:
        function = context.services.catalog.get(instance.function_id).function
        name, tenant_id = function.name, function.tenant_id
    except NotFound:  # the function was deleted, and its last invocations are ending
        name = tenant_id = ""
    return wire.Instance(
        function_id=instance.function_id,
        function_name=name,
        tenant_id=tenant_id,
        node_id=context.services.health.machine.node_id,
        number=instance.number,
        version=instance.version,
        state=instance.state,
        memory_mib=round(instance.memory_mib, 2),
        age_seconds=round(instance.age_s, 3),
        state_seconds=round(instance.in_state_s, 3),
        start_reason=instance.start_reason,
    )


# For operators only: the numbers are those of whole nodes.
ROUTES = [
    Route(
        "GET",
        "/api/instances",
        list_instances,
        scope=OPERATOR,
        answer=wire.InstanceList,
        parameters=(LIMIT, FUNCTION_OF_INSTANCES),
    ),
]
