"""Background loops that remove expired data, and the clock for its age.

Each runs until it is cancelled. A database error only delays it: the health check reports that.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from quiltfn.api.services import Services
from quiltfn.base.clock import ClockStore, ResumableClock
from quiltfn.base.ids import continue_behind
from quiltfn.model.cursors import first_id
from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import Clock

# Maximum seconds until a jump of the wall clock is noticed.
LOOK_EVERY_S = 15.0
EVERY_S = 3600.0
# Seconds between checks of the records' limit, which records may exceed until then. A check is a
# lookup in a small table.
RECORDS_EVERY_S = 3.0
DISK_EVERY_S, FULL_EVERY_S = 5.0, 1.0
# The pause after a step: seconds, plus a multiple of the step's duration. So other writes find the
# writing thread free most of the time.
REST_S, REST_SHARE = 0.01, 3.0
DAY_S = 86_400


class DiskSpace(Protocol):
    """The disk space that the store uses. Raises `StoreUnavailable`."""

    async def refill_reserve(self) -> bool:
        """Allocate the reserve for a full disk if it was used, then make the deferred writes;
        return whether the reserve exists and nothing is deferred.
        """

    async def vacuum_some(self) -> bool:
        """Return some free pages of the database to the disk; return whether there may be more."""


async def resume_clock(clock: ResumableClock, store: ClockStore) -> None:
    """Continue trusted time. Call it at start, before trusted time is used."""
    clock.resume(await store.load())


async def continue_ids(clock: ResumableClock, store: ClockStore) -> None:
    """Make new ids sort after every id in the main tables of the store. Call it at start, once the
    journal is stored.
    """
    for newest in (await store.newest_id(), first_id(int(clock.trusted()))):
        if newest:
            continue_behind(newest)


async def follow_wall_clock(clock: ResumableClock, store: ClockStore) -> None:
    """Compare trusted time with the wall clock, save its state and warn about a jump."""
    log, warned_of, saved = structlog.get_logger("quiltfn.base.clock"), 0.0, clock.resumed
    is_new = saved is None or saved.boot_id != clock.state().boot_id
    while True:
        is_new = clock.observe() or is_new
        jump_s = clock.jump_s
        if jump_s and not warned_of:
            log.warning(
                "the wall clock has jumped; expiry follows the old time until the new one has been "
                "stable for an hour",
                seconds=round(jump_s),
            )
        warned_of = jump_s
        if is_new:
            with contextlib.suppress(StoreUnavailable):  # retried in the next round
                await store.save(clock.state())
                is_new = False
        await asyncio.sleep(LOOK_EVERY_S)


async def prune_expired(services: Services, audit_days: int) -> None:
    """Remove audit entries, operations and stored responses by age, once an hour."""
    while True:
        now = int(services.clock.trusted())
        try:
            await services.audit.prune(now - audit_days * DAY_S)
            await services.elasticity.prune(now - audit_days * DAY_S)
            await services.idempotency.prune(now)
        except StoreUnavailable:
            pass  # retried the next hour
        await asyncio.sleep(EVERY_S)


async def prune_until_done(
    prune_some: Callable[[], Awaitable[int]],
    clock: Clock,
    servers: Callable[[], int] = lambda: 1,
) -> None:
    """Call `prune_some` every few seconds, and again with pauses while it removes something. Of
    several `servers` on one database, on average one does so each time, since each check is a
    write.
    """
    while True:
        is_turn = random.random() * servers() < 1
        with contextlib.suppress(StoreUnavailable):
            started = clock.now()
            while is_turn and await prune_some():
                await asyncio.sleep(REST_S + REST_SHARE * (clock.now() - started))
                started = clock.now()
        await asyncio.sleep(RECORDS_EVERY_S)


async def reclaim_disk(disk: DiskSpace, clock: Clock) -> None:
    """Return freed space to the disk, and keep the reserve for a full disk allocated."""
    while True:
        is_reserved = await disk.refill_reserve()
        with contextlib.suppress(StoreUnavailable):
            started = clock.now()
            while await disk.vacuum_some():
                await asyncio.sleep(REST_S + REST_SHARE * (clock.now() - started))
                started = clock.now()
            is_reserved = is_reserved or await disk.refill_reserve()
        await asyncio.sleep(DISK_EVERY_S if is_reserved else FULL_EVERY_S)


async def collect_images(services: Services, grace_s: float) -> None:
    """Remove images once they were unreferenced for `grace_s` to twice that time.

    The grace period covers an image that was uploaded and not yet named by a runtime, and running
    instances of a deleted function.
    """
    while True:
        with contextlib.suppress(StoreUnavailable, OSError):
            in_use = await services.runtimes.images_in_use()
            await services.tenant_images.collect(in_use, services.warm_stock.images(), grace_s)
        await asyncio.sleep(grace_s / 2)
