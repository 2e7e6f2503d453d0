"""Rows in memory follow the store, and each difference is reported once."""

from collections.abc import Collection, Mapping
from typing import Any

import pytest

from quiltfn.base.mirror import Mirror
from quiltfn.ports import Change, ChangeKind


class Numbers(Mirror[int]):
    def __init__(self) -> None:
        super().__init__()
        self.there: dict[str, int] = {}
        self.heard: list[tuple[str, int | None, int | None]] = []

    async def _stored(self, only: Collection[str] | None) -> Mapping[str, int]:
        return {key: one for key, one in self.there.items() if only is None or key in only}

    def _changed(self, key: str, before: int | None, after: int | None) -> None:
        self.heard.append((key, before, after))


def changed(*keys: str) -> list[Change]:
    return [Change(number=1, kind=ChangeKind.URL, tenant_id="t", object_id=one) for one in keys]


@pytest.mark.parametrize(
    ("there", "changes", "expected"),
    [
        ({"a": 1, "b": 2}, None, []),  # no difference
        ({"a": 1, "b": 3}, None, [("b", 2, 3)]),
        ({"b": 2, "c": 4}, None, [("a", 1, None), ("c", None, 4)]),
        ({"b": 3, "c": 4}, changed("b"), [("b", 2, 3)]),  # only b was requested
        ({}, changed("a", "x"), [("a", 1, None)]),
    ],
)
async def test_what_the_store_has_is_taken_over(there: Any, changes: Any, expected: Any) -> None:
    numbers = Numbers()
    numbers.there = {"a": 1, "b": 2}
    await numbers.restore()
    assert numbers.heard == [("a", None, 1), ("b", None, 2)]
    numbers.there, numbers.heard = there, []
    await numbers.follow_changes(changes)
    assert numbers.heard == expected


async def test_it_waits_for_a_change_that_is_under_way() -> None:
    """Without this wait, memory could return to what was stored before the change."""
    numbers = Numbers()
    await numbers._changing.acquire()
    numbers.there = {"a": 1}
    following = numbers.follow_changes(None)
    following.send(None)
    assert numbers._rows == {}
    following.close()
