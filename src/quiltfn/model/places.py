"""Places: the instances of one function, of all its versions, which share its maximum.

Each invoked version has its own pool (`model/pool.py`). An instance takes a place until it is gone.
If none is free, a pool gets the place of another version's idle instance; if all are busy, the
first instance to finish an invocation yields by these rules:

Rule 1: an instance that no invocation of its own version waits for yields to any that waits.
Rule 2: a version without any instance gets the next place, or it would never be served.
Rule 3: otherwise a version gets it whose first invocation has waited `TURN_S` longer than the
other's. So two versions under constant load swap places rarely, since each swap is a cold start.

Each place that becomes free is offered to every waiting version. To keep that fast, at most
`WAITING_MAX` versions wait, and an invocation of one more is refused.
"""

from collections.abc import Hashable, Iterator

import msgspec

TURN_S = 1.0
WAITING_MAX = 64
# Replaces a time: before every waiting invocation.
FIRST = float("-inf")


class Places(msgspec.Struct, eq=False):
    """`used`: occupied places, of which `leaving` have ending instances. `is_freed`: whether a
    place became free, or a pool stopped waiting, since the waiting pools were last served.
    `waiting`: the pools that lack a place, in the order in which they began to, and since when
    their first invocation waits (monotonic seconds), or FIRST.
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
        """The pool `who` no longer lacks a place: another may be next."""
        if self.waiting.pop(who, None) is not None:
            self.is_freed = True

    def pass_turn(self) -> None:
        """A place became free, or a pool wants less: others may be next."""
        self.is_freed = True

    def turns(self) -> Iterator[Hashable]:
        """The pools to serve, in order. Those that stop waiting meanwhile pass no turn."""
        yield from sorted(self.waiting, key=self.waiting.__getitem__)
        self.is_freed = False

    def due(self, who: Hashable, since: float | None) -> int:
        """How many other pools get a place before the pool `who`. `since`: when its own first
        invocation that lacks a place came, or FIRST; None: none lacks one.
        """
        found, is_behind = 0, True
        for other, other_since in self.waiting.items():
            if other is who:
                is_behind = False
            elif since is None or other_since < since - TURN_S:
                found += 1
            elif other_since == since == FIRST:
                found += is_behind  # the pool that lacked a place for longer is first
        return found

    def must_yield(self, who: Hashable, since: float | None) -> bool:
        """Whether an idle instance of the pool `who` now yields to another version. `since`: as for
        `due`.
        """
        return self.due(who, since) > self.leaving
