"""The interfaces between the nodes of a fleet, and what each side may rely on.

The store decides which nodes are members, and which node takes over another. Time stamps of
different machines are never compared: a node counts the others' heartbeats by its own clock.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from quiltfn.model.invocation import ExitKind
from quiltfn.model.member import KnownNode, NodeState


class NodeRemoved(Exception):
    """An operator has removed this node from the fleet: a sentence for the user who starts it."""


class Nodes(Protocol):
    """The nodes, as operators see them. Raises `StoreUnavailable`."""

    def show(self) -> None:
        """Update the metrics with their states at this node's last look."""

    async def all(self) -> Sequence[KnownNode]:
        """Every node by name, including stopped and removed ones."""

    async def set_state(self, name: str, state: NodeState) -> KnownNode:
        """Set a node's desired state; the node learns of it within seconds. Raises `NotFound`, and
        `Conflict` for a removed node, or if this server is not a node of a fleet.
        """


class History(NamedTuple):
    """`cluster`: PostgreSQL's system identifier, which a standby shares with its primary;
    `timeline`: its number, which a failover raises; 0: unknown.
    """

    cluster: int
    timeline: int

    def is_before(self, other: "History") -> bool:
        """Whether a failover happened between them."""
        return self.cluster == other.cluster and 0 < self.timeline < other.timeline


class Timeline(Protocol):
    """The history of the database that this server uses. `newest`: the newest one known."""

    newest: History

    def learn(self, found: History) -> bool:
        """Add a history that is used somewhere; return whether it is newer than all before:
        connections to an older one are then no longer used.
        """


class NodeEpoch(NamedTuple):
    """A node in one of its epochs. A take-over raises its epoch."""

    name: str
    epoch: int


class NotAMember(Exception):
    """The node has been taken over, and its epoch has changed (a sentence)."""


class ImageCopy(NamedTuple):
    """An image whose files a node has."""

    digest: str
    node: str


class ImageBounds(Protocol):
    """The space that an image from another node may take here (`functions/tenant_images.py`)."""

    def counted(self) -> Mapping[str, int]:
        """The counted bytes of each image that a tenant has, by its digest."""

    def counted_bytes(self, digest: str) -> int | None:
        """Its bytes, as `Image.counted_bytes`; None: not yet known."""

    def check_room(self, digest: str) -> None:
        """Raises `CapacityFull` if this node has no room for it."""


class BoundedPools(Protocol):
    """The pools of this node, each with as many instances as it is allowed (`pool/local.py`)."""

    def allow(self, function_id: str, count: int, reachable: int) -> None:
        """Allow the function that many instances here from now on; idle ones above that end, busy
        ones after their call. `reachable`: the number that could be allowed if more were requested.
        """

    def wanted(self, function_id: str) -> int:
        """The number of instances that its pool has, and needs for waiting calls, if allowed."""

    def there(self, function_id: str) -> int:
        """The number of instances in its pool, in any state, until they are completely gone."""

    def evict_idle(self, function_id: str, most: int) -> None:
        """End that many idle instances that this node does not need."""

    async def end_all(self, kind: ExitKind, by: str) -> None:
        """End every running call that way, and wait until every instance is gone."""
