"""Servers for the tests of the contract: one without keys, one with keys and signed tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from e2e.server import Server, watched
from spec.api_client import Api, make_key, make_secret, new_name


@dataclass
class Keyed:
    """A server with keys. `operator`: a caller who may everything."""

    server: Server
    secret: str
    operator: Api

    def key(self, tenant: str, scope: str, **more: Any) -> dict[str, Any]:
        body = {"tenant": tenant, "scope": scope} | more
        return self.operator.good("POST", "/api/keys", body, 201)

    def caller(self, tenant: str, scope: str = "admin") -> Api:
        return Api(self.server.url, self.key(tenant, scope)["key"])


@pytest.fixture(scope="session")
def open_server() -> Iterator[Server]:
    """Without keys; shared, so leave it as it was."""
    with watched() as server:
        yield server.start()


@pytest.fixture
def anybody(open_server: Server) -> Iterator[Api]:
    """Whoever reaches the server without keys."""
    api = Api(open_server.url)
    yield api
    api.clear()


@pytest.fixture(scope="session")
def keyed() -> Iterator[Keyed]:
    """With keys and HS256 tokens; shared: take a tenant of your own."""
    with watched("--jwt-secret ROOT/jwt-secret") as server:
        secret = make_secret(server.root)
        key = make_key(server.data_dir, "--tenant", "default", "--scope", "operator")["key"]
        server.start()
        yield Keyed(server, secret, Api(server.url, key))


@pytest.fixture
def tenant(keyed: Keyed) -> Iterator[Api]:
    """The admin of a tenant that is the test's alone."""
    api = keyed.caller(new_name())
    yield api
    api.clear()
