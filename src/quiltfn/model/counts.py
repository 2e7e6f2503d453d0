"""PoolCounts: how many instances a pool has in each of the API's five states. Headroom: how many
more invocations it could start.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec


class PoolCounts(msgspec.Struct, frozen=True, gc=False):
    """The number of instances in each of the five states that the API shows. `parked`: how many of
    the warming instances are parked. `memory_mib`: the memory that all instances count in the
    budget now.
    """

    warming: int = 0
    ready: int = 0
    busy: int = 0
    recycling: int = 0
    terminating: int = 0
    parked: int = 0
    memory_mib: float = 0.0

    @property
    def total(self) -> int:
        return self.warming + self.ready + self.busy + self.recycling + self.terminating


class Headroom(msgspec.Struct, frozen=True, gc=False):
    """How many more invocations could start without a wait, after those that wait already. `idle`:
    in instances that are or will soon be ready; `startable`: in instances that may be started.
    """

    idle: int = 0
    startable: int = 0

    @property
    def total(self) -> int:
        return self.idle + self.startable


def sum_counts(counts: Iterable[PoolCounts]) -> PoolCounts:
    """The sum over several pools, state by state."""
    total, memory_mib = Counter[str](), 0.0
    for count in counts:
        memory_mib += count.memory_mib
        for name in ("warming", "ready", "busy", "recycling", "terminating", "parked"):
            total[name] += getattr(count, name)
    return PoolCounts(**total, memory_mib=memory_mib)
