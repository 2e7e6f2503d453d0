"""A server with 10,000 functions and 10 million records against an empty one, in turns.

The full one is filled by SQL in its data directory (seed.py), which takes some minutes and about
4 GiB; `--keep DIR` fills DIR once and uses it again.
"""
# promise: D10

from __future__ import annotations

import base64
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

import harness
import seed

UNBOUNDED = ("--keep-invocations", "0", "--keep-invocations-days", "0")
LIST, STATS = "/api/functions", "/api/functions/pool/stats"
ASKED = 200


def main() -> None:
    options = harness.arguments(
        "size",
        functions=(10_000, "functions of the full server"),
        records=(10_000_000, "records of the full server"),
        keep=(None, "directory that is filled once and kept"),
    )
    with ExitStack() as stack:
        home = options.keep or stack.enter_context(tempfile.TemporaryDirectory())
        full = Path(home) / f"{options.functions}-{options.records}"
        if not full.exists():
            fill(full, options.functions, options.records)
        empty = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "data"
        start_s(empty)  # the first start of all makes the database
        starts = [{"full": start_s(full), "empty": start_s(empty)} for _ in range(options.rounds)]
        small = stack.enter_context(harness.server(data_dir=empty))
        large = stack.enter_context(harness.server(*UNBOUNDED, data_dir=full))
        rounds = warm_calls(small, large, options)
        reads = {name: asked(large, path) for name, path in paths(large).items()}
        idle = {"full": idle_percent(large), "empty": idle_percent(small)}
    show(options, starts, rounds, reads)
    figures = f"{idle['full']:.2f} / {idle['empty']:.2f}"
    print(f"{'idle, CPU of a core, full / empty, %':44}{figures:>12}")
    harness.save(
        "size",
        {
            "functions": options.functions,
            "records": options.records,
            "starts_s": starts,
            "rounds": rounds,
            "reads_ms": reads,
            "idle_percent": idle,
        },
    )


def fill(data_dir: Path, functions: int, records: int) -> None:
    """Has a server create the data directory, and fills it after the server has ended."""
    print(f"filling {data_dir} …", flush=True)
    with harness.server(data_dir=data_dir) as client:
        harness.deployed(client, name="template", handler="echo hello")
    seed.fill(data_dir, functions, records)


def start_s(data_dir: Path) -> float:
    """Seconds from the command to its ready line, the preflight's sandbox included."""
    begun = time.monotonic()
    with harness.server(*UNBOUNDED, data_dir=data_dir):
        return time.monotonic() - begun


def warm_calls(small: httpx.Client, large: httpx.Client, options: Any) -> list[dict[str, float]]:
    """The same call on both, one caller, in turns."""
    name = f"warm-{time.time_ns()}"
    at = {}
    for which, client in (("empty", small), ("full", large)):
        if which == "full":  # a tenant may have 10,000, and has
            client.delete(f"{LIST}/{last_seeded(client)}").raise_for_status()
        function = harness.deployed(client, name=name, handler="echo hello")
        at[which] = (client, f"{LIST}/{function}/invoke")
        harness.wrk(client, at[which][1], connections=1, seconds=1)
    rounds = []
    for number in range(options.rounds):
        figures: dict[str, float] = {}
        for which, (client, path) in at.items():
            call = harness.wrk(client, path, connections=1, seconds=options.seconds)
            figures |= {f"{which}_p50_us": call["p50_us"], f"{which}_p99_us": call["p99_us"]}
        rounds.append(figures)
        print(f"round {number + 1} of {options.rounds}", end="\r", flush=True)
    return rounds


def last_seeded(client: httpx.Client) -> str:
    function: str = page(client, f"{LIST}?limit=1")["functions"][0]["id"]
    return function


def paths(client: httpx.Client) -> dict[str, str]:
    """The paths that are read, by name; also a page after the last function, and filters that few
    items pass.
    """
    some = page(client, f"{LIST}?limit=50")["functions"]
    after = base64.urlsafe_b64encode(f"{'f' * 8}-0000-0000-0000-{'0' * 12}".encode()).decode()
    calls = f"{LIST}/{some[7]['id']}/invocations?limit=50"
    return {
        "functions, first 50": f"{LIST}?limit=50",
        "functions, behind the last": f"{LIST}?limit=50&cursor={after.rstrip('=')}",
        "functions, paused ones": f"{LIST}?limit=50&state=paused",
        "calls, last 50": calls,
        "calls, failed ones": f"{calls}&status=failed",
        "pool stats": STATS,
        "metrics": "/metrics",
    }


def page(client: httpx.Client, path: str) -> Any:
    return client.get(path).raise_for_status().json()


def asked(client: httpx.Client, path: str) -> list[float]:
    """How long each answer took, in milliseconds."""
    return [timed(lambda: client.get(path).raise_for_status()) for _ in range(ASKED)]


def timed(do: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    do()
    return (time.perf_counter() - begun) * 1000


def idle_percent(client: httpx.Client, seconds: float = 5.0) -> float:
    """The CPU time of the server, its launcher and its sandboxes without requests, in percent of a
    core.
    """
    pids = harness.tree(int(client.headers["x-launcher-pid"]))
    before = harness.ticks(pids)
    time.sleep(seconds)
    return (harness.ticks(pids) - before) / seconds * 100


def show(
    options: Any,
    starts: list[dict[str, float]],
    rounds: list[dict[str, float]],
    reads: dict[str, list[float]],
) -> None:
    print(f"{options.functions} functions, {options.records} records")
    for which in ("full", "empty"):
        took = harness.spread([one[which] for one in starts])
        print(f"{f'start to ready, {which}, s':44}{took:>24}")
    for percent in ("p50", "p99"):
        full = [one[f"full_{percent}_us"] for one in rounds]
        empty = [one[f"empty_{percent}_us"] for one in rounds]
        ratio = [a / b for a, b in zip(full, empty, strict=True)]
        figures = f"{statistics.median(full):.0f} / {statistics.median(empty):.0f}"
        print(
            f"{f'warm call {percent}, full / empty, µs':44}{figures:>12}{harness.spread(ratio):>24}"
        )
    for name, times in reads.items():
        p50, p99 = (harness.percentile(times, percent) for percent in (50, 99))
        print(f"{f'{name}, p50 / p99, ms':44}{f'{p50:.1f} / {p99:.1f}':>12}")


if __name__ == "__main__":
    main()
