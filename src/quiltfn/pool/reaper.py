"""Once a second every pool looks at the time: idle instances, waits that are over, the minimum."""

import asyncio

from quiltfn.pool.local import LocalPools

EVERY_S = 1.0


async def reap(pools: LocalPools) -> None:
    """Runs until it is cancelled."""
    while True:
        await asyncio.sleep(EVERY_S)
        pools.tick()
