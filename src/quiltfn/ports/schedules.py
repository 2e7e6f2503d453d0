"""Types of schedules in the store."""

import msgspec

from quiltfn.model.schedule import Decision, RunOutcome, Schedule
from quiltfn.ports.work import AcceptedWork


class ScheduleRun(msgspec.Struct, frozen=True, kw_only=True):
    """The decision on a tick, or on `missed` ticks that were missed together; `tick_ms` is then the
    last of these, in Unix milliseconds. `reason`: why a tick was not run. `is_manual`: a caller
    requested the run. `decided_at` in Unix seconds. `status`: the invocation's; None if there is no
    invocation or no record any more.
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
    """A decision to carry out. `schedule`: as it was read. `work`: the work to accept if the tick
    is run. None: the tick cannot be run, for the reason `refusal`, and `unrun` is the outcome to
    record. Times in Unix seconds.
    """

    schedule: Schedule
    decision: Decision
    work: AcceptedWork | None
    refusal: str | None
    now: int
    unrun: RunOutcome = RunOutcome.MISSED
