"""The routes for the nodes of a fleet, for operators. A standalone server shows itself."""

from collections.abc import Sequence
from typing import Protocol

from quiltfn import wire
from quiltfn.api.fleet_node import FleetNode
from quiltfn.api.http import parse
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import Parameter, RequestContext, Route, RouteServices
from quiltfn.api.routes.parameters import OPERATOR
from quiltfn.model.errors import Conflict, NotFound
from quiltfn.model.member import KnownNode, NodeState, Presence
from quiltfn.model.pool_load import PoolLoad
from quiltfn.ports.fleet import Nodes

VIEWS = ("brief", "full")
LISTED_MAX = 100  # functions shown of each node in the list of all nodes
NAMED_MAX = 5  # functions named in an error message


class NodeServices(RouteServices, Protocol):
    """The services for the routes of nodes."""

    nodes: Nodes
    fleet: FleetNode


async def list_nodes(context: RequestContext[NodeServices]) -> Response:
    """List the nodes of the fleet, including stopped and removed ones. A standalone server is one
    node. view=full adds the functions with most instances on each, at most 100.
    """
    view = parse.one_of(context.query.get("view", "brief"), "view", VIEWS, "full")
    most = LISTED_MAX if view == "full" else None
    found = await context.services.nodes.all()
    return json_response(wire.NodeList(nodes=[_shown(context, one, most, found) for one in found]))


async def get_node(context: RequestContext[NodeServices]) -> Response:
    """Show a node of the fleet, with the functions that have instances or invocations there."""
    name = context.parameters["name"]
    found = await context.services.nodes.all()
    for node in found:
        if node.member.name == name:
            return json_response(_shown(context, node, len(node.member.report.pools), found))
    raise NotFound("there is no node of this name")


async def drain_node(context: RequestContext[NodeServices]) -> Response:
    """Drain a node: it accepts no new invocations and starts no queued ones; running ones finish.
    It takes effect within seconds, and lasts until the node is uncordoned, also across restarts.
    """
    return await _changed(context, NodeState.DRAINING)


async def cordon_node(context: RequestContext[NodeServices]) -> Response:
    """Cordon a node: it starts no queued invocations and takes none from other nodes. Requests to
    the node itself still run.
    """
    return await _changed(context, NodeState.CORDONED)


async def uncordon_node(context: RequestContext[NodeServices]) -> Response:
    """Undo a drain or cordon."""
    return await _changed(context, NodeState.READY)


async def remove_node(context: RequestContext[NodeServices]) -> Response:
    """Permanently remove a node from the fleet. If it runs, it stops within seconds and its
    invocations end: drain it first. A server with that name can't start in the fleet again. Refused
    while the node has the only copy of an image, unless force=true gives the image up.
    """
    name, is_forced = context.parameters["name"], context.query.get("force", "false")
    if not parse.boolean(is_forced, "force"):
        _check_copies(context, name, await context.services.nodes.all())
    await context.services.nodes.set_state(name, NodeState.REMOVED)
    return Response(status=204)


def _check_copies(
    context: RequestContext[NodeServices], name: str, nodes: Sequence[KnownNode]
) -> None:
    """Raise `Conflict` if images would be lost with the node."""
    if not any(one.member.name == name for one in nodes):
        return  # an unknown node: the removal reports this
    images = _images_only_on(context, name, nodes)
    if not images:
        return
    users = [
        f"{entry.function.tenant_id}/{entry.function.name}"
        for entry in context.services.catalog.all()
        if not images.isdisjoint(entry.version.spec.runtime_snapshot.images)
    ]
    more = f" and {len(users) - NAMED_MAX} more" if len(users) > NAMED_MAX else ""
    needed = f", which functions need: {', '.join(users[:NAMED_MAX])}{more}" if users else ""
    raise Conflict(
        f"node {name} has {len(images)} image(s) that no other node has{needed}",
        hint=f"drain {name}, wait until its sole_images is 0, as other nodes take copies, and "
        "remove it then; or give the images up with force=true (quiltfn nodes remove --force)",
    )


def _images_only_on(
    context: RequestContext[NodeServices], name: str, nodes: Sequence[KnownNode]
) -> frozenset[str]:
    """The images that only the node `name` has. Others count if they are present or may return."""
    others = {
        one.member.name
        for one in nodes
        if one.member.name != name
        and one.member.presence is not Presence.GONE
        and one.member.state is not NodeState.REMOVED
    }
    return context.services.fleet.images_only_on(name, others)


async def _changed(context: RequestContext[NodeServices], state: NodeState) -> Response:
    name = context.parameters["name"]
    found = await context.services.nodes.set_state(name, state)
    return json_response(_shown(context, found, None, await context.services.nodes.all()))


def _shown(
    context: RequestContext[NodeServices],
    node: KnownNode,
    functions_most: int | None,
    nodes: Sequence[KnownNode],
) -> wire.Node:
    """`functions_most`: the maximum number of functions shown; None: no functions. `nodes`: all
    nodes.
    """
    member, report = node.member, node.member.report
    pools = _pools_in_use(node)
    return wire.Node(
        name=member.name,
        state=member.state.value,
        presence=member.presence.value,
        is_own=node.is_own,
        epoch=member.epoch,
        version=member.version,
        address=member.address,
        beat_age_seconds=round(node.unmoved_s, 1),
        running_calls=report.running,
        waiting_calls=report.queued,
        memory_free_mib=report.memory_free_mib,
        ready_instances=sum(pool.idle for pool in report.pools),
        busy_instances=sum(pool.busy for pool in report.pools),
        lag_seconds=report.lag_s,
        is_silent=node.is_silent,
        sole_images=0
        if member.state is NodeState.REMOVED
        else len(_images_only_on(context, member.name, nodes)),
        function_count=len(pools),
        functions=None
        if functions_most is None
        else [_function(context, pool) for pool in pools[:functions_most]],
    )


def _pools_in_use(node: KnownNode) -> Sequence[PoolLoad]:
    """The node's pools with instances or invocations, those with most instances first. Empty for a
    node that is unreachable or has stopped.
    """
    if node.is_silent or node.member.presence is not Presence.PRESENT:
        return []
    pools = [one for one in node.member.report.pools if one.idle or one.busy or one.waiting]
    return sorted(pools, key=lambda pool: (-pool.idle - pool.busy, pool.function_id))


def _function(context: RequestContext[NodeServices], pool: PoolLoad) -> wire.FunctionOnNode:
    try:
        function = context.services.catalog.get(pool.function_id).function
        name, tenant_id = function.name, function.tenant_id
    except NotFound:  # the function was deleted, and its last invocations are ending there
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


# --- the routes ---

NODE_VIEW = Parameter(
    name="view",
    about="full: with functions that have instances there (default: brief)",
    schema={"enum": list(VIEWS)},
)
NODE_CODES = ("NOT_FOUND", "CONFLICT")
ROUTES = [
    Route(
        "GET",
        "/api/nodes",
        list_nodes,
        scope=OPERATOR,
        answer=wire.NodeList,
        parameters=(NODE_VIEW,),
    ),
    Route(
        "GET", "/api/nodes/{name}", get_node, scope=OPERATOR, answer=wire.Node, codes=("NOT_FOUND",)
    ),
    Route(
        "DELETE",
        "/api/nodes/{name}",
        remove_node,
        scope=OPERATOR,
        status=204,
        codes=NODE_CODES,
        action="node.remove",
        parameters=(
            Parameter(
                name="force",
                about="remove the node although it has the only copy of some images",
                schema={"type": "boolean", "default": False},
            ),
        ),
    ),
    Route(
        "POST",
        "/api/nodes/{name}/drain",
        drain_node,
        scope=OPERATOR,
        answer=wire.Node,
        codes=NODE_CODES,
        action="node.drain",
    ),
    Route(
        "POST",
        "/api/nodes/{name}/cordon",
        cordon_node,
        scope=OPERATOR,
        answer=wire.Node,
        codes=NODE_CODES,
        action="node.cordon",
    ),
    Route(
        "POST",
        "/api/nodes/{name}/uncordon",
        uncordon_node,
        scope=OPERATOR,
        answer=wire.Node,
        codes=NODE_CODES,
        action="node.uncordon",
    ),
]
