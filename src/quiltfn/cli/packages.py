"""Installs packages into a runtime's tree without running any of their code.

Only wheels are installed, and npm packages without their install scripts. The installers start no
other program, run in an empty directory, and get only some environment variables: those for
registries, proxies and caches, those that any program may need, and those that the user's .npmrc
names.
"""

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from msgspec import Struct

from quiltfn.cli import lock_files, manifest, show, tools
from quiltfn.cli.parsing import BadParameter

PACKAGES = "site-packages"
MANY_MODULES = 100
# The minor versions of glibc that uv has a name for.
UV_GLIBC = (17, 28, *range(31, 41))
# The environment variables that installers get besides those that the user's .npmrc names: for
# registries, proxies and caches, and those that any program may need. The value of any other could
# be sent to the address that someone else's npm settings name.
PASSED_ON = re.compile(
    r"PIP_(INDEX_URL|EXTRA_INDEX_URL|NO_INDEX|FIND_LINKS|TRUSTED_HOST|CERT|CLIENT_CERT|PROXY|RETRIES"
    r"|TIMEOUT|DEFAULT_TIMEOUT|CACHE_DIR|NO_CACHE_DIR|CONFIG_FILE)"
    r"|UV_(INDEX|INDEX_.*|DEFAULT_INDEX|EXTRA_INDEX_URL|NO_INDEX|FIND_LINKS|INSECURE_HOST|NATIVE_TLS"
    r"|SYSTEM_CERTS|CACHE_DIR|NO_CACHE|OFFLINE|HTTP_.*|KEYRING_PROVIDER|CONCURRENT_.*)"
    r"|NPM_CONFIG_(.*REGISTRY|HTTPS?[_-]PROXY|PROXY|NO_?PROXY|CAFILE|CA|CERT|KEY|STRICT[_-]SSL|CACHE"
    r"|USERCONFIG|GLOBALCONFIG|OFFLINE|PREFER[_-]OFFLINE|FETCH[_-].*|MAXSOCKETS|//.*)"
    r"|(HTTPS?|ALL|NO)_PROXY|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE|NETRC"
    r"|NODE_(EXTRA_CA_CERTS|USE_SYSTEM_CA)"
    r"|PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_.*|TZ|XDG_.*|DBUS_SESSION_BUS_ADDRESS"
    # The directories of version managers.
    r"|(VOLTA|COREPACK|PNPM)_HOME|(ASDF|FNM|NODENV|NVM|MISE|PYENV)_(DIR|DATA_DIR|ROOT|VERSION)"
    r"|(APP|LOCALAPP|PROGRAM)DATA|(SYSTEM|WIN)(ROOT|DIR|DRIVE)|COMSPEC|PATHEXT|TEMP|TMP|USERPROFILE"
    r"|HOME(DRIVE|PATH)|PROGRAMFILES.*|NUMBER_OF_PROCESSORS|PROCESSOR_.*",
    re.IGNORECASE,
)
# A reference to a variable in a .npmrc.
NAMED_IN_NPMRC = re.compile(r"\$\{([^}?]+)\??\}")
# These override other settings: git fetches nothing, and version managers ignore the version of npm
# or pnpm that a package names.
SAFE = {
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_TERMINAL_PROMPT": "0",
    "COREPACK_ENABLE_PROJECT_SPEC": "0",
    "COREPACK_ENABLE_DOWNLOAD_PROMPT": "0",
}
# The server reports its Python, whose path is never executed here.
INTERPRETER = re.compile(r"python3(\.[0-9]{1,3})?")
NO_PROGRAMS = Path(__file__).with_name("no_programs.cjs")
# A .npmrc can name two programs that npm starts. Options replace both by a program that fails.
NO_PROGRAM = "/bin/false"
NO_REPOSITORY = (
    "packages from repositories (git, github:…) are refused, even as dependencies of other "
    "packages: name a version or an archive; for dependencies of other packages, in the overrides "
    "of package.json"
)
NO_WHEEL = (
    "every package must have a wheel for the server's Python, since no code of packages is run "
    "here: build the missing wheels (pip wheel PACKAGE) and name their paths in the requirements"
)

# Parts of installers' messages if a registry could not be reached.
UNREACHED = re.compile(
    "failed to fetch|timed ?out|connection (refused|reset|error|broken)|newconnectionerror"
    "|name resolution|dns error|certificate|ENOTFOUND|EAI_AGAIN|ECONN|ETIMEDOUT",
    re.IGNORECASE,
)


class Target(Struct, frozen=True, kw_only=True):
    """The Python that packages are installed for. `interpreter`: its path. `architecture`: of the
    CPU (x86_64). `glibc`: the minor version of its C library, such as 41 for glibc 2.41. None: the
    C library is unknown or not glibc, so wheels for this machine are used.
    """

    interpreter: str
    architecture: str
    glibc: int | None = None

    @property
    def version(self) -> str:
        """Raises `BadParameter` if the server names another program than a Python."""
        name = Path(self.interpreter).name
        if not INTERPRETER.fullmatch(name):
            raise BadParameter(
                f"packages need a Python called python3 or python3.N, but the server's is {name}"
            )
        return name.removeprefix("python")


def install_python(wanted: Path, tree: Path, target: Target) -> None:
    """Install the wheels that the file `wanted` lists into <tree>/site-packages. Raises
    `BadParameter`.
    """
    here, there = f"{platform.system()} {platform.machine()}", f"Linux {target.architecture}"
    if target.glibc is None and here != there:
        raise BadParameter(
            "the server's C library is unknown, so packages can only be installed on a machine "
            f"like the server's, {there}; this one is {here}"
        )
    listed = lock_files.read(wanted)
    place = tree / PACKAGES
    command = [*_installer(target), "--only-binary", ":all:", "--target", str(place)]
    if listed.is_complete:
        command.append("--no-deps")
    # In an empty directory, so that neither tool finds settings, modules or packages.
    with tempfile.TemporaryDirectory(prefix="quiltfn-") as empty:
        file = Path(empty) / "requirements.txt"
        file.write_text(listed.text, "utf-8")
        command += ["-r", str(file)]
        _run(command, Path(empty), (f"the packages of {wanted}", NO_WHEEL))
    # Remove scripts that name this machine's interpreter, and the installer's lock file.
    shutil.rmtree(place / "bin", ignore_errors=True)
    (place / ".lock").unlink(missing_ok=True)


def _installer(target: Target) -> list[str]:
    """The command of uv if installed, otherwise of pip. Raises `BadParameter` without either."""
    architecture, glibc = target.architecture, target.glibc
    if uv := tools.found("uv"):
        command = [uv, "pip", "install", "--quiet", "--no-config", "--python", sys.executable]
        if glibc is not None:
            known = max(one for one in UV_GLIBC if one <= max(glibc, UV_GLIBC[0]))
            command += ["--python-platform", f"{architecture}-manylinux_2_{known}"]
        return [*command, "--python-version", target.version, "--link-mode", "copy"]
    if find_spec("pip") is None:
        raise BadParameter("installing packages needs uv or pip here: pipx install uv")
    alone = Path(__file__).with_name("pip_alone.py")
    command = [sys.executable, "-I", str(alone), "install", "--quiet", "--no-compile"]
    command += ["--disable-pip-version-check", "--no-input", "--python-version", target.version]
    for platform_tag in () if glibc is None else platforms(architecture, glibc):
        command += ["--platform", platform_tag]
    return [*command, "--implementation", "cp"]


def platforms(architecture: str, glibc: int) -> list[str]:
    """The platform tags of wheels for a machine, the best first (PEP 600 and its predecessors)."""
    found = [f"manylinux_2_{minor}_{architecture}" for minor in range(glibc, 16, -1)]
    found.append(f"manylinux2014_{architecture}")
    if architecture == "x86_64":
        found += [f"manylinux_2_{minor}_x86_64" for minor in range(16, 4, -1)]
        found += ["manylinux2010_x86_64", "manylinux1_x86_64"]
    return [*found, f"linux_{architecture}"]


def install_node(tree: Path) -> None:
    """Install the packages of package.json into <tree>/node_modules; with a lock file, its exact
    versions. Other files in the tree may be changed, since it is a copy.
    """
    manifest.check(tree)
    if manifest.is_of_pnpm(tree):
        return _install_by_pnpm(tree)
    npm = tools.found("npm")
    if npm is None:
        raise BadParameter(
            "package.json needs npm, which is not installed: install it, or install the packages "
            "yourself and remove package.json from the directory"
        )
    manifest.isolate(tree)
    options = [f"--prefix={tree}", "--omit=dev", "--ignore-scripts", "--global=false"]
    # npm 9 would otherwise pack packages that are named by path, and run their scripts for that.
    options += ["--install-links=false", "--no-audit", "--no-fund", "--loglevel=error"]
    options += [f"--git={NO_PROGRAM}", f"--script-shell={NO_PROGRAM}"]
    options += ["--allow-git=none"]  # npm before 11 ignores this
    about = ("the packages of package.json", NO_REPOSITORY)
    # In an empty directory, so that neither npm nor a version manager finds settings.
    with tempfile.TemporaryDirectory(prefix="quiltfn-") as empty:
        directory = Path(empty)
        _check_no_programs(npm, directory)
        if not any((tree / one).is_file() for one in manifest.LOCKS):
            lock = ["--package-lock-only", "--package-lock=true"]
            _run([npm, "install", *lock, *options], directory, about)
            manifest.check_resolved(tree)
            options.append("--prefer-offline")  # npm has just fetched the metadata
        _run([npm, "ci", *options], directory, about)


def _check_no_programs(installer: str, directory: Path) -> None:
    """Raise `BadParameter` if npm or pnpm could start a program because its Node.js ignores
    NODE_OPTIONS. The Node.js in a self-contained pnpm may do so.
    """
    loaded = directory / "loaded"
    tools.run([installer, "--version"], directory, _environment() | {"QUILTFN_LOADED": str(loaded)})
    if not loaded.is_file():
        raise BadParameter(
            f"{installer} cannot be kept from starting programs, so nothing is installed: its "
            "Node.js ignores NODE_OPTIONS; install another one (for pnpm: npm install -g pnpm)"
        )
    loaded.unlink()


def _install_by_pnpm(tree: Path) -> None:
    pnpm = tools.found("pnpm")
    if pnpm is None:
        raise BadParameter(f"{manifest.PNPM_LOCK} needs pnpm, which is not installed")
    command = [pnpm, "install", "--prod", "--frozen-lockfile", "--ignore-scripts"]
    command += ["--ignore-pnpmfile", "--ignore-workspace", "--reporter=silent"]
    command += ["--config.node-linker=hoisted", "--config.package-import-method=copy"]
    command += ["--config.manage-package-manager-versions=false"]
    command += [f"--config.script-shell={NO_PROGRAM}"]
    # In a directory without hooks, workspace or settings for pnpm.
    with tempfile.TemporaryDirectory(prefix="quiltfn-") as made:
        place = Path(made)
        _check_no_programs(pnpm, place)
        said = manifest.naming(tree / manifest.MANIFEST, ("workspaces",))
        (place / manifest.MANIFEST).write_text(said, "utf-8")
        shutil.copyfile(tree / manifest.PNPM_LOCK, place / manifest.PNPM_LOCK)
        _run(command, place, (f"the packages of {manifest.PNPM_LOCK}", None))
        modules = place / "node_modules"
        for own in modules.glob(".[!b]*"):  # pnpm's own state; .bin stays
            shutil.rmtree(own) if own.is_dir() else own.unlink()
        if modules.is_dir():
            shutil.move(modules, tree / "node_modules")


def compile_python(tree: Path, interpreter: str) -> bool:
    """Compile the modules, since /app is read-only, with the local program that has the name of the
    server's `interpreter`. If there are many, those in tests/ are left out. False if there is no
    such Python here.
    """
    name = Path(interpreter).name
    python = tools.found(name) if INTERPRETER.fullmatch(name) else None
    if python is None:
        return False
    # Tracebacks have the paths that the handler sees. Files that do not compile are skipped.
    command = [
        python,
        "-I",
        "-m",
        "compileall",
        "-q",
        "-f",
        # On all CPUs, and without the packages' own tests, which are half of pandas.
        *(["-j", "0", "-x", "/tests/"] if _has_many(tree) else []),
        "--invalidation-mode",
        "unchecked-hash",
    ]
    # Links out of the tree are not followed: the bytecode would contain the target's content.
    command += ["-e", str(tree), "-s", str(tree), "-p", "/app", str(tree)]
    # Not in the current directory, where a file may select another Python.
    tools.run(command, tree.parent, _environment())
    return True


def _has_many(tree: Path) -> bool:
    """Whether there are enough modules to start additional processes for them."""
    return next(islice(tree.rglob("*.py"), MANY_MODULES, None), None) is not None


def _run(command: Sequence[str], directory: Path, about: tuple[str, str | None]) -> None:
    thing, advice = about
    done = tools.run(command, directory, _environment())
    if done.returncode != 0:
        said = tools.said(done)
        hint = f"\n{advice}" if advice and not UNREACHED.search(said) else ""
        raise BadParameter(f"{thing} could not be installed:{show.below(said)}{hint}")


def _environment() -> dict[str, str]:
    guard = str(NO_PROGRAMS).replace("\\", "\\\\").replace('"', '\\"')
    return environment(os.environ) | SAFE | {"NODE_OPTIONS": f'--require="{guard}"'}


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """The variables of this process that the installers get."""
    config = ours.get("NPM_CONFIG_USERCONFIG") or ours.get("npm_config_userconfig")
    home = ours.get("HOME") or ours.get("USERPROFILE") or ""
    place = Path(config) if config else Path(home) / ".npmrc"
    # A relative path could be in another user's directory.
    named = _named_in(place) if place.is_absolute() else set()
    kept = {
        name: value for name, value in ours.items() if PASSED_ON.fullmatch(name) or name in named
    }
    return kept | ({"PATH": tools.search_path(ours["PATH"])} if "PATH" in ours else {})


def _named_in(npmrc: Path) -> set[str]:
    """The variables that the user's own npm settings name, such as a registry's key."""
    try:
        return set(NAMED_IN_NPMRC.findall(npmrc.read_text("utf-8", "replace")))
    except OSError:
        return set()
