"""Events of all nodes at each of them.

Where somebody follows a tenant, his node asks each other node for what happens in it there, by one
request for all such tenants, whose answer is a stream of lines. A node tells its own events and
nobody else's, of the tenants that it is asked for and no other; changes of functions are not among
them, since each node hears of those from the store. Readers then read what came as if it had
happened at their own node (`Events.heard`), with the same filters and bounds.

The stream ends after some seconds and is asked for again, from where it was: so a node that was
removed hears no more, and a connection that broke costs nothing within the minute for which events
are kept. What is lost is told as a gap. Nothing is queued: the side that tells has a place in a
ring, and the other side asks for more once it has taken what came.
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
# Of so many tenants one node hears at another one, at most.
TENANTS_MAX = 1000
ASKED_MAX_BYTES = 256 * TENANTS_MAX
ASKED_WITHIN_S = 5.0
LINE_MAX_BYTES = 64 * 1024
STREAM_S = 10.0
# How long a reader waits until its tenant is followed everywhere.
JOIN_MAX_S = 1.0
AGAIN_S = 0.5
# Tenants that are followed from now on are asked for together.
REST_S = 0.02
_log = structlog.get_logger("quiltfn.fleet")


class Subscription(msgspec.Struct, frozen=True):
    """What one node wants to hear from another: of each tenant the id of the last event that it
    has, or None for those from now on.
    """

    tenants: Mapping[str, str | None]


class EventLine(msgspec.Struct, frozen=True, array_like=True):
    """An event, or, without a type, from where on events follow. `id`: where the next request
    begins.
    """

    tenant_id: str
    id: str
    type: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


class NotWatched(Exception):
    """A node did not answer as it should (a sentence)."""


_encode = msgspec.json.encode
_asked = msgspec.json.Decoder(Subscription).decode
_line = msgspec.json.Decoder(EventLine).decode
_counts = msgspec.json.Decoder(PoolCounts).decode


class OwnEvents:
    """Tells other nodes what happens here. `events`: those of this node alone."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._is_ending = False

    async def answer(self, request: Request, _asker: Asker) -> Response:
        """The stream that a node asks for."""
        try:
            asked = _asked(await read_whole(request, ASKED_MAX_BYTES, ASKED_WITHIN_S, _fits))
        except msgspec.DecodeError as error:
            return error_response(BadRequest(f"this is not what nodes ask for: {error}"), "")
        except QuiltfnError as error:
            return error_response(error, "")
        tenants = {one: last for one, last in asked.tenants.items() if TENANT.fullmatch(one)}
        if len(tenants) > TENANTS_MAX:
            return error_response(BadRequest(f"these are more than {TENANTS_MAX} tenants"), "")
        # They are at their places before the head is sent: whoever has that misses nothing more.
        cursors = {one: self._events.cursor(one, last) for one, last in tenants.items()}
        return Response(
            headers=[("content-type", "application/x-ndjson")], body=self._lines(cursors)
        )

    def end(self) -> None:
        """This node is ending, and so are the streams."""
        self._is_ending = True
        self._events.changed.set()

    async def _lines(self, cursors: Mapping[str, Cursor]) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + STREAM_S
        with contextlib.ExitStack() as stack:
            for cursor in cursors.values():
                stack.enter_context(cursor)
            # Where events are missing, a reset comes next, and says from where on they follow.
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
    """Nodes ask one after the other, and shortly."""


def _next_lines(cursors: Mapping[str, Cursor]) -> list[bytes]:
    """Some of what the cursors have, each of them its share."""
    found: list[bytes] = []
    share = max(1024, PIECE_BYTES // max(1, len(cursors)))
    for tenant, cursor in cursors.items():
        size = 0
        while size < share and (one := cursor.next()) is not None:
            found.append(_written(tenant, one.id, one.type, one.data))
            size += len(found[-1])
    return found


def _written(tenant_id: str, position: str, kind: str = "", data: bytes = b"{}") -> bytes:
    return _encode(EventLine(tenant_id, position, kind, msgspec.Raw(data))) + b"\n"


class _Heard:
    """What is known of one other node. `asked`: the tenants of its stream; `positions`: of each the
    last event that has come. `is_lost`: events of it are missing, as readers are told.
    """

    def __init__(self, *, is_lost: bool) -> None:
        self.asked: set[str] = set()
        self.positions: dict[str, str] = {}
        self.is_lost = is_lost
        self.has_failed = False  # since a line has come
        self.following: asyncio.Task[None] | None = None


class Watching:
    """Follows the other nodes for those who follow tenants here."""

    def __init__(
        self, events: Events, peers: Peers, counted: Callable[[str, str, PoolCounts], None]
    ) -> None:
        """`events`: what readers here read. `counted`: is told of a function's instances on a
        node.
        """
        self._events, self._peers, self._counted = events, peers, counted
        self._nodes: dict[str, _Heard] = {}
        self._changed = asyncio.Event()  # set, and another one in its place
        self._is_closed = False

    def read(self, nodes: Sequence[str]) -> None:
        """The other nodes that are there. One that comes back is followed from where it was."""
        if self._is_closed:
            return
        there = {node for node, heard in self._nodes.items() if heard.following is not None}
        if there == set(nodes):  # as after most beats: nobody is woken
            return
        for node in nodes:
            # What a new one has told already has reached nobody here.
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
        """Returns once every node that can be reached tells of the tenant, or after a second."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(JOIN_MAX_S):
                while not all(
                    tenant_id in one.positions or one.is_lost for one in self._nodes.values()
                ):
                    await self._changed.wait()

    async def aclose(self) -> None:
        """Follows nobody any more."""
        self._is_closed = True
        running = [one.following for one in self._nodes.values() if one.following is not None]
        self._nodes.clear()
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)

    def followed_changed(self) -> None:
        """A tenant is followed from now on, or no more: then it begins anew the next time."""
        for heard in self._nodes.values():
            heard.asked &= self._events.followed
            heard.positions = {one: at for one, at in heard.positions.items() if one in heard.asked}
        self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _follow(self, node: str, heard: _Heard) -> None:
        """Until it is cancelled. A stream that broke is asked for again at once, and then every
        half a second.
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
            except Exception:  # A mistake of ours must not end what is heard of the node.
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
        """One stream, until it ends or a tenant is followed that is not in it. Raises
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
                reading.exception()  # seen

    async def _read(self, node: str, heard: _Heard) -> None:
        headers = (("content-type", "application/json"),)
        body = _encode(Subscription({one: heard.positions.get(one) for one in heard.asked}))
        async with self._peers.request(node, "POST", PATH.encode(), headers, body, None) as answer:
            if answer.status != HTTPStatus.OK:
                raise NotWatched(f"it answers {answer.status}")
            async for line in _lines_of(answer.body):
                told = _line(line)
                try:
                    self._take(node, heard, told)
                except Exception:
                    self._lose(node, heard)  # the next request begins behind it
                    _log.exception("what a node told is no event", node=node, type=told.type)
                    raise NotWatched("it told what is no event") from None

    def _take(self, node: str, heard: _Heard, line: EventLine) -> None:
        tenant_id, kind = line.tenant_id, line.type
        if tenant_id not in heard.asked:  # nobody follows it any more
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
            told: dict[str, Any] = msgspec.json.decode(line.data)
            self._events.missed(tenant_id, node, told["events"])
        else:
            with contextlib.suppress(ValueError):  # of a later release
                self._tell(node, tenant_id, EventType(kind), bytes(line.data))

    def _tell(self, node: str, tenant_id: str, kind: EventType, data: bytes) -> None:
        if kind is EventType.POOL:
            function_id = str(msgspec.json.decode(data)["function_id"])
            self._counted(node, function_id, _counts(data))
        self._events.heard(tenant_id, kind, data)


async def _lines_of(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole lines out of pieces. Raises `NotWatched`."""
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > LINE_MAX_BYTES:
            raise NotWatched("it sent too long a line")
        for line in lines:
            yield line
