"""Converts between the model's types and the schemas of the API (`quiltfn.wire`)."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from quiltfn import wire
from quiltfn.api.http.long_json import WithTexts
from quiltfn.api.http.text_size import PIECE_BYTES
from quiltfn.base.ids import made_at_ms
from quiltfn.calls.timeline import CallTimeline
from quiltfn.functions.catalog import Entry
from quiltfn.functions.runtimes import OwnedRuntime, is_own
from quiltfn.model.access import Key
from quiltfn.model.alias import Alias
from quiltfn.model.audit import AuditEntry
from quiltfn.model.converting import convert
from quiltfn.model.end_cause import EndCause, cause_data
from quiltfn.model.function import NewFunction
from quiltfn.model.image import Image, ImageFile, Package
from quiltfn.model.invocation import Invocation
from quiltfn.model.operation import Operation
from quiltfn.model.pool import PoolCounts
from quiltfn.model.runtime import Isolation, Kind, Network, Runtime
from quiltfn.model.schedule import Schedule
from quiltfn.model.timeline import PHASES
from quiltfn.model.version import MASK, Version, VersionSpec
from quiltfn.ports.schedules import ScheduleRun, StoredSchedule
from quiltfn.ports.work import Attempt, DeadLetter, QueueCounts

T = TypeVar("T", bound=msgspec.Struct)
NEXT_RUNS = 5
REPLAY = "ELASTICITY_IDEMPOTENCY_REPLAY"


def gathered(shape: type[T], *sources: object, **given: Any) -> T:
    """An instance of a schema. Each field is taken from `given`, otherwise from the first source
    that has an attribute of that name.

    A field that is added to both a model type and its schema needs no change here.
    """
    values = dict(given)
    for name in shape.__struct_fields__:
        if name in values:
            continue
        for source in sources:
            if hasattr(source, name):
                values[name] = getattr(source, name)
                break
    return shape(**values)


# --- requests ----------------------------------------------------------------------------------


def split(new: wire.NewFunction) -> tuple[NewFunction, VersionSpec]:
    """Separate the function's own fields from the spec of its first version."""
    fields = msgspec.structs.asdict(new)
    spec = {name: fields[name] for name in VersionSpec.__struct_fields__ if name in fields}
    kept = {name: fields[name] for name in NewFunction.__struct_fields__}
    return NewFunction(**kept), VersionSpec(**spec)


def changes_of(changes: wire.FunctionChanges) -> dict[str, Any]:
    """The fields that the request contains."""
    fields = msgspec.structs.asdict(changes)
    return {name: value for name, value in fields.items() if value is not msgspec.UNSET}


def runtime_of(new: wire.NewRuntime) -> Runtime:
    """The runtime as requested, without an id, which the server assigns."""
    return Runtime(
        id="",
        name=new.name,
        kind=Kind(new.kind),
        image=new.image,
        base_image=new.base_image,
        packages=new.packages,
        packages_key=new.packages_key,
        command=tuple(new.command or ()),
        environment=new.environment,
        isolation=Isolation(new.isolation),
        network=Network(new.network),
        writable_paths=tuple(new.writable_paths),
        process_limit=new.process_limit,
        tmp_limit_mb=new.tmp_limit_mb,
        file_limit_mb=new.file_limit_mb,
        open_files_limit=new.open_files_limit,
    )


def schedule_of(new: wire.NewSchedule) -> Schedule:
    """The schedule as requested, without ids, which the server assigns."""
    fields = msgspec.structs.asdict(new)
    del fields["function"]
    return convert(fields | {"id": "", "tenant_id": "", "function_id": ""}, Schedule)


# --- responses ---------------------------------------------------------------------------------


def function(
    entry: Entry, default: Alias | None, *, note: str, is_outdated: bool, show: bool
) -> wire.Function:
    """`default`: its default alias. `note`: a note about its runtime. `is_outdated`: whether that
    runtime was replaced. `show`: whether the caller may see the values of the environment.
    """
    spec, error = entry.version.spec, entry.function.error_message
    output = error and entry.function.error_output
    return gathered(
        wire.Function,
        entry.function,
        entry.counters,
        spec,
        environment=values_of(spec.environment, show=show),
        note=note or msgspec.UNSET,
        runtime_outdated=is_outdated or msgspec.UNSET,
        error_message=f"{error}\nIt wrote last:\n{output}" if output else error,
        error_sentence=error if error and output else msgspec.UNSET,
        error_output=output or msgspec.UNSET,
        failed_version=(error and entry.function.failed_version) or msgspec.UNSET,
        default_alias=msgspec.UNSET if default is None else alias(default),
    )


def function_summary(entry: Entry, default: Alias | None) -> wire.FunctionSummary:
    return gathered(
        wire.FunctionSummary,
        entry.function,
        entry.counters,
        entry.version.spec,
        default_alias=msgspec.UNSET if default is None else alias(default),
    )


def alias(alias: Alias) -> wire.Alias:
    also, rule = alias.also, alias.rollback_on
    return wire.Alias(
        name=alias.name,
        version=alias.version,
        also=None if also is None else wire.AliasShare(version=also.version, weight=also.weight),
        rollback_on=None if rule is None else wire.RollbackRule(**msgspec.structs.asdict(rule)),
        rolled_back=alias.rolled_back,
        default=alias.is_default,
        updated_at=alias.updated_at,
    )


def version(version: Version, current: int, *, show: bool) -> wire.Version:
    """`show`: whether the caller may see the values of the environment."""
    return gathered(
        wire.Version,
        version,
        version.spec,
        version=version.number,
        is_active=version.number == current,
        image_digest=version.spec.runtime_snapshot.image_digest,
        environment=values_of(version.spec.environment, show=show),
    )


def values_of(environment: Mapping[str, str], *, show: bool) -> dict[str, str]:
    """The variables, with masked values unless `show` is true."""
    return dict(environment) if show else dict.fromkeys(environment, MASK)


def invocation(record: Invocation) -> wire.Invocation:
    """Output that isn't loaded with the record becomes two empty strings."""
    return wire.Invocation(
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
        http_status=record.http_status or msgspec.UNSET,
        attempt=record.attempt if record.attempt > 1 else msgspec.UNSET,
    )


def long_invocation(record: Invocation) -> wire.Invocation | WithTexts:
    """As `invocation`, but with long output kept as separate texts."""
    if len(record.stdout) + len(record.stderr) <= PIECE_BYTES:
        return invocation(record)
    shown = invocation(msgspec.structs.replace(record, stdout=b"", stderr=b""))
    return WithTexts(shown, {"stdout": record.stdout, "stderr": record.stderr})


def invocation_summary(record: Invocation) -> wire.InvocationSummary:
    return gathered(wire.InvocationSummary, record, end_cause=end_cause(record.cause))


def end_cause(cause: EndCause | None) -> wire.EndCause | None:
    return None if cause is None else convert(cause_data(cause), wire.EndCause)


def attempt(attempt: Attempt) -> wire.Attempt:
    return gathered(
        wire.Attempt,
        attempt,
        started_at=_seconds(attempt.started_at),
        ended_at=_seconds(attempt.ended_at),
        stdout=None if attempt.stdout is None else attempt.stdout.decode("utf-8", "replace"),
        stderr=None if attempt.stderr is None else attempt.stderr.decode("utf-8", "replace"),
        end_cause=end_cause(attempt.end_cause),
    )


def _seconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else milliseconds // 1000


def dead_letter(letter: DeadLetter, function_name: str | None) -> wire.DeadLetter:
    cause = end_cause(letter.end_cause)
    return gathered(wire.DeadLetter, letter, function_name=function_name, end_cause=cause)


def queue(
    counts: QueueCounts, function_id: str, function_name: str | None, now_ms: int
) -> wire.FunctionQueue:
    oldest = counts.oldest_due_ms
    return wire.FunctionQueue(
        function_id=function_id,
        function_name=function_name,
        queued=counts.queued,
        delayed=counts.delayed,
        running=counts.running,
        oldest_age_seconds=None if oldest is None else max(0, now_ms - oldest) // 1000,
        dead_letters=counts.dead_letters,
    )


def timeline(found: CallTimeline) -> wire.Timeline:
    kept, record = found.timeline, found.record
    spent = [] if kept is None else [(name, getattr(kept, name)) for name in PHASES]
    return gathered(
        wire.Timeline,
        record,
        cold_reason=None if kept is None else kept.reason,
        phases=[wire.Phase(name=name, microseconds=took) for name, took in spent],
        total_microseconds=0 if kept is None else kept.total,
        accepted_at_ms=made_at_ms(record.invocation_id),
        children=[invocation_summary(one) for one in found.children],
        parent_function_id=found.parent_function_id,
        environment_names=list(found.variables),
        attempts=[timed_attempt(one) for one in found.attempts],
        has_input=found.has_input,
        end_cause=end_cause(record.cause),
    )


def timed_attempt(attempt: Attempt) -> wire.TimedAttempt:
    return gathered(wire.TimedAttempt, attempt, started_at_ms=attempt.started_at)


def pool(function_id: str, counts: PoolCounts) -> wire.Pool:
    busy = counts.busy + counts.recycling
    return wire.Pool(
        function_id=function_id,
        warming_count=counts.warming,
        ready_count=counts.ready,
        busy_count=busy,
        total_count=counts.warming + counts.ready + busy,
    )


def listed_pool(function_id: str, counts: PoolCounts) -> wire.ListedPool:
    return gathered(
        wire.ListedPool,
        pool(function_id, counts),
        parked_count=counts.parked,
        memory_mib=counts.memory_mib,
    )


def pool_stats(counts: PoolCounts) -> wire.PoolStats:
    states = ("warming", "ready", "busy", "recycling", "terminating")
    numbers = {"total": counts.total} | {state: getattr(counts, state) for state in states}
    return wire.PoolStats(
        **{f"{name}_count": number for name, number in numbers.items()},
        **{f"{name}_containers": number for name, number in numbers.items()},
    )


def runtime(named: OwnedRuntime, *, show: bool) -> wire.Runtime:
    """`show`: whether the caller may see the values of the environment."""
    runtime = named.runtime
    return gathered(
        wire.Runtime,
        runtime,
        command=list(runtime.command),
        environment=values_of(runtime.environment, show=show),
        writable_paths=list(runtime.writable_paths),
        built_in=is_own(runtime),
        shared=named.is_shared,
    )


def runtime_file(file: ImageFile) -> wire.RuntimeFile:
    return gathered(wire.RuntimeFile, file)


def runtime_package(package: Package) -> wire.RuntimePackage:
    return gathered(wire.RuntimePackage, package)


def image(image: Image) -> wire.Image:
    return gathered(wire.Image, image)


def key(key: Key) -> wire.Key:
    return gathered(wire.Key, key)


def created_key(key: Key, secret: str) -> wire.CreatedKey:
    return gathered(wire.CreatedKey, key, key=secret)


def audit_entry(entry: AuditEntry) -> wire.AuditEntry:
    return gathered(wire.AuditEntry, entry)


def operation(operation: Operation) -> wire.Operation:
    return gathered(wire.Operation, operation)


def as_replay(answer: wire.Operation) -> wire.Operation:
    """The original operation, as the response to a repeated request."""
    return msgspec.structs.replace(
        answer,
        reason_code=REPLAY,
        reason_message="this Idempotency-Key was used before; this is the operation it made",
    )


def schedule(stored: StoredSchedule, function: str, *, show: bool) -> wire.Schedule:
    """`function`: its name. `show`: whether the caller may see the input of its runs."""
    schedule, last = stored.schedule, stored.last_run
    payload, environment = schedule.payload, schedule.environment
    if not show:
        payload = None if payload is None else MASK
        environment = None if environment is None else dict.fromkeys(environment, MASK)
    return gathered(
        wire.Schedule,
        schedule,
        function=function,
        payload=payload,
        environment=environment,
        in_words=schedule.in_words(),
        next_runs=[due_ms // 1000 for due_ms in schedule.next_runs(NEXT_RUNS)],
        last_run=None if last is None else schedule_run(last),
    )


def schedule_run(run: ScheduleRun) -> wire.ScheduleRun:
    return gathered(wire.ScheduleRun, run, due_at=run.tick_ms // 1000, manual=run.is_manual)
