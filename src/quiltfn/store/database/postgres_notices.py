"""Notices by PostgreSQL's NOTIFY, which servers with a shared database send each other at commits.

They only avoid waiting: a server that misses a notice checks a second later anyway.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from quiltfn.store.database.changes import Notice
from quiltfn.store.database.postgres_connection import in_turn
from quiltfn.store.database.postgres_timeline import PostgresTimeline

CHANNEL = "quiltfn"
AGAIN_S, LOOK_EVERY_S = 1.0, 5.0


async def listen(
    parameters: Mapping[str, Any],
    timeline: PostgresTimeline,
    epoch: int,
    hear: Callable[[str], None],
) -> None:
    """Calls `hear` for notices of all servers except the one with this epoch. Runs until cancelled,
    on its own connection, which is replaced when it ends.
    """
    while True:
        for server in in_turn(parameters, timeline.host):
            with contextlib.suppress(psycopg.Error, OSError):
                await _listen_once(server, timeline, epoch, hear)
        await asyncio.sleep(AGAIN_S)


async def _listen_once(
    parameters: Mapping[str, Any],
    timeline: PostgresTimeline,
    epoch: int,
    hear: Callable[[str], None],
) -> None:
    """Listens until the connection ends, or there is a newer timeline."""
    newest = timeline.newest
    made = await psycopg.AsyncConnection.connect(**parameters, autocommit=True)
    async with made:
        await made.execute(f"LISTEN {CHANNEL}".encode())
        for kind in Notice:  # notices may have been missed
            hear(kind)
        while not newest.is_before(timeline.newest):
            async for notice in made.notifies(timeout=LOOK_EVERY_S):
                named, _, by = notice.payload.partition(" ")
                if by != str(epoch):
                    hear(named)
