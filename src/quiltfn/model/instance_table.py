"""InstanceTable: the instances of one pool, and their share of memory, quota and places."""

from collections.abc import Iterable

from quiltfn.model.cold_start import ColdStartReason
from quiltfn.model.counts import PoolCounts
from quiltfn.model.instance import Instance, InstanceEvent, InstanceState
from quiltfn.model.memory import Footprint, Memory
from quiltfn.model.places import Places
from quiltfn.model.quota import Quota

S = InstanceState
WITH_A_CALL = (S.BUSY, S.RECYCLING)
FREE = (S.READY, S.PARKED, S.WARMING, S.RECYCLING)
SERVING = (S.WARMING, S.READY, *WITH_A_CALL)
UNKNOWN, NONE = Footprint(), PoolCounts()


class InstanceTable:
    """Instances by number. All events of instances pass through this object, so that all instances
    are counted.

    Every invocation queries the instances in a state several times. So they are stored by state,
    the one that entered the state first at the front.
    """

    def __init__(self, memory: Memory, quota: Quota, places: Places) -> None:
        self.instances: dict[int, Instance] = {}
        self._in: dict[InstanceState, dict[int, Instance]] = {state: {} for state in S}
        self._free = [self._in[state] for state in FREE]
        self._serving = [self._in[state] for state in SERVING]
        self._memory, self._quota, self._places = memory, quota, places
        self._footprints: dict[str, Footprint] = {}
        self._next_number = 1
        self._charged_mib = 0.0

    def set_footprint(self, digest: str, footprint: Footprint) -> None:
        """Sets the memory that instances of this version need."""
        self._footprints[digest] = footprint

    def retain_footprints(self, *wanted: str | None) -> None:
        """Forgets other versions that have no instances."""
        used = {one.digest for one in self.instances.values()}.union(wanted)
        self._footprints = {key: one for key, one in self._footprints.items() if key in used}

    def footprint(self, digest: str) -> Footprint:
        return self._footprints.get(digest, UNKNOWN)

    def add(self, digest: str, now: float, reason: ColdStartReason, charge_mib: float) -> Instance:
        """A new instance, which is warming and counts `charge_mib` until it is ready."""
        instance = Instance(self._next_number, digest, now, reason, self.footprint(digest).idle_mib)
        self._next_number += 1
        instance.made_at = now
        self.instances[instance.id] = self._in[S.WARMING][instance.id] = instance
        self._charge(instance, charge_mib)
        self._quota.used += 1
        self._places.used += 1
        return instance

    def apply(self, instance: Instance, event: InstanceEvent, now: float) -> None:
        """Changes the instance's state, and thereby the resources that it counts."""
        before = instance.state
        instance.apply(event, now)
        del self._in[before][instance.id]
        self._in[instance.state][instance.id] = instance
        if instance.state in WITH_A_CALL:
            self._charge(instance, self.footprint(instance.digest).limit_mib)
        elif instance.is_idle:
            self._charge(instance, instance.idle_mib)
        elif instance.state is S.TERMINATING:
            self._memory.leave(instance.charge_mib)
            self._quota.leaving += 1
            self._places.leaving += 1

    def remove(self, number: int, now: float) -> None:
        """Removes an instance that is gone; it no longer counts."""
        instance = self.instances.pop(number)
        del self._in[instance.state][number]
        instance.apply(InstanceEvent.VANISHED, now)
        self._memory.leave(-instance.charge_mib)
        self._quota.used -= 1
        self._quota.leaving -= 1
        self._places.used -= 1
        self._places.leaving -= 1
        self._places.pass_turn()
        self._charge(instance, 0.0)

    def take_out(self, instance: Instance) -> None:
        """Removes an idle instance that moves to another pool of the function, which then counts
        it.
        """
        del self.instances[instance.id], self._in[instance.state][instance.id]
        self._charge(instance, 0.0)
        self._quota.used -= 1
        self._places.used -= 1

    def take_in(self, instance: Instance, now: float) -> None:
        """Adds a parked instance of another pool of the function as a ready one."""
        instance.apply(InstanceEvent.UNPARKED, now)
        instance.id, self._next_number = self._next_number, self._next_number + 1
        self.instances[instance.id] = self._in[instance.state][instance.id] = instance
        self._charge(instance, instance.idle_mib)
        self._quota.used += 1
        self._places.used += 1

    def measured(self, number: int, mib: float) -> None:
        """Sets the memory that an idle instance uses; it counts this much while it is idle."""
        instance = self.instances.get(number)
        if instance is not None:
            instance.idle_mib = mib
            if instance.is_idle:
                self._charge(instance, mib)

    def can_take_call(self, instance: Instance) -> bool:
        """Whether the machine has enough memory for an invocation in the instance."""
        return self._memory.fits(self.footprint(instance.digest).limit_mib - instance.charge_mib)

    # Queries ---------------------------------------------------------------------------------

    def counts(self) -> PoolCounts:
        if not self.instances:
            return NONE
        there, parked = self._in, len(self._in[S.PARKED])
        return PoolCounts(
            warming=len(there[S.WARMING]) + parked,
            ready=len(there[S.READY]),
            busy=len(there[S.BUSY]),
            recycling=len(there[S.RECYCLING]),
            terminating=len(there[S.TERMINATING]),
            parked=parked,
            memory_mib=round(self._charged_mib, 1),
        )

    def in_state(self, state: InstanceState, digest: str | None = None) -> list[Instance]:
        """The instances in the state, or those of one version; first the one that entered the state
        first.
        """
        there = self._in[state]
        if not there:
            return []
        return [one for one in there.values() if digest is None or one.digest == digest]

    def count(self, state: InstanceState, digest: str | None = None) -> int:
        there = self._in[state]
        return len(there) if digest is None or not there else _of_version(digest, (there,))

    def count_free(self, digest: str) -> int:
        """How many instances of a version are idle, or soon will be."""
        return _of_version(digest, self._free)

    def count_serving(self, digest: str) -> int:
        """How many instances of a version can run invocations now or soon: not parked, not
        terminating.
        """
        return _of_version(digest, self._serving)

    def check(self) -> None:
        """Asserts that every instance counts the right amounts."""
        assert self.instances.keys() == {n for there in self._in.values() for n in there}
        for instance in self.instances.values():
            assert instance.id in self._in[instance.state], (
                f"{instance} is in another state's table"
            )
            limit = self.footprint(instance.digest).limit_mib
            assert instance.state not in WITH_A_CALL or instance.charge_mib == limit, (
                f"{instance} counts wrong"
            )
            assert not instance.is_idle or instance.charge_mib == instance.idle_mib, (
                f"{instance} counts wrong"
            )

    def _charge(self, instance: Instance, mib: float) -> None:
        if mib == instance.charge_mib:
            return  # in every invocation, when its instance is recycled
        self._memory.count(mib - instance.charge_mib)
        self._charged_mib += mib - instance.charge_mib
        instance.charge_mib = mib


def _of_version(digest: str, tables: Iterable[dict[int, Instance]]) -> int:
    """How many of these instances are of the version."""
    found = 0
    for there in tables:
        for instance in there.values():
            if instance.digest == digest:
                found += 1
    return found
