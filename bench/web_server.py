"""An unmodified web server as a function, by its URL, against the same server without quiltfn, in
turns: FastAPI under uvicorn and Express, 32 requests at a time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

import harness

CALLERS = 32
FASTAPI = """
from fastapi import FastAPI

app = FastAPI()


@app.post("/")
async def hello():
    return {"hello": "world"}
"""
EXPRESS = """
const express = require('express');
const app = express();
app.post('/', (request, response) => { response.json({ hello: 'world' }); });
app.listen(Number(process.env.PORT), '0.0.0.0');
"""
UVICORN = "python3 -m uvicorn main:app --host 0.0.0.0 --port $PORT --no-access-log"
COMMANDS = {"FastAPI": f"exec {UVICORN}", "Express": "exec node main.js"}


def main() -> None:
    options = harness.arguments("web_server")
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        trees = {"FastAPI": python_tree(Path(home) / "python")}
        if shutil.which("npm"):
            trees["Express"] = node_tree(Path(home) / "node")
        client = stack.enter_context(harness.server())
        places: dict[str, tuple[httpx.Client, httpx.Client, str]] = {}
        for name, tree in trees.items():
            alone = stack.enter_context(peer(tree, COMMANDS[name]))
            places[name] = (alone, client, function(client, name.lower(), tree, COMMANDS[name]))
            for at, path in ((alone, "/"), (client, places[name][2])):
                harness.wrk(at, path, connections=CALLERS, seconds=1)
        rounds = []
        for number in range(options.rounds):
            rounds.append({name: one_round(*at, options.seconds) for name, at in places.items()})
            print(f"round {number + 1} of {options.rounds}", end="\r", flush=True)
    for name in trees:
        for field in ("alone", "with_us", "ratio"):
            spread = harness.spread([one[name][field] for one in rounds])
            print(f"{name:10}{field:10}{spread:>36}")
    harness.save("web_server", {"callers": CALLERS, "rounds": rounds})


def one_round(
    alone: httpx.Client, client: httpx.Client, path: str, seconds: int
) -> dict[str, float]:
    """Requests a second, and latencies in microseconds."""
    found: dict[str, float] = {}
    for name, at, target in (("alone", alone, "/"), ("with_us", client, path)):
        done = harness.wrk(at, target, connections=CALLERS, seconds=seconds)
        found |= {name: done["requests"] / done["seconds"], f"{name}_p99_us": done["p99_us"]}
    return found | {"ratio": found["with_us"] / found["alone"]}


def python_tree(tree: Path) -> Path:
    tree.mkdir()
    (tree / "main.py").write_text(FASTAPI)
    pip = ["-m", "pip", "install", "--quiet", "--target", str(tree / "site-packages")]
    subprocess.run(["/usr/bin/python3", *pip, "fastapi", "uvicorn"], check=True)
    return tree


def node_tree(tree: Path) -> Path:
    tree.mkdir()
    (tree / "main.js").write_text(EXPRESS)
    (tree / "package.json").write_text(json.dumps({"name": "x", "version": "1.0.0"}))
    npm = ["npm", "install", "--silent", "--ignore-scripts", "express@4"]
    subprocess.run(npm, cwd=tree, check=True, stdout=subprocess.DEVNULL)
    return tree


@contextlib.contextmanager
def peer(tree: Path, command: str) -> Iterator[httpx.Client]:
    """The same server as an ordinary process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"/usr/bin:{os.environ['PATH']}"
    environment = os.environ | {
        "PORT": str(port),
        "PYTHONPATH": str(tree / "site-packages"),
        "PATH": path,
    }
    with subprocess.Popen(
        ["sh", "-c", command],
        cwd=tree,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                for _ in range(300):
                    with contextlib.suppress(httpx.TransportError):
                        client.post("/").raise_for_status()
                        break
                    time.sleep(0.1)
                else:
                    sys.exit(f"bench: {command} did not start")
                yield client
        finally:
            process.terminate()
            process.wait(30)


def function(client: httpx.Client, name: str, tree: Path, command: str) -> str:
    """Deploys the server as a function with one instance. Returns the path of its URL."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(tree, arcname=".")
    headers = {"content-type": "application/x-tar"}
    done = client.post("/api/runtimes/images", content=archive.getvalue(), headers=headers)
    runtime = {"name": name, "kind": "server", "image": done.raise_for_status().json()["digest"]}
    runtime["environment"] = {"AWS_LAMBDA_MAX_CONCURRENCY": str(CALLERS)}
    client.post("/api/runtimes", json=runtime).raise_for_status()
    made = harness.deployed(
        client,
        name=name,
        handler=command,
        runtime=name,
        cleanup_on_exit=False,
        max_instances=1,
        min_instances=1,
    )
    url = client.put(f"/api/functions/{made}/url", json={"auth": "none"}).raise_for_status()
    return str(url.json()["path"])


if __name__ == "__main__":
    main()
