"""A packed image is unpacked to the same image on another node."""

import os
import tarfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promises import promise
from quiltfn.images import ImageLimits
from quiltfn.images.pack import packed as pack
from quiltfn.model.errors import StoreUnavailable, Unprocessable
from quiltfn.model.image import Archive
from unit.sample_archives import (
    Entry,
    directory,
    entry,
    everything_below,
    file,
    good,
    hard_link,
    link,
    packed,
)
from unit.test_images import ImagesUnderTest

pytestmark = promise("N40")

LIMITS = ImageLimits(unpacked_max_bytes=2_000_000, files_max=200)
PIECE = 64 * 1024


class Box(ImagesUnderTest):
    """The image directory of a node."""

    limits = LIMITS

    async def archive(self, digest: str) -> bytes:
        pieces = [piece async for piece in self.images.archive(digest)]
        assert all(0 < len(piece) <= PIECE for piece in pieces)
        return b"".join(pieces)


@pytest.fixture
def sender(tmp_path: Path) -> Box:
    return Box(tmp_path / "one")


@pytest.fixture
def receiver(tmp_path: Path) -> Box:
    return Box(tmp_path / "two")


LONG = "/".join(["d" * 120] * 7)
TREES: dict[str, list[Entry]] = {
    "ordinary": [file("a/b", b"1"), file("empty", b""), entry("a/run", mode=0o755), directory("e")],
    "long": [file("long", os.urandom(700_001)), file("two", bytes(512)), file("odd", bytes(513))],
    "names": [
        file("ä ö/\u65e5\u672c \\n", b"u"),
        file(f"{LONG}/name", b"deep"),
        link("to", f"{LONG}/name"),
        file("x" * 255, b"255"),
        file("-rf", b"dash"),
    ],
    "links": [directory("d"), link("in", "d"), link("out", "/usr/bin/env"), link("none", "d/none")],
    "hard links": [
        file("z/first", b"same" * 300),
        hard_link("a", "z/first"),
        hard_link("z/second", "z/first"),
        file("z/alike", b"same" * 300),
    ],
}


@pytest.mark.parametrize("name", TREES)
async def test_packed_images_unpack_to_the_same(sender: Box, receiver: Box, name: str) -> None:
    image = await sender.take(packed(TREES[name]))
    copy = await receiver.take(await sender.archive(image.digest))
    assert copy == image  # the sizes agree, too: a file with two names is sent once
    assert everything_below(receiver.path) == everything_below(sender.path)
    assert list(pack(sender.store / image.digest)) == list(pack(receiver.store / image.digest))


NAMES = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/"), min_size=1, max_size=60
).filter(lambda name: name not in (".", "..") and not name.startswith(".wh."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.dictionaries(PATHS, st.binary(max_size=1500), min_size=1, max_size=6))
async def test_trees_survive_transport(sender: Box, receiver: Box, files: dict[str, bytes]) -> None:
    try:
        image = await sender.take(packed(file(name, data) for name, data in files.items()))
    except Unprocessable:
        return  # the tree has a file below a file, or a name that is too long
    assert (await receiver.take(await sender.archive(image.digest))).digest == image.digest


@promise("N43")
async def test_an_image_that_is_being_sent_is_not_removed(sender: Box) -> None:
    image = await sender.take(packed([file("long", os.urandom(1_000_000))]))
    sender.clock.time += 1000
    async with aclosing(sender.images.archive(image.digest)) as pieces:
        sent = await anext(pieces)
        assert await sender.images.collect(frozenset(), 10.0) == 0
        sender.clock.time += 1000
        assert await sender.images.collect(frozenset(), 10.0) == 0
        sent += b"".join([piece async for piece in pieces])
    assert sent == await sender.archive(image.digest)
    # An unfinished transfer must not keep the image.
    async with aclosing(sender.images.archive(image.digest)) as unread:
        await anext(unread)
    sender.clock.time += 1000
    assert await sender.images.collect(frozenset(), 10.0) == 1
    with pytest.raises(StoreUnavailable):
        await sender.archive(image.digest)


async def test_a_file_that_was_replaced_by_a_link_is_not_read(sender: Box, tmp_path: Path) -> None:
    """Only the server writes to the image directory. If another process replaced a file there, no
    other file must be revealed.
    """
    image = await sender.take(good())
    (tmp_path / "secret").write_text("confidential")
    path = sender.store / image.digest / "app.py"
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    assert b"confidential" not in await sender.archive(image.digest)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StoreUnavailable):
        await sender.archive(image.digest)


@promise("N44")
async def test_an_archive_that_does_not_end_is_refused_while_it_comes(sender: Box) -> None:
    header = entry("a", size=10**9).tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        yield header
        while True:
            taken += PIECE
            yield bytes(PIECE)

    before = everything_below(sender.path)
    with pytest.raises(Unprocessable, match="more than"):
        await sender.images.take(Archive.TAR, endless())
    assert taken <= LIMITS.archive_max_bytes + PIECE
    assert everything_below(sender.path) == before
