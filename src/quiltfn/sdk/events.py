"""The events of an output stream, and how they are read from server-sent events."""

import base64
from collections.abc import AsyncIterator, Iterator
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import Struct

from quiltfn.sdk.decoding import decode
from quiltfn.sdk.errors import ConnectionFailed, read_error
from quiltfn.wire import CallStarted, Invocation, OutputChunk


class Started(Struct, frozen=True):
    """The invocation was handed to a handler."""

    invocation_id: str
    cold_start: bool


class Output(Struct, frozen=True):
    """A handler wrote `data` to `stream` ("stdout" or "stderr"), after `offset` bytes.
    `invocation_id`: the invocation, in the logs of a function.
    """

    stream: str
    offset: int
    data: bytes
    invocation_id: str | None = None

    @property
    def text(self) -> str:
        """The data as text, with U+FFFD for bytes that are not UTF-8."""
        return self.data.decode("utf-8", "replace")


class Gap(Struct, frozen=True, kw_only=True):
    """`bytes` bytes of `stream` from `offset` on are not stored. In the logs of a function, also:
    `calls` invocations are left out because the reader was too slow; or, with `node_id`, that
    node's output is missing.
    """

    stream: str | None = None
    offset: int = 0
    bytes: int = 0
    invocation_id: str | None = None
    calls: int = 0
    node_id: str | None = None


class End(Struct, frozen=True):
    """The invocation has ended; `invocation` is its record."""

    invocation: Invocation


Event: TypeAlias = Started | Output | Gap | End


class TenantEvent(Struct, frozen=True):
    """An event in the tenant. `type`: such as "invocation.ended". `data`: the affected object.
    `id`: resumes after this event, within a minute.
    """

    type: str
    data: dict[str, Any]
    id: str


E = TypeVar("E")


class Reader(Generic[E]):
    """Parses chunks of bytes into events. `is_endless`: the stream has no final event."""

    def __init__(self, *, is_endless: bool = False) -> None:
        self._is_endless = is_endless
        self._is_over, self._name = False, ""
        self._parts: list[bytes] = []
        self.last_id: str | None = None

    def read(self, chunks: Iterator[bytes]) -> Iterator[E]:
        """The events in the chunks. Raises `ApiError` for an error that the server reports, and
        `ConnectionFailed` if the final event does not arrive.
        """
        for chunk in chunks:
            yield from self._events(chunk)
        self._check_end()

    async def read_async(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[E]:
        """Like `read`, for asynchronous chunks."""
        async for chunk in chunks:
            for event in self._events(chunk):
                yield event
        self._check_end()

    def _check_end(self) -> None:
        if not self._is_over:
            raise ConnectionFailed("the stream ended before the invocation")

    def _events(self, chunk: bytes) -> Iterator[E]:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield from self._line(b"".join([*self._parts, line]))
            self._parts.clear()
        if rest:
            self._parts.append(rest)

    def _line(self, line: bytes) -> Iterator[E]:
        # The server sends `id`, `event` and `data` once for each event, in this order.
        field, _, value = line.partition(b": ")
        if field == b"event":
            self._name = value.decode()
        elif field == b"id":
            self.last_id = value.decode()
        elif field == b"data":
            event = self._event(value)
            if event is not None:
                yield event

    def _event(self, data: bytes) -> E | None:
        """The event with the name that was read, and its data. None: an unknown event."""
        raise NotImplementedError


class EventReader(Reader[Event]):
    """Reads events of invocations' output."""

    def _event(self, data: bytes) -> Event | None:
        if self._name == "started":
            started = decode(data, CallStarted)
            return Started(started.invocation_id, started.cold_start)
        if self._name in ("stdout", "stderr"):
            chunk = decode(data, OutputChunk)
            written = (
                base64.b64decode(chunk.base64)
                if chunk.base64 is not None
                else (chunk.text or "").encode()
            )
            return Output(self._name, chunk.offset, written, chunk.invocation_id)
        if self._name == "gap":
            return decode(data, Gap)
        if self._name == "end":
            self._is_over = not self._is_endless
            return End(decode(data, Invocation))
        if self._name == "error":
            self._is_over = True
            raise read_error(503, {}, data)
        return None  # from a newer server


class TenantEventReader(Reader[TenantEvent]):
    """Reads events of a tenant; every event name is valid."""

    def __init__(self) -> None:
        super().__init__(is_endless=True)

    def _event(self, data: bytes) -> TenantEvent:
        return TenantEvent(self._name, msgspec.json.decode(data), self.last_id or "")
