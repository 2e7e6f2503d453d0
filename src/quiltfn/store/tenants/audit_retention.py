"""Keeps audit log and operations within their limits: removes the oldest rows of the largest
tenants.
"""

from sqlalchemy import Column, Connection, delete, select

from quiltfn.model.retention import StorageLimit
from quiltfn.store.database import tables
from quiltfn.store.database.database import Database
from quiltfn.store.tenants import usage

STEP_ROWS = 100
ENDED = tables.operation.c.status != "running"


class SqlAuditRetention:
    """Removes rows of both kinds; `bound` applies to each kind."""

    def __init__(self, database: Database, bound: StorageLimit) -> None:
        self._database, self._bound = database, bound

    async def prune_some(self) -> int:
        """Runs one step; returns how many rows it removed."""
        return await self._database.write(
            lambda connection: prune_some(connection, self._bound), frees=True
        )


def prune_some(connection: Connection, bound: StorageLimit) -> int:
    """Runs one step; see `SqlAuditRetention.prune_some`."""
    removed = 0
    audit, operation = tables.audit.c, tables.operation.c
    for kind, key, may_go in (
        (usage.AUDIT, audit.id, audit.id != ""),
        (usage.OPERATION, operation.operation_id, ENDED),
    ):
        column: Column[str] = key
        owner = column.table.c.tenant_id
        for surplus in usage.surpluses(connection, kind, bound):
            some = select(column).where(owner == surplus.tenant_id, may_go).order_by(column)
            step = some.limit(min(surplus.rows, STEP_ROWS - removed))
            removed += connection.execute(delete(column.table).where(column.in_(step))).rowcount
            if removed >= STEP_ROWS:
                return removed
    return removed
