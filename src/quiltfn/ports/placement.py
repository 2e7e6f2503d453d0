"""The interface of what decides where a call runs in a fleet."""

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
    """Where the image is that a function's instances show. `nodes`: other nodes that have it."""

    is_here: bool
    nodes: Collection[str]


class Placement(Protocol):
    """Where calls run: here, or on another node. `catch_up`: brings into memory what other nodes
    have changed, as far as that is possible soon.
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
        """The node that is to run a call, but for those that were tried; None: this one. `version`:
        the current one of the function; `names_version`: the call names one, or an alias.
        `is_last`: it is not asked again, so the call rather waits there than finds none ready.
        """

    def sent(self, node: str, function_id: str) -> None:
        """A call of the function goes to the node."""

    def told(self, node: str, function_id: str, load: PoolLoad | None) -> None:
        """How the function's pool on the node is now, by its own word; None: nobody knows, since
        the node could not be reached.
        """

    def load(self, function_id: str) -> PoolLoad | None:
        """What this node tells others of the function's pool, if it has one."""

    def takes_calls(self) -> bool:
        """Whether this node takes any calls that others send."""
        ...

    async def refusal(self, call: ForwardedCall) -> Refusal | None:
        """Why this node does not take a call that another one sends; None: it does."""


class PeerUnavailable(Exception):
    """The node cannot be reached, or not any more (a sentence). `may_have_run`: it may have had the
    request.
    """

    def __init__(self, why: str, *, may_have_run: bool) -> None:
        super().__init__(why)
        self.may_have_run = may_have_run


class PeerResponse(Protocol):
    """What a node answers, from its head on. Its body raises `PeerUnavailable`."""

    status: int
    headers: list[tuple[str, str]]
    body: AsyncIterator[bytes]

    def header(self, name: str) -> str | None: ...

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises `PeerUnavailable`, also (`ports.peers.PeerAnswerTooLong`) behind
        `limit` bytes.
        """


class PeerRequest(Protocol):
    """A request: entering the block sends it and gives the response. `is_sent`: whether the node
    may have something of it, also where the block could not be entered.
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
        """The response, from its head on. A streamed body is not begun before the node asks for it,
        and what it raises comes out. Leaving the block early ends the request, which the node
        notices. `call`: what is said of a client's request; None: this node asks for itself. There
        is no bound on the time while the node is there. Raises `PeerUnavailable` as soon as the
        connection ends, or nothing has come from the node for some two seconds.
        """
