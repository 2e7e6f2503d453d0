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


class Arbiter:
    """Lets idle instances go where others need their memory, and serves who waits for some."""

    def __init__(
        self, sandboxes: Sandboxes, memory: Memory, keeping: Callable[[], KeepAlive | None]
    ) -> None:
        self.memory, self.keeping = memory, keeping
        self._sandboxes = sandboxes
        self._members: dict[Hashable, Member] = {}
        self._frees_seen = 0
        self._is_relieving = False

    def join(self, member: Member) -> None:
        self._members[member.model] = member

    def leave(self, member: Member) -> None:
        del self._members[member.model]

    def make_room(self, mib: float) -> None:
        """Ends what is idle and worth least, so that so much more may be held."""
        if self.memory.lacks(mib) <= 0:
            return  # there is enough, or it is leaving
        models = [one.model for one in self._members.values() if one.model.instances]
        spares = [spare for model in models for spare in model.spares()]
        of_stock, chosen = self.memory.choose(spares, mib)
        if of_stock > 0:
            self._sandboxes.give_up(of_stock, self.relieve)
        # Nobody is served meanwhile, or what was chosen may be handed out before it is its turn.
        is_relieving, self._is_relieving = self._is_relieving, True
        try:
            for spare in chosen:
                self._members[spare.pool].evict(spare.instance)
        finally:
            self._is_relieving = is_relieving

    def relieve(self) -> None:
        """After something was given back: serves who waits for memory, the longest first."""
        memory = self.memory
        if not memory.short or self._is_relieving:
            return
        self._is_relieving = True
        try:
            while memory.short and memory.frees != self._frees_seen:
                self._frees_seen = memory.frees
                for pool in sorted(memory.short, key=memory.short.__getitem__):
                    self._members[pool].provide()
                    if pool in memory.short:
                        break  # it is its turn, whatever others could do with less
        finally:
            self._is_relieving = False
