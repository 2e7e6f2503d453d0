"""The number of rows of each tenant, their bytes, and the tenants that must remove some.

`usage` has one row for each kind and tenant. Triggers, made by the migrations, update it in the
transaction that changes the counted rows, so counting reads no rows. A migration that recreates one
of these tables must recreate its triggers.
"""

from enum import Enum
from functools import cache
from typing import NamedTuple

from sqlalchemy import Connection

from quiltfn.model.retention import StorageLimit
from quiltfn.store.database.sql import run, statements

RECORD_BYTES = 600  # the size of a record without its output, including index entries


class Kind(NamedTuple):
    """`table`: has the counted rows. `may_go`: the SQL condition of rows that can be removed or
    shortened; empty: all rows.
    """

    name: str
    table: str
    may_go: str = ""


RECORD = Kind("record", "invocation")
ANSWER = Kind("answer", "idempotent_answer", "length(body) > 0")
AUDIT = Kind("audit", "audit")
OPERATION = Kind("operation", "operation", "status != 'running'")
INPUT = Kind("input", "input")
DELIVERY = Kind("delivery", "delivery")
STATS = Kind("stats", "call_stats")
KINDS = (RECORD, ANSWER, AUDIT, OPERATION, INPUT, DELIVERY, STATS)


def of_tenant(connection: Connection, kind: Kind, tenant_id: str) -> int:
    """The bytes of the tenant's rows of that kind."""
    named = {"kind": kind.name, "tenant_id": tenant_id}
    return int(run(connection, "usage_of_tenant", named).scalar() or 0)


def of_all(connection: Connection, kind: Kind) -> int:
    """The bytes of all rows of that kind."""
    statement = _whole(connection.dialect.name, Unit.BYTES)
    whole = connection.exec_driver_sql(statement, {"kind": kind.name}).one()
    return int(whole[1])


class Unit(Enum):
    """The unit of a limit."""

    BYTES = "bytes"
    ROWS = "number"


class Surplus(NamedTuple):
    """The amount that a tenant must remove, in `unit`."""

    tenant_id: str
    unit: Unit
    amount: int
    rows: int  # an estimate, from the average size of the tenant's rows

    def of_row(self, size: int) -> int:
        """How much the removal of a row of `size` bytes contributes."""
        return size if self.unit is Unit.BYTES else 1


def surpluses(
    connection: Connection, kind: Kind, bound: StorageLimit, unit: Unit = Unit.BYTES
) -> list[Surplus]:
    """The tenants that must remove rows, largest first.

    No tenant may exceed the limit per tenant. If the total exceeds the common limit, the largest
    tenants are cut to one level, chosen so that the total meets the limit; a tenant below that
    level removes nothing. A tenant without removable rows (`Kind.may_go`) is left out, and other
    tenants remove more instead.
    """
    dialect, named = connection.dialect.name, {"kind": kind.name}
    most, whole = connection.exec_driver_sql(_whole(dialect, unit), named).one()
    excess = whole - bound.all if bound.all else 0
    if excess <= 0 and not 0 < bound.tenant < most:
        return []
    givers = connection.exec_driver_sql(_givers(dialect, kind, unit), named).all()
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
    """The level to which larger tenants are cut, so that they remove `excess` in total."""
    if excess <= 0 or not largest_first:
        return largest_first[0] if largest_first else 0
    above, level = 0, 0
    for count, has in enumerate(largest_first, 1):
        if has <= level:
            break
        above += has
        level = max(0, (above - excess) // count)
    return level


@cache
def _whole(dialect: str, unit: Unit) -> str:
    return statements(dialect)["whole_usage"].replace("$unit", unit.value)


@cache
def _givers(dialect: str, kind: Kind, unit: Unit) -> str:
    may_go = ""
    if kind.may_go:
        rows = f"SELECT 1 FROM {kind.table} AS one WHERE one.tenant_id = usage.tenant_id"
        may_go = f"AND EXISTS ({rows} AND {kind.may_go})"
    statement = statements(dialect)["givers"]
    return statement.replace("$unit", unit.value).replace("$may_go", may_go)
