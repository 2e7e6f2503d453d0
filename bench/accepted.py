"""Asynchronous invocations: the cost of accepting one compared with the group commit of the same
rows, the rate at which a queue drains compared with callers of the same function, and the cost of a
long queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

import harness
import life
from quiltfn.base.ids import new_id
from quiltfn.model.function import Function, FunctionState
from quiltfn.model.invocation import Invocation, Source, Status
from quiltfn.model.version import Version, VersionSpec
from quiltfn.ports.work import AcceptedWork, Input
from quiltfn.store import SqlStore, SqlWork, open_sqlite

HANDLER = "echo hello"
CALLERS, DRAINED, LONG = 32, 8000, 1_000_000
INSTANCES = 2  # the number of the machine's cores, with which both kinds of invocations are fastest
DAY_MS = 86_400_000
PIECES_AT_ONCE = 5000
NODE = "bench"
TURNS = 9  # of each of two servers that are invoked in turns


def main() -> None:
    options = harness.arguments("accepted", rounds=3, queued=(LONG, "how long the long queue is"))
    with tempfile.TemporaryDirectory() as directory:
        accepted = [
            accepting(Path(directory), options.seconds) | over_http(options.seconds)
            for _ in range(options.rounds)
        ]
    drained = [draining(options.seconds) for _ in range(options.rounds)]
    long = beside_a_long_queue(options.queued, options.seconds)
    figures = {"accepted": accepted, "drained": drained, "long": long}
    show(figures)
    harness.save("accepted", figures)


# Accepting ---------------------------------------------------------------------------------------


def accepting(directory: Path, seconds: int) -> dict[str, float]:
    """Acceptances in a separate store, and the same rows written only by SQLite."""
    path = Path(tempfile.mkdtemp(dir=directory))
    many = asyncio.run(accept_for(path, CALLERS, seconds))
    single = asyncio.run(accept_for(path, 1, seconds))
    return {
        "per_s": len(many) / seconds,
        "floor_per_s": group_commits(path, CALLERS, seconds),
        "one_p50_ms": harness.percentile(single, 50),
        "many_p50_ms": harness.percentile(many, 50),
        "many_p99_ms": harness.percentile(many, 99),
    }


def over_http(seconds: int) -> dict[str, float]:
    """Acceptances of a server, for a paused function, so that no invocation runs."""
    with harness.server() as client:
        function = deployed(client)
        policy = {"max_queued": 1_000_000}
        client.put(f"/api/functions/{function}/async-policy", json=policy).raise_for_status()
        client.post(f"/api/functions/{function}/pause").raise_for_status()
        path = f"/api/functions/{function}/invoke?mode=async"
        harness.wrk(client, path, connections=CALLERS, seconds=1)
        many = harness.wrk(client, path, connections=CALLERS, seconds=seconds)
        single = harness.wrk(client, path, connections=1, seconds=seconds)
    return {
        "http_per_s": many["requests"] / many["seconds"],
        "http_one_p50_ms": single["p50_us"] / 1000,
        "http_many_p50_ms": many["p50_us"] / 1000,
        "http_many_p99_ms": many["p99_us"] / 1000,
    }


async def accept_for(path: Path, callers: int, seconds: int) -> list[float]:
    """Milliseconds of each acceptance by this number of callers, each sequential."""
    took: list[float] = []
    async with open_sqlite(path, node_id=NODE) as store:
        function = await a_function(store)
        queue = SqlWork(store.database)
        end = time.monotonic() + seconds

        async def caller() -> None:
            while time.monotonic() < end:
                began = time.monotonic()
                await queue.accept(a_piece(function, 0))
                took.append((time.monotonic() - began) * 1000)

        await asyncio.gather(*(caller() for _ in range(callers)))
    return took


async def a_function(store: SqlStore) -> str:
    """The id of a function whose invocations are accepted but never run."""
    found = await store.load()
    if found:
        return found[0].function.id
    spec = VersionSpec(handler=HANDLER)
    function = Function(
        id=new_id(),
        tenant_id="default",
        name="f",
        cluster_id=None,
        description=None,
        owner_node_id=NODE,
        state=FunctionState.PAUSED,
        current_version=1,
        min_instances=0,
        max_instances=1,
        created_at=0,
        updated_at=0,
    )
    version = Version(
        id=new_id(),
        function_id=function.id,
        number=1,
        spec=spec,
        digest=spec.digest(),
        description=None,
        created_at=0,
    )
    await store.create(function, version)
    return function.id


def a_piece(function_id: str, delay_ms: int, payload: bytes = b'{"n":1}') -> AcceptedWork:
    now_ms = int(time.time() * 1000)
    record = Invocation(
        invocation_id=new_id(),
        tenant_id="default",
        function_id=function_id,
        function_name="f",
        execution_node_id=NODE,
        status=Status.QUEUED,
        source=Source.ASYNC,
        due_at=(now_ms + delay_ms) // 1000,
    )
    return AcceptedWork(
        record=record,
        input=Input(payload=payload, may_write=True),
        given_at=1_760_000_000,
        due_at_ms=now_ms + delay_ms,
        expires_at_ms=now_ms + delay_ms + DAY_MS,
        max_queued=10**9,
    )


def group_commits(path: Path, batch: int, seconds: int) -> float:
    """The floor: asynchronous invocations per second, each three copied rows (record, input, place
    in the queue), that SQLite commits in a loop, `batch` per synced transaction.
    """
    with sqlite3.connect(path / "quiltfn.db", isolation_level=None) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        statements, rows = [], []
        for table in ("invocation", "input", "work"):
            cursor = connection.execute(f"SELECT * FROM {table} LIMIT 1")
            names = [column[0] for column in cursor.description]
            rows.append((names.index("invocation_id"), list(cursor.fetchone())))
            marks = ", ".join("?" * len(names))
            statements.append(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})")
        done, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            ids = [new_id() for _ in range(batch)]
            connection.execute("BEGIN IMMEDIATE")
            for statement, (where, row) in zip(statements, rows, strict=True):
                copies = [[*row[:where], one, *row[where + 1 :]] for one in ids]
                connection.executemany(statement, copies)
            connection.execute("COMMIT")
            done += batch
        return done / seconds


# Draining ----------------------------------------------------------------------------------------


def fill(data_dir: Path, function_id: str, count: int, delay_ms: int) -> None:
    """Queue this number of a function's invocations while its server is not running."""

    async def accept_all() -> None:
        async with open_sqlite(data_dir, node_id=NODE) as store:
            queue = SqlWork(store.database)
            for start in range(0, count, PIECES_AT_ONCE):
                some = [
                    a_piece(function_id, delay_ms)
                    for _ in range(min(PIECES_AT_ONCE, count - start))
                ]
                await store.database.write(
                    lambda connection, some=some: queue.accept_in(connection, some)  # type: ignore[misc]
                )

    asyncio.run(accept_all())


def draining(seconds: int) -> dict[str, float]:
    """Invocations per second by waiting callers, and then from a queue, on the same instances."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        with harness.server(data_dir=data) as client:
            function = deployed(client)
            path = f"/api/functions/{function}/invoke"
            harness.wrk(client, path, connections=INSTANCES, seconds=1)
            calls = harness.wrk(client, path, connections=INSTANCES, seconds=seconds)
        fill(data, function, DRAINED, 0)
        with harness.server(data_dir=data) as client:
            drained = drained_per_s(client)
    return {"sync_per_s": calls["requests"] / calls["seconds"], "drained_per_s": drained}


def deployed(client: httpx.Client) -> str:
    return harness.deployed(
        client, name="f", handler=HANDLER, min_instances=INSTANCES, max_instances=INSTANCES
    )


def drained_per_s(client: httpx.Client) -> float:
    """The rate between a quarter of the queue and its end."""
    times: list[tuple[float, float]] = []
    while not times or times[-1][1] < DRAINED:
        times.append((time.monotonic(), attempts(client)))
        time.sleep(0.1)  # each check costs the server a millisecond
        assert time.monotonic() < times[0][0] + 60, "the queue is not drained"
    quarter = next(one for one in times if one[1] >= DRAINED / 4)
    return (times[-1][1] - quarter[1]) / (times[-1][0] - quarter[0])


def attempts(client: httpx.Client) -> float:
    text = client.get("/metrics").raise_for_status().text
    lines = [one for one in text.splitlines() if one.startswith("quiltfn_work_attempts_total{")]
    return sum(float(one.rsplit(" ", 1)[1]) for one in lines)


# A long queue ------------------------------------------------------------------------------------


def beside_a_long_queue(queued: int, seconds: int) -> dict[str, Any]:
    """Memory and warm invocations of a server without queue and of one with a queue that is due
    tomorrow; both run, and are invoked in turns.
    """
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        servers: dict[str, tuple[httpx.Client, str]] = {}
        for name, count in (("empty", 0), ("long", queued)):
            data = Path(directory) / name
            with harness.server(data_dir=data) as client:
                function = deployed(client)
            fill(data, function, count, DAY_MS)
            client = stack.enter_context(harness.server(data_dir=data))
            servers[name] = client, f"/api/functions/{function}/invoke"
        time.sleep(1)  # both have started
        found: dict[str, Any] = {"queued": queued, "empty": {}, "long": {}}
        for name, (client, _) in servers.items():
            found[name]["rss_mib"] = server_rss_mib(int(client.headers["x-launcher-pid"]))
            found[name]["p50_us"] = []
        for turn in range(TURNS + 1):
            for name, (client, path) in servers.items():
                call = harness.wrk(client, path, connections=1, seconds=seconds)
                if turn:  # the first warms up
                    found[name]["p50_us"].append(call["p50_us"])
    return found


def server_rss_mib(launcher: int) -> float:
    """The server's memory, without the launcher and sandboxes."""
    return max(life.rss_mib(pid) for pid in life.children(launcher))


def show(figures: dict[str, Any]) -> None:
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
