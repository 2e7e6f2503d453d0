"""The machine's memory during whole invocations: which invocations wait for it, which instances are
evicted, and which invocations are refused.
"""

import asyncio
import ctypes
import ctypes.util
import gc
import itertools
import statistics
from pathlib import Path

import pytest
from sqlalchemy import Connection
from structlog.testing import capture_logs

from metric_values import sample_value
from promises import promise
from quiltfn.functions import lifecycle
from quiltfn.model.errors import CapacityFull
from quiltfn.store.database.sqlite import ALWAYS
from service.platform_harness import Harness, open_harness, until

pytestmark = promise("P7")

CACHED_STATEMENTS = 128  # the driver's default for one connection


def evictions() -> float:
    return sample_value("quiltfn_evicted_instances_total")


async def test_calls_beyond_the_memory_wait_and_are_all_answered(tmp_path: Path) -> None:
    async with open_harness(tmp_path, memory_mib=600) as harness:
        memory = harness.pools.memory
        first = await harness.active("sleep 0.02", name="one", memory_limit_mb=256)
        other = await harness.active("sleep 0.02", name="other", memory_limit_mb=512)
        calls = [await harness.running(entry) for _ in range(4) for entry in (first, other)]
        assert memory.waiting
        assert memory.held_mib <= memory.budget_mib
        done = [await call for call in calls]
        assert [record.status.value for record in done] == ["success"] * 8
        assert not memory.waiting


async def test_who_waits_for_memory_for_too_long_is_told_so(tmp_path: Path) -> None:
    async with open_harness(tmp_path, memory_mib=300) as harness:
        busy = await harness.active("sleep 1", name="busy", memory_limit_mb=256)
        late = await harness.active("echo hi", name="late", memory_limit_mb=256)
        running = await harness.running(busy)
        waiting = await harness.running(late)
        harness.pass_time(10)
        with pytest.raises(CapacityFull, match="memory of this machine"):
            await waiting
        running.cancel()


async def test_an_idle_instance_leaves_for_a_call_with_a_log_line(tmp_path: Path) -> None:
    before = evictions()
    async with open_harness(tmp_path, memory_mib=300) as harness:
        idle = await harness.active("echo hi", name="idle", memory_limit_mb=256)
        needs = await harness.active("echo hi", name="needs", memory_limit_mb=300)
        with capture_logs() as logs:
            done = await harness.invoke(needs)
        assert done.status.value == "success"
        assert harness.counts(idle) == {}
        assert evictions() == before + 1
        (line,) = [one for one in logs if "evicted" in one["event"]]
        assert line["function"] == idle.function.id


async def test_an_instance_gone_while_another_is_measured_is_fine(tmp_path: Path) -> None:
    # The reaper measures two idle instances. The second ends while the launcher responds for the
    # first; this must not end the reaper.
    async with open_harness(tmp_path) as harness:
        entry = await harness.active("sleep 0.01", max_instances=2)
        calls = [await harness.running(entry), await harness.running(entry)]
        for call in calls:
            await call
        pool = harness.pools._pools[entry.function.id]
        await until(lambda: harness.counts(entry) == {"ready": 2})
        first, second = pool.sandboxes.values()

        async def used_mib() -> float:
            second.end_by_itself()  # type: ignore[attr-defined]
            await until(lambda: len(pool.sandboxes) == 1)
            return 2.0

        first.used_mib = used_mib  # type: ignore[method-assign]
        await harness.pools.measure()


@promise("P21")
async def test_functions_that_come_and_go_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deleted function leaves neither objects nor memory in SQLite, apart from SQLite's caches of
    pages and statements.

    Both caches are limited, and are emptied before each measurement: a cached statement keeps the
    values of its last run, about 100 KB in total. A leak per function shows in each batch; what the
    first run of a periodic task creates shows in only one batch.
    """
    sqlite = ctypes.CDLL(ctypes.util.find_library("sqlite3"))
    sqlite.sqlite3_memory_used.restype = ctypes.c_int64
    assert len([one for one in ALWAYS if "cache_size" in one]) == 1
    batch = 80
    monkeypatch.setattr(lifecycle, "DELETE_GRACE_S", 0.1)

    def shrink(connection: Connection) -> None:
        for number in range(2 * CACHED_STATEMENTS):
            connection.exec_driver_sql(f"SELECT {number}")
        connection.exec_driver_sql("PRAGMA shrink_memory")

    async def come_and_go(harness: Harness) -> tuple[int, int]:
        for number in range(batch):
            entry = await harness.active(name=f"f{number}")
            await harness.invoke(entry)
            await harness.lifecycle.delete(harness.now(entry))
        await harness.journal.synced()
        # The pool of a deleted function stays for the grace period of running invocations.
        await until(lambda: not any("_end_deleted" in repr(one) for one in asyncio.all_tasks()), 90)
        used = [0, 1]
        while used[-1] != used[-2]:  # until the tasks of the last deletions have ended
            await asyncio.sleep(0.3)
            await harness.store.database.write(shrink)
            await harness.store.database.read(shrink)
            used.append(sqlite.sqlite3_memory_used())
        gc.collect()
        return len(gc.get_objects()), used[-1]

    async with open_harness(tmp_path) as harness:
        await come_and_go(harness)
        seen = [await come_and_go(harness) for _ in range(4)]
        objects, used = (
            statistics.median(after - before for before, after in itertools.pairwise(values))
            for values in zip(*seen, strict=True)
        )
        # The fake sandboxes keep one object for each function.
        assert objects < batch * 2, f"a function leaves objects: {seen}"
        assert used < batch * 20, f"a function leaves memory of SQLite: {seen}"
