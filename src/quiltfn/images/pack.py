"""Packs an image into the archive from which `unpack` makes an equal tree, with the same digest.

Rule 1: only entries that `unpack` creates are packed: links are not followed, and exactly the bytes
announced in a file's header are read.
Rule 2: a file with several names is packed once, so that the archive is not larger than the image.
"""

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from quiltfn.images.tar import BLOCK, CHUNK

FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
END = bytes(2 * BLOCK)


def packed(root: Path) -> Iterator[bytes]:
    """Yields a tar archive (POSIX.1-2001) of all entries below `root`, in pieces of some 256 KiB.
    Blocks. Raises `OSError`, also if a file changes meanwhile.
    """
    held = bytearray()
    for piece in _members(root):
        held += piece
        if len(held) >= CHUNK:
            yield bytes(held)
            held.clear()
    yield bytes(held + END)


def _members(root: Path) -> Iterator[bytes]:
    # For each file with several names, the path that was packed first.
    first_names: dict[tuple[int, int], str] = {}
    for where, directories, files, descriptor in os.fwalk(root, follow_symlinks=False):
        directories.sort()
        below = Path(where).relative_to(root)
        for name in sorted([*directories, *files]):
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            member = tarfile.TarInfo(str(below / name))
            member.mode = 0o755 if status.st_mode & 0o100 else 0o644
            if stat.S_ISDIR(status.st_mode):
                member.type = tarfile.DIRTYPE
            elif stat.S_ISLNK(status.st_mode):
                member.type = tarfile.SYMTYPE
                member.linkname = os.readlink(name, dir_fd=descriptor)
            else:
                first = first_names.setdefault((status.st_dev, status.st_ino), member.name)
                if first == member.name:
                    yield from _file(name, descriptor, member)
                    continue
                member.type, member.linkname = tarfile.LNKTYPE, first
            yield _header(member)


def _file(name: str, directory: int, member: tarfile.TarInfo) -> Iterator[bytes]:
    with open(os.open(name, FILE, dir_fd=directory), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{member.name} is not a file any more")
        member.size = left = status.st_size
        yield _header(member)
        while left:
            piece = file.read(min(left, CHUNK))
            if not piece:
                raise OSError(f"{member.name} has become shorter")
            left -= len(piece)
            yield piece
    yield bytes(-member.size % BLOCK)


def _header(member: tarfile.TarInfo) -> bytes:
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
