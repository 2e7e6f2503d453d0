"""Sandboxes of a node of a fleet: the image is fetched first."""

from typing import Any

import pytest
from msgspec.structs import replace

from quiltfn.fleet.image_fetch import ImageUnavailable
from quiltfn.fleet.sandboxes import FetchingSandboxes
from quiltfn.model.runtime import SHELL
from quiltfn.model.version import VersionSpec
from quiltfn.ports import SandboxFailed
from quiltfn.sandbox.fake import FakeSandboxes

DIGEST = "ab" * 32
WITH_IMAGE = VersionSpec(handler="cat", runtime_snapshot=replace(SHELL, image=DIGEST))


class Images:
    """`FleetImages` that gets the images it is told to."""

    def __init__(self) -> None:
        self.here: set[str] = set()
        self.is_there = True
        self.asked = 0

    def is_here(self, digest: str) -> bool:
        return digest in self.here

    async def obtain(self, digest: str) -> None:
        self.asked += 1
        if not self.is_there:
            raise ImageUnavailable("no reachable node has it")
        self.here.add(digest)


class Noting(FakeSandboxes):
    """Records what is expected."""

    def __init__(self) -> None:
        super().__init__()
        self.expected: list[VersionSpec] = []

    def expect(self, spec: VersionSpec) -> None:
        self.expected.append(spec)


async def test_the_image_is_there_before_the_sandbox_is_made() -> None:
    fakes, images = Noting(), Images()
    given: Any = images
    sandboxes = FetchingSandboxes(fakes, given)
    plain = VersionSpec(handler="cat")
    await sandboxes.create(plain)
    assert images.asked == 0
    images.is_there = False
    with pytest.raises(SandboxFailed, match="no reachable node has it"):
        await sandboxes.create(WITH_IMAGE)
    assert len(fakes.created) == 1
    images.is_there = True
    await sandboxes.create(WITH_IMAGE)
    assert (len(fakes.created), images.here) == (2, {DIGEST})


async def test_the_base_image_is_fetched_as_well() -> None:
    fakes, images = Noting(), Images()
    given: Any = images
    sandboxes = FetchingSandboxes(fakes, given)
    snapshot = replace(WITH_IMAGE.runtime_snapshot, base_image="cd" * 32)
    spec = replace(WITH_IMAGE, runtime_snapshot=snapshot)
    images.here.add(DIGEST)
    sandboxes.expect(spec)
    assert fakes.expected == []
    await sandboxes.create(spec)
    assert images.here == {DIGEST, "cd" * 32}
    sandboxes.expect(spec)
    assert fakes.expected == [spec]


async def test_none_is_expected_whose_image_is_not_here() -> None:
    fakes, images = Noting(), Images()
    given: Any = images
    sandboxes = FetchingSandboxes(fakes, given)
    plain = VersionSpec(handler="cat")
    sandboxes.expect(WITH_IMAGE)
    sandboxes.expect(plain)
    assert fakes.expected == [plain]
    images.here.add(DIGEST)
    sandboxes.expect(WITH_IMAGE)
    assert fakes.expected == [plain, WITH_IMAGE]
