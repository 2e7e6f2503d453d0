"""Servers for the contract tests: one without keys, and one with keys and signed tokens."""
# promise: N26

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from e2e.server import Server, short_dir, watched
from fleet.front import NODES, three_nodes
from spec.api_client import Api, make_key, make_secret, new_name

OTHERS_HEAR_S = 1.0  # the bound that a fleet promises


@dataclass
class Keyed:
    """A server with keys. `operator`: a client that may do everything."""

    server: Server
    secret: str
    operator: Api

    def key(self, tenant: str, scope: str, **more: Any) -> dict[str, Any]:
        body = {"tenant": tenant, "scope": scope} | more
        return self.operator.good("POST", "/api/keys", body, 201)

    def caller(self, tenant: str, scope: str = "admin") -> Api:
        return Api(self.server.url, self.key(tenant, scope)["key"])


Serving = Callable[[str], contextlib.AbstractContextManager[Server]]


@contextlib.contextmanager
def alone(options: str) -> Iterator[Server]:
    with watched(options) as server:
        yield server.start()


@pytest.fixture(scope="session")
def serving(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Serving:
    """Makes a fixture for a server with these options, or for three nodes with --fleet."""
    if not request.config.getoption("--fleet"):
        return alone
    Api.others_hear_s, Api.nodes = OTHERS_HEAR_S, len(NODES)
    return lambda options: three_nodes(options, tmp_path_factory.mktemp("fleet"))


@pytest.fixture(scope="session")
def open_server(serving: Serving) -> Iterator[Server]:
    """A server without keys; shared, so tests must leave it unchanged."""
    with serving("") as server:
        yield server


@pytest.fixture
def anybody(open_server: Server) -> Iterator[Api]:
    """A client of the server without keys."""
    api = Api(open_server.url)
    yield api
    api.clear()


@pytest.fixture(scope="session")
def keyed(serving: Serving) -> Iterator[Keyed]:
    """A server with keys and HS256 tokens; shared, so each test must use its own tenant."""
    with short_dir() as root:
        secret = make_secret(root)
        with serving(f"--jwt-secret {root / 'jwt-secret'}") as server:
            key = make_key(server, "--tenant", "default", "--scope", "operator")["key"]
            yield Keyed(server, secret, Api(server.url, key))


@pytest.fixture
def tenant(keyed: Keyed) -> Iterator[Api]:
    """The admin of a new tenant, which only this test uses."""
    api = keyed.caller(new_name())
    yield api
    api.clear()
