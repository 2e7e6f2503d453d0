"""Stored data of asynchronous work is limited, and its removal takes short steps."""

import asyncio
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from contract.pieces import NOW_MS, NOW_S, a_piece, an_accepted, attempted, begun, claimed
from contract.stores import (
    OF_SQLITE,
    a_call,
    a_stored_function,
    done,
    not_none,
    opened_journal,
    restart,
    rows,
)
from manual_clock import ManualClock
from promises import promise
from quiltfn.api.http.errors import error_body
from quiltfn.model.errors import CapacityFull
from quiltfn.model.function import Function
from quiltfn.model.invocation import Status, WorkOutcome
from quiltfn.model.retention import RetentionPolicy, StorageLimit
from quiltfn.ports.work import Input
from quiltfn.store import SpoolJournal, SqlInputRetention, SqlRetention, SqlStore, SqlWork
from quiltfn.store.calls import old_inputs
from quiltfn.store.calls.inputs import INPUT_BYTES
from quiltfn.store.database.disk_reserve import DiskFull
from quiltfn.store.tenants.usage import RECORD_BYTES

pytestmark = promise("D34")

SIZE = 1000
ONE = INPUT_BYTES + SIZE
LATE_S = 4_000_000_000


GIVEN = Input(payload=bytes(SIZE))


async def given(queue: SqlWork, function: Function, count: int) -> list[str]:
    return [await an_accepted(queue, function, input=GIVEN) for _ in range(count)]


async def finished(
    queue: SqlWork, journal: SpoolJournal, function: Function, count: int
) -> list[str]:
    made = await given(queue, function, count)
    for record in await claimed(queue, function, count):
        await attempted(journal, record)
    return made


def kept(path: Path) -> list[object]:
    return [one for (one,) in rows(path, "SELECT invocation_id FROM input ORDER BY 1")]


def test_an_input_counts_no_less_than_half_of_what_it_takes_in_memory() -> None:
    """The counted size limits the memory of claimed work. 6,000 variables without a value have only
    29 KB of names, but take much more memory.
    """
    text = msgspec.json.encode({f"V{number}": "" for number in range(6000)})
    tracemalloc.start()
    try:
        call_input = Input(environment=msgspec.json.decode(text, type=dict[str, str]))
        took = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert call_input.size_bytes >= took / 2


async def test_waiting_work_is_bounded(store: SqlStore, function: Function, tmp_path: Path) -> None:
    other = await a_stored_function(store, tenant_id="other")
    queue = SqlWork(store.database, StorageLimit(tenant=5 * ONE, all=8 * ONE))
    made = await given(queue, function, 5)
    with pytest.raises(CapacityFull) as refused:
        await given(queue, function, 1)
    assert refused.value.details == {"expected": f"at most {5 * ONE} bytes"}
    assert error_body(refused.value), "a body can be made of it"
    made += await given(queue, other, 3)
    with pytest.raises(CapacityFull, match="all calls"):
        await given(queue, other, 1)
    # Four calls at the same time reach the limit, too.
    pieces = [a_piece(function, input=GIVEN) for _ in range(4)]
    results = await asyncio.gather(*map(queue.accept, pieces), return_exceptions=True)
    assert {type(one) for one in results} == {CapacityFull}
    assert kept(tmp_path) == sorted(made)


async def test_inputs_of_calls_that_are_over_make_room_oldest_first(
    store: SqlStore, journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    queue = SqlWork(store.database, StorageLimit(tenant=6 * ONE))
    waiting = [await an_accepted(queue, function, due_at_ms=2 * NOW_MS, input=GIVEN)]
    over = await finished(queue, journal, function, 5)
    waiting += await given(queue, function, 2)
    assert kept(tmp_path) == sorted(waiting + over[2:])
    assert await queue.input(over[0]) is None
    assert await journal.get(function.id, over[0]) is not None


async def test_the_input_of_a_dead_letter_does_not_make_room(
    store: SqlStore, journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    queue = SqlWork(store.database, StorageLimit(tenant=2 * ONE))
    made = await given(queue, function, 2)
    for record in await claimed(queue, function, 2):
        await attempted(journal, record, 1, dead_letter="attempts")
    with pytest.raises(CapacityFull) as refused:
        await given(queue, function, 1)
    assert "dead letters" in (refused.value.hint or "")
    await queue.drop_dead_letter(function.id, made[1])
    (new,) = await given(queue, function, 1)
    assert kept(tmp_path) == [made[0], new]


async def test_full_room_keeps_no_input(
    store: SqlStore, function: Function, tmp_path: Path
) -> None:
    queue = SqlWork(store.database, StorageLimit(tenant=2 * ONE))
    made = await given(queue, function, 2)
    await queue.keep_input(done(a_call(function)), Input(payload=bytes(SIZE)))
    assert kept(tmp_path) == made


async def test_inputs_are_pruned_beyond_the_bound_of_all_whoever_has_most_first(
    store: SqlStore, queue: SqlWork, journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    other = await a_stored_function(store, tenant_id="other")
    most = await finished(queue, journal, function, 6)
    least = await finished(queue, journal, other, 2)
    retention = SqlInputRetention(store.database, StorageLimit(all=5 * ONE))
    while await retention.prune_some():
        pass
    assert kept(tmp_path) == sorted(most[3:] + least)


async def test_what_stays_is_passed_over_once_and_not_in_every_step(
    store: SqlStore,
    queue: SqlWork,
    journal: SpoolJournal,
    function: Function,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The oldest inputs belong to waiting work. However many they are, a step examines only some,
    and the next one continues.
    """
    monkeypatch.setattr(old_inputs, "STEP_ROWS", 4)
    for _ in range(10):
        await an_accepted(queue, function, due_at_ms=2 * NOW_MS, input=GIVEN)
    over = await finished(queue, journal, function, 3)
    retention = SqlInputRetention(store.database, StorageLimit(tenant=11 * ONE))
    steps = 0
    while await retention.prune_some():
        steps += 1
    assert steps == 3
    assert len(kept(tmp_path)) == 11
    assert over[2] in kept(tmp_path)


async def test_a_record_takes_its_input_attempts_and_dead_letter_with_it(
    store: SqlStore, queue: SqlWork, journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    waiting = await given(queue, function, 3)
    for record in await claimed(queue, function, 1):
        await attempted(journal, record, 1, dead_letter="attempts")
    retention = SqlRetention(store.database, ManualClock(LATE_S))
    while await retention.prune_some(RetentionPolicy(count=0, seconds=60)):
        pass
    assert kept(tmp_path) == waiting[1:]
    for table in ("attempt", "dead_letter"):
        assert rows(tmp_path, f"SELECT count(*) FROM {table}") == [(0,)]
    assert len(await claimed(queue, function, 5)) == 2


async def test_a_record_whose_work_waits_is_never_pruned(
    store: SqlStore, queue: SqlWork, journal: SpoolJournal, function: Function
) -> None:
    waiting = await given(queue, function, 5)
    retention = SqlRetention(store.database, ManualClock(LATE_S))
    keep = RetentionPolicy(count=1, seconds=60, size=StorageLimit(tenant=1, all=1))
    assert await retention.prune_some(keep) == 0
    assert [one.invocation_id for one in await claimed(queue, function, 9)] == waiting
    assert await journal.get(function.id, waiting[0]) is not None


async def test_bounds_in_bytes_take_the_output_of_attempts_of_work_that_waits_oldest_first(
    store: SqlStore, queue: SqlWork, journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    """Output is removed in the order of records, even from recent work and between two attempts.
    Nothing else of that work is removed, and limits in number do not affect it.
    """
    over = await finished(queue, journal, function, 2)
    waiting = await given(queue, function, 6)
    over += await given(queue, function, 2)
    for record in await claimed(queue, function, 8):
        retry = WorkOutcome(retry_at_ms=NOW_MS if record.invocation_id in waiting else None)
        journal.opened(begun(record))
        journal.closed(replace(done(begun(record), 1, b"x" * SIZE), outcome=retry))
    await journal.synced()
    for record in await claimed(queue, function):
        journal.opened(begun(record))
    await journal.synced()

    async def left(now: int, keep: RetentionPolicy) -> tuple[list[object], list[object]]:
        retention = SqlRetention(store.database, ManualClock(now))
        while await retention.prune_some(keep):
            pass
        ended = "status NOT IN ('queued', 'running') ORDER BY 1"
        found = rows(tmp_path, f"SELECT invocation_id FROM invocation WHERE {ended}")
        output = "SELECT invocation_id FROM attempt WHERE stdout IS NOT NULL ORDER BY 1"
        return [one for (one,) in found], [one for (one,) in rows(tmp_path, output)]

    def at_most(records: int, outputs: int) -> RetentionPolicy:
        size = records * RECORD_BYTES + outputs * SIZE
        return RetentionPolicy(count=0, seconds=0, size=StorageLimit(tenant=size))

    assert await left(LATE_S, RetentionPolicy(count=9, seconds=0)) == (over[1:], waiting)
    assert await left(LATE_S, at_most(8, 6)) == (over[2:], waiting[2:])
    assert await left(NOW_S, at_most(8, 3)) == (over[2:], waiting[5:])
    assert await left(LATE_S, at_most(6, 0)) == ([], [])
    sizes = rows(tmp_path, "SELECT DISTINCT size_bytes FROM invocation")
    used = rows(tmp_path, "SELECT DISTINCT bytes / number FROM usage WHERE kind = 'record'")
    assert sizes == used == [(RECORD_BYTES,)]
    again = await claimed(queue, function, 9)
    assert [(one.invocation_id, one.attempt) for one in again] == [(one, 2) for one in waiting[1:]]


@OF_SQLITE
async def test_on_a_full_disk_nothing_is_accepted_and_what_runs_ends(
    store: SqlStore, queue: SqlWork, journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    made = await given(queue, function, 4)
    ends, retried = await claimed(queue, function, 2)
    for record in (ends, retried):
        journal.opened(begun(record))
    await journal.synced()
    store.database.reserve.is_spent = True
    with pytest.raises(DiskFull, match="disk is full"):
        await given(queue, function, 1)
    with pytest.raises(DiskFull, match="disk is full"):
        await claimed(queue, function)
    journal.closed(replace(done(begun(ends)), outcome=WorkOutcome()))
    journal.closed(replace(done(begun(retried), 1), outcome=WorkOutcome(retry_at_ms=NOW_MS)))
    await journal.synced()
    assert await queue.cancel(function.id, made[3], NOW_S) is not None
    left = rows(tmp_path, "SELECT invocation_id, epoch FROM work ORDER BY invocation_id")
    assert left == [(made[1], 0), (made[2], 0)]
    store.database.reserve.is_spent = False
    again = await claimed(queue, function, 5)
    assert sorted((one.invocation_id, one.attempt) for one in again) == [(made[1], 2), (made[2], 1)]


async def test_a_start_on_a_full_disk_puts_off_what_becomes_of_claimed_work(
    store: SqlStore,
    queue: SqlWork,
    function: Function,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened_journal(store, tmp_path) as journal:
        (call,) = await given(queue, function, 1)
        (record,) = await claimed(queue, function)
        journal.opened(begun(record))
    await restart(store)

    async def full(*_: object, **__: object) -> None:
        raise DiskFull("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store.database, "write", full)
        journal = SpoolJournal(store.database, tmp_path, ManualClock(), retry_after_s=0.01)
        await journal.start()
        recovered = asyncio.create_task(journal.recovered())
        await asyncio.sleep(0)
        assert not recovered.done()
        assert rows(tmp_path, "SELECT epoch > 0 FROM work") == [(1,)]
    assert await recovered
    assert rows(tmp_path, "SELECT 1 FROM work") == []
    assert not_none(await journal.get(function.id, call)).status is Status.INTERRUPTED
    await journal.aclose()
