"""Fleets with their own PostgreSQL."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import postgresql
from e2e.server import Server, watched
from fleet.nodes import Fleet
from postgresql import PASSWORD, Cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with postgresql.started() as cluster:
        yield cluster


@pytest.fixture
def database(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database by TCP, without its password. The database is removed after its
    servers have ended.
    """
    with cluster.lent(request.node.nodeid) as url:
        yield url


@pytest.fixture
def fleet(database: str, tmp_path: Path, another: Callable[..., Server]) -> Fleet:
    """A fleet without nodes."""
    return Fleet(tmp_path, database, another).init(PASSWORD)


@pytest.fixture(scope="module")
def shared_fleet(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet for the tests of a module, which must leave its nodes unchanged."""
    cluster.create("shared")
    with ExitStack() as stack:
        yield Fleet(
            tmp_path_factory.mktemp("fleet"),
            cluster.tcp_url("shared", None),
            lambda *options, **more: stack.enter_context(watched(*options, **more)),
        ).init(PASSWORD)
