"""Pool: the joint machine of one function's instances and its waiting line.

Rule 1: who holds which instance is known here and nowhere else.
Rule 2: nothing here waits, reads a clock or touches the kernel: time comes in, actions go out.
Rule 3: whoever waits is handed an instance; nobody is woken to go and look for one.

`current` is the digest of the version content that serves calls; None while the function is not
active. `standby` is a content that is being made ready beside it, for a deploy or an update:
its instances stand idle until `switch` makes it current. `previous` was current before, and its
instances are kept, parked, for a while, so that going back to it is going back to them.
"""

from quiltfn.model.actions import (
    FULL,
    NO_ROOM,
    OVER_QUOTA,
    WAITED_TOO_LONG,
    Action,
    CannotStand,
    Fail,
    Refuse,
)
from quiltfn.model.cold_start import ColdStartReason
from quiltfn.model.counts import PoolCounts, summed
from quiltfn.model.instance import InstanceEvent
from quiltfn.model.keepalive import AT_LEAST_S
from quiltfn.model.limits import PoolLimits
from quiltfn.model.memory import Footprint, Spare
from quiltfn.model.rules import NEVER, PARKED, READY, RECYCLING, TERMINATING, WARMING, PoolRules

__all__ = ["Pool", "PoolCounts", "PoolLimits", "summed"]


class Pool(PoolRules):
    """One function's instances and waiting line. Every event returns the actions it calls for."""

    # What a call does ------------------------------------------------------------------------

    def acquire(self, waiter: int, now: float) -> list[Action]:
        """A call wants an instance: it is handed one, put in line, or refused."""
        if self.current is None:
            return [Refuse(waiter, self.closed_because)]
        self._calls += 1
        if self.keeping is not None:
            self.keeping.called(now)
        if not self.line:
            idle = self._all.those(READY, digest=self.current)
            # The newest has the warmest caches, and only this choice lets the others grow old
            # enough for the idle rule.
            if idle and self._may_hand(idle[-1], now):
                return [self._hand(idle[-1], waiter, now, cold=False)]
        if len(self.line) >= self.limits.line_max:
            waited = now - self.line.first.since if self.line else 0.0
            retry = self.line.retry_s(self.limits.max_instances, waited)
            return [Refuse(waiter, FULL, retry)]
        self.line.join(waiter, now)
        return self._provide(now)

    def cancel(self, waiter: int, now: float) -> list[Action]:
        """The call went away: out of the line, or its untouched instance goes to the next."""
        if self.line.leave(waiter):
            return self._provide(now) if self in self.memory.short else []
        number = self.held_by(waiter)
        if number is None:
            return []
        instance = self.instances[number]
        instance.holder = None
        self._all.hear(instance, InstanceEvent.UNUSED, now)
        return self._settle(instance, now)

    def release(self, number: int, now: float, *, healthy: bool) -> list[Action]:
        """The call is over. The healthy are cleaned for the next, the sick do not return."""
        instance = self.instances[number]
        instance.holder = None
        self.line.ran(now - instance.since)
        if self.keeping is not None:
            self.keeping.ended(now)
            self._is_expected, self._look_again = True, now + AT_LEAST_S
        if not healthy:
            return self._stop(instance, now, ColdStartReason.REPLACED)
        wanted = self._wanted(instance.digest)
        if self._gives_way(instance) if wanted else not self._may_keep(instance):
            return self._stop(instance, now)
        self._all.hear(instance, InstanceEvent.RELEASED, now)
        return []

    # What an instance does -------------------------------------------------------------------

    def started(self, number: int, now: float) -> list[Action]:
        """A sandbox was made and specialised."""
        instance = self.instances[number]
        if instance.state is TERMINATING:
            return []  # it was stopped while it was being made; its Destroy is on the way
        instance.start_ms, instance.stood = (now - instance.since) * 1000, now
        self._all.hear(instance, InstanceEvent.STARTED, now)
        self._past.stood()
        return self._settle(instance, now)

    def failed(self, number: int, reason: str, now: float) -> list[Action]:
        """A sandbox could not be made, and nothing is left of the attempt.

        The first in line is told: it was started for somebody. Others get an attempt of their own.
        """
        instance = self.instances[number]
        was_stopped = instance.state is TERMINATING
        if not was_stopped:
            self._all.hear(instance, InstanceEvent.STOPPED, now)
        actions: list[Action] = []
        if not was_stopped and instance.digest == self.current and self.line:
            actions.append(Fail(self.line.next().id, number, reason))
        if not was_stopped and instance.digest == self.standby:
            actions += [CannotStand(instance.digest, reason), *self.abandon(now)]
        return actions + self.gone(number, now)

    def cleaned(self, number: int, now: float) -> list[Action]:
        """Nothing of the last call is left in the instance."""
        instance = self.instances[number]
        if instance.state is not RECYCLING:
            return []
        self._all.hear(instance, InstanceEvent.CLEANED, now)
        return self._settle(instance, now)

    def lost(self, number: int, now: float) -> list[Action]:
        """The sandbox ended by itself. A busy one is reported by the call that holds it."""
        instance = self.instances.get(number)
        if instance is None or instance.state not in (READY, PARKED, RECYCLING):
            return []
        return [*self._stop(instance, now, ColdStartReason.REPLACED), *self._provide(now)]

    def gone(self, number: int, now: float) -> list[Action]:
        """The machine has everything back; only now does the instance stop to count."""
        self._all.remove(number, now)
        self._ceiling = max(self.limits.max_instances, min(self._ceiling, len(self.instances)))
        return self._provide(now)

    # What an operator or a lifecycle verb does -----------------------------------------------

    def prepare(
        self, digest: str, count: int, now: float, footprint: Footprint | None = None
    ) -> list[Action]:
        """Make `count` instances of `digest` ready beside what serves: Stands or CannotStand."""
        actions: list[Action] = []
        if self.standby not in (None, digest):
            actions += self.abandon(now)
        self._know(digest, footprint)
        self.standby, self.standby_wanted = digest, min(count, self.limits.max_instances)
        actions += self._provide(now)
        return [*actions, *self._check_standby()]

    def switch(self, digest: str, now: float, footprint: Footprint | None = None) -> list[Action]:
        """From now on every new and waiting call is served by `digest`; others drain, and for a
        while what is idle of the one before is kept.

        Whatever else stood by is given up.
        """
        self._know(digest, footprint)
        if digest != self.current:
            self.previous = self.current if self.limits.grace_s > 0 else None
            self._kept_until = now + self.limits.grace_s
        self.current, self.standby = digest, None
        self._past.keep(digest)
        actions: list[Action] = []
        for instance in self._all.those(PARKED, digest=digest):
            actions += self._resume(instance, now)
        return [*actions, *self._set_aside(now), *self._provide(now)]

    def abandon(self, now: float) -> list[Action]:
        """Give the standby content up."""
        self.standby = None
        self._past.keep(self.current)
        return self._set_aside(now)

    def close(self, why: str, now: float) -> list[Action]:
        """The function stops serving: who waits is refused, who runs may finish."""
        self.current = self.standby = self.previous = None
        self.closed_because = why
        self._past.forget()
        if self.memory.short.pop(self, None) is not None:
            self.memory.pass_turn()
        return [Refuse(one.id, why) for one in self.line.empty()] + self._set_aside(now)

    def set_scaling(self, limits: PoolLimits, now: float) -> list[Action]:
        """New scaling targets: idle instances above the new maximum go, missing ones come."""
        self._ceiling = max(limits.max_instances, min(self._ceiling, len(self.instances)))
        self.limits = limits
        self.standby_wanted = min(self.standby_wanted, limits.max_instances)
        actions: list[Action] = []
        idle = self._all.those(PARKED) + self._all.those(READY)
        for instance in idle[: max(0, self._all.live() - limits.max_instances)]:
            actions += self._stop(instance, now)
        return [*actions, *self.tick(now), *self._check_standby()]

    def tick(self, now: float) -> list[Action]:
        """Time has passed: waits that are over, instances idle for too long, the minimum."""
        actions: list[Action] = []
        for instance in self._all.those(RECYCLING):
            if now - instance.since >= self.limits.recycle_s:
                actions += self._stop(instance, now, ColdStartReason.REPLACED)
        why = NO_ROOM if self in self.memory.short else WAITED_TOO_LONG
        if self._denied and not self.quota.has_room:
            why = OVER_QUOTA
        for waiting in self.line.overdue(now, self.limits.line_wait_s):
            retry = self.line.retry_s(self.limits.max_instances, now - waiting.since)
            actions.append(Refuse(waiting.id, why, retry))
        if self.previous is not None and now >= self._kept_until:
            self.previous = None
            actions += self._set_aside(now)
        if self.current is not None:
            ahead = self._expects_a_call(now)
            actions += self._let_the_old_go(self.current, now)
            missing = self.limits.min_instances - self._all.serving(self.current)
            actions += self._start(self.current, missing, now)
            if ahead and not self._all.serving(self.current) and self._has_memory_to_spare():
                actions += self._start(self.current, 1, now)
                for state in (WARMING, READY):
                    for instance in self._all.those(state, self.current):
                        instance.ahead = True
        return actions + self._provide(now)

    def crowd_out(self, now: float) -> list[Action]:
        """The tenant's quota is used up by what may not go: the standby cannot stand."""
        if self.standby is None:
            return []
        return [CannotStand(self.standby, self.quota.refusal), *self.abandon(now)]

    # What the machine's memory does ----------------------------------------------------------

    def provide(self, now: float) -> list[Action]:
        """There may be memory now for those who wait."""
        return self._provide(now)

    def evict(self, number: int, now: float) -> list[Action]:
        """An idle instance leaves, since others need its memory more."""
        instance = self.instances.get(number)
        if instance is None or not instance.is_idle:
            return []
        return self._stop(instance, now)

    def spares(self) -> list[Spare]:
        """The idle instances that nobody waits for whose turn it is, nor min_instances, nor a
        deploy: what is being made ready would be started again at once."""
        awaited = 0
        if self.line and self.memory.is_turn_of(self, self.line.first.since):
            awaited = len(self.line)
        parked = self._all.those(PARKED, digest=self.current)
        ready = self._all.those(READY, digest=self.current)
        idle = [one for one in self._all.those(PARKED) if one.digest != self.current]
        idle += parked[max(0, awaited - len(ready)) :]
        if self.current is not None:
            made_ready = self.standby_wanted if self.standby == self.current else 0
            least = max(self.limits.min_instances, made_ready)
            above = self._all.serving(self.current) - least
            idle += ready[: max(0, min(above, len(ready) - awaited))]
        return [Spare(self, one.id, one.idle_mib, one.worth, one.state is PARKED) for one in idle]

    def measured(self, number: int, mib: float) -> None:
        """What an instance uses while it is idle."""
        self._all.measured(number, mib)

    # What is known ---------------------------------------------------------------------------

    @property
    def is_at_rest(self) -> bool:
        """Whether `tick` would find nothing to do, whatever the time."""
        looks = self._is_expected or self._look_again < NEVER
        holds = self.current is not None and (self.limits.min_instances > 0 or looks)
        return not (self.instances or self.line or self.standby or holds)

    def held_by(self, waiter: int) -> int | None:
        """The instance that the waiter was handed, if it was."""
        return next((one.id for one in self.instances.values() if one.holder == waiter), None)
