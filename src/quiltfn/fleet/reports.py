"""Copies the other nodes' load reports from the store to the routing table."""

from collections.abc import Sequence

from quiltfn.fleet.routing import RoutingTable
from quiltfn.model.member import Member


class ReportReader:
    """Passes new reports of available nodes to `table`. `own`: this node's name."""

    def __init__(self, own: str, table: RoutingTable) -> None:
        self._own, self._table = own, table
        self._read: dict[str, tuple[int, int]] = {}  # the last read report of each node

    def read(self, members: Sequence[Member]) -> None:
        """Read the reports of all nodes from the store. Each report is passed on only once, since
        loads that a node has sent in responses meanwhile are newer.
        """
        able = [one for one in members if one.takes_more and one.name != self._own]
        for member in able:
            if self._read.get(member.name) != (member.epoch, member.beat):
                self._table.reported(member.name, member.report.pools)
        self._table.retain({one.name for one in able})
        self._read = {one.name: (one.epoch, one.beat) for one in able}
