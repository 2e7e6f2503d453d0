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
    if page.next_cursor:
        show.note(f"there are more: --cursor {page.next_cursor}")


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
    if page.next_cursor:
        show.note(f"there are more: --cursor {page.next_cursor}")


def _latest_first(found: Iterable[Listed]) -> list[Listed]:
    """By the column that is shown first: a page is in the order in which its invocations were
    accepted, and asynchronous ones start later. What has not started is the latest.
    """
    return sorted(found, key=lambda one: one.started_at or math.inf, reverse=True)


def invocation(one: Invocation) -> None:
    rows: list[tuple[str, object]] = [
        ("id", one.invocation_id),
        ("function", one.function_name),
        ("status", one.status),
        ("exit code", one.exit_code),
        ("HTTP status", one.http_status or None),
        ("why", one.error_message),
        ("attempt", one.attempt or None),
        ("started", show.when(one.started_at)),
        ("took", _with_unit(one.duration_ms, "ms")),
        ("start", "cold" if one.cold_start else "warm"),
        ("node", one.execution_node_id),
        ("standard output", show.size(len((one.stdout or "").encode()))),
        ("log", show.size(len((one.stderr or "").encode()))),
    ]
    show.table(None, [row for row in rows if row[1] not in (None, "")])


def egress(one: Egress) -> None:
    show.table(None, [("network", one.network), ("refused", one.blocked_count)])
    if one.blocked_destinations:
        rows = [(to.address, to.port, to.protocol) for to in one.blocked_destinations]
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
    if page.next_cursor:
        show.note(f"there are more: --cursor {page.next_cursor}")


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
    for one in found:
        for stream, text in (("standard output", one.stdout), ("log", one.stderr)):
            if text:
                last = show.visible(text).rstrip("\n").split("\n")[-ATTEMPT_LINES:]
                show.table(None, [(f"attempt {one.attempt}, {stream}", "\n".join(last))])


DEAD_LETTER = ("DIED", "OUT OF", "STATUS", "ATTEMPTS", "ID", "WHY")


def dead_letters(page: DeadLetterPage) -> None:
    if not page.dead_letters:
        show.note("no dead letters")
        return
    show.table(DEAD_LETTER, map(_dead_letter, page.dead_letters), drop=("WHY",))
    _say_more(page.next_cursor)


def all_dead_letters(page: DeadLetterPage) -> None:
    """Those of several functions, each with its name."""
    if not page.dead_letters:
        show.note("no dead letters")
        return
    rows = ((_named(one), *_dead_letter(one)) for one in page.dead_letters)
    show.table(("FUNCTION", *DEAD_LETTER), rows, drop=("WHY", "OUT OF"))
    _say_more(page.next_cursor)


def _named(one: DeadLetter | Delivery | FunctionQueue) -> str:
    return one.function_name or one.function_id or "-"


def _say_more(next_cursor: str | None) -> None:
    if next_cursor:
        show.note(f"there are more: --cursor {next_cursor}")


def _dead_letter(one: DeadLetter) -> Sequence[object]:
    died, why = show.when(one.died_at), one.error_message or ""
    return (died, one.reason, one.status, one.attempts, one.invocation_id, why)


QUEUE = ("QUEUED", "DELAYED", "RUNNING", "OLDEST", "DEAD LETTERS")


def queue(one: FunctionQueue) -> None:
    show.table(QUEUE, [_queue(one)])


def queues(page: QueuePage) -> None:
    """Of several functions, each with its name."""
    if not page.queues:
        show.note("no asynchronous invocations, and no dead letters")
        return
    rows = ((_named(one), *_queue(one)) for one in sorted(page.queues, key=_named))
    show.table(("FUNCTION", *QUEUE), rows)
    _say_more(page.next_cursor)


def _queue(one: FunctionQueue) -> Sequence[object]:
    oldest = _with_unit(one.oldest_age_seconds, "s")
    return (one.queued, one.delayed, one.running, oldest, one.dead_letters)


def async_policy(one: AsyncPolicy) -> None:
    wait = one.backoff_seconds
    rows: list[tuple[str, object]] = [
        ("attempts", one.max_attempts),
        (
            "wait",
            f"{wait.first:g} s, then {wait.factor:g} times as long, at most {wait.most:g} s, "
            f"{wait.jitter:.0%} more or less",
        ),
        ("retry on", ", ".join(one.retry_on) or "nothing"),
        ("max age", f"{one.max_age_seconds} s"),
        ("max queued", one.max_queued),
        ("max concurrency", one.max_concurrency or "what is free"),
        ("on success", _destination(one.on_success)),
        ("on failure", _destination(one.on_failure)),
    ]
    show.table(None, rows)


def _destination(one: Destination | None) -> str:
    return "-" if one is None else one.function or one.url or "-"


def timeline(one: Timeline) -> None:
    waits = one.status == "queued" and one.due_at is not None
    due = [("due", show.when(one.due_at))] if waits else []
    show.table(None, [*due, *_timeline(one)])


def timing(one: Timeline) -> None:
    """Prints a timeline dimmed on standard error."""
    width = max(len(name) for name, _ in _timeline(one))
    for name, took in _timeline(one):
        show.note(f"{name:{width}}  {took}")


def _timeline(one: Timeline) -> list[tuple[str, str]]:
    took = [(phase.name, phase.microseconds) for phase in one.phases]
    took.append(("total", one.total_microseconds))
    width = max(len(f"{us / 1000:.3f}") for _, us in took)
    rows = [(name, f"{us / 1000:{width}.3f} ms") for name, us in took]
    return [*rows, ("cold", one.cold_reason)] if one.cold_reason else rows


def pool(one: Pool) -> None:
    columns = ("WARMING", "READY", "BUSY", "TOTAL")
    show.table(columns, [(one.warming_count, one.ready_count, one.busy_count, one.total_count)])


def pool_stats(one: PoolStats) -> None:
    counts = (
        one.warming_count,
        one.ready_count,
        one.busy_count,
        one.recycling_count,
        one.terminating_count,
        one.total_count,
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


def info(one: SystemInfo) -> None:
    rows: list[tuple[str, object]] = [
        ("version", one.version),
        ("node", one.node_id),
        ("control groups", one.cgroup_mode),
        ("OCI runtime", one.oci_runtime),
        ("durability", one.durability),
    ]
    if one.started_at is not None:
        rows.append(("started", show.when(one.started_at)))
    if one.tenant_id is not None:
        rows += [("your tenant", one.tenant_id), ("your scope", one.scope)]
    rows += [(kind, path) for kind, path in one.interpreters.items()]
    rows += [(_words(name), _limit(name, value)) for name, value in one.limits.items()]
    rows += [(f"memory {_words(name)}", f"{value:.15g}") for name, value in one.memory.items()]
    rows += [(_words(name), seen) for name, seen in one.protections.items()]
    show.table(None, rows)


def function_stats(page: FunctionStatsPage, names: Mapping[str, str]) -> None:
    """`names`: of functions, by their ids."""
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


def series(one: Series) -> None:
    if not one.points:
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
        for point in one.points
    )
    show.table(("FROM", "CALLS", "ERRORS", "COLD", "P50", "P99"), rows)


def usage(one: Usage) -> None:
    if not one.rows:
        show.note("no calls")
        return
    by_function = any(row.function_id is not None for row in one.rows)

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
        for row in one.rows
    ]
    columns = ("CALLS", "ERRORS", "GB-SECONDS", "CPU-SECONDS", "QUEUED", "REFUSED")
    head = ("FROM", "FUNCTION") if by_function else ("FROM",)
    show.table((*head, *columns), [*rows, used("", "in all", one.total)], drop=("REFUSED",))


def _amount(seconds: float) -> str:
    """Two digits of what is less than one: a first call does not read as if it had used nothing."""
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


def node(one: Node) -> None:
    """A node, and the functions on it."""
    nodes([one])
    if one.functions:
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
            for at in one.functions
        ]
        show.table(("FUNCTION", "TENANT", "VERSION", "READY", "BUSY", "WAITING"), rows)


def _state_of(one: Node) -> str:
    """As operators think of it: what it is to do, or why it does nothing."""
    if one.state == "removed":
        return one.state
    return one.state if is_heard(one) else "silent" if one.is_silent else one.presence


def is_heard(one: Node) -> bool:
    """Whether what the node last said of itself is true now."""
    return one.presence == "present" and one.state != "removed" and not one.is_silent


def _load_of(one: Node) -> Sequence[object]:
    """Its last beat, and what it said with it, where that is true now."""
    beat = f"{one.beat_age_seconds:.0f}s"
    if not is_heard(one):
        return (beat if one.is_silent else "-", *["-"] * 5)
    calls = (one.running_calls, one.waiting_calls)
    free = show.size(int(one.memory_free_mib * 1024 * 1024))
    return (beat, *calls, one.ready_instances, one.busy_instances, free)


NO_LIMIT_AT_0 = ("calls_per_second", "gb_seconds_per_day")


def quota(one: Quota) -> None:
    used = {name: getattr(one.used, name) for name in ("calls_in_flight", "functions")}
    used |= {"image_bytes": one.used.image_bytes, "gb_seconds_per_day": one.used.gb_seconds_today}
    rows = [
        (
            _words(name),
            _limit(name, getattr(one, name))
            if getattr(one, name) or name not in NO_LIMIT_AT_0
            else "-",
            _limit(name, used[name]) if name in used else "",
            one.tenant_id if name in one.own else "server",
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
    if page.next_cursor:
        show.note(f"there are more: --cursor {page.next_cursor}")


def whoami(one: Whoami) -> None:
    expires = "never" if one.expires_at is None else show.when(one.expires_at)
    rows: list[tuple[str, object]] = [
        ("tenant", one.tenant_id),
        ("scope", one.scope),
        ("credential", one.credential if one.needs_credential else "none is needed"),
        ("expires", expires),
        ("server", f"quiltfn {one.version} on {one.node_id}"),
        ("offers", ", ".join(one.offers)),
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
    for one in report.findings:
        if one.advice:
            show.note(f"{_words(one.name)}: {one.advice}")


DELIVERY = ("ENDED", "ID", "OF CALL", "EVENT", "STATUS", "TRIES", "NEXT TRY", "ANSWER", "WHY")


def all_deliveries(page: DeliveryPage) -> None:
    """Those of several functions, each with its name."""
    if not page.deliveries:
        show.note("no deliveries")
        return
    rows = ((_named(one), *_delivery(one)) for one in page.deliveries)
    show.table(("FUNCTION", *DELIVERY), rows, drop=("OF CALL", "ANSWER", "ENDED"))
    _say_more(page.next_cursor)


def _delivery(one: Delivery) -> Sequence[object]:
    return (
        show.when(one.ended_at),
        one.delivery_id,
        one.invocation_id,
        one.policy_field,
        one.status,
        one.attempts,
        show.when(one.next_attempt_at) if one.next_attempt_at else "-",
        one.http_status or "-",
        one.error_message or "-",
    )


def deliveries(page: DeliveryPage) -> None:
    if not page.deliveries:
        show.note("no deliveries")
        return
    show.table(DELIVERY, map(_delivery, page.deliveries), drop=("OF CALL", "ENDED"))
    _say_more(page.next_cursor)


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
    if found.next_cursor:
        show.note(f"there are more: --cursor {found.next_cursor}")
    command = "quiltfn functions update NAME --runtime RUNTIME"
    show.note(f"an update brings what the runtime is now: {command}")


def runtime(one: Runtime) -> None:
    rows: list[tuple[str, object]] = [
        ("name", one.name),
        ("id", one.id),
        ("kind", one.kind),
        ("files", one.image_digest),
        ("interpreter", one.interpreter),
        ("command", shlex.join(one.command)),
        ("environment", "\n".join(f"{k}={v}" for k, v in one.environment.items())),
        ("isolation", one.isolation),
        ("network", one.network),
        ("writable", " ".join(one.writable_paths)),
        ("processes", one.process_limit),
        ("tmp", None if one.tmp_limit_mb is None else f"{one.tmp_limit_mb} MiB"),
        ("file size", None if one.file_limit_mb is None else f"{one.file_limit_mb} MiB"),
        ("open files", one.open_files_limit),
        ("of", _whose(one)),
        ("added", None if one.built_in else show.when(one.created_at)),
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
    if page.next_cursor:
        show.note(f"there are more: --cursor {page.next_cursor}")


def schedule(one: Schedule) -> None:
    last = one.last_run
    variables = (one.environment or {}).items()
    rows: list[tuple[str, object]] = [
        ("name", one.name),
        ("function", one.function),
        ("when", _timing(one)),
        ("in words", one.in_words if one.cron else None),
        ("jitter", f"{one.jitter_seconds} s" if one.jitter_seconds else None),
        ("next", "\n".join(show.when(each, zone_of(one)) for each in one.next_runs) or "paused"),
        (
            "last",
            None if last is None else f"{show.when(last.due_at, zone_of(one))}, {_result(last)}",
        ),
        ("runs", one.fired_count),
        ("skipped", one.skipped_count),
        ("missed", one.missed_count),
        ("on overlap", one.overlap),
        ("on missed", one.missed),
        ("payload", one.payload),
        ("environment", "\n".join(f"{key}={value}" for key, value in variables)),
        ("created", show.when(one.created_at)),
        ("updated", show.when(one.updated_at)),
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
    if page.next_cursor:
        show.note(f"there are more: --cursor {page.next_cursor}")


def zone_of(one: Schedule) -> str | None:
    """The time zone in which its times are read; None: this machine's."""
    return one.timezone if one.cron is not None else None


def _timing(one: Schedule) -> str:
    return f"{one.cron} {one.timezone}" if one.cron else f"every {one.every_seconds} s"


def _result(one: ScheduleRun) -> str:
    if one.missed > 1:
        return f"{one.missed} missed"
    return one.status or one.outcome


def runtime_files(page: RuntimeFilePage) -> None:
    if not page.files:
        show.note("no files of its own")
        return
    rows = ((show.size(one.size_bytes), one.path) for one in page.files)
    show.table(("SIZE", "PATH"), rows)
    if page.next_cursor:
        show.note(f"there are more: --cursor {page.next_cursor}")


def runtime_packages(found: RuntimePackageList) -> None:
    if not found.packages:
        show.note("no packages")
        return
    show.table(("KIND", "NAME", "VERSION"), [(o.kind, o.name, o.version) for o in found.packages])
    if not found.is_complete:
        show.note("there are more than the server looks for")


def _whose(one: Runtime) -> str:
    """Who can use and change it."""
    if one.built_in:
        return "server"
    return "all" if one.shared else "tenant"


def _short(digest: str | None) -> str:
    """The first digits, which tell one from another; `show` prints all of them."""
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
