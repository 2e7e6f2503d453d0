"""Schedules in the composed platform, by a clock that a test advances over weeks."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest

from manual_clock import ManualClock
from promises import promise
from quiltfn.model.invocation import Status
from quiltfn.model.schedule import Missed, Overlap, Schedule
from quiltfn.ports.work import AcceptedWork
from service.faults import failing
from service.platform_harness import TENANT, Harness, open_harness, until


class SetClock(ManualClock):
    """A machine whose wall clock was just set forward by `ahead` seconds; the trusted time has not
    followed.
    """

    ahead = 0.0

    def unix(self) -> float:
        return self.time + self.ahead

    def trusted(self) -> float:
        return self.time


def new(**fields: object) -> Schedule:
    given = {"cron": "30 2 * * *"} if "every_seconds" not in fields else {}
    return Schedule(**{"id": "", "tenant_id": "", "function_id": "", "name": "n"} | given | fields)  # type: ignore[arg-type]


async def days(harness: Harness, end: datetime, step: timedelta = timedelta(minutes=30)) -> None:
    """Advances the clock in steps up to `end`; at each step, the server fires what is due, as its
    timer would.
    """
    while harness.clock.time < end.timestamp():
        harness.clock.time += step.total_seconds()
        await harness.services.schedules.fire_due()


async def ticks(harness: Harness, name: str = "n") -> list[tuple[float, str, int]]:
    page = await harness.services.schedules.runs(TENANT, name, None, 1000)
    return [(one.tick_ms / 1000, one.outcome, one.missed) for one in reversed(page.items)]


@promise("W16")
@pytest.mark.parametrize(
    ("zone", "start", "shift"),
    [
        ("Europe/Paris", datetime(2026, 3, 20, tzinfo=UTC), 29),
        ("Europe/Paris", datetime(2026, 10, 15, tzinfo=UTC), None),
        ("America/New_York", datetime(2026, 3, 1, tzinfo=UTC), 8),
        ("America/New_York", datetime(2028, 2, 20, tzinfo=UTC), None),  # the period has a leap day
    ],
)
async def test_over_weeks_a_job_runs_once_a_day(
    tmp_path: Path, zone: str, start: datetime, shift: int | None
) -> None:
    """`shift`: the day of the month on which 2:30 does not exist, so that the job runs at 3:00."""
    async with open_harness(tmp_path, ManualClock(start.timestamp())) as harness:
        await harness.active()
        await harness.services.schedules.create(TENANT, "f", new(timezone=zone))
        await days(harness, start + timedelta(days=21))
        found = await ticks(harness)
    assert {outcome for _, outcome, _ in found} == {"accepted"}
    local = [datetime.fromtimestamp(at, ZoneInfo(zone)) for at, _, _ in found]
    assert Counter(Counter(one.date() for one in local).values()) == {1: 21}
    others = [one for one in local if (one.hour, one.minute) != (2, 30)]
    assert [(one.day, one.hour, one.minute) for one in others] == (
        [] if shift is None else [(shift, 3, 0)]
    )


@pytest.mark.parametrize("missed", list(Missed))
async def test_what_a_stop_missed_is_counted_or_run_once(tmp_path: Path, missed: Missed) -> None:
    clock = ManualClock(datetime(2026, 6, 1, tzinfo=UTC).timestamp())
    async with open_harness(tmp_path, clock) as harness:
        await harness.active()
        await harness.services.schedules.create(TENANT, "f", new(missed=missed))
    clock.time += timedelta(days=10, hours=5).total_seconds()
    async with open_harness(tmp_path, clock) as harness:
        await harness.services.schedules.fire_due()
        stored = await harness.services.schedules.get(TENANT, "n")
        found = await ticks(harness)
    ran = missed is Missed.RUN_ONCE
    assert stored.schedule.missed_count == (10 if ran else 11)
    assert stored.schedule.fired_count == int(ran)
    assert sum(count or 1 for _, _, count in found) == 11


async def test_others_are_served_between_any_two_schedules_due_at_once(tmp_path: Path) -> None:
    """A schedule may have thousands of variables, which are all checked at each run: many schedules
    in one step would block the event loop.
    """
    async with open_harness(tmp_path, ManualClock()) as harness:
        await harness.active()
        schedules = harness.services.schedules
        for number in range(30):
            await schedules.create(TENANT, "f", new(every_seconds=3600, name=f"n{number}"))
        turns, most, in_a_row = 0, 0, 0
        prepared = schedules._prepared

        async def counted(schedule: Schedule) -> AcceptedWork:
            nonlocal most, in_a_row
            in_a_row += 1
            most = max(most, in_a_row)
            return await prepared(schedule)

        async def another() -> None:
            nonlocal turns, in_a_row
            while True:
                await asyncio.sleep(0)
                turns, in_a_row = turns + 1, 0

        cast("Any", schedules)._prepared = counted
        other = asyncio.ensure_future(another())
        harness.clock.time += 3601
        await schedules.fire_due()
        other.cancel()
        assert turns >= 10
        assert most <= 3


async def test_free_schedules_need_no_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Releasing a schedule must be cheap, since it happens at the end of each scheduled invocation
    of any tenant.
    """
    async with open_harness(tmp_path, ManualClock()) as harness:
        entry = await harness.active()
        await harness.lifecycle.pause(entry)
        schedules = harness.services.schedules
        for name in "abc":
            given = new(every_seconds=60, name=name, overlap=Overlap.QUEUE)
            await schedules.create(TENANT, "f", given)
        for _ in range(2):
            harness.clock.time += 60
            await schedules.fire_due()
        assert (await ticks(harness, "a"))[-1][1] == "waiting"
        monkeypatch.setattr("quiltfn.store.calls.schedules._is_over", None)
        assert await schedules._store.waiting(50) == ([], True)


async def test_schedules_outlive_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quiltfn.calls.schedules.RETRY_S", 0.01)
    async with open_harness(tmp_path, ManualClock()) as harness:
        schedules = harness.services.schedules
        with failing(schedules, "fire_due", RuntimeError("a mistake")) as fire_due:
            running = asyncio.ensure_future(schedules.run())
            await until(lambda: fire_due.call_count > 1)
            running.cancel()


@promise("W17")
async def test_a_tick_is_run_at_once_when_the_clock_was_set_forward(tmp_path: Path) -> None:
    clock = SetClock(datetime(2026, 6, 1, tzinfo=UTC).timestamp())
    async with open_harness(tmp_path, clock) as harness:
        entry = await harness.active()
        await harness.services.schedules.create(TENANT, "f", new(every_seconds=60))
        clock.ahead = 1800.0
        await harness.services.schedules.fire_due()
        found = (await harness.services.schedules.runs(TENANT, "n", None, 10)).items
        (made,) = [one.invocation_id for one in found if one.invocation_id is not None]
        await harness.work.wait(entry, made, 5)
        record = await harness.work.record(entry, made)
    assert record.status is Status.SUCCESS
