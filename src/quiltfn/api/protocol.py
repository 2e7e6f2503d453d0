"""The connection: bounds on what it may hold and how long, and the short way of a call.

uvicorn's httptools protocol bounds neither the size of a head nor the time it may take, and without
that a thousand sockets that send a byte a minute cost as much as a thousand callers; nor how many
requests come before their turn, nor what of a body comes after the answer, nor the answers that
nobody reads. And it makes a task, a queue and a parsed address for every request before anybody
looks at its path.
"""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

from starlette.datastructures import Address
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from quiltfn.api.budgets import SHORT_BYTES
from quiltfn.api.connections import Connections, ConnectionSlot
from quiltfn.api.direct import COPIED_BYTES, CallAt, CallRequest, DirectCall, Heads, to_bytes
from quiltfn.api.flow import TOO_LARGE, Flow, full

HEAD_MAX_BYTES = 16 * 1024
HEADERS_MAX = 100
HEAD_TIMEOUT_S = 10.0
# Requests that wait on one connection for those before them, and what one is taken to hold beside
# its bytes.
WITH_BODY = ("POST", "PUT")
QUEUED_MAX, QUEUED_BYTES = 16, 6 * 1024
# How long the rest of a body is taken and thrown away after its answer, so that the caller comes to
# read that; and how much of it.
REST_TIMEOUT_S, REST_MAX_BYTES = 5.0, 16 * 1024 * 1024
# Of calls with these more is to be asked than whether they came whole; likewise of headers that
# come twice.
OUT_OF_THE_ORDINARY = frozenset({"transfer-encoding", "upgrade", "idempotency-key"})


def eager_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]
) -> "asyncio.Task[None]":
    """A task of `work`, its first steps done at once where Python can (from 3.12 on)."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, eager_start=True)
    return loop.create_task(work)


class HeadTooLarge(Exception):
    """More header bytes or headers than are taken."""


class TooMuchAhead(Exception):
    """More came before it was its turn than is kept."""


class BoundedProtocol(HttpToolsProtocol):
    """httptools, with limits on what a connection may hold. Made by `bounded`."""

    head_max_bytes = HEAD_MAX_BYTES
    head_timeout_s = HEAD_TIMEOUT_S
    rest_timeout_s = REST_TIMEOUT_S
    call_at: "CallAt | None" = None
    crowd: Connections

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_bytes = 0
        self._unfinished_bytes = 0
        self._head_is_complete = False
        self._head_is_begun = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._address: Address | None = None
        # When the last answer went out; None while a request is under way.
        self._idle_since: float | None = None
        # A call whose head is there, until it is seen whether its body is in the same packet; and
        # one that is whole, until the packet is parsed.
        self._held: DirectCall | None = None
        self._whole: DirectCall | None = None
        self._running: Any = None  # the request whose turn it is, as uvicorn's cycle or ours
        self._slot = ConnectionSlot.NONE
        # What is counted of it as having come before its turn.
        self._queued_bytes = 0
        # Nothing more is taken from it: it ends with the answers to what it sent so far.
        self._is_deaf = False
        self._rest_timer: asyncio.TimerHandle | None = None
        self._rest_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = Flow(transport)
        self._slot = self.crowd.enter(self)
        if self._slot is ConnectionSlot.NONE:
            self._refuse(full())
            return
        self._address = Address(*self.client) if self.client else None
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        self._rest_arrived()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        self.crowd.leave(self)
        self.crowd.queue(-self._queued_bytes)
        self._queued_bytes = 0
        self.pipeline.clear()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.crowd.paused(self, self.loop.time())

    def resume_writing(self) -> None:
        super().resume_writing()
        self.crowd.resumed(self)

    def data_received(self, data: bytes) -> None:
        if self._is_deaf or self._slot is ConnectionSlot.NONE:
            return
        if not self._head_is_complete:
            # The parser hands a header on only when it is whole, so one without an end is counted
            # here, by the bytes that led to nothing.
            self._unfinished_bytes += len(data)
        try:
            super().data_received(data)
        except HeadTooLarge:
            self._refuse(TOO_LARGE)
            return
        finally:
            if self._whole is not None:
                self._start(self._whole)
        if self._held is not None:
            self._let_go()
        if self.pipeline or self._queued_bytes or self._head_is_begun:
            self._count_queued()
        # Most heads come whole; only for one that does not is there anything to time.
        if self._head_is_begun and self._head_timer is None:
            self._expect_head()
        if not self._head_is_complete and self._unfinished_bytes > 2 * self.head_max_bytes:
            self._refuse(TOO_LARGE)

    # What the parser finds -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        # Less than uvicorn does: a call needs no scope, and what does gets it in `_go_ordinary`.
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._head_bytes = 0
        self._head_is_complete = False
        self._head_is_begun = True
        self._idle_since = None
        self._rest_bytes = 0

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._head_bytes += len(url)
        if self._head_bytes > self.head_max_bytes:
            raise HeadTooLarge

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self.head_max_bytes or len(self.headers) > HEADERS_MAX:
            raise HeadTooLarge

    def on_headers_complete(self) -> None:
        self._head_is_complete = True
        self._head_is_begun = False
        self._unfinished_bytes = 0
        if self._head_timer is not None:
            self._head_arrived()
        self._held = self._direct_call()
        if self._held is None:
            self._go_ordinary()

    def on_body(self, body: bytes) -> None:
        if self._held is not None:
            self._held.body += body
        elif self.cycle.response_complete or self.scope["method"] not in WITH_BODY:
            self._throw_away(len(body))
        else:
            super().on_body(body)
            if self.pipeline and len(self.cycle.body) > SHORT_BYTES:
                self.pipeline.popleft()
                self._stop_listening()
                raise TooMuchAhead

    def on_message_complete(self) -> None:
        self._head_is_complete = False
        if self._rest_timer is not None:
            self._rest_arrived()
        if self._held is None:
            super().on_message_complete()
            return
        self._whole, self._held = self._held, None
        self.cycle = self._running = self._whole  # type: ignore[assignment]

    # The two ways of a request ---------------------------------------------------------------

    def _go_ordinary(self) -> None:
        """uvicorn's own way, from what it would have begun with."""
        if len(self.pipeline) >= QUEUED_MAX:
            self._stop_listening()
            raise TooMuchAhead
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()
        if self._slot is ConnectionSlot.RESERVED:
            self.scope["state"]["is_spare"] = True
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _direct_call(self) -> DirectCall | None:
        """The request, if it is a call that may go the short way."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if self.call_at is None or busy or self.parser.get_method() != b"POST":
            return None
        if self.flow.write_paused or self._slot is not ConnectionSlot.ORDINARY:
            return None
        found = self.call_at(self.url)
        if found is None or self.expect_100_continue or self.parser.get_http_version() != "1.1":
            return None
        heads = Heads()
        for name, value in self.headers:
            heads[name.decode("latin-1")] = value.decode("latin-1")
        if len(heads) < len(self.headers) or not OUT_OF_THE_ORDINARY.isdisjoint(heads):
            return None
        endpoint, parameters = found
        request = CallRequest(self.url.decode("latin-1"), parameters, heads, self._address)
        return DirectCall(request, endpoint, self.parser.should_keep_alive())

    def _let_go(self) -> None:
        """The packet is over and the body is not: it goes the ordinary way, which can wait."""
        held, self._held = self._held, None
        self._go_ordinary()
        if held is not None and held.body:
            super().on_body(held.body)

    def _start(self, call: DirectCall) -> None:
        """Not within the parser: an answer may close the connection that it is parsing."""
        self._whole = None
        task = eager_task(self.loop, self._answer(call))
        if not task.done():
            call.task = task
            self.tasks.add(task)

    async def _answer(self, call: DirectCall) -> None:
        try:
            answer = await call.endpoint.respond(call.request, call.take_body())
        finally:
            call.response_complete = True
            if call.task is not None:
                self.tasks.discard(call.task)
        if self.transport.is_closing():
            return
        if not call.keep_alive:
            answer.headers["connection"] = "close"
        closes = answer.headers.get("connection") == "close"
        common = self.crowd.joined(self.server_state.default_headers)
        self.transport.write(to_bytes(answer, STATUS_LINE[answer.status] + common))
        if len(answer.body) > COPIED_BYTES:
            self.transport.write(answer.body)
        if closes:
            self.transport.close()
        self.on_response_complete()

    # A connection between two requests -------------------------------------------------------

    def on_response_complete(self) -> None:
        if self.pipeline:
            super().on_response_complete()
            self._count_queued()
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.cycle.body:
            self.cycle.body = bytearray()  # nobody will ask for it
        if self._head_is_complete:
            self._await_rest()
        if self.flow.read_paused or self.flow.write_paused:
            self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_again_in(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        # One timer that sees how long it has been, rather than one made and ended for each request;
        # and it is a request that ends the idle time, not any byte.
        pass

    def _look_again_in(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self._close_if_idle)

    def _close_if_idle(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return  # the end of the request that is under way sets the timer again
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_again_in(left)
        else:
            self.timeout_keep_alive_handler()

    # Bounds ----------------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.pipeline)

    @property
    def is_arriving(self) -> bool:
        return self.is_idle or self._head_is_complete

    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    def cut(self) -> None:
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        if self._is_deaf:
            return
        if self._head_bytes > self.head_max_bytes or len(self.headers or []) > HEADERS_MAX:
            self._refuse(TOO_LARGE)
        else:
            super().send_400_response(msg)

    def _count_queued(self) -> None:
        """What is there before its turn, in the room that all connections have for that."""
        held = self._unfinished_bytes if self._head_is_begun else 0
        for cycle, _ in self.pipeline:
            head = sum([len(name) + len(value) for name, value in cycle.scope["headers"]])
            held += QUEUED_BYTES + head + len(cycle.body)
        if self.crowd.queue(held - self._queued_bytes):
            self._queued_bytes = held
        elif self.is_idle:
            self._refuse(full())
        else:
            self.pipeline.clear()
            self._stop_listening()

    def _stop_listening(self) -> None:
        """The answers that are due go out, and with the last of them it ends."""
        self._is_deaf = True
        self._head_is_begun = False
        self._head_arrived()
        last = self.pipeline[0][0] if self.pipeline else self._running
        last.keep_alive = False

    def _throw_away(self, size: int) -> None:
        self._rest_bytes += size
        if self._rest_bytes > REST_MAX_BYTES:
            self.transport.close()

    def _await_rest(self) -> None:
        """The answer is out before the body is in: that has to end soon."""
        if self._head_is_complete and self.cycle.response_complete:
            self._rest_bytes = 0
            self._rest_timer = self.loop.call_later(self.rest_timeout_s, self.transport.close)

    def _rest_arrived(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None

    def _refuse(self, answer: bytes) -> None:
        self._is_deaf = True
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self.transport.close)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def bounded(
    head_max_bytes: int,
    head_timeout_s: float,
    call_at: CallAt | None = None,
    connections: Connections | None = None,
) -> type[BoundedProtocol]:
    """The protocol class with these limits, as uvicorn wants it: a class. `call_at`: what answers a
    POST to a path, if that is a call. `connections`: all those that there are.
    """
    given: dict[str, Any] = {"head_max_bytes": head_max_bytes, "head_timeout_s": head_timeout_s}
    given["crowd"] = connections or Connections()
    given["call_at"] = staticmethod(call_at) if call_at is not None else None
    return type("BoundedProtocol", (BoundedProtocol,), given)
