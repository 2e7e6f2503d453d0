"""Decides where an invocation runs: on this node, or on another one of the fleet.

An instance that is ready here comes first, then one that is ready elsewhere, then one that this
node may start; if this node lacks the instance's image, a node with the image starts it instead.
Otherwise the invocation waits: here if this node may have instances, or at a node that may. An
invocation of a version that a request or the function's default alias names runs here: nodes report
only the instances of current versions. A node that runs no new invocations forwards all that it
gets; a node without access to the store uses its existing instances, and forwards invocations that
need others.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import NamedTuple

from quiltfn.calls.invoke import Invoker
from quiltfn.fleet.parts import FleetParts
from quiltfn.fleet.routing import RoutingTable
from quiltfn.fleet.slots import SlotKeeper
from quiltfn.functions.catalog import Catalog
from quiltfn.model.forwarded import ForwardedCall, Refusal
from quiltfn.model.member import NodeState
from quiltfn.model.pool_load import PoolLoad
from quiltfn.pool.local import LocalPools


class Destination(NamedTuple):
    """Another node that is to run an invocation. `may_wait`: the invocation may wait there if the
    node has or gets a slot; `in_any_case`: it waits there even without a slot.
    """

    node: str
    may_wait: bool
    in_any_case: bool = False


class ImagePlaces(NamedTuple):
    """The location of the image that a function's instances mount. `nodes`: other nodes that have
    it.
    """

    is_here: bool
    nodes: Collection[str]


class PlacingNode:
    """This node's permissions, and its knowledge of its functions."""

    def __init__(
        self,
        parts: FleetParts,
        pools: LocalPools,
        invoker: Invoker,
        catalog: Catalog,
        keeper: SlotKeeper,
    ) -> None:
        self._membership, self._images = parts.membership, parts.images
        self._invoker, self._catalog = invoker, catalog
        # `load`: the load of this node's pool of a function, if it has one, as reported to others.
        # `obtain`: asks the fleet for one more slot, and returns whether an instance may be started
        # now. `holders`: the nodes with slots of a function, by the store's last response.
        self.load, self.obtain, self.holders = pools.load, keeper.obtain, keeper.others

    def serves(self) -> bool:
        """Whether this node runs new invocations."""
        is_meant_to = self._membership.state in (NodeState.READY, NodeState.CORDONED)
        is_able = self._membership.lost is None and not self._invoker.is_draining
        # If the journal refuses records, other nodes store them.
        return is_meant_to and is_able and not self._invoker.journal.refuses

    def takes_calls(self) -> bool:
        """Whether this node accepts forwarded invocations."""
        is_ready = self._membership.state is NodeState.READY
        return is_ready and self.serves() and self.may_start()

    def may_start(self) -> bool:
        """Whether any instance may start here."""
        return self._membership.problem is None

    def image(self, function_id: str) -> ImagePlaces | None:
        """The location of the image of the function's instances; None: they have none."""
        entry = self._catalog.known(function_id)
        wanted = () if entry is None else entry.version.spec.runtime_snapshot.images
        if not wanted:
            return None
        nodes = frozenset.intersection(*(frozenset(self._images.nodes_of(one)) for one in wanted))
        return ImagePlaces(all(map(self._images.is_here, wanted)), nodes)


class Placement:
    """Chooses nodes. `catch_up`: loads other nodes' changes, as far as that is possible soon.
    `hear`: gets the load of a pool in a node's response; must neither raise nor wait.
    """

    def __init__(
        self,
        table: RoutingTable,
        own: PlacingNode,
        catch_up: Callable[[], Awaitable[object]],
        hear: Callable[[str, PoolLoad], None] = lambda *_: None,
    ) -> None:
        self._table, self._own, self.catch_up, self._hear = table, own, catch_up, hear
        self.load, self.takes_calls = own.load, own.takes_calls

    async def place(
        self,
        function_id: str,
        version: int,
        tried: Collection[str] = (),
        *,
        names_version: bool = False,
        is_last: bool = False,
    ) -> Destination | None:
        """The node that is to run an invocation, except those that were tried; None: this one.
        `version`: the function's current version; `names_version`: the request or the function's
        default alias names the version. `is_last`: this is the last attempt, so the invocation
        waits at the returned node if no instance is ready there.
        """
        if not self._own.serves():
            return self._elsewhere(function_id, version, tried)
        if names_version:
            return None
        here = self._own.load(function_id)
        if here is not None and here.idle:
            return None
        if not self._own.may_start() and (here is None or not here.slots):
            return self._elsewhere(function_id, version, tried)
        node = None if is_last else self._table.idle_node(function_id, version, tried)
        if node is not None:
            return Destination(node, may_wait=False)
        if here is None:
            return None
        image = self._own.image(function_id)
        if image is not None and not image.is_here:
            node = self._table.unhurried_node(function_id, image.nodes, tried)
            if node is not None:
                return Destination(node, may_wait=True)
        is_obtained = await self._own.obtain(function_id)
        if not self._own.serves():  # the node's state has changed meanwhile
            return self._elsewhere(function_id, version, tried)
        if is_obtained:
            return None
        node = self._table.busy_node(function_id, version, tried)
        if node is None and not here.slots:
            # A node with slots may have reported its load before it got them.
            node = self._table.any_node(tried, self._own.holders(function_id))
        if node is None or self._waits_better_here(here, node, function_id):
            return None
        return Destination(node, may_wait=True)

    def _elsewhere(
        self, function_id: str, version: int, tried: Collection[str]
    ) -> Destination | None:
        """The destination of an invocation that can't run here. The invocation waits there even if
        that node has no slot: the store gives free slots to nodes with waiting invocations.
        """
        table, image = self._table, self._own.image(function_id)
        node = table.idle_node(function_id, version, tried)
        node = node or table.busy_node(function_id, version, tried)
        if image is not None:
            node = node or table.any_node(tried, image.nodes)
        node = node or table.any_node(tried) or table.any_node()
        return None if node is None else Destination(node, may_wait=True, in_any_case=True)

    def _waits_better_here(self, here: PoolLoad | None, node: str, function_id: str) -> bool:
        there = self._table.load(node, function_id)
        return here is not None and there is not None and here.per_slot <= there.per_slot

    def sent(self, node: str, function_id: str) -> None:
        """Note that an invocation of the function is sent to the node."""
        self._table.sent(node, function_id)

    def update(self, node: str, function_id: str, load: PoolLoad | None) -> None:
        """Apply the load of the function's pool on the node, as the node reported it; None: the
        node is unreachable or leaving.
        """
        if load is None:
            self._table.refused(node, function_id)
        else:
            self._table.update(node, load)
            self._hear(node, load)

    async def refusal(self, call: ForwardedCall) -> Refusal | None:
        """Why this node refuses a forwarded invocation; None: accepted."""
        if not self.takes_calls():
            return Refusal.DRAINING
        pool = self._own.load(call.function_id)
        if pool is None or (call.version is not None and pool.version < call.version):
            await self.catch_up()  # the forwarding node may have applied an update first
            pool = self._own.load(call.function_id)
        if pool is None or pool.version != call.version:
            return Refusal.VERSION
        if pool.idle or call.in_any_case or (call.may_wait and pool.slots):
            return None
        may_start = call.may_wait and await self._own.obtain(call.function_id)
        return None if may_start else Refusal.BUSY
