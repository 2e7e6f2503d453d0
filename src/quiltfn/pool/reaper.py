"""Once a second, every pool checks its idle instances, expired waits, and minimum.

Every ten seconds the memory of instances that became idle is measured.
"""

import asyncio
import itertools

from quiltfn.pool.local import LocalPools

EVERY_S = 1.0
MEASURED_EVERY = 10


async def reap(pools: LocalPools) -> None:
    """Run until cancelled."""
    for turn in itertools.count(1):
        await asyncio.sleep(EVERY_S)
        pools.tick()
        if turn % MEASURED_EVERY == 0:
            await pools.measure()
