"""FleetImages: shares the images of this node with the other nodes.

A node that needs an image fetches it from a node that has it. An uploaded image is copied to a
second node before the upload is acknowledged. If a node was lost, drained or removed and an image
has too few copies, the nodes that have it copy it to another node.

    GET  /fleet/images/<digest>   the image as a tar archive
    POST /fleet/images/<digest>   fetch this image, and respond once it is on your disk
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence

import structlog

from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response, text_response
from quiltfn.base.others import Others
from quiltfn.fleet.image_copies import CopyTable, ImageNodes
from quiltfn.fleet.image_fetch import IMAGES, ImageFetcher, ImageParts, ImageUnavailable
from quiltfn.fleet.rendezvous import in_order
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.member import Member
from quiltfn.observe import metrics
from quiltfn.ports import Change
from quiltfn.ports.peers import Asker, PeerAnswerTooLong
from quiltfn.ports.placement import PeerUnavailable

TARGET = re.compile(IMAGES + "[0-9a-f]{64}")
# Seconds between searches for images that lack a copy, and until the same image is tried again.
LOOK_S, AGAIN_S = 1.0, 10.0
# Maximum seconds that an upload waits for a second node; clients wait twice as long.
KEEP_MAX_S = 300.0
# Maximum number of images sent to other nodes at a time; further requests wait for one to end.
SENDS_MAX = 4
REASON_MAX_BYTES = 4096
_log = structlog.get_logger("quiltfn.fleet")


class FleetImages:
    """Call `restore` first, `read` for every list of members, `run` it, and `aclose` it at the end.
    `own`: this node's name.
    """

    def __init__(
        self, own: str, parts: ImageParts, nodes: ImageNodes, others: Others | None = None
    ) -> None:
        self._own, self._nodes, self._table = own, nodes, CopyTable()
        self._images, self._bounds = parts.images, parts.bounds
        self._copies, self._peers, self._clock = parts.copies, parts.peers, parts.clock
        self._fetcher = ImageFetcher(parts, self._sources, self._state_if_possible)
        self._others = others or Others()
        self._stated: frozenset[str] | None = None
        self._stating = asyncio.Lock()
        self._sending = asyncio.Semaphore(SENDS_MAX)
        self._again_at: dict[str, float] = {}

    def read(self, members: Sequence[Member]) -> None:
        """Apply the present states of all nodes."""
        self._nodes.read(members, self._clock.now())

    async def restore(self) -> None:
        """At start: store which images are here, and load the locations of others. Raises
        `StoreUnavailable`.
        """
        await self._state()
        await self.follow_changes(None)

    async def follow_changes(self, changes: Sequence[Change] | None) -> None:
        """Apply these changes of images' locations; None: reload all locations."""
        digests = None if changes is None else {one.object_id for one in changes}
        self._table.put(await self._copies.load(digests), digests)

    # Fetching images ---------------------------------------------------------------------------

    def is_here(self, digest: str) -> bool:
        return digest in self._images.all()

    def nodes_of(self, digest: str) -> frozenset[str]:
        """The other nodes that have the image and are reachable."""
        return (self._table.nodes_of(digest) & self._nodes.there) - {self._own}

    def only_on(self, node: str, others: Collection[str]) -> frozenset[str]:
        return self._table.only_on(node, others) & self._bounds.counted().keys()

    async def obtain(self, digest: str) -> None:
        """Return once the image is here. Raises `ImageUnavailable`."""
        await self._fetcher.obtain(digest)

    async def _sources(self, digest: str) -> frozenset[str]:
        if not self.nodes_of(digest) or self._bounds.counted_bytes(digest) is None:
            try:
                await self._others.catch_up()
            except StoreUnavailable as error:
                why = f"the nodes with image {digest} are not known: {error}"
                raise ImageUnavailable(why) from None
        found = self.nodes_of(digest)
        away = self._table.nodes_of(digest) - self._nodes.there - {self._own}
        if away and not found:
            names = ", ".join(sorted(away))
            raise ImageUnavailable(f"image {digest} is only on unreachable nodes: {names}")
        return found

    # Sending images ----------------------------------------------------------------------------

    async def answer(self, request: Request, asker: Asker) -> Response:
        """Handle another node's request for an image."""
        if not TARGET.fullmatch(request.path):
            return _refused("there is no such image", 404)
        digest = request.path.removeprefix(IMAGES)
        if request.method == "POST":
            try:
                await self._fetcher.obtain(digest, hint=asker.node)
            except ImageUnavailable as error:
                return _refused(str(error), 503)
            return Response(status=204)
        # Waits before it sends the head: a node that then sends nothing more counts as dead.
        await self._sending.acquire()
        if request.method != "GET" or not self._images.hold(digest):
            self._sending.release()
            return _refused("this node does not have the image", 404)
        return Response(body=_Sent(self._images.archive(digest), self._sending.release))

    # Copies on other nodes ---------------------------------------------------------------------

    async def keep(self, digest: str) -> None:
        """Have an uploaded image copied: return once another node has it, or if no other node is
        reachable. Raises `StoreUnavailable` if all reachable nodes refuse it, or none has it in
        time.
        """
        await self._state()
        # Asked first, since these only need to confirm that they have it.
        having = self._table.nodes_of(digest)
        others = in_order(digest, self._nodes.able - {self._own})
        if not others:
            return
        try:
            async with asyncio.timeout(KEEP_MAX_S):
                is_given = await self._give(
                    digest, sorted(others, key=lambda node: node not in having)
                )
        except TimeoutError:
            raise _alone(f"none has done so within {KEEP_MAX_S:g} s") from None
        if not is_given:
            _log.warning("only this node has an image: no other node is reachable", image=digest)

    async def run(self) -> None:
        """Run until cancelled: store which images are here, and copy images that lack a copy."""
        while True:
            await self._state_if_possible()
            now = self._clock.now()
            wanted = self._bounds.counted().keys() & frozenset(self._images.all())
            lacking = self._table.lacking(wanted, self._nodes, now)
            metrics.show_images_lacking(len(lacking))
            self._again_at = {key: at for key, at in self._again_at.items() if key in lacking}
            for digest in lacking:
                if now >= self._again_at.get(digest, 0.0):
                    await self._repair(digest)
            await asyncio.sleep(LOOK_S)

    async def _repair(self, digest: str) -> None:
        others = self._nodes.able - self._table.nodes_of(digest) - {self._own}
        try:
            if await self._give(digest, in_order(digest, others)):
                _log.info("another node has taken an image that had too few copies", image=digest)
        except StoreUnavailable as error:
            _log.warning("an image has too few copies", image=digest, reason=str(error))
        self._again_at[digest] = self._clock.now() + AGAIN_S

    async def _give(self, digest: str, nodes: Iterable[str]) -> bool:
        """True once one of the nodes has the image; False: none of the nodes is reachable. Raises
        `StoreUnavailable` if all reachable nodes refuse.
        """
        reasons = []
        for node in nodes:
            try:
                async with asyncio.timeout(self._fetcher.time_for(digest)):
                    refusal = await self._ask_to_take(node, digest)
            except TimeoutError:
                refusal = "it is too slow"
            except PeerUnavailable as error:
                _log.info("a node cannot be given an image", image=digest, reason=str(error))
                continue
            if refusal is None:
                return True
            reasons.append(f"node {node}: {refusal}")
        if reasons:
            raise _alone("; ".join(reasons))
        return False

    async def _ask_to_take(self, node: str, digest: str) -> str | None:
        """Why the node does not have the image; None: it has it. Raises `PeerUnavailable`."""
        target = f"{IMAGES}{digest}".encode()
        async with self._peers.request(node, "POST", target, (), b"", None) as answer:
            if answer.status == 204:
                return None
            try:
                return (await answer.read(REASON_MAX_BYTES)).decode("utf-8", "replace")
            except PeerAnswerTooLong:
                return f"its reason has more than {REASON_MAX_BYTES} bytes"

    # Locations in the store --------------------------------------------------------------------

    async def _state(self) -> None:
        """Store which images are here. Raises `StoreUnavailable`."""
        async with self._stating:
            here = frozenset(self._images.all())
            if here != self._stated:
                await self._copies.state(self._own, here)
                self._stated = here

    async def _state_if_possible(self) -> None:
        """Store which images are here, and delete the locations on removed nodes. After a failure,
        the next round of `run` repeats both.
        """
        try:
            await self._state()
            for node in self._table.among(self._nodes.removed):
                await self._copies.state(node, ())
        except StoreUnavailable:
            pass  # health reports it

    async def aclose(self) -> None:
        """Stop fetching images."""
        await self._fetcher.aclose()


class _Sent:
    """An archive being sent. `over` is called at its end, even if it is never read."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], over: Callable[[], None]) -> None:
        self._pieces, self._over, self._is_over = pieces, over, False

    def __aiter__(self) -> "_Sent":
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._over()
        await self._pieces.aclose()


def _alone(why: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"only this node has the image, since no other node accepts it: {why}",
        hint="repeat the upload; it is kept here meanwhile",
        retry_after=10,
    )


def _refused(why: str, status: int) -> Response:
    response = text_response(why, "text/plain; charset=utf-8")
    response.status = status
    return response
