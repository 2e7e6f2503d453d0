"""Mirror: rows of the store in memory, so that no invocation needs a query to the database."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Generic, TypeVar

from quiltfn.model.function import Function
from quiltfn.ports import Change

V = TypeVar("V")


class Mirror(Generic[V]):
    """A value for each key, such as the id of a function. A subclass makes a change while it holds
    `_changing`: it stores the change first, and then applies it in memory by `_put`.
    """

    def __init__(self) -> None:
        self._rows: dict[str, V] = {}
        self._changing = asyncio.Lock()

    async def _stored(self, only: Collection[str] | None) -> Mapping[str, V]:
        """The stored values of the keys `only`; None: of all keys. Raises `StoreUnavailable`."""
        raise NotImplementedError

    def _changed(self, key: str, before: V | None, after: V | None) -> None:
        """Called for every change of a value; None stands for a missing row in the store."""

    def _key_of(self, change: Change) -> str:
        """The key that a change of another node affects."""
        return change.object_id

    async def restore(self) -> None:
        """Loads all stored values. Called at start."""
        await self._load(None)

    async def follow_changes(self, changes: Sequence[Change] | None) -> None:
        """Reloads the values that other nodes have changed; None: all values."""
        only = None if changes is None else {self._key_of(one) for one in changes}
        async with self._changing:
            await self._load(only)

    async def _load(self, only: Collection[str] | None) -> None:
        found = await self._stored(only)
        for key in {**self._rows, **found} if only is None else only:
            self._put(key, found.get(key))

    def _put(self, key: str, value: V | None) -> None:
        before = self._rows.pop(key, None)
        if value is not None:
            self._rows[key] = value
        if before != value:
            self._changed(key, before, value)

    def function_changed(self, before: Function | None, after: Function | None) -> None:
        """Called by the catalog: removes the value of a deleted function."""
        if before is not None and after is None:
            self._put(before.id, None)
