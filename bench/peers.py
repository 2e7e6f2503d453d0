"""The cost of a hop from one node of a fleet to another, on loopback: two processes, mutual TLS.

.venv/bin/python bench/peers.py

The requested node responds at once, so this measures the round trip: signing, TLS, HTTP on both
sides, and two event loops. The floor is the round trip of a byte over a plain TCP connection
between the same two processes' event loops.
"""

import argparse
import asyncio
import multiprocessing
import resource
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import uvloop

from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response
from quiltfn.fleet.files import NodeFile, new_fleet, new_node
from quiltfn.fleet.peer_server import open_peer_server
from quiltfn.fleet.peers import HttpPeers
from quiltfn.model.access import Caller, Scope
from quiltfn.model.forwarded import ForwardedCall
from quiltfn.ports.peers import Asker

CALL = ForwardedCall(
    function_id="0" * 32,
    invocation_id="1" * 32,
    client="10.0.0.1",
    caller=Caller(tenant_id="default", scope=Scope.INVOKE, credential="2" * 32),
    version=1,
)
HEADERS = [("content-type", "application/json"), ("x-request-id", "3" * 32)]
TARGET, BODY, ANSWER = b"/api/functions/" + b"0" * 32 + b"/invoke", b"{}" * 32, b"x" * 600


class Directory:
    """Two nodes."""

    def __init__(self, address: str) -> None:
        self._address = address

    def address(self, _: str) -> str:
        return self._address

    def refusal(self, _: str) -> None:
        return None


async def respond(request: Request, _: Asker) -> Response:
    async for _piece in request.chunks():
        pass
    return Response(headers=[("content-type", "application/json")], body=ANSWER)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1):
        writer.write(data)
    writer.close()


async def serve(own: NodeFile, pipe: Connection) -> None:
    floor = await asyncio.start_server(echo, "127.0.0.1", 0)
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    listener.setblocking(False)
    ports = listener.getsockname()[1], floor.sockets[0].getsockname()[1]
    async with open_peer_server(own, Directory(""), respond, listener, keys=None):
        pipe.send(ports)
        await asyncio.to_thread(pipe.recv)


def child(own: NodeFile, pipe: Connection) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(own, pipe))


@contextmanager
def another_node(own: NodeFile) -> Iterator[tuple[int, int]]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=child, args=(own, theirs))
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send("end")
        process.join()


async def ask(peers: HttpPeers) -> None:
    async with peers.request("two", "POST", TARGET, HEADERS, BODY, CALL) as answer:
        assert answer.status == 200
        assert len(await answer.read(10_000)) == len(ANSWER)


async def one_after_the_other(peers: HttpPeers, count: int) -> list[float]:
    took = []
    for _ in range(count):
        began = time.perf_counter()
        await ask(peers)
        took.append((time.perf_counter() - began) * 1000)
    return sorted(took)


async def at_once(peers: HttpPeers, count: int, callers: int) -> tuple[float, float]:
    """Calls per second, and calls per second of CPU time of this process."""

    async def caller() -> None:
        for _ in range(count // callers):
            await ask(peers)

    began, used = time.perf_counter(), processor_s()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return count / (time.perf_counter() - began), count / (processor_s() - used)


def processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def floor_ms(port: int, count: int) -> list[float]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took = []
    for _ in range(count):
        began = time.perf_counter()
        writer.write(b"x")
        await reader.readexactly(1)
        took.append((time.perf_counter() - began) * 1000)
    writer.close()
    return sorted(took)


def at(sorted_values: list[float], share: float) -> float:
    return sorted_values[int(len(sorted_values) * share)]


async def measure(count: int) -> None:
    fleet = new_fleet("postgresql://quiltfn@db/quiltfn", "", time.time())
    first, second = (
        new_node(fleet, name, ("127.0.0.1:1", "127.0.0.1:1"), time.time(), 9)
        for name in ("one", "two")
    )
    with another_node(second) as (port, floor_port):
        peers = HttpPeers(first, Directory(f"127.0.0.1:{port}"), keys=None)
        await one_after_the_other(peers, count // 10)
        for _ in range(3):
            took, floor = await one_after_the_other(peers, count), await floor_ms(floor_port, count)
            rate, of_core = await at_once(peers, 2 * count, 32)
            print(
                f"a hop: p50 {statistics.median(took):.3f} ms, p99 {at(took, 0.99):.3f} ms; "
                f"floor: p50 {statistics.median(floor):.3f} ms; 32 at once: {rate:,.0f} calls/s, "
                f"{of_core:,.0f} for each core of the node that asks"
            )
        await peers.aclose()


if __name__ == "__main__":
    it = argparse.ArgumentParser(description=__doc__)
    it.add_argument("--count", type=int, default=5000, help="calls of each round")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(it.parse_args().count))
