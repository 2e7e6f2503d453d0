"""Gives back to the disk what is free in the database, in steps that nobody notices.

Freed pages are used again by the next rows, so some stay: a tenth of the file, or 16 MiB. On a full
disk none does. A database that was made without incremental vacuum (by hand; ours have it from the
first) keeps its size; its pages are used again all the same.
"""

import time

from sqlalchemy import Connection

from quiltfn.store.database import Database

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
        to_the_last = self._database.reserve.is_spent
        return await self._database.write(
            lambda connection: vacuum_some(connection, to_the_last), frees=True
        )


def vacuum_some(connection: Connection, to_the_last: bool = False) -> bool:
    """One step; whether there may be more to do."""
    if _pragma(connection, "auto_vacuum") != INCREMENTAL:
        return False
    driver = connection.connection.driver_connection
    assert driver is not None
    slack = 0
    if not to_the_last:
        slack = max(SLACK_PAGES, _pragma(connection, "page_count") // SLACK_SHARE)
    until = time.perf_counter() + STEP_S
    while (surplus := _pragma(connection, "freelist_count") - slack) > 0:
        pages = min(surplus, PAGES_AT_A_TIME)
        # A row without columns for each page, which is moved when that is asked for.
        driver.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
        if time.perf_counter() >= until:
            return True
    return False


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())
