"""The saved state of the clock, and the newest id in the store."""

from sqlalchemy import Connection, delete, insert, select

from quiltfn.model.trusted_time import ClockState
from quiltfn.store.database import tables
from quiltfn.store.database.database import Database
from quiltfn.store.database.sql import run


class SqlClockStore:
    """`clock.ClockStore` over the table of `database`."""

    def __init__(self, database: Database, *, is_shared: bool = False) -> None:
        """`is_shared`: other servers use the database, too. Then no state is stored: machines
        differ in boot time, and all servers follow the database's clock.
        """
        self._database, self._is_shared = database, is_shared

    async def load(self) -> ClockState | None:
        if self._is_shared:
            return None
        query = select(tables.clock)
        return await self._database.read(lambda c: tables.read_one(c, query, ClockState))

    async def save(self, state: ClockState) -> None:
        if self._is_shared:
            return
        row = tables.row_of(state) | {"id": 1}

        def work(connection: Connection) -> None:
            connection.execute(delete(tables.clock))
            connection.execute(insert(tables.clock), row)

        await self._database.write(work)

    async def newest_id(self) -> str:
        return await self._database.read(
            lambda connection: str(run(connection, "newest_id").scalar() or "")
        )
