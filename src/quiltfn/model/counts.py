"""PoolCounts: how many instances a pool has in each of the API's five states."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """How many instances are in each of the five states; the API shows exactly these."""

    warming: int = 0
    ready: int = 0
    busy: int = 0
    recycling: int = 0
    terminating: int = 0

    @property
    def total(self) -> int:
        return self.warming + self.ready + self.busy + self.recycling + self.terminating


def sum_counts(counts: Iterable[PoolCounts]) -> PoolCounts:
    """The sum over several pools, state by state."""
    total = Counter[str]()
    for one in counts:
        for name in ("warming", "ready", "busy", "recycling", "terminating"):
            total[name] += getattr(one, name)
    return PoolCounts(**total)
