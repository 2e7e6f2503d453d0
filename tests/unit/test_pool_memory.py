"""Whatever happens in whatever order to several pools: their memory is shared as was promised."""

from collections.abc import Callable, Collection

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from promises import promise
from quiltfn.model.actions import Action
from quiltfn.model.instance import InstanceState
from quiltfn.model.memory import EvictionCandidate, Memory
from quiltfn.model.pool import Pool
from quiltfn.pool.memory_arbiter import MemoryArbiter
from unit.node_simulation import NodeSimulation
from unit.test_pool_property import EVENTS

pytestmark = promise("P7", "P8")

SIZES = (256.0, 512.0, 900.0)
STEPS = (0.0, 0.006, 1.0, 11.0, 61.0, 400.0)
OF_ONE = [name for name in EVENTS if name not in ("time", "set scaling", "quiet for long")]
COMMON = ["acquire", "acquire three", "release", "started", "cleaned", "gone", "all quiet"] * 4
OF_ALL = ["time", "measure", "fill", "stock gone", "set scaling"]
STORIES = st.lists(
    st.tuples(st.sampled_from([*OF_ONE, *COMMON, *OF_ALL]), st.integers(0, 2), st.integers(0, 63)),
    min_size=14,
    max_size=100,
)


def live_through(story: list[tuple[str, int, int]], machine: NodeSimulation) -> None:
    for name, whose, choice in story:
        member = machine.members[whose % len(machine.members)]
        if name == "time":
            machine.pass_time(STEPS[choice % len(STEPS)])
        elif name == "measure":
            machine.measure(member, choice)
        elif name == "fill":
            machine.warm_stock.fill()
        elif name == "stock gone":
            machine.warm_stock.gone()
        elif name == "set scaling":
            least, most = choice % 2, 1 + choice // 2 % 4
            machine.event(
                member,
                lambda w, a=least, b=most: w.set_scaling(min_instances=a, max_instances=b),  # type: ignore[misc]
            )
        else:
            machine.event(member, lambda w, n=name, c=choice: EVENTS[n](w, c))  # type: ignore[misc]
        machine.check()
    machine.drain()


# An instance that was kept for a version makes room for a call that waits for this version.
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
def test_every_story_of_several_pools_keeps_the_promises(story: list[tuple[str, int, int]]) -> None:
    live_through(story, NodeSimulation(list(SIZES)))


# The negative controls: each of these mistakes must be found, or the suite above proves nothing.


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


class EvictsTooMuch(Memory):
    def choose(
        self, candidates: Collection[EvictionCandidate], mib: float
    ) -> tuple[float, list[EvictionCandidate]]:
        of_stock, chosen = super().choose(candidates, mib)
        return of_stock, list(candidates) if chosen else []


class EvictsInVain(Memory):
    def choose(
        self, candidates: Collection[EvictionCandidate], mib: float
    ) -> tuple[float, list[EvictionCandidate]]:
        return (
            super().choose(candidates, mib)
            if sum(s.size_mib for s in candidates) > mib
            else (
                self.prewarmed_mib,
                list(candidates),
            )
        )


class EvictsTheBest(Memory):
    def choose(
        self, candidates: Collection[EvictionCandidate], mib: float
    ) -> tuple[float, list[EvictionCandidate]]:
        turned = [
            EvictionCandidate(s.pool, s.instance, s.size_mib, -s.worth, s.is_parked)
            for s in candidates
        ]
        return super().choose(turned, mib)


class EvictsReadyBeforeParked(Memory):
    def choose(
        self, candidates: Collection[EvictionCandidate], mib: float
    ) -> tuple[float, list[EvictionCandidate]]:
        turned = [
            EvictionCandidate(s.pool, s.instance, s.size_mib, s.worth, not s.is_parked)
            for s in candidates
        ]
        return super().choose(turned, mib)


class NeverPassesTheTurn(Memory):
    def pass_turn(self) -> None:
        pass


class NeverRelieves(MemoryArbiter):
    def serve_waiting(self) -> None:
        pass


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
    @settings(
        max_examples=3000,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(story=STORIES)
    def stories(story: list[tuple[str, int, int]]) -> None:
        live_through(story, make())

    with pytest.raises((AssertionError, BaseExceptionGroup)):
        stories()


@pytest.mark.parametrize(
    "broken",
    [
        ForgetsToGiveBack,
        ServesOutOfTurn,
        CountsTheLeavingAsFree,
        KnowsNoBudget,
        EvictsTooMuch,
        EvictsInVain,
        EvictsTheBest,
        EvictsReadyBeforeParked,
    ],
)
def test_a_memory_that_makes_this_mistake_is_found_out(broken: type[Memory]) -> None:
    found_out(lambda: NodeSimulation(list(SIZES), memory=broken()))


@pytest.mark.parametrize("broken", [EvictsTheMinimum, CallsCountNothing])
def test_a_pool_that_miscounts_is_found_out(broken: type[Pool]) -> None:
    found_out(lambda: NodeSimulation(list(SIZES), make=broken))


def test_an_arbiter_that_relieves_nobody_is_found_out() -> None:
    found_out(lambda: NodeSimulation(list(SIZES), arbiter=NeverRelieves))


def test_a_memory_whose_turns_never_pass_is_found_out_by_its_story() -> None:
    # A large call waits, then a small one. The large one's caller goes away.
    waits = [("acquire", 0, 0), ("started", 0, 0), ("acquire", 2, 0), ("acquire", 1, 0)]
    story = [*waits, ("cancel while waiting", 2, 0)]
    live_through(story, NodeSimulation(list(SIZES)))
    with pytest.raises(AssertionError, match="there is memory for the first"):
        live_through(story, NodeSimulation(list(SIZES), memory=NeverPassesTheTurn()))
