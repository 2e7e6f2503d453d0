"""FleetCalls: the calls of a node that other nodes run, and those that it runs for them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from quiltfn.api.http.budgets import ResponseBudget
from quiltfn.api.http.errors import error_response
from quiltfn.api.http.event_stream import Events as Stream
from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response, json_response
from quiltfn.api.http.route import Application, RequestContext, Route
from quiltfn.api.http.stream_slots import StreamSlots
from quiltfn.calls.events import Events
from quiltfn.calls.invoke import Invoker
from quiltfn.fleet.all_nodes import asked_of_others, streamed_by_all
from quiltfn.fleet.counts import FleetCounts
from quiltfn.fleet.directory import MemberDirectory
from quiltfn.fleet.files import NodeFile
from quiltfn.fleet.forwarding import answering_peers, elsewhere
from quiltfn.fleet.lost_calls import LostCalls
from quiltfn.fleet.membership import Membership
from quiltfn.fleet.peer_server import PeerHandler, open_peer_server
from quiltfn.fleet.peer_streams import Together
from quiltfn.fleet.peers import CONNECTIONS_MAX, HttpPeers, KeyRevisions, PeerRequest
from quiltfn.fleet.placement import Placement
from quiltfn.fleet.reports import ReportReader
from quiltfn.fleet.routing import RoutingTable
from quiltfn.fleet.tenants import FleetTenants
from quiltfn.fleet.watching import PATH, OwnEvents, Watching
from quiltfn.model.errors import NotFound
from quiltfn.model.forwarded import ForwardedCall
from quiltfn.model.invocation import Invocation
from quiltfn.model.member import Member, NodeState
from quiltfn.model.pool_load import PoolLoad
from quiltfn.ports import Pools
from quiltfn.ports.peers import Asker
from quiltfn.ports.placement import PeerUnavailable
from quiltfn.ports.streamed_body import StreamedBody

# Where a node asks whether another one knows something of a call that is not in the store: what it
# is told, and how long it waits.
CALLS = "/fleet/calls/"
SAID = {b"true": True, b"false": False}
ASK_MAX_S, ANSWER_MAX_BYTES = 2.0, 1024
# Of the connections to each other node they have a quarter.
READERS_MAX = CONNECTIONS_MAX // 4


class FleetCalls:
    """`FleetNode` of the API, and `ForwardingNode`."""

    is_alone = False

    def __init__(
        self,
        own: NodeFile,
        membership: Membership,
        invoker: Invoker,
        pools: Pools,
        obtain: Callable[[str], Awaitable[bool]],
        revisions: KeyRevisions,
    ) -> None:
        """`obtain`: as `Placement` takes it; `revisions`: of keys, which pings carry."""
        self._revisions = revisions
        self.name = own.name
        self._own, self._membership, self._invoker = own, membership, invoker
        self._journal = journal = invoker.journal
        self._under_way: set[str] = set()  # The calls of other nodes.
        table = RoutingTable()
        self._reports, self._directory = ReportReader(own.name, table), MemberDirectory(own.name)
        clock, times = membership.clock, membership.times
        self._lost = LostCalls(journal, clock, self._is_known_at, times.fence_s)
        self.pools = FleetCounts(own.name, pools, clock, times.fence_s, times.beat_s)
        self.tenants = FleetTenants(own.name, clock)
        self.uncounted = HttpPeers(own, self._directory, revisions)
        self.peers = CountedPeers(self.uncounted)
        self.readers = StreamSlots(READERS_MAX // 4, READERS_MAX, "streams of all nodes open")
        self._own_events: OwnEvents | None = None
        # By the beginning of their paths: what answers requests of nodes for themselves.
        self.handlers: dict[str, PeerHandler] = {CALLS: self._say_whether_known}
        self.placement = Placement(table, pools.load, obtain, self._serves, self._takes_calls)
        self.placement.may_start = self._is_seen
        self.placement.on_told.append(self._told)
        membership.on_read.append(self._read)
        self._read(membership.seen())

    def _read(self, members: Sequence[Member]) -> None:
        self._directory.learned(members)
        self.pools.read(members)
        self.tenants.read(members, self.pools.nodes())
        self._reports.read(members)
        self._lost.read(members)

    @asynccontextmanager
    async def watching(self, events: Events, own: Events) -> AsyncIterator[None]:
        """In the block `events` have those of the other nodes, too, which are told of this node's
        `own`.
        """
        self._own_events = OwnEvents(own)
        self.handlers[PATH] = self._own_events.answer
        watching = Watching(events, self.uncounted, self.pools.told)

        def read(_members: Sequence[Member]) -> None:
            watching.read(self.pools.nodes())

        self._membership.on_read.append(read)
        try:
            yield
        finally:
            self._membership.on_read.remove(read)
            await watching.aclose()

    def _told(self, node: str, load: PoolLoad) -> None:
        self.pools.told(node, load.function_id, load.counts)

    def elsewhere(self, context: RequestContext[Any], route: Route) -> Awaitable[Response | None]:
        """As `FleetNode` says."""
        return elsewhere(self, context, route)

    def asked_of_others(self, context: RequestContext[Any]) -> AsyncGenerator[bytes, None]:
        """As `FleetNode` says."""
        return asked_of_others(self, context)

    def streamed_by_all(
        self, context: RequestContext[Any], own: Stream, gap: Callable[[str], bytes]
    ) -> Together | None:
        """As `FleetNode` says."""
        return streamed_by_all(self, context, own, gap)

    def others(self) -> Sequence[str]:
        """As `ForwardingNode` says."""
        return self.pools.nodes()

    def _serves(self) -> bool:
        is_meant_to = self._membership.state in (NodeState.READY, NodeState.CORDONED)
        is_able = self._membership.lost is None and not self._invoker.is_draining
        return is_meant_to and is_able and not self._journal.refuses  # others keep records then

    def _takes_calls(self) -> bool:
        is_ready = self._membership.state is NodeState.READY
        return is_ready and self._serves() and self._is_seen()

    def _is_seen(self) -> bool:
        return self._membership.problem is None

    @asynccontextmanager
    async def answered(self, app: Application, responses: ResponseBudget) -> AsyncIterator[None]:
        """As `FleetNode` says. Raises `BadSetting`."""
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

        within = self._own, self._directory, respond
        async with open_peer_server(*within, responses=responses, keys=self._revisions):
            try:
                yield
            finally:
                if self._own_events is not None:
                    self._own_events.end()

    async def _answer_node(self, request: Request, asker: Asker) -> Response:
        """What a node asks for itself."""
        for beginning, handler in self.handlers.items():
            if request.path.startswith(beginning):
                return await handler(request, asker)
        return error_response(NotFound("there is no such route"), "")

    async def _say_whether_known(self, request: Request, _asker: Asker) -> Response:
        """Tells a node whether this one knows something of a call that is not in the store."""
        one = request.path.removeprefix(CALLS)
        is_here = one in self._under_way or self._invoker.has_begun(one)
        return json_response(is_here or self._journal.is_unstored(one))

    async def _is_known_at(self, node: str, invocation_id: str) -> bool | None:
        """As `LostCalls` asks."""
        target = f"{CALLS}{invocation_id}".encode()
        with contextlib.suppress(PeerUnavailable, TimeoutError):
            async with (
                asyncio.timeout(ASK_MAX_S),
                self.uncounted.request(node, "GET", target, (), b"", None) as answer,
            ):
                return SAID.get(await answer.read(ANSWER_MAX_BYTES))
        return None

    def lost(self, node: str, record: Invocation) -> None:
        """As `ForwardingNode` says."""
        self._lost.add(node, record)

    @property
    def asked_at(self) -> float:
        """As `FleetNode` says."""
        return self.peers.asked_at

    async def settled(self) -> None:
        """As `FleetNode` says."""
        await self.peers.settled()

    async def aclose(self) -> None:
        """No more requests go to other nodes, and no look begins work."""
        self._membership.on_read.remove(self._read)
        await self.peers.aclose()
        await self._lost.aclose()


class CountedPeers:
    """`Peers` that know whether a request is under way."""

    def __init__(self, peers: HttpPeers) -> None:
        self._peers, self._under_way, self.asked_at = peers, 0, float("-inf")
        self._settled: asyncio.Event | None = None  # Only while somebody waits for it.

    def request(
        self,
        node: str,
        method: str,
        target: bytes,
        headers: Sequence[tuple[str, str]],
        body: bytes | StreamedBody,
        call: ForwardedCall | None,
    ) -> PeerRequest:
        """As `Peers` says."""
        return PeerRequest(self._peers, node, (method, target, headers, body, call), self)

    def started(self) -> None:
        """One more is under way."""
        self._under_way += 1
        self.asked_at = asyncio.get_running_loop().time()

    def ended(self) -> None:
        """One less."""
        self._under_way -= 1
        if self._settled is not None and not self._under_way:
            self._settled.set()
            self._settled = None

    async def settled(self) -> None:
        """Returns once none is under way."""
        if self._under_way:
            self._settled = self._settled or asyncio.Event()
            await self._settled.wait()

    async def aclose(self) -> None:
        await self._peers.aclose()
