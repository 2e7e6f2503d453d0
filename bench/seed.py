"""Fills a server's database with functions and records, by SQL and fast, for `size.py` and
`page_speed.py`.

The data directory was made by a real start and has one function, which is the template of all
others. Nothing else has it open meanwhile.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

OUTPUT = "hello\n"
PAST_S = 6 * 86_400
BATCH = 50_000


def an_id(unix_ms: int, number: int) -> str:
    """A UUIDv7 of that time; its last 62 bits are `number`."""
    return str(uuid.UUID(int=unix_ms << 80 | 7 << 76 | 2 << 62 | number))


def fill(data_dir: Path, functions: int, records: int) -> None:
    """Adds active functions until there are `functions`, without instances, and `records` of
    theirs.
    """
    with closing(sqlite3.connect(data_dir / "quiltfn.db", isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        for pragma in ("synchronous = OFF", "cache_size = -1000000", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        ids = add_functions(connection, functions)
        add_records(connection, ids, records)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def add_functions(connection: sqlite3.Connection, count: int) -> list[str]:
    """Adds copies of the only function; returns the ids of all."""
    function = dict(connection.execute("SELECT * FROM function").fetchone())
    version = dict(connection.execute("SELECT * FROM version").fetchone())
    start, made = time.time_ns() // 1_000_000, []
    for number in range(count - 1):
        stored = function | {"id": an_id(start + number, number), "name": f"seed-{number}"}
        its = version | {"id": an_id(start + number, 1 << 40 | number), "function_id": stored["id"]}
        made.append((stored, its))
    connection.execute("BEGIN")
    for table, rows in zip(("function", "version"), zip(*made, strict=True), strict=True):
        insert(connection, table, rows)
    connection.execute("COMMIT")
    return [row["id"] for row in connection.execute("SELECT id FROM function")]


def add_records(connection: sqlite3.Connection, functions: list[str], count: int) -> None:
    """Spread over the functions and the last six days, oldest first."""
    listing = "SELECT sql FROM sqlite_schema WHERE name = 'invocation_listing'"
    (index,) = connection.execute(listing).fetchone()
    connection.execute("DROP INDEX invocation_listing")  # made in one go afterwards: much faster
    rows = records(functions, count)
    while some := list(itertools.islice(rows, BATCH)):
        connection.execute("BEGIN")
        insert(connection, "invocation", some)
        connection.execute("COMMIT")
    connection.execute(index)
    calls = count // len(functions)
    connection.execute("UPDATE function SET invocation_count = ?", (calls,))


def records(functions: list[str], count: int) -> Iterator[dict[str, Any]]:
    """The rows of the records, oldest first."""
    first_ms, step = int((time.time() - PAST_S) * 1000), PAST_S * 1000 / max(1, count)
    for number in range(count):
        at_ms = first_ms + int(number * step)
        failed = number % 100 == 0
        yield {
            "invocation_id": an_id(at_ms, number),
            "tenant_id": "default",
            "function_id": functions[number % len(functions)],
            "function_name": "seed",
            "execution_node_id": "node",
            "status": "failed" if failed else "success",
            "started_at": at_ms // 1000,
            "ended_at": at_ms // 1000,
            "duration_ms": number % 50,
            "exit_code": int(failed),
            "stdout": OUTPUT,
            "stderr": "",
            "error_message": None,
            "cold_start": int(number % 1000 == 0),
        }


def insert(connection: sqlite3.Connection, table: str, rows: Any) -> None:
    """All rows have the columns of the first."""
    first, *_ = rows
    names = ", ".join(first)
    marks = ", ".join(f":{name}" for name in first)
    connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)
