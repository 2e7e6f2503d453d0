"""SlotKeeper: requests slots for invocations that wait on this node, and returns unused ones.

Rule 1: a pool is allowed at most as many instances as the store has confirmed for the node; after a
lost response, the lower number counts.
Rule 2: a slot is returned only when its instance is gone.
Rule 3: a refused node asks again; a node with slots that others want ends idle instances for them.

    an invocation waits ──▶ asked ──hold──▶ allowed ──▶ an instance starts
    idle, lowered, wanted elsewhere ──▶ allowed less ──▶ an instance ends ──hold──▶ given back
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from quiltfn.fleet.lease import LeaseState, NodeLease
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.invocation import ExitKind
from quiltfn.model.slots import FunctionSlots
from quiltfn.pool.local import LocalPools
from quiltfn.ports import Clock
from quiltfn.ports.fleet import NodeEpoch, NotAMember
from quiltfn.store.fleet.slots import SqlSlots

_log = structlog.get_logger("quiltfn.fleet")
# Seconds between looks at what other nodes want, and retries of refused requests.
SWEEP_S = 0.25
# Retention time for unused slots, for the next burst of invocations.
UNUSED_S = 5.0
# Maximum seconds that an invocation waits for the decision whether an instance may start here.
ANSWER_MAX_S = 2.0
# Seconds between searches for slots that this node does not know of, after lost responses.
LOST_EVERY_S = 30.0
# Seconds to wait for instances to end before other work continues.
ENDING_MAX_S = 10.0


@dataclass(slots=True)
class _Holding:
    """The state of one function. `held`: the number of the node's slots, at most as many as the
    store has confirmed; `is_sure`: the store has the same number. `others`: the nodes that had
    slots in the store's last response. `unused_since`: since when there are slots without an
    instance; `refused_at`: when a requested slot was last refused; `evicted_at`: when idle
    instances were last ended for other nodes.
    """

    held: int = 0
    is_sure: bool = True
    others: Collection[str] = ()
    unused_since: float | None = None
    refused_at: float = float("-inf")
    evicted_at: float = float("-inf")


class SlotKeeper:
    """Keeps pools and slots of this node consistent. `run` it; `aclose` it after the pools."""

    def __init__(
        self,
        slots: SqlSlots,
        pools: LocalPools,
        node: Callable[[], NodeEpoch],
        lease: NodeLease,
        clock: Clock,
    ) -> None:
        """`node`: this one, in its present epoch."""
        self._slots, self._pools, self._node = slots, pools, node
        self._lease, self._clock = lease, clock
        self._holdings: dict[str, _Holding] = {}
        self._asked: set[str] = set()  # functions that lack slots
        self._given: set[str] = set()  # functions whose instances end for others
        # Functions for which one more slot is requested, and the future with the response.
        self._wishes: dict[str, asyncio.Future[None]] = {}
        self._wake = asyncio.Event()
        self._lost_look_at = 0.0
        self._is_away = False

    def held(self, function_id: str) -> int:
        """The number of the function's slots that this node has."""
        holding = self._holdings.get(function_id)
        return holding.held if holding else 0

    def others(self, function_id: str) -> Collection[str]:
        """The nodes that have slots of the function, by the store's last response."""
        holding = self._holdings.get(function_id)
        return holding.others if holding else ()

    async def obtain(self, function_id: str) -> bool:
        """Whether an instance may start here now: if no slot is free, the store is asked for one
        more.
        """
        if not self._has_free(function_id) and self._may_ask(function_id):
            wish = self._wishes.get(function_id)
            if wish is None:
                wish = self._wishes[function_id] = asyncio.get_running_loop().create_future()
            self._asked.add(function_id)
            self._wake.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_MAX_S):
                    await asyncio.shield(wish)
        return self._has_free(function_id)

    def _has_free(self, function_id: str) -> bool:
        return self.held(function_id) > self._pools.there(function_id)

    def _may_ask(self, function_id: str) -> bool:
        """Whether to ask the store: not just after it has refused."""
        holding = self._holdings.get(function_id)
        is_fresh = holding is not None and self._clock.now() - holding.refused_at < SWEEP_S
        return self._lease.is_held and not is_fresh

    def pool_changed(self, _tenant_id: str, function_id: str) -> None:
        """Called for every change of every pool: it only compares numbers."""
        if self._pools.wanted(function_id) > self.held(function_id):
            if function_id not in self._asked:
                self._asked.add(function_id)
                self._wake.set()
        elif function_id in self._given:
            self._wake.set()

    async def run(self) -> None:
        """Run until cancelled. Needs that arise during a request are sent together."""
        swept_at = self._clock.now()
        while True:
            due = swept_at + SWEEP_S - self._clock.now()
            try:
                async with asyncio.timeout(max(0.0, due)):
                    await self._wake.wait()
            except TimeoutError:
                swept_at = self._clock.now()
                await self._surely(self._sweep())
            else:
                self._wake.clear()
                await self._surely(self._ask())

    async def lease_changed(self, state: LeaseState) -> None:
        """Apply the lease's state: start nothing more, end what runs, or resume everything."""
        if state is LeaseState.HELD:
            _log.info("the node reaches the store again")
            for holding in self._holdings.values():
                holding.is_sure = False
            self._wake.set()
        elif state is LeaseState.STALE:
            _log.warning("the node does not reach the store, and starts nothing until it does")
            for function_id in self._holdings:
                self._pools.allow(function_id, self._pools.there(function_id), 0)
        else:
            _log.error("the node does not reach the store: its instances end")
            await self._end_all()

    async def aclose(self) -> None:
        """Return all slots, once the pools are closed."""
        left = {key: 0 for key, one in self._holdings.items() if not self._pools.there(key)}
        try:
            await self._slots.hold(self._node(), left)
        except (StoreUnavailable, NotAMember) as error:
            _log.warning(f"slots could not be returned; the next start returns them: {error}")

    # -----------------------------------------------------------------------------------------

    async def _surely(self, step: Coroutine[None, None, None]) -> None:
        """Run a step, and handle failures of the store."""
        try:
            await step
        except StoreUnavailable as error:
            if not self._is_away:  # logged once
                _log.warning(f"slots cannot be requested: {error}")
            self._is_away = True
        except NotAMember as error:
            _log.error(f"instances end: {error}")
            await self._end_all()
        else:
            self._is_away = False

    async def _ask(self) -> None:
        if not self._lease.is_held:
            return
        wants, wishes = {}, self._wishes
        self._wishes = {}
        for function_id in list(self._asked):
            wanted = self._pools.wanted(function_id)
            if function_id in wishes:
                wanted = max(wanted, self._pools.there(function_id) + 1)
            if wanted > self.held(function_id):
                wants[function_id] = wanted
            else:
                self._asked.discard(function_id)
        for function_id in list(self._given):
            if self._pools.there(function_id) < self.held(function_id):
                wants.setdefault(function_id, self._pools.wanted(function_id))
        self._given.difference_update(wants)
        try:
            await self._hold(wants)
        finally:
            for function_id, wish in wishes.items():
                if not self._has_free(function_id) and function_id in self._holdings:
                    self._holdings[function_id].refused_at = self._clock.now()
                wish.set_result(None)

    async def _hold(self, wants: dict[str, int]) -> None:
        """Send the wanted numbers, and apply the response. A pool's allowance is lowered before its
        number in the store, or an instance could start in a slot that is being returned.
        """
        if not wants:
            return
        for function_id, want in wants.items():
            holding = self._holdings.setdefault(function_id, _Holding())
            holding.is_sure = False
            if want < holding.held:
                holding.held = want
                self._pools.allow(function_id, want, want)
        found = await self._slots.hold(self._node(), wants)
        # Functions that are missing in the response are sent again at the next look.
        for function_id, row in found.items():
            if row is not None:
                self._answered(row)
            else:
                self._forget(function_id)  # the function was deleted

    def _answered(self, row: FunctionSlots) -> None:
        key, name = row.function_id, self._node().name
        holding = self._holdings.setdefault(key, _Holding())
        holding.held, holding.is_sure = row.held_by(name), True
        holding.others = [one for one, held in row.held.items() if held and one != name]
        self._allow(row, holding.held)

    def _allow(self, row: FunctionSlots, count: int) -> None:
        """Allow `count` instances, but not above the node's share if the maximum was lowered."""
        count = min(count, row.share_of(self._node().name))
        if not self._lease.is_held:
            count = min(count, self._pools.there(row.function_id))
        free = max(0, row.max_instances - sum(row.held.values()))
        self._pools.allow(row.function_id, count, count + free)

    def _forget(self, function_id: str) -> None:
        self._pools.allow(function_id, 0, 0)
        self._asked.discard(function_id)
        self._given.discard(function_id)
        if not self._pools.there(function_id):
            self._holdings.pop(function_id, None)

    # Periodic checks, four times a second ------------------------------------------------------

    async def _sweep(self) -> None:
        if not self._lease.is_held:
            return
        await self._ask()
        if self._clock.now() >= self._lost_look_at:
            rows = await self._slots.held(self._node().name)
            self._lost_look_at = self._clock.now() + LOST_EVERY_S
            for row in rows:
                self._holdings.setdefault(row.function_id, _Holding(is_sure=False))
        if not self._holdings:
            return
        rows = await self._slots.of(list(self._holdings))
        wants = self._looked_at(rows)
        for function_id in self._holdings.keys() - {row.function_id for row in rows}:
            self._forget(function_id)
        await self._hold(wants)

    def _looked_at(self, rows: Iterable[FunctionSlots]) -> dict[str, int]:
        """The numbers to send: for functions with superfluous or uncertain slots."""
        wants = {}
        for row in rows:
            want = self._decided(row, self._holdings[row.function_id])
            if want is not None:
                wants[row.function_id] = want
        return wants

    def _decided(self, row: FunctionSlots, holding: _Holding) -> int | None:
        """The number of slots that the node wants from now on; None if there is nothing to send."""
        key, me = row.function_id, self._node().name
        if row.held_by(me) != holding.held:
            holding.is_sure = False  # a response was lost, or the node has been taken over
        there, wanted = self._pools.there(key), self._pools.wanted(key)
        if sum(row.held.values()) > row.max_instances:
            self._allow(row, holding.held)
            self._given.add(key)
            wanted = min(wanted, max(there, row.share_of(me)))
        elsewhere = row.wanted_by_others(me)
        if elsewhere and wanted <= there:
            self._end_idle(row, holding, elsewhere - max(0, holding.held - there))
        needed = max(there, wanted)
        is_late = self._is_unused(holding, needed) or elsewhere > 0
        if needed < holding.held and is_late:
            return needed
        is_overstated = row.wanted.get(me, 0) > max(holding.held, wanted)
        if holding.is_sure and not is_overstated:
            if not holding.held and not wanted:
                self._holdings.pop(key)
            return None
        return max(holding.held, needed)

    def _is_unused(self, holding: _Holding, needed: int) -> bool:
        """Whether slots have been without an instance for long enough."""
        if needed >= holding.held:
            holding.unused_since = None
            return False
        if holding.unused_since is None:
            holding.unused_since = self._clock.now()
        return self._clock.now() - holding.unused_since >= UNUSED_S

    def _end_idle(self, row: FunctionSlots, holding: _Holding, lacking: int) -> None:
        """End idle instances for nodes that lack slots: as many as the slots that they lack, minus
        free slots. Wait between evictions, since those nodes need a moment to get the slots.
        """
        free = max(0, row.max_instances - sum(row.held.values()))
        now = self._clock.now()
        if lacking > free and now - holding.evicted_at >= 2 * SWEEP_S:
            holding.evicted_at = now
            self._given.add(row.function_id)
            self._pools.evict_idle(row.function_id, lacking - free)

    async def _end_all(self) -> None:
        """End every instance; the node then counts only slots whose instances have not ended."""
        for function_id, holding in self._holdings.items():
            holding.is_sure = False
            self._pools.allow(function_id, 0, 0)
        with suppress(TimeoutError):  # the launcher may be stopped
            async with asyncio.timeout(ENDING_MAX_S):
                await self._pools.end_all(ExitKind.INTERRUPTED, "store_lost")
        for function_id, holding in self._holdings.items():
            holding.held = min(holding.held, self._pools.there(function_id))
