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
PLAIN = VersionSpec(handler="cat")
WITH_IMAGE = VersionSpec(handler="cat", runtime_snapshot=replace(SHELL, image=DIGEST))


class Images:
    """`FleetImages` that gets every image while `is_there` is set."""

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
    """Records the versions whose sandboxes are expected soon."""

    def __init__(self) -> None:
        super().__init__()
        self.expected: list[VersionSpec] = []

    def expect(self, spec: VersionSpec) -> None:
        self.expected.append(spec)


def fetching(fakes: FakeSandboxes, images: Images) -> FetchingSandboxes:
    fetcher: Any = images
    return FetchingSandboxes(fakes, fetcher)


async def test_the_image_is_there_before_the_sandbox_is_made() -> None:
    fakes, images = Noting(), Images()
    sandboxes = fetching(fakes, images)
    await sandboxes.create(PLAIN)
    assert images.asked == 0
    images.is_there = False
    with pytest.raises(SandboxFailed, match="no reachable node has it"):
        await sandboxes.create(WITH_IMAGE)
    assert len(fakes.created) == 1
    images.is_there = True
    await sandboxes.create(WITH_IMAGE)
    assert (len(fakes.created), images.here) == (2, {DIGEST})


async def test_the_base_image_is_fetched_too_and_none_is_expected_before_both_are_here() -> None:
    fakes, images = Noting(), Images()
    sandboxes = fetching(fakes, images)
    snapshot = replace(WITH_IMAGE.runtime_snapshot, base_image="cd" * 32)
    spec = replace(WITH_IMAGE, runtime_snapshot=snapshot)
    for expected in (WITH_IMAGE, PLAIN):
        sandboxes.expect(expected)
    assert fakes.expected == [PLAIN]
    images.here.add(DIGEST)
    for expected in (spec, WITH_IMAGE):
        sandboxes.expect(expected)
    assert fakes.expected == [PLAIN, WITH_IMAGE]
    await sandboxes.create(spec)
    assert images.here == {DIGEST, "cd" * 32}
    sandboxes.expect(spec)
    assert fakes.expected == [PLAIN, WITH_IMAGE, spec]
