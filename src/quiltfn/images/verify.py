"""Checks whether images on disk still match their names. Changes nothing.

An image is named by the digest of a list of its entries, which `unpack` computes. This module
computes the digest again from the files on disk.
"""

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from quiltfn.images.pack import FILE

DIGEST = re.compile(r"[0-9a-f]{64}")


def stored(images: Path) -> list[Path]:
    """Returns the images in a directory; none if it does not exist."""
    with suppress(FileNotFoundError):
        return sorted(one for one in images.iterdir() if DIGEST.fullmatch(one.name))
    return []


def is_damaged(image: Path) -> bool:
    """Whether an image has changed or cannot be read. False if it was removed during the check."""
    try:
        return digest_of(image) != image.name and image.is_dir()
    except OSError:
        return image.is_dir()


def digest_of(root: Path) -> str:
    """Computes the digest of the current files. Blocks. Raises `OSError`."""
    listing = hashlib.sha256()
    for path, kind in sorted(_entries(root)):
        listing.update(path + b"\0" + kind + b"\n")
    return listing.hexdigest()


def _entries(root: Path) -> Iterator[tuple[bytes, bytes]]:
    # Hashes by inode: a file with several names is read once.
    known: dict[tuple[int, int], bytes] = {}
    yield b"", b"d"
    for where, directories, files, at in os.fwalk(os.fsencode(root), onerror=_raise):
        below = os.path.relpath(where, os.fsencode(root))
        for name in (*directories, *files):
            status = os.stat(name, dir_fd=at, follow_symlinks=False)
            path = os.path.normpath(os.path.join(below, name))
            if stat.S_ISDIR(status.st_mode):
                yield path, b"d"
            elif stat.S_ISLNK(status.st_mode):
                yield path, b"l" + os.readlink(name, dir_fd=at)
            else:
                key = status.st_dev, status.st_ino
                known[key] = known.get(key) or _file(name, at)
                yield path, known[key]


def _file(name: bytes, directory: int) -> bytes:
    with open(os.open(name, FILE, dir_fd=directory), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a file")
        kind = b"x" if status.st_mode & 0o111 else b"f"
        return kind + hashlib.file_digest(file, "sha256").hexdigest().encode()


def _raise(error: OSError) -> None:
    raise error
