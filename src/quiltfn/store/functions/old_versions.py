"""Removes old versions of a function when a new one is stored, in the same transaction.

The newest versions stay, within the number and bytes of `VersionLimits`. Versions in use stay as
well: the current version, and those of aliases and stored inputs.
"""

from sqlalchemy import Connection, Text, cast, delete, func, select

from quiltfn.model.alias import Alias
from quiltfn.model.converting import convert
from quiltfn.model.errors import NotFound, RateLimited
from quiltfn.model.function import Function
from quiltfn.model.retention import VersionLimits
from quiltfn.model.version import no_version
from quiltfn.store.database import tables

row = tables.version.c
# Bytes of a version besides its texts; and the number of newest versions that always stay.
VERSION_BYTES, NEWEST_KEPT = 1024, 2
# The maximum that one change removes, so that others can write. The next change continues.
REMOVED_MAX = 500


def check_there(connection: Connection, function_id: str, number: int) -> None:
    """Raises `NotFound` if the version was removed meanwhile."""
    there = select(row.id).where(row.function_id == function_id, row.number == number)
    if connection.execute(there).first() is None:
        raise NotFound(no_version(number))


def remove(connection: Connection, function: Function, limits: VersionLimits) -> None:
    """Removes versions of a function above its limits, after it got a new version. Raises
    `RateLimited` if the versions that must stay exceed the limit in bytes.
    """
    size = VERSION_BYTES + func.octet_length(row.handler)
    for column in (row.environment, row.pinned):
        size = size + func.octet_length(cast(column, Text))
    sizes = select(row.number, size).where(row.function_id == function.id)
    found = connection.execute(sizes.order_by(row.number.desc()))
    has = {one.number: int(one[1]) for one in found}
    most = _share(connection, function, limits)
    going, total = list[int](), 0
    for place, (number, taken) in enumerate(has.items()):
        total += taken
        if place >= NEWEST_KEPT and (place >= limits.kept or total > most):
            going.append(number)
    if not going:
        return
    needed = _needed(connection, function)
    gone = [number for number in reversed(going) if number not in needed]
    named = sum(has[number] for number in going if number in needed)
    if named > most:
        raise RateLimited(
            f"old versions that aliases and kept inputs name take {named} bytes; "
            f"the function may have {most}",
            hint="remove aliases of old versions, or wait until queued calls of old versions have "
            "run; an operator can raise tenant_version_bytes",
            retry_after=60,
        )
    for number in gone[:REMOVED_MAX]:
        this = row.function_id == function.id, row.number == number
        connection.execute(delete(tables.version).where(*this))


def _share(connection: Connection, function: Function, limits: VersionLimits) -> float:
    """The bytes that versions of a function may take: each function of the tenant gets the same."""
    if not limits.tenant_bytes:
        return float("inf")
    owner = tables.function.c.tenant_id
    count = select(func.count()).select_from(tables.function).where(owner == function.tenant_id)
    return limits.tenant_bytes // max(1, connection.execute(count).scalar_one())


def _needed(connection: Connection, function: Function) -> set[int]:
    alias, given = tables.function_alias.c, tables.input_table.c
    aliases = select(alias.alias).where(alias.function_id == function.id)
    inputs = select(given.version).distinct()
    inputs = inputs.where(given.function_id == function.id, given.version.is_not(None))
    needed = {function.current_version, *connection.execute(inputs).scalars()}
    for stored in connection.execute(aliases).scalars():
        needed.update(convert(stored, Alias).versions)
    return needed
