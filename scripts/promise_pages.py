"""The tests that prove each promise, according to the markers of tests/promises.py, and the two
documents that list them: SPECIFICATION.md, whose sentences are handwritten, and
docs/reference/promises.md.
"""

import ast
import re
import runpy
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

ROOT = Path(__file__).resolve().parents[1]
SPECIFICATION = ROOT / "SPECIFICATION.md"
INDEX = ROOT / "docs" / "reference" / "promises.md"
PLACES = ("tests/**/*.py", "ui/tests/*.ts", "bench/*.py", "scripts/*")
COMMENT = re.compile(r"^ *(?:#|//) promise: (.+)$", re.MULTILINE)
MARKER = re.compile(r"\bpromise\(")
ROW = re.compile(r"^\| (?P<id>[A-Z]\d+) \| (?P<sentence>[^|\n]+) \|(?P<tests>[^|\n]*)\|$", re.M)
HEAD = """\
# Index of promises

The promises that [SPECIFICATION.md](../../SPECIFICATION.md) does not list, each by its number and
in the words of the tests that prove it. Made by `scripts/generate.py` from the `@promise` markers.
"""


class Proof(NamedTuple):
    """A test, or a whole file, that proves a promise."""

    file: str
    test: str = ""
    words: str = ""


Proofs = dict[str, list[Proof]]


class MisplacedMarker(ValueError):
    """A marker at a place where pytest ignores it."""


def registered() -> dict[str, Any]:
    """NUMBERS and IDS of tests/promises.py."""
    return runpy.run_path(str(ROOT / "tests" / "promises.py"))


@cache
def proofs() -> Proofs:
    """Every promise with its proofs, in the order of their files."""
    found: Proofs = {}
    for path in (path for place in PLACES for path in sorted(ROOT.glob(place))):
        if path.is_file():
            for promise, proof in markers(str(path.relative_to(ROOT)), path.read_text()):
                found.setdefault(promise, []).append(proof)
    return found


def markers(file: str, text: str) -> Iterator[tuple[str, Proof]]:
    """The promises that a file's markers name."""
    is_python = file.endswith(".py") and (MARKER.search(text) or COMMENT.search(text))
    tree = ast.parse(text if is_python else "")
    whole = Proof(file, words=first_sentence(ast.get_docstring(tree) or ""))
    for comment in COMMENT.findall(text):
        yield from ((promise, whole) for promise in comment.split(", "))
    found: list[tuple[ast.Call, Proof]] = []
    for node in tree.body:
        candidates: list[ast.AST] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_test(node.name):
            candidates, proof = [*node.decorator_list], Proof(file, node.name, as_words(node.name))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            candidates, proof = [*ast.walk(node.value)], whole
        found += [(call, proof) for call in candidates if is_marker(call)]
    for call, proof in found:
        yield from ((ast.literal_eval(promise), proof) for promise in call.args)
    # Looking at each expression takes long, and is not needed if all markers in the text were
    # found.
    is_complete = len(found) == len(MARKER.findall(text))
    if not is_complete and len(found) < sum(map(is_marker, ast.walk(tree))):
        raise MisplacedMarker(f"{file}: @promise belongs to a test or to pytestmark")


def is_test(name: str) -> bool:
    return name.startswith("test_")


def is_marker(node: ast.AST) -> TypeGuard[ast.Call]:
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return is_call and node.func.id == "promise"  # type: ignore[attr-defined]


def as_words(test: str) -> str:
    return test.removeprefix("test_").replace("_", " ").capitalize()


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, without the full stop."""
    text = text.partition("\n\n")[0]
    return re.split(r"\.\s", " ".join(text.split()))[0].rstrip(".")


def specification(found: Proofs | None = None) -> str:
    """SPECIFICATION.md, with the tests of each promise; if there are more than two, only their
    files.
    """
    found = found or proofs()

    def with_tests(row: re.Match[str]) -> str:
        proofs = found.get(row["id"], [])
        names = [f"{file}::{test}" if test else file for file, test, _ in proofs]
        shown = names if len(names) < 3 else [*dict.fromkeys(file for file, _, _ in proofs)]
        return f"| {row['id']} | {row['sentence']} | {', '.join(f'`{one}`' for one in shown)} |"

    return ROW.sub(with_tests, SPECIFICATION.read_text())


def index(found: Proofs | None = None) -> str:
    """docs/reference/promises.md."""
    found = found or proofs()
    listed = {row["id"] for row in ROW.finditer(SPECIFICATION.read_text())}
    known = registered()
    parts = [HEAD]
    for letter, (subject, _) in known["NUMBERS"].items():
        parts.append(f"\n## {subject}\n\n")
        for promise in known["IDS"]:
            if promise[0] == letter and promise not in listed:
                tests = found.get(promise, [])
                words = "; ".join(dict.fromkeys(test.words for test in tests if test.words))
                files = ", ".join(dict.fromkeys(f"`{test.file}`" for test in tests))
                parts.append(f"- **{promise}** {words} ({files})\n")
    return "".join(parts)


def faults(text: str, marked: Iterable[str], known: Iterable[str]) -> list[str]:
    """Mistakes in the ids of SPECIFICATION.md and of markers."""
    lines = re.findall(r"^\| [A-Z]+\d.*", text, re.MULTILINE)
    rows = [row["id"] for row in ROW.finditer(text)]
    return [
        *(f"no row with id, promise, and tests: {line}" for line in lines if not ROW.match(line)),
        *(f"{promise}: two rows" for promise in sorted(set(rows)) if rows.count(promise) > 1),
        *(f"{promise}: unknown number" for promise in sorted({*rows, *marked}.difference(known))),
        *(f"{promise}: no test" for promise in sorted(set(known).difference(marked))),
    ]
