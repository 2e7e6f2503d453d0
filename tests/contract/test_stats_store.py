"""Statistics of invocations in the store: each invocation counts once, whatever happens; statistics
are kept, folded and removed as promised.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, select, update

from contract.pieces import NOW_MS, a_piece
from contract.stores import a_call, a_stored_function, done, opened_journal, restart, rows
from manual_clock import ManualClock
from promises import promise
from quiltfn.model.function import Function
from quiltfn.model.invocation import Invocation, Status, WorkOutcome
from quiltfn.model.retention import StorageLimit
from quiltfn.model.stats import (
    ANY_FUNCTION,
    DAY_S,
    FINEST_S,
    HOUR_S,
    KEPT_S,
    MINUTE_S,
    CallStats,
    Stretch,
    floor_to,
)
from quiltfn.ports import InvocationQuery
from quiltfn.store import SpoolJournal, SqlStats, SqlStore, SqlWork
from quiltfn.store.calls.stats import FOLD_ROWS, READ_ROWS
from quiltfn.store.database import tables
from quiltfn.store.database.directory import SPOOLS
from timeouts import scaled

ENDED = 1_760_000_101  # the time at which `done` ends invocations
NEVER_S = 3600.0
WHOLE = (0, 2**40)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(ENDED)


@pytest.fixture
def stats(store: SqlStore, clock: ManualClock) -> SqlStats:
    return SqlStats(store.database, clock, StorageLimit())


@pytest.fixture
async def journal(store: SqlStore, tmp_path: Path) -> AsyncIterator[SpoolJournal]:
    async with opened_journal(store, tmp_path, commit_after_s=NEVER_S) as opened:
        yield opened


async def of_all_time(stats: SqlStats, function: Function) -> CallStats:
    """The sums over all of a function's invocations, in all steps."""
    found = await stats.usage(function.tenant_id, WHOLE, DAY_S)
    whole = CallStats()
    for key, sums in found.items():
        if key.function_id == function.id:
            whole.add(sums)
    return whole


def called(journal: SpoolJournal, function: Function, code: int = 0) -> Invocation:
    record = a_call(function)
    journal.opened(record)
    ended = replace(done(record, code), memory_mib=512)
    journal.closed(ended)
    return ended


async def test_commits_count_what_ended_in_the_stretch_in_which_it_did(
    stats: SqlStats, journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    added: list[tuple[Stretch, int]] = []
    journal.on_counted.connect(lambda sums: added.extend((k, v.mib_ms) for k, v in sums.items()))
    for code in (0, 0, 7):
        called(journal, function, code)
    journal.opened(a_call(function))  # this invocation still runs, so it does not count as ended
    await journal.synced()
    ((start, sums),) = await stats.of_function("default", function.id, WHOLE, FINEST_S)
    assert start == floor_to(FINEST_S, ENDED)
    assert added == [(Stretch("default", FINEST_S, start, function.id), 3 * 512 * 3)]
    assert sums.calls == {"success": 2, "failed": 1}
    assert sums.mib_ms == 3 * 512 * 3
    assert sums.percentiles_ms(0.5) == [pytest.approx(3, rel=0.05)]
    for _ in range(2):
        called(journal, function)
        await journal.synced()
    assert rows(tmp_path, "SELECT count(*) FROM call_stats") == [(1,)]
    assert (await of_all_time(stats, function)).count == 5


@promise("D36")
@pytest.mark.parametrize("is_swept", [True, False])
async def test_statistics_outlive_functions_and_a_segment_that_comes_back_counts_nothing_again(
    store: SqlStore, stats: SqlStats, function: Function, tmp_path: Path, is_swept: bool
) -> None:
    """A power cut can bring back invocations that were committed, even those of a function that was
    deleted since. Statistics, records and counters must not change then.
    """
    gone = await a_stored_function(store)
    late = await a_stored_function(store)
    async with opened_journal(store, tmp_path, commit_after_s=NEVER_S) as journal:
        for owner in (function, gone, late):
            called(journal, owner)
        if not is_swept:  # if a function is deleted while its invocations run, they leave no record
            await store.delete(late.id)
            await store.wait_swept()
        stale = {name: (tmp_path / name).read_bytes() for name in SPOOLS}
        await journal.synced()
    await store.delete(gone.id)
    await store.wait_swept()
    for name, content in stale.items():
        (tmp_path / name).write_bytes(content)
    before = [one.counters for one in await store.load()]
    async with opened_journal(store, tmp_path) as journal:
        for owner in (function, gone, late):
            assert (await of_all_time(stats, owner)).count == 1
        assert [one.counters for one in await store.load()] == before
        assert (await journal.query(InvocationQuery(function_id=gone.id, limit=9))).items == []
        (record,) = (await journal.query(InvocationQuery(function_id=function.id, limit=9))).items
        assert record.status is Status.SUCCESS


async def test_the_check_would_find_a_call_that_was_counted_twice(
    store: SqlStore, stats: SqlStats, function: Function, tmp_path: Path
) -> None:
    """Negative control: the store has lost its note that the invocations of a deleted function were
    counted.
    """
    async with opened_journal(store, tmp_path, commit_after_s=NEVER_S) as journal:
        called(journal, function)
        stale = {name: (tmp_path / name).read_bytes() for name in SPOOLS}
        await journal.synced()
    await store.delete(function.id)
    await store.wait_swept()
    await store.database.write(
        lambda connection: connection.exec_driver_sql("DELETE FROM counted_call").close()
    )
    for name, content in stale.items():
        (tmp_path / name).write_bytes(content)
    async with opened_journal(store, tmp_path):
        assert (await of_all_time(stats, function)).count == 2


async def test_a_commit_whose_segment_could_not_be_emptied_counts_once(
    stats: SqlStats, journal: SpoolJournal, function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit is retried. It has ended invocations, and an attempt that another one follows."""
    again = WorkOutcome(retry_at_ms=ENDED * 1000 + 1000)
    record = a_call(function)
    journal.opened(record)
    journal.closed(replace(done(record, 7), memory_mib=256, outcome=again))
    called(journal, function)
    spool = journal._spool
    monkeypatch.setattr(spool, "clear", refused)
    with pytest.raises(Exception, match="cannot be emptied"):
        await journal.synced()
    monkeypatch.undo()
    await journal.synced()
    sums = await of_all_time(stats, function)
    assert sums.calls == {"success": 1}
    assert sums.mib_ms == 3 * (512 + 256)


def refused() -> None:
    raise OSError("it cannot be emptied")


async def test_calls_that_a_crash_left_running_count_as_interrupted(
    store: SqlStore, stats: SqlStats, function: Function, tmp_path: Path
) -> None:
    async with opened_journal(store, tmp_path) as journal:
        for is_cold in (True, False, True):
            journal.opened(replace(a_call(function), cold_start=is_cold))
        await journal.synced()
    await restart(store)
    async with opened_journal(store, tmp_path):
        sums = await of_all_time(stats, function)
    assert sums.calls == {Status.INTERRUPTED.value: 3}
    assert sums.cold_starts == 2
    async with opened_journal(store, tmp_path):
        assert (await of_all_time(stats, function)).count == 3


@pytest.mark.parametrize("damage", [b"garbage", b"", b"\x97\x80"])
async def test_damaged_statistics_keep_no_record_from_being_stored(
    store: SqlStore,
    stats: SqlStats,
    function: Function,
    clock: ManualClock,
    tmp_path: Path,
    damage: bytes,
) -> None:
    async with opened_journal(store, tmp_path) as journal:
        journal.closed(done(a_call(function)))
        await journal.synced()

        def spoil(connection: Connection) -> None:
            changed = connection.execute(update(tables.call_stats).values(stats=damage))
            assert changed.rowcount == 1

        await store.database.write(spoil)
        assert (await of_all_time(stats, function)).count == 0
        call = a_call(function)
        journal.closed(done(call))
        await journal.synced()
        assert await journal.get(function.id, call.invocation_id) == done(call)
        assert (await of_all_time(stats, function)).count == 1
        await store.database.write(spoil)
        clock.time += KEPT_S[FINEST_S] + DAY_S
        while await stats.prune_some():
            pass
        assert (await of_all_time(stats, function)).count == 0


async def test_a_late_wall_clock_removes_no_statistics(store: SqlStore, function: Function) -> None:
    class Behind(ManualClock):
        def unix(self) -> float:
            return self.time - 500 * DAY_S

        def trusted(self) -> float:
            return self.time

    clock = Behind()
    stats, start = SqlStats(store.database, clock, StorageLimit()), int(clock.unix())
    used = CallStats(queued=1)
    await stats.add({Stretch(function.tenant_id, FINEST_S, start, function.id): used})
    while await stats.prune_some():
        pass
    assert (await of_all_time(stats, function)).queued == 1


async def test_queued_work_counts(store: SqlStore, stats: SqlStats, function: Function) -> None:
    work = SqlWork(store.database)
    piece = a_piece(function)
    for _ in range(2):  # the repetition must not count
        await work.accept(piece)
    await work.cancel(function.id, piece.record.invocation_id, NOW_MS // 1000)
    sums = await of_all_time(stats, function)
    assert (sums.queued, sums.calls) == (1, {"cancelled": 1})


async def test_no_tenant_sees_another_s(
    store: SqlStore, stats: SqlStats, journal: SpoolJournal, function: Function
) -> None:
    other = await a_stored_function(store, tenant_id="umbrella")
    called(journal, function)
    called(journal, other)
    await journal.synced()
    assert set(await stats.of_tenant("umbrella", 0)) == {other.id}
    assert {key.function_id for key in await stats.usage("umbrella", WHOLE, HOUR_S)} == {other.id}
    assert await stats.of_function("umbrella", function.id, WHOLE, FINEST_S) == []
    assert sorted(await stats.tenants()) == ["default", "umbrella"]


async def test_a_reader_of_usage_holds_no_more_than_was_asked_for(stats: SqlStats) -> None:
    """A tenant may have hundreds of thousands of rows, each of which takes 0.7 KB in memory."""
    functions = [f"{number:05}" for number in range(3 * READ_ROWS)]
    await fill(stats, [ENDED], functions)
    some = await stats.usage("default", WHOLE, HOUR_S, most=100)
    assert 100 < len(some) <= 100 + READ_ROWS
    assert len(await stats.usage("default", WHOLE, HOUR_S)) == len(functions)
    (together,) = (await stats.usage("default", WHOLE, HOUR_S, by_function=False, most=1)).items()
    assert together[1].latency == {}
    assert (together[0].function_id, together[1].count) == (ANY_FUNCTION, len(functions))


# --- folding and removal ------------------------------------------------------------------------


async def fill(stats: SqlStats, starts: Sequence[int], functions: Sequence[str] = ("f",)) -> None:
    sums = {
        Stretch("default", FINEST_S, floor_to(FINEST_S, at), one): CallStats(
            calls={"success": 1}, latency={40: 1}, mib_ms=1024, cpu_us=5
        )
        for at in starts
        for one in functions
    }
    await stats.add(sums)


async def prune_all(stats: SqlStats) -> None:
    for _ in range(1000):
        if not await stats.prune_some():
            return
    raise AssertionError("it never comes to an end")


async def sums_of(stats: SqlStats) -> CallStats:
    whole = CallStats()
    for sums in (await stats.of_tenant("default", 0)).values():
        whole.add(sums)
    used = CallStats()
    for sums in (await stats.usage("default", WHOLE, DAY_S)).values():
        used.add(sums)
    assert used == replace(whole, latency={})
    return whole


@promise("D37")
async def test_rows_are_folded_by_age(stats: SqlStats, clock: ManualClock, tmp_path: Path) -> None:
    now = ENDED
    ages = [0, 1800, 2 * HOUR_S, 2 * DAY_S, 9 * DAY_S, 399 * DAY_S, 402 * DAY_S]
    await fill(stats, [now - age for age in ages])
    await prune_all(stats)
    found = rows(tmp_path, "SELECT step_s, count(*) FROM call_stats GROUP BY 1 ORDER BY 1")
    assert found == [(10, 2), (60, 1), (300, 1), (3600, 2)]
    assert (await sums_of(stats)).count == len(ages) - 1
    # A year later, there is one row for each hour of the last 400 days that has calls.
    clock.time += 366 * DAY_S
    await prune_all(stats)
    found = rows(tmp_path, "SELECT step_s, count(*) FROM call_stats GROUP BY 1")
    assert found == [(3600, 4)]


@promise("D36")
async def test_folding_loses_nothing_at_any_time(stats: SqlStats, clock: ManualClock) -> None:
    pick = random.Random(7)
    count = 0
    for _ in range(12):
        starts = [int(clock.time) - pick.randrange(3 * HOUR_S) for _ in range(60)]
        starts = list({floor_to(FINEST_S, one) for one in starts})
        await fill(stats, starts, ["f", "g"])
        count += 2 * len(starts)
        for _ in range(pick.randrange(4)):
            await stats.prune_some()
        whole = await sums_of(stats)
        assert (whole.count, whole.mib_ms, whole.cpu_us) == (count, 1024 * count, 5 * count)
        assert whole.latency == {40: count}
        clock.time += pick.randrange(2 * HOUR_S)
    await prune_all(stats)
    assert (await sums_of(stats)).count == count


async def test_a_step_handles_a_bounded_number_of_rows(stats: SqlStats) -> None:
    await fill(stats, range(0, 10 * FOLD_ROWS * FINEST_S, FINEST_S))
    assert await stats.prune_some() <= 2 * FOLD_ROWS


async def test_a_series_has_finer_rows_added_up_and_no_coarser_ones(stats: SqlStats) -> None:
    now = floor_to(MINUTE_S, ENDED)
    await fill(stats, [now - 10, now - 20, now - 3 * HOUR_S])
    await prune_all(stats)
    span = (now - 4 * HOUR_S, now + 60)
    fine = await stats.of_function("default", "f", span, FINEST_S)
    assert [start for start, _ in fine] == [now - 20, now - 10]
    minutes = await stats.of_function("default", "f", span, MINUTE_S)
    assert [(start, one.count) for start, one in minutes] == [(now - 3 * HOUR_S, 1), (now - 60, 2)]


async def test_what_a_window_has_begins_with_the_stretch_that_it_begins_in(stats: SqlStats) -> None:
    now = floor_to(MINUTE_S, ENDED)
    await fill(stats, [now - 5, now - 65, now - 700])
    assert (await stats.of_tenant("default", now - 60))["f"].count == 1
    assert (await stats.of_tenant("default", now - 70))["f"].count == 2
    assert (await stats.of_tenant("default", now - 701))["f"].count == 3


@promise("D37")
async def test_bounds_cost_only_detail(store: SqlStore, clock: ManualClock, tmp_path: Path) -> None:
    """First, the oldest rows of the shortest step are folded; at last, functions are added up."""
    row_bytes = 250
    stats = SqlStats(store.database, clock, StorageLimit(tenant=40 * row_bytes))
    starts = [ENDED - 10 * n for n in range(300)]
    await fill(stats, starts)
    await prune_all(stats)
    steps = {one for (one,) in rows(tmp_path, "SELECT DISTINCT step_s FROM call_stats")}
    assert steps <= {10, 60}, "the newest are still there by ten seconds, or minutes"
    assert (await sums_of(stats)).count == 300
    # No step reduces the number of functions, so many of them must be added up.
    await fill(stats, [ENDED], [f"f-{n:04}" for n in range(500)])
    await prune_all(stats)
    assert (await sums_of(stats)).count == 800
    ((size,),) = rows(tmp_path, "SELECT bytes FROM usage WHERE kind = 'stats'")
    assert int(str(size)) <= 40 * row_bytes
    assert any(not key.function_id for key in await stats.usage("default", WHOLE, HOUR_S))


async def test_finally_old_sums_go(store: SqlStore, clock: ManualClock, tmp_path: Path) -> None:
    stats = SqlStats(store.database, clock, StorageLimit(all=10 * 250))
    await fill(stats, [ENDED - HOUR_S * n for n in range(100)])
    await prune_all(stats)
    found = rows(tmp_path, "SELECT function_id, start FROM call_stats ORDER BY start")
    assert 0 < len(found) <= 16
    assert int(str(found[-1][1])) >= floor_to(HOUR_S, ENDED)
    assert {one for one, _ in found} <= {ANY_FUNCTION, "f"}


async def test_what_is_remembered_of_deleted_functions_calls_is_forgotten_in_time(
    store: SqlStore,
    stats: SqlStats,
    journal: SpoolJournal,
    function: Function,
    clock: ManualClock,
    tmp_path: Path,
) -> None:
    called(journal, function)
    await store.delete(function.id)
    await journal.synced()
    await stats.prune_some()
    assert rows(tmp_path, "SELECT count(*) FROM counted_call") == [(1,)]
    clock.time += 700
    await prune_all(stats)
    assert rows(tmp_path, "SELECT count(*) FROM counted_call") == [(0,)]


async def test_a_reader_of_very_much_keeps_no_other_tenant_waiting(
    stats: SqlStats, store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another tenant's reader must not wait, nor the folding of that tenant's rows. The rows of the
    first tenant are unchanged.
    """
    old = floor_to(HOUR_S, ENDED) - 2 * HOUR_S
    for tenant in ("much", "little"):
        sums = {
            Stretch(tenant, FINEST_S, old + 10 * at, "f"): CallStats(calls={"success": 1})
            for at in range(12)
        }
        await stats.add(sums)
    half_way, go_on, read = asyncio.Event(), asyncio.Event(), store.database.read

    async def slow(work: Any) -> Any:
        found = await read(work)
        if asyncio.current_task() is reader and not half_way.is_set():
            half_way.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(store.database, "read", slow)
    reader = asyncio.ensure_future(stats.usage("much", WHOLE, DAY_S))
    async with asyncio.timeout(scaled(10)):
        await half_way.wait()
        assert (await stats.of_tenant("little", 0))["f"].count == 12
        await prune_all(stats)
        monkeypatch.undo()
        steps = {
            tenant: {key.step_s for key in await rows_of(store, tenant)}
            for tenant in ("much", "little")
        }
        assert steps == {"much": {FINEST_S}, "little": {MINUTE_S}}
        go_on.set()
        (total,) = (await reader).values()
        assert total.count == 12
        await prune_all(stats)
        assert {key.step_s for key in await rows_of(store, "much")} == {MINUTE_S}


async def rows_of(store: SqlStore, tenant_id: str) -> list[Stretch]:
    columns = tables.call_stats.c
    query = select(columns.tenant_id, columns.step_s, columns.start, columns.function_id)
    query = query.where(columns.tenant_id == tenant_id)
    found = await store.database.read(lambda connection: connection.execute(query).all())
    return [Stretch(*row) for row in found]
