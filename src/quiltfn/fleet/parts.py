"""FleetParts: the parts of a fleet's node that are created before its pools: sandboxes that start
only while the node has its lease, images from other nodes, and counts of tenants' invocations on
all nodes.
"""

from collections.abc import Callable
from typing import Protocol

from quiltfn.base.others import Others
from quiltfn.fleet.directory import MemberDirectory
from quiltfn.fleet.files import NodeFile
from quiltfn.fleet.image_copies import ImageNodes
from quiltfn.fleet.image_fetch import ImageParts, ImageUnavailable
from quiltfn.fleet.images import FleetImages
from quiltfn.fleet.keys import PingedRevisions
from quiltfn.fleet.lease import LeaseTimes, NodeLease
from quiltfn.fleet.membership import Membership
from quiltfn.fleet.peers import HttpPeers
from quiltfn.fleet.sandboxes import FetchingSandboxes, GatedSandboxes
from quiltfn.fleet.tenants import FleetTenants
from quiltfn.functions.tenant_images import ImagesKept, TenantImages
from quiltfn.host.health import Reasons
from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import Clock, StockedSandboxes
from quiltfn.store import SqlStore
from quiltfn.store.fleet.image_copies import SqlImageCopies
from quiltfn.tenants.access import Access
from quiltfn.tenants.disabled import DisabledTenants

AGAIN_S = 10


class Ground(Protocol):
    """The parts of the server that are already open."""

    @property
    def store(self) -> SqlStore: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def access(self) -> Access: ...
    @property
    def disabled(self) -> DisabledTenants: ...
    @property
    def stock(self) -> StockedSandboxes: ...
    @property
    def others(self) -> Others: ...


class SharedTenantImages(TenantImages):
    """Images whose files may be on other nodes. A user of an image waits until the files have been
    fetched, and an upload waits until another node has a copy.
    """

    def __init__(self, kept: ImagesKept, fleet: Callable[[TenantImages], FleetImages]) -> None:
        super().__init__(*kept)
        self.fleet = fleet(self)

    async def fetch(self, digest: str) -> None:
        try:
            await self.fleet.obtain(digest)
        except ImageUnavailable as error:
            raise StoreUnavailable(str(error), retry_after=AGAIN_S) from None

    async def keep(self, digest: str) -> None:
        await self.fleet.keep(digest)


class FleetParts:
    """`LoneParts` in `server/standalone_node.py` replaces this in standalone servers."""

    def __init__(
        self, own: NodeFile, membership: Membership, ground: Ground, kept: ImagesKept
    ) -> None:
        self.own, self.membership, self.ground = own, membership, ground
        self.clock, self.times = ground.clock, membership.times
        self.revisions = PingedRevisions(ground.access)
        self.directory = MemberDirectory(own.name)
        self.peers = HttpPeers(own, self.directory, self.revisions)
        self.tenants = FleetTenants(own.name, ground.clock)
        self.tenant_images = SharedTenantImages(kept, self._images)
        self.images = self.tenant_images.fleet
        times = LeaseTimes(start_s=self.times.fence_s, end_s=self.times.end_s)
        self.lease = NodeLease(membership.renewed_at, times)
        self.problem, self.may_begin = self.lease.problem, lambda: self.lease.is_held
        end_by = ground.stock.end_by
        end_by(self.lease.deadline)
        self.sandboxes = GatedSandboxes(
            FetchingSandboxes(ground.stock, self.images), self.lease, end_by
        )

    def _images(self, bounds: TenantImages) -> FleetImages:
        copies = SqlImageCopies(self.ground.store.database)
        parts = ImageParts(bounds.images, bounds, copies, self.peers, self.clock)
        # A lost node's images count while its instances may run: it may return.
        nodes = ImageNodes(self.times.end_s)
        return FleetImages(self.own.name, parts, nodes, self.ground.others)

    def reasons(self, refuses: Callable[[], str]) -> Reasons:
        """The checks that this node's health uses."""
        return Reasons(
            no_sandbox=self.ground.stock.why_not,
            refuses=refuses,
            not_seen=lambda: self.membership.problem,
        )
