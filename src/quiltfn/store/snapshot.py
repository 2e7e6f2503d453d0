"""A copy of everything that was acknowledged until now, beside a running server or without one.

First the spool, then the database: a record leaves its segment only once the database has it, so
whatever was acknowledged before the copy began is in one of the two, and being in both is no harm.
"""

import os
import secrets
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from quiltfn.store import consistency, spool, sqlite_header
from quiltfn.store.directory import OWNER_ONLY, SPOOLS, DataDirectory, StoreBroken, open_own
from quiltfn.store.tables import REVISION

DATABASE = "quiltfn.db"
TRIES, TRY_AGAIN_S = 50, 0.02
NEEDED_IMAGES = """
    SELECT image FROM runtime WHERE coalesce(image, '') <> ''
    UNION SELECT json_extract(pinned, '$.image') FROM version
    WHERE coalesce(json_extract(pinned, '$.image'), '') <> ''
"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`images`: the digests that the database names."""

    revision: str
    functions: int
    records: int
    images: frozenset[str]


def take(data_dir: Path, target: Path) -> Snapshot:
    """Writes `quiltfn.db` and the segments into the directory `target`, and looks them through.

    Raises `StoreBroken` where what is there is missing, damaged or does not go together.
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
        directory.leave()  # A server may start meanwhile, and need not wait for a long copy.
    for name in SPOOLS:
        copy_segment(data_dir / name, target / name)
    copy_database(directory.database, target / DATABASE)
    return look_through(target / DATABASE)


def copy_segment(source: Path, target: Path) -> None:
    """The whole records of a segment that may be written to and emptied at the same time."""
    for attempt in range(TRIES):
        if _copy_lines(source, target):
            return
        time.sleep(TRY_AGAIN_S * (attempt > 0))
    raise StoreBroken(f"{source} is damaged: it holds lines that are no records.")


def _copy_lines(source: Path, target: Path) -> bool:
    """False where a line was none: the segment was emptied and filled again, or is damaged."""
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
    return True  # What has no end was being written, and is not acknowledged.


def copy_database(source: Path, target: Path) -> None:
    """In one step, so that others write on; the copy is told from its original by its number."""
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
    """Raises `StoreBroken` where the copy is damaged, as then its original is."""
    try:
        with closing(sqlite3.connect(database)) as connection:
            (told,) = connection.execute("PRAGMA integrity_check").fetchone()
            if told != "ok":
                raise StoreBroken(f"The database is damaged: {told}. Restore an older backup.")
            (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            (functions,) = connection.execute("SELECT count(*) FROM function").fetchone()
            (records,) = connection.execute("SELECT count(*) FROM invocation").fetchone()
            images = frozenset(one for (one,) in connection.execute(NEEDED_IMAGES))
    except sqlite3.Error as error:
        raise StoreBroken(f"The database cannot be read: {error}.") from None
    return Snapshot(revision, functions, records, images)


def check_revision(revision: str) -> None:
    """Raises `StoreBroken` for a schema that this version does not know yet."""
    if revision > REVISION:
        raise StoreBroken(
            f"The backup is of a newer quiltfn (its schema is {revision}, this one knows up to "
            f"{REVISION}). Install that version first."
        )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, OWNER_ONLY)
