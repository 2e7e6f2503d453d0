"""What the other nodes say of their load, from the store to the routing table."""

from collections.abc import Sequence

from quiltfn.fleet.routing import RoutingTable
from quiltfn.model.member import Member


class ReportReader:
    """Tells `table` what is new in the reports of the nodes that take calls. `own`: this node."""

    def __init__(self, own: str, table: RoutingTable) -> None:
        self._own, self._table = own, table
        self._read: dict[str, tuple[int, int]] = {}  # of each node: the report that was read last

    def read(self, members: Sequence[Member]) -> None:
        """Takes in all nodes as they are in the store. A report is told once: what a node has said
        since then with an answer is newer.
        """
        able = [one for one in members if one.takes_more and one.name != self._own]
        for member in able:
            if self._read.get(member.name) != (member.epoch, member.beat):
                self._table.reported(member.name, member.report.pools)
        self._table.retain({one.name for one in able})
        self._read = {one.name: (one.epoch, one.beat) for one in able}
