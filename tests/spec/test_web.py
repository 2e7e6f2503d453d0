"""Dashboard and documentation, as a browser requests them: their paths, parts, and permissions."""

import re
from urllib.parse import urljoin

import pytest

from promises import promise
from quiltfn.api.routes import web
from spec.api_client import Api, is_error
from spec.conftest import Keyed

pytestmark = [pytest.mark.sandbox, promise("A50", "A77")]
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
built = pytest.mark.skipif(
    not web.files(web.DASHBOARD), reason="the dashboard was not built: scripts/setup"
)
documented = pytest.mark.skipif(
    not web.files(web.DOCUMENTATION), reason="no documentation was built: scripts/setup --docs"
)


def parts_of(page: str) -> list[str]:
    """The addresses in a page, exactly as written."""
    return re.findall(r'(?:src|href)="([^"]+\.(?:js|css|svg))"', page)


def test_a_browser_gets_the_dashboard_wherever_a_proxy_has_put_it(anybody: Api) -> None:
    for path, headers in (("/", BROWSER), ("/ui", {})):
        answer = anybody("GET", path, headers=headers)
        assert answer.status_code == 302
        for front in ("http://x.test", "http://x.test/deep/below"):
            assert urljoin(front + path, answer.headers["location"]) == f"{front}/ui/"


def test_other_clients_are_told_that_there_is_no_such_route(anybody: Api) -> None:
    for headers in ({}, {"Accept": "application/json"}, {"Accept": "*/*"}):
        is_error(anybody("GET", "/", headers=headers), "NOT_FOUND", 404)


@built
def test_the_dashboard_and_all_its_parts_are_there_without_a_credential(keyed: Keyed) -> None:
    stranger = Api(keyed.server.url)
    page = stranger("GET", "/ui/", headers=BROWSER)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    named = parts_of(page.text)
    assert any(one.startswith("main-") for one in named)
    for name in named:
        assert "/" not in name, "it is beside the page, wherever that is"
        part = stranger("GET", f"/ui/{name}")
        assert part.status_code == 200, name
        assert "immutable" in part.headers["cache-control"]
    is_error(stranger("GET", "/api/functions"), "UNAUTHORIZED", 401)


@built
def test_the_page_can_run_its_own_code_and_reach_its_own_server_alone(anybody: Api) -> None:
    headers = anybody("GET", "/ui/").headers
    policy = headers["content-security-policy"]
    for directive in (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ):
        assert directive in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in headers


@pytest.mark.parametrize(
    "path",
    [
        "/ui/../settings.py",
        "/ui/%2e%2e%2fsettings.py",
        "/ui/..%2fapi%2fweb.py",
        "/ui/%2fetc%2fpasswd",
        "/ui/made-of",
        "/ui/index.html%00.js",
        "/ui/web/index.html",
        "/ui/nothing-ABCDEF12.js",
        "/docs/../web/index.html",
        "/docs/..%2f..%2fsettings.py",
        "/docs/how-to/%2e%2e/%2e%2e/%2e%2e/settings.py",
        "/docs//etc/passwd",
        "/docs/made-of",
        "/docs/index.html%00.js",
        "/docs/how-to",
    ],
)
def test_nothing_but_its_files_can_be_read(anybody: Api, path: str) -> None:
    is_error(anybody("GET", path), "NOT_FOUND", 404)


@documented
def test_documentation_needs_no_credential_wherever_a_proxy_has_put_it(keyed: Keyed) -> None:
    stranger = Api(keyed.server.url)
    led = stranger("GET", "/docs")
    assert led.status_code == 302
    assert urljoin("http://x.test/deep/docs", led.headers["location"]) == "http://x.test/deep/docs/"
    start = stranger("GET", "/docs/", headers=BROWSER)
    assert (start.status_code, start.headers["cache-control"]) == (200, "no-cache")
    deep = stranger("GET", "/docs/how-to/keys.html")
    parts = {urljoin(str(page.url), name) for page in (start, deep) for name in parts_of(page.text)}
    assert len(parts) > 5
    for address in parts:
        part = stranger("GET", address.removeprefix(keyed.server.url))
        assert part.status_code == 200, address
        assert "immutable" in part.headers["cache-control"]
