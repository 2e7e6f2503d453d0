"""Deletes many rows in several transactions, so that other writes can run in between."""

from sqlalchemy import Delete

from quiltfn.store.database.database import Database

BATCH_ROWS = 1000


async def delete(database: Database, batch: Delete) -> int:
    """Runs `batch`, which deletes up to `BATCH_ROWS` rows, in a transaction of its own each time,
    until it finds fewer. Returns how many rows were deleted.
    """
    removed, last = 0, BATCH_ROWS
    while last == BATCH_ROWS:
        last = await database.write(
            lambda connection: connection.execute(batch).rowcount, frees=True
        )
        removed += last
    return removed
