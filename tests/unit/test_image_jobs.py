"""Jobs on images: their turns and limits, and that a killed job leaves nothing."""

import asyncio
import contextlib
import functools
import gzip
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from manual_clock import ManualClock
from promises import promise
from quiltfn.images import ImageDirectory, ImageLimits, jobs, processes
from quiltfn.images.jobs import ListPackages, Packages, Refused, Unpack, outcome_of
from quiltfn.images.package_cache import KEPT_MAX, PackageCache
from quiltfn.images.processes import JobProcesses
from quiltfn.images.tar import BLOCK
from quiltfn.images.turns import FairTurns
from quiltfn.model.errors import QuiltfnError, RateLimited, StoreUnavailable, Unprocessable
from quiltfn.model.image import Archive, Contents, Package, PackageKind
from timeouts import scaled
from unit.sample_archives import entry, file, in_pieces, packed

pytestmark = promise("R45")

PATIENT = ImageLimits(unpacked_max_bytes=2**30, files_max=1_000_000)
# The number of headers that take some seconds to read.
LONG = 400_000
HASTY = ImageLimits(unpacked_max_bytes=2**30, files_max=1_000_000, unpack_max_s=1)


# Turns -------------------------------------------------------------------------------------------


async def in_turns(turns: FairTurns, tenants: str) -> tuple[str, int]:
    """Run a job of each of these tenants, one letter each. Returns the tenants in the order of
    their turns, and how many jobs ran at the same time at most.
    """
    order, now, most = "", 0, 0

    async def take(tenant: str) -> None:
        nonlocal order, now, most
        async with turns.of(tenant):
            order, now = order + tenant, now + 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

    await asyncio.gather(*map(take, tenants))
    return order, most


@pytest.mark.parametrize(
    ("most", "tenants", "order", "at_once"),
    [
        (1, "aaaab", "abaaa", 1),
        (1, "aaabbc", "abcaba", 1),
        (2, "aaaa", "aaaa", 1),
        (2, "aaabbb", "ababab", 2),
        (3, "aab", "aba", 2),
    ],
)
async def test_tenants_unpack_in_turns(most: int, tenants: str, order: str, at_once: int) -> None:
    assert await in_turns(FairTurns(most), tenants) == (order, at_once)


async def test_who_goes_away_has_no_turn_and_gives_back_the_one_that_it_has() -> None:
    turns = FairTurns(1)

    async def wait() -> None:
        async with turns.of("a"):
            await asyncio.sleep(60)

    first, second = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    for leaving in (second, first):
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    third = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    third.cancel()
    assert await asyncio.wait_for(in_turns(turns, "ab"), scaled(5)) == ("ab", 1)


async def test_so_many_of_one_tenant_wait() -> None:
    turns = FairTurns(1, waiting_max=2)
    async with turns.of("a"):
        waiting = [asyncio.ensure_future(in_turns(turns, "a")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(RateLimited, match="2 requests of the tenant already wait"):
            await in_turns(turns, "a")
        other = asyncio.ensure_future(in_turns(turns, "b"))
        await asyncio.sleep(0)
        assert not other.done()
    await asyncio.gather(*waiting, other)


# Processes ---------------------------------------------------------------------------------------


@functools.cache
def endless(count: int) -> bytes:
    """An archive of nameless directories, each of which is the root: they cause only work."""
    head = entry("./", tarfile.DIRTYPE).tobuf(tarfile.USTAR_FORMAT)
    assert len(head) == BLOCK
    return gzip.compress(head * count + bytes(2 * BLOCK), 1)


def workers() -> list[int]:
    """The processes that this process has started to work on images."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            with contextlib.suppress(OSError):
                if "quiltfn.images.worker" in Path(f"/proc/{pid}/cmdline").read_text():
                    found.append(int(pid))
    return found


async def working() -> int:
    """The process that works on an image now, once its limits are set."""
    async with asyncio.timeout(scaled(20)):
        while True:
            for pid in workers():
                with contextlib.suppress(OSError):
                    if os.getpriority(os.PRIO_PROCESS, pid) and limits_of(pid)["cpu time"] > 0:
                        return pid
            await asyncio.sleep(0.01)


def limits_of(pid: int) -> dict[str, int]:
    """The hard limits of a process by name; -1: no limit."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    hard = {line[4:26].strip(): line[47:68].strip() for line in lines}
    return {name: -1 if value == "unlimited" else int(value) for name, value in hard.items()}


def oom_score_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@contextlib.asynccontextmanager
async def unpacking(path: Path, limits: ImageLimits) -> AsyncIterator[asyncio.Task[object]]:
    """Unpack an endless archive, and check at the end that nothing of the archive is left."""
    images = ImageDirectory(path / "images", ManualClock(100.0), limits)
    images.start()
    taking = asyncio.ensure_future(images.take(Archive.GZIP, in_pieces(endless(LONG))))
    yield taking
    with contextlib.suppress(asyncio.CancelledError, QuiltfnError):
        await taking
    assert workers() == []
    assert list((path / "images").iterdir()) == []
    # The next archive is unpacked normally.
    image = await images.take(Archive.TAR, in_pieces(packed([file("a")])))
    assert [one.name for one in (path / "images").iterdir()] == [image.digest]


async def test_a_job_has_limits_and_yields_to_the_server(tmp_path: Path) -> None:
    async with unpacking(tmp_path, PATIENT) as taking:
        pid = await working()
        limits = limits_of(pid)
        assert limits["cpu time"] == PATIENT.unpack_max_s + 1
        assert limits["file size"] == PATIENT.unpacked_max_bytes
        assert limits["address space"] == 512 * 2**20 + 4096 * PATIENT.files_max
        assert (limits["open files"], limits["core file size"]) == (64, 0)
        assert oom_score_of(pid) >= 500
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking


@pytest.mark.parametrize(
    ("limits", "end", "kind", "reason"),
    [
        (HASTY, lambda _: None, Unprocessable, "takes more than 1 s of CPU time"),
        (PATIENT, lambda pid: os.kill(pid, signal.SIGKILL), StoreUnavailable, "killed by signal 9"),
    ],
)
async def test_a_job_that_is_ended_is_an_error_and_leaves_nothing(
    limits: ImageLimits,
    end: Callable[[int], None],
    kind: type[QuiltfnError],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "WALL_FOR_CPU", 100)  # other processes may use the CPUs first
    async with unpacking(tmp_path, limits) as taking:
        end(await working())
        with pytest.raises(kind, match=reason):
            await taking


async def test_too_long_jobs_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with unpacking(tmp_path, PATIENT) as taking:
        with monkeypatch.context() as hasty:
            hasty.setattr(processes, "WALL_FOR_CPU", 0.003)
            with pytest.raises(StoreUnavailable, match=r"it took more than 0.9"):
                await taking


async def test_the_archive_has_so_many_headers(tmp_path: Path) -> None:
    images = ImageDirectory(tmp_path, ManualClock(100.0), ImageLimits(files_max=100))
    images.start()
    for contents in Contents:
        archive = endless(20_000)
        if contents is Contents.IMAGE:  # an image's archive can't be compressed as a whole
            archive = gzip.decompress(archive)
        with pytest.raises(Unprocessable, match=r"too many headers|more than 4(00|096) members"):
            await images.take(Archive.GZIP, in_pieces(archive), contents=contents)
    # Control: a shorter archive is read to its end.
    with pytest.raises(Unprocessable, match="empty"):
        await images.take(Archive.GZIP, in_pieces(endless(10_000)))


def test_a_job_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(endless(LONG))
    (tmp_path / "place").mkdir()
    program = f"""
import asyncio
from quiltfn.images.jobs import Unpack
from quiltfn.images.processes import JobProcesses
from quiltfn.images import ImageLimits
from quiltfn.model.image import Archive, Contents
job = Unpack(place={str(tmp_path / "place")!r}, archive=Archive.GZIP, contents=Contents.FILES,
             limits=ImageLimits(files_max=1_000_000))
asyncio.run(JobProcesses().run(job, open({str(tmp_path / "archive")!r}, "r+b")))
"""
    with subprocess.Popen([sys.executable, "-c", program]) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        while not (found := children.read_text().split()):
            pass
        worker = int(found[0])
        while not os.getpriority(os.PRIO_PROCESS, worker):
            pass
        parent.kill()
    deadline = scaled(10)
    while _is_running(worker) and deadline > 0:
        deadline -= 0.01
        signal.sigtimedwait([], 0.01)
    assert not _is_running(worker)


def _is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def unpacking_at(place: str) -> Unpack:
    return Unpack(place=place, archive=Archive.TAR, contents=Contents.FILES, limits=PATIENT)


async def test_memory_and_disk_outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(jobs, "_unpack", run_out)
    with (tmp_path / "archive").open("w+b") as archive:
        outcome = outcome_of(unpacking_at(str(tmp_path)), archive)
    assert isinstance(outcome, Refused)
    assert "too much memory" in outcome.message
    with pytest.raises(OSError, match="No such file"):
        await JobProcesses().run(unpacking_at(str(tmp_path / "nowhere")))
    with pytest.raises(AssertionError):
        outcome_of(unpacking_at("/"), None)
    assert await JobProcesses().run(ListPackages(root="/nowhere")) == Packages([], True)


# Packages ----------------------------------------------------------------------------------------


def node_modules(root: Path, count: int, content: bytes) -> None:
    for n in range(count):
        place = root / "node_modules" / f"p{n}"
        place.mkdir(parents=True)
        (place / "package.json").write_bytes(content)


@pytest.mark.parametrize(
    "content",
    [b"{", b'{"name": "same", "version": "1"}', b'{"name": "\xff", "version": "1"}', b"[" * 9000],
)
def test_few_descriptions(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid entry, or one that exists already, must count like a new package, since it costs
    as much.
    """
    from quiltfn.images import contents  # noqa: PLC0415

    node_modules(tmp_path, 20, content)
    assert contents.packages_of(tmp_path)[1]
    reads = 0
    head = contents._head

    def counted(path: Path) -> bytes:
        nonlocal reads
        reads += 1
        return head(path)

    monkeypatch.setattr(contents, "_head", counted)
    monkeypatch.setattr(contents, "HEADS_MAX", 10)
    assert not contents.packages_of(tmp_path)[1]
    assert reads == 10


async def test_packages_are_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = ImageDirectory(tmp_path, ManualClock(100.0), PATIENT)
    images.start()
    members = [file("node_modules/a/package.json", b'{"name": "a", "version": "1.0"}')]
    digest = (await images.take(Archive.TAR, in_pieces(packed(members)))).digest
    expected = [Package(kind=PackageKind.NODE, name="a", version="1.0")], True
    both = await asyncio.gather(images.packages(digest, "t"), images.packages(digest, "t"))
    assert list(both) == [expected, expected]

    async def run(*_: object) -> None:
        raise AssertionError("it was listed again")

    monkeypatch.setattr(JobProcesses, "run", run)
    assert await images.packages(digest, "u") == expected


async def test_a_list_that_nobody_waits_for_is_ended(tmp_path: Path) -> None:
    root = tmp_path / ("0" * 64)
    (root / "node_modules" / "a").mkdir(parents=True)
    os.mkfifo(root / "node_modules" / "a" / "package.json")
    images = ImageDirectory(tmp_path, ManualClock(100.0), PATIENT)
    images.start()
    listing = asyncio.ensure_future(images.packages(root.name, "t"))
    async with asyncio.timeout(scaled(20)):
        while not workers():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.01)
    listing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await listing
    assert workers() == []


def test_so_many_lists_are_kept() -> None:
    cache = PackageCache()
    some = Packages([Package(kind=PackageKind.NODE, name="a", version="1")] * 4999, True)
    for digest in "abcdd":  # the second "d": two tenants list an image at once
        cache.put(digest, some)
    assert cache.get("a") is some
    cache.put("e", some)
    assert cache.get("b") is None
    assert all(cache.get(one) for one in "acde")
    assert cache._count == KEPT_MAX
