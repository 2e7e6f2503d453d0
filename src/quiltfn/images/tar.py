"""Reads a tar archive member by member, with limited memory.

The standard library decodes each header. This module finds the headers itself, because `tarfile`
treats a damaged header as the end of the archive and accepts extended headers of any size.
Formats: POSIX.1-2001 (pax), ustar, GNU long names.
"""

import gzip
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from enum import Enum, auto
from typing import BinaryIO

import msgspec

from quiltfn.images.archive_rules import refusal

BLOCK = 512
EXTENDED_MAX_BYTES = 64 * 1024
AFTER_END_MAX_BYTES = 1024 * 1024
CHUNK = 256 * 1024
LENGTH = re.compile(rb"([0-9]{1,7}) ")
EXTENDED = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
EXTENDED |= {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
USED = ("path", "linkpath", "size")
REFUSED = {
    tarfile.CHRTYPE: "is a device node",
    tarfile.BLKTYPE: "is a device node",
    tarfile.FIFOTYPE: "is a named pipe",
    tarfile.GNUTYPE_SPARSE: "is a sparse file: pack it without --sparse",
}


class Kind(Enum):
    """`SPECIAL`: a device node or a named pipe."""

    FILE = auto()
    DIRECTORY = auto()
    LINK = auto()
    HARD_LINK = auto()
    SPECIAL = auto()


KINDS = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.AREGTYPE: Kind.FILE,
    tarfile.CONTTYPE: Kind.FILE,
    tarfile.DIRTYPE: Kind.DIRECTORY,
    tarfile.SYMTYPE: Kind.LINK,
    tarfile.LNKTYPE: Kind.HARD_LINK,
}
SPECIAL = {tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE}


class Member(msgspec.Struct, frozen=True):
    """One entry of the archive. `name` and `target` are not checked yet."""

    name: str
    kind: Kind
    mode: int
    target: str
    size: int


class Source:
    """The decompressed bytes of an archive, limited to `limit` bytes and `headers_max` headers.
    `taken`, `headers`: the numbers of bytes and headers read so far.
    """

    def __init__(self, file: BinaryIO, limit: int, headers_max: int) -> None:
        self._file, self._limit, self._headers_max = file, limit, headers_max
        self.taken = self.headers = 0

    def read(self, size: int) -> bytes:
        """Reads up to `size` bytes; fewer only at the end. Raises `Unprocessable`."""
        try:
            data = self._file.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise refusal(f"its compression is damaged ({error})") from None
        self.taken += len(data)
        self._check()
        return data

    def _check(self) -> None:
        if self.taken > self._limit:
            raise refusal(f"the archive unpacks to more than {self._limit} bytes")

    def header(self) -> bytes:
        """Reads the block of the next header. Raises `Unprocessable`."""
        self.headers += 1
        if self.headers > self._headers_max:
            raise refusal("the archive has too many headers for the files that an image may have")
        return self.exactly(BLOCK)

    def exactly(self, size: int) -> bytes:
        """Reads exactly `size` bytes. Raises `Unprocessable` if the archive ends earlier."""
        data = self.read(size)
        if len(data) != size:
            raise refusal("the archive is truncated")
        return data

    def skip(self, size: int) -> None:
        """Skips `size` bytes and the padding after them. The file must be seekable."""
        whole = size + -size % BLOCK
        self.taken += whole
        self._check()
        self._file.seek(whole, os.SEEK_CUR)

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yields `size` bytes in pieces, and reads the padding after them."""
        left = size
        while left:
            piece = self.exactly(min(left, CHUNK))
            left -= len(piece)
            yield piece
        self.exactly(-size % BLOCK)


def members(source: Source, *, with_special: bool = False) -> Iterator[Member]:
    """Yields the members in order. Read the `pieces` of a file before the next member.
    `with_special`: yields device nodes and named pipes, too, instead of refusing them.

    Raises `Unprocessable` for anything but a complete tar archive.
    """
    common: dict[str, str] = {}
    own: dict[str, str] = {}
    while (header := _header(source)) is not None:
        if header.type in EXTENDED:
            if not 0 <= header.size <= EXTENDED_MAX_BYTES:
                raise refusal(f"an extended header has more than {EXTENDED_MAX_BYTES} bytes")
            data = b"".join(source.pieces(header.size))
            if header.type == tarfile.GNUTYPE_LONGNAME:
                own["path"] = _text(data.partition(b"\0")[0])
            elif header.type == tarfile.GNUTYPE_LONGLINK:
                own["linkpath"] = _text(data.partition(b"\0")[0])
            else:
                (common if header.type == tarfile.XGLTYPE else own).update(_records(data))
            continue
        yield _member(header, common | own, with_special=with_special)
        own = {}
    if own:
        raise refusal("the archive is truncated")
    _finish(source)


def _header(source: Source) -> tarfile.TarInfo | None:
    """Reads the next header; None at the archive's end."""
    block = source.header()
    if not any(block):
        return None
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError, OverflowError):
        raise refusal("it is not a tar archive, or it is damaged") from None


def _member(header: tarfile.TarInfo, extended: dict[str, str], *, with_special: bool) -> Member:
    name = extended.get("path", header.name)
    kind = KINDS.get(header.type)
    if with_special and header.type in SPECIAL:
        kind = Kind.SPECIAL
    if kind is None:
        raise refusal(REFUSED.get(header.type, "is of a type that an image cannot contain"), name)
    size = header.size
    if "size" in extended:
        if not re.fullmatch(r"[0-9]{1,18}", extended["size"]):
            raise refusal("has a size that is not a number", name)
        size = int(extended["size"])
    if size < 0:
        raise refusal("has a negative size", name)
    target = extended.get("linkpath", header.linkname)
    return Member(name, kind, header.mode, target, size if kind is Kind.FILE else 0)


def _records(data: bytes) -> dict[str, str]:
    """Parses a pax header, `length key=value\\n` repeated; returns only the fields in `USED`."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data) and data[at]:
        length = LENGTH.match(data, at)
        end = at + int(length[1]) if length else 0
        if length is None or not length.end() < end <= len(data) or data[end - 1] != 0x0A:
            raise refusal("an extended header is damaged")
        key, equals, value = data[length.end() : end - 1].partition(b"=")
        if not equals:
            raise refusal("an extended header is damaged")
        if key.startswith(b"GNU.sparse"):
            raise refusal("it has a sparse file: pack it without --sparse")
        name = _text(key)
        if name in USED:
            found[name] = _text(value)
        at = end
    return found


def _finish(source: Source) -> None:
    """Reads to the end of the file, so that the checksum of a compressed archive is verified."""
    left = AFTER_END_MAX_BYTES
    while piece := source.read(CHUNK):
        left -= len(piece)
        if left < 0:
            raise refusal("the archive has data after its end")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
