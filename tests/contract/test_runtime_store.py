"""The promises of `ports.RuntimeStore`."""

from pathlib import Path
from typing import Any

from msgspec.structs import replace

from contract.store_box import StoreOpener, a_function, a_version, an_id
from quiltfn.model.runtime import SHELL, Kind, Network, Runtime
from quiltfn.ports import RuntimeStore
from quiltfn.store import SqliteStore, SqlRuntimes


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
        created_at=1_760_000_000,
    )
    return replace(runtime, **changes)


async def test_the_newest_revision_of_each_name_comes_back_after_a_restart(
    open_store: StoreOpener, tmp_path: Path
) -> None:
    older, newer, other = a_runtime(), a_runtime(image=None), a_runtime("a")
    async with open_store(tmp_path) as store:
        runtimes: RuntimeStore = SqlRuntimes(store.database)
        for one in (older, newer, other):
            await runtimes.save(one)
    async with open_store(tmp_path) as store:
        assert await SqlRuntimes(store.database).load() == [other, newer]


async def test_a_removed_name_is_gone_and_removing_it_again_harms_nothing(
    store: SqliteStore,
) -> None:
    runtimes: RuntimeStore = SqlRuntimes(store.database)
    kept = a_runtime("a")
    for one in (kept, a_runtime()):
        await runtimes.save(one)
    for _ in range(2):
        await runtimes.remove("etl")
    assert await runtimes.load() == [kept]


async def test_an_image_is_in_use_while_a_name_or_any_version_has_it(store: SqliteStore) -> None:
    runtimes: RuntimeStore = SqlRuntimes(store.database)
    assert await runtimes.images_in_use() == frozenset()
    named, old, new = "aa" * 32, "bb" * 32, "cc" * 32
    await runtimes.save(a_runtime(image=named))
    function = a_function()
    first = a_version(function, pinned=replace(SHELL, image=old))
    await store.create(function, first)
    await store.save(function, a_version(function, 2, pinned=replace(SHELL, image=new)))
    await store.create(a_function(), a_version(function, 3))  # one without an image
    assert await runtimes.images_in_use() == {named, old, new}
    await runtimes.remove("etl")
    await store.delete(function.id)
    assert await runtimes.images_in_use() == frozenset()


async def test_a_version_keeps_its_whole_runtime(store: SqliteStore) -> None:
    runtimes: RuntimeStore = SqlRuntimes(store.database)
    pinned = a_runtime()
    await runtimes.save(pinned)
    function = a_function()
    await store.create(function, a_version(function, runtime="etl", pinned=pinned))
    await runtimes.save(a_runtime(image=None))
    version = await store.version(function.id, 1)
    assert version is not None
    assert version.content.pinned == pinned
