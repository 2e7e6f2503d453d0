"""The promises of `SqlKeys`, `SqlAudit` and `SqlOperations`."""

import asyncio
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from contract import stores
from contract.stores import (
    StoreOpener,
    an_entry,
    an_id,
    ids,
    opened_as_before,
    pages_of,
)
from forked import forked
from manual_clock import ManualClock
from promises import promise
from quiltfn.base.ids import new_id
from quiltfn.model.access import Key, Scope
from quiltfn.model.cursors import first_id
from quiltfn.model.errors import CapacityFull, Conflict, NotFound, RateLimited, Unprocessable
from quiltfn.model.operation import Operation
from quiltfn.ports import AuditQuery
from quiltfn.store import SqlStore
from quiltfn.store.database import database, steps
from quiltfn.store.database.database import Work
from quiltfn.store.tenants import keys as keys_module
from quiltfn.store.tenants.audit import SqlAudit
from quiltfn.store.tenants.keys import SqlKeys
from quiltfn.store.tenants.operations import SqlOperations
from quiltfn.tenants.access import make_key

NOW = 1_760_000_000


def a_key(**changes: Any) -> Key:
    key = Key(
        id=an_id(),
        tenant_id="default",
        scope=Scope.WRITE,
        prefix=an_id()[-12:],
        digest="d" * 64,
        created_at=NOW,
    )
    return replace(key, **changes)


def an_operation(**changes: Any) -> Operation:
    fields = {"operation_id": an_id(), "tenant_id": "default"} | changes
    return replace(stores.an_operation(NOW), **fields)


# Keys ----------------------------------------------------------------------------------------


async def test_keys_survive_a_restart_oldest_first(open_store: StoreOpener, tmp_path: Path) -> None:
    newer = a_key(created_at=NOW + 1, scope=Scope.OPERATOR)
    older = a_key(tenant_id="other", expires_at=NOW + 5)
    async with open_store(tmp_path) as store:
        for key in (newer, older):
            await SqlKeys(store.database).add(key)
        revision = await SqlKeys(store.database).revision()
    async with open_store(tmp_path) as store:
        assert await SqlKeys(store.database).load() == [older, newer]
        assert await SqlKeys(store.database).revision() == revision


async def test_every_key_change_and_nothing_else_changes_the_revision(store: SqlStore) -> None:
    keys = SqlKeys(store.database)
    key = a_key()
    seen = [await keys.revision()]
    await keys.add(key)
    seen.append(await keys.revision())
    revoked = await keys.revoke(key, NOW + 7)
    seen.append(await keys.revision())
    assert len(set(seen)) == 3
    assert revoked == replace(key, revoked_at=NOW + 7)
    assert await keys.load() == [revoked]

    # Requests that are refused, or that change nothing.
    assert await keys.revoke(key, NOW + 9) == revoked
    with pytest.raises(NotFound):
        await keys.revoke(a_key(), NOW)
    with pytest.raises(Conflict):
        await keys.add(a_key(prefix=key.prefix))
    assert await keys.load() == [revoked]
    assert await keys.revision() == seen[-1]


@promise("A79")
async def test_tenants_keys_are_bounded(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "TENANT_KEYS_MAX", 3)
    monkeypatch.setattr(keys_module, "KEYS_MAX", 5)
    keys = SqlKeys(store.database)
    expiring, *mine = [a_key(expires_at=NOW + 9), a_key(), a_key()]
    for key in (expiring, *mine):
        await keys.add(key)
    before = await keys.load(), await keys.revision()
    with pytest.raises(RateLimited, match="3 valid keys"):
        await keys.add(a_key())
    assert (await keys.load(), await keys.revision()) == before

    mine.append(a_key(created_at=NOW + 9))
    await keys.add(mine[-1])  # one of the tenant's keys has expired
    for _ in range(2):
        await keys.add(a_key(tenant_id="other", created_at=NOW + 9))
    with pytest.raises(CapacityFull, match="5 valid keys"):
        await keys.add(a_key(tenant_id="third", created_at=NOW + 9))

    # A tenant that creates and revokes keys repeatedly must not fill the store.
    revoked = [expiring]
    await keys.revoke(mine[0], NOW)
    revoked.append(mine.pop(0))
    for _ in range(5):
        revoked.append(await keys.add(a_key(created_at=NOW + 9)))
        await keys.revoke(revoked[-1], NOW + 10)
    await keys.add(a_key(created_at=NOW + 9))
    kept = {key.id for key in await keys.load() if key.tenant_id == "default"}
    assert {key.id for key in mine} < kept
    assert kept & {key.id for key in revoked} == {key.id for key in sorted(revoked, key=_id)[-3:]}
    assert len(await keys.load()) == 3 + 3 + 2


def _id(key: Key) -> str:
    return key.id


@promise("A79")
async def test_keys_are_read_page_by_page(store: SqlStore) -> None:
    keys = SqlKeys(store.database)
    tenants = ("default", "other", "default", "default")
    all_keys = [a_key(id=new_id(), tenant_id=tenant) for tenant in tenants]
    for key in all_keys:
        await keys.add(key)
    for tenant, expected in ((None, all_keys), ("default", [all_keys[0], *all_keys[2:]])):
        pages = await pages_of(partial(keys.page, tenant, 2))
        assert [one for page in pages for one in page] == expected
        assert max(map(len, pages)) == 2
    with pytest.raises(Unprocessable, match="cursor"):
        await keys.page(None, 2, "bogus")


def visits(path: Path, key: Key) -> None:
    """The process of a tool that creates a key, and revokes it on request."""

    async def visit() -> None:
        async with opened_as_before(path, alone=False) as store:
            await SqlKeys(store.database).add(key)
            print("added", flush=True)
            sys.stdin.readline()
            await SqlKeys(store.database).revoke(key, 7)
            print("revoked", flush=True)
            sys.stdin.readline()

    asyncio.run(visit())


async def said(lines: asyncio.StreamReader) -> bytes:
    while b"warning" in (line := await lines.readline()):
        pass  # skip notices about the start
    return line


async def test_a_server_sees_key_changes_of_a_tool(store: SqlStore, tmp_path: Path) -> None:
    """A running server, whose reader has already read, must see the effect of `quiltfn keys create`
    and `revoke`.
    """
    keys, key = SqlKeys(store.database), a_key()
    at_first = await keys.revision()
    assert await keys.load() == []
    with forked(visits, tmp_path, key) as tool:
        lines = await tool.lines()
        assert await said(lines) == b"added\n"
        after_adding = await keys.revision()
        assert await keys.load() == [key]
        tool.tell()
        assert await said(lines) == b"revoked\n"
        after_revoking = await keys.revision()
        assert await keys.load() == [replace(key, revoked_at=7)]
    assert len({at_first, after_adding, after_revoking}) == 3


@promise("A13")
async def test_of_simultaneous_keys_one_is_the_first(store: SqlStore, tmp_path: Path) -> None:
    # This is like two people who follow the installation guide on one machine in the same minute.
    async with opened_as_before(tmp_path, alone=False) as beside:
        stores = (store, beside) * 4
        made = await asyncio.gather(
            *(make_key(SqlKeys(one.database), ManualClock(), "t", None, None) for one in stores)
        )
    scopes = sorted(key.scope for key, _ in made)
    assert scopes == [Scope.OPERATOR] + [Scope.WRITE] * 7
    kept = await SqlKeys(store.database).load()
    assert {key.id: key.scope for key in kept} == {key.id: key.scope for key, _ in made}


async def test_only_the_first_key_ever_gets_the_scope_of_the_first(store: SqlStore) -> None:
    keys = SqlKeys(store.database)
    asked, first, later = a_key(scope=Scope.READ), a_key(), a_key()
    assert await keys.add(asked) == asked
    assert await keys.revoke(asked, NOW) == replace(asked, revoked_at=NOW)
    # The first key was another one, which was revoked.
    assert await keys.add(first, Scope.OPERATOR) == first
    assert await keys.add(later, Scope.OPERATOR) == later


# Audit ---------------------------------------------------------------------------------------


async def test_the_trail_pages_are_newest_first(open_store: StoreOpener, tmp_path: Path) -> None:
    made = [
        an_entry(id=one, object_id=f"o-{one}", error_code="NOT_FOUND", status=404) for one in ids(5)
    ]
    async with open_store(tmp_path) as store:
        for entry in (made[2], made[0], made[4], made[1], made[3]):
            await SqlAudit(store.database).append(entry)
    async with open_store(tmp_path) as store:
        audit = SqlAudit(store.database)
        pages = await pages_of(
            lambda cursor: audit.query(AuditQuery(tenant_id="default", limit=2, cursor=cursor))
        )
        whole = await audit.query(AuditQuery(tenant_id="default", limit=5))
    assert [one for page in pages for one in page] == made[::-1]
    assert list(map(len, pages)) == [2, 2, 1]
    assert (list(whole.items), whole.next_cursor) == (made[::-1], None)


async def test_a_tenant_reads_its_own_trail_and_the_operator_all(store: SqlStore) -> None:
    audit = SqlAudit(store.database)
    mine, other, newest = (
        an_entry(id=one, tenant_id=tenant)
        for one, tenant in zip(ids(3), ("default", "other", "default"), strict=True)
    )
    for entry in (mine, other, newest):
        await audit.append(entry)
    assert list((await audit.query(AuditQuery(tenant_id="default", limit=10))).items) == [
        newest,
        mine,
    ]
    assert list((await audit.query(AuditQuery(tenant_id="other", limit=10))).items) == [other]
    assert list((await audit.query(AuditQuery(tenant_id="nobody", limit=10))).items) == []
    assert list((await audit.query(AuditQuery(tenant_id=None, limit=10))).items) == [
        newest,
        other,
        mine,
    ]
    with pytest.raises(Unprocessable, match="cursor"):
        await audit.query(AuditQuery(tenant_id="default", limit=10, cursor="x" * 48))


@promise("A66")
async def test_filters_of_the_trail_hold_together(store: SqlStore) -> None:
    audit = SqlAudit(store.database)
    made = [
        an_entry(id=f"{first_id(NOW + number)}-7000-8000-000000000000", **changes)
        for number, changes in enumerate(
            (
                {"action": "function.create", "object_id": "f", "credential": "k1"},
                {"action": "function.delete", "object_id": "f", "credential": "k2"},
                {"action": "functional", "object_id": "g", "credential": "k2"},
                {"action": "key.create", "object_id": "k3", "credential": "k1"},
            )
        )
    ]
    for entry in made:
        await audit.append(entry)

    async def found(**filters: Any) -> list[int]:
        page = await audit.query(AuditQuery(tenant_id="default", limit=10, **filters))
        return [made.index(one) for one in page.items]

    assert await found(action="function") == [1, 0]
    assert await found(action="function.create") == [0]
    assert await found(action="function%") == []
    assert await found(credential="k2") == [2, 1]
    assert await found(object_id="f", credential="k1") == [0]
    assert await found(since=NOW + 1, until=NOW + 3) == [2, 1]
    assert await found(since=NOW + 4) == []


@promise("A66")
async def test_rare_entries_are_all_found(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = SqlAudit(store.database)
    made = [an_entry(id=one, object_id="f" if n % 7 == 0 else "g") for n, one in enumerate(ids(20))]
    for entry in made:
        await audit.append(entry)
    monkeypatch.setattr(steps, "STEP_ENTRIES", 3)
    monkeypatch.setattr(steps, "STEPS_S", 0.0)
    query = AuditQuery(tenant_id="default", limit=2, object_id="f")
    pages = await pages_of(lambda cursor: audit.query(replace(query, cursor=cursor)))
    found = [one for page in pages for one in page]
    assert found == [one for one in made[::-1] if one.object_id == "f"]
    assert len(pages) > 5


async def test_old_entries_go_in_steps(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = SqlAudit(store.database)
    made = [an_entry(id=one, at=NOW + number) for number, one in enumerate(ids(8))]
    for entry in made:
        await audit.append(entry)
    monkeypatch.setattr(database, "BATCH_ROWS", 4)
    write, counts = store.database.write, list[int]()

    async def counted(work: Work[int], **more: bool) -> int:
        counts.append(await write(work, **more))  # type: ignore[arg-type]
        return counts[-1]

    monkeypatch.setattr(store.database, "write", counted)
    assert await audit.prune(NOW + 6) == 6
    assert counts == [4, 2]
    assert list((await audit.query(AuditQuery(tenant_id=None, limit=10))).items) == [
        made[7],
        made[6],
    ]
    assert await audit.prune(NOW + 6) == 0


# Operations ----------------------------------------------------------------------------------


async def test_an_operation_begins_once_per_key(open_store: StoreOpener, tmp_path: Path) -> None:
    first, again = an_operation(), an_operation(action_id="a-2")
    async with open_store(tmp_path) as store:
        operations = SqlOperations(store.database)
        got = await asyncio.gather(operations.add(first), operations.add(again))
        assert list(got) == [None, first]
        assert await operations.add(an_operation(tenant_id="other")) is None
        assert await operations.add(an_operation(idempotency_key="k2")) is None
        ended = replace(
            first, status="failed", reason_code="NO", reason_message="It did not.", retryable=True
        )
        await operations.finish(ended)
    async with open_store(tmp_path) as store:
        operations = SqlOperations(store.database)
        assert await operations.add(again) == ended
        assert await operations.get("default", first.operation_id) == ended
        assert await operations.get("other", first.operation_id) is None
        assert await operations.get("default", again.operation_id) is None


async def test_a_start_finds_open_operations(open_store: StoreOpener, tmp_path: Path) -> None:
    left, ended = an_operation(), an_operation(tenant_id="other")
    async with open_store(tmp_path) as store:
        operations = SqlOperations(store.database)
        for operation in (left, ended):
            await operations.add(operation)
        await operations.finish(replace(ended, status="succeeded"))
        # Operations of this server are still running.
        assert list(await operations.interrupted()) == []
    async with open_store(tmp_path) as store:
        assert list(await SqlOperations(store.database).interrupted()) == [left]
