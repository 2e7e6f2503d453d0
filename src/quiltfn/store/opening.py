"""Open the store in a directory's file; `store/opening_postgresql.py` opens it in PostgreSQL."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from quiltfn.store.calls import sweep
from quiltfn.store.database.database import Database
from quiltfn.store.database.directory import DataDirectory
from quiltfn.store.database.sqlite import SqliteDatabase
from quiltfn.store.functions.functions import SqlStore


@contextlib.asynccontextmanager
async def open_sqlite(
    data_dir: Path, *, alone: bool = True, node_id: str = "", busy_timeout_s: float = 5.0
) -> AsyncIterator[SqlStore]:
    """Opens the store in the file of `data_dir`; creates it at the first start. Raises
    `StoreBroken`.

    A server is `alone` in its directory, or shares it with servers of other `node_id`s. A tool
    beside a running server is not alone and has no node. A write waits at most `busy_timeout_s` for
    another process's lock.
    """
    database = SqliteDatabase(DataDirectory(data_dir), busy_timeout_s, node_id)
    async with opened(database, alone=alone, sweeps=lambda: database.directory.holds_lock) as store:
        yield store


@contextlib.asynccontextmanager
async def opened(
    database: Database, *, alone: bool, sweeps: Callable[[], bool]
) -> AsyncIterator[SqlStore]:
    """Opens the database for the block, and yields its store. `sweeps`: whether to finish deletions
    that a kill interrupted. Raises `StoreBroken`.
    """
    store = SqlStore(database, sweep.remove_some)
    await database.open(alone)
    try:
        if sweeps():
            store.sweep()
        yield store
    finally:
        await store.stop_sweeping()
        await database.aclose()
