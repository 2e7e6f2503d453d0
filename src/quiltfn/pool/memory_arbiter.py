"""Memory over all pools of this node: who leaves when it is short, and who is served when there is
some again. What is decided is decided in `model/memory.py`.
"""

from collections.abc import Callable, Hashable
from typing import Protocol

from quiltfn.model.keepalive import KeepAlive
from quiltfn.model.memory import Memory
from quiltfn.model.pool import Pool
from quiltfn.ports import Sandboxes


class Member(Protocol):
    """A pool's shell, as far as memory is concerned."""

    model: Pool

    def provide(self) -> None: ...

    def evict(self, number: int) -> None: ...


class MemoryArbiter:
    """Lets idle instances go where others need their memory, and serves who waits for some."""

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
        """Ends what is idle and worth least, so that so much more may be held."""
        if self.memory.lacks(mib) <= 0:
            return  # there is enough, or it is leaving
        models = [one.model for one in self._members.values() if one.model.instances]
        candidates = [candidate for model in models for candidate in model.eviction_candidates()]
        of_prewarmed, chosen = self.memory.choose(candidates, mib)
        if of_prewarmed > 0:
            self._sandboxes.give_up(of_prewarmed, self.serve_waiting)
        # Nobody is served meanwhile, or what was chosen may be handed out before it is its turn.
        is_relieving, self._is_serving = self._is_serving, True
        try:
            for candidate in chosen:
                self._members[candidate.pool].evict(candidate.instance)
        finally:
            self._is_serving = is_relieving

    def serve_waiting(self) -> None:
        """After something was given back: serves who waits for memory, the longest first."""
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
                        break  # it is its turn, whatever others could do with less
        finally:
            self._is_serving = False
