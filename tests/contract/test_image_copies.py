"""The promises of `SqlImageCopies`."""

from pathlib import Path

from contract.stores import StoreOpener
from quiltfn.ports import ChangeKind
from quiltfn.ports.fleet import ImageCopy
from quiltfn.store import SqlStore
from quiltfn.store.fleet.image_copies import SqlImageCopies

X, Y, Z = (letter * 64 for letter in "xyz")


async def test_a_node_has_what_it_said_last_and_no_other_node_is_touched(store: SqlStore) -> None:
    copies = SqlImageCopies(store.database)
    await copies.state("one", [X, Y])
    await copies.state("two", [Y])
    await copies.state("one", [Y, Z])
    assert set(await copies.load()) == {
        ImageCopy(Y, "one"),
        ImageCopy(Z, "one"),
        ImageCopy(Y, "two"),
    }
    assert set(await copies.load([Y])) == {ImageCopy(Y, "one"), ImageCopy(Y, "two")}
    assert await copies.load([X]) == []
    await copies.state("one", ())
    assert await copies.load() == [ImageCopy(Y, "two")]


async def test_each_added_or_removed_image_is_a_change_and_nothing_else(store: SqlStore) -> None:
    copies = SqlImageCopies(store.database)
    await copies.state("one", [X, Y])
    since = await store.newest_change()
    await copies.state("one", [X, Y])
    assert await store.newest_change() == since
    await copies.state("one", [Y, Z])
    found = (await store.changes(since)).items
    assert {(one.kind, one.object_id) for one in found} == {
        (ChangeKind.IMAGE_COPY, X),
        (ChangeKind.IMAGE_COPY, Z),
    }


async def test_it_is_known_after_a_restart(open_store: StoreOpener, tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await SqlImageCopies(store.database).state("one", [X])
    async with open_store(tmp_path) as store:
        assert await SqlImageCopies(store.database).load() == [ImageCopy(X, "one")]
