"""Runtimes by name: add and remove them, and give new versions snapshots of their runtimes."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from quiltfn.base.ids import new_id
from quiltfn.base.mirror import Mirror
from quiltfn.base.others import Others
from quiltfn.functions.tenant_images import TenantImages
from quiltfn.model.environment import ALWAYS
from quiltfn.model.errors import (
    UPLOAD_IMAGE,
    Conflict,
    Forbidden,
    NotFound,
    RateLimited,
    Unprocessable,
    older_node,
    truncate,
)
from quiltfn.model.runtime import (
    DEFAULT_ROOM,
    EVERYWHERE,
    IMAGES,
    OWN_NAMES,
    PROGRAMS,
    SHARED,
    Isolation,
    Kind,
    Network,
    Room,
    Runtime,
)
from quiltfn.model.version import VersionSpec, check_environment
from quiltfn.ports import Change, Clock
from quiltfn.store.functions.runtimes import SqlRuntimes


class HostImage(msgspec.Struct, frozen=True, kw_only=True):
    """Properties of this machine. `built_in`: the runtimes that need no upload. `packages`: a hash
    of the installed packages.

    `no_gvisor`: why there are no gVisor sandboxes here; empty if there are. `most`: the maximum
    resources that the operator allows a sandbox.
    """

    built_in: Mapping[str, Runtime]
    packages: str = ""
    no_gvisor: str = "it has none"
    most: Room = DEFAULT_ROOM


class TenantRules(msgspec.Struct, frozen=True, kw_only=True):
    """Which runtimes tenants may add, and how many each may have. Operators have no such limits."""

    kinds: frozenset[Kind] = frozenset(Kind)
    isolations: frozenset[Isolation] = frozenset({Isolation.CRUN})
    networks: frozenset[Network] = frozenset({Network.NONE})
    runtimes: int = 100

    @classmethod
    def of(cls, words: Callable[[str], Sequence[str]], runtimes: int) -> "TenantRules":
        """The rules in the settings. `words`: returns the words of the setting with this name."""
        return cls(
            kinds=frozenset(map(Kind, words("tenant_runtime_kinds"))),
            isolations=frozenset(map(Isolation, words("tenant_runtime_isolations"))),
            networks=frozenset(map(Network, words("tenant_runtime_networks"))),
            runtimes=runtimes,
        )

    def check(self, wanted: Runtime) -> None:
        """Raises `Forbidden` for a runtime that tenants may not add."""
        for name, value, allowed in (
            ("kind", wanted.kind, self.kinds),
            ("isolation", wanted.isolation, self.isolations),
            ("network", wanted.network, self.networks),
        ):
            if value not in allowed:
                raise Forbidden(
                    f"{name} {value} is not allowed to tenants on this server; allowed: "
                    f"{', '.join(sorted(allowed)) or 'none'}",
                    hint="an operator can add the runtime, or allow it (settings tenant_runtime_…)",
                )


class OwnedRuntime(msgspec.Struct, kw_only=True):
    """A runtime and its owner. `tenant_id`: `SHARED` for built-in and shared runtimes."""

    tenant_id: str = SHARED
    runtime: Runtime = msgspec.field()

    @property
    def is_shared(self) -> bool:
        return self.tenant_id == SHARED


class Runtimes(Mirror[dict[str, Runtime]]):
    """Every runtime, in memory: built-in ones, those that operators have added for all tenants, and
    those of each tenant. A tenant's own runtime hides a shared one of the same name from that
    tenant, and other tenants cannot see it.
    """

    def __init__(
        self,
        host: HostImage,
        store: SqlRuntimes,
        tenant_images: TenantImages,
        clock: Clock,
        rules: TenantRules | None = None,
        others: Others | None = None,
    ) -> None:
        super().__init__()
        self._host, self._store, self._clock = host, store, clock
        self.images_in_use = store.images_in_use
        self.tenant_images = tenant_images
        self.rules = rules or TenantRules()
        self._rows[SHARED] = dict(host.built_in)
        self.others = others or Others()

    def _key_of(self, change: Change) -> str:
        return change.tenant_id

    async def _stored(self, only: Collection[str] | None) -> Mapping[str, dict[str, Runtime]]:
        """The stored runtimes by tenant; `SHARED` includes the built-in ones."""
        found: defaultdict[str, dict[str, Runtime]] = defaultdict(dict)
        for tenant_id, runtime in await self._store.load(only):
            found[tenant_id][runtime.name] = runtime
        if only is None or SHARED in only:
            found[SHARED] |= self._host.built_in
        return found

    def all(self, tenant_id: str) -> list[OwnedRuntime]:
        """The runtimes that the tenant's functions can use, by name, built-in ones first."""
        shared = {name: OwnedRuntime(runtime=one) for name, one in self._rows[SHARED].items()}
        own = {
            name: OwnedRuntime(tenant_id=tenant_id, runtime=one)
            for name, one in self._rows.get(tenant_id, {}).items()
        }
        return sorted(
            (shared | own).values(),
            key=lambda owned: (not is_own(owned.runtime), owned.runtime.name),
        )

    def get(self, tenant_id: str, name: str) -> OwnedRuntime:
        """The runtime that the tenant means by the name. Raises `NotFound`."""
        for owner in (tenant_id, SHARED):
            runtime = self._rows.get(owner, {}).get(name)
            if runtime is not None:
                return OwnedRuntime(tenant_id=owner, runtime=runtime)
        raise NotFound("there is no runtime of this name")

    def is_outdated(self, tenant_id: str, spec: VersionSpec) -> bool:
        """Whether the version's runtime was replaced by a newer one of the same name, which an
        update would use.
        """
        try:
            named = self.get(tenant_id, spec.runtime).runtime
        except NotFound:
            return False
        return spec.runtime_snapshot.is_older_than(named)

    def with_snapshot(self, tenant_id: str, spec: VersionSpec) -> VersionSpec:
        """The spec with a snapshot of the runtime that it names. Raises `Unprocessable`."""
        try:
            named = self.get(tenant_id, spec.runtime)
        except NotFound:
            raise self._no_runtime(tenant_id, spec) from None
        runtime = named.runtime
        if runtime.isolation is Isolation.GVISOR and self._host.no_gvisor:
            why = self._host.no_gvisor
            expected = f"one with isolation crun: this server has no gVisor ({why})"
            raise Unprocessable.field("runtime", expected, spec.runtime, "shell")
        for image in runtime.images:  # its images must not be removed before the version is stored
            self.tenant_images.hold(named.tenant_id, image)
            self.tenant_images.hold(SHARED, image)
        return msgspec.structs.replace(spec, runtime_snapshot=runtime)

    def _no_runtime(self, tenant_id: str, spec: VersionSpec) -> Unprocessable:
        """The error for a spec whose runtime does not exist. A function may still name a runtime
        that was removed.
        """
        expected = f"one of: {', '.join(sorted(one.runtime.name for one in self.all(tenant_id)))}"
        if spec.runtime_snapshot.name != spec.runtime:
            return Unprocessable.field("runtime", expected, spec.runtime, "shell")
        expected += f"; the function names {spec.runtime}, which was removed"
        error = Unprocessable.field("runtime", expected, spec.runtime, "shell")
        error.hint = (
            f"add {spec.runtime} again, or update the function to use another runtime; "
            "the current version keeps its runtime"
        )
        return error

    async def add(
        self, tenant_id: str, wanted: Runtime, *, shared: bool = False, is_operator: bool = False
    ) -> tuple[OwnedRuntime, bool]:
        """Adds a runtime, or replaces the one with its name, for the tenant or, if `shared`, for
        all tenants. Returns the runtime, and whether it differs from the previous one with its
        name.

        `wanted`: a runtime without id, host, interpreter and time; its images must belong to the
        tenant, its base image to the tenant or to all tenants. Existing versions keep their
        snapshots. Raises `Unprocessable`; `Conflict` for a built-in name, and for packages while a
        node has an older version; `StoreUnavailable` if an image cannot be read, or fetched from
        another node; and, unless an operator asks, `Forbidden` and `RateLimited`.
        """
        check_not_own(wanted.name, "replaced")
        wanted.validate()
        wanted.check_room(self._host.most)
        if not is_operator:
            self.rules.check(wanted)
        check_environment(wanted.environment)
        self._check_there(wanted)
        await self.others.catch_up()
        owner = SHARED if shared else tenant_id
        for image in wanted.images:  # outside the lock, so that other changes need not wait
            for owner_id in {tenant_id, SHARED}:
                await self.tenant_images.bring(owner_id, image)
        interpreter = await self._interpreter(tenant_id, wanted)
        async with self._changing:
            runtime = msgspec.structs.replace(
                wanted,
                id=new_id(),
                host=self._host.packages if wanted.base_image is None else "",
                interpreter=interpreter,
                created_at=int(self._clock.unix()),
            )
            there = self._rows.get(owner, {})
            if wanted.name in there and there[wanted.name].same_as(runtime):
                return OwnedRuntime(tenant_id=owner, runtime=there[wanted.name]), False
            if not is_operator and wanted.name not in there:
                self._check_count(len(there))
            for field_name, digest in _images(wanted):
                is_held = await self._hold(owner, tenant_id, digest)
                # Tenants may build on the images that operators share with all.
                if not is_held and field_name == "base_image":
                    is_held = self.tenant_images.hold(SHARED, digest)
                if not is_held:
                    raise _no_image(field_name, digest)
            if not await self._store.save(owner, runtime):  # another node has removed an image
                raise _no_image(*_images(wanted)[0])
            self._put(owner, {**there, runtime.name: runtime})
        return OwnedRuntime(tenant_id=owner, runtime=runtime), True

    def _check_there(self, wanted: Runtime) -> None:
        """Raises an error if this machine or an older node does not support the runtime."""
        known = list(dict.fromkeys([*self._host.built_in, *EVERYWHERE]))
        if wanted.base_image is None and wanted.kind not in known:
            expected = (
                f"one of: {', '.join(known)}; this machine has no interpreter for {wanted.kind}"
            )
            raise Unprocessable.field("kind", expected, wanted.kind, "shell")
        if wanted.isolation is Isolation.GVISOR and self._host.no_gvisor:
            expected = f"crun: this server has no gVisor ({self._host.no_gvisor})"
            raise Unprocessable.field("isolation", expected, wanted.isolation, "crun")
        if wanted.packages is not None and self.others.has_older_nodes():
            raise older_node("does not support packages in addition to an image")

    async def remove(self, tenant_id: str, name: str, *, shared: bool = False) -> None:
        """Removes the name. New versions cannot use it; existing versions keep their snapshots.

        Raises `NotFound`, and `Conflict` for a built-in name, and for a shared runtime if `shared`
        is not given.
        """
        check_not_own(name, "removed")
        owner = SHARED if shared else tenant_id
        await self.others.catch_up()
        async with self._changing:
            if self.get(owner, name).tenant_id != owner:
                raise Conflict(
                    f"{name} is shared by all tenants; the tenant has no own runtime of this name",
                    hint="an operator removes it with ?shared=true",
                )
            await self._store.remove(owner, name)
            left = {key: one for key, one in self._rows[owner].items() if key != name}
            self._put(owner, left or None)

    async def _interpreter(self, tenant_id: str, wanted: Runtime) -> str:
        """The program of the base image that runs handlers of this kind; empty if there is no base
        image, or the kind needs none. Raises `Unprocessable` if the image has none.
        """
        image, names = wanted.base_image, PROGRAMS.get(wanted.kind)
        if image is None or names is None:
            return ""
        if not any(self.tenant_images.hold(one, image) for one in (tenant_id, SHARED)):
            raise _no_image("base_image", image)
        path = "/bin" if wanted.is_command_line else wanted.environment.get("PATH", ALWAYS["PATH"])
        program = await self.tenant_images.program(image, names, path)
        if program is None:
            where = truncate(path, 200)
            expected = f"an image with a {names[0]} in one of {where}, for the kind {wanted.kind}"
            raise Unprocessable.field("base_image", expected, image)
        return "" if wanted.is_command_line else program

    async def _hold(self, owner: str, tenant_id: str, digest: str) -> bool:
        if owner == SHARED:
            return await self.tenant_images.share(tenant_id, digest)
        return self.tenant_images.hold(tenant_id, digest)

    def _check_count(self, count: int) -> None:
        if count >= self.rules.runtimes:
            raise RateLimited(
                f"the tenant has {count} runtimes, its limit",
                hint="remove one that is not needed",
                retry_after=60,
            )


def _images(wanted: Runtime) -> list[tuple[str, str]]:
    """Field and digest of each image that the runtime names."""
    named = ((name, getattr(wanted, name)) for name in IMAGES)
    return [(name, digest) for name, digest in named if digest is not None]


def _no_image(name: str, digest: str) -> Unprocessable:
    expected = f"the digest of a stored image; {UPLOAD_IMAGE.text} creates one"
    error = Unprocessable.field(name, expected, digest)
    error.see = UPLOAD_IMAGE
    return error


def is_own(runtime: Runtime) -> bool:
    """Whether the runtime is built in."""
    return runtime.name in OWN_NAMES


def check_not_own(name: str, done: str) -> None:
    if name in OWN_NAMES:
        raise Conflict(f"{name} is the server's own runtime and cannot be {done}")
