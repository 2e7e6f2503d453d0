"""Parking: keeps an instance of each function whose imports are long, before a call asks for it.

A Python function that serves should always have a process with its modules imported. It has one
after a deploy, and the idle rule parks the last one instead of ending it. What is left is done
here: after a start of the server, and after the last instance ended with a call that failed,
another is started and parked.

Rule 1: tenants take turns, first the one whose turn is longest ago; of a tenant the function that
was called most goes first.
Rule 2: one instance at a time, and as long a pause after it as its start took. So this takes at
most half of one core, whatever calls do.
Rule 3: a start is waited for `SLOW_S` at most. Then it goes on beside those of other tenants, and
its tenant has no turn until it is over and as long again. `SLOW_AT_ONCE` starts go on so.
Rule 4: only half of the memory budget is filled so (`model/memory.py`), and nothing is evicted.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from itertools import count, islice

from quiltfn.pool.local import LocalPools

# How long to wait where there was no room, or where all starts are put off.
AGAIN_S = 10.0
# Which functions lack one is found out once for so many starts: it looks at all of them.
BATCH = 16
SLOW_S, SLOW_AT_ONCE = 5.0, 2


class Parking:
    """Parks what `pools` lack. `calls`: how often a function was called."""

    def __init__(self, pools: LocalPools, calls: Callable[[str], int]) -> None:
        self._pools, self._calls = pools, calls
        self._turns = count(1)
        self._last_turn: dict[str, int] = {}  # of tenants that lack some
        self._slow: set[asyncio.Task[None]] = set()
        # Tenants that have no turn for now, since a start of theirs is slow.
        self._resting: set[str] = set()

    async def run(self) -> None:
        """Until it is cancelled."""
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
            for task in self._slow:
                task.cancel()

    async def _park_some(self) -> bool:
        """Parks instances of those whose turn it is; whether there was room for any."""
        has_parked = False
        for tenant_id, function_id in islice(self._in_turn(), BATCH):
            if tenant_id not in self._resting:
                self._last_turn[tenant_id] = next(self._turns)
                has_parked |= await self._park(tenant_id, function_id)
        return has_parked

    def _in_turn(self) -> Iterable[tuple[str, str]]:
        """Tenants and functions that lack an instance, in the order of rule 1."""
        lacking: dict[str, list[str]] = {}
        for tenant_id, function_id in self._pools.lacking_parked():
            lacking.setdefault(tenant_id, []).append(function_id)
        self._last_turn = {one: self._last_turn.get(one, 0) for one in lacking}
        for ids in lacking.values():
            ids.sort(key=self._calls)  # the most called is last
        while waiting := [one for one in lacking if lacking[one] and one not in self._resting]:
            waiting.sort(key=lambda one: (self._last_turn[one], -self._calls(lacking[one][-1])))
            for tenant_id in waiting:
                yield tenant_id, lacking[tenant_id].pop()

    async def _park(self, tenant_id: str, function_id: str) -> bool:
        """Whether there was room for one. It may be made still."""
        loop = asyncio.get_running_loop()
        began, start = loop.time(), asyncio.ensure_future(self._pools.park(function_id))
        try:
            await asyncio.wait([start], timeout=SLOW_S)
        except asyncio.CancelledError:
            start.cancel()
            raise
        if not start.done():
            self._resting.add(tenant_id)
            task = asyncio.ensure_future(self._go_on(tenant_id, start, began))
            self._slow.add(task)
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
            task = asyncio.current_task()
            assert task is not None, "it runs as a task"
            self._slow.discard(task)
            loop = asyncio.get_running_loop()
            loop.call_later(loop.time() - began, self._rested, tenant_id)

    def _rested(self, tenant_id: str) -> None:
        self._resting.discard(tenant_id)
        self._pools.parked_is_lacking.set()
