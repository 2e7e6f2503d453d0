"""The interface for requests to other nodes of a fleet."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from quiltfn.model.forwarded import ForwardedCall
from quiltfn.ports.streamed_body import StreamedBody


class PeerUnavailable(Exception):
    """The node was or became unreachable (a sentence). `may_have_run`: it may have received the
    request.
    """

    def __init__(self, why: str, *, may_have_run: bool) -> None:
        super().__init__(why)
        self.may_have_run = may_have_run


class PeerResponse(Protocol):
    """A node's response, read up to its head. Its body raises `PeerUnavailable`."""

    status: int
    headers: list[tuple[str, str]]
    body: AsyncIterator[bytes]

    def header(self, name: str) -> str | None: ...

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises `PeerUnavailable`, or its subclass `ports.peers.PeerAnswerTooLong`
        after `limit` bytes.
        """


class PeerRequest(Protocol):
    """A request. Entering the block sends it and returns the response. `is_sent`: whether the node
    may have received a part of the request, even if entering failed.
    """

    @property
    def is_sent(self) -> bool: ...

    async def __aenter__(self) -> PeerResponse: ...

    async def __aexit__(self, *_: object) -> bool | None: ...


class Peers(Protocol):
    """Sends requests to other nodes."""

    def request(
        self,
        node: str,
        method: str,
        target: bytes,
        headers: Sequence[tuple[str, str]],
        body: bytes | StreamedBody,
        call: ForwardedCall | None,
    ) -> PeerRequest:
        """Prepare a request; entering it returns the response, read up to its head. A streamed body
        is read only once the node asks for it, and its errors are raised on entry. Leaving the
        block early ends the request, which the node notices. `call`: metadata of a client's
        request; None: the request is this node's own. There is no time limit while the node
        responds to pings. Raises `PeerUnavailable` as soon as the connection ends, or after about
        two seconds without data from the node.
        """
