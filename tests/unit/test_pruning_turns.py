"""Several servers on one database remove what is too old as often as one does."""

import asyncio
import random

import pytest

from manual_clock import ManualClock
from quiltfn import retention


async def looks(servers: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often all of them together look in half a second."""
    monkeypatch.setattr(retention, "RECORDS_EVERY_S", 0.02)
    monkeypatch.setattr(retention, "random", random.Random(5))
    found = 0

    async def prune_some() -> int:
        nonlocal found
        found += 1
        return 0

    async with asyncio.TaskGroup() as group:
        loops = [
            group.create_task(
                retention.prune_until_done(prune_some, ManualClock(), lambda: servers)
            )
            for _ in range(servers)
        ]
        await asyncio.sleep(0.5)
        for one in loops:
            one.cancel()
    return found


async def test_twenty_servers_look_about_as_often_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    one = await looks(1, monkeypatch)
    assert one > 2  # at each turn of its own
    assert one / 3 < await looks(20, monkeypatch) < 3 * one
