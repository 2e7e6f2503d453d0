"""Asynchronous invocations that were claimed and not started, in a real store: they are held or
released, and never in two places.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from contract.pieces import NOW_MS, an_accepted
from contract.stores import a_stored_function
from manual_clock import ManualClock
from promises import promise
from quiltfn.calls import claims as module
from quiltfn.calls.claims import Backlog, Claims
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.function import Function
from quiltfn.store import SqlStore, SqlWork, open_sqlite
from service.faults import failing
from sqlite_template import with_schema

pytestmark = promise("D31")


class Taken:
    """A function's asynchronous invocations in a store, and the backlog of the claimed ones."""

    def __init__(self, store: SqlStore, function: Function) -> None:
        self.queue, self.function = SqlWork(store.database), function
        self.claims = self.made()
        self.backlog = Backlog(function.id, function.tenant_id)

    def made(self, *, is_strict: bool = False) -> Claims:
        return Claims(self.queue, ManualClock(), is_strict=is_strict)

    async def accept(self, count: int, **given: Any) -> list[str]:
        return [await an_accepted(self.queue, self.function, **given) for _ in range(count)]

    async def claim(self, size: int = 10) -> None:
        assert await self.claims.claim(self.backlog, size, NOW_MS) == []

    async def waiting(self) -> list[str]:
        """Claims the unclaimed invocations, and returns their ids."""
        claim = await self.queue.claim(self.function.id, 100, NOW_MS, is_begun=False)
        return [one.record.invocation_id for one in claim.work]


@pytest.fixture
async def taken(tmp_path: Path) -> AsyncIterator[Taken]:
    async with open_sqlite(with_schema(tmp_path)) as store:
        yield Taken(store, await a_stored_function(store))


async def test_what_was_put_back_before_the_store_failed_is_not_held_as_well(
    taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up during a pause. An invocation that was released must not be started here as
    well.
    """
    monkeypatch.setattr(module, "RELEASED_AT_ONCE", 2)
    ids = await taken.accept(5)
    await taken.claim()
    with failing(taken.queue, "release", after=1), pytest.raises(StoreUnavailable):
        await taken.claims.put_back(taken.backlog, taken.claims.take_all(taken.backlog))
    assert taken.backlog.next_due_ms == NOW_MS  # the released invocations are due
    held = list(taken.backlog.held)
    assert (held, await taken.waiting()) == (ids[2:], ids[:2])


async def test_a_failed_claim_leaves_work(taken: Taken) -> None:
    ids = await taken.accept(1)
    taken.backlog.waits_until(NOW_MS)
    with failing(taken.queue, "claim"), pytest.raises(StoreUnavailable):
        await taken.claims.claim(taken.backlog, 10, NOW_MS)
    assert taken.backlog.next_due_ms == NOW_MS
    await taken.claim()
    assert list(taken.backlog.held) == ids
    assert taken.backlog.next_due_ms is None


async def test_arrivals_during_a_claim_count(taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    await taken.accept(1)
    taken.backlog.waits_until(NOW_MS)
    real = taken.queue.claim

    async def arrives(*given: Any, **more: Any) -> Any:
        found = await real(*given, **more)
        taken.backlog.waits_until(NOW_MS + 5)
        return found

    monkeypatch.setattr(taken.queue, "claim", arrives)
    await taken.claim()
    assert taken.backlog.next_due_ms == NOW_MS + 5


async def test_what_is_put_back_is_not_looked_at_before_that_time(taken: Taken) -> None:
    await taken.accept(1)
    await taken.claim()
    works = taken.claims.take_all(taken.backlog)
    await taken.claims.put_back(taken.backlog, works, NOW_MS + 1000)
    assert taken.backlog.next_due_ms == NOW_MS + 1000


async def test_beyond_so_many_bytes_one_piece_is_claimed_at_a_time(
    taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HELD_MAX_BYTES", 1000)
    # Expect no bytes from a claim in progress.
    monkeypatch.setattr(module, "CLAIM_MAX_BYTES", 0)
    await taken.accept(2, payload=bytes(600))
    await taken.claim(1)
    assert taken.claims.slice_size(taken.backlog, 3) > 1
    await taken.claim(1)
    assert taken.claims.slice_size(taken.backlog, 3) == 1
    taken.claims.take(taken.backlog)
    assert taken.claims.slice_size(taken.backlog, 3) > 1


@pytest.mark.parametrize("is_strict", [False, True])
async def test_work_is_claimed_ahead_and_never_if_strict(taken: Taken, is_strict: bool) -> None:
    claims, backlog = taken.made(is_strict=is_strict), taken.backlog
    await taken.accept(4)
    await claims.claim(backlog, 4, NOW_MS)
    backlog.waits_until(NOW_MS)
    wanted = []
    while backlog.held:
        wanted.append(claims.wants_more(backlog, 4, NOW_MS))
        claims.take(backlog)
    assert wanted == [False, False, False, not is_strict]
    assert not claims.wants_more(backlog, 4, NOW_MS - 1)  # the waiting invocations are not due yet
    assert claims.slice_size(backlog, 3) == 3 if is_strict else claims.slice_size(backlog, 3) > 3


async def test_strict_claims_count_as_begun(taken: Taken) -> None:
    with patch.object(taken.queue, "claim", wraps=taken.queue.claim) as claim:
        for is_strict in (False, True):
            await taken.accept(1)
            await taken.made(is_strict=is_strict).claim(taken.backlog, 1, NOW_MS)
    assert [named["is_begun"] for _, named in claim.call_args_list] == [False, True]
