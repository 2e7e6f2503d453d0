"""One connection to another node: encodes requests and decodes responses, one at a time.

Rule 1: a connection that ends before the end of a response fails its request at once.
Rule 2: a response is received no faster than it is read: the node has to wait when `AHEAD_BYTES`
are unread.
Rule 3: a body is sent no faster than the node reads it, in pieces, with other work in between. A
streamed body is not read before the node wants it.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httptools

from quiltfn.api.http.response import first_value
from quiltfn.ports.peers import PIECE_BYTES, PeerAnswerTooLong, PeerGone, PeerUnreachable
from quiltfn.ports.streamed_body import StreamedBody

HEAD_MAX_BYTES = 256 * 1024
AHEAD_BYTES = 2 * PIECE_BYTES
CONTINUE = 100
LONG_HEAD = "node {node} sent too long a head"


class Pieces:
    """The body of a response, in pieces."""

    def __init__(self, connection: "PeerConnection") -> None:
        self._connection = connection

    def __aiter__(self) -> "Pieces":
        return self

    async def __anext__(self) -> bytes:
        piece = await self._connection.next_piece()
        if piece is None:
            raise StopAsyncIteration
        return piece


class PeerAnswer:
    """`placement.PeerResponse` on a connection."""

    def __init__(
        self, connection: "PeerConnection", status: int, headers: list[tuple[str, str]]
    ) -> None:
        self.status, self.headers = status, headers
        self.body: AsyncIterator[bytes] = Pieces(connection)
        self._connection = connection

    def header(self, name: str) -> str | None:
        """The first value of a header, by its lower-case name."""
        return first_value(self.headers, name)

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises `PeerGone`, and `PeerAnswerTooLong` after `limit` bytes."""
        whole = self._connection.take_whole(limit)
        if whole is not None:
            return whole
        found: list[bytes] = []
        size = 0
        async for piece in self.body:
            size += len(piece)
            if size > limit:
                raise PeerAnswerTooLong(f"the answer of a node has more than {limit} bytes")
            found.append(piece)
        return found[0] if len(found) == 1 else b"".join(found)


class Gone(asyncio.Transport):
    """Replaces a transport that has ended."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """No effect: nothing is read."""

    def abort(self) -> None:
        """No effect: it has ended."""

    pause_reading = resume_reading = abort


GONE = Gone()


class PeerConnection(asyncio.BufferedProtocol):
    """A connection to the node with that name. `on_heard` is called when data arrives, `on_end`
    when the connection has ended.
    """

    def __init__(
        self,
        node: str,
        on_heard: Callable[[], None],
        on_end: Callable[["PeerConnection"], None],
        buffer: memoryview,
    ) -> None:
        """`buffer`: as `TlsReceiver` takes it."""
        self.node, self._buffer = node, buffer
        self._on_heard, self._on_end = on_heard, on_end
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._parser: Any = httptools.HttpResponseParser(self)
        self.error: PeerGone | None = None  # why it is unusable
        self.idle_since = 0.0
        # The response that is awaited or being read.
        self._head: asyncio.Future[PeerAnswer] | None = None
        self._headers: list[tuple[str, str]] = []
        self._unfinished_bytes = self._head_bytes = 0
        self._pieces: deque[bytes] = deque()
        self._held_bytes = 0
        self._is_whole = True
        self._keeps_alive = self._has_body = True
        self._reader: asyncio.Future[None] | None = None
        self._is_reading_paused = False
        self._writable: asyncio.Future[None] | None = None
        self._is_writing_paused = False
        self._is_sent = True
        self._sending: asyncio.Task[None] | None = None
        self._wanted: asyncio.Future[None] | None = None  # whether the node wants the body
        self._is_interim = False

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent: the last one and its response are complete."""
        return self._is_sent and self._is_whole and self._keeps_alive and self.error is None

    def drop_rest(self) -> None:
        """Discard what has come of the last response."""
        self._pieces.clear()
        self._held_bytes = 0
        if self._is_reading_paused:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def exchange(
        self, head: bytes, body: bytes | StreamedBody, *, has_answer_body: bool = True
    ) -> Awaitable[PeerAnswer]:
        """Send a request; return the response once its head has come. The rest of a streamed body
        is sent while the response is read, until `stop_sending`. `has_answer_body`: False for HEAD,
        whose response ends the connection. Raises `PeerGone`, or `PeerUnreachable` if the node has
        not received all of a body in bytes, and errors of a streamed body.
        """
        if self.error is not None:
            raise PeerUnreachable(str(self.error))
        answered = self._head = self._loop.create_future()
        self._is_whole = self._is_sent = False
        self._has_body = has_answer_body
        if isinstance(body, bytes) and len(body) <= PIECE_BYTES:
            self._transport.write(head + body)
            self._is_sent = True
            return answered
        return self._exchange_long(head, body, answered)

    async def _exchange_long(
        self, head: bytes, body: bytes | StreamedBody, answered: "asyncio.Future[PeerAnswer]"
    ) -> PeerAnswer:
        """Like `exchange`, with a body that is sent in pieces."""
        self._wanted = self._loop.create_future()
        sending = self._sending = self._loop.create_task(self._send(head, body))
        sending.add_done_callback(self._sent)
        try:
            # Whichever comes first: a node may respond before it has read the body.
            both: set[asyncio.Future[Any]] = {answered, sending}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and not self._has_answer:
                await sending
            return await answered
        except PeerGone as error:
            # The node starts no request whose body is incomplete.
            if isinstance(body, bytes) and not self._is_sent:
                raise PeerUnreachable(str(error)) from error
            raise
        finally:
            if isinstance(body, bytes) or not self._has_answer:
                self.stop_sending()
                await asyncio.wait({sending})
            if not answered.cancel() and not answered.cancelled():
                answered.exception()  # mark the exception as retrieved

    @property
    def _has_answer(self) -> bool:
        head = self._head
        is_done = head is not None and head.done() and not head.cancelled()
        return is_done and head is not None and head.exception() is None

    def stop_sending(self) -> None:
        """Stop sending the body."""
        sending, self._sending = self._sending, None
        if sending is not None:
            sending.cancel()

    def _sent(self, sending: "asyncio.Task[None]") -> None:
        """If a streamed body ends early, signal that to the node."""
        error = None if sending.cancelled() else sending.exception()
        if error is not None and not isinstance(error, PeerGone):
            self.fail(PeerGone(f"the body for node {self.node} ended early"))

    async def _send(self, head: bytes, body: bytes | StreamedBody) -> None:
        self._transport.write(head)
        if isinstance(body, bytes):
            view = memoryview(body)
            for start in range(0, len(body), PIECE_BYTES):
                await self._may_write()
                self._transport.write(view[start : start + PIECE_BYTES])
        else:
            assert self._wanted is not None
            await self._wanted
            await self._send_stream(body)
        self._is_sent = True

    async def _send_stream(self, body: StreamedBody) -> None:
        is_chunked = body.length is None
        async with contextlib.aclosing(body.pieces()) as chunks:
            async for chunk in chunks:
                for start in range(0, len(chunk), PIECE_BYTES):
                    piece = chunk[start : start + PIECE_BYTES]
                    await self._may_write()
                    framed = b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece
                    self._transport.write(framed)
                await self._may_write()  # before more of the body is read
        if is_chunked:
            self._transport.write(b"0\r\n\r\n")

    async def _may_write(self) -> None:
        """Return once the node has read most of what was sent, and other tasks have run."""
        await asyncio.sleep(0)
        while self._is_writing_paused:
            if self.error is not None:
                raise self.error
            self._writable = self._loop.create_future()
            await self._writable
        if self.error is not None:
            raise self.error

    async def next_piece(self) -> bytes | None:
        """The next bytes of the body; None at its end. Raises `PeerGone`."""
        while not self._pieces:
            if self._is_whole:
                return None
            if self.error is not None:
                raise self.error
            self._reader = self._loop.create_future()
            await self._reader
        piece = self._pieces.popleft()
        self._held_bytes -= len(piece)
        if self._is_reading_paused and self._held_bytes <= PIECE_BYTES:
            self._is_reading_paused = False
            self._transport.resume_reading()
        return piece

    def take_whole(self, limit: int) -> bytes | None:
        """The rest of the body, if it has come and is one piece of at most `limit` bytes: most
        bodies come with their heads.
        """
        if not self._is_whole or len(self._pieces) != 1 or self._held_bytes > limit:
            return None
        self._held_bytes = 0
        return self._pieces.popleft()

    def rest(self) -> None:
        """Called when the connection becomes idle."""
        self.idle_since = self._loop.time()

    def fail(self, error: PeerGone) -> None:
        """End the connection: waiting tasks get that error. Only the first call counts."""
        if self.error is None:
            self.error = error
            self._wake(error)
        if self._transport is not None:
            self._transport.abort()

    def _wake(self, error: PeerGone) -> None:
        if self._head is not None and not self._head.done():
            self._head.set_exception(error)
        for waiter in (self._reader, self._writable):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    # The transport ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        if self.error is None:
            why = f": {exc}" if exc is not None and str(exc) else ""
            self.error = PeerGone(f"the connection to node {self.node} has ended{why}")
        self._wake(self.error)
        self._on_end(self)
        # The event loop's TLS keeps methods of this object; without this, their reference cycle
        # would keep its buffers alive.
        self._transport = GONE

    def pause_writing(self) -> None:
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        self._is_writing_paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._buffer[:nbytes])
        self._on_heard()
        if self._is_whole:
            return self.fail(PeerGone(f"node {self.node} sent data that was not requested"))
        self._unfinished_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return self.fail(PeerGone(f"node {self.node} sent invalid HTTP"))
        if self._unfinished_bytes > HEAD_MAX_BYTES:
            self.fail(PeerGone(LONG_HEAD.format(node=self.node)))
        if self._held_bytes > AHEAD_BYTES and not self._is_reading_paused:
            self._is_reading_paused = True
            self._transport.pause_reading()

    # Parser callbacks ------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._is_whole:
            raise ValueError("a second answer")
        self._headers = []
        self._head_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > HEAD_MAX_BYTES:
            self.fail(PeerGone(LONG_HEAD.format(node=self.node)))
            raise ValueError("a long head")
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._unfinished_bytes = 0
        self._is_interim = self._parser.get_status_code() == CONTINUE
        if self._is_interim:
            if self._wanted is not None and not self._wanted.done():
                self._wanted.set_result(None)
            return
        self._keeps_alive = self._parser.should_keep_alive() and self._has_body
        if not self._has_body:  # the parser waits for a body
            self._is_whole = True
        assert self._head is not None
        if not self._head.done():
            self._head.set_result(PeerAnswer(self, self._parser.get_status_code(), self._headers))

    def on_body(self, data: bytes) -> None:
        self._unfinished_bytes = 0
        if len(data) <= PIECE_BYTES:
            self._pieces.append(data)
        else:
            for start in range(0, len(data), PIECE_BYTES):
                self._pieces.append(data[start : start + PIECE_BYTES])
        self._held_bytes += len(data)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def on_message_complete(self) -> None:
        self._unfinished_bytes = 0
        if self._is_interim:
            return
        self._is_whole = True
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
