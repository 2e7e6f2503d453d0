"""Records are not kept for ever: the oldest go, in steps that nobody notices.

A step ends after a millisecond or so, however large the records are or far apart on disk, since
every other write stands in line behind it. How many records there are is a number that is kept up
by whoever adds or removes some (`records.count`).
"""

from sqlalchemy import Connection

from quiltfn.model.cursors import first_id
from quiltfn.ports import Keep
from quiltfn.store import records
from quiltfn.store.database import Database
from quiltfn.store.sql import SQL

# A spool segment that comes back after a power cut holds calls of the last minute at most; without
# their rows they would be counted again.
YOUNG_S = 60


class SqlRetention:
    """`ports.Retention` over the records of `database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def prune_some(self, keep: Keep, now: int) -> int:
        return await self._database.write(lambda connection: prune_some(connection, keep, now))


def prune_some(connection: Connection, keep: Keep, now: int) -> int:
    """One step; returns how many records were removed."""
    surplus = 0
    if keep.count:
        surplus = connection.exec_driver_sql(SQL["records_kept"]).scalar_one() - keep.count
    if surplus > 0:
        most = min(surplus, records.STEP_ROWS)
        bounds = {"before": first_id(now - YOUNG_S), "most": most}
    elif keep.seconds:
        before = first_id(now - max(keep.seconds, YOUNG_S))
        bounds = {"before": before, "most": records.STEP_ROWS}
    else:
        return 0
    oldest = connection.exec_driver_sql(SQL["oldest_ended"], bounds).scalars().all()
    return records.remove(connection, oldest)
