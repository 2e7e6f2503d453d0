"""Policies in memory: they are stored first, and functions without one get the defaults."""

import asyncio
from collections.abc import Collection, Sequence

import pytest

from quiltfn.functions.policies import Policies
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.work import AsyncPolicy, RecordPolicy
from quiltfn.store.functions.policies import SqlPolicies

Row = tuple[str, AsyncPolicy | None, RecordPolicy | None]
TWICE, ALL = AsyncPolicy(max_attempts=2), RecordPolicy(keep_input="all")


class Stored(SqlPolicies):
    """An `SqlPolicies` in memory, which a test can make fail."""

    def __init__(self, rows: Sequence[Row] = ()) -> None:
        self.rows, self.saved, self.is_broken = list(rows), list[object](), False

    async def load(self, only: Collection[str] | None = None) -> Sequence[Row]:
        return [one for one in self.rows if only is None or one[0] in only]

    async def save_async(self, function_id: str, policy: AsyncPolicy | None) -> None:
        self._note(function_id, policy)

    async def save_record(self, function_id: str, policy: RecordPolicy | None) -> None:
        self._note(function_id, policy)

    def _note(self, function_id: str, policy: object) -> None:
        if self.is_broken:
            raise StoreUnavailable
        self.saved.append((function_id, policy))


def test_what_is_stored_is_there_after_a_start_and_the_rest_is_the_default() -> None:
    policies = Policies(Stored([("a", TWICE, None), ("b", None, ALL)]))
    asyncio.run(policies.restore())
    assert (policies.policy_of("a"), policies.policy_of("b")) == (TWICE, AsyncPolicy())
    assert (policies.record_policy_of("a"), policies.record_policy_of("b")) == (RecordPolicy(), ALL)
    for name in ("a", "b"):  # a deleted function has no policy
        policies._put(name, None)
        assert policies.policy_of(name) == AsyncPolicy()
        assert policies.record_policy_of(name) == RecordPolicy()


def test_a_change_that_is_not_stored_changes_nothing() -> None:
    store = Stored()
    policies = Policies(store)
    asyncio.run(policies.set_policy("a", TWICE))
    store.is_broken = True
    with pytest.raises(StoreUnavailable):
        asyncio.run(policies.set_policy("a", None))
    with pytest.raises(StoreUnavailable):
        asyncio.run(policies.set_record_policy("a", ALL))
    assert policies.policy_of("a") == TWICE
    assert policies.record_policy_of("a") == RecordPolicy()


def test_a_default_takes_no_room() -> None:
    store = Stored()
    policies = Policies(store)

    async def change() -> None:
        await policies.set_policy("a", TWICE)
        await policies.set_policy("a", AsyncPolicy())
        await policies.set_record_policy("a", ALL)
        await policies.set_record_policy("a", RecordPolicy())

    asyncio.run(change())
    assert store.saved == [("a", TWICE), ("a", None), ("a", ALL), ("a", None)]
    assert policies.policy_of("a") == AsyncPolicy()
