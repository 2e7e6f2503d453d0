"""How many rows a tenant has, how many bytes they take, and who has to give some up.

One row for each kind of rows and tenant, kept up by triggers in the transaction that changes the
rows: whoever writes them, and nothing is ever counted. A migration that makes one of these tables
anew must make its triggers anew.
"""

from enum import Enum
from typing import NamedTuple

from sqlalchemy import Connection

from quiltfn.model.retention import StorageLimit
from quiltfn.store.sql import SQL

RECORD_BYTES = 600  # What a record takes without its output, its places in the indexes included.
ANSWER_BYTES, AUDIT_BYTES, OPERATION_BYTES = 500, 500, 500  # Likewise.
# What the headers of an answer take at least. An answer that is still to come counts them from the
# beginning, so a key takes no more room when its call ends.
HEADERS_BYTES = 200


class Kind(NamedTuple):
    """`size`: what a row takes, in SQL, of `ROW`. `changes`: the columns it may change with.
    `may_go`: whether a row can be removed or made smaller; where that is empty, any can some time.
    """

    name: str
    table: str
    size: str
    changes: str = ""
    may_go: str = ""


RECORD = Kind("record", "invocation", "ROW.size_bytes", "size_bytes")
ANSWER = Kind(
    "answer",
    "idempotent_answer",
    f"{ANSWER_BYTES} + length(ROW.path) + length(ROW.key) "
    f"+ max({HEADERS_BYTES}, length(ROW.headers)) + length(ROW.body)",
    "headers, body",
    "length(body) > 0",
)
AUDIT = Kind("audit", "audit", f"{AUDIT_BYTES} + length(ROW.credential) + length(ROW.request_id)")
OPERATION = Kind(
    "operation",
    "operation",
    f"{OPERATION_BYTES} + length(ROW.idempotency_key) + length(ROW.action_id)",
    may_go="status != 'running'",
)
KINDS = (RECORD, ANSWER, AUDIT, OPERATION)


def triggers(kind: Kind) -> list[str]:
    """What keeps the kind's rows of `usage` up."""
    new, old = kind.size.replace("ROW", "NEW"), kind.size.replace("ROW", "OLD")
    this = f"kind = '{kind.name}' AND tenant_id = OLD.tenant_id"
    made = [
        f"CREATE TRIGGER {kind.table}_added AFTER INSERT ON {kind.table} BEGIN "
        f"INSERT INTO usage VALUES ('{kind.name}', NEW.tenant_id, {new}, 1) "
        "ON CONFLICT (kind, tenant_id) DO UPDATE SET "
        "bytes = bytes + excluded.bytes, number = number + 1; END",
        f"CREATE TRIGGER {kind.table}_removed AFTER DELETE ON {kind.table} BEGIN "
        f"UPDATE usage SET bytes = bytes - ({old}), number = number - 1 WHERE {this}; END",
    ]
    if kind.changes:
        made.append(
            f"CREATE TRIGGER {kind.table}_changed AFTER UPDATE OF {kind.changes} ON {kind.table} "
            f"BEGIN UPDATE usage SET bytes = bytes + ({new}) - ({old}) WHERE {this}; END"
        )
    return made


def of_tenant(connection: Connection, kind: Kind, tenant_id: str) -> int:
    """How many bytes the tenant's rows of that kind take."""
    named = {"kind": kind.name, "tenant_id": tenant_id}
    return int(connection.exec_driver_sql(SQL["usage_of_tenant"], named).scalar() or 0)


def of_all(connection: Connection, kind: Kind) -> int:
    """How many bytes the rows of that kind take, of all tenants together."""
    whole = connection.exec_driver_sql(_WHOLE[Unit.BYTES], {"kind": kind.name}).one()
    return int(whole[1])


class Unit(Enum):
    """What a bound counts."""

    BYTES = "bytes"
    ROWS = "number"


class Surplus(NamedTuple):
    """What a tenant has to give up: so much of what the bound counts."""

    tenant_id: str
    unit: Unit
    amount: int
    rows: int  # About so many, by what its rows take on average.

    def of_row(self, size: int) -> int:
        """How much of it a row of `size` bytes is."""
        return size if self.unit is Unit.BYTES else 1


def surpluses(
    connection: Connection, kind: Kind, bound: StorageLimit, unit: Unit = Unit.BYTES
) -> list[Surplus]:
    """Who has to give up some, and how much, whoever has most first.

    Nobody may have more than the bound of a tenant. Where all together have too much, those who
    have most give up until they are level and all together have no more than the bound: whoever
    has less than that level gives nothing. A tenant that has nothing which may go (`Kind.may_go`)
    is not among them, and the others make up for it.
    """
    most, whole = connection.exec_driver_sql(_WHOLE[unit], {"kind": kind.name}).one()
    excess = whole - bound.all if bound.all else 0
    if excess <= 0 and not 0 < bound.tenant < most:
        return []
    givers = connection.exec_driver_sql(_GIVERS[kind, unit], {"kind": kind.name}).all()
    level = _level([has for _, has, _, _ in givers], excess)
    if bound.tenant:
        level = min(level, bound.tenant)
    found = []
    for tenant_id, has, size, number in givers:
        if has <= level:
            break
        amount = has - level
        rows = amount if unit is Unit.ROWS else amount * number // max(1, size)
        found.append(Surplus(tenant_id, unit, amount, max(1, rows)))
    return found


def _level(largest_first: list[int], excess: int) -> int:
    """What everybody who has more comes down to, so that together they give up `excess`."""
    if excess <= 0 or not largest_first:
        return largest_first[0] if largest_first else 0
    above, level = 0, 0
    for count, has in enumerate(largest_first, 1):
        if has <= level:
            break
        above += has
        level = max(0, (above - excess) // count)
    return level


def _givers(kind: Kind, unit: Unit) -> str:
    may_go = ""
    if kind.may_go:
        rows = f"SELECT 1 FROM {kind.table} AS one WHERE one.tenant_id = usage.tenant_id"
        may_go = f"AND EXISTS ({rows} AND {kind.may_go})"
    return SQL["givers"].replace(":unit", unit.value).replace(":may_go", may_go)


_WHOLE = {unit: SQL["whole_usage"].replace(":unit", unit.value) for unit in Unit}
_GIVERS = {(kind, unit): _givers(kind, unit) for kind in KINDS for unit in Unit}
