"""Instances of several versions of one function, each in its pool, within one maximum."""

import random
from collections.abc import Callable, Hashable

import pytest
from msgspec.structs import replace

from promises import promise
from quiltfn.model.actions import (
    Action,
    Assign,
    Destroy,
    Refuse,
    RequestPlaces,
    Start,
)
from quiltfn.model.places import FIRST, TURN_S, Places
from quiltfn.model.pool import Pool, PoolLimits

pytestmark = promise("W20")

CURRENT, OLD, OLDER = "current", "old", "older"


class Versions:
    """Pools of several versions, and sandboxes that start, clean and end when a test says so."""

    def __init__(
        self, limits: PoolLimits, *others: str, places: Callable[[], Places] = Places
    ) -> None:
        self.now, self.places, self.limits = 1000.0, places(), limits
        self.pools = {CURRENT: Pool(limits, places=self.places)}
        self.running: dict[int, tuple[str, int]] = {}  # by waiter
        self.order: list[int] = []
        self.waiting: list[int] = []
        self.pending: list[tuple[str, int]] = []
        self.cleaning: list[tuple[str, int]] = []
        self.ending: list[tuple[str, int]] = []
        self.refused: list[int] = []
        self._numbers = iter(range(1, 1_000_000))
        self._is_serving = False
        for version in others:
            beside = replace(limits, min_instances=0, grace_s=0)
            self.pools[version] = Pool(beside, places=self.places)
        for version, pool in self.pools.items():
            self.perform(version, pool.promote(version, self.now))

    def perform(self, version: str, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Start(instance=number):
                    self.pending.append((version, number))
                case Destroy(instance=number):
                    for states in (self.pending, self.cleaning):
                        if (version, number) in states:
                            states.remove((version, number))
                    self.ending.append((version, number))
                case Assign(instance=number, waiter=waiter):
                    self.waiting.remove(waiter)
                    self.running[waiter] = version, number
                    self.order.append(waiter)
                case Refuse(waiter=waiter):
                    self.waiting.remove(waiter)
                    self.refused.append(waiter)
                case RequestPlaces(count=count):
                    self.make_places(version, count)
        self.serve_waiting()
        self.check()

    def make_places(self, wants: str, count: int) -> None:
        others = [one for one in reversed(self.pools) if one != wants]
        found = [(one, n) for one in others for n in self.pools[one].place_candidates()]
        for version, number in found[:count]:
            self.perform(version, self.pools[version].evict(number, self.now))

    def serve_waiting(self) -> None:
        if self._is_serving:
            return
        self._is_serving = True
        for version, pool in self.pools.items():
            if pool in self.places.waiting and self.places.used < self.limits.max_instances:
                self.perform(version, pool.provide(self.now))
        self._is_serving = False

    def check(self) -> None:
        assert self.places.used == sum(len(pool.instances) for pool in self.pools.values())
        assert self.places.used <= self.limits.max_instances, "more instances than the maximum"
        for pool in self.places.waiting:
            assert isinstance(pool, Pool)
            assert pool.queue or pool.prepared is not None, "a pool waits for a place for nobody"

    # What happens

    def call(self, version: str) -> int:
        waiter = next(self._numbers)
        self.waiting.append(waiter)
        self.perform(version, self.pools[version].acquire(waiter, self.now))
        return waiter

    def started(self) -> None:
        version, number = self.pending.pop(0)
        self.perform(version, self.pools[version].started(number, self.now))

    def end_call(self, waiter: int) -> None:
        version, number = self.running.pop(waiter)
        actions = self.pools[version].release(number, self.now, healthy=True, waiter=waiter)
        if not any(isinstance(one, Destroy) and one.instance == number for one in actions):
            self.cleaning.append((version, number))
        self.perform(version, actions)

    def cleaned(self) -> None:
        version, number = self.cleaning.pop(0)
        self.perform(version, self.pools[version].cleaned(number, self.now))

    def gone(self) -> None:
        version, number = self.ending.pop(0)
        self.perform(version, self.pools[version].gone(number, self.now))

    def tick(self, seconds: float) -> None:
        self.now += seconds
        for version, pool in self.pools.items():
            self.perform(version, pool.tick(self.now))

    def settle(self) -> None:
        """Everything but the calls comes to its end."""
        while self.pending or self.cleaning or self.ending:
            for states, event in (
                (self.ending, self.gone),
                (self.pending, self.started),
                (self.cleaning, self.cleaned),
            ):
                if states:
                    event()

    def finish(self) -> None:
        """Ends one call after another, as long as any is there."""
        for _ in range(10_000):
            self.settle()
            if self.running:
                self.end_call(next(iter(self.running)))
            elif self.waiting:
                self.tick(0.01)
            else:
                return
        raise AssertionError(f"calls wait for ever: {self.waiting}")

    def live(self, version: str) -> int:
        return len(self.pools[version].instances)


def limits(**more: float) -> PoolLimits:
    return replace(PoolLimits(max_instances=2, grace_s=0, queue_wait_s=1e6), **more)


def test_a_call_of_another_version_has_the_place_of_an_idle_instance() -> None:
    at = Versions(limits(max_instances=1), OLD)
    at.call(CURRENT)
    at.finish()
    old = at.call(OLD)
    at.settle()
    assert old in at.running
    assert (at.live(CURRENT), at.live(OLD)) == (0, 1)


def test_of_idle_instances_those_of_versions_that_are_not_current_go_first() -> None:
    at = Versions(limits(), OLD, OLDER)
    for version in (OLD, CURRENT):
        at.call(version)
        at.finish()
    assert (at.live(CURRENT), at.live(OLD)) == (1, 1)
    at.call(OLDER)
    at.settle()
    assert (at.live(CURRENT), at.live(OLD), at.live(OLDER)) == (1, 0, 1)


def test_an_idle_instance_of_another_version_goes_for_a_call_of_the_current_one() -> None:
    at = Versions(limits(), OLD)
    at.call(OLD)
    at.finish()
    at.call(CURRENT)
    second = at.call(CURRENT)
    at.settle()
    assert second in at.running
    assert at.live(OLD) == 0


def test_a_version_without_an_instance_gets_the_next_place_though_others_wait_longer() -> None:
    at = Versions(limits(max_instances=1), OLD)
    first = at.call(CURRENT)
    at.settle()
    behind = [at.call(CURRENT) for _ in range(5)]
    old = at.call(OLD)
    at.end_call(first)
    at.settle()
    assert old in at.running
    assert not set(behind) & set(at.running)
    at.finish()
    assert set(behind) < set(at.order)


class NobodyYields(Places):
    """A mistake: who has a place keeps it as long as it has calls."""

    def due(self, _who: Hashable, _since: float | None) -> int:
        return 0


def test_without_the_rules_a_version_waits_for_all_calls_of_another() -> None:
    at = Versions(limits(max_instances=1), OLD, places=NobodyYields)
    first = at.call(CURRENT)
    at.settle()
    behind = [at.call(CURRENT) for _ in range(5)]
    old = at.call(OLD)
    at.end_call(first)
    at.settle()
    assert old not in at.running
    assert behind[0] in at.running


def test_a_version_that_has_one_gets_another_place_once_its_call_waited_longer() -> None:
    at = Versions(limits(max_instances=3), OLD)
    calls = [at.call(CURRENT), at.call(CURRENT), at.call(OLD)]
    at.settle()
    waits = at.call(OLD)
    at.now += TURN_S + 0.1
    newer = at.call(CURRENT)
    at.end_call(calls[0])
    at.settle()
    assert waits in at.running
    assert newer not in at.running


def test_versions_that_both_are_called_all_the_time_do_not_change_places() -> None:
    at = Versions(limits(), OLD)
    for version in (CURRENT, OLD) * 4:
        at.call(version)
    at.settle()
    before = {version: set(pool.instances) for version, pool in at.pools.items()}
    for _ in range(6):
        at.end_call(next(iter(at.running)))
        at.settle()
    assert {version: set(pool.instances) for version, pool in at.pools.items()} == before


def test_the_minimum_is_made_again_in_the_place_of_an_idle_instance() -> None:
    at = Versions(limits(max_instances=1, min_instances=1), OLD)
    at.tick(0.0)
    at.settle()
    assert at.live(CURRENT) == 1
    at.call(OLD)
    at.finish()
    assert (at.live(CURRENT), at.live(OLD)) == (0, 1)
    for _ in range(2):  # the old one ends, and then there is a place
        at.tick(1.0)
        at.settle()
    assert (at.live(CURRENT), at.live(OLD)) == (1, 0)


def test_the_minimum_is_not_made_in_the_place_that_a_call_waits_for() -> None:
    at = Versions(limits(max_instances=1, min_instances=1), OLD)
    at.tick(0.0)
    at.settle()
    at.call(OLD)
    at.tick(1.0)
    at.settle()
    assert (at.live(CURRENT), at.live(OLD)) == (0, 1)


def test_an_update_gets_a_place_from_the_calls_of_another_version() -> None:
    at = Versions(limits(max_instances=1), OLD)
    first, second = at.call(OLD), at.call(OLD)
    at.settle()
    at.perform(CURRENT, at.pools[CURRENT].prepare("next", 1, at.now))
    at.end_call(first)
    at.settle()
    assert [one.digest for one in at.pools[CURRENT].instances.values()] == ["next"]
    at.perform(CURRENT, at.pools[CURRENT].promote("next", at.now))
    at.finish()
    assert at.order == [first, second]


def test_one_version_alone_waits_for_no_place() -> None:
    at = Versions(limits(max_instances=1))
    for _ in range(3):
        at.call(CURRENT)
    at.settle()
    assert not at.places.waiting


def test_who_lacks_a_place_is_due_by_the_time_that_its_call_has_waited() -> None:
    places = Places(used=2, waiting={"a": 10.0, "b": FIRST})
    assert places.due("a", 10.0) == 1
    assert places.due("b", FIRST) == 0
    assert places.due("c", 10.0 + TURN_S) == 1
    assert places.due("c", 10.1 + TURN_S) == 2
    assert places.due("c", None) == 2
    assert places.must_yield("c", None)
    places.leaving = 2
    assert not places.must_yield("c", None)


@pytest.mark.parametrize("seed", range(100))
def test_nobody_waits_for_ever_and_the_maximum_is_kept(seed: int) -> None:
    dice = random.Random(seed)
    most = dice.randint(1, 4)
    at = Versions(limits(max_instances=most, min_instances=dice.randint(0, most)), OLD, OLDER)
    calls = []
    for _ in range(120):
        match dice.randrange(7):
            case 0 | 1:
                calls.append(at.call(dice.choice([CURRENT, CURRENT, OLD, OLDER])))
            case 2 if at.pending:
                at.started()
            case 3 if at.running:
                at.end_call(dice.choice(list(at.running)))
            case 4 if at.cleaning:
                at.cleaned()
            case 5 if at.ending:
                at.gone()
            case 6:
                at.tick(dice.choice([0.001, 0.5, 2.0, 400.0]))
            case _:
                pass
        for pool in at.pools.values():
            pool.check()
    at.finish()
    assert sorted(at.order) == calls
    assert not at.refused


def test_instances_that_are_kept_for_a_rollback_go_to_the_pool_of_their_version() -> None:
    at = Versions(limits(max_instances=3, grace_s=60.0), OLD)
    own, other = at.pools[CURRENT], at.pools[OLD]
    at.perform(CURRENT, own.promote(OLD, at.now))
    first, second = at.call(CURRENT), at.call(CURRENT)
    at.settle()
    at.perform(CURRENT, own.promote("next", at.now))
    at.end_call(first)
    at.settle()
    handed = own.hand_over(OLD)
    assert len(handed) == 1, "not the one that has a call"
    assert own.hand_over("next") == []
    numbers = [other.take_in(one, at.now) for one in handed]
    for number in numbers:
        at.perform(OLD, other.adopted(number, at.now))
    third = at.call(OLD)
    assert at.running[third] == (OLD, numbers[0])
    assert at.places.used == 2
    for pool in at.pools.values():
        pool.check()
    at.finish()
    assert second in at.order
