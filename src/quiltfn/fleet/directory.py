"""The nodes that this one exchanges requests with, as last read from the store."""

from collections.abc import Mapping, Sequence

from quiltfn.model.member import Member, NodeState

REMOVED = "it was removed from the fleet"
UNKNOWN = "this node has not heard of it yet"
OWN_NAME = "it has this node's own name"


class MemberDirectory:
    """`PeerDirectory` of the node named `own`; empty before the first call of `learned`."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._members: Mapping[str, Member] = {}

    def learned(self, members: Sequence[Member]) -> None:
        """Apply the current state of all nodes, including stopped ones."""
        self._members = {one.name: one for one in members if one.is_member}

    def address(self, node: str) -> str | None:
        found = self._members.get(node)
        return found.address or None if found is not None else None

    def refusal(self, node: str) -> str | None:
        """A known node is refused only if an operator removed it: a stopped or lost one may already
        have returned. This node's own name and unknown names are refused, too.
        """
        if node == self._own:
            return OWN_NAME
        found = self._members.get(node)
        if found is None:
            return UNKNOWN
        return REMOVED if found.state is NodeState.REMOVED else None
