"""The audit log in the database."""

from sqlalchemy import Connection, delete, insert, select

from quiltfn.model.audit import AuditEntry
from quiltfn.model.cursors import AFTER_EVERY_ID, from_cursor, to_cursor
from quiltfn.ports import Page
from quiltfn.store import batches, tables
from quiltfn.store.database import Database

audit = tables.audit
FREES = (".delete", ".revoke", ".remove")


class SqlAudit:
    """`ports.Audit` over the table of `database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, entry: AuditEntry) -> None:
        """As the port says. On a full disk, entries of what frees space use the reserve."""
        row, frees = tables.row_of(entry), entry.action.endswith(FREES)
        await self._database.write(lambda c: c.execute(insert(audit), row).close(), frees=frees)

    async def query(
        self, tenant_id: str | None, limit: int, cursor: str | None
    ) -> Page[AuditEntry]:
        # Ids are UUIDv7, so their order is the order of time.
        query = select(audit).where(audit.c.id < from_cursor(cursor, AFTER_EVERY_ID))
        if tenant_id is not None:
            query = query.where(audit.c.tenant_id == tenant_id)
        query = query.order_by(audit.c.id.desc()).limit(limit + 1)

        def work(connection: Connection) -> list[AuditEntry]:
            return [tables.read(row, AuditEntry) for row in connection.execute(query).mappings()]

        found = await self._database.read(work)
        items = found[:limit]
        return Page(items, to_cursor(items[-1].id) if len(found) > limit else None)

    async def prune(self, before: int) -> int:
        some = select(audit.c.id).where(audit.c.at < before).limit(batches.BATCH_ROWS)
        batch = delete(audit).where(audit.c.id.in_(some))
        return await batches.delete(self._database, batch)
