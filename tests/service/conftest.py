"""Fixtures of this folder: a server, and SQL statements that are compiled once per process.

A server compiles each statement once. These tests open some hundred stores in one process;
compiling the statements again for each store would take an eighth of their time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from sqlalchemy import Engine, create_engine

from quiltfn.store.database import sqlite
from service.platform_harness import Harness, open_harness
from service.routes import Web

# These tests run on uvloop, as servers do: its TLS implementation differs from asyncio's.
ON_UVLOOP = {"test_tls_responses.py", "peers"}
# Compiled statements are cached per dialect, so the engines must share one dialect.
MODEL = create_engine("sqlite://")
COMPILED: dict[Any, Any] = {}


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if ON_UVLOOP & {item.path.name, item.path.parent.name}:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


def engine_with_shared_statements(*arguments: Any, **more: Any) -> Engine:
    engine = create_engine(*arguments, **more)
    engine.dialect = MODEL.dialect
    engine.update_execution_options(compiled_cache=COMPILED)
    return engine


@pytest.fixture(scope="session", autouse=True)
def shared_statements() -> Iterator[None]:
    MODEL.connect().close()  # Makes the dialect ask the driver for its version.
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
    """A client of the API of `server`."""
    return Web(server)
