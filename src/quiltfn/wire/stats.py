"""What calls came to, over time and as usage, and the quotas of tenants."""

from typing import Annotated

from msgspec import Struct

from quiltfn.wire.constraints import Between
from quiltfn.wire.fields import about
from quiltfn.wire.functions import FunctionId, FunctionName, NextCursor, TenantId

USAGE_STEPS = ("hour", "day", "all")

Calls = Annotated[int, about("how many calls ended", 1200)]
Errors = Annotated[
    int,
    about("how many of them ended in another way than success, or with an HTTP status from 500", 3),
]
ColdStarts = Annotated[int, about("how many of them were cold starts", 2)]
Median = Annotated[
    float,
    about(
        "the latency that half of the calls did not exceed, from the request to the record of its "
        "end, within 5 %; null where none is known",
        1.3,
        unit="ms",
    ),
]
Percentile99 = Annotated[float, about("likewise of 99 of 100 calls", 21.4, unit="ms")]
Statuses = Annotated[
    dict[str, int], about("how many calls ended, by status", {"success": 1197, "failed": 3})
]
Start = Annotated[int, about("where it begins, in Unix seconds", 1760000000)]
End = Annotated[int, about("where it ends, in Unix seconds", 1760003600)]
StepSeconds = Annotated[int, about("how many seconds a point stands for", 60, unit="s")]
StepName = Annotated[str, about("hour or day, in UTC, or all: one stretch", "day")]
GbSeconds = Annotated[
    float,
    about(
        "memory limit times duration of every attempt, in GB (1024 MiB) and seconds; calls that "
        "share an instance divide its time",
        41.7,
    ),
]
CpuSeconds = Annotated[
    float,
    about(
        "processor time of the instances, measured: of handlers, of starting, and of cleaning up",
        12.9,
        unit="s",
    ),
]
EgressRefused = Annotated[int, about("connections that the networks of instances refused", 0)]
Queued = Annotated[int, about("asynchronous calls that were accepted", 40)]


class FunctionStats(Struct, kw_only=True, frozen=True):
    """What the calls of one function came to."""

    function_id: FunctionId
    calls: Calls
    errors: Errors
    cold_starts: ColdStarts
    p50_ms: Median | None
    p99_ms: Percentile99 | None


class FunctionStatsPage(Struct, kw_only=True, frozen=True):
    """The functions that had calls, oldest first."""

    functions: list[FunctionStats]
    next_cursor: NextCursor | None


class SeriesPoint(Struct, kw_only=True, frozen=True):
    """What the calls of one function came to from `start` on, for the seconds of a step."""

    start: Start
    calls: Calls
    errors: Errors
    statuses: Statuses
    cold_starts: ColdStarts
    p50_ms: Median | None
    p99_ms: Percentile99 | None


class Series(Struct, kw_only=True, frozen=True):
    """What the calls of one function came to over time, oldest first. There is no point where no
    call ended.
    """

    function_id: FunctionId
    start: Start
    end: End
    step_seconds: StepSeconds
    points: list[SeriesPoint]


class UsageSums(Struct, kw_only=True, frozen=True):
    """What calls used."""

    calls: Calls
    errors: Errors
    statuses: Statuses
    cold_starts: ColdStarts
    gb_seconds: GbSeconds
    cpu_seconds: CpuSeconds
    egress_refused: EgressRefused
    queued: Queued


class UsageRow(UsageSums, kw_only=True, frozen=True):
    """What calls used from `start` on, for an hour, a day or all of the time.

    `function_id`: null for all functions together, and for those that are no longer told apart.
    `function_name`: null for a function that was deleted as well.
    """

    start: Start
    function_id: FunctionId | None
    function_name: FunctionName | None


class Usage(Struct, kw_only=True, frozen=True):
    """What a tenant's calls used, oldest first. There is no row where nothing was used."""

    start: Start
    end: End
    step: StepName
    rows: list[UsageRow]
    total: UsageSums


# --- quotas ------------------------------------------------------------------------------------

CallsInFlight = Annotated[
    int,
    about(
        "calls of the tenant that run or wait at most; 0: none; null: as the server has it",
        1000,
        Between(0, 1_000_000),
    ),
]
CallsPerSecond = Annotated[
    float,
    about(
        "calls a second; 0: no such limit; null: as the server has it",
        50.0,
        Between(0, 1_000_000),
    ),
]
FunctionsMax = Annotated[
    int, about("functions at most; null: as the server has it", 10000, Between(0, 1_000_000))
]
ImageBytes = Annotated[
    int,
    about(
        "what images of runtimes count at most; null: as the server has it",
        4294967296,
        Between(0, 2**50),
        short="image-bytes",
    ),
]
GbSecondsPerDay = Annotated[
    float,
    about(
        "memory limit times duration of the calls of a day (UTC), in GB and seconds; 0: no such "
        "limit; null: as the server has it",
        3600.0,
        Between(0, 1e12),
    ),
]
OwnLimits = Annotated[
    list[str],
    about("which of the limits are the tenant's own; the others are the server's", ["functions"]),
]
TenantKnown = Annotated[
    bool,
    about(
        "whether the tenant has a key, a function or calls; false: nobody has used the name yet",
        True,
    ),
]
TenantDisabled = Annotated[bool, about("whether an operator has disabled the tenant", False)]
ValidKeys = Annotated[int, about("keys that are neither revoked nor expired", 2)]
InFlightNow = Annotated[int, about("calls that run or wait now", 3)]
FunctionsNow = Annotated[int, about("functions now", 12)]
ImageBytesNow = Annotated[int, about("what images count now", 1048576)]
GbSecondsToday = Annotated[
    float, about("what calls of this day (UTC) have used, in GB and seconds", 41.7)
]


class NewQuota(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True):
    """The limits of one tenant. What is left out is as the server's settings have it."""

    calls_in_flight: CallsInFlight | None = None
    calls_per_second: CallsPerSecond | None = None
    functions: FunctionsMax | None = None
    image_bytes: ImageBytes | None = None
    gb_seconds_per_day: GbSecondsPerDay | None = None


class QuotaUse(Struct, kw_only=True, frozen=True):
    """How much of its limits a tenant has used."""

    calls_in_flight: InFlightNow
    functions: FunctionsNow
    image_bytes: ImageBytesNow
    gb_seconds_today: GbSecondsToday


class Quota(Struct, kw_only=True, frozen=True):
    """The limits that hold for a tenant. `own`: which of them its quota names."""

    tenant_id: TenantId
    known: TenantKnown
    calls_in_flight: CallsInFlight
    calls_per_second: CallsPerSecond
    functions: FunctionsMax
    image_bytes: ImageBytes
    gb_seconds_per_day: GbSecondsPerDay
    own: OwnLimits
    used: QuotaUse
    disabled: TenantDisabled = False


class Tenant(Struct, kw_only=True, frozen=True):
    """A tenant as operators see it."""

    tenant_id: TenantId
    disabled: TenantDisabled
    functions: FunctionsNow
    valid_keys: ValidKeys
    calls_in_flight: InFlightNow


class TenantPage(Struct, kw_only=True, frozen=True):
    """Some tenants, by name."""

    tenants: list[Tenant]
    next_cursor: NextCursor | None
