"""Arbiter: divides the resources that pools share: memory, a tenant's quota, a function's places.

A pool that needs more of a resource waits for it. The arbiter decides which idle instances are
evicted for that pool, and which pool is served next once some of the resource is free.
`pool/arbitration.py` performs the decisions.
"""

from collections.abc import Hashable, Iterator

import msgspec

from quiltfn.model.actions import RequestMemory, RequestPlaces, RequestQuota
from quiltfn.model.memory import EvictionCandidate, Memory, eviction_order
from quiltfn.model.places import Places
from quiltfn.model.pool import Pool
from quiltfn.model.quota import Quota

# Minimum time between searches for a tenant's idle instances, which visit all its pools.
LOOK_EVERY_S = 0.05


class Decision(msgspec.Struct, frozen=True):
    """What to evict, in this order: MiB of prewarmed sandboxes, and instances of pools.
    `exhausted`: the pool whose preparation must fail, since nothing can be evicted for it.
    """

    prewarmed_mib: float = 0.0
    evictions: list[tuple[Hashable, int]] = []
    exhausted: Pool | None = None


class Arbiter:
    """The pools, by the resources that they share."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._sharing: dict[Memory | Quota | Places, dict[Hashable, Pool]] = {}
        self._looks: dict[Quota, float] = {}  # when to search again, the earliest first

    def add(self, pool: Pool) -> None:
        for resource in (pool.memory, pool.quota, pool.places):
            self._sharing.setdefault(resource, {})[pool] = pool

    def remove(self, pool: Pool) -> None:
        pool.quota.waiting.pop(pool, None)
        for resource in (pool.memory, pool.quota, pool.places):
            del self._sharing[resource][pool]
            if not self._sharing[resource]:
                del self._sharing[resource]

    def is_shared(self, resource: Memory | Quota | Places) -> bool:
        """Whether any pool uses the resource."""
        return resource in self._sharing

    def request(
        self, pool: Pool, wanted: RequestMemory | RequestQuota | RequestPlaces, now: float
    ) -> Decision:
        """Decides what to evict for a pool that needs more of a resource."""
        match wanted:
            case RequestMemory(mib=mib):
                return self._free_memory(mib)
            case RequestPlaces(count=count):
                return self._make_places(pool, count)
        quota = pool.quota
        quota.waiting.setdefault(pool)
        if now - quota.looked_at >= LOOK_EVERY_S:
            return self._look_at(quota, now)
        self._looks.setdefault(quota, now + LOOK_EVERY_S)
        return Decision()

    @property
    def look_at(self) -> float | None:
        """When to call `look`."""
        return next(iter(self._looks.values()), None)

    def look(self, now: float) -> Decision:
        """Searches again for idle instances of the tenant whose turn is first."""
        quota = next((quota for quota, at in self._looks.items() if at <= now), None)
        return Decision() if quota is None else self._look_at(quota, now)

    def turns(self, pool: Pool) -> Iterator[Hashable]:
        """After an event of `pool`: yields the pools to serve. Serve each before taking
        the next.
        """
        memory, quota, places = pool.memory, pool.quota, pool.places
        while True:
            if (longest := memory.next_turn()) is not None:
                yield longest
            elif quota.waiting and quota.has_capacity:
                first = next(iter(quota.waiting))
                del quota.waiting[first]  # added again if the pool still lacks instances
                yield first
            elif places.waiting and places.is_freed:
                yield from places.turns()
            else:
                return

    def _free_memory(self, mib: float) -> Decision:
        """Chooses what to evict so that `mib` more fit."""
        if self.memory.lacks(mib) <= 0:
            return Decision()  # enough is free, or will be once ending instances are gone
        of_prewarmed, chosen = self.memory.choose(self._candidates(self.memory), mib)
        return Decision(of_prewarmed, [(one.pool, one.instance) for one in chosen])

    def _make_places(self, wants: Pool, count: int) -> Decision:
        """Evicts idle instances of versions other than that of `wants`. The function's own pool,
        which was added first, comes last.
        """
        own, *beside = self._sharing[wants.places].values()
        found: list[tuple[Hashable, int]] = []
        for pool in (*beside, own):
            if len(found) < count and pool is not wants and pool.has_idle:
                found += [(pool, number) for number in pool.place_candidates()]
        return Decision(evictions=found[:count])

    def _look_at(self, quota: Quota, now: float) -> Decision:
        """Evicts idle instances of the tenant: as many as its pools lack, minus those that are
        ending.
        """
        quota.looked_at = now
        self._looks.pop(quota, None)
        waiting = [self._sharing[quota][pool] for pool in quota.waiting]
        lacking = sum(pool.quota_shortfall for pool in waiting)
        if not lacking:
            quota.waiting.clear()
            return Decision()
        chosen = sorted(self._candidates(quota), key=eviction_order)
        del chosen[max(0, lacking - quota.leaving) :]
        failing = []
        if not (chosen or quota.leaving):
            # Nothing is ending and nothing may be evicted, so deploys would wait for ever. The
            # newest deploy fails and frees its instances for the others.
            failing = [one for one in waiting if one.prepared is not None and one.quota_shortfall]
        if len(failing) > 1 or any(pool.queue for pool in waiting):
            self._looks[quota] = now + LOOK_EVERY_S
        evictions = [(one.pool, one.instance) for one in chosen]
        return Decision(evictions=evictions, exhausted=failing[-1] if failing else None)

    def _candidates(self, resource: Memory | Quota) -> list[EvictionCandidate]:
        pools = [pool for pool in self._sharing[resource].values() if pool.has_idle]
        return [candidate for pool in pools for candidate in pool.eviction_candidates()]
