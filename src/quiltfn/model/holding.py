"""Holding: the instances of one pool, and what each of them counts in the machine's memory."""

from collections import Counter

from quiltfn.model.cold import Cold
from quiltfn.model.counts import PoolCounts
from quiltfn.model.instance import Instance, InstanceEvent, InstanceState
from quiltfn.model.memory import Footprint, Memory

S = InstanceState
WITH_A_CALL = (S.BUSY, S.RECYCLING)


class Holding:
    """Instances by number. Whatever happens to one is told here, so that nothing goes uncounted."""

    def __init__(self, memory: Memory) -> None:
        self.instances: dict[int, Instance] = {}
        self._memory = memory
        self._footprints: dict[str, Footprint] = {}
        self._next_number = 1

    def know(self, digest: str, footprint: Footprint) -> None:
        """What instances of this content weigh."""
        self._footprints[digest] = footprint

    def forget_all_but(self, *wanted: str | None) -> None:
        """Other contents without instances are forgotten."""
        used = {one.digest for one in self.instances.values()}.union(wanted)
        self._footprints = {key: one for key, one in self._footprints.items() if key in used}

    def footprint(self, digest: str) -> Footprint:
        return self._footprints.get(digest) or Footprint()

    def add(self, digest: str, now: float, why: Cold, charge_mib: float) -> Instance:
        """A new one, which is warming and counts `charge_mib` until it is ready."""
        one = Instance(self._next_number, digest, now, why, self.footprint(digest).idle_mib)
        self._next_number += 1
        self.instances[one.id] = one
        self._charge(one, charge_mib)
        return one

    def hear(self, one: Instance, event: InstanceEvent, now: float) -> None:
        """Moves the instance on by its table, and what it counts with it."""
        one.hear(event, now)
        if one.state in WITH_A_CALL:
            self._charge(one, self.footprint(one.digest).limit_mib)
        elif one.is_idle:
            self._charge(one, one.idle_mib)
        elif one.state is S.TERMINATING:
            self._memory.leaving_mib += one.charge_mib

    def remove(self, number: int, now: float) -> None:
        """It is gone, and no longer counts."""
        one = self.instances.pop(number)
        one.hear(InstanceEvent.VANISHED, now)
        self._memory.leaving_mib -= one.charge_mib
        self._charge(one, 0.0)

    def measured(self, number: int, mib: float) -> None:
        """What an idle instance really uses."""
        one = self.instances.get(number)
        if one is not None:
            one.idle_mib = mib
            if one.is_idle:
                self._charge(one, mib)

    def affords(self, one: Instance) -> bool:
        """Whether a call in it is within the machine's memory."""
        return self._memory.fits(self.footprint(one.digest).limit_mib - one.charge_mib)

    # What there is ---------------------------------------------------------------------------

    def counts(self) -> PoolCounts:
        tally = Counter(one.state for one in self.instances.values())
        return PoolCounts(
            warming=tally[S.WARMING] + tally[S.PARKED],
            ready=tally[S.READY],
            busy=tally[S.BUSY],
            recycling=tally[S.RECYCLING],
            terminating=tally[S.TERMINATING],
        )

    def those(self, *states: InstanceState, digest: str | None = None) -> list[Instance]:
        """Those in one of the states, the longest in it first; of one content, if given."""
        found = [
            one
            for one in self.instances.values()
            if one.state in states and digest in (None, one.digest)
        ]
        return sorted(found, key=lambda one: one.since) if len(found) > 1 else found

    def count(self, *states: InstanceState, digest: str | None = None) -> int:
        return len(self.those(*states, digest=digest))

    def serving(self, digest: str) -> int:
        """How many of a content serve calls or are about to: neither parked nor on the way out."""
        return self.count(S.WARMING, S.READY, *WITH_A_CALL, digest=digest)

    def live(self) -> int:
        """Instances that are not on their way out."""
        return sum(one.state is not S.TERMINATING for one in self.instances.values())

    def check(self) -> None:
        """Asserts that nothing counts that should not, or less than it should."""
        for one in self.instances.values():
            limit = self.footprint(one.digest).limit_mib
            assert one.state not in WITH_A_CALL or one.charge_mib == limit, f"{one} counts wrong"
            assert not one.is_idle or one.charge_mib == one.idle_mib, f"{one} counts wrong"

    def _charge(self, one: Instance, mib: float) -> None:
        self._memory.count(mib - one.charge_mib)
        one.charge_mib = mib
