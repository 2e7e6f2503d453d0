"""`quiltfn nodes …`: the nodes of a fleet, with an operator's key."""

from typing import Annotated

from quiltfn.cli import show, tables
from quiltfn.cli.parsing import Argument, Group, Option
from quiltfn.cli.session import Connection
from quiltfn.sdk import Node

app = Group(name="nodes", help="List the nodes of a fleet, drain them and remove them.")

Name = Annotated[str, Argument(help="The node's name.", completes="node")]
Force = Annotated[
    bool, Option(("--force",), help="Although images go with it that no other node has.")
]


@app.command("list")
def list_nodes(connection: Connection) -> None:
    """List the nodes, those included that have left or were removed."""
    with connection.session() as at:
        at.show(at.client.nodes.list(), tables.nodes)


@app.command("show")
def show_node(name: Name, connection: Connection) -> None:
    """Show one node."""
    with connection.session() as at:
        at.show(at.client.nodes.get(name), tables.node)


@app.command()
def drain(name: Name, connection: Connection) -> None:
    """Have a node take no more calls and begin no more accepted work. What runs there ends."""
    with connection.session() as at:
        found = at.client.nodes.drain(name)
        at.show(found, tables.node)
        _say_if_unheard(found)


@app.command()
def cordon(name: Name, connection: Connection) -> None:
    """Have a node begin no more accepted work and take no calls from other nodes."""
    with connection.session() as at:
        found = at.client.nodes.cordon(name)
        at.show(found, tables.node)
        _say_if_unheard(found)


@app.command()
def uncordon(name: Name, connection: Connection) -> None:
    """Have a node that was drained or cordoned do everything again."""
    with connection.session() as at:
        at.show(at.client.nodes.uncordon(name), tables.node)


def _say_if_unheard(node: Node) -> None:
    """A node that does not run has not done what it was told."""
    if node.is_silent:
        show.note(
            f"{node.name} is silent, its last beat {node.beat_age_seconds:.0f} s ago: "
            "it hears of this once it is back"
        )
    elif not tables.is_heard(node):
        show.note(f"{node.name} does not run ({node.presence}): it hears of this at its next start")


@app.command()
def remove(name: Name, connection: Connection, *, force: Force = False) -> None:
    """Remove a node from the fleet for good. Its calls end with it: drain it first, and wait until
    its SOLE images are 0.
    """
    with connection.session() as at:
        done = {"removed": True, "name": name}
        gone = at.client.nodes.remove(name, force=force or None)
        at.show(gone, lambda _: show.say(f"{name} is no node of the fleet any more"), done)
