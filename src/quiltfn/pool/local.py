"""The pools of this node, for current and other versions of functions, and their memory."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial

from quiltfn.base.signal import Signal
from quiltfn.model.actions import Closed
from quiltfn.model.arbiter import Arbiter
from quiltfn.model.counts import Headroom
from quiltfn.model.errors import CapacityFull, RuntimeUnavailable, ShuttingDown
from quiltfn.model.invocation import ExitKind
from quiltfn.model.keepalive import KeepAlive
from quiltfn.model.memory import Memory
from quiltfn.model.places import WAITING_MAX, Places
from quiltfn.model.pool import NEVER, Pool, PoolCounts, PoolLimits, sum_counts
from quiltfn.model.pool_load import NO_VERSION, PoolLoad
from quiltfn.model.quota import UNBOUNDED, Quota
from quiltfn.model.stats import CallStats
from quiltfn.model.version import Version
from quiltfn.pool.arbitration import Arbitration
from quiltfn.pool.function_pool import (
    FunctionPool,
    PinnedLease,
    PoolLease,
    PoolOwner,
    Preparation,
    sum_egress,
)
from quiltfn.ports import Clock, EgressRefusals, InstanceView, SandboxCounters, Sandboxes


class LocalPools:
    """`ports.Pools` on this node."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        clock: Clock,
        memory: Memory | None = None,
        keep_alive: Callable[[], KeepAlive | None] = lambda: None,
        tenant_instances: float = UNBOUNDED,
        problem: Callable[[], str] | None = None,
    ) -> None:
        """`keep_alive` creates the keep-alive policy of one function; None: only the idle time
        counts. `tenant_instances`: maximum number of instances of a tenant's functions together.
        `problem`: on a node of a fleet, returns why no instance may start at the moment; empty: one
        may. On such a node, new pools may have no instance before `allow`.
        """
        self._sandboxes, self._clock = sandboxes, clock
        self.memory = memory or Memory()
        self._arbitration = Arbitration(sandboxes, Arbiter(self.memory))
        self._keep_alive, self.tenant_instances = keep_alive, tenant_instances
        self._quotas: dict[str, Quota] = {}  # by tenant
        self._pools: dict[str, FunctionPool] = {}
        # The functions with a pool that is not at rest, and a few others; `tick` looks only at
        # these, since most of thousands of functions are at rest. Every change of a pool adds its
        # function here; `tick` removes it.
        self._active: dict[str, None] = {}
        self._closing = False
        # Emitted when instances changed: their tenant and function.
        self.on_change: Signal[str, str] = Signal()
        self._used: dict[tuple[str, str], CallStats] = {}
        self._is_bounded, self._problem = problem is not None, problem or str
        # For `Parking`: functions without an instance, whose next invocation would wait for
        # imports.
        self._lacks_parked: set[str] = set()
        self.parked_is_lacking = asyncio.Event()

    def lease(self, function_id: str, version: Version | None = None) -> PoolLease:
        pool = self._pools.get(function_id)
        if pool is None:
            raise RuntimeUnavailable("the function has no pool on this node")
        if version is None:
            return PoolLease(pool)
        return PinnedLease(version, partial(self._pool_of, function_id))

    def headroom(self, function_id: str) -> Headroom:
        pool = self._pools.get(function_id)
        return pool.headroom() if pool else Headroom()

    def load(self, function_id: str) -> PoolLoad | None:
        pool = self._pools.get(function_id)
        load = pool.load(function_id) if pool else None
        if pool is None or load is None or not pool.beside:
            return load
        return load.with_counts(self.counts(function_id))

    def loads(self) -> list[PoolLoad]:
        found = []
        for key in self._pools:
            # A pool that serves no version may have instances that are ending.
            load = self.load(key) or PoolLoad(key, NO_VERSION).with_counts(self.counts(key))
            if load.slots or load.waiting or load.counts.total:
                found.append(load)
        return found

    def prepared(
        self, function_id: str, version: Version, limits: PoolLimits, count: int
    ) -> AbstractAsyncContextManager[Preparation]:
        if self._closing:
            raise ShuttingDown(retry_after=5)
        return self._pool(function_id, limits).prepared(version, limits, count)

    def open(self, function_id: str, version: Version, limits: PoolLimits) -> None:
        if self._closing:
            return
        pool = self._pool(function_id, limits)
        if pool.limits != limits:
            pool.set_scaling(limits)
        pool.serve(version)
        pool.tick()
        self._sandboxes.expect(version.spec)

    def close(self, function_id: str, why: Closed) -> None:
        for pool in self._of(function_id):
            pool.close(why)

    def set_scaling(self, function_id: str, limits: PoolLimits) -> None:
        if function_id in self._pools:
            self._pools[function_id].set_scaling(limits)

    async def end_running(self, function_id: str, kind: ExitKind, by: str) -> None:
        await asyncio.gather(*(pool.end_running(kind, by) for pool in self._of(function_id)))

    def forget(self, function_id: str) -> None:
        for pool in self._of(function_id):
            self._leave(pool)
        self._pools.pop(function_id, None)
        self._active.pop(function_id, None)

    def counts(self, function_id: str) -> PoolCounts:
        pool = self._pools.get(function_id)
        if pool is None or not pool.beside:
            return pool.model.counts() if pool else PoolCounts()
        return sum_counts(pool.model.counts() for pool in self._of(function_id))

    def occupied(self) -> list[str]:
        active = sorted(self._active)  # in creation order
        return [key for key in active if any(pool.model.instances for pool in self._of(key))]

    def note(self, function_id: str) -> str:
        return next((note for pool in self._of(function_id) if (note := pool.note)), "")

    async def egress(self, function_id: str) -> EgressRefusals:
        """Refused connection attempts of the function's instances since the server started."""
        return sum_egress(await asyncio.gather(*(pool.egress() for pool in self._of(function_id))))

    def instances(self, function_id: str | None = None) -> list[InstanceView]:
        ids = self._active if function_id is None else [function_id]
        found = [one for key in ids for pool in self._of(key) for one in pool.instances(key)]
        return sorted(found, key=lambda instance: -instance.age_s)

    def waiting(self) -> int:
        return sum(len(pool.model.queue) for pool in self._all_active())

    # On a node of a fleet

    def allow(self, function_id: str, count: int, reachable: int) -> None:
        """Allow the function `count` instances here from now on; above this number, idle instances
        end, and busy ones after their invocation. `reachable`: the number that could be allowed if
        more were requested.
        """
        if function_id in self._pools:
            self._pools[function_id].allow(count, reachable)

    def wanted(self, function_id: str) -> int:
        """The number of instances: existing ones, and those that would start if allowed."""
        pool = self._pools.get(function_id)
        return pool.wanted(sum(one.lacking() for one in pool.beside.values())) if pool else 0

    def there(self, function_id: str) -> int:
        """The number of instances that the function has here, of any version and in any state,
        until they are completely gone.
        """
        pool = self._pools.get(function_id)
        return pool.model.places.used if pool else 0

    def evict_idle(self, function_id: str, most: int) -> None:
        """End up to `most` idle instances that this node does not need."""
        for pool in reversed(self._of(function_id)):
            most -= pool.evict_idle(most)

    async def end_all(self, kind: ExitKind, by: str) -> None:
        """End every running invocation with this outcome, and wait until every instance is gone."""
        await asyncio.gather(*(pool.end_running(kind, by) for pool in list(self._all())))

    def lacking_parked(self) -> list[tuple[str, str]]:
        """Tenant and id of the functions for which an instance should be started now only to be
        parked. Functions that have an instance by now are forgotten; functions whose start is
        postponed are only omitted.
        """
        for key in list(self._lacks_parked):
            if key not in self._pools or not self._pools[key].model.lacks_parked(NEVER):
                self._lacks_parked.discard(key)
        lacking = [(key, self._pools[key]) for key in self._lacks_parked]
        return [(pool.limits.tenant_id, key) for key, pool in lacking if pool.lacks_parked()]

    @property
    def may_lack_parked(self) -> bool:
        """Whether the result of `lacking_parked` may change later without an event."""
        return bool(self._lacks_parked)

    async def park(self, function_id: str) -> bool:
        """Start an instance of the function to be parked; return once the start is over. False:
        there was no memory, quota or place for the instance.
        """
        pool = self._pools.get(function_id)
        if pool is None or self._closing:
            return True
        await pool.park()
        return not pool.lacks_parked()

    def tick(self) -> None:
        """Let every pool do due work; the reaper calls it once a second."""
        for pool in list(self._all_active()):
            if not pool.model.is_at_rest:
                pool.tick()
        self._drop_unused()
        for key in list(self._active):
            if all(pool.model.is_at_rest for pool in self._of(key)):
                del self._active[key]

    async def measure(self) -> None:
        """Measure the instances that became idle; the reaper calls it every ten seconds."""
        for pool in list(self._all_active()):
            if pool.model.instances:
                await pool.measure()

    async def meter(self) -> None:
        for pool in list(self._all_active()):
            if pool.model.instances:
                await pool.meter()

    def take_use(self) -> dict[tuple[str, str], CallStats]:
        used, self._used = self._used, {}
        return used

    async def aclose(self) -> None:
        """End running invocations as interrupted, and every instance. Waiting invocations,
        preparations and later requests get `ShuttingDown`.
        """
        self._closing = True
        pools = list(self._all())
        for pool in pools:
            pool.close(Closed.STOPPING)
        kind = ExitKind.INTERRUPTED
        await asyncio.gather(*(pool.end_running(kind, "server_stopped") for pool in pools))

    def _of(self, function_id: str) -> list[FunctionPool]:
        """The function's own pool, and the pools of its other versions."""
        own = self._pools.get(function_id)
        return [] if own is None else [own, *own.beside.values()]

    def _all(self) -> Iterator[FunctionPool]:
        return (pool for key in self._pools for pool in self._of(key))

    def _all_active(self) -> Iterator[FunctionPool]:
        return (pool for key in self._active for pool in self._of(key))

    def _pool(self, function_id: str, limits: PoolLimits) -> FunctionPool:
        if function_id not in self._pools:
            pool = self._pools[function_id] = self._new_pool(function_id, limits)
            if self._is_bounded:
                pool.allow(0, limits.max_instances)
        return self._pools[function_id]

    def _pool_of(self, function_id: str, version: Version) -> FunctionPool:
        """The pool for invocations of this version: the function's own, or one beside it."""
        own = self._pools.get(function_id)
        if own is None:
            raise RuntimeUnavailable("the function has no pool on this node")
        if own.model.current is None or own.serves(version):
            return own
        pool = own.beside.get(version.id)
        if pool is None:
            places = own.model.places
            if len(places.waiting) >= WAITING_MAX:
                raise CapacityFull(
                    f"calls of {WAITING_MAX} versions of the function wait for an instance",
                    retry_after=1,
                )
            pool = self._new_pool(function_id, own.model.limits.beside, places)
            own.beside[version.id] = pool
        # The pool is new, or it was closed and is, or soon will be, empty.
        if not pool.serves(version):
            pool.serve(version)
        if own.model.previous == version.digest:
            pool.adopt_kept(own, version.digest)
        return pool

    def _new_pool(
        self, function_id: str, limits: PoolLimits, places: Places | None = None
    ) -> FunctionPool:
        quota = self._quotas.setdefault(limits.tenant_id, Quota(self.tenant_instances))
        # Only the function's own pool has a policy: it learns from the current version.
        keep_alive = self._keep_alive() if places is None else None
        model = Pool(limits, self.memory, keep_alive, quota, places)
        owner = PoolOwner(
            changed=partial(self._tell, function_id),
            lacks_parked=partial(self._note_lacking, function_id, places),
            used=partial(self._use, (limits.tenant_id, function_id)),
            problem=self._problem,
        )
        return FunctionPool(self._sandboxes, self._clock, model, self._arbitration, owner)

    def _note_lacking(self, function_id: str, places: Places | None) -> None:
        if places is None and not self._closing:  # otherwise the pool is of another version
            self._lacks_parked.add(function_id)
            self.parked_is_lacking.set()

    def _use(self, whose: tuple[str, str], used: SandboxCounters) -> None:
        if used.cpu_us or used.blocked:
            sums = CallStats(cpu_us=used.cpu_us, egress_refused=used.blocked)
            self._used.setdefault(whose, CallStats()).add(sums)

    def _tell(self, function_id: str, pool: FunctionPool) -> None:
        self._active[function_id] = None
        for hear in self.on_change.hearers:
            hear(pool.model.limits.tenant_id, function_id)

    def _drop_unused(self) -> None:
        """Remove pools of other versions without instances and invocations."""
        for own in filter(None, map(self._pools.get, self._active)):
            for key in [key for key, pool in own.beside.items() if pool.model.is_at_rest]:
                pool = own.beside.pop(key)
                self._leave(pool)
                own.count_egress(pool.egress_before)

    def _leave(self, pool: FunctionPool) -> None:
        self._arbitration.remove(pool)
        if not self._arbitration.arbiter.is_shared(pool.model.quota):
            del self._quotas[pool.model.limits.tenant_id]
