"""Pools share memory, quotas and places as promised, whatever events happen in whatever order."""

from collections.abc import Callable, Collection, Hashable, Iterator
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from promises import promise
from quiltfn.model.actions import Action
from quiltfn.model.arbiter import Arbiter, Decision
from quiltfn.model.instance import InstanceState
from quiltfn.model.memory import EvictionCandidate, Memory
from quiltfn.model.places import Places
from quiltfn.model.pool import Pool
from quiltfn.model.quota import Quota
from unit.node_simulation import Member, NodeSimulation
from unit.pool_simulation import FINDS_MISTAKES
from unit.test_pool_property import EVENTS

pytestmark = promise("P7", "P8")

SIZES = (256.0, 512.0, 900.0)
STEPS = (0.0, 0.006, 1.0, 11.0, 61.0, 400.0)
OF_ONE = [name for name in EVENTS if name not in ("time", "set scaling", "quiet for long")]
COMMON = ["acquire", "acquire three", "release", "started", "cleaned", "gone", "all quiet"] * 4
OF_ALL = ["time", "measure", "fill", "stock gone", "set scaling"]
# Events that concern a whole function, not one of its versions.
OF_FUNCTION = ["prepare", "promote what is ready", "promote at once", "abandon", "close", "park"]
STORIES = st.lists(
    st.tuples(st.sampled_from([*OF_ONE, *COMMON, *OF_ALL]), st.integers(0, 5), st.integers(0, 63)),
    min_size=14,
    max_size=100,
)


class Tenants(NodeSimulation):
    """Two tenants, with several versions of two functions."""

    owners = ("a/f", "a/f", "a/g", "b/h", "b/h", "b/h")
    quota = 4.0

    def __init__(self, **more: Any) -> None:
        super().__init__([256.0, 256.0, 512.0, 128.0, 128.0, 900.0], **more)


def live_through(story: list[tuple[str, int, int]], machine: NodeSimulation) -> None:
    for name, whose, choice in story:
        member = machine.members[whose % len(machine.members)]
        if name in OF_FUNCTION:
            member = member.versions[0]
        if name == "time":
            machine.pass_time(STEPS[choice % len(STEPS)])
        elif name == "measure":
            machine.measure(member, choice)
        elif name == "fill":
            machine.warm_stock.fill()
        elif name == "stock gone":
            machine.warm_stock.gone()
        elif name == "set scaling":
            machine.event(member, lambda w, n=choice: w.scale(n % 2, 1 + n // 2 % 4))  # type: ignore[misc]
        elif name == "close":
            machine.event(member, Member.close_all)
        else:
            machine.event(member, lambda w, n=name, c=choice: EVENTS[n](w, c))  # type: ignore[misc]
        machine.check()
    machine.drain()


def live_twice(story: list[tuple[str, int, int]], make: Callable[[], NodeSimulation]) -> None:
    logs = []
    for machine in (make(), make()):
        live_through(story, machine)
        logs.append([(machine.members.index(one), action) for one, action in machine.log])
    assert logs[0] == logs[1], "equal stories are decided differently"


# An instance that is kept for a version ends for a call that waits for this same version.
KEPT_MAKES_ROOM = [
    ("acquire three", 1, 0),
    *[("acquire", 0, 0)] * 2,
    ("time", 0, 3),
    *[("acquire", 0, 0)] * 2,
    *[("acquire", 1, 0)] * 4,
    ("prepare", 0, 7),
    ("started", 1, 0),
    ("all quiet", 0, 0),
    ("promote what is ready", 0, 0),
]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(story=STORIES)
@example(story=KEPT_MAKES_ROOM)
def test_stories_of_several_pools_keep_the_promises(story: list[tuple[str, int, int]]) -> None:
    live_through(story, NodeSimulation(list(SIZES)))


# One version has all instances of its function, and needs a place for which another version waits,
# too; then the other version lacks memory.
GIVES_UP_ITS_TURN = [
    *[("acquire", 0, 0)] * 10,
    *[("acquire", 3, 0), ("acquire three", 3, 0), ("close", 0, 0), ("acquire", 5, 0)],
]
# Places become free, but the first version in line can't use any, since it lacks memory.
GOES_ON_TO_MEMORY = [
    *[("acquire", 4, 0), ("acquire three", 2, 0), ("acquire three", 4, 0), ("acquire three", 5, 0)],
    *[("all quiet", 2, 0), ("acquire", 3, 0), ("set scaling", 4, 22)],
]
# A version gets its first instance and needs more. So does another version, whose call is newer.
HAS_ITS_FIRST = [
    *[("acquire three", 1, 0), ("acquire", 5, 0), ("acquire", 0, 0)],
    *[("acquire three", 1, 0), ("acquire three", 0, 0)],
]
# A deploy is abandoned while calls of the function lack a place.
ABANDONED = [
    *[("acquire three", 3, 0), ("acquire three", 3, 0), ("acquire three", 4, 0), ("acquire", 5, 0)],
    *[("set scaling", 5, 62), ("abandon", 5, 0), ("all quiet", 4, 0)],
]
# Two deploys that together have all instances of the tenant.
DEPLOYED_AT_ONCE = [("acquire", 1, 0), ("all quiet", 1, 0), ("prepare", 1, 33), ("prepare", 2, 20)]


@promise("A32", "W20")
@example(story=GIVES_UP_ITS_TURN)
@example(story=GOES_ON_TO_MEMORY)
@example(story=HAS_ITS_FIRST)
@example(story=ABANDONED)
@example(story=DEPLOYED_AT_ONCE)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(story=STORIES)
def test_stories_of_tenants_and_versions_keep_the_promises(
    story: list[tuple[str, int, int]],
) -> None:
    live_twice(story, Tenants)


# Negative controls: each of these classes has a mistake, which the suite above must find.


class ForgetsToGiveBack(Memory):
    def count(self, mib: float) -> None:
        super().count(max(mib, 0.0))


class ServesOutOfTurn(Memory):
    def is_turn_of(self, who: object, since: float) -> bool:  # noqa: ARG002
        return True


class CountsTheLeavingAsFree(Memory):
    def fits(self, mib: float) -> bool:
        return self.held_mib - self.leaving_mib + mib <= self.budget_mib


class KnowsNoBudget(Memory):
    def fits(self, mib: float) -> bool:  # noqa: ARG002
        return True


Candidates = Collection[EvictionCandidate]
Choice = tuple[float, list[EvictionCandidate]]


class EvictsTooMuch(Memory):
    def choose(self, candidates: Candidates, mib: float) -> Choice:
        of_stock, chosen = super().choose(candidates, mib)
        return of_stock, list(candidates) if chosen else []


class EvictsInVain(Memory):
    def choose(self, candidates: Candidates, mib: float) -> Choice:
        if sum(s.size_mib for s in candidates) > mib:
            return super().choose(candidates, mib)
        return self.prewarmed_mib, list(candidates)


class EvictsTheBest(Memory):
    def choose(self, candidates: Candidates, mib: float) -> Choice:
        return super().choose([replace(s, worth=-s.worth) for s in candidates], mib)


class EvictsReadyBeforeParked(Memory):
    def choose(self, candidates: Candidates, mib: float) -> Choice:
        return super().choose([replace(s, is_parked=not s.is_parked) for s in candidates], mib)


class NeverPassesTheTurn(Memory):
    def pass_turn(self) -> None:
        pass


class ServesNobody(Arbiter):
    def turns(self, pool: Pool) -> Iterator[Hashable]:  # noqa: ARG002
        return iter(())


def without(pool: Pool, **more: object) -> Any:
    """The resources that the pool shares; `more` replaces some of them."""
    its = {"memory": pool.memory, "quota": pool.quota, "places": pool.places}
    return SimpleNamespace(**(its | more))


class ServesNoOtherFunction(Arbiter):
    def turns(self, pool: Pool) -> Iterator[Hashable]:
        return super().turns(without(pool, quota=Quota()))


class ServesNoOtherVersion(Arbiter):
    def turns(self, pool: Pool) -> Iterator[Hashable]:
        return super().turns(without(pool, places=Places()))


class OffersPlacesToTheFirstAlone(Arbiter):
    def turns(self, pool: Pool) -> Iterator[Hashable]:
        yield from super().turns(without(pool, places=Places()))
        if pool.places.waiting and pool.places.is_freed:
            pool.places.is_freed = False
            yield min(pool.places.waiting, key=pool.places.waiting.__getitem__)


class NeverLooksAgain(Arbiter):
    look_at = None


class LooksEachTime(Arbiter):
    def request(self, pool: Pool, wanted: Any, now: float) -> Decision:
        pool.quota.looked_at = float("-inf")
        return super().request(pool, wanted, now)


class ForgetsWhatIsEnding(Arbiter):
    def _look_at(self, quota: Quota, now: float) -> Decision:
        leaving, quota.leaving = quota.leaving, 0
        decision = super()._look_at(quota, now)
        quota.leaving = leaving
        return decision


class FailsNoDeploy(Arbiter):
    def _look_at(self, quota: Quota, now: float) -> Decision:
        return replace(super()._look_at(quota, now), exhausted=None)


class FailsDeploysAtOnce(Arbiter):
    def _look_at(self, quota: Quota, now: float) -> Decision:
        failing = [pool for pool in self._sharing[quota].values() if pool.prepared is not None]
        return replace(super()._look_at(quota, now), exhausted=failing[0] if failing else None)


class EvictsTheBusy(Arbiter):
    def _candidates(self, resource: Memory | Quota) -> list[EvictionCandidate]:
        return [
            EvictionCandidate(pool, number, 300.0, 0.0, True)
            for pool in self._sharing[resource].values()
            for number in pool.instances
        ]


class EvictsTheBestOfATenant(Arbiter):
    def _candidates(self, resource: Memory | Quota) -> list[EvictionCandidate]:
        return [replace(one, worth=-one.worth) for one in super()._candidates(resource)]


class EvictsTheCurrentVersionFirst(Arbiter):
    def _make_places(self, wants: Pool, count: int) -> Decision:
        found = super()._make_places(wants, 1000).evictions
        return Decision(evictions=found[::-1][:count])


class EvictsOneForAll(Arbiter):
    def _make_places(self, wants: Pool, count: int) -> Decision:
        return super()._make_places(wants, min(count, 1))


class DecidesByChance(Arbiter):
    runs = count()

    def __init__(self, memory: Memory) -> None:
        super().__init__(memory)
        self.step = 1 if next(self.runs) % 2 else -1

    def _make_places(self, wants: Pool, count: int) -> Decision:
        found = super()._make_places(wants, 1000).evictions
        return Decision(evictions=found[:: self.step][:count])


class EvictsTheMinimum(Pool):
    def eviction_candidates(self) -> list[EvictionCandidate]:
        ready = self._table.in_state(InstanceState.READY, digest=self.current)
        return [EvictionCandidate(self, one.id, one.idle_mib, one.worth, False) for one in ready]


class CallsCountNothing(Pool):
    def release(
        self, number: int, now: float, *, healthy: bool, waiter: int | None = None
    ) -> list[Action]:
        actions = super().release(number, now, healthy=healthy, waiter=waiter)
        self._table._charge(self.instances[number], 0.0)
        return actions


def found_out(make: Callable[[], NodeSimulation]) -> None:
    @FINDS_MISTAKES
    @given(story=STORIES)
    def stories(story: list[tuple[str, int, int]]) -> None:
        live_through(story, make())

    with pytest.raises((AssertionError, BaseExceptionGroup)):
        stories()


OF_MEMORY: list[type[Memory]] = [
    *(ForgetsToGiveBack, ServesOutOfTurn, CountsTheLeavingAsFree, KnowsNoBudget),
    *(EvictsTooMuch, EvictsInVain, EvictsTheBest, EvictsReadyBeforeParked),
]
OF_POOLS: list[type[Pool]] = [EvictsTheMinimum, CallsCountNothing]
OF_ARBITERS: list[type[Arbiter]] = [
    *(ServesNobody, ServesNoOtherFunction, ServesNoOtherVersion, OffersPlacesToTheFirstAlone),
    *(NeverLooksAgain, LooksEachTime, EvictsTheBusy, EvictsTheBestOfATenant),
]


@pytest.mark.parametrize("broken", OF_MEMORY)
def test_a_memory_that_makes_this_mistake_is_found_out(broken: type[Memory]) -> None:
    found_out(lambda: NodeSimulation(list(SIZES), memory=broken()))


@pytest.mark.parametrize("broken", OF_POOLS)
def test_a_pool_that_miscounts_is_found_out(broken: type[Pool]) -> None:
    found_out(lambda: NodeSimulation(list(SIZES), make=broken))


@pytest.mark.parametrize("broken", OF_ARBITERS)
def test_an_arbiter_that_makes_this_mistake_is_found_out(broken: type[Arbiter]) -> None:
    found_out(lambda: Tenants(arbiter=broken))


# The tenant's quota is used up by its four idle instances.
FULL = [("acquire three", 0, 0), ("all quiet", 0, 0), ("acquire", 2, 0), ("all quiet", 2, 0)]
THREE_IDLE = [("acquire three", 4, 0), ("all quiet", 4, 0)]
TOLD: dict[type[Arbiter], list[tuple[str, int, int]]] = {
    ForgetsWhatIsEnding: [*FULL, ("acquire three", 2, 0), ("time", 0, 2)],
    FailsDeploysAtOnce: [*FULL, ("prepare", 2, 4)],
    FailsNoDeploy: [("set scaling", 0, 1), ("set scaling", 2, 6), ("prepare", 2, 10)],
    EvictsTheCurrentVersionFirst: [
        *[("acquire three", 3, 0), ("all quiet", 3, 0), ("acquire", 4, 0)],
        *[("all quiet", 3, 0), ("all quiet", 4, 0), ("acquire", 5, 0)],
    ],
    EvictsOneForAll: [*THREE_IDLE, ("prepare", 3, 7)],
    DecidesByChance: [*THREE_IDLE, ("acquire", 3, 0)],
}


@pytest.mark.parametrize("broken", TOLD)
def test_a_mistaken_arbiter_is_found_by_its_story(broken: type[Arbiter]) -> None:
    live_twice(TOLD[broken], Tenants)
    with pytest.raises(AssertionError):
        live_twice(TOLD[broken], lambda: Tenants(arbiter=broken))


def test_a_memory_whose_turns_never_pass_is_found_out_by_its_story() -> None:
    # A large call waits, then a small one. The caller of the large one leaves.
    waits = [("acquire", 0, 0), ("started", 0, 0), ("acquire", 2, 0), ("acquire", 1, 0)]
    story = [*waits, ("cancel while waiting", 2, 0)]
    live_through(story, NodeSimulation(list(SIZES)))
    with pytest.raises(AssertionError, match="there is memory for the first"):
        live_through(story, NodeSimulation(list(SIZES), memory=NeverPassesTheTurn()))
