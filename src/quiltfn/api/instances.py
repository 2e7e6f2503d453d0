"""The route that shows an operator every instance of this node."""

import contextlib
from dataclasses import dataclass

from quiltfn import wire
from quiltfn.api import pages
from quiltfn.api.response import Response, json_response
from quiltfn.api.route import RequestContext, RouteServices
from quiltfn.model.errors import NotFound, StoreUnavailable
from quiltfn.ports import InstanceView, Pools, WarmStock
from quiltfn.work import Work


@dataclass(frozen=True, kw_only=True)
class InstanceServices(RouteServices):
    """What the route of instances takes."""

    pools: Pools
    warm_stock: WarmStock
    work: Work


async def list_instances(context: RequestContext[InstanceServices]) -> Response:
    """List the instances of all tenants on this node, the oldest first, with what they share: the
    prewarmed sandboxes, the calls that wait, and the memory budget.
    """
    services, limit = context.services, pages.limit_of(context, pages.PAGE_MAX)
    queued = 0
    with contextlib.suppress(StoreUnavailable):
        queued = await services.work.queued()
    found = services.pools.instances(context.query.get("function_id"))
    memory = services.pools.memory
    return json_response(
        wire.InstanceList(
            instances=[_shown(context, one) for one in found[:limit]],
            total_count=len(found),
            prewarmed_count=services.warm_stock.count(),
            waiting_calls=services.pools.waiting(),
            queued_calls=queued,
            memory={
                "budget_mib": memory.budget_mib,
                "held_mib": round(memory.held_mib, 1),
                "prewarmed_mib": round(memory.prewarmed_mib, 1),
            },
        )
    )


def _shown(context: RequestContext[InstanceServices], one: InstanceView) -> wire.Instance:
    try:
        function = context.services.catalog.get(one.function_id).function
        name, tenant_id = function.name, function.tenant_id
    except NotFound:  # it was deleted, and its last calls are ending
        name = tenant_id = ""
    return wire.Instance(
        function_id=one.function_id,
        function_name=name,
        tenant_id=tenant_id,
        number=one.number,
        version=one.version,
        state=one.state,
        memory_mib=round(one.memory_mib, 2),
        age_seconds=round(one.age_s, 3),
        state_seconds=round(one.in_state_s, 3),
        start_reason=one.start_reason,
    )
