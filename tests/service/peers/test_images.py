"""Nodes fetch images from each other, whatever happens to other nodes, the disk, or the image."""

import asyncio
import contextlib
import errno
import os
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from promises import promise
from quiltfn.api.http.request import Headers, Request
from quiltfn.api.http.response import CutShort, Response
from quiltfn.fleet import image_fetch
from quiltfn.fleet import images as fleet_images
from quiltfn.fleet.image_fetch import ImageUnavailable
from quiltfn.images import jobs
from quiltfn.model.errors import StoreUnavailable, Unprocessable
from quiltfn.model.image import Archive, Contents
from quiltfn.ports.peers import PIECE_BYTES, Asker
from service.peers.image_nodes import MIB, PATIENCE_S, ImageFleet, Node, image_fleet
from service.platform_harness import until
from timeouts import scaled
from unit.sample_archives import file, in_pieces, link, packed

pytestmark = promise("N40")


def an_archive(size: int = MIB) -> bytes:
    return packed([file("mod.py", b"x = 1\n"), file("data/long", os.urandom(size))])


@pytest.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ImageFleet]:
    monkeypatch.setattr(fleet_images, "LOOK_S", 0.02)
    async with image_fleet(tmp_path, "one", "two", "three") as made:
        yield made
        # Duplicate files of an upload are removed after its response.
        await until(lambda: not any(node.leftovers for node in made.nodes.values()))


# Fetching ------------------------------------------------------------------------------------


async def test_an_image_is_fetched_once_for_all_who_wait(fleet: ImageFleet) -> None:
    first, second = fleet["one"], fleet["two"]
    digest = await first.put(an_archive())
    await asyncio.gather(*(second.fleet.obtain(digest) for _ in range(20)))
    assert second.has(digest)
    assert first.asked == [("GET", "two")]
    assert (second.path / digest / "data/long").read_bytes() == (
        first.path / digest / "data/long"
    ).read_bytes()
    await second.fleet.obtain(digest)
    assert first.asked == [("GET", "two")]
    # The other nodes know where the image is, and fetch it from either node.
    assert fleet["three"].fleet.nodes_of(digest) == {"one", "two"}


async def test_a_root_file_system_comes_as_it_is(fleet: ImageFleet) -> None:
    """A root file system may have links that files for /app must not have. Uploading files with
    such links is still refused.
    """
    first, second = fleet["one"], fleet["two"]
    tree = [link("etc/mtab", "/proc/mounts"), link("up", "../../x"), file("bin/sh", mode=0o755)]
    image = await first.images.take(Archive.TAR, in_pieces(packed(tree)), contents=Contents.ROOTFS)
    await first.fleet.restore()
    await second.fleet.obtain(image.digest)
    assert os.readlink(second.path / image.digest / "up") == "../../x"
    with pytest.raises(Unprocessable, match="leads outside"):
        await first.put(packed(tree))


async def test_who_waits_may_go_and_the_fetch_goes_on(fleet: ImageFleet) -> None:
    first, second = fleet["one"], fleet["two"]
    digest = await first.put(an_archive())
    waiting = asyncio.ensure_future(second.fleet.obtain(digest))
    await until(lambda: first.asked)
    waiting.cancel()
    await until(lambda: second.has(digest))


async def test_two_nodes_fetch_from_each_other_at_the_same_time(fleet: ImageFleet) -> None:
    node, other = fleet["one"], fleet["two"]
    first = [await node.put(an_archive()) for _ in range(3)]
    second = [await other.put(an_archive()) for _ in range(3)]
    async with asyncio.timeout(scaled(20)):
        await asyncio.gather(
            *(other.fleet.obtain(digest) for digest in first),
            *(node.fleet.obtain(digest) for digest in second),
        )
    for digest in (*first, *second):
        assert fleet.having(digest) == ["one", "two"]


async def test_two_nodes_do_not_wait_for_an_image_nobody_has(fleet: ImageFleet) -> None:
    """Each node believes that the other one has the image."""
    digest = "ab" * 32
    await fleet.store.state("one", [digest])
    await fleet.store.state("two", [digest])
    async with asyncio.timeout(scaled(10)):
        found = await asyncio.gather(
            *(fleet[name].fleet.obtain(digest) for name in ("one", "two")), return_exceptions=True
        )
    for error in found:
        assert isinstance(error, ImageUnavailable)
        assert "does not have it any more" in str(error)


async def test_where_it_is_on_a_node_that_is_away_the_error_names_it(fleet: ImageFleet) -> None:
    digest = await fleet["one"].put(an_archive())
    fleet.change("one", presence="gone")
    with pytest.raises(ImageUnavailable, match="only on unreachable nodes: one"):
        await fleet["two"].fleet.obtain(digest)
    # Further callers get the error at once until the node retries a moment later.
    fleet.change("one")
    with pytest.raises(ImageUnavailable):
        await fleet["two"].fleet.obtain(digest)
    fleet.clock.time += image_fetch.AGAIN_S
    await fleet["two"].fleet.obtain(digest)


async def test_memory_does_not_grow_with_the_image(fleet: ImageFleet) -> None:
    digest = await fleet["one"].put(an_archive(24 * MIB))
    tracemalloc.start()
    try:
        await fleet["two"].fleet.obtain(digest)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 * MIB


# Nodes that are broken or send wrong data ----------------------------------------------------


async def asks(fleet: ImageFleet, bad: Any, *, is_distrusted: bool) -> None:
    """Nodes one and three have the image. Node one is asked first, and fails in the way of `bad`;
    node two must still get the image.
    """
    data = an_archive()
    digest = await fleet["one"].put(data)
    assert await fleet["three"].put(data) == digest
    fleet["one"].handler = bad
    two = fleet["two"]
    two.fleet._fetcher._sorted = sorted  # type: ignore[assignment, method-assign]
    await two.fleet.obtain(digest)
    assert [fleet[name].asked for name in ("one", "three")] == [[("GET", "two")]] * 2
    assert two.has(digest)
    assert two.leftovers == []
    assert ("one" in two.fleet._fetcher._distrusted) is is_distrusted
    assert (two.path / digest / "data/long").read_bytes() == (
        fleet["three"].path / digest / "data/long"
    ).read_bytes()


async def test_a_node_that_dies_half_way_is_followed_by_the_next(fleet: ImageFleet) -> None:
    async def half(request: Request, *_: object) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            digest = request.path.rpartition("/")[2]
            whole = b"".join([one async for one in fleet["one"].images.archive(digest)])
            for start in range(0, len(whole) // 2, PIECE_BYTES):
                yield whole[start : start + PIECE_BYTES]
            raise CutShort("the node is gone")

        return Response(body=pieces())

    await asks(fleet, half, is_distrusted=False)


def short(_: bytes) -> bytes:
    return an_archive()[:300_000]


def another(_: bytes) -> bytes:
    return an_archive()


def changed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("spoil", [short, another, changed])
async def test_wrong_bytes_are_refused(fleet: ImageFleet, spoil: Callable[[bytes], bytes]) -> None:
    sent = b""

    async def wrong(request: Request, *_: object) -> Response:
        nonlocal sent
        digest = request.path.rpartition("/")[2]
        sent = spoil(b"".join([one async for one in fleet["one"].images.archive(digest)]))
        return Response(body=sent)

    await asks(fleet, wrong, is_distrusted=True)
    if spoil is another:  # control: without an expected digest, the image is accepted
        assert (await fleet["two"].upload(sent)).is_new


async def test_more_than_the_image_counts_is_refused_while_it_comes(fleet: ImageFleet) -> None:
    sent = 0

    async def endless(*_: object) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += PIECE_BYTES
                yield bytes(PIECE_BYTES)

        return Response(body=pieces())

    await asks(fleet, endless, is_distrusted=True)
    assert sent < 32 * MIB  # this includes the bytes in the kernel's buffers


async def test_a_node_that_stops_in_the_middle_is_given_up(
    fleet: ImageFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_fetch, "STALL_S", 0.2)

    async def stuck(*_: object) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield bytes(PIECE_BYTES)
            await asyncio.sleep(scaled(30))

        return Response(body=pieces())

    await asks(fleet, stuck, is_distrusted=False)


async def test_who_waits_for_a_node_that_sends_to_others_does_not_give_it_up(
    fleet: ImageFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_fetch, "STALL_S", 0.2)
    node = fleet["one"]
    digest = await node.put(an_archive())
    for _ in range(fleet_images.SENDS_MAX):
        await node.fleet._sending.acquire()
    waiting = asyncio.ensure_future(fleet["two"].fleet.obtain(digest))
    await asyncio.sleep(0.5)
    node.fleet._sending.release()
    await waiting
    assert node.asked == [("GET", "two")]
    # Each request must release the memory that it reserved, whether the image exists or not.
    for wanted in (digest, "ab" * 32):
        asker = Asker(node="three", call=None)
        request = Request("GET", f"/fleet/images/{wanted}", Headers({}))
        response = await node.fleet.answer(request, asker)
        close = getattr(response.body, "aclose", None)
        if close is not None:
            await close()
        assert node.fleet._sending._value == 1


async def test_a_node_that_lied_is_asked_last(fleet: ImageFleet) -> None:
    fetcher = fleet["two"].fleet._fetcher
    fetcher._distrusted["one"] = fleet.clock.now()
    assert {fetcher._sorted({"one", "three"})[0] for _ in range(20)} == {"three"}
    fleet.clock.time += image_fetch.DISTRUST_S
    assert {fetcher._sorted({"one", "three"})[0] for _ in range(50)} == {"one", "three"}


# This node's own disk ------------------------------------------------------------------------


@promise("N44")
async def test_a_full_disk_ends_the_fetch_and_leaves_nothing(
    fleet: ImageFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await fleet["one"].put(an_archive())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "_sync", full)
        with pytest.raises(ImageUnavailable, match="No space left on device"):
            await fleet["two"].fleet.obtain(digest)
    assert fleet.having(digest) == ["one"]
    assert fleet["two"].leftovers == []
    fleet.clock.time += image_fetch.AGAIN_S
    await fleet["two"].fleet.obtain(digest)  # the retry succeeds, since the disk now has room


@promise("N44")
async def test_the_bound_for_all_images_holds_for_fetched_ones(tmp_path: Path) -> None:
    async with image_fleet(tmp_path, "one", "two", all_bytes=4 * MIB) as fleet:
        first, second = fleet["one"], fleet["two"]
        kept = [await first.put(an_archive()) for _ in range(3)]
        second.tenant_images._all_bytes = int(2.5 * MIB)  # an operator's limit
        for digest in kept[:2]:
            await second.fleet.obtain(digest)
        with pytest.raises(ImageUnavailable, match="no room for another image"):
            await second.fleet.obtain(kept[2])
        assert ("GET", "two") in first.asked
        assert len(first.asked) == 2  # no image was sent that node two could not keep


# Images that are removed while a node fetches them --------------------------------------------


@promise("N43")
async def test_an_image_removed_while_it_is_fetched_is_sent_whole(fleet: ImageFleet) -> None:
    first, second = fleet["one"], fleet["two"]
    digest = await first.put(an_archive(8 * MIB))
    waiting = asyncio.ensure_future(second.fleet.obtain(digest))
    await until(lambda: first.images._sent)
    fleet.clock.time += 10_000
    await first.tenant_images.collect(frozenset(), frozenset(), 600)
    assert first.has(digest)
    await waiting
    assert second.has(digest)
    # No tenant has the image, so every node removes it after a while.
    for _ in range(2):
        fleet.clock.time += 10_000
        for node in (first, second):
            await node.tenant_images.collect(frozenset(), frozenset(), 600)
            await node.fleet._state()
    assert fleet.having(digest) == []
    assert fleet.store.copies == set()


# Copies of images on other nodes -------------------------------------------------------------


@promise("N41")
async def test_an_upload_is_answered_once_a_second_node_has_it(fleet: ImageFleet) -> None:
    for name in ("one", "two", "three"):
        image = await fleet[name].upload(an_archive())
        assert image.is_new
        assert name in fleet.having(image.digest)
        assert len(fleet.having(image.digest)) == 2


@promise("N41")
async def test_where_no_other_node_can_be_reached_one_has_it(tmp_path: Path) -> None:
    async with image_fleet(tmp_path, "one") as fleet:
        image = await fleet["one"].upload(an_archive())
        assert fleet.having(image.digest) == ["one"]
    async with image_fleet(tmp_path, "one", "two") as fleet:
        # Node two is unreachable, but no node knows that yet.
        fleet["one"].directory.addresses["two"] = "127.0.0.1:1"
        image = await fleet["one"].upload(an_archive())
        assert fleet.having(image.digest) == ["one"]


@promise("N41")
@pytest.mark.parametrize(
    ("body", "message"),
    [(b"no room", "no room"), (b"x" * 5000, "its reason has more than 4096 bytes")],
)
async def test_an_upload_needs_a_second_node(fleet: ImageFleet, body: bytes, message: str) -> None:
    async def full(*_: object) -> Response:
        return Response(status=503, body=body)

    data = an_archive()
    for name in ("two", "three"):
        fleet[name].handler = full
    with pytest.raises(StoreUnavailable, match=rf"node accepts it: node .*: {message}") as error:
        await fleet["one"].upload(data)
    assert "repeat the upload" in str(error.value.hint)
    fleet["three"].handler = None
    image = await fleet["one"].upload(data)
    assert not image.is_new
    assert fleet.having(image.digest) == ["one", "three"]


async def test_uploads_wait_for_a_while(fleet: ImageFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_images, "KEEP_MAX_S", 0.2)

    async def slow(*_: object) -> Response:
        await asyncio.sleep(scaled(30))
        return Response(status=204)

    for name in ("two", "three"):
        fleet[name].handler = slow
    with pytest.raises(StoreUnavailable, match=r"within 0\.2 s"):
        await fleet["one"].upload(an_archive())


async def test_an_upload_that_is_repeated_asks_who_has_it_first(fleet: ImageFleet) -> None:
    data = an_archive()
    digest = (await fleet["one"].upload(data)).digest
    (other,) = set(fleet.having(digest)) - {"one"}
    before = len(fleet[other].asked)
    await fleet["one"].upload(data)
    assert fleet[other].asked[before:] == [("POST", "one")]
    assert len(fleet.having(digest)) == 2


@contextlib.asynccontextmanager
async def looking(*nodes: Node) -> AsyncIterator[None]:
    """Has these nodes maintain the copies of their images until the end of the block."""
    running = [asyncio.ensure_future(node.fleet.run()) for node in nodes]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


async def copied(fleet: ImageFleet) -> tuple[str, str, str]:
    """Uploads an image to node one. Returns its digest, the node with a copy, and the node without
    one.
    """
    digest = (await fleet["one"].upload(an_archive())).digest
    (other,) = set(fleet.having(digest)) - {"one"}
    (third,) = {"two", "three"} - {other}
    return digest, other, third


@promise("N42")
@pytest.mark.parametrize("state", ["draining", "removed"])
async def test_a_copy_on_a_node_that_goes_is_made_anew(fleet: ImageFleet, state: str) -> None:
    digest, other, third = await copied(fleet)
    async with looking(*fleet.nodes.values()):
        fleet.change(other, state)
        await until(lambda: fleet[third].has(digest))


@promise("N42")
async def test_a_copy_on_a_lost_node_is_made_anew_after_a_while(fleet: ImageFleet) -> None:
    digest, other, third = await copied(fleet)
    fleet.change(other, presence="gone")
    async with looking(fleet["one"]):
        await asyncio.sleep(0.2)
        assert not fleet[third].has(digest)
        fleet.clock.time += PATIENCE_S
        await until(lambda: fleet[third].has(digest))


@promise("N43")
async def test_an_image_that_no_tenant_has_is_given_to_nobody(fleet: ImageFleet) -> None:
    """If nodes copied such an image, two of them would copy it to each other for ever, since each
    removes it again.
    """
    first = fleet["one"]
    digest = await first.put(an_archive())
    fleet.store.rows.clear()
    for node in fleet.nodes.values():
        await node.tenant_images.follow_changes(None)
    async with looking(first):
        await asyncio.sleep(0.2)
    assert fleet.having(digest) == ["one"]


async def test_a_node_says_at_its_start_what_it_has(fleet: ImageFleet) -> None:
    node = fleet["one"]
    digest = await node.put(an_archive())
    fleet.store.copies.clear()
    node.fleet._stated = None
    await node.fleet.restore()
    assert node.fleet._table.nodes_of(digest) == {"one"}


# Limits of the peer port ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "x", "../etc", "AB" * 32, "ab" * 33])
async def test_what_is_no_digest_is_refused(fleet: ImageFleet, path: str) -> None:
    request = Request("GET", f"{image_fetch.IMAGES}{path}", {})  # type: ignore[arg-type]
    answer = await fleet["one"].fleet.answer(request, Asker("two", None))
    assert answer.status == 404
