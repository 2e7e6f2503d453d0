"""Finds the layers of a container image in an archive: an OCI image layout (image-spec 1.1) or the
output of `docker save`. The archive's metadata is not trusted: every size and every digest is
compared with the bytes.

Rule 1: no name in the archive becomes a name on disk; everything is read from the uploaded file.
Rule 2: an archive is refused unless it has exactly one image for this machine's CPU architecture.
"""

import hashlib
import platform
import re
from collections.abc import Iterator, Mapping
from typing import BinaryIO, TypeVar

import msgspec

from quiltfn.base.cpu_arch import name_in_images
from quiltfn.images import archive_rules, tar
from quiltfn.images.archive_rules import refusal
from quiltfn.images.tar import Kind, Source

LAYOUT, INDEX, DOCKER = "oci-layout", "index.json", "manifest.json"
JSON_MAX_BYTES = 4 * 1024 * 1024
# Maximum number of files: one per layer and a few more for each of several images.
MEMBERS_MAX, HEADERS_MAX = 4096, 4 * 4096
INDEXES_MAX = 16
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
ENVIRONMENT_MAX_BYTES = 32 * 1024


class Platform(msgspec.Struct):
    architecture: str = ""
    os: str = ""


class Descriptor(msgspec.Struct, rename="camel"):
    digest: str
    size: int
    media_type: str = ""
    platform: Platform | None = None


class Index(msgspec.Struct):
    manifests: list[Descriptor]


class Manifest(msgspec.Struct):
    config: Descriptor
    layers: list[Descriptor]


class DockerImage(msgspec.Struct, rename="pascal"):
    config: str
    layers: list[str]


class Process(msgspec.Struct, rename="pascal"):
    env: list[str] | None = None


class RootFs(msgspec.Struct):
    diff_ids: list[str]


class Config(msgspec.Struct):
    """An image's description of its root file system and of its programs."""

    rootfs: RootFs
    architecture: str = ""
    os: str = ""
    config: Process | None = None


T = TypeVar("T")


class Layer(msgspec.Struct, frozen=True):
    """The stored bytes of a layer in the archive. `digest`: of these bytes, if the archive states
    it. `diff_id`: the digest of the decompressed tar archive. Both are hexadecimal.
    """

    start: int
    size: int
    digest: str | None
    diff_id: str


class Found(msgspec.Struct, frozen=True):
    """`layers`: the lowest first."""

    layers: tuple[Layer, ...]
    environment: dict[str, str]


def find(file: BinaryIO, archive_max: int) -> Found:
    """Finds the only image of an archive. Raises `Unprocessable`. Blocks."""
    places = _places(file, archive_max)
    archive = _Archive(file, places)
    if LAYOUT in places:
        return archive.of_layout()
    if DOCKER in places:
        return archive.of_docker()
    raise refusal(f"it has neither {LAYOUT} nor {DOCKER}, so it is not an archive of an image")


def _places(file: BinaryIO, archive_max: int) -> dict[str, tuple[int, int]]:
    """Returns the start and the size of each file in the archive."""
    file.seek(0)
    source = Source(file, archive_max, HEADERS_MAX)
    places: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    for count, member in enumerate(tar.members(source)):
        if count >= MEMBERS_MAX:
            raise refusal(f"the archive has more than {MEMBERS_MAX} members")
        name = "/".join(archive_rules.parts_of(member.name))
        if name in places or name in links:
            raise refusal("is there twice", member.name)
        if member.kind is Kind.FILE:
            places[name] = source.taken, member.size
            source.skip(member.size)
        # In older archives, a link to a layer that several images share.
        elif member.kind is Kind.LINK:
            links[name] = member.target
    for name, target in links.items():
        there = _beside(name, target)
        if there in places:
            places[name] = places[there]
    return places


def _beside(name: str, target: str) -> str | None:
    """Resolves the target of a link to a name in the archive; None if it is outside."""
    parts = name.split("/")[:-1]
    for step in target.split("/"):
        if step == "..":
            if not parts:
                return None
            parts.pop()
        elif step not in ("", "."):
            parts.append(step)
    return None if target.startswith("/") else "/".join(parts)


class _Archive:
    def __init__(self, file: BinaryIO, places: Mapping[str, tuple[int, int]]) -> None:
        self._file, self._places = file, places
        self._indexes = 0

    def of_layout(self) -> Found:
        index = self._decoded(self._whole(INDEX), Index, INDEX)
        wanted = {one.digest: one for one in self._manifests(index)}
        if len(wanted) != 1:
            have = "no image" if not wanted else f"{len(wanted)} images"
            raise refusal(f"it has {have} for {_own_platform()} instead of one")
        (descriptor,) = wanted.values()
        manifest = self._decoded(self._blob(descriptor), Manifest, "the manifest")
        config = self._decoded(self._blob(manifest.config), Config, "the configuration")
        layers = [self._place_of(one) for one in manifest.layers]
        return self._found(layers, config)

    def of_docker(self) -> Found:
        images = self._decoded(self._whole(DOCKER), list[DockerImage], DOCKER)
        if len(images) != 1:
            raise refusal(f"it has {len(images)} images instead of one")
        config = self._decoded(self._whole(images[0].config), Config, "the configuration")
        return self._found([(*self._place(name), None) for name in images[0].layers], config)

    def _found(self, layers: list[tuple[int, int, str | None]], config: Config) -> Found:
        own = _own_platform()
        if (config.os or "linux", config.architecture or "unknown") != tuple(own.split("/")):
            raise refusal(f"it is for {config.os}/{config.architecture}, but this machine is {own}")
        diff_ids = config.rootfs.diff_ids
        if len(diff_ids) != len(layers):
            raise refusal(
                f"it has {len(layers)} layers, but its configuration lists {len(diff_ids)}"
            )
        made = (
            Layer(start, size, digest, _hexadecimal(diff_id))
            for (start, size, digest), diff_id in zip(layers, diff_ids, strict=True)
        )
        return Found(tuple(made), _environment(config))

    def _manifests(self, index: Index, depth: int = 0) -> Iterator[Descriptor]:
        """Yields the manifests of images for this machine, including those of nested indexes."""
        self._indexes += 1
        if depth > 2 or self._indexes > INDEXES_MAX:
            raise refusal("its indexes are nested too deeply")
        for manifest in index.manifests:
            if manifest.platform is not None and _told(manifest.platform) != _own_platform():
                continue
            if "index" in manifest.media_type or "manifest.list" in manifest.media_type:
                below = self._decoded(self._blob(manifest), Index, "an index")
                yield from self._manifests(below, depth + 1)
            else:  # the index names no platform; `_found` checks the platform in the configuration
                yield manifest

    # Bytes ---------------------------------------------------------------------------------------

    def _place(self, name: str) -> tuple[int, int]:
        place = self._places.get("/".join(archive_rules.parts_of(name)))
        if place is None:
            raise refusal("is missing in the archive", name)
        return place

    def _place_of(self, descriptor: Descriptor) -> tuple[int, int, str | None]:
        digest = _hexadecimal(descriptor.digest)
        start, size = self._place(f"blobs/sha256/{digest}")
        if size != descriptor.size:
            raise refusal(f"has {size} bytes instead of {descriptor.size}", descriptor.digest)
        return start, size, digest

    def _blob(self, descriptor: Descriptor) -> bytes:
        start, size, digest = self._place_of(descriptor)
        data = self._bytes(start, size)
        if hashlib.sha256(data).hexdigest() != digest:
            raise refusal("has another digest", descriptor.digest)
        return data

    def _whole(self, name: str) -> bytes:
        return self._bytes(*self._place(name))

    def _bytes(self, start: int, size: int) -> bytes:
        if size > JSON_MAX_BYTES:
            raise refusal(f"a description in it has more than {JSON_MAX_BYTES} bytes")
        self._file.seek(start)
        return self._file.read(size)

    def _decoded(self, data: bytes, kind: type[T], noun: str) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise refusal(f"{noun} is invalid: {error}") from None


def _hexadecimal(digest: str) -> str:
    match = DIGEST.fullmatch(digest)
    if match is None:
        raise refusal("is not a SHA-256 digest", digest)
    return match[1]


def _own_platform() -> str:
    return f"linux/{name_in_images(platform.machine())}"


def _told(platform: Platform) -> str:
    return f"{platform.os}/{platform.architecture}"


def _environment(config: Config) -> dict[str, str]:
    """Returns the valid environment variables of the image's configuration."""
    found: dict[str, str] = {}
    variables = None if config.config is None else config.config.env
    for variable in variables or ():
        name, equals, value = variable.partition("=")
        if equals and VARIABLE.fullmatch(name) and "\0" not in value:
            found[name] = value
    if (
        sum(len(name) + len(value.encode()) for name, value in found.items())
        > ENVIRONMENT_MAX_BYTES
    ):
        raise refusal(f"its variables have more than {ENVIRONMENT_MAX_BYTES} bytes")
    return found
