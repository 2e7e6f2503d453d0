"""A function by its URL against an invoke of the same function with the same payload, call by call
in turns; and how long the first byte of a streamed answer takes.
"""
# promise: U11, U12

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Iterator

import httpx

import harness
from stream import tar_of

HANDLERS = {"shell": "echo hello", "Python": "mod:handler"}
SOURCE = b"def handler(event):\n    return 'hello'\n"
STREAM = """
import time
def handler(event):
    yield {"statusCode": 200, "headers": {"content-type": "text/plain"}}
    yield "first"
    time.sleep(0.03)
    yield "last"
"""
FIRST = "first byte of a stream, Python, p50, µs"
ROWS = ("shell, URL less invoke, p50, µs", "Python, URL less invoke, p50, µs", FIRST)


def main() -> None:
    options = harness.arguments("url")
    with harness.server() as client:
        functions = {
            "shell": harness.deployed(client, name="shell", handler="echo hello", min_instances=2),
            "Python": python(client, "python", SOURCE),
            "stream": python(client, "stream", STREAM.encode()),
        }
        for name, function in functions.items():
            body = {"auth": "none", "stream": name == "stream"}
            client.put(f"/api/functions/{function}/url", json=body).raise_for_status()
        rounds = []
        for number in range(options.rounds):
            rounds.append(one_round(client, functions, options.seconds))
            print(f"round {number + 1} of {options.rounds}", end="\r", flush=True)
    for row in ROWS:
        print(f"{row:42}{harness.spread([one[row] for one in rounds]):>32}")
    harness.save("url", {"rounds": rounds})


def python(client: httpx.Client, name: str, source: bytes) -> str:
    headers = {"content-type": "application/x-tar"}
    sent = client.post("/api/runtimes/images", content=tar_of("mod.py", source), headers=headers)
    body = {
        "name": f"bench-{name}",
        "kind": "python",
        "image": sent.raise_for_status().json()["digest"],
    }
    client.post("/api/runtimes", json=body).raise_for_status()
    fields = {"handler": "mod:handler", "runtime": body["name"], "min_instances": 2}
    return harness.deployed(client, name=name, **fields)


def one_round(client: httpx.Client, functions: dict[str, str], seconds: int) -> dict[str, float]:
    """Row → microseconds."""
    found: dict[str, float] = {}
    for row, name in zip(ROWS, ("shell", "Python"), strict=False):
        pairs = list(in_turns(client, functions[name], name.lower(), 200 * seconds))
        found[row] = statistics.median(url - invoke for url, invoke in pairs)
    with opened(client) as connection:
        took = [first_byte(connection) for _ in range(20 * seconds)]
    found[FIRST] = harness.percentile(took, 50)
    return found


def in_turns(
    client: httpx.Client, function: str, name: str, count: int
) -> Iterator[tuple[float, float]]:
    """Microseconds of a call by the URL and of an invoke, on one connection each, the order of the
    two changing from pair to pair.
    """
    url = request(f"POST /fn/default/{name}", "text/plain", b"{}")
    body = json.dumps({"payload": payload_of(client, function, url)}).encode()
    invoke = request(f"POST /api/functions/{function}/invoke", "application/json", body)
    with opened(client) as first, opened(client) as other:
        for _ in range(20):
            timed(first, url)
            timed(other, invoke)
        for number in range(count):
            if number % 2:
                took = timed(first, url)
                yield took, timed(other, invoke)
            else:
                took = timed(other, invoke)
                yield timed(first, url), took


def payload_of(client: httpx.Client, function: str, url: bytes) -> str:
    """The payload that the handler gets for such a request."""
    base = f"/api/functions/{function}"
    client.put(f"{base}/record-policy", json={"keep_input": "all"}).raise_for_status()
    with opened(client) as connection:
        timed(connection, url)
    newest = client.get(f"{base}/invocations?limit=1").json()["invocations"][0]["invocation_id"]
    client.put(f"{base}/record-policy", json={"keep_input": "async"}).raise_for_status()
    return str(client.get(f"{base}/invocations/{newest}/input").json()["payload"])


def request(line: str, kind: str, body: bytes) -> bytes:
    head = f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def timed(connection: socket.socket, data: bytes) -> float:
    """Microseconds until the answer is whole."""
    began = time.perf_counter_ns()
    connection.sendall(data)
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(65_536)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), received
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65_536)
    return (time.perf_counter_ns() - began) / 1000


def first_byte(connection: socket.socket) -> float:
    """Microseconds until the first bytes of a streamed body are there; reads the rest as well."""
    began = time.perf_counter_ns()
    connection.sendall(request("GET /fn/default/stream", "text/plain", b""))
    received = b""
    while b"first" not in received:
        received += connection.recv(65_536)
    took = (time.perf_counter_ns() - began) / 1000
    assert b"last" not in received, "it was not streamed"
    while not received.endswith(b"0\r\n\r\n"):
        received += connection.recv(65_536)
    return took


def opened(client: httpx.Client) -> socket.socket:
    connection = socket.create_connection((client.base_url.host, client.base_url.port or 80))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


if __name__ == "__main__":
    main()
