"""Runs accepted work: claims due work in slices, and gives it to the invoker.

For each function with queued work, the dispatcher knows when the first item is due, and holds the
slice that it has claimed and not begun. Everything else is in the store. It considers a function
when work arrives or comes due, when an invocation of the function ends, and when the function
changes; `model/dispatch.py` decides.

    arrived, due ──▶ rota ──turn──▶ begun ──▶ the invoker writes the end, and what becomes of it
                      ▲   └─ no slice: claims one    │
                      └──────────────────────────────┘
"""

import asyncio
import contextlib
import heapq
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import structlog
from msgspec.structs import replace

from quiltfn.base.ids import new_id
from quiltfn.base.others import Others
from quiltfn.base.signal import Signal
from quiltfn.base.store_retry import until_stored
from quiltfn.base.task_group import TaskGroup
from quiltfn.calls.after_commit import AfterCommit
from quiltfn.calls.claims import Backlog, Claims
from quiltfn.calls.invoke import Invoker, Request
from quiltfn.calls.work import request_of
from quiltfn.functions.catalog import Catalog, Entry
from quiltfn.functions.policies import Policies
from quiltfn.functions.version_cache import KnownVersions
from quiltfn.model.dispatch import Load, Rota, may_start
from quiltfn.model.errors import (
    Forbidden,
    NotFound,
    QuiltfnError,
    StoreUnavailable,
    Unprocessable,
)
from quiltfn.model.function import Function, FunctionState
from quiltfn.model.invocation import Invocation, WorkOutcome
from quiltfn.model.version import Version
from quiltfn.model.work import outcome
from quiltfn.observe import metrics
from quiltfn.ports import Clock, LongOutput, Pools
from quiltfn.ports.work import ClaimedWork, DueWork
from quiltfn.store.calls.journal import SpoolJournal
from quiltfn.store.calls.work import SqlWork
from quiltfn.tenants.admission import Admission

_log = structlog.get_logger("quiltfn.calls.dispatch")
RETRY_AFTER_S = 1.0
# Without other triggers, seconds until work that is due but may not start is considered again: a
# base, and more for each blocked function.
BLOCKED_LOOK_S, BLOCKED_EACH_S = 0.1, 0.001
SETTLE_AFTER_S = 0.05
LONGEST_SLEEP_S = 60.0
# Outdated entries allowed in `_due`, beyond two for each function.
DUE_SPARE = 64


@dataclass(eq=False, kw_only=True)
class Dispatcher:
    """`ports.work.Queue`. `start` it once the functions are loaded; `stop`, then `join` it.

    `long_output`: the memory for long output of a tenant's attempt, until its end is written.
    `may_begin`: whether attempts may begin now; polled while they may not.
    """

    store: SqlWork
    versions: KnownVersions
    catalog: Catalog
    pools: Pools
    invoker: Invoker
    policies: Policies
    admission: Admission
    journal: SpoolJournal
    clock: Clock
    long_output: Callable[[str], AbstractContextManager[LongOutput]]
    others: Others
    may_begin: Callable[[], bool]

    def __post_init__(self) -> None:
        # Emitted when work arrived: its tenant and function.
        self.on_arrived: Signal[str, str] = Signal()
        self._claims = Claims(self.store, self.clock, is_strict=self.journal.is_strict)
        self._backlogs: dict[str, Backlog] = {}
        self._rota = Rota()
        self._unclaimed = Rota()  # functions that wait for memory to claim work
        self._due: list[tuple[int, str]] = []  # a heap; outdated entries are skipped
        self._blocked: set[str] = set()
        # None until an attempt that needs a new instance begins in a round. After that, the
        # backlogs that need one as well: they wait until the pools are asked again.
        self._cold: list[Backlog] | None = None
        self._retries = AfterCommit[tuple[str, str, int]](
            self.journal,
            lambda retry: self.arrived(*retry),
            gather_s=SETTLE_AFTER_S,
        )
        self._in_doubt: set[str] = set()  # functions whose claims are being verified
        self._tasks = TaskGroup()
        self._is_pumping = self._is_stopping = False
        self._claims_again_at = 0.0  # monotonic seconds; in the future after the store failed
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0  # stored, since not every uvloop timer reports its time
        self._look: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Start running queued work. Raises `StoreUnavailable`."""
        for queue in await self.store.load():
            self.arrived(queue.function_id, queue.tenant_id, queue.next_due_ms)

    async def stop(self) -> None:
        """Stop dispatching; release unstarted claims. If the store fails, this node keeps them
        until `follow_waiting` releases them, `resume` lets them begin, or the next start releases
        them.
        """
        self._is_stopping = True
        for timer in (self._timer, self._look):
            if timer is not None:
                timer.cancel()
        claims = [backlog.claim for backlog in self._backlogs.values() if backlog.claim is not None]
        if claims:
            await asyncio.wait(claims)
        try:
            await self._put_all_back()
        except StoreUnavailable as error:
            _log.warning(f"claimed work could not be put back: {error}")

    async def _put_all_back(self) -> None:
        """Release all unstarted claims. Raises `StoreUnavailable`."""
        await self._claims.release_all(self._backlogs.values())
        unsure = [backlog for backlog in self._backlogs.values() if backlog.is_uncertain]
        if unsure:
            known = {one for backlog in unsure for one in backlog.running}
            await self.journal.synced()  # after this, no ended work is still claimed in the store
            for backlog in unsure:
                await self._claims.make_sure(backlog, known | backlog.running)

    async def resume(self) -> None:
        """After `stop`: start running queued work again. Raises `StoreUnavailable`."""
        if not self._is_stopping:
            return
        self._is_stopping, self._timer, self._look = False, None, None
        try:
            await self.start()
        except StoreUnavailable:
            # Retried later; `stop` releases work that was claimed meanwhile.
            self._is_stopping = True
            raise
        for backlog in [*self._backlogs.values()]:  # other nodes may have claimed work meanwhile
            self._consider(backlog)
        self._look_again()
        self.tick()

    async def join(self) -> None:
        """Wait until the attempts in progress are over. Call it after the pools were closed."""
        await self._tasks.join()
        await self._retries.aclose()  # the retries are in the store, and no attempt begins any more

    # Triggers --------------------------------------------------------------------------------

    def arrived(self, function_id: str, tenant_id: str, due_at_ms: int) -> None:
        """Note that work of the function waits in the store and is due at that time."""
        backlog = self._backlogs.get(function_id)
        if backlog is None:
            backlog = self._backlogs[function_id] = Backlog(function_id, tenant_id)
        backlog.waits_until(due_at_ms)
        self._consider(backlog)
        for hear in self.on_arrived.hearers:
            hear(tenant_id, function_id)

    async def follow_waiting(self) -> None:
        """Note queued work that any node has accepted or released. If this node may start none,
        release its claims for other nodes.
        """
        if self._is_stopping:
            await self._put_all_back()
        found = [one for one in await self.store.due() if self._is_news(one)]
        if found:
            await self.others.catch_up()  # applies earlier changes of the function
        for due in found:
            if self._is_news(due):
                self.arrived(due.function_id, due.tenant_id, due.next_due_ms)

    def _is_news(self, work: DueWork) -> bool:
        known = self._backlogs.get(work.function_id)
        return known is None or known.next_due_ms is None or work.next_due_ms < known.next_due_ms

    def tick(self) -> None:
        """Timer callback: dispatch due work."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_ms = self._now_ms()
        while self._due and self._due[0][0] <= now_ms:
            due, function_id = heapq.heappop(self._due)
            backlog = self._backlogs.get(function_id)
            if backlog is not None and backlog.alarm_ms == due:
                backlog.alarm_ms = None
                self._consider(backlog)
        self._sleep()

    async def withdraw(self, invocation_id: str) -> bool:
        """Release unstarted work, so that it can be cancelled. Returns False if there is no such
        work. Raises `StoreUnavailable`.
        """
        backlog = self._holder(invocation_id)
        if backlog is None:
            claims = [one.claim for one in self._backlogs.values() if one.claim is not None]
            if claims:
                await asyncio.wait(claims)
            backlog = self._holder(invocation_id)
        if backlog is None:
            return False
        # The withdrawn work must not be claimed again at once.
        later_ms = self._now_ms() + round(RETRY_AFTER_S * 1000)
        backlog.returning += 1
        try:
            work = self._claims.take(backlog, invocation_id)
            await self._claims.put_back(backlog, [work], later_ms)
        finally:
            backlog.returning -= 1
            self._consider(backlog)
        return True

    def _holder(self, invocation_id: str) -> Backlog | None:
        return next((one for one in self._backlogs.values() if invocation_id in one.held), None)

    def call_ended(self, record: Invocation) -> None:
        """Consider the function again: its instance is free in a moment."""
        backlog = self._backlogs.get(record.function_id) if self._blocked else None
        if backlog is not None and record.function_id in self._blocked:
            self._blocked.discard(record.function_id)
            self._ready(backlog)

    def function_changed(self, before: Function | None, after: Function | None) -> None:
        """Consider a function that may have been resumed, scaled, paused or deleted."""
        function = after or before
        backlog = self._backlogs.get(function.id) if function else None
        if backlog is not None and self._entry_of(backlog) is not None:
            self._consider(backlog)

    def _consider(self, backlog: Backlog) -> None:
        """Add the backlog to the ready queue if some of its work is due, else sleep until it is."""
        due = backlog.first_due_ms()
        if self._backlogs.get(backlog.function_id) is not backlog:  # the function was deleted
            return
        if backlog.is_uncertain:
            self._make_sure_soon(backlog)
            return
        if due is None or self._is_stopping:
            if backlog.is_empty:
                self._forget(backlog)
        elif due <= self._now_ms():
            self._ready(backlog)
        elif backlog.alarm_ms is None or due < backlog.alarm_ms:
            backlog.alarm_ms = due
            heapq.heappush(self._due, (due, backlog.function_id))
            if len(self._due) > 2 * len(self._backlogs) + DUE_SPARE:
                self._forget_old_alarms()
            self._sleep()

    def _forget_old_alarms(self) -> None:
        """Rebuild `_due`: outdated times may otherwise stay for a year."""
        alarms = ((it.alarm_ms, name) for name, it in self._backlogs.items())
        self._due = [(ms, name) for ms, name in alarms if ms is not None]
        heapq.heapify(self._due)

    def _ready(self, backlog: Backlog) -> None:
        self._rota.add(backlog.tenant_id, backlog.function_id)
        if not self._is_pumping:
            self._is_pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _sleep(self) -> None:
        """Set the timer for the next due time."""
        if not self._due or self._is_stopping:
            return
        loop = asyncio.get_running_loop()
        wait = min(LONGEST_SLEEP_S, max(0.0, (self._due[0][0] - self._now_ms()) / 1000))
        at = loop.time() + wait
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer, self._timer_at = loop.call_at(at, self.tick), at

    def _block(self, backlog: Backlog) -> None:
        """Due work may not start now: consider it again when an invocation of the function ends,
        and in any case after a while, since instances start and end for other reasons, too.
        """
        self._blocked.add(backlog.function_id)
        if self._look is None and not self._is_stopping:
            wait = BLOCKED_LOOK_S + BLOCKED_EACH_S * len(self._blocked)
            self._look = asyncio.get_running_loop().call_later(wait, self._look_again)

    def _look_again(self) -> None:
        self._look, blocked = None, self._blocked
        self._blocked = set()
        for function_id in blocked & self._backlogs.keys():
            self._consider(self._backlogs[function_id])

    def _entry_of(self, backlog: Backlog) -> Entry | None:
        """The function's present entry; None if the function was deleted, with its work."""
        try:
            return self.catalog.get(backlog.function_id)
        except NotFound:
            self._forget(backlog)
            return None

    def _forget(self, backlog: Backlog) -> None:
        self._claims.take_all(backlog)
        self._rota.remove(backlog.tenant_id, backlog.function_id)
        self._unclaimed.remove(backlog.tenant_id, backlog.function_id)
        self._blocked.discard(backlog.function_id)
        if self._backlogs.get(backlog.function_id) is backlog:
            del self._backlogs[backlog.function_id]

    # Beginning -------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Begin everything that may begin now.

        An instance that is started for one function may reduce the number that others can start. So
        only one attempt that needs a new instance begins before the pools are asked again.
        """
        self._is_pumping, self._cold = False, None
        if self._is_stopping:
            return
        while self._rota.turn(self._begin_one):
            pass
        if self._cold:
            for backlog in self._cold:
                self._ready(backlog)
        self._claim_next()

    def _is_held_back(self, backlog: Backlog) -> bool:
        """Whether no work of the backlog may begin now; it is then considered again later."""
        if not self.may_begin():
            self._block(backlog)
        elif self.admission.refusal(backlog.tenant_id) is not None:
            self._hold_back(backlog)
        else:
            return False
        return True

    def _begin_one(self, function_id: str) -> bool:
        """Begin an attempt of the function, or else claim work. False: no attempt was begun."""
        backlog = self._backlogs[function_id]
        entry = self._entry_of(backlog)
        if entry is None:
            return False
        if entry.function.state is not FunctionState.ACTIVE:
            if backlog.held:
                self._put_back_soon(backlog, self._claims.take_all(backlog))
            return False  # the function is considered again when it changes
        due = backlog.first_due_ms()
        if backlog.is_uncertain or due is None or due > self._now_ms():
            self._consider(backlog)
            return False
        if self._is_held_back(backlog):
            return False
        headroom = self.pools.headroom(function_id)
        room = headroom.total - backlog.launched
        count = may_start(self._load(backlog, due, room), room)
        if not count:
            if backlog.held and self._claims.is_full:
                self._put_back_soon(backlog, self._claims.take_all(backlog))
            else:
                self._block(backlog)
            return False
        size = self._claims.slice_size(backlog, count)
        if not backlog.held:
            self._claim_some(backlog, size)
            return False
        if headroom.idle - backlog.launched <= 0:
            if self._cold is not None:
                self._cold.append(backlog)
                return False
            self._cold = []
        self._begin(backlog, entry)
        if self._claims.wants_more(backlog, size, self._now_ms()):
            self._claim_some(backlog, size)
        return True

    def _hold_back(self, backlog: Backlog) -> None:
        """Keep due work waiting while its tenant may run nothing: until tomorrow if its daily quota
        is used up, or until an operator enables it or raises its limit of 0 invocations in flight.
        """
        if backlog.held:
            self._put_back_soon(backlog, self._claims.take_all(backlog))
        else:
            self._block(backlog)

    def _load(self, backlog: Backlog, due_ms: int, room: int) -> Load:
        in_line = 0
        if room <= 0:  # with room, the number isn't used
            in_line = sum(not self.invoker.has_begun(one) for one in backlog.running)
        return Load(
            running=len(backlog.running),
            in_line=in_line,
            waited_s=(self._now_ms() - due_ms) / 1000,
            max_concurrency=self.policies.policy_of(backlog.function_id).max_concurrency,
        )

    def _begin(self, backlog: Backlog, entry: Entry) -> None:
        work = self._claims.take(backlog)
        if work.expires_at_ms < self._now_ms():  # the next claim ends the expired work
            self._put_back_soon(backlog, [work])
            return
        backlog.running.add(work.record.invocation_id)
        backlog.launched += 1
        backlog.begun += 1
        self._tasks.spawn(self._run(backlog, entry, work))

    async def _run(self, backlog: Backlog, entry: Entry, work: ClaimedWork) -> None:
        """Run one attempt end to end."""
        backlog.launched -= 1
        request = self._request(backlog, work)
        try:
            try:
                if work.input.version is not None:
                    version = await self._version(entry, work.input.version)
                    request = replace(request, version=version)
                with self.long_output(backlog.tenant_id) as output:
                    await self.invoker.invoke(entry, replace(request, long_output=output))
            except (Unprocessable, Forbidden) as error:
                # The function has changed since the work was accepted.
                self.invoker.end_unstarted(entry, request, str(error))
        except QuiltfnError as error:
            if error.invocation_id is None and not isinstance(error, NotFound):
                await self._put_back(backlog, [work])
        except Exception:
            _log.exception("an attempt failed before it was begun", function=backlog.function_id)
            await self._put_back(backlog, [work])
        finally:
            backlog.running.discard(work.record.invocation_id)
            if backlog.function_id not in self._blocked:
                self._consider(backlog)

    def _request(self, backlog: Backlog, work: ClaimedWork) -> Request:
        record = work.record

        def conclude(ended: Invocation) -> WorkOutcome:
            return self._conclude(backlog, work, ended)

        return replace(
            request_of(work.input),
            invocation_id=record.invocation_id,
            source=record.source,
            attempt=record.attempt,
            due_at=record.due_at,
            parent_invocation_id=record.parent_invocation_id,
            origin_invocation_id=record.origin_invocation_id,
            conclude=conclude,
        )

    def _conclude(self, backlog: Backlog, work: ClaimedWork, ended: Invocation) -> WorkOutcome:
        """Decide what becomes of the work, in the step in which its end is written."""
        policy = self.policies.policy_of(backlog.function_id)
        chance = random.random()
        decided = outcome(policy, ended, self._now_ms(), work.expires_at_ms, chance, new_id)
        metrics.count_attempt(ended.status)
        if decided.dead_letter is not None:
            metrics.count_dead_letter(decided.dead_letter)
        if decided.retry_at_ms is not None:
            self._retries.add((backlog.function_id, backlog.tenant_id, decided.retry_at_ms))
        return decided

    async def _version(self, entry: Entry, number: int) -> Version:
        """The version that the work names. Raises `Unprocessable` if there is none."""
        try:
            return await self.versions.of(entry, number)
        except NotFound as error:
            raise Unprocessable(str(error)) from None

    # Claiming and putting back ---------------------------------------------------------------

    def _claim_some(self, backlog: Backlog, size: int) -> None:
        if backlog.claim is not None or backlog.next_due_ms is None:
            return
        if self.clock.now() < self._claims_again_at:
            self._block(backlog)
        elif self._claims.may_begin:
            self._claims.began()
            backlog.claim = self._tasks.spawn(self._claim(backlog, size))
        else:
            self._unclaimed.add(backlog.tenant_id, backlog.function_id)

    def _claim_next(self) -> None:
        """Let the next waiting function claim work, if there is memory for it now."""
        if not self._claims.may_begin or self._is_stopping:
            return
        function_id = self._unclaimed.turn(self._backlogs.__contains__)
        if function_id is not None:
            backlog = self._backlogs[function_id]
            self._unclaimed.remove(backlog.tenant_id, function_id)
            self._ready(backlog)

    async def _claim(self, backlog: Backlog, size: int) -> None:
        try:
            ended = await self._claims.claim(backlog, size, self._now_ms())
        except Exception as error:
            if not isinstance(error, StoreUnavailable):
                _log.exception("work could not be claimed", function=backlog.function_id)
            self._claims_again_at = self.clock.now() + RETRY_AFTER_S
            self._block(backlog)
            return
        finally:
            backlog.claim = None
            self._claims.ended()
            self._claim_next()
        for record in ended:
            self._ended_unrun(backlog, record)
        due = backlog.first_due_ms()
        if backlog.held or due is None or due > self._now_ms():
            self._consider(backlog)
        else:  # Due work was not claimed: wait before the next attempt.
            self._block(backlog)

    def _make_sure_soon(self, backlog: Backlog) -> None:
        if backlog.function_id not in self._in_doubt and not self._is_stopping:
            self._in_doubt.add(backlog.function_id)
            self._tasks.spawn(self._make_sure(backlog))

    async def _make_sure(self, backlog: Backlog) -> None:
        """Ask the store, until it responds, which work of the function this node has claimed."""
        try:
            while backlog.is_uncertain and not self._is_stopping:
                await until_stored(partial(self._make_sure_once, backlog))
        finally:
            self._in_doubt.discard(backlog.function_id)
        self._consider(backlog)

    async def _make_sure_once(self, backlog: Backlog) -> None:
        if self._is_stopping:
            return
        known = {*backlog.running}
        await self.journal.synced()  # after this, no ended work is still claimed in the store
        if backlog.claim is not None or backlog.returning or self._is_stopping:
            await asyncio.sleep(SETTLE_AFTER_S)
        else:
            await self._claims.make_sure(backlog, known | backlog.running)

    def _ended_unrun(self, backlog: Backlog, record: Invocation) -> None:
        if record.outcome is not None and record.outcome.dead_letter is not None:
            metrics.count_dead_letter(record.outcome.dead_letter)
        entry = self._entry_of(backlog)
        if entry is not None:
            self.invoker.ended_unrun(entry, record)

    def _put_back_soon(self, backlog: Backlog, works: list[ClaimedWork]) -> None:
        """Like `_put_back`, in the background. Until it ends, only `returning` shows that the
        function has this work.
        """
        backlog.returning += 1
        self._tasks.spawn(self._put_back_taken(backlog, works))

    async def _put_back_taken(self, backlog: Backlog, works: list[ClaimedWork]) -> None:
        try:
            await self._put_back(backlog, works)
        finally:
            backlog.returning -= 1

    async def _put_back(self, backlog: Backlog, works: list[ClaimedWork]) -> None:
        """Release unstarted work. If that fails, it stays claimed."""
        with contextlib.suppress(StoreUnavailable):
            await self._claims.put_back(backlog, works)
        if self._entry_of(backlog) is not None:
            self._block(backlog)

    def _now_ms(self) -> int:
        return int(self.clock.trusted() * 1000)
