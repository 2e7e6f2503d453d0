"""The images of a node of a fleet, which gets those that it lacks from others and gives them its
own. A server that is alone imports none of it.
"""

from functools import partial
from typing import Protocol

from quiltfn.fleet.calls import FleetCalls
from quiltfn.fleet.follower import Follower
from quiltfn.fleet.image_copies import ImageNodes
from quiltfn.fleet.image_fetch import IMAGES, ImageParts, ImageUnavailable
from quiltfn.fleet.images import FleetImages
from quiltfn.fleet.shared_instances import SharedInstances
from quiltfn.functions.catalog import Catalog
from quiltfn.functions.tenant_images import TenantImages
from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import ChangeKind, Clock
from quiltfn.ports.placement import ImagePlaces
from quiltfn.store import SqlStore
from quiltfn.store.fleet.image_copies import SqlImageCopies

AGAIN_S = 10


class Parts(Protocol):
    """What images take of a server's parts."""

    @property
    def store(self) -> SqlStore: ...
    @property
    def catalog(self) -> Catalog: ...
    @property
    def clock(self) -> Clock: ...


async def share_images(
    calls: FleetCalls,
    shared: SharedInstances,
    tenant_images: TenantImages,
    others: Follower,
    parts: Parts,
) -> FleetImages:
    """From now on what needs an image on this node waits until it has come from another one, an
    upload until another node has it, and calls go where the images are that they need. Raises
    `StoreUnavailable`.
    """
    membership, copies = shared.membership, SqlImageCopies(parts.store.database)
    kept_with = ImageParts(
        tenant_images.images, tenant_images, copies, calls.uncounted, parts.clock
    )
    # A node that is back before its instances would have ended has its disk with it.
    images = FleetImages(calls.name, kept_with, ImageNodes(membership.times.end_s))
    images.catch_up = others.refresh
    await images.restore()
    membership.on_read.append(images.read)
    membership.images_only_on = images.only_on
    # Images may be needed before the first beat.
    members = [one.member for one in await membership.all()]
    for told in membership.on_read:
        told(members)
    others.listeners[ChangeKind.IMAGE_COPY] = images.follow_changes
    calls.handlers[IMAGES] = images.answer
    calls.placement.image = partial(places_of, parts.catalog, images)
    shared.sandboxes.images = images

    async def fetch(digest: str) -> None:
        try:
            await images.obtain(digest)
        except ImageUnavailable as error:
            raise StoreUnavailable(str(error), retry_after=AGAIN_S) from None

    tenant_images.fetch, tenant_images.keep = fetch, images.keep
    return images


def places_of(catalog: Catalog, images: FleetImages, function_id: str) -> ImagePlaces | None:
    """Where the images of a function are; None where it has none."""
    entry = catalog.known(function_id)
    wanted = () if entry is None else entry.version.spec.runtime_snapshot.images
    if not wanted:
        return None
    nodes = frozenset.intersection(*(frozenset(images.nodes_of(one)) for one in wanted))
    return ImagePlaces(all(map(images.is_here, wanted)), nodes)
