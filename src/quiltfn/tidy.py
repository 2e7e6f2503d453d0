"""Housekeeping of what is kept for a time only: the audit trail, idempotent answers, records of
calls, images; and of the time that decides it."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from quiltfn.clock import ClockNotes, SystemClock
from quiltfn.holdings import Holdings
from quiltfn.ids import continue_behind
from quiltfn.model.cursors import first_id
from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import Answers, Audit, Clock, Operations, RuntimeStore, Stock

# A jump of the wall clock is seen within this time, and what it has to stand is counted from then.
LOOK_EVERY_S = 15.0
EVERY_S = 3600.0
# By how much records may grow beyond their bound; a look costs next to nothing.
RECORDS_EVERY_S = 3.0
ROOM_EVERY_S, FULL_EVERY_S = 5.0, 1.0
REST_S, REST_SHARE = 0.01, 3.0
DAY_S = 86_400


class Room(Protocol):
    """The disk, as far as it is ours. Raises `StoreUnavailable`."""

    async def renew(self) -> bool:
        """Sets aside again what is kept for a full disk; whether it is there now."""

    async def shrink_some(self) -> bool:
        """One step of giving back what is free in the database; whether there may be more."""


async def go_on_in_time(clock: SystemClock, notes: ClockNotes) -> None:
    """At a start: the settled time goes on, and new ids come behind those that there are."""
    note = await notes.load()
    clock.resume(note)
    for one in (await notes.newest_id(), first_id(int(clock.settled()))):
        if one:
            continue_behind(one)


async def keep_time(clock: SystemClock, notes: ClockNotes) -> None:
    """Until it is cancelled: follows the wall clock, keeps what is believed of it, and says when it
    has jumped.
    """
    log, told, kept = structlog.get_logger("quiltfn.tidy"), 0.0, clock.resumed
    is_new = kept is None or kept.boot_id != clock.note().boot_id
    while True:
        is_new = clock.look() or is_new
        jump_s = clock.jump_s
        if jump_s and not told:
            log.warning(
                "the wall clock has jumped; nothing is removed for its age by the new time until "
                "it has stood for an hour",
                seconds=round(jump_s),
            )
        told = jump_s
        if is_new:
            with contextlib.suppress(StoreUnavailable):  # tried again with the next look
                await notes.save(clock.note())
                is_new = False
        await asyncio.sleep(LOOK_EVERY_S)


async def tidy(
    audit: Audit, operations: Operations, answers: Answers, clock: Clock, audit_days: int
) -> None:
    """Once an hour, until it is cancelled. What fails is tried again the next hour."""
    while True:
        now = int(clock.settled())
        try:
            await audit.prune(now - audit_days * DAY_S)
            await operations.prune(now - audit_days * DAY_S)
            await answers.prune(now)
        except StoreUnavailable:
            pass  # health says so already
        await asyncio.sleep(EVERY_S)


async def tidy_records(prune_some: Callable[[], Awaitable[int]], clock: Clock) -> None:
    """Until it is cancelled: takes steps of removing what is too much, as long as there is some.

    Between two steps it rests for longer than a step took, so that others find the writer free.
    """
    while True:
        with contextlib.suppress(StoreUnavailable):  # health says so already
            started = clock.now()
            while await prune_some():
                await asyncio.sleep(REST_S + REST_SHARE * (clock.now() - started))
                started = clock.now()
        await asyncio.sleep(RECORDS_EVERY_S)


async def tidy_room(room: Room, clock: Clock) -> None:
    """Until it is cancelled: gives back what was freed, and sets aside what a full disk needs."""
    while True:
        is_whole = await room.renew()
        with contextlib.suppress(StoreUnavailable):  # health says so already
            started = clock.now()
            while await room.shrink_some():
                await asyncio.sleep(REST_S + REST_SHARE * (clock.now() - started))
                started = clock.now()
            is_whole = is_whole or await room.renew()
        await asyncio.sleep(ROOM_EVERY_S if is_whole else FULL_EVERY_S)


async def tidy_images(
    holdings: Holdings, runtimes: RuntimeStore, stock: Stock, grace_s: float
) -> None:
    """Until it is cancelled: removes images that nothing has named for `grace_s`, or twice that.

    The grace is for what is under way: between an upload and the runtime that names it, and for
    instances of a deleted function that still run.
    """
    while True:
        with contextlib.suppress(StoreUnavailable, OSError):  # health says so already
            await holdings.collect(await runtimes.images_in_use(), stock.images(), grace_s)
        await asyncio.sleep(grace_s / 2)
