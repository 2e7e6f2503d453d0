"""Creates docs/reference/benchmarks.md from the last results: every row with its figure and aim.

A row without a result keeps the line that it has on the page, with its date.
"""

from __future__ import annotations

import json
import operator
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any

import harness

PAGE = harness.HERE.parent / "docs" / "reference" / "benchmarks.md"


@dataclass(frozen=True)
class Row:
    """`values`: one of each round; `must` and `aim`: the bounds of their median. `is_rate`: more is
    better.
    """

    name: str
    unit: str
    must: float
    aim: float
    values: list[float]
    is_rate: bool = False

    def line(self, measured: str) -> str:
        found = statistics.median(self.values)
        spread = f"{min(self.values):.2f} to {max(self.values):.2f}"
        better = operator.ge if self.is_rate else operator.le
        is_met, is_aim = better(found, self.must), better(found, self.aim)
        verdict = "aim" if is_aim else "must" if is_met else "**missed**"
        sign = "≥" if self.is_rate else "≤"
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"| {self.name} | {found:.2f}{unit} | {spread} | {sign} {self.must:g} | "
            f"{sign} {self.aim:g} | {verdict} | {measured} |"
        )


def main() -> None:
    lines = {line.split("|")[1].strip(): line for line in known()}
    machine: dict[str, Any] = {}
    for name, read in (
        ("warm", warm),
        ("python", python),
        ("cold", cold),
        ("imports", imports),
        ("packages", packages),
        ("life", life),
        ("memory", memory),
        ("size", size),
        ("keepalive", keepalive),
        ("command", command),
        ("accepted", accepted),
        ("stream", stream),
        ("page_speed", page_speed),
        ("url", url),
        ("web_server", web_server),
        ("forwarded", forwarded),
        ("fleet_size", fleet_size),
        ("base_images", base_images),
        ("canary", canary),
    ):
        file = harness.RESULTS / f"{name}.json"
        if file.exists():
            figures = json.loads(file.read_text())
            machine = figures["machine"]
            measured = date.fromtimestamp(file.stat().st_mtime).isoformat()
            lines |= {row.name: row.line(measured) for row in read(figures)}
    PAGE.write_text(page(lines.values(), machine) + alternatives())
    print(PAGE.read_text())


def known() -> list[str]:
    """The current lines of the page's table."""
    text = PAGE.read_text() if PAGE.exists() else ""
    return [line for line in text.splitlines() if line.endswith(" |") and line.count("|") == 8][1:]


def alternatives() -> str:
    """The table of other ways to run a handler: of the last result, or as it is on the page."""
    file = harness.RESULTS / "alternatives.json"
    if not file.exists():
        text = PAGE.read_text() if PAGE.exists() else ""
        return "".join(text.partition(ALTERNATIVES)[1:])
    rounds = json.loads(file.read_text())["rounds"]
    lines = []
    for name in rounds[0]:
        p50, p99, rate = (
            statistics.median(one[name][field] for one in rounds)
            for field in ("p50_ms", "p99_ms", "rate")
        )
        lines.append(f"| {name} | {p50:.2f} ms | {p99:.2f} ms | {rate:,.0f}/s |\n")
    measured = date.fromtimestamp(file.stat().st_mtime).isoformat()
    return ALTERNATIVES + "".join(lines) + f"\nMeasured on {measured}.\n"


def page(lines: Iterable[str], machine: dict[str, Any]) -> str:
    head = (
        "# Benchmarks\n\n"
        "What quiltfn costs, against a floor or a peer that was measured in the same run, in turns.\n"
        "Written by `scripts/bench page` from the last results of `scripts/bench`; a row that was not\n"
        "measured again keeps its date. Every server was started as a user starts it, with records,\n"
        "limits, namespaces and seccomp. Load came from the same two cores. A figure is the median over\n"
        "the rounds, beside it the smallest and the largest.\n\n"
        f"Machine: {machine.get('cores')} cores, Linux {machine.get('kernel')}, Python "
        f"{machine.get('python')}, crun {machine.get('crun')}.\n\n"
        "| what | figure | spread | must | aim | meets | measured |\n|---|---|---|---|---|---|---|\n"
    )
    return head + "\n".join(lines) + "\n" + WHAT


ALTERNATIVES = """
## Beside others

The same handlers on the same machine, in turns: a shell that prints a line, and a handler that returns a small object from a process that stays.
Only quiltfn, bwrap and workerd isolate the handler, and only quiltfn keeps a record of each invocation.

| handler | one caller, p50 | p99 | 8 callers |
|---|---|---|---|
"""

WHAT = """
Machines of one description differ, and one machine differs from hour to hour. Versions can be compared only in turns, on one machine.

## What the rows mean

- **Warm shell**: `echo hello` by `sh -c`, against `posix_spawn` of the same shell in C, at the same pace. CPU is that of all processes except the load generator.
- **Resident Python**: a handler that returns a small object, against functions-framework, which has neither isolation nor records.
- **Cold start**: a deployed function without an instance, against `crun run` of a shell in the same sandbox. "100 ms of imports" is a module that takes that long to import.
- **Base image**: 5,000 files, 120 MB as a tar on loopback, from the beginning of the upload to the first response. Its cold starts are a shell's, in turns with the host image's; `crun run` has the same root.
- **Cold call of pandas**: after an idle time, a restart, or an invocation that ran out of memory, beside an interpreter that imports pandas from the same files.
- **Packages**: `quiltfn runtimes add` with pandas and scikit-learn on an empty server, beside `uv pip install` into an empty directory, both from uv's cache. An edit: from the save until invocations use the new version, and its disk space.
- **Sandboxes made**: none prewarmed, against `crun run`, two at a time.
- **Herd**: 500 invocations within a tenth of a second of a function without an instance that may have five.
- **Idle instance**: the memory of its control group or the PSS of its processes, whichever is larger.
- **Accepted**: asynchronous invocations of a paused function, each on disk before its 202; and what the store alone accepts over what SQLite commits, the same rows in synced transactions of 32. **Drain**: `echo hello` from a queue, over callers who wait, on the same two instances.
- **1,000,000 queued**: due tomorrow; the server's additional RSS, and a warm invocation over one with an empty queue.
- **Command**: whole processes of `quiltfn`: `--version`, a table, a warm invocation; and over the start of a Python that does nothing (10 ms on a quiet machine), in turns. **Three commands**: those of [a first deployment](../how-to/deploy-a-project.md#first-deployment), with a package from uv's cache and a schedule.
- **Live output**: from the handler's write, every 10 ms, to the reader. Readers share the two cores with the server.
- **By its URL**: the additional time of `/fn/…` over `POST …/invoke`, in pairs, on kept connections. **First byte**: from the request to the first bytes of a Python generator.
- **As a function**: an unmodified server in a sandbox with a core, by its URL with records, over the same server as an ordinary process; a small JSON response. All share two cores with wrk.
- **Forwarded**: `echo hello` at a node without an instance, over the node that has it, in turns; PostgreSQL syncs on the same disk. Committed: with `--durability strict`. Rate: 32 callers of resident Python, by the CPU of the asked node. **Nodes**: the server's platform on sandboxes that respond at once, with its connections and background tasks ([more](../how-to/size-a-fleet.md)).
- **Dashboard**: in a headless Chromium on the same cores, from an action to the frame that shows its effect. The warm invocation is `echo hello` with the list of functions open, over the same without a page.
- **Keep-alive**: the server's policy code on Azure's trace of 2019, at the idle time of a fixed 300 s; the spread is over three ways to count ([more](keep-alive.md)).
"""


def imports(figures: dict[str, Any]) -> list[Row]:
    rounds = figures["rounds"]
    middle = [{name: statistics.median(one[name]) for name in one} for one in rounds]
    calls = [name for name in rounds[0] if name != "import"]
    slowest = [max(one[name] for name in calls) for one in middle]
    over = [most / one["import"] for most, one in zip(slowest, middle, strict=True)]
    return [
        *(
            Row(f"cold call of pandas {n}, p50", "ms", 30, 15, [m[n] for m in middle])
            for n in calls
        ),
        Row("the slowest of these over importing it", "x", 0.1, 0.05, over),
    ]


def packages(figures: dict[str, Any]) -> list[Row]:
    rounds = figures["rounds"]
    added = [one["first add"] for one in rounds]
    over = [one["first add"] / one["install"] for one in rounds]
    return [
        Row("packages: first add of pandas and scikit-learn", "s", 15, 8, added),
        Row("packages: first add over installing them", "x", 10, 5, over),
        Row("packages: an edit of the code, live", "s", 0.5, 0.2, [one["edit"] for one in rounds]),
        Row("packages: kept of an edit", "KiB", 50, 20, [one["edit, KiB"] for one in rounds]),
    ]


def ratio(rounds: list[dict[str, Any]], row: str) -> list[float]:
    return [one[row][0] / one[row][1] for one in rounds]


def stream(figures: dict[str, Any]) -> list[Row]:
    def each(row: str) -> list[float]:
        return [one[row] / 1000 for one in figures["rounds"]]

    return [
        Row("live output of a shell, p50", "ms", 3.0, 1.0, each("shell, p50, µs")),
        Row(
            "live output of a Python generator, p50", "ms", 3.0, 1.0, each("Python yield, p50, µs")
        ),
        Row(
            "live output, 200 readers of one function, p50",
            "ms",
            20.0,
            5.0,
            each("200 readers, p50, µs"),
        ),
    ]


def url(figures: dict[str, Any]) -> list[Row]:
    def each(row: str) -> list[float]:
        return [one[row] / 1000 for one in figures["rounds"]]

    shell, python_, first = figures["rounds"][0]
    return [
        Row("a shell by its URL, over an invoke, p50", "ms", 0.1, 0.05, each(shell)),
        Row("Python by its URL, over an invoke, p50", "ms", 0.1, 0.05, each(python_)),
        Row("first byte of a stream by a URL, p50", "ms", 3.0, 1.5, each(first)),
    ]


def canary(figures: dict[str, Any]) -> list[Row]:
    failed = [float(one) for one in figures["failed"]]
    return [
        Row(
            "a call beside a version in use, over one alone, p50", "x", 1.05, 1.0, figures["costs"]
        ),
        Row("failed calls of a version at 10 % that always fails", "", 6, 3, failed),
    ]


def web_server(figures: dict[str, Any]) -> list[Row]:
    callers = figures["callers"]
    return [
        Row(
            f"{name} as a function, {callers} callers, rate over the same server alone",
            "x",
            0.5,
            0.8,
            [one[name]["ratio"] for one in figures["rounds"]],
            is_rate=True,
        )
        for name in figures["rounds"][0]
    ]


def forwarded(figures: dict[str, Any]) -> list[Row]:
    rounds = figures["rounds"]
    hop, strict, stored = list(rounds[0])[:3]
    rate = "forwarded calls a second, of a core of the node that is asked"

    def ms(row: str) -> list[float]:
        return [one[row] / 1000 for one in rounds]

    of_core = [one["of a core of the node that is asked"] for one in rounds]
    return [
        Row(
            "a forwarded warm call, over the same call at its node, p50", "ms", 0.25, 0.15, ms(hop)
        ),
        Row("the same with each record committed, p50", "ms", 0.6, 0.4, ms(strict)),
        Row(
            "forwarded and committed, over a local call that is not, p50",
            "ms",
            1.0,
            0.6,
            ms(stored),
        ),
        Row(rate, "/s", 8000, 12000, of_core, is_rate=True),
    ]


def fleet_size(figures: dict[str, Any]) -> list[Row]:
    name, rest, calls = f"{figures['nodes']} nodes", figures["at rest"], figures["with calls"]
    age = "age of a report, p99, s"
    return [
        Row(f"{name} at rest, PostgreSQL", "cores", 0.2, 0.1, [rest["PostgreSQL, cores"]]),
        Row(
            f"{name} at rest, CPU of a node",
            "% of a core",
            1.0,
            0.4,
            [rest["a node, ms of CPU a second"] / 10],
        ),
        Row(f"{name}, age of what a node knows of another, p99", "s", 4.5, 4.0, [calls[age]]),
    ]


def warm(figures: dict[str, Any]) -> list[Row]:
    rounds = figures["rounds"]
    p50, p99, paced, rate, cpu = rounds[0]
    return [
        Row("warm shell, back to back, p50", "x", 0.65, 0.55, ratio(rounds, p50)),
        Row("warm shell, back to back, p99", "x", 1.4, 1.3, ratio(rounds, p99)),
        Row("warm shell, at 100 a second, p50", "x", 1.1, 0.9, ratio(rounds, paced)),
        Row("warm shell, 8 callers, rate", "x", 1.2, 1.3, ratio(rounds, rate), is_rate=True),
        Row("warm shell, CPU a call", "x", 0.75, 0.65, ratio(rounds, cpu)),
    ]


def python(figures: dict[str, Any]) -> list[Row]:
    rounds = figures["rounds"]

    def over(mode: str, callers: int, field: str) -> list[float]:
        name = f"c={callers}"
        return [one[f"{mode} {name}"][field] / one[f"peer {name}"][field] for one in rounds]

    return [
        Row("resident Python, one caller, p50", "x", 0.65, 0.5, over("keep", 1, "p50_us")),
        Row(
            "resident Python, 8 callers, rate",
            "x",
            2.5,
            4.0,
            over("keep", 8, "calls_per_second"),
            is_rate=True,
        ),
    ]


def cold(figures: dict[str, Any]) -> list[Row]:
    rounds = figures["rounds"]

    def each(name: str, field: str) -> list[float]:
        return [one[name][field] for one in rounds]

    def over(name: str) -> list[float]:
        return [one[name]["p50_ms"] / one["crun run"]["p50_ms"] for one in rounds]

    return [
        Row("cold shell, p50", "ms", 2.2, 1.7, each("shell", "p50_ms")),
        Row("cold shell, worst", "ms", 5, 3, each("shell", "p99_ms")),
        Row("cold shell over `crun run`", "x", 0.7, 0.4, over("shell")),
        Row("cold Python, p50", "ms", 5.5, 4, each("python", "p50_ms")),
        Row("cold Python, worst", "ms", 10, 6, each("python", "p99_ms")),
        Row("cold shell, not prewarmed", "x", 1.0, 0.7, over("shell, not prewarmed")),
        Row(
            "cold Python, 100 ms of imports, p50",
            "ms",
            6,
            2.5,
            each("python, 100 ms of imports", "p50_ms"),
        ),
    ]


def base_images(figures: dict[str, Any]) -> list[Row]:
    rounds = figures["rounds"]

    def over_host(name: str) -> list[float]:
        return [one[f"base, {name}"] / one[f"host, {name}"] for one in rounds]

    floor = [one["base, not prewarmed"] / one["crun run"] for one in rounds]
    return [
        Row("base image of 120 MB, upload to first answer", "s", 4, 2, figures["ready_s"]),
        Row("cold shell of a base image over the host's", "x", 1.3, 1.1, over_host("prewarmed")),
        Row("the same, not prewarmed", "x", 1.3, 1.1, over_host("not prewarmed")),
        Row("the same over `crun run` in its root", "x", 1.3, 1.0, floor),
    ]


def life(figures: dict[str, Any]) -> list[Row]:
    rounds = figures["rounds"]
    made = [one["sandboxes_per_second"] / one["crun_runs_per_second"] for one in figures["made"]]
    herds = [one["herd"] for one in rounds]
    return [
        Row("deploy to first answer, p50", "ms", 10, 4, [x["deploy"]["p50_ms"] for x in rounds]),
        Row("sandboxes made a second", "x", 0.9, 1.5, made, is_rate=True),
        Row("herd, first answer", "ms", 8, 3, [one["first_answer_ms"] for one in herds]),
        Row("herd, instances at most", "", 5, 5, [one["most_instances"] for one in herds]),
        Row("100 idle instances, CPU", "% of a core", 0.4, 0.1, [figures["idle"]["cpu_percent"]]),
        Row("100 idle instances, RSS", "MiB", 130, 90, [figures["idle"]["rss_mib"]]),
    ]


def command(figures: dict[str, Any]) -> list[Row]:
    rounds = figures["rounds"]

    def took(name: str) -> list[float]:
        return [one[name] for one in rounds]

    def over(name: str) -> list[float]:
        return [one[name] / one["floor"] for one in rounds]

    return [
        Row("`quiltfn --version`, whole process, p50", "ms", 200, 100, took("version")),
        Row("`quiltfn --version` over `python -c pass`", "x", 16, 8, over("version")),
        Row("`quiltfn functions list`, whole process, p50", "ms", 200, 120, took("list")),
        Row("`quiltfn functions list` over `python -c pass`", "x", 20, 10, over("list")),
        Row("`quiltfn invoke`, whole process, p50", "ms", 200, 120, took("invoke")),
        Row("`quiltfn invoke` over `python -c pass`", "x", 20, 12, over("invoke")),
        Row("three commands from an empty directory to a URL", "s", 60, 5, took("ship_s")),
    ]


def accepted(figures: dict[str, Any]) -> list[Row]:
    rounds, drained, long = figures["accepted"], figures["drained"], figures["long"]

    def each(field: str) -> list[float]:
        return [one[field] for one in rounds]

    over = [one["per_s"] / one["floor_per_s"] for one in rounds]
    drain = [one["drained_per_s"] / one["sync_per_s"] for one in drained]
    grown = long["long"]["rss_mib"] - long["empty"]["rss_mib"]
    pairs = zip(long["long"]["p50_us"], long["empty"]["p50_us"], strict=True)
    warm = [with_queue / without for with_queue, without in pairs]
    return [
        Row("accepted, 32 callers, rate", "/s", 2500, 5000, each("http_per_s"), is_rate=True),
        Row("accepted, one caller, p50", "ms", 4, 2, each("http_one_p50_ms")),
        Row("accepted by the store, over its commits", "x", 0.3, 0.6, over, is_rate=True),
        Row("drain of a queue, rate", "x", 0.9, 1.0, drain, is_rate=True),
        Row("1,000,000 queued, memory", "MiB", 10, 4, [max(0.0, grown)]),
        Row("1,000,000 queued, warm shell, p50", "x", 1.05, 1.0, warm),
    ]


def memory(figures: dict[str, Any]) -> list[Row]:
    def larger(kind: str) -> list[float]:
        return [max(figures[kind]["cgroup_mib"], figures[kind]["pss_mib"])]

    return [
        Row("idle shell instance", "MiB", 0.42, 0.36, larger("shell")),
        Row("idle Python instance", "MiB", 5, 3, larger("python")),
    ]


def size(figures: dict[str, Any]) -> list[Row]:
    name = f"{figures['functions']:,} functions, {figures['records']:,} records"
    over = [one["full_p50_us"] / one["empty_p50_us"] for one in figures["rounds"]]
    starts = [one["full"] for one in figures["starts_s"]]
    slowest = [
        harness.percentile(figures["reads_ms"][read], 99)
        for read in ("functions, first 50", "calls, last 50", "pool stats")
    ]
    return [
        Row(f"{name}: warm call over an empty server", "x", 1.05, 1.0, over),
        Row(f"{name}: lists and stats, p99", "ms", 5, 3, [max(slowest)]),
        Row(f"{name}: start to ready", "s", 2.0, 0.8, starts),
    ]


def page_speed(figures: dict[str, Any]) -> list[Row]:
    name = f"dashboard, {figures['functions']:,} functions, {figures['records']:,} records"
    rounds = figures["rounds"]
    over = [one["beside_p50_us"] / one["alone_p50_us"] for one in rounds]
    slowest = [max(one["interactions_ms"].values()) for one in rounds]
    return [
        Row(f"{name}: first paint", "ms", 200, 100, [one["first_paint_ms"] for one in rounds]),
        Row(f"{name}: slowest interaction", "ms", 200, 100, slowest),
        Row(f"{name}: warm call beside it, p50", "x", 1.05, 1.0, over),
    ]


def keepalive(figures: dict[str, Any]) -> list[Row]:
    """The two halves of the functions are a separate check, not rounds."""
    whole = [one for one in figures["rounds"] if "half" not in one["variant"]]

    def fewer(than: str) -> list[float]:
        return [100 * (1 - one["histogram"] / one[than]) for one in whole]

    return [
        Row("keep-alive, fewer cold starts than fixed", "%", 80, 93, fewer("fixed"), is_rate=True),
        Row(
            "keep-alive, fewer than the published hybrid",
            "%",
            25,
            60,
            fewer("hybrid"),
            is_rate=True,
        ),
    ]


if __name__ == "__main__":
    main()
