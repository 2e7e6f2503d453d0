"""Hostile load against a server with default settings: its memory, its disk and its descriptors.

`scripts/soak bounds` runs it for ten minutes. In each attack, 30 to 3,000 connections of two
tenants try to make the server use as many resources as possible. Meanwhile, the processes and
/health are checked twice a second. It prints a table and fails if a bound is exceeded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

from e2e.server import Function, Server, watched
from quiltfn.settings import Settings
from spec.api_client import make_key, raw, request, statuses
from timeouts import scaled

MIB = 1024 * 1024
RSS_MAX_MIB = 300
HEALTH_MAX_S = 2.0  # a generous bound, since the server shares two CPUs with the attackers
FILES_BESIDE = 32 + 64  # descriptors that must stay free, and those that the server itself needs
FILES_OF_A_SANDBOX = 2
SANDBOXES = 40  # more sandboxes than any attack starts
DISK_MAX_MIB = 12 * 1024  # the maximum that attacks can store with default settings
SAMPLE_S = 0.5
TENANTS = 2
JSON = {"Content-Type": "application/json"}
CLOSE = {"Connection": "close"}


@dataclass
class Seen:
    """The peak values of one attack."""

    attack: str
    rss_mib: float = 0.0
    launcher_mib: float = 0.0
    files: int = 0
    disk_mib: float = 0.0
    health_s: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)

    def row(self) -> str:
        text = ", ".join(f"{count} {what}" for what, count in self.answers.most_common(4))
        return (
            f"| {self.attack} | {self.rss_mib:.0f} | {self.launcher_mib:.0f} | {self.files} "
            f"| {self.disk_mib:.0f} | {1000 * self.health_s:.0f} | {text} |"
        )


class Target:
    """The attacked server, seen from one tenant, and functions of that tenant."""

    def __init__(self, server: Server, seen: Seen, key: str) -> None:
        at = urlsplit(server.url)
        self.host, self.port = at.hostname, at.port
        self.server, self.seen = server, seen
        self.headers = {"Authorization": f"Bearer {key}"}
        self.functions: dict[str, Function] = {}

    def function(self, handler: str, **fields: object) -> str:
        if handler not in self.functions:
            self.server.http.headers.update(self.headers)
            self.functions[handler] = self.server.deploy(handler, **fields)
        return self.functions[handler].path

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> bytes:
        return request(method, path, self.headers | dict(headers or {}), body)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port, limit=64 * 1024)

    async def ask(self, data: bytes) -> None:
        """Send a request on its own connection, and read the whole response."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            self.seen.answers[head.split(b" ", 2)[1].decode()] += 1
            length = next(
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            )
            while length > 0:
                chunk = await reader.read(64 * 1024)
                if not chunk:
                    self.seen.answers["cut off"] += 1
                    return
                length -= len(chunk)
        finally:
            writer.close()


Attack = Callable[[Target], Awaitable[None]]


async def silent(at: Target) -> None:
    """Connects and sends nothing."""
    reader, writer = await at.connect()
    try:
        await reader.read(1)
    finally:
        writer.close()


async def slow_heads(at: Target) -> None:
    """Sends 15 KiB of a request head that does not end."""
    reader, writer = await at.connect()
    try:
        writer.write(b"GET /health HTTP/1.1\r\nX-Long: " + b"x" * 15_000)
        await reader.read(1)
    finally:
        writer.close()


async def ahead(at: Target) -> None:
    """Sends 200 requests at once behind a running invocation, on one connection."""
    reader, writer = await at.connect()
    try:
        call = at.request("POST", at.function("sleep 2", max_instances=20) + "/invoke")
        writer.write(call + at.request("GET", "/health", {"X-Long": "x" * 1000}) * 200)
        while await reader.read(65_536):
            pass
    finally:
        writer.close()


async def long_bodies(at: Target) -> None:
    """Invocations with 6 MiB payloads, which wait for one instance."""
    path = at.function("sleep 1; cat >/dev/null", max_instances=1)
    body = json.dumps({"payload": "x" * (6 * MIB - 10)}).encode()
    await at.ask(
        at.request("POST", path + "/invoke", JSON | {"Content-Length": str(len(body))}, body)
    )


async def wide_bodies(at: Target) -> None:
    """Sends many values of four-byte characters to a route that accepts none of them."""
    body = ("[" + '"\U0001f600",' * 49_000 + "0]").encode()
    await at.ask(
        at.request("POST", "/api/functions", JSON | {"Content-Length": str(len(body))}, body)
    )


async def trickled_bodies(at: Target) -> None:
    """Sends bodies of 8 MiB slowly, to an invocation and to a missing path."""
    for path in (at.function("cat") + "/invoke", "/api/nothing"):
        reader, writer = await at.connect()
        try:
            writer.write(
                at.request("POST", path, JSON | {"Content-Length": str(8 * MIB)}, b"x" * MIB)
            )
            for _ in range(120):
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.5)
                if reader.at_eof():
                    break
        finally:
            writer.close()


async def unread(at: Target) -> None:
    """Requests long responses and reads none of them."""
    reader, writer = await at.connect()
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    try:
        for _ in range(20):
            writer.write(at.request("GET", "/openapi.json") * 20)
            await asyncio.wait_for(writer.drain(), scaled(20))
            await asyncio.sleep(0.5)
    finally:
        writer.transport.abort()


async def unread_pages(at: Target) -> None:
    """Requests pages of long records and reads none of them."""
    path = at.function("head -c 3000000 /dev/zero | tr '\\0' x", max_instances=4)
    reader, writer = await at.connect()
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    try:
        writer.write(at.request("GET", path + "/invocations?limit=1000"))
        await asyncio.sleep(15)
    finally:
        writer.transport.abort()


async def pages(at: Target) -> None:
    """Reads pages of long records."""
    path = at.function("head -c 3000000 /dev/zero | tr '\\0' x", max_instances=4)
    await at.ask(at.request("GET", path + "/invocations?limit=1000"))


async def long_output(at: Target) -> None:
    """Invocations with the maximum stored output. Each byte of it takes six bytes in JSON."""
    path = at.function("head -c 6291456 /dev/zero", max_instances=30)
    await at.ask(at.request("POST", path + "/invoke"))


async def kept_answers(at: Target) -> None:
    """Like `long_output`, with idempotency keys, so that the responses are stored."""
    path = at.function("head -c 6291456 /dev/zero | tr '\\0' x", max_instances=30)
    key = {"Idempotency-Key": os.urandom(8).hex()}
    await at.ask(at.request("POST", path + "/invoke", key))


async def long_definitions(at: Target) -> None:
    """Functions with definitions of the maximum length."""
    names = os.urandom(8).hex()
    body = json.dumps(
        {"name": names, "handler": "#" + "x" * 65_000, "environment": {"A": "x" * 32_000}}
    ).encode()
    await at.ask(
        at.request("POST", "/api/functions", JSON | {"Content-Length": str(len(body))}, body)
    )
    await at.ask(at.request("GET", "/api/functions"))


async def images(at: Target) -> None:
    """Uploads invalid archives, all at the same time."""
    head = {"Content-Type": "application/x-tar", "Content-Length": str(64 * MIB)}
    reader, writer = await at.connect()
    try:
        writer.write(at.request("POST", "/api/runtimes/images", head))
        for _ in range(64):
            writer.write(os.urandom(16) + b"\0" * (MIB - 16))
            await writer.drain()
        await reader.read(1)
    finally:
        writer.close()


# The attacks, and the number of connections that each has at the same time.
ATTACKS: dict[Attack, int] = {
    silent: 3000,
    slow_heads: 3000,
    ahead: 1000,
    long_bodies: 60,
    wide_bodies: 100,
    trickled_bodies: 500,
    unread: 400,
    unread_pages: 60,
    pages: 60,
    long_output: 30,
    kept_answers: 30,
    long_definitions: 100,
    images: 100,
}


async def play(targets: Sequence[Target], attack: Attack, count: int, seconds: float) -> None:
    """Repeat the attack until the time is over, with `count` attackers spread over the tenants."""
    end = time.monotonic() + seconds

    async def again(target: Target) -> None:
        while time.monotonic() < end:
            try:
                async with asyncio.timeout(end - time.monotonic()):
                    await attack(target)
            except TimeoutError:
                return
            except (OSError, EOFError):
                target.seen.answers["closed"] += 1
                await asyncio.sleep(0.05)

    async with asyncio.TaskGroup() as group:
        for _, target in zip(range(count), cycle(targets), strict=False):
            group.create_task(again(target))


def look(server: Server, sink: Connection) -> None:
    """Measures until `sink` receives a message. It runs in a process of its own, so that busy
    attackers do not delay it.
    """
    seen = Seen("")
    while not sink.poll(SAMPLE_S):
        seen.rss_mib = max(seen.rss_mib, rss_mib(server.pid))
        seen.launcher_mib = max(seen.launcher_mib, rss_mib(server.launcher))
        seen.files = max(seen.files, len(os.listdir(f"/proc/{server.pid}/fd")))
        seen.disk_mib = max(seen.disk_mib, disk_mib(server.data_dir))
        before = time.monotonic()
        answered = statuses(raw(server.url, request("GET", "/health", CLOSE), 10.0))
        if answered != [200]:
            seen.answers[f"health: {answered}"] += 1
        seen.health_s = max(seen.health_s, time.monotonic() - before)
    sink.send(seen)


@contextmanager
def watching(server: Server, seen: Seen) -> Iterator[None]:
    """Measure during the block, and set the peak values in `seen`."""
    ours, theirs = multiprocessing.Pipe()
    watcher = multiprocessing.get_context("fork").Process(target=look, args=(server, theirs))
    watcher.start()
    try:
        yield
    finally:
        ours.send(None)
        found = ours.recv()
        watcher.join()
        for name in ("rss_mib", "launcher_mib", "files", "disk_mib", "health_s"):
            setattr(seen, name, getattr(found, name))
        seen.answers.update(found.answers)


def rss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def disk_mib(directory: Path) -> float:
    total = 0
    for path in directory.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_blocks * 512
    return total / MIB


async def attacked(targets: Sequence[Target], attack: Attack, count: int, seconds: float) -> None:
    """Prepare and run one attack."""
    if attack in (pages, unread_pages):
        for target in targets:
            path = target.function("head -c 3000000 /dev/zero | tr '\\0' x", max_instances=4)
            for _ in range(10):
                await target.ask(target.request("POST", path + "/invoke"))
            target.seen.answers.clear()
    await play(targets, attack, count, seconds)


def broken(seen: Seen) -> list[str]:
    """The bounds that were exceeded."""
    files = Settings().connections_max + FILES_BESIDE + FILES_OF_A_SANDBOX * SANDBOXES
    most = {
        "rss_mib": RSS_MAX_MIB,
        "launcher_mib": RSS_MAX_MIB,
        "files": files,
        "disk_mib": DISK_MAX_MIB,
        "health_s": scaled(HEALTH_MAX_S),
    }
    return [
        f"{seen.attack}: {name} {getattr(seen, name):.1f}, at most {bound}"
        for name, bound in most.items()
        if getattr(seen, name) > bound
    ]


def run(names: list[str], seconds: float) -> list[str]:
    """Run all attacks in turn on one server; return the exceeded bounds."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    chosen = {one: count for one, count in ATTACKS.items() if not names or one.__name__ in names}
    wrong: list[str] = []
    with watched() as server:
        keys = [
            make_key(server, "--tenant", f"tenant-{number}", "--scope", "admin")["key"]
            for number in range(TENANTS)
        ]
        server.start()
        print("| attack | server MiB | launcher MiB | files | disk MiB | health ms | answers |")
        print("|---|---|---|---|---|---|---|")
        for attack, count in chosen.items():
            seen = Seen(attack.__name__)
            with watching(server, seen):
                targets = [Target(server, seen, key) for key in keys]
                asyncio.run(attacked(targets, attack, count, seconds / len(chosen)))
            print(seen.row(), flush=True)
            wrong += broken(seen)
        assert server.server_pid() == server.pid, "the server has ended"
    return wrong


def main() -> int:
    it = argparse.ArgumentParser(prog="scripts/soak bounds", description=__doc__)
    it.add_argument("--seconds", type=float, default=600.0, help="duration of all attacks together")
    it.add_argument("--attack", action="append", default=[], help="only this one; may be repeated")
    given = it.parse_args()
    wrong = run(given.attack, given.seconds)
    for sentence in wrong:
        print(f"broken: {sentence}", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
