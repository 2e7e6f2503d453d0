"""Event streams with parts from all nodes of a fleet, such as the logs of a function: each node is
asked for its own events, and the reader's node merges them.

An event is never sent inside another one. A node sends no faster than the reader reads; lost events
are reported as on a single node. A lost node is reported as a gap, and is asked again until it
responds; a new node is asked once it joins.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus

import structlog

from quiltfn.api.http.event_stream import Events
from quiltfn.api.http.response import CutShort
from quiltfn.api.http.stream_slots import StreamSlots
from quiltfn.ports.placement import PeerResponse, PeerUnavailable

LOOK_EVERY_S = 1.0
# Maximum seconds that a reader waits for the other nodes' streams to start.
BEGINS_WITHIN_S = 1.0
# Maximum seconds to wait for the rest of an event.
EVENT_MAX_S = 10.0
END_OF_EVENT = b"\n\n"

_log = structlog.get_logger("quiltfn.fleet")

Ask = Callable[[str], AbstractAsyncContextManager[PeerResponse]]


class _Source:
    """The stream of this node, or of another one. A piece is taken before the next is read."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)
        self.reading: asyncio.Task[None] | None = None
        self.answered = asyncio.Event()  # its stream has started, or failed and is retried
        self._tail = b""

    @property
    def is_within(self) -> bool:
        """Whether the last piece taken ends inside an event."""
        return self._tail not in (b"", END_OF_EVENT)

    @property
    def is_over(self) -> bool:
        return self.pieces.empty() and (self.reading is None or self.reading.done())

    def take(self) -> bytes:
        piece = self.pieces.get_nowait()
        self._tail = (self._tail + piece)[-2:]
        return piece


class Together:
    """The events of this node, `own`, and of the `others`, which `ask` requests. `gap`: the event
    that reports a lost node.
    """

    def __init__(
        self,
        own: Events,
        others: Callable[[], Sequence[str]],
        ask: Ask,
        gap: Callable[[str], bytes],
        slots: StreamSlots,
        tenant_id: str,
    ) -> None:
        """Take a slot of the tenant, which `close` returns. Raises `CapacityFull` or `RateLimited`
        if there is none.
        """
        slots.take(tenant_id)
        self._slots, self._tenant_id = slots, tenant_id
        self._own, self._others, self._ask, self._gap = own, others, ask, gap
        self._here = _Source()
        self._looking: asyncio.Task[None] | None = None
        self._there: dict[str, _Source] = {}
        self._lost: Counter[str] = Counter()
        self._untold: list[str] = []
        self._change = asyncio.Event()

    async def start(self) -> None:
        """Call it first. Returns once the other nodes' streams have started, so that later events
        are included; a node that does not respond within `BEGINS_WITHIN_S` is a gap.
        """
        self._here.reading = asyncio.ensure_future(self._read(self._here, self._own))
        self._ask_others(is_first=True)
        self._looking = asyncio.ensure_future(self._look())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEGINS_WITHIN_S):
                for source in list(self._there.values()):
                    await source.answered.wait()
        for node, source in self._there.items():
            if not source.answered.is_set():
                self._tell_gap(node)

    def close(self) -> None:
        """Call it once, even if `events` was never started."""
        for task in self._tasks:
            task.cancel()
        self._slots.release(self._tenant_id)

    @property
    def _tasks(self) -> list[asyncio.Task[None]]:
        sources = (self._here, *self._there.values())
        return [one for one in (self._looking, *(each.reading for each in sources)) if one]

    async def events(self) -> Events:
        """All events, until `close` or the end of this node's own."""
        assert self._here.reading is not None, "it was started"
        try:
            while not self._here.is_over:
                for source in (self._here, *self._there.values()):
                    async for piece in self._next_of(source):
                        yield piece
                while self._untold:
                    yield self._gap(self._untold.pop())
                if not self._has_news:
                    await self._next_change()
            self._here.reading.result()
        finally:
            tasks = self._tasks
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._own.aclose()

    @property
    def _has_news(self) -> bool:
        sources = (self._here, *self._there.values())
        return self._here.is_over or any(not one.pieces.empty() for one in sources)

    async def _next_change(self) -> None:
        self._change.clear()
        await self._change.wait()

    async def _next_of(self, source: _Source) -> AsyncIterator[bytes]:
        """A source's piece, if it has one, and the rest of the piece's last event. Nothing else is
        sent meanwhile, so the reader's stream ends if a node takes too long for the rest.
        """
        loop, left_s = asyncio.get_running_loop(), EVENT_MAX_S
        while not source.pieces.empty() or source.is_within:
            if source.pieces.empty():
                if source.is_over:
                    raise CutShort("a node was lost within an event")
                began = loop.time()
                try:
                    async with asyncio.timeout(left_s):
                        await self._next_change()
                except TimeoutError:
                    raise CutShort("a node has not ended an event in time") from None
                left_s -= loop.time() - began
                continue
            yield source.take()
            if not source.is_within:
                return

    async def _read(self, source: _Source, pieces: AsyncIterator[bytes]) -> None:
        try:
            async for piece in pieces:
                if piece:
                    await source.pieces.put(piece)
                    self._change.set()
        finally:
            self._change.set()

    async def _look(self) -> None:
        """Repeatedly ask the nodes without a stream."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._ask_others(is_first=False)

    def _ask_others(self, *, is_first: bool) -> None:
        for node in self._others():
            source = self._there.get(node)
            if source is None and not is_first:  # the node's earlier events are missing
                self._tell_gap(node)
            if source is None or (source.is_over and not source.is_within):
                source = self._there[node] = _Source()
                source.reading = asyncio.ensure_future(self._follow(node, source))

    async def _follow(self, node: str, source: _Source) -> None:
        try:
            async with self._ask(node) as answer:
                source.answered.set()
                if answer.status == HTTPStatus.OK:
                    self._lost.pop(node, None)
                    await self._read(source, aiter(answer.body))
        except PeerUnavailable:
            pass  # the node is asked again
        except Exception:  # A bug is reported as a gap, too.
            _log.exception("a stream of a node is not read; it is asked again", node=node)
        source.answered.set()
        if not self._lost[node]:
            self._tell_gap(node)
        self._lost[node] += 1
        self._change.set()

    def _tell_gap(self, node: str) -> None:
        self._untold.append(node)
        self._change.set()
