"""FleetNode: how the API works with the other nodes that share this server's store."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Protocol, TypeVar

from quiltfn.api.http.budgets import ResponseBudget
from quiltfn.api.http.event_stream import Events
from quiltfn.api.http.response import Response
from quiltfn.api.http.route import AnyContext, Application, RequestContext, Route, RouteServices
from quiltfn.calls.work import Work
from quiltfn.ports import Clock, PoolCounting, Pools
from quiltfn.store.calls.journal import SpoolJournal

# Returns once no invocation has arrived for a while. Its argument returns the arrival time of the
# last invocation.
Quiet = Callable[[Callable[[], float]], Awaitable[None]]


class ForwardingServices(RouteServices, Protocol):
    """The services for finding the node of a request, and for storing a record if that node is
    lost.
    """

    clock: Clock
    journal: SpoolJournal
    work: Work


F = TypeVar("F", bound=ForwardingServices)


class EventsOfAll(Protocol):
    """An event stream that combines the events of all nodes."""

    async def start(self) -> None: ...

    def events(self) -> Events: ...

    def close(self) -> None: ...


class FleetNode(Protocol):
    """Sends requests to other nodes, and responds to theirs."""

    @property
    def is_alone(self) -> bool:
        """Whether this server belongs to no fleet."""

    @property
    def pools(self) -> PoolCounting:
        """The instances of all nodes, as the nodes last reported them."""

    def elsewhere(self, context: RequestContext[F], route: Route[F]) -> Awaitable[Response | None]:
        """The response of the node that is responsible for the request. None: this node is
        responsible.
        """

    def asked_of_others(self, context: AnyContext) -> AsyncGenerator[bytes, None]:
        """The other nodes' responses to the same GET request, as they arrive. Empty if the request
        itself comes from another node.
        """

    def streamed_by_all(
        self, context: AnyContext, own: Events, gap: Callable[[str], bytes]
    ) -> EventsOfAll | None:
        """Combine this node's events with those that the other nodes send in response to the same
        request. None: no other node has events. `gap`: encodes the event that reports a lost node.
        Raises `CapacityFull` if this node has too many such streams, and `RateLimited` if the
        tenant has.
        """

    def answered(
        self, app: Application, responses: ResponseBudget
    ) -> AbstractAsyncContextManager[None]:
        """Within the block, `app` responds to the requests of other nodes. `responses`: the budget
        of long responses.
        """

    def images_only_on(self, node: str, others: Collection[str]) -> frozenset[str]:
        """The digests of the tenants' images that `node` has and none of `others` has."""

    async def joined(self, tenant_id: str) -> None:
        """Return once the other nodes send the events of a tenant that is followed here."""

    async def settled(self, quiet: Quiet) -> None:
        """Return once no more requests to forward arrive, and none of those already forwarded is in
        progress. `quiet`: as `Server.quiet`.
        """


class Alone:
    """`FleetNode` of a server that belongs to no fleet."""

    is_alone = True

    def __init__(self, pools: Pools) -> None:
        self.pools: PoolCounting = pools

    async def elsewhere(self, context: RequestContext[F], route: Route[F]) -> Response | None:
        """This node responds to every request."""

    async def asked_of_others(self, context: AnyContext) -> AsyncGenerator[bytes, None]:
        """There are no other nodes."""
        del context
        nothing: tuple[bytes, ...] = ()
        for piece in nothing:
            yield piece

    def streamed_by_all(
        self, context: AnyContext, own: Events, gap: Callable[[str], bytes]
    ) -> EventsOfAll | None:
        """There are only this node's events."""

    def answered(
        self, app: Application, responses: ResponseBudget
    ) -> AbstractAsyncContextManager[None]:
        """No other node sends requests."""
        del app, responses
        return nullcontext()

    def images_only_on(self, node: str, others: Collection[str]) -> frozenset[str]:
        """No other node needs a copy."""
        del node, others
        return frozenset()

    async def joined(self, tenant_id: str) -> None:
        """No other node has events."""

    async def settled(self, quiet: Quiet) -> None:
        """Nothing is forwarded."""
