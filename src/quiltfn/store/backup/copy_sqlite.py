"""A data directory as the source or the target of a copy."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Table

from quiltfn.store.backup.copy import Kind, Row, check_all_ended, check_revision, kinds_of
from quiltfn.store.calls import spool
from quiltfn.store.database import consistency
from quiltfn.store.database.directory import RESTORING, SPOOLS, DataDirectory, StoreBroken
from quiltfn.store.database.tables import as_bytes
from quiltfn.store.opening import open_sqlite

# The directory in which a copy is created, and its name while it is removed. Neither is a data
# directory. The next copy first removes both.
STAGING, REMOVED = "copy.unfinished", "copy.removed"
RUNNING = "SELECT count(*) FROM invocation WHERE status = 'running'"


class SqliteFile:
    """`copy.Target` over a connection to a database file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, table: Table) -> Generator[Row]:
        read = [READ[kind] for kind in kinds_of(table)]
        for row in self._connection.execute(f"SELECT {names_of(table)} FROM {quoted(table.name)}"):
            yield tuple(
                None if value is None else take(value)
                for take, value in zip(read, row, strict=True)
            )

    def fill(self, table: Table, rows: Iterable[Row]) -> None:
        name, marks = quoted(table.name), ", ".join("?" * len(table.columns))
        self._connection.execute(f"DELETE FROM {name}")
        insert = f"INSERT INTO {name} ({names_of(table)}) VALUES ({marks})"
        self._connection.executemany(insert, rows)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


READ: dict[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: _text,
    Kind.JSON: _text,
    Kind.BYTES: as_bytes,
    Kind.WHOLE: int,
    Kind.NUMBER: float,
    Kind.TRUTH: bool,
}


def quoted(name: str) -> str:
    return f'"{name}"'


def names_of(table: Table) -> str:
    return ", ".join(quoted(column.name) for column in table.columns)


@contextlib.contextmanager
def source(data_dir: Path) -> Iterator[SqliteFile]:
    """The store in a data directory that no server uses. Changes nothing in it.

    Raises `StoreBroken`, also for a spool that still holds records.
    """
    directory = DataDirectory(data_dir)
    if not directory.database.exists():
        raise StoreBroken(f"There is no database in {data_dir}.")
    directory.enter(alone=True, wait_s=0)
    try:
        directory.check()
        consistency.examine(directory)
        check_spool(data_dir)
        with _told(directory.database), closing(_read_only(directory.database)) as connection:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            check_revision(found and found[0], str(data_dir))
            check_all_ended(connection.execute(RUNNING).fetchone()[0], str(data_dir))
            yield SqliteFile(connection)
    finally:
        directory.leave()


def check_spool(data_dir: Path) -> None:
    """Raises `StoreBroken` if the spool has records that the database does not have yet."""
    for path in (data_dir / name for name in SPOOLS):
        if path.exists() and spool.from_lines(path.read_bytes(), path):
            raise StoreBroken(
                f"{path} still holds records that the database does not have: start and stop the "
                "server once."
            )


@contextlib.contextmanager
def target(data_dir: Path) -> Iterator[SqliteFile]:
    """A new store that appears in the directory at the end of the block. After an exception the
    directory is unchanged. At first, it may have images and an empty spool. Raises `StoreBroken`.
    """
    directory = DataDirectory(data_dir)
    directory.enter(alone=True, wait_s=0)
    staging = data_dir / STAGING
    try:
        _check_empty(directory)
        remove_unfinished(data_dir)
        try:
            asyncio.run(_make(staging))
            fresh = staging / directory.database.name
            with _told(fresh), closing(sqlite3.connect(fresh, isolation_level=None)) as connection:
                # No rollback is needed: an unfinished copy is removed as a whole.
                connection.execute("PRAGMA journal_mode = OFF").close()
                connection.execute("PRAGMA synchronous = OFF").close()
                connection.execute("BEGIN")
                yield SqliteFile(connection)
                broken = connection.execute("PRAGMA foreign_key_check").fetchone()
                if broken is not None:
                    raise StoreBroken(f"A row of {broken[0]} refers to one that is missing.")
                connection.execute("COMMIT")
            _put_in_place(fresh, directory)
        finally:
            remove_unfinished(data_dir)
    finally:
        directory.leave()


def remove_unfinished(data_dir: Path) -> None:
    """Removes an unfinished copy in the directory.

    The copy is renamed first: SQLite's threads may still be writing it, and can then no longer
    create files in it.
    """
    removed = data_dir / REMOVED
    shutil.rmtree(removed, ignore_errors=True)
    with contextlib.suppress(OSError):  # there is no copy
        (data_dir / STAGING).rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def _check_empty(directory: DataDirectory) -> None:
    if (directory.path / RESTORING).exists():
        raise StoreBroken(f"A restore into {directory.path} was cut off.")
    check_spool(directory.path)
    for path in (directory.database, directory.log):
        if path.exists():
            raise StoreBroken(
                f"{directory.path} is not empty ({path.name} is there): name another directory."
            )


async def _make(staging: Path) -> None:
    """Creates an empty store in the same way as a server."""
    async with open_sqlite(staging):
        pass


def _put_in_place(fresh: Path, directory: DataDirectory) -> None:
    descriptor = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    directory.forget()
    fresh.replace(directory.database)
    directory.sync()


def _read_only(database: Path) -> sqlite3.Connection:
    connection = consistency.read_only(database)
    connection.isolation_level = None
    connection.execute("BEGIN")  # so that later writes of other tools are invisible
    return connection


@contextlib.contextmanager
def _told(database: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreBroken(f"{database} cannot be used: {error}.") from error
