"""The connection: bounds on what comes before a request exists, and the short way of a call.

uvicorn's httptools protocol bounds neither the size of a head nor the time it may take, and without
that a thousand sockets that send a byte a minute cost as much as a thousand callers. And it makes a
task, a queue and a parsed address for every request before anybody looks at its path.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from quiltfn.api.direct import CallAt, DirectCall, to_bytes

HEAD_MAX_BYTES = 16 * 1024
HEADERS_MAX = 100
HEAD_TIMEOUT_S = 10.0
# Of calls with these more is to be asked than whether they came whole; likewise of headers that
# come twice.
OUT_OF_THE_ORDINARY = frozenset({b"transfer-encoding", b"upgrade", b"idempotency-key"})
TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 34\r\nconnection: close\r\n\r\n"
    b"The request's headers are too big."
)


class HeadTooLarge(Exception):
    """More header bytes or headers than are taken."""


class BoundedProtocol(HttpToolsProtocol):
    """httptools, with limits on the head of a request. Made by `bounded`."""

    head_max_bytes = HEAD_MAX_BYTES
    head_timeout_s = HEAD_TIMEOUT_S
    call_at: "CallAt | None" = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_bytes = 0
        self._unfinished_bytes = 0
        self._head_is_complete = False
        self._head_is_begun = False
        self._head_timer: asyncio.TimerHandle | None = None
        # A call whose head is there, until it is seen whether its body is in the same packet.
        self._held: DirectCall | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._head_is_complete:
            # The parser hands a header on only when it is whole, so one without an end is counted
            # here, by the bytes that led to nothing.
            self._unfinished_bytes += len(data)
        try:
            super().data_received(data)
        except HeadTooLarge:
            self._refuse()
            return
        if self._held is not None:
            self._let_go()
        # Most heads come whole; only for one that does not is there anything to time.
        if self._head_is_begun and self._head_timer is None:
            self._expect_head()
        if not self._head_is_complete and self._unfinished_bytes > 2 * self.head_max_bytes:
            self._refuse()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._head_is_complete = False
        self._head_is_begun = True

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        self._head_is_complete = True
        self._head_is_begun = False
        self._unfinished_bytes = 0
        self._head_arrived()
        self._held = self._direct_call()
        if self._held is None:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._held is not None:
            self._held.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._head_is_complete = False
        held, self._held = self._held, None
        if held is None:
            super().on_message_complete()
            return
        self.cycle = held  # type: ignore[assignment]
        task = self.loop.create_task(self._answer(held))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _direct_call(self) -> DirectCall | None:
        """The request, if it is a call that may go the short way."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if self.call_at is None or busy or self.parser.get_method() != b"POST":
            return None
        found = self.call_at(self.url.decode("latin-1"))
        if found is None or self.expect_100_continue or self.parser.get_http_version() != "1.1":
            return None
        names = {name for name, _ in self.headers}
        if len(names) < len(self.headers) or not names.isdisjoint(OUT_OF_THE_ORDINARY):
            return None
        endpoint, parameters = found
        path = self.url.decode("latin-1")
        scope = self.scope | {
            "method": "POST",
            "path": path,
            "raw_path": self.url,
            "query_string": b"",
            "path_params": dict(parameters),
        }
        return DirectCall(scope, endpoint, self.parser.should_keep_alive())

    def _let_go(self) -> None:
        """The packet is over and the body is not: it goes the ordinary way, which can wait."""
        held, self._held = self._held, None
        super().on_headers_complete()
        if held is not None and held.body:
            super().on_body(held.body)

    async def _answer(self, call: DirectCall) -> None:
        answer = await call.answer()
        if self.transport.is_closing():
            call.response_complete = True
            return
        if not call.keep_alive:
            answer.headers["connection"] = "close"
        closes = answer.headers.get("connection") == "close"
        head = STATUS_LINE[answer.status]
        self.transport.write(to_bytes(answer, head, self.server_state.default_headers))
        call.response_complete = True
        if closes:
            self.transport.close()
        self.on_response_complete()

    def send_400_response(self, msg: str) -> None:
        if self._is_too_large():
            self._refuse()
        else:
            super().send_400_response(msg)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._is_too_large():
            raise HeadTooLarge

    def _is_too_large(self) -> bool:
        headers = self.headers or []
        return self._head_bytes > self.head_max_bytes or len(headers) > HEADERS_MAX

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(TOO_LARGE)
            self.transport.close()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self.transport.close)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def bounded(
    head_max_bytes: int, head_timeout_s: float, call_at: CallAt | None = None
) -> type[BoundedProtocol]:
    """The protocol class with these limits, as uvicorn wants it: a class. `call_at`: what answers a
    POST to a path, if that is a call."""
    given: dict[str, Any] = {"head_max_bytes": head_max_bytes, "head_timeout_s": head_timeout_s}
    given["call_at"] = staticmethod(call_at) if call_at is not None else None
    return type("BoundedProtocol", (BoundedProtocol,), given)
