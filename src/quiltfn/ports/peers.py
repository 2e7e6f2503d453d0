"""How requests between nodes can fail, and what asking needs to know of them. The interface that
sends them is `placement.Peers`.
"""

from typing import NamedTuple, Protocol

from quiltfn.model.forwarded import ForwardedCall
from quiltfn.ports.placement import PeerUnavailable

# A body comes in pieces of at most so many bytes.
PIECE_BYTES = 64 * 1024


class PeerUnreachable(PeerUnavailable):
    """It did not begin with the request: no connection, or it does not let this node in."""

    def __init__(self, why: str) -> None:
        super().__init__(why, may_have_run=False)


class PeerBusy(PeerUnreachable):
    """Likewise: there are as many connections to it as there may be, all of them in use."""


class PeerGone(PeerUnavailable):
    """The connection ended, or the node was silent, after the request was sent and before the
    answer was whole. Nobody knows how far the node came.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why, may_have_run=True)


class PeerAnswerTooLong(PeerGone):
    """The answer has more bytes than were wanted, and was not read to its end."""


class Asker(NamedTuple):
    """Who asks on the peer port. `node`: the one that its certificate names; `call`: what it says
    of a client's request that it sends on; None: it asks for itself.
    """

    node: str
    call: ForwardedCall | None


class PeerDirectory(Protocol):
    """What this node knows of the others, from memory."""

    def address(self, node: str) -> str | None:
        """HOST:PORT of a node's peer port; None: there is no such node."""
        ...

    def refusal(self, node: str) -> str | None:
        """Why this node neither asks that one nor answers it, such as "it was removed from the
        fleet"; None: it may. It is asked for each request.
        """
        ...
