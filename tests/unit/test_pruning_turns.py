"""Several servers on one database remove old data as often as a single server does."""

import asyncio
import random

import pytest

from manual_clock import ManualClock
from quiltfn.server import retention

TURNS = 100


async def looks(servers: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often all servers together look for old data while each has this many turns."""
    monkeypatch.setattr(retention, "RECORDS_EVERY_S", 0.0)
    monkeypatch.setattr(retention, "random", random.Random(5))
    found = turns = 0
    over = asyncio.Event()

    async def prune_some() -> int:
        nonlocal found
        found += not over.is_set()
        return 0

    def at_a_turn() -> int:
        nonlocal turns
        turns += 1
        if turns > TURNS * servers:
            over.set()
        return servers

    async with asyncio.TaskGroup() as group:
        loops = [
            group.create_task(retention.prune_until_done(prune_some, ManualClock(), at_a_turn))
            for _ in range(servers)
        ]
        await over.wait()
        for task in loops:
            task.cancel()
    return found


async def test_twenty_servers_look_about_as_often_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    single = await looks(1, monkeypatch)
    assert single == TURNS  # a single server looks at each turn
    assert single / 3 < await looks(20, monkeypatch) < 3 * single
