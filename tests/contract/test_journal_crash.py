"""`kill -9`: the journal has all that it acknowledged, and every record has an end.

A child writes records and reports each acknowledged one over a pipe. It is killed at a random
moment, over and over on the same directory. The negative control is `lazy`: its spool keeps the
last records in memory, and the same check must find that they are lost.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from contract.stores import (
    a_call,
    a_stored_function,
    done,
    is_on_postgresql,
    opened_as_before,
    opened_journal,
    record_pages,
    said_before_a_kill,
)
from forked import forked
from manual_clock import ManualClock
from promises import promise
from quiltfn.model.function import Function
from quiltfn.model.invocation import FINAL, Invocation, Status
from quiltfn.model.retention import StorageLimit
from quiltfn.model.stats import DAY_S
from quiltfn.store import SqlStats
from quiltfn.store.calls.spool import Spool
from quiltfn.store.database.sqlite import SqliteDatabase

ROUNDS = 12
CONTROL_ROUNDS = 6


def child(path: Path, lazy: bool) -> None:
    if lazy:
        make_lazy()
    asyncio.run(write_for_ever(path))


async def write_for_ever(path: Path) -> None:
    """The child: up to 20 invocations at a time. Prints a line for each acknowledgement."""
    pick = random.Random()
    async with opened_as_before(path) as store, opened_journal(store, path) as journal:
        (stored, *_) = await store.load()
        running: list[Invocation] = []
        print("ready", flush=True)
        while True:
            if len(running) < 20 and pick.random() < 0.5:
                call = a_call(stored.function)
                journal.opened(call)
                running.append(call)
                tell("opened", call)
            elif running:
                call = running.pop(pick.randrange(len(running)))
                end = done(call, pick.choice((0, 0, 7)), b"x" * pick.choice((0, 6, 6, 30_000)))
                journal.closed(end)
                tell(end.status.value, call)
            if pick.random() < 0.05:
                await asyncio.sleep(pick.random() * 0.005)


def tell(event: str, call: Invocation) -> None:
    sys.stdout.write(f"{event} {call.invocation_id}\n")
    sys.stdout.flush()


def make_lazy() -> None:
    """Break the promise on purpose: a record is written only when the next one arrives."""
    append, held = Spool.append, dict[Spool, Invocation]()

    def late(self: Spool, record: Invocation) -> None:
        if self in held:
            append(self, held[self])
        held[self] = record

    Spool.append = late  # type: ignore[method-assign]


async def run_and_kill(path: Path, after_s: float, lazy: bool = False) -> dict[str, str]:
    """Run a child and kill it; return its acknowledgements until then, by invocation id."""
    acknowledged = await said_before_a_kill(after_s, child, path, lazy)
    return {key: what for what, _, key in (line.partition(" ") for line in acknowledged)}


async def recorded(path: Path, function: Function) -> dict[str, Invocation]:
    """Every record of the function after a restart. Checks the records against the counters."""
    async with opened_as_before(path) as store, opened_journal(store, path) as journal:
        pages = await record_pages(journal, function_id=function.id, limit=1000)
        found = {record.invocation_id: record for page in pages for record in page}
        (stored, *_) = await store.load()
        errors = sum(record.status is not Status.SUCCESS for record in found.values())
        assert stored.counters.invocation_count == len(found)
        assert stored.counters.error_count == errors
        stats = SqlStats(store.database, ManualClock(), StorageLimit())
        used = await stats.usage(function.tenant_id, (0, 2**40), DAY_S)
        counted = Counter[str]()
        for sums in used.values():
            counted.update(sums.calls)
        assert counted == Counter(record.status.value for record in found.values())
        if not is_on_postgresql(path):
            check = await store.database.read(
                lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar()
            )
            assert check == "ok"
    return found


def lost(acknowledged: dict[str, str], found: dict[str, Invocation]) -> list[str]:
    """The acknowledged starts without a record, and the acknowledged ends that differ from the
    record.
    """
    return [
        f"{what} {key}"
        for key, what in acknowledged.items()
        if key not in found or what not in ("opened", found[key].status.value)
    ]


@pytest.fixture
async def function(path: Path) -> Function:
    async with opened_as_before(path) as store:
        return await a_stored_function(store)


@promise("D1", "D36")
async def test_a_killed_server_loses_no_acknowledged_record(path: Path, function: Function) -> None:
    acknowledged: dict[str, str] = {}
    pick = random.Random()
    for _ in range(ROUNDS):
        acknowledged |= await run_and_kill(path, pick.random() * 0.2)
        found = await recorded(path, function)
        assert lost(acknowledged, found) == []
        assert [one for one in found.values() if one.status not in FINAL] == []
    statuses = {record.status for record in found.values()}
    assert statuses == {Status.SUCCESS, Status.FAILED, Status.INTERRUPTED}
    assert len(found) > 10 * ROUNDS


async def test_a_kill_during_restart_loses_nothing_either(path: Path, function: Function) -> None:
    acknowledged = await run_and_kill(path, 0.1)
    pick = random.Random()
    began = time.monotonic()
    await said_before_a_kill(0, child, path, False)
    takes_s = time.monotonic() - began
    for _ in range(6):
        with forked(child, path, False) as process:
            await asyncio.sleep(pick.random() * takes_s)
            process.kill()
            assert process.wait() == -signal.SIGKILL
    assert lost(acknowledged, await recorded(path, function)) == []


def ended_at(path: Path, checkpoint: int) -> None:
    """The process of a server that is killed just before it moves the log into the file.
    `checkpoint`: which such move this is, from 1.
    """
    driver, seen = SqliteDatabase._driver, [0]

    class Watched:
        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def execute(self, statement: str, *more: Any) -> Any:
            if statement.startswith("PRAGMA wal_checkpoint"):
                seen[0] += 1
                if seen[0] == checkpoint:
                    os.kill(os.getpid(), signal.SIGKILL)
            return self._connection.execute(statement, *more)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

    SqliteDatabase._driver = lambda self: Watched(driver(self))  # type: ignore[method-assign]
    asyncio.run(write_for_ever(path))


@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("second", [1, 2])
async def test_two_kills_in_the_middle_of_starts_leave_a_directory_that_opens(
    path: Path, function: Function, first: int, second: int
) -> None:
    """Such a kill may leave different numbers in the file and its log. The note has room for two
    numbers.
    """
    if is_on_postgresql(path):
        pytest.skip("PostgreSQL has no log of ours")
    acknowledged = await run_and_kill(path, 0.05)
    for checkpoint in (first, second):
        with forked(ended_at, path, checkpoint) as process:
            assert process.wait() == -signal.SIGKILL
    assert lost(acknowledged, await recorded(path, function)) == []


async def test_the_check_notices_a_journal_in_memory(path: Path, function: Function) -> None:
    started = time.monotonic()
    for _ in range(CONTROL_ROUNDS):
        acknowledged = await run_and_kill(path, 0.05, lazy=True)
        if lost(acknowledged, await recorded(path, function)):
            return
    pytest.fail(f"nothing was lost in {time.monotonic() - started:.1f} s of broken promises")
