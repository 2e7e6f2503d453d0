"""The memory budget of a machine's instances and prewarmed sandboxes, and the eviction order.

An instance counts its version's limit while it has or expects an invocation, and its actual memory
usage while it is idle. An ending instance counts until it is gone. So the limits of all
simultaneous invocations fit into the budget, and idle instances use the rest.

Eviction follows one order (Greedy-Dual, as in Cherkasova 1998 and FaasCache, ASPLOS 2021): first
prewarmed sandboxes, which belong to no function; then the idle instance of least worth. Worth =
clock + (invocations of its function * duration of a start / size). The clock rises to the worth of
each evicted instance, so that instances that were useful long ago do not stay for ever. Parked
instances and those kept for a rollback are evicted before ready ones. Instances of min_instances
are never evicted.
"""

from collections.abc import Collection, Hashable

import msgspec

UNBOUNDED = float("inf")
# The part of the budget that may be in use when an instance is started only to be parked. The rest
# stays free for invocations, without an eviction.
PARKING_SHARE = 0.5
ROUNDING_MIB = 1e-6  # the maximum rounding error of sums


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """The memory in MiB that instances of a version count: `limit_mib` with one or several
    invocations; otherwise `idle_mib`, until the usage is measured. `parks`: the last instance is
    parked after it was idle for too long. `concurrency`: how many invocations an instance takes at
    a time.
    """

    limit_mib: float = 256.0
    idle_mib: float = 1.0
    parks: bool = False
    concurrency: int = 1


class EvictionCandidate(msgspec.Struct, frozen=True):
    """An idle instance that may be evicted. `is_parked`: parked, or kept for a rollback."""

    pool: Hashable
    instance: int
    size_mib: float
    worth: float
    is_parked: bool


def eviction_order(candidate: EvictionCandidate) -> tuple[bool, float]:
    """The sort key of the eviction order: the least key is evicted first."""
    return not candidate.is_parked, candidate.worth


class Memory(msgspec.Struct, eq=False):
    """The budget in MiB, and its reserved part `held_mib`.

    `leaving_mib`: the part of `held_mib` that is being freed. `prewarmed_mib`: the part of
    `held_mib` in prewarmed sandboxes. `waiting`: the pools that wait for memory, and since when
    (monotonic seconds). `is_freed`: memory was freed, or a turn passed, since `next_turn` last
    returned a pool.
    """

    budget_mib: float = UNBOUNDED
    held_mib: float = 0.0
    leaving_mib: float = 0.0
    prewarmed_mib: float = 0.0
    clock: float = 0.0
    is_freed: bool = False
    waiting: dict[Hashable, float] = msgspec.field(default_factory=dict)

    def count(self, mib: float) -> None:
        """Adds `mib` to the reserved memory; negative: subtracts."""
        self.held_mib += mib
        self.is_freed |= mib < 0

    def prewarm(self, mib: float) -> None:
        """A prewarmed sandbox of `mib` was added; negative: it was used or removed."""
        self.prewarmed_mib += mib

    def leave(self, mib: float) -> None:
        """An instance or sandbox that counts `mib` is being ended; negative: it is gone."""
        self.leaving_mib += mib

    def fits(self, mib: float) -> bool:
        """Whether `mib` more are within the budget; always True for zero and less."""
        return mib <= 0 or self.held_mib + mib <= self.budget_mib + ROUNDING_MIB

    def has_to_spare(self, mib: float) -> bool:
        """Whether `mib` more may be reserved for an instance that no invocation has asked for."""
        return self.held_mib + mib <= PARKING_SHARE * self.budget_mib + ROUNDING_MIB

    def lacks(self, mib: float) -> float:
        """How much to evict so that `mib` more fit, in addition to the memory that is being
        freed.
        """
        return max(0.0, self.held_mib - self.leaving_mib + mib - self.budget_mib)

    def is_turn_of(self, who: object, since: float) -> bool:
        """Whether no other pool began to wait for memory before `since`."""
        return not self.waiting or all(
            since <= other for one, other in self.waiting.items() if one is not who
        )

    def pass_turn(self) -> None:
        """A pool no longer waits, or its first waiting invocation is a later one: another pool may
        be next.
        """
        self.is_freed = True

    def next_turn(self) -> Hashable | None:
        """The pool to serve next: the one that has waited longest, even if others need less. When
        that pool stops waiting, it calls `pass_turn`.
        """
        if not (self.waiting and self.is_freed):
            return None
        self.is_freed = False
        return min(self.waiting, key=self.waiting.__getitem__)

    def worth(self, calls: int, start_ms: float, size_mib: float) -> float:
        """The worth of an instance that becomes idle now."""
        return self.clock + calls * start_ms / max(size_mib, 0.1)

    def choose(
        self, candidates: Collection[EvictionCandidate], mib: float
    ) -> tuple[float, list[EvictionCandidate]]:
        """What to evict so that `mib` more fit: MiB of prewarmed sandboxes, and instances.

        Empty if evicting everything would not be enough: then an invocation has to end first.
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
