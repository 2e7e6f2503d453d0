"""The policies of functions: a row for each function whose policies differ from the defaults."""

from collections.abc import Collection, Sequence
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Connection, insert, select, update

from quiltfn.model.converting import convert
from quiltfn.model.work import AsyncPolicy, RecordPolicy
from quiltfn.ports import ChangeKind
from quiltfn.store.database import changes, tables
from quiltfn.store.database.database import Database

T = TypeVar("T", bound=msgspec.Struct)
row = tables.function_policy
DEFAULT = AsyncPolicy()


class SqlPolicies:
    """The async and record policies of functions. Raises `StoreUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(
        self, only: Collection[str] | None = None
    ) -> Sequence[tuple[str, AsyncPolicy | None, RecordPolicy | None]]:
        """The policies of each function that has its own. `only`: for these function ids."""
        query = select(row).order_by(row.c.function_id)
        if only is not None:
            query = query.where(row.c.function_id.in_(only))

        def work(connection: Connection) -> list[tuple[str, Any, Any]]:
            return [
                (
                    one.function_id,
                    read(one.async_policy, AsyncPolicy),
                    read(one.record_policy, RecordPolicy),
                )
                for one in connection.execute(query)
            ]

        return await self._database.read(work)

    async def save_async(self, function_id: str, policy: AsyncPolicy | None) -> None:
        """Replaces a policy; None: the default. Raises `NotFound` if the function was deleted."""
        await self._save(function_id, {"async_policy": stored(policy)})

    async def save_record(self, function_id: str, policy: RecordPolicy | None) -> None:
        """As `save_async`, for the record policy."""
        await self._save(function_id, {"record_policy": stored(policy)})

    async def _save(self, function_id: str, values: dict[str, Any]) -> None:
        change = update(row).where(row.c.function_id == function_id).values(values)

        def work(connection: Connection) -> None:
            changes.record_of_function(connection, ChangeKind.POLICY, function_id)
            if not connection.execute(change).rowcount:
                connection.execute(insert(row), {"function_id": function_id} | values)

        await self._database.write(work)


def policy_of(connection: Connection, function_id: str) -> AsyncPolicy:
    """A function's async policy, or the default."""
    query = select(row.c.async_policy).where(row.c.function_id == function_id)
    return read(connection.execute(query).scalar(), AsyncPolicy) or DEFAULT


def stored(policy: msgspec.Struct | None) -> Any:
    return None if policy is None else msgspec.to_builtins(policy)


def read(value: Any, kind: type[T]) -> T | None:
    return None if value is None else convert(value, kind)
