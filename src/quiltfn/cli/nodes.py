"""`quiltfn nodes …`: the nodes of a fleet, with an operator's key."""

from typing import Annotated

from quiltfn.cli import show, tables
from quiltfn.cli.parsing import Argument, Group, Option
from quiltfn.cli.session import Connection
from quiltfn.sdk import Node

app = Group(name="nodes", help="List the nodes of a fleet, drain them and remove them.")

Name = Annotated[str, Argument(help="Node name.", completes="node")]
Force = Annotated[
    bool, Option(("--force",), help="Remove the node although it has the only copy of some images.")
]


@app.command("list")
def list_nodes(connection: Connection) -> None:
    """List the nodes, including stopped and removed ones."""
    with connection.session() as at:
        at.show(at.client.nodes.list(), tables.nodes)


@app.command("show")
def show_node(name: Name, connection: Connection) -> None:
    """Show one node."""
    with connection.session() as at:
        at.show(at.client.nodes.get(name), tables.node)


@app.command()
def drain(name: Name, connection: Connection) -> None:
    """Drain a node: it accepts no new invocations and starts no queued ones; others finish."""
    with connection.session() as at:
        _say_if_unheard(at.show(at.client.nodes.drain(name), tables.node))


@app.command()
def cordon(name: Name, connection: Connection) -> None:
    """Cordon a node: it starts no queued invocations and takes none from other nodes."""
    with connection.session() as at:
        _say_if_unheard(at.show(at.client.nodes.cordon(name), tables.node))


@app.command()
def uncordon(name: Name, connection: Connection) -> None:
    """Undo a drain or cordon."""
    with connection.session() as at:
        at.show(at.client.nodes.uncordon(name), tables.node)


def _say_if_unheard(node: Node) -> None:
    """Print a note if the node is not running: it has not applied the new state."""
    if node.is_silent:
        show.note(
            f"{node.name} is silent (last heartbeat {node.beat_age_seconds:.0f} s ago): this "
            "takes effect once it is back"
        )
    elif not tables.is_heard(node):
        show.note(
            f"{node.name} does not run ({node.presence}): this takes effect at its next start"
        )


@app.command()
def remove(name: Name, connection: Connection, *, force: Force = False) -> None:
    """Permanently remove a node from the fleet. Its running invocations end: drain it first, and
    wait until its SOLE images are 0.
    """
    with connection.session() as at:
        at.client.nodes.remove(name, force=force or None)
        at.say(f"{name} was removed from the fleet", removed=True, name=name)
