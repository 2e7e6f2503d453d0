"""Instances of several versions of one function, each with its own pool, within one maximum."""

from collections.abc import Callable, Hashable

from msgspec.structs import replace

from promises import promise
from quiltfn.model.actions import Assign
from quiltfn.model.places import FIRST, TURN_S, Places
from quiltfn.model.pool import PoolLimits
from quiltfn.model.quota import UNBOUNDED
from unit.node_simulation import NodeSimulation

pytestmark = promise("W20")

CURRENT, OLD, OLDER = "current", "old", "older"


Call = tuple[str, int]  # the version and the waiter


class Versions(NodeSimulation):
    """The versions of one function; sandboxes start, clean and end when a test says so."""

    budget_mib = UNBOUNDED

    def __init__(
        self, limits: PoolLimits, *others: str, places: Callable[[], Places] = Places
    ) -> None:
        versions = (CURRENT, *others)
        self.limits, self.owners = limits, ["tenant/f"] * len(versions)
        super().__init__([256.0] * len(versions), places=places)
        self.of = dict(zip(versions, self.members, strict=True))

    @property
    def running(self) -> list[Call]:
        """The running calls, in the order in which they were served."""
        return [call for call in self.order if self.of[call[0]].held(call[1]) is not None]

    @property
    def order(self) -> list[Call]:
        """The served calls, in order."""
        names = {member: version for version, member in self.of.items()}
        return [(names[one], do.waiter) for one, do in self.log if isinstance(do, Assign)]

    def call(self, version: str) -> Call:
        waiters: list[int] = []
        self.event(self.of[version], lambda w: waiters.append(w.acquire()))
        return version, waiters[0]

    def end_call(self, call: Call) -> None:
        version, waiter = call
        number = self.of[version].held(waiter)
        assert number is not None
        self.event(self.of[version], lambda w: w.release(number))

    def settle(self) -> None:
        """Complete everything in progress except calls."""
        while busy := [w for w in self.members if w.starting or w.cleaning or w.leaving]:
            self.event(busy[0], lambda w: w.finish(release=False))

    def finish(self) -> None:
        """End one call after another, as long as there are any."""
        for _ in range(10_000):
            self.settle()
            if self.running:
                self.end_call(self.running[0])
            elif any(one.waiting for one in self.members):
                self.pass_time(0.01)
            else:
                return
        raise AssertionError("calls wait for ever")

    def live(self, version: str) -> int:
        return len(self.of[version].simulated)


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
    """Has a mistake: a version keeps its place as long as it has calls."""

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
    at._at(at.now + TURN_S + 0.1)
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
    before = [set(one.simulated) for one in at.members]
    for _ in range(6):
        at.end_call(at.running[0])
        at.settle()
    assert [set(one.simulated) for one in at.members] == before


def test_the_minimum_is_made_again_in_the_place_of_an_idle_instance() -> None:
    at = Versions(limits(max_instances=1, min_instances=1), OLD)
    at.pass_time(0.0)
    at.settle()
    assert at.live(CURRENT) == 1
    at.call(OLD)
    at.finish()
    assert (at.live(CURRENT), at.live(OLD)) == (0, 1)
    for _ in range(2):  # the old version's instance ends, and then there is a place
        at.pass_time(1.0)
        at.settle()
    assert (at.live(CURRENT), at.live(OLD)) == (1, 0)


def test_the_minimum_is_not_made_in_the_place_that_a_call_waits_for() -> None:
    at = Versions(limits(max_instances=1, min_instances=1), OLD)
    at.pass_time(0.0)
    at.settle()
    at.call(OLD)
    at.pass_time(1.0)
    at.settle()
    assert (at.live(CURRENT), at.live(OLD)) == (0, 1)


def test_an_update_gets_a_place_from_the_calls_of_another_version() -> None:
    at = Versions(limits(max_instances=1), OLD)
    first, second = at.call(OLD), at.call(OLD)
    at.settle()
    at.event(at.of[CURRENT], lambda w: w.prepare("next", 1))
    at.end_call(first)
    at.settle()
    assert [one.digest for one in at.of[CURRENT].simulated.values()] == ["next"]
    at.event(at.of[CURRENT], lambda w: w.promote("next"))
    at.finish()
    assert at.order == [first, second]


def test_one_version_alone_waits_for_no_place() -> None:
    at = Versions(limits(max_instances=1))
    for _ in range(3):
        at.call(CURRENT)
    at.settle()
    assert not at.members[0].pool.places.waiting


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


def test_instances_that_are_kept_for_a_rollback_go_to_the_pool_of_their_version() -> None:
    at = Versions(limits(max_instances=3, grace_s=60.0), OLD)
    own, other = at.members
    at.event(own, lambda w: w.promote(OLD))
    first, second = at.call(CURRENT), at.call(CURRENT)
    at.settle()
    at.event(own, lambda w: w.promote("next"))
    at.end_call(first)
    at.settle()
    assert own.pool.hand_over("next") == []
    at.event(other, lambda w: w.adopt_kept(OLD))
    assert (len(own.running), len(own.simulated)) == (1, 1), "not the one that has a call"
    third = at.call(OLD)
    assert third in at.running
    assert (at.live(CURRENT), at.live(OLD)) == (1, 1)
    at.finish()
    assert second in at.order
