"""Runtimes in the database: what each name stands for now, and which images anybody has."""

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert, select

from quiltfn.model.runtime import Runtime
from quiltfn.store import tables
from quiltfn.store.database import Database

table = tables.runtime


class SqlRuntimes:
    """`ports.RuntimeStore` over the table of `database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> Sequence[Runtime]:
        query = select(table).order_by(table.c.name)

        def work(connection: Connection) -> list[Runtime]:
            return [tables.read(row, Runtime) for row in connection.execute(query).mappings()]

        return await self._database.read(work)

    async def save(self, runtime: Runtime) -> None:
        def work(connection: Connection) -> None:
            connection.execute(delete(table).where(table.c.name == runtime.name))
            connection.execute(insert(table), tables.row_of(runtime))

        await self._database.write(work)

    async def remove(self, name: str) -> None:
        statement = delete(table).where(table.c.name == name)
        await self._database.write(lambda connection: connection.execute(statement).close())

    async def images_in_use(self) -> frozenset[str]:
        named = select(table.c.image).where(table.c.image.is_not(None))
        pinned = select(tables.version.c.pinned["image"].as_string()).distinct()

        def work(connection: Connection) -> frozenset[str]:
            found = {*connection.execute(named).scalars(), *connection.execute(pinned).scalars()}
            return frozenset(one for one in found if one)

        return await self._database.read(work)
