"""Functions and versions, in the database."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace
from sqlalchemy import Connection, Select, and_, delete, exc, func, insert, select, update

from quiltfn.base.store_retry import until_stored
from quiltfn.model.alias import Alias
from quiltfn.model.cursors import to_cursor
from quiltfn.model.errors import Conflict, NotFound, Outdated
from quiltfn.model.function import Function
from quiltfn.model.retention import VersionLimits
from quiltfn.model.version import Version
from quiltfn.ports import (
    PAGE_MAX_BYTES,
    ChangeKind,
    ChangePage,
    FunctionCounters,
    Page,
    StoredFunction,
)
from quiltfn.store.database import changes, tables
from quiltfn.store.database.database import Database, Work, name_taken, violated
from quiltfn.store.database.directory import StoreBroken
from quiltfn.store.database.sql import run
from quiltfn.store.functions import aliases, old_versions

LIMITS = VersionLimits()
SWEEP_REST_S = 0.005


class SqlStore:
    """Functions and their versions. When a write returns, it is on disk. See
    `store/opening.py`.

    Every method raises `StoreUnavailable` if the database does not respond; then nothing has
    changed, except perhaps if it is `OutcomeUnknown`.
    """

    def __init__(self, database: Database, remove_some: Work[bool]) -> None:
        """`remove_some`: removes some data of deleted functions; returns whether there may be
        more.
        """
        self.database, self._remove_some = database, remove_some
        self._sweeping: asyncio.Task[None] | None = None
        self._to_sweep = False

    async def load(self, only: Collection[str] | None = None) -> Sequence[StoredFunction]:
        """Every function that is not deleted, or only those with one of these ids."""
        query = with_version().order_by(tables.function.c.id)
        if only is not None:
            query = query.where(tables.function.c.id.in_(only))
        return await self.database.read(lambda connection: read_functions(connection, query))

    async def counters(self) -> Mapping[str, FunctionCounters]:
        """The counters of every function, by its id."""
        columns = [tables.function.c[name] for name in ("id", *tables.COUNTER_COLUMNS)]

        def work(connection: Connection) -> dict[str, FunctionCounters]:
            rows = connection.execute(select(*columns)).mappings()
            return {row["id"]: tables.read_counters(row) for row in rows}

        return await self.database.read(work)

    async def find(self, function_id: str) -> StoredFunction | None:
        """One function; None if it was deleted or never created."""
        query = with_version().where(tables.function.c.id == function_id)
        found = await self.database.read(lambda connection: read_functions(connection, query))
        return found[0] if found else None

    async def newest_change(self) -> int:
        """The number of the newest change. Read it before `load`, and then follow changes after
        it.
        """
        return await self.database.read(changes.newest)

    async def changes(self, since: int, limit: int = 1000) -> ChangePage:
        """The changes of shared state after the given number, by any server."""
        page = await self.database.poll(lambda connection: changes.behind(connection, since, limit))
        if page is not None:
            return page
        return await self.database.read(lambda connection: changes.since(connection, since, limit))

    async def create(self, function: Function, version: Version) -> None:
        """Stores a function and its version. Raises `Conflict` if the tenant has a function of that
        name.
        """

        def work(connection: Connection) -> None:
            connection.execute(insert(tables.function), tables.row_of(function))
            connection.execute(insert(tables.version), tables.version_row(version))
            slots = {"function_id": function.id, "max_instances": function.max_instances}
            connection.execute(insert(tables.slot), slots)
            changes.record(connection, ChangeKind.FUNCTION, function.tenant_id, function.id)

        await self._change(function, work)

    async def save(
        self,
        function: Function,
        version: Version | None = None,
        move: Callable[[Alias], Alias] | None = None,
        limits: VersionLimits = LIMITS,
    ) -> Function:
        """In one transaction, stores the changed function and its new version, if given, and
        applies `move` to each of its aliases. `limits`: those of the function's versions, applied
        if there is a new one.

        Returns the function with its new revision. Raises `Outdated`, a `Conflict`, unless
        `function.revision` is the newest, and `NotFound` if it was deleted.
        """
        columns, saved = tables.function.c, replace(function, revision=function.revision + 1)
        this = columns.id == function.id
        change = update(tables.function).where(this, columns.revision == function.revision)
        there = select(columns.id).where(this)
        # No update if the maximum is unchanged, since nodes of a fleet lock the row to start an
        # instance.
        slots, most = tables.slot.c, function.max_instances
        scale = update(tables.slot).where(
            slots.function_id == function.id, slots.max_instances != most
        )

        def work(connection: Connection) -> None:
            if connection.execute(change.values(tables.row_of(saved))).rowcount == 0:
                if connection.execute(there).first() is None:
                    raise NotFound("the function was deleted")
                raise Outdated("the function was changed by another server; repeat the request")
            if version is not None:
                connection.execute(insert(tables.version), tables.version_row(version))
            else:
                old_versions.check_there(connection, function.id, function.current_version)
            connection.execute(scale.values(max_instances=most))
            if move is not None:
                aliases.move_all(connection, function, move)
            if version is not None:
                old_versions.remove(connection, function, limits)
            changes.record(connection, ChangeKind.FUNCTION, function.tenant_id, function.id)

        await self._change(function, work)
        return saved

    async def delete(self, function_id: str) -> None:
        """Removes the function and its versions. Its name is free at once, its records are
        invisible and its work is not claimed. Records and work are removed in the background.
        """

        this = tables.function.c.id == function_id
        owner = select(tables.function.c.tenant_id).where(this)

        def work(connection: Connection) -> None:
            tenant_id = connection.execute(owner).scalar()
            if tenant_id is None:
                return
            # ON DELETE CASCADE also deletes its versions.
            connection.execute(delete(tables.function).where(this))
            connection.execute(insert(tables.deletion), {"function_id": function_id})
            changes.record(connection, ChangeKind.FUNCTION, tenant_id, function_id)

        await self.database.write(work, frees=True)
        self.sweep()

    async def versions(
        self, function_id: str, after: str | None = None, limit: int = 1000
    ) -> Page[Version]:
        """Up to `limit` versions, newest first, after the one with the id `after`. If versions are
        long, a page has fewer, but at least one.
        """
        return await self.database.read(
            lambda connection: read_versions(connection, function_id, after, limit)
        )

    async def version(self, function_id: str, number: int) -> Version | None:
        """One version; None if there is none with that number."""
        return await self.database.read(
            lambda connection: read_version(connection, function_id, number)
        )

    async def newest_number(self, function_id: str) -> int:
        """The number of the newest version; 0 without any."""
        query = select(func.coalesce(func.max(tables.version.c.number), 0)).where(
            tables.version.c.function_id == function_id
        )
        return await self.database.read(lambda connection: connection.execute(query).scalar_one())

    async def ping(self) -> None:
        """Raises `StoreUnavailable` unless the database accepts a write now."""
        await self.database.write(lambda connection: run(connection, "probe").close())

    def condition(self) -> tuple[bool, str]:
        """Whether the data is undamaged, as far as known, and a message for the operator."""
        return self.database.condition()

    async def wait_swept(self) -> None:
        """Waits until all data of functions deleted so far is removed."""
        while self._sweeping is not None and not self._sweeping.done():
            await asyncio.shield(self._sweeping)

    async def stop_sweeping(self) -> None:
        """Stops the removal; the next start continues it."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])

    async def _change(self, function: Function, work: Work[None]) -> None:
        try:
            await self.database.write(work)
        except exc.IntegrityError as error:
            if violated(error, tables.function_name):
                raise name_taken(function.name, "function") from error
            if violated(error, tables.version_number):
                raise Conflict("version was made by somebody else at the same time") from error
            raise

    def sweep(self) -> None:
        """Removes the data of deleted functions in the background."""
        self._to_sweep = True
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.get_running_loop().create_task(self._remove_records())

    async def _remove_records(self) -> None:
        """Removes the data of deleted functions in steps; others can write in between."""
        while self._to_sweep:
            self._to_sweep = False  # a deletion during this pass sets it to True
            left = True
            while left:
                remove = partial(self.database.write, self._remove_some, frees=True)
                left = await until_stored(remove)
                await asyncio.sleep(SWEEP_REST_S)


def with_version() -> Select[tuple[Any, ...]]:
    """Functions, each with its current version in columns named version_…."""
    version = [column.label(f"version_{column.name}") for column in tables.version.columns]
    current = and_(
        tables.version.c.function_id == tables.function.c.id,
        tables.version.c.number == tables.function.c.current_version,
    )
    return select(tables.function, *version).outerjoin(tables.version, current)


def read_functions(connection: Connection, query: Select[tuple[Any, ...]]) -> list[StoredFunction]:
    """The functions that the query finds. Raises `StoreBroken` if a version is missing."""
    rows = connection.execute(query).mappings().all()
    for row in rows:
        if row["version_id"] is None:
            raise StoreBroken(f"Function {row['id']} points to a version that is missing.")
    return [tables.read_stored(row) for row in rows]


def read_versions(
    connection: Connection, function_id: str, after: str | None, limit: int
) -> Page[Version]:
    """Some versions of a function, newest first. Reads only as many rows as needed."""
    columns = tables.version.c
    query = select(tables.version).where(columns.function_id == function_id)
    if after is not None:
        start = select(columns.number).where(columns.id == after).scalar_subquery()
        query = query.where(columns.number < start)
    found: list[Version] = []
    left = PAGE_MAX_BYTES
    with connection.execute(query.order_by(columns.number.desc()).limit(limit + 1)) as rows:
        for row in rows.mappings():
            if len(found) == limit or left <= 0:
                return Page(found, to_cursor(found[-1].id))
            found.append(tables.read_version(row))
            left -= found[-1].spec.size
    return Page(found)


def read_version(connection: Connection, function_id: str, number: int) -> Version | None:
    """The version with that number, or None."""
    columns = tables.version.c
    query = select(tables.version).where(
        columns.function_id == function_id, columns.number == number
    )
    row = connection.execute(query).mappings().one_or_none()
    return tables.read_version(row) if row else None
