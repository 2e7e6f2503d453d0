"""Removes the oldest records, in short steps. For an unfinished record, such as that of a waiting
invocation, limits in bytes remove only the output of its attempts.

All other writes wait during a step, so a step ends after about a millisecond, even if records are
large or far apart on disk. `usage` has each tenant's number of records and bytes.
"""

import time
from collections import deque
from typing import NamedTuple

from sqlalchemy import Connection

from quiltfn.model.cursors import AFTER_EVERY_ID, first_id
from quiltfn.model.retention import RetentionPolicy, StorageLimit
from quiltfn.ports import Clock
from quiltfn.store.calls import records
from quiltfn.store.database.database import Database
from quiltfn.store.database.sql import run
from quiltfn.store.tenants import usage

# After a power cut an old state of a spool segment can come back, with invocations of the last
# minute. Their rows must still exist, or they would be counted again. An id alone does not show the
# age of a record: if the wall clock was ahead, later ids continue from that time.
YOUNG_S = 60
LOOK_S = 15


class Oldest(NamedTuple):
    """The ids of a tenant's oldest records. `unended`: unfinished ones whose attempts have
    output.
    """

    ended: list[str]
    unended: list[str]


class SqlRetention:
    """Removes records, oldest first, except unfinished ones and those of the last minute."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock
        # Ids, each with a time at which it was the newest.
        self._newest: deque[tuple[float, str]] = deque()

    async def prune_some(self, keep: RetentionPolicy) -> int:
        """Removes some records, for a millisecond, so that other writes hardly wait. Returns the
        number of records that it removed or whose output it removed; 0: nothing more may be removed
        now. Raises `StoreUnavailable`.
        """

        def work(connection: Connection) -> int:
            now = int(self._clock.trusted())
            before = max(first_id(now - YOUNG_S), self._newest_a_minute_ago(connection))
            return prune_some(connection, keep, now, before)

        return await self._database.write(work, frees=True)

    def _newest_a_minute_ago(self, connection: Connection) -> str:
        now, seen = self._clock.now(), self._newest
        if not seen or now - seen[-1][0] >= LOOK_S:
            newest = run(connection, "newest_record").scalar()
            seen.append((now, newest or ""))
        while len(seen) > 1 and now - seen[1][0] >= YOUNG_S:
            seen.popleft()
        return seen[0][1] if now - seen[0][0] >= YOUNG_S else ""


def prune_some(connection: Connection, keep: RetentionPolicy, now: int, before: str) -> int:
    """Runs one step; returns how many records it removed or emptied of output. Only records with
    ids below `before` may be removed.
    """
    until = records.end_of_step(connection)
    # A tenant whose records are all too young must not prevent the removal of others.
    for looked_at, surplus in enumerate(too_much(connection, keep), 1):
        ended, unended = oldest_of_tenant(connection, surplus, before)
        removed = records.remove(connection, ended) + records.drop_output(connection, unended)
        # Rows of the last minute stay, but not their output.
        if not removed and surplus.unit is usage.Unit.BYTES:
            some = oldest_of_tenant(connection, surplus, AFTER_EVERY_ID, usage.RECORD_BYTES)
            removed = records.drop_output(connection, some.ended + some.unended)
        if removed:
            return removed
        if looked_at >= records.LEAST_TENANTS and time.perf_counter() >= until:
            break
    if not keep.seconds:
        return 0
    aged = first_id(now - max(keep.seconds, YOUNG_S))
    bounds = {"before": aged, "most": records.STEP_ROWS}
    oldest = run(connection, "oldest_ended", bounds).scalars().all()
    return records.remove(connection, oldest)


def too_much(connection: Connection, keep: RetentionPolicy) -> list[usage.Surplus]:
    """The tenants that must remove records: first those with too many bytes, then those with too
    many records.
    """
    found = usage.surpluses(connection, usage.RECORD, keep.size)
    if keep.count:
        count = StorageLimit(all=keep.count)
        found += usage.surpluses(connection, usage.RECORD, count, usage.Unit.ROWS)
    return found


def oldest_of_tenant(
    connection: Connection, surplus: usage.Surplus, before: str, above: int = 0
) -> Oldest:
    """The tenant's oldest records that together are its surplus, at most one step. Ended records of
    up to `above` bytes are skipped.
    """
    most = min(records.STEP_ROWS, surplus.rows + 1)
    bounds = {"tenant_id": surplus.tenant_id, "before": before, "above": above, "most": most}
    bounds["with_open"] = surplus.unit is usage.Unit.BYTES
    found, to_go = Oldest([], []), surplus.amount
    for invocation_id, size, is_open in run(connection, "oldest_of_tenant", bounds):
        (found.unended if is_open else found.ended).append(invocation_id)
        to_go -= surplus.of_row(size)
        if to_go <= 0:
            break
    return found
