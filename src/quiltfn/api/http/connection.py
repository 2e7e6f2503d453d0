"""One HTTP/1.1 connection: parses requests, writes responses and enforces limits.

httptools' parser (llhttp, as in Node.js) finds the parts of a request; this module enforces the
connection's limits of size and time.

Rule 1: responses go out in the order of the requests. The connection handles one request at a time;
a limited number of further requests wait.
Rule 2: a request begins once the packet that contained its head is read. So most bodies are
complete when it begins, and an immediate response is written at once.
Rule 3: while a client does not read its responses, the connection reads nothing from it, begins
none of its requests and asks a stream for no chunk. So nothing is produced that would wait,
uncounted by any budget, behind unread output. `Connections.look` ends connections of clients that
read nothing for too long.
Rule 4: invalid input is refused once, and nothing after it is read.
"""

import asyncio
import re
import socket
import struct
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import lru_cache
from typing import Any, Protocol
from urllib.parse import unquote

import httptools
import structlog

from quiltfn.api.http.budgets import SHORT_BYTES
from quiltfn.api.http.connections import Connections, SlotKind
from quiltfn.api.http.early_responses import (
    BAD_HOST,
    BAD_LENGTH,
    NOT_HTTP,
    OTHER_CODING,
    OTHER_METHOD,
    OTHER_PROTOCOL,
    STATUS_LINES,
    TOO_LARGE,
    connections_full,
)
from quiltfn.api.http.request import ClientDisconnected, Headers, Request
from quiltfn.api.http.response import CutShort, Response
from quiltfn.api.http.route import Application

# The limit on requests that wait on one connection, and the assumed memory of each in addition to
# its bytes.
QUEUED_MAX, QUEUED_BYTES = 16, 6 * 1024
# If more bytes of a body than this wait for its handler, reading from the client pauses.
BODY_AHEAD_BYTES = 64 * 1024
# If a client gets its response before it has sent its whole body, it may send the rest, since some
# clients read the response only afterwards. The limits of that rest in time and in bytes.
REST_TIMEOUT_S, REST_MAX_BYTES = 5.0, 16 * 1024 * 1024
# Methods that the parser accepts but this server refuses. CONNECT is followed by another protocol,
# and SOURCE belongs to another protocol.
OTHER_METHODS = ("CONNECT", "SOURCE")
# The parser accepts RTSP requests as HTTP without reporting it.
RTSP_REQUEST = re.compile(rb"\s*[A-Z_]+ [^ ]+ RTSP/")
# Digits of a Content-Length; the parser takes any number of zeros before them.
LENGTH_DIGITS = 19
# Statuses whose responses have no body.
BODILESS = (204, 304)
# Bodies up to this size are joined with their heads into one write; longer ones are not copied.
COPIED_BYTES = 64 * 1024
# TLS gets a longer body in pieces of this size, since data in its buffers can't be counted.
TLS_PIECE_BYTES = 16 * 1024
NOTHING_LEFT = memoryview(b"")
# Split targets up to this length are cached, since clients repeat a few targets.
REMEMBERED_TARGET = 128
_log = structlog.get_logger("quiltfn.api")


def eager_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]
) -> "asyncio.Task[None]":
    """Starts `work` as a task; from Python 3.12 on its first steps run at once."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, eager_start=True)
    return loop.create_task(work)


def split_target(target: bytes) -> tuple[str, bytes]:
    """Returns the decoded path of a request's target, and its query. Raises if it isn't a URL."""
    url = httptools.parse_url(target)
    path = (url.path or b"").decode("ascii")
    return unquote(path) if "%" in path else path, url.query or b""


_split_remembered = lru_cache(maxsize=1024)(split_target)


def body_head(headers: Headers, *, keep_alive: bool) -> bytes:
    """A minimal head, after which a parser finds the same body as after the validated `headers`."""
    if "transfer-encoding" in headers:
        framing = "Transfer-Encoding: chunked"
    else:
        framing = f"Content-Length: {headers.get('content-length', '0').strip()}"
    end = "" if keep_alive else "Connection: close\r\n"
    return f"POST / HTTP/1.1\r\n{framing}\r\n{end}\r\n".encode()


class RefusedRequestError(Exception):
    """Raised inside the parser's callbacks: the connection reads nothing more."""


class Lane(Protocol):
    """Answers ordinary requests faster than an application."""

    def take(self, connection: "HttpConnection", client: str, data: bytes) -> bool:
        """Whether `data` is exactly one request that is answered here: by `answer_at_once` or
        `answer` of the connection, after its `begin`. False: there was no effect.
        """


class HttpConnection(asyncio.Protocol):
    """A connection that belongs to `connections`; `app` answers its requests, except for those that
    `lane` takes.
    """

    def __init__(
        self, app: Application, connections: Connections, lane: Lane | None = None
    ) -> None:
        self._app, self._connections, self._lane = app, connections, lane
        self._limits = connections.limits
        self._loop = asyncio.get_running_loop()
        # The parser's pieces of a body, collected first, since each may be a single byte.
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._parser = self._new_parser()
        self._transport: asyncio.Transport = None  # type: ignore[assignment]
        self._client = "unknown"
        self._slot = SlotKind.NONE
        # The head being read.
        self._target = b""
        self._headers = Headers()
        self._header_count = self._head_bytes = 0
        self._is_in_head = False
        self._unfinished_bytes = 0
        # If the request asks for another protocol: its head without that wish, for a new parser.
        self._body_head = b""
        self._refusal = NOT_HTTP
        # The request with an incomplete body, the one being answered, and those that wait.
        self._arriving: Request | None = None
        self._current: Request | None = None
        self._queue: deque[Request] = deque()
        self._queued_bytes = 0
        self._rest_bytes = 0
        # If set, nothing more is read: once earlier requests are answered, these bytes end the
        # connection.
        self._last_words: bytes | None = None
        # The last response is written, and the rest of a body is discarded until the client stops.
        self._is_ending = False
        self._is_lost = False
        self._is_reading = True
        self._is_write_paused = False
        self._is_stream_begun = False
        self._is_shared = False  # the last response's `is_shared`
        self._written = 0
        # The part of a body that is not passed to TLS yet, and the function to call once all of it
        # is.
        self._rest = NOTHING_LEFT
        self._then: Callable[[], None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._stream: asyncio.Task[Any] | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        # When the last response went out; None while a request is under way.
        self._idle_since: float | None = None

    # The transport ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's is no subclass
        self._slot = self._connections.add(self)
        if self._slot is SlotKind.NONE:
            self._refuse(connections_full())
            return
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._client = str(peer[0])
        if transport.get_extra_info("ssl_object") is not None:
            # By default, TLS keeps half a megabyte before it pauses writing.
            self._transport.set_write_buffer_limits(high=TLS_PIECE_BYTES)
        self._expect_head()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._is_lost = True
        self._rest, self._then = NOTHING_LEFT, None
        self._stop_timers()
        self._connections.remove(self)
        self._connections.count_queued(-self._queued_bytes)
        self._queued_bytes = 0
        self._queue.clear()
        for request in (self._current, self._arriving):
            if request is not None:
                request.is_lost = True
                request.wake()
        self.resume_writing()
        current = self._current
        if self._stream is not None:
            self._stream.cancel()
        elif current is not None and current.ends_with_client and current.task is not None:
            current.task.cancel()
        self._parser = None

    def pause_writing(self) -> None:
        self._is_write_paused = True
        self._connections.paused(self)
        self._set_reading()

    def resume_writing(self) -> None:
        self._is_write_paused = False
        if self._rest:
            self._give_rest()
            if self._is_write_paused:
                return
        self._connections.resumed(self)
        self._set_reading()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        if self._queue:
            self._loop.call_soon(self._start_next)

    def data_received(self, data: bytes) -> None:
        if self._last_words is not None:
            if self._is_ending:
                self._rest_bytes += len(data)
                if self._rest_bytes > REST_MAX_BYTES:
                    self._transport.close()
            return
        if (
            self._lane is not None
            and self._is_at_rest
            and self._lane.take(self, self._client, data)
        ):
            self._stop_head_timer()
            return
        # The parser reports only complete header and trailer fields, and chunk extensions never. To
        # limit endless ones, this counts the bytes since the last complete head, piece of a body or
        # request.
        self._unfinished_bytes += len(data)
        begins = self._arriving is None and not self._is_in_head
        if begins and b" RTSP/" in data and RTSP_REQUEST.match(data):
            self._refuse(OTHER_PROTOCOL)
            return
        self._parse(data)
        if self._queue and self._current is None:
            self._start_next()
        if self._queue or self._queued_bytes or self._is_in_head:
            self._count_queued()
        # Most heads arrive in one piece; only an incomplete one needs a timeout.
        if self._is_in_head and self._head_timer is None and self._is_reading:
            self._expect_head()
        is_too_long = self._unfinished_bytes > 2 * self._limits.head_max_bytes
        if is_too_long and self._last_words is None:
            self._refuse(TOO_LARGE)

    @property
    def _is_at_rest(self) -> bool:
        """Whether the next byte begins a request that may be answered at once."""
        return not (
            self._current
            or self._arriving
            or self._queue
            or self._unfinished_bytes
            or self._is_in_head
            or self._is_write_paused
            or self._slot is not SlotKind.REGULAR
            or self._transport.is_closing()
        )

    def _new_parser(self) -> Any:
        parser = httptools.HttpRequestParser(self)
        # Data after a request with `Connection: close` is ignored, not refused.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
            is_refused = False
        except (httptools.HttpParserUpgrade, httptools.HttpParserError) as error:
            is_refused = not self._parse_on(data, error)
        if self._pieces:
            try:
                self._take_body()
            except RefusedRequestError:
                is_refused = True
        if is_refused:
            self._refuse(self._refusal)

    def _parse_on(self, data: bytes, stopped: Exception) -> bool:
        """Continues after the parser has stopped within `data`. False: `data` is invalid."""
        # This server supports no other protocol, so a request to upgrade is an ordinary request:
        # its head is followed by its body and the next request. The parser would treat body and
        # next request as the other protocol, so a new parser continues.
        while isinstance(stopped, httptools.HttpParserUpgrade):
            data = self._body_head + data[stopped.args[0] :]
            self._body_head = b""
            self._parser = self._new_parser()
            try:
                self._parser.feed_data(data)
                return True
            except (httptools.HttpParserUpgrade, httptools.HttpParserError) as error:
                stopped = error
        return False

    # Parser callbacks ------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._target, self._headers = b"", Headers()
        self._header_count = self._head_bytes = 0
        self._is_in_head = True
        self._idle_since = None

    def on_url(self, target: bytes) -> None:
        self._target += target
        self._head_bytes += len(target)
        if self._head_bytes > self._limits.head_max_bytes:
            self._stop(TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        self._head_bytes += len(name) + len(value) + 4
        limits = self._limits
        if self._head_bytes > limits.head_max_bytes or self._header_count > limits.headers_max:
            self._stop(TOO_LARGE)
        if self._arriving is not None:
            return  # a trailer field: the request is already validated
        key, text = name.lower().decode("latin-1"), value.decode("latin-1")
        if key in self._headers:
            self._headers.repeat(key, text)
        else:
            self._headers[key] = text

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._unfinished_bytes = self._rest_bytes = 0
        self._stop_head_timer()
        if self._arriving is not None:
            return  # `_body_head`, parsed by a new parser: its request exists already
        if len(self._queue) >= QUEUED_MAX + (self._current is None):
            self._stop(b"")
        parser, target, headers = self._parser, self._target, self._headers
        method = parser.get_method().decode("ascii")
        if method in OTHER_METHODS:
            self._stop(OTHER_METHOD)
        if "transfer-encoding" in headers and (
            headers["transfer-encoding"].strip().lower() != "chunked"
            or "transfer-encoding" in headers.repeated
        ):
            self._stop(OTHER_CODING)
        if "content-length" in headers and len(headers["content-length"].strip()) > LENGTH_DIGITS:
            self._stop(BAD_LENGTH)
        version = parser.get_http_version()
        if version not in ("1.1", "1.0"):
            self._stop(OTHER_PROTOCOL)
        if "host" in headers.repeated or (version == "1.1" and "host" not in headers):
            self._stop(BAD_HOST)
        split = _split_remembered if len(target) <= REMEMBERED_TARGET else split_target
        path, query = split(target)
        request = Request(method, path, headers, query, self._client, self)
        request.target, request.version = target, version
        request.keep_alive = parser.should_keep_alive() and version != "1.0"
        request.head_bytes = self._head_bytes
        if self._slot is SlotKind.RESERVED:
            request.is_reserved, request.keep_alive = True, False
        if "upgrade" in headers and parser.should_upgrade():
            self._body_head = body_head(headers, keep_alive=request.keep_alive)
        if "expect" in headers:
            is_told = headers["expect"].lower() == "100-continue"
            request.expects_continue = is_told and version != "1.0"
        self._arriving = request
        self._queue.append(request)

    def _take_body(self) -> None:
        """Joins the pieces of a body received so far. Raises `RefusedRequestError`."""
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        request = self._arriving
        assert request is not None
        self._unfinished_bytes = 0
        if request.is_answered:
            self._rest_bytes += len(data)
            if self._rest_bytes > REST_MAX_BYTES:
                self._transport.close()
            return
        if not request.body and request.reader is None:
            request.body = data
        else:
            request.feed(data)
        if len(request.body) > SHORT_BYTES:
            if request is not (self._current or self._queue[0]):  # still waiting
                self._queue.pop()
                self._arriving = None
                self._stop(b"")
            if len(request.body) > BODY_AHEAD_BYTES:
                self._set_reading()

    def on_message_complete(self) -> None:
        if self._body_head:
            return  # only the head is complete: see `_parse_on`
        if self._pieces:
            self._take_body()
        request, self._arriving = self._arriving, None
        assert request is not None
        self._unfinished_bytes = 0
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None
        request.is_whole = True
        if not self._is_reading:
            self._set_reading()  # to notice a disconnect
        if request.reader is not None:
            request.wake()

    def _stop(self, refusal: bytes) -> None:
        """Leaves the parser: the last response, or `refusal`, will end the connection."""
        self._refusal = refusal
        raise RefusedRequestError

    # Requests and responses ------------------------------------------------------------------

    def _start_next(self) -> None:
        if self._current is not None or not self._queue or self._is_write_paused:
            return
        # This never runs inside the parser, since a response may close the connection.
        request = self._current = self._queue.popleft()
        self._idle_since = None
        if not self._is_reading:
            self._set_reading()
        self.answer(request, self._app)

    def begin(self, request: Request) -> None:
        """From now on, this request of the lane is being answered."""
        self._current, self._idle_since = request, None

    def answer(self, request: Request, app: Application) -> None:
        """Has `app` answer the request."""
        task = eager_task(self._loop, self._answer(request, app))
        if not task.done():
            request.task = task
            self._connections.tasks.add(task)

    def begin_answer(self, request: Request, status: int) -> bytes | None:
        """The first bytes of a response for `answer_at_once`; None: use `answer`, since the
        connection ends with it.
        """
        if not request.keep_alive or self._last_words is not None:
            return None
        return STATUS_LINES[status] + self._connections.common_headers

    def answer_at_once(self, request: Request, data: bytes) -> None:
        """Answers the request with these bytes, which are short."""
        if not request.is_lost and not self._transport.is_closing():
            self._is_shared = False
            self._write(data)
        self._answered(request)

    async def _answer(self, request: Request, app: Application) -> None:
        """Handles one request from start to end."""
        try:
            response = await app(request)
            body = response.body
            if not isinstance(body, bytes):
                await self._write_stream(request, response, body)
            elif not request.is_lost and not self._transport.is_closing():
                self._write_whole(request, response, body)
        except ClientDisconnected:
            pass
        except CutShort:
            self._transport.close()
        except asyncio.CancelledError:
            if not request.is_lost:
                self._transport.abort()
                raise
        except Exception:
            _log.exception("a response could not be sent", path=request.path)
            # The client notices that the body is incomplete, since its end isn't marked.
            self._transport.close()
        finally:
            if request.task is not None:
                self._connections.tasks.discard(request.task)
            self._answered(request)

    def _write_whole(self, request: Request, response: Response, body: bytes) -> None:
        if response.status in BODILESS:
            framing, body = "", b""
        else:
            framing = f"content-length: {len(body)}\r\n"
        closes = self._is_last(request, response)
        data = self._head(response, framing, closes)
        if request.method == "HEAD":
            body = b""
        if len(body) <= COPIED_BYTES:
            self._is_shared = False
            data += body
            self._written += len(data)
            self._transport.write(data)
        else:
            self._is_shared = response.is_shared
            self._write(data)
            if self._transport.get_extra_info("ssl_object") is not None:
                self._written += len(body)
                self._rest = memoryview(body)
                self._give_rest()
            else:
                self._write(body)
        if closes:
            self._end()

    def _give_rest(self) -> None:
        """Passes TLS as much of the body as it takes before it pauses writing."""
        while self._rest and not self._is_write_paused and not self._transport.is_closing():
            piece, self._rest = self._rest[:TLS_PIECE_BYTES], self._rest[TLS_PIECE_BYTES:]
            self._transport.write(piece)
        if not self._rest:
            self._rest, then, self._then = NOTHING_LEFT, self._then, None
            if then is not None:
                then()

    def _close(self) -> None:
        """Closes the connection after everything is written."""
        if self._rest:
            self._then = self._close
        else:
            self._transport.close()

    async def _write_stream(
        self, request: Request, response: Response, chunks: AsyncIterator[bytes]
    ) -> None:
        """Writes head, chunks and end, each once the client has read most of what precedes it."""
        length = response.header("content-length")
        has_body = request.method != "HEAD" and response.status not in BODILESS
        is_chunked = has_body and length is None and request.version == "1.1"
        has_end = is_chunked or length is not None or not has_body
        closes = not has_end or self._is_last(request, response)
        self._stream = asyncio.current_task()
        request.expects_continue = False  # too late for a 100 Continue
        try:
            if request.is_lost or self._transport.is_closing():
                return
            framing = "transfer-encoding: chunked\r\n" if is_chunked else ""
            self._write(self._head(response, framing, closes))
            self._is_stream_begun, self._is_shared = True, False
            if has_body:
                sent = await self._write_chunks(chunks, is_chunked)
                if length is not None and sent != int(length):
                    raise ValueError(f"a stream of {length} bytes had {sent}")
            if closes:
                self._end()
        except BaseException:
            if not has_end:
                self._reset()  # an ordinary close would look like the end of the body
            raise
        finally:
            self._stream = None
            self._is_stream_begun = False
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()

    async def _write_chunks(self, chunks: AsyncIterator[bytes], is_chunked: bool) -> int:
        """Writes the body of a stream; returns its size in bytes."""
        sent = 0
        async for chunk in chunks:
            sent += len(chunk)
            if is_chunked and chunk:
                self._write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            else:
                self._write(chunk)
            if self._is_write_paused:
                await self._may_write()
        if is_chunked:
            self._write(b"0\r\n\r\n")
        return sent

    def _is_last(self, request: Request, response: Response) -> bool:
        """Whether the connection ends with this response."""
        if response.closes or not request.keep_alive:
            return True
        return self._last_words == b"" and not self._queue

    def _head(self, response: Response, framing: str, closes: bool) -> bytes:
        """Everything before the body. Raises `ValueError` for a header with a line break."""
        lines = [f"{name}: {value}\r\n" for name, value in response.headers]
        own = "".join(lines)
        if own.count("\r") != len(lines) or own.count("\n") != len(lines) or "\0" in own:
            raise ValueError("a header of a response holds a control character")
        text = f"{own}{framing}connection: close\r\n\r\n" if closes else f"{own}{framing}\r\n"
        begin = STATUS_LINES[response.status] + self._connections.common_headers
        return begin + text.encode("latin-1")

    def _write(self, data: bytes) -> None:
        self._written += len(data)
        self._transport.write(data)

    async def _may_write(self) -> None:
        """Waits until the client has read most of what was written, or has disconnected."""
        while self._is_write_paused and not self._is_lost:
            self._writable = self._loop.create_future()
            await self._writable

    def _answered(self, request: Request) -> None:
        """Goes on to the next request once this one has its response, or will get none."""
        self._current = None
        request.is_answered = True
        if self._is_lost or self._is_ending or self._transport.is_closing():
            return
        if self._queue:
            self._loop.call_soon(self._start_next)
            self._count_queued()
            return
        if self._last_words is not None:
            self._refuse(self._last_words)
            return
        if self._arriving is not None:
            # The response was written before the whole body arrived: limit the rest.
            request.forget_body()
        if not self._is_reading:
            self._set_reading()
        if self._arriving is not None:
            self._expect_rest()
        self._idle_since = self._loop.time()
        if self._idle_timer is None:
            self._look_for_idleness_in(self._limits.keep_alive_s)

    # Ends ------------------------------------------------------------------------------------

    def _refuse(self, last_words: bytes) -> None:
        """Reads nothing more, and ends with `last_words` once complete requests are answered."""
        if self._is_ending:
            return
        self._is_in_head = False
        self._stop_timers()
        request = self._arriving
        if request is not None and last_words:
            # The rest of its body will not be read.
            self._arriving = None
            request.is_lost = True
            request.wake()
            if request.is_answered or (request is self._current and self._is_stream_begun):
                last_words = b""  # a second response would seem to answer another request
            elif request is self._current:
                self._current = None
            elif request in self._queue:
                self._queue.remove(request)
        self._last_words = last_words
        if self._current is None and not self._queue and not self._transport.is_closing():
            self._write_behind(last_words)
            self._close()

    def _write_behind(self, data: bytes) -> None:
        """Writes `data` after the rest of the current body."""
        if not self._rest:
            self._write(data)
        elif data:
            self._rest = memoryview(b"".join((self._rest, data)))
            self._written += len(data)

    def _end(self) -> None:
        """Closes the connection after its last response. If a body is still arriving, it is read
        and discarded, for a limited time: a close with unread bytes would destroy the part of the
        response that the client has not read (RFC 9112, section 9.6).
        """
        if self._rest:
            self._then = self._end
            return
        arriving = self._arriving
        if arriving is None or self._is_lost:
            self._transport.close()
            return
        arriving.forget_body()
        self._arriving, self._is_ending, self._last_words = None, True, b""
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._set_reading()
        self._stop_arrival_timers()
        self._rest_timer = self._loop.call_later(REST_TIMEOUT_S, self._transport.close)

    def finish(self) -> None:
        """On shutdown: answers the requests that have arrived, then closes."""
        if self.is_idle:
            self._close()
            return
        last_request = self._queue[-1] if self._queue else self._current
        assert last_request is not None
        last_request.keep_alive = False

    def cut(self) -> None:
        """Aborts the connection."""
        self._transport.abort()

    def want_body(self) -> None:
        request = self._current
        if request is not None and request.expects_continue:
            request.expects_continue = False
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._set_reading()

    def _reset(self) -> None:
        """Resets the connection, so that the client sees an error."""
        own = self._transport.get_extra_info("socket")
        if own is not None:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    # Bounds ----------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether every request is answered."""
        return self._current is None and not self._queue

    @property
    def idle_since(self) -> float | None:
        if not self.is_idle:
            return None
        if self._idle_since is not None:
            return self._idle_since
        if self._head_timer is not None:  # since when it has waited for a request
            return self._head_timer.when() - self._limits.head_timeout_s
        return 0.0  # the connection reads nothing more and is about to end

    @property
    def is_arriving(self) -> bool:
        return self.is_idle or self._arriving is not None

    @property
    def is_streaming(self) -> bool:
        return self._is_stream_begun

    def unsent(self) -> int:
        return self._transport.get_write_buffer_size() + len(self._rest)

    def held(self) -> int:
        if not self._is_shared:
            return self.unsent()
        # The shared body itself takes no memory of its own, except for the part that TLS has
        # copied. Other unsent bytes are too few to count, since writing pauses once there are many.
        is_copy = self._transport.get_extra_info("ssl_object") is not None
        return self._transport.get_write_buffer_size() if is_copy else 0

    def taken(self) -> int:
        return self._written - self.unsent()

    def _set_reading(self) -> None:
        """Reads from the client unless something forbids it."""
        body = self._arriving
        is_full = body is not None and len(body.body) > BODY_AHEAD_BYTES
        may_read = not (self._is_write_paused or self._queue or is_full)
        if may_read == self._is_reading or self._is_lost or self._transport.is_closing():
            return
        self._is_reading = may_read
        if may_read:
            self._transport.resume_reading()
            if self._is_in_head:
                self._expect_head()
            elif body is not None and body.is_answered:
                self._expect_rest()
        else:
            self._transport.pause_reading()
            self._stop_arrival_timers()

    def _count_queued(self) -> None:
        """Counts waiting requests in the budget for those of all connections."""
        held = self._unfinished_bytes if self._is_in_head else 0
        for request in self._queue:
            held += QUEUED_BYTES + request.head_bytes + len(request.body)
        if self._connections.count_queued(held - self._queued_bytes):
            self._queued_bytes = held
        elif self.is_idle:
            self._refuse(connections_full())
        else:
            self._queue.clear()
            self._arriving = None
            self._refuse(b"")
        self._set_reading()

    # Time ------------------------------------------------------------------------------------

    # The timeout of an incomplete head, or of the rest of a body, runs only while the server reads.

    def _expect_head(self) -> None:
        # An earlier request that is in progress at the timeout still gets its response.
        timeout_s = self._limits.head_timeout_s
        self._head_timer = self._loop.call_later(timeout_s, self._refuse, b"")

    def _expect_rest(self) -> None:
        if self._is_reading and self._rest_timer is None:
            self._rest_timer = self._loop.call_later(REST_TIMEOUT_S, self._transport.close)

    def _stop_arrival_timers(self) -> None:
        self._stop_head_timer()
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _look_for_idleness_in(self, seconds: float) -> None:
        # One timer that checks the idle time is cheaper than a timer per request. Only the start of
        # a head ends the idle time; empty lines before it don't.
        self._idle_timer = self._loop.call_later(seconds, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since is None:
            return  # the end of the current request sets the timer again
        left = self._idle_since + self._limits.keep_alive_s - self._loop.time()
        if left > 0:
            self._look_for_idleness_in(left)
        else:
            self._close()

    def _stop_timers(self) -> None:
        self._stop_arrival_timers()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
