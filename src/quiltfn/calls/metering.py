"""Adds the usage of instances to the statistics: CPU time, and refused connections.

The counters of instances that have run something are read every ten seconds, and the counters of
each instance at its end. So a killed server loses only the usage since the last reading.
"""

import asyncio

from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.stats import FINEST_S, CallStats, Stretch, floor_to
from quiltfn.ports import Clock, Pools
from quiltfn.store.calls.stats import SqlStats

EVERY_S = 10.0


class Metering:
    """Adds the usage of the instances of `pools` to `stats`."""

    def __init__(self, pools: Pools, stats: SqlStats, clock: Clock) -> None:
        self._pools, self._stats, self._clock = pools, stats, clock
        self._unstored: dict[Stretch, CallStats] = {}

    async def run(self) -> None:
        """Reads and stores usage, until it is cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            await self._pools.meter()
            await self.store()

    async def store(self) -> None:
        """Stores the usage that was read. Usage that cannot be stored now is kept until it can, as
        one sum for each function.
        """
        start = floor_to(FINEST_S, int(self._clock.unix()))
        for (tenant_id, function_id), used in self._pools.take_use().items():
            key = Stretch(tenant_id, FINEST_S, start, function_id)
            self._unstored.setdefault(key, CallStats()).add(used)
        if self._unstored:
            taken, self._unstored = self._unstored, {}
            try:
                await self._stats.add(taken)
            except StoreUnavailable:
                for key, used in taken.items():
                    latest = key._replace(start=start)
                    self._unstored.setdefault(latest, CallStats()).add(used)
