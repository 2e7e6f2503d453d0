"""Fixtures for every implementation of the store, each in a directory of the test, and of
sandboxes.
"""
# promise: D38

import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import postgresql
from contract.sandboxes import Kind, fake_kind, launcher, real_kind, why_not_real
from contract.stores import (
    SHARED_STORES,
    STORES,
    SharedStoreOpener,
    StoreOpener,
    a_stored_function,
    opened_journal,
    url_of,
)
from postgresql import Cluster
from quiltfn.model.function import Function
from quiltfn.store import SpoolJournal, SqlStore, SqlWork


@pytest.fixture(autouse=True)
def _no_databases_left() -> Iterator[None]:
    yield
    postgresql.drop_databases()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster that a test may stop and kill."""
    with postgresql.started() as cluster:
        yield cluster


@pytest.fixture(params=STORES)
def open_store(request: pytest.FixtureRequest) -> StoreOpener:
    return STORES[request.param]


@pytest.fixture(params=STORES)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A directory whose store `opened_as_before` can open, also in a process that the test
    kills.
    """
    if request.param == "postgresql":
        url_of(tmp_path)
    return tmp_path


@pytest.fixture(params=SHARED_STORES)
def open_shared(request: pytest.FixtureRequest) -> SharedStoreOpener:
    return SHARED_STORES[request.param]


@pytest.fixture
async def store(open_store: StoreOpener, tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with open_store(tmp_path) as opened:
        yield opened


@pytest.fixture
async def function(store: SqlStore) -> Function:
    return await a_stored_function(store)


@pytest.fixture
async def journal(store: SqlStore, tmp_path: Path) -> AsyncIterator[SpoolJournal]:
    async with opened_journal(store, tmp_path) as opened:
        yield opened


@pytest.fixture
def queue(store: SqlStore) -> SqlWork:
    return SqlWork(store.database)


@pytest.fixture(scope="module")
def channel() -> Iterator[socket.socket]:
    reason = why_not_real()
    if reason is not None:
        pytest.skip(reason)
    with launcher() as channel:
        yield channel


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.sandbox)])
async def kind(request: pytest.FixtureRequest) -> AsyncIterator[Kind]:
    if request.param == "fake":
        yield fake_kind()
        return
    async with real_kind(request.getfixturevalue("channel")) as real:
        yield real
