"""Resident Python against functions-framework, which has neither isolation nor records, in turns.

The same function in three places: behind functions-framework, in a sandbox that keeps its
interpreter's state, and in one that gives every call a fork of its own.
"""
# promise: S3

from __future__ import annotations

import contextlib
import io
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

import harness

PEER = "functions-framework==3.*"
ANSWER = "return {'hello': 'world'}"
FIELDS = ("p50_us", "p99_us", "calls_per_second")


def main() -> None:
    options = harness.arguments("python")
    with peer() as other, harness.server() as client:
        runtime = add_runtime(client)
        paths = {
            mode: f"/api/functions/{deployed(client, runtime, mode)}/invoke"
            for mode in ("keep", "fork")
        }
        places = {"peer": (other, "/")} | {mode: (client, path) for mode, path in paths.items()}
        for place, path in places.values():
            harness.wrk(place, path, connections=8, seconds=1)
        rounds = []
        for number in range(options.rounds):
            took: dict[str, dict[str, float]] = {}
            for name, (place, path) in places.items():
                for connections in (1, 8):
                    done = harness.wrk(
                        place, path, connections=connections, seconds=options.seconds
                    )
                    took[f"{name} c={connections}"] = {
                        "p50_us": done["p50_us"],
                        "p99_us": done["p99_us"],
                        "calls_per_second": done["requests"] / done["seconds"],
                    }
            rounds.append(took)
            print(f"round {number + 1} of {options.rounds}", end="\r", flush=True)
    show(rounds)
    harness.save("python", {"peer": PEER, "rounds": rounds})


def show(rounds: list[dict[str, dict[str, float]]]) -> None:
    print(
        f"{'':22}{'p50, µs':>10}{'p99, µs':>10}{'calls/s':>10}{'p50 ratio':>20}{'rate ratio':>20}"
    )
    for name in rounds[0]:
        peer_name = f"peer {name.split()[1]}"
        values = [statistics.median(one[name][field] for one in rounds) for field in FIELDS]
        ratios = [
            harness.spread([one[name][field] / one[peer_name][field] for one in rounds])
            for field in ("p50_us", "calls_per_second")
        ]
        print(
            f"{name:22}{values[0]:>10.0f}{values[1]:>10.0f}{values[2]:>10.0f}"
            f"{ratios[0]:>20}{ratios[1]:>20}"
        )


def add_runtime(client: httpx.Client, name: str = "bench", top: str = "") -> str:
    """A runtime of one module, which begins with `top`; its name."""
    source = f"{top}def handler(event, context):\n    {ANSWER}\n".encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        info = tarfile.TarInfo("main.py")
        info.size = len(source)
        tar.addfile(info, io.BytesIO(source))
    headers = {"content-type": "application/x-tar"}
    done = client.post("/api/runtimes/images", content=archive.getvalue(), headers=headers)
    image = done.raise_for_status().json()["digest"]
    runtime = {"name": name, "kind": "python", "image": image}
    client.post("/api/runtimes", json=runtime).raise_for_status()
    return name


def deployed(client: httpx.Client, runtime: str, mode: str) -> str:
    """A function with two instances, each with one core at most."""
    return harness.deployed(
        client,
        name=mode,
        handler="main:handler",
        runtime=runtime,
        cleanup_on_exit=mode == "fork",
        min_instances=2,
        max_instances=2,
    )


@contextlib.contextmanager
def peer() -> Iterator[httpx.Client]:
    """functions-framework as it is meant to be run, in an environment of its own."""
    home = harness.RESULTS / "functions-framework"
    program = home / "bin" / "functions-framework"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(home / "bin" / "pip"), "install", "--quiet", PEER]
        subprocess.run(pip, check=True)
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "main.py").write_text(f"def handler(request):\n    {ANSWER}\n")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [str(program), "--target", "handler", "--host", "127.0.0.1", "--port", str(port)]
        with subprocess.Popen(
            command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                    end = time.monotonic() + 30
                    while time.monotonic() < end:
                        with contextlib.suppress(httpx.TransportError):
                            client.post("/", json={}).raise_for_status()
                            break
                        time.sleep(0.1)
                    yield client
            finally:
                process.terminate()
                process.wait(30)


if __name__ == "__main__":
    main()
