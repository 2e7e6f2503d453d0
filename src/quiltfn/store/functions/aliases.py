"""The aliases of functions, one row each."""

from collections.abc import Callable, Collection, Sequence

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from quiltfn.model.alias import ALIASES_MAX, Alias
from quiltfn.model.converting import convert
from quiltfn.model.errors import Outdated
from quiltfn.model.function import Function
from quiltfn.ports import ChangeKind
from quiltfn.store.database import changes, tables
from quiltfn.store.database.database import Database
from quiltfn.store.functions import old_versions

row = tables.function_alias


def move_all(connection: Connection, function: Function, move: Callable[[Alias], Alias]) -> None:
    """Applies `move` to each alias of the function and stores the results."""
    found = select(row.c.name, row.c.alias).where(row.c.function_id == function.id)
    for stored in connection.execute(found).all():
        before = convert(stored.alias, Alias)
        after = move(before)
        if after == before:
            continue
        values = {"alias": msgspec.to_builtins(after), "revision": after.revision}
        this = row.c.function_id == function.id, row.c.name == stored.name
        connection.execute(update(row).where(*this).values(values))
        changes.record(connection, ChangeKind.ALIAS, function.tenant_id, function.id)


def check_others(
    connection: Connection, function_id: str, alias: Alias, known: Alias | None
) -> None:
    """Raises `Outdated` if another node has meanwhile used up the maximum of aliases, or has made
    another alias the default.
    """
    becomes_default = alias.is_default and not (known is not None and known.is_default)
    if known is not None and not becomes_default:
        return
    condition = row.c.function_id == function_id, row.c.name != alias.name
    others = connection.execute(select(row.c.alias).where(*condition)).scalars().all()
    is_full = known is None and len(others) >= ALIASES_MAX
    if is_full or (becomes_default and any(convert(one, Alias).is_default for one in others)):
        raise Outdated


class SqlAliases:
    """The aliases of functions, deleted with their functions. Raises `StoreUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self, only: Collection[str] | None = None) -> Sequence[tuple[str, Alias]]:
        """All aliases, each with its function's id, or those of the functions with these ids."""
        query = select(row.c.function_id, row.c.alias).order_by(row.c.function_id, row.c.name)
        if only is not None:
            query = query.where(row.c.function_id.in_(only))

        def work(connection: Connection) -> list[tuple[str, Alias]]:
            return [(key, convert(alias, Alias)) for key, alias in connection.execute(query)]

        return await self._database.read(work)

    async def save(
        self, function_id: str, name: str, alias: Alias | None, known: Alias | None
    ) -> None:
        """Replaces the alias `known`; if that is None, creates it; if `alias` is None, removes it.

        Raises `NotFound` if the function was deleted, `Outdated` if the alias has changed
        meanwhile, and the errors of `check_others`.
        """
        this = row.c.function_id == function_id, row.c.name == name
        found = select(row.c.alias).where(*this)

        def work(connection: Connection) -> None:
            changes.record_of_function(connection, ChangeKind.ALIAS, function_id)
            stored = connection.execute(found).scalar()
            # Compares all fields: an alias that was removed and created again may have the same
            # revision.
            if (None if stored is None else convert(stored, Alias)) != known:
                raise Outdated
            if alias is not None:
                check_others(connection, function_id, alias, known)
            if alias is None:
                connection.execute(delete(row).where(*this))
                return
            for number in alias.versions:
                old_versions.check_there(connection, function_id, number)
            values = {"alias": msgspec.to_builtins(alias), "revision": alias.revision}
            if known is None:
                key = {"function_id": function_id, "name": name}
                connection.execute(insert(row), key | values)
            else:
                connection.execute(update(row).where(*this).values(values))

        await self._database.write(work)
