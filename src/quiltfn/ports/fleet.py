"""The interfaces between the nodes of a fleet, and what each side may rely on.

The store decides who is a member, and who takes over whom. No time stamp of one machine is compared
with another's: a node counts beats of the others by its own clock.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from quiltfn.model.invocation import ExitKind
from quiltfn.model.member import KnownNode, Member, NodeState, Report, TakenOver
from quiltfn.model.slots import FunctionSlots


class NodeRemoved(Exception):
    """An operator has removed this node from the fleet: a sentence for whoever starts it."""


class Members(Protocol):
    """The nodes of a fleet in the store. Every method raises `StoreUnavailable` where the store
    does not answer within some seconds. Beats never wait behind records that are being stored.
    """

    async def register(self, address: str, report: Report) -> Member:
        """Tells the others where this node is, whose start has stored its epoch and version. Raises
        `NodeRemoved`.
        """

    async def beat(self, report: Report) -> Member | None:
        """Says that this node is there, and how loaded it is; returns its row. None: another start
        of the node, or a take-over, has ended its epoch. It holds nothing in the store any more.
        """

    async def read(self) -> Sequence[Member]:
        """All nodes by name, those included that have left, and servers that were alone in the
        store before and were not taken over.
        """

    async def set_state(self, name: str, state: NodeState) -> Member | None:
        """What an operator wants of a node, which it hears with its next beat; returns its row.
        None: there is no such node. A removed one stays removed, and is returned as it is.
        """

    async def leave(self) -> None:
        """This node has ended what it had and beats no more. Harmless when repeated, and where it
        holds nothing any more.
        """

    async def take_over(self, seen: Member) -> TakenOver | None:
        """Ends what the node's epoch had, if the node is still as it was `seen`; None: it is not.

        In one transaction: it gets another epoch, its calls without an end are `interrupted`, work
        that it had claimed is tried again or given up as each function's policy says, deliveries,
        idempotency keys and slots are freed. From then on the store takes nothing of the old epoch.
        """


class Nodes(Protocol):
    """The nodes as whoever operates them sees them. Raises `StoreUnavailable`."""

    def show(self) -> None:
        """Puts them into the metrics, as they were when this node last looked."""

    async def all(self) -> Sequence[KnownNode]:
        """Every node by name, those that left or were removed included."""

    def images_only_on(self, node: str, others: Collection[str]) -> frozenset[str]:
        """The images of tenants, by their digests, that a node has and none of some others."""

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


class Slots(Protocol):
    """How many instances each node may have, decided by the store (`model/slots.py`).

    Every method raises `StoreUnavailable`. What `hold` asked for may then have been granted: the
    node asks again or reads, and until then goes by the lesser of what it may hold.
    """

    async def hold(
        self, node: NodeEpoch, wants: Mapping[str, int]
    ) -> Mapping[str, FunctionSlots | None]:
        """The node wants so many slots of each function, by its id, no matter how many it has. It
        is given as many as the others leave; it keeps what it has where those are more than the
        maximum, and always gives back what it has above its wish. Harmless when repeated, and
        without effect where the store hears of it only after a later wish of this node.

        Returns what there is then of each function, None where it was deleted. Those that could not
        be asked for, as somebody kept them locked, are left out; where that is all of them, it
        raises `StoreUnavailable`. Raises `NotAMember` if the epoch is not the node's, and then the
        node holds nothing.
        """

    async def held(self, node: str) -> Sequence[FunctionSlots]:
        """Every function of which the node holds a slot or wants one. Reads all functions."""

    async def of(self, function_ids: Collection[str]) -> Sequence[FunctionSlots]:
        """Those of some functions, as far as they are there."""


class ImageCopy(NamedTuple):
    """An image whose files a node has."""

    digest: str
    node: str


class ImageCopies(Protocol):
    """Which node has the files of which images, in the store. Raises `StoreUnavailable`."""

    async def load(self, digests: Collection[str] | None = None) -> Sequence[ImageCopy]:
        """All of them, or those of these images."""

    async def state(self, node: str, digests: Collection[str]) -> None:
        """The node has these images and no others. Harmless when repeated."""


class ImageBounds(Protocol):
    """What an image that comes from another node may take here (`tenant_images.py`)."""

    def counted(self) -> Mapping[str, int]:
        """What each image counts that a tenant has, by its digest."""

    def counted_bytes(self, digest: str) -> int | None:
        """What it counts, as `Image.counted_bytes`; None: nobody has said so yet."""

    def check_room(self, digest: str) -> None:
        """Raises `CapacityFull` where this node has no room for it."""


class BoundedPools(Protocol):
    """The pools of this node, each with as many instances as it is allowed (`pool/local.py`)."""

    on_change: list[Callable[[str, str], None]]

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

    async def end_all(self, kind: ExitKind, reason: str) -> None:
        """Ends every running call that way, and waits until every instance is gone."""
