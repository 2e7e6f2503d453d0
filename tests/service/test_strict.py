"""Strict durability: nobody learns of an invocation before its record is synced in the database."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import patch

import pytest
from msgspec.structs import replace

from contract.stores import rows
from promises import promise
from quiltfn.model.errors import RuntimeUnavailable, StoreUnavailable
from quiltfn.model.invocation import Status
from quiltfn.store.calls.records import upsert
from service.faults import away
from service.platform_harness import Harness, open_harness

pytestmark = promise("D6")

NEVER_S = 3600.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Harness]:
    async with open_harness(tmp_path) as harness:
        harness.journal._commit_after_s = NEVER_S  # without a waiting reader, nothing is synced
        harness.journal.is_strict = True
        yield harness


def ended(path: Path) -> dict[object, object]:
    """The statuses of ended invocations in the database, by id."""
    found = rows(path, "SELECT invocation_id, status FROM invocation WHERE status <> 'running'")
    return dict(found)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_strict", [True, False])
async def test_an_answer_waits_for_its_record(
    server: Harness, tmp_path: Path, is_strict: bool
) -> None:
    """Negative control: relaxed durability does not wait."""
    server.journal.is_strict = is_strict
    record = await server.invoke(await server.active("echo hello"))
    assert ended(tmp_path) == ({record.invocation_id: "success"} if is_strict else {})


async def test_whoever_asks_for_the_record_waits_too(server: Harness, tmp_path: Path) -> None:
    """An asynchronous invocation's end is known only from its record, so a reader must wait until
    the record is synced.
    """
    entry = await server.active("echo hello")
    server.journal.is_strict = False
    record = await server.invoke(entry)
    assert ended(tmp_path) == {}
    server.journal.is_strict = True
    assert await server.journal.get(entry.function.id, record.invocation_id) == record
    assert ended(tmp_path) == {record.invocation_id: "success"}


async def test_whoever_asks_is_told_the_end_that_was_stored(server: Harness) -> None:
    """Two nodes ran the invocation, since it was unknown which of them had claimed it. The other
    node stored its end first.
    """
    entry = await server.active("echo hello")
    server.journal.is_strict = False
    late = await server.invoke(entry)
    stored = replace(late, status=Status.CANCELLED, execution_node_id="two", stdout=b"")
    await server.store.database.write(lambda c: upsert(c, [stored], 1))
    server.journal.is_strict = True
    outline = await server.journal.outline(entry.function.id, late.invocation_id)
    assert outline is not None
    assert (outline.record.status, outline.record.execution_node_id) == (Status.CANCELLED, "two")
    found = await server.journal.get(entry.function.id, late.invocation_id)
    assert found is not None
    assert found.execution_node_id == "two"


async def test_a_refusal_that_has_a_record_waits_too(server: Harness, tmp_path: Path) -> None:
    entry = await server.active("die")
    with pytest.raises(RuntimeUnavailable) as error:
        await server.invoke(entry)
    assert ended(tmp_path) == {error.value.invocation_id: "error"}


async def test_many_callers_share_a_commit(server: Harness, tmp_path: Path) -> None:
    entry = await server.active("echo hello", max_instances=20)
    with patch.object(server.journal, "_store", wraps=server.journal._store) as store:
        answers = await asyncio.gather(*(server.invoke(entry) for _ in range(20)))
    assert set(ended(tmp_path)) == {one.invocation_id for one in answers}
    assert store.call_count < 10


async def test_a_call_whose_record_cannot_be_synced_is_not_acknowledged(server: Harness) -> None:
    entry = await server.active("echo hello")
    with away(server.journal, "_store"), pytest.raises(StoreUnavailable):
        await server.invoke(entry)


async def test_callers_wait_for_a_disk(server: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relaxed durability makes callers wait for the disk as well: the journal never writes more
    than its segments can hold.
    """
    for name, size in (("COMMIT_AT", 500), ("WAITING_MAX", 2000), ("SEGMENT_MAX", 20_000)):
        monkeypatch.setattr(f"quiltfn.store.calls.journal.{name}_BYTES", size)
    server.journal.is_strict = False
    store, most = server.journal._store, 0

    async def slowly(batch: list[object]) -> None:
        nonlocal most
        await asyncio.sleep(0.02)
        most = max(most, server.journal._spool.size)
        await store(batch)  # type: ignore[arg-type]

    monkeypatch.setattr(server.journal, "_store", slowly)
    entry = await server.active("cat", max_instances=4)

    async def caller() -> None:
        for _ in range(30):
            await server.invoke(entry, payload=b"x" * 500)

    await asyncio.gather(*(caller() for _ in range(4)))
    # More than 2000, as a control: the disk was slow enough for the journal to fill.
    assert 2000 < most <= 20_000, most
