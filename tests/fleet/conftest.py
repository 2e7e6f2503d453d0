"""Fleets on a PostgreSQL of their own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import postgresql
from e2e.server import Server
from fleet.nodes import Fleet
from postgresql import PASSWORD, Cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with postgresql.started() as one:
        yield one


@pytest.fixture
def database(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty database by TCP, without its password. It goes after the servers that use it."""
    name = f"db{abs(hash(request.node.nodeid)):x}"
    cluster.create(name)
    yield cluster.tcp_url(name, None)
    cluster.drop(name)


@pytest.fixture
def fleet(database: str, tmp_path: Path, another: Callable[..., Server]) -> Fleet:
    """A fleet without a node."""
    return Fleet(tmp_path, database, another).init(PASSWORD)
