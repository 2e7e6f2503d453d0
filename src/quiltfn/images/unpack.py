"""Unpacks an archive to a tree of files. Archives with equal content give equal trees.

Rule 1: a file is created by descriptor, below a directory that this module made, without following
a link, and only if nothing exists there yet.
Rule 2: modes are 0755 and 0644, times are one constant, and the server owns the files, whatever the
archive says.
Rule 3: the digest is that of the sorted list of all entries, so equal trees have equal digests.
Rule 4: an entry costs at most one step per path component, and fewer if it shares directories with
the previous entry, since these stay open.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import closing

import msgspec

from quiltfn.images import archive_rules, tar
from quiltfn.images.tar import Kind, Member, Source

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MTIME_NS = (946_684_800 * 10**9,) * 2  # the year 2000: some tools reject times before 1980
# Bytes of an archive besides its files: headers and padding for each, and its end.
OVERHEAD_BYTES, OVERHEAD_EACH_BYTES = 2 * 1024 * 1024, 4096
# An entry has up to three headers: its own, and one each for a long name and a long target.
HEADERS_FREE, HEADERS_EACH = 10_000, 4


class ImageLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one image. `files_max` counts directories and links, too. `unpack_max_s`: seconds
    of CPU time.
    """

    unpacked_max_bytes: int = 2 * 1024 * 1024 * 1024
    files_max: int = 100_000
    unpack_max_s: int = 300

    @property
    def headers_max(self) -> int:
        """The limit on headers of an archive, or of all its layers together."""
        return HEADERS_FREE + HEADERS_EACH * self.files_max

    @property
    def archive_max_bytes(self) -> int:
        """The limit on the decompressed size of an archive."""
        return self.unpacked_max_bytes + OVERHEAD_BYTES + OVERHEAD_EACH_BYTES * self.files_max


class Tree(msgspec.Struct, frozen=True):
    """The result of unpacking. `files` counts files and links, `entries` also directories."""

    digest: str
    files: int
    entries: int
    size_bytes: int


class Unpacker:
    """Unpacks one archive into an empty directory. `root`: its descriptor. `check_link`: refuses
    symbolic links by path and target.
    """

    def __init__(
        self,
        root: int,
        limits: ImageLimits,
        check_link: Callable[[tuple[str, ...], str], None] = archive_rules.check_link,
    ) -> None:
        self._root, self._limits, self._check_link = root, limits, check_link
        # The entries so far: path → one letter for the kind, then the hash of a file or the target.
        self._found: dict[str, str] = {"": "d"}
        self._explicit: set[str] = set()
        self._size = 0
        # The open directories, from the root down to the last one used.
        self._open: list[tuple[str, int]] = []

    def unpack(self, source: Source) -> Tree:
        """Unpacks `source`. Raises `Unprocessable`; the caller then removes the partial result."""
        with closing(self):
            for member in tar.members(source):
                self.add(member, source)
            return self.finish()

    def close(self) -> None:
        """Closes all open directories. May be called repeatedly."""
        self._leave(0)

    def finish(self) -> Tree:
        """Returns the result once every member was added."""
        if len(self._found) == 1:
            raise archive_rules.refusal("it is empty")
        entries = sorted(self._found.items(), key=lambda entry: entry[0].encode())
        self._settle(path for path, what in entries if what == "d")
        listing = hashlib.sha256()
        for path, kind in entries:
            listing.update(f"{path}\0{kind}\n".encode())
        files = sum(1 for what in self._found.values() if what != "d")
        return Tree(listing.hexdigest(), files, len(self._found) - 1, self._size)

    def add(self, member: Member, source: Source) -> None:
        """Creates one member; reads the content of a file from `source`. Raises `Unprocessable`."""
        parts, name = archive_rules.parts_of(member.name), member.name
        archive_rules.check_no_whiteout(parts, name)
        archive_rules.check_mode(member.mode, name)
        path = "/".join(parts)
        if not parts and member.kind is not Kind.DIRECTORY:
            raise archive_rules.refusal("stands in for the whole image", name)
        if parts and (path in self._explicit or self._is_other(path, member.kind)):
            raise archive_rules.refusal("is there twice", name)
        self._explicit.add(path)
        self._make_directories(parts if member.kind is Kind.DIRECTORY else parts[:-1], name)
        match member.kind:
            case Kind.FILE:
                self._file(parts, member, source)
            case Kind.LINK:
                self._check_link(parts, member.target)
                self._count(path, f"l{member.target}")
                parent = self._opened(parts[:-1])
                os.symlink(member.target, parts[-1], dir_fd=parent)
                os.utime(parts[-1], ns=MTIME_NS, dir_fd=parent, follow_symlinks=False)
            case Kind.HARD_LINK:
                self._hard_link(parts, member)

    def _is_other(self, path: str, kind: Kind) -> bool:
        """Whether another member has the path; a directory may exist for its contents."""
        found = self._found.get(path)
        return found is not None and not (found == "d" and kind is Kind.DIRECTORY)

    def _make_directories(self, parts: tuple[str, ...], name: str) -> None:
        path, depth = "/".join(parts), len(parts)
        missing: list[str] = []
        while (found := self._found.get(path)) is None:  # parents of a directory are directories
            missing.append(path)
            depth -= 1
            path = path.rpartition("/")[0]
        if found != "d":
            thing = "a link" if found.startswith("l") else "a file"
            raise archive_rules.refusal(f"lies below {thing}", name)
        for path in reversed(missing):
            self._count(path, "d")
            os.mkdir(parts[depth], 0o755, dir_fd=self._opened(parts[:depth]))
            depth += 1

    def _file(self, parts: tuple[str, ...], member: Member, source: Source) -> None:
        self._size += member.size
        if self._size > self._limits.unpacked_max_bytes:
            most = self._limits.unpacked_max_bytes
            raise archive_rules.refusal(f"its files have more than {most} bytes")
        is_executable = bool(member.mode & 0o111)
        content = hashlib.sha256()
        parent = self._opened(parts[:-1])
        with open(os.open(parts[-1], NEW_FILE, 0o644, dir_fd=parent), "wb") as file:
            for piece in source.pieces(member.size):
                content.update(piece)
                file.write(piece)
            file.flush()
            os.fchmod(file.fileno(), 0o755 if is_executable else 0o644)
            os.utime(file.fileno(), ns=MTIME_NS)
        kind = "x" if is_executable else "f"
        self._count("/".join(parts), kind + content.hexdigest())

    def _hard_link(self, parts: tuple[str, ...], member: Member) -> None:
        """Links to an earlier file of this archive; any other target is refused."""
        if member.target.startswith("/") or ".." in member.target.split("/"):
            raise archive_rules.refusal(
                "is a hard link that leads outside of the image", member.name
            )
        target = archive_rules.parts_of(member.target)
        found = self._found.get("/".join(target), "")
        if found[:1] not in ("f", "x"):
            raise archive_rules.refusal(
                "is a hard link to no file that came before it", member.name
            )
        self._count("/".join(parts), found)
        theirs = os.dup(self._opened(target[:-1]))
        try:
            ours = self._opened(parts[:-1])
            os.link(
                target[-1], parts[-1], src_dir_fd=theirs, dst_dir_fd=ours, follow_symlinks=False
            )
        except OSError as error:
            if error.errno != errno.EMLINK:
                raise
            raise archive_rules.refusal("is a hard link beyond the limit", member.name) from None
        finally:
            os.close(theirs)

    def _count(self, path: str, kind: str) -> None:
        self._found[path] = kind
        if len(self._found) - 1 > self._limits.files_max:
            most = self._limits.files_max
            raise archive_rules.refusal(f"it has more than {most} files, directories and links")

    def _opened(self, parts: tuple[str, ...]) -> int:
        """A descriptor of the directory at `parts`, opened step by step without following links. It
        stays open until the next call.
        """
        shared = 0
        for part, (name, _) in zip(parts, self._open, strict=False):
            if part != name:
                break
            shared += 1
        self._leave(shared)
        for part in parts[shared:]:
            self._open.append((part, os.open(part, DIRECTORY, dir_fd=self._lowest())))
        return self._lowest()

    def _lowest(self) -> int:
        return self._open[-1][1] if self._open else self._root

    def _leave(self, depth: int) -> None:
        """Closes the directories below `depth`."""
        while len(self._open) > depth:
            os.close(self._open.pop()[1])

    def _settle(self, directories: Iterable[str]) -> None:
        """Sets modes and times of directories last: each new entry changes its directory's time."""
        for path in directories:
            directory = self._opened(tuple(path.split("/")) if path else ())
            os.fchmod(directory, 0o755)
            os.utime(directory, ns=MTIME_NS)
