"""Shared by all benchmarks: a server as a user starts it, floors, rounds in turns."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
QUILTFN = HERE.parent / ".venv" / "bin" / "quiltfn"


def arguments(name: str, rounds: int = 5, **more: tuple[Any, str]) -> argparse.Namespace:
    """The options of every benchmark, and `more`: default and meaning by name."""
    it = argparse.ArgumentParser(prog=f"scripts/bench {name}")
    for option, (default, about) in more.items():
        shown = "" if default is None else f" (default {default})"
        kind = str if default is None else type(default)
        it.add_argument(f"--{option}", type=kind, default=default, help=about + shown)
    about = f"rounds in turns (default {rounds})"
    it.add_argument("--rounds", type=int, default=rounds, help=about)
    it.add_argument("--seconds", type=int, default=2, help="load in each round (default 2)")
    return it.parse_args()


@contextlib.contextmanager
def server(*options: str, data_dir: Path | None = None) -> Iterator[httpx.Client]:
    """A server on a free port, with its data in `data_dir` or a new directory."""
    if os.geteuid() != 0:
        sys.exit("bench: must be run as root, as quiltfn serve is")
    with tempfile.TemporaryDirectory() as directory:
        data = data_dir or Path(directory) / "data"
        command = [str(QUILTFN), "serve", "--port", "0", "--data-dir", str(data), *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                if not line.startswith("listening on "):
                    sys.exit("bench: the server did not start")
                with httpx.Client(base_url=line.split()[-1], timeout=60) as client:
                    client.headers["x-launcher-pid"] = str(process.pid)
                    yield client
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(60)


def deployed(client: httpx.Client, **fields: Any) -> str:
    """Creates and deploys a function; returns its id."""
    created = client.post("/api/functions", json=fields).raise_for_status().json()
    function = created["function_id"]
    answer = client.post(f"/api/functions/{function}/deploy").raise_for_status().json()
    assert answer["state"] == "active", answer["error_message"]
    return str(function)


def wrk(client: httpx.Client, path: str, *, connections: int, seconds: int) -> dict[str, float]:
    """Load by wrk, one thread; latencies in microseconds."""
    if shutil.which("wrk") is None:
        subprocess.run(["apt-get", "install", "-y", "-qq", "wrk"], check=True)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    command += ["-s", str(HERE / "invoke.lua"), f"{client.base_url}".rstrip("/") + path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    if figures["errors"]:
        sys.exit(f"bench: {figures['errors']} calls failed")
    return figures


def compiled(name: str) -> str:
    """A program of floors/, compiled if its source is newer."""
    source, binary = HERE / "floors" / f"{name}.c", RESULTS / name
    RESULTS.mkdir(exist_ok=True)
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["cc", "-O2", "-o", str(binary), str(source)], check=True)
    return str(binary)


def floor(name: str, *arguments: str) -> list[float]:
    """Runs a floor program (compiled if need be); its durations in microseconds."""
    command = [sys.executable, str(HERE / "floors" / f"{name}.py")]
    if (HERE / "floors" / f"{name}.c").exists():
        command = [compiled(name)]
    done = subprocess.run([*command, *arguments], check=True, capture_output=True, text=True)
    return [int(line) / 1000 for line in done.stdout.split()]


def ticks(pids: list[int]) -> float:
    """CPU seconds of these processes and of every child that they have waited for."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15])
    return total / os.sysconf("SC_CLK_TCK")


def tree(root: int) -> list[int]:
    """A process and its descendants."""
    found, parents = {root}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(stat[1])
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return sorted(found)
        found |= more


def percentile(values: list[float], percent: float) -> float:
    """By nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def spread(values: list[float]) -> str:
    """Median and range, as the table shows them."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def save(name: str, figures: dict[str, Any]) -> None:
    """Writes the figures with the machine they were measured on."""
    RESULTS.mkdir(exist_ok=True)
    crun = subprocess.run(["crun", "--version"], capture_output=True, text=True, check=True)
    machine = {
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "crun": crun.stdout.split()[2],
    }
    text = json.dumps({"benchmark": name, "machine": machine} | figures, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n")
