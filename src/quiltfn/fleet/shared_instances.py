"""The instances of a node of a fleet, which it shares with the others: what it may start, for how
long it may go on by itself, and whose minimum it keeps. A server that is alone imports none of it.
"""

from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial

from quiltfn.fleet.fetching_sandboxes import FetchingSandboxes
from quiltfn.fleet.gate import GatedSandboxes
from quiltfn.fleet.lease import LeaseTimes, NodeLease
from quiltfn.fleet.membership import Membership
from quiltfn.fleet.minimum import Places, keep_minimum
from quiltfn.fleet.slots import SlotKeeper
from quiltfn.functions.catalog import Catalog
from quiltfn.functions.lifecycle import Lifecycle
from quiltfn.model.member import Member
from quiltfn.pool.local import LocalPools
from quiltfn.ports import Clock, StockedSandboxes
from quiltfn.ports.fleet import NodeEpoch
from quiltfn.store import SqlStore
from quiltfn.store.database.postgresql import PostgresDatabase
from quiltfn.store.fleet.slots import SqlSlots


class SharedInstances:
    """Bind the pools before they have an instance; `tasks` run until the end. `lease`: to be asked
    before a call is taken from elsewhere.
    """

    def __init__(self, stock: StockedSandboxes, membership: Membership, clock: Clock) -> None:
        self.membership = membership
        self._stock, self._clock, self._name = stock, clock, membership.name
        times = LeaseTimes(start_s=membership.times.fence_s, end_s=membership.times.end_s)
        self.lease = NodeLease(membership.renewed_at, times)
        self._places = Places()
        self.sandboxes = FetchingSandboxes(stock)
        stock.end_by(self.lease.deadline)

    def bind(self, pools: LocalPools, store: SqlStore, stack: AsyncExitStack) -> None:
        """The pools start nothing but what the store grants, and at the end of the stack, when they
        are closed, all of it is given back.
        """
        self.membership.on_read.append(self._read)
        stack.callback(self.membership.on_read.remove, self._read)
        database = store.database
        assert isinstance(database, PostgresDatabase), "a fleet shares a PostgreSQL"
        own = NodeEpoch(database.boot.node_id, database.boot.epoch)
        connection = database.quick_connection()
        stack.push_async_callback(connection.aclose)
        slots = SqlSlots(connection.run)
        self._keeper = SlotKeeper(slots, pools, lambda: own, self.lease, self._clock)
        stack.push_async_callback(self._keeper.aclose)
        gated = GatedSandboxes(self.sandboxes, self.lease, self._stock.end_by)
        pools.bind(gated, self.lease.problem)

    async def obtain(self, function_id: str) -> bool:
        """As `SlotKeeper` says."""
        return await self._keeper.obtain(function_id)

    def others(self, function_id: str) -> Collection[str]:
        """As `SlotKeeper` says."""
        return self._keeper.others(function_id)

    def may_begin(self) -> bool:
        """Whether accepted work may begin here."""
        return self.lease.is_held

    def tasks(
        self, catalog: Catalog, lifecycle: Lifecycle
    ) -> Sequence[Callable[[], Coroutine[None, None, None]]]:
        """What runs beside calls."""
        keeper, functions = self._keeper, lambda: (entry.function for entry in catalog.all())
        return (
            keeper.run,
            partial(self.lease.watch, self._stock.end_by, keeper.lease_changed),
            partial(keep_minimum, functions, lifecycle.own, self._name, lambda: self._places),
        )

    def _read(self, members: Sequence[Member]) -> None:
        self._places = Places.of(members, self._places.number + 1)
