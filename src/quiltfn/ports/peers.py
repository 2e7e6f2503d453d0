"""How requests between nodes can fail, and the information needed to send them. `placement.Peers`
is the interface that sends them.
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
    """The request was not sent, because the maximum number of connections to the node are in
    use.
    """


class PeerGone(PeerUnavailable):
    """After the request was sent and before the response was complete, the connection ended or the
    node was silent. The node may have handled the request in part or completely.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why, may_have_run=True)


class PeerAnswerTooLong(PeerGone):
    """The response exceeds the limit, and was not read to its end."""


class Asker(NamedTuple):
    """The sender of a request on the peer port. `node`: the node that its certificate names;
    `call`: metadata of the client's request that it forwards; None: the request is its own.
    """

    node: str
    call: ForwardedCall | None


class PeerDirectory(Protocol):
    """This node's knowledge of the other nodes, in memory."""

    def address(self, node: str) -> str | None:
        """HOST:PORT of a node's peer port; None: the node does not exist."""
        ...

    def refusal(self, node: str) -> str | None:
        """Why this node and that one must not exchange requests, such as "it was removed from the
        fleet"; None: they may. Checked for each request.
        """
        ...
