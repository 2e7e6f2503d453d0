"""The tables of most commands; `show` prints them."""

import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from quiltfn.cli import show
from quiltfn.cli.show import TableOf
from quiltfn.sdk import (
    AsyncPolicy,
    Attempt,
    AuditEntry,
    AuditPage,
    DeadLetter,
    DeadLetterPage,
    Delivery,
    DeliveryPage,
    Destination,
    DoctorReport,
    Egress,
    FunctionQueue,
    FunctionStats,
    FunctionStatsPage,
    FunctionSummary,
    FunctionSummaryPage,
    Health,
    Instance,
    InstanceList,
    Invocation,
    InvocationPage,
    InvocationSummary,
    InvocationSummaryPage,
    NewQuota,
    Node,
    Pool,
    PoolStats,
    QueuePage,
    Quota,
    Runtime,
    RuntimeFile,
    RuntimeFilePage,
    RuntimePackage,
    RuntimePackageList,
    Schedule,
    SchedulePage,
    ScheduleRun,
    ScheduleRunPage,
    Series,
    SeriesPoint,
    SystemInfo,
    Timeline,
    Usage,
    UsageSums,
    Version,
    VersionPage,
    Whoami,
)
from quiltfn.wire import FunctionOnNode

NO_INVOCATIONS = "no invocations"
HANDLER_SHOWN = 40


versions = TableOf[VersionPage, Version](
    lambda page: page.versions,
    {
        "VERSION": lambda version: version.version,
        "CURRENT": lambda version: "yes" if version.is_active else "-",
        "RUNTIME": lambda version: version.runtime,
        "MEMORY": lambda version: _with_unit(version.memory_limit_mb, "MiB"),
        "CPU": lambda version: _with_unit(version.cpu_limit_percent, "%"),
        "TIMEOUT": lambda version: _with_unit(version.timeout_seconds, "s"),
        "CREATED": lambda version: show.when(version.created_at),
        "HANDLER": lambda version: _one_line(version.handler),
    },
    drop=("RUNTIME",),
)


Record = TypeVar("Record", Invocation, InvocationSummary)


def _latest_first(found: Iterable[Record]) -> list[Record]:
    """Sort by the first column, the start time, newest first. A page has the order in which its
    invocations were accepted, but asynchronous ones start later. Those that have not started come
    first.
    """
    return sorted(found, key=lambda record: record.started_at or math.inf, reverse=True)


def _start(record: Invocation | InvocationSummary | Attempt) -> str:
    return "cold" if record.cold_start else "warm"


invocations = TableOf[InvocationPage, Invocation](
    lambda page: _latest_first(page.invocations),
    {
        "STARTED": lambda record: show.when(record.started_at),
        "STATUS": show.status_of,
        "DURATION": lambda record: _with_unit(record.duration_ms, "ms"),
        "START": _start,
        "ID": lambda record: record.invocation_id,
        "WHY": lambda record: record.error_message or "",
    },
    empty=NO_INVOCATIONS,
    drop=("START", "WHY"),
)
all_invocations = TableOf[InvocationSummaryPage, InvocationSummary](
    lambda page: _latest_first(page.invocations),
    {
        "STARTED": lambda record: show.when(record.started_at),
        "FUNCTION": lambda record: record.function_name,
        "STATUS": show.status_of,
        "DURATION": lambda record: _with_unit(record.duration_ms, "ms"),
        "START": _start,
        "BY": lambda record: record.source,
        "ID": lambda record: record.invocation_id,
        "WHY": lambda record: record.error_message or "",
    },
    empty=NO_INVOCATIONS,
    drop=("START", "BY", "WHY"),
)


def invocation(invocation: Invocation) -> None:
    show.pairs(
        ("id", invocation.invocation_id),
        ("function", invocation.function_name),
        ("status", invocation.status),
        ("exit code", invocation.exit_code),
        ("HTTP status", invocation.http_status or None),
        ("why", invocation.error_message),
        ("attempt", invocation.attempt or None),
        ("started", show.when(invocation.started_at)),
        ("took", _with_unit(invocation.duration_ms, "ms")),
        ("start", _start(invocation)),
        ("node", invocation.execution_node_id),
        ("standard output", show.size(len((invocation.stdout or "").encode()))),
        ("log", show.size(len((invocation.stderr or "").encode()))),
    )


def egress(egress: Egress) -> None:
    show.pairs(("network", egress.network), ("refused", egress.blocked_count))
    if egress.blocked_destinations:
        rows = [(to.address, to.port, to.protocol) for to in egress.blocked_destinations]
        show.table(("REFUSED ADDRESS", "PORT", "PROTOCOL"), rows)


ATTEMPT_LINES = 10  # maximum per stream; -o json has the last 16 KiB


_attempts = TableOf[list[Attempt], Attempt](
    list,
    {
        "ATTEMPT": lambda attempt: attempt.attempt,
        "STATUS": lambda attempt: (
            f"failed ({attempt.exit_code})" if attempt.status == "failed" else attempt.status
        ),
        "STARTED": lambda attempt: show.when(attempt.started_at),
        "DURATION": lambda attempt: _with_unit(attempt.duration_ms, "ms"),
        "START": _start,
        "VERSION": lambda attempt: attempt.version or "-",
        "WHY": lambda attempt: attempt.error_message or "",
    },
    empty="no ended attempts",
    drop=("START", "VERSION"),
)


def attempts(found: list[Attempt]) -> None:
    """Print a table, and the end of each attempt's output."""
    _attempts(found)
    for attempt in found:
        for stream, text in (("standard output", attempt.stdout), ("log", attempt.stderr)):
            if text:
                last = show.visible(text).rstrip("\n").split("\n")[-ATTEMPT_LINES:]
                show.pairs((f"attempt {attempt.attempt}, {stream}", "\n".join(last)))


def _function(of: DeadLetter | Delivery | FunctionQueue) -> str:
    return of.function_name or of.function_id or "-"


dead_letters = TableOf[DeadLetterPage, DeadLetter](
    lambda page: page.dead_letters,
    {
        "DIED": lambda letter: show.when(letter.died_at),
        "OUT OF": lambda letter: letter.reason,
        "STATUS": lambda letter: letter.status,
        "ATTEMPTS": lambda letter: letter.attempts,
        "ID": lambda letter: letter.invocation_id,
        "WHY": lambda letter: letter.error_message or "",
    },
    empty="no dead letters",
    drop=("WHY",),
)
all_dead_letters = dead_letters.led_by({"FUNCTION": _function}, drop=("WHY", "OUT OF"))
queue = TableOf[FunctionQueue, FunctionQueue](
    lambda queue: [queue],
    {
        "QUEUED": lambda queue: queue.queued,
        "DELAYED": lambda queue: queue.delayed,
        "RUNNING": lambda queue: queue.running,
        "OLDEST": lambda queue: _with_unit(queue.oldest_age_seconds, "s"),
        "DEAD LETTERS": lambda queue: queue.dead_letters,
    },
)
queues = TableOf[QueuePage, FunctionQueue](
    lambda page: sorted(page.queues, key=_function),
    {"FUNCTION": _function, **queue.columns},
    empty="no asynchronous invocations, and no dead letters",
)


def async_policy(policy: AsyncPolicy) -> None:
    wait = policy.backoff_seconds
    show.pairs(
        ("attempts", policy.max_attempts),
        (
            "wait",
            f"{wait.first:g} s, then {wait.factor:g} times as long, at most {wait.most:g} s, "
            f"varied by up to {wait.jitter:.0%}",
        ),
        ("retry on", ", ".join(policy.retry_on) or "nothing"),
        ("max age", f"{policy.max_age_seconds} s"),
        ("max queued", policy.max_queued),
        ("max concurrency", policy.max_concurrency or "free instances"),
        ("on success", _destination(policy.on_success)),
        ("on failure", _destination(policy.on_failure)),
    )


def _destination(destination: Destination | None) -> str:
    return "-" if destination is None else destination.function or destination.url or "-"


def timeline(timeline: Timeline) -> None:
    waits = timeline.status == "queued" and timeline.due_at is not None
    due = [("due", show.when(timeline.due_at))] if waits else []
    show.pairs(*due, *_timeline(timeline))


def timing(timeline: Timeline) -> None:
    """Print a timeline dimmed on standard error."""
    width = max(len(name) for name, _ in _timeline(timeline))
    for name, took in _timeline(timeline):
        show.note(f"{name:{width}}  {took}")


def _timeline(timeline: Timeline) -> list[tuple[str, str]]:
    took = [(phase.name, phase.microseconds) for phase in timeline.phases]
    took.append(("total", timeline.total_microseconds))
    width = max(len(f"{us / 1000:.3f}") for _, us in took)
    rows = [(name, f"{us / 1000:{width}.3f} ms") for name, us in took]
    return [*rows, ("cold", timeline.cold_reason)] if timeline.cold_reason else rows


def pool(pool: Pool) -> None:
    columns = ("WARMING", "READY", "BUSY", "TOTAL")
    show.table(columns, [(pool.warming_count, pool.ready_count, pool.busy_count, pool.total_count)])


pool_stats = TableOf[PoolStats, PoolStats](
    lambda stats: [stats],
    {
        "WARMING": lambda stats: stats.warming_count,
        "READY": lambda stats: stats.ready_count,
        "BUSY": lambda stats: stats.busy_count,
        "RECYCLING": lambda stats: stats.recycling_count,
        "TERMINATING": lambda stats: stats.terminating_count,
        "TOTAL": lambda stats: stats.total_count,
    },
)


def health(report: Health) -> None:
    show.say("ready" if report.ready else f"not ready: {report.status}")
    rows = [(name, "ok" if part.ok else "NO", part.reason) for name, part in report.checks.items()]
    rows.append(
        ("transport", "ok" if report.transport != "cleartext" else "warn", report.transport)
    )
    rows.append(("durability", "ok", report.durability))
    rows += [(name, "ok", seen) for name, seen in report.protections.items()]
    show.table(("PART", "", "WHAT"), [(_words(name), *rest) for name, *rest in rows])


def info(info: SystemInfo) -> None:
    rows: list[tuple[str, object]] = [
        ("version", info.version),
        ("node", info.node_id),
        ("control groups", info.cgroup_mode),
        ("OCI runtime", info.oci_runtime),
        ("durability", info.durability),
    ]
    if info.started_at is not None:
        rows.append(("started", show.when(info.started_at)))
    if info.tenant_id is not None:
        rows += [("your tenant", info.tenant_id), ("your scope", info.scope)]
    rows += [(kind, path) for kind, path in info.interpreters.items()]
    rows += [(_words(name), _limit(name, value)) for name, value in info.limits.items()]
    rows += [(f"memory {_words(name)}", f"{value:.15g}") for name, value in info.memory.items()]
    rows += [(_words(name), seen) for name, seen in info.protections.items()]
    show.pairs(*rows)


def function_stats(page: FunctionStatsPage, names: Mapping[str, str]) -> None:
    """`names`: the functions' names by id."""
    TableOf[list[FunctionStats], FunctionStats](
        list,
        {"NAME": lambda of: names.get(of.function_id, of.function_id), **COUNTS},
        empty=NO_INVOCATIONS,
    )(page.functions)
    if page.next_cursor:
        show.note(f"only the first {len(page.functions)} functions are shown")


COUNTS: dict[str, Callable[[FunctionStats | SeriesPoint], object]] = {
    "CALLS": lambda of: of.calls,
    "ERRORS": lambda of: of.errors,
    "COLD": lambda of: of.cold_starts,
    "P50": lambda of: _latency(of.p50_ms),
    "P99": lambda of: _latency(of.p99_ms),
}
series = TableOf[Series, SeriesPoint](
    lambda series: series.points,
    {"FROM": lambda point: show.when(point.start), **COUNTS},
    empty=NO_INVOCATIONS,
)


def usage(usage: Usage) -> None:
    if not usage.rows:
        show.note(NO_INVOCATIONS)
        return
    by_function = any(row.function_id is not None for row in usage.rows)

    def used(whose: str, start: str, sums: UsageSums) -> tuple[object, ...]:
        cells = (
            sums.calls,
            sums.errors,
            _amount(sums.gb_seconds),
            _amount(sums.cpu_seconds),
            sums.queued,
            sums.egress_refused,
        )
        return (start, whose, *cells) if by_function else (start, *cells)

    rows = [
        used(row.function_name or row.function_id or "others", show.when(row.start), row)
        for row in usage.rows
    ]
    columns = ("CALLS", "ERRORS", "GB-SECONDS", "CPU-SECONDS", "QUEUED", "REFUSED")
    head = ("FROM", "FUNCTION") if by_function else ("FROM",)
    show.table((*head, *columns), [*rows, used("", "in all", usage.total)], drop=("REFUSED",))


def _amount(seconds: float) -> str:
    """Two significant digits below 1, so that a first invocation does not seem to use nothing."""
    return f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2g}"


def is_heard(node: Node) -> bool:
    """Whether the node's last report is still valid."""
    return node.presence == "present" and node.state != "removed" and not node.is_silent


def _state_of(node: Node) -> str:
    """The node's state for operators: its desired state, or why it is unavailable."""
    if node.state == "removed":
        return node.state
    return node.state if is_heard(node) else "silent" if node.is_silent else node.presence


nodes = TableOf[list[Node], Node](
    list,
    {
        "NAME": lambda node: node.name,
        "STATE": _state_of,
        "BEAT": lambda node: (
            f"{node.beat_age_seconds:.0f}s" if is_heard(node) or node.is_silent else "-"
        ),
        "RUNNING": lambda node: _reported(node, node.running_calls),
        "WAITING": lambda node: _reported(node, node.waiting_calls),
        "READY": lambda node: _reported(node, node.ready_instances),
        "BUSY": lambda node: _reported(node, node.busy_instances),
        "FREE": lambda node: _reported(node, show.size(int(node.memory_free_mib * 1024 * 1024))),
        "SOLE": lambda node: node.sole_images,
        "VERSION": lambda node: node.version,
        "ADDRESS": lambda node: node.address or "-",
    },
)
_functions_on = TableOf[Node, FunctionOnNode](
    lambda node: node.functions or [],
    {
        "FUNCTION": lambda at: at.function_name or at.function_id,
        "TENANT": lambda at: at.tenant_id,
        "VERSION": lambda at: at.version,
        "READY": lambda at: at.ready_instances,
        "BUSY": lambda at: at.busy_instances,
        "WAITING": lambda at: at.waiting_calls,
    },
)


def node(node: Node) -> None:
    """A node, and the functions on it."""
    nodes([node])
    if node.functions:
        show.say("")
        _functions_on(node)


def _reported(node: Node, value: object) -> object:
    """A value of the node's last report, if that is still valid."""
    return value if is_heard(node) else "-"


NO_LIMIT_AT_0 = ("calls_per_second", "gb_seconds_per_day")


def quota(quota: Quota) -> None:
    used = {name: getattr(quota.used, name) for name in ("calls_in_flight", "functions")}
    used |= {
        "image_bytes": quota.used.image_bytes,
        "gb_seconds_per_day": quota.used.gb_seconds_today,
    }
    rows = [
        (
            _words(name),
            _limit(name, getattr(quota, name))
            if getattr(quota, name) or name not in NO_LIMIT_AT_0
            else "-",
            _limit(name, used[name]) if name in used else "",
            quota.tenant_id if name in quota.own else "server",
        )
        for name in NewQuota.__struct_fields__
    ]
    show.table(("LIMIT", "MAXIMUM", "USED", "SOURCE"), rows)


def _limit(name: str, value: float) -> str:
    return show.size(int(value)) if name.endswith("_bytes") else f"{value:.15g}"


def _latency(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.3g} ms" if milliseconds < 100 else f"{milliseconds:.0f} ms"


audit = TableOf[AuditPage, AuditEntry](
    lambda page: page.entries,
    {
        "AT": lambda entry: show.when(entry.at),
        "ACTION": lambda entry: entry.action,
        "OBJECT": lambda entry: entry.object_name or entry.object_id or "-",
        "RESULT": lambda entry: entry.error_code or "done",
        "TENANT": lambda entry: entry.tenant_id,
        "CREDENTIAL": lambda entry: entry.credential,
        "FROM": lambda entry: entry.address,
    },
    empty="no entries",
    drop=("FROM", "CREDENTIAL", "TENANT"),
)


def whoami(whoami: Whoami) -> None:
    expires = "never" if whoami.expires_at is None else show.when(whoami.expires_at)
    show.pairs(
        ("tenant", whoami.tenant_id),
        ("scope", whoami.scope),
        ("credential", whoami.credential if whoami.needs_credential else "none is needed"),
        ("expires", expires),
        ("server", f"quiltfn {whoami.version} on {whoami.node_id}"),
        ("offers", ", ".join(whoami.offers) or "-"),
    )


_instances = TableOf[InstanceList, Instance](
    lambda found: found.instances,
    {
        "FUNCTION": lambda instance: instance.function_name or instance.function_id,
        "TENANT": lambda instance: instance.tenant_id,
        "NODE": lambda instance: instance.node_id,
        "STATE": lambda instance: instance.state,
        "VERSION": lambda instance: instance.version,
        "MEMORY": lambda instance: _with_unit(instance.memory_mib, "MiB"),
        "AGE": lambda instance: f"{instance.age_seconds:.0f} s",
        "STARTED AS": lambda instance: instance.start_reason,
    },
    empty="no instances",
    drop=("STARTED AS", "VERSION", "NODE"),
)


def instances(found: InstanceList) -> None:
    """The instances, and what they share."""
    _instances(found)
    left_out = found.total_count - len(found.instances)
    if left_out:
        show.note(f"{left_out} more; --limit shows up to 1000")
    memory = found.memory
    show.note(
        f"{found.prewarmed_count} prewarmed · {found.waiting_calls} invocations wait for an "
        "instance · "
        f"{found.queued_calls} queued · {memory.get('held_mib') or 0:.10g} of "
        f"{memory.get('budget_mib') or 0:.10g} MiB"
    )


def findings(report: DoctorReport) -> None:
    rows = [(finding.name, finding.level, finding.sentence) for finding in report.findings]
    rows += [(name, "ok", seen) for name, seen in report.protections.items()]
    show.table(("PART", "", "WHAT"), [(_words(name), *rest) for name, *rest in rows])
    for finding in report.findings:
        if finding.advice:
            show.note(f"{_words(finding.name)}: {finding.advice}")


deliveries = TableOf[DeliveryPage, Delivery](
    lambda page: page.deliveries,
    {
        "ENDED": lambda delivery: show.when(delivery.ended_at),
        "ID": lambda delivery: delivery.delivery_id,
        "OF CALL": lambda delivery: delivery.invocation_id,
        "EVENT": lambda delivery: delivery.policy_field,
        "STATUS": lambda delivery: delivery.status,
        "TRIES": lambda delivery: delivery.attempts,
        "NEXT TRY": lambda delivery: show.when(delivery.next_attempt_at or None),
        "ANSWER": lambda delivery: delivery.http_status or "-",
        "WHY": lambda delivery: delivery.error_message or "-",
    },
    empty="no deliveries",
    drop=("OF CALL", "ENDED"),
)
all_deliveries = deliveries.led_by({"FUNCTION": _function}, drop=("OF CALL", "ANSWER", "ENDED"))


def _whose(runtime: Runtime) -> str:
    """The runtime's owner, as the table shows it."""
    if runtime.built_in:
        return "server"
    return "all" if runtime.shared else "tenant"


runtimes = TableOf[list[Runtime], Runtime](
    list,
    {
        "NAME": lambda runtime: runtime.name,
        "KIND": lambda runtime: runtime.kind,
        "NETWORK": lambda runtime: runtime.network,
        "OF": _whose,
        "ADDED": lambda runtime: "-" if runtime.built_in else show.when(runtime.created_at),
        "FILES": lambda runtime: _short(runtime.image_digest),
    },
    drop=("NETWORK",),
)
_outdated = TableOf[FunctionSummaryPage, FunctionSummary](
    lambda page: page.functions,
    {
        "NAME": lambda function: function.name,
        "RUNTIME": lambda function: function.runtime,
        "VERSION": lambda function: function.current_version,
        "STATE": lambda function: function.state,
        "UPDATED": lambda function: show.when(function.updated_at),
    },
    empty="no outdated functions",
    drop=("UPDATED",),
)


def outdated_functions(found: FunctionSummaryPage) -> None:
    """Functions whose runtime was replaced."""
    _outdated(found)
    if found.functions:
        command = "quiltfn functions update NAME --runtime RUNTIME"
        show.note(f"to update to the current runtime: {command}")


def runtime(runtime: Runtime) -> None:
    show.pairs(
        ("name", runtime.name),
        ("id", runtime.id),
        ("kind", runtime.kind),
        ("files", runtime.image_digest),
        ("interpreter", runtime.interpreter),
        ("command", shlex.join(runtime.command)),
        ("environment", "\n".join(f"{k}={v}" for k, v in runtime.environment.items())),
        ("isolation", runtime.isolation),
        ("network", runtime.network),
        ("writable", " ".join(runtime.writable_paths)),
        ("processes", runtime.process_limit),
        ("tmp", None if runtime.tmp_limit_mb is None else f"{runtime.tmp_limit_mb} MiB"),
        ("file size", None if runtime.file_limit_mb is None else f"{runtime.file_limit_mb} MiB"),
        ("open files", runtime.open_files_limit),
        ("of", _whose(runtime)),
        ("added", None if runtime.built_in else show.when(runtime.created_at)),
    )


def _result(run: ScheduleRun) -> str:
    if run.missed > 1:
        return f"{run.missed} missed"
    return run.status or run.outcome


def _timing(schedule: Schedule) -> str:
    return (
        f"{schedule.cron} {schedule.timezone}"
        if schedule.cron
        else f"every {schedule.every_seconds} s"
    )


schedules = TableOf[SchedulePage, Schedule](
    lambda page: page.schedules,
    {
        "NAME": lambda schedule: schedule.name,
        "FUNCTION": lambda schedule: schedule.function,
        "WHEN": _timing,
        "NEXT": lambda schedule: next(_next_runs(schedule), "paused"),
        "LAST": lambda schedule: _result(schedule.last_run) if schedule.last_run else "-",
    },
    empty="no schedules",
    drop=("LAST",),
)


def schedule(schedule: Schedule) -> None:
    last = schedule.last_run
    variables = (schedule.environment or {}).items()
    show.pairs(
        ("name", schedule.name),
        ("function", schedule.function),
        ("when", _timing(schedule)),
        ("in words", schedule.in_words if schedule.cron else None),
        ("jitter", f"{schedule.jitter_seconds} s" if schedule.jitter_seconds else None),
        ("next", "\n".join(_next_runs(schedule)) or "paused"),
        ("last", f"{show.when(last.due_at, zone_of(schedule))}, {_result(last)}" if last else None),
        ("runs", schedule.fired_count),
        ("skipped", schedule.skipped_count),
        ("missed", schedule.missed_count),
        ("on overlap", schedule.overlap),
        ("on missed", schedule.missed),
        ("payload", schedule.payload),
        ("environment", "\n".join(f"{key}={value}" for key, value in variables)),
        ("created", show.when(schedule.created_at)),
        ("updated", show.when(schedule.updated_at)),
    )


schedule_runs = TableOf[ScheduleRunPage, ScheduleRun](
    lambda page: page.runs,
    {
        "AT": lambda run: show.when(run.due_at),
        "BY": lambda run: "now" if run.manual else "due",
        "RESULT": _result,
        "INVOCATION": lambda run: run.invocation_id or "-",
        "WHY NOT": lambda run: run.reason or "",
    },
    empty="no runs",
    drop=("BY", "WHY NOT"),
)


def _next_runs(schedule: Schedule) -> Iterator[str]:
    return (show.when(moment, zone_of(schedule)) for moment in schedule.next_runs)


def zone_of(schedule: Schedule) -> str | None:
    """The time zone in which the schedule's times are shown. None: this machine's."""
    return schedule.timezone if schedule.cron is not None else None


runtime_files = TableOf[RuntimeFilePage, RuntimeFile](
    lambda page: page.files,
    {"SIZE": lambda file: show.size(file.size_bytes), "PATH": lambda file: file.path},
    empty="no files of its own",
)
_packages = TableOf[RuntimePackageList, RuntimePackage](
    lambda found: found.packages,
    {
        "KIND": lambda package: package.kind,
        "NAME": lambda package: package.name,
        "VERSION": lambda package: package.version,
    },
    empty="no packages",
)


def runtime_packages(found: RuntimePackageList) -> None:
    _packages(found)
    if not found.is_complete:
        show.note("list incomplete: the server searches a limited number of files")


def _short(digest: str | None) -> str:
    """The first digits, which are enough to tell digests apart; `show` prints all of them."""
    kind, _, number = (digest or "-").partition(":")
    return f"{kind}:{number[:12]}" if number else kind


def _words(name: str) -> str:
    return name.replace("_", " ")


def _with_unit(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.10g} {unit}"


def _one_line(handler: str) -> str:
    """The beginning of a handler; --output json has all of it."""
    line = " ".join(handler.split())
    return line if len(line) <= HANDLER_SHOWN else line[: HANDLER_SHOWN - 1] + "…"
