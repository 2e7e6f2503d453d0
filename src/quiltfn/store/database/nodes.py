"""The servers that use the store, and the unfinished rows that a start of one of them may end.

Each start of a server has a number, its epoch. An unfinished row names its node and epoch. A start
ends the rows of its own node's earlier epochs; the work of other nodes' rows may still be running.
A standalone server also ends the rows of nodes with other names, since these are its own former
names.
"""

from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, func, insert, select, update

from quiltfn.model.member import Presence
from quiltfn.store.database import tables
from quiltfn.store.database.directory import StoreBroken

node = tables.node.c


class Boot(NamedTuple):
    """One start of a server. `is_alone`: no other server uses the store."""

    node_id: str
    epoch: int
    is_alone: bool


def of_server(boot: Boot | None) -> Boot:
    """Returns the boot. Raises `StoreBroken` for a tool beside a server, which has no boot."""
    if boot is None:
        raise StoreBroken(
            "Only a server may write records: the store was opened beside one, without a node."
        )
    return boot


def next_boot(connection: Connection, node_id: str, is_alone: bool) -> Boot:
    """A new boot. Its first transaction that changes something registers it."""
    newest = connection.execute(select(func.coalesce(func.max(node.epoch), 0))).scalar_one()
    return Boot(node_id, newest + 1, is_alone)


def register(connection: Connection, boot: Boot, version: str = "") -> None:
    """Stores the node's new epoch. Harmless when repeated. `version`: its release of quiltfn, for a
    node of a fleet.
    """
    this = update(tables.node).where(node.name == boot.node_id)
    mine = {"epoch": boot.epoch, "presence": Presence.PRESENT.value}
    mine |= {"version": version} if version else {}
    if not connection.execute(this.values(mine)).rowcount:
        connection.execute(insert(tables.node), {"name": boot.node_id, **mine})


def of_earlier_boots(
    boot: Boot, node_id: ColumnElement[str], epoch: ColumnElement[int]
) -> ColumnElement[bool]:
    """The condition that a row with `node_id` and `epoch` is from an earlier start of this
    server.
    """
    is_earlier = epoch < boot.epoch
    return is_earlier if boot.is_alone else and_(is_earlier, node_id == boot.node_id)
