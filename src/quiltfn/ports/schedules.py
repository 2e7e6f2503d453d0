"""The interface to schedules in the store, and what each side may rely on."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from quiltfn.model.schedule import Decision, RunOutcome, Schedule
from quiltfn.ports import Page
from quiltfn.ports.work import AcceptedWork


class ScheduleRun(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided on a tick, or on `missed` ticks that were missed together: then `tick_ms` is
    the last of them, in Unix milliseconds. `reason`: why a tick was not run. `is_manual`: a caller
    asked for it. `decided_at` in Unix seconds. `status`: of its call; None where there is none, or
    its record is gone.
    """

    tick_ms: int
    outcome: RunOutcome
    invocation_id: str | None = None
    reason: str | None = None
    missed: int = 0
    is_manual: bool = False
    decided_at: int
    status: str | None = None


class StoredSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule and the newest of its runs."""

    schedule: Schedule
    last_run: ScheduleRun | None


class Firing(msgspec.Struct, frozen=True, kw_only=True):
    """A decision on a schedule as it was read, to be carried out. `work`: what is accepted if a
    tick is run; None: it cannot be, and `refusal` says why, `unrun` what became of the tick.
    Times in Unix seconds.
    """

    schedule: Schedule
    decision: Decision
    work: AcceptedWork | None
    refusal: str | None
    now: int
    unrun: RunOutcome = RunOutcome.MISSED


class ScheduleStore(Protocol):
    """The schedules of all tenants, for any number of servers. Raises `StoreUnavailable`."""

    async def add(self, schedule: Schedule, most: int) -> None:
        """Stores a new schedule. Raises `Conflict` if the tenant has one of that name,
        `RateLimited` if it has `most`, and `NotFound` if the function was deleted.
        """

    async def save(self, schedule: Schedule, before: Schedule) -> Schedule:
        """Replaces what callers set and when it is due; returns it with its new revision. Its
        counters stay. Raises `Outdated` if it was changed, or a tick was decided on, since `before`
        was read, and `NotFound` if it or the function was deleted.
        """

    async def remove(self, tenant_id: str, name: str) -> bool:
        """Removes a schedule and its runs; returns whether it was there."""

    async def get(self, tenant_id: str, name: str) -> StoredSchedule | None:
        """One schedule of the tenant."""

    async def of_tenant(self, tenant_id: str, after: str, limit: int) -> Sequence[StoredSchedule]:
        """Up to `limit` schedules with ids above `after`, oldest first."""

    async def runs(self, schedule_id: str, before_ms: int | None, limit: int) -> Page[ScheduleRun]:
        """The ticks that were decided on, newest first, before the tick `before_ms`."""

    async def next_due_ms(self) -> int | None:
        """When the first of all schedules is due, in Unix milliseconds; None: none ever is."""

    async def due(self, now_ms: int, limit: int) -> Sequence[Schedule]:
        """Up to `limit` schedules that are due, those that have been longest first."""

    async def set_back(self, now_ms: int, limit: int) -> Sequence[Schedule]:
        """Schedules whose next tick was found by a clock that has been set back since: see
        `Schedule.was_set_back`.
        """

    async def fire(self, firings: Sequence[Firing]) -> Sequence[RunOutcome | None]:
        """Carries out decisions, in one transaction: accepts the work, writes what became of each
        tick, counts, and makes the next tick the next. Returns for each what became of the tick
        that was to be run, or `MISSED` where all were missed.

        None: the schedule was changed since it was read, another server decided on the tick, or it
        had been decided on before the clock was set back; then nothing is accepted.
        """

    async def run_now(self, schedule: Schedule, work: AcceptedWork, now_ms: int) -> None:
        """Accepts work for a run that a caller asked for, and writes it down, in one transaction.
        Raises what `WorkStore.accept` does.
        """

    async def waiting(self, limit: int) -> tuple[Sequence[Schedule], bool]:
        """Schedules that have a tick which waits for an earlier run and can be run now; and whether
        there are any ticks that wait.
        """

    async def start_waiting(self, schedule: Schedule, work: AcceptedWork) -> RunOutcome | None:
        """Accepts the work of the oldest tick that waits, unless an earlier run is not over: then
        None. Returns `MISSED` if the work was refused.
        """

    async def drop_waiting(self, schedule: Schedule, reason: str) -> None:
        """Counts all ticks of the schedule that wait as missed."""
