"""The promises of `SqlRuntimes` and `SqlTenantImages`."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import sqlite_template
from contract.stores import StoreOpener, a_function, a_version, an_id, not_none
from promises import promise
from quiltfn.model.image import TenantImage
from quiltfn.model.runtime import SHARED, SHELL, Kind, Network, Runtime
from quiltfn.store import SqlStore
from quiltfn.store.backup import snapshot
from quiltfn.store.functions.runtimes import SqlRuntimes, SqlTenantImages


def a_runtime(name: str = "etl", **changes: Any) -> Runtime:
    runtime = Runtime(
        id=an_id(),
        name=name,
        kind=Kind.CUSTOM,
        image="ab" * 32,
        host="p1",
        command=("/app/run", "-v"),
        environment={"A": "ä"},
        network=Network.EGRESS,
        writable_paths=("/data",),
        process_limit=1000,
        tmp_limit_mb=1024,
        file_limit_mb=300,
        open_files_limit=8192,
        created_at=1_760_000_000,
    )
    return replace(runtime, **changes)


async def give(store: SqlStore, tenant_id: str, *digests: str) -> None:
    for digest in digests:
        await SqlTenantImages(store.database).add(TenantImage(tenant_id, digest, 5000))


async def test_newest_revisions_survive_a_restart(open_store: StoreOpener, tmp_path: Path) -> None:
    older, newer, other = a_runtime(), a_runtime(image=None), a_runtime("a")
    newer = replace(newer, base_image="ab" * 32, interpreter="/usr/bin/python3")
    async with open_store(tmp_path) as store:
        runtimes = SqlRuntimes(store.database)
        await give(store, "acme", "ab" * 32)
        for runtime in (older, newer, other):
            assert await runtimes.save("acme", runtime)
    async with open_store(tmp_path) as store:
        assert await SqlRuntimes(store.database).load() == [("acme", other), ("acme", newer)]


@promise("R27")
async def test_packages_are_an_image_like_the_other(store: SqlStore) -> None:
    runtimes = SqlRuntimes(store.database)
    code, packages, older = "aa" * 32, "bb" * 32, "cc" * 32
    named = a_runtime(image=code, packages=packages, packages_key="python:1")
    await give(store, "acme", code)
    assert not await runtimes.save("acme", named)
    await give(store, "acme", packages)
    assert await runtimes.save("acme", named)
    function = a_function()
    await store.create(
        function, a_version(function, runtime_snapshot=replace(SHELL, packages=older))
    )
    in_use = {("acme", code), ("acme", packages), (function.tenant_id, older)}
    assert await runtimes.images_in_use() == in_use
    assert await runtimes.load() == [("acme", named)]
    images = SqlTenantImages(store.database)
    assert not await images.remove("acme", packages)
    await runtimes.remove("acme", "etl")
    assert await images.remove("acme", packages)


async def test_an_image_is_in_use_while_a_name_or_any_version_has_it(store: SqlStore) -> None:
    runtimes = SqlRuntimes(store.database)
    assert await runtimes.images_in_use() == frozenset()
    named, old, new = "aa" * 32, "bb" * 32, "cc" * 32
    await give(store, "acme", named)
    await runtimes.save("acme", a_runtime(image=named))
    function = a_function()
    first = a_version(function, runtime_snapshot=replace(SHELL, image=old))
    await store.create(function, first)
    await store.save(function, a_version(function, 2, runtime_snapshot=replace(SHELL, image=new)))
    await store.create(a_function(), a_version(function, 3))  # this version has no image
    assert await runtimes.images_in_use() == {
        ("acme", named),
        *((function.tenant_id, digest) for digest in (old, new)),
    }
    await runtimes.remove("acme", "etl")
    await store.delete(function.id)
    assert await runtimes.images_in_use() == frozenset()


@promise("R1")
async def test_a_version_keeps_its_whole_runtime(store: SqlStore) -> None:
    runtimes = SqlRuntimes(store.database)
    snapshot = a_runtime()
    await give(store, "acme", "ab" * 32)
    await runtimes.save("acme", snapshot)
    function = a_function()
    await store.create(function, a_version(function, runtime="etl", runtime_snapshot=snapshot))
    await runtimes.save("acme", a_runtime(image=None))
    assert not_none(await store.version(function.id, 1)).spec.runtime_snapshot == snapshot


async def test_names_differ_between_tenants(open_store: StoreOpener, tmp_path: Path) -> None:
    mine, theirs, shared = a_runtime(), a_runtime(image=None), a_runtime(image="cd" * 32)
    async with open_store(tmp_path) as store:
        runtimes = SqlRuntimes(store.database)
        await give(store, "acme", "ab" * 32)
        await give(store, SHARED, "cd" * 32)
        for tenant, runtime in (("acme", mine), ("umbrella", theirs), (SHARED, shared)):
            await runtimes.save(tenant, runtime)
        await runtimes.remove("nobody", "etl")
    async with open_store(tmp_path) as store:
        runtimes = SqlRuntimes(store.database)
        found = await runtimes.load()
        assert found == [(SHARED, shared), ("acme", mine), ("umbrella", theirs)]
        for _ in range(2):
            await runtimes.remove("acme", "etl")
        assert await runtimes.load() == [(SHARED, shared), ("umbrella", theirs)]


async def test_images_are_held_until_dropped(open_store: StoreOpener, tmp_path: Path) -> None:
    mine, theirs = TenantImage("acme", "ab" * 32, 5000), TenantImage("umbrella", "ab" * 32, 5000)
    async with open_store(tmp_path) as store:
        tenant_images = SqlTenantImages(store.database)
        for image in (mine, theirs, mine):
            await tenant_images.add(image)
    async with open_store(tmp_path) as store:
        tenant_images = SqlTenantImages(store.database)
        assert await tenant_images.load() == [mine, theirs]
        for _ in range(2):
            await tenant_images.remove("acme", mine.digest)
        assert await tenant_images.load() == [theirs]


@pytest.mark.parametrize("field", ["image", "base_image"])
async def test_a_named_image_is_not_taken_from_its_tenant(store: SqlStore, field: str) -> None:
    images = SqlTenantImages(store.database)
    runtimes = SqlRuntimes(store.database)
    function = a_function()
    owner, named, kept, unused = function.tenant_id, "aa" * 32, "bb" * 32, "cc" * 32
    if field == "base_image":
        await give(store, owner, "ab" * 32)
    await give(store, owner, named, kept, unused)
    await give(store, "umbrella", named)
    await give(store, SHARED, named, kept, unused)
    await runtimes.save(owner, a_runtime(**{field: named}))
    changes: dict[str, Any] = {"image": None, field: kept}
    version = a_version(function, runtime_snapshot=a_runtime(**changes))
    await store.create(function, version)
    assert {(owner, named), (owner, kept)} <= await runtimes.images_in_use()
    for tenant, digest in [(owner, named), (owner, kept), (SHARED, named), (SHARED, kept)]:
        assert not await images.remove(tenant, digest)
    for tenant, digest in [(owner, unused), ("umbrella", named), (SHARED, unused), ("x", "y")]:
        assert await images.remove(tenant, digest)
    left = {(one.tenant_id, one.digest) for one in await images.load()} - {(owner, "ab" * 32)}
    assert left == {(tenant, digest) for tenant in (owner, SHARED) for digest in (named, kept)}
    await runtimes.remove(owner, "etl")
    await store.delete(function.id)
    assert await images.remove(owner, named)
    assert await images.remove(SHARED, kept)


async def test_no_runtime_names_an_image_that_its_tenant_does_not_have(store: SqlStore) -> None:
    runtimes = SqlRuntimes(store.database)
    await give(store, "umbrella", "ab" * 32)
    await give(store, SHARED, "ab" * 32)
    kept = a_runtime(image=None)
    assert await runtimes.save("acme", kept)
    assert not await runtimes.save("acme", a_runtime())
    await give(store, "umbrella", "cd" * 32)
    assert not await runtimes.save("acme", a_runtime(image=None, base_image="cd" * 32))
    assert await runtimes.load() == [("acme", kept)]
    await give(store, "acme", "ab" * 32)
    assert await runtimes.save("acme", a_runtime())


async def test_a_quota_of_images_holds_when_one_is_stored(store: SqlStore) -> None:
    images = SqlTenantImages(store.database)
    first, second, theirs = (
        TenantImage("acme", "ab" * 32, 5000),
        TenantImage("acme", "cd" * 32, 5000),
        TenantImage("umbrella", "cd" * 32, 5000),
    )
    assert await images.add(first, 9999)
    assert not await images.add(second, 9999)
    assert await images.add(first, 4000)  # the tenant has this image already
    assert await images.add(theirs, 9999)
    assert set(await images.load()) == {first, theirs}
    assert await images.add(second, 10_000)
    assert await images.add(TenantImage("acme", "ef" * 32, 5000))  # no quota is checked


async def test_a_base_image_of_all_tenants_stays_while_one_of_them_has_it(store: SqlStore) -> None:
    runtimes = SqlRuntimes(store.database)
    images = SqlTenantImages(store.database)
    await give(store, SHARED, "ab" * 32)
    assert await runtimes.save("acme", a_runtime(image=None, base_image="ab" * 32))
    assert not await images.remove(SHARED, "ab" * 32)
    await runtimes.remove("acme", "etl")
    assert await images.remove(SHARED, "ab" * 32)


def test_a_backup_of_a_database_from_before_base_images_has_its_images(tmp_path: Path) -> None:
    database = sqlite_template.with_schema(tmp_path / "data") / sqlite_template.NAME
    fields = "tenant_id, name, id, kind, image, host, command, environment, isolation, network"
    row = f"'acme', 'etl', 'x', 'shell', '{'ab' * 32}', '', '[]', '{{}}', 'crun', 'none'"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            f"INSERT INTO runtime ({fields}, writable_paths, created_at, base_image, packages) "
            f"VALUES ({row}, '[]', 0, '{'cd' * 32}', '{'ef' * 32}')"
        )
    assert snapshot.look_through(database).images == {"ab" * 32, "cd" * 32, "ef" * 32}
    with closing(sqlite3.connect(database)) as connection, connection:
        for column in ("packages", "packages_key", "base_image", "interpreter"):
            connection.execute(f"ALTER TABLE runtime DROP COLUMN {column}")
        connection.execute("UPDATE alembic_version SET version_num = '0018'")
    assert snapshot.look_through(database).images == {"ab" * 32}
