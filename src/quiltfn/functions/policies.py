"""The policies of functions in memory, so that no invocation needs a query to the database."""

from collections.abc import Collection, Mapping

import msgspec

from quiltfn.base.mirror import Mirror
from quiltfn.model.work import AsyncPolicy, RecordPolicy
from quiltfn.store.functions.policies import SqlPolicies

DEFAULT_ASYNC, DEFAULT_RECORD = AsyncPolicy(), RecordPolicy()


class Both(msgspec.Struct, frozen=True):
    """The two policies of a function."""

    asynchronous: AsyncPolicy = DEFAULT_ASYNC
    record: RecordPolicy = DEFAULT_RECORD


DEFAULTS = Both()


class Policies(Mirror[Both]):
    """Each function's policies for asynchronous invocations and for records."""

    def __init__(self, store: SqlPolicies) -> None:
        super().__init__()
        self._store = store

    async def _stored(self, only: Collection[str] | None) -> Mapping[str, Both]:
        return {
            function_id: Both(policy or DEFAULT_ASYNC, record or DEFAULT_RECORD)
            for function_id, policy, record in await self._store.load(only)
            if policy is not None or record is not None
        }

    def policy_of(self, function_id: str) -> AsyncPolicy:
        """How the function's asynchronous invocations run; the default if it has no policy."""
        return self._rows.get(function_id, DEFAULTS).asynchronous

    def record_policy_of(self, function_id: str) -> RecordPolicy:
        """Which inputs the function stores; the default if it has no policy."""
        return self._rows.get(function_id, DEFAULTS).record

    async def set_policy(self, function_id: str, policy: AsyncPolicy | None) -> None:
        """Replaces the async policy; None: the default. Raises `NotFound` if the function was
        deleted meanwhile.
        """
        kept = None if policy == DEFAULT_ASYNC else policy
        async with self._changing:
            await self._store.save_async(function_id, kept)
            self._keep(function_id, Both(kept or DEFAULT_ASYNC, self.record_policy_of(function_id)))

    async def set_record_policy(self, function_id: str, policy: RecordPolicy) -> None:
        """Replaces the record policy. Raises as `set_policy` does."""
        kept = None if policy == DEFAULT_RECORD else policy
        async with self._changing:
            await self._store.save_record(function_id, kept)
            self._keep(function_id, Both(self.policy_of(function_id), policy))

    def _keep(self, function_id: str, both: Both) -> None:
        self._put(function_id, None if both == DEFAULTS else both)
