"""Parking: keeps an instance of each function with slow imports, before an invocation needs it.

An active Python function should always have a process with its modules imported. It has one after a
deploy, and the idle rule parks the last instance instead of ending it. This module handles two
other cases: after a start of the server, and after the last instance has ended in another way, such
as with a failed invocation, it starts an instance and parks it.

Rule 1: tenants take turns, the least recent turn first; within a tenant, the function with the most
invocations goes first.
Rule 2: one instance at a time, followed by a pause as long as its start. So parking takes at most
half of one core.
Rule 3: a start blocks others for at most `SLOW_S`. It then continues beside the starts of other
tenants, and its tenant has no turn until the start is over, and then for as long again. At most
`SLOW_AT_ONCE` starts continue like this.
Rule 4: parking fills only half of the memory budget (`model/memory.py`), and evicts nothing.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from itertools import count, islice

from quiltfn.base.task_group import TaskGroup
from quiltfn.pool.local import LocalPools

# Seconds to wait if there was no room, or if all starts are postponed.
AGAIN_S = 10.0
# Number of starts between searches for functions without an instance: a search checks all of them.
BATCH = 16
SLOW_S, SLOW_AT_ONCE = 5.0, 2


class Parking:
    """Parks the instances that `pools` lack. `calls`: the number of a function's invocations."""

    def __init__(self, pools: LocalPools, calls: Callable[[str], int]) -> None:
        self._pools, self._calls = pools, calls
        self._turns = count(1)
        self._last_turn: dict[str, int] = {}  # for tenants with functions that lack an instance
        self._slow = TaskGroup()
        # Tenants that have no turn for now, since one of their starts is slow.
        self._resting: set[str] = set()

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            while True:
                self._pools.parked_is_lacking.clear()
                if await self._park_some():
                    continue
                patience_s = AGAIN_S if self._pools.may_lack_parked else None
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience_s):
                        await self._pools.parked_is_lacking.wait()
        finally:
            await self._slow.aclose()

    async def _park_some(self) -> bool:
        """Park instances for some tenants in turn; return whether there was room for any."""
        has_parked = False
        for tenant_id, function_id in islice(self._in_turn(), BATCH):
            if tenant_id not in self._resting:
                self._last_turn[tenant_id] = next(self._turns)
                has_parked |= await self._park(tenant_id, function_id)
        return has_parked

    def _in_turn(self) -> Iterable[tuple[str, str]]:
        """Tenants and functions without an instance, in the order of rule 1."""
        lacking: dict[str, list[str]] = {}
        for tenant_id, function_id in self._pools.lacking_parked():
            lacking.setdefault(tenant_id, []).append(function_id)
        self._last_turn = {one: self._last_turn.get(one, 0) for one in lacking}
        for ids in lacking.values():
            ids.sort(key=self._calls)  # most invocations last
        while waiting := [one for one in lacking if lacking[one] and one not in self._resting]:
            waiting.sort(
                key=lambda tenant: (self._last_turn[tenant], -self._calls(lacking[tenant][-1]))
            )
            for tenant_id in waiting:
                yield tenant_id, lacking[tenant_id].pop()

    async def _park(self, tenant_id: str, function_id: str) -> bool:
        """Park an instance; return whether there was room. A slow start may still go on."""
        loop = asyncio.get_running_loop()
        began, start = loop.time(), asyncio.ensure_future(self._pools.park(function_id))
        try:
            await asyncio.wait([start], timeout=SLOW_S)
        except asyncio.CancelledError:
            start.cancel()
            raise
        if not start.done():
            self._resting.add(tenant_id)
            self._slow.spawn(self._go_on(tenant_id, start, began))
            while len(self._slow) >= SLOW_AT_ONCE:
                await asyncio.wait(self._slow, return_when=asyncio.FIRST_COMPLETED)
            return True
        has_room = start.result()
        if has_room:
            await asyncio.sleep(loop.time() - began)
        return has_room

    async def _go_on(self, tenant_id: str, start: "asyncio.Task[bool]", began: float) -> None:
        try:
            await start
        finally:
            loop = asyncio.get_running_loop()
            loop.call_later(loop.time() - began, self._rested, tenant_id)

    def _rested(self, tenant_id: str) -> None:
        self._resting.discard(tenant_id)
        self._pools.parked_is_lacking.set()
