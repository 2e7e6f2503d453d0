"""The code uses the field's own words (docs/glossary.md); its earlier names do not come back.

A name that is also an English word is looked for where it is code: an identifier of Python, of C,
or in a document's `code`. A name that is nothing else is looked for everywhere.
"""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from architecture.test_documents import TRACKED

ROOT = Path(__file__).resolve().parents[2]
OWN = "tests/architecture/test_names.py"
SEARCHED: tuple[str, ...] = (
    "src/",
    "tests/",
    "docs/",
    "scripts/",
    "bench/",
    "packaging/",
    "README.md",
)
SEARCHED += ("SPECIFICATION.md", "SECURITY.md", "PRINCIPLES.md", "CONTRIBUTING.md")

# Old identifier → the name that took its place. Whole identifiers, in Python and in `code`.
IDENTIFIERS = {
    "House": "Services",
    "Tied": "Platform",
    "tie": "open_platform",
    "Asked": "RequestContext",
    "Visit": "RequestContext",
    "Answer": "Response",
    "Answers": "IdempotencyStore",
    "Rendered": "Response",
    "Held": "PoolLease",
    "Line": "WaitQueue",
    "Holding": "InstanceTable",
    "Past": "StartHistory",
    "Spare": "EvictionCandidate",
    "Size": "Limits",
    "Wanted": "SandboxSpec",
    "stem": "prewarmed",
    "stems": "prewarmed",
    "shelf": "warm stock",
    "stand": "prepare",
    "stood": "ready",
    "standby": "prepared",
    "closers": "an exit stack",
    "retarget": "set_scaling",
    "Resume": "Unpark",
    "How": "ExitKind",
    "Ended": "CallResult",
    "Cold": "ColdStartReason",
    "Making": "StartTiming",
    "Content": "VersionSpec",
    "Place": "NodeConfig",
    "Machine": "HostFacts",
    "pinned": "a runtime snapshot",
    "Tally": "counters",
    "trail": "audit",
    "tidy": "retention",
    "lint": "archive_rules",
    "guide": "help",
    "ceiling": "global limit",
    "Ceiling": "GlobalLimit",
    "ANEW": "FRESH",
    "Word": "what it holds",
    "Tried": "what it holds",
    "Said": "what it holds",
    "Workshop": "what it holds",
    "Tale": "what it holds",
}
# Functions and methods of Python; a local variable may have such a name.
FUNCTIONS = {
    "switch": "promote",
    "follow": "transition",
    "begin": "eager_task",
    "shown": "truncate",
}
# Modules that something imports.
MODULES = {"kept": "idempotency", "keep": "image_store"}
# Words that mean nothing else here, as patterns over the whole text of every file, in any case.
WORDS = {
    r"stem[\s_-]cells?": "prewarmed sandbox",
    r"\bmoulds?\b": "sandbox template",
    r"calm_the_collector": "tune_gc",
    r"\b_?spoken\b": "translate_errors",
    r"uplinks?": "egress proxy",
    r"\bits way out\b|\bthe way out\b|\bway out \|": "egress proxy",
}
# Each pattern has one of these in it, as has all that it matches: they are found faster.
SIGNS = ("stem", "mould", "calm_the_collector", "spoken", "uplink", "way out")
# Parts of a file's name.
FILES = {
    r"_box\.py$": "a name for what it holds",
    r"quiltfn/(.*/)?(kept|trail|tidy|lint|keep|guide|cold|line|holding)\.py$": "what it holds",
    r"(stems|ceiling)\.py$": "prewarmed sandboxes, the global limit",
    r"model/machine\.py$": "state_machine",
    r"ahead\.(h|c|py)$": "prefork",
    r"test_(trail|tidy)\.py$": "what it tests",
    r"stem-cell": "prewarmed sandbox",
}
# (name or pattern, file or folder) → why it may stay there.
OLD_SETTING = "an old name of a setting or a metric, which goes on working"
STEM_CELLS = r"stem[\s_-]cells?"
ALLOWED: dict[tuple[str, str], str] = {
    (STEM_CELLS, "src/quiltfn/settings.py"): OLD_SETTING,
    (STEM_CELLS, "src/quiltfn/observe/metrics.py"): OLD_SETTING,
    (STEM_CELLS, "tests/unit/test_settings.py"): OLD_SETTING,
    (STEM_CELLS, "docs/glossary.md"): "says where the word came from",
    ("stem", "src/quiltfn/operator/archive.py"): "`Path.stem`",
    ("stem", "tests/architecture/"): "`Path.stem`",
    ("lint", "scripts/render_chart.py"): "a function of Helm's",
    ("pinned", "src/quiltfn/store/"): "the column's name in data directories that exist",
}

ENDS = {tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT}
IN_C = {"ahead": "prefork", "ANEW": "FRESH"}
NAMES = IDENTIFIERS | FUNCTIONS | MODULES | IN_C
SOURCES = [
    name
    for name in TRACKED
    if name.startswith(SEARCHED)
    and name != OWN
    and "/fuzz/corpus/" not in name
    and (ROOT / name).is_file()
]

# Where a Python text has none of these, none of its tokens is a name that has a row.
MAY_HAVE_ONE = re.compile(
    rf"\b(?:{'|'.join(IDENTIFIERS)})\b"
    rf"|\bdef[\s\\]+(?:{'|'.join(FUNCTIONS)})\b"
    rf"|^\s*(?:from|import)\b(?:[^\n]|\\\n)*\b(?:{'|'.join(MODULES)})\b",
    re.MULTILINE,
)


def python_names(text: str) -> Iterator[tuple[str, int]]:
    """The names in a Python text that have a row, each with its line; no comment, no string."""
    if not MAY_HAVE_ONE.search(text):  # Most texts, and tokens take long.
        return
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    before, imports = "", False
    for token in tokens:
        word = token.string
        if token.type == tokenize.NAME:
            imports = word in ("import", "from") if before == "" else imports
            is_meant = word in IDENTIFIERS or (word in FUNCTIONS and before == "def")
            if is_meant or (word in MODULES and imports):
                yield word, token.start[0]
        before = "" if token.type in ENDS else word


def document_names(text: str) -> Iterator[tuple[str, int]]:
    """Every identifier in a `code span` of a Markdown text with its line."""
    for number, line in enumerate(text.splitlines(), 1):
        for span in re.findall(r"`([^`]+)`", line):
            for name in re.findall(r"(?<![\w-])\w+(?![\w-])", span):
                if name in IDENTIFIERS:
                    yield name, number


def c_names(text: str) -> Iterator[tuple[str, int]]:
    """Every identifier of a C text with its line; no comment and no string."""
    bare = re.sub(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"", blank, text, flags=re.DOTALL)
    for number, line in enumerate(bare.splitlines(), 1):
        for name in re.findall(r"\w+", line):
            if name in IN_C:
                yield name, number


def blank(match: re.Match[str]) -> str:
    return "\n" * match[0].count("\n")


READERS = {".py": python_names, ".md": document_names, ".c": c_names, ".h": c_names}


# Terms of pages that are written by hand; the code may still have them (docs/glossary.md).
PAGE_WORDS = {
    r"\baccepted work\b": "asynchronous invocations",
    r"\bends of calls\b": "outcomes of invocations",
    r"\bof ours\b": "of quiltfn",
    r"\b(last|no|a|each) beats?\b": "heartbeat",
    r"\bprocessor time\b": "CPU time",
}
PAGES = [
    *(ROOT / "docs").glob("how-to/*.md"),
    *(ROOT / "docs").glob("decisions/*.md"),
    *(ROOT / name for name in SEARCHED if name.endswith(".md") and name != "SPECIFICATION.md"),
]


def test_pages_use_the_terms_of_the_glossary() -> None:
    assert len(PAGES) > 40
    left = [
        f"{path.name}: “{match[0]}” is {new}"
        for path in PAGES
        for pattern, new in PAGE_WORDS.items()
        for match in re.finditer(pattern, path.read_text(), re.IGNORECASE)
    ]
    assert not left, "\n".join(left)


def may_stay(old: str, name: str) -> bool:
    return any(old == row and name.startswith(place) for row, place in ALLOWED)


def found(name: str, text: str) -> Iterator[str]:
    """Each old name in a file, as a sentence."""
    reader = READERS.get(Path(name).suffix)
    if reader is not None:
        for word, line in reader(text):
            if word in NAMES and not may_stay(word, name):
                yield f"{name}:{line}: {word} is now {NAMES[word]}"
    lowered = text.lower()
    for pattern, new in WORDS.items() if any(sign in lowered for sign in SIGNS) else ():
        if not may_stay(pattern, name):
            for match in re.finditer(pattern, text, re.IGNORECASE):
                line = text.count("\n", 0, match.start()) + 1
                yield f"{name}:{line}: “{match[0]}” is now {new}"
    for pattern, new in FILES.items():
        if re.search(pattern, name) and not may_stay(pattern, name):
            yield f"{name}: named after {new}"


def test_no_old_name_is_left() -> None:
    assert all(any(sign in pattern for sign in SIGNS) for pattern in WORDS)
    left = [
        sentence
        for name in SOURCES
        for sentence in found(name, (ROOT / name).read_text(errors="replace"))
    ]
    assert not left, "\n".join(left)


def test_an_exception_is_still_needed() -> None:
    """A place in ALLOWED that has the name no more is struck from the list."""
    for (old, place), reason in ALLOWED.items():
        assert reason
        names = [name for name in SOURCES if name.startswith(place)]
        assert names, f"{place} does not exist"
        texts = ((name, (ROOT / name).read_text(errors="replace")) for name in names)
        assert any(has(old, name, text) for name, text in texts), f"{place} has no {old}"


def has(old: str, name: str, text: str) -> bool:
    if old in NAMES:
        reader = READERS.get(Path(name).suffix)
        return reader is not None and any(word == old for word, _ in reader(text))
    return bool(re.search(old, name if old in FILES else text, re.IGNORECASE))


@pytest.mark.parametrize(
    ("name", "text", "finds"),
    [
        ("src/a.py", "class House: ...\n", True),
        ("src/a.py", "x = self.Held\n", True),
        ("src/a.py", "def shown(): ...\n", True),
        ("src/a.py", "shown = 1\n", False),
        ("src/a.py", "import os\nfrom quiltfn.images import keep\n", True),
        ("src/a.py", "keep = True\n", False),
        ("src/a.py", "# The House is large.\nx = 'House'\n", False),
        ("docs/a.md", "the `Held` of a pool", True),
        ("docs/a.md", "It is Held, and so is `Content-Type`.", False),
        ("docs/a.md", "Stem cells are quick.", True),
        ("src/a.c", "int ahead(void);", True),
        ("src/a.c", "// ahead\nint keep;", False),
        ("tests/e2e/some_box.py", "", True),
    ],
)
def test_an_old_name_is_noticed_where_it_is_a_name(
    name: str, text: str, finds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr(f"{__name__}.ALLOWED", {})
    assert bool(list(found(name, text))) is finds
