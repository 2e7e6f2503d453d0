"""How requests between nodes can fail, and the information needed to send them. The interface that
sends them is `placement.Peers`.
"""

from typing import NamedTuple, Protocol

from quiltfn.model.forwarded import ForwardedCall
from quiltfn.ports.placement import PeerUnavailable

# Maximum bytes in one piece of a body.
PIECE_BYTES = 64 * 1024


class PeerUnreachable(PeerUnavailable):
    """The node did not start the request: no connection, or it does not admit this node."""

    def __init__(self, why: str) -> None:
        super().__init__(why, may_have_run=False)


class PeerBusy(PeerUnreachable):
    """As above: the maximum number of connections to it are all in use."""


class PeerGone(PeerUnavailable):
    """The connection ended, or the node was silent, after the request was sent and before the
    response was complete. How much of the request the node has handled is unknown.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why, may_have_run=True)


class PeerAnswerTooLong(PeerGone):
    """The response exceeds the limit, and was not read to its end."""


class Asker(NamedTuple):
    """The sender of a request on the peer port. `node`: the one that its certificate names; `call`:
    its metadata of a client's forwarded request; None: the request is its own.
    """

    node: str
    call: ForwardedCall | None


class PeerDirectory(Protocol):
    """This node's knowledge of the others, in memory."""

    def address(self, node: str) -> str | None:
        """HOST:PORT of a node's peer port; None: the node does not exist."""
        ...

    def refusal(self, node: str) -> str | None:
        """Why this node neither sends requests to that one nor handles its requests, such as "it
        was removed from the fleet"; None: it may. Checked for each request.
        """
        ...
