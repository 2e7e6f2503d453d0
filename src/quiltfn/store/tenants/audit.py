"""The audit log in the database."""

from typing import Any

from sqlalchemy import ColumnElement, Connection, insert, or_, select

from quiltfn.model.audit import AuditEntry
from quiltfn.model.cursors import (
    AFTER_EVERY_ID,
    BEFORE_EVERY_ID,
    first_id,
    from_cursor,
    to_cursor,
)
from quiltfn.ports import AuditQuery, Page
from quiltfn.store.database import steps, tables
from quiltfn.store.database.database import Database

audit = tables.audit
FREES = (".delete", ".revoke", ".remove")


class SqlAudit:
    """The audit log: all requests that changed something, or were refused a change."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, entry: AuditEntry) -> None:
        """Stores an entry; it is on disk when this returns. On a full disk, entries of actions that
        free space use the reserve.
        """
        row, frees = tables.row_of(entry), entry.action.endswith(FREES)
        await self._database.write(lambda c: c.execute(insert(audit), row).close(), frees=frees)

    async def query(self, query: AuditQuery) -> Page[AuditEntry]:
        """Entries, newest first. If few of very many entries match, a page may have fewer than
        `limit`, or none, and still a cursor. Raises `Unprocessable` for an invalid cursor.
        """
        # Ids are UUIDv7, so their order is the order of time.
        start = BEFORE_EVERY_ID if query.since is None else first_id(query.since)
        end = AFTER_EVERY_ID if query.until is None else first_id(query.until)
        before = min(end, from_cursor(query.cursor, AFTER_EVERY_ID))
        return await self._database.read(lambda connection: page(connection, query, start, before))

    async def prune(self, before: int) -> int:
        """Removes entries that are older than that time, in small steps; returns their number."""
        return await self._database.delete([audit.c.id], audit.c.at < before)


def page(connection: Connection, query: AuditQuery, start: str, before: str) -> Page[AuditEntry]:
    """The matching entries with ids below `before` and from `start` on. The page ends early at its
    time limit.
    """
    rows = select(audit.c.id, audit.c.action, audit.c.credential, audit.c.object_id)
    rows = rows.where(audit.c.id >= start)
    if query.tenant_id is not None:
        rows = rows.where(audit.c.tenant_id == query.tenant_id)
    ids, last = steps.matching(
        connection, rows, lambda columns: _filters(query, columns), query.limit, before
    )
    whole = select(audit).where(audit.c.id.in_(ids)).order_by(audit.c.id.desc())
    items = tables.read_all(connection, whole, AuditEntry)
    return Page(items, None if last is None else to_cursor(last))


def _filters(query: AuditQuery, columns: Any) -> list[ColumnElement[bool]]:
    found: list[ColumnElement[bool]] = []
    if query.action is not None:
        group = columns.action.startswith(f"{query.action}.", autoescape=True)
        found.append(or_(columns.action == query.action, group))
    if query.credential is not None:
        found.append(columns.credential == query.credential)
    if query.object_id is not None:
        found.append(columns.object_id == query.object_id)
    return found
