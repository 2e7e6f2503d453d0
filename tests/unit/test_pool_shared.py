"""Instances shared by several calls: servers with `concurrency` above 1.

First examples, then random stories of events. `Shared` is everything outside of the pool.
"""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promises import promise
from quiltfn.model.actions import (
    Action,
    Assign,
    Destroy,
    Fail,
    Prepared,
    PrepareFailed,
    Refuse,
    Start,
    Unpark,
)
from quiltfn.model.instance import Instance
from quiltfn.model.memory import Footprint, Memory
from quiltfn.model.pool import Pool, PoolLimits
from unit.pool_simulation import FINDS_MISTAKES

pytestmark = promise("R35")

EACH = 3
LIMITS = PoolLimits(max_instances=2, queue_max=20, queue_wait_s=30.0, idle_s=10.0, grace_s=0.0)


class Shared:
    """Drives one pool, and fails if an action breaks a promise."""

    def __init__(
        self, make: type[Pool] = Pool, limits: PoolLimits = LIMITS, budget_mib: float = 1e9
    ) -> None:
        self.pool = make(limits, Memory(budget_mib))
        self.now, self.waiters = 1000.0, 0
        self.digests: dict[int, str] = {}
        self.starting: list[int] = []
        self.leaving: list[int] = []
        self.cleaning: list[int] = []
        self.running: dict[int, int] = {}  # the instance of each call
        self.waiting: list[int] = []
        self.cold: dict[int, bool] = {}
        self.sick: set[int] = set()
        self.refused: dict[int, str] = {}
        self.ready: list[str] = []
        self.is_failing = False
        self.promote("a")

    def perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Start(instance=number, digest=digest):
                    assert len(self.digests) < self.pool.limits.max_instances
                    self.digests[number] = digest
                    self.starting.append(number)
                case Assign(instance=number, waiter=waiter, cold=cold):
                    assert self.waiting[0] == waiter, "a later call is served first"
                    self.waiting.remove(waiter)
                    assert self.digests[number] == self.pool.current, "another version's"
                    assert number not in self.sick, "given one that is not well"
                    assert number not in [*self.starting, *self.leaving, *self.cleaning]
                    self.running[waiter], self.cold[waiter] = number, cold
                    assert self.calls_of(number) <= EACH, "too many calls in one instance"
                case Destroy(instance=number):
                    assert not self.calls_of(number), "destroyed under a call"
                    assert number not in self.leaving, "destroyed twice"
                    if number in self.cleaning:
                        self.cleaning.remove(number)
                    self.leaving.append(number)
                case Refuse(waiter=waiter, why=why):
                    self.waiting.remove(waiter)
                    self.refused[waiter] = why
                case Fail(waiter=waiter):
                    self.waiting.remove(waiter)
                case Prepared(digest=digest):
                    self.ready.append(digest)
                case PrepareFailed():
                    assert self.is_failing
                case Unpark():
                    pass
        self.pool.check()

    def calls_of(self, number: int) -> int:
        return list(self.running.values()).count(number)

    # Events ----------------------------------------------------------------------------------

    def acquire(self) -> int:
        self.waiters += 1
        self.waiting.append(self.waiters)
        self.perform(self.pool.acquire(self.waiters, self.now))
        return self.waiters

    def release(self, waiter: int, *, healthy: bool = True) -> None:
        number = self.running.pop(waiter)
        if not healthy:
            self.sick.add(number)
        is_last = not self.calls_of(number)
        if is_last and number not in self.sick:
            self.cleaning.append(number)
        self.perform(self.pool.release(number, self.now, healthy=healthy, waiter=waiter))
        if number in self.cleaning:  # a server is clean at once
            self.cleaned(number)

    def cleaned(self, number: int) -> None:
        self.cleaning.remove(number)
        self.perform(self.pool.cleaned(number, self.now))

    def cancel(self, waiter: int) -> None:
        """The caller leaves the queue, or leaves its instance before it has used it."""
        if waiter in self.waiting:
            self.waiting.remove(waiter)
        self.running.pop(waiter, None)
        self.perform(self.pool.cancel(waiter, self.now))

    def started(self, number: int) -> None:
        self.starting.remove(number)
        self.perform(self.pool.started(number, self.now))

    def failed(self, number: int) -> None:
        self.starting.remove(number)
        if number in self.leaving:
            self.leaving.remove(number)
        del self.digests[number]
        self.is_failing = True
        self.perform(self.pool.failed(number, "no", self.now))
        self.is_failing = False

    def lost(self, number: int) -> None:
        """The sandbox of an instance dies. The calls of the instance end after that."""
        self.sick.add(number)
        self.perform(self.pool.lost(number, self.now))

    def gone(self, number: int) -> None:
        self.leaving.remove(number)
        del self.digests[number]
        self.perform(self.pool.gone(number, self.now))

    def promote(self, digest: str) -> None:
        weight = Footprint(limit_mib=256.0, idle_mib=1.0, concurrency=EACH)
        self.perform(self.pool.promote(digest, self.now, weight))

    def prepare(self, digest: str) -> None:
        weight = Footprint(limit_mib=256.0, idle_mib=1.0, concurrency=EACH)
        self.perform(self.pool.prepare(digest, 1, self.now, weight))

    def abandon(self) -> None:
        self.perform(self.pool.abandon(self.now))

    def scale(self, most: int) -> None:
        limits = PoolLimits(max_instances=most, queue_max=20, queue_wait_s=30.0, idle_s=10.0)
        self.perform(self.pool.set_scaling(limits, self.now))

    def evict(self) -> None:
        for candidate in self.pool.eviction_candidates()[:1]:
            self.perform(self.pool.evict(candidate.instance, self.now))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.perform(self.pool.tick(self.now))

    def settle(self) -> None:
        """Complete starts and ends, but not calls."""
        for _ in range(1000):
            if due := [one for one in self.starting if one not in self.leaving]:
                self.started(due[0])
            elif self.starting:
                number = self.starting[0]
                self.started(number)
            elif self.leaving:
                self.gone(self.leaving[0])
            else:
                return
        raise AssertionError("the pool never comes to rest")


# --- examples ------------------------------------------------------------------------------------


def test_calls_share_an_instance_until_it_is_full() -> None:
    sim = Shared()
    for _ in range(EACH + 1):
        sim.acquire()
    assert sim.starting == [1, 2]  # one instance for EACH calls
    sim.settle()
    assert sorted(sim.running.values()) == [1] * EACH + [2]
    assert sim.pool.counts().busy == 2
    assert set(sim.cold.values()) == {True}  # all of them waited for a start
    assert (sim.pool.headroom().idle, sim.pool.headroom().startable) == (EACH - 1, 0)
    late = sim.acquire()
    assert sim.cold[late] is False


def test_a_call_takes_the_place_of_one_that_ended() -> None:
    sim = Shared(limits=PoolLimits(max_instances=1))
    calls = [sim.acquire() for _ in range(EACH)]
    sim.settle()
    waits = sim.acquire()
    assert waits in sim.waiting
    sim.release(calls[1])
    assert sim.running[waits] == 1
    assert not sim.waiting


def test_an_instance_that_is_not_well_gets_no_other_call_and_ends_with_its_last() -> None:
    sim = Shared()
    calls = [sim.acquire() for _ in range(EACH)]
    sim.settle()
    sim.release(calls[0], healthy=False)
    assert sim.leaving == []
    sim.acquire()
    sim.settle()
    assert sorted(sim.running.values()) == [1, 1, 2]
    sim.release(calls[1])
    assert sim.leaving == []
    sim.release(calls[2])
    assert sim.leaving == [1]


def test_a_call_that_was_cancelled_leaves_room() -> None:
    sim = Shared(limits=PoolLimits(max_instances=1))
    calls = [sim.acquire() for _ in range(EACH + 1)]
    sim.settle()
    sim.cancel(calls[0])
    assert sorted(sim.running) == calls[1:]
    for call in calls[1:]:
        sim.cancel(call)
    assert sim.pool.counts().ready == 1


def test_a_new_version_gets_a_place_though_calls_never_cease() -> None:
    sim = Shared(limits=PoolLimits(max_instances=1, grace_s=0.0))
    calls = [sim.acquire(), sim.acquire()]
    sim.settle()
    sim.prepare("b")
    later = sim.acquire()
    assert later in sim.waiting  # on the old instance, this call would keep it from ending
    for call in calls:
        sim.release(call)
    sim.settle()
    assert sim.ready == ["b"]
    sim.promote("b")
    assert sim.digests[sim.running[later]] == "b"


def test_calls_that_share_an_instance_count_its_memory_once() -> None:
    sim = Shared(limits=PoolLimits(max_instances=9), budget_mib=300.0)
    for _ in range(EACH + 1):
        sim.acquire()
    sim.settle()
    assert sim.pool.memory.held_mib == 256.0
    assert len(sim.waiting) == 1


# --- random stories ------------------------------------------------------------------------------


def choose(from_: list[int], number: int) -> list[int]:
    return [from_[number % len(from_)]] if from_ else []


def each(
    those: Callable[[Shared], list[int]], do: Callable[[Shared, int], None]
) -> Callable[[Shared, int], None]:
    def event(sim: Shared, number: int) -> None:
        for chosen in choose(those(sim), number):
            do(sim, chosen)

    return event


def prepare(sim: Shared, number: int) -> None:
    digest = "abc"[number % 3]
    if digest != sim.pool.current:
        sim.prepare(digest)


EVENTS: dict[str, Callable[[Shared, int], None]] = {
    "acquire": lambda sim, _: None if len(sim.waiting) >= 20 else (sim.acquire(), None)[1],
    "release": each(lambda s: list(s.running), lambda s, n: s.release(n)),
    "sick": each(lambda s: list(s.running), lambda s, n: s.release(n, healthy=False)),
    "cancel": each(lambda s: [*s.waiting, *s.running], lambda s, n: s.cancel(n)),
    "started": each(lambda s: s.starting, lambda s, n: s.started(n)),
    "failed": each(lambda s: s.starting, lambda s, n: s.failed(n)),
    "gone": each(lambda s: [n for n in s.leaving if n not in s.starting], lambda s, n: s.gone(n)),
    "lost": each(
        lambda s: [n for n in s.digests if n not in [*s.starting, *s.leaving]],
        lambda s, n: s.lost(n),
    ),
    "promote": lambda sim, number: sim.promote("abc"[number % 3]),
    "prepare": prepare,
    "abandon": lambda sim, _: sim.abandon(),
    "scale": lambda sim, number: sim.scale(1 + number % 4),
    "evict": lambda sim, _: sim.evict(),
    "time": lambda sim, number: sim.pass_time((0.001, 0.1, 1.0, 11.0)[number % 4]),
}
STORIES = st.lists(
    st.tuples(st.sampled_from(["acquire", "acquire", "acquire", *EVENTS]), st.integers(0, 50)),
    max_size=80,
)


def live_through(
    story: list[tuple[str, int]], make: type[Pool] = Pool, budget_mib: float = 1e9
) -> None:
    sim = Shared(make, budget_mib=budget_mib)
    for event, number in story:
        EVENTS[event](sim, number)
    # As many calls as there is headroom for are served before any call ends.
    room = sim.pool.headroom().total
    assert sim.pool.idle() == sim.pool.headroom().idle
    callers = [sim.acquire() for _ in range(min(room, 20 - len(sim.waiting)))]
    for _ in range(3):
        sim.settle()
        sim.pass_time(0.01)
    sim.settle()
    assert not set(callers) & set(sim.waiting), f"of {room} some wait"
    if sim.pool.prepared is not None:  # before that, calls can't use the places of this version
        sim.promote(sim.pool.prepared)
    # The other calls are served once running ones end.
    for _ in range(200):
        if not sim.waiting:
            break
        if sim.running:
            sim.release(next(iter(sim.running)))
        sim.settle()
        sim.pass_time(0.01)
    assert not sim.waiting, "somebody waits for ever"


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(story=STORIES, budget_mib=st.sampled_from([1e9, 300.0, 600.0]))
def test_every_story_keeps_the_promises(story: list[tuple[str, int]], budget_mib: float) -> None:
    live_through(story, budget_mib=budget_mib)


class GivesOneTooMany(Pool):
    def _concurrency(self, digest: str) -> int:
        return super()._concurrency(digest) + 1


class GivesTheSick(Pool):
    def _sharing(self) -> list[Instance]:
        for instance in self.instances.values():
            instance.is_spoilt = False
        return super()._sharing()


class EndsUnderOthers(Pool):
    def release(
        self, number: int, now: float, *, healthy: bool, waiter: int | None = None
    ) -> list[Action]:
        actions = super().release(number, now, healthy=healthy, waiter=waiter)
        return actions if healthy else [*actions, Destroy(number)]


class ForgetsWhoWaits(Pool):
    def _share_with_queue(self, now: float) -> list[Action]:  # noqa: ARG002
        return []


class CountsTooMuchRoom(Pool):
    def _room(self) -> int:
        return super()._room() + 1


@pytest.mark.parametrize(
    "broken",
    [GivesOneTooMany, GivesTheSick, EndsUnderOthers, ForgetsWhoWaits, CountsTooMuchRoom],
)
def test_a_pool_that_makes_this_mistake_is_found_out(broken: type[Pool]) -> None:
    @settings(FINDS_MISTAKES, max_examples=2000)
    @given(story=STORIES)
    def stories(story: list[tuple[str, int]]) -> None:
        live_through(story, broken)

    with pytest.raises((AssertionError, KeyError, RuntimeError, BaseExceptionGroup)):
        stories()
