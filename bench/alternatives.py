"""quiltfn beside other ways to run a small handler on the same machine, in turns.

Shells: `echo hello`. Resident: a handler that returns a small object from a process that stays. Of
the others, only bwrap and workerd isolate the handler, and none keeps a record.
"""
# promise: S3

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import httpx

import harness
import python
import web_server

SPAWNER = """
import asyncio
import os
import sys

import uvicorn

async def app(scope, receive, send):
    assert scope["type"] == "http"
    process = await asyncio.create_subprocess_exec(*sys.argv[1:], stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": output})

uvicorn.run(app, port=int(os.environ["PORT"]), access_log=False, lifespan="off", log_level="error")
"""
SHELL = "sh -c 'echo hello'"
# What a shell needs of the host, read-only, in namespaces of its own.
BWRAP = (
    "bwrap --unshare-all --die-with-parent --new-session --proc /proc --dev /dev --tmpfs /tmp "
    "--ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64"
)
WORKER = "export default { async fetch() { return Response.json({ hello: 'world' }) } }\n"
CONFIG = """using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = (modules = [(name = "main.js", esModule = embed "main.js")],
    compatibilityDate = "2025-01-01"))],
  sockets = [(name = "http", http = (), service = "main")],
);
"""
WORKERD = "exec node_modules/.bin/workerd serve config.capnp --socket-addr http=127.0.0.1:$PORT"


def main() -> None:
    options = harness.arguments("alternatives", rounds=3)
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as directory:
        places = opened(stack, Path(directory))
        rounds = []
        for number in range(options.rounds):
            rounds.append({name: one_round(*at, options.seconds) for name, at in places.items()})
            print(f"round {number + 1} of {options.rounds}", end="\r", flush=True)
    print(f"{'':44}{'p50, ms':>9}{'p99, ms':>9}{'8 callers':>12}")
    for name in places:
        p50, p99, rate = (
            statistics.median(one[name][field] for one in rounds)
            for field in ("p50_ms", "p99_ms", "rate")
        )
        print(f"{name:44}{p50:>9.2f}{p99:>9.2f}{rate:>10.0f}/s")
    harness.save("alternatives", {"rounds": rounds})


def opened(stack: contextlib.ExitStack, directory: Path) -> dict[str, tuple[httpx.Client, str]]:
    """Each place by its name: its server, and the path of the handler."""
    ours = stack.enter_context(harness.server())
    limits = {"min_instances": 2, "max_instances": 2}
    runtime = python.add_runtime(ours)
    functions = {
        "shell, quiltfn": harness.deployed(ours, name="shell", handler="echo hello", **limits),
        "resident, quiltfn": python.deployed(ours, runtime, "keep"),
        "a fork of a resident process, quiltfn": python.deployed(ours, runtime, "fork"),
    }
    spawner = web_server.python_tree(directory / "spawner")
    (spawner / "main.py").write_text(SPAWNER)
    others = {
        "shell, uvicorn that starts it": (spawner, f"exec python3 main.py {SHELL}"),
        "resident, workerd": (worker_tree(directory / "worker"), WORKERD),
    }
    if shutil.which("bwrap"):
        others["shell, uvicorn that starts it in bwrap"] = (
            spawner,
            f"exec python3 main.py {BWRAP} {SHELL}",
        )
    else:
        print("bwrap is skipped: there is no bubblewrap")
    places = {name: (ours, f"/api/functions/{id_}/invoke") for name, id_ in functions.items()}
    places["resident, functions-framework"] = (stack.enter_context(python.peer()), "/")
    for name, (tree, command) in others.items():
        places[name] = (stack.enter_context(web_server.peer(tree, command)), "/")
    for client, path in places.values():
        harness.wrk(client, path, connections=8, seconds=1)
    return dict(sorted(places.items()))


def worker_tree(tree: Path) -> Path:
    tree.mkdir()
    (tree / "main.js").write_text(WORKER)
    (tree / "config.capnp").write_text(CONFIG)
    (tree / "package.json").write_text('{"name": "x", "version": "1.0.0"}')
    subprocess.run(["npm", "install", "--silent", "workerd@1"], cwd=tree, check=True)
    return tree


def one_round(client: httpx.Client, path: str, seconds: int) -> dict[str, float]:
    alone, eight = (harness.wrk(client, path, connections=n, seconds=seconds) for n in (1, 8))
    rate = eight["requests"] / eight["seconds"]
    return {"p50_ms": alone["p50_us"] / 1000, "p99_ms": alone["p99_us"] / 1000, "rate": rate}


if __name__ == "__main__":
    main()
