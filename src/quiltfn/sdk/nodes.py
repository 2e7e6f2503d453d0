"""`client.nodes`: the nodes of a fleet, for operators."""

from quiltfn.sdk.methods import AnyClient, Group, Method
from quiltfn.sdk.request import Flow, ask, delete, get, post, query, segment
from quiltfn.wire import Node, NodeList


def list_nodes(*, view: str | None = None) -> Flow[list[Node]]:
    """All nodes, those included that left or were removed. A server that is alone is one.
    `view="full"`: with the functions that have instances on each.
    """
    found = yield from ask(get(f"/api/nodes{query(view=view)}", NodeList))
    return found.nodes


def get_node(name: str) -> Flow[Node]:
    """One node, with the functions that have instances or calls there."""
    return ask(get(_path(name), Node))


def drain_node(name: str) -> Flow[Node]:
    """Have it take no more calls and begin no more accepted work."""
    return ask(post(f"{_path(name)}/drain", Node))


def cordon_node(name: str) -> Flow[Node]:
    """Have it begin no more accepted work and take no calls from other nodes."""
    return ask(post(f"{_path(name)}/cordon", Node))


def uncordon_node(name: str) -> Flow[Node]:
    """Have it do everything again."""
    return ask(post(f"{_path(name)}/uncordon", Node))


def remove_node(name: str, *, force: bool | None = None) -> Flow[None]:
    """Remove it from the fleet for good. Its calls end with it: drain it first. `force`: although
    images go with it that no other node has.
    """
    return ask(delete(f"{_path(name)}{query(force=force)}"))


def _path(name: str) -> str:
    return f"/api/nodes/{segment(name)}"


class Nodes(Group[AnyClient]):
    """`client.nodes`."""

    list = Method(list_nodes)
    get = Method(get_node)
    drain = Method(drain_node)
    cordon = Method(cordon_node)
    uncordon = Method(uncordon_node)
    remove = Method(remove_node)
