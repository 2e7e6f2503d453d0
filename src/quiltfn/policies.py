"""The policies of functions in memory, so that no call and no acceptance asks the database."""

from quiltfn.model.work import AsyncPolicy, RecordPolicy
from quiltfn.ports.work import PolicyStore

DEFAULT_ASYNC, DEFAULT_RECORD = AsyncPolicy(), RecordPolicy()


class Policies:
    """What each function says of its accepted work and its records.

    A change is stored first and is in memory only then.
    """

    def __init__(self, store: PolicyStore) -> None:
        self._store = store
        self._async: dict[str, AsyncPolicy] = {}
        self._record: dict[str, RecordPolicy] = {}

    async def restore(self) -> None:
        """Loads what is stored. Called at the start."""
        for function_id, policy, record_policy in await self._store.load():
            if policy is not None:
                self._async[function_id] = policy
            if record_policy is not None:
                self._record[function_id] = record_policy

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
        await self._store.save_async(function_id, kept)
        self._async.pop(function_id, None)
        if kept is not None:
            self._async[function_id] = kept

    async def set_record_policy(self, function_id: str, policy: RecordPolicy) -> None:
        """The same for the record policy."""
        kept = None if policy == DEFAULT_RECORD else policy
        await self._store.save_record(function_id, kept)
        self._record.pop(function_id, None)
        if kept is not None:
            self._record[function_id] = kept

    def forget(self, function_id: str) -> None:
        """The function was deleted; its policies are gone from the store with it."""
        self._async.pop(function_id, None)
        self._record.pop(function_id, None)
