"""Other costs than those of an invocation: deploy to first response, sandboxes created per second,
a herd at a cold function, and a hundred idle warm instances.
"""
# promise: S4

from __future__ import annotations

import json
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

import harness

HERD, HERD_MOST, HERD_S = 500, 5, 0.1
IDLE_INSTANCES, IDLE_S = 100, 20


def main() -> None:
    options = harness.arguments("life", rounds=3)
    figures: dict[str, Any] = {"rounds": []}
    with harness.server("--idle-s", "0.1") as client:
        for _ in range(options.rounds):
            figures["rounds"].append(
                {"deploy": deploys(client, 6 * options.seconds), "herd": herd(client)}
            )
    figures["made"] = [made(number) for number in range(options.rounds)]
    figures["idle"] = idle()
    show(figures)
    harness.save("life", figures)


def deploys(client: httpx.Client, count: int) -> dict[str, float]:
    """Milliseconds from the deploy of a new function to its first answer."""
    took = []
    for number in range(count):
        body = {"name": f"deploy{time.monotonic_ns()}-{number}", "handler": "echo hello"}
        function = client.post("/api/functions", json=body).raise_for_status().json()["function_id"]
        time.sleep(0.1)
        began = time.perf_counter()
        client.post(f"/api/functions/{function}/deploy").raise_for_status()
        client.post(f"/api/functions/{function}/invoke", json={}).raise_for_status()
        took.append((time.perf_counter() - began) * 1000)
        client.delete(f"/api/functions/{function}")
    floor = harness.floor("crun_run", str(count), "echo hello")
    return {
        "p50_ms": statistics.median(took),
        "worst_ms": max(took),
        "crun_run_p50_ms": harness.percentile(floor, 50) / 1000,
    }


def herd(client: httpx.Client) -> dict[str, float]:
    """Five hundred calls within a tenth of a second, for a function that has no instance."""
    function = harness.deployed(
        client,
        name=f"herd{time.monotonic_ns()}",
        handler="echo hello",
        max_instances=HERD_MOST,
    )
    pool = f"/api/functions/{function}/pool"
    while client.get(pool).json()["total_count"]:
        time.sleep(0.05)
    time.sleep(0.5)
    figures = stampede(client, f"/api/functions/{function}/invoke", pool)
    client.delete(f"/api/functions/{function}")
    return figures


def stampede(client: httpx.Client, path: str, pool: str) -> dict[str, float]:
    """The calls come from a program in C; the pool is looked at meanwhile."""
    command = [harness.compiled("herd"), str(client.base_url.port), path, str(HERD)]
    most = 0
    with subprocess.Popen(
        [*command, str(int(HERD_S * 1e6))], stdout=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            most = max(most, client.get(pool).json()["total_count"])
            time.sleep(0.02)
        assert process.stdout is not None
        figures: dict[str, float] = json.loads(process.stdout.read())
    assert not figures["other"], figures
    return figures | {"most_instances": most}


def made(number: int) -> dict[str, float]:
    """Sandboxes a second, made for a function that wants forty, and by `crun run` two at a time."""
    count = 40
    with harness.server("--prewarmed", "0") as client:
        body = {"name": f"made{number}", "handler": "true", "min_instances": count}
        body |= {"max_instances": count}
        function = client.post("/api/functions", json=body).json()["function_id"]
        began = time.perf_counter()
        client.post(f"/api/functions/{function}/deploy").raise_for_status()
        while client.get(f"/api/functions/{function}/pool").json()["ready_count"] < count:
            time.sleep(0.005)
        ours = count / (time.perf_counter() - began)
    with ThreadPoolExecutor(2) as threads:
        took = list(threads.map(lambda _: harness.floor("crun_run", "20", "true"), range(2)))
    floor = sum(1 / (statistics.mean(one) / 1e6) for one in took)
    return {"sandboxes_per_second": ours, "crun_runs_per_second": floor}


def idle() -> dict[str, float]:
    with harness.server() as client:
        harness.deployed(
            client,
            name="idle",
            handler="echo hello",
            min_instances=IDLE_INSTANCES,
            max_instances=IDLE_INSTANCES,
        )
        while client.get("/api/functions/pool/stats").json()["ready_count"] < IDLE_INSTANCES:
            time.sleep(0.2)
        time.sleep(3)
        launcher = int(client.headers["x-launcher-pid"])
        ours = [launcher, *children(launcher)]
        before = harness.ticks(ours)
        time.sleep(IDLE_S)
        busy = (harness.ticks(ours) - before) / IDLE_S * 100
        rss = sum(rss_mib(pid) for pid in ours)
    return {"cpu_percent": busy, "rss_mib": rss}


def children(pid: int) -> list[int]:
    """The launcher's child processes that are servers; the others are guests."""
    found = []
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        if b"quiltfn.server.main" in Path(f"/proc/{child}/cmdline").read_bytes():
            found.append(child)
    return found


def rss_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def show(figures: dict[str, Any]) -> None:
    deploy = [one["deploy"] for one in figures["rounds"]]
    herds = [one["herd"] for one in figures["rounds"]]
    rates = figures["made"]
    ratio = [one["sandboxes_per_second"] / one["crun_runs_per_second"] for one in rates]
    print(
        f"deploy to first answer, ms   p50 {harness.spread([one['p50_ms'] for one in deploy])}"
        f"   worst {harness.spread([one['worst_ms'] for one in deploy])}"
        f"   crun run {harness.spread([one['crun_run_p50_ms'] for one in deploy])}"
    )
    print(
        f"sandboxes made a second      "
        f"{harness.spread([one['sandboxes_per_second'] for one in rates])}"
        f"   over crun run, two at a time {harness.spread(ratio)}"
    )
    print(
        f"a herd of {HERD}, first answer  "
        f"{harness.spread([one['first_answer_ms'] for one in herds])} ms   "
        f"instances at most {max(one['most_instances'] for one in herds)}, "
        f"answered {min(one['answered'] for one in herds)}, "
        f"CAPACITY_FULL {max(one['capacity_full'] for one in herds)}"
    )
    print(
        f"{IDLE_INSTANCES} idle instances           "
        f"{figures['idle']['cpu_percent']:.2f} % of a core, "
        f"{figures['idle']['rss_mib']:.0f} MiB RSS of server and launcher"
    )


if __name__ == "__main__":
    main()
