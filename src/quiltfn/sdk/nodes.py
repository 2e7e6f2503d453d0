"""`client.nodes`: the nodes of a fleet, for operators."""

from quiltfn.sdk.methods import AnyClient, Group, Method
from quiltfn.sdk.request import Flow, ask, delete, get, post, query, segment
from quiltfn.wire import Node, NodeList


def list_nodes(*, view: str | None = None) -> Flow[list[Node]]:
    """All nodes, including stopped and removed ones; a standalone server is one node.
    `view="full"`: with the functions that have instances on each node.
    """
    found = yield from ask(get(f"/api/nodes{query(view=view)}", NodeList))
    return found.nodes


def get_node(name: str) -> Flow[Node]:
    """One node, with the functions that have instances or invocations there."""
    return ask(get(_path(name), Node))


def drain_node(name: str) -> Flow[Node]:
    """Drain a node: it accepts no new invocations and starts no queued ones."""
    return ask(post(f"{_path(name)}/drain", Node))


def cordon_node(name: str) -> Flow[Node]:
    """Cordon a node: it starts no queued invocations and accepts none from other nodes."""
    return ask(post(f"{_path(name)}/cordon", Node))


def uncordon_node(name: str) -> Flow[Node]:
    """Undo a drain or cordon."""
    return ask(post(f"{_path(name)}/uncordon", Node))


def remove_node(name: str, *, force: bool | None = None) -> Flow[None]:
    """Permanently remove a node from the fleet. Its invocations end: drain it first. `force`: also
    a node that has the only copy of some images.
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
