"""Relays each node's events to the other nodes.

While a client follows a tenant, its node requests the tenant's events from each other node, with
one request for all such tenants, whose response is a stream of lines. A node sends only its own
events, and only of the requested tenants; changes of functions are excluded, since each node gets
those from the store. Readers get these events as if they had happened at their own node
(`Events.heard`), with the same filters and limits.

The stream ends after some seconds and is requested again, from its last position: so a removed node
gets no more events, and a connection that was broken for less than a minute loses none, since
events are kept for that long. Lost events are reported as a gap. Nothing is queued: the sender has
a position in a ring, and the receiver asks for more once it has processed a batch.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
import structlog

from quiltfn.api.http.body import read_whole
from quiltfn.api.http.errors import error_response
from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response
from quiltfn.calls.events import Cursor, Events
from quiltfn.model.access import TENANT
from quiltfn.model.counts import PoolCounts
from quiltfn.model.errors import BadRequest, QuiltfnError
from quiltfn.model.event import EventType
from quiltfn.ports.peers import PIECE_BYTES, Asker
from quiltfn.ports.placement import Peers, PeerUnavailable

PATH = "/fleet/events"
# Maximum number of tenants whose events one node requests from another.
TENANTS_MAX = 1000
ASKED_MAX_BYTES = 256 * TENANTS_MAX
ASKED_WITHIN_S = 5.0
LINE_MAX_BYTES = 64 * 1024
STREAM_S = 10.0
# Maximum seconds that a reader waits until all nodes send its tenant's events.
JOIN_MAX_S = 1.0
AGAIN_S = 0.5
# Seconds during which newly followed tenants are collected into one request.
REST_S = 0.02
_log = structlog.get_logger("quiltfn.fleet")


class Subscription(msgspec.Struct, frozen=True):
    """One node's request for events of another: for each tenant, the id of the last event that it
    has, or None to start now.
    """

    tenants: Mapping[str, str | None]


class EventLine(msgspec.Struct, frozen=True, array_like=True):
    """An event or, without a type, only a position. `id`: where the next request continues."""

    tenant_id: str
    id: str
    type: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


class NotWatched(Exception):
    """A node sent an invalid response (a sentence)."""


_encode = msgspec.json.encode
_asked = msgspec.json.Decoder(Subscription).decode
_line = msgspec.json.Decoder(EventLine).decode
_counts = msgspec.json.Decoder(PoolCounts).decode


class OwnEvents:
    """Sends this node's events to other nodes. `events`: those of this node alone."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._is_ending = False

    async def answer(self, request: Request, _asker: Asker) -> Response:
        """The stream that a node requests."""
        try:
            asked = _asked(await read_whole(request, ASKED_MAX_BYTES, ASKED_WITHIN_S, _fits))
        except msgspec.DecodeError as error:
            return error_response(BadRequest(f"this is not a valid request of a node: {error}"), "")
        except QuiltfnError as error:
            return error_response(error, "")
        tenants = {one: last for one, last in asked.tenants.items() if TENANT.fullmatch(one)}
        if len(tenants) > TENANTS_MAX:
            return error_response(BadRequest(f"these are more than {TENANTS_MAX} tenants"), "")
        # Positions are taken before the head is sent: after the head, the receiver misses nothing.
        cursors = {one: self._events.cursor(one, last) for one, last in tenants.items()}
        return Response(
            headers=[("content-type", "application/x-ndjson")], body=self._lines(cursors)
        )

    def end(self) -> None:
        """End the streams, since this node is stopping."""
        self._is_ending = True
        self._events.changed.set()

    async def _lines(self, cursors: Mapping[str, Cursor]) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + STREAM_S
        with contextlib.ExitStack() as stack:
            for cursor in cursors.values():
                stack.enter_context(cursor)
            # If events were lost, a reset follows, with the position at which they continue.
            begun = [(key, one.id) for key, one in cursors.items() if not one.is_reset]
            if begun:
                yield b"".join(_written(tenant, position) for tenant, position in begun)
            while not self._is_ending and loop.time() < ends_at:
                changed = self._events.changed
                piece = b"".join(_next_lines(cursors))
                if piece:
                    yield piece
                else:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(ends_at - loop.time()):
                            await changed.wait()


def _fits(_size: int) -> None:
    """Accept any size: nodes send short requests, one after the other."""


def _next_lines(cursors: Mapping[str, Cursor]) -> list[bytes]:
    """A batch of events, with an equal share for each cursor."""
    found: list[bytes] = []
    share = max(1024, PIECE_BYTES // max(1, len(cursors)))
    for tenant, cursor in cursors.items():
        size = 0
        while size < share and (event := cursor.next()) is not None:
            found.append(_written(tenant, event.id, event.type, event.data))
            size += len(found[-1])
    return found


def _written(tenant_id: str, position: str, kind: str = "", data: bytes = b"{}") -> bytes:
    return _encode(EventLine(tenant_id, position, kind, msgspec.Raw(data))) + b"\n"


class _Heard:
    """The state of one other node. `asked`: the tenants of its stream; `positions`: the last
    received event of each tenant. `is_lost`: events were lost, and readers have been informed.
    """

    def __init__(self, *, is_lost: bool) -> None:
        self.asked: set[str] = set()
        self.positions: dict[str, str] = {}
        self.is_lost = is_lost
        self.has_failed = False  # since the last received line
        self.following: asyncio.Task[None] | None = None


class Watching:
    """Follows the other nodes for the followers on this one."""

    def __init__(
        self, events: Events, peers: Peers, counted: Callable[[str, str, PoolCounts], None]
    ) -> None:
        """`events`: for this node's readers. `counted`: called with a function's instance counts on
        a node.
        """
        self._events, self._peers, self._counted = events, peers, counted
        self._nodes: dict[str, _Heard] = {}
        self._changed = asyncio.Event()  # set, and replaced, at each change
        self._is_closed = False

    def read(self, nodes: Sequence[str]) -> None:
        """Follow the present nodes. A returning node is followed from its last position."""
        if self._is_closed:
            return
        there = {node for node, heard in self._nodes.items() if heard.following is not None}
        if there == set(nodes):  # usual after a heartbeat: wake no task
            return
        for node in nodes:
            # Readers here have missed the earlier events of a new node.
            heard = self._nodes.setdefault(node, _Heard(is_lost=bool(self._events.followed)))
            if heard.following is None:
                heard.following = asyncio.ensure_future(self._follow(node, heard))
        for node in self._nodes.keys() - set(nodes):
            heard = self._nodes[node]
            if heard.following is not None:
                heard.following.cancel()
                heard.following = None
                self._lose(node, heard)
        self._change()

    async def joined(self, tenant_id: str) -> None:
        """Return once every reachable node sends the tenant's events, or after a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(JOIN_MAX_S):
                while not all(
                    tenant_id in one.positions or one.is_lost for one in self._nodes.values()
                ):
                    await self._changed.wait()

    async def aclose(self) -> None:
        """Stop following."""
        self._is_closed = True
        running = [one.following for one in self._nodes.values() if one.following is not None]
        self._nodes.clear()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def followed_changed(self) -> None:
        """A tenant got its first follower, or lost its last: then forget its positions."""
        for heard in self._nodes.values():
            heard.asked &= self._events.followed
            heard.positions = {one: at for one, at in heard.positions.items() if one in heard.asked}
        self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _follow(self, node: str, heard: _Heard) -> None:
        """Run until cancelled. A broken stream is requested again at once, and then every half
        second.
        """
        loop = asyncio.get_running_loop()
        failed_at = float("-inf")
        while True:
            await self._until_followed()
            try:
                await self._turn(node, heard)
            except (PeerUnavailable, NotWatched, msgspec.MsgspecError) as error:
                if heard.has_failed and not heard.is_lost:
                    _log.info(f"events of a node are missing: {error}", node=node)
                    self._lose(node, heard)
            except Exception:  # A bug must not end the node's events.
                if not heard.is_lost:
                    _log.exception("a node is not followed; it is tried again", node=node)
                    self._lose(node, heard)
            else:
                continue
            heard.has_failed = True
            if loop.time() - failed_at < AGAIN_S:
                await asyncio.sleep(AGAIN_S)
            failed_at = loop.time()

    async def _until_followed(self) -> None:
        while not self._events.followed:
            await self._changed.wait()

    def _lose(self, node: str, heard: _Heard) -> None:
        if not heard.is_lost:
            heard.is_lost = True
            for tenant_id in self._events.followed:
                self._events.missed(tenant_id, node, None)
            self._change()

    async def _turn(self, node: str, heard: _Heard) -> None:
        """Read one stream, until it ends or a followed tenant is not in it. Raises
        `PeerUnavailable`, `NotWatched`, `msgspec.MsgspecError`.
        """
        await asyncio.sleep(REST_S)
        tenants = list(self._events.followed)
        for left_out in tenants[TENANTS_MAX:]:
            self._events.missed(left_out, node, None)
        heard.asked = set(tenants[:TENANTS_MAX])
        reading = asyncio.ensure_future(self._read(node, heard))
        try:
            while not reading.done():
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait({reading, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                followed = list(self._events.followed)[:TENANTS_MAX]
                if not followed or not heard.asked.issuperset(followed):
                    return
            reading.result()
        finally:
            reading.cancel()
            await asyncio.wait({reading})
            if not reading.cancelled():
                reading.exception()  # mark the exception as retrieved

    async def _read(self, node: str, heard: _Heard) -> None:
        headers = (("content-type", "application/json"),)
        body = _encode(Subscription({one: heard.positions.get(one) for one in heard.asked}))
        async with self._peers.request(node, "POST", PATH.encode(), headers, body, None) as answer:
            if answer.status != HTTPStatus.OK:
                raise NotWatched(f"it answers {answer.status}")
            async for line in _lines_of(answer.body):
                parsed = _line(line)
                try:
                    self._take(node, heard, parsed)
                except Exception:
                    self._lose(node, heard)  # the next request starts after the invalid event
                    _log.exception("a node sent an invalid event", node=node, type=parsed.type)
                    raise NotWatched("it sent an invalid event") from None

    def _take(self, node: str, heard: _Heard, line: EventLine) -> None:
        tenant_id, kind = line.tenant_id, line.type
        if tenant_id not in heard.asked:  # the tenant has no followers any more
            return
        is_first = tenant_id not in heard.positions
        heard.has_failed = False
        heard.positions[tenant_id] = line.id
        if kind == EventType.RESET or (kind == "" and is_first and heard.is_lost):
            self._events.missed(tenant_id, node, None)
        if kind in ("", EventType.RESET):
            if heard.is_lost and heard.positions.keys() >= heard.asked:
                heard.is_lost = False
            self._change()
        elif kind == EventType.GAP:
            fields: dict[str, Any] = msgspec.json.decode(line.data)
            self._events.missed(tenant_id, node, fields["events"])
        else:
            with contextlib.suppress(ValueError):  # from a later release
                self._tell(node, tenant_id, EventType(kind), bytes(line.data))

    def _tell(self, node: str, tenant_id: str, kind: EventType, data: bytes) -> None:
        if kind is EventType.POOL:
            function_id = str(msgspec.json.decode(data)["function_id"])
            self._counted(node, function_id, _counts(data))
        self._events.heard(tenant_id, kind, data)


async def _lines_of(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Split pieces into whole lines. Raises `NotWatched`."""
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > LINE_MAX_BYTES:
            raise NotWatched("it sent too long a line")
        for line in lines:
            yield line
