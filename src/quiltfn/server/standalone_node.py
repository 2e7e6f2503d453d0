"""A server that is alone, as the list of nodes shows it."""

from collections.abc import Callable, Collection, Sequence

from quiltfn.model.errors import Conflict, NotFound
from quiltfn.model.member import KnownNode, Member, NodeState, Report

ALONE = "this server is no node of a fleet: stop it in order with SIGTERM"


class LoneNode:
    """`ports.fleet.Nodes` of one node, without a query."""

    def __init__(self, name: str, epoch: int, version: str, report: Callable[[], Report]) -> None:
        """`epoch`: the number of its start. `version`: its program's."""
        self._name, self._epoch, self._version, self._report = name, epoch, version, report

    def show(self) -> None:
        """As `Nodes` says: of a server that is alone there are no such metrics."""

    async def all(self) -> Sequence[KnownNode]:
        """As `Nodes` says."""
        own = Member(
            name=self._name, epoch=self._epoch, version=self._version, report=self._report()
        )
        return [KnownNode(member=own, unmoved_s=0.0, is_own=True)]

    def images_only_on(self, node: str, others: Collection[str]) -> frozenset[str]:
        """As `Nodes` says: nobody else needs a copy."""
        del node, others
        return frozenset()

    async def set_state(self, name: str, state: NodeState) -> KnownNode:
        """As `Nodes` says."""
        del state
        if name != self._name:
            raise NotFound("there is no node of this name")
        raise Conflict(ALONE)
