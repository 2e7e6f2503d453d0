"""Removing many rows without keeping others from writing meanwhile."""

from sqlalchemy import Delete

from quiltfn.store.database import Database

STEP_ROWS = 1000


async def remove(database: Database, step: Delete) -> int:
    """Does `step`, which removes up to `STEP_ROWS` rows, until it finds fewer; returns how many.

    Each is a transaction of its own, and other writes get between.
    """
    removed, last = 0, STEP_ROWS
    while last == STEP_ROWS:
        last = await database.write(
            lambda connection: connection.execute(step).rowcount, frees=True
        )
        removed += last
    return removed
