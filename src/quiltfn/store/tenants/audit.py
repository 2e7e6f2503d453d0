"""The audit log in the database."""

import time
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, func, insert, or_, select

from quiltfn.model.audit import AuditEntry
from quiltfn.model.cursors import (
    AFTER_EVERY_ID,
    BEFORE_EVERY_ID,
    first_id,
    from_cursor,
    to_cursor,
)
from quiltfn.ports import AuditQuery, Page
from quiltfn.store.calls.record_list import STEP_ENTRIES, STEPS_S
from quiltfn.store.database import batches, tables
from quiltfn.store.database.database import Database

audit = tables.audit
FREES = (".delete", ".revoke", ".remove")


class SqlAudit:
    """The audit log: every call that changed something, or was refused to."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, entry: AuditEntry) -> None:
        """Stores an entry; it is on disk when this returns. On a full disk, entries of what frees
        space use the reserve.
        """
        row, frees = tables.row_of(entry), entry.action.endswith(FREES)
        await self._database.write(lambda c: c.execute(insert(audit), row).close(), frees=frees)

    async def query(self, query: AuditQuery) -> Page[AuditEntry]:
        # Ids are UUIDv7, so their order is the order of time.
        """Entries, newest first. A page may have fewer than `limit`, or none, and a cursor all the
        same, where few of very many match. A bad cursor raises `Unprocessable`.
        """
        start = BEFORE_EVERY_ID if query.since is None else first_id(query.since)
        end = AFTER_EVERY_ID if query.until is None else first_id(query.until)
        before = min(end, from_cursor(query.cursor, AFTER_EVERY_ID))
        return await self._database.read(lambda connection: page(connection, query, start, before))

    async def prune(self, before: int) -> int:
        """Removes entries from before that time, in small steps; returns how many."""
        some = select(audit.c.id).where(audit.c.at < before).limit(batches.BATCH_ROWS)
        batch = delete(audit).where(audit.c.id.in_(some))
        return await batches.delete(self._database, batch)


def page(connection: Connection, query: AuditQuery, start: str, before: str) -> Page[AuditEntry]:
    """The matching entries with ids below `before` and from `start` on. It ends early once it has
    taken its time.
    """
    until, found, at = time.monotonic() + STEPS_S, list[AuditEntry](), before
    while True:
        some = select(audit).where(audit.c.id < at, audit.c.id >= start)
        if query.tenant_id is not None:
            some = some.where(audit.c.tenant_id == query.tenant_id)
        step = some.order_by(audit.c.id.desc()).limit(STEP_ENTRIES).subquery()
        wanted = select(step).where(*_filters(query, step.c)).order_by(step.c.id.desc())
        rows = connection.execute(wanted.limit(query.limit + 1 - len(found))).mappings()
        found += [tables.read(row, AuditEntry) for row in rows]
        if len(found) > query.limit:
            items = found[: query.limit]
            return Page(items, to_cursor(items[-1].id))
        looked_at, last = connection.execute(
            select(func.count(), func.min(step.c.id)).select_from(step)
        ).one()
        if looked_at < STEP_ENTRIES:
            return Page(found, None)
        if time.monotonic() > until:
            return Page(found, to_cursor(last))
        at = last


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
