"""FleetCalls: the invocations of a node that other nodes run, and those that it runs for them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from quiltfn.api.fleet_node import F, Quiet
from quiltfn.api.http.budgets import ResponseBudget
from quiltfn.api.http.errors import error_response
from quiltfn.api.http.event_stream import Events as Stream
from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import AnyContext, Application, RequestContext, Route
from quiltfn.api.http.stream_slots import StreamSlots
from quiltfn.calls.invoke import Invoker
from quiltfn.fleet.all_nodes import asked_of_others, streamed_by_all
from quiltfn.fleet.counts import FleetCounts
from quiltfn.fleet.forwarding import answering_peers, elsewhere
from quiltfn.fleet.lost_calls import LostCalls
from quiltfn.fleet.parts import FleetParts
from quiltfn.fleet.peer_server import PeerHandler, open_peer_server
from quiltfn.fleet.peer_streams import Together
from quiltfn.fleet.peers import CONNECTIONS_MAX, CountedPeers
from quiltfn.fleet.placement import Placement
from quiltfn.fleet.watching import OwnEvents, Watching
from quiltfn.model.errors import NotFound
from quiltfn.model.invocation import Invocation
from quiltfn.model.member import Member
from quiltfn.ports.peers import Asker
from quiltfn.ports.placement import PeerUnavailable

# The path at which a node asks another whether it knows an invocation that is not in the store, the
# possible responses, and the limits of the request.
CALLS = "/fleet/calls/"
SAID = {b"true": True, b"false": False}
ASK_MAX_S, ANSWER_MAX_BYTES = 2.0, 1024
# Streams of all nodes use at most a quarter of the connections to each other node.
READERS_MAX = CONNECTIONS_MAX // 4


class FleetCalls:
    """`FleetNode` of the API, and `ForwardingNode`."""

    is_alone = False

    def __init__(
        self,
        parts: FleetParts,
        invoker: Invoker,
        pools: FleetCounts,
        placement: Placement,
        watched: tuple[OwnEvents, Watching],
        handlers: Mapping[str, PeerHandler],
    ) -> None:
        """`watched`: the parts that send events to the other nodes, and receive theirs. `handlers`:
        for requests of nodes on their own behalf, by path prefix.
        """
        self._parts, self._invoker, self._journal = parts, invoker, invoker.journal
        self.name, self.pools, self.placement = parts.own.name, pools, placement
        self._under_way: set[str] = set()  # Invocations that run here for other nodes.
        clock, patience_s = parts.clock, parts.times.fence_s
        self._lost = LostCalls(self._journal, clock, self._is_known_at, patience_s)
        self.uncounted, self.peers = parts.peers, CountedPeers(parts.peers)
        self.readers = StreamSlots(READERS_MAX // 4, READERS_MAX, "streams of all nodes open")
        self._own_events, self._watching = watched
        self._handlers: dict[str, PeerHandler] = {CALLS: self._say_whether_known, **handlers}
        self.images_only_on, self.joined = parts.images.only_on, self._watching.joined

    def read(self, members: Sequence[Member]) -> None:
        """Call it with the states of all nodes after each read, until `aclose`."""
        self._lost.read(members)

    def elsewhere(self, context: RequestContext[F], route: Route[F]) -> Awaitable[Response | None]:
        return elsewhere(self, context, route)

    def asked_of_others(self, context: AnyContext) -> AsyncGenerator[bytes, None]:
        return asked_of_others(self, context)

    def streamed_by_all(
        self, context: AnyContext, own: Stream, gap: Callable[[str], bytes]
    ) -> Together | None:
        return streamed_by_all(self, context, own, gap)

    def others(self) -> Sequence[str]:
        return self.pools.nodes()

    @asynccontextmanager
    async def answered(self, app: Application, responses: ResponseBudget) -> AsyncIterator[None]:
        """See `FleetNode`. Raises `BadSetting`."""
        answer = answering_peers(app, self)

        async def respond(request: Request, asker: Asker) -> Response:
            if asker.call is None:
                return await self._answer_node(request, asker)
            if asker.call.version is None:
                return await answer(request, asker.call)
            self._under_way.add(asker.call.invocation_id)
            try:
                return await answer(request, asker.call)
            finally:
                self._under_way.discard(asker.call.invocation_id)

        own, directory, keys = self._parts.own, self._parts.directory, self._parts.revisions
        async with open_peer_server(own, directory, respond, responses=responses, keys=keys):
            try:
                yield
            finally:
                self._own_events.end()

    async def _answer_node(self, request: Request, asker: Asker) -> Response:
        """Respond to a request of a node on its own behalf."""
        for beginning, handler in self._handlers.items():
            if request.path.startswith(beginning):
                return await handler(request, asker)
        return error_response(NotFound("there is no such route"), "")

    async def _say_whether_known(self, request: Request, _asker: Asker) -> Response:
        """Respond whether this node knows an invocation that is not in the store."""
        invocation_id = request.path.removeprefix(CALLS)
        is_here = invocation_id in self._under_way or self._invoker.has_begun(invocation_id)
        return json_response(is_here or self._journal.is_unstored(invocation_id))

    async def _is_known_at(self, node: str, invocation_id: str) -> bool | None:
        """Ask a node for `LostCalls` whether it knows the invocation."""
        target = f"{CALLS}{invocation_id}".encode()
        with contextlib.suppress(PeerUnavailable, TimeoutError):
            async with (
                asyncio.timeout(ASK_MAX_S),
                self.uncounted.request(node, "GET", target, (), b"", None) as answer,
            ):
                return SAID.get(await answer.read(ANSWER_MAX_BYTES))
        return None

    def lost(self, node: str, record: Invocation) -> None:
        self._lost.add(node, record)

    async def settled(self, quiet: Quiet) -> None:
        await quiet(lambda: self.peers.asked_at)
        await self.peers.settled()

    async def aclose(self) -> None:
        """End the requests to other nodes, and send no more."""
        await self.peers.aclose()
        await self._lost.aclose()
