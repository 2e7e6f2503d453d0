"""The interface to the nodes of a fleet, and types for code that works with several nodes.

The store decides which nodes are members, and which node takes over another. Time stamps of
different machines are never compared: a node counts the others' heartbeats by its own clock.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from quiltfn.model.member import KnownNode, NodeState


class NodeRemoved(Exception):
    """An operator has removed this node from the fleet: a sentence for the user who starts it."""


class Nodes(Protocol):
    """The nodes, as operators see them. Raises `StoreUnavailable`."""

    def show(self) -> None:
        """Update the metrics with the nodes' states, as last read by this node."""

    async def all(self) -> Sequence[KnownNode]:
        """Every node by name, including stopped and removed ones."""

    async def set_state(self, name: str, state: NodeState) -> KnownNode:
        """Set a node's desired state; the node learns of it within seconds. Raises `NotFound`, and
        `Conflict` for a removed node, or if this server is not a node of a fleet.
        """


class History(NamedTuple):
    """A timeline of PostgreSQL. `cluster`: the system identifier, which a standby shares with its
    primary; `timeline`: a number that a failover raises; 0: unknown.
    """

    cluster: int
    timeline: int

    def is_before(self, other: "History") -> bool:
        """Whether `other` is the same database after a failover."""
        return self.cluster == other.cluster and 0 < self.timeline < other.timeline


class NodeEpoch(NamedTuple):
    """A node in one of its epochs. A take-over raises the node's epoch."""

    name: str
    epoch: int


class NotAMember(Exception):
    """The node has been taken over, and its epoch has changed (a sentence)."""


class ImageCopy(NamedTuple):
    """An image whose files a node has."""

    digest: str
    node: str
