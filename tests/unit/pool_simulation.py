"""Simulates everything outside of one pool: sandboxes change only when a test tells them to.

`PoolSimulation` performs the pool's actions as `FunctionPool` does, keeps its own records of them,
and fails if an action breaks a promise to a caller or an operator.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from hypothesis import HealthCheck, Phase, settings
from msgspec.structs import replace

from quiltfn.model import actions
from quiltfn.model.cold_start import ColdStartReason
from quiltfn.model.counts import PoolCounts
from quiltfn.model.instance import InstanceState
from quiltfn.model.memory import Footprint
from quiltfn.model.pool import Pool, PoolLimits

WARMING, PARKED, READY, BUSY = "warming", "parked", "ready", "busy"
RECYCLING, TERMINATING = "recycling", "terminating"

# Settings of negative controls: they always run the same stories, one of which must reveal the
# planted mistake.
FINDS_MISTAKES = settings(
    max_examples=3000,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@dataclass
class SimulatedSandbox:
    """What a `PoolSimulation` records about one sandbox."""

    digest: str
    pending: bool = True
    holder: int | None = None
    cleaning: bool = False
    destroying: bool = False
    dead: bool = False
    was_ready: bool = False
    is_sick: bool = False
    cleaning_since: float = 0.0
    idle_since: float = 0.0
    is_parked: bool = False
    is_to_park: bool = False  # started for no invocation, and not used since
    # `is_fresh`: started or unparked, and unused since then. `seen_by`: the invocations that waited
    # at that time.
    is_fresh: bool = False
    seen_by: frozenset[int] = frozenset()
    ready_at: float = -1.0
    reason: ColdStartReason = ColdStartReason.FIRST

    @property
    def is_idle(self) -> bool:
        return self.holder is None and not (self.pending or self.cleaning or self.destroying)

    def become_ready(self, now: float, waiting: Iterable[int]) -> None:
        """Let invocations get this sandbox from now on. `waiting`: the invocations that wait for a
        sandbox.
        """
        self.is_parked, self.is_fresh = False, True
        self.idle_since = self.ready_at = now
        self.seen_by = frozenset(waiting)


class PoolSimulation:
    """Drives one pool: each method is an event, after which the pool's actions are performed and
    checked.
    """

    def __init__(self, limits: PoolLimits, make: Callable[[PoolLimits], Pool] = Pool) -> None:
        self.pool = make(limits)
        self.now = 1000.0
        self.simulated: dict[int, SimulatedSandbox] = {}
        self.waiting: dict[int, float] = {}
        self.answers: dict[int, actions.Action] = {}
        self.cancelled: set[int] = set()
        self.wakes: list[float] = []
        self.ready_digests: list[str] = []
        self.short: list[float] = []
        self.failing = False
        self._waiters = 0
        self._previous: str | None = None
        self._previous_until = 0.0
        self._prepared_count = 0
        self._was_ready = False  # whether an instance was ready since the start or the last close
        self._left_well: dict[str, bool] = {}  # whether the last instance of a version ended well

    # Events ----------------------------------------------------------------------------------

    def acquire(self) -> int:
        self._waiters += 1
        self.waiting[self._waiters] = self.now
        self._perform(self.pool.acquire(self._waiters, self.now))
        return self._waiters

    def acquire_at_once(self) -> int | None:
        """The number of the caller; None: it has got no instance."""
        found = self.pool.acquire_at_once(self._waiters + 1, self.now)
        if found is None:
            return None
        self._waiters += 1
        self.waiting[self._waiters] = self.now
        self._perform([found])
        return self._waiters

    def cancel(self, waiter: int) -> None:
        """The caller leaves while it waits, or before it has used its instance."""
        self.waiting.pop(waiter, None)
        self.cancelled.add(waiter)
        number = self.held(waiter)
        if number is not None and self.simulated[number].dead:
            self.simulated[number].holder, self.simulated[number].is_sick = None, True
            self._perform(self.pool.release(number, self.now, healthy=False))
            return
        if number is not None:
            self.simulated[number].holder, self.simulated[number].idle_since = None, self.now
        self._perform(self.pool.cancel(waiter, self.now))

    def release(self, number: int, *, healthy: bool = True) -> None:
        sandbox = self.simulated[number]
        sandbox.holder, sandbox.cleaning = None, True
        sandbox.is_sick, sandbox.cleaning_since = not healthy or sandbox.dead, self.now
        self._perform(self.pool.release(number, self.now, healthy=healthy and not sandbox.dead))

    def release_sick(self, number: int) -> None:
        self.release(number, healthy=False)

    def cleaned(self, number: int) -> None:
        self.simulated[number].cleaning, self.simulated[number].idle_since = False, self.now
        self._perform(self.pool.cleaned(number, self.now))

    def started(self, number: int) -> None:
        sandbox = self.simulated[number]
        sandbox.pending, sandbox.was_ready = False, not sandbox.destroying
        self._was_ready |= sandbox.was_ready
        sandbox.become_ready(self.now, self.waiting)
        sandbox.is_parked = self._is_parked_ahead(sandbox)
        self._perform(self.pool.started(number, self.now))

    def failed(self, number: int, reason: str = "no such directory") -> None:
        del self.simulated[number]
        self.failing = True
        self._perform(self.pool.failed(number, reason, self.now))
        self.failing = False

    def lost(self, number: int) -> None:
        self.simulated[number].dead = True
        self._perform(self.pool.lost(number, self.now))

    def gone(self, number: int) -> None:
        del self.simulated[number]
        self._perform(self.pool.gone(number, self.now))

    def prepare(self, digest: str, count: int = 1) -> None:
        self.ready_digests.clear()
        self._prepared_count = min(count, self.pool.limits.max_instances)
        self._perform(self.pool.prepare(digest, count, self.now, self.footprint(digest)))

    def promote(self, digest: str) -> None:
        before = self.pool.current
        old = self.those(lambda b: b.is_idle and b.digest == before and not b.is_parked)
        kept = self.those(lambda b: b.is_idle and b.digest == digest)
        live = sum(len(one.those(lambda b: not b.destroying)) for one in self.family)
        is_calm = not any(one.waiting for one in self.family)
        grace, asked = self.pool.limits.grace_s, self.requests
        if digest != before:
            self._previous, self._previous_until = before if grace else None, self.now + grace
        self._perform(self.pool.promote(digest, self.now, self.footprint(digest)))
        for number in kept:
            assert not self.simulated[number].is_parked, "switched back, and what was kept stays so"
            # A kept sandbox may end if a waiting invocation needs its room.
            is_gone = self.simulated[number].destroying
            assert not is_gone or self.requests > asked, "what was kept for this is gone"
        if grace and is_calm and live <= self.pool.limits.max_instances:
            assert not [n for n in old if self.simulated[n].destroying], "nothing is kept"

    def abandon(self) -> None:
        self._perform(self.pool.abandon(self.now))

    def close(self, why: actions.Closed = actions.Closed.PAUSED) -> None:
        self._was_ready, self._previous = False, None
        self._perform(self.pool.close(why, self.now))

    def park(self) -> None:
        """Start an instance only to be parked, if the pool allows that."""
        before = set(self.simulated)
        self._perform(self.pool.park(self.now))
        for number in self.simulated.keys() - before:
            self.simulated[number].is_to_park = True

    def evict(self, number: int) -> None:
        """Evict an instance, since its memory is needed elsewhere."""
        self._perform(self.pool.evict(number, self.now))

    def set_scaling(self, **limits: int) -> None:
        new = PoolLimits(**limits)  # type: ignore[arg-type]
        self._prepared_count = min(self._prepared_count, new.max_instances)
        self._perform(self.pool.set_scaling(new, self.now), is_tick=True)

    def pass_time(self, seconds: float) -> None:
        """Let time pass. The pool ticks at the times that it has requested and, like the reaper, at
        the end.
        """
        until = self.now + seconds
        while due := [at for at in self.wakes if at <= until]:
            self.now = max(self.now, min(due))
            self.wakes = [at for at in self.wakes if at > self.now]
            self._perform(self.pool.tick(self.now), is_tick=True)
        self.now = until
        self._perform(self.pool.tick(self.now), is_tick=True)
        self._check_patience()

    @staticmethod
    def parks(digest: str | None) -> bool:
        """Whether versions with this name are parked after a long idle time."""
        return digest == "c"

    def footprint(self, digest: str) -> Footprint:
        return Footprint(limit_mib=256.0, idle_mib=1.0, parks=self.parks(digest))

    def live(self, story: str) -> Self:
        """Perform events, each a method and its arguments, such as `release 1, pass_time 0.5`."""
        for event in filter(None, story.split(", ")):
            name, *words = event.split()
            getattr(self, name)(*map(_argument, words))
        return self

    # State -----------------------------------------------------------------------------------

    def held(self, waiter: int) -> int | None:
        return next((n for n, sandbox in self.simulated.items() if sandbox.holder == waiter), None)

    def those(self, true: Callable[[SimulatedSandbox], bool]) -> list[int]:
        return [number for number, sandbox in self.simulated.items() if true(sandbox)]

    @property
    def family(self) -> "Sequence[PoolSimulation]":
        """The pools of the function's versions."""
        return [self]

    @property
    def requests(self) -> int:
        """The number of requested evictions."""
        return len(self.short)

    @property
    def used(self) -> int:
        """The number of the function's instances."""
        return sum(len(one.simulated) for one in self.family)

    @property
    def starting(self) -> list[int]:
        return self.those(lambda sandbox: sandbox.pending)

    @property
    def running(self) -> list[int]:
        return self.those(lambda sandbox: sandbox.holder is not None)

    @property
    def cleaning(self) -> list[int]:
        return self.those(lambda sandbox: sandbox.cleaning and not sandbox.destroying)

    @property
    def leaving(self) -> list[int]:
        return self.those(lambda sandbox: sandbox.destroying and not sandbox.pending)

    @property
    def kept(self) -> list[int]:
        """The parked instances, according to the simulation's own records."""
        return self.those(lambda sandbox: sandbox.is_parked and not sandbox.destroying)

    def states(self) -> dict[int, str]:
        """The states of the pool's instances, for comparisons in tests."""
        return {number: one.state.value for number, one in self.pool.instances.items()}

    def counts(self) -> PoolCounts:
        """The pool's counts of instances by state, without their memory."""
        return replace(self.pool.counts(), memory_mib=0.0)

    def finish(self, *, release: bool = True) -> None:
        """Complete everything in progress: starts, ends, cleaning and, by default, invocations."""
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

    # Performing and checking actions ------------------------------------------------------------

    def _note_what_is_parked(self, *, is_tick: bool) -> None:
        wanted = (self.pool.current, self.pool.prepared)
        if self._previous is not None and self.now >= self._previous_until and is_tick:
            self._previous = None
        for sandbox in self.simulated.values():
            if sandbox.is_idle and sandbox.digest not in wanted:
                assert sandbox.digest == self._previous, "kept, and of nobody"
                sandbox.is_parked = True
            elif is_tick and not sandbox.is_parked and self._is_to_be_parked(sandbox):
                sandbox.is_parked = self._left_well[sandbox.digest] = self._was_ready = True

    def _is_to_be_parked(self, sandbox: SimulatedSandbox) -> bool:
        """Whether the sandbox must be parked instead of stopped: it was idle for long and is the
        last instance of a version that is parked, and no invocation needs its place.
        """
        limits, current = self.pool.limits, self.pool.current
        others = self.those(lambda b: b.digest == current and not b.destroying and b is not sandbox)
        is_last = not others and not limits.min_instances and self.pool.prepared != current
        is_old = sandbox.is_idle and self.now - sandbox.idle_since >= limits.idle_s
        return is_last and is_old and sandbox.digest == current and self.parks(current)

    def _is_parked_ahead(self, sandbox: SimulatedSandbox) -> bool:
        """Whether the sandbox was started to be parked, and is needed by no invocation, minimum or
        deploy.
        """
        is_wanted = self.waiting or self.pool.limits.min_instances or self.pool.prepared is not None
        is_current = sandbox.digest == self.pool.current and not sandbox.destroying
        return sandbox.is_to_park and is_current and not is_wanted

    def _perform(self, decided: list[actions.Action], *, is_tick: bool = False) -> None:
        for action in decided:
            match action:
                case actions.Start(instance=number, digest=digest):
                    self._start(number, digest)
                case actions.Assign(instance=number, waiter=waiter, cold=cold):
                    self._assign(number, waiter, cold)
                    self.answers[waiter] = action
                case actions.Unpark(instance=number):
                    self._unpark(number)
                case actions.RequestMemory(mib=mib):
                    self.short.append(mib)
                case actions.Refuse(waiter=waiter, why=why, retry_after_s=retry_after_s):
                    assert 1 <= retry_after_s <= 60, f"to be asked again after {retry_after_s} s"
                    self._leaves_queue(waiter, action)
                    self._may_refuse(waiter, why)
                case actions.Fail(waiter=waiter):
                    assert self.failing, "a caller is failed though no start failed"
                    self._leaves_queue(waiter, action)
                case actions.Destroy(instance=number):
                    sandbox = self.simulated[number]
                    assert not sandbox.destroying, "destroyed twice"
                    assert sandbox.holder is None, "destroyed under a call"
                    may_park = is_tick and not (sandbox.is_parked or self.pool.prepared)
                    may_park &= len(self.simulated) <= self.pool.limits.max_instances
                    assert not (may_park and self._is_to_be_parked(sandbox)), "not parked"
                    sandbox.destroying, sandbox.is_parked = True, False
                    self._note_how_it_went(sandbox)
                case actions.TickAt(at=at):
                    assert at > self.now, "to be woken in the past would be a busy loop"
                    self.wakes.append(at)
                case actions.Prepared(digest=digest):
                    ready = self.those(lambda b: b.digest == digest and not b.pending)
                    assert ready, "nothing is ready"
                    self.ready_digests.append(digest)
                case actions.PrepareFailed(digest=digest):
                    assert self.failing, "it is said not to be ready though no start failed"
                    self.ready_digests.append(f"not {digest}")
        self._note_what_is_parked(is_tick=is_tick)
        self.check()

    def _start(self, number: int, digest: str) -> None:
        most = self.pool.limits.max_instances
        assert self.used < most, "a start above the maximum"
        assert digest in (self.pool.current, self.pool.prepared), "a start for nobody"
        assert number not in self.simulated, "a number used twice"
        reason = self.pool.instances[number].reason
        self._check_why(reason, digest)
        self.simulated[number] = SimulatedSandbox(digest, reason=reason)

    def _unpark(self, number: int) -> None:
        sandbox = self.simulated[number]
        assert sandbox.is_idle, "unparked, though it is not idle"
        assert sandbox.is_parked, "unparked, though it is not parked"
        assert not sandbox.dead, "unparked, though it is dead"
        wanted = (self.pool.current, self.pool.prepared)
        assert sandbox.digest in wanted, "unparked for no version"
        reason = self.pool.instances[number].reason
        if sandbox.is_to_park:
            assert reason is sandbox.reason, "another reason than that of its start"
        else:
            self._check_why(reason, sandbox.digest, is_unparked=True)
        sandbox.become_ready(self.now, self.waiting)

    def _note_how_it_went(self, sandbox: SimulatedSandbox) -> None:
        if sandbox.was_ready and sandbox.digest in (self.pool.current, self.pool.prepared):
            overdue = self.now - sandbox.cleaning_since >= self.pool.limits.recycle_s
            is_bad = sandbox.dead or sandbox.is_sick or (sandbox.cleaning and overdue)
            self._left_well[sandbox.digest], self._was_ready = not is_bad, True

    def _check_why(self, why: ColdStartReason, digest: str, *, is_unparked: bool = False) -> None:
        """Check that the reason for a start agrees with the simulation's own records."""
        standing = self.those(lambda b: b.digest == digest and b.was_ready and not b.destroying)
        if is_unparked:
            standing = []  # a start from a parked instance is never reported as scaling out
        assert (why is ColdStartReason.SCALED_OUT) == bool(standing), f"{why} beside {standing}"
        if why is ColdStartReason.FIRST:
            assert not self._was_ready, "called the first, and is not"
        elif why is ColdStartReason.UPDATED:
            assert self._was_ready, "called updated, and nothing was ready before"
        elif why is not ColdStartReason.SCALED_OUT:
            assert self._left_well.get(digest, True) == (why is ColdStartReason.EVICTED), (
                f"{why}: it was otherwise"
            )

    def _assign(self, number: int, waiter: int, cold: bool) -> None:
        sandbox = self.simulated[number]
        assert sandbox.holder is None, "handed to two callers"
        assert not sandbox.pending, "handed before it was made"
        assert not sandbox.destroying, "handed over while it ends"
        assert not sandbox.cleaning, "handed unclean"
        assert not sandbox.dead, "handed though it is known to be dead"
        assert sandbox.digest == self.pool.current, "given an instance of another version"
        assert waiter == min(self.waiting, default=None), "somebody waited for longer"
        assert not sandbox.is_parked, "handed while it is parked"
        waited_for_it = sandbox.is_fresh and waiter in sandbox.seen_by
        is_tie = waiter not in sandbox.seen_by and self.waiting[waiter] == sandbox.ready_at
        assert is_tie or cold == waited_for_it, (
            f"called {'cold' if cold else 'warm'}, and it was not"
        )
        self._leaves_queue(waiter, None)
        sandbox.holder, sandbox.is_fresh, sandbox.is_to_park = waiter, False, False

    def _leaves_queue(self, waiter: int, answer: actions.Action | None) -> None:
        assert waiter not in self.cancelled, "an answer to somebody who went away"
        assert waiter not in self.answers, "a second answer"
        assert waiter in self.waiting, "an answer to nobody"
        del self.waiting[waiter]
        if answer is not None:
            self.answers[waiter] = answer

    def _may_refuse(self, waiter: int, why: actions.Closed | actions.Full) -> None:
        limits = self.pool.limits
        if why is actions.Full.QUEUE:
            assert len(self.waiting) >= limits.queue_max, "refused beside a queue with room"
        elif isinstance(why, actions.Full):
            assert waiter < min(self.waiting, default=waiter + 1), "the younger one gave up first"
        else:
            assert self.pool.current is None, "refused as closed while it is open"
            assert why == self.pool.closed_because

    def _check_patience(self) -> None:
        limits = self.pool.limits
        late = [since for since in self.waiting.values() if self.now >= since + limits.patience_s]
        coming = self.those(lambda b: b.pending and b.digest == self.pool.current)
        has_capacity = len(self.simulated) < limits.max_instances
        assert not has_capacity or len(coming) >= len(late), (
            "impatient, and there is room for a start"
        )

    def check(self) -> None:
        """Check the pool against itself and against the simulation."""
        self.pool.check()
        assert self.pool.idle() == Pool.headroom(self.pool).idle
        if self.pool.is_at_rest:
            assert self.pool.tick(1e12) == [], "it is not at rest"
        counts, said = self.pool.counts(), self.states()
        assert counts.total == len(said) == len(self.simulated), "instances and sandboxes differ"
        assert said.keys() == self.simulated.keys()
        for number, sandbox in self.simulated.items():
            is_leaving = said[number] == InstanceState.TERMINATING
            assert is_leaving == sandbox.destroying, f"{number} is {said[number]}, really {sandbox}"
            assert (said[number] == InstanceState.BUSY) == (sandbox.holder is not None)
            assert (said[number] == InstanceState.WARMING) == (sandbox.pending and not is_leaving)
            assert said[number] not in (PARKED, READY) or not sandbox.cleaning, "idle and unclean"
            assert (said[number] == PARKED) == sandbox.is_parked, (
                f"{number} is {said[number]}: {sandbox}"
            )
        queued = [one.id for one in self.pool.queue.waiting]
        assert queued == sorted(self.waiting), "the queues differ"
        # If memory is short, an invocation has to end first.
        is_short = self.pool in self.pool.memory.waiting
        full = len(self.simulated) >= self.pool.limits.max_instances and not is_short
        if full and not self.those(lambda sandbox: sandbox.destroying or sandbox.pending):
            self._check_that_the_kept_give_way()

    def _check_that_the_kept_give_way(self) -> None:
        """Check that no kept instance stays idle while an invocation waits, if there is no room and
        none will become free.
        """
        current, prepared = self.pool.current, self.pool.prepared

        def of(digest: str | None) -> int:
            return len(self.those(lambda b: b.digest == digest and not b.is_parked))

        nearly_ready = self.those(lambda b: b.cleaning and b.digest == current)
        useless = self.those(lambda b: b.digest not in (current, prepared) and b.holder is None)
        assert not useless or len(self.waiting) <= len(nearly_ready), (
            "a call waits beside one that is kept"
        )
        if prepared is not None and of(prepared) < self._prepared_count:
            assert all(self.simulated[n].digest == prepared for n in self.kept), (
                "a prepared version waits beside one that is kept"
            )


def _argument(word: str) -> int | float | str:
    return int(word) if word.isdigit() else float(word) if "." in word else word


def a_pool(ready: int = 0, **limits: float) -> PoolSimulation:
    """A simulation of an open pool with `ready` ready instances."""
    sim = PoolSimulation(PoolLimits(**limits))  # type: ignore[arg-type]
    sim.promote("a")
    callers = [sim.acquire() for _ in range(ready)]
    for _ in callers:
        sim.started(sim.starting[0])
    for waiter in callers:
        sim.cancel(waiter)
    return sim
