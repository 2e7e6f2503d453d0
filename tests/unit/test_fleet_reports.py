"""The load of the other nodes, as it was last read."""

from random import Random

from promises import promise
from quiltfn.fleet.reports import ReportReader
from quiltfn.fleet.routing import RoutingTable
from quiltfn.model.member import Member, NodeState, Presence, Report
from quiltfn.model.pool_load import PoolLoad

F, V = "f", 1


def member(
    name: str, *, beat: int = 1, idle: int = 1, is_leaving: bool = False, **more: object
) -> Member:
    own = {"epoch": 1, "address": f"{name}:8443", "version": "1", **more}
    report = Report(pools=[PoolLoad(F, V, idle=idle, slots=2)], is_leaving=is_leaving)
    return Member(name=name, beat=beat, report=report, **own)  # type: ignore[arg-type]


class Known:
    """The reports of other nodes that node `a` knows."""

    def __init__(self, *members: Member) -> None:
        self.table = RoutingTable(Random(1))
        self.reader = ReportReader("a", self.table)
        self.read(*members)

    def read(self, *members: Member) -> None:
        self.reader.read(members)

    def idle(self) -> str | None:
        return self.table.idle_node(F, V)


@promise("N76")
def test_others_that_take_calls_are_sent_them_and_no_node_that_takes_none() -> None:
    assert Known(member("a")).idle() is None
    known = Known(member("a"), member("b"))
    assert known.idle() == "b"
    for state in (NodeState.CORDONED, NodeState.DRAINING, NodeState.REMOVED):
        assert Known(member("b", state=state)).idle() is None
    for presence in (Presence.LEFT, Presence.GONE):
        assert Known(member("b", presence=presence)).idle() is None
    known.read(member("b", beat=2, is_leaving=True))
    assert (known.idle(), known.table.any_node()) == (None, None)
    known.read(member("b", beat=3))
    for members in ([member("b", beat=3, presence=Presence.GONE)], []):
        known.read(*members)
        assert known.idle() is None


def test_an_old_report_does_not_hide_what_a_node_said_since() -> None:
    known = Known(member("b"))
    known.table.update("b", PoolLoad(F, V, idle=0, busy=2, slots=2))
    known.read(member("b"))
    assert known.idle() is None
    known.read(member("b", beat=2))
    assert known.idle() == "b"
    known.table.refused("b", F)
    known.read(member("b", beat=2, epoch=2))  # the node has restarted
    assert known.idle() == "b"
