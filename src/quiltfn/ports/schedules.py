"""The interface to schedules in the store, and what each side may rely on."""

import msgspec

from quiltfn.model.schedule import Decision, RunOutcome, Schedule
from quiltfn.ports.work import AcceptedWork


class ScheduleRun(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided on a tick, or on `missed` ticks that were missed together: then `tick_ms` is
    the last of them, in Unix milliseconds. `reason`: why a tick was not run. `is_manual`: a caller
    asked for it. `decided_at` in Unix seconds. `status`: of its call; None if there is no call, or
    its record was removed.
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
    """A decision on a schedule as it was read, to be carried out. `work`: the work to accept if the
    tick is run. None: it cannot be run; `refusal` says why, and `unrun` is the outcome to record.
    Times in Unix seconds.
    """

    schedule: Schedule
    decision: Decision
    work: AcceptedWork | None
    refusal: str | None
    now: int
    unrun: RunOutcome = RunOutcome.MISSED
