"""Schemas of schedules and their runs."""

from datetime import datetime
from typing import Annotated

from msgspec import UNSET, Struct, UnsetType

from quiltfn.wire.constraints import Between, Bytes, Documented, OneOf, Pattern, Rule
from quiltfn.wire.fields import about
from quiltfn.wire.functions import (
    VARIABLES,
    FunctionName,
    NextCursor,
)
from quiltfn.wire.invocations import InvocationId, InvocationStatus
from quiltfn.wire.numbers import UnixSeconds

__all__ = [
    "NewSchedule",
    "Schedule",
    "ScheduleChanges",
    "SchedulePage",
    "ScheduleRun",
    "ScheduleRunPage",
]

PAYLOAD_MAX_BYTES = 64 * 1024
INTERVAL_MAX_S = 366 * 86_400
JITTER_MAX_S = 86_400
OVERLAPS = ("allow", "skip", "queue")
MISSED = ("skip", "run_once")
CRON_FIELDS = ("minute", "hour", "day of month", "month", "day of week")


def _wrong_cron(expression: str) -> str | None:
    """The expected expression if this one is invalid or never due; None if it is valid."""
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 — for schedules alone

    expected = f"an expression of five fields: {', '.join(CRON_FIELDS)}"
    if len(expression.split()) != len(CRON_FIELDS):
        return expected
    try:
        comes_due = next(CronSim(expression, datetime(2000, 1, 1)), None) is not None
    except CronSimError as error:
        wrong = str(error).removeprefix("Bad ").replace("-", " ")
        return f"{expected}; its {wrong} is invalid"
    except (ValueError, AssertionError, TypeError):  # cronsim's error for some unusual combinations
        return expected
    return None if comes_due else "an expression that is due within 50 years"


ScheduleName = Annotated[
    str,
    about(
        "1 to 64 letters, digits, dots, dashes or underscores; starts and ends with a letter or "
        "digit; unique in the tenant",
        "nightly",
        Pattern(
            "[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?",
            "1 to 64 letters, digits, dots, dashes or underscores; the first and last a "
            "letter or digit",
        ),
    ),
]
FunctionOfSchedule = Annotated[
    str,
    about("the name of a function of the tenant", "my-function", Bytes(1, 64)),
]
Cron = Annotated[
    str,
    about(
        "cron expression: minute, hour, day of month, month and day of week, as in Debian's cron",
        "0 3 * * *",
        Bytes(0, 256),
        Rule(_wrong_cron, {}),
    ),
]
EverySeconds = Annotated[
    int,
    about(
        f"interval between runs in seconds, from 1 to {INTERVAL_MAX_S}",
        None,  # no example: examples have cron instead
        Between(1, INTERVAL_MAX_S),
        short="every",
        unit="s",
    ),
]
Timezone = Annotated[
    str,
    about("time zone of cron", "Europe/Paris", Bytes(1, 64)),
]
PayloadOfSchedule = Annotated[
    str,
    about(
        f"payload of each run: at most {PAYLOAD_MAX_BYTES} bytes",
        '{"key":"value"}',
        Bytes(0, PAYLOAD_MAX_BYTES),
    ),
]
EnvironmentOfSchedule = Annotated[
    dict[str, str],
    about(
        "environment variables of each run, which override the function's",
        {"EXTRA_VAR": "value"},
        Documented(VARIABLES),
        short="env",
    ),
]
OverlapOfSchedule = Annotated[
    str,
    about(
        "if the previous run is still running: allow another one, skip it, or queue it until the "
        "previous run ends",
        "skip",
        OneOf(OVERLAPS),
    ),
]
MissedOfSchedule = Annotated[
    str,
    about(
        "missed runs: skip them, or run_once for all of them",
        "run_once",
        OneOf(MISSED),
    ),
]
JitterSeconds = Annotated[
    int,
    about(
        f"maximum random delay of each run in seconds, from 0 to {JITTER_MAX_S}; always before "
        "the next run",
        0,
        Between(0, JITTER_MAX_S),
        short="jitter",
        unit="s",
    ),
]
Enabled = Annotated[bool, about("whether it runs the function when it is due", True)]
ScheduleId = Annotated[str, about("the schedule's id", "01999999-0000-7000-8000-000000000001")]
NextRuns = Annotated[list[int], about("next times it is due, in Unix seconds", [1760000000])]
InWords = Annotated[str, about("when it is due, in English", "At 03:00 every day")]
MissedCount = Annotated[int, about("number of missed runs", 0)]
SkippedCount = Annotated[int, about("number of skipped runs, because of overlap or a quota", 0)]
FiredCount = Annotated[int, about("number of runs", 3)]
RunResult = Annotated[
    str,
    about(
        "accepted: queued as an invocation; waiting: for an earlier run; skipped or missed: "
        "there was no run",
        "accepted",
    ),
]
RunReason = Annotated[str, about("why it didn't run, or null", None)]
MissedInRow = Annotated[int, about("number of missed runs that this entry stands for", 0)]
IsManual = Annotated[bool, about("whether a caller requested it", False)]


# --- requests -----------------------------------------------------------------------


class NewSchedule(
    Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True
):
    """A schedule to create: give either cron or every_seconds."""

    name: ScheduleName
    function: FunctionOfSchedule
    cron: Cron | None = None
    every_seconds: EverySeconds | None = None
    timezone: Timezone = "UTC"
    payload: PayloadOfSchedule | None = None
    environment: EnvironmentOfSchedule | None = None
    overlap: OverlapOfSchedule = "allow"
    missed: MissedOfSchedule = "skip"
    jitter_seconds: JitterSeconds = 0
    enabled: Enabled = True


class ScheduleChanges(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Changes to a schedule. Omitted fields stay as they are; null resets nullable fields. Setting
    cron resets every_seconds, and vice versa.
    """

    function: FunctionOfSchedule | UnsetType = UNSET
    cron: Cron | UnsetType | None = UNSET
    every_seconds: EverySeconds | UnsetType | None = UNSET
    timezone: Timezone | UnsetType = UNSET
    payload: PayloadOfSchedule | UnsetType | None = UNSET
    environment: EnvironmentOfSchedule | UnsetType | None = UNSET
    overlap: OverlapOfSchedule | UnsetType = UNSET
    missed: MissedOfSchedule | UnsetType = UNSET
    jitter_seconds: JitterSeconds | UnsetType = UNSET
    enabled: Enabled | UnsetType = UNSET


# --- responses ---------------------------------------------------------------------


class ScheduleRun(Struct, kw_only=True, frozen=True):
    """The decision for one time at which a schedule was due, in Unix seconds. `status`: the status
    of the run's invocation; null if there is no invocation or no record any more.
    """

    due_at: UnixSeconds
    outcome: RunResult
    invocation_id: InvocationId | None
    status: InvocationStatus | None
    reason: RunReason | None
    missed: MissedInRow
    manual: IsManual
    decided_at: UnixSeconds


class ScheduleRunPage(Struct, kw_only=True, frozen=True):
    """A page of runs, newest first."""

    runs: list[ScheduleRun]
    next_cursor: NextCursor | None


class Schedule(Struct, kw_only=True, frozen=True):
    """A schedule. Below scope write, `payload` and the values of `environment` are shown as ***.
    Times in Unix seconds.
    """

    id: ScheduleId
    name: ScheduleName
    function: FunctionName
    cron: Cron | None
    every_seconds: EverySeconds | None
    timezone: Timezone
    payload: PayloadOfSchedule | None
    environment: EnvironmentOfSchedule | None
    overlap: OverlapOfSchedule
    missed: MissedOfSchedule
    jitter_seconds: JitterSeconds
    enabled: Enabled
    created_at: UnixSeconds
    updated_at: UnixSeconds
    next_runs: NextRuns
    last_run: ScheduleRun | None
    fired_count: FiredCount
    skipped_count: SkippedCount
    missed_count: MissedCount
    in_words: InWords | None = None


class SchedulePage(Struct, kw_only=True, frozen=True):
    """A page of schedules, oldest first."""

    schedules: list[Schedule]
    next_cursor: NextCursor | None
