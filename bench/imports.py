"""A cold call of a function that imports pandas, at any time after its deploy, against an
interpreter that imports it, in turns.

The packages are installed as `quiltfn runtimes add` does it. Before each call, the instance is idle
for too long, the server is restarted, or a call that runs out of memory ends the instance, so that
none is ready.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import httpx

import harness

IDLE_S = 0.3
EACH = 4
MODULE = """
import pandas

def handler(event, context):
    if event == "eat":
        bytearray(1 << 30)
    return int(pandas.DataFrame({"a": [1, 2, 3]}).a.sum())
"""
HOST_PYTHON = "/usr/bin/python3"


def main() -> None:
    options = harness.arguments("imports")
    with tempfile.TemporaryDirectory(prefix="quiltfn-bench-") as made:
        code, data = Path(made) / "code", Path(made) / "data"
        code.mkdir()
        (code / "main.py").write_text(MODULE)
        (code / "requirements.txt").write_text("pandas\n")
        with harness.server("--idle-s", str(IDLE_S), data_dir=data) as client:
            add_runtime(client, "pandas", code)
            fields = {"name": "table", "handler": "main:handler", "runtime": "pandas"}
            path = f"/api/functions/{harness.deployed(client, **fields)}"
        packages = installed(data)
        rounds = [one_round(data, path, packages) for _ in range(options.rounds)]
    show(rounds)
    harness.save("imports", {"calls_each_round": EACH, "rounds": rounds})


def add_runtime(client: httpx.Client, name: str, code: Path) -> float:
    """Add the runtime with the command line. Returns the seconds that this took."""
    to_add = ["runtimes", "add", name, "--kind", "python", "--dir", str(code)]
    began = time.perf_counter()
    environment = os.environ | {"QUILT_BASE_URL": str(client.base_url)}
    command = [str(harness.QUILTFN), *to_add]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def installed(data: Path) -> Path:
    """Where the server has the packages."""
    return next((data / "images").glob("*/**/pandas/__init__.py")).parents[1]


def one_round(data: Path, path: str, packages: Path) -> dict[str, list[float]]:
    """Milliseconds of each call, by what came before it."""
    with harness.server("--idle-s", str(IDLE_S), data_dir=data) as client:
        found = {"import": [imported(packages) for _ in range(EACH)]}
        found["after a restart"] = [cold_call(client, path, lambda: None)]
        for name, before in (
            ("after an idle time", lambda: None),
            ("after a call out of memory", lambda: eat(client, path)),
        ):
            found[name] = [cold_call(client, path, before) for _ in range(EACH)]
        return found


def imported(packages: Path) -> float:
    """The floor: the host's interpreter imports pandas from the same files."""
    command = [HOST_PYTHON, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(packages)!r}); "
               "import pandas"]  # fmt: skip
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return (time.perf_counter() - began) * 1000


def eat(client: httpx.Client, path: str) -> None:
    record = client.post(f"{path}/invoke", json={"payload": '"eat"'}).raise_for_status().json()
    assert record["status"] == "oom", record


def cold_call(client: httpx.Client, path: str, before: Callable[[], None]) -> float:
    """An invocation when the function is at rest: no instance is ready, and idle ones are
    parked.
    """
    before()
    query = {"function_id": path.rpartition("/")[2]}
    end = time.monotonic() + 60
    while True:
        (pool,) = client.get("/api/functions/pools", params=query).json()["pools"] or [{}]
        if pool.get("parked_count") == pool.get("total_count") == 1:
            break
        if time.monotonic() > end:
            sys.exit("bench: nothing is parked")
        time.sleep(0.02)
    time.sleep(0.2)
    began = time.perf_counter()
    record = client.post(f"{path}/invoke", json={}).raise_for_status().json()
    took = (time.perf_counter() - began) * 1000
    assert record["cold_start"], "a warm call among the cold ones"
    assert record["status"] == "success", record
    return took


def show(rounds: list[dict[str, list[float]]]) -> None:
    print(f"{'cold call of pandas':28}{'p50, ms':>26}{'worst, ms':>26}")
    for name in rounds[0]:
        middle = harness.spread([statistics.median(one[name]) for one in rounds])
        worst = harness.spread([max(one[name]) for one in rounds])
        print(f"{name:28}{middle:>26}{worst:>26}")


if __name__ == "__main__":
    main()
