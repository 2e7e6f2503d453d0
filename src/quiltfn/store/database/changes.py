"""The numbered list of changes by which servers that share the store follow each other.

A transaction that changes anything in `ChangeKind` also records the change. Transactions that write
run one after another (`Database.write`), so a number appears only after all lower ones. Only the
newest changes are kept; a reader that has fallen behind them has to load everything again.
"""

from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, delete, func, select

from quiltfn.model.errors import NotFound
from quiltfn.ports import Change, ChangeKind, ChangePage
from quiltfn.store.database import tables
from quiltfn.store.database.sql import run

# After each REMOVE_EVERY changes, all but the newest KEPT are removed.
KEPT, REMOVE_EVERY = 10_000, 100
change = tables.change.c
KINDS = frozenset(ChangeKind)
# The key under which a connection stores its transaction's notices to other servers.
TOLD = "quiltfn-told"


class Notice(StrEnum):
    """A notice to other servers at a commit, so that they check the database sooner."""

    CHANGE = "change"  # a change was added
    WORK = "work"  # work or a delivery may start


def tell(connection: Connection, notice: Notice) -> None:
    """Makes a transaction notify other servers at its commit, if the database can do that."""
    connection.info.setdefault(TOLD, set()).add(notice)


def record(connection: Connection, kind: ChangeKind, tenant_id: str, object_id: str) -> None:
    """Adds a change. Call it in the transaction that makes the change."""
    row = {"kind": kind.value, "tenant_id": tenant_id, "object_id": object_id}
    number: int = run(connection, "record_change", row).scalar_one()
    tell(connection, Notice.CHANGE)
    if number % REMOVE_EVERY == 0:
        connection.execute(delete(tables.change).where(change.number <= number - KEPT))


def record_of_function(connection: Connection, kind: ChangeKind, function_id: str) -> str:
    """Adds a change of something that belongs to a function; returns the function's tenant. Raises
    `NotFound` if the function was deleted.
    """
    function = tables.function.c
    tenant = select(function.tenant_id).where(function.id == function_id)
    tenant_id: str | None = connection.execute(tenant).scalar()
    if tenant_id is None:
        raise NotFound("the function was deleted")
    record(connection, kind, tenant_id, function_id)
    return tenant_id


def newest(connection: Connection) -> int:
    """The number of the newest change; 0 before the first."""
    query = select(func.coalesce(func.max(change.number), 0))
    number: int = connection.execute(query).scalar_one()
    return number


def behind(connection: Connection, number: int, limit: int) -> ChangePage | None:
    """The changes after that number, oldest first, with one statement. Returns None if this
    statement doesn't show whether some are missing; then `since` must be called.
    """
    return _certain(_from(connection, number, limit), number, limit)


def _certain(found: list[Change], number: int, limit: int) -> ChangePage | None:
    """The page of changes found from that number on; None as in `behind`."""
    if found and found[0].number == number:  # then no later change was removed
        return ChangePage(items=found[1:], is_complete=True, has_more=len(found) > limit)
    if number == 0 and (not found or found[0].number == 1):  # no change was removed yet
        return ChangePage(items=found[:limit], is_complete=True, has_more=len(found) > limit)
    return None


def since(connection: Connection, number: int, limit: int) -> ChangePage:
    """The changes after that number, oldest first."""
    found = _from(connection, number, limit)
    page = _certain(found, number, limit)
    if page is not None:
        return page
    last = newest(connection)
    first = connection.execute(select(func.min(change.number))).scalar() or last + 1
    # A number beyond the last one is from the database before a backup was restored.
    is_complete = first - 1 <= number <= last
    return ChangePage(items=found[:limit], is_complete=is_complete, has_more=len(found) > limit)


def _from(connection: Connection, number: int, limit: int) -> list[Change]:
    query = select(tables.change).where(change.number >= number).order_by(change.number)
    rows = connection.execute(query.limit(limit + 1)).mappings()
    return [_change(dict(row)) for row in rows]


def _change(row: dict[str, Any]) -> Change:
    kind = row["kind"]
    return Change(**row | {"kind": ChangeKind(kind) if kind in KINDS else None})
