"""Unpacks a root file system: merges the layers of an archive (`layers.py`), and writes the result
by the rules for all images (`unpack.py`).

The layers are read twice: first to find the entries that remain and to verify the digests, then to
write. So entries that a later layer removes, and layers with a wrong digest, are never written.
"""

import gzip
import hashlib
import io
from collections import defaultdict
from contextlib import closing
from typing import BinaryIO, cast

import msgspec
from msgspec.structs import replace

from quiltfn.images import archive_rules, oci_archive, tar
from quiltfn.images.archive_rules import refusal
from quiltfn.images.layers import Directory, File, FileData, Layers
from quiltfn.images.oci_archive import Layer
from quiltfn.images.tar import CHUNK, Kind, Member, Source
from quiltfn.images.unpack import ImageLimits, Tree, Unpacker

GZIP = b"\x1f\x8b"
OTHERS = {b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
# The limit on an unpacked layer: RATIO_FREE_BYTES plus RATIO_MAX times its compressed size.
RATIO_MAX, RATIO_FREE_BYTES = 200, 64 * 1024 * 1024
NOTHING = Source(io.BytesIO(), 0, 0)


class Unpacked(msgspec.Struct, frozen=True, tag=True):
    """`environment`: the variables in the image's configuration. `interpreters`: as in `Image`."""

    tree: Tree
    environment: dict[str, str] = {}
    interpreters: dict[str, str] = {}


def unpack_tar(file: BinaryIO, root: int, limits: ImageLimits) -> Unpacked:
    """Unpacks a single archive of a complete root file system, plain or compressed, into the empty
    directory of the descriptor `root`. Raises `Unprocessable`. Blocks.
    """
    size = file.seek(0, io.SEEK_END)
    layer = Layer(0, size, None, "")
    return Unpacked(_Plan(file, (layer,), limits, has_whiteouts=False).unpack(root))


def unpack_image(file: BinaryIO, root: int, limits: ImageLimits) -> Unpacked:
    """Like `unpack_tar`, for the only image of an archive. Raises `Unprocessable`. Blocks."""
    found = oci_archive.find(file, limits.archive_max_bytes)
    plan = _Plan(file, found.layers, limits, has_whiteouts=True)
    return Unpacked(plan.unpack(root), found.environment)


class _Plan:
    """Merges the layers in a file, and writes the result."""

    def __init__(
        self, file: BinaryIO, layers: tuple[Layer, ...], limits: ImageLimits, *, has_whiteouts: bool
    ) -> None:
        self._file, self._layers, self._limits = file, layers, limits
        self._has_whiteouts = has_whiteouts
        self._left, self._headers_left = limits.archive_max_bytes, limits.headers_max

    def unpack(self, root: int) -> Tree:
        with closing(Unpacker(root, self._limits, archive_rules.check_target)) as unpacker:
            return self._unpack(unpacker)

    def _unpack(self, unpacker: Unpacker) -> Tree:
        names: defaultdict[FileData, list[str]] = defaultdict(list)
        for path, node in self._merged().entries():
            if isinstance(node, File):
                names[node.content].append(path)
            elif isinstance(node, Directory):
                unpacker.add(Member(path, Kind.DIRECTORY, 0o755, "", 0), NOTHING)
            else:
                unpacker.add(Member(path, Kind.LINK, 0o777, node.target, 0), NOTHING)
        size = sum(content.size for content in names)
        if size > self._limits.unpacked_max_bytes:
            raise refusal(f"its files have more than {self._limits.unpacked_max_bytes} bytes")
        self._left = self._limits.archive_max_bytes
        self._headers_left = self._limits.headers_max
        for number, layer in enumerate(self._layers):
            self._write(number, layer, names, unpacker)
        return unpacker.finish()

    def _merged(self) -> Layers:
        merged = Layers(self._limits.files_max, has_whiteouts=self._has_whiteouts)
        for layer in self._layers:
            merged.begin_layer()
            source = self._opened(layer)
            for member in tar.members(source, with_special=True):
                merged.add(member)
                _pass_over(source, member)
            if layer.diff_id:
                source.check(layer)
            self._spend(source)
        return merged

    def _write(
        self,
        number: int,
        layer: Layer,
        names: dict[FileData, list[str]],
        unpacker: Unpacker,
    ) -> None:
        wanted = {one.member: one for one in names if one.layer == number}
        if not wanted:
            return
        source = self._opened(layer)
        for place, member in enumerate(tar.members(source, with_special=True)):
            content = wanted.pop(place, None)
            if content is None:
                _pass_over(source, member)
                continue
            first, *others = names[content]
            unpacker.add(replace(member, name=first, mode=content.mode), source)
            for other in others:
                unpacker.add(Member(other, Kind.HARD_LINK, content.mode, first, 0), NOTHING)
            if not wanted:
                break
        self._spend(source)

    def _opened(self, layer: Layer) -> "_LayerSource":
        most = min(self._left, RATIO_FREE_BYTES + RATIO_MAX * layer.size)
        return _LayerSource(_Slice(self._file, layer.start, layer.size), most, self._headers_left)

    def _spend(self, source: Source) -> None:
        self._left -= source.taken
        self._headers_left -= source.headers


def _pass_over(source: Source, member: Member) -> None:
    for _ in source.pieces(member.size):
        pass


class _Slice(io.RawIOBase):
    """A part of a file, read once from beginning to end. `digest`: of the bytes read so far."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._at, self._end = file, start, start + size
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        self._file.seek(self._at)
        data = self._file.read(min(len(buffer), self._end - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        self.digest.update(data)
        return len(data)


class _LayerSource(Source):
    """The decompressed bytes of a layer."""

    def __init__(self, part: _Slice, limit: int, headers_max: int) -> None:
        self._packed = io.BufferedReader(part, CHUNK)
        self._part, self._unpacked = part, hashlib.sha256()
        head = self._packed.peek(8)
        for magic, name in OTHERS.items():
            if head.startswith(magic):
                raise refusal(f"it is compressed with {name}: upload it uncompressed or with gzip")
        file: object = self._packed
        if head.startswith(GZIP):
            file = gzip.GzipFile(fileobj=self._packed, mode="rb")
        super().__init__(cast("BinaryIO", file), limit, headers_max)

    def read(self, size: int) -> bytes:
        data = super().read(size)
        self._unpacked.update(data)
        return data

    def check(self, layer: Layer) -> None:
        """Refuses a layer whose digests differ from the image's. Call it at the layer's end."""
        while self._packed.read(CHUNK):
            pass
        if layer.digest not in (None, self._part.digest.hexdigest()):
            raise refusal("has another digest", f"sha256:{layer.digest}")
        if layer.diff_id != self._unpacked.hexdigest():
            raise refusal("unpacks to another digest", f"sha256:{layer.diff_id}")
