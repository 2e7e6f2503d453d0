"""Nodes as processes that are killed and stopped, with instances in memory that a test counts.

A node runs everything that decides about instances: pools, the slot keeper, its lease. Its
sandboxes are cells of shared memory. Each launcher is simulated in the test's process: it accepts
or refuses creations and ends instances at the deadline, as `launcher/deadline.py` does; a stopped
node cannot affect it. Run as a script, this is a node's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from contract.stores import a_version, child_environment
from quiltfn.base.clock import SystemClock
from quiltfn.fleet.lease import LeaseTimes, NodeLease, boottime
from quiltfn.fleet.sandboxes import GatedSandboxes
from quiltfn.fleet.slots import SlotKeeper
from quiltfn.model.function import Function
from quiltfn.model.limits import PoolLimits
from quiltfn.model.version import VersionSpec
from quiltfn.pool.local import LocalPools
from quiltfn.ports import Call, Sandbox, SandboxFailed
from quiltfn.ports.fleet import NodeEpoch
from quiltfn.sandbox.fake import FakeSandbox, FakeSandboxes
from quiltfn.store.database.postgres_connection import engine
from quiltfn.store.database.quick_connection import QuickConnection
from quiltfn.store.fleet.slots import SqlSlots

BEAT_S, TIMES, REAP_S = 0.1, LeaseTimes(start_s=0.6, end_s=1.5), 4.0
FREE, ASKED, ALIVE, REFUSED, END = range(5)
CELLS, CELL, HEAD = 16, struct.Struct("BB6xd"), struct.Struct("dq")
NODE_SIZE = HEAD.size + CELLS * CELL.size
TAKEN_OVER = 3
CALLERS = 6


class Cells:
    """The launcher's data of one node: a deadline, and its sandboxes."""

    def __init__(self, memory: mmap.mmap, node: int) -> None:
        self._memory, self._at = memory, node * NODE_SIZE

    @property
    def deadline(self) -> float:
        return float(HEAD.unpack_from(self._memory, self._at)[0])

    @property
    def calls(self) -> int:
        return int(HEAD.unpack_from(self._memory, self._at)[1])

    def renew(self, deadline: float) -> None:
        struct.pack_into("d", self._memory, self._at, deadline)

    def count_call(self) -> None:
        struct.pack_into("q", self._memory, self._at + 8, self.calls + 1)

    def _cell(self, number: int) -> int:
        return self._at + HEAD.size + number * CELL.size

    def state(self, number: int) -> int:
        return self._memory[self._cell(number)]

    def become(self, number: int, state: int) -> None:
        self._memory[self._cell(number)] = state

    def ask(self, number: int, function: int, deadline: float) -> None:
        CELL.pack_into(self._memory, self._cell(number), FREE, function, deadline)
        self.become(number, ASKED)

    def read(self, number: int) -> tuple[int, int, float]:
        state, function, deadline = CELL.unpack_from(self._memory, self._cell(number))
        return state, function, deadline


def shared(file: Path) -> mmap.mmap:
    """The content of the file, shared by all processes that map it."""
    with file.open("r+b") as opened:
        return mmap.mmap(opened.fileno(), 0)


# A node's process ----------------------------------------------------------------------------


class StormSandboxes(FakeSandboxes):
    """Sandboxes in the cells of this node."""

    def __init__(self, cells: Cells, lease: NodeLease) -> None:
        super().__init__()
        self._cells, self._lease = cells, lease
        self._of: dict[int, FakeSandbox] = {}

    async def create(self, spec: VersionSpec) -> Sandbox:
        number = next(
            one for one in range(CELLS) if one not in self._of and self._cells.state(one) == FREE
        )
        sandbox = FakeSandbox(f"cell-{number}", self)
        self._of[number] = sandbox
        # A stop may come between the two: then the request is read late, and refused.
        deadline = self._lease.deadline
        self._cells.ask(number, int(spec.environment["FUNCTION"]), deadline)
        await self._until(lambda: self._cells.state(number) != ASKED)
        if self._cells.state(number) == REFUSED:
            self._cells.become(number, FREE)
            del self._of[number]
            raise SandboxFailed("the launcher has refused it")
        self.alive[sandbox.id] = sandbox
        destroy = sandbox._destroy

        async def end() -> None:
            if self._cells.state(number) == ALIVE:
                self._cells.become(number, END)
            await self._until(lambda: self._cells.state(number) == FREE)
            del self._of[number]
            await destroy()

        sandbox._destroy = end  # type: ignore[method-assign]
        return sandbox

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():  # noqa: ASYNC110 — another process changes it
            await asyncio.sleep(0.001)

    async def look(self) -> None:
        """Notices sandboxes that the launcher has ended."""
        while True:
            for number, sandbox in list(self._of.items()):
                is_there = sandbox.id in self.alive and sandbox.is_alive
                if is_there and self._cells.state(number) == FREE:
                    sandbox.end_by_itself()
            await asyncio.sleep(0.002)


async def be_a_node(options: dict[str, Any]) -> None:
    cells = Cells(shared(Path(options["memory"])), options["number"])
    renewed = [boottime()]
    with psycopg.connect(options["url"]) as admin:
        node = NodeEpoch(options["name"], raise_epoch(admin, options["name"]))
    lease = NodeLease(lambda: renewed[0], TIMES)
    clock = SystemClock()
    sandboxes = StormSandboxes(cells, lease)
    gated = GatedSandboxes(sandboxes, lease, sandboxes.end_by)
    pools = LocalPools(gated, clock, problem=str)
    connection = QuickConnection(engine(options["url"], is_quick=True))
    keeper = SlotKeeper(SqlSlots(connection.run), pools, lambda: node, lease, clock)
    pools.on_change.connect(keeper.pool_changed)
    ids = options["functions"]
    for number, function_id in enumerate(ids):
        version = a_version(
            Function(**options["function"] | {"id": function_id}),
            handler="sleep 0.005",
            environment={"FUNCTION": str(number)},
        )
        limits = PoolLimits(max_instances=options["most"], idle_s=0.5, queue_wait_s=3.0, park_s=0.0)
        pools.open(function_id, version, limits)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(beat(options["url"], node, renewed))
        tasks.create_task(lease.watch(cells.renew, keeper.lease_changed))
        tasks.create_task(keeper.run())
        tasks.create_task(sandboxes.look())
        tasks.create_task(tick(pools))
        for _ in range(CALLERS):
            tasks.create_task(call(pools, ids, cells))


async def beat(url: str, node: NodeEpoch, renewed: list[float]) -> None:
    """Sends heartbeats. Ends the process once it has been taken over."""
    raised = "UPDATE beat SET n = n + 1 FROM node WHERE node.name = beat.name AND node.name = %s"
    raised += " AND epoch = %s RETURNING n"

    def once() -> object:
        with psycopg.connect(url, autocommit=True, connect_timeout=2) as connection:
            return connection.execute(raised.encode(), node).fetchone()

    while True:
        began = boottime()
        try:
            if await asyncio.to_thread(once) is None:
                os._exit(TAKEN_OVER)
        except psycopg.Error:
            continue
        finally:
            await asyncio.sleep(BEAT_S)
        renewed[0] = began


async def tick(pools: LocalPools) -> None:
    while True:
        await asyncio.sleep(0.05)
        pools.tick()


async def call(pools: LocalPools, ids: list[str], cells: Cells) -> None:
    """Invokes functions, one invocation after another."""
    made = Call(payload=None, environment={}, replaces_environment=False, timeout_s=5)
    while True:
        with contextlib.suppress(Exception):
            async with pools.lease(random.choice(ids)) as lease:
                result = await lease.call(made)
                if result.code == 0:
                    cells.count_call()
        await asyncio.sleep(random.random() * 0.1)


# The test's process --------------------------------------------------------------------------


@dataclass
class Storm:
    """Nodes over one database, their simulated launchers, and the counts."""

    path: Path
    url: str
    functions: list[Function]
    most: int
    nodes: int = 4
    holds_deadline: bool = True
    exceeded: int = 0
    samples: int = 0
    most_seen: int = 0
    taken_over: int = 0
    worked: set[int] = field(default_factory=set)
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        file = self.path / "cells"
        file.write_bytes(bytes(self.nodes * NODE_SIZE))
        memory = shared(file)
        self.cells = [Cells(memory, node) for node in range(self.nodes)]
        self._ends, self._lock = threading.Event(), threading.Lock()
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE beat (name text PRIMARY KEY, n bigint NOT NULL)")
            for node in range(self.nodes):
                connection.execute("INSERT INTO node (name, epoch) VALUES (%s, 1)", (name(node),))
                connection.execute("INSERT INTO beat VALUES (%s, 0)", (name(node),))

    @contextlib.contextmanager
    def running(self) -> Iterator[Storm]:
        """Runs every node from now on, restarts those that end, and kills all at the end."""
        for node in range(self.nodes):
            self.start(node)
        threads = [threading.Thread(target=one) for one in (self._launch, self._observe)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._ends.set()
            for thread in threads:
                thread.join()
            for process in self.processes.values():
                process.kill()
                process.wait()

    @property
    def calls(self) -> int:
        return sum(one.calls for one in self.cells)

    def start(self, node: int) -> None:
        """Starts the node, which takes its next epoch and frees what its last one held."""
        options = {
            "url": self.url,
            "memory": str(self.path / "cells"),
            "number": node,
            "name": name(node),
            "functions": [one.id for one in self.functions],
            "function": {
                key: getattr(self.functions[0], key) for key in Function.__struct_fields__
            },
            "most": self.most,
        }
        with (self.path / f"{name(node)}.log").open("ab") as log:
            self.processes[node] = subprocess.Popen(
                [sys.executable, __file__, json.dumps(options)],
                env=child_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self, node: int) -> None:
        """Kills everything of the node at once, and starts it again."""
        self.processes[node].kill()
        self._ended(node)

    def signal(self, node: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.processes[node].send_signal(number)

    def restart_ended(self) -> None:
        for node, process in self.processes.items():
            if process.poll() is not None:
                self._ended(node)

    def _ended(self, node: int) -> None:
        self.processes[node].wait()
        with self._lock:
            self.cells[node].renew(0.0)
            for number in range(CELLS):
                self.cells[node].become(number, FREE)
        self.start(node)

    def _launch(self) -> None:
        """Simulates the launchers, and counts live instances, in turn."""
        while not self._ends.is_set():
            alive = [0] * len(self.functions)
            with self._lock:
                for node, cells in enumerate(self.cells):
                    for function in self._serve(cells):
                        alive[function] += 1
                        self.worked.add(node)
            self.samples += 1
            self.exceeded += any(count > self.most for count in alive)
            self.most_seen = max(self.most_seen, *alive)
            time.sleep(0.0005)

    def _serve(self, cells: Cells) -> Iterator[int]:
        """Does what a node's launcher does; returns the functions of its live instances."""
        now = boottime()
        is_over = self.holds_deadline and 0 < cells.deadline <= now
        for number in range(CELLS):
            state, function, deadline = cells.read(number)
            if state == ASKED:
                is_late = self.holds_deadline and deadline <= now
                state = REFUSED if is_late else ALIVE
                cells.become(number, state)
            elif state == END or (state == ALIVE and is_over):
                cells.become(number, FREE)
                state = FREE
            if state == ALIVE:
                yield function

    def _observe(self) -> None:
        """Takes over nodes without heartbeats, by its own clock."""
        seen: dict[str, tuple[int, float]] = {}
        while not self._ends.is_set():
            now = time.monotonic()
            with contextlib.suppress(psycopg.Error), psycopg.connect(self.url) as connection:
                for node, n in connection.execute("SELECT name, n FROM beat").fetchall():
                    if node not in seen or seen[node][0] != n:
                        seen[node] = (n, now)
                    elif now - seen[node][1] > REAP_S:
                        raise_epoch(connection, node)
                        self.taken_over += 1
                        seen[node] = (n, now)
            self._ends.wait(0.05)


def raise_epoch(connection: psycopg.Connection[Any], node: str) -> int:
    """Takes everything from the node's previous run, as `store/fleet/take_over.py` does."""
    connection.execute("SELECT 1 FROM node WHERE name = %s FOR UPDATE", (node,))
    connection.execute("UPDATE beat SET n = n + 1 WHERE name = %s", (node,))
    found = connection.execute(
        "UPDATE node SET epoch = (SELECT max(epoch) + 1 FROM node) WHERE name = %s RETURNING epoch",
        (node,),
    ).fetchone()
    assert found is not None
    free = "UPDATE slot SET held = CAST(CAST(held AS jsonb) - CAST(%s AS text) AS json)"
    connection.execute(free.encode(), (node,))
    return int(found[0])


def name(node: int) -> str:
    return f"node-{node}"


if __name__ == "__main__":
    asyncio.run(be_a_node(json.loads(sys.argv[1])))
