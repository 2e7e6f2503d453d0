"""Output can be read while a handler writes it, whatever program writes, and slow readers delay
nothing.
"""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from e2e import sample_runtimes
from e2e.server import GVISOR, Function, Server, until, watched
from promises import promise
from spec.api_client import Api
from spec.live_events import events, output, streaming
from timeouts import scaled

pytestmark = pytest.mark.sandbox

MIB = 1024 * 1024
LONG = 256 * MIB
# These handlers wait after each part until they are woken.
PYTHON = {
    "generator": """
        import subprocess
        def handler(event):
            for number in range(3):
                yield {"number": number}
                subprocess.run(["sleep", "60"])
    """,
    "async generator": """
        import asyncio, subprocess
        async def handler(event):
            for number in range(3):
                yield {"number": number}
                await asyncio.to_thread(subprocess.run, ["sleep", "60"])
    """,
}
NODE = {
    "async iterable": """
        const { execFile } = require('child_process');
        exports.handler = async function* () {
            for (let number = 0; number < 3; number++) {
                yield { number };
                await new Promise((resolve) => execFile('sleep', ['60'], resolve));
            }
        };
    """,
    "stream": """
        const { Readable } = require('stream');
        const { execFile } = require('child_process');
        exports.handler = async () => Readable.from((async function* () {
            for (let number = 0; number < 3; number++) {
                yield `{"number": ${number}}\\n`;
                await new Promise((resolve) => execFile('sleep', ['60'], resolve));
            }
        })());
    """,
}
# These handlers cannot be woken from the host, so they print the time at which they continued.
TIMED = """
    import asyncio, time
    async def handler(event):
        for number in range(3):
            yield {"number": number, "at": time.time()}
            await asyncio.sleep(1)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with watched(GVISOR) as server:
        yield server.start()


def comes_in_parts(server: Server, function: Function) -> None:
    api = Api(server.url)
    with streaming(api, "POST", f"/api/functions/{function.id}/invoke") as (_, coming):
        arrived = [next(coming)]
        for number in range(3):
            arrived.append(next(coming))
            assert arrived[-1].bytes.replace(b" ", b"") == b'{"number":%d}\n' % number
            server.wake()  # the part has arrived before the handler writes the next one
        arrived += coming
    assert [one.name for one in arrived] == ["started", *["stdout"] * 3, "end"]
    assert arrived[-1].data["status"] == "success"
    assert arrived[-1].data["stdout"].encode() == output(arrived)


@promise("A40")
@pytest.mark.parametrize("cleanup", [True, False], ids=["cleaned", "kept"])
@pytest.mark.parametrize("kind", PYTHON)
def test_what_python_yields_comes_at_once(server: Server, kind: str, cleanup: bool) -> None:
    comes_in_parts(server, sample_runtimes.python(server, PYTHON[kind], cleanup_on_exit=cleanup))


@promise("A40")
@pytest.mark.parametrize("cleanup", [True, False], ids=["cleaned", "kept"])
@pytest.mark.parametrize("kind", NODE)
def test_what_node_yields_comes_as_it_is_yielded(server: Server, kind: str, cleanup: bool) -> None:
    comes_in_parts(server, sample_runtimes.node(server, NODE[kind], cleanup_on_exit=cleanup))


@promise("A40")
@pytest.mark.gvisor
def test_output_comes_as_it_is_written_under_gvisor(server: Server) -> None:
    runtime = sample_runtimes.add(server, "python", {"mod.py": TIMED}, isolation="gvisor")
    function = server.deploy("mod:handler", runtime=runtime)
    path = f"/api/functions/{function.id}/invoke"
    with streaming(Api(server.url), "POST", path) as (_, coming):
        arrived = [(time.time(), one.bytes) for one in coming if one.name == "stdout"]
    seen = [(at, json.loads(one)) for at, one in arrived]
    assert [one["number"] for _, one in seen] == [0, 1, 2]
    for (at, _), (_, later) in itertools.pairwise(seen):
        assert at < later["at"], "it came after the next one was written"


@promise("A37")
def test_a_value_that_is_too_large_is_taken_back(server: Server) -> None:
    function = sample_runtimes.python(
        server, "def handler(event):\n    return 'x' * (8 * 1024 * 1024)\n"
    )
    with streaming(Api(server.url), "POST", f"/api/functions/{function.id}/invoke") as (_, coming):
        *_, gap, end = coming
    assert (gap.name, gap.data) == ("gap", {"stream": "stdout", "offset": 0, "bytes": 8 * MIB})
    assert (end.data["status"], end.data["stdout"]) == ("failed", "")


def rss_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


class SlowReader:
    """Reads a byte a second until it is told to continue, and stores what it has read."""

    def __init__(self, url: str, path: str) -> None:
        to = urlsplit(url)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        self._socket.connect((to.hostname, to.port))
        head = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
        self._socket.sendall(head.encode())
        self._socket.settimeout(scaled(60))
        self.is_slow, self.whole = threading.Event(), b""
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        with self._socket:
            while not self.is_slow.wait(1):
                self.whole += self._socket.recv(1)
            while more := self._socket.recv(MIB):
                self.whole += more

    def read_on(self) -> bytes:
        self.is_slow.set()
        self.thread.join()
        return self.whole


@promise("A39")
def test_a_reader_of_a_byte_a_second_is_in_nobodys_way(server: Server) -> None:
    """A handler writes 256 MiB. It must take as long as without a reader, the server's memory must
    not grow, and the reader must learn how much it missed.
    """
    function = server.deploy('yes xxxxxxx | head -c "$QUILT_PAYLOAD"', timeout_seconds=120)
    alone = function.invoke(str(LONG // 4))
    assert alone["status"] == "success"
    before = rss_bytes(server.pid)
    most = before
    running = server.later(function.invoke, str(LONG))
    call = until(lambda: [one for one in function.records() if one != alone["invocation_id"]])[0]
    path = f"/api/functions/{function.id}/invocations/{call}/logs?follow=true"
    readers = [SlowReader(server.url, path) for _ in range(4)]
    while not running.done():
        most = max(most, rss_bytes(server.pid))
        time.sleep(0.05)
    record = running.result()
    time.sleep(3)
    most = max(most, rss_bytes(server.pid))
    assert record["status"] == "success"
    assert record["duration_ms"] < 2 * 4 * alone["duration_ms"] + scaled(2000)
    assert most - before < 24 * MIB, f"{(most - before) / MIB:.1f} MiB more"
    for reader in readers:
        whole = reader.read_on()
        head, _, body = whole.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        *pieces, gap, end = events(body.decode().split("\n")[:-1])
        assert output(pieces) == b"xxxxxxx\n" * (6 * MIB // 8)
        assert gap.name == "gap"
        assert gap.data == {"stream": "stdout", "offset": 6 * MIB, "bytes": LONG - 6 * MIB}
        assert end.data["invocation_id"] == call
