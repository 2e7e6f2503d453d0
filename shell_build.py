"""Builds a static copy of this machine's /bin/sh, with guest/shell.c linked in, which forks much
faster than the shell itself (docs/decisions/0084-shell-start.md).

python3 shell_build.py    builds src/quiltfn/guest/bin/dash-DIGEST, unless it is there

DIGEST is the SHA-256 of the /bin/sh that it was made for: servers use it only if theirs is equal.
Debian's sources come from the machine's own mirror, and stay in src/quiltfn/guest/bin/sources.
"""

import concurrent.futures
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

GUEST = Path("src/quiltfn/guest")
SHELL = Path("/bin/sh")
NOTICE, INPUTS = "dash.copyright", "dash.inputs"
# By the version of Debian's package: the SHA-256 of its sources. Mirrors and their lists of sources
# need not be trusted, and only sources that were looked at get a zygote's privileges.
SOURCES = {
    "0.5.12-12": {
        "dash_0.5.12.orig.tar.gz": (
            "6a474ac46e8b0b32916c4c60df694c82058d3297d8b385b74508030ca4a8f28a"
        ),
        "dash_0.5.12-12.debian.tar.xz": (
            "a278acb5d9a1f5d9a086d36a547287cbf3105b8f33c0e62d86d264decf5ba1ad"
        ),
    }
}
ARCHIVE = "http://deb.debian.org/debian/pool/main/d/dash"
# The sources have 300 KB; a mirror must not fill the disk with others.
DOWNLOAD = (
    *("prlimit", "--fsize=4194304", "/usr/lib/apt/apt-helper"),
    *("-oAcquire::Retries=0", "-oAcquire::http::Timeout=5"),
)
DOWNLOAD_S, STEP_S = 30, 120
# What dash's configure finds on Debian, with the options of Debian's package.
HAVE = (
    *("ALIAS_ATTRIBUTE", "ALLOCA_H", "BSEARCH", "DECL_ISBLANK", "FACCESSAT", "GETPWNAM"),
    *("GETRLIMIT", "ISALPHA", "KILLPG", "MEMPCPY", "PATHS_H", "SIGSETMASK", "STPCPY", "STRCHRNUL"),
    *("STRSIGNAL", "STRTOD", "STRTOIMAX", "STRTOUMAX", "ST_MTIM", "SYSCONF"),
)
CONFIG = ["-DBSD", "-DSHELL", "-DSMALL", "-D_GNU_SOURCE", *(f"-DHAVE_{one}=1" for one in HAVE)]
COMPILE = ["cc", "-std=gnu17", "-O2", "-fPIE", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"]
LINK = ["cc", "-static-pie", "-s", "-Wl,-z,now"]
GENERATED = ("builtins.c", "init.c", "nodes.c", "signames.c", "syntax.c")


class BuildFailed(RuntimeError):
    """The shell cannot be built here; its message is one line."""


def made_for(shell: Path = SHELL) -> str:
    """The name of the static copy of a shell."""
    return f"dash-{hashlib.sha256(shell.read_bytes()).hexdigest()}"


def build(root: Path) -> list[Path]:
    """Returns the static shell and its copyright notice, after building them if they are missing or
    outdated. If that fails, raises `BuildFailed` and leaves none.
    """
    directory = root / GUEST / "bin"
    built, notice, made_from = (directory / one for one in (made_for(), NOTICE, INPUTS))
    inputs = inputs_of(root)
    if built.exists() and made_from.exists() and made_from.read_text() == inputs:
        return [built, notice]
    for old in directory.glob("dash-*"):
        old.unlink()
    made_from.unlink(missing_ok=True)
    try:
        files = SOURCES[version_of(SHELL)]
        with tempfile.TemporaryDirectory(prefix="quiltfn-shell-") as name:
            work = Path(name)
            unpack(fetch(files, directory / "sources"), work)
            compile_shell(work, root / GUEST / "shell.c")
            shutil.copyfile(work / "debian/copyright", notice)
            shutil.copy(work / "dash", directory / "dash.new")
            (directory / "dash.new").replace(built)
            made_from.write_text(inputs)
    except (OSError, tarfile.TarError) as error:
        raise BuildFailed(str(error)) from error
    return [built, notice]


def inputs_of(root: Path) -> str:
    """A digest of what the static shell contains beside dash's sources. Times of files would not
    show an upgrade of libc, or an older file that replaced a newer one.
    """
    libc = Path(run(["cc", "-print-file-name=libc.a"]).strip())
    files = [root / GUEST / "shell.c", Path(__file__), *([libc] if libc.exists() else [])]
    return " ".join(hashlib.sha256(one.read_bytes()).hexdigest() for one in files)


def version_of(shell: Path) -> str:
    """The version of the Debian package that `shell` is from. Raises `BuildFailed` if the package
    lists another file, or if its sources are not known.
    """
    path = shell.resolve()
    if path.name != "dash":
        raise BuildFailed(f"{shell} is {path}, and only Debian's dash is known")
    listed = run(["dpkg-query", "--control-show", "dash", "md5sums"])
    found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if re.findall(r"^(\w+) .*bin/dash$", listed, re.MULTILINE) not in ([], [found]):
        raise BuildFailed(f"{path} is not the file of its Debian package")
    version = run(["dpkg-query", "--show", "--showformat", "${source:Version}", "dash"])
    if version not in SOURCES:
        raise BuildFailed(f"the sources of dash {version} are not in shell_build.py")
    return version


def fetch(files: Mapping[str, str], cache: Path) -> list[Path]:
    """Returns the sources with these SHA-256, after downloading those that the cache lacks."""
    cache.mkdir(parents=True, exist_ok=True)
    remaining, why = places(), ""
    while missing := [one for one, digest in files.items() if not is_equal(cache / one, digest)]:
        place = next(remaining, None)
        if place is None:
            raise BuildFailed(why)
        for name in missing:
            try:
                download(f"{place}/{name}", cache / name)
            except BuildFailed as error:
                why = str(error)
                break
            why = f"{place}/{name} does not have the SHA-256 {files[name]}"
    return [cache / one for one in files]


def download(address: str, target: Path) -> None:
    """Has apt download a file, which uses the machine's own proxies."""
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        fresh = Path(directory) / target.name
        run([*DOWNLOAD, "download-file", address, str(fresh)], within=DOWNLOAD_S)
        fresh.replace(target)


def places() -> Iterator[str]:
    """Where dash's sources may be: beside the package that apt would install, or at Debian."""
    with contextlib.suppress(BuildFailed):
        found = re.match(r"'(\S+)/", run(["apt-get", "download", "--print-uris", "dash"]))
        if found is not None:
            yield found[1]
    yield ARCHIVE


def is_equal(path: Path, digest: str) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == digest


def unpack(archives: list[Path], work: Path) -> None:
    """Unpacks the sources into `work`, with Debian's patches applied."""
    for archive in archives:
        with tarfile.open(archive) as opened:
            opened.extractall(work, filter="data")
    (upstream,) = (one for one in work.iterdir() if one.name != "debian")
    for one in upstream.iterdir():
        one.rename(work / one.name)
    series = [one.split("#")[0].strip() for one in lines_of(work / "debian/patches/series")]
    patches = [f"debian/patches/{one}" for one in series if one]
    # Not as a part of a repository above it, in which git would apply nothing.
    run(["git", "apply", *patches], work, {"GIT_CEILING_DIRECTORIES": str(work.parent)})


def compile_shell(work: Path, library: Path) -> None:
    """Makes `work`/dash like dash's own Makefile, which would need make and automake."""
    source = work / "src"
    named = re.search(r"^dash_CFILES = ((?:.*\\\n)+.*)", (source / "Makefile.am").read_text(), re.M)
    if named is None:
        raise BuildFailed("dash's Makefile does not list its files")
    units = named[1].replace("\\", "").split()
    for command in (
        ["sh", "mktokens"],
        ["cc", *CONFIG, "-E", "-x", "c", "-o", "builtins.def", "builtins.def.in"],
        ["sh", "mkbuiltins", "builtins.def"],
        *(
            ["cc", "-w", *CONFIG, "-o", one, f"{one}.c"]
            for one in ("mkinit", "mknodes", "mksyntax")
        ),
        ["./mkinit", *units],
        ["./mknodes", "nodetypes", "nodes.c.pat"],
        ["./mksyntax"],
    ):
        run(command, source)
    (source / "signames.c").write_text(signal_names(run([str(SHELL), "-c", "kill -l"])))
    objects = [f"{number}.o" for number in range(len(units) + len(GENERATED) + 1)]

    def compile_unit(unit: str, target: str) -> None:
        run([*COMPILE, "-w", *CONFIG, "-I.", "-c", "-o", target, unit], source)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(compile_unit, [*units, *GENERATED, str(library)], objects))
    run([*LINK, "-o", str(work / "dash"), *objects], source)


def signal_names(listed: str) -> str:
    """The table of signals' names, from the shell's own list. Dash's program for it has another
    licence (GPL).
    """
    names = ["EXIT", *listed.split()[1:]]
    return f"const char *const signal_names[] = {{{', '.join(map(quoted, names))}, (char *)0}};\n"


def quoted(name: str) -> str:
    return f'"{name}"'


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()


def run(
    command: list[str],
    directory: Path = Path("/"),
    variables: Mapping[str, str] | None = None,
    *,
    within: float = STEP_S,
) -> str:
    """The output of a program. Raises `BuildFailed` with its first error, or its last line."""
    # With the directory of a repository in the environment, `git apply` might apply nothing.
    environment = {name: v for name, v in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env={**environment, "LC_ALL": "C", **(variables or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=within,
        )
    except subprocess.CalledProcessError as error:
        lines = (error.stderr.strip() or "no message").splitlines()
        line = next((one for one in lines if one.startswith(("E: ", "error: "))), lines[-1])
        raise BuildFailed(f"{Path(command[0]).name} failed: {line}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildFailed(str(error)) from error
    return done.stdout


def main() -> int:
    try:
        build(Path(__file__).resolve().parent)
    except BuildFailed as error:
        print(
            f"setup: no static copy of {SHELL} was built, so shells start more slowly: {error}",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
