"""Merges the layers of a root file system in memory. Pure: it decides which members remain, by
their names, kinds and sizes.

Rule 1: every path is resolved here, inside the tree: a link among the parents of a member is
followed within the tree, and `..` stops at its root, so the parents of the result are real
directories.
Rule 2: a layer replaces and removes entries of lower layers; within a layer no entry occurs twice.
Rule 3: set-user-ID bits and special files are dropped: modes become the same as in any image.
Rule 4: the work is limited: the steps of members' paths and links, and the entries scanned for
removals. Otherwise a small archive could take hours.
"""

from collections.abc import Iterator

import msgspec

from quiltfn.images import archive_rules
from quiltfn.images.archive_rules import WHITEOUT, refusal
from quiltfn.images.tar import Kind, Member

LAYERS_MAX = 128
# The limit on links followed in one path, as in the kernel.
LINKS_MAX = 40
# Limits the members of all layers: this number for each entry that may remain.
MEMBERS_FOR_EACH = 4
# Limits the steps of paths and scanned entries: the first number for each entry that may remain,
# and the second number in addition.
STEPS_FOR_EACH, STEPS_FREE = 128, 100_000
OPAQUE = WHITEOUT + WHITEOUT + ".opq"
EXECUTABLE, PLAIN = 0o755, 0o644


class FileData(msgspec.Struct, frozen=True):
    """The bytes of a file: a reference to a member of a layer, by index."""

    layer: int
    member: int
    size: int
    mode: int


class File(msgspec.Struct):
    """`layer`: the layer that created this name of the file."""

    layer: int
    content: FileData


class Link(msgspec.Struct):
    layer: int
    target: str


class Directory(msgspec.Struct):
    layer: int
    children: dict[str, "Node"] = msgspec.field(default_factory=dict)


Node = File | Link | Directory


class Layers:
    """`files_max`: how many files, links and directories may remain. `has_whiteouts`: a layer may
    remove entries of lower ones; with only one layer, whiteouts have no meaning.
    """

    def __init__(self, files_max: int, *, has_whiteouts: bool) -> None:
        self._files_max, self._has_whiteouts = files_max, has_whiteouts
        self._root = Directory(-1)
        self._layer = self._members = -1
        self._seen = 0
        self._steps_left = STEPS_FOR_EACH * files_max + STEPS_FREE
        # For the current layer: directories whose lower content was removed, and dropped members.
        self._opaque: set[int] = set()
        self._dropped: set[tuple[int, str]] = set()

    def begin_layer(self) -> None:
        """Begins the next layer."""
        self._layer += 1
        self._members = -1
        self._opaque.clear()
        self._dropped.clear()
        if self._layer >= LAYERS_MAX:
            raise refusal(f"it has more than {LAYERS_MAX} layers")

    def add(self, member: Member) -> None:
        """Adds a member. Raises `Unprocessable`."""
        self._members += 1
        self._seen += 1
        if self._seen > MEMBERS_FOR_EACH * self._files_max:
            raise refusal(f"its layers have more than {MEMBERS_FOR_EACH * self._files_max} members")
        parts = archive_rules.parts_of(member.name)
        if not parts:
            if member.kind is not Kind.DIRECTORY:
                raise refusal("stands in for the whole image", member.name)
            return
        if not self._has_whiteouts:
            archive_rules.check_no_whiteout(parts, member.name)
        elif any(part.startswith(WHITEOUT) for part in parts[:-1]):
            raise refusal("lies below a whiteout", member.name)
        name = parts[-1]
        if name.startswith(WHITEOUT) and name != OPAQUE:
            self._whiteout(self._find(parts[:-1]), name, member)
            return
        parent = self._directory(parts[:-1], member.name)
        if name == OPAQUE:
            self._make_opaque(parent)
        elif member.kind is Kind.SPECIAL:
            self._clear(parent, name, member.name)
            self._dropped.add((id(parent), name))
        elif member.kind is Kind.DIRECTORY:
            self._add_directory(parent, name, member)
        elif member.kind is Kind.HARD_LINK:
            self._add_hard_link(parent, name, member)
        elif member.kind is Kind.LINK:
            archive_rules.check_target(parts, member.target)
            self._clear(parent, name, member.name)
            parent.children[name] = Link(self._layer, member.target)
        else:
            self._clear(parent, name, member.name)
            mode = EXECUTABLE if member.mode & 0o111 else PLAIN
            content = FileData(self._layer, self._members, member.size, mode)
            parent.children[name] = File(self._layer, content)

    def entries(self) -> Iterator[tuple[str, Node]]:
        """Yields the remaining entries with their paths; a directory precedes its contents. Raises
        `Unprocessable` if there are too many.
        """
        count = 0
        waiting: list[tuple[tuple[str, ...], Directory]] = [((), self._root)]
        while waiting:
            above, directory = waiting.pop()
            for name, node in directory.children.items():
                count += 1
                if count > self._files_max:
                    most = self._files_max
                    raise refusal(f"it has more than {most} files, directories and links")
                path = "/".join((*above, name))
                archive_rules.parts_of(path)  # links may have changed the path
                yield path, node
                if isinstance(node, Directory):
                    waiting.append(((*above, name), node))

    # One member ----------------------------------------------------------------------------------

    def _make_opaque(self, directory: Directory) -> None:
        """Removes lower layers' content from a directory, which then belongs to this layer."""
        directory.layer = self._layer
        if id(directory) not in self._opaque:
            self._opaque.add(id(directory))
            self._prune(directory)

    def _whiteout(self, parent: Directory | None, name: str, member: Member) -> None:
        """Removes an entry of lower layers. Other names of the form .wh..wh.… belong to a storage
        driver and have no meaning here.
        """
        if name.startswith(WHITEOUT + WHITEOUT):
            return
        removed = name.removeprefix(WHITEOUT)
        if removed in ("", ".", ".."):
            raise refusal("is a whiteout of nothing", member.name)
        node = None if parent is None else parent.children.get(removed)
        if isinstance(node, Directory):
            self._prune(node)
        if parent is not None and node is not None and self._is_lower(node):
            del parent.children[removed]

    def _prune(self, directory: Directory) -> None:
        """Removes the entries of lower layers from a directory, recursively."""
        self._spend(len(directory.children))
        for name, node in list(directory.children.items()):
            if isinstance(node, Directory):
                self._prune(node)
            if self._is_lower(node):
                del directory.children[name]

    def _is_lower(self, node: Node) -> bool:
        """Whether no part of a pruned node belongs to this layer."""
        return node.layer < self._layer and not (isinstance(node, Directory) and node.children)

    def _add_directory(self, parent: Directory, name: str, member: Member) -> None:
        node = parent.children.get(name)
        if isinstance(node, Directory):
            node.layer = self._layer
            return
        self._clear(parent, name, member.name)
        parent.children[name] = Directory(self._layer)

    def _add_hard_link(self, parent: Directory, name: str, member: Member) -> None:
        """Adds a further name of an earlier file."""
        if member.target.startswith("/") or ".." in member.target.split("/"):
            raise refusal("is a hard link that leads outside of the image", member.name)
        target = archive_rules.parts_of(member.target)
        above = self._find(target[:-1]) if target else None
        node = None if above is None else above.children.get(target[-1])
        if above is not None and node is None and (id(above), target[-1]) in self._dropped:
            self._clear(parent, name, member.name)
            self._dropped.add((id(parent), name))
            return
        if isinstance(node, File):
            content = node.content
            self._clear(parent, name, member.name)
            parent.children[name] = File(self._layer, content)
            return
        if isinstance(node, Link):  # links may have several names, too
            self._clear(parent, name, member.name)
            parent.children[name] = Link(self._layer, node.target)
            return
        raise refusal("is a hard link to no file that came before it", member.name)

    def _clear(self, parent: Directory, name: str, shown: str) -> None:
        """Removes an entry of a lower layer. Raises `Unprocessable` if it belongs to this layer."""
        node = parent.children.get(name)
        if isinstance(node, Directory):
            self._prune(node)
        if node is not None:
            if not self._is_lower(node):
                raise refusal("is there twice", shown)
            del parent.children[name]

    def _spend(self, steps: int) -> None:
        self._steps_left -= steps
        if self._steps_left < 0:
            raise refusal("its paths, links and whiteouts take too many steps to follow")

    # Paths ---------------------------------------------------------------------------------------

    def _directory(self, parts: tuple[str, ...], shown: str) -> Directory:
        """Returns the directory at a path, and creates missing ones."""
        found = self._walk(parts, shown, makes=True)
        assert found is not None
        return found

    def _find(self, parts: tuple[str, ...]) -> Directory | None:
        return self._walk(parts, "", makes=False)

    def _walk(self, parts: tuple[str, ...], shown: str, *, makes: bool) -> Directory | None:
        above = [self._root]
        left, links = list(reversed(parts)), 0
        self._spend(len(left))
        while left:
            part = left.pop()
            if part in ("", "."):
                continue
            if part == "..":
                above = above[:-1] or [self._root]
                continue
            node = above[-1].children.get(part)
            if isinstance(node, Link):
                links += 1
                if links > LINKS_MAX:
                    if makes:
                        raise refusal("lies below links that lead nowhere", shown)
                    return None
                if node.target.startswith("/"):
                    above = [self._root]
                target = node.target.split("/")
                self._spend(len(target))
                left += reversed(target)
                continue
            if not isinstance(node, Directory):
                if not makes:
                    return None
                node = self._make(above, part, node, shown)
            above.append(node)
        return above[-1]

    def _make(self, above: list[Directory], part: str, there: File | None, shown: str) -> Directory:
        if there is not None and there.layer == self._layer:
            raise refusal("lies below a file", shown)
        if len(above) > archive_rules.DEPTH_MAX:
            raise refusal(f"lies deeper than {archive_rules.DEPTH_MAX} directories", shown)
        made = Directory(self._layer)
        above[-1].children[part] = made
        return made
