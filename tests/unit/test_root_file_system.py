"""Root file systems: how layers are merged, what is refused, and what is made harmless.

Attack B24 of the hardening list, for archives that become the root of a sandbox.
"""

import hashlib
import io
import json
import os
import platform
import stat
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from in_thread_jobs import InThreadJobs
from manual_clock import ManualClock
from promises import promise
from quiltfn.base.cpu_arch import name_in_images
from quiltfn.images import ImageDirectory, ImageLimits, contents, layers, root_file_system
from quiltfn.images.layers import LAYERS_MAX, Directory, File, Layers, Link
from quiltfn.images.tar import Kind, Member
from quiltfn.model.errors import Unprocessable
from quiltfn.model.image import Archive, Contents, Image
from unit.sample_archives import (
    Entry,
    directory,
    entry,
    everything_below,
    extended,
    file,
    hard_link,
    in_pieces,
    link,
    packed,
    pressed,
    raw,
)

LIMITS = ImageLimits(unpacked_max_bytes=2_000_000, files_max=300)
OWN = name_in_images(platform.machine())


class Box:
    """A store beside files that no archive may change."""

    def __init__(self, path: Path) -> None:
        self.path, self.store = path, path / "images"
        (path / "outside").mkdir()
        (path / "outside" / "secret").write_text("untouched")
        self.images = ImageDirectory(self.store, ManualClock(100.0), LIMITS, InThreadJobs())
        self.images.start()

    async def take(self, data: bytes, contents: Contents = Contents.ROOTFS) -> Image:
        before = sorted(os.listdir(self.path))
        try:
            return await self.images.take(Archive.TAR, in_pieces(data), contents=contents)
        finally:
            assert sorted(os.listdir(self.path)) == before
            assert (self.path / "outside" / "secret").read_text() == "untouched"

    async def refused(self, data: bytes, contents: Contents = Contents.ROOTFS) -> str:
        """Return the reason for the refusal. Check that the archive has changed nothing."""
        before = everything_below(self.path)
        with pytest.raises(Unprocessable, match=r"^the image is refused: ") as error:
            await self.take(data, contents)
        assert everything_below(self.path) == before
        return str(error.value)

    def root_of(self, image: Image) -> Path:
        return self.store / image.digest


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


# Archives of images --------------------------------------------------------------------------


def sha(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def described(data: bytes, kind: str = "manifest.v1+json", **more: Any) -> dict[str, Any]:
    media_type = f"application/vnd.oci.image.{kind}"
    return {"mediaType": media_type, "digest": sha(data), "size": len(data)} | more


def config_of(layers: Sequence[bytes], **more: Any) -> bytes:
    rootfs = {"type": "layers", "diff_ids": [sha(one) for one in layers]}
    return json.dumps({"os": "linux", "architecture": OWN, "rootfs": rootfs} | more).encode()


def blob(data: bytes, digest: str | None = None) -> Entry:
    return file(f"blobs/sha256/{(digest or sha(data)).partition(':')[2]}", data)


def oci(
    *layers: bytes,
    stored: Callable[[bytes], bytes] = bytes,
    config: dict[str, Any] | None = None,
    manifest: dict[str, Any] | None = None,
    index: dict[str, Any] | None = None,
    more: Sequence[Entry] = (),
) -> bytes:
    """An archive of an OCI layout. The dictionaries replace valid content."""
    kept = [stored(one) for one in layers]
    image_config = config_of(layers, **(config or {}))
    tree = {
        "schemaVersion": 2,
        "config": described(image_config, "config.v1+json"),
        "layers": [described(one, "layer.v1.tar") for one in kept],
    }
    text = json.dumps(tree | (manifest or {})).encode()
    entries = [file("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')]
    entries += [
        file("index.json", json.dumps({"manifests": [described(text)]} | (index or {})).encode())
    ]
    entries += [blob(one) for one in dict.fromkeys((image_config, text, *kept))]
    return packed([*entries, *more])


def docker(*layers: bytes, **more: Any) -> bytes:
    """An archive as `docker save` writes it."""
    config = config_of(layers)
    manifest = {"Config": "c.json", "Layers": [f"{n}/layer.tar" for n in range(len(layers))]} | more
    entries = [file(f"{n}/layer.tar", one) for n, one in enumerate(layers)]
    return packed(
        [file("manifest.json", json.dumps([manifest]).encode()), file("c.json", config), *entries]
    )


def below(root: Path) -> dict[str, str]:
    """The kind of each path in a tree."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"→ {os.readlink(path)}"
        else:
            found[name] = "/" if path.is_dir() else path.read_text()
    return found


# Accepted ------------------------------------------------------------------------------------


async def test_a_root_file_system_has_links_that_lead_anywhere_inside(box: Box) -> None:
    archive = packed(
        [
            directory("./"),
            directory("./etc"),
            link("./bin", "usr/bin"),
            link("./etc/mtab", "/proc/mounts"),
            link("./usr/up", "../../../../etc/passwd"),
            file("./bin/sh", b"a shell", mode=0o755),
            hard_link("./bin/dash", "./usr/bin/sh"),
        ]
    )
    image = await box.take(archive)
    root = box.root_of(image)
    assert below(root) == {
        "bin": "→ usr/bin",
        "etc": "/",
        "etc/mtab": "→ /proc/mounts",
        "usr": "/",
        "usr/bin": "/",
        "usr/bin/dash": "a shell",
        "usr/bin/sh": "a shell",
        "usr/up": "→ ../../../../etc/passwd",
    }
    assert (root / "usr/bin/sh").stat().st_ino == (root / "usr/bin/dash").stat().st_ino
    assert (image.files, image.entries) == (5, 8)


@pytest.mark.parametrize("stored", [bytes, pressed], ids=["plain", "gzip"])
@pytest.mark.parametrize("form", [oci, docker])
async def test_layers_replace_and_remove_what_is_below_them(
    box: Box, form: Callable[..., bytes], stored: Callable[[bytes], bytes]
) -> None:
    lowest = packed(
        [
            file("etc/a", b"1"),
            file("etc/b", b"1"),
            file("opt/deep/one", b"1"),
            file("opt/deep/two", b"1"),
            file("var/cache/x", b"1"),
            hard_link("keep", "etc/a"),
            link("dir", "etc"),
            file("was-a-file", b"1"),
            link("was-a-link", "etc"),
        ]
    )
    second = packed(
        [
            file("etc/.wh.a", b""),
            file("etc/b", b"2"),
            file("opt/deep/three", b"2"),
            file("opt/deep/.wh..wh..opq", b""),
            file("opt/.wh..wh.plnk", b""),
            file(".wh.var", b""),
            file("dir/through", b"2"),
            file("was-a-file/now", b"2"),
            directory("was-a-link"),
        ]
    )
    archive = form(lowest, second) if stored is bytes else oci(lowest, second, stored=stored)
    image = await box.take(archive, Contents.IMAGE)
    assert below(box.root_of(image)) == {
        "dir": "→ etc",
        "etc": "/",
        "etc/b": "2",
        "etc/through": "2",
        "keep": "1",
        "opt": "/",
        "opt/deep": "/",
        "opt/deep/three": "2",
        "was-a-file": "/",
        "was-a-file/now": "2",
        "was-a-link": "/",
    }


async def test_the_same_tree_has_the_same_digest_by_every_way(box: Box) -> None:
    tree = [file("bin/sh", b"sh", mode=0o755), link("usr/sh", "/bin/sh"), file("etc/x", b"x")]
    digests = {
        (await box.take(packed(tree))).digest,
        (await box.take(pressed(packed(tree)))).digest,
        (await box.take(oci(packed(tree)), Contents.IMAGE)).digest,
        (await box.take(oci(packed(tree[:1]), packed(tree[1:])), Contents.IMAGE)).digest,
        (await box.take(docker(packed(tree)), Contents.IMAGE)).digest,
    }
    assert len(digests) == 1
    (digest,) = digests
    copy = b"".join([piece async for piece in box.images.archive(digest)])
    assert (await box.take(copy, Contents.COPY)).digest == digest


async def test_files_for_app_have_the_stricter_rules_for_links(box: Box) -> None:
    archive = packed([link("usr/mtab", "/proc/mounts")])
    assert "leads outside" in await box.refused(archive, Contents.FILES)
    await box.take(archive)


async def test_an_image_says_its_variables_and_has_its_interpreters(box: Box) -> None:
    layer = packed(
        [
            file("opt/py/bin/python3.12", b"", mode=0o755),
            link("opt/py/bin/python3", "python3.12"),
            link("usr/bin/node", "/opt/none"),
            file("usr/bin/nodejs", b"", mode=0o755),
        ]
    )
    config = {"Env": ["PATH=/opt/py/bin:relative:/usr/bin", "LANG=C", "no", "9=x", "E=a=b"]}
    image = await box.take(oci(layer, config={"config": config}), Contents.IMAGE)
    assert image.environment == {
        "PATH": "/opt/py/bin:relative:/usr/bin",
        "LANG": "C",
        "E": "a=b",
    }
    assert image.interpreters == {"python": "/opt/py/bin/python3.12", "node": "/usr/bin/nodejs"}
    find = box.images.program
    assert await find(image.digest, ("python3",), "/bin:/opt/py/bin") == "/opt/py/bin/python3"
    assert await find(image.digest, ("python3",), "/usr/bin") is None


async def test_no_link_leads_out_of_the_root_to_a_program(box: Box) -> None:
    away = str(box.path / "outside" / "secret")
    (box.path / "outside" / "secret").chmod(0o755)
    archive = packed(
        [
            link("bin/sh", away),
            link("usr/bin/sh", "../../../../../../../" + away),
            link("loop", "loop"),
            link("opt", "/loop/x"),
        ]
    )
    image = await box.take(archive)
    for path in ("/bin", "/usr/bin", "/opt", "/loop", "/bin/../../../bin"):
        assert await box.images.program(image.digest, ("sh",), path) is None, path


async def test_of_two_platforms_the_own_one_is_taken(box: Box) -> None:
    ours = json.loads(oci_index(oci(packed([file("x", b"ours")]))))["manifests"][0]
    other = described(b"{}", platform={"os": "linux", "architecture": "riscv64"})
    unknown = described(b"{}", platform={"os": "unknown", "architecture": "unknown"})
    archive = oci(packed([file("x", b"ours")]), index={"manifests": [other, ours, unknown]})
    image = await box.take(archive, Contents.IMAGE)
    assert below(box.root_of(image)) == {"x": "ours"}


def oci_index(archive: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        found = tar.extractfile("index.json")
        assert found is not None
        return found.read()


# Content that is made harmless ---------------------------------------------------------------


@promise("R19")
async def test_what_is_dangerous_to_others_does_not_remain(box: Box) -> None:
    capability = {
        "SCHILY.xattr.security.capability": "\x01",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
    }
    pax, data = extended(capability)
    archive = raw((pax, data), (entry("cap", mode=0o755, size=1), b"x")).removesuffix(bytes(1024))
    archive += packed(
        [
            file("su", b"su", mode=0o6755),
            directory("sticky"),
            entry("dev/kmem", tarfile.CHRTYPE, devmajor=1, devminor=2),
            entry("dev/sda", tarfile.BLKTYPE, devmajor=8),
            entry("dev/overlay-whiteout", tarfile.CHRTYPE),
            entry("dev/fifo", tarfile.FIFOTYPE),
            hard_link("dev/kmem2", "dev/kmem"),
            file("secret", b"", mode=0o000, uid=0),
        ]
    )
    root = box.root_of(await box.take(archive))
    assert below(root) == {"cap": "x", "su": "su", "sticky": "/", "dev": "/", "secret": ""}
    for path in root.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) in (0o755, 0o644)
        assert os.listxattr(path) == []


async def test_a_device_over_a_file_takes_its_place_and_goes(box: Box) -> None:
    lowest = packed([file("dev/null", b"a file"), file("x", b"")])
    upper = packed([entry("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3)])
    image = await box.take(oci(lowest, upper), Contents.IMAGE)
    assert below(box.root_of(image)) == {"dev": "/", "x": ""}


# Refused -------------------------------------------------------------------------------------

DEEP = "/".join("d" for _ in range(63))
HOSTILE: dict[str, tuple[bytes, str]] = {
    "an absolute path": (packed([file("/etc/cron.d/x")]), "has an absolute path"),
    "a path that climbs": (packed([file("../../outside/secret")]), "has a .. in its path"),
    "a path that climbs late": (packed([file("a/b/../../../x")]), "has a .. in its path"),
    "a hard link to the host": (packed([hard_link("x", "/etc/shadow")]), "leads outside"),
    "a hard link that climbs": (packed([hard_link("x", "../outside/secret")]), "leads outside"),
    "a hard link through a link": (
        packed([link("l", "/../outside"), hard_link("x", "l/secret")]),
        "no file that came before",
    ),
    "a hard link to what comes later": (packed([hard_link("x", "y"), file("y")]), "came before"),
    "a file twice": (packed([file("x", b"1"), file("x", b"2")]), "is there twice"),
    "a link under a file": (packed([link("x", "/etc"), file("x", b"2")]), "is there twice"),
    "a directory that is a file": (packed([file("x"), directory("x")]), "is there twice"),
    "a file that is a full directory": (packed([file("x/y"), file("x")]), "is there twice"),
    "a file below a file": (packed([file("x"), file("x/y")]), "lies below a file"),
    "a file through a loop": (
        packed([link("a", "b"), link("b", "a"), file("a/x")]),
        "lead nowhere",
    ),
    "a deep tree": (packed([file(f"{DEEP}/{DEEP}/x")]), "lies deeper"),
    "a deep tree through a link": (
        packed([file(f"{DEEP}/x"), link("l", DEEP), file(f"l/{DEEP}/y")]),
        "lies deeper",
    ),
    "a long name": (packed([file("n" * 256)]), "more than 255 bytes"),
    "a long path": (packed([file("/".join(["n" * 250] * 5))]), "more than 1024 bytes"),
    "a long path through links": (
        packed(
            [
                file("/".join(["n" * 200] * 4) + "/x"),
                link("l", "/".join(["n" * 200] * 4)),
                file("l/" + "/".join(["m" * 200] * 4) + "/x"),
            ]
        ),
        "more than 1024 bytes",
    ),
    "a name with a line break": (packed([file("a\nb")]), "control characters"),
    "a name that is not UTF-8": (packed([file("\udcff")]), "not UTF-8"),
    "a link to nothing": (packed([link("x", "")]), "is a link to an invalid path"),
    "a link with a line break": (packed([link("x", "a\nb")]), "is a link to an invalid path"),
    "a link that is too long": (packed([link("x", "y" * 2000)]), "is a link to an invalid path"),
    "a file for the root": (packed([file("./")]), "stands in for the whole image"),
    "a link for the root": (packed([link(".", "/")]), "stands in for the whole image"),
    "a sparse file": (
        packed([entry("x", tarfile.GNUTYPE_SPARSE)], tarfile.GNU_FORMAT),
        "is a sparse file",
    ),
    "a whiteout without layers": (packed([file(".wh.etc", b"")]), "is a whiteout"),
    "nothing": (packed([]), "it is empty"),
    "only a device": (packed([entry("null", tarfile.CHRTYPE)]), "it is empty"),
    "no archive": (b"#!/bin/sh\n" * 100, "not a tar archive"),
    "an archive that is cut off": (packed([file("x", b"y" * 2000)])[:1500], "is truncated"),
    "gzip that is cut off": (pressed(packed([file("x", os.urandom(9999))]))[:5000], "damaged"),
    "another compression": (b"\x28\xb5\x2f\xfd" + bytes(100), "compressed with zstd"),
    "too many files": (packed([file(f"f{n}", b"") for n in range(301)]), "more than 300 files"),
    "too many directories": (packed([directory(f"d{n}") for n in range(301)]), "more than 300"),
    "too many bytes": (packed([file("x", bytes(2_000_001))]), "more than 2000000 bytes"),
    "a bomb": (pressed(packed([file("x", bytes(20_000_000))])), "unpacks to more than"),
}


@promise("R19")
@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_root_is_refused_and_leaves_nothing(box: Box, name: str) -> None:
    archive, why = HOSTILE[name]
    assert why in await box.refused(archive)


LAYER = packed([file("x", b"x")])
OTHER = packed([file("y", b"y")])
GOOD_CONFIG = config_of([LAYER])
MANIFEST = json.dumps(
    {"config": described(GOOD_CONFIG, "config.v1+json"), "layers": [described(LAYER)]}
).encode()


def lying(**fields: Any) -> dict[str, Any]:
    return {"layers": [described(LAYER, "layer.v1.tar") | fields]}


HOSTILE_IMAGES: dict[str, tuple[bytes, str]] = {
    "no image": (packed([file("x")]), "neither oci-layout nor manifest.json"),
    "a layer with another digest": (
        oci(LAYER, manifest=lying(digest=sha(b"z")), more=[blob(LAYER, sha(b"z"))]),
        "has another digest",
    ),
    "a layer with another size": (oci(LAYER, manifest=lying(size=5)), "bytes instead of 5"),
    "a layer below another path": (
        oci(LAYER, manifest=lying(digest="sha256:../../../etc/passwd")),
        "is not a SHA-256 digest",
    ),
    "a layer that is missing": (oci(LAYER, manifest=lying(digest=sha(b"z"))), "is missing"),
    "a layer that unpacks to something else": (
        oci(LAYER, config={"rootfs": {"type": "layers", "diff_ids": [sha(OTHER)]}}),
        "unpacks to another digest",
    ),
    "a configuration with another digest": (
        oci(
            LAYER,
            manifest={"config": described(GOOD_CONFIG) | {"digest": sha(b"z")}},
            more=[blob(GOOD_CONFIG, sha(b"z"))],
        ),
        "has another digest",
    ),
    "a manifest with another digest": (
        oci(
            LAYER,
            index={"manifests": [described(MANIFEST) | {"digest": sha(b"z")}]},
            more=[blob(MANIFEST, sha(b"z"))],
        ),
        "has another digest",
    ),
    "more layers than it speaks of": (
        oci(LAYER, config={"rootfs": {"type": "layers", "diff_ids": []}}),
        "has 1 layers, but its configuration lists 0",
    ),
    "another processor": (
        oci(LAYER, config={"architecture": "riscv64"}),
        "it is for linux/riscv64",
    ),
    "another system": (oci(LAYER, config={"os": "windows"}), "it is for windows"),
    "two images": (
        oci(
            LAYER,
            index={"manifests": [described(MANIFEST), described(b"another")]},
            more=[blob(b"another")],
        ),
        "2 images",
    ),
    "an index that names itself": (
        oci(
            LAYER,
            index={"manifests": [described(b'{"manifests": []}', "index.v1+json")] * 30},
            more=[blob(b'{"manifests": []}')],
        ),
        "nested too deeply",
    ),
    "an index that is no JSON": (oci(LAYER, index={"manifests": 7}), "is invalid"),
    "an index of brackets": (
        packed([file("oci-layout"), file("index.json", b"[" * 100_000)]),
        "is invalid",
    ),
    "an index that is no UTF-8": (
        packed([file("oci-layout"), file("index.json", b'{"manifests": [{"mediaType": "\xff"}]}')]),
        "is invalid",
    ),
    "an index without end": (
        packed([file("oci-layout"), file("index.json", b" " * 4_194_305)]),
        "more than",
    ),
    "a blob twice": (oci(LAYER, more=[blob(LAYER)]), "is there twice"),
    "a blob that is a link out": (
        packed([file("oci-layout"), link("index.json", "/etc/passwd")]),
        "is missing",
    ),
    "a blob that is a device": (
        packed([file("oci-layout"), entry("index.json", tarfile.CHRTYPE)]),
        "is a device node",
    ),
    "too many layers": (oci(*[LAYER] * (LAYERS_MAX + 1)), f"more than {LAYERS_MAX} layers"),
    "one layer over and over": (
        oci(*[packed([file("x", bytes(100_000))])] * 100, stored=pressed),
        "unpacks to more than",
    ),
    "a whiteout of the directory itself": (oci(packed([file("a/.wh..", b"")])), "of nothing"),
    "a whiteout of the one above": (oci(packed([file("a/.wh...", b"")])), "of nothing"),
    "a whiteout without a name": (oci(packed([file("a/.wh.", b"")])), "of nothing"),
    "a file below a whiteout": (oci(packed([file(".wh.a/b", b"")])), "lies below a whiteout"),
    "a layer that is no archive": (oci(b"x" * 2000), "not a tar archive"),
    "a zip bomb of a layer": (
        oci(packed([file("x", bytes(50_000_000))]), stored=pressed),
        "unpacks to",
    ),
    "a layer of docker's that is missing": (
        docker(LAYER, Layers=["../../etc/passwd"]),
        "has a .. in its path",
    ),
    "a layer of docker's by an absolute path": (docker(LAYER, Layers=["/etc/passwd"]), "absolute"),
    "another layer of docker's": (
        packed(
            [
                file("manifest.json", b'[{"Config": "c", "Layers": ["l"]}]'),
                file("c", config_of([LAYER])),
                file("l", OTHER),
            ]
        ),
        "unpacks to another digest",
    ),
    "two images of docker's": (
        packed([file("manifest.json", b'[{"Config":"c","Layers":[]},{"Config":"c","Layers":[]}]')]),
        "has 2 images",
    ),
    "too many variables": (
        oci(LAYER, config={"config": {"Env": [f"A={'x' * 40_000}"]}}),
        "its variables have more than",
    ),
}


@promise("R19")
@pytest.mark.parametrize("name", HOSTILE_IMAGES)
async def test_a_hostile_image_is_refused_and_leaves_nothing(box: Box, name: str) -> None:
    archive, why = HOSTILE_IMAGES[name]
    assert why in await box.refused(archive, Contents.IMAGE)


async def test_a_good_image_is_taken_so_what_is_refused_is_refused_for_its_reason(box: Box) -> None:
    assert below(box.root_of(await box.take(oci(LAYER), Contents.IMAGE))) == {"x": "x"}
    assert below(box.root_of(await box.take(docker(LAYER), Contents.IMAGE))) == {"x": "x"}
    assert below(box.root_of(await box.take(LAYER))) == {"x": "x"}


async def test_more_may_be_removed_than_may_remain(box: Box) -> None:
    many = packed([file(f"d/f{n}", b"") for n in range(400)])
    image = await box.take(oci(many, packed([file(".wh.d", b""), file("x", b"")])), Contents.IMAGE)
    assert below(box.root_of(image)) == {"x": ""}
    assert "have more than 1200 members" in await box.refused(oci(*[many] * 4), Contents.IMAGE)


def winding(count: int) -> list[Member]:
    """Files in a directory to which 38 links lead, each by a path of some 400 steps."""
    around = "d/../" * 198
    links = [Member("l0", Kind.LINK, 0o777, f"{around}d", 0)]
    links += [Member(f"l{n}", Kind.LINK, 0o777, f"{around}l{n - 1}", 0) for n in range(1, 38)]
    files = [Member(f"l37/f{n}", Kind.FILE, 0o644, "", 0) for n in range(count)]
    return [Member("d", Kind.DIRECTORY, 0o755, "", 0), *links, *files]


def removed_again(count: int) -> list[Member]:
    """A directory of this layer, and whiteouts of its content in lower layers."""
    files = [Member(f"d/f{n}", Kind.FILE, 0o644, "", 0) for n in range(count)]
    return files + [Member(".wh.d", Kind.FILE, 0o644, "", 0)] * count


@pytest.mark.parametrize("members", [winding(150), removed_again(1500)])
def test_layers_take_few_steps(monkeypatch: pytest.MonkeyPatch, members: list[Member]) -> None:
    def lay() -> None:
        merged = Layers(2000, has_whiteouts=True)
        merged.begin_layer()
        for member in members:
            merged.add(member)

    with pytest.raises(Unprocessable, match="too many steps"):
        lay()
    monkeypatch.setattr(layers, "STEPS_FREE", 10_000_000)
    lay()


async def test_programs_are_sought_in_few_steps(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    around = "d/../" * 150
    entries = [link("l0", f"{around}bin")]
    entries += [link(f"l{n}", f"{around}l{n - 1}") for n in range(1, 38)]
    image = await box.take(packed([directory("d"), file("bin/sh", b"", mode=0o755), *entries]))
    assert await box.images.program(image.digest, ("sh",), "/l3") == "/l3/sh"
    assert await box.images.program(image.digest, ("sh",), "/l37") is None
    monkeypatch.setattr(contents, "STEPS_MAX", 100_000)
    assert await box.images.program(image.digest, ("sh",), "/l37") == "/l37/sh"


async def test_overcompressed_layers_are_refused(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = packed([file("x", bytes(1_500_000))])
    await box.take(pressed(layer))
    monkeypatch.setattr(root_file_system, "RATIO_FREE_BYTES", 0)
    assert "unpacks to more than" in await box.refused(pressed(layer))


# Negative control: the same archives escape from an unpacker that trusts them


def test_a_trusting_unpacker_is_led_out(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "secret").write_text("untouched")
    for archive in (
        packed([file("../secret", b"changed")]),
        packed([link("l", ".."), file("l/secret", b"changed")]),
    ):
        (tmp_path / "secret").write_text("untouched")
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(tmp_path / "store", filter="fully_trusted")
        assert (tmp_path / "secret").read_text() == "changed"


# Layers compared with a simple model ---------------------------------------------------------

NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("file"), NAMES),
        st.tuples(st.just("directory"), NAMES),
        st.tuples(st.just("removed"), NAMES),
        st.tuples(st.just("opaque"), NAMES),
    ),
    max_size=5,
)


def modelled(layers: Sequence[Sequence[tuple[str, list[str]]]]) -> dict[str, str]:
    """The merged tree by the rules of the specification: a layer's removals apply before its
    additions.
    """
    tree: dict[str, str] = {}

    def remove(path: str, *, itself: bool) -> None:
        for name in list(tree):
            if name.startswith(path + "/") or (itself and name == path):
                del tree[name]

    for layer in layers:
        for action, parts in layer:
            if action in ("removed", "opaque"):
                remove("/".join(parts), itself=action == "removed")
        for action, parts in layer:
            path = "/".join(parts)
            above = {"file": parts[:-1], "removed": []}.get(action, parts)
            for depth in range(1, len(above) + 1):
                if tree.get("/".join(parts[:depth])) != "/":
                    remove("/".join(parts[:depth]), itself=True)
                    tree["/".join(parts[:depth])] = "/"
            if action == "file":
                remove(path, itself=True)
                tree[path] = "file"
    return tree


@promise("R19")
@settings(max_examples=300, deadline=None)
@given(st.lists(CHANGES, max_size=4))
def test_layers_come_to_what_a_simple_model_says(layers: list[list[tuple[str, list[str]]]]) -> None:
    merged = Layers(1000, has_whiteouts=True)
    try:
        for layer in layers:
            merged.begin_layer()
            for action, parts in layer:
                path = "/".join(parts)
                if action == "removed":
                    path = "/".join([*parts[:-1], f".wh.{parts[-1]}"])
                elif action == "opaque":
                    path += "/.wh..wh..opq"
                kind = Kind.DIRECTORY if action == "directory" else Kind.FILE
                merged.add(Member(path, kind, 0o644, "", 0))
    except Unprocessable:
        return  # a layer contains a path twice
    kinds = {File: "file", Directory: "/", Link: "link"}
    assert {path: kinds[type(node)] for path, node in merged.entries()} == modelled(layers)
