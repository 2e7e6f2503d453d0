"""What it takes to add a runtime with pandas and scikit-learn, and then to edit its code, against
`uv pip install` of the same into an empty directory, in turns.

Both have the packages in the cache of uv. A round begins with an empty server.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

import harness
from imports import add_runtime

WANTED = ("pandas", "scikit-learn")
EDITS = 5
IMPORTS = "import pandas\nimport sklearn.linear_model\n"
FAST = "def handler(event, context): return {number}\n"


def main() -> None:
    options = harness.arguments("packages", rounds=3)
    with tempfile.TemporaryDirectory(prefix="quiltfn-bench-") as made:
        place = Path(made)
        install(place / "first")  # so that the cache is filled
        rounds = [one_round(place / str(number)) for number in range(options.rounds)]
    show(rounds)
    harness.save("packages", {"wanted": WANTED, "edits": EDITS, "rounds": rounds})


def install(target: Path) -> float:
    """The floor; seconds."""
    uv = Path(sys.executable).with_name("uv")
    began = time.perf_counter()
    command = [str(uv), "pip", "install", "--quiet", "--no-config", "--link-mode", "copy"]
    subprocess.run([*command, "--target", str(target), *WANTED], check=True)
    return time.perf_counter() - began


def one_round(place: Path) -> dict[str, float]:
    code, images = place / "code", place / "data" / "images"
    code.mkdir(parents=True)
    (code / "requirements.txt").write_text("\n".join(WANTED))
    found = {"install": install(place / "empty")}
    with harness.server(data_dir=place / "data") as client:
        edit(code, FAST, 0)
        found["first add"] = add_runtime(client, "table", code)
        fields = {"name": "table", "handler": "main:handler", "runtime": "table"}
        path = f"/api/functions/{harness.deployed(client, **fields)}"
        for name, module in (("edit", FAST), ("edit, with the imports", IMPORTS + FAST)):
            before = kept(images)
            times = [live(client, path, code, module, 1 + n) for n in range(EDITS)]
            found[name] = statistics.median(times)
            found[f"{name}, KiB"] = (kept(images) - before) / EDITS / 1024
    return found


def edit(code: Path, module: str, number: int) -> None:
    (code / "main.py").write_text(module.format(number=number))


def live(client: httpx.Client, path: str, code: Path, module: str, number: int) -> float:
    """Seconds from an edit until invocations use it."""
    edit(code, module, number)
    began = time.perf_counter()
    add_runtime(client, "table", code)
    client.put(path, json={"runtime": "table"}).raise_for_status()
    took = time.perf_counter() - began
    answer = client.post(f"{path}/invoke", json={}).raise_for_status().json()
    assert answer["stdout"].strip() == str(number), answer
    return took


def kept(directory: Path) -> int:
    """The bytes that a directory takes on disk."""
    found = [directory, *directory.rglob("*")]
    return sum(os.lstat(path).st_blocks * 512 for path in found)


def show(rounds: list[dict[str, float]]) -> None:
    for name in rounds[0]:
        unit = "" if "KiB" in name else " s"
        print(f"{name:32}{harness.spread([one[name] for one in rounds]):>32}{unit}")


if __name__ == "__main__":
    main()
