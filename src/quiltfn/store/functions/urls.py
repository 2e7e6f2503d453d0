"""The URLs of functions: one row for each function that has a URL."""

from collections.abc import Collection, Sequence

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from quiltfn.model.converting import convert
from quiltfn.model.url import FunctionUrl
from quiltfn.ports import ChangeKind
from quiltfn.store.database import changes, tables
from quiltfn.store.database.database import Database
from quiltfn.store.database.sql import run

row = tables.function_url


class SqlUrls:
    """The URLs of functions, deleted with their functions. Raises `StoreUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, only: Collection[str] | None = None) -> Sequence[tuple[str, FunctionUrl]]:
        """All URLs, each with its function's id, or those of the functions with these ids."""
        query = select(row.c.function_id, row.c.url).order_by(row.c.function_id)
        if only is not None:
            query = query.where(row.c.function_id.in_(only))

        def work(connection: Connection) -> list[tuple[str, FunctionUrl]]:
            return [(key, convert(url, FunctionUrl)) for key, url in connection.execute(query)]

        return await self._database.read(work)

    async def tenants(self) -> Sequence[str]:
        """The tenants that have ever had a URL, and whose paths no other tenant may get."""
        query = select(tables.url_tenant.c.tenant_id)
        return await self._database.read(lambda c: c.execute(query).scalars().all())

    async def save(self, function_id: str, url: FunctionUrl | None) -> None:
        """Replaces a function's URL; None removes it. Raises `NotFound` if the function was
        deleted.
        """

        def work(connection: Connection) -> None:
            tenant_id = changes.record_of_function(connection, ChangeKind.URL, function_id)
            if url is None:
                connection.execute(delete(row).where(row.c.function_id == function_id))
                return
            run(connection, "note_url_tenant", (tenant_id,))
            values = {"url": msgspec.to_builtins(url)}
            change = update(row).where(row.c.function_id == function_id).values(values)
            if not connection.execute(change).rowcount:
                connection.execute(insert(row), {"function_id": function_id} | values)

        await self._database.write(work)
