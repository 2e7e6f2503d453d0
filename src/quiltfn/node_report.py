"""What a node says of its own load."""

from quiltfn.invoke import Invoker
from quiltfn.model.member import Report, bounded
from quiltfn.ports import Pools


def report_of(pools: Pools, invoker: Invoker) -> Report:
    """The load of this moment. It costs some microseconds for each pool."""
    memory = pools.memory
    return Report(
        memory_free_mib=round(max(0.0, memory.budget_mib - memory.held_mib), 1),
        running=invoker.running,
        queued=pools.waiting(),
        pools=bounded(pools.loads()),
    )
