"""A connection to an HTTP server in a sandbox: one request and its response at a time.

Rule 1: the server is trusted as little as any handler. Invalid HTTP, an endless head, or a byte
outside of a response ends the connection, and with it at most its current request.
Rule 2: nothing is buffered: a response is passed on as it arrives, and a body is read no faster
than the server takes it.
Rule 3: reading a response costs no more CPU time here than sending it costs the server, except for
tiny chunks. So the rate of tiny chunks is limited, over all connections to a server.
Rule 4: a server may respond before it has read the body, and close the connection. Its response is
still read, though the next write fails.
"""

import asyncio
import contextlib
import os
from enum import Enum, auto
from typing import Protocol, cast

import httptools

from quiltfn.ports.streamed_body import StreamedBody

# The limit on bytes of a response outside its body: in its head, and between pieces of the body. A
# URL's response may have 100 headers.
HEAD_MAX_BYTES, HEADERS_MAX = 64 * 1024, 256
PIECE_BYTES = 64 * 1024
WITHOUT_BODY = frozenset({204, 304})
TOO_LONG = f"the server's response has a head of more than {HEAD_MAX_BYTES} bytes"
# One chunk per N bytes costs no more than the bytes; further chunks count as tiny.
BYTES_OF_A_CHUNK = 1024
# The limit on tiny chunks per second, over all responses of a server.
TINY_CHUNKS_PER_S = 100_000
# Reading resumes once there is room for the chunks of this many seconds.
ROOM_AGAIN_S = 0.5


class Wait(Enum):
    """The reason for a pause in reading."""

    FOR_ROOM = auto()  # there is no room for long output
    FOR_CHUNKS = auto()


class Answered(Protocol):
    """Receives the response to one request: its head, its body in pieces, and its end."""

    def head(self, status: int, fields: list[tuple[bytes, bytes]], /) -> None: ...

    def body(self, data: bytes) -> None:
        """Called with each piece of the body; at least once after the head, even if empty."""

    def end(self, error: str | None, /) -> None:
        """Called last. `error`: why the response is incomplete (a sentence)."""


class ChunkRoom:
    """Limits the tiny chunks read from all connections to one server. If there are too many, all of
    them wait.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._left, self._at = float(TINY_CHUNKS_PER_S), self._loop.time()
        self._connections: set[HttpConnection] = set()
        self._is_full = False

    def add(self, connection: "HttpConnection") -> None:
        self._connections.add(connection)
        if self._is_full:
            connection.pause(Wait.FOR_CHUNKS)

    def remove(self, connection: "HttpConnection") -> None:
        self._connections.discard(connection)

    def take(self, count: int) -> None:
        """Counts `count` chunks."""
        now = self._loop.time()
        left = self._left + (now - self._at) * TINY_CHUNKS_PER_S
        self._left, self._at = min(left, float(TINY_CHUNKS_PER_S)) - count, now
        if self._left >= 0 or self._is_full:
            return
        self._is_full = True
        self._loop.call_later(ROOM_AGAIN_S - self._left / TINY_CHUNKS_PER_S, self._read_on)
        for connection in self._connections:
            connection.pause(Wait.FOR_CHUNKS)

    def _read_on(self) -> None:
        self._is_full = False
        for connection in self._connections:
            connection.resume(Wait.FOR_CHUNKS)


class HeadTooLongError(Exception):
    """Raised inside the parser's callbacks: further data is ignored."""


class HttpConnection(asyncio.Protocol):
    """`is_open`: whether another request can follow this one. `has_begun`: whether any byte of the
    current response has arrived. `idle_since`: for the pool of connections. `chunk_room`: shared by
    all connections to the same server.
    """

    def __init__(self, chunk_room: ChunkRoom) -> None:
        self.is_open = True
        self.has_begun = False
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._to: Answered | None = None
        self._is_head_request = False
        self._parser = httptools.HttpResponseParser(self)
        self._fields: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._without_body = 0
        self._is_in_body = self._has_moved = self._has_new_head = False
        self._chunk_room = chunk_room
        self._pieces: list[bytes] = []
        self._chunks = 0
        self._waits_for: set[Wait] = set()
        self._is_sending = False  # a body is being sent
        self._is_write_paused = False
        self._writable: asyncio.Future[None] | None = None
        # While a body is sent: a duplicate of the socket, readable after a failed write.
        self._again = -1

    def rest(self, now: float) -> None:
        """Called when the connection becomes idle."""
        self.idle_since = now

    def send(self, head: bytes, body: bytes, to: Answered, *, is_head_request: bool) -> None:
        """Sends one request. `to.end` is always called, once."""
        self._to, self._is_head_request = to, is_head_request
        self.has_begun = self._is_in_body = self._has_new_head = False
        self._without_body = 0
        transport = self._transport
        if transport is None or transport.is_closing():
            self._end("the server closed the connection")
        elif len(body) <= HEAD_MAX_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    async def send_body(self, body: StreamedBody) -> None:
        """Sends the body after its head, as fast as the server reads it. Returns early if the
        server stops reading. Raises `BodyCut`.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._is_sending = True
        self._again = os.dup(transport.get_extra_info("socket").fileno())
        is_chunked = body.length is None
        async with contextlib.aclosing(body.pieces()) as pieces:
            async for piece in pieces:
                if transport.is_closing() or not self.is_busy:
                    return
                transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
                del piece
                while self._is_write_paused and not transport.is_closing():
                    self._writable = asyncio.get_running_loop().create_future()
                    await self._writable
        if is_chunked:
            transport.write(b"0\r\n\r\n")
        self._is_sending = False

    def pause(self, why: Wait) -> None:
        """Pauses reading until `resume` was called for each reason."""
        self._waits_for.add(why)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self, why: Wait) -> None:
        if not self._waits_for:
            return
        self._waits_for.discard(why)
        is_open = self._transport is not None and not self._transport.is_closing()
        if self._transport is not None and is_open and not self._waits_for:
            self._transport.resume_reading()

    def close(self) -> None:
        """Closes the connection. The `Answered` of its current request is not called any more."""
        is_busy, self._to, self.is_open = self.is_busy, None, False
        self._forget_again()
        transport = self._transport
        if transport is None:
            return
        # Unread data would let the server keep the connection open forever.
        if is_busy or transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()

    @property
    def is_busy(self) -> bool:
        """Whether a request awaits its response."""
        return self._to is not None

    # Callbacks of the event loop -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport, but are no subclasses.
        self._transport = cast("asyncio.Transport", transport)
        self._chunk_room.add(self)

    def data_received(self, data: bytes) -> None:
        if self._to is None:  # the data belongs to no response
            self.close()
            return
        self.has_begun, self._has_moved = True, False
        self._chunks = 0
        self._parse(data)
        tiny = self._chunks - len(data) // BYTES_OF_A_CHUNK - 1
        if tiny > 0:
            self._chunk_room.take(tiny)

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, HeadTooLongError):
                self._end(str(error.__context__))
                return
            # An exception in a callback of this class is a bug.
            if isinstance(error, httptools.HttpParserCallbackError):
                raise
            self._end("the server's response is not HTTP/1.1: " + _first_line(error))
            return
        except httptools.HttpParserUpgrade:
            self._end("the server switched to another protocol, which is not supported")
            return
        if self._pieces or self._has_new_head:
            self._hand_on()
        self._without_body = 0 if self._has_moved else self._without_body + len(data)
        if self._without_body > HEAD_MAX_BYTES and self._to is not None:
            self._end(TOO_LONG)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._is_write_paused = True

    def resume_writing(self) -> None:
        self._is_write_paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self._chunk_room.remove(self)
        self.resume_writing()
        is_ended = error is None or self._read_rest()
        self._forget_again()
        if self._to is None:
            return
        if self._is_in_body and is_ended and self._ends_with_connection():
            self._end(None)
        elif self.has_begun:
            self._end("the server closed the connection in the middle of its response")
        else:
            self._end("the server closed the connection without a response")

    def _ends_with_connection(self) -> bool:
        """Whether only the end of the connection marks the end of the body."""
        names = {name.lower() for name, _ in self._fields}
        has_length = b"content-length" in names or b"transfer-encoding" in names
        return not has_length and self._parser.get_status_code() not in WITHOUT_BODY

    def _hand_on(self) -> None:
        """Passes on the received pieces of the body as one, which costs less."""
        pieces = self._pieces
        self._pieces, self._has_new_head = [], False
        self._chunks += len(pieces)
        if self._to is not None:
            self._to.body(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _read_rest(self) -> bool:
        """Reads what the server sent before a write failed. Returns whether the response ended."""
        while self._again >= 0 and self._to is not None:
            try:
                data = os.read(self._again, PIECE_BYTES)
            except OSError:
                return False
            if not data:
                return True
            self.data_received(data)
        return False

    def _forget_again(self) -> None:
        again, self._again = self._again, -1
        if again >= 0:
            os.close(again)

    def _end(self, error: str | None) -> None:
        if self._pieces or self._has_new_head:
            self._hand_on()
        to = self._to
        unsent = self._transport is not None and self._transport.get_write_buffer_size()
        if unsent or self._is_sending:
            self.is_open = False  # the server has not read the whole request
        if error is not None:
            self.close()
        self._to = None
        if not self.is_open:
            self.close()
        if to is not None:
            to.end(error)

    # Callbacks of the parser -----------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._fields, self._head_bytes = [], 0
        if self._to is None:  # a second response to one request
            self.is_open = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_body:  # a trailer, which is dropped
            return
        self._fields.append((name, value))
        self._head_bytes += len(name) + len(value)
        if len(self._fields) > HEADERS_MAX:
            raise HeadTooLongError(f"the server's response has more than {HEADERS_MAX} headers")
        if self._head_bytes > HEAD_MAX_BYTES:
            raise HeadTooLongError(TOO_LONG)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._to is None:
            return
        self._is_in_body = True
        if not self._parser.should_keep_alive():
            self.is_open = False
        self._has_new_head = True
        self._to.head(status, self._fields)
        if self._is_head_request:
            # The parser now expects a body of the announced length, so the connection is unusable.
            self.is_open = False
            self._end(None)

    def on_body(self, data: bytes) -> None:
        self._has_moved = True
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        if not self._is_in_body:  # an interim response
            return
        self._is_in_body = False
        if self._to is not None:
            self._end(None)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
