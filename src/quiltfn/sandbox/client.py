"""Creates sandboxes: requests one from the launcher, and connects to the guest inside."""

import asyncio
import socket
import time
from collections.abc import Callable

import msgspec

from quiltfn.model.runtime import DEFAULT_ROOM, Isolation, Kind, Network, Room, Runtime
from quiltfn.model.version import MEMORY_MIN_MIB, VersionSpec
from quiltfn.ports import Sandbox, SandboxFailed
from quiltfn.sandbox.channel import LauncherChannel
from quiltfn.sandbox.guest import OUTPUT_LIMITS, GuestSandbox
from quiltfn.sandbox.output_limits import OutputLimits


class SandboxTemplate(msgspec.Struct, frozen=True):
    """The properties of a sandbox that are fixed at its creation.

    Sandboxes with equal templates can become instances of the same versions.
    """

    kind: Kind
    image: str | None
    network: str
    writable_paths: tuple[str, ...]
    isolation: Isolation
    base_image: str | None = None
    interpreter: str = ""
    room: Room = DEFAULT_ROOM
    packages: str | None = None

    @property
    def is_plain(self) -> bool:
        """Whether this is a template of a built-in runtime, which shows only the host's files."""
        is_bare = not self.images and not self.writable_paths
        return is_bare and self.network == Network.NONE and self.room == DEFAULT_ROOM

    @property
    def images(self) -> tuple[str, ...]:
        """The digests of the images that the sandbox shows."""
        named = (self.image, self.packages, self.base_image)
        return tuple(one for one in named if one is not None)

    @classmethod
    def of(cls, runtime: Runtime) -> "SandboxTemplate":
        upper, lower = (*runtime.app_images, None, None)[:2]
        return cls(
            runtime.kind,
            upper,
            runtime.network,
            runtime.writable_paths,
            runtime.isolation,
            runtime.base_image,
            runtime.interpreter,
            runtime.room(),
            lower,
        )


class Limits(msgspec.Struct, frozen=True):
    """Limits of a sandbox: memory in MiB, CPU time in percent of one core."""

    memory_mib: int = MEMORY_MIN_MIB
    cpu_percent: float = 100.0

    @classmethod
    def of(cls, spec: VersionSpec) -> "Limits":
        return cls(spec.memory_limit_mb, spec.cpu_limit_percent)


PLAIN = SandboxTemplate(Kind.SHELL, None, "none", (), Isolation.CRUN)
# Seconds for which sandboxes are assumed to work after a creation, between a failed probe and the
# next one, and for which a caller waits for a probe.
PROVEN_S, RETRY_S, PROBE_TIMEOUT_S = 10.0, 1.0, 2.0
NEVER = -1e9
now = time.monotonic


class LauncherSandboxes:
    """`ports.Sandboxes` that the launcher creates, each on demand. `output`: the guests' limits on
    the output of one invocation. `most`: the operator's upper bound on the limits of every runtime.
    """

    def __init__(
        self,
        channel: LauncherChannel,
        output: OutputLimits = OUTPUT_LIMITS,
        most: Room = DEFAULT_ROOM,
    ) -> None:
        self._channel, self._output, self._most = channel, output, most
        self._deadline: float | None = None
        self._made_at = self._tried_at = NEVER
        self._why_not: str | None = None
        self._probing: asyncio.Task[None] | None = None

    async def create(self, spec: VersionSpec) -> Sandbox:
        return await self.make(SandboxTemplate.of(spec.runtime_snapshot), Limits.of(spec))

    def expect(self, spec: VersionSpec) -> None:
        """Does nothing: every sandbox is created on demand."""

    def give_up(self, mib: float, freed: Callable[[], None]) -> None:
        """Does nothing: there are no prewarmed sandboxes."""

    def end_by(self, at: float) -> None:
        self._deadline = at
        self._channel.tell("deadline", deadline=at)

    async def make(self, template: SandboxTemplate, limits: Limits) -> GuestSandbox:
        """Creates a sandbox that is not an instance of a version yet. Raises `SandboxFailed`."""
        try:
            sandbox = await self._make(template, limits)
        except SandboxFailed:
            self._made_at = NEVER  # a probe then finds out whether only this image or network fails
            raise
        if template.isolation is Isolation.CRUN:
            self._made_at, self._why_not = now(), None
        return sandbox

    async def why_not(self) -> str | None:
        """Returns why no sandbox can be created; None: they can. Uses the last attempt, or probes
        now.
        """
        if now() - self._made_at < PROVEN_S:
            return None
        if self._why_not is not None and now() - self._tried_at < RETRY_S:
            return self._why_not
        if self._probing is None:
            self._probing = asyncio.ensure_future(self._probe())
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await asyncio.shield(self._probing)
        except TimeoutError:
            return self._why_not or f"no sandbox was created within {PROBE_TIMEOUT_S:g} s"
        return self._why_not

    async def _probe(self) -> None:
        try:
            sandbox = await self.make(PLAIN, Limits())
            await sandbox.destroy()
        except SandboxFailed as error:
            self._why_not = str(error)
        finally:
            self._tried_at, self._probing = now(), None

    async def _make(self, template: SandboxTemplate, limits: Limits) -> GuestSandbox:
        bound = {} if self._deadline is None else {"deadline": self._deadline}
        answer = await self._channel.ask(
            "create",
            memory_mib=limits.memory_mib,
            cpu_percent=limits.cpu_percent,
            image=template.image,
            base_image=template.base_image,
            packages=template.packages,
            network=template.network,
            writable_paths=template.writable_paths,
            isolation=template.isolation,
            pids=min(template.room.process_limit, self._most.process_limit),
            tmp_mib=min(template.room.tmp_limit_mb, self._most.tmp_limit_mb),
            file_mib=min(template.room.file_limit_mb, self._most.file_limit_mb),
            open_files=min(template.room.open_files_limit, self._most.open_files_limit),
            **bound,
        )
        control, events = answer.descriptors
        name = answer.message["sandbox"]
        sandbox = GuestSandbox(name, events, self._channel, self._output)
        try:
            await sandbox.greet(socket.socket(fileno=control))
        except BaseException as error:
            await sandbox.destroy()
            if isinstance(error, OSError):  # for example, no descriptor is left for its transport
                raise SandboxFailed(f"the connection to the guest failed: {error}") from None
            raise
        return sandbox
