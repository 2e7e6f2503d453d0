"""Housekeeping of what is kept for a time only: the audit trail, idempotent answers, records of
calls, images."""

import asyncio
import contextlib

from quiltfn.holdings import Holdings
from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import Answers, Audit, Clock, Keep, Retention, RuntimeStore, Stock

EVERY_S = 3600.0
RECORDS_EVERY_S = 15.0
REST_S, REST_SHARE = 0.01, 3.0
DAY_S = 86_400


async def tidy(audit: Audit, answers: Answers, clock: Clock, audit_days: int) -> None:
    """Once an hour, until it is cancelled. What fails is tried again the next hour."""
    while True:
        now = int(clock.unix())
        try:
            await audit.prune(now - audit_days * DAY_S)
            await answers.prune(now)
        except StoreUnavailable:
            pass  # health says so already
        await asyncio.sleep(EVERY_S)


async def tidy_records(retention: Retention, clock: Clock, keep: Keep) -> None:
    """Until it is cancelled: removes the oldest records of calls while there are more than `keep`.

    Between two steps it rests for longer than a step took, so that others find the writer free.
    """
    while True:
        with contextlib.suppress(StoreUnavailable):  # health says so already
            started = clock.now()
            while await retention.prune_some(keep, int(clock.unix())):
                await asyncio.sleep(REST_S + REST_SHARE * (clock.now() - started))
                started = clock.now()
        await asyncio.sleep(RECORDS_EVERY_S)


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
