"""Once a second every pool looks at the time: idle instances, waits that are over, the minimum.
And now and then it is asked what those use that have become idle.
"""

import asyncio
import itertools

from quiltfn.pool.local import LocalPools

EVERY_S = 1.0
MEASURED_EVERY = 10


async def reap(pools: LocalPools) -> None:
    """Runs until it is cancelled."""
    for turn in itertools.count(1):
        await asyncio.sleep(EVERY_S)
        pools.tick()
        if turn % MEASURED_EVERY == 0:
            await pools.measure()
