"""The hot statements by name. `queries.sql` has statements for both databases. Their words such as
`$each(:ids)` are replaced as defined in `sqlite.sql` or `postgresql.sql`. These files also have
statements that exist in a form for each database, under the same names. `fleet.sql` has those of
fleets, for PostgreSQL only.

Statements are strings that reach the driver unchanged. SQLAlchemy's `text()` would cost 4 µs more
for each row, a third of the cost of storing a record.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, CursorResult

HEADING = re.compile(r"^-- (\w+): ", re.MULTILINE)
# The definition of a word, with {} for its argument; and a word in a statement.
MEANING = re.compile(r"^-- \$(\w+) = ?(.*)$", re.MULTILINE)
WORD = re.compile(r"\$(\w+)(?:\((:?\w+)\))?")
# A comment, an SQLite placeholder, or a %, which psycopg would take for its own placeholder.
PLACEHOLDER = re.compile(r"--[^\n]*|\?|(?<![:\w]):([a-z_]+)\b|%")


def parse(source: str) -> dict[str, str]:
    """Statements by name. Each begins with `-- name: what it does` and ends before the next."""
    starts = list(HEADING.finditer(source))
    ends = [following.start() for following in starts[1:]] + [len(source)]
    return {
        start[1]: source[start.start() : end].strip().removesuffix(";")
        for start, end in zip(starts, ends, strict=True)
    }


@cache
def statements(dialect: str) -> Mapping[str, str]:
    """The statements of a database: "sqlite" or "postgresql"."""
    found: dict[str, str] = {}
    own = (f"{dialect}.sql", "fleet.sql") if dialect == "postgresql" else (f"{dialect}.sql",)
    texts = [Path(__file__).with_name(name).read_text("utf-8") for name in ("queries.sql", *own)]
    words = dict(MEANING.findall(texts[1]))

    def meaning(word: re.Match[str]) -> str:
        return words[word[1]].format(word[2]) if word[1] in words else word[0]

    for source in texts:
        found |= parse(WORD.sub(meaning, source))
    if dialect == "postgresql":
        return {name: for_psycopg(statement) for name, statement in found.items()}
    return found


def for_psycopg(statement: str) -> str:
    """The statement with psycopg's placeholders, and without comments."""

    def other(found: re.Match[str]) -> str:
        if found[0].startswith("--"):
            return ""
        if found[0] == "%":
            return "%%"
        return "%s" if found[0] == "?" else f"%({found[1]})s"

    return PLACEHOLDER.sub(other, statement).strip()


def sql(connection: Connection, name: str) -> str:
    """A statement in the form of the connection's database."""
    return statements(connection.dialect.name)[name]


def run(connection: Connection, name: str, values: Any = None) -> CursorResult[*tuple[Any, ...]]:
    """Runs a statement. `values`: by name or by position; with a list of values, runs it once for
    each.
    """
    return connection.exec_driver_sql(sql(connection, name), values)


def execute(connection: Connection, name: str, values: Mapping[str, Any] | Sequence[Any]) -> Any:
    """Runs a statement without SQLAlchemy, in half the time; returns the driver's cursor."""
    return driver(connection).execute(sql(connection, name), values)


def driver(connection: Connection) -> Any:
    """The driver's connection that SQLAlchemy's wraps."""
    found = connection.connection.driver_connection
    assert found is not None
    return found


def numbered_cursor(connection: Connection) -> Any:
    """A psycopg cursor for statements with numbered placeholders, from $1."""
    return connection.info["numbered_cursor"]
