"""Housekeeping of what is kept for a time only: the audit trail, idempotent answers, images."""

import asyncio
import contextlib

from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import Answers, Audit, Clock, Images, RuntimeStore

EVERY_S = 3600.0
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


async def tidy_images(images: Images, runtimes: RuntimeStore, grace_s: float) -> None:
    """Until it is cancelled: removes images that nothing has named for `grace_s`, or twice that.

    The grace is for what is under way: between an upload and the runtime that names it, and for
    instances of a deleted function that still run.
    """
    while True:
        with contextlib.suppress(StoreUnavailable, OSError):  # health says so already
            await images.collect(await runtimes.images_in_use(), grace_s)
        await asyncio.sleep(grace_s / 2)
