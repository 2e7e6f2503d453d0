"""The world outside a pool, for tests: sandboxes that start, clean, vanish and die when told to.

`World` performs what the pool decides as a shell would, keeps its own books of it, and complains
where an action is not what a caller or an operator was promised.
"""

from collections.abc import Callable
from dataclasses import dataclass

from quiltfn.model.actions import (
    FULL,
    WAITED_TOO_LONG,
    Action,
    CannotStand,
    Destroy,
    Fail,
    Hand,
    Refuse,
    Stands,
    Start,
    Wake,
)
from quiltfn.model.cold import Cold
from quiltfn.model.instance import InstanceState
from quiltfn.model.pool import Pool, PoolLimits

WARMING, READY, BUSY = "warming", "ready", "busy"
RECYCLING, TERMINATING = "recycling", "terminating"


@dataclass
class Box:
    """A sandbox as the world sees it."""

    digest: str
    pending: bool = True
    holder: int | None = None
    cleaning: bool = False
    destroying: bool = False
    dead: bool = False
    has_served: bool = False
    has_stood: bool = False
    is_sick: bool = False
    cleaning_since: float = 0.0


class World:
    """Drives one pool. Every method is an event; what it returns is what the pool decided."""

    def __init__(self, limits: PoolLimits, make: Callable[[PoolLimits], Pool] = Pool) -> None:
        self.pool = make(limits)
        self.now = 1000.0
        self.boxes: dict[int, Box] = {}
        self.waiting: dict[int, float] = {}
        self.answers: dict[int, Action] = {}
        self.cancelled: set[int] = set()
        self.wakes: list[float] = []
        self.stands: list[str] = []
        self.failing = False
        self._waiters = 0
        self._has_stood = False  # any, since the start or the last close
        self._left_well: dict[str, bool] = {}  # how the last one of a content went

    # Events ----------------------------------------------------------------------------------

    def acquire(self) -> int:
        self._waiters += 1
        self.waiting[self._waiters] = self.now
        self._perform(self.pool.acquire(self._waiters, self.now))
        return self._waiters

    def cancel(self, waiter: int) -> None:
        """The caller goes away: in line, or with an instance in hand that it has not used."""
        self.waiting.pop(waiter, None)
        self.cancelled.add(waiter)
        number = self.held(waiter)
        if number is not None and self.boxes[number].dead:
            self.boxes[number].holder, self.boxes[number].is_sick = None, True
            self._perform(self.pool.release(number, self.now, healthy=False))
            return
        if number is not None:
            self.boxes[number].holder = None
        self._perform(self.pool.cancel(waiter, self.now))

    def release(self, number: int, *, healthy: bool = True) -> None:
        box = self.boxes[number]
        box.holder, box.has_served, box.cleaning = None, True, True
        box.is_sick, box.cleaning_since = not healthy or box.dead, self.now
        self._perform(self.pool.release(number, self.now, healthy=healthy and not box.dead))

    def cleaned(self, number: int) -> None:
        self.boxes[number].cleaning = False
        self._perform(self.pool.cleaned(number, self.now))

    def started(self, number: int) -> None:
        box = self.boxes[number]
        box.pending, box.has_stood = False, not box.destroying
        self._has_stood |= box.has_stood
        self._perform(self.pool.started(number, self.now))

    def failed(self, number: int, reason: str = "no such directory") -> None:
        del self.boxes[number]
        self.failing = True
        self._perform(self.pool.failed(number, reason, self.now))
        self.failing = False

    def lost(self, number: int) -> None:
        self.boxes[number].dead = True
        self._perform(self.pool.lost(number, self.now))

    def gone(self, number: int) -> None:
        del self.boxes[number]
        self._perform(self.pool.gone(number, self.now))

    def prepare(self, digest: str, count: int = 1) -> None:
        self.stands.clear()
        self._perform(self.pool.prepare(digest, count, self.now))

    def switch(self, digest: str) -> None:
        self._perform(self.pool.switch(digest, self.now))

    def abandon(self) -> None:
        self._perform(self.pool.abandon(self.now))

    def close(self, why: str = "paused") -> None:
        self._has_stood = False
        self._perform(self.pool.close(why, self.now))

    def retarget(self, **limits: int) -> None:
        self._perform(self.pool.retarget(PoolLimits(**limits), self.now))

    def pass_time(self, seconds: float) -> None:
        """Rings at the times that were asked for, and at the end as the reaper does."""
        until = self.now + seconds
        while due := [at for at in self.wakes if at <= until]:
            self.now = max(self.now, min(due))
            self.wakes = [at for at in self.wakes if at > self.now]
            self._perform(self.pool.tick(self.now))
        self.now = until
        self._perform(self.pool.tick(self.now))
        self._check_patience()

    # What is so ------------------------------------------------------------------------------

    def held(self, waiter: int) -> int | None:
        return next((n for n, box in self.boxes.items() if box.holder == waiter), None)

    def those(self, true: Callable[[Box], bool]) -> list[int]:
        return [number for number, box in self.boxes.items() if true(box)]

    @property
    def starting(self) -> list[int]:
        return self.those(lambda box: box.pending)

    @property
    def running(self) -> list[int]:
        return self.those(lambda box: box.holder is not None)

    @property
    def cleaning(self) -> list[int]:
        return self.those(lambda box: box.cleaning and not box.destroying)

    @property
    def leaving(self) -> list[int]:
        return self.those(lambda box: box.destroying and not box.pending)

    def states(self) -> dict[int, str]:
        """What the pool says of its instances, for tests to compare with."""
        return {number: one.state.value for number, one in self.pool.instances.items()}

    def finish(self, *, release: bool = True) -> None:
        """The world completes everything that is under way, until nothing is."""
        for _ in range(10_000):
            if self.starting:
                self.started(self.starting[0])
            elif self.leaving:
                self.gone(self.leaving[0])
            elif self.cleaning:
                self.cleaned(self.cleaning[0])
            elif release and self.running:
                self.release(self.running[0])
            else:
                return
        raise AssertionError("the pool never comes to rest")

    # Performing, with complaints ----------------------------------------------------------------

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Start(instance=number, digest=digest):
                    self._start(number, digest)
                case Hand(instance=number, waiter=waiter):
                    self._hand(number, waiter)
                    self.answers[waiter] = action
                case Refuse(waiter=waiter, why=why):
                    self._leaves_line(waiter, action)
                    self._may_refuse(waiter, why)
                case Fail(waiter=waiter):
                    assert self.failing, "a caller is failed though no start failed"
                    self._leaves_line(waiter, action)
                case Destroy(instance=number):
                    box = self.boxes[number]
                    assert not box.destroying, "destroyed twice"
                    assert box.holder is None, "destroyed under a call"
                    box.destroying = True
                    self._note_how_it_went(box)
                case Wake(at=at):
                    assert at > self.now, "to be woken in the past would be a busy loop"
                    self.wakes.append(at)
                case Stands(digest=digest):
                    ready = self.those(lambda b: b.digest == digest and not b.pending)
                    assert ready, "nothing stands"
                    self.stands.append(digest)
                case CannotStand(digest=digest):
                    assert self.failing, "it is said not to stand though no start failed"
                    self.stands.append(f"not {digest}")
        self.check()

    def _start(self, number: int, digest: str) -> None:
        most = self.pool.limits.max_instances
        assert len(self.boxes) < most, "a start above the maximum"
        assert digest in (self.pool.current, self.pool.standby), "a start for nobody"
        assert number not in self.boxes, "a number used twice"
        self._check_why(self.pool.instances[number].why, digest)
        self.boxes[number] = Box(digest)

    def _note_how_it_went(self, box: Box) -> None:
        if box.has_stood and box.digest in (self.pool.current, self.pool.standby):
            overdue = self.now - box.cleaning_since >= self.pool.limits.recycle_s
            is_bad = box.dead or box.is_sick or (box.cleaning and overdue)
            self._left_well[box.digest], self._has_stood = not is_bad, True

    def _check_why(self, why: Cold, digest: str) -> None:
        """The reason of a start is one that the world has seen, too."""
        standing = self.those(lambda b: b.digest == digest and b.has_stood and not b.destroying)
        assert (why is Cold.SCALED_OUT) == bool(standing), f"{why} beside {standing}"
        if why is Cold.FIRST:
            assert not self._has_stood, "called the first, and is not"
        elif why is Cold.UPDATED:
            assert self._has_stood, "called updated, and nothing stood before"
        elif why is not Cold.SCALED_OUT:
            assert self._left_well[digest] == (why is Cold.EVICTED), f"{why}: it was otherwise"

    def _hand(self, number: int, waiter: int) -> None:
        box = self.boxes[number]
        assert box.holder is None, "handed to two callers"
        assert not box.pending, "handed before it was made"
        assert not box.destroying, "handed on its way out"
        assert not box.cleaning, "handed unclean"
        assert not box.dead, "handed though it is known to be dead"
        assert box.digest == self.pool.current, "handed an instance of another content"
        assert waiter == min(self.waiting, default=None), "somebody waited for longer"
        self._leaves_line(waiter, None)
        box.holder = waiter

    def _leaves_line(self, waiter: int, answer: Action | None) -> None:
        assert waiter not in self.cancelled, "an answer to somebody who went away"
        assert waiter not in self.answers, "a second answer"
        assert waiter in self.waiting, "an answer to nobody"
        del self.waiting[waiter]
        if answer is not None:
            self.answers[waiter] = answer

    def _may_refuse(self, waiter: int, why: str) -> None:
        limits = self.pool.limits
        if why == FULL:
            assert len(self.waiting) >= limits.line_max, "refused beside a line with room"
        elif why == WAITED_TOO_LONG:
            assert waiter < min(self.waiting, default=waiter + 1), "the younger one gave up first"
        else:
            assert self.pool.current is None, "refused as closed while it is open"
            assert why == self.pool.closed_because

    def _check_patience(self) -> None:
        limits = self.pool.limits
        late = [since for since in self.waiting.values() if self.now >= since + limits.patience_s]
        coming = self.those(lambda b: b.pending and b.digest == self.pool.current)
        has_room = len(self.boxes) < limits.max_instances
        assert not has_room or len(coming) >= len(late), "impatient, and there is room for a start"

    def check(self) -> None:
        """The pool agrees with itself and with the world."""
        self.pool.check()
        if self.pool.is_at_rest:
            assert self.pool.tick(1e12) == [], "it is not at rest"
        counts, said = self.pool.counts(), self.states()
        assert counts.total == len(said) == len(self.boxes), "instances and sandboxes differ"
        assert said.keys() == self.boxes.keys()
        for number, box in self.boxes.items():
            is_leaving = said[number] == InstanceState.TERMINATING
            assert is_leaving == box.destroying, f"{number} is {said[number]}, really {box}"
            assert (said[number] == InstanceState.BUSY) == (box.holder is not None)
            assert (said[number] == InstanceState.WARMING) == (box.pending and not is_leaving)
        assert [one.id for one in self.pool.line] == sorted(self.waiting), "the lines differ"


def a_pool(ready: int = 0, **limits: float) -> World:
    """A world around an open pool, with so many instances ready."""
    world = World(PoolLimits(**limits))  # type: ignore[arg-type]
    world.switch("a")
    callers = [world.acquire() for _ in range(ready)]
    for _ in callers:
        world.started(world.starting[0])
    for waiter in callers:
        world.cancel(waiter)
    return world
