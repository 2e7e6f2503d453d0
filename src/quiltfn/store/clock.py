"""What a start has to know of the time before it: the settled time, and the newest id."""

from sqlalchemy import Connection, delete, insert, select

from quiltfn.model.settled import ClockNote
from quiltfn.store import tables
from quiltfn.store.database import Database
from quiltfn.store.sql import SQL


class SqlClock:
    """`clock.ClockNotes` over the table of `database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> ClockNote | None:
        def work(connection: Connection) -> ClockNote | None:
            row = connection.execute(select(tables.clock)).mappings().one_or_none()
            return tables.read(row, ClockNote) if row is not None else None

        return await self._database.read(work)

    async def save(self, note: ClockNote) -> None:
        row = tables.row_of(note) | {"id": 1}

        def work(connection: Connection) -> None:
            connection.execute(delete(tables.clock))
            connection.execute(insert(tables.clock), row)

        await self._database.write(work)

    async def newest_id(self) -> str:
        return await self._database.read(
            lambda connection: str(connection.exec_driver_sql(SQL["newest_id"]).scalar() or "")
        )
