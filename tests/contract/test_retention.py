"""The promises of `SqlRetention`: it removes the oldest records, and none that must stay."""

import time
from pathlib import Path

import pytest

from contract.stores import (
    OF_SQLITE,
    a_call,
    a_stored_function,
    done,
    explained,
    ids_left,
    rows,
)
from manual_clock import ManualClock
from promises import promise
from quiltfn.model.cursors import first_id
from quiltfn.model.function import Function
from quiltfn.model.invocation import Invocation
from quiltfn.model.retention import RetentionPolicy
from quiltfn.store import SpoolJournal, SqlRetention, SqlStore
from quiltfn.store.calls import records
from quiltfn.store.database.sql import statements

pytestmark = promise("D9")

NOW = 1_760_000_000
DAY_S = 86_400
NO_BOUND = RetentionPolicy(count=0, seconds=0)


def made_at(second: int, function: Function, number: int = 0) -> Invocation:
    """A running invocation that was accepted at `second`."""
    return a_call(function, invocation_id=f"{first_id(second)}-7000-8000-{number:012x}")


async def prune(store: SqlStore, keep: RetentionPolicy, now: int = NOW) -> int:
    """Remove everything that is to be removed; return how many records that was."""
    removed, retention = 0, SqlRetention(store.database, ManualClock(now))
    while step := await retention.prune_some(keep):
        removed += step
    return removed


async def kept(journal: SpoolJournal, calls: list[Invocation]) -> list[str]:
    """Store ended invocations in the database; return their ids."""
    for call in calls:
        journal.closed(done(call))
    await journal.synced()
    return [call.invocation_id for call in calls]


async def test_the_oldest_go_until_as_many_are_left_as_are_kept(
    store: SqlStore, journal: SpoolJournal, function: Function
) -> None:
    ids = await kept(journal, [made_at(NOW - 5000 + n, function) for n in range(30)])
    (before,) = await store.load()
    for bound in (NO_BOUND, RetentionPolicy(count=30, seconds=0)):
        assert await prune(store, bound) == 0
    assert await prune(store, RetentionPolicy(count=12, seconds=0)) == 18
    assert await ids_left(journal, function) == ids[18:]
    (after,) = await store.load()
    assert after.counters == before.counters
    assert after.counters.invocation_count == 30


async def test_what_is_older_than_it_is_kept_goes_to_the_second(
    store: SqlStore, journal: SpoolJournal, function: Function
) -> None:
    border = NOW - 7 * DAY_S
    calls = [made_at(border + offset, function, n) for n, offset in enumerate((-9, -1, 0, 1, 9))]
    ids = await kept(journal, calls)
    assert await prune(store, RetentionPolicy(count=0, seconds=7 * DAY_S)) == 2
    assert await ids_left(journal, function) == ids[2:]


async def test_a_call_without_an_end_is_kept_however_old(
    store: SqlStore, journal: SpoolJournal, function: Function
) -> None:
    running = made_at(NOW - 90 * DAY_S, function)
    journal.opened(running)
    await kept(journal, [made_at(NOW - 80 * DAY_S + n, function) for n in range(5)])
    assert await prune(store, RetentionPolicy(count=1, seconds=DAY_S)) == 5
    assert await ids_left(journal, function) == [running.invocation_id]
    await kept(journal, [running])
    assert await prune(store, RetentionPolicy(count=1, seconds=DAY_S)) == 1


async def test_a_call_of_the_last_minute_is_kept_whatever_the_bound(
    store: SqlStore, journal: SpoolJournal, function: Function
) -> None:
    ids = await kept(journal, [made_at(NOW - 61 + n, function) for n in range(4)])
    assert await prune(store, RetentionPolicy(count=1, seconds=1)) == 1
    assert await ids_left(journal, function) == ids[1:]


async def test_ids_that_are_ahead_of_time_do_not_keep_the_bound_from_holding(
    store: SqlStore, journal: SpoolJournal, function: Function
) -> None:
    """If the wall clock was ahead, it leaves ids of the future behind. These invocations count as
    recent only for a minute of the monotonic clock.
    """
    clock = ManualClock(NOW)
    retention = SqlRetention(store.database, clock)
    ids = await kept(journal, [made_at(NOW + 10 * DAY_S + n, function) for n in range(9)])
    for _ in range(3):
        assert await retention.prune_some(RetentionPolicy(count=4, seconds=0)) == 0
        clock.time += 20
    later = await kept(journal, [made_at(NOW + 10 * DAY_S + 60, function)])
    assert await retention.prune_some(RetentionPolicy(count=1, seconds=0)) == 8
    assert await ids_left(journal, function) == [ids[8], *later]


async def test_the_number_of_records_is_known_without_counting(
    store: SqlStore, journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    """The number must stay correct if records are opened, ended, written twice, deleted with their
    function, and pruned.
    """
    gone = await a_stored_function(store)
    for owner in (function, gone):
        calls = [made_at(NOW - 5000 + n, owner, hash(owner.id) % 1000) for n in range(20)]
        for call in calls[:10]:
            journal.opened(call)
        await journal.synced()
        await kept(journal, calls)
        await kept(journal, calls[:5])
    assert counted(tmp_path) == (40, 40)
    await store.delete(gone.id)
    await kept(journal, [a_call(gone)])
    await store.wait_swept()
    assert counted(tmp_path) == (20, 20)
    await prune(store, RetentionPolicy(count=3, seconds=0))
    assert counted(tmp_path) == (3, 3)
    await prune(store, RetentionPolicy(count=0, seconds=100))
    assert counted(tmp_path) == (0, 0)
    await kept(journal, [a_call(function)])
    assert counted(tmp_path) == (1, 1)


def counted(path: Path) -> tuple[object, object]:
    """The stored number of records, and the true one."""
    query = "SELECT sum(number) FROM usage WHERE kind = 'record'"
    ((number,),) = rows(path, query)
    ((truth,),) = rows(path, "SELECT count(*) FROM invocation")
    return number, truth


async def test_a_step_ends_by_the_clock(
    store: SqlStore,
    journal: SpoolJournal,
    function: Function,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await kept(journal, [made_at(NOW - 5000 + n, function) for n in range(100)])
    monkeypatch.setattr(records, "STEP_S", 0.0)
    monkeypatch.setattr(records, "FAR_ROWS", 2)
    at_a_time = await store.database.read(records.at_a_time)
    removed = await SqlRetention(store.database, ManualClock(NOW)).prune_some(
        RetentionPolicy(count=1, seconds=0)
    )
    assert removed == at_a_time < 99
    assert await prune(store, RetentionPolicy(count=1, seconds=0)) == 99 - removed


@OF_SQLITE
async def test_finding_what_goes_reads_no_record(store: SqlStore) -> None:
    """The cost must not grow with the number of records or of waiting ones: the query walks the
    index of each tenant's ended records from one end.
    """
    bounds = {"before": first_id(int(time.time())), "most": 500}
    steps = " · ".join(await explained(store, statements("sqlite")["oldest_ended"], bounds))
    assert "COVERING INDEX invocation_of_tenant (tenant_id=? AND invocation_id<?)" in steps
    assert "TEMP B-TREE" not in steps


@promise("D10")
@OF_SQLITE
async def test_a_start_looks_at_calls_without_an_end_alone(store: SqlStore) -> None:
    given = {"now": NOW, "epoch": 1, "alone": True, "node": ""}
    steps = await explained(store, statements("sqlite")["counters_of_left"], given)
    assert "USING INDEX invocation_open" in steps[0]
