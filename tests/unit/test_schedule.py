"""When schedules are due, and what happens to every tick."""

import contextlib
from datetime import UTC, datetime, timedelta
from itertools import chain, islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from promises import promise
from quiltfn.model.errors import Unprocessable
from quiltfn.model.schedule import LATE_MS, SLEWED_MS, STEP_TICKS, Missed, Schedule, decide
from quiltfn.wire import ScheduleChanges
from quiltfn.wire.check import Invalid, checked

NOON = int(datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp() * 1000)
MINUTE, HOUR = 60_000, 3_600_000


def a_schedule(now_ms: int = NOON, **fields: Any) -> Schedule:
    given = {"cron": "0 * * * *"} if "every_seconds" not in fields else {}
    schedule = Schedule(id="s", tenant_id="t", name="n", function_id="f", **(given | fields))
    schedule.check()
    return schedule.from_now(now_ms)


def local(cron: str, zone: str, start: str, count: int) -> list[str]:
    """The first ticks after a local time, as local times with their offset from UTC."""
    after = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone))
    schedule = a_schedule(int(after.timestamp() * 1000), cron=cron, timezone=zone)
    ticks = islice(schedule.ticks(int(after.timestamp() * 1000)), count)
    shown = [datetime.fromtimestamp(tick / 1000, ZoneInfo(zone)) for tick in ticks]
    return [each.isoformat(timespec="minutes") for each in shown]


PARIS, NEW_YORK = "Europe/Paris", "America/New_York"


@pytest.mark.parametrize(
    ("cron", "zone", "start", "ticks"),
    [
        # A time that the clock skips is due at the end of the gap, so that a job at a fixed time is
        # not lost on that day. Two skipped times are one tick.
        ("30 2 * * *", PARIS, "2026-03-28", "28T02:30+01 29T03:00+02 30T02:30+02"),
        ("30 2 * * *", NEW_YORK, "2026-03-08", "08T03:00-04 09T02:30-04"),
        ("0,30 2 * * *", PARIS, "2026-03-29", "29T03:00+02 30T02:00+02"),
        # A time that occurs twice is due the first time.
        ("30 2 * * *", PARIS, "2026-10-25", "25T02:30+02 26T02:30+01"),
        ("30 1 * * *", NEW_YORK, "2026-11-01", "01T01:30-04 02T01:30-05"),
        # Schedules with an interval of a few minutes go by elapsed time.
        ("*/30 * * * *", PARIS, "2026-10-25T02:00", "25T02:30+02 25T02:00+01 25T02:30+01"),
    ],
)
def test_ticks_about_a_change_of_the_clock(cron: str, zone: str, start: str, ticks: str) -> None:
    expected = [f"{start[:8]}{tick}:00" for tick in ticks.split()]
    assert local(cron, zone, start, len(expected)) == expected


def test_within_the_hour_that_comes_twice_no_tick_lies_before_the_time_asked_of() -> None:
    """The start is in the second occurrence of the hour. cronsim goes by the local time, by which
    it would also be in the first.
    """
    paris = ZoneInfo("Europe/Paris")
    second = datetime(2026, 10, 25, 2, 10, tzinfo=paris, fold=1)
    schedule = a_schedule(cron="30 2 * * *", timezone="Europe/Paris")
    tick = schedule.tick_after(int(second.timestamp() * 1000))
    assert tick is not None
    assert datetime.fromtimestamp(tick / 1000, paris).date().day == 26


def test_an_interval_is_counted_from_when_the_schedule_was_made() -> None:
    schedule = a_schedule(NOON + 123, every_seconds=90)
    assert schedule.next_runs(3) == [NOON + 123 + 90_000 * each for each in (1, 2, 3)]
    assert list(islice(schedule.ticks(NOON + 123 + 90_000), 1)) == [NOON + 123 + 180_000]


@pytest.mark.parametrize(
    ("cron", "names"),
    [
        ("0 3 * *", "five fields"),
        ("0 3 * * * *", "five fields"),
        ("60 3 * * *", "its minute"),
        ("x 3 * * *", "its minute"),
        ("0 24 * * *", "its hour"),
        ("0 0 0 * *", "its day of month"),
        ("0 0 * 13 *", "its month"),
        ("0 0 * * 8", "its day of week"),
        ("0 0 30 2 *", "its day of month"),
        ("* * * * MON#1/2", "its day of week"),
        ("@daily", "five fields"),
    ],
)
def test_what_is_no_cron_expression_is_refused_by_its_field(cron: str, names: str) -> None:
    """The schemas of the API refuse an invalid expression, so that clients can check before they
    send a request.
    """
    with pytest.raises(Invalid, match=names) as refused:
        checked({"cron": cron}, ScheduleChanges)
    assert refused.value.path == "cron"
    assert refused.value.example == "0 3 * * *"


@given(st.text(st.sampled_from("0123456789*,-/#LWMON Fx²"), max_size=30))
def test_no_text_breaks_the_check(text: str) -> None:
    with contextlib.suppress(Invalid):
        checked({"cron": text}, ScheduleChanges)
        assert a_schedule(cron=text).next_due_ms is not None


@pytest.mark.parametrize("zone", ["Europe", "Nowhere/Else", "../etc/passwd", "a\0b", "utc+1"])
def test_a_time_zone_that_is_not_there_is_refused(zone: str) -> None:
    with pytest.raises(Unprocessable, match="timezone must be"):
        a_schedule(timezone=zone)


@pytest.mark.parametrize("given", [{"cron": None}, {"cron": "* * * * *", "every_seconds": 5}])
def test_a_schedule_has_one_of_cron_and_interval(given: dict[str, Any]) -> None:
    with pytest.raises(Unprocessable, match="exactly one of"):
        a_schedule(**given)


# Jitter --------------------------------------------------------------------------------------


@given(st.integers(0, 86_400), st.sampled_from(["* * * * *", "0 */7 * * *", "5 4 * * 0"]))
def test_jitter_keeps_ticks_in_order_and_the_same_after_restart(jitter: int, cron: str) -> None:
    schedule = a_schedule(cron=cron, jitter_seconds=jitter)
    ticks = list(islice(schedule.ticks(NOON), 20))
    due = [schedule.due_ms(tick) for tick in ticks]
    assert due == [replace(schedule).due_ms(tick) for tick in ticks]
    for (tick, at), (later, _) in pairwise(zip(ticks, due, strict=True)):
        assert tick <= at <= tick + jitter * 1000
        assert at < later


def test_jitter_differs_between_schedules() -> None:
    due = {
        replace(a_schedule(jitter_seconds=600), id=str(number)).due_ms(NOON) for number in range(50)
    }
    assert len(due) > 40


# Decisions about ticks -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "later_ms", "run", "missed", "last_missed"),
    [
        ({}, HOUR + LATE_MS, HOUR, 0, None),  # this run is a little late
        ({}, HOUR + LATE_MS + 1, None, 1, HOUR),
        # If many ticks are due, the newest is run, and the others were missed.
        ({"cron": "* * * * *"}, 10 * MINUTE + 5, 10 * MINUTE, 9, 9 * MINUTE),
        ({"every_seconds": 60}, 10 * MINUTE + 5, 10 * MINUTE, 9, 9 * MINUTE),
        # `run_once` runs the newest tick, however late it is.
        ({"missed": Missed.RUN_ONCE}, 5 * HOUR + 30 * MINUTE, 5 * HOUR, 4, 4 * HOUR),
    ],
)
def test_a_tick_is_run_or_missed(
    fields: dict[str, Any], later_ms: int, run: int | None, missed: int, last_missed: int | None
) -> None:
    found = decide(a_schedule(**fields), NOON + later_ms)
    assert found is not None
    assert found.missed == missed
    decided = [found.run_tick_ms, found.missed_tick_ms]
    assert decided == [None if after is None else NOON + after for after in (run, last_missed)]
    assert (found.next.next_tick_ms or 0) > NOON + later_ms


def test_nothing_is_decided_before_it_is_due() -> None:
    schedule = a_schedule()
    assert schedule.next_due_ms == NOON + HOUR
    assert decide(schedule, NOON + HOUR - 1) is None


def test_years_of_missed_ticks_are_counted_step_by_step() -> None:
    schedule, missed, steps = a_schedule(cron="* * * * *"), 0, 0
    later = NOON + 7 * 24 * HOUR
    while (found := decide(schedule, later)) is not None:
        schedule, missed, steps = found.next, missed + found.missed, steps + 1
        assert found.missed <= STEP_TICKS
    assert missed + 1 == 7 * 24 * 60
    assert steps == 11
    quick = decide(a_schedule(every_seconds=1), NOON + 10 * 365 * 24 * HOUR)
    assert quick is not None
    assert quick.missed == 10 * 365 * 24 * 3600 - 1


def test_a_change_of_when_begins_anew_and_another_leaves_the_next_tick() -> None:
    schedule = a_schedule(every_seconds=3600)
    later = NOON + HOUR // 2
    assert schedule.changed({"payload": "x", "missed": Missed.RUN_ONCE}, later).next_tick_ms == (
        NOON + HOUR
    )
    assert schedule.changed({"every_seconds": 60}, later).next_tick_ms == later + 60_000
    as_cron = schedule.changed({"cron": "0 5 * * *"}, later)
    assert (as_cron.every_seconds, as_cron.cron) == (None, "0 5 * * *")
    paused = schedule.changed({"enabled": False}, later)
    assert (paused.next_tick_ms, paused.next_runs(5)) == (None, [])
    assert paused.changed({"enabled": True}, later).next_tick_ms == later + HOUR
    with pytest.raises(Unprocessable):
        schedule.changed({"every_seconds": None}, later)


MOVES = st.one_of(
    st.tuples(st.just("pass"), st.integers(1, 3 * HOUR)),
    st.tuples(st.just("jump"), st.integers(-2 * 24 * HOUR, 2 * 24 * HOUR)),
    st.tuples(st.just("edit"), st.sampled_from(["*/7 * * * *", "0 * * * *", "30 2 * * *"])),
    st.tuples(st.just("edit"), st.sampled_from([1, 60, 5000])),
    st.tuples(st.just("pause"), st.booleans()),
    st.tuples(st.just("jitter"), st.sampled_from([0, 5, 900])),
)


@promise("W15")
@settings(max_examples=100)
@given(
    st.lists(MOVES, max_size=20),
    st.sampled_from(list(Missed)),
    st.sampled_from(["Europe/Paris", "America/New_York", "UTC"]),
)
def test_ticks_are_decided_on_once(moves: list[tuple[str, Any]], missed: Missed, zone: str) -> None:
    """The decisions must be correct if a server is restarted, its clock is set, and users change
    the schedule. Everything between two looks happens unnoticed, as while a server is down.
    """
    now = int(datetime(2026, 10, 24, 22, tzinfo=UTC).timestamp() * 1000)
    schedule = a_schedule(now, cron="*/20 * * * *", timezone=zone, missed=missed)
    for move, value in moves:
        if move in ("pass", "jump"):
            now += value
        if schedule.was_set_back(now):
            schedule = schedule.from_now(now)
        due = 0 if schedule.next_tick_ms is None else expected(schedule, now)
        decided = 0
        while (found := decide(schedule, now)) is not None:
            decided += found.missed
            if found.run_tick_ms is not None:
                decided += 1
            assert found.next.next_tick_ms is None or found.next.next_tick_ms > (
                schedule.next_tick_ms or 0
            )
            schedule = found.next
        assert decided == due, "a tick was lost, or decided on twice"
        assert schedule.next_due_ms is None or schedule.next_due_ms > now
        if move == "edit":
            field = "cron" if isinstance(value, str) else "every_seconds"
            schedule = schedule.changed({field: value}, now)
        elif move == "pause":
            schedule = schedule.changed({"enabled": not value}, now)
        elif move == "jitter":
            schedule = schedule.changed({"jitter_seconds": value}, now)
        if schedule.enabled:  # the schedule never waits for a time after its next tick
            assert schedule.next_tick_ms is not None
            assert schedule.next_tick_ms <= (schedule.tick_after(now + SLEWED_MS) or 0)


def expected(schedule: Schedule, now: int) -> int:
    """How many ticks are due, including `next_tick_ms`."""
    first = schedule.next_tick_ms
    assert first is not None
    if schedule.every_seconds is not None:
        step = schedule.every_seconds * 1000
        # All but the last two ticks are due whatever the jitter is.
        sure = max(0, (now - first) // step - 1)
        last = (first + each * step for each in (sure, sure + 1, sure + 2))
        return sure + sum(schedule.due_ms(each) <= now for each in last)
    for count, tick in enumerate(chain((first,), islice(schedule.ticks(first), 1000))):
        if tick > now or schedule.due_ms(tick) > now:
            return count
    raise AssertionError("more than this test looks at")


@promise("W17")
def test_a_clock_that_is_set_back_does_not_stop_a_schedule() -> None:
    """The clock's year is set wrong, and later corrected."""
    schedule = a_schedule(cron="0 * * * *")
    far = decide(schedule, NOON + 365 * 24 * HOUR)
    while far is not None:
        schedule, far = far.next, decide(far.next, NOON + 365 * 24 * HOUR)
    back = NOON + timedelta(minutes=5).seconds * 1000
    assert schedule.was_set_back(back)
    assert schedule.from_now(back).next_tick_ms == NOON + HOUR


@pytest.mark.parametrize(
    "fields",
    [
        {"cron": "*/7 3 * * *", "timezone": "Europe/Paris", "jitter_seconds": 600},
        {"cron": "0 0 */28 2 MON#5", "jitter_seconds": 600},
        {"every_seconds": 40, "jitter_seconds": 86_400},
        {"cron": "0 3 * * *"},
    ],
)
def test_the_next_runs_are_the_next_ticks_each_when_it_is_due(fields: dict[str, Any]) -> None:
    schedule = a_schedule(**fields)
    ticks = [schedule.next_tick_ms, *islice(schedule.ticks(schedule.next_tick_ms or 0), 4)]
    assert schedule.next_runs(5) == [schedule.due_ms(tick or 0) for tick in ticks]


def test_the_next_runs_are_searched_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """29 February is a Monday every 28 years, so each search takes milliseconds."""
    schedule = a_schedule(cron="0 0 */28 2 MON#5", jitter_seconds=86_400)
    shown = schedule.next_runs(5)
    monkeypatch.setattr("quiltfn.model.schedule.CronSim", None)
    assert schedule.next_runs(5) == shown


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"cron": "0 3 * * *"}, "At 03:00 every day"),
        ({"cron": "30 9 * * 1-5"}, "At 09:30 on Monday through Friday"),
        ({"every_seconds": 900}, "Every 15 minutes"),
        ({"every_seconds": 3600}, "Every hour"),
        ({"every_seconds": 172_800}, "Every 2 days"),
        ({"every_seconds": 61}, "Every 61 seconds"),
    ],
)
def test_a_schedule_is_said_in_words(fields: dict[str, Any], words: str) -> None:
    assert a_schedule(**fields).in_words() == words
