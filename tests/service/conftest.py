"""What the tests of this folder share: a server, and statements of SQL compiled once in a process.

A server compiles each of its statements once in its life. These tests open some hundred stores in
one process, and to compile the same statements for each is an eighth of what they take.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine

from quiltfn.store.database import sqlite
from service.platform_harness import Harness, open_harness
from service.routes import Web

# The dialect is part of the key, so that the engines that share what is compiled share it too.
MODEL = create_engine("sqlite://")
COMPILED: dict[Any, Any] = {}


def engine_with_shared_statements(*arguments: Any, **more: Any) -> Engine:
    engine = create_engine(*arguments, **more)
    engine.dialect = MODEL.dialect
    engine.update_execution_options(compiled_cache=COMPILED)
    return engine


@pytest.fixture(scope="session", autouse=True)
def shared_statements() -> Iterator[None]:
    MODEL.connect().close()  # The dialect asks the driver for its version.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite, "create_engine", engine_with_shared_statements)
        yield


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Harness]:
    """A platform on fake sandboxes with default settings."""
    async with open_harness(tmp_path) as harness:
        yield harness


@pytest.fixture
def web(server: Harness) -> Web:
    """A client of that server."""
    return Web(server)
