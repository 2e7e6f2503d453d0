"""Builds the dashboard: bundles ui/src and the libraries that ui/deno.lock names by their digests
into src/quiltfn/web, compressed and ready to be served.

python3 ui/build.py            builds it, unless the sources are unchanged since the last build
python3 ui/build.py --check    exits 1 if it needs to be built

Deno, a wheel from PyPI, installs the libraries as an npm client, and esbuild, one of them, bundles.
Both are kept in ui/node_modules and ui/.build, so only a change of the lock needs the network.
"""

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

UI, WEB = Path("ui"), Path("src/quiltfn/web")
# The file with the digest of the sources of the last build.
MADE_OF = "made-of"
LOCK = ("package.json", "deno.lock")
INPUTS = (*LOCK, "build.py", "index.html", "src")
PACKAGE = re.compile(r"node_modules/\.deno/[^/]+/node_modules/((?:@[^/]+/)?[^/]+)/")
OPTIONS = (
    *("--bundle", "--minify", "--splitting", "--format=esm", "--target=es2022"),
    *("--entry-names=[name]-[hash]", "--chunk-names=[name]-[hash]", "--asset-names=[name]-[hash]"),
    *("--loader:.svg=file", "--legal-comments=none", "--log-level=warning"),
)
ENTRIES = ("src/main.ts", "src/style.css", "src/icon.svg")


class BuildFailed(RuntimeError):
    """The dashboard cannot be built here."""


def digest(paths: Iterable[Path], root: Path) -> str:
    """The digest of the names and contents of files."""
    whole = hashlib.sha256()
    for path in sorted(paths):
        content = path.read_bytes()
        whole.update(f"{path.relative_to(root)}\0{len(content)}\0".encode() + content)
    return whole.hexdigest()


def made_of(root: Path) -> str:
    """The digest of all inputs of the build."""
    found: list[Path] = []
    for name in INPUTS:
        path = root / UI / name
        found += [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
    return digest(found, root)


def is_current(root: Path) -> bool:
    """Whether src/quiltfn/web matches the sources. Source archives contain a matching one."""
    stamp = root / WEB / MADE_OF
    return stamp.exists() and stamp.read_text() == made_of(root)


def build(root: Path) -> None:
    """Builds the dashboard if it is not current. Raises `BuildFailed`; the previous build then
    stays.
    """
    if is_current(root):
        return
    work = root / UI / ".build"
    try:
        work.mkdir(exist_ok=True)
        install(root, work)
        with tempfile.TemporaryDirectory(dir=work) as name:
            fresh = Path(name) / "web"
            fresh.mkdir(mode=0o755)
            bundle(root / UI, fresh)
            (fresh / MADE_OF).write_text(made_of(root))
            shutil.rmtree(root / WEB, ignore_errors=True)
            fresh.rename(root / WEB)
    except OSError as error:
        raise BuildFailed(str(error)) from error


def install(root: Path, work: Path) -> None:
    """Installs the libraries of the lock in ui/node_modules, unless they are there."""
    modules = root / UI / "node_modules"
    lock = digest([root / UI / name for name in LOCK], root)
    stamp = modules / ".made-of"
    if stamp.exists() and stamp.read_text() == lock:
        return
    path = f"{root / '.venv/bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    deno = shutil.which("deno", path=path)
    if deno is None:
        raise BuildFailed("there is no deno; scripts/setup installs it")
    shutil.rmtree(modules, ignore_errors=True)
    run([deno, "install", "--quiet", "--frozen"], root / UI, deno_environment(work))
    stamp.write_text(lock)


def deno_environment(work: Path) -> dict[str, str]:
    """Makes Deno keep downloads below ui, and trust the machine's own certificate authorities."""
    own = {"DENO_DIR": str(work / "deno"), "DENO_NO_UPDATE_CHECK": "1", "NO_COLOR": "1"}
    return {**os.environ, "DENO_TLS_CA_STORE": "system", **own}


def run(command: list[str], directory: Path, environment: dict[str, str] | None = None) -> None:
    """Runs a program. Raises `BuildFailed` with its output."""
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise BuildFailed(f"{Path(command[0]).name} failed:\n{done.stdout}{done.stderr}".rstrip())


def bundle(ui: Path, out: Path) -> None:
    """Bundles into `out`: text is compressed, and names contain a digest of the content."""
    programs = sorted(ui.glob("node_modules/.deno/@esbuild+*/node_modules/@esbuild/*/bin/esbuild"))
    if not programs:
        raise BuildFailed("the lock names no esbuild for this processor")
    meta = out / "meta.json"
    own = [f"--outdir={out}", f"--metafile={meta}"]
    run([str(programs[0]), *ENTRIES, *OPTIONS, *own], ui)
    outputs: dict[str, Any] = json.loads(meta.read_text())["outputs"]
    meta.unlink()
    names = {one.get("entryPoint"): Path(path).name for path, one in outputs.items()}
    # For an asset that is an entry, esbuild also makes a module with the asset's name.
    icon = next(one.name for one in out.glob("icon-*.svg"))
    (out / names["src/icon.svg"]).unlink(missing_ok=True)
    page = (ui / "index.html").read_text()
    page = page.replace("%style%", names["src/style.css"]).replace("%icon%", icon)
    page = page.replace("%main%", names["src/main.ts"])
    page = page.replace("%chunks%", preloads(outputs, names["src/main.ts"]))
    (out / "index.html").write_text(page)
    (out / "LICENSES.txt").write_text(licenses(ui, outputs))
    for path in [*out.glob("*.js"), *out.glob("*.css")]:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
        path.unlink()


def preloads(outputs: dict[str, Any], main: str) -> str:
    """Links that make the browser fetch the parts of the main module at the same time."""
    whole = next(one for path, one in outputs.items() if Path(path).name == main)
    parts = [one["path"] for one in whole["imports"] if one["kind"] == "import-statement"]
    return "".join(f'<link rel="modulepreload" href="{Path(one).name}">\n' for one in parts)


def licenses(ui: Path, outputs: dict[str, Any]) -> str:
    """The licence of each library of which the bundle has a part. Raises `BuildFailed`."""
    found: dict[str, str] = {}
    for output in outputs.values():
        for source in output["inputs"]:
            match = PACKAGE.search(source)
            if match is None or match[1] in found:
                continue
            package = ui / source[: match.end()]
            metadata = json.loads((package / "package.json").read_text())
            texts = sorted(one for one in package.iterdir() if one.name.lower().startswith("licen"))
            if not texts:
                raise BuildFailed(f"{match[1]} comes without its licence")
            head = f"{match[1]} {metadata['version']}, {metadata['license']}"
            found[match[1]] = f"{head}\n{'-' * len(head)}\n\n{texts[0].read_text().strip()}\n"
    intro = "Libraries in the dashboard of quiltfn, with their licences.\n"
    return "\n\n".join([intro, *(text for _, text in sorted(found.items()))])


def main(words: list[str]) -> int:
    root = Path(__file__).resolve().parents[1]
    if words == ["--check"]:
        return 0 if is_current(root) else 1
    if words:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        build(root)
    except BuildFailed as error:
        print(f"the dashboard was not built: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
