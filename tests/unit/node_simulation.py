"""Simulates several pools on one node, which share memory, tenants' quotas, functions' places, and
a stock of prewarmed sandboxes.

The simulation has its own records of memory and instances, and fails if a promise about all pools
is broken.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from quiltfn.model import actions
from quiltfn.model.arbiter import LOOK_EVERY_S, Arbiter
from quiltfn.model.memory import EvictionCandidate, Footprint, Memory
from quiltfn.model.places import FIRST, Places
from quiltfn.model.pool import Pool, PoolLimits
from quiltfn.model.quota import UNBOUNDED, Quota
from quiltfn.pool.arbitration import Arbitration
from unit.pool_simulation import PoolSimulation, SimulatedSandbox

# The budget is a little more than the sum of the invocations' memory limits, so that some idle
# instances can stay.
BUDGET_MIB, PREWARMED_MIB, IDLE_MIB = 1030.0, 6.0, 4.0
NEAR = 1e-3
Request = actions.RequestMemory | actions.RequestQuota | actions.RequestPlaces
Idle = tuple[Pool, int]  # an idle instance: its pool and its number


class WarmStock:
    """The part of `ports.Sandboxes` that an arbiter uses."""

    def __init__(self, memory: Memory) -> None:
        self.memory, self.count, self.leaving = memory, 0, 0
        self.freed: Callable[[], None] = lambda: None

    def fill(self) -> None:
        if self.memory.fits(PREWARMED_MIB) and not self.memory.waiting:
            self.count += 1
            self.memory.prewarm(PREWARMED_MIB)
            self.memory.count(PREWARMED_MIB)

    def give_up(self, mib: float, freed: Callable[[], None]) -> None:
        while self.count and mib > 0:
            self.count, self.leaving, mib = self.count - 1, self.leaving + 1, mib - PREWARMED_MIB
            self.memory.prewarm(-PREWARMED_MIB)
            self.memory.leave(PREWARMED_MIB)
        self.freed = freed

    def gone(self) -> None:
        mib, self.leaving = self.leaving * PREWARMED_MIB, 0
        self.memory.leave(-mib)
        self.memory.count(-mib)
        self.freed()


class Member(PoolSimulation):
    """The simulated pool of one version on the node; also a `pool.arbitration.Member`. `versions`:
    the members of the same function; the first has the function's own pool.
    """

    def __init__(
        self,
        machine: "NodeSimulation",
        limit_mib: float,
        limits: PoolLimits,
        quota: Quota,
        versions: "list[Member]",
    ) -> None:
        self.machine, self.limit_mib, self.versions = machine, limit_mib, versions
        self.is_beside = bool(versions)
        # The memory that is counted for each instance that is being started, by its number.
        self.begun: dict[int, float] = {}
        self.uses: dict[int, float] = {}
        # The memory that is counted for each ending instance until it is gone, by its number.
        self.frozen: dict[int, float] = {}
        places = versions[0].pool.places if versions else machine.places()
        versions.append(self)
        limits = limits.beside if self.is_beside else limits
        super().__init__(limits, lambda its: machine.make(its, machine.memory, None, quota, places))
        machine.arbitration.add(self)  # type: ignore[arg-type]

    @property
    def model(self) -> Pool:
        return self.pool

    @property
    def family(self) -> list[PoolSimulation]:
        return [*self.versions]

    @property
    def requests(self) -> int:
        return self.machine.requests

    def provide(self) -> None:
        self.machine.log.append((self, "provide"))
        self._perform(self.pool.provide(self.now))

    def tick(self) -> None:
        self.wakes = [at for at in self.wakes if at > self.now]
        self._perform(self.pool.tick(self.now), is_tick=True)

    def evict(self, number: int) -> None:
        sandbox = self.simulated[number]
        assert sandbox.is_idle, "evicted, and it was not idle"
        serves = sandbox.digest == self.pool.current and not sandbox.is_parked
        self.machine.evicted.append((self, number))
        self._perform(self.pool.evict(number, self.now))
        left = self.those(
            lambda b: b.digest == self.pool.current and not (b.is_parked or b.destroying)
        )
        least = 0 if self.machine.is_for_places else self.pool.limits.min_instances
        assert not serves or len(left) >= least, "the minimum was evicted"

    def quota_exhausted(self) -> None:
        quota = self.pool.quota
        assert quota.used >= quota.limit, "called exhausted, and it is not"
        assert not quota.leaving, "a deploy fails though there will be room"
        self._perform(self.pool.quota_exhausted(self.now))

    def measure(self, number: int, mib: float) -> None:
        self.uses[number] = mib
        self.pool.measured(number, mib)
        self.machine.arbitration.serve(self.pool)

    def scale(self, least: int, most: int) -> None:
        """Like `FunctionPool.set_scaling`: the pools of other versions get the same maximum, and no
        minimum.
        """
        for version in [*self.versions[1:], self.versions[0]]:
            version.set_scaling(min_instances=0 if version.is_beside else least, max_instances=most)
        self.machine.note_used()  # instances started under the previous maximum may stay

    def acquire(self) -> int:
        """Like `LocalPools.lease`: opens the pool of another version if the function's own pool is
        open.
        """
        if self.is_beside and self.pool.current is None and self.versions[0].pool.current:
            self.promote("old")
        return super().acquire()

    def adopt_kept(self, digest: str) -> None:
        """Like `FunctionPool.adopt_kept`."""
        own, taken = self.versions[0], []
        for instance in own.pool.hand_over(digest):
            sandbox = own.simulated.pop(instance.id)
            number = self.pool.take_in(instance, self.now)
            self.simulated[number], sandbox.is_parked = sandbox, False
            taken.append(number)
        for number in taken:
            self._perform(self.pool.adopted(number, self.now))

    def close_all(self) -> None:
        for version in self.versions:
            version.close()

    def footprint(self, digest: str) -> Footprint:
        parks = self.parks(digest)
        return Footprint(limit_mib=self.limit_mib, idle_mib=IDLE_MIB, parks=parks)

    def charge(self, number: int, sandbox: SimulatedSandbox) -> float:
        """The memory that must be counted for an instance in its present state."""
        if number in self.frozen:
            return self.frozen[number]
        if sandbox.pending:
            return self.begun[number]
        if sandbox.holder is not None or sandbox.cleaning or sandbox.is_sick:
            return self.limit_mib
        return self.uses.get(number, IDLE_MIB)

    def _perform(self, decided: list[actions.Action], *, is_tick: bool = False) -> None:
        for action in decided:
            self.machine.log.append((self, action))
            if isinstance(action, actions.Destroy):
                number = action.instance
                self.frozen[number] = self.charge(number, self.simulated[number])
            elif isinstance(action, actions.PrepareFailed):
                self.failing = self.failing or self.pool.quota.refusal == action.reason
        super()._perform(decided, is_tick=is_tick)
        for action in decided:
            if isinstance(action, Request):
                self.machine.request(self, action)
        self.machine.arbitration.serve(self.pool)
        self.failing = False

    def _start(self, number: int, digest: str) -> None:
        super()._start(number, digest)
        self.begun[number] = self.pool.instances[number].charge_mib
        assert self.begun[number] in (self.limit_mib, IDLE_MIB)

    def _assign(self, number: int, waiter: int, cold: bool) -> None:
        since = self.waiting[waiter]
        for other, waits in self.machine.memory.waiting.items():
            assert other is self.pool or waits >= since, "served before its turn"
        super()._assign(number, waiter, cold)

    @property
    def unserved_since(self) -> float | None:
        """When the first invocation that nothing serves began to wait. The longest waiting ones are
        served by instances that are being started or cleaned, and are left out.
        """
        serving = self.those(lambda b: b.digest == self.pool.current and not b.destroying)
        coming = [n for n in serving if self.simulated[n].pending or self.simulated[n].cleaning]
        return next(iter(sorted(self.waiting.values())[len(coming) :]), None)

    @property
    def lacks_quota(self) -> bool:
        """Whether an invocation lacks an instance only because of the quota."""
        lacks_other = (
            self.pool in self.machine.memory.waiting or self.pool in self.pool.places.waiting
        )
        return self.unserved_since is not None and not lacks_other

    def check_nobody_waits_in_vain(self) -> None:
        """Check that the first unserved invocation lacks memory, quota, a place or its turn. The
        resources of ending instances are offered to this invocation once they are gone.
        """
        pool, since = self.pool, self.unserved_since
        if since is not None and not pool.places.leaving:
            serves = self.those(lambda b: b.digest == pool.current and not b.destroying)
            due = pool.places.due(pool, since if set(serves) - set(self.kept) else FIRST)
            has_place = self.used + due < pool.limits.max_instances
            has_quota = pool.quota.used < pool.quota.limit
            memory = self.machine.memory
            has_memory = memory.fits(self.limit_mib) and memory.is_turn_of(pool, since)
            assert not (has_place and has_quota and has_memory), "a call waits in vain"


class NodeSimulation:
    """The members, their shared resources, and their arbiter. Every method is an event. `owners`:
    tenant and function of each member; by default, all are different.
    """

    owners: Sequence[str] = ()
    quota, budget_mib = UNBOUNDED, BUDGET_MIB
    limits = PoolLimits(max_instances=3)

    def __init__(
        self,
        sizes: list[float],
        make: Callable[..., Pool] = Pool,
        memory: Memory | None = None,
        arbiter: Callable[[Memory], Arbiter] = Arbiter,
        places: Callable[[], Places] = Places,
    ) -> None:
        self.memory = memory or Memory()
        self.memory.budget_mib = self._most = self.budget_mib
        self.make, self.warm_stock, self.places = make, WarmStock(self.memory), places
        sandboxes = cast("Any", self.warm_stock)
        self.arbitration = Arbitration(sandboxes, arbiter(self.memory), lambda: self)
        self.evicted: list[tuple[Member, int]] = []
        self.is_for_places, self.requests = False, 0
        self.log: list[tuple[Member, object]] = []
        self.timers: list[tuple[float, Callable[[], object]]] = []
        self.now = 1000.0
        self.members: list[Member] = []
        self.quotas: dict[str, Quota] = {}
        self.functions: dict[str, list[Member]] = {}
        for size, owner in zip(sizes, self.owners or map(str, range(len(sizes))), strict=True):
            quota = self.quotas.setdefault(owner.partition("/")[0], Quota(self.quota))
            versions = self.functions.setdefault(owner, [])
            self.members.append(Member(self, size, self.limits, quota, versions))
        self.note_used()
        for member in self.members:
            member.promote("old" if member.is_beside else "a")

    # The part of the event loop that `pool.arbitration` uses

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> None:
        assert when > self.now, "to look again at once would be a busy loop"
        self.timers.append((when, callback))

    def event(self, member: Member, do: Callable[[Member], object]) -> None:
        self._at(self.now + 1e-6)
        do(member)
        self.check()

    def pass_time(self, seconds: float) -> None:
        at_most = max(one.pool.limits.queue_wait_s for one in self.members) + 1.0
        # After `at_most` seconds, no invocation waits any more.
        for step in (min(seconds, at_most), seconds - at_most):
            if step >= 0.0:
                self._at(self.now + step)
                for member in self.members:
                    member.tick()
                    self.check()

    def measure(self, member: Member, choice: int) -> None:
        idle = member.those(lambda sandbox: sandbox.is_idle)
        if idle:
            member.measure(idle[choice % len(idle)], float(1 + choice % 20))
        self._most = max(self.budget_mib, self.memory.held_mib)
        self.check()

    # The arbiter's decisions

    def request(self, member: Member, wanted: Request) -> None:
        """Check that evictions are needed, sufficient, and in the right order."""
        self.requests += 1
        outer, self.evicted = self.evicted, []
        before, self.is_for_places = self.is_for_places, isinstance(wanted, actions.RequestPlaces)
        match wanted:
            case actions.RequestMemory(mib=mib):
                check = self._check_memory(mib)
            case actions.RequestQuota():
                check = self._check_looks(member)
            case actions.RequestPlaces(count=count):
                check = self._check_places(member, count)
        self.arbitration.request(member.pool, wanted)
        chosen = [(one.pool, number) for one, number in self.evicted]
        self.evicted, self.is_for_places = outer, before
        check(chosen)

    def _idle(self, quota: Quota | None = None) -> dict[Idle, EvictionCandidate]:
        pools = [one.pool for one in self.members if quota in (None, one.pool.quota)]
        found = [candidate for pool in pools for candidate in pool.eviction_candidates()]
        return {(cast("Pool", one.pool), one.instance): one for one in found}

    def _parked(self) -> set[Idle]:
        """The parked instances, according to the simulation's own records."""
        return {(one.pool, number) for one in self.members for number in one.kept}

    def _check_memory(self, mib: float) -> Callable[[list[Idle]], None]:
        lacking, prewarmed = self.memory.lacks(mib), self.memory.prewarmed_mib
        idle, parked = self._idle(), self._parked()

        def check(chosen: list[Idle]) -> None:
            if chosen:
                given = [idle[one].size_mib for one in chosen]
                assert prewarmed + sum(given) >= lacking - NEAR, "evicted, and it is not enough"
                assert prewarmed + sum(given[:-1]) < lacking, "evicted more than was needed"
                clock = self.memory.clock
                ready = [one for one in chosen if one not in parked]
                assert all(clock >= idle[one].worth for one in ready), "the clock stands still"
                _check_order(chosen, idle, parked)

        return check

    def _check_looks(self, member: Member | None = None) -> Callable[[list[Idle]], None]:
        """Check how often the arbiter seeks idle instances of a tenant, and how many it evicts."""
        short = {quota: -quota.leaving for quota in self.quotas.values()}
        for other in self.members:
            if other is member or other.pool in other.pool.quota.waiting:
                short[other.pool.quota] += other.pool.quota_shortfall
        idle = {quota: self._idle(quota) for quota in short}
        before, parked = {quota: quota.looked_at for quota in short}, self._parked()

        def check(chosen: list[Idle]) -> None:
            for quota, lacking in short.items():
                if quota.looked_at != before[quota]:
                    assert quota.looked_at - before[quota] >= LOOK_EVERY_S - NEAR, (
                        "looked too often"
                    )
                    of_tenant = [one for one in chosen if one[0].quota is quota]
                    count = min(len(idle[quota]), max(0, lacking))
                    assert len(of_tenant) == count, f"{len(of_tenant)} evicted instead of {count}"
                    _check_order(of_tenant, idle[quota], parked)

        return check

    def _check_places(self, member: Member, count: int) -> Callable[[list[Idle]], None]:
        others = [one for one in member.versions if one is not member and not one.waiting]
        idle = {
            (one.pool, number): one.is_beside
            for one in others
            for number in one.those(lambda sandbox: sandbox.is_idle)
            if one.is_beside or one.simulated[number].digest != one.pool.prepared
        }

        def check(chosen: list[Idle]) -> None:
            assert set(chosen) <= idle.keys(), "evicted for a version, and not in its way"
            assert len(chosen) == min(count, len(idle)), "places are not made"
            left = [idle[one] for one in idle.keys() - set(chosen)]
            is_first = all(idle[one] for one in chosen) or not any(left)
            assert is_first, "the current version gives way before another"

        return check

    # Invariants between two events

    def check(self) -> None:
        memory, books = self.memory, 0.0
        leaving = self.warm_stock.leaving * PREWARMED_MIB
        running = 0.0
        for member in self.members:
            books += sum(
                member.charge(number, sandbox) for number, sandbox in member.simulated.items()
            )
            leaving += sum(
                member.frozen[n] for n in member.those(lambda sandbox: sandbox.destroying)
            )
            running += member.limit_mib * len(member.running)
        books += (self.warm_stock.count + self.warm_stock.leaving) * PREWARMED_MIB
        assert running <= self.budget_mib + NEAR, "calls may use more than the machine has"
        assert abs(memory.held_mib - books) < NEAR, f"{memory.held_mib} held, really {books}"
        assert abs(memory.leaving_mib - leaving) < NEAR, "the wrong part of it leaves"
        assert memory.held_mib <= self._most + NEAR, "more than the budget is held"
        self._most = max(self.budget_mib, memory.held_mib)
        self._check_turn()
        self._check_counts()
        for member in self.members:
            member.check_nobody_waits_in_vain()

    def _check_turn(self) -> None:
        """Check that the invocation that has waited longest lacks memory: for a new instance
        or, if its pool has idle ones, for the growth of the smallest of them to the limit.
        """
        short = self.memory.waiting
        first = min(self.members, key=lambda each: short.get(each.pool, float("inf")))
        if first.pool not in short:
            return
        ready = first.those(lambda b: b.is_idle and b.digest == first.pool.current)
        has = min((first.charge(number, first.simulated[number]) for number in ready), default=0.0)
        if not ready and first.used >= first.pool.limits.max_instances:
            return
        assert not self.memory.fits(first.limit_mib - has), "there is memory for the first"

    def _check_counts(self) -> None:
        """Check the numbers of instances of each tenant and of each function."""
        for key, quota in self.quotas.items():
            there = self._count(one for one in self.members if one.pool.quota is quota)
            assert (quota.used, quota.leaving) == there, f"{quota} of {key}, really {there}"
            assert quota.used <= quota.limit, "more instances than the quota"
            assert quota.used == quota.limit or not quota.waiting, "waits, and there is capacity"
            lacking = [one for one in self.members if one.pool in quota.waiting and one.lacks_quota]
            assert self.timers or not lacking, "a call waits for its tenant, and nobody looks again"
        for key, versions in self.functions.items():
            places, most = versions[0].pool.places, versions[0].pool.limits.max_instances
            there = self._count(versions)
            assert (places.used, places.leaving) == there, f"{places} of {key}, really {there}"
            assert places.used <= max(most, self._used[key]), "more instances than the maximum"
        self.note_used()

    def note_used(self) -> None:
        """Record how many instances each function has: from now on, it may have at most these or,
        if that is more, its maximum.
        """
        self._used = {key: versions[0].used for key, versions in self.functions.items()}

    @staticmethod
    def _count(members: Iterable[Member]) -> tuple[int, int]:
        several = list(members)
        leaving = [one.those(lambda sandbox: sandbox.destroying) for one in several]
        return sum(len(one.simulated) for one in several), sum(map(len, leaving))

    def drain(self) -> None:
        """End all invocations, and begin no new ones. Every waiting invocation must be served in
        time, and each prepared version must become ready or be reported as failed.
        """
        waiting = [(one, waiter) for one in self.members for waiter in one.waiting]
        for _ in range(400):
            if not any(one.waiting or one.running or one.pool.prepared for one in self.members):
                break
            for member in self.members:
                if member.pool.prepared in member.ready_digests:
                    self.event(member, lambda w: w.promote(w.pool.prepared))  # type: ignore[arg-type]
                for numbers, complete in (
                    (member.starting, Member.started),
                    (member.leaving, Member.gone),
                    (member.cleaning, Member.cleaned),
                    (member.running, Member.release),
                ):
                    if numbers:
                        self.event(member, lambda w, n=numbers[0], do=complete: do(w, n))  # type: ignore[misc]
            self.warm_stock.gone()
            self.pass_time(0.006)
        assert not any(one.waiting for one in self.members), "somebody waits for ever"
        assert not any(one.pool.prepared for one in self.members), "a deploy waits for ever"
        for member, waiter in waiting:
            answer = member.answers[waiter]
            assert isinstance(answer, actions.Assign) or self._was_late(member, waiter), answer

    def _was_late(self, member: Member, waiter: int) -> bool:
        return isinstance(getattr(member.answers[waiter], "why", None), actions.Full)

    def _at(self, now: float) -> None:
        """Run the timers that are due until `now`."""
        while due := [at for at, _ in self.timers if at <= now]:
            timer = next(timer for timer in self.timers if timer[0] == min(due))
            self.timers.remove(timer)
            self._be_at(timer[0])
            check, outer, self.evicted = self._check_looks(), self.evicted, []
            timer[1]()
            chosen, self.evicted = [(one.pool, number) for one, number in self.evicted], outer
            check(chosen)
            self.check()
        self._be_at(now)

    def _be_at(self, now: float) -> None:
        self.now = now
        for member in self.members:
            member.now = now


def _check_order(
    chosen: list[Idle], idle: dict[Idle, EvictionCandidate], parked: set[Idle]
) -> None:
    """Check that parked instances are evicted first, then ready ones of the least value."""
    ready = [one for one in chosen if one not in parked]
    spared = idle.keys() - set(chosen)
    assert not ready or not spared & parked, "a parked one stays, and a ready one goes"
    least = min((idle[one].worth for one in spared - parked), default=float("inf"))
    assert all(idle[one].worth <= least for one in ready), "worth more than one that stays"
