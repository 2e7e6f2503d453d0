"""A node's report of its own load."""

from collections.abc import Callable, Sequence

from quiltfn.calls.invoke import Invoker
from quiltfn.model.member import Report, bounded
from quiltfn.model.tenant_load import TenantLoad
from quiltfn.ports import Pools


def no_tenants() -> Sequence[TenantLoad]:
    """For a standalone server, whose report no node reads."""
    return ()


def report_of(
    pools: Pools, invoker: Invoker, tenants: Callable[[], Sequence[TenantLoad]] = no_tenants
) -> Report:
    """The current load. Takes some microseconds for each pool."""
    memory = pools.memory
    return Report(
        memory_free_mib=round(max(0.0, memory.budget_mib - memory.held_mib), 1),
        running=invoker.running,
        queued=pools.waiting(),
        pools=bounded(pools.loads()),
        tenants=tenants(),
        is_leaving=invoker.is_draining,
    )
