"""JoinedNode: this server in its fleet, once it has pools: it follows the other nodes, exchanges
invocations with them, and applies the state that an operator sets.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial

from quiltfn.api.services import Services
from quiltfn.calls.dispatch import Dispatcher
from quiltfn.calls.events import Events
from quiltfn.calls.invoke import Invoker
from quiltfn.fleet.calls import FleetCalls
from quiltfn.fleet.counts import FleetCounts
from quiltfn.fleet.failovers import PATH as FAILOVERS
from quiltfn.fleet.failovers import Failovers
from quiltfn.fleet.follower import Listener
from quiltfn.fleet.image_fetch import IMAGES
from quiltfn.fleet.join import NodeControl
from quiltfn.fleet.keys import PATH as KEYS
from quiltfn.fleet.keys import FleetKeys
from quiltfn.fleet.minimum import Places, keep_minimum
from quiltfn.fleet.parts import FleetParts
from quiltfn.fleet.placement import Placement, PlacingNode
from quiltfn.fleet.reports import ReportReader
from quiltfn.fleet.routing import RoutingTable
from quiltfn.fleet.slots import SlotKeeper
from quiltfn.fleet.watching import PATH as EVENTS
from quiltfn.fleet.watching import OwnEvents, Watching
from quiltfn.functions.catalog import Catalog
from quiltfn.functions.lifecycle import Lifecycle
from quiltfn.model.member import Member
from quiltfn.pool.local import LocalPools
from quiltfn.ports import ChangeKind
from quiltfn.ports.fleet import NodeEpoch
from quiltfn.ports.work import QueueCounts
from quiltfn.store.database.postgresql import PostgresDatabase
from quiltfn.store.fleet.slots import SqlSlots


class JoinedNode:
    """`server/standalone_node.py` has the standalone counterpart. `events`: the events of all
    nodes; `all_events`: all receivers of local events. `followed_changed`: called when events of
    other tenants than before are followed; `member_readers`: called with the members, in this
    order.
    """

    def __init__(
        self,
        parts: FleetParts,
        pools: LocalPools,
        invoker: Invoker,
        catalog: Catalog,
        queue_counts: Callable[[str], Awaitable[QueueCounts]],
    ) -> None:
        self._parts, self._catalog, self._places = parts, catalog, Places()
        self.nodes = membership = parts.membership
        times, clock, name = parts.times, parts.clock, membership.name
        database = parts.ground.store.database
        assert isinstance(database, PostgresDatabase), "a fleet shares a PostgreSQL"
        boot = database.boot
        self._connection = database.quick_connection()
        epoch, slots = NodeEpoch(boot.node_id, boot.epoch), SqlSlots(self._connection.run)
        self._keeper = SlotKeeper(slots, pools, lambda: epoch, parts.lease, clock)
        self.pool_changed = (self._keeper.pool_changed,)
        counts = FleetCounts(name, pools, clock, times.fence_s, times.beat_s)
        self.events = Events(clock, boot.epoch, counts.counts, queue_counts)
        own_events = Events(clock, boot.epoch, pools.counts, None)
        self.all_events = (self.events, own_events)
        served_events = OwnEvents(own_events)
        self._watching = Watching(self.events, parts.peers, counts.update)
        self.followed_changed = self._watching.followed_changed
        self._failovers = Failovers(parts.peers, database.timeline, membership.silent)
        credentials = parts.ground.access, parts.ground.disabled
        self._keys = FleetKeys.of(membership, parts.peers, credentials, parts.revisions)
        table = RoutingTable()
        own = PlacingNode(parts, pools, invoker, catalog, self._keeper)
        placement = Placement(table, own, parts.ground.others.hear, counts.hear)
        handlers = {
            EVENTS: served_events.answer,
            FAILOVERS: self._failovers.answer,
            KEYS: self._keys.answer,
            IMAGES: parts.images.answer,
        }
        within = parts, invoker, counts, placement
        self.fleet = FleetCalls(*within, (served_events, self._watching), handlers)
        self.member_readers: Sequence[Callable[[Sequence[Member]], None]] = (
            self._read,
            parts.directory.learned,
            counts.read,
            self._tenants_read,
            ReportReader(name, table).read,
            self.fleet.read,
            self._failovers.read,
            parts.images.read,
            self._watch,
        )

    def _read(self, members: Sequence[Member]) -> None:
        self._places = Places.of(members, self._places.number + 1)

    def _tenants_read(self, members: Sequence[Member]) -> None:
        self._parts.tenants.read(members, self.fleet.others())

    def _watch(self, _: Sequence[Member]) -> None:
        self._watching.read(self.fleet.others())

    @property
    def listeners(self) -> Mapping[ChangeKind, Listener]:
        """The listeners for changes of the store that only a fleet has."""
        return {ChangeKind.IMAGE_COPY: self._parts.images.follow_changes}

    async def restore(self) -> None:
        """Load the locations of images; call it before the first instance, which may need one.
        Raises `StoreUnavailable`.
        """
        await self._parts.images.restore()
        await self.nodes.tell_members()

    def control(
        self, services: Services, dispatcher: Dispatcher, ended: "asyncio.Future[Exception]"
    ) -> NodeControl:
        """The part that applies an operator's changes to this node."""
        return NodeControl(self.nodes, services, dispatcher, ended)

    def tasks(self, lifecycle: Lifecycle) -> Sequence[Callable[[], Coroutine[None, None, None]]]:
        """The background tasks."""
        parts, keeper = self._parts, self._keeper
        end_by, functions = parts.ground.stock.end_by, self._catalog.functions
        return (
            self._keys.run,
            parts.images.run,
            keeper.run,
            partial(parts.lease.watch, end_by, keeper.lease_changed),
            partial(keep_minimum, functions, lifecycle.own, self.nodes.name, lambda: self._places),
        )

    async def leave(self) -> None:
        """Stop following the others. The pools are closed next."""
        self.nodes.on_read.disconnect()
        await self._watching.aclose()
        await self._parts.images.aclose()

    async def aclose(self) -> None:
        """Return everything that the node holds, once the pools are closed."""
        await self._failovers.aclose()
        await self.fleet.aclose()
        await self._keeper.aclose()
        await self._connection.aclose()
