"""Schedules: creates and changes them, and runs functions when they are due.

A schedule follows the wall clock; changes of the clock take effect immediately. `model/schedule.py`
decides the outcome of each tick, and the store applies it in the transaction that accepts the work.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog
from msgspec.structs import replace

from quiltfn.base.ids import new_id
from quiltfn.base.others import Others
from quiltfn.base.signal import Signal
from quiltfn.calls.invoke import check
from quiltfn.calls.work import Cause, Work, request_of
from quiltfn.functions.catalog import Catalog, Entry
from quiltfn.model.errors import (
    NotFound,
    Outdated,
    QuiltfnError,
    ShuttingDown,
    StoreUnavailable,
    Unprocessable,
)
from quiltfn.model.invocation import Invocation, Source
from quiltfn.model.schedule import (
    SLEWED_MS,
    RunOutcome,
    Schedule,
    changed_meanwhile,
    decide,
    no_such_schedule,
)
from quiltfn.ports import Change, Clock, Page
from quiltfn.ports.schedules import Firing, ScheduleRun, StoredSchedule
from quiltfn.ports.work import AcceptedWork, Input
from quiltfn.store.calls.journal import SpoolJournal
from quiltfn.store.calls.schedules import SqlSchedules
from quiltfn.tenants.admission import Admission

_log = structlog.get_logger("quiltfn.calls.schedules")
# Maximum seconds until a change of the wall clock is noticed.
LOOK_EVERY_S = 15.0
# Number of `look`s between checks for waiting ticks of other nodes.
LOOKS = 15
RETRY_S = 1.0
# Maximum number of schedules in one transaction.
AT_ONCE = 50
CHANGE_ROUNDS = 5
BY_SCHEDULE = Cause(source=Source.SCHEDULE)


class Schedules:
    """The schedules of all tenants. `most`: the maximum number of a tenant's schedules."""

    def __init__(
        self,
        store: SqlSchedules,
        catalog: Catalog,
        work: Work,
        admission: Admission,
        most: int,
        others: Others,
    ) -> None:
        self._store, self._catalog, self._work, self._most = store, catalog, work, most
        self._admission, self._others = admission, others
        self._clock: Clock = work.clock
        self._journal: SpoolJournal = work.journal
        self._changed = asyncio.Event()
        self._seen_ms = 0
        self._may_wait = True  # whether a tick may wait for an earlier run
        self._looks = 0
        # Emitted for every run: tenant, name, function and invocation.
        self.on_fired: Signal[str, str, str, str] = Signal()

    # Requests --------------------------------------------------------------------------------

    async def create(self, tenant_id: str, function: str, new: Schedule) -> StoredSchedule:
        """Create a schedule of the function with that name. `new`: the fields that the caller set.

        Raises `Unprocessable`, `Conflict` if the name is taken, and `RateLimited`.
        """
        entry = self._named(tenant_id, function)
        now_ms = self._now_ms()
        schedule = msgspec.structs.replace(
            new,
            id=new_id(),
            tenant_id=tenant_id,
            function_id=entry.function.id,
            created_at=now_ms // 1000,
            updated_at=now_ms // 1000,
        )
        schedule.check()
        check(entry.version, request_of(input_of(schedule)))
        schedule = schedule.from_now(now_ms)
        await self._store.add(schedule, self._most)
        self._changed.set()
        return StoredSchedule(schedule=schedule, last_run=None)

    async def change(
        self, tenant_id: str, name: str, function: str | None, changes: Mapping[str, Any]
    ) -> StoredSchedule:
        """Change fields of a schedule, and its function if one is named. Ticks that are already due
        are decided first, by the old fields. Raises as `create` does, and `NotFound`.
        """
        for _ in range(CHANGE_ROUNDS):
            stored = await self._settled(tenant_id, name)
            before, values = stored.schedule, dict(changes)
            entry = self._catalog.get(before.function_id)
            if function is not None:
                entry = self._named(tenant_id, function)
                values["function_id"] = entry.function.id
            after = before.changed(values, self._now_ms())
            check(entry.version, request_of(input_of(after)))
            with contextlib.suppress(Outdated):  # a tick was decided meanwhile, so try again
                saved = await self._store.save(after, before)
                self._changed.set()
                return msgspec.structs.replace(stored, schedule=saved)
        raise changed_meanwhile()

    async def remove(self, tenant_id: str, name: str) -> None:
        """Remove a schedule. Runs that it has started continue. Raises `NotFound`."""
        if not await self._store.remove(tenant_id, name):
            raise no_such_schedule()

    async def get(self, tenant_id: str, name: str) -> StoredSchedule:
        """One schedule. Raises `NotFound`."""
        found = await self._store.get(tenant_id, name)
        if found is None:
            raise no_such_schedule()
        return found

    async def of_tenant(self, tenant_id: str, after: str, limit: int) -> Sequence[StoredSchedule]:
        """Schedules with ids above `after`, oldest first."""
        return await self._store.of_tenant(tenant_id, after, limit)

    async def runs(
        self, tenant_id: str, name: str, before_ms: int | None, limit: int
    ) -> Page[ScheduleRun]:
        """The outcomes of a schedule's ticks, newest first. Raises `NotFound`."""
        stored = await self.get(tenant_id, name)
        return await self._store.runs(stored.schedule.id, before_ms, limit)

    async def run_now(
        self, tenant_id: str, name: str, caller: str, invocation_id: str | None = None
    ) -> Invocation:
        """Queue a run at once, even if an earlier run is not over or the schedule is disabled. The
        next tick is unaffected. `invocation_id`: of the run; None generates one. Raises `NotFound`,
        and as `Work.accept` does.
        """
        schedule = (await self.get(tenant_id, name)).schedule
        given = msgspec.structs.replace(input_of(schedule), caller=caller)
        entry = self._catalog.get(schedule.function_id)
        cause = msgspec.structs.replace(BY_SCHEDULE, invocation_id=invocation_id)
        work = self._work.prepared(entry, given, cause=cause)
        with self._work.looked_for(work):
            await self._store.run_now(schedule, work, self._now_ms())
        self._fired(schedule, work)
        return work.record

    async def follow_changes(self, changes: Sequence[Change] | None) -> None:
        """Find the next due time again, since another node has changed schedules."""
        del changes
        self._changed.set()

    async def look(self) -> None:
        """Called periodically on a node of a fleet. Sometimes checks for waiting ticks: the run for
        which a tick waits may have ended on another node.
        """
        self._looks += 1
        self._may_wait = self._may_wait or self._looks % LOOKS == 0
        if self._may_wait:
            self._changed.set()

    def function_name(self, schedule: Schedule) -> str:
        """The present name of the schedule's function. Raises `NotFound` if it was deleted."""
        return self._catalog.get(schedule.function_id).function.name

    # Coming due ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Fire schedules when they are due, until cancelled."""
        while True:
            self._changed.clear()
            try:
                next_due_ms = await self.fire_due()
            except (StoreUnavailable, ShuttingDown):
                await asyncio.sleep(RETRY_S)
            except Exception:  # A bug must not end the schedules of all tenants.
                _log.exception("schedules could not be fired; they are tried again")
                await asyncio.sleep(RETRY_S)
            else:
                await self._wait(next_due_ms)

    async def fire_due(self) -> int | None:
        """Decide all due ticks; return the next due time in Unix milliseconds. Raises
        `StoreUnavailable` and `ShuttingDown`.
        """
        now_ms = self._now_ms()
        if now_ms < self._seen_ms - SLEWED_MS or not self._seen_ms:
            await self._follow_clock(now_ms)
        self._seen_ms = now_ms
        if self._may_wait:
            await self._start_waiting()
        while due := await self._store.due(now_ms, AT_ONCE):
            await self._fire(due, now_ms)
        return await self._store.next_due_ms()

    async def _wait(self, next_due_ms: int | None) -> None:
        """Wait until the wall clock reaches that time, or until something changes."""
        while True:
            now_ms = self._now_ms()
            if now_ms < self._seen_ms - SLEWED_MS:
                return
            self._seen_ms = max(self._seen_ms, now_ms)
            left_s = LOOK_EVERY_S
            if next_due_ms is not None:
                left_s = min(left_s, (next_due_ms - now_ms) / 1000)
            if left_s <= 0:
                return
            try:
                async with asyncio.timeout(left_s):
                    await self._changed.wait()
                return
            except TimeoutError:
                if self._may_wait:  # the awaited run may have ended on another node
                    return

    async def _fire(self, due: Sequence[Schedule], now_ms: int) -> None:
        firings = []
        for schedule in due:
            # Let other tasks run: a schedule with thousands of variables takes milliseconds.
            await asyncio.sleep(0)
            try:
                firing = await self._firing(schedule, now_ms)
            except Unprocessable as error:  # this host no longer knows the schedule's time zone
                await self._stop(schedule, error)
                continue
            if firing is not None:
                firings.append(firing)
        with self._work.looked_for(*(one.work for one in firings if one.work is not None)):
            outcomes = await self._store.fire(firings) if firings else ()
        for firing, outcome in zip(firings, outcomes, strict=True):
            if outcome is RunOutcome.ACCEPTED and firing.work is not None:
                self._fired(firing.schedule, firing.work)
            self._may_wait = self._may_wait or outcome is RunOutcome.WAITING

    async def _firing(self, schedule: Schedule, now_ms: int) -> Firing | None:
        decision = decide(schedule, now_ms)
        if decision is None:
            return None
        firing = Firing(
            schedule=schedule, decision=decision, work=None, refusal=None, now=now_ms // 1000
        )
        if decision.run_tick_ms is None:
            return firing
        refusal = self._admission.refusal(schedule.tenant_id)
        if refusal is not None:
            # If it waited, it would later run together with all ticks that follow.
            return replace(firing, refusal=str(refusal), unrun=RunOutcome.SKIPPED)
        try:
            return replace(firing, work=await self._prepared(schedule))
        except (ShuttingDown, StoreUnavailable):
            raise
        except QuiltfnError as error:
            return replace(firing, refusal=str(error))

    async def _prepared(self, schedule: Schedule) -> AcceptedWork:
        """The work for a due tick, due at once. Raises the reason for a refusal, by the present
        state of the function and its policies.
        """
        try:
            return self._work_of(schedule)
        except (ShuttingDown, StoreUnavailable):
            raise
        except QuiltfnError:
            await self._others.catch_up()
            return self._work_of(schedule)

    def _work_of(self, schedule: Schedule) -> AcceptedWork:
        """The work of a run, due now: ticks have wall clock times, but queues use trusted time."""
        entry = self._catalog.get(schedule.function_id)
        return self._work.prepared(entry, input_of(schedule), cause=BY_SCHEDULE)

    async def _settled(self, tenant_id: str, name: str) -> StoredSchedule:
        """Decide all due ticks of the schedule, and return it."""
        while True:
            stored = await self.get(tenant_id, name)
            now_ms = self._now_ms()
            due_ms = stored.schedule.next_due_ms
            if due_ms is None or due_ms > now_ms:
                return stored
            await self._fire([stored.schedule], now_ms)

    async def _follow_clock(self, now_ms: int) -> None:
        """Compute the next ticks again if the clock was set back since they were computed."""
        while some := await self._store.set_back(now_ms, AT_ONCE):
            for schedule in some:
                with contextlib.suppress(Outdated, NotFound):
                    await self._store.save(schedule.from_now(now_ms), schedule)

    async def _stop(self, schedule: Schedule, error: QuiltfnError) -> None:
        _log.error("a schedule cannot come due", schedule_id=schedule.id, reason=str(error))
        with contextlib.suppress(Outdated, NotFound):
            await self._store.save(schedule.with_next(None), schedule)

    async def _start_waiting(self) -> None:
        """Accept waiting ticks whose earlier run is over."""
        await self._journal.synced()
        ready, self._may_wait = await self._store.waiting(AT_ONCE)
        for schedule in ready:
            try:
                work = await self._prepared(schedule)
            except NotFound:  # the function is being deleted, and its schedule, too
                continue
            except ShuttingDown:
                raise
            except QuiltfnError as error:
                await self._store.drop_waiting(schedule, str(error))
                continue
            with self._work.looked_for(work):
                outcome = await self._store.start_waiting(schedule, work)
            if outcome is RunOutcome.ACCEPTED:
                self._fired(schedule, work)

    def call_ended(self, record: Invocation) -> None:
        """Check for waiting ticks, since one may have waited for this run."""
        if self._may_wait and record.source is Source.SCHEDULE and record.is_final:
            self._changed.set()

    def _fired(self, schedule: Schedule, work: AcceptedWork) -> None:
        self._work.stored(work)
        record = work.record
        for hear in self.on_fired.hearers:
            hear(record.tenant_id, schedule.name, record.function_id, record.invocation_id)

    def _named(self, tenant_id: str, function: str) -> Entry:
        try:
            return self._catalog.by_name(tenant_id, function)
        except NotFound:
            expected = "the name of a function of the tenant"
            raise Unprocessable.field("function", expected, function, "my-function") from None

    def _now_ms(self) -> int:
        return int(self._clock.unix() * 1000)


def input_of(schedule: Schedule) -> Input:
    """The input of a run. It may set all variables, since schedules require the scope `write`."""
    return Input(
        payload=None if schedule.payload is None else schedule.payload.encode(),
        environment=schedule.environment,
        caller=f"schedule {schedule.name}",
        may_write=True,
    )
