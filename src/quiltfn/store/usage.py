"""How many bytes a tenant's rows take, and who has to give some up.

One row for each kind of rows and tenant, kept up by triggers in the transaction that changes the
rows: whoever writes them, and nothing is ever counted. A migration that makes one of these tables
anew must make its triggers anew.
"""

import json
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import Connection

from quiltfn.model.kept import Bound
from quiltfn.store.sql import SQL

RECORD_BYTES = 600  # What a record takes without its output, its places in the indexes included.
ANSWER_BYTES, AUDIT_BYTES, OPERATION_BYTES = 500, 500, 500  # Likewise.


class Kind(NamedTuple):
    """`size`: what a row takes, in SQL, of `ROW`. `changes`: the columns it may change with."""

    name: str
    table: str
    size: str
    changes: str = ""


RECORD = Kind("record", "invocation", "ROW.size_bytes", "size_bytes")
ANSWER = Kind(
    "answer",
    "idempotent_answer",
    f"{ANSWER_BYTES} + length(ROW.path) + length(ROW.key) + length(ROW.headers) + length(ROW.body)",
    "headers, body",
)
AUDIT = Kind("audit", "audit", f"{AUDIT_BYTES} + length(ROW.credential) + length(ROW.request_id)")
OPERATION = Kind(
    "operation",
    "operation",
    f"{OPERATION_BYTES} + length(ROW.idempotency_key) + length(ROW.action_id)",
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


class Surplus(NamedTuple):
    """What a tenant has to give up. `rows`: about so many, by what its rows take on average;
    `is_its_own`: it is beyond the bound of one tenant, not all together beyond theirs.
    """

    tenant_id: str
    bytes: int
    rows: int
    is_its_own: bool


def surplus(
    connection: Connection, kind: Kind, bound: Bound, without: Iterable[str] = ()
) -> Surplus | None:
    """Who has to give up some, if anybody: of all tenants the one that has most. `without`: those
    who have nothing that they could give up.
    """
    if not bound.tenant and not bound.all:
        return None
    named = {"kind": kind.name}
    others = named | {"without": json.dumps(list(without))}
    largest = connection.exec_driver_sql(SQL["largest_usage"], others).all()
    if not largest:
        return None
    tenant_id, has, number = largest[0]
    too_much = has - bound.tenant if bound.tenant else 0
    is_its_own = too_much > 0
    if bound.all and not is_its_own:
        too_much = connection.exec_driver_sql(SQL["whole_usage"], named).scalar_one() - bound.all
        # Not much below the next, who is then the one that has most.
        beyond_next = has - (largest[1].bytes if len(largest) > 1 else 0)
        too_much = min(too_much, max(beyond_next, has // 8))
    if too_much <= 0:
        return None
    rows = max(1, too_much * number // max(1, has))
    return Surplus(tenant_id, too_much, rows, is_its_own)
