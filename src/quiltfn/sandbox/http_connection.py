"""A connection to an HTTP server in a sandbox: one request at a time, and the answer to it.

Rule 1: the server is as little trusted as any handler. What is no HTTP, a head without end, or a
byte that belongs to no answer ends the connection, and with it at most the request that it had.
Rule 2: nothing is held: what has come of an answer is handed on at once, and of a body no more is
asked for than the server takes.
Rule 3: to read an answer costs its server as much as us, but where it is cut into tiny chunks. So
those have a rate, all connections to a server together.
Rule 4: a server may answer before it has read the body, and close the connection. What it has
answered arrives, though the kernel fails the next write.
"""

import asyncio
import contextlib
import os
from enum import Enum, auto
from typing import Protocol, cast

import httptools

from quiltfn.ports.streamed_body import StreamedBody

# Bytes of an answer that bring nothing of its body: of its head, and between pieces of the body. A
# URL's answer may have 100 headers.
HEAD_MAX_BYTES, HEADERS_MAX = 64 * 1024, 256
PIECE_BYTES = 64 * 1024
WITHOUT_BODY = frozenset({204, 304})
TOO_LONG = f"the server's answer has a head of more than {HEAD_MAX_BYTES} bytes"
# One chunk for each so many bytes that came together costs no more than the bytes.
BYTES_OF_A_CHUNK = 1024
# So many tiny chunks of all answers of a server are read in a second.
TINY_CHUNKS_PER_S = 100_000
# Reading goes on when there is room again for those of so many seconds.
ROOM_AGAIN_S = 0.5


class Wait(Enum):
    """Why nothing is read of a connection."""

    FOR_ROOM = auto()  # for long output
    FOR_CHUNKS = auto()


class Answered(Protocol):
    """Gets the answer to one request: its head, its body in pieces, and its end."""

    def head(self, status: int, fields: list[tuple[bytes, bytes]], /) -> None: ...

    def body(self, data: bytes) -> None:
        """What has come of it. Behind the head always once, even where nothing has."""

    def end(self, error: str | None, /) -> None:
        """The last of all. `error`: why the answer is not whole (a sentence)."""


class ChunkRoom:
    """The tiny chunks that are read of all connections to one server. Where there are too many, all
    of these wait.
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
        """So many were read."""
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
    """Raised out of the parser: what comes behind is not looked at."""


class HttpConnection(asyncio.Protocol):
    """`is_open`: whether another request can be sent once this one is answered. `has_begun`:
    whether any byte of the present answer has come. `idle_since`: for who keeps it.
    `chunk_room`: of all connections to the same server.
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
        self._is_sending = False  # a body is not sent to its end
        self._is_write_paused = False
        self._writable: asyncio.Future[None] | None = None
        # The same socket again, while a body is sent: it can be read after a write has failed.
        self._again = -1

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
        """Sends the body of the request whose head was sent, as the server takes it. Returns early
        where nobody takes it any more. Raises `BodyCut`.
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
        """Nothing is read until `resume` was called for each reason."""
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
        """Ends it. A request that it has is told nothing any more."""
        is_busy, self._to, self.is_open = self.is_busy, None, False
        self._forget_again()
        transport = self._transport
        if transport is None:
            return
        # What it has not taken would keep the connection for as long as the server likes.
        if is_busy or transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()

    @property
    def is_busy(self) -> bool:
        """Whether it has a request that is not answered."""
        return self._to is not None

    # What comes ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport, but are no subclasses.
        self._transport = cast("asyncio.Transport", transport)
        self._chunk_room.add(self)

    def data_received(self, data: bytes) -> None:
        if self._to is None:  # it belongs to no answer
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
            # Where a call of ours raised, that is a mistake of ours.
            if isinstance(error, httptools.HttpParserCallbackError):
                raise
            self._end("the server's answer is no HTTP/1.1: " + _first_line(error))
            return
        except httptools.HttpParserUpgrade:
            self._end("the server answered with another protocol, which is not passed on")
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
            self._end("the server closed the connection in the middle of its answer")
        else:
            self._end("the server closed the connection without an answer")

    def _ends_with_connection(self) -> bool:
        """Whether nothing else says where the body ends that is being read."""
        names = {name.lower() for name, _ in self._fields}
        has_length = b"content-length" in names or b"transfer-encoding" in names
        return not has_length and self._parser.get_status_code() not in WITHOUT_BODY

    def _hand_on(self) -> None:
        """What has come of the body, as one piece: many small ones would cost much more."""
        pieces = self._pieces
        self._pieces, self._has_new_head = [], False
        self._chunks += len(pieces)
        if self._to is not None:
            self._to.body(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _read_rest(self) -> bool:
        """Reads what the server had sent before a write to it failed. Whether it came to an end."""
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
            self.is_open = False  # it has not taken the whole request
        if error is not None:
            self.close()
        self._to = None
        if not self.is_open:
            self.close()
        if to is not None:
            to.end(error)

    # What the parser says --------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._fields, self._head_bytes = [], 0
        if self._to is None:  # a second answer to one request
            self.is_open = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_body:  # a trailer, of which nothing is kept
            return
        self._fields.append((name, value))
        self._head_bytes += len(name) + len(value)
        if len(self._fields) > HEADERS_MAX:
            raise HeadTooLongError(f"the server's answer has more than {HEADERS_MAX} headers")
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
            # The parser waits for the body that a length announces, so nothing more can be read.
            self.is_open = False
            self._end(None)

    def on_body(self, data: bytes) -> None:
        self._has_moved = True
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        if not self._is_in_body:  # an interim answer
            return
        self._is_in_body = False
        if self._to is not None:
            self._end(None)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
