"""Nodes with images in one process: real peer ports, real files, and a store in memory."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from in_thread_jobs import InThreadJobs
from manual_clock import ManualClock
from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response
from quiltfn.fleet.image_copies import ImageNodes
from quiltfn.fleet.image_fetch import ImageParts
from quiltfn.fleet.images import FleetImages
from quiltfn.fleet.parts import SharedTenantImages
from quiltfn.fleet.peer_server import open_peer_server
from quiltfn.fleet.peers import HttpPeers
from quiltfn.functions.tenant_images import TenantImages
from quiltfn.images import ImageDirectory, ImageLimits
from quiltfn.model.image import Archive, Image, TenantImage
from quiltfn.model.member import Member, NodeState, Presence
from quiltfn.ports import Change, ChangeKind
from quiltfn.ports.fleet import ImageCopy
from quiltfn.ports.peers import Asker
from quiltfn.store.fleet.image_copies import SqlImageCopies
from quiltfn.store.functions.runtimes import SqlTenantImages
from service.peers.pair import Directory, a_fleet, a_node, listener
from unit.sample_archives import in_pieces

MIB = 1024 * 1024
T = "acme"
PATIENCE_S = 60.0
LIMITS = ImageLimits(unpacked_max_bytes=64 * MIB, files_max=1000)


class Store(SqlTenantImages):
    """The nodes' shared store. A write of one node reaches the other nodes at once."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.copies: set[ImageCopy] = set()
        self.rows: dict[tuple[str, str], TenantImage] = {}

    # the methods of `SqlImageCopies`

    async def load_copies(self, digests: Collection[str] | None) -> Sequence[ImageCopy]:
        return [one for one in self.copies if digests is None or one.digest in digests]

    async def state(self, node: str, digests: Collection[str]) -> None:
        before = {one.digest for one in self.copies if one.node == node}
        self.copies -= {ImageCopy(one, node) for one in before}
        self.copies |= {ImageCopy(one, node) for one in digests}
        await self._tell(ChangeKind.IMAGE_COPY, before ^ set(digests))

    # the methods of `SqlTenantImages`

    async def load(self, digests: Collection[str] | None = None) -> Sequence[TenantImage]:
        return [one for one in self.rows.values() if digests is None or one.digest in digests]

    async def add(self, image: TenantImage, _quota_bytes: int | None = None) -> bool:
        self.rows[image.tenant_id, image.digest] = image
        await self._tell(ChangeKind.IMAGE, {image.digest})
        return True

    async def remove(self, tenant_id: str, digest: str) -> bool:
        self.rows.pop((tenant_id, digest), None)
        return True

    async def _tell(self, kind: ChangeKind, digests: Collection[str]) -> None:
        changes = [
            Change(number=1, kind=kind, tenant_id=T, object_id=digest) for digest in sorted(digests)
        ]
        for node in self.nodes:
            if kind is ChangeKind.IMAGE_COPY:
                await node.fleet.follow_changes(changes)
            # if it is locked, this node wrote the row
            elif not node.tenant_images._changing.locked():
                await node.tenant_images.follow_changes(changes)


class Copies(SqlImageCopies):
    def __init__(self, store: Store) -> None:
        self._store = store

    async def state(self, node: str, digests: Collection[str]) -> None:
        await self._store.state(node, digests)

    async def load(self, digests: Collection[str] | None = None) -> Sequence[ImageCopy]:
        return await self._store.load_copies(digests)


@dataclass
class Node:
    """One node. `handler`: if set, it responds on the peer port instead of the images. `asked`: the
    requests that the peer port received.
    """

    name: str
    images: ImageDirectory
    tenant_images: TenantImages
    fleet: FleetImages
    path: Path
    directory: Directory
    member: Member
    asked: list[tuple[str, str]] = field(default_factory=list)
    handler: Callable[[Request, Asker], Awaitable[Response]] | None = None

    async def upload(self, data: bytes) -> Image:
        return await self.tenant_images.take(T, Archive.TAR, in_pieces(data))

    async def put(self, data: bytes) -> str:
        """Create an image that only this node has."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.tenant_images, "keep", lambda _: self.fleet.restore())
            return (await self.upload(data)).digest

    def has(self, digest: str) -> bool:
        return (self.path / digest).is_dir() and digest in self.images.all()

    @property
    def leftovers(self) -> list[str]:
        return [one.name for one in self.path.iterdir() if one.name.startswith(".")]

    async def handle(self, request: Request, asker: Asker) -> Response:
        self.asked.append((request.method, asker.node))
        if self.handler is not None:
            return await self.handler(request, asker)
        return await self.fleet.answer(request, asker)


@dataclass
class ImageFleet:
    """The nodes of one fleet, by name. All use `clock`."""

    store: Store
    clock: ManualClock
    nodes: dict[str, Node] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def having(self, digest: str) -> list[str]:
        return sorted(one.name for one in self.nodes.values() if one.has(digest))

    def change(self, name: str, state: str = "ready", presence: str = "present") -> None:
        """Put a node into this state, and inform the others."""
        node = self.nodes[name]
        node.member = replace(node.member, state=NodeState(state), presence=Presence(presence))
        self.tell()

    def tell(self) -> None:
        for node in self.nodes.values():
            node.fleet.read([one.member for one in self.nodes.values()])


@contextlib.asynccontextmanager
async def image_fleet(path: Path, *names: str, all_bytes: int = 0) -> AsyncIterator[ImageFleet]:
    """Runs nodes with these names until the end of the block."""
    now = time.time()
    keys, made = a_fleet(now), ImageFleet(Store(), ManualClock(1000.0))
    bound = {name: listener() for name in names}
    async with AsyncExitStack() as stack:
        for name in names:
            own, directory = a_node(keys, name, now), Directory()
            for other, socket in bound.items():
                directory.addresses[other] = f"127.0.0.1:{socket.getsockname()[1]}"
            images = ImageDirectory(path / name, made.clock, LIMITS, InThreadJobs())
            images.start()
            peers = HttpPeers(own, directory, keys=None)
            stack.push_async_callback(peers.aclose)

            def shared(
                bounds: TenantImages, name: str = name, peers: HttpPeers = peers
            ) -> FleetImages:
                parts = ImageParts(bounds.images, bounds, Copies(made.store), peers, made.clock)
                return FleetImages(name, parts, ImageNodes(PATIENCE_S))

            kept = made.store, images, made.clock, lambda _: 10**12, all_bytes
            tenant_images = SharedTenantImages(kept, shared)
            fleet = tenant_images.fleet
            stack.push_async_callback(fleet.aclose)
            member = Member(name=name, epoch=1, version="2.0")
            node = Node(name, images, tenant_images, fleet, path / name, directory, member)
            made.nodes[name] = node
            made.store.nodes.append(node)
            await stack.enter_async_context(
                open_peer_server(own, directory, node.handle, bound[name], keys=None)
            )
        made.tell()
        yield made
