"""Live output: how long a line takes from the write of the handler to the socket of a reader, for
the caller of a streamed call and for many readers of one call.
"""

from __future__ import annotations

import io
import json
import selectors
import socket
import tarfile
import time
from collections.abc import Iterator

import httpx

import harness

FOLLOWERS = 200
PAUSE_S = 0.01
# Prints the wall clock, in nanoseconds, as seen in the sandbox: it is the machine's.
HANDLERS = {
    "shell": f"i=0; while [ $i -lt LINES ]; do date +%s%N; sleep {PAUSE_S}; i=$((i+1)); done",
    "python": "import sys, time\n"
    "def handler(event):\n"
    "    for _ in range(LINES):\n"
    "        yield f'{time.time_ns()}\\n'\n"
    f"        time.sleep({PAUSE_S})\n",
}
ROWS = (
    *("shell, p50, µs", "shell, p99, µs", "Python yield, p50, µs", "Python yield, p99, µs"),
    *(f"{FOLLOWERS} readers, p50, µs", f"{FOLLOWERS} readers, p99, µs"),
)


def main() -> None:
    options = harness.arguments("stream")
    lines = int(options.seconds / PAUSE_S / 2)
    with harness.server("--tenant-streams", "1000") as client:
        shell = harness.deployed(
            client, name="shell", handler=HANDLERS["shell"].replace("LINES", str(lines))
        )
        python = python_function(client, lines)
        rounds = []
        for number in range(options.rounds):
            rounds.append(one_round(client, shell, python))
            print(f"round {number + 1} of {options.rounds}", end="\r", flush=True)
    for row in ROWS:
        print(f"{row:28}{harness.spread([one[row] for one in rounds]):>32}")
    harness.save("stream", {"rounds": rounds})


def python_function(client: httpx.Client, lines: int) -> str:
    source = HANDLERS["python"].replace("LINES", str(lines)).encode()
    image = client.post(
        "/api/runtimes/images",
        content=tar_of("mod.py", source),
        headers={"content-type": "application/x-tar"},
    ).json()["digest"]
    body = {"name": "bench-stream", "kind": "python", "image": image}
    client.post("/api/runtimes", json=body).raise_for_status()
    return harness.deployed(client, name="python", handler="mod:handler", runtime="bench-stream")


def tar_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def one_round(client: httpx.Client, shell: str, python: str) -> dict[str, float]:
    """Row → microseconds."""
    found: dict[str, float] = {}
    for name, function in (("shell", shell), ("Python yield", python)):
        took = list(caller(client, function))
        found[f"{name}, p50, µs"] = harness.percentile(took, 50)
        found[f"{name}, p99, µs"] = harness.percentile(took, 99)
    took = followers(client, shell)
    found[ROWS[4]] = harness.percentile(took, 50)
    found[ROWS[5]] = harness.percentile(took, 99)
    return found


def delays(data: bytes) -> Iterator[float]:
    """Microseconds since each of the times in the events of this chunk."""
    now = time.time_ns()
    for line in data.split(b"\n"):
        if line.startswith(b'data: {"offset"'):
            for written in json.loads(line[6:])["text"].split():
                yield (now - int(written)) / 1000


def caller(client: httpx.Client, function: str) -> Iterator[float]:
    """The delays that the caller of one call sees."""
    with opened(client, "POST", f"/api/functions/{function}/invoke") as connection:
        while data := connection.recv(65_536):
            yield from delays(data)


def followers(client: httpx.Client, function: str) -> list[float]:
    """The delays that all readers of the logs of a function see while one call runs."""
    path = f"/api/functions/{function}/logs?follow=true"
    chosen = selectors.DefaultSelector()
    readers = [opened(client, "GET", path) for _ in range(FOLLOWERS)]
    for reader in readers:
        assert reader.recv(65_536).startswith(b"HTTP/1.1 200")
        chosen.register(reader, selectors.EVENT_READ)
    call = opened(client, "POST", f"/api/functions/{function}/invoke", "application/json")
    chosen.register(call, selectors.EVENT_READ)
    took: list[float] = []
    is_over = False
    while not is_over:
        for key, _ in chosen.select():
            data = key.fileobj.recv(65_536)  # type: ignore[union-attr]
            is_over = is_over or key.fileobj is call
            took += delays(data)
    for stream in [*readers, call]:
        stream.close()
    return took


def opened(
    client: httpx.Client, method: str, path: str, accept: str = "text/event-stream"
) -> socket.socket:
    connection = socket.create_connection((client.base_url.host, client.base_url.port))
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n"
    connection.sendall(f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
    return connection


if __name__ == "__main__":
    main()
