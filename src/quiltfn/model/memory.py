"""Memory that all instances and prewarmed sandboxes of a machine share, and what is evicted first.

An instance counts its version's limit while a call is in it or on its way, and what it uses while
it is idle; what is being ended counts until it is gone. So the limits of all calls that run at once
stay within the budget, and idle instances take what is left.

Memory is taken back in one order (Greedy-Dual, as in Cherkasova 1998 and FaasCache, ASPLOS 2021):
first prewarmed sandboxes, which belong to no function; then the idle instance that is worth least.
Its worth is how often its function was called, times what a start takes, over its size, plus a
clock. The clock rises to the worth of each instance that is evicted, so that what was useful long
ago does not stay for ever. Parked instances and those kept for a rollback go before ready ones.
Instances that min_instances asks for are never evicted.
"""

from collections.abc import Collection, Hashable

import msgspec

UNBOUNDED = float("inf")
# The part of the budget up to which instances are started that no call has asked for, only to be
# parked: calls find the rest free, without an eviction.
PARKING_SHARE = 0.5
ROUNDING_MIB = 1e-6  # sums of floats that should be equal may differ by less


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """What instances of a version count, in MiB: `limit_mib` with a call; without one `idle_mib`,
    until that is measured. `parks`: its last instance is parked when it was idle for too long.
    `concurrency`: how many calls an instance has at most at a time; they count once together.
    """

    limit_mib: float = 256.0
    idle_mib: float = 1.0
    parks: bool = False
    concurrency: int = 1


class EvictionCandidate(msgspec.Struct, frozen=True):
    """An idle instance that may be evicted. `is_parked`: or kept for a rollback."""

    pool: Hashable
    instance: int
    size_mib: float
    worth: float
    is_parked: bool


def eviction_order(candidate: EvictionCandidate) -> tuple[bool, float]:
    """The least is evicted first."""
    return not candidate.is_parked, candidate.worth


class Memory(msgspec.Struct, eq=False):
    """The budget, in MiB, and what counts against it.

    `leaving_mib`: the part of `held_mib` that is being freed. `prewarmed_mib`: the part of it that
    prewarmed sandboxes have. `waiting`: the pools that wait for memory, and since when (monotonic
    seconds). `is_freed`: whether memory was freed or a turn has passed since they were served last.
    """

    budget_mib: float = UNBOUNDED
    held_mib: float = 0.0
    leaving_mib: float = 0.0
    prewarmed_mib: float = 0.0
    clock: float = 0.0
    is_freed: bool = False
    waiting: dict[Hashable, float] = msgspec.field(default_factory=dict)

    def count(self, mib: float) -> None:
        """Adds to what is held; subtracts, if negative."""
        self.held_mib += mib
        self.is_freed |= mib < 0

    def fits(self, mib: float) -> bool:
        """Whether so much more is within the budget; zero and less always are."""
        return mib <= 0 or self.held_mib + mib <= self.budget_mib + ROUNDING_MIB

    def has_to_spare(self, mib: float) -> bool:
        """Whether so much more may be held for what no call has asked for."""
        return self.held_mib + mib <= PARKING_SHARE * self.budget_mib + ROUNDING_MIB

    def lacks(self, mib: float) -> float:
        """How much must be evicted so that `mib` more fit, beside what is leaving already."""
        return max(0.0, self.held_mib - self.leaving_mib + mib - self.budget_mib)

    def is_turn_of(self, who: object, since: float) -> bool:
        """Whether no other pool has waited for memory for longer than `since`."""
        return not self.waiting or all(
            since <= other for one, other in self.waiting.items() if one is not who
        )

    def pass_turn(self) -> None:
        """A pool no longer waits, or its first call waits since later: another may be next."""
        self.is_freed = True

    def worth(self, calls: int, start_ms: float, size_mib: float) -> float:
        """The worth of an instance that becomes idle now."""
        return self.clock + calls * start_ms / max(size_mib, 0.1)

    def choose(
        self, candidates: Collection[EvictionCandidate], mib: float
    ) -> tuple[float, list[EvictionCandidate]]:
        """What is evicted so that `mib` more fit: MiB of prewarmed sandboxes, and instances.

        Nothing where all of it would not be enough: then a call has to end first.
        """
        lacking = self.lacks(mib)
        if lacking > self.prewarmed_mib + sum(one.size_mib for one in candidates) + ROUNDING_MIB:
            return 0.0, []
        of_prewarmed = min(lacking, self.prewarmed_mib)
        lacking -= of_prewarmed
        chosen: list[EvictionCandidate] = []
        for candidate in sorted(candidates, key=eviction_order):
            if lacking <= ROUNDING_MIB:
                break
            chosen.append(candidate)
            lacking -= candidate.size_mib
            if not candidate.is_parked:
                self.clock = max(self.clock, candidate.worth)
        return of_prewarmed, chosen
