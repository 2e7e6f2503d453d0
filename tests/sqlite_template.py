"""Data directories with a SQLite database that already has its schema.

Creating the schema takes most of the time of a small test of a store, so it is done once in a
process. Starts in an empty directory are tested by `contract/test_store_start.py` and by every real
server.
"""

import asyncio
import atexit
import contextlib
import functools
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quiltfn.store import open_sqlite

NAME = "quiltfn.db"


def with_schema(path: Path) -> Path:
    """`path`, a data directory; if it is empty, with a new database."""
    if not path.exists() or not any(path.iterdir()):
        path.mkdir(parents=True, exist_ok=True)
        whole = path.with_name(f"{path.name}-{os.getpid()}.template")
        shutil.copy(_template(), whole)
        with contextlib.suppress(FileExistsError):  # another process has already done it
            os.link(whole, path / NAME)
        whole.unlink()
    return path


@functools.cache
def _template() -> Path:
    directory = tempfile.mkdtemp(prefix="quiltfn-test-")
    atexit.register(shutil.rmtree, directory)
    made = Path(directory) / "data"

    async def make() -> None:
        # Opened as by a tool, since no server has used the directory.
        async with open_sqlite(made, alone=False):
            pass

    with ThreadPoolExecutor(1) as thread:  # the caller may run in its own event loop
        thread.submit(asyncio.run, make()).result()
    return made / NAME
