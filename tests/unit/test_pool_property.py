"""Whatever happens in whatever order: the pool keeps its promises, and nobody waits for ever."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from quiltfn.model.actions import Action, Hand, Refuse
from quiltfn.model.cold_start import ColdStartReason
from quiltfn.model.instance import Instance, InstanceState
from quiltfn.model.line import Line, Waiting
from quiltfn.model.memory import Footprint
from quiltfn.model.pool import Pool, PoolLimits
from unit.pool_world import World

CONTENTS = ("a", "b", "c")
LINE_MAX = 6
STEPS = (0.0, 0.001, 0.005, 0.3, 1.0, 6.0, 11.0, 59.0, 61.0, 400.0, 90_000.0)


def targets(low: int, high: int) -> dict[str, int]:
    high = 1 + high % 4
    return {"min_instances": low % (high + 1), "max_instances": high, "line_max": LINE_MAX}


def one_of(numbers: list[int], choice: int) -> int | None:
    return numbers[choice % len(numbers)] if numbers else None


# Each event picks its object by a number; where there is none, nothing happens.
def on(
    find: Callable[[World], list[int]], do: Callable[[World, int], object]
) -> Callable[[World, int], None]:
    def event(world: World, choice: int) -> None:
        number = one_of(find(world), choice)
        if number is not None:
            do(world, number)

    return event


def unused(world: World) -> list[int]:
    return [sandbox.holder for sandbox in world.boxes.values() if sandbox.holder is not None]


def can_die(world: World) -> list[int]:
    return world.those(lambda sandbox: not (sandbox.pending or sandbox.destroying or sandbox.dead))


def switch_to_what_stands(world: World, _choice: int) -> None:
    if world.pool.standby is not None and world.pool.standby in world.stands:
        world.switch(world.pool.standby)


def quiet_for_long(world: World, _choice: int) -> None:
    world.finish()
    world.pass_time(world.pool.limits.idle_s)


EVENTS: dict[str, Callable[[World, int], object]] = {
    "acquire": lambda world, _: world.acquire(),
    "acquire three": lambda world, _: [world.acquire() for _ in range(3)],
    "cancel in line": on(lambda w: list(w.waiting), World.cancel),
    "cancel in the tick of the hand-over": on(unused, World.cancel),
    "release": on(lambda w: w.running, World.release),
    "release sick": on(lambda w: w.running, lambda w, n: w.release(n, healthy=False)),
    "started": on(lambda w: w.starting, World.started),
    "failed": on(lambda w: w.starting, World.failed),
    "cleaned": on(lambda w: w.those(lambda sandbox: sandbox.cleaning), World.cleaned),
    "lost": on(can_die, World.lost),
    "gone": on(lambda w: w.leaving, World.gone),
    "prepare": lambda world, n: world.prepare(CONTENTS[n % 3], 1 + n // 3 % 4),
    "switch to what stands": switch_to_what_stands,
    "switch at once": lambda world, n: world.switch(CONTENTS[n % 3]),
    "abandon": lambda world, _: world.abandon(),
    "close": lambda world, _: world.close(),
    "set scaling": lambda world, n: world.set_scaling(**targets(n // 4, n)),
    "all quiet": lambda world, _: world.finish(),
    "quiet for long": quiet_for_long,
    "time": lambda world, n: world.pass_time(STEPS[n % len(STEPS)]),
}
COMMON = ["acquire", "release", "started", "cleaned", "gone", "time"] * 3


def stories_of(names: list[str], least: int) -> st.SearchStrategy[list[tuple[str, int]]]:
    """About twice as long as the `least`, on average."""
    one = st.tuples(st.sampled_from(names), st.integers(0, 63))
    return st.lists(one, min_size=least, max_size=70)


STORIES = stories_of([*EVENTS, *COMMON, "quiet for long"], least=9)
LIVELY = stories_of([*(name for name in EVENTS if "quiet" not in name), *COMMON], least=1)


def live_through(story: list[tuple[str, int]], size: int, make: type[Pool] = Pool) -> None:
    world = World(PoolLimits(**targets(size // 4, size)), make)
    world.switch("c" if size % 32 > 15 else "a")
    for event, choice in story:
        EVENTS[event](world, choice)
    come_to_an_end(world)


def come_to_an_end(world: World) -> None:
    """The world completes what it began: then what was promised must have come about."""
    a_standby_stands_though_the_line_never_ends(world)
    nobody_waits_for_ever(world)
    the_minimum_is_restored_and_the_rest_leaves(world)
    for waiter in range(1, world.acquire()):
        assert (waiter in world.answers) != (waiter in world.cancelled - world.answers.keys())


def a_standby_stands_though_the_line_never_ends(world: World) -> None:
    digest = world.pool.standby
    if digest is None:
        return
    for _ in range(40):  # a full pool: for each call that ends another one comes
        if world.pool.current is not None and len(world.waiting) < LINE_MAX:
            world.acquire()
        for numbers, complete in (
            (world.starting, world.started),
            (world.leaving, world.gone),
            (world.running, world.release),
            (world.cleaning, world.cleaned),
        ):
            if numbers and world.pool.standby == digest:
                complete(numbers[0])
        world.pass_time(0.002)
        if digest in world.stands:
            break
    assert digest in world.stands, "a standby that never stands"
    world.switch(digest)


def nobody_waits_for_ever(world: World) -> None:
    if world.pool.current is None:
        assert not world.waiting
        return
    waiting = list(world.waiting)
    for _ in range(3):
        world.finish()
        world.pass_time(0.01)
    world.finish()
    assert not world.waiting, "somebody waits for ever"
    for waiter in waiting:  # in this little time nobody's wait is over, so all were served
        answer = world.answers[waiter]
        waited = isinstance(answer, Refuse) and answer.why == "waited too long"
        assert isinstance(answer, Hand) or waited


def the_minimum_is_restored_and_the_rest_leaves(world: World) -> None:
    limits = world.pool.limits
    for _ in range(4):
        world.pass_time(1.0)
        world.finish()
    counts = world.pool.counts()
    if world.pool.current is None:
        assert counts.total == 0, "a closed function keeps instances"
        return
    assert counts.ready + counts.warming == counts.total, f"at rest, and yet {counts}"
    assert counts.warming == len(world.kept), "at rest, and yet something is being made"
    assert limits.min_instances <= counts.ready <= limits.max_instances
    world.pass_time(limits.idle_s + 1)
    world.finish()
    parked = len(world.kept)
    assert parked <= (1 if world.parks(world.pool.current) and not limits.min_instances else 0)
    assert world.pool.counts().total - parked == limits.min_instances, "idle instances stay"
    world.pass_time(limits.park_s + 1)
    world.finish()
    assert world.pool.counts().total == limits.min_instances, "what is parked stays for ever"


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(story=STORIES, size=st.integers(0, 63))
def test_every_story_keeps_the_promises(story: list[tuple[str, int]], size: int) -> None:
    live_through(story, size)


# The negative controls: each of these mistakes must be found, or the suite above proves nothing.


class ForgetsTheCeiling(Pool):
    def _start(
        self, digest: str, count: int, now: float, *, callers: Sequence[Waiting] = ()
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
    def release(self, number: int, now: float, *, healthy: bool) -> list[Action]:  # noqa: ARG002
        return super().release(number, now, healthy=True)


class HandsOutTheUnclean(Pool):
    def release(self, number: int, now: float, *, healthy: bool) -> list[Action]:
        return [*super().release(number, now, healthy=healthy), *self.cleaned(number, now)]


class ServesTheYoungestFirst(Pool):
    def cleaned(self, number: int, now: float) -> list[Action]:
        self.line.waiting.reverse()
        return super().cleaned(number, now)


class ForgetsTheLineWhenOneIsGone(Pool):
    def gone(self, number: int, now: float) -> list[Action]:  # noqa: ARG002
        instance = self.instances.pop(number)
        assert instance.state is InstanceState.TERMINATING
        return []


class ForgetsToWake(Pool):
    def tick(self, now: float) -> list[Action]:
        line, self.line = self.line, Line()
        actions = super().tick(now)
        self.line = line
        return actions


class LetsTheLineKeepTheStandbyOut(Pool):
    def _gives_way(self, instance: object) -> bool:  # noqa: ARG002
        return self._all.live() > self.limits.max_instances


class KeepsTheOldContent(Pool):
    def _set_aside(self, now: float) -> list[Action]:  # noqa: ARG002
        return []


class ForgetsTheMinimum(Pool):
    def tick(self, now: float) -> list[Action]:
        limits = self.limits
        self.limits = PoolLimits(max_instances=limits.max_instances, line_max=limits.line_max)
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
    def close(self, why: str, now: float) -> list[Action]:
        past = self._past._has_any
        actions = super().close(why, now)
        self._past._has_any = past
        return actions


class KeepsForEver(Pool):
    def tick(self, now: float) -> list[Action]:
        self._kept_until = now + 1
        return super().tick(now)


class NeverKeeps(Pool):
    def _may_keep(self, instance: Instance) -> bool:  # noqa: ARG002
        return False


class NeverGivesKeptWay(Pool):
    def _stop(
        self, instance: Instance, now: float, how: ColdStartReason = ColdStartReason.EVICTED
    ) -> list[Action]:
        is_kept = instance.state is InstanceState.PARKED and instance.digest == self.previous
        return [] if is_kept else super()._stop(instance, now, how)


class KeepsWhatIsInTheWay(Pool):
    def _may_keep(self, instance: Instance) -> bool:
        return instance.digest == self.previous


class KeepsAfterPause(Pool):
    def _set_aside(self, now: float) -> list[Action]:
        return [] if self.current is None else super()._set_aside(now)


class HandsParkedAsWarm(Pool):
    def _resume(self, instance: Instance, now: float) -> list[Action]:
        actions = super()._resume(instance, now)
        instance.is_fresh = False
        return actions


class SwitchesBackToNothing(Pool):
    def _resume(self, instance: Instance, now: float) -> list[Action]:
        return self._stop(instance, now)


class ForgetsToPark(Pool):
    def _know(self, digest: str, footprint: Footprint | None) -> None:  # noqa: ARG002
        super()._know(digest, Footprint())


class ParksForEver(Pool):
    def tick(self, now: float) -> list[Action]:
        for instance in self._all.those(InstanceState.PARKED):
            instance.since = now
        return super().tick(now)


class AsksToComeBackAtOnce(Pool):
    def acquire(self, waiter: int, now: float) -> list[Action]:
        actions = super().acquire(waiter, now)
        return [replace(one, retry_s=0) if isinstance(one, Refuse) else one for one in actions]


@pytest.mark.parametrize(
    "broken",
    [
        ForgetsTheCeiling,
        AnswersTheCancelled,
        KeepsWhatTheCancelledHeld,
        ReusesTheSick,
        HandsOutTheUnclean,
        ServesTheYoungestFirst,
        ForgetsTheLineWhenOneIsGone,
        LetsTheLineKeepTheStandbyOut,
        KeepsTheOldContent,
        ForgetsTheMinimum,
        ForgetsHowTheLastOneWent,
        ForgetsThatItClosed,
    ],
)
def test_a_pool_that_makes_this_mistake_is_found_out(broken: type[Pool]) -> None:
    @settings(
        max_examples=3000,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(story=LIVELY, size=st.integers(0, 63))
    def stories(story: list[tuple[str, int]], size: int) -> None:
        live_through(story, size, broken)

    with pytest.raises((AssertionError, KeyError, RuntimeError, BaseExceptionGroup)):
        stories()


# Those that need more events in a row than chance soon brings about: the story is told. The size
# says max_instances and the content.
ONE, TWO, FOUR, FOUR_OF_C = 0, 1, 3, 23
IDLE = [("acquire", 0), ("started", 0), ("all quiet", 0)]
UPDATED = [*IDLE, ("switch at once", 1)]
PARKED = [("acquire", 0), ("started", 0), ("quiet for long", 0)]
TWO_BUSY = [("acquire", 0), ("started", 0)] * 2
FULL_LINE = [("acquire three", 0)] * 3
TOLD: dict[type[Pool], tuple[int, list[tuple[str, int]]]] = {
    ForgetsToWake: (FOUR, [*TWO_BUSY, ("release", 0), ("acquire", 0), ("time", 3)]),
    KeepsForEver: (FOUR, [*UPDATED, ("time", STEPS.index(61.0))]),
    NeverKeeps: (FOUR, UPDATED),
    NeverGivesKeptWay: (TWO, [*UPDATED, ("acquire three", 0)]),
    KeepsWhatIsInTheWay: (
        TWO,
        [*TWO_BUSY, ("switch at once", 1), ("acquire", 0), ("release", 0), ("cleaned", 0)],
    ),
    KeepsAfterPause: (FOUR, [*IDLE, ("close", 0)]),
    HandsParkedAsWarm: (FOUR_OF_C, [*PARKED, ("acquire", 0)]),
    SwitchesBackToNothing: (FOUR, [*UPDATED, ("switch at once", 0)]),
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
