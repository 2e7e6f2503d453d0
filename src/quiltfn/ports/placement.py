"""The interface for deciding where a call runs in a fleet."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import NamedTuple, Protocol

from quiltfn.model.forwarded import ForwardedCall, Refusal
from quiltfn.model.pool_load import PoolLoad
from quiltfn.ports.streamed_body import StreamedBody


class Destination(NamedTuple):
    """Another node that is to run a call. `may_wait`: the call waits there for an instance, if that
    node may have one; `in_any_case`: even if it may not have one yet.
    """

    node: str
    may_wait: bool
    in_any_case: bool = False


class ImagePlaces(NamedTuple):
    """The location of the image that a function's instances mount. `nodes`: other nodes that have
    it.
    """

    is_here: bool
    nodes: Collection[str]


class Placement(Protocol):
    """Where calls run: here, or on another node. `catch_up`: loads other nodes' changes into
    memory, as far as that is possible soon.
    """

    catch_up: Callable[[], Awaitable[object]]

    async def place(
        self,
        function_id: str,
        version: int,
        tried: Collection[str] = (),
        *,
        names_version: bool = False,
        is_last: bool = False,
    ) -> Destination | None:
        """The node that is to run a call, except those that were tried; None: this one. `version`:
        the current one of the function; `names_version`: the call names one, or an alias.
        `is_last`: this is the last attempt, so the call waits there if no instance is ready.
        """

    def sent(self, node: str, function_id: str) -> None:
        """A call of the function is sent to the node."""

    def told(self, node: str, function_id: str, load: PoolLoad | None) -> None:
        """The load of the function's pool on the node, as the node reported it; None: unknown,
        since the node was unreachable.
        """

    def load(self, function_id: str) -> PoolLoad | None:
        """The load of the function's pool that this node reports to others, if it has one."""

    def takes_calls(self) -> bool:
        """Whether this node accepts any forwarded calls."""
        ...

    async def refusal(self, call: ForwardedCall) -> Refusal | None:
        """Why this node refuses a forwarded call; None: it accepts it."""


class PeerUnavailable(Exception):
    """The node is unreachable, or no longer reachable (a sentence). `may_have_run`: it may have
    received the request.
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
    """A request: entering the block sends it and returns the response. `is_sent`: whether the node
    may have received part of it, even if entering failed.
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
        """The response, read up to its head. A streamed body is not read before the node asks for
        it, and its errors are raised here. Leaving the block early ends the request, which the node
        notices. `call`: metadata of a client's request; None: the request is this node's own. There
        is no time limit while the node is alive. Raises `PeerUnavailable` as soon as the connection
        ends, or after about two seconds without data from the node.
        """
