"""The store supports a second database, and its migrations do not change."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from promises import promise
from quiltfn.store.database.sql import for_psycopg, parse, statements
from quiltfn.store.database.tables import metadata

STORE = Path(__file__).resolve().parents[2] / "src" / "quiltfn" / "store"
MIGRATIONS = sorted((STORE / "migrations" / "versions").glob("r*.py"))
# Modules that handle the SQLite file itself: they open, check and copy it, and know its header and
# free pages.
FILE_HANDLING = {
    "check.py",
    "consistency.py",
    "copy_sqlite.py",
    "disk_reserve.py",
    "snapshot.py",
    "sqlite.py",
    "sqlite_header.py",
    "vacuum.py",
}
QUERIES = sorted(
    path
    for path in (*STORE.rglob("*.py"), *STORE.rglob("*.sql"))
    if "migrations" not in path.parts
    and path.name not in ("sqlite.sql", "postgresql.sql")
    and path.name not in FILE_HANDLING
)
DATABASE = STORE / "database"
PLACED = [DATABASE / "sqlite.sql", DATABASE / "postgresql.sql"]
# Syntax that only SQLite has.
SQLITE_ALONE = re.compile(
    r"\bPRAGMA\b|\bINDEXED BY\b|\bNOT INDEXED\b|\bjson_(each|extract|tree|set)\b|"
    r"\browid\b|\bAUTOINCREMENT\b|\bWITHOUT ROWID\b|\bINSERT OR\b|\bREPLACE INTO\b|\bGLOB\b|"
    r"\bx'|\bifnull\b|(?<!time\.)\bstrftime\b|\bdatetime\(|\bunixepoch\b|\btotal_changes\b|\bsqlite_schema\b|"
    r"\bsqlite_master\b|\bimport sqlite3\b|\bEXPLAIN QUERY PLAN\b|\b(?:max|min)\([^()]*,",
)


def sqlite_alone(path: Path) -> list[str]:
    """The lines with syntax that only SQLite has. Python's `max` and `min` do not count."""
    text = path.read_text(encoding="utf-8")
    found = [
        (match.group(), text.count("\n", 0, match.start()) + 1)
        for match in SQLITE_ALONE.finditer(text)
    ]
    is_python = path.suffix == ".py"
    return [
        f"{path.name}:{line}: {what}"
        for what, line in found
        if not (is_python and what.startswith(("max(", "min(")))
    ]


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.name)
def test_a_query_outside_of_one_file_has_nothing_that_only_sqlite_knows(path: Path) -> None:
    assert not sqlite_alone(path)


def test_what_only_sqlite_knows_would_be_found() -> None:
    """Negative control: sqlite.sql has several uses of such syntax, which must be found."""
    found = " ".join(sqlite_alone(DATABASE / "sqlite.sql"))
    assert all(one in found for one in ("INDEXED BY", "json_each", "rowid", "x'"))


@promise("N82")
def test_a_query_names_the_columns_that_it_reads() -> None:
    """Columns may be added while a server runs; then its prepared `SELECT *` would fail."""
    names = "|".join(metadata.tables)
    of_all = re.compile(
        rf"(?:SELECT|,)\s+(?:\w+\.)?\*\s[^;]*?FROM\s+(?:{names})\b|RETURNING\s+\*", re.I
    )
    assert of_all.search("SELECT * FROM work WHERE epoch > 0")
    found = [
        f"{path.name}: {one.group()}"
        for path in QUERIES + PLACED
        for one in of_all.finditer(path.read_text())
    ]
    assert not found


@pytest.mark.parametrize("path", MIGRATIONS, ids=lambda path: path.name)
def test_a_migration_imports_nothing_that_may_change_later(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not (node.module or "").startswith("quiltfn"), path.name
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("quiltfn") for alias in node.names), path.name


def test_both_databases_have_the_same_statements() -> None:
    """SQLite reads parts of a record's stdout or stderr by a file handle, PostgreSQL by SQL."""
    of_fleets = parse((DATABASE / "fleet.sql").read_text()).keys()
    sqlite, other = statements("sqlite").keys(), statements("postgresql").keys() - of_fleets
    assert of_fleets
    assert sqlite - other == {"rowid_of_invocation"}
    assert other - sqlite == {"output_sizes", "part_of_stdout", "part_of_stderr"}


def test_placeholders_are_translated_for_psycopg() -> None:
    assert for_psycopg("-- one: is it? :so\nSELECT a::text % ?, :b_c FROM t;") == (
        "SELECT a::text %% %s, %(b_c)s FROM t;"
    )
    for name, statement in statements("postgresql").items():
        assert "?" not in statement, name
        assert not re.search(r"(?<!:):[a-z]", statement), name


def test_a_server_loads_nothing_that_its_settings_do_not_ask_for() -> None:
    """A server must not load modules for PostgreSQL, tokens, encryption, terminals, or metrics by
    default.
    """
    finished = subprocess.run(
        [sys.executable, "-I", "-X", "importtime", "-m", "quiltfn.server.main", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in finished.stderr.splitlines()}
    assert {"quiltfn.server.platform", "quiltfn.store", "sqlalchemy", "structlog"} <= loaded
    theirs = (
        *("psycopg", "quiltfn.store.post", "sqlalchemy.dialects.postgresql", "alembic"),
        *("jwt", "cryptography", "rich.", "opentelemetry", "httpx", "greenlet."),
        *("prometheus_client", "http.server", "wsgiref"),
    )
    assert not [name for name in loaded if name.startswith(theirs)]
