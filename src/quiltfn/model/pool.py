"""Pool: the joint machine of one function's instances and its waiting line.

Rule 1: who holds which instance is known here and nowhere else.
Rule 2: nothing here waits, reads a clock or touches the kernel: time comes in, actions go out.
Rule 3: whoever waits is handed an instance; nobody is woken to go and look for one.

`current` is the digest of the version content that serves calls; None while the function is not
active. `standby` is a content that is being made ready beside it, for a deploy or an update:
its instances stand idle until `switch` makes it current.
"""

from collections import Counter, deque
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
from quiltfn.model.cold import Cold, Past
from quiltfn.model.counts import PoolCounts, summed
from quiltfn.model.instance import Instance, InstanceEvent, InstanceState
from quiltfn.model.limits import PoolLimits

__all__ = ["Pool", "PoolCounts", "PoolLimits", "summed"]

WARMING, READY, BUSY = InstanceState.WARMING, InstanceState.READY, InstanceState.BUSY
RECYCLING, TERMINATING = InstanceState.RECYCLING, InstanceState.TERMINATING


@dataclass(slots=True)
class Waiting:
    """A call in line since `since` (monotonic seconds)."""

    id: int
    since: float


class Pool:
    """One function's instances and waiting line. Every event returns the actions it calls for."""

    def __init__(self, limits: PoolLimits) -> None:
        self.limits = limits
        self.current: str | None = None
        self.standby: str | None = None
        self.standby_wanted = 0
        self.closed_because = "pending"
        self.instances: dict[int, Instance] = {}
        self.line: deque[Waiting] = deque()
        self._past = Past()
        self._next_instance = 1
        # Lowering max_instances cannot end running calls, so the bound comes down with them.
        self._ceiling = limits.max_instances

    # What a call does ------------------------------------------------------------------------

    def acquire(self, waiter: int, now: float) -> list[Action]:
        """A call wants an instance: it is handed one, put in line, or refused."""
        if self.current is None:
            return [Refuse(waiter, self.closed_because)]
        idle = self._ready(self.current)
        if idle:
            # The newest has the warmest caches, and only this choice lets the others grow old
            # enough for the idle rule.
            return [self._hand(max(idle, key=lambda one: one.since), waiter, now, cold=False)]
        if len(self.line) >= self.limits.line_max:
            return [Refuse(waiter, FULL)]
        self.line.append(Waiting(waiter, now))
        return self._provide(now)

    def cancel(self, waiter: int, now: float) -> list[Action]:
        """The call went away: out of the line, or its untouched instance goes to the next."""
        for waiting in self.line:
            if waiting.id == waiter:
                self.line.remove(waiting)
                return []
        number = self.held_by(waiter)
        if number is None:
            return []
        instance = self.instances[number]
        instance.holder = None
        instance.hear(InstanceEvent.UNUSED, now)
        return self._settle(instance, now, cold=False)

    def release(self, number: int, now: float, *, healthy: bool) -> list[Action]:
        """The call is over. The healthy are cleaned for the next, the sick do not return."""
        instance = self.instances[number]
        instance.holder = None
        if not healthy:
            return self._stop(instance, now, Cold.REPLACED)
        if not self._wanted(instance.digest) or self._gives_way(instance):
            return self._stop(instance, now)
        instance.hear(InstanceEvent.RELEASED, now)
        return []

    # What an instance does -------------------------------------------------------------------

    def started(self, number: int, now: float) -> list[Action]:
        """A sandbox was made and specialised."""
        instance = self.instances[number]
        if instance.state is TERMINATING:
            return []  # it was stopped while it was being made; its Destroy is on the way
        instance.hear(InstanceEvent.STARTED, now)
        self._past.stood()
        return self._settle(instance, now, cold=True)

    def failed(self, number: int, reason: str, now: float) -> list[Action]:
        """A sandbox could not be made, and nothing is left of the attempt.

        The first in line is told: it was started for somebody. Others get an attempt of their own.
        """
        instance = self.instances[number]
        was_stopped = instance.state is TERMINATING
        if not was_stopped:
            instance.hear(InstanceEvent.STOPPED, now)
        actions: list[Action] = []
        if not was_stopped and instance.digest == self.current and self.line:
            actions.append(Fail(self.line.popleft().id, number, reason))
        if not was_stopped and instance.digest == self.standby:
            actions += [CannotStand(instance.digest, reason), *self.abandon(now)]
        return actions + self.gone(number, now)

    def cleaned(self, number: int, now: float) -> list[Action]:
        """Nothing of the last call is left in the instance."""
        instance = self.instances[number]
        if instance.state is not RECYCLING:
            return []
        instance.hear(InstanceEvent.CLEANED, now)
        return self._settle(instance, now, cold=False)

    def lost(self, number: int, now: float) -> list[Action]:
        """The sandbox ended by itself. A busy one is reported by the call that holds it."""
        instance = self.instances.get(number)
        if instance is None or instance.state not in (READY, RECYCLING):
            return []
        return [*self._stop(instance, now, Cold.REPLACED), *self._provide(now)]

    def gone(self, number: int, now: float) -> list[Action]:
        """The machine has everything back; only now does the instance stop to count."""
        instance = self.instances.pop(number)
        instance.hear(InstanceEvent.VANISHED, now)
        self._ceiling = max(self.limits.max_instances, min(self._ceiling, len(self.instances)))
        return self._provide(now)

    # What an operator or a lifecycle verb does -----------------------------------------------

    def prepare(self, digest: str, count: int, now: float) -> list[Action]:
        """Make `count` instances of `digest` ready beside what serves: Stands or CannotStand."""
        actions: list[Action] = []
        if self.standby not in (None, digest):
            actions += self.abandon(now)
        self.standby, self.standby_wanted = digest, min(count, self.limits.max_instances)
        return [*actions, *self._check_standby(), *self._provide(now)]

    def switch(self, digest: str, now: float) -> list[Action]:
        """From now on every new and waiting call is served by `digest`; others drain.

        Whatever else stood by is given up.
        """
        self.current, self.standby = digest, None
        self._past.keep(digest)
        actions: list[Action] = []
        for instance in self._unwanted_idle():
            actions += self._stop(instance, now)
        for instance in self._ready(digest):
            actions += self._settle_ready(instance, now, cold=True)
        return actions + self._provide(now)

    def abandon(self, now: float) -> list[Action]:
        """Give the standby content up."""
        self.standby = None
        self._past.keep(self.current)
        actions: list[Action] = []
        for instance in self._unwanted_idle():
            actions += self._stop(instance, now)
        return actions

    def close(self, why: str, now: float) -> list[Action]:
        """The function stops serving: who waits is refused, who runs may finish."""
        self.current, self.standby, self.closed_because = None, None, why
        self._past.forget()
        actions: list[Action] = [Refuse(waiting.id, why) for waiting in self.line]
        self.line.clear()
        for instance in self._unwanted_idle():
            actions += self._stop(instance, now)
        return actions

    def retarget(self, limits: PoolLimits, now: float) -> list[Action]:
        """New scaling targets: idle instances above the new maximum go, missing ones come."""
        self._ceiling = max(limits.max_instances, min(self._ceiling, len(self.instances)))
        self.limits = limits
        self.standby_wanted = min(self.standby_wanted, limits.max_instances)
        actions: list[Action] = []
        idle = sorted(self._in_state(READY), key=lambda one: one.since)
        for instance in idle[: max(0, self._live() - limits.max_instances)]:
            actions += self._stop(instance, now)
        return [*actions, *self.tick(now), *self._check_standby()]

    def tick(self, now: float) -> list[Action]:
        """Time has passed: waits that are over, instances idle for too long, the minimum."""
        actions: list[Action] = []
        for instance in self._in_state(RECYCLING):
            if now - instance.since >= self.limits.recycle_s:
                actions += self._stop(instance, now, Cold.REPLACED)
        while self.line and now - self.line[0].since >= self.limits.line_wait_s:
            actions.append(Refuse(self.line.popleft().id, WAITED_TOO_LONG))
        if self.current is not None:
            idle = sorted(self._ready(self.current), key=lambda one: one.since)
            spare = self._live_of(self.current) - self.limits.min_instances
            for instance in idle[: max(0, spare)]:
                if now - instance.since >= self.limits.idle_s:
                    actions += self._stop(instance, now)
            missing = self.limits.min_instances - self._live_of(self.current)
            actions += self._start(self.current, missing, now)
        return actions + self._provide(now)

    # What is known ---------------------------------------------------------------------------

    @property
    def is_at_rest(self) -> bool:
        """Whether `tick` would find nothing to do, whatever the time."""
        holds = self.current is not None and self.limits.min_instances > 0
        return not (self.instances or self.line or self.standby or holds)

    def counts(self) -> PoolCounts:
        tally = Counter(instance.state for instance in self.instances.values())
        return PoolCounts(
            warming=tally[WARMING],
            ready=tally[READY],
            busy=tally[BUSY],
            recycling=tally[RECYCLING],
            terminating=tally[TERMINATING],
        )

    def held_by(self, waiter: int) -> int | None:
        """The instance that the waiter was handed, if it was."""
        return next((one.id for one in self.instances.values() if one.holder == waiter), None)

    def check(self) -> None:
        """Asserts everything that must hold between two events."""
        current_ready = self._ready(self.current) if self.current else []
        assert not (self.line and current_ready), "somebody waits beside a ready instance"
        assert not (self.line and self.current is None), "somebody waits at a closed function"
        assert len(self.line) <= self.limits.line_max, "the line is longer than its limit"
        assert len(self.instances) <= self._ceiling, "more instances than the maximum"
        assert self._ceiling >= self.limits.max_instances, "the ceiling is below the maximum"
        holders = [one.holder for one in self.instances.values() if one.holder is not None]
        waiting = [one.id for one in self.line]
        assert len(set(holders + waiting)) == len(holders) + len(waiting), "a call is in two places"
        for instance in self.instances.values():
            held = instance.holder is not None
            assert held == (instance.state is BUSY), (
                f"{instance} is busy without a holder or held idle"
            )
            idle_or_coming = instance.state in (WARMING, READY, RECYCLING)
            assert not idle_or_coming or self._wanted(instance.digest), f"{instance} serves nobody"
        self._past.check(self.current, self.standby)
        assert self.counts().total == len(self.instances), (
            "an instance is in none of the five states"
        )

    # The decisions ---------------------------------------------------------------------------

    def _provide(self, now: float) -> list[Action]:
        """Starts what the line and the standby still need, within the maximum.

        An instance that is recycling is as good as ready, so the same number of callers waits for
        it, each at most `patience_s`.
        """
        if self.current is None and self.standby is None:
            return []
        actions: list[Action] = []
        if self.standby is not None:  # first, or a line that never ends would keep it out
            missing = self.standby_wanted - self._live_of(self.standby)
            actions += self._start(self.standby, missing, now)
        if self.line and self.current is not None:
            recycling = self._count(RECYCLING, self.current)
            patience = self.limits.patience_s
            impatient = sum(now >= one.since + patience for one in self.line)
            warming = self._count(WARMING, self.current)
            need = max(len(self.line) - recycling, impatient) - warming
            actions += self._start(self.current, need, now)
            if recycling and impatient < len(self.line):
                actions.append(Wake(self.line[impatient].since + patience))
        return actions

    def _start(self, digest: str, count: int, now: float) -> list[Action]:
        """Starts up to `count`; where there is no room, an idle instance of the content that is
        being replaced gives way to the one that replaces it, never the other way round."""
        actions: list[Action] = []
        if count <= 0:
            return actions
        standing = self._live_of(digest) - self._count(WARMING, digest)
        why = self._past.why(digest, others_stand=standing > 0)
        room = self.limits.max_instances - len(self.instances)
        for _ in range(min(count, max(0, room))):
            number = self._next_instance
            self._next_instance += 1
            self.instances[number] = Instance(number, digest, now, why)
            actions.append(Start(number, digest))
        if digest == self.standby:
            others = [one for one in self._in_state(READY) if one.digest != digest]
            short = max(0, self._standby_short())
            for instance in sorted(others, key=lambda one: one.since)[:short]:
                actions += self._stop(instance, now)
        return actions

    def _settle(self, instance: Instance, now: float, *, cold: bool) -> list[Action]:
        """A ready instance goes to the first in line, stands by, or leaves if nobody wants it."""
        if not self._wanted(instance.digest) or (not self.line and self._crowded(instance)):
            return self._stop(instance, now)
        return [*self._settle_ready(instance, now, cold=cold), *self._check_standby()]

    def _settle_ready(self, instance: Instance, now: float, *, cold: bool) -> list[Action]:
        if self.line and instance.digest == self.current:
            return [self._hand(instance, self.line.popleft().id, now, cold=cold)]
        return []

    def _check_standby(self) -> list[Action]:
        """It stands with as many as were wanted, or with one if only busy ones are in its way.

        Waiting for those would keep the line from the instances that stand by already.
        """
        if self.standby is None:
            return []
        coming = self._count(WARMING, self.standby)
        standing = self._live_of(self.standby) - coming
        nothing_to_come = not coming and not self._in_state(TERMINATING)
        full = len(self.instances) >= self.limits.max_instances
        others_ready = any(one.digest != self.standby for one in self._in_state(READY))
        only_busy = nothing_to_come and full and not others_ready
        enough = standing >= self.standby_wanted or (standing > 0 and only_busy)
        return [Stands(self.standby)] if enough else []

    def _standby_short(self) -> int:
        """How many the standby lacks beyond those that there is, or soon will be, room for."""
        if self.standby is None:
            return 0
        room = max(0, self.limits.max_instances - len(self.instances))
        leaving = len(self._in_state(TERMINATING))
        return self.standby_wanted - self._live_of(self.standby) - room - leaving

    def _hand(self, instance: Instance, waiter: int, now: float, *, cold: bool) -> Hand:
        instance.hear(InstanceEvent.LEASED, now)
        instance.holder = waiter
        return Hand(instance.id, waiter, cold)

    def _stop(self, instance: Instance, now: float, how: Cold = Cold.EVICTED) -> list[Action]:
        if instance.state is not WARMING and self._wanted(instance.digest):
            self._past.left(instance.digest, how)
        instance.hear(InstanceEvent.STOPPED, now)
        return [Destroy(instance.id)]

    def _wanted(self, digest: str) -> bool:
        return digest in (self.current, self.standby)

    def _crowded(self, instance: Instance) -> bool:
        """Idle: more live instances than allowed, or a standby that waits for this one's room."""
        if self._live() > self.limits.max_instances:
            return True
        return instance.digest != self.standby and self._standby_short() > 0

    def _gives_way(self, instance: Instance) -> bool:
        """As `_crowded`, though others may wait for it: so one makes room for the standby's first,
        and the rest go on serving the line until that one stands."""
        begun = self.standby is None or self._live_of(self.standby) or self._in_state(TERMINATING)
        return self._crowded(instance) and (not begun or self._live() > self.limits.max_instances)

    def _unwanted_idle(self) -> list[Instance]:
        return [
            one
            for one in self.instances.values()
            if one.state in (WARMING, READY, RECYCLING) and not self._wanted(one.digest)
        ]

    def _ready(self, digest: str) -> list[Instance]:
        return [one for one in self._in_state(READY) if one.digest == digest]

    def _in_state(self, state: InstanceState) -> list[Instance]:
        return [one for one in self.instances.values() if one.state is state]

    def _count(self, state: InstanceState, digest: str) -> int:
        return sum(one.digest == digest for one in self._in_state(state))

    def _live(self) -> int:
        """Instances that are not on their way out."""
        return sum(one.state is not TERMINATING for one in self.instances.values())

    def _live_of(self, digest: str) -> int:
        return sum(
            one.digest == digest and one.state is not TERMINATING for one in self.instances.values()
        )
