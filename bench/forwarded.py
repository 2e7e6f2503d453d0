"""The additional cost of an invocation that arrives at another node than the one that runs it.

Three nodes and a PostgreSQL that syncs, on the same two cores. One node is asked and has no
instance. Another one has the instance of a function, and a third, with `--durability strict`, that
of another function with the same handler. Every call goes by HTTP to the node that is asked and to
the one with the instance, in turns. The floor is a byte there and back over TCP between two
processes.
"""
# promise: N16

from __future__ import annotations

import contextlib
import multiprocessing
import random
import socket
import statistics
import time
from collections.abc import Iterator

import httpx

import fleet_nodes
import harness
from python import add_runtime
from url import opened, request, timed

ASKED, RUNS, STRICT = "asked", "runs", "strict"
ROWS = HOP, STRICT_HOP, STORED, FLOOR = (
    "forwarded, over the same call there, p50, µs",
    "the same under strict durability, p50, µs",
    "forwarded and stored, over a local call, p50, µs",
    "floor: a byte by TCP there and back, p50, µs",
)
BYTES = "bytes between the nodes for a call and its answer"
RATE, OF_CORE = "forwarded calls a second, 32 callers", "of a core of the node that is asked"
CALLERS, INSTANCES = 32, 4
KNOWN_AFTER_S = 5.0  # two heartbeats: all nodes know where the instances are


def main() -> None:
    options = harness.arguments("forwarded")
    kinds = {ASKED: (), RUNS: (), STRICT: ("--durability", "strict")}
    with (
        fleet_nodes.database() as cluster,
        fleet_nodes.nodes(cluster, kinds) as nodes,
        echo() as port,
    ):
        functions = {
            name: harness.deployed(nodes[name], name=name, handler="echo hello", max_instances=1)
            for name in (RUNS, STRICT)
        }
        resident = resident_python(nodes[RUNS])
        time.sleep(KNOWN_AFTER_S)
        rounds = []
        for number in range(options.rounds):
            took = one_by_one(nodes, functions, 200 * options.seconds)
            took[FLOOR] = statistics.median(floor_us(port, 500 * options.seconds))
            took |= at_once(nodes, resident, options.seconds)
            rounds.append(took)
            print(f"round {number + 1} of {options.rounds}", end="\r", flush=True)
    for row in rounds[0]:
        print(f"{row:52}{harness.spread([one[row] for one in rounds]):>32}")
    harness.save("forwarded", {"rounds": rounds})


def resident_python(client: httpx.Client) -> str:
    """A function that takes little time on the node that runs it."""
    fields = {"handler": "main:handler", "runtime": add_runtime(client), "cleanup_on_exit": False}
    many = {"min_instances": INSTANCES, "max_instances": INSTANCES}
    return harness.deployed(client, name="resident", **fields, **many)


def one_by_one(
    nodes: dict[str, httpx.Client], functions: dict[str, str], count: int
) -> dict[str, float]:
    """Row → microseconds, as the median of differences between neighbours in time."""
    ways = [(at, function) for function in functions for at in (ASKED, function)]
    took: dict[tuple[str, str], list[float]] = {way: [] for way in ways}
    with contextlib.ExitStack() as stack:
        lines = {way: stack.enter_context(opened(nodes[way[0]])) for way in ways}
        for number in range(count + 20):
            for way in random.sample(ways, len(ways)):
                us = timed(lines[way], invoke(functions[way[1]]))
                if number >= 20:
                    took[way].append(us)
    for name, function in functions.items():
        check_place(nodes[ASKED], function, name)

    def over(way: tuple[str, str], other: tuple[str, str]) -> float:
        pairs = zip(took[way], took[other], strict=True)
        return statistics.median(one - two for one, two in pairs)

    found = {
        HOP: over((ASKED, RUNS), (RUNS, RUNS)),
        STRICT_HOP: over((ASKED, STRICT), (STRICT, STRICT)),
        STORED: over((ASKED, STRICT), (RUNS, RUNS)),
    }
    names = {(RUNS, RUNS): "local", (STRICT, STRICT): "local, strict"}
    names |= {(ASKED, RUNS): "forwarded", (ASKED, STRICT): "forwarded, strict"}
    for way, values in took.items():
        for percent in (50, 99):
            found[f"{names[way]}, p{percent}, µs"] = harness.percentile(values, percent)
    return found


def invoke(function: str) -> bytes:
    return request(f"POST /api/functions/{function}/invoke", "application/json", b"{}")


def check_place(client: httpx.Client, function: str, node: str) -> None:
    """Check that the invocations ran on the expected node."""
    found = client.get(f"/api/functions/{function}/invocations?limit=50").raise_for_status().json()
    places = {one["execution_node_id"] for one in found["invocations"]}
    assert places == {node}, places


def at_once(nodes: dict[str, httpx.Client], function: str, seconds: int) -> dict[str, float]:
    """Invocations by many callers at the node without an instance."""
    client, path = nodes[ASKED], f"/api/functions/{function}/invoke"
    harness.wrk(client, path, connections=CALLERS, seconds=1)
    pids = harness.tree(int(client.headers["x-launcher-pid"]))
    before, port = harness.ticks(pids), int(nodes[RUNS].headers["x-peer-port"])
    carried = sum(fleet_nodes.carried_bytes("dport", port))
    done = harness.wrk(client, path, connections=CALLERS, seconds=seconds)
    used = harness.ticks(pids) - before
    carried = sum(fleet_nodes.carried_bytes("dport", port)) - carried
    check_place(client, function, RUNS)
    return {
        RATE: done["requests"] / done["seconds"],
        OF_CORE: done["requests"] / used,
        BYTES: carried / done["requests"],
    }


@contextlib.contextmanager
def echo() -> Iterator[int]:
    """Start a process that echoes what it receives. Returns its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = multiprocessing.get_context("fork").Process(
            target=send_back, args=(listener,), daemon=True
        )
        process.start()
        try:
            yield listener.getsockname()[1]
        finally:
            process.terminate()
            process.join()


def send_back(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(64):
            connection.sendall(data)


def floor_us(port: int, count: int) -> list[float]:
    took = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            began = time.perf_counter_ns()
            connection.sendall(b"x")
            connection.recv(64)
            took.append((time.perf_counter_ns() - began) / 1000)
    return took


if __name__ == "__main__":
    main()
