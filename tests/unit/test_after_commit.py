"""Items that follow from committed records are passed on once each, even after errors."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from quiltfn.calls.after_commit import AfterCommit
from quiltfn.model.errors import StoreUnavailable


def journal(synced: Callable[[], Awaitable[object]]) -> Any:
    return SimpleNamespace(synced=synced)


async def test_items_follow_a_later_commit_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quiltfn.base.store_retry.STORE_AGAIN_S", 0.0)
    events: list[object] = []

    async def synced() -> None:
        events.append("commit")
        if events.count("commit") == 1:
            after.add("late")
            raise StoreUnavailable("it is away")

    after = AfterCommit(journal(synced), events.append)
    for item in ("a", "b", "a"):
        after.add(item)
    assert after._task is not None
    await after._task
    assert events == ["commit", "commit", "a", "b", "commit", "late"]


async def test_nothing_is_lost_by_an_error_and_the_next_item_begins_again() -> None:
    errors, passed = [ValueError("a bug")], list[str]()

    async def synced() -> None:
        if errors:
            raise errors.pop()

    after = AfterCommit(journal(synced), passed.append)
    after.add("before")
    assert after._task is not None
    with pytest.raises(ValueError, match="a bug"):
        await after._task
    after.add("behind")
    await after._task
    assert passed == ["before", "behind"]


async def test_once_closed_it_passes_nothing() -> None:
    passed: list[int] = []
    after = AfterCommit(journal(asyncio.Event().wait), passed.append)
    await after.aclose()
    after.add(1)
    await asyncio.sleep(0)
    await after.aclose()
    assert passed == []
