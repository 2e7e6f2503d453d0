"""FetchingSandboxes: fetches the images of a sandbox before it is created."""

from collections.abc import Callable

from quiltfn.fleet.image_fetch import ImageUnavailable
from quiltfn.fleet.images import FleetImages
from quiltfn.model.version import VersionSpec
from quiltfn.ports import Sandbox, Sandboxes, SandboxFailed


class FetchingSandboxes:
    """`ports.Sandboxes` of a node of a fleet."""

    def __init__(self, sandboxes: Sandboxes, images: FleetImages) -> None:
        self._sandboxes, self._images = sandboxes, images

    async def create(self, spec: VersionSpec) -> Sandbox:
        """As `Sandboxes` says. Also raises `SandboxFailed` if no node provides an image."""
        try:
            for image in spec.runtime_snapshot.images:
                await self._images.obtain(image)
        except ImageUnavailable as error:
            raise SandboxFailed(str(error)) from None
        return await self._sandboxes.create(spec)

    def expect(self, spec: VersionSpec) -> None:
        """As `Sandboxes` says, but only if the images are on this node."""
        if all(map(self._images.is_here, spec.runtime_snapshot.images)):
            self._sandboxes.expect(spec)

    def give_up(self, mib: float, freed: Callable[[], None]) -> None:
        """As `Sandboxes` says."""
        self._sandboxes.give_up(mib, freed)
