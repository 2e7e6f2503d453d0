"""MemoryArbiter: one memory budget for all pools of this node.

It evicts idle instances when calls need their memory, and serves waiting calls when memory is free
again. The rules are in `model/memory.py`.
"""

from collections.abc import Callable, Hashable
from typing import Protocol

from quiltfn.model.keepalive import KeepAlive
from quiltfn.model.memory import Memory
from quiltfn.model.pool import Pool
from quiltfn.ports import Sandboxes


class Member(Protocol):
    """What the arbiter needs of a `FunctionPool`."""

    model: Pool

    def provide(self) -> None: ...

    def evict(self, number: int) -> None: ...


class MemoryArbiter:
    """Evicts idle instances for calls that need memory, and serves the calls that wait for it."""

    def __init__(
        self, sandboxes: Sandboxes, memory: Memory, keep_alive: Callable[[], KeepAlive | None]
    ) -> None:
        self.memory, self.keep_alive = memory, keep_alive
        self._sandboxes = sandboxes
        self._members: dict[Hashable, Member] = {}
        self._frees_seen = 0
        self._is_serving = False

    def add(self, member: Member) -> None:
        self._members[member.model] = member

    def remove(self, member: Member) -> None:
        del self._members[member.model]

    def free_memory(self, mib: float) -> None:
        """Evicts what is worth least, so that `mib` more may be held."""
        if self.memory.lacks(mib) <= 0:
            return  # there is enough, or will be once what is ending is gone
        models = [one.model for one in self._members.values() if one.model.instances]
        candidates = [candidate for model in models for candidate in model.eviction_candidates()]
        of_prewarmed, chosen = self.memory.choose(candidates, mib)
        if of_prewarmed > 0:
            self._sandboxes.give_up(of_prewarmed, self.serve_waiting)
        # No call is served meanwhile: it could be given an instance that was chosen.
        was_serving, self._is_serving = self._is_serving, True
        try:
            for candidate in chosen:
                self._members[candidate.pool].evict(candidate.instance)
        finally:
            self._is_serving = was_serving

    def serve_waiting(self) -> None:
        """After memory was freed: serves the pools that wait for it, the longest waiting first."""
        memory = self.memory
        if not memory.waiting or self._is_serving:
            return
        self._is_serving = True
        try:
            while memory.waiting and memory.frees != self._frees_seen:
                self._frees_seen = memory.frees
                for pool in sorted(memory.waiting, key=memory.waiting.__getitem__):
                    self._members[pool].provide()
                    if pool in memory.waiting:
                        break  # it is first, even if others needed less
        finally:
            self._is_serving = False
