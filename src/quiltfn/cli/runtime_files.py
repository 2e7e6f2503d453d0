"""The files of a runtime, uploaded as two images: the code of a directory, and its packages.

Packages have a key, which identifies their list and the Python that they were installed for. If a
runtime on the server has packages with the same key, they are neither installed nor uploaded again.
So after an edit only the code is uploaded, and runtimes that need the same packages share them.
Whoever adds a runtime chooses its key, so a tenant could give bad packages the key of good ones.
Therefore, a runtime for all tenants reuses packages only from other runtimes for all tenants, which
only operators add, and its key also identifies the content of the packages.
"""

import hashlib
import platform
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from quiltfn.cli import lock_files, manifest, packages, progress, show, tree
from quiltfn.cli.packages import Target
from quiltfn.cli.parsing import BadParameter
from quiltfn.cli.requirements import local_wheel
from quiltfn.cli.session import Session
from quiltfn.sdk import Image
from quiltfn.sdk.transport import is_loopback
from quiltfn.wire import Kind

# The kinds with Python packages, and those with Node.js packages.
WITH_PYTHON, WITH_NODE = (Kind.PYTHON, Kind.SERVER), (Kind.NODE, Kind.SERVER)
# Change this value if the same lists result in different files, such as after a change of
# compilation.
LAYOUT = "1"
# The number of digits of the packages' digest in a key, which has at most 128 characters.
BOUND_DIGITS = 32
# Overhead of each member of an archive: its header, and the padding of its last block.
HEADER_BYTES = 1024
GLIBC = re.compile(r"glibc 2\.([0-9]{1,3})(\..*)?")


class Source(Struct, frozen=True, kw_only=True):
    """The origin of a runtime's files. `requirements`: the file that lists Python packages.
    `shared`: whether the runtime is for all tenants. `is_fresh`: whether to install packages again
    even if the server has some with the same key.
    """

    kind: Kind
    directory: Path | None
    requirements: Path | None = None
    shared: bool = False
    is_fresh: bool = False

    @property
    def installers(self) -> tuple[Kind, ...]:
        """The kinds of packages to install: Python's, Node.js's, both for a web server, or none."""
        found = [Kind.PYTHON] if self.requirements is not None else []
        if self.kind in WITH_NODE and self.directory is not None:
            found += [Kind.NODE] if (self.directory / manifest.MANIFEST).is_file() else []
        return tuple(found)


class Uploaded(Struct, kw_only=True):
    """`fields`: the fields of a new runtime that name the images. `sent`: what was uploaded."""

    fields: dict[str, Any] = {}
    sent: list[Image] = []

    def said(self) -> str:
        """A description of what was uploaded."""
        files = show.amount(sum(one.files for one in self.sent), "file")
        return f"{files}, {show.size(sum(one.size_bytes for one in self.sent))}"


def upload(
    at: Session, source: Source, python: Callable[[], Target | None] | None = None
) -> Uploaded:
    """Build and upload the images that the server lacks. `python`: returns the Python that runs the
    handlers, or None if it is unknown; without this function, it is the Python of the server's
    machine. Raises `BadParameter` and the client's errors.
    """
    done = Uploaded()
    if source.directory is None and source.requirements is None:
        return done
    if source.kind in WITH_PYTHON and source.requirements is None and source.directory is not None:
        _tell_of_other_lists(source.directory)
    target = None
    if source.kind is Kind.PYTHON or source.requirements is not None:
        target = target_of(at) if python is None else python()
        if target is None and source.requirements is not None:
            raise BadParameter(
                "packages require --image or --rootfs instead of --base-image, whose Python is "
                "unknown here"
            )
    with tempfile.TemporaryDirectory(prefix="quiltfn-") as made:
        code = Path(made) / "code"
        if source.directory is not None:  # first, since this refuses links that lead out
            tree.copy(source.directory, code, with_modules=Kind.NODE not in source.installers)
        if source.installers:
            _add_packages(at, source, target, Path(made) / "packages", done)
        if source.directory is not None:
            _compile(code, target)
            _send(at, code, "image", done)
    return done


def _tell_of_other_lists(directory: Path) -> None:
    """Print a note if a directory lists packages in an unsupported format."""
    other = lock_files.find_other(directory)
    if other is not None:
        names = ", ".join(lock_files.NAMES)
        show.note(
            f"no packages are installed: {other} is not supported; export it as one of {names}"
        )


def _add_packages(
    at: Session, source: Source, target: Target | None, place: Path, done: Uploaded
) -> None:
    key = key_of(source, target)
    known = None if source.is_fresh else _found(at, key, shared=source.shared)
    if key is not None and known is not None:
        done.fields |= {"packages": known, "packages_key": _stored(key, known, source.shared)}
        return
    place.mkdir()
    if target is not None and source.requirements is not None:
        with progress.step(f"installing the packages of {source.requirements.name}"):
            packages.install_python(source.requirements, place, target)
        with progress.step("compiling modules"):
            _compile(place, target)
    if source.directory is not None and Kind.NODE in source.installers:
        with progress.step(f"installing the packages of {manifest.MANIFEST}"):
            _install_node(source.directory, place)
    if not any(place.iterdir()):
        return
    _send(at, place, "packages", done)
    if key is not None:
        done.fields["packages_key"] = _stored(key, done.fields["packages"], source.shared)


def _install_node(directory: Path, place: Path) -> None:
    """Install the Node.js packages of `directory`, and move only its node_modules to `place`."""
    manifest.check(directory)  # errors for the copy would name a path that the user doesn't know
    with tempfile.TemporaryDirectory(prefix="quiltfn-") as made:
        copy = Path(made) / "tree"
        tree.copy(directory, copy, with_modules=False)
        packages.install_node(copy)
        if (copy / tree.MODULES).is_dir():
            (copy / tree.MODULES).rename(place / tree.MODULES)


def key_of(source: Source, target: Target | None) -> str | None:
    """The key of the packages that would be installed. None: they depend on more than the files
    that list them. Raises `BadParameter`.
    """
    installers = source.installers
    digest = hashlib.sha256(f"{LAYOUT}\0{target}\0".encode())
    if Kind.NODE in installers or target is None or target.glibc is None:
        digest.update(
            f"{platform.system()} {platform.machine()}\0".encode()
        )  # packages are for this machine
    if source.requirements is not None:
        for line in lock_files.read(source.requirements).text.splitlines():
            wheel, named = local_wheel(line), line
            if wheel is not None:  # identified by its content instead of its path
                digest.update(_content(wheel))
                named = line.replace(str(wheel), wheel.name, 1)
            digest.update(f"{named}\n".encode())
    if source.directory is not None and Kind.NODE in installers:
        for path in manifest.files_of(source.directory):
            content = _content(path)
            if b'"file:' in content:
                return None
            digest.update(f"\0{path.name}\0".encode() + content)
    return f"{'+'.join(installers)}:{digest.hexdigest()}"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadParameter(f"{path} cannot be read: {error.strerror}") from None


def _found(at: Session, key: str | None, *, shared: bool) -> str | None:
    """The digest of packages with this key that the new runtime may use."""
    if key is None:
        return None
    for runtime in at.client.runtimes.list():
        packages = runtime.packages if runtime.shared == shared else None
        if packages is not None and runtime.packages_key == _stored(key, packages, shared):
            return packages
    return None


def _stored(key: str, packages: str, shared: bool) -> str:
    """The key as stored in a runtime. For a runtime of all tenants, the key includes the packages'
    digest. Keys without it are not used: an earlier release could give one to a tenant's packages.
    """
    return f"{key}@{packages[:BOUND_DIGITS]}" if shared else key


def _compile(files: Path, target: Target | None) -> None:
    if target is not None and not packages.compile_python(files, target.interpreter):
        word = Path(target.interpreter).name
        show.note(
            f"there is no {word} here, so nothing is compiled: the first import of each module is "
            "slow"
        )


def _send(at: Session, files: Path, name: str, done: Uploaded) -> None:
    """Upload a tree. It is compressed if it goes to another machine, or would be too long."""
    length = _checked_length(at, files)
    is_far = not is_loopback(urlsplit(at.client.base_url).hostname or "")
    is_long = length > at.info.limits.get("image_upload_bytes", length)
    archive = files.with_name(f"{files.name}.tar{'.gz' if is_far or is_long else ''}")
    with progress.counted(f"packing the {files.name}", length) as packed:
        tree.pack(files, archive, packed)
    image = at.upload(archive)
    archive.unlink()
    done.fields[name] = image.digest
    done.sent.append(image)


def _checked_length(at: Session, files: Path) -> int:
    """The approximate size of the archive in bytes. Raises `BadParameter` if the server would
    refuse it, before anything is packed.
    """
    count = size = 0
    for path in tree.walk(files):
        count += 1
        size += path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
    for limit, found, noun, setting in (
        ("image_files", count, "files, directories and links", "image_files_max"),
        ("image_bytes", size, "bytes", "image_max_bytes"),
    ):
        most = at.info.limits.get(limit)
        if most is not None and found > most:
            raise BadParameter(
                f"the {files.name} has {found} {noun}, but the server accepts {most:.0f} (its "
                f"setting {setting})"
            )
    return size + HEADER_BYTES * count


def target_of(at: Session) -> Target:
    """The Python of the server's sandboxes. Raises `BadParameter` if there is none."""
    interpreter = at.info.interpreters.get("python")
    if interpreter is None:
        raise BadParameter("the server's machine has no Python for runtimes")
    known = GLIBC.fullmatch(at.info.libc or "")
    return Target(
        interpreter=interpreter,
        architecture=at.processor,
        glibc=int(known[1]) if known else None,
    )
