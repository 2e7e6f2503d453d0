"""Places: the instances of one function, of whatever version, which share its maximum.

Each version that is called has a pool of its own (`model/pool.py`). An instance takes a place until
it is gone. A pool that needs one where none is free gets that of an idle instance of another
version; where all have calls, the first that ends its call makes way by these rules:

Rule 1: an instance that no call of its own version waits for makes way for any that waits.
Rule 2: a version that has no instance at all gets the next place, or it would never be served.
Rule 3: otherwise a version whose first call has waited `TURN_S` longer than the other's gets it.
Two versions that are both called all the time so change places seldom, since each change is a cold
start.

Each place that becomes free is offered to every version that waits for one. So at most
`WAITING_MAX` wait, for which that takes no noticeable time, and a call of one more is refused.
"""

from collections.abc import Hashable

import msgspec

TURN_S = 1.0
WAITING_MAX = 64
# In place of a time: before every call that waits.
FIRST = float("-inf")


class Places(msgspec.Struct, eq=False):
    """`used` of them, of which `leaving` are being ended. `is_freed`: whether one became free, or a
    pool waits no longer, since those that wait were served last. `waiting`: the pools that lack
    one, in the order in which they began to, and since when their first call waits (monotonic
    seconds), or FIRST.
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
        """The pool `who` lacks none any more: another may be next."""
        if self.waiting.pop(who, None) is not None:
            self.is_freed = True

    def due(self, who: Hashable, since: float | None) -> int:
        """How many other pools get a place before the pool `who`. `since`: when the first of its
        own calls that lack one came, or FIRST; None: no call of its own lacks one.
        """
        found, is_behind = 0, True
        for other, other_since in self.waiting.items():
            if other is who:
                is_behind = False
            elif since is None or other_since < since - TURN_S:
                found += 1
            elif other_since == since == FIRST:
                found += is_behind  # who has lacked one for longer is first
        return found

    def must_yield(self, who: Hashable, since: float | None) -> bool:
        """Whether an instance of the pool `who` that has no call now makes way for another version.
        `since`: as for `due`.
        """
        return self.due(who, since) > self.leaving
