"""Variables, parameters, fields and functions are named for what they contain. Vague names are
allowed only in comprehensions, and in callbacks of TypeScript that are an expression on one line.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from architecture.test_documents import ROOT, TRACKED

VAGUE = ("one", "told", "what")
ANY_VAGUE = "|".join(VAGUE)
# Three patterns: callbacks of TypeScript on one line; comments and strings; and code that gives a
# name.
IN_ONE_LINE = re.compile(rf"\.\w+\(\(?(?:{ANY_VAGUE})\b[^()\n]*\)? => (?!{{)[^\n]*\)[^\n]*")
NO_CODE = re.compile(
    r"/\*.*?\*/|(?<!:)//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL
)
BOUND = re.compile(
    rf"\b(?:const|let|var|function)\s+({ANY_VAGUE})\b"
    rf"|[({{\[,]\s*({ANY_VAGUE})\s*(?=[,:)}}\]=?])"  # in parameters and patterns, and as a field
    rf"|^\s*({ANY_VAGUE})\??:"
    rf"|\b({ANY_VAGUE})(?:\s*=>|=\$\{{)",
    re.MULTILINE,
)


def vague_in_python(text: str) -> Iterator[tuple[str, int]]:
    """Vague names that a text gives to anything, except in comprehensions, each with its line."""
    if not re.search(rf"\b(?:{ANY_VAGUE})\b", text):
        return
    nodes = list(ast.walk(ast.parse(text)))
    targets = [node.target for node in nodes if isinstance(node, ast.comprehension)]
    may = {id(name) for target in targets for name in ast.walk(target)}
    for node in nodes:
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                if name in VAGUE and id(node) not in may:
                    yield name, node.lineno
            case (
                ast.arg(arg=name)
                | ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ExceptHandler(name=name)
                | ast.MatchAs(name=name)
                | ast.alias(asname=name)
            ):
                if name in VAGUE:
                    yield name, node.lineno


def vague_in_typescript(text: str) -> Iterator[tuple[str, int]]:
    code = IN_ONE_LINE.sub("", NO_CODE.sub(blank, text))
    for match in BOUND.finditer(code):
        name = next(group for group in match.groups() if group)
        yield name, code.count("\n", 0, match.end()) + 1


def blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


VAGUE_READERS = {".py": vague_in_python, ".ts": vague_in_typescript}
NAMED = [
    name
    for name in TRACKED
    if name.startswith(("src/", "ui/", "tests/", "scripts/", "bench/"))
    and Path(name).suffix in VAGUE_READERS
    and (ROOT / name).is_file()
]


def vague(name: str, text: str) -> list[str]:
    reader = VAGUE_READERS[Path(name).suffix]
    return [f"{name}:{line}: name what `{word}` contains" for word, line in reader(text)]


def test_names_tell_what_they_contain() -> None:
    assert {name.partition("/")[0] for name in NAMED} == {"src", "ui", "tests", "scripts", "bench"}
    left = [
        sentence
        for name in NAMED
        for sentence in vague(name, (ROOT / name).read_text(errors="replace"))
    ]
    assert not left, "\n".join(left)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.py", "for one in names:\n    print(one)\n", 1),
        ("a.py", "\ndef told(x): ...\n", 2),
        ("a.py", "key = lambda one: one.id\n", 1),
        ("a.py", "class A:\n    what: str\n", 2),
        ("a.py", "self.told = 1\n", 1),
        ("a.py", "with opened() as (one, _):\n    pass\n", 1),
        ("a.py", "all([one for one in names])\n", None),
        ("a.py", "query.one()  # one\nx = 'one'\n", None),
        ("a.ts", "const one = 1;", 1),
        ("a.ts", "\nfor (const one of all) draw(one);", 2),
        ("a.ts", "function Row({ one, tab }: {\n  tab: number;\n}) {}", 1),
        ("a.ts", "interface Props {\n  one: Function;\n}", 2),
        ("a.ts", "html`<${Row} one=${fn} />`", 1),
        ("a.ts", "all.map((one) =>\n  draw(one)\n);", 1),
        ("a.ts", "all.map((one) => {\n  draw(one);\n});", 1),
        ("a.ts", "const ids = all.map((one) => one.id);", None),
        (
            "a.ts",
            "const text = 'one, two'; // told: what\nhtml`<p>The last one, of what.</p>`",
            None,
        ),
    ],
)
def test_a_vague_name_is_noticed(name: str, text: str, line: int | None) -> None:
    """Negative control: vague names must be found."""
    lines = [int(sentence.split(":")[1]) for sentence in vague(name, text)]
    assert next(iter(lines), None) == line
