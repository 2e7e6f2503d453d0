"""The state of a pool and the rules by which it decides; its events are in `model/pool.py`.

Nothing here waits, reads a clock or touches the kernel: time comes in, actions go out.
"""

from collections.abc import Sequence
from itertools import islice

from quiltfn.model.actions import (
    Action,
    Crowded,
    Destroy,
    Hand,
    Resume,
    Short,
    Stands,
    Start,
    Wake,
)
from quiltfn.model.cold_start import ColdStartReason, Past
from quiltfn.model.counts import PoolCounts
from quiltfn.model.holding import Holding
from quiltfn.model.instance import Instance, InstanceEvent, InstanceState
from quiltfn.model.keepalive import KeepAlive, is_wanted, next_change
from quiltfn.model.limits import PoolLimits
from quiltfn.model.line import Line, Waiting
from quiltfn.model.memory import Footprint, Memory
from quiltfn.model.quota import Quota

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
        keeping: KeepAlive | None = None,
        quota: Quota | None = None,
    ) -> None:
        self.limits = limits
        # What calls teach about the next one; None: `idle_s` is the rule for every instance.
        self.keeping = keeping
        self._is_expected, self._look_again = False, NEVER
        self.current: str | None = None
        self.standby: str | None = None
        self.standby_wanted = 0
        self.previous: str | None = None
        self.closed_because = "pending"
        self.line = Line()
        self.memory = memory or Memory()
        self._kept_until = 0.0
        self.quota = quota or Quota()
        # How many instances the quota has denied it, since it wanted some last.
        self._denied = 0
        self._all = Holding(self.memory, self.quota)
        self._past = Past()
        self._calls = 0
        # Lowering max_instances cannot end running calls, so the bound comes down with them.
        self._ceiling = limits.max_instances

    @property
    def instances(self) -> dict[int, Instance]:
        return self._all.instances

    def counts(self) -> PoolCounts:
        return self._all.counts()

    @property
    def has_idle(self) -> bool:
        """Whether any instance is idle."""
        return bool(self._all.count(READY) or self._all.count(PARKED))

    @property
    def lacking(self) -> int:
        """How many instances the tenant's quota denies it that it still wants."""
        if not self._denied:
            return 0
        if self.line or self.standby is not None:
            return self._denied
        missing = self.limits.min_instances - self._all.serving(self.current or "")
        return min(self._denied, max(0, missing)) if self.current is not None else 0

    def check(self) -> None:
        """Asserts everything that must hold between two events."""
        if self.line:
            assert self.current is not None, "somebody waits at a closed function"
            idle = self._all.count(READY, self.current) + self._all.count(PARKED, self.current)
            assert not idle or self in self.memory.short, "somebody waits beside a ready instance"
        assert self.line or self not in self.memory.short, "nobody waits for memory"
        assert len(self.line) <= self.limits.line_max, "the line is longer than its limit"
        assert len(self.instances) <= self._ceiling, "more instances than the maximum"
        assert self._ceiling >= self.limits.max_instances, "the ceiling is below the maximum"
        holders = [one.holder for one in self.instances.values() if one.holder is not None]
        everywhere = holders + [one.id for one in self.line.waiting]
        assert len(set(everywhere)) == len(everywhere), "a call is in two places"
        for instance in self.instances.values():
            held = instance.holder is not None
            assert held == (instance.state is BUSY), f"{instance} is busy unheld, or held idle"
            assert not self._is_unwanted(instance), f"{instance} serves nobody"
        self._all.check()
        self._past.check(self.current, self.standby)
        total = self.counts().total
        assert total == len(self.instances), "an instance is in none of the five states"

    # The decisions ---------------------------------------------------------------------------

    def _provide(self, now: float) -> list[Action]:
        """Starts what the standby and the line still need, within the maximum."""
        actions: list[Action] = []
        if self.standby is not None:  # first, or a line that never ends would keep it out
            missing = self.standby_wanted - self._all.serving(self.standby)
            actions += self._start(self.standby, missing, now)
        return actions + self._attend(now)

    def _attend(self, now: float) -> list[Action]:
        """Serves the line, and starts what it still needs.

        An instance that is recycling is as good as ready, so the same number of callers waits for
        it, each at most `patience_s`.
        """
        actions: list[Action] = []
        short_since = self.memory.short.pop(self, None)
        if self.line and self.current is not None:
            actions += self._serve(now)
        if self.line and self.current is not None and self not in self.memory.short:
            recycling = self._all.count(RECYCLING, digest=self.current)
            impatient = self.line.impatient(now, self.limits.patience_s)
            warming = self._all.count(WARMING, digest=self.current)
            need = max(len(self.line) - recycling, impatient)
            if need > warming:
                callers = list(islice(self.line.waiting, warming, need))
                actions += self._start(self.current, len(callers), now, callers=callers)
            if recycling and impatient < len(self.line):
                since = self.line.waiting[impatient].since
                actions.append(Wake(since + self.limits.patience_s))
        if short_since not in (None, self.memory.short.get(self)):
            self.memory.pass_turn()
        return actions

    def _serve(self, now: float) -> list[Action]:
        """What is idle goes to those in line, as far as the machine's memory allows."""
        actions: list[Action] = []
        ready = self._all.those(READY, digest=self.current)
        for instance in [*reversed(ready), *self._all.those(PARKED, digest=self.current)]:
            if not self.line:
                break
            since = self.line.first.since
            if not self._may_hand(instance, since):
                limit = self._all.footprint(instance.digest).limit_mib
                actions += self._is_short(limit - instance.charge_mib, since)
                break
            if instance.state is PARKED:
                actions += self._resume(instance, now)
            waiting = self.line.next()
            # A call is cold that waited while the instance was made, or taken back, that it is the
            # first to have.
            cold = instance.is_fresh and instance.stood >= waiting.since
            actions.append(self._hand(instance, waiting.id, now, cold=cold))
        return actions

    def _is_short(self, mib: float, since: float) -> list[Action]:
        """Somebody waits for memory since then. Nobody has to leave before it is his turn."""
        self.memory.short[self] = since
        return [Short(mib)] if self.memory.is_turn_of(self, since) else []

    def _start(
        self, digest: str, count: int, now: float, *, callers: Sequence[Waiting] = ()
    ) -> list[Action]:
        """Starts up to `count`, parked ones first: for that many `callers`, if any. Where there is
        no room, an idle instance of another content gives way: one that is kept, or one that is
        being replaced by these."""
        actions: list[Action] = []
        for instance in self._all.those(PARKED, digest=digest)[: max(0, count)]:
            actions += self._resume(instance, now)
            count -= 1
        if count <= 0:
            return actions
        room = max(0, self.limits.max_instances - len(self.instances))
        if room:
            actions += self._start_new(digest, min(count, room), now, callers)
        short = count - room - self._all.count(TERMINATING)
        if short > 0:
            for instance in self._that_give_way(digest)[:short]:
                actions += self._stop(instance, now)
        return actions

    def _that_give_way(self, digest: str) -> list[Instance]:
        """Those whose room may go to instances of `digest`, the first to go first."""
        others = [one for one in self._all.those(PARKED) if one.digest != digest]
        others += [one for one in self._all.those(RECYCLING) if not self._wanted(one.digest)]
        if digest == self.standby:
            others += [one for one in self._all.those(READY) if one.digest != digest]
        return others

    def _start_new(
        self, digest: str, count: int, now: float, callers: Sequence[Waiting]
    ) -> list[Action]:
        """Starts `count`, as far as the machine's memory allows and it is their callers' turn."""
        actions: list[Action] = []
        coming = self._all.count(WARMING, digest)
        stands = self._all.serving(digest) > coming or self._all.count(PARKED, digest) > 0
        why = self._past.why(digest, others_stand=stands)
        weight = self._all.footprint(digest)
        charge = weight.limit_mib if callers else weight.idle_mib
        self._denied = 0
        for index in range(count):
            if not self.quota.has_room:
                self._denied = count - index
                actions.append(Crowded())
                break
            since = callers[index].since if callers else None
            is_turn = since is None or self.memory.is_turn_of(self, since)
            if not (self.memory.fits(charge) and is_turn):
                actions += [Short(charge)] if since is None else self._is_short(charge, since)
                break
            instance = self._all.add(digest, now, why, charge)
            actions.append(Start(instance.id, digest))
        return actions

    def _let_the_old_go(self, digest: str, now: float) -> list[Action]:
        """Those idle for too long, but what min_instances asks for; the last of a content that
        takes long to start is parked."""
        if digest == self.standby:
            return []  # more of it are being made ready, so none is too many
        actions: list[Action] = []
        for instance in self._all.those(PARKED, digest=digest):
            if now - instance.since >= self.limits.park_s:
                actions += self._stop(instance, now)
        spare = self._all.serving(digest) - self.limits.min_instances
        for instance in self._all.those(READY, digest=digest)[: max(0, spare)]:
            is_last = self._all.count(PARKED, digest=digest) + self._all.serving(digest) == 1
            # A new one that was asked for stays as long as the idle rule says, whatever was learnt.
            learnt = self.keeping is not None and (instance.ahead or not instance.is_fresh)
            if is_last and learnt:
                if self._is_expected:
                    break
            elif now - instance.since < self.limits.idle_s:
                break
            if is_last and self._all.footprint(digest).parks and self.limits.park_s > 0:
                self._past.left(digest, ColdStartReason.EVICTED)
                self._all.hear(instance, InstanceEvent.PARKED, now)
            else:
                actions += self._stop(instance, now)
        return actions

    def _has_memory_to_spare(self) -> bool:
        """For an instance that nobody has asked for; and a place within the quota."""
        idle = self._all.footprint(self.current or "").idle_mib
        return not self.memory.short and self.memory.fits(idle) and self.quota.has_room

    def _expects_a_call(self, now: float) -> bool:
        """Whether an instance is to be there now, called or not, by what calls have taught."""
        if self.keeping is not None and now >= self._look_again and not self._all.count(BUSY):
            windows = self.keeping.windows()
            self._is_expected = is_wanted(windows, now)
            change = next_change(windows, now)
            self._look_again = NEVER if change is None else change
        return self._is_expected

    def _settle(self, instance: Instance, now: float) -> list[Action]:
        """A ready instance goes to the first in line, stands by, is kept, or leaves."""
        if not self._wanted(instance.digest):
            return self._keep(instance, now)
        if not self.line and self._crowded(instance):
            return self._stop(instance, now)
        self._appraise(instance)
        served = self._attend(now) if self.line and instance.digest == self.current else []
        return served if self.standby is None else [*served, *self._check_standby()]

    def _check_standby(self) -> list[Action]:
        """It stands with as many as were wanted, or with one if only busy ones are in its way.

        Waiting for those would keep the line from the instances that stand by already.
        """
        if self.standby is None:
            return []
        coming = self._all.count(WARMING, digest=self.standby)
        standing = self._all.serving(self.standby) - coming
        nothing_to_come = not coming and not self._all.count(TERMINATING)
        full = len(self.instances) >= self.limits.max_instances
        idle = self._all.those(READY) + self._all.those(PARKED)
        only_busy = nothing_to_come and full and all(one.digest == self.standby for one in idle)
        enough = standing >= self.standby_wanted or (standing > 0 and only_busy)
        return [Stands(self.standby)] if enough else []

    def _standby_short(self, standby: str) -> int:
        """How many the standby lacks beyond those that there is, or soon will be, room for."""
        room = max(0, self.limits.max_instances - len(self.instances))
        leaving = self._all.count(TERMINATING)
        return self.standby_wanted - self._all.serving(standby) - room - leaving

    def _may_hand(self, instance: Instance, since: float) -> bool:
        """Whether the machine's memory allows a call in it, for one who waits since then."""
        return self._all.affords(instance) and self.memory.is_turn_of(self, since)

    def _hand(self, instance: Instance, waiter: int, now: float, *, cold: bool) -> Hand:
        self._all.hear(instance, InstanceEvent.LEASED, now)
        instance.holder, instance.is_fresh = waiter, False
        return Hand(instance.id, waiter, cold)

    def _resume(self, instance: Instance, now: float) -> list[Action]:
        instance.why = self._past.why(instance.digest, others_stand=False)
        instance.stood, instance.is_fresh = now, True
        self._appraise(instance)
        self._all.hear(instance, InstanceEvent.RESUMED, now)
        return [Resume(instance.id)]

    def _appraise(self, instance: Instance) -> None:
        instance.worth = self.memory.worth(self._calls, instance.start_ms, instance.idle_mib)

    def _stop(
        self, instance: Instance, now: float, how: ColdStartReason = ColdStartReason.EVICTED
    ) -> list[Action]:
        if instance.state is not WARMING and self._wanted(instance.digest):
            self._past.left(instance.digest, how)
        self._all.hear(instance, InstanceEvent.STOPPED, now)
        return [Destroy(instance.id)]

    def _keep(self, instance: Instance, now: float) -> list[Action]:
        """Parks an instance of the content before the current one, if it may stay."""
        if not self._may_keep(instance):
            return self._stop(instance, now)
        instance.worth = 0.0
        self._all.hear(instance, InstanceEvent.PARKED, now)
        return []

    def _set_aside(self, now: float) -> list[Action]:
        """What serves nobody any more is kept for a while, or leaves."""
        actions: list[Action] = []
        for instance in [one for one in self.instances.values() if self._is_unwanted(one)]:
            is_ready = instance.state is READY
            actions += self._keep(instance, now) if is_ready else self._stop(instance, now)
        return actions

    def _know(self, digest: str, footprint: Footprint | None) -> None:
        """What instances of a content weigh; of others that have none it is forgotten."""
        self._all.forget_all_but(self.current, self.standby, self.previous)
        if footprint is not None:
            self._all.know(digest, footprint)

    def _wanted(self, digest: str) -> bool:
        return digest in (self.current, self.standby)

    def _is_unwanted(self, instance: Instance) -> bool:
        """Idle or on its way to be, and of a content that it should not be so for."""
        if instance.state in (PARKED, RECYCLING):
            return not self._wanted(instance.digest) and instance.digest != self.previous
        return instance.state in (WARMING, READY) and not self._wanted(instance.digest)

    def _may_keep(self, instance: Instance) -> bool:
        """Whether it is of the content before the current one and in nobody's way."""
        full = len(self.instances) >= self.limits.max_instances
        in_the_way = self._crowded(instance) or (self.line and full)
        return instance.digest == self.previous and not in_the_way

    def _crowded(self, instance: Instance) -> bool:
        """Idle: more live instances than allowed, or a standby that waits for this one's room."""
        if self._all.live() > self.limits.max_instances:
            return True
        if self.standby is None or instance.digest == self.standby:
            return False
        return self._standby_short(self.standby) > 0

    def _gives_way(self, instance: Instance) -> bool:
        """As `_crowded`, though others may wait for it: so one makes room for the standby's first,
        and the rest go on serving the line until that one stands."""
        above = self._all.live() > self.limits.max_instances
        if self.standby is None:
            return above
        begun = self._all.serving(self.standby) or self._all.count(TERMINATING)
        return self._crowded(instance) and (not begun or above)
