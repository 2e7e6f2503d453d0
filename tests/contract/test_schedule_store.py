"""The promises of `SqlSchedules`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from contract.pieces import a_piece
from contract.stores import SharedStoreOpener, StoreOpener, a_stored_function, an_id, not_none
from promises import promise
from quiltfn.model.errors import CapacityFull, Conflict, NotFound, Outdated, RateLimited
from quiltfn.model.function import Function
from quiltfn.model.invocation import Source
from quiltfn.model.schedule import Missed, Overlap, RunOutcome, Schedule, decide
from quiltfn.ports.schedules import Firing, ScheduleRun
from quiltfn.ports.work import AcceptedWork
from quiltfn.store import SqlStore, SqlWork
from quiltfn.store.calls import schedules as schedules_module
from quiltfn.store.calls.schedules import WAITING_MAX, SqlSchedules
from quiltfn.store.database import tables

NOW = 1_760_000_000_000
MINUTE = 60_000
MANY = 100


def schedules_of(store: SqlStore) -> SqlSchedules:
    return SqlSchedules(store.database, SqlWork(store.database).accept_in)


def a_schedule(function: Function, **changes: Any) -> Schedule:
    fields: dict[str, Any] = {"name": "nightly", "every_seconds": 60} | changes
    schedule = Schedule(id=an_id(), tenant_id=function.tenant_id, function_id=function.id, **fields)
    return schedule.from_now(NOW)


async def a_stored_schedule(store: SqlStore, function: Function, **changes: Any) -> Schedule:
    schedule = a_schedule(function, **changes)
    await schedules_of(store).add(schedule, MANY)
    return schedule


def work_for(function: Function, due_ms: int = NOW, max_queued: int = 100) -> AcceptedWork:
    piece = a_piece(function, due_at_ms=due_ms, max_queued=max_queued)
    record = replace(piece.record, source=Source.SCHEDULE, due_at=due_ms // 1000)
    return replace(piece, record=record, expires_at_ms=due_ms + 3_600_000)


def firing(schedule: Schedule, function: Function, now_ms: int, **work: int) -> Firing:
    decision = not_none(decide(schedule, now_ms))
    made = work_for(function, now_ms, **work) if decision.run_tick_ms is not None else None
    return Firing(schedule=schedule, decision=decision, work=made, refusal=None, now=now_ms // 1000)


async def fire(store: SqlStore, function: Function, now_ms: int, **work: int) -> RunOutcome | None:
    """Fire the schedule `nightly` at `now_ms`; return the outcome."""
    schedules = schedules_of(store)
    stored = not_none(await schedules.get(function.tenant_id, "nightly"))
    (outcome,) = await schedules.fire([firing(stored.schedule, function, now_ms, **work)])
    return outcome


async def runs(store: SqlStore, schedule: Schedule, limit: int = 5000) -> Sequence[ScheduleRun]:
    return (await schedules_of(store).runs(schedule.id, None, limit)).items


async def ids_of_work(store: SqlStore, function: Function) -> list[str]:
    ids = select(tables.work.c.invocation_id).where(tables.work.c.function_id == function.id)
    return await store.database.read(lambda connection: list(connection.execute(ids).scalars()))


async def test_a_schedule_comes_back_as_stored(open_store: StoreOpener, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        function = await a_stored_function(store)
        schedule = await a_stored_schedule(
            store, function, payload="ä", environment={"A": "b"}, missed=Missed.RUN_ONCE
        )
        other = await a_stored_schedule(
            store, function, name="b", every_seconds=None, cron="0 3 * * *"
        )
    async with open_store(tmp_path) as store:
        schedules = schedules_of(store)
        found = not_none(await schedules.get("default", "nightly"))
        assert (found.schedule, found.last_run) == (schedule, None)
        assert await schedules.get("else", "nightly") is None
        listed = await schedules.of_tenant("default", "", 10)
        assert [each.schedule for each in listed] == [schedule, other]
        assert [
            each.schedule for each in await schedules.of_tenant("default", schedule.id, 10)
        ] == [other]
        assert await schedules.of_tenant("else", "", 10) == []
        assert await schedules.next_due_ms() == min(
            schedule.next_due_ms or 0, other.next_due_ms or 0
        )


async def test_names_numbers_and_functions_are_bounds(store: SqlStore, function: Function) -> None:
    schedules = schedules_of(store)
    await schedules.add(a_schedule(function), 2)
    with pytest.raises(Conflict, match="is taken"):
        await schedules.add(a_schedule(function), 2)
    await schedules.add(a_schedule(function, name="b"), 2)
    with pytest.raises(RateLimited, match="2 schedules, its limit"):
        await schedules.add(a_schedule(function, name="c"), 2)
    gone = replace(function, id=an_id())
    with pytest.raises(NotFound):
        await schedules.add(a_schedule(gone, name="c"), 9)


async def test_a_tick_is_accepted_and_the_next_follows(store: SqlStore, function: Function) -> None:
    schedule = await a_stored_schedule(store, function)
    assert await schedules_of(store).due(NOW + MINUTE - 1, 10) == []
    assert await schedules_of(store).due(NOW + MINUTE, 10) == [schedule]
    assert await fire(store, function, NOW + MINUTE) is RunOutcome.ACCEPTED
    stored = not_none(await schedules_of(store).get("default", "nightly"))
    assert (stored.schedule.next_tick_ms, stored.schedule.fired_count) == (NOW + 2 * MINUTE, 1)
    assert stored.last_run is not None
    (accepted,) = await ids_of_work(store, function)
    assert stored.last_run.invocation_id == accepted
    assert (stored.last_run.tick_ms, stored.last_run.status) == (NOW + MINUTE, "queued")
    # All missed ticks together are one row, which counts them.
    assert await fire(store, function, NOW + 10 * MINUTE + 5000) is RunOutcome.ACCEPTED
    newest, missed, _ = await runs(store, schedule)
    assert (newest.outcome, newest.tick_ms) == (RunOutcome.ACCEPTED, NOW + 10 * MINUTE)
    assert (missed.outcome, missed.missed) == (RunOutcome.MISSED, 8)
    stored = not_none(await schedules_of(store).get("default", "nightly"))
    assert (stored.schedule.missed_count, stored.schedule.fired_count) == (8, 2)


@promise("W15")
async def test_servers_fire_a_tick_once(open_shared: SharedStoreOpener, tmp_path: Path) -> None:
    """Both servers read the tick as due; the second finds that the first has decided about it."""
    async with open_shared(tmp_path, "a") as store, open_shared(tmp_path, "b") as other:
        function = await a_stored_function(store)
        schedule = await a_stored_schedule(store, function)
        mine = firing(schedule, function, NOW + MINUTE)
        theirs = firing(schedule, function, NOW + MINUTE)
        assert await schedules_of(store).fire([mine]) == [RunOutcome.ACCEPTED]
        assert await schedules_of(other).fire([theirs]) == [None]
        assert len(await runs(other, schedule)) == 1
        assert len(await ids_of_work(other, function)) == 1


async def test_a_change_and_a_tick_both_persist(store: SqlStore, function: Function) -> None:
    schedules = schedules_of(store)
    read = await a_stored_schedule(store, function)
    late = firing(read, function, NOW + MINUTE)
    saved = await schedules.save(read.changed({"every_seconds": 5}, NOW + 1), read)
    assert saved.revision == 2
    assert await schedules.fire([late]) == [None]
    with pytest.raises(Outdated):
        await schedules.save(read.changed({"every_seconds": 6}, NOW + 1), read)
    assert await fire(store, function, NOW + 5001) is RunOutcome.ACCEPTED
    with pytest.raises(Outdated):
        await schedules.save(saved.changed({"payload": "x"}, NOW), saved)
    stored = not_none(await schedules.get("default", "nightly"))
    assert (stored.schedule.every_seconds, stored.schedule.fired_count) == (5, 1)
    await schedules.remove("default", "nightly")
    with pytest.raises(NotFound):
        await schedules.save(stored.schedule, stored.schedule)


async def test_refused_work_is_a_missed_tick(store: SqlStore, function: Function) -> None:
    schedule = await a_stored_schedule(store, function)
    assert await fire(store, function, NOW + MINUTE, max_queued=1) is RunOutcome.ACCEPTED
    assert await fire(store, function, NOW + 2 * MINUTE, max_queued=1) is RunOutcome.MISSED
    newest = (await runs(store, schedule))[0]
    assert (newest.outcome, newest.missed, newest.invocation_id) == (RunOutcome.MISSED, 1, None)
    assert newest.reason
    assert len(await ids_of_work(store, function)) == 1


async def test_a_tick_is_skipped_during_a_run(store: SqlStore, function: Function) -> None:
    schedule = await a_stored_schedule(store, function, overlap=Overlap.SKIP)
    assert await fire(store, function, NOW + MINUTE) is RunOutcome.ACCEPTED
    assert await fire(store, function, NOW + 2 * MINUTE) is RunOutcome.SKIPPED
    await end(store, function, (await runs(store, schedule))[-1])
    assert await fire(store, function, NOW + 3 * MINUTE) is RunOutcome.ACCEPTED
    stored = not_none(await schedules_of(store).get("default", "nightly"))
    assert (stored.schedule.fired_count, stored.schedule.skipped_count) == (2, 1)


@promise("W18")
async def test_a_tick_waits_and_is_accepted_once(store: SqlStore, function: Function) -> None:
    schedule = await a_stored_schedule(store, function, overlap=Overlap.QUEUE)
    schedules = schedules_of(store)
    assert await schedules.waiting(10) == ([], False)
    assert await fire(store, function, NOW + MINUTE) is RunOutcome.ACCEPTED
    for number in range(WAITING_MAX):
        assert await fire(store, function, NOW + (2 + number) * MINUTE) is RunOutcome.WAITING
    more = NOW + (2 + WAITING_MAX) * MINUTE
    assert await fire(store, function, more) is RunOutcome.SKIPPED
    assert await schedules.waiting(10) == ([], True)
    assert await schedules.start_waiting(schedule, work_for(function)) is None
    await end(store, function, (await runs(store, schedule))[-1])
    (ready,), waits = await schedules.waiting(10)
    assert (ready.id, waits) == (schedule.id, True)
    assert await schedules.start_waiting(schedule, work_for(function)) is RunOutcome.ACCEPTED
    assert await schedules.start_waiting(schedule, work_for(function)) is None
    oldest = (await runs(store, schedule))[-2]
    assert (oldest.tick_ms, oldest.outcome) == (NOW + 2 * MINUTE, RunOutcome.ACCEPTED)
    await schedules.drop_waiting(schedule, "no more")
    assert await schedules.waiting(10) == ([], False)
    stored = not_none(await schedules.get("default", "nightly"))
    counts = (
        stored.schedule.fired_count,
        stored.schedule.skipped_count,
        stored.schedule.missed_count,
    )
    assert counts == (2, 1, WAITING_MAX - 1)


@promise("W17")
async def test_a_clock_set_back_repeats_no_tick(store: SqlStore, function: Function) -> None:
    schedule = await a_stored_schedule(store, function, every_seconds=None, cron="* * * * *")
    schedules = schedules_of(store)
    first = schedule.next_tick_ms or 0
    assert await fire(store, function, first) is RunOutcome.ACCEPTED
    assert await fire(store, function, first + 11 * MINUTE) is RunOutcome.ACCEPTED
    assert await schedules.set_back(first + 11 * MINUTE, 10) == []
    (read,) = await schedules.set_back(first - MINUTE, 10)
    await schedules.save(read.from_now(first - MINUTE), read)
    assert await fire(store, function, first) is None
    # All missed ticks are due once more, and are run this time, even the last one, whose row says
    # that it was missed.
    for number in range(1, 11):
        assert await fire(store, function, first + number * MINUTE) is RunOutcome.ACCEPTED
    assert await fire(store, function, first + 11 * MINUTE) is None
    assert len(await ids_of_work(store, function)) == 12


async def test_a_requested_run_leaves_the_tick(store: SqlStore, function: Function) -> None:
    schedule = await a_stored_schedule(store, function)
    schedules = schedules_of(store)
    await schedules.run_now(schedule, work_for(function), NOW + MINUTE)
    await schedules.run_now(schedule, work_for(function), NOW + MINUTE)
    assert await fire(store, function, NOW + MINUTE) is RunOutcome.ACCEPTED
    assert [each.is_manual for each in await runs(store, schedule)].count(True) == 2
    with pytest.raises(CapacityFull):
        await schedules.run_now(schedule, work_for(function, max_queued=3), NOW + MINUTE)
    assert len(await runs(store, schedule)) == 3


@promise("W19")
async def test_open_and_newest_runs_are_kept(
    store: SqlStore, function: Function, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert schedules_module.RUNS_KEPT == 1000
    monkeypatch.setattr(schedules_module, "RUNS_KEPT", 50)
    schedule = await a_stored_schedule(store, function, overlap=Overlap.SKIP)
    assert await fire(store, function, NOW + MINUTE) is RunOutcome.ACCEPTED
    for number in range(2, 62):
        assert await fire(store, function, NOW + number * MINUTE) is RunOutcome.SKIPPED
    kept = await runs(store, schedule)
    assert len(kept) == 51
    assert kept[-1].outcome is RunOutcome.ACCEPTED
    page = (await schedules_of(store).runs(schedule.id, kept[3].tick_ms, 2)).items
    assert list(page) == list(kept[4:6])


@promise("W19")
async def test_deleted_schedules_leave_nothing(store: SqlStore, function: Function) -> None:
    schedules = schedules_of(store)
    schedule = await a_stored_schedule(store, function)
    assert await fire(store, function, NOW + MINUTE) is RunOutcome.ACCEPTED
    assert await schedules.remove("default", "nightly")
    assert not await schedules.remove("default", "nightly")
    assert await runs(store, schedule) == []
    again = await a_stored_schedule(store, function)
    assert await fire(store, function, NOW + MINUTE) is RunOutcome.ACCEPTED
    late = firing(replace(again, next_tick_ms=NOW + 2 * MINUTE), function, NOW + 2 * MINUTE)
    await store.delete(function.id)
    assert await schedules.get("default", "nightly") is None
    assert await schedules.next_due_ms() is None
    assert await schedules.fire([late]) == [None]
    await store.wait_swept()
    assert await runs(store, again) == []


async def end(store: SqlStore, function: Function, run: ScheduleRun) -> None:
    """End the invocation of a run."""
    assert run.invocation_id is not None
    assert not_none(
        await SqlWork(store.database).cancel(function.id, run.invocation_id, NOW // 1000)
    )
