"""FleetNode: the nodes that share a server's store, as far as requests are concerned."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Protocol

from quiltfn.api.http.budgets import ResponseBudget
from quiltfn.api.http.event_stream import Events
from quiltfn.api.http.response import Response
from quiltfn.api.http.route import Application, RequestContext, Route
from quiltfn.ports import PoolCounting, Pools

# Returns once no call has come for a while; it is told when the last one came.
Quiet = Callable[[Callable[[], float]], Awaitable[None]]


class EventsOfAll(Protocol):
    """The events of a stream that all nodes have a part in."""

    async def start(self) -> None: ...

    def events(self) -> Events: ...

    def close(self) -> None: ...


class FleetNode(Protocol):
    """What a server asks of other nodes, and answers to them."""

    @property
    def is_alone(self) -> bool:
        """Whether there can be no others."""

    @property
    def pools(self) -> PoolCounting:
        """The instances of all nodes, as far as they have said."""

    def elsewhere(self, context: RequestContext[Any], route: Route) -> Awaitable[Response | None]:
        """The response of the node that is to answer the request; None: this one is."""

    def asked_of_others(self, context: RequestContext[Any]) -> AsyncGenerator[bytes, None]:
        """What the other nodes answer to the same request, which is a GET, as it comes; nothing
        where another node asks.
        """

    def streamed_by_all(
        self, context: RequestContext[Any], own: Events, gap: Callable[[str], bytes]
    ) -> EventsOfAll | None:
        """The events of a stream of this node and of those that the other nodes answer the same
        request with; None: there are only the own ones. `gap`: what is told of a node that was
        lost. Raises `CapacityFull` where this node has too many such streams, `RateLimited` where
        the tenant has.
        """

    def answered(
        self, app: Application, responses: ResponseBudget
    ) -> AbstractAsyncContextManager[None]:
        """In the block, what other nodes send is answered by `app`. `responses`: what all long ones
        count in.
        """

    def images_only_on(self, node: str, others: Collection[str]) -> frozenset[str]:
        """The images of tenants, by their digests, that a node has and none of some others."""

    async def joined(self, tenant_id: str) -> None:
        """Returns once other nodes tell of a tenant whose events are followed here."""

    async def settled(self, quiet: Quiet) -> None:
        """Returns once this node gets nothing to send on, and none of its requests is under way at
        another one. `quiet`: as `Server.quiet`.
        """


class Alone:
    """`FleetNode` of a server that has none."""

    is_alone = True

    def __init__(self, pools: Pools) -> None:
        self.pools: PoolCounting = pools

    async def elsewhere(self, context: RequestContext[Any], route: Route) -> Response | None:
        """This node answers everything."""

    async def asked_of_others(self, context: RequestContext[Any]) -> AsyncGenerator[bytes, None]:
        """Nobody answers."""
        del context
        nothing: tuple[bytes, ...] = ()
        for piece in nothing:
            yield piece

    def streamed_by_all(
        self, context: RequestContext[Any], own: Events, gap: Callable[[str], bytes]
    ) -> EventsOfAll | None:
        """There are only the own events."""

    def answered(
        self, app: Application, responses: ResponseBudget
    ) -> AbstractAsyncContextManager[None]:
        """Nobody asks."""
        del app, responses
        return nullcontext()

    def images_only_on(self, node: str, others: Collection[str]) -> frozenset[str]:
        """Nobody else needs a copy."""
        del node, others
        return frozenset()

    async def joined(self, tenant_id: str) -> None:
        """Nobody else has events."""

    async def settled(self, quiet: Quiet) -> None:
        """Nothing is sent on."""
