"""The promises of `SqlStore`."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin

import msgspec
import pytest
from msgspec.structs import replace

from contract.stores import (
    BUSY_TIMEOUT_S,
    HELD_S,
    OF_SQLITE,
    StoreOpener,
    a_call,
    a_function,
    a_stored_function,
    a_version,
    change,
    done,
    not_none,
    opened_journal,
    rows,
)
from promises import promise
from quiltfn.model.errors import Conflict, NotFound, StoreUnavailable
from quiltfn.model.function import FunctionState
from quiltfn.model.version import VersionSpec
from quiltfn.store import SqlStore
from timeouts import scaled

pytestmark = promise("D3")

T = TypeVar("T", bound=msgspec.Struct)

# Stored data ---------------------------------------------------------------------------------


def fields_at_default(struct: msgspec.Struct) -> list[str]:
    """The fields that have their default or, if they have none, an empty value."""
    found = []
    for field in msgspec.structs.fields(struct):
        value = getattr(struct, field.name)
        if field.default is not msgspec.NODEFAULT:
            is_default = value == field.default
        elif field.default_factory is not msgspec.NODEFAULT:
            is_default = value == field.default_factory()
        else:
            is_default = not value
        if is_default:
            found.append(field.name)
    return found


def unlike(kind: Any, value: Any) -> Any:
    """A different value of the type `kind`."""
    if get_origin(kind) is UnionType:
        (kind,) = (part for part in get_args(kind) if part is not NoneType)
    kind = get_origin(kind) or kind
    if issubclass(kind, msgspec.Struct):
        return filled(value)
    if issubclass(kind, Enum):
        return next(member for member in kind if member is not value)
    samples = {
        str: "ä\n",
        int: 7,
        float: 12.5,
        bool: not value,
        dict: {"A": "ä"},
        tuple: ("a", "b"),
    }
    return samples[kind]


def filled(struct: T) -> T:
    """A copy of the struct, with other values in place of defaults."""
    kinds = {field.name: field.type for field in msgspec.structs.fields(struct)}
    others = {
        name: unlike(kinds[name], getattr(struct, name)) for name in fields_at_default(struct)
    }
    return replace(struct, **others)


async def test_every_field_of_a_function_is_stored(open_store: StoreOpener, tmp_path: Path) -> None:
    """Here, no field has its default: one without a column would be read with its default."""
    function = filled(a_function(state=FunctionState.ERROR, current_version=3))
    spec = filled(VersionSpec(handler="echo hello"))
    version = a_version(function, 3, **msgspec.structs.asdict(spec))
    for struct in (function, version, version.spec, version.spec.runtime_snapshot):
        assert not fields_at_default(struct)
    async with open_store(tmp_path) as store:
        await store.create(function, version)
    async with open_store(tmp_path) as store:
        (stored,) = await store.load()
    assert (stored.function, stored.version) == (function, version)
    assert stored.version.spec.digest() == version.digest
    assert (stored.counters.invocation_count, stored.counters.last_invoked_at) == (0, None)


async def test_a_name_is_unique_in_its_tenant_only(store: SqlStore) -> None:
    first = await a_stored_function(store, name="same")
    second = a_function(name="same")
    with pytest.raises(Conflict, match="name 'same'"):
        await store.create(second, a_version(second))
    await a_stored_function(store, name="same", tenant_id="other")
    third = await a_stored_function(store, name="third")
    with pytest.raises(Conflict, match="name 'same'"):
        await store.save(replace(third, name="same"), a_version(third, 2))
    assert len(await store.load()) == 3
    assert [version.number for version in (await store.versions(third.id)).items] == [1]
    assert (await store.versions(second.id)).items == []
    assert first.id in [stored.function.id for stored in await store.load()]


async def test_saving_stores_the_row_and_the_version_or_neither(store: SqlStore) -> None:
    function = await a_stored_function(store)
    version = a_version(function, 2, handler="echo two")
    changed = replace(function, current_version=2, state=FunctionState.ACTIVE, updated_at=7)
    saved = await store.save(changed, version)
    assert saved == replace(changed, revision=2)
    (stored,) = await store.load()
    assert (stored.function, stored.version) == (saved, version)

    with pytest.raises(Conflict, match="version"):
        await store.save(replace(saved, description="lost"), a_version(function, 2))
    (stored,) = await store.load()
    assert stored.function == saved
    assert await store.find(function.id) == stored
    assert await store.find("another") is None


async def test_versions_come_newest_first_and_one_by_its_number(store: SqlStore) -> None:
    function = await a_stored_function(store)
    for number in (2, 3):
        function = await store.save(function, a_version(function, number))
    assert [version.number for version in (await store.versions(function.id)).items] == [3, 2, 1]
    assert not_none(await store.version(function.id, 2)).number == 2
    assert await store.version(function.id, 4) is None
    assert await store.newest_number(function.id) == 3
    assert await store.newest_number("other") == 0


async def test_saving_leaves_the_counters_alone(store: SqlStore, tmp_path: Path) -> None:
    function = await a_stored_function(store)
    async with opened_journal(store, tmp_path) as journal:
        journal.closed(done(a_call(function)))
    await store.save(replace(function, description="new"))
    (stored,) = await store.load()
    assert stored.counters.invocation_count == 1


async def test_a_deleted_function_is_gone_with_everything(store: SqlStore, tmp_path: Path) -> None:
    function = await a_stored_function(store, name="mine")
    other = await a_stored_function(store)
    async with opened_journal(store, tmp_path) as journal:
        kept = done(a_call(other))
        for record in (done(a_call(function)), kept):
            journal.closed(record)
        await journal.synced()
        await store.delete(function.id)
        await store.delete("unknown")
        await store.wait_swept()
        assert [stored.function.id for stored in await store.load()] == [other.id]
        assert (await store.versions(function.id)).items == []
        assert await journal.get(other.id, kept.invocation_id) == kept
    assert rows(tmp_path, "SELECT function_id FROM invocation") == [(other.id,)]
    assert rows(tmp_path, "SELECT * FROM deletion") == []
    await a_stored_function(store, name="mine")
    with pytest.raises(NotFound):
        await store.save(function)


async def test_a_start_finishes_a_deletion(open_store: StoreOpener, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        function = await a_stored_function(store)
        async with opened_journal(store, tmp_path) as journal:
            for _ in range(7):
                journal.closed(done(a_call(function)))
    change(tmp_path, "DELETE FROM function", f"INSERT INTO deletion VALUES ('{function.id}')")
    async with open_store(tmp_path) as store:
        await store.wait_swept()
        assert rows(tmp_path, "SELECT count(*) FROM invocation") == [(0,)]


# Without a response of the database ----------------------------------------------------------


@OF_SQLITE
async def test_a_locked_database_refuses_writes_and_reads(store: SqlStore, tmp_path: Path) -> None:
    function = await a_stored_function(store)
    store.database.busy_timeout_s = HELD_S
    with closing(sqlite3.connect(tmp_path / "quiltfn.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        # All writes together take no longer than one: they do not wait for each other.
        async with asyncio.timeout(scaled(1.0)):
            attempts = [
                store.create(created := a_function(), a_version(created)) for _ in range(10)
            ]
            refused = await asyncio.gather(*attempts, return_exceptions=True)
        assert all(isinstance(one, StoreUnavailable) for one in refused)
        with pytest.raises(StoreUnavailable):
            await store.ping()
        assert [stored.function for stored in await store.load()] == [function]
        other.execute("ROLLBACK")
    store.database.busy_timeout_s = BUSY_TIMEOUT_S
    await store.ping()
    await a_stored_function(store)
    assert len(await store.load()) == 2


@OF_SQLITE
async def test_a_full_database_refuses_writes_whole_and_recovers(store: SqlStore) -> None:
    def most(pages: int) -> Callable[..., None]:
        return lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages}").close()

    await store.database.write(most(1))  # SQLite takes this as: no page beyond the existing ones
    function = a_function()
    versions = [a_version(function, handler="x" * 60_000)]
    with pytest.raises(StoreUnavailable, match="full"):
        await store.create(function, versions[0])
    with pytest.raises(StoreUnavailable) as caught:
        await store.create(function, a_version(function, environment={"KEY": "s3cret" * 4000}))
    assert "s3cret" not in str(caught.value)
    assert "INSERT" not in str(caught.value)
    assert list(await store.load()) == []
    await store.database.write(most(1_000_000))
    await store.create(function, versions[0])
    assert len(await store.load()) == 1
