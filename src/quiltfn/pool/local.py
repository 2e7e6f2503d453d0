"""The pools of this node, one for each function, and the memory that they share."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from quiltfn.model.errors import RuntimeUnavailable, ShuttingDown
from quiltfn.model.invocation import ExitKind
from quiltfn.model.keepalive import KeepAlive
from quiltfn.model.memory import Memory
from quiltfn.model.pool import PoolCounts, PoolLimits
from quiltfn.model.quota import UNBOUNDED
from quiltfn.model.version import Version
from quiltfn.pool.function_pool import FunctionPool, PoolLease, Preparation
from quiltfn.pool.memory_arbiter import MemoryArbiter
from quiltfn.pool.refusals import CLOSING
from quiltfn.pool.tenant_pools import TenantPools
from quiltfn.ports import Clock, Sandboxes


class LocalPools:
    """`ports.Pools` on this node."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        clock: Clock,
        memory: Memory | None = None,
        keep_alive: Callable[[], KeepAlive | None] = lambda: None,
        tenant_instances: float = UNBOUNDED,
    ) -> None:
        """`keep_alive` makes the keep-alive policy of one function; None: the idle time alone.
        `tenant_instances`: how many instances a tenant's functions may have together.
        """
        self._sandboxes, self._clock = sandboxes, clock
        self.memory = memory or Memory()
        self._arbiter = MemoryArbiter(sandboxes, self.memory, keep_alive)
        self.tenant_instances = tenant_instances
        self._tenants: dict[str, TenantPools] = {}
        self._pools: dict[str, FunctionPool] = {}
        self._closing = False

    def lease(self, function_id: str) -> PoolLease:
        pool = self._pools.get(function_id)
        if pool is None:
            raise RuntimeUnavailable("the function has no pool on this node")
        return PoolLease(pool)

    def prepared(
        self, function_id: str, version: Version, limits: PoolLimits, count: int
    ) -> AbstractAsyncContextManager[Preparation]:
        if self._closing:
            raise ShuttingDown(retry_after=5)
        return self._pool(function_id, limits).prepared(version, limits, count)

    def open(self, function_id: str, version: Version, limits: PoolLimits) -> None:
        pool = self._pool(function_id, limits)
        pool.serve(version)
        pool.tick()
        self._sandboxes.expect(version.spec)

    def close(self, function_id: str, why: str) -> None:
        if function_id in self._pools:
            self._pools[function_id].close(why)

    def set_scaling(self, function_id: str, limits: PoolLimits) -> None:
        if function_id in self._pools:
            self._pools[function_id].set_scaling(limits)

    async def end_running(self, function_id: str, kind: ExitKind, reason: str) -> None:
        if function_id in self._pools:
            await self._pools[function_id].end_running(kind, reason)

    def forget(self, function_id: str) -> None:
        pool = self._pools.pop(function_id, None)
        if pool is not None:
            self._arbiter.remove(pool)
            pool.tenant_pools.remove(pool)
            if not pool.tenant_pools:
                del self._tenants[pool.model.limits.tenant_id]

    def counts(self, function_id: str) -> PoolCounts:
        pool = self._pools.get(function_id)
        return pool.model.counts() if pool else PoolCounts()

    def occupied(self) -> list[str]:
        return [key for key, pool in self._pools.items() if pool.model.instances]

    async def blocked(self, function_id: str) -> int:
        """Connections that the networks of its instances refused since the server started."""
        pool = self._pools.get(function_id)
        return await pool.blocked() if pool else 0

    def waiting(self) -> int:
        return sum(len(pool.model.queue) for pool in self._pools.values())

    def tick(self) -> None:
        """Lets every pool do what is due; the reaper calls it once a second."""
        for pool in list(self._pools.values()):
            if not pool.model.is_at_rest:  # with thousands of functions most are at rest
                pool.tick()

    async def measure(self) -> None:
        """Measures the instances that became idle; the reaper calls it every ten seconds."""
        for pool in list(self._pools.values()):
            if pool.model.instances:
                await pool.measure()

    async def aclose(self) -> None:
        """Ends running calls as interrupted, and every instance. Calls that wait and preparations
        get `ShuttingDown`, and so does whoever asks from now on.
        """
        self._closing = True
        pools = list(self._pools.values())
        for pool in pools:
            pool.close(CLOSING)
        reason = "the server was stopped while the call was running"
        await asyncio.gather(*(pool.end_running(ExitKind.INTERRUPTED, reason) for pool in pools))

    def _pool(self, function_id: str, limits: PoolLimits) -> FunctionPool:
        pool = self._pools.get(function_id)
        if pool is None:
            tenant_pools = self._tenants.setdefault(
                limits.tenant_id, TenantPools(self.tenant_instances)
            )
            pool = FunctionPool(self._sandboxes, self._clock, limits, self._arbiter, tenant_pools)
            self._pools[function_id] = pool
        return pool
