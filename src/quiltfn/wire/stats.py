"""Schemas of statistics, usage, and quotas."""

from typing import Annotated

from msgspec import Struct

from quiltfn.wire.constraints import Between
from quiltfn.wire.fields import about
from quiltfn.wire.functions import FunctionId, FunctionName, NextCursor, TenantId

__all__ = [
    "FunctionStats",
    "FunctionStatsPage",
    "NewQuota",
    "Quota",
    "QuotaUse",
    "Series",
    "SeriesPoint",
    "Tenant",
    "TenantPage",
    "Usage",
    "UsageRow",
    "UsageSums",
]

USAGE_STEPS = ("hour", "day", "all")

Calls = Annotated[int, about("number of invocations that ended", 1200)]
Errors = Annotated[
    int,
    about("number of them that didn't succeed or returned an HTTP status of 500 or higher", 3),
]
ColdStarts = Annotated[int, about("number of cold starts among them", 2)]
Median = Annotated[
    float,
    about(
        "median latency, from the request to the record of the end, within 5 %; null if unknown",
        1.3,
        unit="ms",
    ),
]
Percentile99 = Annotated[float, about("99th percentile of the latency", 21.4, unit="ms")]
Statuses = Annotated[
    dict[str, int],
    about("number of invocations that ended, by status", {"success": 1197, "failed": 3}),
]
Start = Annotated[int, about("start of the period, in Unix seconds", 1760000000)]
End = Annotated[int, about("end of the period, in Unix seconds", 1760003600)]
StepSeconds = Annotated[int, about("length of a point's period in seconds", 60, unit="s")]
StepName = Annotated[str, about("hour or day, in UTC, or all: the whole period", "day")]
GbSeconds = Annotated[
    float,
    about(
        "memory limit times duration of every attempt, in GB (1024 MiB) and seconds; concurrent "
        "invocations of an instance share its time",
        41.7,
    ),
]
CpuSeconds = Annotated[
    float,
    about(
        "measured CPU time of the instances: handlers, starts and cleanup",
        12.9,
        unit="s",
    ),
]
EgressRefused = Annotated[int, about("connections blocked by the instances' networks", 0)]
Queued = Annotated[int, about("number of accepted asynchronous invocations", 40)]


class FunctionStats(Struct, kw_only=True, frozen=True):
    """Statistics of one function's invocations."""

    function_id: FunctionId
    calls: Calls
    errors: Errors
    cold_starts: ColdStarts
    p50_ms: Median | None
    p99_ms: Percentile99 | None


class FunctionStatsPage(Struct, kw_only=True, frozen=True):
    """The functions that had invocations, oldest first."""

    functions: list[FunctionStats]
    next_cursor: NextCursor | None


class SeriesPoint(Struct, kw_only=True, frozen=True):
    """Statistics of one function's invocations from `start` on, for one step."""

    start: Start
    calls: Calls
    errors: Errors
    statuses: Statuses
    cold_starts: ColdStarts
    p50_ms: Median | None
    p99_ms: Percentile99 | None


class Series(Struct, kw_only=True, frozen=True):
    """Statistics of one function's invocations over time, oldest first. Periods in which no
    invocation ended have no point.
    """

    function_id: FunctionId
    start: Start
    end: End
    step_seconds: StepSeconds
    points: list[SeriesPoint]


class UsageSums(Struct, kw_only=True, frozen=True):
    """Usage by invocations."""

    calls: Calls
    errors: Errors
    statuses: Statuses
    cold_starts: ColdStarts
    gb_seconds: GbSeconds
    cpu_seconds: CpuSeconds
    egress_refused: EgressRefused
    queued: Queued


class UsageRow(UsageSums, kw_only=True, frozen=True):
    """Usage from `start` on, for an hour, a day or the whole period.

    `function_id`: null for all functions together, and for functions that are no longer listed
    separately. `function_name`: null also for a deleted function.
    """

    start: Start
    function_id: FunctionId | None
    function_name: FunctionName | None


class Usage(Struct, kw_only=True, frozen=True):
    """A tenant's usage, oldest first. Periods without usage have no row."""

    start: Start
    end: End
    step: StepName
    rows: list[UsageRow]
    total: UsageSums


# --- quotas ------------------------------------------------------------------------------------

OF_SERVER = "the server's default"
CallsInFlight = Annotated[
    int,
    about(
        "maximum running and waiting invocations of the tenant; 0: none allowed",
        1000,
        Between(0, 1_000_000),
        null=OF_SERVER,
    ),
]
CallsPerSecond = Annotated[
    float,
    about(
        "maximum invocations per second; 0: unlimited",
        50.0,
        Between(0, 1_000_000),
        null=OF_SERVER,
    ),
]
FunctionsMax = Annotated[
    int,
    about("maximum number of functions", 10000, Between(0, 1_000_000), null=OF_SERVER),
]
ImageBytes = Annotated[
    int,
    about(
        "maximum bytes of runtimes' images",
        4294967296,
        Between(0, 2**50),
        null=OF_SERVER,
        short="image-bytes",
    ),
]
GbSecondsPerDay = Annotated[
    float,
    about(
        "maximum GB-seconds (memory limit times duration) per day (UTC); 0: unlimited",
        3600.0,
        Between(0, 1e12),
        null=OF_SERVER,
    ),
]
OwnLimits = Annotated[
    list[str],
    about("limits that the tenant's quota sets; the others are the server's", ["functions"]),
]
TenantKnown = Annotated[
    bool,
    about(
        "whether the tenant has a key, a function or invocations; false: the name was never used",
        True,
    ),
]
TenantDisabled = Annotated[bool, about("whether an operator has disabled the tenant", False)]
ValidKeys = Annotated[int, about("keys that are neither revoked nor expired", 2)]
InFlightNow = Annotated[int, about("running and waiting invocations", 3)]
FunctionsNow = Annotated[int, about("number of functions", 12)]
ImageBytesNow = Annotated[int, about("bytes of images that count toward the limit", 1048576)]
GbSecondsToday = Annotated[float, about("GB-seconds used by invocations of this day (UTC)", 41.7)]


class NewQuota(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True):
    """The limits of one tenant. Omitted limits are those of the server's settings."""

    calls_in_flight: CallsInFlight | None = None
    calls_per_second: CallsPerSecond | None = None
    functions: FunctionsMax | None = None
    image_bytes: ImageBytes | None = None
    gb_seconds_per_day: GbSecondsPerDay | None = None


class QuotaUse(Struct, kw_only=True, frozen=True):
    """A tenant's usage of its limits."""

    calls_in_flight: InFlightNow
    functions: FunctionsNow
    image_bytes: ImageBytesNow
    gb_seconds_today: GbSecondsToday


class Quota(Struct, kw_only=True, frozen=True):
    """The limits in force for a tenant. `own`: those that its quota sets."""

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
    """A page of tenants, sorted by name."""

    tenants: list[Tenant]
    next_cursor: NextCursor | None
