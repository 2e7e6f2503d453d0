"""A request as read by the connection: its head, and the part of its body that has arrived."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Protocol
from urllib.parse import quote

import httptools

from quiltfn.model.forwarded import ForwardedCall

NO_PARAMETERS: Mapping[str, str] = {}


class ClientDisconnected(Exception):
    """The client has disconnected, so nobody would read a response."""


class Headers(dict[str, str]):
    """Header fields by lowercase name: the first value of each; `getlist` returns all values."""

    # Repeated names, each with all its values; most requests have none.
    repeated: Mapping[str, list[str]] = {}

    def repeat(self, name: str, value: str) -> None:
        """Adds a further value of an existing name."""
        self.repeated = {**self.repeated, name: [*self.getlist(name), value]}

    def getlist(self, name: str) -> list[str]:
        """Every value of a name, in their original order."""
        if name in self.repeated:
            return self.repeated[name]
        value = self.get(name)
        return [] if value is None else [value]


class BodySource(Protocol):
    """The connection that a body arrives on."""

    def want_body(self) -> None:
        """Requests more of the body."""


class Request:
    """One request. `path` is percent-decoded, `query` is not; `target`: path and query as sent, b""
    for a request without a connection; `client`: the client's address; `parameters`: those that the
    router found in the path. `is_reserved`: the connection is reserved for management, so the
    request must not invoke. `keep_alive`: another request may follow. `body`: the part that has
    arrived and was not taken yet; complete once `is_whole`. `forwarded`: data of the node that
    forwarded the request; None: a client sent the request. `ends_with_client`: the request is
    cancelled when the client disconnects, since it stores nothing.
    """

    __slots__ = (
        "_source",
        "body",
        "client",
        "ends_with_client",
        "expects_continue",
        "forwarded",
        "head_bytes",
        "headers",
        "is_answered",
        "is_lost",
        "is_reserved",
        "is_whole",
        "keep_alive",
        "method",
        "parameters",
        "path",
        "query",
        "reader",
        "target",
        "task",
        "version",
    )

    def __init__(
        self,
        method: str,
        path: str,
        headers: Headers,
        query: bytes = b"",
        client: str = "unknown",
        source: BodySource | None = None,
    ) -> None:
        self.method, self.path, self.headers = method, path, headers
        self.query, self.client = query, client
        self.parameters = NO_PARAMETERS
        self.target = b""
        self.version = "1.1"
        self.keep_alive = True
        self.is_reserved = self.ends_with_client = False
        self.expects_continue = False
        self.forwarded: ForwardedCall | None = None
        self.head_bytes = 0
        # The connection sets these: the body is complete, the response is written, the client is
        # gone.
        self.is_whole = source is None
        self.is_answered = False
        self.is_lost = False
        self.task: asyncio.Task[None] | None = None
        self._source = source
        self.body: bytes | bytearray = b""
        self.reader: asyncio.Future[None] | None = None

    # For handlers ----------------------------------------------------------------------------

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody will read the response. False for a request with an idempotency key, whose
        repetition gets the response, and for a forwarded request, since the other node does not
        report that the client has disconnected.
        """
        return self.is_lost and self.forwarded is None and "idempotency-key" not in self.headers

    @property
    def raw_path(self) -> str:
        """The path as it was sent, percent-encoded."""
        if not self.target:
            return quote(self.path)
        return (httptools.parse_url(self.target).path or b"").decode("ascii")

    def take_body(self) -> bytes:
        """Removes and returns the part of the body that has arrived since the last call."""
        body, self.body = self.body, b""
        return bytes(body)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yields the body as it arrives. Raises `ClientDisconnected`."""
        while True:
            if self.body:
                yield self.take_body()
            elif self.is_whole:
                return
            elif self.is_lost:
                raise ClientDisconnected
            else:
                self.reader = asyncio.get_running_loop().create_future()
                if self._source is not None:
                    self._source.want_body()
                await self.reader

    async def lost(self) -> None:
        """Returns once the client has disconnected. Only for a request whose body is complete."""
        while not self.is_lost:
            self.reader = asyncio.get_running_loop().create_future()
            await self.reader

    # For the connection ----------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Adds a piece of the body."""
        if not self.body:
            self.body = data
        elif isinstance(self.body, bytearray):
            self.body += data
        else:
            self.body = bytearray(self.body)
            self.body += data
        if self.reader is not None:
            self.wake()

    def wake(self) -> None:
        """Wakes the reader of the body."""
        reader, self.reader = self.reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def forget_body(self) -> None:
        """Drops the rest of the body: the request has its response."""
        self.body = b""
