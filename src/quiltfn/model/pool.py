"""Pool: the state machine of a function's instances and of its invocations that wait for instances.

Rule 1: only this module decides and knows which invocation has which instance.
Rule 2: nothing here waits, reads a clock or uses the kernel: time is an argument, and actions are
returned.
Rule 3: a waiting invocation is assigned an instance; it never looks for one by itself.

The pool identifies a version spec by its digest. `current` serves invocations; it is None while the
function is not active. `prepared` is the version of a deploy or an update; its instances start
beside those of `current` and stay idle until `promote` makes it current. `previous` was the current
version before; its instances stay parked for a while, for a rollback.

Versions other than `current` that are invoked have their own pools. These share `places`
(`model/places.py`), so one maximum limits all instances of the function.
"""

from collections.abc import Sequence
from itertools import islice

from quiltfn.model.actions import (
    Action,
    Assign,
    Closed,
    Destroy,
    Fail,
    Full,
    Prepared,
    PrepareFailed,
    Refuse,
    RequestMemory,
    RequestPlaces,
    RequestQuota,
    Start,
    TickAt,
    Unpark,
)
from quiltfn.model.cold_start import ColdStartReason, StartHistory
from quiltfn.model.counts import Headroom, PoolCounts, sum_counts
from quiltfn.model.instance import Instance, InstanceEvent, InstanceState
from quiltfn.model.instance_table import FREE, InstanceTable
from quiltfn.model.keepalive import KEEP_AT_LEAST_S, KeepAlive, is_wanted, next_change
from quiltfn.model.limits import PoolLimits
from quiltfn.model.memory import ROUNDING_MIB, EvictionCandidate, Footprint, Memory
from quiltfn.model.places import FIRST, Places
from quiltfn.model.quota import Quota
from quiltfn.model.wait_queue import Waiter, WaitQueue

__all__ = ["Pool", "PoolCounts", "PoolLimits", "sum_counts"]

WARMING, PARKED, READY = InstanceState.WARMING, InstanceState.PARKED, InstanceState.READY
BUSY, RECYCLING = InstanceState.BUSY, InstanceState.RECYCLING
TERMINATING = InstanceState.TERMINATING
NEVER = float("inf")
# After a start of an instance to be parked has failed, an instance died before its first
# invocation, or an idle one was evicted, the pool starts none to be parked for this time.
PARK_AGAIN_S = 600.0


class Pool:
    """The instances and the wait queue of one function. Every event method returns actions to
    perform.
    """

    def __init__(
        self,
        limits: PoolLimits,
        memory: Memory | None = None,
        keep_alive: KeepAlive | None = None,
        quota: Quota | None = None,
        places: Places | None = None,
    ) -> None:
        """`places`: those of the function; None: this is the function's only pool."""
        self.limits = limits
        # Predicts the next invocation from earlier ones; None: `idle_s` applies to every instance.
        self.keep_alive = keep_alive
        self._is_expected, self._look_again_at = False, NEVER
        self.current: str | None = None
        self.prepared: str | None = None
        self.prepared_count = 0
        self.previous: str | None = None
        self.closed_because = Closed.PENDING
        self.queue = WaitQueue()
        self.memory = memory or Memory()
        self._previous_until = 0.0
        self.quota = quota or Quota()
        # How many instances the quota denied at the last attempt to start instances.
        self._quota_denied = 0
        self.places = places or Places()
        self._table = InstanceTable(self.memory, self.quota, self.places)
        self.instances = self._table.instances
        self._history = StartHistory()
        self._calls = 0
        self._lacks_place = False  # whether the last attempt to start an instance found no place
        self._park_after = 0.0
        # The maximum in force. A lower max_instances does not end running invocations, so this
        # falls to the new maximum as they end.
        self._instance_cap = limits.max_instances
        self._is_shared = False  # whether invocations share instances of the current version

    def counts(self) -> PoolCounts:
        return self._table.counts()

    @property
    def has_idle(self) -> bool:
        """Whether any instance is idle."""
        return bool(self._table.count(READY) or self._table.count(PARKED))

    @property
    def quota_shortfall(self) -> int:
        """How many instances the pool wants but cannot start because of the tenant's quota."""
        if not self._quota_denied:
            return 0
        if self.queue or self.prepared is not None:
            return self._quota_denied
        missing = self.limits.min_instances - self._table.count_serving(self.current or "")
        return min(self._quota_denied, max(0, missing)) if self.current is not None else 0

    def check(self) -> None:
        """Asserts the invariants that hold between two events."""
        if self.queue:
            assert self.current is not None, "a call waits at a closed function"
            idle = self._table.count(READY, self.current) + self._table.count(PARKED, self.current)
            assert not idle or self in self.memory.waiting, "a call waits beside a ready instance"
        assert self.queue or self not in self.memory.waiting, (
            "the pool waits for memory, and no call waits"
        )
        assert len(self.queue) <= self.limits.queue_max, "the queue is longer than its limit"
        assert len(self.instances) <= self._instance_cap, "more instances than the maximum"
        assert self._instance_cap >= self.limits.max_instances, "the cap is below the maximum"
        if self.queue and self.current is not None:
            assert self._with_room() is None, "a call waits beside an instance with room for it"
        holders = [holder for one in self.instances.values() for holder in one.holders]
        everywhere = holders + [one.id for one in self.queue.waiting]
        assert len(set(everywhere)) == len(everywhere), "a call is in two places"
        for instance in self.instances.values():
            count = len(instance.holders)
            assert count <= self._concurrency(instance.digest), f"{instance} has too many calls"
            assert (count > 0) == (instance.state is BUSY), (
                f"{instance} is busy without a call, or idle with one"
            )
            assert not self._is_unwanted(instance), f"{instance} serves no version"
        self._table.check()
        self._history.check(self.current, self.prepared)
        total = self.counts().total
        assert total == len(self.instances), "an instance is in none of the five states"

    # Events of invocations -------------------------------------------------------------------

    def acquire(self, waiter: int, now: float) -> list[Action]:
        """A new invocation: assigns an instance, queues the invocation, or refuses it."""
        if self.current is None:
            return [Refuse(waiter, self.closed_because)]
        self._count_call(now)
        if not self.queue:
            shared = self._with_room() if self._is_shared else None
            if shared is not None:
                return [self._share(shared, waiter, now, cold=False)]
            ready = self._next_ready(now)
            if ready is not None:
                return [self._assign(ready, waiter, now, cold=False)]
        if len(self.queue) >= self.limits.queue_max:
            waited = now - self.queue.first.since if self.queue else 0.0
            return [Refuse(waiter, Full.QUEUE, self._retry_after_s(waited))]
        self.queue.append(waiter, now)
        return self._provide(now)

    def acquire_at_once(self, waiter: int, now: float) -> Assign | None:
        """As `acquire`, for a new invocation that would get a ready instance for itself. Otherwise
        None, without effect.
        """
        if self.current is None or self._is_shared or self.queue:
            return None
        ready = self._next_ready(now)
        if ready is None:
            return None
        self._count_call(now)
        return self._assign(ready, waiter, now, cold=False)

    def cancel(self, waiter: int, now: float) -> list[Action]:
        """The caller gave up: removes the invocation, or releases its unused instance."""
        if self.queue.discard(waiter):
            waits = self in self.memory.waiting or self in self.places.waiting
            return self._provide(now) if waits else []
        number = self.held_by(waiter)
        if number is None:
            return []
        instance = self.instances[number]
        del instance.holders[waiter]
        if instance.holders:
            return self._serve_room(now)
        if instance.is_spoilt:
            stopped = self._stop(instance, now, ColdStartReason.REPLACED)
            return [*stopped, *self._serve_room(now)]
        self._table.apply(instance, InstanceEvent.UNUSED, now)
        return self._became_ready(instance, now)

    def release(
        self, number: int, now: float, *, healthy: bool, waiter: int | None = None
    ) -> list[Action]:
        """The invocation is over. A healthy instance is cleaned for the next invocation, and others
        are ended; a shared instance only after its last invocation. `waiter`: the ended invocation,
        needed if several share the instance.
        """
        instance = self.instances[number]
        waiter = next(iter(instance.holders)) if waiter is None else waiter
        self.queue.record_duration(now - instance.holders.pop(waiter))
        instance.is_spoilt |= not healthy
        if self.keep_alive is not None:
            self.keep_alive.ended(now)
            self._is_expected, self._look_again_at = True, now + KEEP_AT_LEAST_S
        if instance.holders:
            return self._serve_room(now)
        if instance.is_spoilt:
            stopped = self._stop(instance, now, ColdStartReason.REPLACED)
            return [*stopped, *self._serve_room(now)]
        wanted = self._wanted(instance.digest)
        if self._must_yield(instance) if wanted else not self._may_keep_previous(instance):
            return [*self._stop(instance, now), *self._serve_room(now)]
        self._table.apply(instance, InstanceEvent.RELEASED, now)
        return []

    # Events of instances ---------------------------------------------------------------------

    def started(self, number: int, now: float) -> list[Action]:
        """A sandbox was created and specialised."""
        instance = self.instances[number]
        if instance.state is TERMINATING:
            return []  # it was stopped during its start: `Destroy` was already returned
        instance.start_ms, instance.ready_at = (now - instance.since) * 1000, now
        self._table.apply(instance, InstanceEvent.STARTED, now)
        self._history.ready()
        actions = self._became_ready(instance, now)
        # If the queue waits for memory behind other pools, it gets this instance when its turn
        # comes.
        is_wanted = instance.state is not READY or self.queue
        if instance.is_to_park and not is_wanted and self._may_stay_parked(instance):
            self._table.apply(instance, InstanceEvent.PARKED, now)
        return actions

    def failed(self, number: int, reason: str, now: float, written: str = "") -> list[Action]:
        """A sandbox could not be created, and nothing is left of the attempt. `written`: its
        program's last output.

        Fails the invocation that has waited longest, and starts another instance for the others.
        """
        instance = self.instances[number]
        was_stopped = instance.state is TERMINATING
        if not was_stopped:
            self._table.apply(instance, InstanceEvent.STOPPED, now)
        if instance.is_to_park:
            self._park_after = now + PARK_AGAIN_S
        actions: list[Action] = []
        if not was_stopped and instance.digest == self.current and self.queue:
            actions.append(Fail(self.queue.popleft().id, number, reason))
        if not was_stopped and instance.digest == self.prepared:
            actions += [PrepareFailed(instance.digest, reason, written), *self.abandon(now)]
        return actions + self.gone(number, now)

    def cleaned(self, number: int, now: float) -> list[Action]:
        """The instance is clean: nothing of its last invocation is left."""
        instance = self.instances[number]
        if instance.state is not RECYCLING:
            return []
        self._table.apply(instance, InstanceEvent.CLEANED, now)
        return self._became_ready(instance, now)

    def lost(self, number: int, now: float) -> list[Action]:
        """The sandbox ended by itself. If it was busy, the ends of its invocations follow."""
        instance = self.instances.get(number)
        if instance is not None and instance.state is BUSY:
            instance.is_spoilt = True
        if instance is None or instance.state not in (READY, PARKED, RECYCLING):
            return []
        # the handler's module ended it, and would probably end the next one, too
        if instance.is_fresh:
            self._park_after = now + PARK_AGAIN_S
        return [*self._stop(instance, now, ColdStartReason.REPLACED), *self._provide(now)]

    def gone(self, number: int, now: float) -> list[Action]:
        """The machine has freed all resources of the instance, which no longer counts."""
        self._table.remove(number, now)
        self._instance_cap = max(
            self.limits.max_instances, min(self._instance_cap, len(self.instances))
        )
        return self._provide(now)

    # Lifecycle and scaling -------------------------------------------------------------------

    def prepare(
        self, digest: str, count: int, now: float, footprint: Footprint | None = None
    ) -> list[Action]:
        """Prepares `count` instances of `digest` in addition to the current version's. Ends with
        the action `Prepared` or `PrepareFailed`.
        """
        actions: list[Action] = []
        if self.prepared not in (None, digest):
            actions += self.abandon(now)
        self._set_footprint(digest, footprint)
        self.prepared, self.prepared_count = digest, min(count, self.limits.max_instances)
        actions += self._provide(now)
        return [*actions, *self._check_prepared()]

    def promote(self, digest: str, now: float, footprint: Footprint | None = None) -> list[Action]:
        """Makes `digest` the current version for all new and waiting invocations. Running ones end
        on their version, whose idle instances stay parked for `grace_s`. Abandons any other
        prepared version.
        """
        self._set_footprint(digest, footprint)
        if digest != self.current:
            self._park_after = 0.0
            self.previous = self.current if self.limits.grace_s > 0 else None
            self._previous_until = now + self.limits.grace_s
        self.current, self.prepared = digest, None
        self._is_shared = self._concurrency(digest) > 1
        self._history.retain(digest)
        actions: list[Action] = []
        for instance in self._table.in_state(PARKED, digest=digest):
            actions += self._unpark(instance, now)
        return [*actions, *self._release_unwanted(now), *self._provide(now)]

    def abandon(self, now: float) -> list[Action]:
        """Abandons the prepared version."""
        self.prepared = None
        if self in self.places.waiting:  # its own queue may still wait for a place
            self.places.pass_turn()
        self._history.retain(self.current)
        return [*self._release_unwanted(now), *self._serve_room(now)]

    def close(self, why: Closed, now: float) -> list[Action]:
        """Stops serving: refuses waiting invocations, lets running ones finish."""
        self.current = self.prepared = self.previous = None
        self.closed_because = why
        self._history.clear()
        self.places.leave(self)
        if self.memory.waiting.pop(self, None) is not None:
            self.memory.pass_turn()
        return [Refuse(one.id, why) for one in self.queue.clear()] + self._release_unwanted(now)

    def set_scaling(self, limits: PoolLimits, now: float) -> list[Action]:
        """Sets scaling targets: ends idle instances above the maximum, starts missing ones."""
        self._instance_cap = max(limits.max_instances, min(self._instance_cap, len(self.instances)))
        self.limits = limits
        self.prepared_count = min(self.prepared_count, limits.max_instances)
        actions: list[Action] = []
        idle = self._table.in_state(PARKED) + self._table.in_state(READY)
        for instance in idle[: max(0, self.places.live - limits.max_instances)]:
            actions += self._stop(instance, now)
        return [*actions, *self.tick(now), *self._check_prepared()]

    def tick(self, now: float) -> list[Action]:
        """Timer event: refuses invocations that waited too long, ends instances that were idle too
        long, and starts instances for min_instances or the keep-alive rule.
        """
        actions: list[Action] = []
        for instance in self._table.in_state(RECYCLING):
            if now - instance.since >= self.limits.recycle_s:
                actions += self._stop(instance, now, ColdStartReason.REPLACED)
        why = Full.NO_MEMORY if self in self.memory.waiting else Full.WAITED_TOO_LONG
        if self._quota_denied and not self.quota.has_capacity:
            why = Full.OVER_QUOTA
        for waiting in self.queue.pop_expired(now, self.limits.queue_wait_s):
            actions.append(Refuse(waiting.id, why, self._retry_after_s(now - waiting.since)))
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

    def park(self, now: float) -> list[Action]:
        """Starts an instance to be parked, if `lacks_parked` and there is a place. During its start
        the instance counts the version's limit. An invocation that arrives meanwhile gets the
        instance.
        """
        digest = self.current
        if digest is None or not self.lacks_parked(now):
            return []
        has_place = self.places.used < self.limits.max_instances and self.quota.has_capacity
        limit = self._table.footprint(digest).limit_mib
        if not has_place or self.memory.waiting or not self.memory.has_to_spare(limit):
            return []
        why = self._history.reason_for(digest, others_ready=False)
        instance = self._table.add(digest, now, why, limit)
        instance.is_to_park = True
        return [Start(instance.id, digest)]

    def quota_exhausted(self, now: float) -> list[Action]:
        """The tenant's quota is used up and no instance may be ended, so the deploy fails."""
        if self.prepared is None:
            return []
        return [PrepareFailed(self.prepared, self.quota.refusal), *self.abandon(now)]

    # Transfers between pools of the function --------------------------------------------------

    def hand_over(self, digest: str) -> list[Instance]:
        """Hands the instances that are kept for a rollback to this version over to the version's
        own pool.
        """
        found = [] if self._wanted(digest) else self._table.in_state(PARKED, digest=digest)
        for instance in found:
            self._table.take_out(instance)
        return found

    def take_in(self, instance: Instance, now: float) -> int:
        """Takes in an instance of another pool; returns its number in this pool. Call `adopted`
        afterwards.
        """
        self._table.take_in(instance, now)
        instance.is_fresh = instance.is_to_park = False
        return instance.id

    def adopted(self, number: int, now: float) -> list[Action]:
        """Makes an instance available after `take_in`, if it still exists."""
        instance = self.instances.get(number)
        if instance is None or instance.state is not READY:
            return []
        return self._became_ready(instance, now)

    # Memory ----------------------------------------------------------------------------------

    def provide(self, now: float) -> list[Action]:
        """Memory, quota or places may have become free: starts what is missing."""
        return self._provide(now)

    def evict(self, number: int, now: float) -> list[Action]:
        """Ends an idle instance, since its memory, quota or place is needed elsewhere."""
        instance = self.instances.get(number)
        if instance is None or not instance.is_idle:
            return []
        self._park_after = now + PARK_AGAIN_S
        return [*self._stop(instance, now), *self._serve_room(now)]

    def eviction_candidates(self) -> list[EvictionCandidate]:
        """The idle instances that may be ended for others. Excludes those that waiting invocations
        will get in their turn, and those for min_instances or a deploy, which the pool would start
        again at once.
        """
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
        """Updates the memory that an idle instance uses."""
        self._table.measured(number, mib)

    # Queries ---------------------------------------------------------------------------------

    @property
    def is_at_rest(self) -> bool:
        """Whether `tick` would do nothing at any time."""
        looks = self._is_expected or self._look_again_at < NEVER
        holds = self.current is not None and (self.limits.min_instances > 0 or looks)
        return not (self.instances or self.queue or self.prepared or holds)

    def lacks_parked(self, now: float) -> bool:
        """Whether the current version is worth parking but has no instance, ready, starting or
        parked, so that the next invocation would wait for its imports.
        """
        digest = self.current
        if digest is None or self.prepared is not None or now < self._park_after:
            return False
        if not (self.limits.park_s > 0 and self._table.footprint(digest).parks):
            return False
        return not (self._table.count_serving(digest) or self._table.count(PARKED, digest))

    def lacking(self, now: float) -> int:
        """How many instances the pool would start now if its maximum allowed them."""
        if self.current is None or self in self.memory.waiting:
            return 0
        minimum = self.limits.min_instances
        if minimum:
            minimum -= self._table.count_serving(self.current)
        if not self.queue:
            return max(0, minimum)
        recycling = self._table.count(RECYCLING, digest=self.current)
        impatient = self.queue.count_waiting(now, self.limits.patience_s)
        each = self._concurrency(self.current)
        for_calls = -(-max(len(self.queue) - recycling * each, impatient) // each)
        for_calls -= self._table.count(WARMING, digest=self.current)
        return max(0, for_calls, minimum)

    def headroom(self, max_instances: int | None = None) -> Headroom:
        """How many more invocations could start now without a wait, after those that wait already.
        `max_instances`: replaces the maximum of the limits.

        0 while invocations of any function wait for memory. Excludes instances that would replace
        another version's or would need an eviction elsewhere.
        """
        if self.current is None or self.memory.waiting:
            return Headroom()
        idle, free = self._idle(self.current)
        limit = self._table.footprint(self.current).limit_mib
        most = self.limits.max_instances if max_instances is None else max_instances
        places = max(0, most - self.places.used)
        places = int(min(places, max(0.0, self.quota.limit - self.quota.used)))
        if limit > 0 and free < places * limit:
            places = int(free // limit)
        waiting, each = len(self.queue), self._concurrency(self.current)
        there = self._calls_for(idle)
        behind = max(0, there - waiting)
        return Headroom(behind, max(0, places * each - max(0, waiting - there)))

    def idle(self) -> int:
        """The `idle` of `headroom`, which a fleet needs at every invocation."""
        if self.current is None or self.memory.waiting or not self._table.instances:
            return 0
        idle, _ = self._idle(self.current)
        if self._is_shared:
            idle = self._calls_for(idle)
        return max(0, idle - len(self.queue.waiting))

    def _calls_for(self, idle: int) -> int:
        """How many more invocations `idle` instances and shared instances can take."""
        if not self._is_shared:
            return idle
        # An instance that must end takes one invocation only.
        each = self._concurrency(self.current or "")
        return idle + (each - 1) * max(0, idle - self._yielding()) + self._room()

    def _idle(self, digest: str) -> tuple[int, float]:
        """How many instances of a version could take an invocation now or soon, and how much memory
        (MiB) is then still free.
        """
        there = self._table.count_free(digest)
        limit = self._table.footprint(digest).limit_mib
        spare = self.memory.budget_mib - self.memory.held_mib  # negative if over budget
        free = max(0.0, spare)
        # An idle instance counts less than its limit; with an invocation it counts its limit.
        if free >= there * limit:
            return there, free - there * limit
        growth = sum(
            limit - one.charge_mib for state in FREE for one in self._table.in_state(state, digest)
        )
        if growth <= spare + ROUNDING_MIB:
            return there, max(0.0, free - growth)
        return min(there, int(free // limit)), 0.0

    def held_by(self, waiter: int) -> int | None:
        """The number of the instance that `waiter` has, if any."""
        return next((one.id for one in self.instances.values() if waiter in one.holders), None)

    # The decisions ---------------------------------------------------------------------------

    def _provide(self, now: float) -> list[Action]:
        """Starts missing instances for the prepared version and the queue, within the maximum."""
        if self.prepared is None:
            return self._serve_queue(now)
        # The prepared version comes first, since a queue that is never empty could take every
        # place.
        missing = self.prepared_count - self._table.count_serving(self.prepared)
        self._lacks_place = False
        actions = self._start(self.prepared, missing, now)
        lacks_place = self._lacks_place
        actions += self._serve_queue(now)
        if not (lacks_place or self._lacks_place):
            self.places.leave(self)
        return actions

    def _serve_queue(self, now: float) -> list[Action]:
        """Serves the queue and starts the instances that it lacks.

        A recycling instance will be ready soon. So for each of them, one invocation waits for at
        most `patience_s` before another instance is started for it.
        """
        actions: list[Action] = []
        short_since = self.memory.waiting.pop(self, None)
        self._lacks_place = False
        if self.queue and self.current is not None:
            actions += self._assign_idle(now)
        if self.queue and self.current is not None and self not in self.memory.waiting:
            each = self._concurrency(self.current)
            recycling = each * self._table.count(RECYCLING, digest=self.current)
            # If nothing is recycling, every invocation needs an instance at once.
            impatient = self.queue.count_waiting(now, self.limits.patience_s) if recycling else 0
            warming = each * self._table.count(WARMING, digest=self.current)
            need = max(len(self.queue) - recycling, impatient)
            if need > warming:  # one waiter for each new instance, which several will share
                callers = list(islice(self.queue.waiting, warming, need, each))
                actions += self._start(self.current, len(callers), now, callers=callers)
            if recycling and impatient < len(self.queue):
                since = self.queue.waiting[impatient].since
                actions.append(TickAt(since + self.limits.patience_s))
        if self.places.waiting and self.prepared is None and not self._lacks_place:
            self.places.leave(self)
        if short_since not in (None, self.memory.waiting.get(self)):
            self.memory.pass_turn()
        return actions

    def _assign_idle(self, now: float) -> list[Action]:
        """Assigns waiting invocations to shared instances, then to idle ones, as far as memory
        allows.
        """
        actions = self._share_with_queue(now)
        ready = self._table.in_state(READY, digest=self.current)
        for instance in [*reversed(ready), *self._table.in_state(PARKED, digest=self.current)]:
            if not self.queue:
                break
            since = self.queue.first.since
            if not self._may_assign(instance, since):
                limit = self._table.footprint(instance.digest).limit_mib
                actions += self._wait_for_memory(limit - instance.charge_mib, since)
                break
            if instance.state is PARKED:
                actions += self._unpark(instance, now)
            waiting = self.queue.popleft()
            # An invocation is cold if it is the first on its instance and waited for its start or
            # unpark.
            cold = instance.is_fresh and instance.ready_at >= waiting.since
            actions.append(self._assign(instance, waiting.id, now, cold=cold))
            actions += self._share_with_queue(now)
        return actions

    def _share_with_queue(self, now: float) -> list[Action]:
        """Assigns waiting invocations to instances that others share already."""
        actions: list[Action] = []
        while self._is_shared and self.queue and (instance := self._with_room()) is not None:
            waiting = self.queue.popleft()
            cold = instance.ready_at >= waiting.since  # this invocation waited for the start, too
            actions.append(self._share(instance, waiting.id, now, cold=cold))
        return actions

    def _wait_for_memory(self, mib: float, since: float) -> list[Action]:
        """An invocation waits for memory. Instances are evicted for it only when its turn comes."""
        self.memory.waiting[self] = since
        return [RequestMemory(mib)] if self.memory.is_turn_of(self, since) else []

    def _start(
        self, digest: str, count: int, now: float, *, callers: Sequence[Waiter] = ()
    ) -> list[Action]:
        """Starts up to `count` instances, for `callers` if there are any; unparks parked ones
        first. At the maximum, idle instances of another version are replaced: those kept for a
        rollback, those of the version that this one replaces, or those of other pools.
        """
        actions: list[Action] = []
        for instance in self._table.in_state(PARKED, digest=digest)[: max(0, count)]:
            actions += self._unpark(instance, now)
            count -= 1
        if count <= 0:
            return actions
        is_alone = len(self.instances) == self.places.used  # no other version has an instance
        is_asked = not is_alone or self.places.waiting
        since = self._waits_since(digest, callers) if is_asked else None
        places = self.limits.max_instances - self.places.used
        if self.places.waiting:
            places -= self.places.due(self, since)
        places = max(0, places)
        if places:
            actions += self._start_new(digest, min(count, places), now, callers)
        short = count - places - self.places.leaving
        if short > 0:
            for instance in self._replaceable(digest)[:short]:
                actions += self._stop(instance, now)
                short -= 1
        if not is_asked:
            return actions
        since = self._waits_since(digest, callers[places:]) if count > places else None
        if since is not None:
            self._lacks_place, self.places.waiting[self] = True, since
        return [*actions, RequestPlaces(short)] if short > 0 else actions

    def _waits_since(self, digest: str, callers: Sequence[Waiter]) -> float | None:
        """The time since which this version lacks a place: FIRST if it has no instance, None if no
        invocation waits for a place. A prepared version has FIRST only until it has one instance.
        """
        if (callers or digest == self.prepared) and not self._table.count_serving(digest):
            return FIRST
        return callers[0].since if callers else None

    def place_candidates(self) -> list[int]:
        """The idle instances that may be ended for invocations of other versions, in the order of
        eviction. Includes those for min_instances, since waiting invocations are more important.
        """
        ready = [one for one in self._table.in_state(READY) if one.digest != self.prepared]
        parked = self._table.in_state(PARKED)
        return [] if self.queue else [one.id for one in [*parked, *ready]]

    def _replaceable(self, digest: str) -> list[Instance]:
        """The instances that may be ended to make place for `digest`, in the order of eviction."""
        others = [one for one in self._table.in_state(PARKED) if one.digest != digest]
        others += [one for one in self._table.in_state(RECYCLING) if not self._wanted(one.digest)]
        if digest == self.prepared:
            others += [one for one in self._table.in_state(READY) if one.digest != digest]
        return others

    def _start_new(
        self, digest: str, count: int, now: float, callers: Sequence[Waiter]
    ) -> list[Action]:
        """Starts up to `count` instances, if quota and memory allow it and it is the turn of
        `callers`.
        """
        actions: list[Action] = []
        coming = self._table.count(WARMING, digest)
        others = self._table.count_serving(digest) > coming or self._table.count(PARKED, digest) > 0
        why = self._history.reason_for(digest, others_ready=others)
        weight = self._table.footprint(digest)
        charge = weight.limit_mib if callers else weight.idle_mib
        self._quota_denied = 0
        for index in range(count):
            if not self.quota.has_capacity:
                self._quota_denied = count - index
                actions.append(RequestQuota())
                break
            since = callers[index].since if callers else None
            is_turn = since is None or self.memory.is_turn_of(self, since)
            if not (self.memory.fits(charge) and is_turn):
                actions += (
                    [RequestMemory(charge)]
                    if since is None
                    else self._wait_for_memory(charge, since)
                )
                break
            instance = self._table.add(digest, now, why, charge)
            actions.append(Start(instance.id, digest))
        return actions

    def _end_expired(self, digest: str, now: float) -> list[Action]:
        """Ends instances that were idle for too long, but keeps min_instances. Parks the last
        instance of a version that is slow to start.
        """
        if digest == self.prepared:
            return []  # the deploy needs all its instances
        actions: list[Action] = []
        for instance in self._table.in_state(PARKED, digest=digest):
            if now - instance.since >= self.limits.park_s:
                actions += self._stop(instance, now)
        excess = self._table.count_serving(digest) - self.limits.min_instances
        for instance in self._table.in_state(READY, digest=digest)[: max(0, excess)]:
            is_last = (
                self._table.count(PARKED, digest=digest) + self._table.count_serving(digest) == 1
            )
            # An instance that has had no invocation stays for `idle_s`, even if the history
            # predicts none, unless it was started only because of the history.
            learnt = self.keep_alive is not None and (
                instance.is_speculative or not instance.is_fresh
            )
            if is_last and learnt:
                if self._is_expected:
                    break
            elif now - instance.since < self.limits.idle_s:
                break
            if is_last and self._table.footprint(digest).parks and self.limits.park_s > 0:
                self._history.ended(digest, ColdStartReason.EVICTED)
                self._table.apply(instance, InstanceEvent.PARKED, now)
            else:
                actions += self._stop(instance, now)
        return actions

    def _can_afford_speculation(self) -> bool:
        """Whether memory and quota allow an instance without a waiting invocation."""
        idle = self._table.footprint(self.current or "").idle_mib
        return not self.memory.waiting and self.memory.fits(idle) and self.quota.has_capacity

    def _expects_call(self, now: float) -> bool:
        """Whether the keep-alive policy wants an instance now."""
        if (
            self.keep_alive is not None
            and now >= self._look_again_at
            and not self._table.count(BUSY)
        ):
            windows = self.keep_alive.windows()
            self._is_expected = is_wanted(windows, now)
            change = next_change(windows, now)
            self._look_again_at = NEVER if change is None else change
        return self._is_expected

    def _became_ready(self, instance: Instance, now: float) -> list[Action]:
        """Decides the next state of a ready instance: serve, stay ready, be parked, or end."""
        if not self._wanted(instance.digest):
            return [*self._keep_previous(instance, now), *self._serve_room(now)]
        if not self.queue and self._is_surplus(instance):
            return self._stop(instance, now)
        self._set_worth(instance)
        served: list[Action] = []
        if self.queue:
            is_current = instance.digest == self.current
            served = self._serve_queue(now) if is_current else self._serve_room(now)
        return served if self.prepared is None else [*served, *self._check_prepared()]

    def _may_stay_parked(self, instance: Instance) -> bool:
        """Whether an instance that was started to be parked should still be parked. With a minimum
        of ready instances, none is parked.
        """
        is_needed = self.limits.min_instances or self.prepared is not None
        return instance.digest == self.current and not is_needed

    def _check_prepared(self) -> list[Action]:
        """Returns `Prepared` if the prepared version has all wanted instances, or at least one and
        the other places have busy instances: while waiting for these, the queue could not use the
        ready instances.
        """
        if self.prepared is None:
            return []
        coming = self._table.count(WARMING, digest=self.prepared)
        ready = self._table.count_serving(self.prepared) - coming
        nothing_to_come = not coming and not self.places.leaving
        full = self.places.used >= self.limits.max_instances
        idle = self._table.in_state(READY) + self._table.in_state(PARKED)
        only_busy = nothing_to_come and full and all(one.digest == self.prepared for one in idle)
        enough = ready >= self.prepared_count or (ready > 0 and only_busy)
        return [Prepared(self.prepared)] if enough else []

    def _missing_prepared(self, prepared: str) -> int:
        """How many instances the prepared version lacks, minus the places that are free or will be
        once terminating instances are gone.
        """
        places = max(0, self.limits.max_instances - self.places.used)
        leaving = self.places.leaving
        return self.prepared_count - self._table.count_serving(prepared) - places - leaving

    def _count_call(self, now: float) -> None:
        self._calls += 1
        if self.keep_alive is not None:
            self.keep_alive.called(now)

    def _next_ready(self, now: float) -> Instance | None:
        """The ready instance for a new invocation: the one that became ready last has the warmest
        caches, and the others become idle for long enough to be ended.
        """
        idle = self._table.in_state(READY, digest=self.current)
        return idle[-1] if idle and self._may_assign(idle[-1], now) else None

    def _may_assign(self, instance: Instance, since: float) -> bool:
        """Whether an invocation that has waited since `since` may run: there is enough memory, and
        it is its turn.
        """
        return self._table.can_take_call(instance) and self.memory.is_turn_of(self, since)

    def _assign(self, instance: Instance, waiter: int, now: float, *, cold: bool) -> Assign:
        self._table.apply(instance, InstanceEvent.LEASED, now)
        instance.is_fresh = instance.is_to_park = False
        return self._share(instance, waiter, now, cold=cold)

    def _share(self, instance: Instance, waiter: int, now: float, *, cold: bool) -> Assign:
        instance.holders[waiter] = now
        return Assign(instance.id, waiter, cold)

    def _concurrency(self, digest: str) -> int:
        return self._table.footprint(digest).concurrency

    def _sharing(self) -> list[Instance]:
        """The instances of the current version that run invocations and have room for more, longest
        busy first. Excludes as many as must end, because of the maximum or the prepared version, so
        that their last invocations can end.
        """
        assert self.current is not None
        each = self._concurrency(self.current)
        if each == 1:
            return []
        busy = self._table.in_state(BUSY, digest=self.current)
        return [
            one for one in busy[self._yielding() :] if not one.is_spoilt and len(one.holders) < each
        ]

    def _yielding(self) -> int:
        """How many shared instances must end."""
        above = self.places.live - self.limits.max_instances
        if self.places.waiting:
            above = max(above, int(self._yields_place()))
        if above > 0 or self.prepared is None or self.prepared == self.current:
            return max(0, above)
        begun = self._table.count_serving(self.prepared) or self.places.leaving
        return int(not begun and self._missing_prepared(self.prepared) > 0)

    def _serve_room(self, now: float) -> list[Action]:
        """Serves the queue if a shared instance has room."""
        if not self._is_shared or not self.queue or self._with_room() is None:
            return []
        return self._serve_queue(now)

    def _with_room(self) -> Instance | None:
        """A shared instance of the current version with room for another invocation."""
        return next(iter(self._sharing()), None)

    def _room(self) -> int:
        """How many more invocations the shared instances can take."""
        each = self._concurrency(self.current or "")
        return sum(each - len(one.holders) for one in self._sharing())

    def _retry_after_s(self, waited_s: float) -> int:
        calls = self.limits.max_instances * self._concurrency(self.current or "")
        return self.queue.retry_after_s(calls, waited_s)

    def _unpark(self, instance: Instance, now: float) -> list[Action]:
        if not instance.is_to_park:  # otherwise the reason stays that none was parked
            instance.reason = self._history.reason_for(instance.digest, others_ready=False)
        instance.ready_at, instance.is_fresh = now, True
        self._set_worth(instance)
        self._table.apply(instance, InstanceEvent.UNPARKED, now)
        return [Unpark(instance.id)]

    def _set_worth(self, instance: Instance) -> None:
        instance.worth = self.memory.worth(self._calls, instance.start_ms, instance.idle_mib)

    def _stop(
        self, instance: Instance, now: float, how: ColdStartReason = ColdStartReason.EVICTED
    ) -> list[Action]:
        if instance.state is not WARMING and self._wanted(instance.digest):
            self._history.ended(instance.digest, how)
        self._table.apply(instance, InstanceEvent.STOPPED, now)
        return [Destroy(instance.id)]

    def _keep_previous(self, instance: Instance, now: float) -> list[Action]:
        """Parks an instance of the previous version, if the instance may stay."""
        if not self._may_keep_previous(instance):
            return self._stop(instance, now)
        instance.worth = 0.0
        self._table.apply(instance, InstanceEvent.PARKED, now)
        return []

    def _release_unwanted(self, now: float) -> list[Action]:
        """Parks or ends the instances of versions that are no longer needed."""
        actions: list[Action] = []
        for instance in [one for one in self.instances.values() if self._is_unwanted(one)]:
            is_ready = instance.state is READY
            actions += self._keep_previous(instance, now) if is_ready else self._stop(instance, now)
        return actions

    def _set_footprint(self, digest: str, footprint: Footprint | None) -> None:
        """Sets the footprint of this version; forgets versions without instances."""
        self._table.retain_footprints(self.current, self.prepared, self.previous)
        if footprint is not None:
            self._table.set_footprint(digest, footprint)

    def _wanted(self, digest: str) -> bool:
        return digest in (self.current, self.prepared)

    def _is_unwanted(self, instance: Instance) -> bool:
        """Whether the instance is or will be idle, and its version needs no idle instances."""
        if instance.state in (PARKED, RECYCLING):
            return not self._wanted(instance.digest) and instance.digest != self.previous
        return instance.state in (WARMING, READY) and not self._wanted(instance.digest)

    def _may_keep_previous(self, instance: Instance) -> bool:
        """Whether the instance is of the previous version and takes no place that is needed."""
        full = self.places.used >= self.limits.max_instances
        in_the_way = self._is_surplus(instance) or (self.queue and full)
        return instance.digest == self.previous and not in_the_way

    def _is_surplus(self, instance: Instance) -> bool:
        """Whether this idle instance is surplus: above the maximum, or needed as a place for
        another version.
        """
        if self.places.live > self.limits.max_instances:
            return True
        if self.places.waiting and self._yields_place():
            return instance.digest != self.prepared
        if self.prepared is None or instance.digest == self.prepared:
            return False
        return self._missing_prepared(self.prepared) > 0

    def _yields_place(self) -> bool:
        """Whether an instance must yield its place to another version, in another pool."""
        return self.places.must_yield(self, self.queue.first.since if self.queue else None)

    def _must_yield(self, instance: Instance) -> bool:
        """Like `_is_surplus`, but for an instance that just finished an invocation. Only one yields
        to the prepared version. The others serve the queue until an instance of that version is
        ready.
        """
        above = self.places.live > self.limits.max_instances
        if self.places.waiting and self._yields_place():
            return True
        if self.prepared is None:
            return above
        begun = self._table.count_serving(self.prepared) or self.places.leaving
        return self._is_surplus(instance) and (not begun or above)
