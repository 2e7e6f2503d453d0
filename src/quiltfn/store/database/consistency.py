"""Checks that the database, its log and the spool in a data directory belong together.

SQLite uses any log file next to a database, and silently ignores a damaged end of a log. Both would
lose data, so this module checks the files before SQLite opens them.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from quiltfn.store.database import sqlite_header
from quiltfn.store.database.directory import SPOOLS, DataDirectory, StoreBroken
from quiltfn.store.database.sqlite_header import following, is_older


def examine(directory: DataDirectory) -> None:
    """Raises `StoreBroken` if the files do not belong together. Changes nothing.

    The caller holds the lock, and this process has no connection to the database.
    """
    note, database, log = directory.note, directory.database, directory.log
    found, first = sqlite_header.in_file(database), sqlite_header.first_in_log(log)
    if found is None:
        return  # The file is not a database: opening it will report that.
    if note.owners and found.owner not in note.owners:
        left = [log.name] if first is not None else []
        left += [one for one in SPOOLS if directory.is_filled(one)]
        if left:
            raise StoreBroken(
                f"{database} is not the one that was served from here last, but {', '.join(left)} "
                "of that one is still there, and they do not go together. Restore a backup with "
                "quiltfn restore, or move away what is left of the other."
            )
        directory.add_notice("the database is another one than the last server's")
        return
    if first is not None and is_older(following(found.commit), first.commit):
        raise StoreBroken(
            f"{database} is older than {log.name}, which does not go with it: a copy was laid over "
            "what a server left. Restore a backup with quiltfn restore."
        )
    if note.word != "open":
        return
    if not log.exists():
        if note.commit is None or is_older(found.commit, note.commit):
            raise StoreBroken(
                f"{log} is missing, and the last server did not end by itself: the newest writes "
                f"are in that file. Put it back or restore a backup; deleting "
                f"{directory.path}/quiltfn.lock accepts what {database.name} holds alone."
            )
        return
    seen = last_commit(directory)
    if note.commit is not None and seen is not None and is_older(seen, note.commit):
        raise StoreBroken(
            f"{log} is damaged: writes that were acknowledged are not in it any more (up to number "
            f"{note.commit}; {seen} is the last that is left). Restore a backup; deleting "
            f"{directory.path}/quiltfn.lock accepts what is left."
        )


def last_commit(directory: DataDirectory) -> int | None:
    """The number of the last transaction, log included, or None if SQLite cannot read it."""
    try:
        with closing(read_only(directory.database)) as connection:
            number: int = connection.execute("PRAGMA user_version").fetchone()[0]
            return number
    except sqlite3.Error:
        return None  # The file has other damage: opening it will report that.


def read_only(database: Path) -> sqlite3.Connection:
    """A connection that changes neither the file nor its log. Any thread may use it."""
    where = f"file:{quote(str(database))}?mode=ro"
    return sqlite3.connect(where, uri=True, check_same_thread=False)
