"""Sandboxes of a node of a fleet: created while it has its lease, once their images are here."""

from collections.abc import Callable

from quiltfn.fleet.image_fetch import ImageUnavailable
from quiltfn.fleet.images import FleetImages
from quiltfn.fleet.lease import NodeLease
from quiltfn.model.version import VersionSpec
from quiltfn.ports import Sandbox, Sandboxes, SandboxFailed


class FetchingSandboxes:
    """`ports.Sandboxes` that fetch the images of a sandbox before it is created."""

    def __init__(self, sandboxes: Sandboxes, images: FleetImages) -> None:
        self._sandboxes, self._images = sandboxes, images
        self.give_up = sandboxes.give_up

    async def create(self, spec: VersionSpec) -> Sandbox:
        """Raises `SandboxFailed`, also if no node provides an image."""
        try:
            for image in spec.runtime_snapshot.images:
                await self._images.obtain(image)
        except ImageUnavailable as error:
            raise SandboxFailed(str(error)) from None
        return await self._sandboxes.create(spec)

    def expect(self, spec: VersionSpec) -> None:
        """A hint, passed on only if the images are on this node."""
        if all(map(self._images.is_here, spec.runtime_snapshot.images)):
            self._sandboxes.expect(spec)


class GatedSandboxes:
    """`ports.Sandboxes` that are created only while this node has its lease."""

    def __init__(
        self, sandboxes: Sandboxes, lease: NodeLease, end_by: Callable[[float], None]
    ) -> None:
        """`end_by`: sends a deadline to the launcher; see `StockedSandboxes`."""
        self._sandboxes, self._lease, self._end_by = sandboxes, lease, end_by
        self.expect, self.give_up = sandboxes.expect, sandboxes.give_up

    async def create(self, spec: VersionSpec) -> Sandbox:
        """Raises `SandboxFailed`, also without a lease, or if the lease ended while the sandbox was
        created.
        """
        self._check()
        # Just after a renewal, the launcher may still have an earlier deadline that has passed.
        self._end_by(self._lease.deadline)
        sandbox = await self._sandboxes.create(spec)
        try:
            self._check()
        except SandboxFailed:
            await sandbox.destroy()
            raise
        return sandbox

    def _check(self) -> None:
        problem = self._lease.problem()
        if problem:
            raise SandboxFailed(problem)
