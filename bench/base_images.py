"""Base images: the time from the upload of 120 MB to a function's first response; and cold starts
of a shell against those of the host image, in turns, on a server with prewarmed sandboxes and on
one without.

The floor is `crun run` of the image's shell in the same root.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

import harness
from cold import IDLE_S, PACE_S, cold_call, deployed
from e2e import tiny_root

FILES, FILE_BYTES = 5000, 24_000
TAR = {"Content-Type": "application/x-tar"}


def main() -> None:
    options = harness.arguments("base-images")
    each = 8 * options.seconds
    with tempfile.TemporaryDirectory() as place:
        root = a_root(Path(place) / "root")
        archive = tiny_root.packed(root)
        idle = ("--idle-s", str(IDLE_S), "--park-s", "0")
        with harness.server(*idle) as stocked, harness.server(*idle, "--prewarmed", "0") as bare:
            servers = {"prewarmed": stocked, "not prewarmed": bare}
            ready = [until_ready(one, archive) for one in servers.values()]
            places = {
                f"{image}, {name}": (one, deployed(one, f"cold-{image}", "echo hello", runtime))
                for name, one in servers.items()
                for image, runtime in (("host", "shell"), ("base", "base"))
            }
            rounds = []
            for number in range(options.rounds):
                floor = harness.floor("crun_run", str(each), "echo hello", str(PACE_S), str(root))
                found = {"crun run": harness.percentile(floor, 50) / 1000}
                for name, (where, path) in places.items():
                    calls = [cold_call(where, path) for _ in range(each)]
                    found[name] = statistics.median(calls)
                rounds.append(found)
                print(f"round {number + 1} of {options.rounds}", end="\r", flush=True)
    show(rounds, ready)
    harness.save("base_images", {"calls_each_round": each, "rounds": rounds, "ready_s": ready})


def a_root(path: Path) -> Path:
    """A root with a shell, and as many files and bytes as one with an interpreter has."""
    tiny_root.make(path)
    for number in range(FILES):
        file = path / f"usr/lib/d{number % 100}/f{number}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(os.urandom(FILE_BYTES))
    return path


def until_ready(client: httpx.Client, archive: bytes) -> float:
    """Seconds from the beginning of the upload to a function's first response."""
    began = time.perf_counter()
    path = "/api/runtimes/images?contents=rootfs"
    image = client.post(path, content=archive, headers=TAR).raise_for_status().json()
    body: dict[str, Any] = {"name": "base", "kind": "shell", "base_image": image["digest"]}
    client.post("/api/runtimes", json=body).raise_for_status()
    answer = client.post(deployed(client, "first", "echo hello", "base"), json={})
    assert answer.raise_for_status().json()["stdout"] == "hello\n"
    return time.perf_counter() - began


def show(rounds: list[dict[str, float]], ready: list[float]) -> None:
    print(f"upload of {FILES * FILE_BYTES / 1e6:.0f} MB to first answer: {harness.spread(ready)} s")
    print(f"{'':24}{'p50, ms':>24}{'over crun run':>24}")
    for name in rounds[0]:
        ratios = [one[name] / one["crun run"] for one in rounds]
        values = harness.spread([one[name] for one in rounds])
        print(f"{name:24}{values:>24}{harness.spread(ratios):>24}")
    for name in ("prewarmed", "not prewarmed"):
        ratios = [one[f"base, {name}"] / one[f"host, {name}"] for one in rounds]
        print(f"base over host, {name}: {harness.spread(ratios)}")


if __name__ == "__main__":
    main()
