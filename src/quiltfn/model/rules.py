"""The state of a pool and the rules by which it decides; its events are in `model/pool.py`.

Nothing here waits, reads a clock or touches the kernel: time comes in, actions go out.
"""

from collections.abc import Sequence
from itertools import islice

from quiltfn.model.actions import (
    Action,
    Assign,
    Destroy,
    Prepared,
    RequestMemory,
    RequestQuota,
    Start,
    TickAt,
    Unpark,
)
from quiltfn.model.cold_start import ColdStartReason, StartHistory
from quiltfn.model.counts import PoolCounts
from quiltfn.model.instance import Instance, InstanceEvent, InstanceState
from quiltfn.model.instance_table import InstanceTable
from quiltfn.model.keepalive import KeepAlive, is_wanted, next_change
from quiltfn.model.limits import PoolLimits
from quiltfn.model.memory import Footprint, Memory
from quiltfn.model.quota import Quota
from quiltfn.model.wait_queue import Waiter, WaitQueue

WARMING, PARKED, READY = InstanceState.WARMING, InstanceState.PARKED, InstanceState.READY
BUSY, RECYCLING = InstanceState.BUSY, InstanceState.RECYCLING
TERMINATING = InstanceState.TERMINATING
NEVER = float("inf")


class PoolRules:
    """What a pool is made of, what must always hold of it, and what follows from it."""

    def __init__(
        self,
        limits: PoolLimits,
        memory: Memory | None = None,
        keep_alive: KeepAlive | None = None,
        quota: Quota | None = None,
    ) -> None:
        self.limits = limits
        # What calls teach about the next one; None: `idle_s` is the rule for every instance.
        self.keep_alive = keep_alive
        self._is_expected, self._look_again_at = False, NEVER
        self.current: str | None = None
        self.prepared: str | None = None
        self.prepared_count = 0
        self.previous: str | None = None
        self.closed_because = "pending"
        self.queue = WaitQueue()
        self.memory = memory or Memory()
        self._previous_until = 0.0
        self.quota = quota or Quota()
        # How many instances the quota has denied it, since it wanted some last.
        self._quota_denied = 0
        self._table = InstanceTable(self.memory, self.quota)
        self._history = StartHistory()
        self._calls = 0
        # Lowering max_instances cannot end running calls, so the bound comes down with them.
        self._instance_cap = limits.max_instances

    @property
    def instances(self) -> dict[int, Instance]:
        return self._table.instances

    def counts(self) -> PoolCounts:
        return self._table.counts()

    @property
    def has_idle(self) -> bool:
        """Whether any instance is idle."""
        return bool(self._table.count(READY) or self._table.count(PARKED))

    @property
    def quota_shortfall(self) -> int:
        """How many instances the tenant's quota denies it that it still wants."""
        if not self._quota_denied:
            return 0
        if self.queue or self.prepared is not None:
            return self._quota_denied
        missing = self.limits.min_instances - self._table.count_serving(self.current or "")
        return min(self._quota_denied, max(0, missing)) if self.current is not None else 0

    def check(self) -> None:
        """Asserts everything that must hold between two events."""
        if self.queue:
            assert self.current is not None, "somebody waits at a closed function"
            idle = self._table.count(READY, self.current) + self._table.count(PARKED, self.current)
            assert not idle or self in self.memory.waiting, "somebody waits beside a ready instance"
        assert self.queue or self not in self.memory.waiting, "nobody waits for memory"
        assert len(self.queue) <= self.limits.queue_max, "the line is longer than its limit"
        assert len(self.instances) <= self._instance_cap, "more instances than the maximum"
        assert self._instance_cap >= self.limits.max_instances, "the ceiling is below the maximum"
        holders = [one.holder for one in self.instances.values() if one.holder is not None]
        everywhere = holders + [one.id for one in self.queue.waiting]
        assert len(set(everywhere)) == len(everywhere), "a call is in two places"
        for instance in self.instances.values():
            held = instance.holder is not None
            assert held == (instance.state is BUSY), f"{instance} is busy unheld, or held idle"
            assert not self._is_unwanted(instance), f"{instance} serves nobody"
        self._table.check()
        self._history.check(self.current, self.prepared)
        total = self.counts().total
        assert total == len(self.instances), "an instance is in none of the five states"

    # The decisions ---------------------------------------------------------------------------

    def _provide(self, now: float) -> list[Action]:
        """Starts what the standby and the line still need, within the maximum."""
        actions: list[Action] = []
        if self.prepared is not None:  # first, or a line that never ends would keep it out
            missing = self.prepared_count - self._table.count_serving(self.prepared)
            actions += self._start(self.prepared, missing, now)
        return actions + self._serve_queue(now)

    def _serve_queue(self, now: float) -> list[Action]:
        """Serves the line, and starts what it still needs.

        An instance that is recycling is as good as ready, so the same number of callers waits for
        it, each at most `patience_s`.
        """
        actions: list[Action] = []
        short_since = self.memory.waiting.pop(self, None)
        if self.queue and self.current is not None:
            actions += self._assign_idle(now)
        if self.queue and self.current is not None and self not in self.memory.waiting:
            recycling = self._table.count(RECYCLING, digest=self.current)
            impatient = self.queue.count_waiting(now, self.limits.patience_s)
            warming = self._table.count(WARMING, digest=self.current)
            need = max(len(self.queue) - recycling, impatient)
            if need > warming:
                callers = list(islice(self.queue.waiting, warming, need))
                actions += self._start(self.current, len(callers), now, callers=callers)
            if recycling and impatient < len(self.queue):
                since = self.queue.waiting[impatient].since
                actions.append(TickAt(since + self.limits.patience_s))
        if short_since not in (None, self.memory.waiting.get(self)):
            self.memory.pass_turn()
        return actions

    def _assign_idle(self, now: float) -> list[Action]:
        """What is idle goes to those in line, as far as the machine's memory allows."""
        actions: list[Action] = []
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
            # A call is cold that waited while the instance was made, or taken back, that it is the
            # first to have.
            cold = instance.is_fresh and instance.ready_at >= waiting.since
            actions.append(self._assign(instance, waiting.id, now, cold=cold))
        return actions

    def _wait_for_memory(self, mib: float, since: float) -> list[Action]:
        """Somebody waits for memory since then. Nobody has to leave before it is his turn."""
        self.memory.waiting[self] = since
        return [RequestMemory(mib)] if self.memory.is_turn_of(self, since) else []

    def _start(
        self, digest: str, count: int, now: float, *, callers: Sequence[Waiter] = ()
    ) -> list[Action]:
        """Starts up to `count`, parked ones first: for that many `callers`, if any. Where there is
        no room, an idle instance of another content gives way: one that is kept, or one that is
        being replaced by these."""
        actions: list[Action] = []
        for instance in self._table.in_state(PARKED, digest=digest)[: max(0, count)]:
            actions += self._unpark(instance, now)
            count -= 1
        if count <= 0:
            return actions
        room = max(0, self.limits.max_instances - len(self.instances))
        if room:
            actions += self._start_new(digest, min(count, room), now, callers)
        short = count - room - self._table.count(TERMINATING)
        if short > 0:
            for instance in self._replaceable(digest)[:short]:
                actions += self._stop(instance, now)
        return actions

    def _replaceable(self, digest: str) -> list[Instance]:
        """Those whose room may go to instances of `digest`, the first to go first."""
        others = [one for one in self._table.in_state(PARKED) if one.digest != digest]
        others += [one for one in self._table.in_state(RECYCLING) if not self._wanted(one.digest)]
        if digest == self.prepared:
            others += [one for one in self._table.in_state(READY) if one.digest != digest]
        return others

    def _start_new(
        self, digest: str, count: int, now: float, callers: Sequence[Waiter]
    ) -> list[Action]:
        """Starts `count`, as far as the machine's memory allows and it is their callers' turn."""
        actions: list[Action] = []
        coming = self._table.count(WARMING, digest)
        stands = self._table.count_serving(digest) > coming or self._table.count(PARKED, digest) > 0
        why = self._history.reason_for(digest, others_ready=stands)
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
        """Those idle for too long, but what min_instances asks for; the last of a content that
        takes long to start is parked."""
        if digest == self.prepared:
            return []  # more of it are being made ready, so none is too many
        actions: list[Action] = []
        for instance in self._table.in_state(PARKED, digest=digest):
            if now - instance.since >= self.limits.park_s:
                actions += self._stop(instance, now)
        spare = self._table.count_serving(digest) - self.limits.min_instances
        for instance in self._table.in_state(READY, digest=digest)[: max(0, spare)]:
            is_last = (
                self._table.count(PARKED, digest=digest) + self._table.count_serving(digest) == 1
            )
            # A new one that was asked for stays as long as the idle rule says, whatever was learnt.
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
        """For an instance that nobody has asked for; and a place within the quota."""
        idle = self._table.footprint(self.current or "").idle_mib
        return not self.memory.waiting and self.memory.fits(idle) and self.quota.has_capacity

    def _expects_call(self, now: float) -> bool:
        """Whether an instance is to be there now, called or not, by what calls have taught."""
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

    def _settle(self, instance: Instance, now: float) -> list[Action]:
        """A ready instance goes to the first in line, stands by, is kept, or leaves."""
        if not self._wanted(instance.digest):
            return self._keep_previous(instance, now)
        if not self.queue and self._is_surplus(instance):
            return self._stop(instance, now)
        self._set_worth(instance)
        served = self._serve_queue(now) if self.queue and instance.digest == self.current else []
        return served if self.prepared is None else [*served, *self._check_prepared()]

    def _check_prepared(self) -> list[Action]:
        """It stands with as many as were wanted, or with one if only busy ones are in its way.

        Waiting for those would keep the line from the instances that stand by already.
        """
        if self.prepared is None:
            return []
        coming = self._table.count(WARMING, digest=self.prepared)
        standing = self._table.count_serving(self.prepared) - coming
        nothing_to_come = not coming and not self._table.count(TERMINATING)
        full = len(self.instances) >= self.limits.max_instances
        idle = self._table.in_state(READY) + self._table.in_state(PARKED)
        only_busy = nothing_to_come and full and all(one.digest == self.prepared for one in idle)
        enough = standing >= self.prepared_count or (standing > 0 and only_busy)
        return [Prepared(self.prepared)] if enough else []

    def _missing_prepared(self, prepared: str) -> int:
        """How many the standby lacks beyond those that there is, or soon will be, room for."""
        room = max(0, self.limits.max_instances - len(self.instances))
        leaving = self._table.count(TERMINATING)
        return self.prepared_count - self._table.count_serving(prepared) - room - leaving

    def _may_assign(self, instance: Instance, since: float) -> bool:
        """Whether the machine's memory allows a call in it, for one who waits since then."""
        return self._table.can_take_call(instance) and self.memory.is_turn_of(self, since)

    def _assign(self, instance: Instance, waiter: int, now: float, *, cold: bool) -> Assign:
        self._table.apply(instance, InstanceEvent.LEASED, now)
        instance.holder, instance.is_fresh = waiter, False
        return Assign(instance.id, waiter, cold)

    def _unpark(self, instance: Instance, now: float) -> list[Action]:
        instance.why = self._history.reason_for(instance.digest, others_ready=False)
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
        """Parks an instance of the content before the current one, if it may stay."""
        if not self._may_keep_previous(instance):
            return self._stop(instance, now)
        instance.worth = 0.0
        self._table.apply(instance, InstanceEvent.PARKED, now)
        return []

    def _release_unwanted(self, now: float) -> list[Action]:
        """What serves nobody any more is kept for a while, or leaves."""
        actions: list[Action] = []
        for instance in [one for one in self.instances.values() if self._is_unwanted(one)]:
            is_ready = instance.state is READY
            actions += self._keep_previous(instance, now) if is_ready else self._stop(instance, now)
        return actions

    def _set_footprint(self, digest: str, footprint: Footprint | None) -> None:
        """What instances of a content weigh; of others that have none it is forgotten."""
        self._table.retain_footprints(self.current, self.prepared, self.previous)
        if footprint is not None:
            self._table.set_footprint(digest, footprint)

    def _wanted(self, digest: str) -> bool:
        return digest in (self.current, self.prepared)

    def _is_unwanted(self, instance: Instance) -> bool:
        """Idle or on its way to be, and of a content that it should not be so for."""
        if instance.state in (PARKED, RECYCLING):
            return not self._wanted(instance.digest) and instance.digest != self.previous
        return instance.state in (WARMING, READY) and not self._wanted(instance.digest)

    def _may_keep_previous(self, instance: Instance) -> bool:
        """Whether it is of the content before the current one and in nobody's way."""
        full = len(self.instances) >= self.limits.max_instances
        in_the_way = self._is_surplus(instance) or (self.queue and full)
        return instance.digest == self.previous and not in_the_way

    def _is_surplus(self, instance: Instance) -> bool:
        """Idle: more live instances than allowed, or a standby that waits for this one's room."""
        if self._table.count_live() > self.limits.max_instances:
            return True
        if self.prepared is None or instance.digest == self.prepared:
            return False
        return self._missing_prepared(self.prepared) > 0

    def _must_yield(self, instance: Instance) -> bool:
        """As `_is_surplus`, though calls may wait for it: so only the first makes way for the
        prepared version, and the rest serve the queue until an instance of that is ready."""
        above = self._table.count_live() > self.limits.max_instances
        if self.prepared is None:
            return above
        begun = self._table.count_serving(self.prepared) or self._table.count(TERMINATING)
        return self._is_surplus(instance) and (not begun or above)
