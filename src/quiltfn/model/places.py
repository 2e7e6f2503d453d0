"""Places: the share of a function's maximum of instances that each of its versions gets.

Each invoked version has its own pool (`model/pool.py`). An instance takes a place until it is gone.
If no place is free, a pool gets the place of another version's idle instance. If all instances are
busy, the first one to finish an invocation yields its place by these rules:

Rule 1: an instance yields to any waiting invocation if none of its own version waits.
Rule 2: a version without any instance gets the next place; otherwise it would never run.
Rule 3: otherwise a version gets the place if its first invocation has waited `TURN_S` longer than
the other's. So two versions under constant load swap places rarely: each swap is a cold start.

Each place that becomes free is offered to every waiting version. To keep that fast, at most
`WAITING_MAX` versions wait, and an invocation of one more is refused.
"""

from collections.abc import Hashable, Iterator

import msgspec

TURN_S = 1.0
WAITING_MAX = 64
# In place of a time: before the times of all waiting invocations.
FIRST = float("-inf")


class Places(msgspec.Struct, eq=False):
    """`used`: occupied places, of which `leaving` have ending instances. `is_freed`: a place became
    free, or a pool stopped waiting, since the waiting pools were last served. `waiting`: the pools
    that lack a place, in the order in which they began to lack it, with the time since which their
    first invocation waits (monotonic seconds), or FIRST.
    """

    used: int = 0
    leaving: int = 0
    is_freed: bool = False
    waiting: dict[Hashable, float] = msgspec.field(default_factory=dict)

    @property
    def live(self) -> int:
        """How many instances are not being ended."""
        return self.used - self.leaving

    def leave(self, who: Hashable) -> None:
        """The pool `who` no longer lacks a place: another pool may be next."""
        if self.waiting.pop(who, None) is not None:
            self.is_freed = True

    def pass_turn(self) -> None:
        """A place became free, or a pool needs fewer: other pools may be next."""
        self.is_freed = True

    def turns(self) -> Iterator[Hashable]:
        """The pools to serve, in order. If one of them stops waiting meanwhile, `is_freed` is still
        reset.
        """
        yield from sorted(self.waiting, key=self.waiting.__getitem__)
        self.is_freed = False

    def due(self, who: Hashable, since: float | None) -> int:
        """How many other pools get a place before the pool `who`. `since`: the time since which its
        own first invocation lacks a place, or FIRST; None: no invocation lacks a place.
        """
        found, is_behind = 0, True
        for other, other_since in self.waiting.items():
            if other is who:
                is_behind = False
            elif since is None or other_since < since - TURN_S:
                found += 1
            elif other_since == since == FIRST:
                found += is_behind  # the pool that has lacked a place for longer comes first
        return found

    def must_yield(self, who: Hashable, since: float | None) -> bool:
        """Whether an idle instance of the pool `who` now yields to another version. `since`: as for
        `due`.
        """
        return self.due(who, since) > self.leaving
