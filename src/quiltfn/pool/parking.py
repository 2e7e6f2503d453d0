"""Parking: keeps an instance of each function whose imports are long, before a call asks for it.

A Python function that serves should always have a process with its modules imported. It has one
after a deploy, and the idle rule parks the last one instead of ending it. What is left is done
here: after a start of the server, and after the last instance ended with a call that failed,
another is started and parked.

Rule 1: the function that was called most goes first.
Rule 2: one instance at a time, and as long a pause after it as its start took. So this takes at
most half of one core, whatever calls do.
Rule 3: only half of the memory budget is filled so (`model/memory.py`), and nothing is evicted.
"""

import asyncio
import contextlib
import heapq
from collections.abc import Callable

from quiltfn.pool.local import LocalPools

# How long to wait where there was no room, or where all starts are put off.
AGAIN_S = 10.0
# Which functions lack one is found out once for so many starts: it looks at all of them.
BATCH = 16


class Parking:
    """Parks what `pools` lack. `calls`: how often a function was called."""

    def __init__(self, pools: LocalPools, calls: Callable[[str], int]) -> None:
        self._pools, self._calls = pools, calls

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self._pools.parked_is_lacking.clear()
            if await self._park_some():
                continue
            patience_s = AGAIN_S if self._pools.may_lack_parked else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._pools.parked_is_lacking.wait()

    async def _park_some(self) -> bool:
        """Parks instances of the functions called most; whether there was room for any."""
        loop, has_parked = asyncio.get_running_loop(), False
        lacking = heapq.nlargest(BATCH, self._pools.lacking_parked(), key=self._calls)
        for function_id in lacking:
            began = loop.time()
            if await self._pools.park(function_id):
                has_parked = True
                await asyncio.sleep(loop.time() - began)
        return has_parked
