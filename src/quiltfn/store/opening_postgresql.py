"""Open the store in a PostgreSQL database, alone or with other nodes. Needs optional
dependencies.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from quiltfn.store.database.postgresql import PostgresDatabase
from quiltfn.store.functions.functions import SqlStore
from quiltfn.store.opening import opened


@contextlib.asynccontextmanager
async def open_postgresql(
    url: str,
    data_dir: Path,
    *,
    node_id: str = "",
    busy_timeout_s: float = 5.0,
    alone: bool = True,
    password: str | None = None,
) -> AsyncIterator[SqlStore]:
    """Opens the store in a PostgreSQL database; creates its tables at the first start. Raises
    `StoreBroken`.

    `data_dir`: this server's own directory, with the spool. A server is `alone` in the database, or
    shares it with servers of other `node_id`s. A tool beside a server is not alone and has no node.
    A write waits at most `busy_timeout_s` for others. `password`: used if the URL has none.
    """
    make = partial(PostgresDatabase, url, password, data_dir, busy_timeout_s, node_id)
    database = await asyncio.get_running_loop().run_in_executor(None, make)
    is_server = alone or bool(node_id)
    async with opened(database, alone=alone, sweeps=lambda: is_server) as store:
        yield store


@contextlib.asynccontextmanager
async def open_as_node(
    url: str,
    data_dir: Path,
    password: str | None,
    *,
    node_id: str,
    fleet_id: str,
    busy_timeout_s: float = 5.0,
) -> AsyncIterator[SqlStore]:
    """Opens a store that is shared with the other nodes of its fleet. Raises `StoreBroken` for a
    database of another fleet or of none, and `StoreUnavailable` while a node of the same name, or a
    server that is alone, uses it.
    """
    make = partial(PostgresDatabase, url, password, data_dir, busy_timeout_s, node_id, fleet_id)
    database = await asyncio.get_running_loop().run_in_executor(None, make)
    async with opened(database, alone=False, sweeps=lambda: True) as store:
        yield store
