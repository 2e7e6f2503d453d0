"""Runtime: the rules for each field, and which runtime a function gets by a name."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from manual_clock import ManualClock
from promises import promise
from quiltfn import __version__
from quiltfn.fleet.join import has_older_nodes
from quiltfn.functions.runtimes import HostImage, Runtimes, TenantRules
from quiltfn.functions.tenant_images import MIB, TenantImages
from quiltfn.images.image_store import ImageDirectory
from quiltfn.model.errors import (
    CapacityFull,
    Conflict,
    Forbidden,
    NotFound,
    RateLimited,
    StoreUnavailable,
    Unprocessable,
)
from quiltfn.model.image import (
    NOT_MEASURED,
    Archive,
    Contents,
    Image,
    ImageFile,
    Package,
    TenantImage,
)
from quiltfn.model.member import Presence
from quiltfn.model.runtime import (
    COMMAND_MAX_BYTES,
    DEFAULT_ROOM,
    FIXED_TREES,
    LEAST_ROOM,
    RESERVED_NAMES,
    SHARED,
    Isolation,
    Kind,
    Network,
    Room,
    Runtime,
    built_in,
)
from quiltfn.model.server import ServerSettings
from quiltfn.model.version import VersionSpec
from quiltfn.server.bounds import sandbox_room
from quiltfn.settings import CHOICES, SETTINGS, Settings, from_everywhere
from quiltfn.store.functions.runtimes import SqlRuntimes, SqlTenantImages
from quiltfn.wire.constraints import Documented
from quiltfn.wire.runtimes import FileLimitMb, OpenFilesLimit, ProcessLimit, TmpLimitMb

DIGEST, BASE = "ab" * 32, "cd" * 32
BEFORE = "bb7e2bc2f3d8a0701675e0058db8bf44"  # a version's digest in releases that had no packages
T, U = "acme", "umbrella"


def a_runtime(**changes: Any) -> Runtime:
    return replace(Runtime(id="", name="etl", kind=Kind.PYTHON), **changes)


# The rules -----------------------------------------------------------------------------------

TAKEN: list[dict[str, Any]] = [
    *({"name": name} for name in ("a", "7", "a.b_c-d", "python3.13", "x" * 64)),
    {"kind": Kind.CUSTOM, "command": ("/app/run", "-x", "ä")},
    {"writable_paths": ()},
    {"writable_paths": tuple(f"/data{n}" for n in range(8))},
    {"writable_paths": ("/var/cache/app", "/var/cache/other", "/srv/me")},
]
RESERVED = sorted(RESERVED_NAMES)
NO_NAMES = ["", "A", "-a", "a-", ".a", "a.", "a b", "a/b", "ä", "a\n", "x" * 65, *RESERVED]
NO_IMAGES = ["", DIGEST[1:], DIGEST.upper(), "../" + DIGEST[3:], DIGEST + "0"]
NO_COMMANDS = [(), ("run",), ("",), ("/app/run", "a\0b"), ("/app/" + "x" * COMMAND_MAX_BYTES,)]
NO_PATHS = ["data", "/", "/data/", "/data/../etc", "//data", "/data ", "/a/b/c/d/e"]
# The error for each of these begins with the first field.
REFUSED: list[dict[str, Any]] = [
    *({"name": name} for name in NO_NAMES),
    *({"image": image} for image in NO_IMAGES),
    {"packages": "xyz"},
    *({"packages": DIGEST, "packages_key": key} for key in ("", "a b", "x" * 129)),
    {"packages_key": "of-nothing"},
    *({"command": ("/app/run",), "kind": kind} for kind in Kind if kind is not Kind.CUSTOM),
    *({"command": command, "kind": Kind.CUSTOM} for command in NO_COMMANDS),
    *({"writable_paths": (path,)} for path in (*NO_PATHS, *FIXED_TREES)),
    *({"writable_paths": (f"{tree}/x",)} for tree in FIXED_TREES),
    {"writable_paths": ("/data", "/data")},
    {"writable_paths": ("/data", "/data/below")},
    {"writable_paths": tuple(f"/data{n}" for n in range(9))},
    {"isolation": Isolation.GVISOR, "kind": Kind.SERVER},
]


@pytest.mark.parametrize("fields", TAKEN)
def test_fields_that_are_taken(fields: dict[str, Any]) -> None:
    a_runtime(**fields).validate()


@pytest.mark.parametrize("fields", REFUSED)
def test_fields_that_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Unprocessable, match=f"^{next(iter(fields))}"):
        a_runtime(**fields).validate()


def test_the_files_are_named_by_both_images_or_by_the_hosts_packages() -> None:
    assert a_runtime(host="p").image_digest == "host:p"
    assert a_runtime(image=DIGEST, host="p").image_digest == f"sha256:{DIGEST}"
    assert a_runtime(packages=BASE).image_digest == f"sha256:{BASE}"
    both = a_runtime(image=DIGEST, packages=BASE, packages_key="python:1")
    both.validate()
    assert both.image_digest == f"sha256:{DIGEST}+{BASE}"
    assert both.images == both.app_images == (DIGEST, BASE)
    over_base = replace(both, base_image="ef" * 32)
    assert over_base.images == (DIGEST, BASE, "ef" * 32)
    assert over_base.app_images == (DIGEST, BASE)
    assert over_base.image_digest == f"{both.image_digest}+base:{'ef' * 32}"


def test_a_version_without_packages_has_the_digest_that_it_had_before_there_were_any() -> None:
    # This digest is from the previous release: versions are stored with their digests.
    runtime = Runtime(id="r", name="etl", kind=Kind.PYTHON, image=DIGEST, host="h", created_at=5)
    spec = VersionSpec(handler="app:main", runtime="etl", runtime_snapshot=runtime)
    assert spec.digest() == BEFORE
    packages = replace(runtime, packages=BASE)
    assert replace(spec, runtime_snapshot=packages).digest() != BEFORE


def test_what_a_runtime_does_not_say_is_the_servers_own() -> None:
    assert a_runtime().room() == DEFAULT_ROOM
    given = {"process_limit": 99, "tmp_limit_mb": 64, "file_limit_mb": 9, "open_files_limit": 99}
    assert a_runtime(**given).room() == Room(**given)
    assert a_runtime(tmp_limit_mb=2048).room().file_limit_mb == 2048, "as large as /tmp"


@pytest.mark.parametrize("name", Room.__struct_fields__)
def test_a_limit_is_within_what_the_operator_allows(name: str) -> None:
    most = Room(process_limit=99, tmp_limit_mb=99, file_limit_mb=99, open_files_limit=99)
    low = getattr(LEAST_ROOM, name)
    for fine in (None, low, 99):
        a_runtime(**{name: fine}).check_room(most)
    for wrong in (low - 1, 100):
        with pytest.raises(Unprocessable, match=f"^{name} must be {low} to 99"):
            a_runtime(**{name: wrong}).check_room(most)


@pytest.mark.parametrize(
    ("name", "of_api", "setting"),
    [
        ("process_limit", ProcessLimit, "sandbox_processes_max"),
        ("tmp_limit_mb", TmpLimitMb, "sandbox_tmp_max_mib"),
        ("file_limit_mb", FileLimitMb, "sandbox_file_max_mib"),
        ("open_files_limit", OpenFilesLimit, "sandbox_open_files_max"),
    ],
)
def test_settings_and_api_have_the_model_s_bounds(name: str, of_api: Any, setting: str) -> None:
    """These packages must not import the model, but tell users its limits."""
    default, least = (getattr(one, name) for one in (DEFAULT_ROOM, LEAST_ROOM))
    (of_setting,) = (one for one in SETTINGS if one.name == setting)
    assert getattr(sandbox_room(Settings()), name) == of_setting.default > default
    assert of_setting.low == least
    documented = of_api.__metadata__[0]
    assert documented.extra["constraints"] == (Documented({"minimum": least}),)
    said = "as much as /tmp" if name == "file_limit_mb" else str(default)
    assert f"{least} to {setting}" in documented.description.replace("MiB, ", "")
    assert documented.extra["null"] == said
    assert of_setting.about.endswith(said)


NO_VARIABLES = {
    "PORT": ["80", "65536", "\uff18\uff10\uff18\uff10", ""],
    "AWS_LWA_PORT": ["1e4"],
    "AWS_LAMBDA_MAX_CONCURRENCY": ["0", "1001", "many"],
    "AWS_LWA_READINESS_CHECK_PATH": ["healthz"],
    "AWS_LWA_PASS_THROUGH_PATH": ["/a b", "/a\r\nx: y"],
    "AWS_LAMBDA_HTTP_ENDPOINT": ["0.0.0.0:8080"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in NO_VARIABLES for value in NO_VARIABLES[name]]
)
def test_variables_that_say_nothing_of_where_a_server_is(name: str, value: str) -> None:
    with pytest.raises(Unprocessable, match=rf"^environment\.{name} must be"):
        a_runtime(kind=Kind.SERVER, environment={name: value}).validate()
    a_runtime(environment={name: value}).validate()  # other kinds treat them as ordinary variables


def test_where_a_server_is() -> None:
    assert ServerSettings.of({}) == ServerSettings(8080, None, "/events")
    said = {"PORT": "3000", "AWS_LWA_PORT": "4000", "AWS_LWA_READINESS_CHECK_PATH": "/ready?x"}
    said |= {"AWS_LAMBDA_MAX_CONCURRENCY": "32"}
    settings = ServerSettings.of(said | {"AWS_LWA_PASS_THROUGH_PATH": "/"})
    assert settings == ServerSettings(4000, "/ready?x", "/", 32)
    assert settings.variables == {"PORT": "4000", "AWS_LAMBDA_HTTP_ENDPOINT": "0.0.0.0:4000"}


HANDLERS = {
    Kind.SHELL: ["anything; at all | here"],
    Kind.SERVER: ["exec anything --port $PORT"],
    Kind.CUSTOM: ["what the program makes of it"],
    Kind.PYTHON: [
        *["app:main", "app.main", "a.b.c:Klass.method", "src/app.handler", "01-first.handler"],
        *["src/my-app.lambda_handler", "src/shop.orders:handle"],
    ],
    Kind.NODE: ["index:handler", "dist/index.js:handler", "index.handler"],
}
NO_HANDLERS = {
    Kind.PYTHON: [
        *["app", "app:", "app:main()", "../app:main", "/app:main", "src//app.main"],
        *["src/app:my-main", "app:1main"],
        *["app:" + "a." * 100_000, "a." * 100_000 + "1"],  # refused at once, however long
    ],
    Kind.NODE: ["index", "index:1", "index:a b"],
}


@pytest.mark.parametrize("kind", HANDLERS)
def test_handlers_that_their_kind_can_mean(kind: Kind) -> None:
    for handler in HANDLERS[kind]:
        a_runtime(kind=kind).check_handler(handler)
    for handler in NO_HANDLERS.get(kind, []):
        with pytest.raises(Unprocessable, match=r"^handler must be a module and a function"):
            a_runtime(kind=kind).check_handler(handler)


# Names ---------------------------------------------------------------------------------------


class MemoryRuntimes(SqlRuntimes):
    """`SqlRuntimes` in memory. `has_images`: tenants have the images that they name."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Runtime] = {}
        self.has_images = True

    async def load(self, tenants: Collection[str] | None = None) -> Sequence[tuple[str, Runtime]]:
        whose = ((tenant_id, one) for (tenant_id, _), one in self.rows.items())
        return [one for one in whose if tenants is None or one[0] in tenants]

    async def save(self, tenant_id: str, runtime: Runtime) -> bool:
        if runtime.image is not None and not self.has_images:
            return False
        self.rows[tenant_id, runtime.name] = runtime
        return True

    async def remove(self, tenant_id: str, name: str) -> None:
        self.rows.pop((tenant_id, name), None)

    async def images_in_use(self) -> frozenset[tuple[str, str]]:
        found = ((tenant_id, one.image) for (tenant_id, _), one in self.rows.items())
        return frozenset((tenant_id, image) for tenant_id, image in found if image)


class MemoryTenantImages(SqlTenantImages):
    """`SqlTenantImages` in memory. `broken`: it accepts no writes; `named`: the images that
    runtimes or versions name now.
    """

    def __init__(self, *rows: TenantImage) -> None:
        self.rows = {(one.tenant_id, one.digest): one for one in rows}
        self.broken = False
        self.named: set[tuple[str, str]] = set()

    async def load(self, digests: Collection[str] | None = None) -> Sequence[TenantImage]:
        return [one for one in self.rows.values() if digests is None or one.digest in digests]

    async def add(self, image: TenantImage, quota_bytes: int | None = None) -> bool:
        if self.broken:
            raise StoreUnavailable("no room")
        used = sum(
            row.counted_bytes
            for row in self.rows.values()
            if row.tenant_id == image.tenant_id and row.digest != image.digest
        )
        if quota_bytes is not None and used + image.counted_bytes > quota_bytes:
            return False
        self.rows[image.tenant_id, image.digest] = image
        return True

    async def remove(self, tenant_id: str, digest: str) -> bool:
        await asyncio.sleep(0)
        if self.broken:
            raise StoreUnavailable("no room")
        if (tenant_id, digest) in self.named:
            return False
        self.rows.pop((tenant_id, digest), None)
        return True


class SomeImages(ImageDirectory):
    """An `ImageDirectory` that has the images with these digests."""

    def __init__(self, *digests: str) -> None:
        self.digests = set(digests)
        self.held: list[str] = []
        # The paths of the interpreters. Python is not in the usual place.
        self.programs = {"sh": "/bin", "python3": "/opt/bin"}

    async def take(
        self,
        archive: Archive,
        chunks: AsyncIterator[bytes],
        admit: Callable[[Image], None] = lambda _: None,
        contents: Contents = Contents.FILES,
        tenant_id: str = "",
    ) -> Image:
        """Upload an image. The uploaded data is the digest itself; every image has one file of one
        MiB.
        """
        del tenant_id
        assert (archive, contents) == (Archive.TAR, Contents.FILES)
        digest = b"".join([chunk async for chunk in chunks]).decode()
        is_new = digest not in self.digests
        image = Image(digest=digest, files=1, entries=1, size_bytes=MIB, is_new=is_new)
        admit(image)
        self.digests.add(digest)
        return image

    async def program(self, digest: str, names: Sequence[str], path: str) -> str | None:
        assert digest in self.digests
        has, places = self.programs, path.split(":")
        return next((f"{has[one]}/{one}" for one in names if has.get(one) in places), None)

    async def measure(self, digest: str) -> int | None:
        return 7 * MIB if digest in self.digests else None

    async def missing(self, digests: Collection[str]) -> Sequence[str]:
        return [one for one in digests if one not in self.digests]

    async def files(
        self, digest: str, after: str, count: int, _tenant_id: str = ""
    ) -> list[ImageFile]:
        assert digest in self.digests
        return [one for one in [ImageFile(path="a", size_bytes=MIB)] if one.path > after][:count]

    async def read(self, digest: str, path: str, most: int, _tenant_id: str = "") -> bytes | None:
        assert digest in self.digests
        return b"x" * min(MIB, most) if path == "a" else None

    async def packages(self, digest: str, _tenant_id: str = "") -> tuple[list[Package], bool]:
        assert digest in self.digests
        return [], True

    def all(self) -> Collection[str]:
        return self.digests

    async def archive(self, digest: str) -> AsyncGenerator[bytes, None]:
        yield digest.encode()

    def hold(self, digest: str) -> bool:
        self.held.append(digest)
        return digest in self.digests

    async def collect(self, in_use: frozenset[str], grace_s: float) -> int:
        assert grace_s == 600
        before = len(self.digests)
        self.digests &= in_use
        return before - len(self.digests)


COUNTED = MIB + 2 * 4096  # what one upload counts: its file, and its entries
SPEC = VersionSpec(handler="app:main", runtime="etl")
OWN = HostImage(built_in=built_in({"python": "/usr/bin/python3.13"}, "p1"), packages="p1")


async def tenant_images_of(
    images: SomeImages,
    *owned: tuple[str, str],
    clock: ManualClock | None = None,
    size_bytes: int = MIB,
) -> TenantImages:
    """`owned`: tenants, each with the digest of an image that it has. Each tenant may have three
    images.
    """
    store = MemoryTenantImages(*(TenantImage(*image, size_bytes) for image in owned))
    tenant_images = TenantImages(store, images, clock or ManualClock(), lambda _: 3 * COUNTED)
    await tenant_images.restore()
    return tenant_images


@pytest.fixture
def store() -> MemoryRuntimes:
    return MemoryRuntimes()


@pytest.fixture
def images() -> SomeImages:
    return SomeImages(DIGEST)


@pytest.fixture
async def tenant_images(images: SomeImages) -> TenantImages:
    """The tenant has one image, of one MiB, and may have three."""
    return await tenant_images_of(images, (T, DIGEST))


@pytest.fixture
def runtimes(store: MemoryRuntimes, tenant_images: TenantImages) -> Runtimes:
    return Runtimes(OWN, store, tenant_images, ManualClock())


async def test_a_removed_runtime_that_a_function_still_names_is_told(runtimes: Runtimes) -> None:
    await runtimes.add(T, a_runtime())
    served = runtimes.with_snapshot(T, SPEC)
    await runtimes.remove(T, "etl")
    with pytest.raises(Unprocessable) as refused:
        runtimes.with_snapshot(T, served)
    why = "runtime must be one of: python, shell; the function names etl, which was removed"
    assert str(refused.value) == why
    assert str(refused.value.hint).startswith("add etl again, or update the function to use")


async def test_a_version_has_what_its_name_was(runtimes: Runtimes, images: SomeImages) -> None:
    first, _ = await runtimes.add(T, a_runtime(image=DIGEST))
    version = runtimes.with_snapshot(T, SPEC)
    second, is_new = await runtimes.add(T, a_runtime(environment={"A": "1"}))
    assert version.runtime_snapshot == first.runtime
    older, newer = first.runtime, second.runtime
    assert (is_new, older.id == newer.id, older.created_at) == (True, False, 1_760_000_000)
    assert runtimes.with_snapshot(T, SPEC).runtime_snapshot == second.runtime
    assert older.host == "p1"
    assert images.held.count(DIGEST) == 2  # the image must be kept until the version is stored


async def test_the_same_runtime_again_is_the_revision_that_is_there(runtimes: Runtimes) -> None:
    first, is_new = await runtimes.add(T, a_runtime())
    again, is_newer = await runtimes.add(T, a_runtime())
    assert (first, is_new, is_newer) == (again, True, False)


async def test_a_version_is_outdated_by_what_its_handler_could_notice(runtimes: Runtimes) -> None:
    given = {"packages": DIGEST, "packages_key": "python:1"}
    await runtimes.add(T, a_runtime(**given))
    spec = runtimes.with_snapshot(T, SPEC)
    _, is_new = await runtimes.add(T, a_runtime(**given | {"packages_key": "python:2"}))
    assert (is_new, runtimes.is_outdated(T, spec)) == (True, False)
    await runtimes.add(T, a_runtime(**given, environment={"A": "1"}))
    assert runtimes.is_outdated(T, spec)


async def test_a_removed_name_may_come_again(runtimes: Runtimes, store: MemoryRuntimes) -> None:
    await runtimes.add(T, a_runtime())
    await runtimes.remove(T, "etl")
    assert store.rows == {}
    with pytest.raises(Unprocessable):
        runtimes.with_snapshot(T, SPEC)
    with pytest.raises(NotFound):
        await runtimes.remove(T, "etl")
    with pytest.raises(NotFound):
        runtimes.get(T, "etl")
    assert (await runtimes.add(T, a_runtime()))[1]


@pytest.mark.parametrize("name", ["shell", "python", "node"])
async def test_own_ones_can_neither_be_replaced_nor_removed(runtimes: Runtimes, name: str) -> None:
    with pytest.raises(Conflict, match="replaced"):
        await runtimes.add(T, a_runtime(name=name))
    with pytest.raises(Conflict, match="removed"):
        await runtimes.remove(T, name)


async def test_the_impossible_is_refused_at_once(runtimes: Runtimes, store: MemoryRuntimes) -> None:
    for change in (
        {"image": BASE},
        {"packages": BASE},
        {"kind": Kind.NODE},  # this host has no node
        {"environment": {"QUILT_X": "1"}},
        {"name": "images"},
    ):
        with pytest.raises(Unprocessable, match=f"^{next(iter(change))}"):
            await runtimes.add(T, a_runtime(**change))
    assert store.rows == {}


@promise("N97")
async def test_packages_need_newer_nodes(runtimes: Runtimes, store: MemoryRuntimes) -> None:
    runtimes.others.has_older_nodes = lambda: True
    with pytest.raises(Conflict, match="older version"):
        await runtimes.add(T, a_runtime(packages=DIGEST))
    assert store.rows == {}
    assert (await runtimes.add(T, a_runtime(image=DIGEST)))[1]


@pytest.mark.parametrize(
    ("version", "presence", "is_older"),
    [
        ("0.0.9", Presence.PRESENT, True),
        ("0.0.9", Presence.GONE, False),
        (__version__, Presence.PRESENT, False),
        ("99.0", Presence.PRESENT, False),
        ("", Presence.PRESENT, False),
    ],
)
def test_older_nodes_are_those_present(version: str, presence: Presence, is_older: bool) -> None:
    seen = [SimpleNamespace(version=version, presence=presence)]
    membership: Any = SimpleNamespace(seen=lambda: seen)
    assert has_older_nodes(membership) is is_older


async def test_names_survive_a_restart(store: MemoryRuntimes, tenant_images: TenantImages) -> None:
    before = Runtimes(OWN, store, tenant_images, ManualClock())
    added, _ = await before.add(T, a_runtime())
    after = Runtimes(OWN, store, tenant_images, ManualClock())
    await after.restore()
    assert after.get(T, "etl") == added
    assert [one.runtime.name for one in after.all(T)] == ["python", "shell", "etl"]


# Ownership of runtimes -----------------------------------------------------------------------


async def test_a_tenants_runtime_exists_for_that_tenant_alone(runtimes: Runtimes) -> None:
    mine, _ = await runtimes.add(T, a_runtime(image=DIGEST))
    with pytest.raises(NotFound):
        runtimes.get(U, "etl")
    with pytest.raises(NotFound):
        await runtimes.remove(U, "etl")
    with pytest.raises(Unprocessable, match=r"^runtime must be one of: python, shell$"):
        runtimes.with_snapshot(U, SPEC)
    theirs, is_new = await runtimes.add(U, a_runtime())
    assert is_new
    assert not theirs.runtime.same_as(mine.runtime)
    assert runtimes.get(T, "etl") == mine
    await runtimes.remove(U, "etl")
    assert runtimes.get(T, "etl") == mine


async def test_a_shared_runtime_is_for_all_until_a_tenant_has_its_own(runtimes: Runtimes) -> None:
    shared, _ = await runtimes.add(T, a_runtime(image=DIGEST), shared=True, is_operator=True)
    assert runtimes.get(U, "etl") == runtimes.get(T, "etl") == shared
    own, _ = await runtimes.add(U, a_runtime())
    assert runtimes.get(U, "etl") == own
    assert [one for one in runtimes.all(U) if one.runtime.name == "etl"] == [own]
    with pytest.raises(Conflict, match="shared by all tenants"):
        await runtimes.remove(T, "etl")
    await runtimes.remove(T, "etl", shared=True)
    with pytest.raises(NotFound):
        runtimes.get(T, "etl")
    assert runtimes.get(U, "etl") == own
    with pytest.raises(NotFound):
        await runtimes.remove(U, "etl", shared=True)


async def test_what_another_took_back_is_unknown(runtimes: Runtimes, store: MemoryRuntimes) -> None:
    store.has_images = False
    with pytest.raises(Unprocessable, match=r"^image must be the digest"):
        await runtimes.add(T, a_runtime(image=DIGEST))
    assert [one.runtime.name for one in runtimes.all(T) if not one.is_shared] == []
    store.has_images = True
    await runtimes.add(T, a_runtime(image=DIGEST))


@promise("A25")
async def test_anothers_image_is_as_unknown_as_one_that_is_nowhere(runtimes: Runtimes) -> None:
    messages = set()
    for digest in (DIGEST, BASE):
        for shared in (False, True):
            with pytest.raises(Unprocessable, match=r"^image must be the digest") as error:
                await runtimes.add(U, a_runtime(image=digest), shared=shared, is_operator=True)
            messages.add(str(error.value))
    assert len(messages) == 1


@promise("A26")
@pytest.mark.parametrize(
    ("field", "value"),
    [("kind", Kind.SHELL), ("isolation", Isolation.GVISOR), ("network", Network.EGRESS)],
)
async def test_tenants_have_what_the_operator_allows_them(
    store: MemoryRuntimes, tenant_images: TenantImages, field: str, value: Any
) -> None:
    """Here the operator allows by settings: everything, and everything except the value."""

    def allowed(*without: str) -> TenantRules:
        words = {
            name: ",".join(set(words) - {*without})
            for name, words in CHOICES.items()
            if name.startswith("tenant_runtime_")
        }
        chosen = from_everywhere(words | {"tenant_runtimes": "2"}, {})
        return TenantRules.of(chosen.words, chosen.tenant_runtimes)

    host = replace(OWN, no_gvisor="")
    strict = Runtimes(host, store, tenant_images, ManualClock(), allowed(value))
    with pytest.raises(Forbidden, match=f"^{field} {value} is not allowed to tenants"):
        await strict.add(T, a_runtime(**{field: value}))
    assert store.rows == {}
    await strict.add(T, a_runtime(**{field: value}), is_operator=True)
    lenient = Runtimes(host, store, tenant_images, ManualClock(), allowed())
    await lenient.add(U, a_runtime(**{field: value}))
    await lenient.add(U, a_runtime(name="b"))
    with pytest.raises(RateLimited):
        await lenient.add(U, a_runtime(name="c"))


async def test_runtimes_are_bounded(store: MemoryRuntimes, tenant_images: TenantImages) -> None:
    runtimes = Runtimes(OWN, store, tenant_images, ManualClock(), TenantRules(runtimes=1))
    await runtimes.add(T, a_runtime())
    with pytest.raises(RateLimited, match="has 1 runtimes, its limit"):
        await runtimes.add(T, a_runtime(name="b"))
    # The runtime's name was counted already.
    await runtimes.add(T, a_runtime(environment={"A": "1"}))
    await runtimes.add(U, a_runtime(name="b"))


# Ownership of images -------------------------------------------------------------------------


async def uploaded(digest: str) -> AsyncIterator[bytes]:
    yield digest.encode()


async def take(tenant_images: TenantImages, tenant_id: str, digest: str) -> Image:
    return await tenant_images.take(tenant_id, Archive.TAR, uploaded(digest))


@promise("A25")
async def test_uploads_tell_of_nobody_else(tenant_images: TenantImages, images: SomeImages) -> None:
    assert not tenant_images.hold(U, DIGEST)
    assert (await take(tenant_images, U, DIGEST)).is_new
    assert not (await take(tenant_images, U, DIGEST)).is_new
    assert tenant_images.hold(U, DIGEST)
    assert tenant_images.bytes_of(U) == COUNTED, "it counts for each who has it"
    assert images.digests == {DIGEST}


@promise("D16")
async def test_all_images_together_are_bounded_for_everybody(images: SomeImages) -> None:
    held = MemoryTenantImages(TenantImage(T, DIGEST, COUNTED))
    tenant_images = TenantImages(held, images, ManualClock(), lambda _: 10 * MIB, 2 * COUNTED)
    await tenant_images.restore()
    await take(tenant_images, U, "1")
    for tenant_id in (T, U, SHARED):
        with pytest.raises(CapacityFull, match="no room for another image"):
            await take(tenant_images, tenant_id, "2")
    with pytest.raises(CapacityFull):
        # Otherwise, U would learn that another tenant has this image.
        await take(tenant_images, U, DIGEST)
    assert tenant_images.bytes_in_all() == 2 * COUNTED
    assert not (await take(tenant_images, U, "1")).is_new


@promise("A26")
async def test_quotas_bound_images(tenant_images: TenantImages, images: SomeImages) -> None:
    for digest in ("1", "2"):
        await take(tenant_images, T, digest)
    used = tenant_images.bytes_of(T)
    with pytest.raises(RateLimited, match=r"count 3\.0 MiB and this one 1\.0 MiB, more than"):
        await take(tenant_images, T, "3")
    assert tenant_images.bytes_of(T) == used
    assert "3" not in images.digests, "nothing is left of it"
    assert not (await take(tenant_images, T, "1")).is_new, "what it has costs nothing more"
    await take(tenant_images, U, "3")


@promise("A26")
async def test_a_tenant_uploads_two_images_at_a_time(tenant_images: TenantImages) -> None:
    may_end = asyncio.Event()

    async def slow(digest: str) -> AsyncIterator[bytes]:
        await may_end.wait()
        yield digest.encode()

    arriving = [
        asyncio.ensure_future(tenant_images.take(T, Archive.TAR, slow(digest))) for digest in "12"
    ]
    await asyncio.sleep(0)
    with pytest.raises(RateLimited, match="as many as it may at once"):
        await take(tenant_images, T, "1")
    await take(tenant_images, U, "1")
    may_end.set()
    await asyncio.gather(*arriving)
    assert not (await take(tenant_images, T, "1")).is_new


async def test_an_upload_may_be_cancelled_until_the_store_is_told(images: SomeImages) -> None:
    store, noted = MemoryTenantImages(), list[tuple[bool, int]]()
    tenant_images = TenantImages(store, images, ManualClock(), lambda _: 10 * MIB)

    def note() -> None:
        noted.append(("1" in images.digests, len(store.rows)))

    await tenant_images.take(T, Archive.TAR, uploaded("1"), on_kept=note)
    assert noted == [(True, 0)]
    assert len(store.rows) == 1
    used, store.broken = tenant_images.bytes_of(T), True
    with pytest.raises(StoreUnavailable):
        await take(tenant_images, T, "2")
    assert (tenant_images.bytes_of(T), tenant_images.hold(T, "2")) == (used, False)


async def test_an_image_elsewhere_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    images = SomeImages()
    tenant_images = await tenant_images_of(images, (T, DIGEST))
    runtimes = Runtimes(OWN, MemoryRuntimes(), tenant_images, ManualClock())
    # A server without a fleet has no node to fetch the image from.
    with pytest.raises(Unprocessable, match="a stored image"):
        await runtimes.add(T, a_runtime(image=DIGEST))
    assert (
        await tenant_images.files(T, [DIGEST], "", 9),
        await tenant_images.read(T, [DIGEST], "a", 9),
    ) == ([], None)
    fetched: list[str] = []

    async def fetch(digest: str) -> None:
        fetched.append(digest)
        if len(fetched) == 1:
            raise StoreUnavailable("no reachable node has it")
        images.digests.add(digest)

    monkeypatch.setattr(tenant_images, "fetch", fetch)
    with pytest.raises(StoreUnavailable, match="no reachable node"):
        await runtimes.add(T, a_runtime(image=DIGEST))
    await runtimes.add(T, a_runtime(image=DIGEST))
    assert len(await tenant_images.files(T, [DIGEST], "", 9)) == 1
    # Images that the tenant does not have are not fetched, so that nobody learns who has them.
    with pytest.raises(Unprocessable):
        await runtimes.add(T, a_runtime(image="ef" * 32))
    assert fetched == [DIGEST] * 2


async def test_a_base_image_brings_the_interpreter_of_its_kind() -> None:
    images = SomeImages(DIGEST, BASE)
    tenant_images = await tenant_images_of(images, (T, DIGEST), (T, BASE))
    runtimes = Runtimes(OWN, MemoryRuntimes(), tenant_images, ManualClock())

    async def added(**fields: Any) -> Runtime:
        return (await runtimes.add(T, a_runtime(base_image=BASE, **fields)))[0].runtime

    shell = await added(kind=Kind.SHELL)
    assert (shell.interpreter, shell.host, shell.images) == ("", "", (BASE,))
    assert shell.image_digest == f"base:{BASE}"
    path = {"PATH": "/usr/bin:/opt/bin"}
    web = await added(kind=Kind.SERVER, environment=path)
    assert (web.interpreter, web.images) == ("", (BASE,))
    python = await added(image=DIGEST, environment=path)
    assert (python.interpreter, python.images) == ("/opt/bin/python3", (DIGEST, BASE))
    assert python.image_digest == f"sha256:{DIGEST}+base:{BASE}"
    with pytest.raises(Unprocessable, match="base_image must be an image with a python3"):
        await added()
    with pytest.raises(Unprocessable, match="base_image must be an image with a node in one of"):
        await added(kind=Kind.NODE, environment=path)
    with pytest.raises(Unprocessable, match="base_image must be the digest of a stored image"):
        await runtimes.add(U, a_runtime(base_image=BASE))
    with pytest.raises(Unprocessable, match="base_image must be 64 hexadecimal digits"):
        await runtimes.add(T, a_runtime(base_image="sha256:x"))
    images.held.clear()
    runtimes.with_snapshot(T, SPEC)
    assert {*images.held} == {DIGEST, BASE}, "neither is removed before the version is stored"
    del images.programs["sh"]
    for kind in (Kind.SHELL, Kind.SERVER):
        with pytest.raises(Unprocessable, match="base_image must be an image with a sh in one of"):
            await added(kind=kind)


async def test_tenants_build_on_the_base_images_of_all() -> None:
    images = SomeImages(DIGEST, BASE)
    tenant_images = await tenant_images_of(images, (SHARED, BASE))
    runtimes = Runtimes(OWN, MemoryRuntimes(), tenant_images, ManualClock())
    await runtimes.add(T, a_runtime(kind=Kind.SHELL, base_image=BASE))
    assert tenant_images.bytes_of(T) == 0, "it counts for no tenant"
    images.held.clear()
    runtimes.with_snapshot(T, VersionSpec(handler="x", runtime="etl"))
    assert images.held == [BASE], "it is not removed before the version is stored"
    with pytest.raises(Unprocessable, match="image must be the digest of a stored image"):
        await runtimes.add(T, a_runtime(kind=Kind.SHELL, image=BASE))


@promise("N46")
async def test_what_a_tenant_uploads_to_another_node_meanwhile_counts(images: SomeImages) -> None:
    """This node does not know of the upload when it checks the quota, but the store does."""
    store = MemoryTenantImages()
    tenant_images = TenantImages(store, images, ManualClock(), lambda _: 2 * COUNTED)
    await store.add(TenantImage(T, "theirs", COUNTED))
    await take(tenant_images, T, "1")
    with pytest.raises(RateLimited, match="more than the quota"):
        await take(tenant_images, T, "2")
    assert not tenant_images.hold(T, "2")
    assert (await take(tenant_images, T, "1")).is_new is False
    await take(tenant_images, U, "2")  # another tenant has a quota of its own


async def test_images_are_given_back_by_each_and_removed_with_the_last(images: SomeImages) -> None:
    clock, mine, theirs = ManualClock(0.0), (T, DIGEST), (U, DIGEST)
    tenant_images = await tenant_images_of(images, mine, theirs, clock=clock)
    clock.time = 600.0
    await tenant_images.collect(frozenset({theirs}), frozenset(), 600)
    assert [tenant_images.hold(*one) for one in (mine, theirs)] == [False, True]
    assert (tenant_images.bytes_of(T), tenant_images.bytes_of(U)) == (0, MIB)
    clock.time = 1200.0
    await tenant_images.collect(frozenset(), frozenset({DIGEST}), 600)
    assert not tenant_images.hold(*theirs)
    assert images.digests == {DIGEST}, "a sandbox shows it"
    await tenant_images.collect(frozenset(), frozenset(), 600)
    assert images.digests == set()


@pytest.mark.parametrize("why", ["another node has named it", "the store is away"])
async def test_an_image_not_taken_back_is_the_tenants(images: SomeImages, why: str) -> None:
    clock, store = ManualClock(0.0), MemoryTenantImages(TenantImage(T, DIGEST, MIB))
    tenant_images = TenantImages(store, images, clock, lambda _: MIB)
    await tenant_images.restore()
    store.named, store.broken = {(T, DIGEST)}, why == "the store is away"
    clock.time = 600.0
    collected = asyncio.ensure_future(tenant_images.collect(frozenset(), frozenset(), 600))
    await asyncio.sleep(0)
    assert not tenant_images.hold(T, DIGEST), "nobody may name it while it goes"
    with pytest.raises(StoreUnavailable) if store.broken else contextlib.nullcontext():
        await collected
    assert tenant_images.hold(T, DIGEST)
    assert tenant_images.bytes_of(T) == MIB


async def test_an_image_that_is_named_while_another_is_taken_back_stays(images: SomeImages) -> None:
    clock = ManualClock(0.0)
    images.digests.add(BASE)
    tenant_images = await tenant_images_of(images, (T, DIGEST), (T, BASE), clock=clock)
    clock.time = 600.0
    collected = asyncio.ensure_future(tenant_images.collect(frozenset(), frozenset(), 600))
    await asyncio.sleep(0)
    assert [tenant_images.hold(T, digest) for digest in (DIGEST, BASE)] == [False, True]
    await collected
    assert tenant_images.hold(T, BASE)


async def test_a_shared_image_counts_for_nobody_while_a_version_has_it(images: SomeImages) -> None:
    clock = ManualClock()
    tenant_images = await tenant_images_of(images, (SHARED, DIGEST), clock=clock)
    for _ in range(3):
        clock.time += 600
        await tenant_images.collect(frozenset({(U, DIGEST)}), frozenset(), 600)
    assert tenant_images.hold(SHARED, DIGEST)
    assert (tenant_images.bytes_of(U), tenant_images.bytes_in_all()) == (0, MIB)


async def test_what_was_there_before_tenants_had_images_is_measured(images: SomeImages) -> None:
    here, gone = (SHARED, DIGEST), (SHARED, BASE)
    tenant_images = await tenant_images_of(images, here, gone, size_bytes=NOT_MEASURED)
    assert tenant_images.bytes_of(SHARED) == 7 * MIB
    assert not tenant_images.hold(*gone)
