"""The verbs over runtimes: what a name stands for now, and what a version is given of it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from quiltfn.ids import new_id
from quiltfn.model.errors import Conflict, NotFound, Unprocessable
from quiltfn.model.runtime import OWN_NAMES, Isolation, Kind, Runtime
from quiltfn.model.version import Content, check_environment
from quiltfn.ports import Clock, Images, RuntimeStore


@dataclass(frozen=True, slots=True, kw_only=True)
class HostImage:
    """What this machine has of its own: `packages` is a hash of what is installed.

    `no_gvisor`: why a sandbox cannot be gVisor's here; empty where it can.
    """

    built_in: Mapping[str, Runtime]
    packages: str = ""
    no_gvisor: str = "it has none"


class Runtimes:
    """Every runtime in memory: those of the server itself and those that an operator added."""

    def __init__(self, host: HostImage, store: RuntimeStore, images: Images, clock: Clock) -> None:
        self._host, self._store, self._images, self._clock = host, store, images, clock
        self._by_name = dict(host.built_in)
        self._changing = asyncio.Lock()

    async def restore(self) -> None:
        """At start: every name stands for what it stood for."""
        for runtime in await self._store.load():
            self._by_name.setdefault(runtime.name, runtime)

    def all(self) -> list[Runtime]:
        """By name, the server's own first."""
        return sorted(self._by_name.values(), key=lambda one: (not is_own(one), one.name))

    def get(self, name: str) -> Runtime:
        """Raises `NotFound`."""
        runtime = self._by_name.get(name)
        if runtime is None:
            raise NotFound("there is no runtime of this name")
        return runtime

    def pin(self, content: Content) -> Content:
        """The content with what its runtime's name stands for now. Raises `Unprocessable`."""
        runtime = self._by_name.get(content.runtime)
        if runtime is None:
            known = ", ".join(sorted(self._by_name))
            raise Unprocessable.field("runtime", f"one of: {known}", content.runtime, "shell")
        if runtime.isolation is Isolation.GVISOR and self._host.no_gvisor:
            why = self._host.no_gvisor
            expected = f"one with isolation crun: this server has no gVisor ({why})"
            raise Unprocessable.field("runtime", expected, content.runtime, "shell")
        if runtime.image is not None:  # so that it is not collected before the version is stored
            self._images.hold(runtime.image)
        return msgspec.structs.replace(content, pinned=runtime)

    async def add(self, wanted: Runtime) -> tuple[Runtime, bool]:
        """What the name stands for from now on, and whether that is another revision than before.

        `wanted`: with everything but id, host and time. Existing versions go on with what they
        were made with. Raises `Unprocessable`, and `Conflict` for a name of the server's own.
        """
        check_not_own(wanted.name, "replaced")
        wanted.validate()
        check_environment(wanted.environment)
        if wanted.kind not in (Kind.CUSTOM, *self._host.built_in):
            known = ", ".join([*self._host.built_in, Kind.CUSTOM])
            expected = f"one of: {known}; this machine has no interpreter for {wanted.kind}"
            raise Unprocessable.field("kind", expected, wanted.kind, "shell")
        if wanted.isolation is Isolation.GVISOR and self._host.no_gvisor:
            expected = f"crun: this server has no gVisor ({self._host.no_gvisor})"
            raise Unprocessable.field("isolation", expected, wanted.isolation, "crun")
        async with self._changing:
            runtime = msgspec.structs.replace(
                wanted, id=new_id(), host=self._host.packages, created_at=int(self._clock.unix())
            )
            there = self._by_name.get(wanted.name)
            if there is not None and there.same_as(runtime):
                return there, False
            if wanted.image is not None and not self._images.hold(wanted.image):
                expected = (
                    "the digest of an image that is here; POST /api/runtimes/images makes one"
                )
                raise Unprocessable.field("image", expected, wanted.image)
            await self._store.save(runtime)
            self._by_name[runtime.name] = runtime
        return runtime, True

    async def remove(self, name: str) -> None:
        """New versions are refused the name from then on; those that have it go on with it.

        Raises `NotFound`, and `Conflict` for a name of the server's own.
        """
        check_not_own(name, "removed")
        async with self._changing:
            self.get(name)
            await self._store.remove(name)
            del self._by_name[name]


def is_own(runtime: Runtime) -> bool:
    """Whether it is the server's and not an operator's."""
    return runtime.name in OWN_NAMES


def check_not_own(name: str, done: str) -> None:
    if name in OWN_NAMES:
        raise Conflict(f"{name} is the server's own runtime and cannot be {done}")
