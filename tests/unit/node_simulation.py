"""Several simulated pools on one node, which share its memory, and a warm stock of sandboxes.

The node keeps its own records of what counts against the budget, and fails where a promise over all
pools is broken.
"""

from collections.abc import Callable
from typing import Any, cast

from quiltfn.model.actions import Action, Destroy, RequestMemory
from quiltfn.model.keepalive import KeepAlive
from quiltfn.model.memory import Footprint, Memory
from quiltfn.model.pool import Pool, PoolLimits
from quiltfn.pool.memory_arbiter import MemoryArbiter
from quiltfn.ports import Sandboxes
from unit.pool_simulation import PoolSimulation, SimulatedSandbox

# A little more than the limits of calls add up to, so that not every idle one has to leave.
BUDGET_MIB, PREWARMED_MIB, IDLE_MIB = 1030.0, 6.0, 4.0
NEAR = 1e-3
Arbiters = Callable[[Sandboxes, Memory, Callable[[], KeepAlive | None]], MemoryArbiter]


class WarmStock:
    """`ports.Sandboxes` as far as an arbiter knows them."""

    def __init__(self, memory: Memory) -> None:
        self.memory, self.count, self.leaving = memory, 0, 0
        self.freed: Callable[[], None] = lambda: None

    def fill(self) -> None:
        if self.memory.fits(PREWARMED_MIB) and not self.memory.waiting:
            self.count += 1
            self.memory.prewarmed_mib += PREWARMED_MIB
            self.memory.count(PREWARMED_MIB)

    def give_up(self, mib: float, freed: Callable[[], None]) -> None:
        while self.count and mib > 0:
            self.count, self.leaving, mib = self.count - 1, self.leaving + 1, mib - PREWARMED_MIB
            self.memory.prewarmed_mib -= PREWARMED_MIB
            self.memory.leaving_mib += PREWARMED_MIB
        self.freed = freed

    def gone(self) -> None:
        mib, self.leaving = self.leaving * PREWARMED_MIB, 0
        self.memory.leaving_mib -= mib
        self.memory.count(-mib)
        self.freed()


class Member(PoolSimulation):
    """One function's simulated pool on the node; also a `pool.memory_arbiter.Member`."""

    def __init__(self, machine: "NodeSimulation", limit_mib: float, limits: PoolLimits) -> None:
        self.machine, self.limit_mib = machine, limit_mib
        self.begun: dict[int, float] = {}  # what those being made count
        self.uses: dict[int, float] = {}
        self.frozen: dict[int, float] = {}  # what those leaving count until they are gone
        super().__init__(limits, lambda chosen: machine.make(chosen, machine.memory))
        machine.arbiter.add(self)  # type: ignore[arg-type]

    @property
    def model(self) -> Pool:
        return self.pool

    def provide(self) -> None:
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
        least = self.pool.limits.min_instances
        assert not serves or len(left) >= least, "the minimum was evicted"

    def measure(self, number: int, mib: float) -> None:
        self.uses[number] = mib
        self.pool.measured(number, mib)
        self.machine.arbiter.serve_waiting()

    def footprint(self, digest: str) -> Footprint:
        parks = self.parks(digest)
        return Footprint(limit_mib=self.limit_mib, idle_mib=IDLE_MIB, parks=parks)

    def charge(self, number: int, sandbox: SimulatedSandbox) -> float:
        """What it counts, from what it is doing."""
        if number in self.frozen:
            return self.frozen[number]
        if sandbox.pending:
            return self.begun[number]
        if sandbox.holder is not None or sandbox.cleaning or sandbox.is_sick:
            return self.limit_mib
        return self.uses.get(number, IDLE_MIB)

    def _perform(self, actions: list[Action], *, is_tick: bool = False) -> None:
        for action in actions:
            if isinstance(action, Destroy):
                number = action.instance
                self.frozen[number] = self.charge(number, self.simulated[number])
        super()._perform(actions, is_tick=is_tick)
        for action in actions:
            if isinstance(action, RequestMemory):
                self.machine.free_memory(action.mib)
        self.machine.arbiter.serve_waiting()

    def _start(self, number: int, digest: str) -> None:
        super()._start(number, digest)
        self.begun[number] = self.pool.instances[number].charge_mib
        assert self.begun[number] in (self.limit_mib, IDLE_MIB)

    def _assign(self, number: int, waiter: int, cold: bool) -> None:
        since = self.waiting[waiter]
        for other, waits in self.machine.memory.waiting.items():
            assert other is self.pool or waits >= since, "served before its turn"
        super()._assign(number, waiter, cold)


class NodeSimulation:
    """Members, their memory, and the arbiter between them. Every method is an event."""

    def __init__(
        self,
        sizes: list[float],
        make: Callable[[PoolLimits, Memory], Pool] = Pool,
        memory: Memory | None = None,
        arbiter: Arbiters = MemoryArbiter,
    ) -> None:
        self.memory = memory or Memory()
        self.memory.budget_mib = BUDGET_MIB
        self.make, self.warm_stock = make, WarmStock(self.memory)
        self.arbiter = arbiter(cast("Any", self.warm_stock), self.memory, lambda: None)
        self.evicted: list[tuple[Member, int]] = []
        self.now, self._most = 1000.0, BUDGET_MIB
        self.members = [Member(self, size, PoolLimits(max_instances=3)) for size in sizes]
        for one in self.members:
            one.promote("a")

    def event(self, member: Member, do: Callable[[Member], object]) -> None:
        self._at(self.now + 1e-6)
        do(member)
        self.check()

    def pass_time(self, seconds: float) -> None:
        self._at(self.now + seconds)
        for one in self.members:
            one.tick()
            self.check()

    def measure(self, member: Member, choice: int) -> None:
        idle = member.those(lambda sandbox: sandbox.is_idle)
        if idle:
            member.measure(idle[choice % len(idle)], float(1 + choice % 20))
        self._most = max(BUDGET_MIB, self.memory.held_mib)
        self.check()

    def free_memory(self, mib: float) -> None:
        """The arbiter does; what it ends must be needed, enough, and worth the least."""
        memory, outer = self.memory, self.evicted
        lacking, prewarmed = memory.lacks(mib), memory.prewarmed_mib
        candidates = [spare for one in self.members for spare in one.pool.eviction_candidates()]
        by_books = {
            (one.pool, number)
            for one in self.members
            for number in one.those(lambda sandbox: sandbox.is_parked and not sandbox.destroying)
        }
        sizes = {(one.pool, one.instance): one.size_mib for one in candidates}
        worths = {(one.pool, one.instance): one.worth for one in candidates}
        self.evicted = []
        self.arbiter.free_memory(mib)
        chosen = [(one.pool, number) for one, number in self.evicted]
        self.evicted = outer
        if not chosen:
            return
        given = [sizes[one] for one in chosen]
        assert prewarmed + sum(given) >= lacking - NEAR, "evicted, and it is not enough"
        assert prewarmed + sum(given[:-1]) < lacking, "evicted more than was needed"
        ready = [one for one in chosen if one not in by_books]
        spared = sizes.keys() - set(chosen)
        assert not ready or not spared & by_books, "a parked one stays, and a ready one goes"
        least = min((worths[one] for one in spared - by_books), default=float("inf"))
        assert all(worths[one] <= least for one in ready), "worth more than one that stays"
        assert all(memory.clock >= worths[one] for one in ready), "the clock stands still"

    def check(self) -> None:
        memory, books = self.memory, 0.0
        leaving = self.warm_stock.leaving * PREWARMED_MIB
        running = 0.0
        for one in self.members:
            books += sum(one.charge(number, sandbox) for number, sandbox in one.simulated.items())
            leaving += sum(one.frozen[n] for n in one.those(lambda sandbox: sandbox.destroying))
            running += one.limit_mib * len(one.running)
        books += (self.warm_stock.count + self.warm_stock.leaving) * PREWARMED_MIB
        assert running <= BUDGET_MIB + NEAR, "calls may use more than the machine has"
        assert abs(memory.held_mib - books) < NEAR, f"{memory.held_mib} held, really {books}"
        assert abs(memory.leaving_mib - leaving) < NEAR, "the wrong part of it leaves"
        assert memory.held_mib <= self._most + NEAR, "more than the budget is held"
        self._most = max(BUDGET_MIB, memory.held_mib)
        self._check_turn()

    def _check_turn(self) -> None:
        """Who has waited for the longest waits because there is no memory, whichever idle one of
        its own it would be handed."""
        short = self.memory.waiting
        first = min(self.members, key=lambda one: short.get(one.pool, float("inf")))
        if first.pool not in short:
            return
        ready = first.those(lambda b: b.is_idle and b.digest == first.pool.current)
        has = min((first.charge(number, first.simulated[number]) for number in ready), default=0.0)
        if not ready and len(first.simulated) >= first.pool.limits.max_instances:
            return
        assert not self.memory.fits(first.limit_mib - has), "there is memory for the first"

    def drain(self) -> None:
        """Calls end, and nothing new comes: everybody who waits is served in time."""
        waiting = [(one, waiter) for one in self.members for waiter in one.waiting]
        for one in self.members:
            if one.pool.prepared is not None:
                self.event(one, PoolSimulation.abandon)
        for _ in range(400):
            if not any(one.waiting or one.running for one in self.members):
                break
            for one in self.members:
                for numbers, complete in (
                    (one.starting, Member.started),
                    (one.leaving, Member.gone),
                    (one.cleaning, Member.cleaned),
                    (one.running, Member.release),
                ):
                    if numbers:
                        self.event(one, lambda w, n=numbers[0], do=complete: do(w, n))  # type: ignore[misc]
            self.warm_stock.gone()
            self.pass_time(0.006)
        assert not any(one.waiting for one in self.members), "somebody waits for ever"
        for one, waiter in waiting:
            answer = one.answers[waiter]
            assert type(answer).__name__ == "Assign" or self._was_late(one, waiter), answer

    def _was_late(self, one: Member, waiter: int) -> bool:
        return getattr(one.answers[waiter], "why", "") in ("waited too long", "no room")

    def _at(self, now: float) -> None:
        self.now = now
        for one in self.members:
            one.now = now
