"""FleetNode: this server's node in its fleet, as far as requests are concerned, and what it sends
to another node of a client's request. A server that is alone has none.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from quiltfn.api.budgets import ResponseBudget
from quiltfn.api.request import Request
from quiltfn.api.route import Application, RequestContext
from quiltfn.api.stream_slots import StreamSlots
from quiltfn.http_trigger.call import of_the_connection
from quiltfn.model.forwarded import ForwardedCall
from quiltfn.model.invocation import Invocation
from quiltfn.ports import PoolCounting, Pools
from quiltfn.ports.placement import PeerRequest, Peers, Placement

# What belongs to one connection (RFC 9110, 7.6.1), and the length, which the connection counts.
PER_CONNECTION = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"}
PER_CONNECTION |= {"transfer-encoding", "expect", "content-length"}
# What says who calls, which the node that was asked has checked, and what it does by itself.
SAID_ANEW = {"x-request-id"}
CHECKED = {"authorization", "proxy-authorization", "x-api-key", "idempotency-key", *SAID_ANEW}
LEFT_OUT, LEFT_OUT_OF_URLS = PER_CONNECTION | CHECKED, PER_CONNECTION | SAID_ANEW


class FleetNode(Protocol):
    """This node in its fleet, as far as requests are concerned."""

    @property
    def name(self) -> str: ...

    @property
    def placement(self) -> Placement: ...

    @property
    def peers(self) -> Peers: ...

    @property
    def uncounted(self) -> Peers:
        """For requests that are no calls: a node that ends does not wait for them."""

    @property
    def pools(self) -> PoolCounting:
        """The instances of all nodes, as far as they have said."""

    def others(self) -> Sequence[str]:
        """The other nodes that are there."""

    @property
    def readers(self) -> StreamSlots:
        """The streams that all nodes have a part in, each with a connection to every other node."""

    @property
    def asked_at(self) -> float:
        """When a request was last sent to another node, by the loop's clock."""

    def lost(self, node: str, record: Invocation) -> None:
        """A call that was sent to the node may have run there, and it is not known how it ended.
        `record`: its end, unless its node knows better.
        """

    def answered(
        self, app: Application, responses: ResponseBudget
    ) -> AbstractAsyncContextManager[None]:
        """In the block, what other nodes send is answered by `app`. `responses`: what all long ones
        count in.
        """

    async def settled(self) -> None:
        """Returns once no request of this node is under way at another one."""


class WithPools(Protocol):
    """Services that count instances. `fleet` None: this server is alone."""

    @property
    def fleet(self) -> FleetNode | None: ...

    @property
    def pools(self) -> Pools: ...


def all_pools(services: WithPools) -> PoolCounting:
    """The instances of all nodes; of a server that is alone its own."""
    return services.pools if services.fleet is None else services.fleet.pools


def request_of(
    context: RequestContext[Any],
    peers: Peers,
    node: str,
    call: ForwardedCall,
    left_out: AbstractSet[str] = frozenset(),
) -> PeerRequest:
    """The client's request, for another node. `left_out`: headers that are not sent on."""
    request, headers = context.request, context.headers
    # At its URL a function may have credentials of its own; that node keeps ours from handlers.
    is_url = context.route is not None and context.route.admit is not None
    known = LEFT_OUT_OF_URLS if is_url else LEFT_OUT
    left_out = left_out | known if left_out else known
    if is_url and "connection" in headers:
        left_out = left_out | of_the_connection(
            [("connection", value) for value in headers.getlist("connection")]
        )
    sent_on = [one for one in headers.items() if one[0] not in left_out]
    if headers.repeated:
        sent_on = [(name, value) for name, _ in sent_on for value in headers.getlist(name)]
    sent_on.append(("x-request-id", context.request_id))
    body = context.passed_on or context.raw_body or b""
    return peers.request(node, request.method, _origin_form(request), sent_on, body, call)


def _origin_form(request: Request) -> bytes:
    """Path and query, however the client has written them."""
    if request.target.startswith(b"/"):
        return request.target
    query = b"?" + request.query if request.query else b""
    return request.raw_path.encode() + query
