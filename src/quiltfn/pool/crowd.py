"""The pools of one tenant, which share its quota of instances: who leaves and who is served when it
is used up. How many there are is counted in `model/quota.py`.
"""

import asyncio
from collections.abc import Hashable
from typing import Protocol

from quiltfn.model.pool import Pool
from quiltfn.model.quota import Quota

LOOK_EVERY_S = 0.05


class Member(Protocol):
    """A pool's shell, as far as the quota is concerned."""

    model: Pool

    def provide(self) -> None: ...

    def evict(self, number: int) -> None: ...

    def crowd_out(self) -> None: ...


class Crowd:
    """One tenant's pools."""

    def __init__(self, most: float) -> None:
        self.quota = Quota(most)
        self._members: dict[Hashable, Member] = {}
        # Who wants an instance that the quota denies it, the first to be served first.
        self._waiting: dict[Pool, None] = {}
        self._is_relieving = False
        self._looked_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._members)

    def join(self, member: Member) -> None:
        self._members[member.model] = member

    def leave(self, member: Member) -> None:
        del self._members[member.model]
        self._waiting.pop(member.model, None)

    def want(self, member: Member) -> None:
        """The member lacks instances that the quota denies it. What is idle in the tenant's other
        pools leaves for them. Looking through all of them for each call would cost the server, so
        it is done 20 times a second at most.
        """
        self._waiting.setdefault(member.model)
        now = asyncio.get_running_loop().time()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._look()
        else:
            self._look_later()

    def relieve(self) -> None:
        """After an instance is gone: whoever waits for longest is served."""
        if not self._waiting or self._is_relieving:
            return
        self._is_relieving = True
        try:
            while self._waiting and self.quota.has_room:
                pool = next(iter(self._waiting))
                del self._waiting[pool]
                self._members[pool].provide()  # which waits anew for what it still lacks
        finally:
            self._is_relieving = False

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._looked_at, self._timer = loop.time(), None
        lacking = sum(pool.lacking for pool in self._waiting)
        if not lacking:
            self._waiting.clear()
            return
        spares = [spare for pool in self._pools() for spare in pool.spares()]
        spares.sort(key=lambda one: (not one.is_parked, one.worth))
        for spare in spares[: max(0, lacking - self.quota.leaving)]:
            self._members[spare.pool].evict(spare.instance)
        if not self.quota.leaving:
            # Nothing is on its way out, and nothing idle may go: a deploy would wait for ever.
            for pool in [one for one in self._waiting if one.standby is not None and one.lacking]:
                self._members[pool].crowd_out()
        if any(pool.line for pool in self._waiting):
            self._look_later()

    def _pools(self) -> list[Pool]:
        """Those that have something idle."""
        return [one.model for one in self._members.values() if one.model.has_idle]

    def _look_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)
