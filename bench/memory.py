"""The memory of an idle instance, as a mean over many: that of its control group, and the share of
its processes (PSS).

The page cache of files that all share is charged to whoever read them first; PSS divides what
processes share among them. Their sum would count twice what is in both, so both are shown, beside
the decrease of the machine's available memory.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import httpx

import harness
from python import add_runtime

COUNT = {"shell": 200, "python": 60}


def main() -> None:
    harness.arguments("memory", rounds=1)
    figures = {}
    for kind, count in COUNT.items():
        with harness.server("--prewarmed", "0") as client:  # or they would be counted, too
            runtime = "shell" if kind == "shell" else add_runtime(client)
            handler = "echo hello" if kind == "shell" else "main:handler"
            figures[kind] = measure(client, kind, count, handler, runtime)
    show(figures)
    harness.save("memory", figures)


def measure(
    client: httpx.Client, kind: str, count: int, handler: str, runtime: str
) -> dict[str, float]:
    before = available_kib()
    harness.deployed(
        client,
        name=f"idle-{kind}",
        handler=handler,
        runtime=runtime,
        min_instances=count,
        max_instances=count,
    )
    end = time.monotonic() + 120
    while client.get("/api/functions/pool/stats").json()["ready_count"] < count:
        assert time.monotonic() < end, "the instances did not stand"
        time.sleep(0.5)
    time.sleep(5)  # by then, the waiting shells have ended
    less = before - available_kib()
    groups = sandboxes()
    assert len(groups) >= count
    charged = sum(group_bytes(one) for one in groups) / 1024
    shares = [pss_kib(pid) for pids in groups.values() for pid in pids]
    return {
        "instances": count,
        "cgroup_mib": charged / count / 1024,
        "pss_mib": sum(shares) / count / 1024,
        "available_mib": less / count / 1024,
    }


def sandboxes() -> dict[str, list[int]]:
    """Control group → processes, of every sandbox on this machine."""
    found: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "cgroup").read_text()
            except OSError:
                continue
            group = re.search(r"(?:memory|^0):*:(/\S*quiltfn/[0-9a-f]+/[0-9a-f]{24})", text, re.M)
            group = group or re.search(r"(/\S*quiltfn/[0-9a-f]+/[0-9a-f]{24})", text)
            if group:
                found.setdefault(group[1], []).append(int(entry.name))
    return found


def group_bytes(group: str) -> int:
    for file in (
        Path("/sys/fs/cgroup/memory") / group.lstrip("/") / "memory.usage_in_bytes",
        Path("/sys/fs/cgroup") / group.lstrip("/") / "memory.current",
    ):
        if file.exists():
            return int(file.read_text())
    raise FileNotFoundError(group)


def pss_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]


def available_kib() -> int:
    text = Path("/proc/meminfo").read_text()
    return int(re.search(r"^MemAvailable:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]


def show(figures: dict[str, dict[str, float]]) -> None:
    print(f"{'an idle instance, MiB':24}{'control group':>16}{'PSS':>10}{'MemAvailable':>16}")
    for kind, figure in figures.items():
        print(
            f"{kind:24}{figure['cgroup_mib']:>16.2f}{figure['pss_mib']:>10.2f}"
            f"{figure['available_mib']:>16.2f}"
        )


if __name__ == "__main__":
    main()
