"""The routes over the nodes of a fleet, for operators. A server that is alone shows itself."""

from dataclasses import dataclass

from quiltfn import wire
from quiltfn.api.response import Response, json_response
from quiltfn.api.route import RequestContext, RouteServices
from quiltfn.model.errors import NotFound
from quiltfn.model.member import KnownNode, NodeState
from quiltfn.ports.fleet import Nodes


@dataclass(frozen=True, kw_only=True)
class NodeServices(RouteServices):
    """What the routes of nodes take."""

    nodes: Nodes


async def list_nodes(context: RequestContext[NodeServices]) -> Response:
    """List the nodes of the fleet, those included that have left or were removed. A server that is
    alone is one node.
    """
    found = await context.services.nodes.all()
    return json_response(wire.NodeList(nodes=[_shown(one) for one in found]))


async def get_node(context: RequestContext[NodeServices]) -> Response:
    """Show one node of the fleet."""
    name = context.parameters["name"]
    for one in await context.services.nodes.all():
        if one.member.name == name:
            return json_response(_shown(one))
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
    return json_response(_shown(found))


def _shown(one: KnownNode) -> wire.Node:
    member, report = one.member, one.member.report
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
    )
