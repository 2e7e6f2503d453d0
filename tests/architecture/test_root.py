"""docs/reference/root-code.md lists every file that runs as root, with its length."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "quiltfn"
# The maximum of lines that run as root; code that needs no root belongs in the server. Raise this
# limit for a protection, not for convenience.
LINES_MAX = 5_075
# By reason: the files that need root for it, as listed in docs/reference/root-code.md.
REASONS = {
    "mounts, namespaces": ("syscalls", "host_image", "images", "roots", "netns"),
    "control groups": ("cgroups", "cgroup_tree", "global_limit"),
    "starting crun and runsc, ending what they started": (
        "sandboxes",
        "jobs",
        "children",
        "gvisor",
    ),
    "reading protections of other users' processes": ("preflight",),
    "decisions that the server must not make": ("oci", "egress_rules", "verbs"),
    "rules of the packet filter": ("egress",),
    "changing users and owners": ("confine", "server_uid", "unprivileged"),
    "killing other users' processes": ("keeper", "deadline"),
    "directories that the server must not change": ("state",),
    "limits of processes": ("descriptors",),
    "files that others cannot read": ("operator/serve", "base/setting_files"),
    "all of these": ("main", "signals"),
    "nothing; other files import it": ("__init__", "base/immutable"),
}
# This runs in a separate process, since this one has loaded the server, too.
LOADED = """
import sys
before = set(sys.modules)
from quiltfn.operator import serve
{also}
for name in sys.modules.keys() - before:
    if name.split(".")[0] not in sys.stdlib_module_names:
        print(getattr(sys.modules[name], "__file__", name))
"""


def loaded(also: str = "") -> dict[str, Path]:
    """The files that `quiltfn serve` loads, without the standard library and packages without code.
    `also`: one more statement to run.
    """
    command = [sys.executable, "-I", "-c", LOADED.format(also=also)]
    files = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    paths = [Path(file) for file in sorted(files)]
    return {
        str(path.relative_to(PACKAGE) if path.is_relative_to(PACKAGE) else path): path
        for path in paths
        if path.name != "__init__.py" or path.parent == PACKAGE or PACKAGE not in path.parents
    }


def reasons() -> dict[str, str]:
    """The reason why each file runs as root."""
    launcher = {path.stem for path in (PACKAGE / "launcher").glob("*.py") if path.stem[0] != "_"}
    return {
        f"launcher/{name}.py" if name in launcher else f"{name}.py": reason
        for reason, names in REASONS.items()
        for name in names
    }


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_code_that_runs_as_root_has_a_reason_and_is_bounded() -> None:
    files = loaded()
    assert reasons().keys() == files.keys()
    assert {str(path.relative_to(PACKAGE)) for path in (PACKAGE / "launcher").glob("*.py")} - set(
        files
    ) == {"launcher/__init__.py"}, "what the launcher doesn't load is no part of it"
    assert 4_000 < sum(map(lines_of, files.values())) <= LINES_MAX


def test_a_library_that_a_file_of_root_loads_is_found() -> None:
    """Negative control: a library must be found if a file of quiltfn loads it."""
    strange = loaded("import quiltfn.model.errors").keys() - reasons().keys()
    assert {"model/errors.py"} < strange
    assert any("/msgspec/" in name for name in strange)


def late_imports(text: str) -> set[str]:
    """The modules of quiltfn that functions of a file import."""
    functions = [one for one in ast.walk(ast.parse(text)) if isinstance(one, ast.FunctionDef)]
    modules: set[str] = set()
    for statement in (one for function in functions for one in ast.walk(function)):
        if isinstance(statement, ast.ImportFrom):
            modules |= {f"{statement.module}.{alias.name}" for alias in statement.names}
        elif isinstance(statement, ast.Import):
            modules |= {alias.name for alias in statement.names}
    return {module for module in modules if module.startswith("quiltfn.")}


def test_root_loads_nothing_more_once_it_runs() -> None:
    """Two late imports are allowed: a child without root imports the settings, and only users
    import the client.
    """
    late = {name: late_imports(path.read_text()) for name, path in loaded().items()}
    assert {name: modules for name, modules in late.items() if modules} == {
        "__init__.py": {"quiltfn.sdk"},
        "operator/serve.py": {"quiltfn.operator.chosen_settings"},
    }


def test_an_import_in_a_function_is_found() -> None:
    """Negative control: a late import must be found."""
    assert late_imports("def run():\n    from quiltfn import settings\n") == {"quiltfn.settings"}
