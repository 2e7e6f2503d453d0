"""Many nodes of one fleet on a real PostgreSQL: their cost for it and for each other, at rest and
with invocations.

Each node is the server's own platform with all its connections and background tasks, on sandboxes
that answer at once. A few processes have some of the nodes each. Each node gets invocations for
which it has an instance, so none is forwarded; the benchmark `forwarded` measures that. PostgreSQL
syncs, and has its default settings except for connections and statistics.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import multiprocessing
import random
import resource
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psycopg
import structlog
import uvloop
from msgspec.structs import replace

import fleet_nodes
import harness
from postgresql import PASSWORD, Cluster
from quiltfn.api.app import make_app
from quiltfn.base.clock import SystemClock
from quiltfn.fleet.files import FleetFile, NodeFile, new_fleet, new_node
from quiltfn.fleet.membership import Membership
from quiltfn.model.memory import Memory
from quiltfn.operator.fleet import begin_fleet
from quiltfn.sandbox.fake import FakeSandboxes
from quiltfn.server.ground import Node
from quiltfn.server.platform import Platform, open_platform
from quiltfn.settings import Settings
from quiltfn.store.opening_postgresql import open_as_node
from service.in_process import request_of
from service.platform_harness import FACTS

HEADERS = {"host": "127.0.0.1", "content-type": "application/json"}
BEATS, SAMPLE_EVERY_S, STARTING = 64, 0.2, 4
AT_ONCE_MAX = 8  # invocations of a node
START_S, END_S = 300.0, 60.0
STATEMENTS_SHOWN = 12
CONNECTIONS_OF_NODE = 5


class Beats:
    """The times at which each node made the reports of its last heartbeats, in memory that all
    processes share.
    """

    def __init__(self, nodes: int) -> None:
        self._map = mmap.mmap(-1, nodes * BEATS * 16)

    def tell(self, node: int, beat: int, at: float) -> None:
        struct.pack_into("<qd", self._map, self._place(node, beat), beat, at)

    def at(self, node: int, beat: int) -> float | None:
        found, at = struct.unpack_from("<qd", self._map, self._place(node, beat))
        return at if found == beat else None

    def _place(self, node: int, beat: int) -> int:
        return (node * BEATS + beat % BEATS) * 16


@dataclass
class Phase:
    """The measurements of one process's nodes in one phase."""

    ages_s: list[float] = field(default_factory=list)
    stored_s: list[float] = field(default_factory=list)
    lag_s: list[float] = field(default_factory=list)
    calls: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    cpu_s: float = 0.0
    seconds: float = 0.0
    warnings: Counter[str] = field(default_factory=Counter)


@dataclass
class OneNode:
    number: int
    platform: Platform
    membership: Membership
    function: str = ""


def name_of(number: int) -> str:
    return f"n{number:04}"


# In a process that has some of the nodes -----------------------------------------------------


@contextlib.asynccontextmanager
async def opened(number: int, file: NodeFile, home: Path, beats: Beats) -> AsyncIterator[OneNode]:
    fakes = FakeSandboxes()

    @contextlib.asynccontextmanager
    async def sandboxes(_: Memory) -> AsyncIterator[FakeSandboxes]:
        yield fakes

    data_dir = home / file.name
    within = {"node_id": file.name, "fleet_id": file.fleet_id}
    store = open_as_node(file.store, data_dir, PASSWORD, busy_timeout_s=60.0, **within)
    facts = Node(machine=replace(FACTS, node_id=file.name), fleet=file)
    chosen = Settings(data_dir=data_dir)
    async with open_platform(chosen, sandboxes, store, SystemClock(), facts) as platform:
        membership = platform.services.nodes
        assert isinstance(membership, Membership)
        watch(number, membership, beats)
        yield OneNode(number, platform, membership)


def watch(number: int, membership: Membership, beats: Beats) -> None:
    """Notes when the report of each beat was made."""
    report, made_at = membership._load, [0.0]

    def reported() -> Any:
        made_at[0] = time.monotonic()
        return report()

    def read(members: Sequence[Any]) -> None:
        own = next(one for one in members if one.name == membership.name)
        if made_at[0]:  # otherwise it began before the measurement
            beats.tell(number, own.beat, made_at[0])

    membership._load = reported
    membership.on_read.hearers += (read,)


async def serve(files: Mapping[int, NodeFile], home: Path, beats: Beats, line: Connection) -> None:
    """Runs nodes until the process is told to end them."""
    found = Phase()
    structlog.configure(processors=[counting(found)], cache_logger_on_first_use=False)
    async with contextlib.AsyncExitStack() as stack:
        turn, nodes = asyncio.Semaphore(STARTING), list[OneNode]()

        async def start(number: int, file: NodeFile) -> None:
            async with turn:
                nodes.append(await stack.enter_async_context(opened(number, file, home, beats)))

        await asyncio.gather(*(start(number, file) for number, file in files.items()))
        line.send(len(nodes))
        while (asked := await asyncio.to_thread(line.recv)) is not None:
            line.send(await phase(nodes, beats, found, *asked))


def counting(found: Phase) -> Any:
    def process(_: Any, level: str, event: Any) -> Any:
        if level in ("warning", "error", "critical", "exception"):
            found.warnings[str(event["event"])[:80]] += 1
        raise structlog.DropEvent

    return process


async def phase(
    nodes: Sequence[OneNode], beats: Beats, found: Phase, rate: float, query: str, seconds: float
) -> Phase:
    """Invokes each node's function `rate` times per second, for `seconds`; returns the
    measurements. `query`: the query string of the invocations.
    """
    if rate:
        await asyncio.gather(*(deployed(one) for one in nodes if not one.function))
    for name, value in vars(Phase()).items():
        setattr(found, name, value)
    began, used = time.monotonic(), cpu_s()
    ends = began + seconds
    work = [sample(nodes, beats, found, ends)]
    work += [call(one, found, rate, query, ends) for one in nodes if rate]
    await asyncio.gather(*work)
    found.cpu_s, found.seconds = cpu_s() - used, time.monotonic() - began
    return found


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def deployed(node: OneNode) -> None:
    """Creates a function that has an instance on this node."""
    app = make_app(node.platform.services)
    body = f'{{"name": "{node.membership.name}", "handler": "echo hello"}}'.encode()
    made = await app(request_of("POST", "/api/functions", HEADERS, body))
    assert made.status == 201, made.body
    node.function = str(
        node.platform.services.catalog.by_name("default", node.membership.name).function.id
    )
    done = await app(request_of("POST", f"/api/functions/{node.function}/deploy", HEADERS))
    assert done.status == 200, done.body


async def call(node: OneNode, found: Phase, rate: float, query: str, ends: float) -> None:
    """Concurrent invocations at random times."""
    app, running = make_app(node.platform.services), set[asyncio.Task[None]]()
    path = f"/api/functions/{node.function}/invoke{query}"

    async def invoke() -> None:
        answer = await app(request_of("POST", path, HEADERS, b"{}"))
        found.calls += 1
        if answer.status not in (200, 202):
            found.refused[answer.status] += 1

    while (now := time.monotonic()) < ends:
        if len(running) < AT_ONCE_MAX:  # otherwise two cores are too few for this number of nodes
            task = asyncio.create_task(invoke())
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.sleep(min(random.expovariate(rate), max(0.0, ends - now)))
    await asyncio.gather(*running)


async def sample(nodes: Sequence[OneNode], beats: Beats, found: Phase, ends: float) -> None:
    """A few times per second, on random nodes: the age of what a node knows of another; the time
    until a record is stored.
    """
    storing = set[asyncio.Task[None]]()

    async def stored(node: OneNode) -> None:
        began = time.monotonic()
        await node.platform.services.journal.synced()
        found.stored_s.append(time.monotonic() - began)

    while time.monotonic() < ends:
        for node in random.sample(nodes, min(10, len(nodes))):
            now = time.monotonic()
            for member in random.choices(node.membership.seen(), k=10):
                at = beats.at(int(member.name[1:]), member.beat)
                if at is not None and member.name != node.membership.name:
                    found.ages_s.append(now - at)
            found.lag_s.append(node.membership._lag_s())
        if len(storing) < 5:
            task = asyncio.create_task(stored(random.choice(nodes)))
            storing.add(task)
            task.add_done_callback(storing.discard)
        await asyncio.sleep(SAMPLE_EVERY_S)
    await asyncio.gather(*storing)


def child(files: Mapping[int, NodeFile], home: Path, beats: Beats, line: Connection) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(files, home, beats, line))


# In the process that measures ----------------------------------------------------------------


def main() -> None:
    options = harness.arguments(
        "fleet-size",
        nodes=(40, "nodes of the fleet; two cores carry two hundred at rest"),
        processes=(4, "processes that have them"),
        rate=(20.0, "calls a second of each node; 0: at rest alone"),
    )
    settings = (
        f"max_connections={CONNECTIONS_OF_NODE * options.nodes + 20}",
        "shared_preload_libraries=pg_stat_statements",
        "pg_stat_statements.track_planning=on",
    )
    seconds = options.seconds * options.rounds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("bench: it was ended"))
    found: dict[str, Any] = {"nodes": options.nodes, "rate": options.rate}
    with fleet_nodes.database(*settings) as cluster, started(cluster, options) as lines:
        with psycopg.connect(cluster.admin_url(fleet_nodes.DATABASE), autocommit=True) as admin:
            admin.execute("CREATE EXTENSION pg_stat_statements")
            for name, rate, query in (
                ("at rest", 0.0, ""),
                ("with calls", options.rate, ""),
                ("with accepted work", options.rate / 4, "?mode=async"),
            ):
                if name != "at rest" and not rate:
                    continue
                asked = rate, query, seconds
                admin.execute("SELECT pg_stat_statements_reset()")
                found[name] = measured(cluster, admin, lines, asked, options.nodes)
                show(name, found[name])
                found[f"statements {name}"] = statements(admin, options.nodes * seconds)
    if options.rate:  # otherwise the run is incomplete
        harness.save("fleet_size", found)


@contextlib.contextmanager
def started(cluster: Cluster, options: Any) -> Iterator[list[Connection]]:
    """Starts all nodes, in several processes. Yields a connection to each process."""
    fleet = new_fleet(cluster.tcp_url(fleet_nodes.DATABASE, None), PASSWORD, time.time())
    begin_fleet(fleet)
    files = {number: node_file(fleet, number) for number in range(options.nodes)}
    beats, context = Beats(options.nodes), multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as home:
        lines, processes = [], []
        for number in range(options.processes):
            ours, theirs = context.Pipe()
            some = {key: files[key] for key in range(number, options.nodes, options.processes)}
            process = context.Process(target=child, args=(some, Path(home), beats, theirs))
            process.start()
            lines.append(ours)
            processes.append(process)
        try:
            began = time.monotonic()
            for line in lines:
                if not line.poll(START_S):
                    sys.exit("bench: the nodes did not start in time")
                line.recv()
            print(f"{options.nodes} nodes started in {time.monotonic() - began:.0f} s", flush=True)
            yield lines
        finally:
            for line in lines:
                with contextlib.suppress(OSError):
                    line.send(None)
            ends = time.monotonic() + END_S
            for process in processes:
                process.join(max(0.0, ends - time.monotonic()))
                process.kill()


def node_file(fleet: FleetFile, number: int) -> NodeFile:
    address = f"127.0.0.1:{20000 + number}"
    return new_node(fleet, name_of(number), (address, address), time.time(), 9)


def measured(
    cluster: Cluster,
    admin: psycopg.Connection[Any],
    lines: Sequence[Connection],
    asked: tuple[float, str, float],
    nodes: int,
) -> dict[str, float]:
    """One phase, and what PostgreSQL did in it."""
    before, sent, used = (
        of_database(admin),
        fleet_nodes.carried_bytes("sport", cluster.port),
        harness.ticks(cluster.processes()),
    )
    began = time.monotonic()
    for line in lines:
        line.send(asked)
    seen: list[Phase] = [line.recv() for line in lines]
    took = time.monotonic() - began
    used = harness.ticks(cluster.processes()) - used
    sent_now, after = fleet_nodes.carried_bytes("sport", cluster.port), of_database(admin)
    calls = sum(one.calls for one in seen)
    whole = {name: (after[name] - before[name]) / took for name in RATES}
    ages = [age for one in seen for age in one.ages_s]
    stored = [each for one in seen for each in one.stored_s]
    return {
        "calls a second": calls / took,
        "refused": sum(one.refused.total() for one in seen),
        "PostgreSQL, cores": used / took,
        "a node, ms of CPU a second": 1000 * sum(one.cpu_s / one.seconds for one in seen) / nodes,
        "connections": after["connections"],
        "of a node": after["connections"] / nodes,
        "PostgreSQL, MiB (PSS)": pss_mib(cluster.processes()),
        **{f"{name}": value for name, value in whole.items()},
        "WAL bytes a call": whole["WAL bytes a second"] * took / calls if calls else 0.0,
        "bytes a second from nodes": (sent_now[0] - sent[0]) / took,
        "bytes a second to nodes": (sent_now[1] - sent[1]) / took,
        "age of a report, p50, s": harness.percentile(ages, 50),
        "age of a report, p99, s": harness.percentile(ages, 99),
        "lag of changes, worst, s": max(each for one in seen for each in one.lag_s),
        "a record is stored after, p50, s": harness.percentile(stored, 50),
        "a record is stored after, p99, s": harness.percentile(stored, 99),
        "disk of a record, bytes": (after["record bytes"] - before["record bytes"]) / calls
        if calls
        else 0.0,
        "rows of nodes, KiB": after["node KiB"],
        "updates of them in place, %": 100
        * (after["node hot"] - before["node hot"])
        / max(1, after["node updates"] - before["node updates"]),
        "warnings": sum((one.warnings for one in seen), Counter()).total(),
        **{
            f"warning: {one}": n
            for one, n in sum((o.warnings for o in seen), Counter()).most_common(5)
        },
    }


STATEMENTS = """
SELECT regexp_replace(left(query, 400), '\\s+', ' ', 'g'), calls,
       1000 * (total_exec_time + total_plan_time), 1000 * total_plan_time, rows
  FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid
 WHERE datname = current_database() AND query NOT LIKE '%pg_stat%' ORDER BY 3 DESC
"""


def statements(admin: psycopg.Connection[Any], node_seconds: float) -> list[dict[str, Any]]:
    """The time that statements take in the executor and planner, per node and second, longest
    first. It is a third of PostgreSQL's CPU time; messages and wake-ups of processes take the rest.
    """
    found = [
        {
            "statement": text,
            "a second": calls / node_seconds,
            "us each": us / calls,
            "planning": planning / us if us else 0.0,
            "us a second": us / node_seconds,
            "rows each": rows / calls,
        }
        for text, calls, us, planning, rows in admin.execute(STATEMENTS)
        if calls
    ]
    total = [sum(one[name] for one in found) for name in ("a second", "us a second")]
    print(f"  of a node: {total[0]:.1f} statements a second, {total[1]:.0f} us of them")
    for row in found[:STATEMENTS_SHOWN]:
        print(
            f"  {row['a second']:8.2f}/s {row['us each']:8.0f} us, {row['planning']:4.0%} planned, "
            f"{row['rows each']:6.1f} rows  {row['statement'][:72]}"
        )
    return found


RATES = ("transactions a second", "WAL bytes a second", "syncs a second")
OF_DATABASE = """
SELECT (SELECT xact_commit + xact_rollback FROM pg_stat_database
         WHERE datname = current_database()),
       pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8,
       (SELECT CAST(to_jsonb(pg_stat_wal) ->> 'wal_sync' AS float8) FROM pg_stat_wal),
       (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) - 1,
       pg_table_size('node') / 1024,
       pg_total_relation_size('invocation'),
       (SELECT n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'node'),
       (SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'node')
"""


def of_database(admin: psycopg.Connection[Any]) -> dict[str, float]:
    row = admin.execute(OF_DATABASE).fetchone()
    assert row is not None
    names = (*RATES, "connections", "node KiB", "record bytes", "node hot", "node updates")
    return {name: float(value or 0) for name, value in zip(names, row, strict=True)}


def pss_mib(pids: Sequence[int]) -> float:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += next(
                int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")
            )
    return total / 1024


def show(name: str, found: Mapping[str, float]) -> None:
    print(name)
    for row, value in found.items():
        print(f"  {row:44}{value:>16,.3f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
