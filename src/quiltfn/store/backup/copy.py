"""Copies a whole store into an empty one of the other kind: a data directory, or PostgreSQL.

It copies table by table, row by row, in one transaction of the target. Before the commit it reads
everything back: each table must have the same number of rows and the same digest as in the source.
So however the copy ends, the target is complete or empty.
"""

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import Any, Protocol

from sqlalchemy import JSON, Boolean, Float, LargeBinary, Table, Text

from quiltfn.store.database import tables
from quiltfn.store.database.directory import StoreBroken

Row = tuple[Any, ...]
# Triggers keep counts in these tables. The source's counts replace those that the triggers made.
COUNTED_BY_TRIGGERS = (tables.usage, tables.work_count)
# A copy is an independent store: it belongs to no fleet, so a standalone server can use it. Its
# tables are those of this release.
NOT_COPIED = (tables.fleet, tables.image_copy, tables.compatibility)
DIGESTS = 2**256


class Kind(Enum):
    """The type of a column's values, which may also be None."""

    TEXT = str
    JSON = "JSON as text"
    BYTES = bytes
    WHOLE = int
    NUMBER = float
    TRUTH = bool


def kinds_of(table: Table) -> list[Kind]:
    """The kinds of the table's columns, in their order."""
    return [_kind(table, column.name, column.type) for column in table.columns]


def _kind(table: Table, name: str, kind: object) -> Kind:
    if table is tables.invocation and name in tables.OUTPUT_COLUMNS:
        return Kind.BYTES
    for known, found in (
        (JSON, Kind.JSON),
        (LargeBinary, Kind.BYTES),
        (Boolean, Kind.TRUTH),
        (Float, Kind.NUMBER),
        (Text, Kind.TEXT),
    ):
        if isinstance(kind, known):
            return found
    return Kind.WHOLE


class Source(Protocol):
    """The source of a copy. It does not change during the copy."""

    def rows(self, table: Table) -> Generator[Row]:
        """All rows, with values of their `Kind`; only a few rows are in memory at a time. Close the
        generator: before that, the transaction cannot end.
        """


class Target(Source, Protocol):
    """The target of a copy: an empty store in the middle of a transaction."""

    def fill(self, table: Table, rows: Iterable[Row]) -> None:
        """Replaces the table's rows, including those of an empty store."""


Opened = AbstractContextManager[Target]


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a table: the number of rows, and a digest independent of their order."""

    rows: int = 0
    digest: int = 0

    def with_row(self, row: Row) -> "Contents":
        return Contents(self.rows + 1, (self.digest + _digest(row)) % DIGESTS)


def _digest(row: Row) -> int:
    """A digest of the types and the values."""
    found = blake2b(digest_size=32)
    for value in row:
        data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        found.update(b"%s %d " % (type(value).__name__.encode(), len(data)))
        found.update(data)
    return int.from_bytes(found.digest())


class Counted:
    """Passes rows through, and counts and digests them."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows, self.contents = rows, Contents()

    def __iter__(self) -> Generator[Row]:
        for row in self._rows:
            self.contents = self.contents.with_row(row)
            yield row


def copy(source: Source, target: Target, progress: Callable[[str, int], None]) -> None:
    """Copies every table, and then compares both. `progress` gets each table's name and number of
    rows.

    Raises `StoreBroken` if the target differs from the source; the caller must then roll back.
    """
    copied = {}
    for table in _in_order():
        with closing(source.rows(table)) as rows:
            counted = Counted(rows)
            target.fill(table, counted)
        copied[table] = counted.contents
    for table, contents in copied.items():
        found = contents_of(target, table)
        if found != contents:
            raise StoreBroken(
                f"The copy differs from its source in {table.name}: {found.rows} rows of "
                f"{contents.rows} arrived, or not as they were. Nothing was kept of it."
            )
        progress(table.name, contents.rows)


def contents_of(source: Source, table: Table) -> Contents:
    """The contents of a table."""
    found = Contents()
    with closing(source.rows(table)) as rows:
        for row in rows:
            found = found.with_row(row)
    return found


def _in_order() -> list[Table]:
    """The tables to copy, each after those that it refers to."""
    apart = (*COUNTED_BY_TRIGGERS, *NOT_COPIED)
    others = [one for one in tables.metadata.sorted_tables if one not in apart]
    return [*others, *COUNTED_BY_TRIGGERS]


def check_revision(found: str | None, where: str) -> None:
    """Raises `StoreBroken` for a source with another schema than this release's."""
    if found != tables.REVISION:
        raise StoreBroken(
            f"{where} has the schema {found or 'of nobody'}, and this quiltfn has "
            f"{tables.REVISION}: start and stop a server of this version on it once."
        )


def check_all_ended(running: int, where: str) -> None:
    """Raises `StoreBroken` for a source whose server did not shut down properly."""
    if running:
        raise StoreBroken(
            f"{where} has {running} call(s) that are not over, since its server did not end by "
            "itself: start and stop it once."
        )
