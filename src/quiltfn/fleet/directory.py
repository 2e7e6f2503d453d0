"""Which nodes this one asks and answers, from what the store last said of them."""

from collections.abc import Mapping, Sequence

from quiltfn.model.member import Member, NodeState

REMOVED = "it was removed from the fleet"
UNKNOWN = "this node has not heard of it yet"
OWN_NAME = "it has this node's own name"


class MemberDirectory:
    """`PeerDirectory` of the node of that name. It knows nobody before `learned`."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._members: Mapping[str, Member] = {}

    def learned(self, members: Sequence[Member]) -> None:
        """What the store says now of all nodes, those included that have left."""
        self._members = {one.name: one for one in members if one.is_member}

    def address(self, node: str) -> str | None:
        """As `PeerDirectory` says."""
        found = self._members.get(node)
        return found.address or None if found is not None else None

    def refusal(self, node: str) -> str | None:
        """As `PeerDirectory` says. A node that has left or is gone may be back before this one
        hears of it, so only an operator's word counts.
        """
        if node == self._own:
            return OWN_NAME
        found = self._members.get(node)
        if found is None:
            return UNKNOWN
        return REMOVED if found.state is NodeState.REMOVED else None
