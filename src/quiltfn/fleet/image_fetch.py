"""ImageFetcher: fetches images from other nodes, by the digest of their content.

Rule 1: a fetched image passes the same checks as an upload, and is kept only if its content has the
requested digest.
Rule 2: one fetch at a time for each image, however many callers wait for it.
Rule 3: if a node or its data is faulty, the next node with the image is asked, from the start; a
failure of this node's own disk ends the fetch.
"""

import asyncio
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass

import structlog

from quiltfn.functions.tenant_images import TenantImages
from quiltfn.images.image_store import ImageDirectory
from quiltfn.model.errors import CapacityFull, StoreUnavailable, Unprocessable
from quiltfn.model.image import Archive, Contents, Image
from quiltfn.observe import metrics
from quiltfn.ports import Clock
from quiltfn.ports.peers import PeerGone
from quiltfn.ports.placement import PeerResponse, Peers, PeerUnavailable
from quiltfn.store.fleet.image_copies import SqlImageCopies

IMAGES = "/fleet/images/"
# Maximum number of fetches at a time: each takes space for an archive beside the image.
FETCHES_MAX = 2
# Seconds without data until the next node is asked. A fetch may take `LEAST_S`, and 1 s per MiB.
STALL_S, LEAST_S, BYTES_PER_S = 30.0, 60.0, 1024 * 1024
# How much longer an archive may be than its image's counted size, which includes a margin per file.
MARGIN_BYTES = 2 * 1024 * 1024
# Seconds until a failed fetch may be repeated, and for which a node that sent bad data is asked
# last.
AGAIN_S, DISTRUST_S = 2.0, 300.0
_log = structlog.get_logger("quiltfn.fleet")


class ImageUnavailable(Exception):
    """The image is not here, and no other node provides it (a sentence)."""


class _BadCopy(Exception):
    """A node sent data that is not the image."""


@dataclass(frozen=True, slots=True)
class ImageParts:
    """The image services of this node that a fetch needs. `bounds`: limits the space that an image
    from another node may take here.
    """

    images: ImageDirectory
    bounds: TenantImages
    copies: SqlImageCopies
    peers: Peers
    clock: Clock


class ImageFetcher:
    """`sources`: returns the other reachable nodes that have an image; may raise
    `ImageUnavailable`. `kept` is awaited once an image is here, and never raises.
    """

    def __init__(
        self,
        parts: ImageParts,
        sources: Callable[[str], Awaitable[Collection[str]]],
        kept: Callable[[], Awaitable[None]],
    ) -> None:
        self._images, self._bounds = parts.images, parts.bounds
        self._peers, self._clock = parts.peers, parts.clock
        self._sources, self._kept = sources, kept
        self._under_way: dict[str, asyncio.Task[None]] = {}
        self._free = asyncio.Semaphore(FETCHES_MAX)
        self._failed: dict[str, tuple[float, str]] = {}
        self._distrusted: dict[str, float] = {}

    async def obtain(self, digest: str, hint: str | None = None) -> None:
        """Return once the image is here. `hint`: a node that has it. Raises `ImageUnavailable`."""
        if self._images.hold(digest):
            return
        task = self._under_way.get(digest)
        if task is None:
            until, why = self._failed.get(digest, (0.0, ""))
            if hint is None and self._clock.now() < until:
                raise ImageUnavailable(why)
            task = self._under_way[digest] = asyncio.ensure_future(self._fetch(digest, hint))
            task.add_done_callback(lambda done: self._ended(digest, done))
        # A waiting caller may be cancelled: the fetch continues for the others.
        await asyncio.shield(task)

    async def aclose(self) -> None:
        """End the fetches in progress; their callers get an error."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, digest: str, task: "asyncio.Task[None]") -> None:
        del self._under_way[digest]
        now = self._clock.now()
        self._failed = {key: one for key, one in self._failed.items() if one[0] > now}
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed[digest] = (now + AGAIN_S, str(error))

    async def _fetch(self, digest: str, hint: str | None) -> None:
        try:
            async with self._free:
                await self._from_any(digest, hint)
            await self._kept()
        except asyncio.CancelledError:
            raise ImageUnavailable("this node is ending") from None
        except ImageUnavailable as error:
            metrics.count_image_fetch("failed")
            _log.warning("an image could not be fetched", image=digest, reason=str(error))
            raise
        metrics.count_image_fetch("fetched")

    async def _from_any(self, digest: str, hint: str | None) -> None:
        reasons = []
        nodes = await self._sources(digest)
        for node in self._sorted({*nodes, hint} if hint else set(nodes)):
            if self._images.hold(digest):  # the image was uploaded here meanwhile
                return
            try:
                self._bounds.check_room(digest)
                async with asyncio.timeout(self.time_for(digest)):
                    return await self._from_node(node, digest)
            except (StoreUnavailable, CapacityFull) as error:
                raise ImageUnavailable(f"this node cannot take image {digest}: {error}") from None
            except (PeerUnavailable, TimeoutError) as error:
                reasons.append(str(error) or f"node {node} is too slow")
            except (_BadCopy, Unprocessable) as error:
                self._distrusted[node] = self._clock.now()
                reasons.append(f"node {node} sends a different image: {error}")
            _log.warning("a node did not provide an image", image=digest, reason=reasons[-1])
        why = "; ".join(reasons) or "no reachable node has it"
        raise ImageUnavailable(f"image {digest} is not on this node and cannot be fetched: {why}")

    def _sorted(self, nodes: set[str]) -> list[str]:
        """In random order, to spread the load; nodes that recently sent bad data come last."""
        now = self._clock.now()
        bad = {one for one, at in self._distrusted.items() if now - at < DISTRUST_S}
        return sorted(nodes, key=lambda node: (node in bad, random.random()))

    async def _from_node(self, node: str, digest: str) -> None:
        def check(image: Image) -> None:
            if image.digest != digest:
                raise _BadCopy(f"its content has the digest {image.digest}")

        target = f"{IMAGES}{digest}".encode()
        async with self._peers.request(node, "GET", target, (), b"", None) as answer:
            if answer.status != 200:
                raise PeerUnavailable(f"node {node} does not have it any more", may_have_run=False)
            counted = self._bounds.counted_bytes(digest)
            # If its size is unknown, the limit for any image applies.
            most = math.inf if counted is None else counted + MARGIN_BYTES
            pieces = _pieces(node, answer, most)
            await self._images.take(Archive.TAR, pieces, check, Contents.COPY)

    def time_for(self, digest: str) -> float:
        """The maximum seconds for a fetch of the image."""
        counted = self._bounds.counted_bytes(digest)
        return LEAST_S if counted is None else LEAST_S + counted / BYTES_PER_S


async def _pieces(node: str, answer: PeerResponse, most: float) -> AsyncIterator[bytes]:
    taken, pieces = 0, aiter(answer.body)
    while True:
        try:
            async with asyncio.timeout(STALL_S):
                piece = await anext(pieces, None)
        except TimeoutError:
            raise PeerGone(f"node {node} has sent nothing for {STALL_S:g} s") from None
        if piece is None:
            return
        taken += len(piece)
        if taken > most:
            raise _BadCopy(f"it has more than {most} bytes")
        yield piece
