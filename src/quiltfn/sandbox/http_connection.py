"""A connection to an HTTP server in a sandbox: one request at a time, and the answer to it.

Rule 1: the server is as little trusted as any handler. What is no HTTP, a head without end, or a
byte that belongs to no answer ends the connection, and with it at most the request that it had.
Rule 2: nothing is held: each piece of an answer is handed on as it comes.
"""

import asyncio
from typing import Protocol, cast

import httptools

# Bytes of an answer that bring nothing of its body: of its head, and between pieces of the body.
HEAD_MAX_BYTES = 64 * 1024
WITHOUT_BODY = frozenset({204, 304})


class Answered(Protocol):
    """Gets the answer to one request: its head, its body in pieces, and its end."""

    def head(self, status: int, fields: list[tuple[bytes, bytes]], /) -> None: ...

    def body(self, data: bytes) -> None: ...

    def end(self, error: str | None, /) -> None:
        """The last of all. `error`: why the answer is not whole (a sentence)."""


class HttpConnection(asyncio.Protocol):
    """`is_open`: whether another request can be sent once this one is answered. `has_begun`:
    whether any byte of the present answer has come. `idle_since`: for who keeps it.
    """

    def __init__(self) -> None:
        self.is_open = True
        self.has_begun = False
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._to: Answered | None = None
        self._is_head_request = self._is_until_end = False
        self._parser = httptools.HttpResponseParser(self)
        self._fields: list[tuple[bytes, bytes]] = []
        self._without_body = 0
        self._is_in_body = self._has_moved = False

    def send(self, head: bytes, body: bytes, to: Answered, *, is_head_request: bool) -> None:
        """Sends one request. `to.end` is always called, once."""
        self._to, self._is_head_request = to, is_head_request
        self.has_begun = self._is_in_body = False
        self._without_body = 0
        transport = self._transport
        if transport is None or transport.is_closing():
            self._end("the server closed the connection")
        elif len(body) <= HEAD_MAX_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)

    def pause(self) -> None:
        """Nothing is read until `resume`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self) -> None:
        """Ends it. A request that it has is told nothing any more."""
        is_busy, self._to, self.is_open = self.is_busy, None, False
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

    def data_received(self, data: bytes) -> None:
        if self._to is None:  # it belongs to no answer
            self.close()
            return
        self.has_begun, self._has_moved = True, False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # Where a call of ours raised, that is a mistake of ours.
            if isinstance(error, httptools.HttpParserCallbackError):
                raise
            self._end("the server's answer is no HTTP/1.1: " + _first_line(error))
            return
        except httptools.HttpParserUpgrade:
            self._end("the server answered with another protocol, which is not passed on")
            return
        self._without_body = 0 if self._has_moved else self._without_body + len(data)
        if self._without_body > HEAD_MAX_BYTES and self._to is not None:
            self._end(f"the server's answer has a head of more than {HEAD_MAX_BYTES} bytes")

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        self.is_open = False
        if self._to is None:
            return
        if self._is_in_body and self._is_until_end and _error is None:
            self._end(None)
        elif self.has_begun:
            self._end("the server closed the connection in the middle of its answer")
        else:
            self._end("the server closed the connection without an answer")

    def _end(self, error: str | None) -> None:
        to = self._to
        if self._transport is not None and self._transport.get_write_buffer_size():
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
        self._fields = []
        if self._to is None:  # a second answer to one request
            self.is_open = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_in_body:  # else a trailer, of which nothing is kept
            self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or self._to is None:
            return
        names = {name.lower() for name, _ in self._fields}
        has_length = b"content-length" in names or b"transfer-encoding" in names
        has_none = self._is_head_request or status in WITHOUT_BODY
        self._is_until_end = not has_length and not has_none
        self._is_in_body = True
        if not self._parser.should_keep_alive():
            self.is_open = False
        self._to.head(status, self._fields)
        if self._is_head_request:
            # The parser waits for the body that a length announces, so nothing more can be read.
            self.is_open = False
            self._end(None)

    def on_body(self, data: bytes) -> None:
        self._has_moved = True
        if self._to is not None:
            self._to.body(data)

    def on_message_complete(self) -> None:
        if not self._is_in_body:  # an interim answer
            return
        self._is_in_body = False
        if self._to is not None:
            self._end(None)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
