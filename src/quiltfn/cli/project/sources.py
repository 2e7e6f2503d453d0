"""The files of a project, and the runtimes that are created from them.

A runtime's name is derived from its content: settings, code, packages, and root file system. So a
function's code has changed if and only if the function names another runtime. One request finds out
which runtimes the functions use, and a runtime that exists is not created again.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from quiltfn.cli import lock_files, runtime_files, runtimes, tree
from quiltfn.cli.parsing import BadParameter
from quiltfn.cli.project.file import HOW, NOT_CODE, FunctionTable, ProjectFile
from quiltfn.cli.project.plan import RUNTIME_SETTINGS, DesiredFunction, DesiredState
from quiltfn.cli.requirements import local_wheel
from quiltfn.cli.session import Session
from quiltfn.cli.tree import is_outside
from quiltfn.wire import Kind, NewRuntime

# Change this value to create new runtimes from unchanged files.
LAYOUT = 1
PIECE = 1 << 20


class Sources:
    """A copy of a project's current files: files that change meanwhile are compared and uploaded in
    the same state.

    `place`: an empty directory for the copies. `left_out`: names of files that are not code.
    """

    def __init__(
        self,
        at: Session,
        file: ProjectFile,
        place: Path,
        left_out: tuple[str, ...] = (),
        *,
        allows_outside: bool = False,
    ) -> None:
        self._at, self._file, self._place = at, file, place
        self._left_out = (*NOT_CODE, *left_out)
        self._allows_outside = allows_outside
        self._copies: dict[tuple[Path, bool], tuple[Path, str]] = {}
        # Sources by the name of the runtime that is created from them.
        self._made: dict[str, tuple[runtime_files.Source, runtimes.BaseOptions]] = {}

    def wanted(self) -> DesiredState:
        """The desired state of the server. Raises `BadParameter`."""
        functions = {name: self._function(one) for name, one in self._file.functions.items()}
        return DesiredState(project=self._file.project, functions=functions)

    def upload(self, runtime: NewRuntime) -> dict[str, Any]:
        """Upload the files of a runtime; return all its fields. Raises `BadParameter` and the
        client's errors.
        """
        source, base = self._made[runtime.name]
        settings = {name: getattr(runtime, name) for name in ("name", *RUNTIME_SETTINGS)}
        return settings | runtimes.made_of(self._at, source, base).fields

    def _function(self, table: FunctionTable) -> DesiredFunction:
        if table.runtime is None:
            return table
        runtime = self._runtime(table, table.runtime)
        return replace(table, new=replace(table.new, runtime=runtime.name), runtime=runtime)

    def _runtime(self, table: FunctionTable, settings: NewRuntime) -> NewRuntime:
        files, kind, digest = table.files, Kind(settings.kind), None
        requirements, directory = self._requirements(table, kind), None
        if requirements is not None and not self._allows_outside:
            self._check_inside(table.new.name, requirements)
        if files.code is not None:
            code = (self._file.directory / files.code).resolve()
            has_packages = kind in runtime_files.WITH_NODE and (code / "package.json").is_file()
            directory, digest = self._copied(code, with_modules=not has_packages)
        source = runtime_files.Source(kind=kind, directory=directory, requirements=requirements)
        image, root = self._image(files.image)
        target = None
        if requirements is not None and image is None:
            target = runtime_files.target_of(self._at)
        settings_of = {name: getattr(settings, name) for name in RUNTIME_SETTINGS}
        packages = runtime_files.key_of(source, target) if source.installers else None
        content = [LAYOUT, settings_of, digest, packages, root]
        key = hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:16]
        name = f"{self._file.project}.{kind.value}-{key}"
        self._made[name] = source, runtimes.BaseOptions(image=image)
        return replace(settings, name=name, packages_key=packages)

    def _requirements(self, table: FunctionTable, kind: Kind) -> Path | None:
        files, directory = table.files, self._file.directory
        takes_them = kind in runtime_files.WITH_PYTHON
        if files.requirements is not None:
            if not takes_them:
                raise BadParameter(
                    f"[functions.{table.new.name}] requirements requires one of the kinds "
                    f"{' and '.join(runtime_files.WITH_PYTHON)}"
                )
            return directory / files.requirements
        if takes_them and files.code is not None:
            return lock_files.find(directory / files.code)
        return None

    def _check_inside(self, function: str, requirements: Path) -> None:
        """Raise `BadParameter` if the list of packages, or a wheel that it names, is outside of the
        project's directory.
        """
        directory = self._file.directory.absolute()
        paths = [requirements.absolute()]
        if requirements.name == lock_files.UV_LOCK:  # uv reads it together with pyproject.toml
            paths.append(paths[0].with_name(lock_files.PROJECT))
        if not any(is_outside(directory, path) for path in paths):
            lines = lock_files.read(requirements).text.splitlines()
            paths += filter(None, map(local_wheel, lines))
        for path in paths:
            if is_outside(directory, path):
                raise BadParameter(
                    f"[functions.{function}] packages must be in the project's directory, "
                    f"not at {os.path.normpath(path)}; {HOW}"
                )

    def _image(self, image: str | None) -> tuple[str | None, str | None]:
        """The source of a root file system, and its identifier."""
        if image is None:
            return None, None
        path = self._file.directory / image
        if path.is_file():
            return str(path), _digest_of_file(path)
        if path.is_dir():
            return str(path), digest_of(path)
        return image, image

    def _copied(self, code: Path, *, with_modules: bool) -> tuple[Path, str]:
        known = self._copies.get((code, with_modules))
        if known is None:
            copy = self._place / str(len(self._copies))
            tree.copy(code, copy, with_modules=with_modules, left_out=self._left_out)
            known = copy, digest_of(copy)
            self._copies[code, with_modules] = known
        return known


def digest_of(directory: Path) -> str:
    """A hash of a tree: names, contents, links, and executable bits."""
    digest = hashlib.sha256()
    for path in tree.walk(directory):
        relative = path.relative_to(directory).as_posix()
        if path.is_symlink():
            entry = [relative, "link", os.readlink(path)]
        elif path.is_dir():
            entry = [relative, "directory"]
        else:
            is_program = bool(path.stat().st_mode & 0o100)
            entry = [relative, "program" if is_program else "file", _digest_of_file(path)]
        digest.update(msgspec.json.encode([os.fsencode(one) for one in entry]))
    return digest.hexdigest()


def _digest_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
    except OSError as error:
        raise BadParameter(f"{path} cannot be read: {error.strerror}") from None
    return digest.hexdigest()


def runtimes_of(wanted: DesiredState) -> Mapping[str, NewRuntime]:
    """The runtimes that are created for a project, by name."""
    made = [one.runtime for one in wanted.functions.values() if one.runtime is not None]
    return {one.name: one for one in made}
