"""PoolLoad: the load of a function's pool on one node, as reported to other nodes."""

import msgspec

from quiltfn.model.counts import PoolCounts

# In place of a version number, if a pool has no version: no node forwards invocations to it.
NO_VERSION = 0


class PoolLoad(msgspec.Struct, frozen=True, array_like=True):
    """The load of a pool. `version`: the number of its version. `idle`: how many invocations could
    start without a wait; `busy`: instances with an invocation; `waiting`: invocations without an
    instance; `slots`: how many instances the pool may have. Other fields: as in `PoolCounts`.
    """

    function_id: str
    version: int
    idle: int = 0
    busy: int = 0
    waiting: int = 0
    slots: int = 0
    warming: int = 0
    ready: int = 0
    recycling: int = 0
    terminating: int = 0
    parked: int = 0
    memory_mib: float = 0.0

    @property
    def per_slot(self) -> float:
        """Invocations per instance that the pool may have."""
        return (self.busy + self.waiting) / self.slots if self.slots else float("inf")

    @property
    def counts(self) -> PoolCounts:
        """The pool's instances by state."""
        return PoolCounts(
            warming=self.warming,
            ready=self.ready,
            busy=self.busy,
            recycling=self.recycling,
            terminating=self.terminating,
            parked=self.parked,
            memory_mib=self.memory_mib,
        )

    def with_counts(self, counts: PoolCounts) -> "PoolLoad":
        """A copy with these counts of instances."""
        return msgspec.structs.replace(
            self,
            warming=counts.warming,
            ready=counts.ready,
            busy=counts.busy,
            recycling=counts.recycling,
            terminating=counts.terminating,
            parked=counts.parked,
            memory_mib=counts.memory_mib,
        )
