"""The pool keeps its promises, and no call waits forever, whatever happens in whatever order."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from promises import promise
from quiltfn.model.actions import Action, Assign, Closed, Refuse
from quiltfn.model.cold_start import ColdStartReason
from quiltfn.model.instance import Instance, InstanceState
from quiltfn.model.memory import Footprint
from quiltfn.model.pool import Pool, PoolLimits
from quiltfn.model.wait_queue import Waiter, WaitQueue
from unit.pool_simulation import FINDS_MISTAKES, PoolSimulation

DIGESTS = ("a", "b", "c")
QUEUE_MAX = 6
STEPS = (0.0, 0.001, 0.005, 0.3, 1.0, 6.0, 11.0, 59.0, 61.0, 400.0, 90_000.0)


def targets(low: int, high: int) -> dict[str, int]:
    high = 1 + high % 4
    return {"min_instances": low % (high + 1), "max_instances": high, "queue_max": QUEUE_MAX}


def one_of(numbers: list[int], choice: int) -> int | None:
    return numbers[choice % len(numbers)] if numbers else None


# Each event picks its object by a number; without an object, nothing happens.
def on(
    find: Callable[[PoolSimulation], list[int]], do: Callable[[PoolSimulation, int], object]
) -> Callable[[PoolSimulation, int], None]:
    def event(sim: PoolSimulation, choice: int) -> None:
        number = one_of(find(sim), choice)
        if number is not None:
            do(sim, number)

    return event


def unused(sim: PoolSimulation) -> list[int]:
    return [sandbox.holder for sandbox in sim.simulated.values() if sandbox.holder is not None]


def can_die(sim: PoolSimulation) -> list[int]:
    return sim.those(lambda sandbox: not (sandbox.pending or sandbox.destroying or sandbox.dead))


def promote_what_is_ready(sim: PoolSimulation, _choice: int) -> None:
    if sim.pool.prepared is not None and sim.pool.prepared in sim.ready_digests:
        sim.promote(sim.pool.prepared)


def quiet_for_long(sim: PoolSimulation, _choice: int) -> None:
    sim.finish()
    sim.pass_time(sim.pool.limits.idle_s)


EVENTS: dict[str, Callable[[PoolSimulation, int], object]] = {
    "acquire": lambda sim, _: sim.acquire(),
    "acquire three": lambda sim, _: [sim.acquire() for _ in range(3)],
    "acquire at once": lambda sim, _: sim.acquire_at_once(),
    "cancel while waiting": on(lambda w: list(w.waiting), PoolSimulation.cancel),
    "cancel in the tick of the hand-over": on(unused, PoolSimulation.cancel),
    "release": on(lambda w: w.running, PoolSimulation.release),
    "release sick": on(lambda w: w.running, lambda w, n: w.release(n, healthy=False)),
    "started": on(lambda w: w.starting, PoolSimulation.started),
    "failed": on(lambda w: w.starting, PoolSimulation.failed),
    "cleaned": on(lambda w: w.those(lambda sandbox: sandbox.cleaning), PoolSimulation.cleaned),
    "lost": on(can_die, PoolSimulation.lost),
    "gone": on(lambda w: w.leaving, PoolSimulation.gone),
    "park": lambda sim, _: sim.park(),
    "evict": on(lambda w: w.kept, PoolSimulation.evict),
    "prepare": lambda sim, n: sim.prepare(DIGESTS[n % 3], 1 + n // 3 % 4),
    "promote what is ready": promote_what_is_ready,
    "promote at once": lambda sim, n: sim.promote(DIGESTS[n % 3]),
    "abandon": lambda sim, _: sim.abandon(),
    "close": lambda sim, _: sim.close(),
    "set scaling": lambda sim, n: sim.set_scaling(**targets(n // 4, n)),
    "all quiet": lambda sim, _: sim.finish(),
    "quiet for long": quiet_for_long,
    "time": lambda sim, n: sim.pass_time(STEPS[n % len(STEPS)]),
}
COMMON = ["acquire", "release", "started", "cleaned", "gone", "time"] * 3


def stories_of(names: list[str]) -> st.SearchStrategy[list[tuple[str, int]]]:
    """A story has 17 events on average. Name and number are drawn together: drawing a story takes
    as long as running it.
    """
    events = [(name, number) for name in names for number in range(64)]
    return st.lists(st.sampled_from(events), min_size=9, max_size=70)


STORIES = stories_of([*EVENTS, *COMMON, "quiet for long"])
LIVELY = stories_of([*(name for name in EVENTS if "quiet" not in name), *COMMON])


def live_through(story: list[tuple[str, int]], size: int, make: type[Pool] = Pool) -> None:
    sim = PoolSimulation(PoolLimits(**targets(size // 4, size)), make)  # type: ignore[arg-type]
    sim.promote("c" if size % 32 > 15 else "a")
    for event, choice in story:
        EVENTS[event](sim, choice)
    come_to_an_end(sim)


def come_to_an_end(sim: PoolSimulation) -> None:
    """Complete what is in progress; then every promise must have been kept."""
    a_version_is_prepared_though_the_queue_never_ends(sim)
    nobody_waits_for_ever(sim)
    the_minimum_is_restored_and_the_rest_leaves(sim)
    for waiter in range(1, sim.acquire()):
        assert (waiter in sim.answers) != (waiter in sim.cancelled - sim.answers.keys())


def a_version_is_prepared_though_the_queue_never_ends(sim: PoolSimulation) -> None:
    digest = sim.pool.prepared
    if digest is None:
        return
    for _ in range(40):  # the pool is full: when a call ends, another one arrives
        if sim.pool.current is not None and len(sim.waiting) < QUEUE_MAX:
            sim.acquire()
        for numbers, complete in (
            (sim.starting, sim.started),
            (sim.leaving, sim.gone),
            (sim.running, sim.release),
            (sim.cleaning, sim.cleaned),
        ):
            if numbers and sim.pool.prepared == digest:
                complete(numbers[0])
        sim.pass_time(0.002)
        if digest in sim.ready_digests:
            break
    assert digest in sim.ready_digests, "a version that never gets ready"
    sim.promote(digest)


def nobody_waits_for_ever(sim: PoolSimulation) -> None:
    if sim.pool.current is None:
        assert not sim.waiting
        return
    waiting = list(sim.waiting)
    for _ in range(3):
        sim.finish()
        sim.pass_time(0.01)
    sim.finish()
    assert not sim.waiting, "somebody waits for ever"
    for waiter in waiting:  # the time is too short for any call to give up, so all were served
        answer = sim.answers[waiter]
        waited = isinstance(answer, Refuse) and answer.why == "waited too long"
        assert isinstance(answer, Assign) or waited


def the_minimum_is_restored_and_the_rest_leaves(sim: PoolSimulation) -> None:
    limits = sim.pool.limits
    for _ in range(4):
        sim.pass_time(1.0)
        sim.finish()
    counts = sim.pool.counts()
    if sim.pool.current is None:
        assert counts.total == 0, "a closed function keeps instances"
        return
    assert counts.ready + counts.warming == counts.total, f"at rest, and yet {counts}"
    assert counts.warming == len(sim.kept), "at rest, and yet something is being made"
    assert limits.min_instances <= counts.ready <= limits.max_instances
    sim.pass_time(limits.idle_s + 1)
    sim.finish()
    parked = len(sim.kept)
    assert parked <= (1 if sim.parks(sim.pool.current) and not limits.min_instances else 0)
    assert sim.pool.counts().total - parked == limits.min_instances, "idle instances stay"
    sim.pass_time(limits.park_s + 1)
    sim.finish()
    assert sim.pool.counts().total == limits.min_instances, "what is parked stays for ever"


@promise("C12", "P1", "P6")
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(story=STORIES, size=st.integers(0, 63))
# More instances than the minimum are started, so that the one that was started to be parked is
# parked.
@example(story=[("park", 0), *[("acquire", 0)] * 4, *[("cancel while waiting", 0)] * 4], size=26)
def test_every_story_keeps_the_promises(story: list[tuple[str, int]], size: int) -> None:
    live_through(story, size)


# Negative controls: each of these classes has a mistake, which the suite above must find.


class ForgetsTheMaximum(Pool):
    def _start(
        self, digest: str, count: int, now: float, *, callers: Sequence[Waiter] = ()
    ) -> list[Action]:
        limits, self.limits = self.limits, PoolLimits(max_instances=1000)
        actions = super()._start(digest, count, now, callers=callers)
        self.limits = limits
        return actions


class AnswersTheCancelled(Pool):
    def cancel(self, waiter: int, now: float) -> list[Action]:
        return super().cancel(waiter, now) if self.held_by(waiter) else []


class KeepsWhatTheCancelledHeld(Pool):
    def cancel(self, waiter: int, now: float) -> list[Action]:
        return [] if self.held_by(waiter) else super().cancel(waiter, now)


class ReusesTheSick(Pool):
    def release(
        self,
        number: int,
        now: float,
        *,
        healthy: bool,  # noqa: ARG002
        waiter: int | None = None,
    ) -> list[Action]:
        return super().release(number, now, healthy=True, waiter=waiter)


class HandsOutTheUnclean(Pool):
    def release(
        self, number: int, now: float, *, healthy: bool, waiter: int | None = None
    ) -> list[Action]:
        actions = super().release(number, now, healthy=healthy, waiter=waiter)
        return [*actions, *self.cleaned(number, now)]


class ServesTheYoungestFirst(Pool):
    def cleaned(self, number: int, now: float) -> list[Action]:
        self.queue.waiting.reverse()
        return super().cleaned(number, now)


class ForgetsTheQueueWhenOneIsGone(Pool):
    def gone(self, number: int, now: float) -> list[Action]:  # noqa: ARG002
        instance = self.instances.pop(number)
        assert instance.state is InstanceState.TERMINATING
        return []


class ForgetsToTick(Pool):
    def tick(self, now: float) -> list[Action]:
        line, self.queue = self.queue, WaitQueue()
        actions = super().tick(now)
        self.queue = line
        return actions


class LetsTheQueueHoldUpThePrepared(Pool):
    def _must_yield(self, instance: object) -> bool:  # noqa: ARG002
        return self.places.live > self.limits.max_instances


class KeepsTheOldVersion(Pool):
    def _release_unwanted(self, now: float) -> list[Action]:  # noqa: ARG002
        return []


class ForgetsTheMinimum(Pool):
    def tick(self, now: float) -> list[Action]:
        limits = self.limits
        self.limits = PoolLimits(max_instances=limits.max_instances, queue_max=limits.queue_max)
        actions = super().tick(now)
        self.limits = limits
        return actions


class ForgetsHowTheLastOneWent(Pool):
    def _stop(
        self,
        instance: Instance,
        now: float,
        how: ColdStartReason = ColdStartReason.EVICTED,  # noqa: ARG002
    ) -> list[Action]:
        return super()._stop(instance, now)


class ForgetsThatItClosed(Pool):
    def close(self, why: Closed, now: float) -> list[Action]:
        past = self._history._has_any
        actions = super().close(why, now)
        self._history._has_any = past
        return actions


class KeepsForEver(Pool):
    def tick(self, now: float) -> list[Action]:
        self._previous_until = now + 1
        return super().tick(now)


class NeverKeeps(Pool):
    def _may_keep_previous(self, instance: Instance) -> bool:  # noqa: ARG002
        return False


class NeverGivesKeptWay(Pool):
    def _stop(
        self, instance: Instance, now: float, how: ColdStartReason = ColdStartReason.EVICTED
    ) -> list[Action]:
        is_kept = instance.state is InstanceState.PARKED and instance.digest == self.previous
        return [] if is_kept else super()._stop(instance, now, how)


class KeepsWhatIsInTheWay(Pool):
    def _may_keep_previous(self, instance: Instance) -> bool:
        return instance.digest == self.previous


class KeepsAfterPause(Pool):
    def _release_unwanted(self, now: float) -> list[Action]:
        return [] if self.current is None else super()._release_unwanted(now)


class HandsParkedAsWarm(Pool):
    def _unpark(self, instance: Instance, now: float) -> list[Action]:
        actions = super()._unpark(instance, now)
        instance.is_fresh = False
        return actions


class PromotesWithoutUnparking(Pool):
    def _unpark(self, instance: Instance, now: float) -> list[Action]:
        return self._stop(instance, now)


class ForgetsToPark(Pool):
    def _set_footprint(self, digest: str, footprint: Footprint | None) -> None:  # noqa: ARG002
        super()._set_footprint(digest, Footprint())


class ParksForEver(Pool):
    def tick(self, now: float) -> list[Action]:
        for instance in self._table.in_state(InstanceState.PARKED):
            instance.since = now
        return super().tick(now)


class AsksToComeBackAtOnce(Pool):
    def acquire(self, waiter: int, now: float) -> list[Action]:
        actions = super().acquire(waiter, now)
        return [
            replace(one, retry_after_s=0) if isinstance(one, Refuse) else one for one in actions
        ]


@promise("P1")
@pytest.mark.parametrize(
    "broken",
    [
        ForgetsTheMaximum,
        AnswersTheCancelled,
        KeepsWhatTheCancelledHeld,
        ReusesTheSick,
        HandsOutTheUnclean,
        ServesTheYoungestFirst,
        ForgetsTheQueueWhenOneIsGone,
        LetsTheQueueHoldUpThePrepared,
        KeepsTheOldVersion,
        ForgetsTheMinimum,
        ForgetsHowTheLastOneWent,
        ForgetsThatItClosed,
    ],
)
def test_a_pool_that_makes_this_mistake_is_found_out(broken: type[Pool]) -> None:
    @FINDS_MISTAKES
    @given(story=LIVELY, size=st.integers(0, 63))
    def stories(story: list[tuple[str, int]], size: int) -> None:
        live_through(story, size, broken)

    with pytest.raises((AssertionError, KeyError, RuntimeError, BaseExceptionGroup)):
        stories()


# These mistakes need more events in a row than random stories soon contain, so each has a given
# story. The size stands for max_instances and the version.
ONE, TWO, FOUR, FOUR_OF_C = 0, 1, 3, 23
IDLE = [("acquire", 0), ("started", 0), ("all quiet", 0)]
UPDATED = [*IDLE, ("promote at once", 1)]
PARKED = [("acquire", 0), ("started", 0), ("quiet for long", 0)]
TWO_BUSY = [("acquire", 0), ("started", 0)] * 2
FULL_LINE = [("acquire three", 0)] * 3
TOLD: dict[type[Pool], tuple[int, list[tuple[str, int]]]] = {
    ForgetsToTick: (FOUR, [*TWO_BUSY, ("release", 0), ("acquire", 0), ("time", 3)]),
    KeepsForEver: (FOUR, [*UPDATED, ("time", STEPS.index(61.0))]),
    NeverKeeps: (FOUR, UPDATED),
    NeverGivesKeptWay: (TWO, [*UPDATED, ("acquire three", 0)]),
    KeepsWhatIsInTheWay: (
        TWO,
        [*TWO_BUSY, ("promote at once", 1), ("acquire", 0), ("release", 0), ("cleaned", 0)],
    ),
    KeepsAfterPause: (FOUR, [*IDLE, ("close", 0)]),
    HandsParkedAsWarm: (FOUR_OF_C, [*PARKED, ("acquire", 0)]),
    PromotesWithoutUnparking: (FOUR, [*UPDATED, ("promote at once", 0)]),
    ForgetsToPark: (FOUR_OF_C, PARKED),
    ParksForEver: (FOUR_OF_C, PARKED),
    AsksToComeBackAtOnce: (ONE, FULL_LINE),
}


@pytest.mark.parametrize("broken", TOLD)
def test_a_pool_that_makes_this_mistake_is_found_out_by_its_story(broken: type[Pool]) -> None:
    size, story = TOLD[broken]
    live_through(story, size)
    with pytest.raises((AssertionError, RuntimeError)):
        live_through(story, size, broken)
