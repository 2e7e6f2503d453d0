"""The policies of functions in memory, so that no call and no acceptance asks the database."""

import asyncio
from collections.abc import Sequence

from quiltfn.model.function import Function
from quiltfn.model.work import AsyncPolicy, RecordPolicy
from quiltfn.ports import Change
from quiltfn.store.functions.policies import SqlPolicies

DEFAULT_ASYNC, DEFAULT_RECORD = AsyncPolicy(), RecordPolicy()


class Policies:
    """What each function says of its accepted work and its records.

    A change is stored first and is in memory only then.
    """

    def __init__(self, store: SqlPolicies) -> None:
        self._store = store
        self._async: dict[str, AsyncPolicy] = {}
        self._record: dict[str, RecordPolicy] = {}
        self._changing = asyncio.Lock()  # so that memory has what was stored last

    async def restore(self) -> None:
        """Loads what is stored. Called at the start."""
        for one in await self._store.load():
            self._put(*one)

    async def follow_changes(self, changes: Sequence[Change] | None) -> None:
        """Takes over what other nodes have made of policies; None: of all of them."""
        only = None if changes is None else {one.object_id for one in changes}
        async with self._changing:
            found = await self._store.load(only)
            if only is None:
                only = self._async.keys() | self._record.keys()
            for function_id in only - {one[0] for one in found}:
                self.forget(function_id)
            for one in found:
                self._put(*one)

    def policy_of(self, function_id: str) -> AsyncPolicy:
        """How the function's accepted work is run; the default where it says nothing."""
        return self._async.get(function_id, DEFAULT_ASYNC)

    def record_policy_of(self, function_id: str) -> RecordPolicy:
        """Whose inputs the function keeps; the default where it says nothing."""
        return self._record.get(function_id, DEFAULT_RECORD)

    async def set_policy(self, function_id: str, policy: AsyncPolicy | None) -> None:
        """Replaces the async policy; None: the default. Raises `NotFound` if the function was
        deleted meanwhile.
        """
        kept = None if policy == DEFAULT_ASYNC else policy
        async with self._changing:
            await self._store.save_async(function_id, kept)
            self._put(function_id, kept, self._record.get(function_id))

    async def set_record_policy(self, function_id: str, policy: RecordPolicy) -> None:
        """The same for the record policy."""
        kept = None if policy == DEFAULT_RECORD else policy
        async with self._changing:
            await self._store.save_record(function_id, kept)
            self._put(function_id, self._async.get(function_id), kept)

    def function_changed(self, before: Function | None, after: Function | None) -> None:
        """Is told by the catalog: the policies of a function that was deleted go with it."""
        if before is not None and after is None:
            self.forget(before.id)

    def forget(self, function_id: str) -> None:
        """The function was deleted; its policies are gone from the store with it."""
        self._put(function_id, None, None)

    def _put(
        self, function_id: str, policy: AsyncPolicy | None, record_policy: RecordPolicy | None
    ) -> None:
        self._async.pop(function_id, None)
        self._record.pop(function_id, None)
        if policy is not None:
            self._async[function_id] = policy
        if record_policy is not None:
            self._record[function_id] = record_policy
