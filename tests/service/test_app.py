"""The application without a connection: one response for every request, whatever happens."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from promises import promise
from quiltfn import wire
from quiltfn.api.app import App, make_app
from quiltfn.api.fleet_node import Alone
from quiltfn.api.http.budgets import Budgets
from quiltfn.api.http.path_pattern import PathPattern
from quiltfn.api.http.response import Response, text_response
from quiltfn.api.http.route import ANY_METHOD, ApiLimits, Application, RequestContext, Route
from quiltfn.api.routes.table import ROUTES
from quiltfn.api.services import Services
from quiltfn.base.others import Others
from quiltfn.host.health import Health, Reasons
from quiltfn.model.access import Caller, Scope
from quiltfn.model.errors import StoreUnavailable
from service.in_process import request_of
from service.platform_harness import open_access

ID = "018f0000-0000-7000-8000-000000000000"
BY_ID, BY_NAME = f"/api/functions/{ID}/invoke", "/api/functions/invoke/hello"
HEADERS = {"host": "127.0.0.1", "content-type": "application/json"}


def services() -> Any:
    """Services whose catalog raises a bug's exception."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a secret of ours")

    return SimpleNamespace(
        access=open_access(),
        catalog=SimpleNamespace(by_id=broken, by_name=broken),
        health=SimpleNamespace(machine=SimpleNamespace(memory_max_mib=1024, cores=1)),
        limits=ApiLimits(),
        budgets=Budgets(),
        clock=SimpleNamespace(unix=lambda: 0.0),
        audit=None,
        tracer=None,
        fleet=Alone(cast("Any", None)),
        lifecycle=SimpleNamespace(others=Others()),
        urls=SimpleNamespace(host=""),
    )


@pytest.fixture
def app() -> Application:
    return make_app(services())


async def echo(context: RequestContext[Any]) -> Response:
    """Respond with the method and the path that arrived."""
    rest = context.parameters["rest"]
    return text_response(f"{context.request.method} {rest}", "text/plain")


@pytest.fixture
def echoing() -> Application:
    """The application with an additional route for every method."""
    path = "/fn/{rest:path}"
    route = Route(ANY_METHOD, path, echo, scope=None, answer=str, texts=("text/plain",))
    return make_app(services(), [route, *ROUTES])


@pytest.mark.parametrize("routes", [ROUTES, ROUTES[::-1]], ids=["in order", "reversed"])
def test_every_route_is_found_at_its_path(routes: list[Route[Services]]) -> None:
    """The order of routes must only matter for the documentation."""
    app = cast("App", make_app(services(), routes))
    for route in ROUTES:
        path, method = re.sub(r"{.*?}", "x", route.path), route.method.replace(ANY_METHOD, "PATCH")
        assert app.route_of(request_of(method, path, HEADERS)) == route


@pytest.mark.parametrize("path", [BY_ID, BY_NAME])
async def test_a_mistake_of_ours_is_told_as_such(app: Application, path: str) -> None:
    response = await app(request_of("POST", path, HEADERS, b"{}"))
    assert response.status == 500
    assert isinstance(response.body, bytes)
    error = msgspec.json.decode(response.body)
    assert error["error_code"] == "INTERNAL"
    assert error["request_id"] == response.header("x-request-id")
    assert b"secret" not in response.body


async def test_an_id_of_the_client_s_own_comes_back_if_it_is_one(app: Application) -> None:
    for given, kept in (("r-1", True), ("two words", False)):
        request = request_of("POST", BY_ID, HEADERS | {"x-request-id": given}, b"{}")
        response = await app(request)
        assert (response.header("x-request-id") == given) is kept


@pytest.mark.parametrize(
    "path", ["/api/functions/", f"{BY_ID}/", "/api/functions/invoke/", "/api/functions/invoke/a/b"]
)
async def test_what_is_no_route_is_told_as_such(app: Application, path: str) -> None:
    response = await app(request_of("POST", path, HEADERS, b"{}"))
    assert response.status == 404


@promise("A34")
async def test_head_is_get_and_options_says_what_there_is(app: Application) -> None:
    for method in ("GET", "HEAD"):
        response = await app(request_of(method, "/health", HEADERS))
        assert (response.status, response.body) == (200, b'{"status":"ok"}')
    options = await app(request_of("OPTIONS", "/api/functions", HEADERS))
    assert (options.status, options.body) == (204, b"")
    assert options.header("allow") == "GET, HEAD, OPTIONS, POST"
    refused = await app(request_of("HEAD", BY_ID, HEADERS))
    assert refused.status == 405
    assert refused.header("allow") == "OPTIONS, POST"


async def test_options_tells_another_site_nothing_about_an_open_server(app: Application) -> None:
    headers = HEADERS | {"origin": "https://evil.test"}
    assert (await app(request_of("OPTIONS", "/api/functions", headers))).status == 403


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "BREW", "OPTIONS"])
async def test_a_route_can_take_every_method(echoing: Application, method: str) -> None:
    response = await echoing(request_of(method, "/fn/a/b?c=1", HEADERS))
    assert (response.status, response.body) == (200, f"{method} a/b".encode())


def test_the_pattern_of_a_path_takes_whole_segments() -> None:
    pattern = PathPattern("/a.b/{name}/c")
    assert pattern.parameters_of(["", "a.b", "x", "c"]) == {"name": "x"}
    for path in ("/aXb/x/c", "/a.b//c", "/a.b/x/y/c", "/a.b/x/c/", "/a.b/x/c\n"):
        assert pattern.parameters_of(path.split("/")) is None


class UncheckedAccess:
    """The access of a node that cannot refresh its keys: it still accepts signed tokens."""

    is_open = is_outdated = False

    async def identify(self, headers: Mapping[str, str], _address: str) -> Caller:
        if headers["x-api-key"] == "token":
            return Caller(
                tenant_id="default", scope=Scope.READ, credential="token:a", token_ends_at=1
            )
        raise StoreUnavailable("it cannot tell whether the credential is valid", retry_after=1)


@promise("N94")
@pytest.mark.parametrize("path", ["/api/functions/health", "/api/elasticity/health"])
async def test_health_says_why_to_whoever_asks_while_no_key_can_be_checked(path: str) -> None:
    async def report() -> dict[str, Any]:
        return {"ready": True, "checks": {}, "protections": {"seccomp": "allowlist"}}

    machine: Any = SimpleNamespace(transport="tls", memory_max_mib=1024, cores=1)
    journal: Any = SimpleNamespace(is_strict=False)
    nothing: Any = None
    reasons = Reasons(no_sandbox=nothing, not_seen=lambda: "no heartbeat was stored for 12 s")
    health = Health(machine, nothing, journal, Path("/"), reasons, 0)
    health.report = report  # type: ignore[method-assign]
    given = services()
    given.access, given.health = UncheckedAccess(), health
    app = make_app(given)

    async def get(key: str, path: str) -> Response:
        return await app(request_of("GET", path, HEADERS | {"x-api-key": key}))

    response = await get("key", path)
    assert response.status == 200
    assert isinstance(response.body, bytes)
    body = msgspec.json.decode(response.body, type=wire.Health)
    assert not body.ready
    assert body.checks["credentials"] == wire.Check(
        ok=False, reason="it cannot tell whether the credential is valid"
    )
    assert not body.checks["membership"].ok
    assert body.protections == {}
    text = await get("key", f"{path}?format=markdown")
    assert isinstance(text.body, bytes)
    assert text.body.startswith(b"# Not ready\n\n- credentials: NOT OK, it cannot tell")
    # Callers with a credential that still works get the whole report; without one, no other route
    # responds.
    whole = await get("token", path)
    assert isinstance(whole.body, bytes)
    assert b"allowlist" in whole.body
    assert (await get("key", "/api/system/info")).status == 503


async def test_a_query_of_too_many_parameters_is_refused(app: Application) -> None:
    for first, count, why in (
        ("a", 99, "the query parameter a must"),
        ("a", 100, "the query must"),
        ("tenant=x", 100, "the query must"),
    ):
        path = f"/api/functions?{first}" + "&a" * count
        response = await app(request_of("GET", path, HEADERS))
        assert response.status == 422
        assert isinstance(response.body, bytes)
        assert why in msgspec.json.decode(response.body)["error"]
