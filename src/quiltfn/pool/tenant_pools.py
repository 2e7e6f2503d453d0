"""TenantPools: the pools of one tenant, which share its quota of instances (`model/quota.py`).

When it is used up, idle instances are evicted for the pools that need one.
"""

import asyncio
from collections.abc import Hashable
from typing import Protocol

from quiltfn.model.pool import Pool
from quiltfn.model.quota import Quota

LOOK_EVERY_S = 0.05


class Member(Protocol):
    """What `TenantPools` needs of a `FunctionPool`."""

    model: Pool

    def provide(self) -> None: ...

    def evict(self, number: int) -> None: ...

    def quota_exhausted(self) -> None: ...


class TenantPools:
    """One tenant's pools."""

    def __init__(self, limit: float) -> None:
        self.quota = Quota(limit)
        self._members: dict[Hashable, Member] = {}
        # The pools that lack instances because of the quota, the first to be served first.
        self._waiting: dict[Pool, None] = {}
        self._is_serving = False
        self._made_capacity_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._members)

    def add(self, member: Member) -> None:
        self._members[member.model] = member

    def remove(self, member: Member) -> None:
        del self._members[member.model]
        self._waiting.pop(member.model, None)

    def request(self, member: Member) -> None:
        """The member lacks instances for the quota: idle ones of the tenant's other pools are
        evicted. That looks at every pool of the tenant, so it is done at most 20 times a second.
        """
        self._waiting.setdefault(member.model)
        now = asyncio.get_running_loop().time()
        if now - self._made_capacity_at >= LOOK_EVERY_S:
            self._make_capacity()
        else:
            self._make_capacity_later()

    def serve_waiting(self) -> None:
        """After an instance is gone: serves the pools that lack one, in order."""
        if not self._waiting or self._is_serving:
            return
        self._is_serving = True
        try:
            while self._waiting and self.quota.has_capacity:
                pool = next(iter(self._waiting))
                del self._waiting[pool]
                self._members[pool].provide()  # which is added again if it still lacks some
        finally:
            self._is_serving = False

    def _make_capacity(self) -> None:
        loop = asyncio.get_running_loop()
        self._made_capacity_at, self._timer = loop.time(), None
        lacking = sum(pool.quota_shortfall for pool in self._waiting)
        if not lacking:
            self._waiting.clear()
            return
        candidates = [
            candidate for pool in self._pools() for candidate in pool.eviction_candidates()
        ]
        candidates.sort(key=lambda one: (not one.is_parked, one.worth))
        for candidate in candidates[: max(0, lacking - self.quota.leaving)]:
            self._members[candidate.pool].evict(candidate.instance)
        if not self.quota.leaving:
            # Nothing is ending, and nothing idle may be ended: a deploy would wait for ever.
            for pool in [
                one for one in self._waiting if one.prepared is not None and one.quota_shortfall
            ]:
                self._members[pool].quota_exhausted()
        if any(pool.queue for pool in self._waiting):
            self._make_capacity_later()

    def _pools(self) -> list[Pool]:
        """Those that have an idle instance."""
        return [one.model for one in self._members.values() if one.model.has_idle]

    def _make_capacity_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._make_capacity)
