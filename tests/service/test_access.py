"""Access with keys: the server finds a key that it has not seen yet, and guesses rarely cause
queries.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from promises import promise
from quiltfn.base.clock import SystemClock
from quiltfn.model.access import Scope
from quiltfn.model.errors import RateLimited, StoreUnavailable, Unauthorized
from quiltfn.operator.keys import parser, perform
from quiltfn.store import SqlAudit, SqlKeys, SqlStore, open_sqlite
from quiltfn.tenants import access as module
from quiltfn.tenants.access import ANYBODY, Access, make_key
from sqlite_template import with_schema


class CountedKeys(SqlKeys):
    """Counts the queries of the store. `broken`: the store does not respond."""

    asked = 0
    broken = False

    async def revision(self) -> int:
        self.asked += 1
        if self.broken:
            raise StoreUnavailable("not now")
        return await super().revision()


class SharedKeys:
    """The keys as seen by a server, and by a tool beside it, over one directory."""

    def __init__(self, server: SqlStore, tool: SqlStore) -> None:
        self.keys, self.tool = CountedKeys(server.database), SqlKeys(tool.database)
        self.access = Access(self.keys, SystemClock(), disabled=(), stale_after_s=math.inf)

    async def create(self) -> str:
        """Creates a key as `quiltfn keys create` does."""
        return (await make_key(self.tool, SystemClock(), "acme", Scope.READ, None))[1]

    async def who(self, key: str, address: str = "10.0.0.1") -> str:
        return (await self.access.identify({"x-api-key": key}, address)).tenant_id


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[SharedKeys]:
    async with (
        open_sqlite(with_schema(tmp_path)) as server,
        open_sqlite(tmp_path, alone=False) as tool,
    ):
        box = SharedKeys(server, tool)
        await box.create()
        await box.access.refresh()
        yield box


def guess(number: int) -> str:
    return f"quilt_sk_{number:012x}_{'x' * 43}"


async def test_a_new_key_is_known_in_the_very_next_request(box: SharedKeys) -> None:
    for _ in range(20):
        assert await box.who(await box.create()) == "acme"
    key = await box.create()
    asked = box.keys.asked
    assert await asyncio.gather(*(box.who(key) for _ in range(50))) == ["acme"] * 50
    assert box.keys.asked == asked + 1, "they ask together"


async def test_a_key_that_is_known_asks_nobody(box: SharedKeys) -> None:
    key = await box.create()
    await box.who(key)
    box.keys.broken = True
    assert await box.who(key) == "acme"


@promise("A29")
async def test_guessing_has_the_store_asked_so_often_and_no_more(box: SharedKeys) -> None:
    asked, began = box.keys.asked, time.monotonic()

    async def wrong(number: int) -> None:
        with pytest.raises((Unauthorized, RateLimited)):
            await box.who(guess(number), f"10.{number % 200}.0.1")

    for at in range(0, 3000, 300):
        await asyncio.gather(*(wrong(number) for number in range(at, at + 300)))
    took = time.monotonic() - began
    assert box.keys.asked - asked <= took / module.ASK_EVERY_S + 2
    # A repeated guess causes no query: each text is looked up once.
    asked = box.keys.asked
    await asyncio.gather(*(wrong(number) for number in range(300)))
    for text in ("rubbish", "quilt_sk_short", "a.b.c"):
        with pytest.raises(Unauthorized):
            await box.who(text)
    assert box.keys.asked == asked
    # During a flood of guesses, a valid key is accepted.
    key = await box.create()
    flood = [asyncio.ensure_future(wrong(number)) for number in range(5000, 5300)]
    assert await box.who(key, "10.1.0.1") == "acme"
    await asyncio.gather(*flood)


async def test_remembered_guesses_are_few(box: SharedKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASKED_MAX", 10)
    for number in range(30):
        with pytest.raises(Unauthorized):
            await box.who(guess(number), f"10.0.{number}.1")
    assert len(box.access._asked) == 10


async def test_a_key_that_cannot_be_looked_for_is_not_said_to_be_wrong(box: SharedKeys) -> None:
    key = await box.create()
    box.keys.broken = True
    with pytest.raises(StoreUnavailable):
        await box.who(key)
    box.keys.broken = False
    assert await box.who(key) == "acme"


async def test_the_first_key_ends_the_open_mode_for_all_requests(tmp_path: Path) -> None:
    """They notice it once `quiltfn keys` has reported it, also while the keys are loaded or the
    store is away.
    """
    async with (
        open_sqlite(with_schema(tmp_path)) as server,
        open_sqlite(tmp_path, alone=False) as tool,
    ):
        box = SharedKeys(server, tool)
        await box.access.refresh()
        assert box.access.is_open
        assert await box.access.identify({}, "10.0.0.1") == ANYBODY
        assert not box.access.is_outdated
        # Changes must also be noticed if they follow faster than file times can show.
        given = parser().parse_args(["create"])
        for _ in range(3):
            await perform(given, box.tool, SqlAudit(tool.database), SystemClock())
            assert [box.access.is_outdated for _ in range(3)] == [True] * 3
            box.keys.broken = True
            with pytest.raises(StoreUnavailable):
                await box.access.refresh()
            assert box.access.is_outdated
            box.keys.broken = False
            await box.access.refresh()
            assert not box.access.is_open
            assert not box.access.is_outdated
