"""Pool: the joint machine of one function's instances and its waiting line.

Rule 1: who holds which instance is known here and nowhere else.
Rule 2: nothing here waits, reads a clock or touches the kernel: time comes in, actions go out.
Rule 3: whoever waits is handed an instance; nobody is woken to go and look for one.

`current` is the digest of the version content that serves calls; None while the function is not
active. `prepared` is a content that is being made ready beside it, for a deploy or an update:
its instances stand idle until `promote` makes it current. `previous` was current before, and its
instances are kept, parked, for a while, so that going back to it is going back to them.
"""

from quiltfn.model.actions import (
    FULL,
    NO_ROOM,
    OVER_QUOTA,
    WAITED_TOO_LONG,
    Action,
    Fail,
    PrepareFailed,
    Refuse,
)
from quiltfn.model.cold_start import ColdStartReason
from quiltfn.model.counts import PoolCounts, sum_counts
from quiltfn.model.instance import InstanceEvent
from quiltfn.model.keepalive import KEEP_AT_LEAST_S
from quiltfn.model.limits import PoolLimits
from quiltfn.model.memory import EvictionCandidate, Footprint
from quiltfn.model.rules import NEVER, PARKED, READY, RECYCLING, TERMINATING, WARMING, PoolRules

__all__ = ["Pool", "PoolCounts", "PoolLimits", "sum_counts"]


class Pool(PoolRules):
    """One function's instances and waiting line. Every event returns the actions it calls for."""

    # What a call does ------------------------------------------------------------------------

    def acquire(self, waiter: int, now: float) -> list[Action]:
        """A call wants an instance: it is handed one, put in line, or refused."""
        if self.current is None:
            return [Refuse(waiter, self.closed_because)]
        self._calls += 1
        if self.keep_alive is not None:
            self.keep_alive.called(now)
        if not self.queue:
            idle = self._table.in_state(READY, digest=self.current)
            # The newest has the warmest caches, and only this choice lets the others grow old
            # enough for the idle rule.
            if idle and self._may_assign(idle[-1], now):
                return [self._assign(idle[-1], waiter, now, cold=False)]
        if len(self.queue) >= self.limits.queue_max:
            waited = now - self.queue.first.since if self.queue else 0.0
            retry = self.queue.retry_after_s(self.limits.max_instances, waited)
            return [Refuse(waiter, FULL, retry)]
        self.queue.append(waiter, now)
        return self._provide(now)

    def cancel(self, waiter: int, now: float) -> list[Action]:
        """The call went away: out of the line, or its untouched instance goes to the next."""
        if self.queue.discard(waiter):
            return self._provide(now) if self in self.memory.waiting else []
        number = self.held_by(waiter)
        if number is None:
            return []
        instance = self.instances[number]
        instance.holder = None
        self._table.apply(instance, InstanceEvent.UNUSED, now)
        return self._settle(instance, now)

    def release(self, number: int, now: float, *, healthy: bool) -> list[Action]:
        """The call is over. The healthy are cleaned for the next, the sick do not return."""
        instance = self.instances[number]
        instance.holder = None
        self.queue.record_duration(now - instance.since)
        if self.keep_alive is not None:
            self.keep_alive.ended(now)
            self._is_expected, self._look_again_at = True, now + KEEP_AT_LEAST_S
        if not healthy:
            return self._stop(instance, now, ColdStartReason.REPLACED)
        wanted = self._wanted(instance.digest)
        if self._must_yield(instance) if wanted else not self._may_keep_previous(instance):
            return self._stop(instance, now)
        self._table.apply(instance, InstanceEvent.RELEASED, now)
        return []

    # What an instance does -------------------------------------------------------------------

    def started(self, number: int, now: float) -> list[Action]:
        """A sandbox was made and specialised."""
        instance = self.instances[number]
        if instance.state is TERMINATING:
            return []  # it was stopped while it was being made; its Destroy is on the way
        instance.start_ms, instance.ready_at = (now - instance.since) * 1000, now
        self._table.apply(instance, InstanceEvent.STARTED, now)
        self._history.ready()
        return self._settle(instance, now)

    def failed(self, number: int, reason: str, now: float) -> list[Action]:
        """A sandbox could not be made, and nothing is left of the attempt.

        The first in line is told: it was started for somebody. Others get an attempt of their own.
        """
        instance = self.instances[number]
        was_stopped = instance.state is TERMINATING
        if not was_stopped:
            self._table.apply(instance, InstanceEvent.STOPPED, now)
        actions: list[Action] = []
        if not was_stopped and instance.digest == self.current and self.queue:
            actions.append(Fail(self.queue.popleft().id, number, reason))
        if not was_stopped and instance.digest == self.prepared:
            actions += [PrepareFailed(instance.digest, reason), *self.abandon(now)]
        return actions + self.gone(number, now)

    def cleaned(self, number: int, now: float) -> list[Action]:
        """Nothing of the last call is left in the instance."""
        instance = self.instances[number]
        if instance.state is not RECYCLING:
            return []
        self._table.apply(instance, InstanceEvent.CLEANED, now)
        return self._settle(instance, now)

    def lost(self, number: int, now: float) -> list[Action]:
        """The sandbox ended by itself. A busy one is reported by the call that holds it."""
        instance = self.instances.get(number)
        if instance is None or instance.state not in (READY, PARKED, RECYCLING):
            return []
        return [*self._stop(instance, now, ColdStartReason.REPLACED), *self._provide(now)]

    def gone(self, number: int, now: float) -> list[Action]:
        """The machine has everything back; only now does the instance stop to count."""
        self._table.remove(number, now)
        self._instance_cap = max(
            self.limits.max_instances, min(self._instance_cap, len(self.instances))
        )
        return self._provide(now)

    # What an operator or a lifecycle verb does -----------------------------------------------

    def prepare(
        self, digest: str, count: int, now: float, footprint: Footprint | None = None
    ) -> list[Action]:
        """Make `count` instances of `digest` ready beside what serves: Stands or CannotStand."""
        actions: list[Action] = []
        if self.prepared not in (None, digest):
            actions += self.abandon(now)
        self._set_footprint(digest, footprint)
        self.prepared, self.prepared_count = digest, min(count, self.limits.max_instances)
        actions += self._provide(now)
        return [*actions, *self._check_prepared()]

    def promote(self, digest: str, now: float, footprint: Footprint | None = None) -> list[Action]:
        """From now on every new and waiting call is served by `digest`; others drain, and for a
        while what is idle of the one before is kept.

        Whatever else stood by is given up.
        """
        self._set_footprint(digest, footprint)
        if digest != self.current:
            self.previous = self.current if self.limits.grace_s > 0 else None
            self._previous_until = now + self.limits.grace_s
        self.current, self.prepared = digest, None
        self._history.retain(digest)
        actions: list[Action] = []
        for instance in self._table.in_state(PARKED, digest=digest):
            actions += self._unpark(instance, now)
        return [*actions, *self._release_unwanted(now), *self._provide(now)]

    def abandon(self, now: float) -> list[Action]:
        """Give the standby content up."""
        self.prepared = None
        self._history.retain(self.current)
        return self._release_unwanted(now)

    def close(self, why: str, now: float) -> list[Action]:
        """The function stops serving: who waits is refused, who runs may finish."""
        self.current = self.prepared = self.previous = None
        self.closed_because = why
        self._history.clear()
        if self.memory.waiting.pop(self, None) is not None:
            self.memory.pass_turn()
        return [Refuse(one.id, why) for one in self.queue.clear()] + self._release_unwanted(now)

    def set_scaling(self, limits: PoolLimits, now: float) -> list[Action]:
        """New scaling targets: idle instances above the new maximum go, missing ones come."""
        self._instance_cap = max(limits.max_instances, min(self._instance_cap, len(self.instances)))
        self.limits = limits
        self.prepared_count = min(self.prepared_count, limits.max_instances)
        actions: list[Action] = []
        idle = self._table.in_state(PARKED) + self._table.in_state(READY)
        for instance in idle[: max(0, self._table.count_live() - limits.max_instances)]:
            actions += self._stop(instance, now)
        return [*actions, *self.tick(now), *self._check_prepared()]

    def tick(self, now: float) -> list[Action]:
        """Time has passed: waits that are over, instances idle for too long, the minimum."""
        actions: list[Action] = []
        for instance in self._table.in_state(RECYCLING):
            if now - instance.since >= self.limits.recycle_s:
                actions += self._stop(instance, now, ColdStartReason.REPLACED)
        why = NO_ROOM if self in self.memory.waiting else WAITED_TOO_LONG
        if self._quota_denied and not self.quota.has_capacity:
            why = OVER_QUOTA
        for waiting in self.queue.pop_expired(now, self.limits.queue_wait_s):
            retry = self.queue.retry_after_s(self.limits.max_instances, now - waiting.since)
            actions.append(Refuse(waiting.id, why, retry))
        if self.previous is not None and now >= self._previous_until:
            self.previous = None
            actions += self._release_unwanted(now)
        if self.current is not None:
            expected = self._expects_call(now)
            actions += self._end_expired(self.current, now)
            missing = self.limits.min_instances - self._table.count_serving(self.current)
            actions += self._start(self.current, missing, now)
            if (
                expected
                and not self._table.count_serving(self.current)
                and self._can_afford_speculation()
            ):
                actions += self._start(self.current, 1, now)
                for state in (WARMING, READY):
                    for instance in self._table.in_state(state, self.current):
                        instance.is_speculative = True
        return actions + self._provide(now)

    def quota_exhausted(self, now: float) -> list[Action]:
        """The tenant's quota is used up by what may not go: the standby cannot stand."""
        if self.prepared is None:
            return []
        return [PrepareFailed(self.prepared, self.quota.refusal), *self.abandon(now)]

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

    def eviction_candidates(self) -> list[EvictionCandidate]:
        """The idle instances that nobody waits for whose turn it is, nor min_instances, nor a
        deploy: what is being made ready would be started again at once."""
        awaited = 0
        if self.queue and self.memory.is_turn_of(self, self.queue.first.since):
            awaited = len(self.queue)
        parked = self._table.in_state(PARKED, digest=self.current)
        ready = self._table.in_state(READY, digest=self.current)
        idle = [one for one in self._table.in_state(PARKED) if one.digest != self.current]
        idle += parked[max(0, awaited - len(ready)) :]
        if self.current is not None:
            made_ready = self.prepared_count if self.prepared == self.current else 0
            least = max(self.limits.min_instances, made_ready)
            above = self._table.count_serving(self.current) - least
            idle += ready[: max(0, min(above, len(ready) - awaited))]
        return [
            EvictionCandidate(self, one.id, one.idle_mib, one.worth, one.state is PARKED)
            for one in idle
        ]

    def measured(self, number: int, mib: float) -> None:
        """What an instance uses while it is idle."""
        self._table.measured(number, mib)

    # What is known ---------------------------------------------------------------------------

    @property
    def is_at_rest(self) -> bool:
        """Whether `tick` would find nothing to do, whatever the time."""
        looks = self._is_expected or self._look_again_at < NEVER
        holds = self.current is not None and (self.limits.min_instances > 0 or looks)
        return not (self.instances or self.queue or self.prepared or holds)

    def held_by(self, waiter: int) -> int | None:
        """The instance that the waiter was handed, if it was."""
        return next((one.id for one in self.instances.values() if one.holder == waiter), None)
