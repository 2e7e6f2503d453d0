"""Structural rules: which modules may import which, and the maximum sizes."""

import ast
import functools
import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import get_args

import pytest

from architecture.layers import MAY_KNOW, STORE_MAY_KNOW, layers
from architecture.syntax import statements_of
from quiltfn.api.routes.table import ROUTES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "quiltfn"
FILES = sorted(PACKAGE.rglob("*.py"))
STORE = [path for path in FILES if path.is_relative_to(PACKAGE / "store")]

# Packages whose processes must stay small, or are privileged: they use only the standard library.
STANDARD_LIBRARY_ALONE = {
    "launcher",
    "guest",
    "settings",
    "operator",
    "host/checks",
    "host/programs",
    "base/immutable",
}
# Packages that a standalone server does not load, and packages whose programs have no libraries.
MAY_MAKE_DATACLASSES = {"fleet", "guest", "host", "operator"}
DATACLASSES_WITH_REASON = {
    "calls/dispatch.Dispatcher": "has more attributes than it is given",
    "store/backup/copy.Contents": "for a command alone",
    "store/fleet/facts.FleetFacts": "for a command alone",
    "store/backup/snapshot.Snapshot": "for a command alone",
}
READS_ENVIRONMENT_WITH_REASON = {
    "cli/packages.py": "hands registries and proxies on to the installers",
    "cli/tools.py": "programs are found by the PATH, and get the variables of whoever deploys",
    "cli/profiles.py": "what goes before a profile is written in one place",
    "cli/dashboard.py": "whether there is a display is said there",
    "cli/show.py": "NO_COLOR is for every program",
    "cli/program.py": "a shell that completes asks by the environment",
    "cli/project/commands.py": "secrets of a project are in the environment of whoever deploys",
}
FORBIDDEN_NAMES = {"utils", "helpers", "common", "managers", "util", "helper", "manager"}


def room(path: Path) -> str:
    """The first name below the package: a subpackage or a top-level module."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(path: Path, package: Path = PACKAGE) -> str:
    """The path of a module below the package."""
    return path.relative_to(package).with_suffix("").as_posix()


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or later."""
    found: set[str] = set()
    for node in statements_of(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms_known(path: Path) -> set[str]:
    names = {name.split(".")[1] for name in imports(path) if name.startswith("quiltfn.")}
    return names - {"__version__"}


def store_room(name: str) -> str:
    """The package below the store to which a module or file belongs, given its path there."""
    return "database" if (first := name.split("/", maxsplit=1)[0]) == "migrations" else first


def known_in_store(path: Path) -> set[tuple[str, str]]:
    """The pairs of the file's package below the store and another one that the file imports."""
    own = store_room(module_of(path, PACKAGE / "store"))
    names = {name for name in imports(path) if name.startswith("quiltfn.store.")}
    return {(own, store_room(name.split(".")[2])) for name in names} - {(own, own)}


def known_rooms(path: Path) -> set[tuple[str, str]]:
    """The pairs of the file's package and another one that the file imports."""
    return {(room(path), other) for other in rooms_known(path) - {room(path)}}


def misplaced_imports(
    may_know: Mapping[str, Set[str]], known: Iterable[set[tuple[str, str]]]
) -> list[str]:
    """The wrong imports, and the wrong rows of the table, as sentences."""
    permitted = {(name, other) for name, others in may_know.items() for other in others}
    used = set[tuple[str, str]]().union(*known)
    wrong = [f"{name} must not import {other}" for name, other in used - permitted]
    return wrong + [f"{name} does not import {other}" for name, other in permitted - used]


def test_a_room_knows_the_rooms_it_may_know() -> None:
    assert misplaced_imports(MAY_KNOW, map(known_rooms, FILES)) == []
    assert misplaced_imports(STORE_MAY_KNOW, map(known_in_store, STORE)) == []
    assert layers(STORE_MAY_KNOW)[0] == ["database"]


def test_what_no_file_imports_is_not_permitted() -> None:
    """Negative control: a row must not permit an import that no file has."""
    known = {"launcher": {"base", "guest"}}
    found = misplaced_imports(MAY_KNOW | known, map(known_rooms, FILES))
    assert found == ["launcher does not import guest"]


def test_wrong_imports_of_store_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a late import must be found, too."""
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    bad = tmp_path / "store" / "database" / "nodes.py"
    bad.parent.mkdir(parents=True)
    bad.write_text("def late():\n    from quiltfn.store.functions import functions\n")
    found = misplaced_imports(STORE_MAY_KNOW, [known_in_store(bad)])
    assert "database must not import functions" in found


def cycles(files: Iterable[Path], package: Path = PACKAGE) -> list[set[str]]:
    """Sets of modules that import each other, directly or through others."""
    modules = {module_of(path, package).removesuffix("/__init__"): path for path in files}
    names = {f"quiltfn.{name.replace('/', '.')}": name for name in modules}
    known: dict[str, set[str]] = {}
    for module, path in modules.items():
        named = imports(path)
        named |= {name.rpartition(".")[0] for name in named - names.keys()}
        known[module] = {names[name] for name in named if name in names} - {module}
    found: list[set[str]] = []
    reached: dict[str, set[str]] = {}
    for module in modules:
        seen, left = set[str](), [module]
        while left:
            new = known[left.pop()] - seen
            seen |= new
            left += new
        reached[module] = seen
    for module, others in reached.items():
        cycle = {other for other in others if module in reached[other]}
        if cycle and cycle not in found:
            found.append(cycle)
    return found


def test_no_files_import_each_other() -> None:
    assert cycles(FILES) == []


def test_files_that_import_each_other_are_found(tmp_path: Path) -> None:
    """Negative control: a cycle must be found even through a third module, and by late imports."""
    texts = {"model/x": "model.y", "model/y": "model.z", "model/z": "model.x", "model/w": "model.x"}
    for name, other in texts.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"def late():\n    from quiltfn.{other} import name\n")
    found = cycles(sorted(tmp_path.rglob("*.py")), tmp_path)
    assert found == [{"model/x", "model/y", "model/z"}]


def test_the_root_of_the_package_has_packages_and_three_modules() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert modules == {"__init__", "__main__", "settings"}


def libraries(path: Path) -> set[str]:
    """The packages that a file imports and that are neither quiltfn's nor Python's own."""
    return {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {"quiltfn"}


def test_small_and_privileged_rooms_use_the_standard_library_alone() -> None:
    for path in FILES:
        if {room(path), module_of(path)} & STANDARD_LIBRARY_ALONE:
            assert libraries(path) == set(), path
        # The packages that the launcher may import have other files, too.
        if room(path) == "launcher":
            known = {name for name in imports(path) if name.startswith("quiltfn.base.")}
            assert {name.split(".")[2] for name in known} <= {"immutable"}, path


def test_a_library_is_found(tmp_path: Path) -> None:
    """Negative control: any library must be found, even in a late import."""
    bad = tmp_path / "bad.py"
    bad.write_text("import os, jwt\nfrom quiltfn import base\ndef f():\n    import x.y\n")
    assert libraries(bad) == {"jwt", "x"}


def test_model_does_no_input_or_output_and_reads_no_clock() -> None:
    banned = {"asyncio", "time", "os", "socket", "pathlib", "logging", "structlog", "random"}
    for path in (PACKAGE / "model").rglob("*.py"):
        tree = ast.parse(path.read_text())
        assert not {name.split(".")[0] for name in imports(path)} & banned, path
        asynchronous = (ast.AsyncFunctionDef, ast.Await, ast.AsyncWith, ast.AsyncFor)
        assert not any(isinstance(node, asynchronous) for node in ast.walk(tree)), path


def test_servers_and_commands_make_no_dataclasses_since_they_take_their_time() -> None:
    """Dataclasses would add half a millisecond to each start."""
    found = set()
    for path in FILES:
        if room(path) not in MAY_MAKE_DATACLASSES:
            names = re.findall(r"^@dataclass\b.*\nclass (\w+)", path.read_text(), re.MULTILINE)
            found |= {f"{module_of(path)}.{name}" for name in names}
    assert found == set(DATACLASSES_WITH_REASON)


def test_the_wall_clock_is_read_in_one_place() -> None:
    """Removal by age, and order by time, must not depend on a clock that jumps."""
    asks = re.compile(r"\btime\.time|\btime_ns|date(time)?\.(now|utcnow|today)\(")
    # The first of these files shows a date; the second parses a user's time, such as yesterday.
    allowed = {PACKAGE / "host" / "programs.py", PACKAGE / "cli" / "moments.py"}
    for path in FILES:
        if (
            path != PACKAGE / "base" / "clock.py"
            and "runners" not in path.parts
            and path not in allowed
        ):
            assert not asks.search(path.read_text()), f"{path} reads the wall clock"


def test_only_settings_and_the_sdk_read_the_environment() -> None:
    for path in FILES:
        # Code that runs inside a sandbox may set the handler's variables, but no others.
        if room(path) in ("settings", "sdk") or "runners" in path.parts:
            continue
        if str(path.relative_to(PACKAGE)) in READS_ENVIRONMENT_WITH_REASON:
            continue
        assert "os.environ" not in path.read_text(), f"{path} reads the environment"
        assert "getenv" not in path.read_text(), f"{path} reads the environment"


def too_large(path: Path) -> Iterator[str]:
    """The functions of a file that are too long, each as a sentence."""
    name = str(path.relative_to(PACKAGE))
    for node in statements_of(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > 60:
                yield f"{name}:{node.name} has {length} lines"


def test_functions_stay_small() -> None:
    """The length of a file is only advice (`conftest.py`): with a limit, one idea would be split in
    two, and its halves would have to be read side by side. A function is read in one piece, so its
    length is a rule.
    """
    found = [sentence for path in FILES for sentence in too_large(path)]
    assert not found, "\n".join(found)


def test_a_route_takes_the_services_that_its_module_names() -> None:
    """A handler with access to all services could depend on any of them unnoticed."""
    handlers = [route.handler for route in ROUTES]
    assert len(handlers) > 30
    for handler in handlers:
        (context,) = inspect.signature(handler).parameters.values()
        (services,) = get_args(context.annotation)
        own = services.__annotations__
        assert services.__module__ == handler.__module__, f"{handler.__name__} takes {services}"
        assert len(own) <= 7, f"{services.__name__} has {len(own)}: is it two kinds of routes?"


def unused_services(texts: Iterable[str]) -> Iterator[str]:
    """The services that a protocol has, but that no file that names the protocol uses; and those
    that `Services` has, but that no file uses.
    """
    texts = list(texts)
    for text in texts:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Services"):
                users = "\n".join(text for text in texts if re.search(rf"\b{node.name}\b", text))
                if node.name == "Services":
                    users = "\n".join(texts)
                for field in node.body:
                    name = ast.unparse(field.target) if isinstance(field, ast.AnnAssign) else None
                    if name and not re.search(rf"\bservices\.{name}\b", users):
                        yield f"{node.name}.{name}"


def test_a_protocol_of_services_asks_for_what_is_used() -> None:
    """Mypy checks the other half: that `Services` has all services of these protocols."""
    rooms = ("api", "fleet", "server")
    assert list(unused_services(path.read_text() for path in FILES if room(path) in rooms)) == []


def test_an_unused_service_is_found() -> None:
    """Negative control: an unused service must be found."""
    protocol = "class XServices(Protocol):\n    urls: Urls\n    work: Work\n"
    use = "def f(context: RequestContext[XServices]):\n    context.services.work.cancel()\n"
    elsewhere = "def f(services):\n    services.urls.find()\n"
    assert list(unused_services([protocol, use, elsewhere])) == ["XServices.urls"]


LISTENS = re.compile(r"\bon_[a-z_]+\.(?:connect|append|remove)\(")
# Objects that their users fill in step by step.
VALUES = {"context", "request", "response", "error", "known", "info", "self.client"}


def assigned(path: Path, *, of_self: bool) -> Iterator[ast.Attribute]:
    """The attributes that a file assigns to `self`, or to other objects."""
    for statement in statements_of(path):
        if isinstance(statement, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for node in (node for target in targets for node in ast.walk(target)):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    is_of_self = isinstance(node.value, ast.Name) and node.value.id == "self"
                    yield from [node] if is_of_self is of_self else []


@functools.cache
def owned_attributes() -> dict[str, set[str]]:
    """The attributes that classes assign to themselves, by the packages of the classes."""
    owned: dict[str, set[str]] = {name: set() for name in MAY_KNOW}
    for path in FILES:
        owned[room(path)] |= {node.attr for node in assigned(path, of_self=True)}
    return owned


def wired_late(path: Path) -> list[str]:
    """The attributes that a file assigns to other objects, although the classes of these objects
    assign them to themselves. An attribute that no class assigns to itself is a field of a record,
    which is passed around.
    """
    own = {node.attr for node in assigned(path, of_self=True)}
    own |= {ast.unparse(n.target) for n in statements_of(path) if isinstance(n, ast.AnnAssign)}
    rooms = rooms_known(path) | {room(path)}
    others = set[str]().union(*(owned_attributes()[name] for name in rooms)) - own
    return [
        ast.unparse(node)
        for node in assigned(path, of_self=False)
        if node.attr in others and ast.unparse(node.value).rpartition("_")[2] not in VALUES
    ]


def test_objects_are_complete_once_they_are_made() -> None:
    """An object gets all that it needs as arguments, and only its own methods change it later."""
    found = {module_of(path): wired_late(path) for path in FILES}
    assert {module: late for module, late in found.items() if late} == {}


def test_listeners_are_connected_in_one_place() -> None:
    connecting = {module_of(path) for path in FILES if LISTENS.search(path.read_text())}
    # Listeners in `launcher/sandboxes` wait for the end of one sandbox.
    assert connecting == {"server/platform", "launcher/sandboxes"}


@pytest.mark.parametrize(
    ("module", "late"),
    [
        ("model/arbiter", "pool.places.is_freed = False"),
        ("pool/local", "pool.model.keep_alive = None"),
        ("sandbox/prewarmed", "self._memory.leaving_mib -= 1"),
        ("store/functions/functions", "database.problem = None"),
        ("calls/dispatch", "self._claims.under_way += 1"),
        ("api/http/server", "self._connections.common_headers = b''"),
        ("fleet/node", "self.nodes.state = None"),
        ("launcher/preflight", "gvisor.why_not = ''"),
    ],
)
def test_what_is_wired_late_is_found(
    module: str, late: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: lines that the code once had, in packages of each kind, must be found."""
    assert owned_attributes()
    source = PACKAGE / f"{module}.py"
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    bad = tmp_path / f"{module}.py"
    bad.parent.mkdir(parents=True)
    text = source.read_text() + f"\ndef late(self, pool, database, gvisor, response):\n    {late}\n"
    bad.write_text(text + "    response.body = b''\n")
    assert len(wired_late(bad)) == 1


def created_twice(texts: Iterable[str]) -> list[str]:
    """The classes of the store of which these files create more than one object."""
    created = Counter(re.findall(r"\bSql\w+(?=\()", "\n".join(texts)))
    return [name for name, count in created.items() if count > 1]


def test_a_server_creates_each_part_of_the_store_once() -> None:
    """Two objects of one class could differ in what they are given, such as their limits."""
    served = (path for path in FILES if room(path) not in ("store", "operator"))
    assert created_twice(path.read_text() for path in served) == []


def test_a_second_part_of_one_class_is_found() -> None:
    """Negative control: a second object must be found."""
    texts = ["keys = SqlKeys(database)\nwork: SqlWork", "use(SqlKeys(database), SqlWork(database))"]
    assert created_twice(texts) == ["SqlKeys"]


def test_no_module_is_a_drawer_for_everything() -> None:
    for path in PACKAGE.rglob("*"):
        assert path.stem not in FORBIDDEN_NAMES, path


def test_every_public_thing_of_the_model_and_the_ports_says_what_it_is() -> None:
    for path in [*(PACKAGE / "model").rglob("*.py"), *(PACKAGE / "ports").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_the_import_rule_can_fail(tmp_path: Path) -> None:
    """Negative control: imports of a module of the model must be found, both late ones and those
    for types.
    """
    bad = tmp_path / "bad.py"
    bad.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from quiltfn.store import SqlStore\n"
        "def late():\n    import quiltfn.api.app\n"
    )
    assert rooms_known(bad) - MAY_KNOW["model"] == {"store", "api"}


GUEST_LINES_MAX, NATIVE_LINES_MAX = 2600, 750


def lines_of_code(text: str) -> int:
    """The number of lines without comments and empty lines."""
    return sum(not re.fullmatch(r"\s*(//.*)?", line) for line in text.splitlines())


def test_the_guest_can_be_read_in_one_sitting() -> None:
    """The guest has capabilities and faces hostile code. All its files count together, with their
    headers.
    """
    texts = [one.read_text() for one in (PACKAGE / "guest").glob("*.[ch]")]
    assert len(texts) > 20
    assert 0 < sum(map(lines_of_code, texts)) <= GUEST_LINES_MAX
    assert lines_of_code("// why\n\nint a; // what\n    // more\n}\n") == 2


def test_the_native_module_stays_small() -> None:
    """It reads what clients send, in the server's process."""
    texts = [one.read_text() for one in (PACKAGE / "native").glob("*.[ch]")]
    assert 0 < sum(map(lines_of_code, texts)) <= NATIVE_LINES_MAX


def test_c_is_only_where_it_must_be() -> None:
    """In sandboxes, and for the requests that are most frequent by far."""
    assert {room(one) for one in PACKAGE.rglob("*.[ch]")} == {"guest", "native"}
