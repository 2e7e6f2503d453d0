"""Slots: how many instances of a function each node of a fleet may have.

A slot is the right to have one instance. All nodes together hold at most `max_instances` of them,
unless that was lowered: then no slots are granted, and each node releases those above its share.
"""

from collections.abc import Mapping

import msgspec


class FunctionSlots(msgspec.Struct, frozen=True):
    """The slots of one function. `held`: how many each node has, by its name. `wanted`: how many
    each node requested last, which may be more than it has.
    """

    function_id: str
    max_instances: int
    held: Mapping[str, int]
    wanted: Mapping[str, int]

    def held_by(self, node: str) -> int:
        return self.held.get(node, 0)

    def wanted_by_others(self, node: str) -> int:
        """How many slots other nodes have requested and do not have."""
        return sum(
            max(0, wanted - self.held_by(other))
            for other, wanted in self.wanted.items()
            if other != node
        )

    def share_of(self, node: str) -> int:
        """How many slots the node may keep. While all slots exceed the maximum, the node with the
        most slots (among equals, the last by name) releases one. So all nodes reach the same result
        without communication.
        """
        kept = dict(self.held)
        for _ in range(sum(kept.values()) - self.max_instances):
            most = max(kept, key=lambda node: (kept[node], node))
            kept[most] -= 1
        return kept.get(node, 0)
