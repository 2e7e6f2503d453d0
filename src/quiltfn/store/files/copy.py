"""Copies a whole store into an empty one of the other kind: a data directory, or PostgreSQL.

Table by table, a row at a time, in one transaction of the target. Before that is committed,
everything is read back: of each table, the number of rows and a digest of them must be those of the
source. So a target has everything or nothing, whatever ends the copy.
"""

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import Any, Protocol

from sqlalchemy import JSON, Boolean, Float, LargeBinary, Table, Text

from quiltfn.store.database import tables
from quiltfn.store.files.directory import StoreBroken

Row = tuple[Any, ...]
# Triggers count what is in the other tables, and the copy has what the source's triggers counted.
COUNTED_BY_TRIGGERS = (tables.usage, tables.work_count)
# A copy is a store of its own: it belongs to no fleet, so that a server may use it alone, and its
# tables are this version's.
NOT_COPIED = (tables.fleet, tables.image_copy, tables.compatibility)
DIGESTS = 2**256


class Kind(Enum):
    """What the values of a column are; each may be None as well."""

    TEXT = str
    JSON = "JSON as text"
    BYTES = bytes
    WHOLE = int
    NUMBER = float
    TRUTH = bool


def kinds_of(table: Table) -> list[Kind]:
    """Those of its columns, in their order."""
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
    """What is copied. It does not change meanwhile."""

    def rows(self, table: Table) -> Generator[Row]:
        """Every row, with values as their `Kind` says, a few of them in memory at a time. It must
        be closed: a database is read under a lock that its transaction needs to end.
        """


class Target(Source, Protocol):
    """Where it goes: an empty store in the middle of a transaction."""

    def fill(self, table: Table, rows: Iterable[Row]) -> None:
        """Makes these the rows of the table, instead of those that an empty store has."""


Opened = AbstractContextManager[Target]


@dataclass(frozen=True, slots=True)
class Contents:
    """What a table holds: the number of rows, and a digest that their order does not change."""

    rows: int = 0
    digest: int = 0

    def with_row(self, row: Row) -> "Contents":
        return Contents(self.rows + 1, (self.digest + _digest(row)) % DIGESTS)


def _digest(row: Row) -> int:
    """Of the types and the values."""
    found = blake2b(digest_size=32)
    for value in row:
        data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        found.update(b"%s %d " % (type(value).__name__.encode(), len(data)))
        found.update(data)
    return int.from_bytes(found.digest())


class Counted:
    """Rows on their way, and what has gone by so far."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows, self.contents = rows, Contents()

    def __iter__(self) -> Generator[Row]:
        for row in self._rows:
            self.contents = self.contents.with_row(row)
            yield row


def copy(source: Source, target: Target, progress: Callable[[str, int], None]) -> None:
    """Copies every table and compares. `told` gets each table's name and its number of rows.

    Raises `StoreBroken` where the target does not have what the source has; the caller then gives
    up the transaction.
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
    """What a table of it holds."""
    found = Contents()
    with closing(source.rows(table)) as rows:
        for row in rows:
            found = found.with_row(row)
    return found


def _in_order() -> list[Table]:
    """Every table that is copied, behind those that it refers to."""
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
    """Raises `StoreBroken` for a source whose server did not end by itself."""
    if running:
        raise StoreBroken(
            f"{where} has {running} call(s) that are not over, since its server did not end by "
            "itself: start and stop it once."
        )
