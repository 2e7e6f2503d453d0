"""Returns free pages of the database to the disk, in steps of a millisecond.

A tenth of the file, but at least 16 MiB, stays free for new rows; on a full disk nothing does. A
database that was created without incremental vacuum keeps its size, but new rows reuse its free
pages.
"""

import time

from sqlalchemy import Connection

from quiltfn.store.database.database import Database
from quiltfn.store.database.sql import driver

STEP_S, PAGES_AT_A_TIME = 0.001, 16
SLACK_PAGES, SLACK_SHARE = 4096, 10
INCREMENTAL = 2


class SqlDiskSpace:
    """`retention.DiskSpace` over `database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def refill_reserve(self) -> bool:
        return await self._database.refill_reserve()

    async def vacuum_some(self) -> bool:
        if not self._database.has_free_pages:
            return False
        to_the_last = self._database.reserve.is_spent
        return await self._database.write(
            lambda connection: vacuum_some(connection, to_the_last), frees=True
        )


def vacuum_some(connection: Connection, to_the_last: bool = False) -> bool:
    """Runs one step; returns whether there may be more to do."""
    if _pragma(connection, "auto_vacuum") != INCREMENTAL:
        return False
    slack = 0
    if not to_the_last:
        slack = max(SLACK_PAGES, _pragma(connection, "page_count") // SLACK_SHARE)
    until = time.perf_counter() + STEP_S
    while (surplus := _pragma(connection, "freelist_count") - slack) > 0:
        pages = min(surplus, PAGES_AT_A_TIME)
        # SQLite moves one page for each row fetched; the rows are empty.
        driver(connection).execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
        if time.perf_counter() >= until:
            return True
    return False


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
