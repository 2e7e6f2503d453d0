"""The promises of `ports.IdempotencyStore`."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from msgspec.structs import replace

from contract.stores import (
    SharedStoreOpener,
    StoreOpener,
    not_none,
    opened_as_before,
    restart,
)
from forked import forked
from promises import promise
from quiltfn.model.idempotency import IdempotentRequest, StoredResponse
from quiltfn.store import SqlStore, StoreBroken
from quiltfn.store.database import database
from quiltfn.store.database.database import Work
from quiltfn.store.tenants.idempotency import SqlIdempotencyStore

NOW = 1_760_000_000
DAY_S = 24 * 3600
INTERRUPTED = b'{"error_code":"INTERNAL"}'
REQUEST = IdempotentRequest(
    tenant_id="default", method="POST", path="/f", key="k", body_digest="d1"
)


async def test_a_slot_is_taken_once_and_answers(open_store: StoreOpener, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        answers = SqlIdempotencyStore(store.database)
        assert await answers.reserve(REQUEST, NOW) is None
        other_body = replace(REQUEST, body_digest="d2")
        assert await answers.reserve(other_body, NOW) == StoredResponse(body_digest="d1")
        for other in ("tenant_id", "method", "path", "key"):
            assert await answers.reserve(replace(REQUEST, **{other: "other"}), NOW) is None
        await answers.complete(REQUEST, 201, {"etag": '"ä"'}, b"\x00\xff{}")
    async with open_store(tmp_path) as store:
        kept = await SqlIdempotencyStore(store.database).reserve(REQUEST, NOW + 1)
    assert kept == StoredResponse(
        body_digest="d1", status=201, headers={"etag": '"ä"'}, body=b"\x00\xff{}"
    )


async def test_a_released_slot_is_free_and_an_answered_slot_is_kept(store: SqlStore) -> None:
    answers = SqlIdempotencyStore(store.database)
    await answers.reserve(REQUEST, NOW)
    await answers.release(REQUEST)
    assert await answers.reserve(REQUEST, NOW) is None
    await answers.complete(REQUEST, 200, {}, b"first")
    await answers.release(REQUEST)
    await answers.complete(REQUEST, 200, {}, b"second")
    assert not_none(await answers.reserve(REQUEST, NOW)).body == b"first"


async def test_only_its_server_reserves_again(
    open_shared: SharedStoreOpener, tmp_path: Path
) -> None:
    async with open_shared(tmp_path, "one") as first, open_shared(tmp_path, "two") as second:
        own, other = (SqlIdempotencyStore(each.database) for each in (first, second))
        headers = {"x-invocation-id": "first"}
        assert await own.reserve(REQUEST, NOW, None, headers) is None
        running = StoredResponse(body_digest="d1", headers=headers)
        assert await own.reserve(REQUEST, NOW) == running
        # Another server cannot tell whether the request still runs.
        assert await other.reserve(REQUEST, NOW, again=True) == running
        headers = {"x-invocation-id": "second"}
        assert await own.reserve(REQUEST, NOW, None, headers, again=True) is None
        assert await other.reserve(REQUEST, NOW) == replace(running, headers=headers)
        await own.complete(REQUEST, 200, {}, b"{}")
        assert not_none(await own.reserve(REQUEST, NOW, again=True)).body == b"{}"


@promise("N89")
async def test_other_servers_slots_stay(open_shared: SharedStoreOpener, tmp_path: Path) -> None:
    """The first server has released its key, but does not know that this succeeded, so it releases
    the key again. The second server has the key by then, and must keep it.
    """
    async with open_shared(tmp_path, "one") as store, open_shared(tmp_path, "two") as peer:
        first, second = (SqlIdempotencyStore(each.database) for each in (store, peer))
        assert await first.reserve(REQUEST, NOW) is None
        await first.release(REQUEST)
        assert await second.reserve(REQUEST, NOW) is None
        await first.release(REQUEST)
        await first.complete(REQUEST, 503, {}, b"of the first")
        assert await first.reserve(REQUEST, NOW) == StoredResponse(body_digest="d1")
        await second.complete(REQUEST, 202, {}, b"of the second")
        kept = not_none(await first.reserve(REQUEST, NOW))
        assert (kept.status, kept.body) == (202, b"of the second")


async def test_of_many_one_gets_the_slot(open_shared: SharedStoreOpener, tmp_path: Path) -> None:
    async with open_shared(tmp_path, "one") as first, open_shared(tmp_path, "two") as second:
        wanted = [
            SqlIdempotencyStore(each.database).reserve(REQUEST, NOW)
            for _ in range(10)
            for each in (first, second)
        ]
        got = await asyncio.gather(*wanted)
        assert got.count(None) == 1
        assert got.count(StoredResponse(body_digest="d1")) == 19
        again = await SqlIdempotencyStore(first.database).reserve(REQUEST, NOW)
        assert again == StoredResponse(body_digest="d1")


def dies(path: Path) -> None:
    """The process of a server that is killed during an invocation."""

    async def reserve() -> None:
        async with opened_as_before(path) as store:
            answers, headers = SqlIdempotencyStore(store.database), {"x-invocation-id": "one"}
            assert await answers.reserve(REQUEST, NOW, headers=headers) is None
            os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(reserve())


async def test_a_call_whose_server_was_killed_is_answered_and_never_run_again(path: Path) -> None:
    with forked(dies, path) as server:
        assert server.wait() == -signal.SIGKILL
    answered, old = replace(REQUEST, key="answered"), replace(REQUEST, key="old")
    async with opened_as_before(path) as store:
        answers = SqlIdempotencyStore(store.database)
        await answers.reserve(old, NOW - DAY_S)
        await answers.reserve(answered, NOW)
        await answers.complete(answered, 200, {}, b"fine")
        await restart(store)

        await answers.start(INTERRUPTED)
        assert await answers.reserve(REQUEST, NOW) == StoredResponse(
            body_digest="d1",
            status=503,
            headers={"x-invocation-id": "one"},
            body=INTERRUPTED,
        )
        kept = not_none(await answers.reserve(answered, NOW))
        assert (kept.status, kept.body) == (200, b"fine")
        assert await answers.reserve(old, NOW) is None


async def test_a_call_that_runs_keeps_its_slot_however_old_it_is(store: SqlStore) -> None:
    answers = SqlIdempotencyStore(store.database)
    await answers.reserve(REQUEST, NOW)
    assert await answers.reserve(REQUEST, NOW + 2 * DAY_S) == StoredResponse(body_digest="d1")
    assert await answers.prune(NOW + 2 * DAY_S) == 0
    await restart(store)
    await answers.start(INTERRUPTED)
    assert await answers.prune(NOW + 2 * DAY_S) == 1


async def test_a_tool_ends_no_calls_of_a_running_server(store: SqlStore, tmp_path: Path) -> None:
    await SqlIdempotencyStore(store.database).reserve(REQUEST, NOW)
    async with opened_as_before(tmp_path, alone=False) as tool:
        with pytest.raises(StoreBroken, match="Only a server"):
            await SqlIdempotencyStore(tool.database).start(INTERRUPTED)
    assert await SqlIdempotencyStore(store.database).reserve(REQUEST, NOW) == StoredResponse(
        body_digest="d1"
    )


async def test_a_slot_is_good_for_24_hours(store: SqlStore) -> None:
    answers = SqlIdempotencyStore(store.database)
    await answers.reserve(REQUEST, NOW)
    await answers.complete(REQUEST, 200, {}, b"first")
    assert await answers.reserve(REQUEST, NOW + DAY_S - 1) is not None
    later = replace(REQUEST, body_digest="d2")
    assert await answers.reserve(later, NOW + DAY_S) is None
    # The key belongs to another request by now: neither the old response nor the old owner affects
    # it.
    await answers.complete(REQUEST, 200, {}, b"late")
    await answers.release(REQUEST)
    assert await answers.reserve(later, NOW + DAY_S) == StoredResponse(body_digest="d2")
    stamped = replace(REQUEST, key="stamped")  # the age of a response is that of its stamp
    await answers.reserve(stamped, NOW, made_at=NOW + 100)
    await answers.complete(stamped, 200, {}, b"")
    assert await answers.reserve(stamped, NOW + DAY_S + 99) is not None
    assert await answers.reserve(stamped, NOW + DAY_S + 100) is None


async def test_answers_go_after_24_hours(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = SqlIdempotencyStore(store.database)
    for number in range(7):
        await answers.reserve(replace(REQUEST, key=str(number)), NOW)
        await answers.complete(replace(REQUEST, key=str(number)), 200, {}, b"")
    young = replace(REQUEST, key="young")
    await answers.reserve(young, NOW + 1)
    monkeypatch.setattr(database, "BATCH_ROWS", 3)
    write, counts = store.database.write, list[int]()

    async def counted(work: Work[int], **more: bool) -> int:
        counts.append(await write(work, **more))  # type: ignore[arg-type]
        return counts[-1]

    with monkeypatch.context() as patch:
        patch.setattr(store.database, "write", counted)
        assert await answers.prune(NOW + DAY_S) == 7
    assert counts == [3, 3, 1]
    assert await answers.prune(NOW + DAY_S) == 0
    assert await answers.reserve(young, NOW + 1) is not None
