"""Where the slowest warm shell calls were, of 5,000 by one caller: the phases of each, whether the
thread that stores records worked meanwhile, and how long the event loop waited for a processor.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import harness

HANDLER = "echo hello"
SLOWEST = 20
WIDTH = 60
PHASES = {"queued": "q", "ran": "=", "recorded": "w", "rest": "."}
TIMING = re.compile(rb"(\w+);dur=([\d.]+)")
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
# Other threads of the server have worked during a call if they used at least this much.
STORED_US = 20.0


@dataclass(frozen=True)
class Call:
    """Times in µs. `phases`: of the record, by name; the rest is HTTP and the event loop's own
    work. `waited`: how long the event loop was ready, but had no processor. `stored`: CPU time of
    the server's other threads, which store records.
    """

    number: int
    wall: float
    phases: dict[str, float]
    waited: float
    stored: float

    @property
    def bar(self) -> str:
        """The phases to scale, within `WIDTH` characters."""
        return "".join(
            sign * round(WIDTH * self.phases[name] / self.wall) for name, sign in PHASES.items()
        )


def main() -> None:
    options = harness.arguments("tail", calls=(5000, "calls"))
    with harness.server() as client:
        function = harness.deployed(client, name="tail", handler=HANDLER, min_instances=2)
        path = f"/api/functions/{function}/invoke"
        harness.wrk(client, path, connections=1, seconds=1)
        port, launcher = client.base_url.port, int(client.headers["x-launcher-pid"])
        assert port is not None
        calls = list(measured(port, path, options.calls, server_of(launcher)))
    show(calls)
    slowest = [vars(call) for call in slowest_of(calls)]
    harness.save("tail", {"calls": len(calls), "slowest": slowest})


def server_of(launcher: int) -> int:
    """The process of the server."""
    for pid in harness.tree(launcher):
        with contextlib.suppress(OSError):
            if b"quiltfn.server.main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
    raise SystemExit("bench: the server's process was not found")


def measured(port: int, path: str, count: int, server: int) -> Iterator[Call]:
    """Makes calls on one connection, one after another."""
    body = b"{}"
    request = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body
    threads = sorted(int(one) for one in os.listdir(f"/proc/{server}/task"))
    files = {one: os.open(f"/proc/{server}/task/{one}/schedstat", os.O_RDONLY) for one in threads}
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for number in range(count):
            before = clocks(files, server)
            began = time.perf_counter()
            connection.sendall(request)
            head = answered(connection)
            wall = (time.perf_counter() - began) * 1e6
            after = clocks(files, server)
            phases = {name.decode(): float(ms) * 1000 for name, ms in TIMING.findall(head)}
            phases["rest"] = wall - sum(phases.values())
            yield Call(number, wall, phases, after[0] - before[0], after[1] - before[1])


def answered(connection: socket.socket) -> bytes:
    """Reads a response to its end; returns its head."""
    data = b""
    while True:
        data += connection.recv(65536)
        head, found, body = data.partition(b"\r\n\r\n")
        length = LENGTH.search(head) if found else None
        if length is not None and len(body) >= int(length[1]):
            assert b'"success"' in body, "a call failed"
            return head


def clocks(files: dict[int, int], server: int) -> tuple[float, float]:
    """How long the event loop has waited for a processor, and the CPU time of other threads."""
    waited = stored = 0.0
    for thread, file in files.items():
        ran_ns, waited_ns, _ = os.pread(file, 100, 0).split()
        if thread == server:
            waited = int(waited_ns) / 1000
        else:
            stored += int(ran_ns) / 1000
    return waited, stored


def slowest_of(calls: list[Call]) -> list[Call]:
    return sorted(calls, key=lambda call: call.wall, reverse=True)[:SLOWEST]


def show(calls: list[Call]) -> None:
    slowest = slowest_of(calls)
    print(f"{'call':>6}{'µs':>7}{'waited':>8}{'storing':>9}  {legend()}")
    for call in slowest:
        print(
            f"{call.number:>6}{call.wall:>7.0f}{call.waited:>8.0f}{call.stored:>9.0f}  {call.bar}"
        )
    beside = [call.wall for call in calls if call.stored >= STORED_US]
    alone = [call.wall for call in calls if call.stored < STORED_US]
    found = sum(call.stored >= STORED_US for call in slowest)
    print(f"records were stored beside {found} of the slowest {len(slowest)}")
    for name, walls in (("all", [*beside, *alone]), ("beside a commit", beside), ("others", alone)):
        figures = " ".join(
            f"p{percent:g} {harness.percentile(walls, percent):.0f}" for percent in (50, 99, 99.9)
        )
        print(f"{name:16}{len(walls):>6} calls, µs: {figures}")


def legend() -> str:
    return "q queued, = at the guest, w records written, . HTTP and the event loop"


if __name__ == "__main__":
    main()
