"""Housekeeping of what is kept for a time only: the audit trail and idempotent answers."""

import asyncio

from quiltfn.model.errors import StoreUnavailable
from quiltfn.ports import Answers, Audit, Clock

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
