"""FetchingSandboxes: before one is made, the image that it shows is fetched."""

from collections.abc import Callable

from quiltfn.fleet.image_fetch import ImageUnavailable
from quiltfn.fleet.images import FleetImages
from quiltfn.model.version import VersionSpec
from quiltfn.ports import Sandbox, Sandboxes, SandboxFailed


class FetchingSandboxes:
    """`ports.Sandboxes` of a node of a fleet. `images` is set before the first one is made."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes
        self.images: FleetImages | None = None

    async def create(self, spec: VersionSpec) -> Sandbox:
        """As the port says. Raises `SandboxFailed` also where no node gives the image."""
        image = spec.runtime_snapshot.image
        if image is not None and self.images is not None:
            try:
                await self.images.obtain(image)
            except ImageUnavailable as error:
                raise SandboxFailed(str(error)) from None
        return await self._sandboxes.create(spec)

    def expect(self, spec: VersionSpec) -> None:
        """As the port says; without its image none could be made."""
        image = spec.runtime_snapshot.image
        if image is None or self.images is None or self.images.is_here(image):
            self._sandboxes.expect(spec)

    def give_up(self, mib: float, freed: Callable[[], None]) -> None:
        """As the port says."""
        self._sandboxes.give_up(mib, freed)
