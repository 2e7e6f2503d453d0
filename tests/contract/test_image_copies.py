"""The promises of `SqlImageCopies`."""

from pathlib import Path

from contract.stores import StoreOpener
from quiltfn.ports import ChangeKind
from quiltfn.ports.fleet import ImageCopy
from quiltfn.store import SqlStore
from quiltfn.store.fleet.image_copies import SqlImageCopies

X, Y, Z = (letter * 64 for letter in "xyz")


async def test_a_node_has_what_it_said_last(open_store: StoreOpener, tmp_path: Path) -> None:
    """What one node reports must not change the images of others, and must survive a restart."""
    async with open_store(tmp_path) as store:
        copies = SqlImageCopies(store.database)
        await copies.state("one", [X, Y])
        await copies.state("two", [Y])
        await copies.state("one", [Y, Z])
    of_y = {ImageCopy(Y, "one"), ImageCopy(Y, "two")}
    async with open_store(tmp_path) as store:
        copies = SqlImageCopies(store.database)
        assert set(await copies.load()) == {ImageCopy(Z, "one"), *of_y}
        assert set(await copies.load([Y])) == of_y
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
