"""The interfaces between the nodes of a fleet, and what each side may rely on.

The store decides who is a member, and who takes over whom. No time stamp of one machine is compared
with another's: a node counts beats of the others by its own clock.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from quiltfn.model.invocation import ExitKind
from quiltfn.model.member import KnownNode, NodeState


class NodeRemoved(Exception):
    """An operator has removed this node from the fleet: a sentence for whoever starts it."""


class Nodes(Protocol):
    """The nodes as whoever operates them sees them. Raises `StoreUnavailable`."""

    def show(self) -> None:
        """Puts them into the metrics, as they were when this node last looked."""

    async def all(self) -> Sequence[KnownNode]:
        """Every node by name, those that left or were removed included."""

    async def set_state(self, name: str, state: NodeState) -> KnownNode:
        """What a node is to do from now on; it hears of it within seconds. Raises `NotFound`, and
        `Conflict` for a node that was removed, or where this server is no node of a fleet.
        """


class History(NamedTuple):
    """`cluster`: PostgreSQL's system identifier, which a standby shares with its primary;
    `timeline`: its number, which a failover raises; 0: nothing is known.
    """

    cluster: int
    timeline: int

    def is_before(self, other: "History") -> bool:
        """Whether a failover lies between them."""
        return self.cluster == other.cluster and 0 < self.timeline < other.timeline


class Timeline(Protocol):
    """Which history of its database this server goes by. `newest`: the newest that is known."""

    newest: History

    def learn(self, found: History) -> bool:
        """Takes in one that is in use somewhere; returns whether it is newer than all before: then
        no connection to an older one is used any more.
        """


class NodeEpoch(NamedTuple):
    """A node in one of its lives. Whoever takes a node over raises its epoch."""

    name: str
    epoch: int


class NotAMember(Exception):
    """The node has been taken over: it is in another epoch by now (a sentence)."""


class ImageCopy(NamedTuple):
    """An image whose files a node has."""

    digest: str
    node: str


class ImageBounds(Protocol):
    """What an image that comes from another node may take here (`functions/tenant_images.py`)."""

    def counted(self) -> Mapping[str, int]:
        """What each image counts that a tenant has, by its digest."""

    def counted_bytes(self, digest: str) -> int | None:
        """What it counts, as `Image.counted_bytes`; None: nobody has said so yet."""

    def check_room(self, digest: str) -> None:
        """Raises `CapacityFull` where this node has no room for it."""


class BoundedPools(Protocol):
    """The pools of this node, each with as many instances as it is allowed (`pool/local.py`)."""

    def allow(self, function_id: str, count: int, reachable: int) -> None:
        """The function may have so many instances here from now on; idle ones above that end, busy
        ones after their call. `reachable`: how many there could be if more were asked for.
        """

    def wanted(self, function_id: str) -> int:
        """How many instances its pool has, and needs for what waits, if it is allowed them."""

    def there(self, function_id: str) -> int:
        """How many instances its pool has, in any state, until nothing is left of them."""

    def evict_idle(self, function_id: str, most: int) -> None:
        """Ends so many idle instances that nobody here needs."""

    async def end_all(self, kind: ExitKind, by: str) -> None:
        """Ends every running call that way, and waits until every instance is gone."""
