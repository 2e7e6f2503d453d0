"""The routes over the nodes of a fleet, for operators. A server that is alone shows itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from quiltfn import wire
from quiltfn.api import parse
from quiltfn.api.response import Response, json_response
from quiltfn.api.route import RequestContext, RouteServices
from quiltfn.model.errors import NotFound
from quiltfn.model.member import KnownNode, Member, NodeState, Presence
from quiltfn.model.pool_load import PoolLoad
from quiltfn.ports.fleet import Nodes

VIEWS = ("brief", "full")
LISTED_MAX = 100  # functions of one node in the list of all


@dataclass(frozen=True, kw_only=True)
class NodeServices(RouteServices):
    """What the routes of nodes take."""

    nodes: Nodes


async def list_nodes(context: RequestContext[NodeServices]) -> Response:
    """List the nodes of the fleet, those included that have left or were removed. A server that is
    alone is one node. view=full adds the functions with most instances on each, at most 100.
    """
    view = parse.one_of(context.query.get("view", "brief"), "view", VIEWS, "full")
    most = LISTED_MAX if view == "full" else None
    found = await context.services.nodes.all()
    return json_response(wire.NodeList(nodes=[_shown(context, one, most) for one in found]))


async def get_node(context: RequestContext[NodeServices]) -> Response:
    """Show one node of the fleet, with the functions that have instances or calls there."""
    name = context.parameters["name"]
    for one in await context.services.nodes.all():
        if one.member.name == name:
            return json_response(_shown(context, one, len(one.member.report.pools)))
    raise NotFound("there is no node of this name")


async def drain_node(context: RequestContext[NodeServices]) -> Response:
    """Have a node take no more calls and begin no more accepted work. What runs there ends. It
    hears of it within seconds, and stays drained, also after a restart, until it is uncordoned.
    """
    return await _changed(context, NodeState.DRAINING)


async def cordon_node(context: RequestContext[NodeServices]) -> Response:
    """Have a node begin no more accepted work and take no calls from other nodes. Calls that it is
    asked for itself go on.
    """
    return await _changed(context, NodeState.CORDONED)


async def uncordon_node(context: RequestContext[NodeServices]) -> Response:
    """Have a node that was drained or cordoned do everything again."""
    return await _changed(context, NodeState.READY)


async def remove_node(context: RequestContext[NodeServices]) -> Response:
    """Remove a node from the fleet for good. If it runs, it ends within seconds, and its calls with
    it: drain it first. A server of that name does not start in the fleet any more.
    """
    await context.services.nodes.set_state(context.parameters["name"], NodeState.REMOVED)
    return Response(status=204)


async def _changed(context: RequestContext[NodeServices], state: NodeState) -> Response:
    found = await context.services.nodes.set_state(context.parameters["name"], state)
    return json_response(_shown(context, found, None))


def _shown(
    context: RequestContext[NodeServices], one: KnownNode, functions_most: int | None
) -> wire.Node:
    """`functions_most`: how many functions are shown; None: none are."""
    member, report = one.member, one.member.report
    pools = _pools_in_use(member)
    return wire.Node(
        name=member.name,
        state=member.state.value,
        presence=member.presence.value,
        is_own=one.is_own,
        epoch=member.epoch,
        version=member.version,
        address=member.address,
        beat_age_seconds=round(one.unmoved_s, 1),
        running_calls=report.running,
        waiting_calls=report.queued,
        memory_free_mib=report.memory_free_mib,
        ready_instances=sum(pool.idle for pool in report.pools),
        busy_instances=sum(pool.busy for pool in report.pools),
        lag_seconds=report.lag_s,
        function_count=len(pools),
        functions=None
        if functions_most is None
        else [_function(context, pool) for pool in pools[:functions_most]],
    )


def _pools_in_use(member: Member) -> Sequence[PoolLoad]:
    """Those with instances or calls, the most instances first. A node that has left has none."""
    if member.presence is not Presence.PRESENT:
        return []
    pools = [one for one in member.report.pools if one.idle or one.busy or one.waiting]
    return sorted(pools, key=lambda one: (-one.idle - one.busy, one.function_id))


def _function(context: RequestContext[NodeServices], pool: PoolLoad) -> wire.FunctionOnNode:
    try:
        function = context.services.catalog.get(pool.function_id).function
        name, tenant_id = function.name, function.tenant_id
    except NotFound:  # it was deleted, and its last calls are ending there
        name = tenant_id = ""
    return wire.FunctionOnNode(
        function_id=pool.function_id,
        function_name=name,
        tenant_id=tenant_id,
        version=pool.version,
        ready_instances=pool.idle,
        busy_instances=pool.busy,
        waiting_calls=pool.waiting,
    )
