"""Copies the database and the spool, beside a running server or without one.

The spool is copied first. A record leaves the spool only after the database has it, so every record
that was acknowledged before the copy began is in at least one of them. A record in both is
harmless.
"""

import os
import secrets
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from quiltfn.model.runtime import IMAGES
from quiltfn.store.calls import spool
from quiltfn.store.database import consistency, sqlite_header
from quiltfn.store.database.directory import (
    OWNER_ONLY,
    SPOOLS,
    DataDirectory,
    StoreBroken,
    open_own,
)
from quiltfn.store.database.tables import REVISION

DATABASE = "quiltfn.db"
TRIES, TRY_AGAIN_S = 50, 0.02


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The content of a copied database. `images`: their digests."""

    revision: str
    functions: int
    records: int
    images: frozenset[str]


def take(data_dir: Path, target: Path) -> Snapshot:
    """Writes `quiltfn.db` and the segments into the directory `target` and checks them.

    Raises `StoreBroken` if files are missing, damaged or do not belong together.
    """
    directory = DataDirectory(data_dir)
    if not directory.database.exists():
        raise StoreBroken(f"There is no database in {data_dir}; name it with --data-dir.")
    directory.enter(alone=False, wait_s=0)
    try:
        directory.check()
        if directory.holds_lock:
            consistency.examine(directory)
    finally:
        directory.leave()  # A server may start during the copy, which can take long.
    for name in SPOOLS:
        copy_segment(data_dir / name, target / name)
    copy_database(directory.database, target / DATABASE)
    return look_through(target / DATABASE)


def copy_segment(source: Path, target: Path) -> None:
    """Copies the complete records of a segment that a server may write or empty meanwhile."""
    for attempt in range(TRIES):
        if _copy_lines(source, target):
            return
        time.sleep(TRY_AGAIN_S * (attempt > 0))
    raise StoreBroken(f"{source} is damaged: it holds lines that are no records.")


def _copy_lines(source: Path, target: Path) -> bool:
    """Returns False for an invalid line: the segment was emptied and refilled meanwhile, or is
    damaged.
    """
    with open(target, "wb", opener=_private) as copy:
        try:
            opened = open_own(source, os.O_RDONLY)
        except FileNotFoundError:
            return True
        with open(opened, "rb") as file:
            while line := file.readline(spool.LINE_MAX_BYTES + 1):
                if len(line) > spool.LINE_MAX_BYTES:
                    raise StoreBroken(f"{source} is damaged: a line is longer than any record.")
                if spool.from_line(line.rstrip(b"\n")) is not None:
                    copy.write(line if line.endswith(b"\n") else line + b"\n")
                elif line.endswith(b"\n"):
                    return False
    return True  # an incomplete last line is not acknowledged yet


def copy_database(source: Path, target: Path) -> None:
    """Copies the database without blocking writers, and gives the copy its own id."""
    os.close(_private(str(target), os.O_RDWR | os.O_CREAT | os.O_EXCL))
    try:
        with (
            closing(consistency.read_only(source)) as origin,
            closing(sqlite3.connect(target)) as to,
        ):
            origin.backup(to)
            to.execute("PRAGMA journal_mode = DELETE")
            to.execute(f"PRAGMA application_id = {1 + secrets.randbelow(sqlite_header.NUMBERS)}")
    except sqlite3.Error as error:
        raise StoreBroken(f"{source} cannot be copied: {error}.") from None


def look_through(database: Path) -> Snapshot:
    """Checks the copy. Raises `StoreBroken` if it is damaged: then the original is damaged, too."""
    try:
        with closing(sqlite3.connect(database)) as connection:
            (result,) = connection.execute("PRAGMA integrity_check").fetchone()
            if result != "ok":
                raise StoreBroken(f"The database is damaged: {result}. Restore an older backup.")
            (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            (functions,) = connection.execute("SELECT count(*) FROM function").fetchone()
            (records,) = connection.execute("SELECT count(*) FROM invocation").fetchone()
            images = _needed_images(connection)
    except sqlite3.Error as error:
        raise StoreBroken(f"The database cannot be read: {error}.") from None
    return Snapshot(revision, functions, records, images)


def _needed_images(connection: sqlite3.Connection) -> frozenset[str]:
    """The digests of all images in the database. An older schema has fewer fields for them."""
    known = {row[1] for row in connection.execute("PRAGMA table_info(runtime)")}
    found: set[str] = set()
    for kind in IMAGES:
        queries = [f"SELECT json_extract(pinned, '$.{kind}') FROM version"]
        if kind in known:
            queries.append(f"SELECT {kind} FROM runtime")
        for query in queries:
            found.update(one for (one,) in connection.execute(query) if one)
    return frozenset(found)


def check_revision(revision: str) -> None:
    """Raises `StoreBroken` for a schema that is newer than this release."""
    if revision > REVISION:
        raise StoreBroken(
            f"The backup is of a newer quiltfn (its schema is {revision}, this one knows up to "
            f"{REVISION}). Install that version first."
        )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, OWNER_ONLY)
