"""FunctionPool: one function's sandboxes. Passes events to the pure pool (`model/pool.py`), and
performs the actions that it returns.

An invocation gets an instance in `acquire` or, after a wait, in `_perform`, and returns the
instance in `PoolLease.__aexit__`.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import TracebackType
from typing import NamedTuple

import msgspec
import structlog

from quiltfn.base.task_group import TaskGroup
from quiltfn.model import actions as decided
from quiltfn.model.counts import Headroom
from quiltfn.model.errors import QuiltfnError, RuntimeUnavailable, ShuttingDown
from quiltfn.model.instance import InstanceState
from quiltfn.model.invocation import CallResult, ExitKind
from quiltfn.model.pool import NEVER, Pool, PoolLimits
from quiltfn.model.pool_load import PoolLoad
from quiltfn.model.runtime import Kind
from quiltfn.model.timeline import StartTiming
from quiltfn.model.version import Version
from quiltfn.observe import metrics
from quiltfn.pool.allowance import Allowance
from quiltfn.pool.arbitration import Arbitration
from quiltfn.pool.refusals import refusal
from quiltfn.ports import (
    Call,
    Clock,
    EgressRefusals,
    InstanceView,
    NotPrepared,
    Sandbox,
    SandboxCounters,
    Sandboxes,
    SandboxFailed,
    SandboxRefused,
)

_log = structlog.get_logger("quiltfn.pool")
NOTHING = SandboxCounters()
# Maximum number of refused destinations kept for a function: the first ones.
DESTINATIONS_MAX = 100
ENDED_BY_ITSELF = (ExitKind.EXITED, ExitKind.SIGNALLED, ExitKind.BODY_CUT)


class PoolLease:
    """One instance for one invocation, from `async with` to its end. `ports.Lease` inside the
    block.
    """

    __slots__ = (
        "_call",
        "_ended_well",
        "_pool",
        "_sandbox",
        "_used",
        "_waiter",
        "instance",
        "start_timing",
        "version",
    )

    version: Version
    start_timing: StartTiming | None

    def __init__(self, pool: "FunctionPool") -> None:
        self._pool = pool
        self._waiter = 0
        self._used = False
        self._ended_well = False
        self._sandbox: Sandbox | None = None
        self._call: Call | None = None

    def enter_at_once(self) -> "PoolLease | None":
        found = self._pool.acquire_at_once()
        if found is None:
            return None
        self._waiter, self.instance = found.waiter, found.instance
        self.start_timing, self.version = None, self._pool.version_of(found.instance)
        return self

    async def __aenter__(self) -> "PoolLease":
        pool = self._pool
        self._waiter, handed = pool.acquire()
        if isinstance(handed, decided.Assign):  # warm: no wait
            self.instance, cold = handed.instance, handed.cold
        else:
            try:
                self.instance, cold = await handed
            except asyncio.CancelledError:
                # The waiter may have got an instance in this step, which `cancel` then returns.
                pool.cancel(self._waiter)
                raise
        self.start_timing = pool.start_timings[self.instance] if cold else None
        self.version = pool.version_of(self.instance)
        return self

    @property
    def cold_start(self) -> bool:
        return self.start_timing is not None

    async def call(self, call: Call) -> CallResult:
        self._used, self._sandbox = True, self._pool.sandboxes[self.instance]
        self._call = call
        if self.version.spec.runtime_snapshot.kind is Kind.SERVER:
            result = await self._call_shared(self._sandbox, call)
        else:
            result = await self._sandbox.call(call)
        self._note(result)
        return result

    def start(self, call: Call, on_end: Callable[[CallResult], None]) -> None:
        def ended(result: CallResult) -> None:
            self._note(result)
            on_end(result)

        self._used, self._sandbox = True, self._pool.sandboxes[self.instance]
        self._call = call
        self._sandbox.start(call, ended)

    def _note(self, result: CallResult) -> None:
        self._ended_well = result.kind in ENDED_BY_ITSELF and not result.out_of_memory

    async def _call_shared(self, sandbox: Sandbox, call: Call) -> CallResult:
        """Call a shared sandbox; the result has this invocation's share of the time."""
        now, time = self._pool.now, self._pool.model.instances[self.instance].time
        begun, share = time.enter(now()), 0.0
        try:
            result = await sandbox.call(call)
        finally:
            share = time.leave(now(), begun)
        return msgspec.structs.replace(result, share_us=round(share * 1_000_000))

    def end_call(self, kind: ExitKind, by: str) -> bool:
        return self._pool.sandboxes[self.instance].end_call(kind, by, self._call)

    def withdraw(self, error: Exception) -> None:
        self._pool.withdraw(self._waiter, error)

    async def ended(self) -> None:
        is_shared = self._pool.is_shared(self.instance) if self._used else False
        if self._sandbox is not None and not self._ended_well and not is_shared:
            await self._sandbox.stopped()

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.leave()

    def leave(self) -> None:
        if self._used:
            self._pool.release(self.instance, self._waiter, healthy=self._ended_well)
        else:
            self._pool.cancel(self._waiter)


class PinnedLease(PoolLease):
    """A lease for an invocation that names its version. `find`: returns the pool that now serves
    the version; called again if the version stopped being current while the invocation waited.
    """

    __slots__ = ("_find", "_pinned")

    def __init__(self, version: Version, find: "Callable[[Version], FunctionPool]") -> None:
        super().__init__(find(version))
        self._pinned, self._find = version, find

    async def __aenter__(self) -> "PoolLease":
        await super().__aenter__()
        while self.version.id != self._pinned.id:
            self._pool.cancel(self._waiter)
            self._pool = self._find(self._pinned)
            await super().__aenter__()
        return self


class Preparation:
    """`ports.Preparation`: one version in one pool, whose instances are ready or starting."""

    __slots__ = ("_pool", "limits", "limits_before", "ready", "version")

    def __init__(
        self, pool: "FunctionPool", version: Version, limits: PoolLimits, before: PoolLimits
    ) -> None:
        self._pool, self.version = pool, version
        self.limits, self.limits_before = limits, before
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def promote(self, version: Version | None = None) -> bool:
        return self._pool.promote(self, version or self.version)

    def succeed(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)


class PoolOwner(NamedTuple):
    """Callbacks of a pool; they must not raise or wait. `changed`: its instances changed;
    `lacks_parked`: an instance should be started only to be parked (`park`); `used`: gets the usage
    of an instance since the last report. `problem`: returns why no instance may start at the
    moment; empty: one may.
    """

    changed: "Callable[[FunctionPool], None]"
    lacks_parked: Callable[[], None]
    used: Callable[[SandboxCounters], None]
    problem: Callable[[], str]


class FunctionPool:
    """One function's pure pool, and the sandboxes and futures behind its numbers."""

    def __init__(
        self,
        sandboxes: Sandboxes,
        clock: Clock,
        model: Pool,
        arbitration: Arbitration,
        owner: PoolOwner,
    ) -> None:
        self._source, self._clock, self._arbitration = sandboxes, clock, arbitration
        self.now = clock.now
        # The limits of the whole function; on a node of a fleet, `allowance` has this node's share.
        self.limits = model.limits
        self.allowance: Allowance | None = None
        self.model = model
        # In a function's own pool: the pools of other versions that are invoked, by version id.
        self.beside: dict[str, FunctionPool] = {}
        arbitration.add(self)
        self._tell_changed, self._tell_lacks_parked, self._tell_used, self._problem = owner
        self.sandboxes: dict[int, Sandbox] = {}
        self._specialising: dict[int, Sandbox] = {}
        self.start_timings: dict[int, StartTiming] = {}
        self._versions: dict[str, Version] = {}
        self._notes: dict[str, str] = {}
        self._waiters: dict[int, asyncio.Future[tuple[int, bool]]] = {}
        self._preparation: Preparation | None = None
        self._waiter_numbers = itertools.count(1)
        self._tasks = TaskGroup()
        self.egress_before = EgressRefusals()  # refused by the networks of instances that are gone
        self._emptied = asyncio.Event()
        self._wake: asyncio.TimerHandle | None = None
        self._wake_time = 0.0
        self._measured = self._metered = 0.0
        # The last counters read of each instance.
        self._counters: dict[int, SandboxCounters] = {}

    # Invocations -----------------------------------------------------------------------------

    def acquire(self) -> tuple[int, "decided.Assign | asyncio.Future[tuple[int, bool]]"]:
        """The number of a new waiter, and either an instance at once or a future. The future's
        result is the instance, and whether the invocation is cold.
        """
        waiter = next(self._waiter_numbers)
        actions = self.model.acquire(waiter, self._clock.now())
        match actions:
            case [decided.Assign(waiter=to) as hand] if to == waiter:
                self._tell_changed(self)
                return waiter, hand
        future: asyncio.Future[tuple[int, bool]] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = future
        self._perform(actions)
        return waiter, future

    def acquire_at_once(self) -> decided.Assign | None:
        """A ready instance for a new waiter. Returns None, without effect, if it had to wait, and
        for web servers.
        """
        version = self._versions.get(self.model.current or "")
        if version is None or version.spec.runtime_snapshot.kind is Kind.SERVER:
            return None
        found = self.model.acquire_at_once(next(self._waiter_numbers), self._clock.now())
        if found is not None:
            self._tell_changed(self)
        return found

    def cancel(self, waiter: int) -> None:
        self._waiters.pop(waiter, None)
        number = self.model.held_by(waiter)
        if number is not None and not self.sandboxes[number].is_alive:
            self.release(number, waiter, healthy=False)
        else:
            self._perform(self.model.cancel(waiter, self._clock.now()))

    def withdraw(self, waiter: int, error: Exception) -> None:
        """End a wait with `error`, unless it is over."""
        future = self._waiters.get(waiter)
        if future is not None and not future.done():
            future.set_exception(error)
            # Marks it as retrieved: the waiting task may be cancelled in this step.
            future.exception()
            self.cancel(waiter)

    def release(self, number: int, waiter: int, *, healthy: bool) -> None:
        sandbox, now = self.sandboxes[number], self._clock.now()
        healthy = healthy and sandbox.is_alive
        actions = self.model.release(number, now, healthy=healthy, waiter=waiter)
        if healthy and sandbox.is_clean:  # reported clean before the result was read
            actions += self.model.cleaned(number, now)
        self._perform(actions)

    def is_shared(self, number: int) -> bool:
        """Whether the instance runs an invocation."""
        instance = self.model.instances.get(number)
        return instance is not None and bool(instance.holders)

    def serves(self, version: Version) -> bool:
        """Whether this version is the current one of the pool."""
        current = self._versions.get(self.model.current or "")
        return current is not None and current.id == version.id

    def version_of(self, number: int) -> Version:
        """The version of an instance; the latest if versions with equal specs share it."""
        return self._versions[self.model.instances[number].digest]

    def instances(self, function_id: str) -> list[InstanceView]:
        """The pool's instances, as an operator sees them."""
        now = self._clock.now()
        return [
            InstanceView(
                function_id=function_id,
                number=one.id,
                version=self._versions[one.digest].number,
                state=one.state,
                memory_mib=one.charge_mib,
                age_s=now - one.made_at,
                in_state_s=now - one.since,
                start_reason=one.reason,
            )
            for one in self.model.instances.values()
        ]

    def adopt_kept(self, other: "FunctionPool", digest: str) -> None:
        """Take over the instances that the function's own pool keeps for a rollback to this
        version, so that its callers continue with them after an update.
        """
        now, taken = self._clock.now(), []
        for instance in other.model.hand_over(digest):
            before, number = instance.id, self.model.take_in(instance, now)
            taken.append(number)
            sandbox = self.sandboxes[number] = other.sandboxes.pop(before)
            self.start_timings[number] = other.start_timings.pop(before)
            self._counters[number] = other._counters.pop(before, NOTHING)
            sandbox.watch(partial(self._cleaned, number), partial(self._lost, number))
        if taken:
            other._look_after_end()
        # Only now that this pool counts all of them: these actions may start other instances in
        # free places.
        for number in taken:
            self._perform(self.model.adopted(number, now))

    # Lifecycle -------------------------------------------------------------------------------

    @asynccontextmanager
    async def prepared(
        self, version: Version, limits: PoolLimits, count: int
    ) -> AsyncIterator[Preparation]:
        """`ports.Pools.prepared`."""
        async with contextlib.AsyncExitStack() as stack:
            if self.allowance is not None:
                most = min(self.model.places.used + count, limits.max_instances)
                await stack.enter_async_context(self.allowance.reserved(most, self._ask))
            preparation = self._prepare(version, limits, count)
            stack.callback(self._roll_back, preparation)
            await preparation.ready
            yield preparation

    def _ask(self) -> None:
        """Report wanted capacity."""
        self._tell_changed(self)

    def _prepare(self, version: Version, limits: PoolLimits, count: int) -> Preparation:
        now, before, earlier = self._clock.now(), self.limits, self._preparation
        if earlier is not None:
            earlier.fail(NotPrepared("another version is being prepared instead"))
            before = earlier.limits_before if before is earlier.limits else before
        preparation = Preparation(self, version, limits, before)
        self._versions.setdefault(version.digest, version)
        self.set_scaling(limits)
        # Set after the line above, whose events may concern an earlier preparation.
        self._preparation = preparation
        footprint = version.spec.footprint()
        self._perform(self.model.prepare(version.digest, count, now, footprint))
        return preparation

    def _roll_back(self, preparation: Preparation) -> None:
        """End the preparation, unless it was promoted, or the pool was closed or prepares another
        version.
        """
        if self._preparation is not preparation:
            return
        self._preparation = None
        if self.model.prepared == preparation.version.digest:
            self._perform(self.model.abandon(self._clock.now()))
        if self.limits is preparation.limits:  # no other limits were set meanwhile
            self.set_scaling(preparation.limits_before)
        self._forget_versions()

    def promote(self, preparation: Preparation, version: Version) -> bool:
        """Make `version` current. Returns False, without effect, if the preparation is over."""
        if self._preparation is not preparation:
            return False
        self._preparation = None
        self.serve(version)
        return True

    def serve(self, version: Version) -> None:
        """Give `version` to every new and waiting invocation, and end any preparation."""
        preparation, self._preparation = self._preparation, None
        if preparation is not None:
            preparation.fail(NotPrepared(f"version {version.number} serves meanwhile"))
        self._versions[version.digest] = version
        footprint = version.spec.footprint()
        self._perform(self.model.promote(version.digest, self._clock.now(), footprint))
        self._forget_versions()
        self._look_for_parked()

    def _forget_versions(self) -> None:
        """Forget versions that are neither current, nor being prepared, nor have an instance."""
        used = {self.model.current, self.model.prepared}
        used |= {one.digest for one in self.model.instances.values()}
        self._versions = {key: one for key, one in self._versions.items() if key in used}
        self._notes = {key: note for key, note in self._notes.items() if key in used}

    @property
    def note(self) -> str:
        """The note of the current version's newest instance; usually empty."""
        return self._notes.get(self.model.current or "", "")

    def load(self, function_id: str) -> PoolLoad | None:
        """The pool's load; None: it serves no invocations."""
        model = self.model
        if model.current is None:
            return None
        version, slots = self._versions[model.current].number, model.limits.max_instances
        waiting = len(model.queue.waiting)
        if not model.instances:  # a shortcut, frequent if most invocations go to other nodes
            return PoolLoad(function_id, version, waiting=waiting, slots=slots)
        counts = model.counts()
        return PoolLoad(
            function_id=function_id,
            version=version,
            idle=model.idle(),
            busy=counts.busy,
            waiting=waiting,
            slots=slots,
            warming=counts.warming,
            ready=counts.ready,
            recycling=counts.recycling,
            terminating=counts.terminating,
            parked=counts.parked,
            memory_mib=counts.memory_mib,
        )

    def close(self, why: decided.Closed) -> None:
        self._perform(self.model.close(why, self._clock.now()))
        preparation, self._preparation = self._preparation, None
        error: QuiltfnError | NotPrepared = NotPrepared(f"the function became {why} meanwhile")
        if why is decided.Closed.STOPPING:
            error = ShuttingDown(retry_after=5)
        if preparation is not None:
            preparation.fail(error)
        if self.allowance is not None:
            self.allowance.give_up(error)

    def set_scaling(self, limits: PoolLimits) -> None:
        self.limits = limits
        bounded = limits if self.allowance is None else self.allowance.bounded(limits)
        # The other versions' pools end their instances above the maximum before this pool does.
        for pool in self.beside.values():
            pool.set_scaling(bounded.beside)
        self._perform(self.model.set_scaling(bounded, self._clock.now()))

    # On a node of a fleet --------------------------------------------------------------------

    def allow(self, count: int, reachable: int) -> None:
        """Allow `count` instances from now on, and probably `reachable` once the pool asks for
        them.
        """
        is_new = self.allowance is None
        self.allowance = self.allowance or Allowance()
        if self.allowance.set(count, reachable) or is_new:
            self.set_scaling(self.limits)

    def wanted(self, beside: int = 0) -> int:
        """The number of instances that the function has, and if the allowance limits it, also those
        that it needs for invocations, for the minimum and for a preparation. `beside`: the number
        that other versions need.
        """
        allowance, there = self.allowance, self.model.places.used
        if allowance is None:
            return there
        wanted = there
        if there >= allowance.count:  # otherwise memory or a quota limits it
            wanted += self.lacking() + beside
        return min(self.limits.max_instances, max(wanted, allowance.reservation))

    def lacking(self) -> int:
        """The number of instances that the pool would start now if its maximum allowed them."""
        return self.model.lacking(self._clock.now())

    def evict_idle(self, most: int) -> int:
        """End up to `most` idle instances for another node; return the number."""
        chosen = self.model.eviction_candidates()[: max(0, most)]
        for candidate in chosen:
            self.evict(candidate.instance)
        return len(chosen)

    def headroom(self) -> Headroom:
        if self.allowance is None:
            return self.model.headroom()
        return self.model.headroom(min(self.allowance.reachable, self.limits.max_instances))

    def tick(self) -> None:
        self._perform(self.model.tick(self._clock.now()))

    def provide(self) -> None:
        self._perform(self.model.provide(self._clock.now()))

    def evict(self, number: int) -> None:
        function, why = self.version_of(number).function_id, "others need its memory or its place"
        _log.info(f"an instance was evicted: {why}", function=function, instance=number)
        metrics.count_eviction()
        self._perform(self.model.evict(number, self._clock.now()))

    async def park(self) -> None:
        """Start an instance to be parked, if the model says so; return after the start."""
        for action in self.model.park(self._clock.now()):
            assert isinstance(action, decided.Start), "only a start is decided"
            self._tell_changed(self)
            start = self._start(action.instance, self._versions[action.digest])
            # The start continues if this is cancelled.
            await asyncio.wait([self._tasks.spawn(start)])
            await self.measure()

    def lacks_parked(self) -> bool:
        return self.model.lacks_parked(self._clock.now())

    def _look_for_parked(self) -> None:
        # Postponed starts count as well: they become due later.
        if self.model.lacks_parked(NEVER):
            self._tell_lacks_parked()

    def quota_exhausted(self) -> None:
        self._perform(self.model.quota_exhausted(self._clock.now()))

    async def measure(self) -> None:
        """Measure the memory of instances that became idle since the last measurement."""
        before, self._measured = self._measured, self._clock.now()
        for number, sandbox in list(self.sandboxes.items()):
            instance = self.model.instances.get(number)
            if instance is None or not instance.is_idle or instance.since < before:
                continue
            since = instance.since
            with contextlib.suppress(SandboxFailed):  # the instance ended meanwhile
                used = await sandbox.used_mib()
                # Otherwise an invocation ran in it meanwhile.
                if instance.is_idle and instance.since == since:
                    self.model.measured(number, used)
                    self._tell_changed(self)

    async def end_running(self, kind: ExitKind, by: str) -> None:
        """End running invocations with this outcome, and wait until every instance is gone."""
        for number, sandbox in list(self.sandboxes.items()):
            if self.model.instances[number].state is InstanceState.BUSY:
                sandbox.end_call(kind, by)
        await self.wait_empty()

    async def wait_empty(self) -> None:
        """Wait until every instance is gone."""
        while self.model.instances:
            self._emptied.clear()
            await self._emptied.wait()

    async def egress(self) -> EgressRefusals:
        """Connection attempts that the networks of the pool's instances have refused."""
        alive = list(self.sandboxes.values())
        counters = await asyncio.gather(*(sandbox.counters() for sandbox in alive))
        return sum_egress([self.egress_before, *map(egress_of, counters)])

    def count_egress(self, refused: EgressRefusals) -> None:
        """Count attempts by networks of instances that are gone."""
        self.egress_before = sum_egress([self.egress_before, refused])

    async def meter(self) -> None:
        """Read the counters of instances that were used since the last read."""
        before, self._metered = self._metered, self._clock.now()
        for number, sandbox in list(self.sandboxes.items()):
            instance = self.model.instances.get(number)
            if instance is None or (instance.is_idle and instance.since < before):
                continue
            with contextlib.suppress(SandboxFailed):
                counters = await sandbox.counters()
                if number in self.sandboxes:  # otherwise its end was counted meanwhile
                    self._use(number, counters)

    def _use(self, number: int, counters: SandboxCounters) -> None:
        """Report an instance's usage since the last read of its counters."""
        before = self._counters.get(number, NOTHING)
        self._counters[number] = counters
        self._tell_used(
            SandboxCounters(
                blocked=counters.blocked - before.blocked, cpu_us=counters.cpu_us - before.cpu_us
            )
        )

    # Performing actions ------------------------------------------------------------------------

    def _perform(self, actions: list[decided.Action]) -> None:
        for action in actions:
            match action:
                case decided.Assign(instance=instance, waiter=waiter, cold=cold):
                    self._assign(waiter, instance, cold)
                case decided.Start(instance=instance, digest=digest):
                    self._tasks.spawn(self._start(instance, self._versions[digest]))
                case decided.Destroy(instance=instance):
                    self._end(instance)
                case decided.Refuse(waiter=waiter, why=why, retry_after_s=retry_after_s):
                    self._fail(waiter, refusal(why, retry_after_s, self._problem()))
                case decided.Fail(waiter=waiter, instance=instance, reason=reason):
                    error = RuntimeUnavailable(reason)
                    error.start_timing = self.start_timings[instance]
                    self._fail(waiter, error)
                case decided.Unpark(instance=instance):
                    now = self._clock.now()
                    reason = self.model.instances[instance].reason
                    self.start_timings[instance] = StartTiming(reason, now, now, now)
                case (
                    decided.RequestMemory() | decided.RequestQuota() | decided.RequestPlaces()
                ) as wanted:
                    self._arbitration.request(self.model, wanted)
                case decided.TickAt(at=at):
                    self._wake_at(at)
                case decided.Prepared(digest=digest):
                    self._end_preparation(digest, None)
                case decided.PrepareFailed(digest=digest, reason=reason, written=written):
                    self._end_preparation(digest, NotPrepared(reason, written))
        self._arbitration.serve(self.model)
        self._tell_changed(self)

    def _end(self, number: int) -> None:
        if number in self.sandboxes:
            self._tasks.spawn(self._destroy(number, self.sandboxes[number]))
        elif number in self._specialising:  # ended now, since loading a module may take minutes
            self._tasks.spawn(self._specialising[number].destroy())

    def _end_preparation(self, digest: str, error: NotPrepared | None) -> None:
        preparation = self._preparation
        if preparation is not None and preparation.version.digest == digest:
            if error is None:
                preparation.succeed()
            else:
                preparation.fail(error)

    def _assign(self, waiter: int, instance: int, cold: bool) -> None:
        future = self._waiters.pop(waiter)
        # Otherwise the wait was cancelled a moment ago, and `cancel` returns the instance.
        if not future.done():
            future.set_result((instance, cold))

    def _fail(self, waiter: int, error: QuiltfnError) -> None:
        future = self._waiters.pop(waiter)
        if not future.done():
            future.set_exception(error)

    async def _start(self, number: int, version: Version) -> None:
        reason = self.model.instances[number].reason
        self.start_timings[number] = StartTiming(reason, self._clock.now())
        try:
            sandbox = await self._make(number, version)
        except Exception as error:
            why = str(error)
            if not isinstance(error, SandboxFailed | SandboxRefused):
                # Bugs must not leak instance capacity.
                _log.exception("an instance could not be made", function=version.function_id)
                why = "an instance could not be created; check the server's log"
            written = error.written if isinstance(error, SandboxRefused) else ""
            self._perform(self.model.failed(number, why, self._clock.now(), written))
            del self.start_timings[number]
            self._look_after_end()
            return
        self.sandboxes[number] = sandbox
        if self.model.instances[number].state is InstanceState.TERMINATING:
            await self._destroy(number, sandbox)
            return
        sandbox.watch(lambda: self._cleaned(number), lambda: self._lost(number))
        self._perform(self.model.started(number, self._clock.now()))
        if not sandbox.is_alive:  # the sandbox ended before it was watched
            self._lost(number)

    async def _make(self, number: int, version: Version) -> Sandbox:
        start_timing = self.start_timings[number]
        sandbox = await self._source.create(version.spec)
        start_timing.placed = self._clock.now()
        self._specialising[number] = sandbox
        try:
            if self.model.instances[number].state is InstanceState.TERMINATING:
                raise SandboxFailed("nobody needs the instance any more")
            await sandbox.specialise(version.spec)
            start_timing.specialised = self._clock.now()
        except BaseException:
            await sandbox.destroy()
            raise
        finally:
            del self._specialising[number]
        self._notes[version.digest] = sandbox.note
        if sandbox.note:
            _log.info("an instance has a note", function=version.function_id, note=sandbox.note)
        return sandbox

    async def _destroy(self, number: int, sandbox: Sandbox) -> None:
        await sandbox.destroy()
        counters = await sandbox.counters()
        self._use(number, counters)
        del self._counters[number]
        blocked = counters.blocked
        if blocked:
            function = self._versions[self.model.instances[number].digest].function_id
            _log.warning("egress was refused", function=function, attempts=blocked)
            metrics.count_blocked(blocked)
            self.count_egress(egress_of(counters))
        del self.sandboxes[number], self.start_timings[number]
        self._perform(self.model.gone(number, self._clock.now()))
        self._look_after_end()

    def _look_after_end(self) -> None:
        """Clean up, and continue, after an instance is gone."""
        self._forget_versions()
        self._emptied.set()
        self._look_for_parked()

    def _cleaned(self, number: int) -> None:
        # Otherwise `release` looks at `is_clean`.
        if self.model.instances[number].state is InstanceState.RECYCLING:
            self._perform(self.model.cleaned(number, self._clock.now()))

    def _lost(self, number: int) -> None:
        self._perform(self.model.lost(number, self._clock.now()))

    def _wake_at(self, at: float) -> None:
        if self._wake is not None:
            if self._wake_time <= at and self._wake_time > self._clock.now():
                return
            self._wake.cancel()
        self._wake_time = at
        delay = max(0.0, at - self._clock.now())
        self._wake = asyncio.get_running_loop().call_later(delay, self._woken)

    def _woken(self) -> None:
        self._wake = None  # the timer may fire slightly early; `tick` then sets it again
        self.tick()


def egress_of(counters: SandboxCounters) -> EgressRefusals:
    return EgressRefusals(counters.blocked, counters.refused)


def sum_egress(several: Sequence[EgressRefusals]) -> EgressRefusals:
    """The sum of all attempts, with the first destinations."""
    found = dict.fromkeys(to for one in several for to in one.destinations)
    kept = tuple(itertools.islice(found, DESTINATIONS_MAX))
    return EgressRefusals(sum(one.attempts for one in several), kept)
