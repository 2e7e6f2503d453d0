"""Bounds on what comes before a request exists: the size of its head, and how long it may take.

uvicorn's httptools protocol has neither, and without them a thousand sockets that send a byte a
minute cost as much as a thousand callers.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_MAX_BYTES = 16 * 1024
HEADERS_MAX = 100
HEAD_TIMEOUT_S = 10.0
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

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_bytes = 0
        self._unfinished_bytes = 0
        self._head_is_complete = False
        self._head_timer: asyncio.TimerHandle | None = None

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
        if not self._head_is_complete and self._unfinished_bytes > 2 * self.head_max_bytes:
            self._refuse()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._head_is_complete = False
        if self._head_timer is None:
            self._expect_head()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        self._head_is_complete = True
        self._unfinished_bytes = 0
        self._head_arrived()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head_is_complete = False
        super().on_message_complete()

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


def bounded(head_max_bytes: int, head_timeout_s: float) -> type[BoundedProtocol]:
    """The protocol class with these limits, as uvicorn wants it: a class."""
    limits = {"head_max_bytes": head_max_bytes, "head_timeout_s": head_timeout_s}
    return type("BoundedProtocol", (BoundedProtocol,), limits)
