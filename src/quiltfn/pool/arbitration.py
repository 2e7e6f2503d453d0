"""Arbitration: carries out the decisions of this node's arbiter (`model/arbiter.py`)."""

import asyncio
from collections.abc import Callable, Hashable
from functools import partial
from typing import Protocol

from quiltfn.model.actions import RequestMemory, RequestPlaces, RequestQuota
from quiltfn.model.arbiter import Arbiter, Decision
from quiltfn.model.pool import Pool
from quiltfn.ports import Sandboxes


class Member(Protocol):
    """The part of `FunctionPool` that arbitration uses."""

    model: Pool

    def provide(self) -> None: ...

    def evict(self, number: int) -> None: ...

    def quota_exhausted(self) -> None: ...


class Loop(Protocol):
    """The part of the event loop that arbitration uses."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], object]) -> object: ...


class Arbitration:
    """Evicts idle instances for pools that lack resources, and serves waiting pools."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        arbiter: Arbiter,
        loop: Callable[[], Loop] = asyncio.get_running_loop,
    ) -> None:
        self.arbiter = arbiter
        self._sandboxes, self._memory, self._loop = sandboxes, arbiter.memory, loop
        self._members: dict[Hashable, Member] = {}
        self._is_serving = False
        self._will_look = False

    def add(self, member: Member) -> None:
        self._members[member.model] = member
        self.arbiter.add(member.model)

    def remove(self, member: Member) -> None:
        del self._members[member.model]
        self.arbiter.remove(member.model)

    def request(self, pool: Pool, wanted: RequestMemory | RequestQuota | RequestPlaces) -> None:
        """Evict idle instances, if that helps, because the pool lacks a resource."""
        decision = self.arbiter.request(pool, wanted, self._loop().time())
        if decision.prewarmed_mib > 0:
            self._sandboxes.give_up(decision.prewarmed_mib, partial(self.serve, pool))
        self._perform(decision)

    def serve(self, pool: Pool) -> None:
        """Serve waiting pools after an event of `pool`, which may have freed resources."""
        is_waited_for = self._memory.waiting or pool.quota.waiting or pool.places.waiting
        if is_waited_for and not self._is_serving:
            self._is_serving = True
            try:
                for first in self.arbiter.turns(pool):
                    self._members[first].provide()
            finally:
                self._is_serving = False

    def _perform(self, decision: Decision) -> None:
        # Serve no pool meanwhile: an invocation could get an instance that was chosen for eviction.
        was_serving, self._is_serving = self._is_serving, True
        try:
            for pool, number in decision.evictions:
                self._members[pool].evict(number)
        finally:
            self._is_serving = was_serving
        if decision.exhausted is not None:
            self._members[decision.exhausted].quota_exhausted()
        at = self.arbiter.look_at
        if at is not None and not self._will_look:
            self._will_look = True
            self._loop().call_at(at, self._look)

    def _look(self) -> None:
        self._will_look = False
        decision = self.arbiter.look(self._loop().time())
        self._perform(decision)
        for pool, _ in decision.evictions:
            self.serve(self._members[pool].model)
