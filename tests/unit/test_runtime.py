"""Runtime: the rules for each field, and what a function is given of a name."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from quiltfn.model.errors import Conflict, NotFound, Unprocessable
from quiltfn.model.image import Archive, Image
from quiltfn.model.runtime import (
    COMMAND_MAX_BYTES,
    FIXED_TREES,
    RESERVED_NAMES,
    Kind,
    Network,
    Runtime,
    built_in,
)
from quiltfn.model.version import Content
from quiltfn.runtimes import HostImage, Runtimes

DIGEST = "ab" * 32


def a_runtime(**changes: Any) -> Runtime:
    return replace(Runtime(id="", name="etl", kind=Kind.PYTHON), **changes)


def refused(**changes: Any) -> str:
    with pytest.raises(Unprocessable) as error:
        a_runtime(**changes).validate()
    assert str(error.value).startswith(next(iter(changes))), error.value
    return str(error.value)


# The rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "7", "a.b_c-d", "python3.13", "x" * 64])
def test_a_name_that_is_taken(name: str) -> None:
    a_runtime(name=name).validate()


@pytest.mark.parametrize(
    "name",
    ["", "A", "-a", "a-", ".a", "a.", "a b", "a/b", "ä", "a\n", "x" * 65, *sorted(RESERVED_NAMES)],
)
def test_a_name_that_is_refused(name: str) -> None:
    refused(name=name)


@pytest.mark.parametrize(
    "image", ["", DIGEST[1:], DIGEST.upper(), "../" + DIGEST[3:], DIGEST + "0"]
)
def test_an_image_that_is_refused(image: str) -> None:
    refused(image=image)


def test_only_a_custom_runtime_has_a_command() -> None:
    for kind in (Kind.SHELL, Kind.PYTHON, Kind.NODE):
        refused(command=("/app/run",), kind=kind)
    a_runtime(kind=Kind.CUSTOM, command=("/app/run", "-x", "ä")).validate()


@pytest.mark.parametrize(
    "command",
    [(), ("run",), ("",), ("/app/run", "a\0b"), ("/app/" + "x" * COMMAND_MAX_BYTES,)],
)
def test_a_command_that_is_refused(command: tuple[str, ...]) -> None:
    refused(command=command, kind=Kind.CUSTOM)


def test_writable_places_that_are_taken() -> None:
    a_runtime(writable_paths=()).validate()
    a_runtime(writable_paths=tuple(f"/data{n}" for n in range(8))).validate()
    a_runtime(writable_paths=("/var/cache/app", "/var/cache/other", "/srv/me")).validate()


@pytest.mark.parametrize(
    "paths",
    [
        *[(tree,) for tree in FIXED_TREES],
        *[(f"{tree}/x",) for tree in FIXED_TREES],
        ("data",),
        ("/",),
        ("/data/",),
        ("/data/../etc",),
        ("//data",),
        ("/data ",),
        ("/a/b/c/d/e",),
        ("/data", "/data"),
        ("/data", "/data/below"),
        tuple(f"/data{n}" for n in range(9)),
    ],
)
def test_writable_places_that_are_refused(paths: tuple[str, ...]) -> None:
    refused(writable_paths=paths)


@pytest.mark.parametrize(
    ("kind", "handler"),
    [
        (Kind.SHELL, "anything; at all | here"),
        (Kind.CUSTOM, "what the program makes of it"),
        (Kind.PYTHON, "app:main"),
        (Kind.PYTHON, "app.main"),
        (Kind.PYTHON, "a.b.c:Klass.method"),
        (Kind.NODE, "index:handler"),
        (Kind.NODE, "dist/index.js:handler"),
        (Kind.NODE, "index.handler"),
    ],
)
def test_a_handler_that_its_kind_can_mean(kind: Kind, handler: str) -> None:
    a_runtime(kind=kind).check_handler(handler)


@pytest.mark.parametrize(
    ("kind", "handler"),
    [
        (Kind.PYTHON, "app"),
        (Kind.PYTHON, "app:"),
        (Kind.PYTHON, "app:main()"),
        (Kind.PYTHON, "../app:main"),
        (Kind.PYTHON, "1app:main"),
        (Kind.NODE, "index"),
        (Kind.NODE, "index:1"),
        (Kind.NODE, "index:a b"),
    ],
)
def test_a_handler_that_its_kind_cannot_mean(kind: Kind, handler: str) -> None:
    with pytest.raises(Unprocessable, match=r"^handler must be a module and a function"):
        a_runtime(kind=kind).check_handler(handler)


def test_the_files_are_told_by_the_image_or_by_the_hosts_packages() -> None:
    assert a_runtime(image=DIGEST, host="p").image_digest == f"sha256:{DIGEST}"
    assert a_runtime(host="p").image_digest == "host:p"


# What a name stands for ----------------------------------------------------------------------


class MemoryRuntimes:
    """`ports.RuntimeStore` in memory."""

    def __init__(self) -> None:
        self.rows: dict[str, Runtime] = {}

    async def load(self) -> Sequence[Runtime]:
        return list(self.rows.values())

    async def save(self, runtime: Runtime) -> None:
        self.rows[runtime.name] = runtime

    async def remove(self, name: str) -> None:
        self.rows.pop(name, None)

    async def images_in_use(self) -> frozenset[str]:
        return frozenset(one.image for one in self.rows.values() if one.image)


class SomeImages:
    """`ports.Images` that has what it is told to have."""

    def __init__(self, *digests: str) -> None:
        self.digests = digests
        self.held: list[str] = []

    async def take(self, archive: Archive, chunks: AsyncIterator[bytes]) -> Image:
        raise NotImplementedError

    def hold(self, digest: str) -> bool:
        self.held.append(digest)
        return digest in self.digests

    async def collect(self, in_use: frozenset[str], grace_s: float) -> int:
        raise NotImplementedError


class Clock:
    def now(self) -> float:
        return 0.0

    def unix(self) -> float:
        return 1_760_000_000.5


OWN = HostImage(built_in=built_in({"python": "/usr/bin/python3.13"}, "p1"), packages="p1")


@pytest.fixture
def store() -> MemoryRuntimes:
    return MemoryRuntimes()


@pytest.fixture
def images() -> SomeImages:
    return SomeImages(DIGEST)


@pytest.fixture
def runtimes(store: MemoryRuntimes, images: SomeImages) -> Runtimes:
    return Runtimes(OWN, store, images, Clock())


def test_an_unknown_runtime_is_refused_and_the_known_ones_are_named(runtimes: Runtimes) -> None:
    with pytest.raises(Unprocessable, match=r"^runtime must be one of: python, shell$"):
        runtimes.pin(Content(handler="x", runtime="cobol"))


async def test_a_version_has_what_the_name_stood_for_then(
    runtimes: Runtimes, images: SomeImages
) -> None:
    first, _ = await runtimes.add(a_runtime(image=DIGEST))
    pinned = runtimes.pin(Content(handler="app:main", runtime="etl"))
    second, is_new = await runtimes.add(a_runtime(network=Network.EGRESS))
    assert pinned.pinned == first
    assert (is_new, first.id == second.id, first.created_at) == (True, False, 1_760_000_000)
    assert runtimes.pin(Content(handler="app:main", runtime="etl")).pinned == second
    assert first.host == "p1"
    assert images.held.count(DIGEST) == 2  # it is not collected before the version is stored


async def test_the_same_runtime_again_is_the_revision_that_is_there(runtimes: Runtimes) -> None:
    first, is_new = await runtimes.add(a_runtime())
    again, is_newer = await runtimes.add(a_runtime())
    assert (first, is_new, is_newer) == (again, True, False)


async def test_a_removed_name_is_refused_and_may_be_given_again(
    runtimes: Runtimes, store: MemoryRuntimes
) -> None:
    await runtimes.add(a_runtime())
    await runtimes.remove("etl")
    assert store.rows == {}
    with pytest.raises(Unprocessable):
        runtimes.pin(Content(handler="app:main", runtime="etl"))
    with pytest.raises(NotFound):
        await runtimes.remove("etl")
    with pytest.raises(NotFound):
        runtimes.get("etl")
    assert (await runtimes.add(a_runtime()))[1]


@pytest.mark.parametrize("name", ["shell", "python", "node"])
async def test_the_servers_own_can_neither_be_replaced_nor_removed(
    runtimes: Runtimes, name: str
) -> None:
    with pytest.raises(Conflict, match="replaced"):
        await runtimes.add(a_runtime(name=name))
    with pytest.raises(Conflict, match="removed"):
        await runtimes.remove(name)


async def test_what_cannot_work_is_refused_when_it_is_added(
    runtimes: Runtimes, store: MemoryRuntimes
) -> None:
    for change in (
        {"image": "cd" * 32},
        {"kind": Kind.NODE},  # this host has no node
        {"environment": {"QUILT_X": "1"}},
        {"name": "images"},
    ):
        with pytest.raises(Unprocessable, match=f"^{next(iter(change))}"):
            await runtimes.add(a_runtime(**change))
    assert store.rows == {}


async def test_names_come_back_after_a_restart(store: MemoryRuntimes, images: SomeImages) -> None:
    before = Runtimes(OWN, store, images, Clock())
    added, _ = await before.add(a_runtime())
    after = Runtimes(OWN, store, images, Clock())
    await after.restore()
    assert after.get("etl") == added
    assert [one.name for one in after.all()] == ["python", "shell", "etl"]
