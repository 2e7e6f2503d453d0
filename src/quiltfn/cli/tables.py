"""The tables of most commands; `show` prints them."""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from quiltfn.cli import show
from quiltfn.sdk import (
    AsyncPolicy,
    Attempt,
    AuditPage,
    DeadLetter,
    DeadLetterPage,
    Delivery,
    DeliveryPage,
    Destination,
    DoctorReport,
    Egress,
    FunctionQueue,
    FunctionStatsPage,
    FunctionSummaryPage,
    Health,
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
    RuntimeFilePage,
    RuntimePackageList,
    Schedule,
    SchedulePage,
    ScheduleRun,
    ScheduleRunPage,
    Series,
    SystemInfo,
    Timeline,
    Usage,
    UsageSums,
    VersionPage,
    Whoami,
)

Listed = TypeVar("Listed", Invocation, InvocationSummary)

HANDLER_SHOWN = 40


def versions(page: VersionPage) -> None:
    columns = ("VERSION", "CURRENT", "RUNTIME", "MEMORY", "CPU", "TIMEOUT", "CREATED", "HANDLER")
    rows = (
        (
            one.version,
            "yes" if one.is_active else "-",
            one.runtime,
            _with_unit(one.memory_limit_mb, "MiB"),
            _with_unit(one.cpu_limit_percent, "%"),
            _with_unit(one.timeout_seconds, "s"),
            show.when(one.created_at),
            _one_line(one.handler),
        )
        for one in page.versions
    )
    show.table(columns, rows, drop=("RUNTIME",))
    show.say_more(page.next_cursor)


def invocations(page: InvocationPage) -> None:
    if not page.invocations:
        show.note("no calls")
        return
    rows = (
        (
            show.when(one.started_at),
            show.status_of(one),
            _with_unit(one.duration_ms, "ms"),
            "cold" if one.cold_start else "warm",
            one.invocation_id,
            one.error_message or "",
        )
        for one in _latest_first(page.invocations)
    )
    columns = ("STARTED", "STATUS", "DURATION", "START", "ID", "WHY")
    show.table(columns, rows, drop=("START", "WHY"))
    show.say_more(page.next_cursor)


def _latest_first(found: Iterable[Listed]) -> list[Listed]:
    """Sort by the first column, the start time, newest first. A page has the order in which its
    invocations were accepted, but asynchronous ones start later. Those that have not started come
    first.
    """
    return sorted(found, key=lambda record: record.started_at or math.inf, reverse=True)


def invocation(invocation: Invocation) -> None:
    rows: list[tuple[str, object]] = [
        ("id", invocation.invocation_id),
        ("function", invocation.function_name),
        ("status", invocation.status),
        ("exit code", invocation.exit_code),
        ("HTTP status", invocation.http_status or None),
        ("why", invocation.error_message),
        ("attempt", invocation.attempt or None),
        ("started", show.when(invocation.started_at)),
        ("took", _with_unit(invocation.duration_ms, "ms")),
        ("start", "cold" if invocation.cold_start else "warm"),
        ("node", invocation.execution_node_id),
        ("standard output", show.size(len((invocation.stdout or "").encode()))),
        ("log", show.size(len((invocation.stderr or "").encode()))),
    ]
    show.table(None, [row for row in rows if row[1] not in (None, "")])


def egress(egress: Egress) -> None:
    show.table(None, [("network", egress.network), ("refused", egress.blocked_count)])
    if egress.blocked_destinations:
        rows = [(to.address, to.port, to.protocol) for to in egress.blocked_destinations]
        show.table(("REFUSED ADDRESS", "PORT", "PROTOCOL"), rows)


def all_invocations(page: InvocationSummaryPage) -> None:
    if not page.invocations and not page.next_cursor:
        show.note("no calls")
        return
    rows = (
        (
            show.when(one.started_at),
            one.function_name,
            show.status_of(one),
            _with_unit(one.duration_ms, "ms"),
            "cold" if one.cold_start else "warm",
            one.source,
            one.invocation_id,
            one.error_message or "",
        )
        for one in _latest_first(page.invocations)
    )
    columns = ("STARTED", "FUNCTION", "STATUS", "DURATION", "START", "BY", "ID", "WHY")
    show.table(columns, rows, drop=("START", "BY", "WHY"))
    show.say_more(page.next_cursor)


ATTEMPT_LINES = 10  # of each stream; -o json has the last 16 KiB.


def attempts(found: list[Attempt]) -> None:
    if not found:
        show.note("no attempt is over")
        return
    rows = (
        (
            one.attempt,
            f"failed ({one.exit_code})" if one.status == "failed" else one.status,
            show.when(one.started_at),
            _with_unit(one.duration_ms, "ms"),
            "cold" if one.cold_start else "warm",
            one.version or "-",
            one.error_message or "",
        )
        for one in found
    )
    columns = ("ATTEMPT", "STATUS", "STARTED", "DURATION", "START", "VERSION", "WHY")
    show.table(columns, rows, drop=("START", "VERSION"))
    for row in found:
        for stream, text in (("standard output", row.stdout), ("log", row.stderr)):
            if text:
                last = show.visible(text).rstrip("\n").split("\n")[-ATTEMPT_LINES:]
                show.table(None, [(f"attempt {row.attempt}, {stream}", "\n".join(last))])


DEAD_LETTER = ("DIED", "OUT OF", "STATUS", "ATTEMPTS", "ID", "WHY")


def dead_letters(page: DeadLetterPage) -> None:
    if not page.dead_letters:
        show.note("no dead letters")
        return
    show.table(DEAD_LETTER, map(_dead_letter, page.dead_letters), drop=("WHY",))
    show.say_more(page.next_cursor)


def all_dead_letters(page: DeadLetterPage) -> None:
    """Those of several functions, each with its name."""
    if not page.dead_letters:
        show.note("no dead letters")
        return
    rows = ((_named(one), *_dead_letter(one)) for one in page.dead_letters)
    show.table(("FUNCTION", *DEAD_LETTER), rows, drop=("WHY", "OUT OF"))
    show.say_more(page.next_cursor)


def _named(letter: DeadLetter | Delivery | FunctionQueue) -> str:
    return letter.function_name or letter.function_id or "-"


def _dead_letter(letter: DeadLetter) -> Sequence[object]:
    died, why = show.when(letter.died_at), letter.error_message or ""
    return (died, letter.reason, letter.status, letter.attempts, letter.invocation_id, why)


QUEUE = ("QUEUED", "DELAYED", "RUNNING", "OLDEST", "DEAD LETTERS")


def queue(queue: FunctionQueue) -> None:
    show.table(QUEUE, [_queue(queue)])


def queues(page: QueuePage) -> None:
    """Of several functions, each with its name."""
    if not page.queues:
        show.note("no asynchronous invocations, and no dead letters")
        return
    rows = ((_named(one), *_queue(one)) for one in sorted(page.queues, key=_named))
    show.table(("FUNCTION", *QUEUE), rows)
    show.say_more(page.next_cursor)


def _queue(queue: FunctionQueue) -> Sequence[object]:
    oldest = _with_unit(queue.oldest_age_seconds, "s")
    return (queue.queued, queue.delayed, queue.running, oldest, queue.dead_letters)


def async_policy(policy: AsyncPolicy) -> None:
    wait = policy.backoff_seconds
    rows: list[tuple[str, object]] = [
        ("attempts", policy.max_attempts),
        (
            "wait",
            f"{wait.first:g} s, then {wait.factor:g} times as long, at most {wait.most:g} s, "
            f"{wait.jitter:.0%} more or less",
        ),
        ("retry on", ", ".join(policy.retry_on) or "nothing"),
        ("max age", f"{policy.max_age_seconds} s"),
        ("max queued", policy.max_queued),
        ("max concurrency", policy.max_concurrency or "what is free"),
        ("on success", _destination(policy.on_success)),
        ("on failure", _destination(policy.on_failure)),
    ]
    show.table(None, rows)


def _destination(destination: Destination | None) -> str:
    return "-" if destination is None else destination.function or destination.url or "-"


def timeline(timeline: Timeline) -> None:
    waits = timeline.status == "queued" and timeline.due_at is not None
    due = [("due", show.when(timeline.due_at))] if waits else []
    show.table(None, [*due, *_timeline(timeline)])


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


def pool_stats(stats: PoolStats) -> None:
    counts = (
        stats.warming_count,
        stats.ready_count,
        stats.busy_count,
        stats.recycling_count,
        stats.terminating_count,
        stats.total_count,
    )
    show.table(("WARMING", "READY", "BUSY", "RECYCLING", "TERMINATING", "TOTAL"), [counts])


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
    show.table(None, rows)


def function_stats(page: FunctionStatsPage, names: Mapping[str, str]) -> None:
    """`names`: the functions' names by id."""
    if not page.functions:
        show.note("no calls")
        return
    rows = (
        (
            names.get(one.function_id, one.function_id),
            one.calls,
            one.errors,
            one.cold_starts,
            _latency(one.p50_ms),
            _latency(one.p99_ms),
        )
        for one in page.functions
    )
    show.table(("NAME", "CALLS", "ERRORS", "COLD", "P50", "P99"), rows)
    if page.next_cursor:
        show.note(f"these are the first {len(page.functions)} functions")


def series(series: Series) -> None:
    if not series.points:
        show.note("no calls")
        return
    rows = (
        (
            show.when(point.start),
            point.calls,
            point.errors,
            point.cold_starts,
            _latency(point.p50_ms),
            _latency(point.p99_ms),
        )
        for point in series.points
    )
    show.table(("FROM", "CALLS", "ERRORS", "COLD", "P50", "P99"), rows)


def usage(usage: Usage) -> None:
    if not usage.rows:
        show.note("no calls")
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


def nodes(found: list[Node]) -> None:
    rows = [
        (
            one.name,
            _state_of(one),
            *_load_of(one),
            one.sole_images,
            one.version,
            one.address or "-",
        )
        for one in found
    ]
    head = ("NAME", "STATE", "BEAT", "RUNNING", "WAITING", "READY", "BUSY", "FREE", "SOLE")
    show.table((*head, "VERSION", "ADDRESS"), rows)


def node(node: Node) -> None:
    """A node, and the functions on it."""
    nodes([node])
    if node.functions:
        show.say("")
        rows = [
            (
                at.function_name or at.function_id,
                at.tenant_id,
                at.version,
                at.ready_instances,
                at.busy_instances,
                at.waiting_calls,
            )
            for at in node.functions
        ]
        show.table(("FUNCTION", "TENANT", "VERSION", "READY", "BUSY", "WAITING"), rows)


def _state_of(node: Node) -> str:
    """The node's state for operators: what it should do, or why it does nothing."""
    if node.state == "removed":
        return node.state
    return node.state if is_heard(node) else "silent" if node.is_silent else node.presence


def is_heard(node: Node) -> bool:
    """Whether the node's last report is still valid."""
    return node.presence == "present" and node.state != "removed" and not node.is_silent


def _load_of(node: Node) -> Sequence[object]:
    """The node's last heartbeat, and its report if that is still valid."""
    beat = f"{node.beat_age_seconds:.0f}s"
    if not is_heard(node):
        return (beat if node.is_silent else "-", *["-"] * 5)
    calls = (node.running_calls, node.waiting_calls)
    free = show.size(int(node.memory_free_mib * 1024 * 1024))
    return (beat, *calls, node.ready_instances, node.busy_instances, free)


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
    show.table(("LIMIT", "MOST", "USED", "SET FOR"), rows)


def _limit(name: str, value: float) -> str:
    return show.size(int(value)) if name.endswith("_bytes") else f"{value:.15g}"


def _latency(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    return f"{milliseconds:.3g} ms" if milliseconds < 100 else f"{milliseconds:.0f} ms"


def audit(page: AuditPage) -> None:
    if not page.entries and not page.next_cursor:
        show.note("no entries")
        return
    rows = (
        (
            show.when(one.at),
            one.action,
            one.object_name or one.object_id or "-",
            one.error_code or "done",
            one.tenant_id,
            one.credential,
            one.address,
        )
        for one in page.entries
    )
    columns = ("AT", "ACTION", "OBJECT", "RESULT", "TENANT", "CREDENTIAL", "FROM")
    show.table(columns, rows, drop=("FROM", "CREDENTIAL", "TENANT"))
    show.say_more(page.next_cursor)


def whoami(whoami: Whoami) -> None:
    expires = "never" if whoami.expires_at is None else show.when(whoami.expires_at)
    rows: list[tuple[str, object]] = [
        ("tenant", whoami.tenant_id),
        ("scope", whoami.scope),
        ("credential", whoami.credential if whoami.needs_credential else "none is needed"),
        ("expires", expires),
        ("server", f"quiltfn {whoami.version} on {whoami.node_id}"),
        ("offers", ", ".join(whoami.offers)),
    ]
    show.table(None, rows)


def instances(found: InstanceList) -> None:
    rows = (
        (
            one.function_name or one.function_id,
            one.tenant_id,
            one.node_id,
            one.state,
            one.version,
            _with_unit(one.memory_mib, "MiB"),
            f"{one.age_seconds:.0f} s",
            one.start_reason,
        )
        for one in found.instances
    )
    columns = ("FUNCTION", "TENANT", "NODE", "STATE", "VERSION", "MEMORY", "AGE", "STARTED AS")
    if found.instances:
        show.table(columns, rows, drop=("STARTED AS", "VERSION", "NODE"))
    else:
        show.note("no instances")
    left_out = found.total_count - len(found.instances)
    if left_out:
        show.note(f"{left_out} more; --limit shows up to 1000")
    memory = found.memory
    show.note(
        f"{found.prewarmed_count} prewarmed · {found.waiting_calls} calls wait for an instance · "
        f"{found.queued_calls} queued · {memory.get('held_mib') or 0:.10g} of "
        f"{memory.get('budget_mib') or 0:.10g} MiB"
    )


def findings(report: DoctorReport) -> None:
    rows = [(one.name, one.level, one.sentence) for one in report.findings]
    rows += [(name, "ok", seen) for name, seen in report.protections.items()]
    show.table(("PART", "", "WHAT"), [(_words(name), *rest) for name, *rest in rows])
    for finding in report.findings:
        if finding.advice:
            show.note(f"{_words(finding.name)}: {finding.advice}")


DELIVERY = ("ENDED", "ID", "OF CALL", "EVENT", "STATUS", "TRIES", "NEXT TRY", "ANSWER", "WHY")


def all_deliveries(page: DeliveryPage) -> None:
    """Those of several functions, each with its name."""
    if not page.deliveries:
        show.note("no deliveries")
        return
    rows = ((_named(one), *_delivery(one)) for one in page.deliveries)
    show.table(("FUNCTION", *DELIVERY), rows, drop=("OF CALL", "ANSWER", "ENDED"))
    show.say_more(page.next_cursor)


def _delivery(delivery: Delivery) -> Sequence[object]:
    return (
        show.when(delivery.ended_at),
        delivery.delivery_id,
        delivery.invocation_id,
        delivery.policy_field,
        delivery.status,
        delivery.attempts,
        show.when(delivery.next_attempt_at) if delivery.next_attempt_at else "-",
        delivery.http_status or "-",
        delivery.error_message or "-",
    )


def deliveries(page: DeliveryPage) -> None:
    if not page.deliveries:
        show.note("no deliveries")
        return
    show.table(DELIVERY, map(_delivery, page.deliveries), drop=("OF CALL", "ENDED"))
    show.say_more(page.next_cursor)


def runtimes(found: list[Runtime]) -> None:
    rows = (
        (
            one.name,
            one.kind,
            one.network,
            _whose(one),
            "-" if one.built_in else show.when(one.created_at),
            _short(one.image_digest),
        )
        for one in found
    )
    show.table(("NAME", "KIND", "NETWORK", "OF", "ADDED", "FILES"), rows, drop=("NETWORK",))


def outdated_functions(found: FunctionSummaryPage) -> None:
    """Functions whose runtime was replaced."""
    if not found.functions:
        show.note("no function is outdated")
        return
    rows = [
        (one.name, one.runtime, one.current_version, one.state, show.when(one.updated_at))
        for one in found.functions
    ]
    show.table(("NAME", "RUNTIME", "VERSION", "STATE", "UPDATED"), rows, drop=("UPDATED",))
    show.say_more(found.next_cursor)
    command = "quiltfn functions update NAME --runtime RUNTIME"
    show.note(f"an update brings what the runtime is now: {command}")


def runtime(runtime: Runtime) -> None:
    rows: list[tuple[str, object]] = [
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
    ]
    show.table(None, ((key, value) for key, value in rows if value not in (None, "")))


def schedules(page: SchedulePage) -> None:
    if not page.schedules:
        show.note("no schedules")
        return
    rows = (
        (
            one.name,
            one.function,
            _timing(one),
            show.when(one.next_runs[0], zone_of(one)) if one.next_runs else "paused",
            "-" if one.last_run is None else _result(one.last_run),
        )
        for one in page.schedules
    )
    show.table(("NAME", "FUNCTION", "WHEN", "NEXT", "LAST"), rows, drop=("LAST",))
    show.say_more(page.next_cursor)


def schedule(schedule: Schedule) -> None:
    last = schedule.last_run
    variables = (schedule.environment or {}).items()
    rows: list[tuple[str, object]] = [
        ("name", schedule.name),
        ("function", schedule.function),
        ("when", _timing(schedule)),
        ("in words", schedule.in_words if schedule.cron else None),
        ("jitter", f"{schedule.jitter_seconds} s" if schedule.jitter_seconds else None),
        (
            "next",
            "\n".join(show.when(each, zone_of(schedule)) for each in schedule.next_runs)
            or "paused",
        ),
        (
            "last",
            None
            if last is None
            else f"{show.when(last.due_at, zone_of(schedule))}, {_result(last)}",
        ),
        ("runs", schedule.fired_count),
        ("skipped", schedule.skipped_count),
        ("missed", schedule.missed_count),
        ("on overlap", schedule.overlap),
        ("on missed", schedule.missed),
        ("payload", schedule.payload),
        ("environment", "\n".join(f"{key}={value}" for key, value in variables)),
        ("created", show.when(schedule.created_at)),
        ("updated", show.when(schedule.updated_at)),
    ]
    show.table(None, ((key, value) for key, value in rows if value not in (None, "")))


def schedule_runs(page: ScheduleRunPage) -> None:
    if not page.runs:
        show.note("no runs")
        return
    rows = (
        (
            show.when(one.due_at),
            "now" if one.manual else "due",
            _result(one),
            one.invocation_id or "-",
            one.reason or "",
        )
        for one in page.runs
    )
    show.table(("AT", "BY", "RESULT", "INVOCATION", "WHY NOT"), rows, drop=("BY", "WHY NOT"))
    show.say_more(page.next_cursor)


def zone_of(schedule: Schedule) -> str | None:
    """The time zone of its times. None: this machine's."""
    return schedule.timezone if schedule.cron is not None else None


def _timing(schedule: Schedule) -> str:
    return (
        f"{schedule.cron} {schedule.timezone}"
        if schedule.cron
        else f"every {schedule.every_seconds} s"
    )


def _result(run: ScheduleRun) -> str:
    if run.missed > 1:
        return f"{run.missed} missed"
    return run.status or run.outcome


def runtime_files(page: RuntimeFilePage) -> None:
    if not page.files:
        show.note("no files of its own")
        return
    rows = ((show.size(one.size_bytes), one.path) for one in page.files)
    show.table(("SIZE", "PATH"), rows)
    show.say_more(page.next_cursor)


def runtime_packages(found: RuntimePackageList) -> None:
    if not found.packages:
        show.note("no packages")
        return
    show.table(("KIND", "NAME", "VERSION"), [(o.kind, o.name, o.version) for o in found.packages])
    if not found.is_complete:
        show.note("there are more than the server looks for")


def _whose(runtime: Runtime) -> str:
    """Who can use and change it."""
    if runtime.built_in:
        return "server"
    return "all" if runtime.shared else "tenant"


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
