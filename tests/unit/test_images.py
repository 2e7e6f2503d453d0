"""Images: what is accepted, what is refused and why, and that refused archives leave nothing.

Attack B24 of the hardening list: a malicious image.
"""

import asyncio
import contextlib
import gzip
import io
import os
import stat
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from in_thread_jobs import InThreadJobs
from manual_clock import ManualClock
from promises import promise
from quiltfn.images import ImageDirectory, ImageLimits, image_store, jobs
from quiltfn.images.tar import Source, members
from quiltfn.images.unpack import Tree, Unpacker
from quiltfn.model.errors import StoreUnavailable, Unprocessable
from quiltfn.model.image import Archive, Image
from timeouts import scaled
from unit.sample_archives import (
    GOOD,
    Entry,
    directory,
    entry,
    everything_below,
    extended,
    file,
    good,
    hard_link,
    in_pieces,
    link,
    packed,
    pressed,
    raw,
)

LIMITS = ImageLimits(unpacked_max_bytes=1_000_000, files_max=50)


class ImagesUnderTest:
    """An image directory beside files that no archive may change."""

    limits = LIMITS

    def __init__(self, path: Path) -> None:
        self.path, self.store, self.clock = path, path / "images", ManualClock(100.0)
        (path / "outside").mkdir(parents=True)
        (path / "outside" / "secret").write_text("untouched")
        self.images = self.open()

    def open(self) -> ImageDirectory:
        images = ImageDirectory(self.store, self.clock, self.limits, InThreadJobs())
        images.start()
        return images

    async def take(self, data: bytes, archive: Archive = Archive.TAR) -> Image:
        return await self.images.take(archive, in_pieces(data))

    async def refused(self, data: bytes, archive: Archive = Archive.TAR) -> str:
        """Return the reason for the refusal. Check that the archive has changed nothing."""
        before = everything_below(self.path)
        with pytest.raises(Unprocessable, match=r"^the image is refused: ") as error:
            await self.take(data, archive)
        assert everything_below(self.path) == before
        assert (self.path / "outside" / "secret").read_text() == "untouched"
        assert str(error.value).isprintable(), "it names its member"
        return str(error.value)


@pytest.fixture
def box(tmp_path: Path) -> ImagesUnderTest:
    return ImagesUnderTest(tmp_path)


# Accepted archives ---------------------------------------------------------------------------


async def test_a_good_archive_becomes_a_directory_named_by_its_digest(box: ImagesUnderTest) -> None:
    image = await box.take(good())
    root = box.store / image.digest
    for name, content in GOOD.items():
        assert (root / name).read_bytes() == content
    assert os.readlink(root / "current") == "lib/data.txt"
    assert (image.files, image.size_bytes, image.is_new) == (4, sum(map(len, GOOD.values())), True)
    assert {one.name for one in box.store.iterdir()} == {image.digest}
    assert box.images.hold(image.digest)


async def test_modes_and_times_are_made_plain(box: ImagesUnderTest) -> None:
    image = await box.take(
        packed(
            [
                entry("d", tarfile.DIRTYPE, mode=0o700, mtime=1),
                file("d/plain", mode=0o666, mtime=2),
                file("d/program", mode=0o100, mtime=3, uid=0, gid=0, uname="root"),
                file("secret", mode=0o000),
            ]
        )
    )
    root = box.store / image.digest
    modes = {
        name: stat.S_IMODE((root / name).stat().st_mode)
        for name in (".", "d", "d/plain", "d/program", "secret")
    }
    assert modes == {".": 0o755, "d": 0o755, "d/plain": 0o644, "d/program": 0o755, "secret": 0o644}
    assert len({one.lstat().st_mtime for one in [root, *root.rglob("*")]}) == 1


@promise("R3")
async def test_a_tree_has_the_same_digest_however_it_was_packed(box: ImagesUnderTest) -> None:
    files = [file(name, data) for name, data in GOOD.items()]
    files.append(link("current", "lib/data.txt"))
    explicit: list[Entry] = [directory("./"), directory("./lib/"), directory("bin"), *files[::-1]]
    for member in files:
        if isinstance(member, tuple):
            member[0].mtime = 12345
    ways = [
        (good(), Archive.TAR),
        (pressed(good()), Archive.GZIP),
        (good(form=tarfile.GNU_FORMAT), Archive.TAR),
        (good(form=tarfile.USTAR_FORMAT), Archive.TAR),
        (packed(files), Archive.TAR),
        (packed(explicit), Archive.TAR),
        (pressed(good()[:5000]) + pressed(good()[5000:]), Archive.GZIP),
    ]
    images = [await box.take(data, archive) for data, archive in ways]
    assert len({one.digest for one in images}) == 1
    assert [one.is_new for one in images] == [True] + [False] * (len(ways) - 1)


@promise("R3")
@pytest.mark.parametrize(
    "change",
    [
        lambda: file("app.py", b"print(2)\n"),
        lambda: file("app.py", GOOD["app.py"], mode=0o755),
        lambda: file("app2.py", GOOD["app.py"]),
        lambda: directory("app.py"),
        lambda: link("app.py", "bin/run"),
    ],
)
async def test_every_difference_counts(box: ImagesUnderTest, change: Callable[[], Entry]) -> None:
    rest = [file(name, data) for name, data in GOOD.items() if name != "app.py"]
    image = await box.take(packed([file("app.py", GOOD["app.py"]), *rest]))
    other = await box.take(packed([change(), *rest]))
    assert image.digest != other.digest


async def test_long_and_foreign_names_are_kept(box: ImagesUnderTest) -> None:
    long = "/".join(["d" * 100] * 9)
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        image = await box.take(packed([file(f"{long}/ä 漢字.txt")], form=form))
        assert (box.store / image.digest / long / "ä 漢字.txt").read_bytes() == b"content"


async def test_a_hard_link_within_is_a_second_name(box: ImagesUnderTest) -> None:
    image = await box.take(packed([file("a/x"), hard_link("y", "./a/x")]))
    copy = await box.take(packed([file("a/x"), file("y")]))
    assert image.digest == copy.digest
    assert (box.store / image.digest / "y").read_bytes() == b"content"


@pytest.mark.parametrize(
    "target", ["x", "../a/x", "./x", "/usr/bin/python3", "/app/a/x", "nowhere"]
)
async def test_a_link_that_is_taken_is_kept_as_it_is(box: ImagesUnderTest, target: str) -> None:
    image = await box.take(packed([file("a/x"), link("a/l", target)]))
    assert os.readlink(box.store / image.digest / "a" / "l") == target


# Refused archives ----------------------------------------------------------------------------

MANY = [file(f"f{n}", b"") for n in range(51)]
HOSTILE: dict[str, tuple[bytes | list[Entry], str]] = {
    "an absolute member": ([file("/etc/cron.d/x")], "absolute path"),
    "a member above": ([file("../outside/x")], "has a .. in its path"),
    "a member above, later": ([file("a/../../outside/x")], "has a .. in its path"),
    "a climb within": ([file("a/../b")], "has a .. in its path"),
    "a climb in a pax header": (
        raw(extended({"path": "../outside/x"}), (entry("x"), b"")),
        "has a .. in its path",
    ),
    "a climb in a global pax header": (
        raw(extended({"path": "/etc/x"}, tarfile.XGLTYPE), (entry("x"), b"")),
        "absolute path",
    ),
    "a member through a link": ([link("d", "usr"), file("d/x")], "lies below a link"),
    "a member through a link, made a directory first": (
        [directory("d"), link("d", "usr"), file("d/x")],
        "is there twice",
    ),
    "a member through a file": ([file("d"), file("d/x")], "lies below a file"),
    "a link over the root": ([link("./", "/usr")], "the whole image"),
    "a device link": ([link("dev", "/dev")], "outside of /app and /usr"),
    "a proc link": ([link("proc", "/proc/self")], "outside of /app and /usr"),
    "a tmp link": ([link("tmp", "/tmp")], "outside of /app and /usr"),
    "a link out by /usr": ([link("l", "/usr/../etc")], "outside of /app and /usr"),
    "a link above": ([link("l", "..")], "outside of the image"),
    "a link above, in steps": ([link("a/l", "x/../../../e")], "outside of the im"),
    "a link to nothing": ([link("l", "")], "an invalid path"),
    "a link with controls": ([link("l", "a\x1b[2J")], "an invalid path"),
    "a hard link to the host": ([hard_link("l", "/etc/shadow")], "leads outside"),
    "a hard link above": ([hard_link("l", "../outside/secret")], "leads outside"),
    "a hard link to nothing": ([hard_link("l", "x")], "no file that came before"),
    "a hard link to a link": (
        [link("a", "/usr/bin/x"), hard_link("l", "a")],
        "no file that came before",
    ),
    "a hard link to a directory": (
        [directory("a"), hard_link("l", "a")],
        "no file that came before",
    ),
    "a character device": ([entry("null", tarfile.CHRTYPE, devmajor=1, devminor=3)], "device node"),
    "a block device": ([entry("sda", tarfile.BLKTYPE)], "device node"),
    "a pipe": ([entry("pipe", tarfile.FIFOTYPE)], "named pipe"),
    "a kind of nobody": (raw((entry("x", b"Z"), b"")), "of a type that"),
    "setuid": ([file("su", mode=0o4755)], "setuid"),
    "setgid": ([file("wall", mode=0o2755)], "setgid"),
    "a whiteout": ([file("a/.wh.secret")], "whiteout"),
    "an opaque whiteout": ([file("a/.wh..wh..opq")], "whiteout"),
    "a name that is not UTF-8": ([file("a\udcff")], "not UTF-8"),
    "a name with a newline": ([file("a\nb")], "control characters"),
    "a name with an escape": ([file("\x1b]0;x\x07")], "control characters"),
    "a name with a C1 control": ([file("a\x9bb")], "control characters"),
    "a long name": ([file("x" * 256)], "more than 255 bytes"),
    "a long name in bytes": ([file("ä" * 128)], "more than 255 bytes"),
    "a long path": ([file("/".join(["d" * 200] * 6))], "more than 1024 bytes"),
    "a deep tree": ([file("/".join("d" * 65))], "deeper than 64"),
    "a member twice": ([file("a"), file("a")], "is there twice"),
    "a member twice by other words": ([file("a"), file("./a")], "is there twice"),
    "a directory twice": ([directory("a"), directory("a/")], "is there twice"),
    "a file where a directory was made": ([file("a/b"), file("a")], "there twice"),
    "too many files": (MANY, "more than 50 files"),
    "too many directories": ([file(f"{n}/{n}/{n}") for n in range(17)], "more than 50 files"),
    "too many bytes": ([file("a", b"x" * 1_000_001)], "more than 1000000 bytes"),
    "too many bytes in all": (
        [file(f"f{n}", b"x" * 300_000) for n in range(4)],
        "more than 1000000 bytes",
    ),
    "a size that lies": (raw((entry("a", size=500_000), b"short")), "is truncated"),
    "a size that lies in a pax header": (
        raw(extended({"size": "900000"}), (entry("a", size=5), b"short")),
        "is truncated",
    ),
    "a size beyond all bounds": (
        raw(extended({"size": "9" * 17}), (entry("a", size=5), b"short")),
        "more than 1000000 bytes",
    ),
    "a size that is not a number": (
        raw(extended({"size": "-5"}), (entry("a", size=5), b"short")),
        "size that is not a number",
    ),
    "a sparse member": (raw((entry("a", tarfile.GNUTYPE_SPARSE), b"")), "sparse"),
    "a sparse member in a pax header": (
        raw(extended({"GNU.sparse.realsize": "9"}), (entry("a"), b"")),
        "sparse",
    ),
    "an absurd pax header": (
        raw((entry("x", tarfile.XHDTYPE, size=70_000), b"1" * 70_000), (entry("a"), b"")),
        "more than 65536 bytes",
    ),
    "an absurd long name": (
        raw((entry("x", tarfile.GNUTYPE_LONGNAME, size=70_000), b"a" * 70_000)),
        "more than 65536 bytes",
    ),
    "a pax header that is noise": (
        raw((entry("x", tarfile.XHDTYPE, size=40), b"9999999 a=b\n" * 3), (entry("a"), b"")),
        "extended header is damaged",
    ),
    "a pax header of nothing": (raw(extended({"path": "x"})), "is truncated"),
    "a chain of pax headers": (raw(*[extended({"comment": "x"})] * 3000), "it is empty"),
    "no end": (good()[:512], "is truncated"),
    "half an archive": (good()[:1500], "is truncated"),
    "no archive": (b"#!/bin/sh\n" + b"x" * 5000, "not a tar archive"),
    "a short word": (b"x", "is truncated"),
    "nothing": (b"", "is truncated"),
    "an empty archive": ([], "it is empty"),
    "an archive of the root alone": ([directory(".")], "it is empty"),
    "a damaged header in the middle": (good()[:1024] + b"x" * 512 + good()[1536:], "damaged"),
    "a flood behind the end": (packed([file("a")]) + b"\0" * 2_000_000, "has data after its end"),
}


@promise("R2")
@pytest.mark.parametrize("attack", HOSTILE)
async def test_the_hostile_is_refused_and_leaves_nothing(box: ImagesUnderTest, attack: str) -> None:
    made, reason = HOSTILE[attack]
    data = made if isinstance(made, bytes) else packed(made)
    assert reason in await box.refused(data)
    assert reason in await box.refused(pressed(data), Archive.GZIP)


@promise("R2")
async def test_a_bomb_is_given_up_at_its_bound_whatever_it_says(box: ImagesUnderTest) -> None:
    """The limit applies to unpacked bytes: this archive is small, but would unpack to 50 MB."""
    size = 50_000_000
    head = entry("zeros", size=size).tobuf(tarfile.GNU_FORMAT)
    bomb = pressed(head + b"\0" * size)
    assert len(bomb) < 1_000_000
    began = time.process_time()
    assert "more than 1000000 bytes" in await box.refused(bomb, Archive.GZIP)
    spent, began = time.process_time() - began, time.process_time()
    assert len(gzip.decompress(bomb)) > size  # control: unpacking all of it
    assert spent < (time.process_time() - began) / 2
    # The limit also applies to data in a part that is skipped: after the archive's end.
    late = pressed(packed([file("a")]) + b"\0" * size)
    assert "after its end" in await box.refused(late, Archive.GZIP)


@pytest.mark.parametrize("cut", [5, 40, -1])
async def test_damaged_compression_is_refused(box: ImagesUnderTest, cut: int) -> None:
    data = pressed(good())
    assert "compression is damaged" in await box.refused(data[:cut], Archive.GZIP)
    broken = bytearray(data)
    broken[-6] ^= 0xFF  # damages the checksum
    assert "compression is damaged" in await box.refused(bytes(broken), Archive.GZIP)
    assert "compression is damaged" in await box.refused(good(), Archive.GZIP)


@given(st.binary(max_size=3000), st.integers(0, 4000))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_bytes_raise_anything_but_a_refusal(noise: bytes, at: int) -> None:
    data = good()
    for damaged in (noise, data[:at] + noise + data[at + len(noise) :]):
        source = Source(cast("BinaryIO", io.BytesIO(damaged)), 10_000_000, 1000)
        try:
            for member in members(source):
                for _ in source.pieces(min(member.size, 1_000_000)):
                    pass
        except Unprocessable:
            pass


# Storage -------------------------------------------------------------------------------------


@promise("R5")
async def test_a_start_removes_what_a_crash_has_left(box: ImagesUnderTest) -> None:
    image = await box.take(good())
    for name in (".new-1", ".old-2"):
        (box.store / name / "deep").mkdir(parents=True)
    (box.store / ".upload-3").write_text("half")
    again = box.open()
    assert {one.name for one in box.store.iterdir()} == {image.digest}
    assert again.hold(image.digest)
    assert not again.hold("00" * 32)


def test_a_place_that_is_none_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("a file")
    images = ImageDirectory(tmp_path / "images", ManualClock(100.0), LIMITS)
    with pytest.raises(StoreUnavailable, match="directory of images cannot be used"):
        images.start()


@promise("R6")
async def test_what_nobody_has_named_for_the_grace_is_collected(box: ImagesUnderTest) -> None:
    unused, used = await box.take(good()), await box.take(packed([file("other")]))
    in_use = frozenset({used.digest})
    box.clock.time += 599
    assert await box.images.collect(in_use, 600) == 0
    box.clock.time += 2
    assert await box.images.collect(in_use, 600) == 1
    assert {one.name for one in box.store.iterdir()} == {used.digest}
    assert not box.images.hold(unused.digest)
    # From now on, the other image has no user: its grace period starts when it was last seen in
    # use.
    box.clock.time += 599
    assert await box.images.collect(frozenset(), 600) == 0
    assert box.images.hold(used.digest)
    box.clock.time += 599
    assert await box.images.collect(frozenset(), 600) == 0
    box.clock.time += 600
    assert await box.images.collect(frozenset(), 600) == 1
    assert (await box.take(good())).is_new


class SlowRemoval:
    """Makes the removal of files wait until `go_on` is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self._go_on = threading.Event(), threading.Event()
        self.go_on, self._remove = self._go_on.set, image_store._remove
        monkeypatch.setattr(image_store, "_remove", self._wait_and_remove)

    def _wait_and_remove(self, path: Path) -> None:
        self.begun.set()
        assert self._go_on.wait(scaled(10))
        self._remove(path)


async def test_what_is_held_or_sent_while_another_image_is_removed_stays(
    box: ImagesUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, held, sent = [(await box.take(packed([file(name)]))).digest for name in "abc"]
    box.clock.time += 601
    removal = SlowRemoval(monkeypatch)
    collected = asyncio.ensure_future(box.images.collect(frozenset(), 600))
    await asyncio.to_thread(removal.begun.wait, 10)
    assert not box.images.hold(first)
    assert box.images.hold(held)
    pieces = box.images.archive(sent)
    assert await anext(pieces)
    removal.go_on()
    assert await collected == 1
    await pieces.aclose()
    assert {one.name for one in box.store.iterdir()} == {held, sent}
    assert set(box.images.all()) == {held, sent}


@promise("R45")
async def test_few_directories_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, system_open = [0], os.open

    def counted(*given: Any, **named: Any) -> int:
        opened[0] += 1
        return system_open(*given, **named)

    # Each member creates 60 directories of its own; the second archive then returns to each of
    # them.
    deep = ["/".join([f"d{number}", *["d"] * 59]) for number in range(30)]
    for names, most in ((deep, 3), ([*deep, *(f"{one}/f" for one in deep)], 5)):
        data = packed([file(name) if name.endswith("f") else directory(name) for name in names])
        place = tmp_path / str(len(names))
        place.mkdir()
        root = os.open(place, os.O_RDONLY)
        opened[0] = 0
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", counted)
            unpacker = Unpacker(root, ImageLimits())
            tree = unpacker.unpack(Source(io.BytesIO(data), 10**9, 10**6))
        os.close(root)
        assert tree.entries >= 30 * 60
        assert opened[0] < most * 30 * 60
        assert not unpacker._open


async def test_an_upload_that_nobody_waits_for_leaves_nothing_unknown(box: ImagesUnderTest) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def admit(_image: Image) -> None:  # called in the unpacking thread
        begun.set()
        assert go_on.wait(scaled(10))

    taken = asyncio.ensure_future(box.images.take(Archive.TAR, in_pieces(good()), admit))
    await asyncio.to_thread(begun.wait, 10)
    taken.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await taken
    assert {one.name for one in box.store.iterdir()} == set(box.images.all())
    box.clock.time += 601
    assert await box.images.collect(frozenset(), 600) == 1
    assert list(box.store.iterdir()) == []


async def test_an_image_collected_while_uploaded_again_is_there(box: ImagesUnderTest) -> None:
    digest = (await box.take(good())).digest
    box.clock.time += 601
    loop = asyncio.get_running_loop()

    def admit(image: Image) -> None:  # called in the unpacking thread
        assert not image.is_new
        removed = asyncio.run_coroutine_threadsafe(box.images.collect(frozenset(), 600), loop)
        assert removed.result(scaled(10)) == 1

    image = await box.images.take(Archive.TAR, in_pieces(good()), admit)
    assert (image.digest, image.is_new) == (digest, True)
    assert box.images.hold(digest)
    assert await box.images.files(digest, "", 10)
    assert [one.name for one in box.store.iterdir()] == [digest]


async def test_a_full_disk_is_told(box: ImagesUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_directory: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jobs, "_sync", full)
    with pytest.raises(StoreUnavailable, match=r"No space left on device$"):
        await box.take(good())
    assert list(box.store.iterdir()) == []


@pytest.mark.parametrize("archive", [Archive.TAR, Archive.GZIP])
async def test_the_archive_is_not_synced_beside_its_files(
    archive: Archive, box: ImagesUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pressed(good()) if archive is Archive.GZIP else good()
    seen: dict[str, int] = {}

    def unpack(self: Unpacker, source: Source) -> Tree:
        seen["unpacked"] = bytes_without_a_name(box.store)
        return unpacked(self, source)

    def sync(_directory: int) -> None:
        seen["synced"] = bytes_without_a_name(box.store)

    unpacked = Unpacker.unpack
    monkeypatch.setattr(Unpacker, "unpack", unpack)
    monkeypatch.setattr(jobs, "_sync", sync)
    image = await box.take(data, archive)
    assert seen == {"unpacked": len(data), "synced": 0}
    assert (box.store / image.digest).is_dir()


def bytes_without_a_name(directory: Path) -> int:
    """The size of unlinked files in `directory` that this process has open."""
    found = 0
    for opened in Path("/proc/self/fd").iterdir():
        # The descriptor of the listing itself is closed by now.
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(opened)
            if target.startswith(f"{directory}/") and target.endswith(" (deleted)"):
                found += opened.stat().st_size
    return found
