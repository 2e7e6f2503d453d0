"""Schedules: when each is due, and the decision on every tick. Nothing here reads a clock.

A tick is an instant of a cron expression or an interval. It is due up to `jitter_seconds` later,
but before the next tick. The delay depends only on the schedule's id and the tick.

Rule 1: ticks are decided in order, each once.
Rule 2: of several due ticks, the newest runs if it is at most a minute late. The others are missed,
which means that they are only counted.
Rule 3: with `missed: run_once` the newest runs even if it is later.

Cron expressions and daylight saving time are handled by cronsim, which follows Debian's cron.
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from itertools import islice, zip_longest
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from cronsim import CronSim

from quiltfn.model.errors import NotFound, Outdated, Unprocessable

LATE_MS = 60_000
# NTP may slew a clock back by this much; a larger step means that the clock was set.
SLEWED_MS = 30_000
# The number of ticks of a cron expression that one decision examines.
STEP_TICKS = 1000
UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
TIMING = ("cron", "every_seconds", "timezone", "jitter_seconds", "enabled")
CRON_EXAMPLE = "0 3 * * *"


class UnknownTimeZone(Unprocessable):
    """This machine has no time zone of that name."""


class Overlap(StrEnum):
    """What a tick does while an earlier run of its schedule is unfinished."""

    ALLOW = "allow"
    SKIP = "skip"
    QUEUE = "queue"


class Missed(StrEnum):
    """What happens to ticks that could not run when they were due."""

    SKIP = "skip"
    RUN_ONCE = "run_once"


class RunOutcome(StrEnum):
    """The decision on a tick."""

    ACCEPTED = "accepted"
    WAITING = "waiting"
    SKIPPED = "skipped"
    MISSED = "missed"


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """When and with which input a function runs by itself. One of `cron` and `every_seconds` is
    set.

    `anchor_ms`: the time from which an interval's ticks are counted. `next_tick_ms`: the first
    undecided tick; None: there is none. `next_due_ms`: when that tick is due. `looked_at_ms`: when
    that tick was computed. Times ending with `_ms` are Unix milliseconds, others Unix seconds.
    `revision`: the number of changes by callers.
    """

    id: str
    tenant_id: str
    name: str
    function_id: str
    cron: str | None = None
    every_seconds: int | None = None
    timezone: str = "UTC"
    payload: str | None = None
    environment: dict[str, str] | None = None
    overlap: Overlap = Overlap.ALLOW
    missed: Missed = Missed.SKIP
    jitter_seconds: int = 0
    enabled: bool = True
    created_at: int = 0
    updated_at: int = 0
    revision: int = 1
    anchor_ms: int = 0
    next_tick_ms: int | None = None
    next_due_ms: int | None = None
    looked_at_ms: int = 0
    missed_count: int = 0
    skipped_count: int = 0
    fired_count: int = 0

    def check(self) -> None:
        """Raises `Unprocessable` if the fields, each of them valid, contradict each other, or if
        this machine does not know the time zone.
        """
        if (self.cron is None) == (self.every_seconds is None):
            raise Unprocessable(
                "exactly one of cron and every_seconds must be given",
                details={
                    "field": "cron",
                    "expected": "given, or every_seconds: exactly one of them",
                    "example": {"cron": CRON_EXAMPLE},
                },
            )
        zone_of(self.timezone)

    def changed(self, changes: Mapping[str, Any], now_ms: int) -> "Schedule":
        """A copy with other values of some fields. If the values change its ticks, an undecided
        tick is dropped, and the next tick is after `now_ms`. Setting `cron` resets `every_seconds`
        to None, and vice versa. Raises `Unprocessable`.
        """
        values = dict(changes)
        for name, other in (("cron", "every_seconds"), ("every_seconds", "cron")):
            if values.get(name) is not None and other not in values:
                values[other] = None
        after = msgspec.structs.replace(self, **values, updated_at=now_ms // 1000)
        after.check()
        is_timed_alike = all(getattr(self, name) == getattr(after, name) for name in TIMING)
        return after if is_timed_alike else after.from_now(now_ms)

    def from_now(self, now_ms: int) -> "Schedule":
        """A copy whose ticks are counted from `now_ms`, and whose next tick is after that."""
        anchored = msgspec.structs.replace(self, anchor_ms=now_ms, looked_at_ms=now_ms)
        return anchored.with_next(anchored.tick_after(now_ms) if self.enabled else None)

    def with_next(self, tick_ms: int | None) -> "Schedule":
        """A copy with this tick as the next."""
        due_ms = None if tick_ms is None else self.due_ms(tick_ms)
        return msgspec.structs.replace(self, next_tick_ms=tick_ms, next_due_ms=due_ms)

    def was_set_back(self, now_ms: int) -> bool:
        """Whether the clock was set back since the next tick was computed. The next tick may then
        be far away, and `from_now` computes it again.
        """
        return self.enabled and now_ms < self.looked_at_ms - SLEWED_MS

    def tick_after(self, after_ms: int) -> int | None:
        """The first tick after that time; None if there is none within 50 years."""
        return next(self.ticks(after_ms), None)

    def ticks(self, after_ms: int) -> Iterator[int]:
        """All ticks after that time, in order."""
        if self.every_seconds is not None:
            step = self.every_seconds * 1000
            tick = self.anchor_ms + max(0, (after_ms - self.anchor_ms) // step + 1) * step
            while True:
                yield tick
                tick += step
        yield from _cron_ticks(str(self.cron), zone_of(self.timezone), after_ms)

    def due_ms(self, tick_ms: int) -> int:
        """When the tick is due. The result is the same at any time and on any machine."""
        if not self.jitter_seconds:
            return tick_ms
        return self._due_before(tick_ms, self.tick_after(tick_ms))

    def _due_before(self, tick_ms: int, following: int | None) -> int:
        """When the tick is due. `following`: the next tick."""
        if not self.jitter_seconds:
            return tick_ms
        room = self.jitter_seconds * 1000 + 1
        if following is not None:
            room = min(room, following - tick_ms)
        digest = hashlib.sha256(f"{self.id} {tick_ms}".encode()).digest()
        return tick_ms + int.from_bytes(digest[:8]) % room

    def in_words(self) -> str:
        """A description of its ticks, such as "At 03:00 every day" or "Every 15 minutes"."""
        if self.cron is not None:
            return _cron_in_words(self.cron)
        seconds = self.every_seconds or 0
        size, unit = next((size, unit) for size, unit in UNITS if seconds % size == 0)
        count = seconds // size
        return f"Every {unit}" if count == 1 else f"Every {count} {unit}s"

    def next_runs(self, count: int) -> list[int]:
        """When the next ticks are due, in Unix milliseconds."""
        first = self.next_tick_ms
        if first is None:
            return []
        if self.cron is None:
            later = tuple(islice(self.ticks(first), count))
        else:
            later = _cron_ticks_behind(self.cron, self.timezone, first, count)
        pairs = zip_longest((first, *later), later)
        return [self._due_before(*pair) for pair in islice(pairs, count)]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The decision on due ticks. `run_tick_ms`: the tick that runs, or None. `missed`: how many
    were missed, up to `missed_tick_ms`. `next`: the schedule afterwards.
    """

    run_tick_ms: int | None
    missed: int
    missed_tick_ms: int | None
    next: Schedule


def decide(schedule: Schedule, now_ms: int) -> Decision | None:
    """Applies rules 1 to 3 at the time `now_ms`; None: nothing is due. If very many ticks were
    missed, decides on some of them, so that the next tick is already due.
    """
    first = schedule.next_tick_ms
    if first is None or schedule.next_due_ms is None or schedule.next_due_ms > now_ms:
        return None
    newest, before, count, following = _due(schedule, first, now_ms)
    after = msgspec.structs.replace(schedule, looked_at_ms=now_ms).with_next(following)
    is_last = after.next_due_ms is None or after.next_due_ms > now_ms
    is_late = now_ms - schedule.due_ms(newest) > LATE_MS
    if is_last and (schedule.missed is Missed.RUN_ONCE or not is_late):
        missed_tick = before if count > 1 else None
        return Decision(
            run_tick_ms=newest, missed=count - 1, missed_tick_ms=missed_tick, next=after
        )
    return Decision(run_tick_ms=None, missed=count, missed_tick_ms=newest, next=after)


def _due(schedule: Schedule, first: int, now_ms: int) -> tuple[int, int, int, int | None]:
    """Returns the newest due tick, the one before it, the number of due ticks, and the
    next tick.
    """
    if schedule.every_seconds is not None:
        step = schedule.every_seconds * 1000
        newest = max(first, first + (now_ms - first) // step * step)
        if schedule.due_ms(newest) > now_ms:
            newest -= step
        return newest, newest - step, (newest - first) // step + 1, newest + step
    newest, before, count = first, first, 1
    for tick in schedule.ticks(first):
        if count == STEP_TICKS or tick > now_ms or schedule.due_ms(tick) > now_ms:
            return newest, before, count, tick
        newest, before, count = tick, newest, count + 1
    return newest, before, count, None


def no_such_schedule() -> NotFound:
    return NotFound("there is no schedule with this name")


def changed_meanwhile() -> Outdated:
    """The error if someone has changed the schedule since it was read."""
    return Outdated("the schedule was changed at the same time; repeat the request")


@functools.lru_cache(maxsize=1024)
def zone_of(name: str) -> tzinfo:
    """A time zone by its name. Raises `UnknownTimeZone` if this machine does not have it."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        expected = "a time zone that this machine knows (Debian package tzdata), by its full name"
        raise UnknownTimeZone.field("timezone", expected, name, "Europe/Paris") from None


@functools.lru_cache(maxsize=2048)
def _cron_ticks_behind(expression: str, timezone: str, tick_ms: int, count: int) -> tuple[int, ...]:
    """The next ticks of an expression. Cached, since every display of a schedule needs them, and
    finding a tick that comes every 28 years takes milliseconds.
    """
    return tuple(islice(_cron_ticks(expression, zone_of(timezone), tick_ms), count))


@functools.lru_cache(maxsize=2048)
def _cron_in_words(expression: str) -> str:
    return CronSim(expression, datetime.fromtimestamp(0, UTC)).explain()


def _cron_ticks(expression: str, zone: tzinfo, after_ms: int) -> Iterator[int]:
    # cronsim uses local time: if local time is set back, its first results may precede `after_ms`.
    last = after_ms
    for found in CronSim(expression, datetime.fromtimestamp(after_ms // 1000, zone)):
        tick = round(found.timestamp()) * 1000
        if tick > last:  # two local times that the clock skips may be the same instant
            last = tick
            yield tick
