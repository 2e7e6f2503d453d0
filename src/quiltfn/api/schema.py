"""The wire shapes: what a request may say and what an answer always has, in this order.

Request shapes carry types only; ranges are the model's business, so that each rule stands once.
"""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from quiltfn.catalog import Entry
from quiltfn.model.function import NewFunction
from quiltfn.model.invocation import Invocation
from quiltfn.model.pool import PoolCounts
from quiltfn.model.timeline import PHASES, Timeline
from quiltfn.model.version import MASK, Content, Version


class CreateBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST /api/functions."""

    name: str
    handler: str
    runtime: str = "shell"
    cluster_id: str | None = None
    description: str | None = None
    memory_limit_mb: int = 256
    cpu_limit_percent: float = 100.0
    timeout_seconds: int = 30
    environment: dict[str, str] = {}
    min_instances: int = 0
    max_instances: int = 5
    cleanup_on_exit: bool = True
    working_directory: str | None = None

    def split(self) -> tuple[NewFunction, Content]:
        """What the function keeps, and what its first version fixes."""
        fields = msgspec.structs.asdict(self)
        content = {name: fields[name] for name in Content.__struct_fields__ if name in fields}
        new = {name: fields[name] for name in NewFunction.__struct_fields__}
        return NewFunction(**new), Content(**content)


class UpdateBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """PUT /api/functions/<id>: what is not named stays as it is; null resets what may be null."""

    name: str | UnsetType = UNSET
    handler: str | UnsetType = UNSET
    runtime: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    memory_limit_mb: int | UnsetType = UNSET
    cpu_limit_percent: float | UnsetType = UNSET
    timeout_seconds: int | UnsetType = UNSET
    environment: dict[str, str] | UnsetType = UNSET
    min_instances: int | UnsetType = UNSET
    max_instances: int | UnsetType = UNSET
    cleanup_on_exit: bool | UnsetType = UNSET
    working_directory: str | UnsetType | None = UNSET

    def changes(self) -> dict[str, Any]:
        """The fields that were named."""
        fields = msgspec.structs.asdict(self)
        return {name: value for name, value in fields.items() if value is not UNSET}


class InvokeBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST …/invoke."""

    payload: str | None = None
    environment: dict[str, str] | None = None
    timeout_seconds: int | None = None


class RollbackBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """POST …/rollback."""

    version: int


class FunctionAnswer(msgspec.Struct, kw_only=True):
    """A function. Times in Unix seconds."""

    id: str
    tenant_id: str
    cluster_id: str | None
    owner_node_id: str
    name: str
    description: str | None
    handler: str
    runtime: str
    state: str
    current_version: int
    memory_limit_mb: int
    cpu_limit_percent: float
    timeout_seconds: int
    environment: dict[str, str]
    min_instances: int
    max_instances: int
    cleanup_on_exit: bool
    working_directory: str | None
    created_at: int
    updated_at: int
    last_invoked_at: int | None
    invocation_count: int
    error_count: int
    error_message: str | None


class VersionAnswer(msgspec.Struct, kw_only=True):
    """A version. `created_at` in Unix seconds. `image_digest`: of the files it runs with."""

    id: str
    function_id: str
    version: int
    handler: str
    runtime: str
    environment: dict[str, str]
    created_at: int
    is_active: bool
    description: str | None
    working_directory: str | None
    memory_limit_mb: int
    cpu_limit_percent: float
    timeout_seconds: int
    cleanup_on_exit: bool
    image_digest: str


class InvocationAnswer(msgspec.Struct, kw_only=True):
    """The record of a call. Times in Unix seconds, `duration_ms` in milliseconds.

    Bytes of `stdout` and `stderr` that are not UTF-8 show as U+FFFD here.
    """

    invocation_id: str
    function_id: str
    function_name: str
    execution_node_id: str
    status: str
    started_at: int | None
    ended_at: int | None
    duration_ms: int | None
    exit_code: int | None
    stdout: str
    stderr: str
    error_message: str | None
    cold_start: bool


class PhaseAnswer(msgspec.Struct, kw_only=True):
    """A part of a call's time; 0 for what did not happen."""

    name: str
    microseconds: int


class TimelineAnswer(msgspec.Struct, kw_only=True):
    """Where the time of a call went: its phases add up to the total.

    `cold_reason`: first, scaled_out, updated, evicted or replaced; null of a warm call.
    """

    invocation_id: str
    cold_start: bool
    cold_reason: str | None
    phases: list[PhaseAnswer]
    total_microseconds: int


class CreatedAnswer(msgspec.Struct, kw_only=True):
    """What a create answers."""

    function_id: str
    name: str
    state: str
    version: int


class PauseAnswer(msgspec.Struct, kw_only=True):
    """What a pause answers."""

    success: bool = True
    message: str | None = None


class FunctionList(msgspec.Struct, kw_only=True):
    functions: list[FunctionAnswer]
    next_cursor: str | None


class InvocationList(msgspec.Struct, kw_only=True):
    invocations: list[InvocationAnswer]
    next_cursor: str | None


class VersionList(msgspec.Struct, kw_only=True):
    """`next_cursor`: only where there are more."""

    versions: list[VersionAnswer]
    next_cursor: str | UnsetType = UNSET


class PoolAnswer(msgspec.Struct, kw_only=True):
    """One function's instances. Busy includes those that are being cleaned for the next call."""

    function_id: str
    warming_count: int
    ready_count: int
    busy_count: int
    total_count: int


class PoolStatsAnswer(msgspec.Struct, kw_only=True):
    """All instances of a tenant; the second six are the same numbers by the client's names."""

    total_count: int
    warming_count: int
    ready_count: int
    busy_count: int
    recycling_count: int
    terminating_count: int
    total_containers: int
    warming_containers: int
    ready_containers: int
    busy_containers: int
    recycling_containers: int
    terminating_containers: int


def function_answer(entry: Entry, *, show: bool) -> FunctionAnswer:
    """`show`: whether the caller may see the values of the environment."""
    function, tally = entry.function, entry.tally
    return FunctionAnswer(
        id=function.id,
        tenant_id=function.tenant_id,
        cluster_id=function.cluster_id,
        owner_node_id=function.owner_node_id,
        name=function.name,
        description=function.description,
        state=function.state,
        current_version=function.current_version,
        min_instances=function.min_instances,
        max_instances=function.max_instances,
        created_at=function.created_at,
        updated_at=function.updated_at,
        last_invoked_at=tally.last_invoked_at,
        invocation_count=tally.invocation_count,
        error_count=tally.error_count,
        error_message=function.error_message,
        **content_fields(entry.version.content, show=show),
    )


def version_answer(version: Version, current: int, *, show: bool) -> VersionAnswer:
    """`show`: whether the caller may see the values of the environment."""
    return VersionAnswer(
        id=version.id,
        function_id=version.function_id,
        version=version.number,
        created_at=version.created_at,
        is_active=version.number == current,
        description=version.description,
        image_digest=version.content.pinned.image_digest,
        **content_fields(version.content, show=show),
    )


def content_fields(content: Content, *, show: bool) -> dict[str, Any]:
    """What a version fixes; the environment's values masked unless they are to be shown."""
    fields = msgspec.structs.asdict(content)
    del fields["pinned"]
    if not show:
        fields["environment"] = dict.fromkeys(content.environment, MASK)
    return fields


def invocation_answer(record: Invocation) -> InvocationAnswer:
    """Its output is two empty strings where that was left out."""
    return InvocationAnswer(
        invocation_id=record.invocation_id,
        function_id=record.function_id,
        function_name=record.function_name,
        execution_node_id=record.execution_node_id,
        status=record.status,
        started_at=record.started_at,
        ended_at=record.ended_at,
        duration_ms=record.duration_ms,
        exit_code=record.exit_code,
        stdout=record.stdout.decode("utf-8", "replace"),
        stderr=record.stderr.decode("utf-8", "replace"),
        error_message=record.error_message,
        cold_start=record.cold_start,
    )


def timeline_answer(record: Invocation, timeline: Timeline) -> TimelineAnswer:
    return TimelineAnswer(
        invocation_id=record.invocation_id,
        cold_start=record.cold_start,
        cold_reason=timeline.why,
        phases=[PhaseAnswer(name=name, microseconds=getattr(timeline, name)) for name in PHASES],
        total_microseconds=timeline.total,
    )


class EgressAnswer(msgspec.Struct, kw_only=True):
    """What a function may reach, and how often that was refused since the server started."""

    function_id: str
    network: str
    blocked_count: int


def pool_answer(function_id: str, counts: PoolCounts) -> PoolAnswer:
    busy = counts.busy + counts.recycling
    return PoolAnswer(
        function_id=function_id,
        warming_count=counts.warming,
        ready_count=counts.ready,
        busy_count=busy,
        total_count=counts.warming + counts.ready + busy,
    )


def pool_stats_answer(counts: PoolCounts) -> PoolStatsAnswer:
    states = ("warming", "ready", "busy", "recycling", "terminating")
    numbers = {"total": counts.total} | {state: getattr(counts, state) for state in states}
    return PoolStatsAnswer(
        **{f"{name}_count": number for name, number in numbers.items()},
        **{f"{name}_containers": number for name, number in numbers.items()},
    )
