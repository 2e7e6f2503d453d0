"""Lists of invocations of all functions of a tenant: their content, and their cost."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from contract.stores import (
    OF_SQLITE,
    a_call,
    a_stored_function,
    done,
    explained,
    ids,
    opened_journal,
    record_pages,
)
from promises import promise
from quiltfn.model.cursors import first_id
from quiltfn.model.invocation import Invocation, Source, Status
from quiltfn.ports import InvocationQuery
from quiltfn.store import SpoolJournal, SqlStore
from quiltfn.store.database import steps
from quiltfn.store.database.sql import statements

pytestmark = promise("A61")

NEVER_S = 3600.0
TENANT = "default"


@pytest.fixture
async def journal(store: SqlStore, tmp_path: Path) -> AsyncIterator[SpoolJournal]:
    async with opened_journal(store, tmp_path, retry_after_s=0.05) as opened:
        opened._commit_after_s = NEVER_S
        yield opened


async def listed(journal: SpoolJournal, limit: int = 50, **filters: Any) -> list[Invocation]:
    """Read every page of a list."""
    owner = {} if "function_id" in filters else {"tenant_id": TENANT}
    pages = await record_pages(journal, limit=limit, with_output=False, **(owner | filters))
    assert max(map(len, pages)) <= limit
    return [one for page in pages for one in page]


def an_id_at(unix_s: int, number: int) -> str:
    return f"{first_id(unix_s)}-7000-8000-{number:012x}"


async def kept(journal: SpoolJournal, records: list[Invocation]) -> None:
    for record in records:
        if record.status is Status.RUNNING:
            journal.opened(record)
        else:
            journal.closed(record)


@pytest.mark.parametrize("stored", [0, 5, 12])
@pytest.mark.parametrize("limit", [1, 4, 50])
async def test_calls_of_all_functions_are_listed_whatever_is_stored_yet(
    store: SqlStore, journal: SpoolJournal, stored: int, limit: int
) -> None:
    """Ended and unfinished invocations come from two indexes, but must be listed in one order."""
    functions = [await a_stored_function(store) for _ in range(3)]
    stranger = await a_stored_function(store, tenant_id="other")
    records = []
    for number, call_id in enumerate(ids(12)):
        call = a_call(functions[number % 3], invocation_id=call_id)
        records.append(call if number % 4 == 0 else done(call))
    for number, record in enumerate(records):
        await kept(journal, [record])
        if number + 1 == stored:
            await journal.synced()
    await kept(journal, [done(a_call(stranger))])
    expected = [replace(one, stdout=b"") for one in records[::-1]]
    assert await listed(journal, limit) == expected
    for function in functions:
        own = [one for one in expected if one.function_id == function.id]
        assert await listed(journal, limit, function_id=function.id) == own


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize("of_function", [False, True])
async def test_filters_hold_together_for_stored_and_for_fresh_records(
    store: SqlStore, journal: SpoolJournal, is_stored: bool, of_function: bool
) -> None:
    function = await a_stored_function(store)
    base = 1_760_000_000
    kinds: list[dict[str, Any]] = [
        {"version": 1, "source": Source.SCHEDULE},
        {"version": 2, "source": Source.SCHEDULE, "cold_start": True},
        {"version": 2},
        {"version": 3},
    ]
    calls = [
        a_call(function, invocation_id=an_id_at(base + number, number), **kind)
        for number, kind in enumerate(kinds)
    ]
    records = [*(done(one, duration_ms=10 * n) for n, one in enumerate(calls[:3])), calls[3]]
    await kept(journal, calls)
    await journal.synced()
    await kept(journal, records[:3])
    if is_stored:
        await journal.synced()

    async def found(**filters: Any) -> list[int]:
        owner: dict[str, Any] = {"function_id": function.id} if of_function else {}
        known = [one.invocation_id for one in records]
        return [known.index(one.invocation_id) for one in await listed(journal, **owner, **filters)]

    assert await found() == [3, 2, 1, 0]
    assert await found(source=Source.SCHEDULE) == [1, 0]
    assert await found(version=2) == [2, 1]
    assert await found(version=2, source=Source.SYNC) == [2]
    assert await found(cold_start=True) == [1]
    assert await found(cold_start=False) == [3, 2, 0]
    assert await found(cold_start=False, min_duration_ms=10) == [2]
    assert await found(status=Status.RUNNING) == [3]
    assert await found(status=Status.SUCCESS) == [2, 1, 0]
    assert await found(min_duration_ms=10) == [2, 1]
    assert await found(since=base + 1, until=base + 3) == [2, 1]
    assert await found(since=base + 4) == []


@pytest.mark.parametrize("of_function", [False, True])
async def test_a_filter_that_few_pass_ends_a_page_early_and_loses_none(
    store: SqlStore, journal: SpoolJournal, monkeypatch: pytest.MonkeyPatch, of_function: bool
) -> None:
    monkeypatch.setattr(steps, "STEP_ENTRIES", 3)
    monkeypatch.setattr(steps, "STEPS_S", 0.0)
    function = await a_stored_function(store)
    records = [
        done(a_call(function, invocation_id=one), code=int(number % 9 == 0))
        for number, one in enumerate(ids(40))
    ]
    await kept(journal, records)
    await journal.synced()
    failed = [one.invocation_id for one in records[::-1] if one.status is Status.FAILED]
    owner: dict[str, Any] = {"tenant_id": TENANT}
    if of_function:
        owner = {"function_id": function.id}
    first = await journal.query(InvocationQuery(limit=50, status=Status.FAILED, **owner))
    assert len(first.items) < len(failed)
    assert first.next_cursor is not None
    for limit in (1, 2, 50):
        found = await listed(journal, limit, status=Status.FAILED, **owner)
        assert [one.invocation_id for one in found] == failed


async def test_deleted_functions_list_no_records(store: SqlStore, journal: SpoolJournal) -> None:
    gone, stays = [await a_stored_function(store) for _ in range(2)]
    await kept(journal, [done(a_call(gone)), a_call(gone), done(a_call(stays))])
    await journal.synced()
    await store.delete(gone.id)
    assert [one.function_id for one in await listed(journal)] == [stays.id]
    await store.wait_swept()


async def test_caused_calls_are_found(store: SqlStore, journal: SpoolJournal) -> None:
    function = await a_stored_function(store)
    stranger = await a_stored_function(store, tenant_id="other")
    parent = done(a_call(function))
    made = [done(a_call(function, invocation_id=one, parent_invocation_id=parent.invocation_id))
            for one in ids(4)]  # fmt: skip
    foreign = done(a_call(stranger, parent_invocation_id=parent.invocation_id))
    await kept(journal, [parent, *made[:2], foreign])
    await journal.synced()
    await kept(journal, made[2:])

    async def children(most: int) -> list[Invocation]:
        return list(await journal.children(TENANT, parent.invocation_id, most))

    assert await children(10) == [replace(one, stdout=b"") for one in made]
    assert [one.invocation_id for one in await children(3)] == [
        one.invocation_id for one in made[1:]
    ]


async def test_a_call_s_function_is_known(store: SqlStore, journal: SpoolJournal) -> None:
    function = await a_stored_function(store)
    first, second = done(a_call(function)), done(a_call(function))
    await kept(journal, [first])
    await journal.synced()
    await kept(journal, [second])
    for call in (first, second):
        assert await journal.function_of(TENANT, call.invocation_id) == function.id
        assert await journal.function_of("other", call.invocation_id) is None
    await journal.synced()
    await store.delete(function.id)
    assert await journal.function_of(TENANT, first.invocation_id) is None
    await store.wait_swept()


@OF_SQLITE
async def test_what_matches_is_read_from_an_index_from_one_end(store: SqlStore) -> None:
    """If rows were read, long output would make lists slow; unfinished invocations have none."""
    values: dict[str, Any] = {"owner": "o", "before": "g", "start": "", "parent": "p"}
    values |= {"most": 1, "entries": 1, "tenant_id": TENANT}
    values |= dict.fromkeys(("status", "cold_start", "min_duration_ms", "source", "version"))
    for statement, index in (
        ("records_of_function", "COVERING INDEX invocation_listing ("),
        ("step_of_function", "COVERING INDEX invocation_listing ("),
        ("ended_records", "COVERING INDEX invocation_of_tenant ("),
        ("step_of_ended", "COVERING INDEX invocation_of_tenant ("),
        ("open_records", "USING INDEX invocation_open ("),
        ("step_of_open", "COVERING INDEX invocation_open ("),
        ("children_of", "USING INDEX invocation_children ("),
    ):
        steps = await explained(store, statements("sqlite")[statement], values)
        assert index in steps[0], statement
        assert not any("TEMP B-TREE" in one for one in steps), statement
