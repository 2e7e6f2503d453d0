"""The client is a separate distribution: its modules import nothing of the server and nothing
specific to Linux. scripts/check verifies its types for macOS and Windows.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

from architecture.layers import MAY_KNOW
from architecture.test_structure import PACKAGE, ROOT, imports, room
from promises import promise
from quiltfn.model import invocation, version
from quiltfn.wire import invocations as wire_invocations
from quiltfn.wire import masking
from timeouts import scaled

pytestmark = promise("M11")

CLIENT = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())
SERVER = tomllib.loads((ROOT / "pyproject.toml").read_text())
INCLUDED = CLIENT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
PLACES = [(ROOT / "client" / source).resolve() for source in INCLUDED]
MODULES = sorted(
    one
    for place in PLACES
    for one in (place.rglob("*.py") if place.is_dir() else [place])
    if one.suffix == ".py"
)
ROOMS = {room(place) for place in PLACES if place.suffix != ".typed"}
# Packages of which the client has only some files; these import nothing else of quiltfn.
PARTLY = {"base"}
# Packages that httpx needs, so they are always installed.
OF_HTTPX = {"certifi"}
MODULE_OF = {"pyyaml": "yaml"}
# Modules that systems other than Linux may lack. The libraries and Python itself check before they
# import these.
LINUX_ALONE = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
# Imports every module, and prints the names of all loaded modules. If a module of quiltfn imports
# one that other systems may lack, this fails and names both.
IMPORT_ALL = f"""
import builtins, importlib, sys
usual = builtins.__import__
def asked(name, globals=None, *more):
    who = (globals or {{}}).get("__name__", "")
    if who.startswith("quiltfn") and name.split(".")[0] in {LINUX_ALONE}:
        raise ModuleNotFoundError(f"{{who}} imports {{name}}")
    return usual(name, globals, *more)
builtins.__import__ = asked
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sys.modules)
"""


def imported(*modules: str, code: str = IMPORT_ALL) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *modules],
        capture_output=True,
        text=True,
        check=False,
        timeout=scaled(60),
    )


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
        ".__init__"
    )


def test_it_is_made_of_the_rooms_that_know_no_others() -> None:
    """MAY_KNOW limits what a package of the client imports. Only the entry point also looks for the
    operator's commands, and reports an error if they are missing.
    """
    assert {"cli", "sdk", "wire"} < ROOMS
    for name in ROOMS - PARTLY:
        known = MAY_KNOW[name] - ({"operator"} if name == "__main__" else set())
        assert known <= ROOMS, f"{name} knows {known - ROOMS}"
    for path in MODULES:
        if room(path) in PARTLY:
            assert not {name for name in imports(path) if name.startswith("quiltfn")}, path
    for source, target in INCLUDED.items():
        assert source == f"../src/{target}"
        assert (ROOT / "src" / target).exists()


def test_what_it_needs_is_what_it_imports_and_what_the_server_needs_too() -> None:
    needs = CLIENT["project"]["dependencies"]
    assert set(needs) <= set(SERVER["project"]["dependencies"])
    assert CLIENT["project"]["requires-python"] == SERVER["project"]["requires-python"]
    assert CLIENT["project"]["scripts"] == SERVER["project"]["scripts"]
    others = {name.split(".")[0] for path in MODULES for name in imports(path)}
    others -= {*sys.stdlib_module_names, "quiltfn", *OF_HTTPX}
    libraries = {MODULE_OF.get(need, need) for need in (one.partition(">=")[0] for one in needs)}
    assert others == libraries, "what the client imports stands in client/pyproject.toml too"


def test_every_module_is_imported_without_the_server_and_without_what_linux_alone_has() -> None:
    names = [name_of(path) for path in MODULES]
    assert {"quiltfn.__main__", "quiltfn.cli.project.commands", "quiltfn.sdk"} <= set(names)
    done = imported(*names)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert set(names) <= loaded
    ours = {one.split(".")[1] for one in loaded if one.startswith("quiltfn.")}
    assert ours == ROOMS - {"__init__"}
    assert not {one.split(".")[0] for one in loaded} & {"alembic", "sqlalchemy", "structlog"}


def test_constants_that_the_model_repeats_are_equal() -> None:
    """`model` and `wire` do not import each other, and clients have only `wire`, so both have these
    constants.
    """
    assert wire_invocations.HTTP_ERRORS == invocation.HTTP_ERRORS
    assert masking.MASK == version.MASK


def test_an_import_of_what_linux_alone_has_is_found_out(tmp_path: Path) -> None:
    """Negative control: a module that other systems may lack must be found."""
    (tmp_path / "quiltfn_bad.py").write_text("import termios\n")
    at = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    done = imported("quiltfn_bad", code=at + IMPORT_ALL)
    assert done.returncode == 1
    assert "quiltfn_bad imports termios" in done.stderr
