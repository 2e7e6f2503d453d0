"""A client for tests with many simultaneous invocations, which records when requests were sent;
functions that print their version; and the state of a server's sandboxes on the host.

One event loop sends and reads everything, so `began` and `ended` of all responses are in one order:
an invocation that began after the end of a change was sent after the change's response had been
read.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2e.server import CRUN, Server
from timeouts import scaled

ECHO = 'printf %s "$MARK"'  # prints the version's mark, from its environment
IDLE_S = 5.0  # the server may end connections that were idle for longer
_names = itertools.count(1)


@dataclass
class TimedResponse:
    """One response. `began`: monotonic seconds before the request was sent; `ended`: after the
    response was read.
    """

    status: int
    body: Any
    headers: dict[str, str]
    began: float
    ended: float

    @property
    def code(self) -> str | None:
        """The error code of a refusal."""
        return None if self.status < 400 else self.body["error_code"]

    @property
    def mark(self) -> str:
        """The handler's output, after checking that the invocation succeeded."""
        assert self.status == 200, f"{self.status}: {self.body}"
        assert self.body["status"] == "success", self.body
        return str(self.body["stdout"])

    @property
    def outcome(self) -> str:
        """A short description of the outcome, for counting."""
        status = self.body.get("status") if self.status == 200 and self.body else None
        return self.code or status or str(self.status)


@dataclass
class _Wire:
    """A connection, which is free since the time `since`."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    since: float

    async def end(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()


@dataclass
class Client:
    """An HTTP client with as many connections as there are simultaneous invocations."""

    url: str
    timeout_s: float = 60.0
    _free: list[_Wire] = field(default_factory=list)

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> TimedResponse:
        text = b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(text)}"]
        if body is not None:
            lines.append("Content-Type: application/json")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        request = "\r\n".join([*lines, "", ""]).encode() + text
        wire = await self._wire()
        try:
            async with asyncio.timeout(scaled(self.timeout_s)):
                began = time.monotonic()
                wire.writer.write(request)
                answer = await _read(wire.reader, began)
        except BaseException:
            await wire.end()
            raise
        wire.since = answer.ended
        self._free.append(wire)
        return answer

    async def open(self, count: int) -> None:
        """Opens connections in advance, so that this many invocations can be sent at the same
        moment.
        """
        self._free += [await self._connect() for _ in range(count)]

    async def _wire(self) -> _Wire:
        while self._free:
            wire = self._free.pop()
            if time.monotonic() - wire.since < IDLE_S and not wire.reader.at_eof():
                return wire
            await wire.end()
        return await self._connect()

    async def _connect(self) -> _Wire:
        host, port = self.url.removeprefix("http://").split(":")
        return _Wire(*await asyncio.open_connection(host, int(port)), time.monotonic())

    async def close(self) -> None:
        for wire in self._free:
            await wire.end()
        self._free.clear()


async def _read(reader: asyncio.StreamReader, began: float) -> TimedResponse:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split()[1])
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    text = await reader.readexactly(int(headers.get("content-length", "0")))
    ended = time.monotonic()
    return TimedResponse(status, json.loads(text) if text else None, headers, began, ended)


@contextlib.asynccontextmanager
async def client_of(server: Server) -> AsyncIterator[Client]:
    client = Client(server.url)
    try:
        yield client
    finally:
        await client.close()


@dataclass
class Marked:
    """A function whose versions each print their own mark."""

    client: Client
    id: str
    mark: str

    @property
    def path(self) -> str:
        return f"/api/functions/{self.id}"

    async def invoke(self) -> TimedResponse:
        return await self.client.ask("POST", f"{self.path}/invoke", {})

    async def put(self, mark: str, **headers: str) -> TimedResponse:
        return await self.client.ask("PUT", self.path, {"environment": {"MARK": mark}}, **headers)

    async def rollback(self, number: int) -> TimedResponse:
        return await self.client.ask("POST", f"{self.path}/rollback", {"version": number})

    async def verb(self, name: str) -> TimedResponse:
        """Requests an action: deploy, pause or resume."""
        return await self.client.ask("POST", f"{self.path}/{name}")

    async def delete(self) -> TimedResponse:
        return await self.client.ask("DELETE", self.path)

    async def get(self) -> TimedResponse:
        return await self.client.ask("GET", self.path)

    async def pool(self) -> dict[str, Any]:
        answer = await self.client.ask("GET", f"{self.path}/pool")
        assert answer.status == 200, answer
        return dict(answer.body)

    async def versions(self) -> list[dict[str, Any]]:
        """The versions, newest first."""
        return list((await self.client.ask("GET", f"{self.path}/versions")).body["versions"])


async def create(client: Client, mark: str, **fields: Any) -> Marked:
    body = {"name": f"race{next(_names)}", "handler": ECHO, **fields}
    answer = await client.ask("POST", "/api/functions", body | {"environment": {"MARK": mark}})
    assert answer.status == 201, answer
    return Marked(client, answer.body["function_id"], mark)


async def deploy(client: Client, mark: str, **fields: Any) -> Marked:
    function = await create(client, mark, **fields)
    answer = await function.verb("deploy")
    assert answer.status == 200, answer
    assert answer.body["state"] == "active", answer
    return function


async def until(
    holds: Callable[[], Awaitable[Any]], timeout_s: float = 5.0, every_s: float = 0.01
) -> Any:
    """Polls until the value is true; returns it."""
    end = time.monotonic() + scaled(timeout_s)
    while True:
        value = await holds()
        if value:
            return value
        assert time.monotonic() < end, f"not within {scaled(timeout_s)} s: {holds}"
        await asyncio.sleep(every_s)


async def is_free(function: Marked) -> bool:
    """Whether no instance is busy."""
    return bool((await function.pool())["busy_count"] == 0)


# State of the host -----------------------------------------------------------------------------


def crun_root(server: Server) -> Path:
    return server.sandbox_files / "crun"


def sandboxes(server: Server) -> int:
    """The number of directories in the OCI runtime's state: one for each sandbox in its list."""
    return sum(not one.name.startswith(".") for one in crun_root(server).iterdir())


def listed(server: Server) -> list[str]:
    """The output of `crun list` itself."""
    command = [CRUN, "--root", str(crun_root(server)), "list", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()


class Sampler:
    """Takes samples in its own thread while the `with` block lasts."""

    def __init__(self, server: Server, look: Callable[[Sampler], None], every_s: float) -> None:
        self.server, self.count = server, 0
        self._look, self._every_s = look, every_s
        self._done = threading.Event()
        self._failed: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        host, port = server.url.removeprefix("http://").split(":")
        self._http = http.client.HTTPConnection(host, int(port), timeout=scaled(30))

    def get(self, path: str) -> Any:
        self._http.request("GET", path)
        with self._http.getresponse() as answer:
            assert answer.status == 200, f"{path}: {answer.status}"
            return json.loads(answer.read())

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._http.close()
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            while not self._done.wait(self._every_s):
                self._look(self)
                self.count += 1
        except Exception as error:
            self._failed = error
