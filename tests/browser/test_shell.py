"""The frame around every page: connection, key, theme, and a proxy in front of the server."""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

from browser.wire import Wire
from e2e.server import Server, short_dir, until
from free_ports import free_port
from promises import promise
from quiltfn.api.routes import web
from spec.api_client import new_name
from spec.conftest import Keyed
from spec.proxy import NGINX

pytestmark = promise("A74")


def found(name: str) -> str:
    """The address of the list of functions with only this one, since the list only draws rows in
    sight.
    """
    return f"/ui/#/?q={name}"


def line(page: Page, state: str, timeout_s: float = 5) -> None:
    expect(page.locator(".line")).to_have_attribute("data-state", state, timeout=timeout_s * 1000)


def test_a_lost_connection_is_shown_and_heals_with_what_was_missed(
    open_page: Callable[..., Page], wire: Wire, site: Server, expected: list[str]
) -> None:
    expected += ["ERR_"]
    name = new_name()
    page = open_page(f"http://127.0.0.1:{wire.port}")
    page.goto(found(name))
    expect(page.get_by_title("tenant default, scope operator")).to_be_visible()
    line(page, "live")
    # The code of the page is loaded by now, so the cut only affects the stream of events.
    expect(page.get_by_role("heading", name="Functions", exact=True)).to_be_visible()
    wire.cut()
    line(page, "lost")
    site.create("echo hello", name=name)
    wire.mend()
    line(page, "live", 15)
    expect(page.get_by_role("link", name=name)).to_be_visible()


def test_a_stream_that_is_silent_for_too_long_is_given_up(
    open_page: Callable[..., Page], wire: Wire, expected: list[str]
) -> None:
    expected += ["ERR_"]
    page = open_page(f"http://127.0.0.1:{wire.port}")
    page.clock.install()
    page.goto("/ui/")
    line(page, "live")
    wire.stall()
    page.clock.fast_forward(41_000)
    line(page, "lost")
    wire.mend()
    page.clock.fast_forward(10_000)
    line(page, "live")


def test_without_streams_the_page_polls(open_page: Callable[..., Page], site: Server) -> None:
    page = open_page()
    page.route("**/api/events*", lambda _route: None)  # this request never gets a response
    page.clock.install()
    name = new_name()
    page.goto(found(name))
    for _ in range(3):
        page.wait_for_timeout(100)
        page.clock.fast_forward(7_000)
    line(page, "polling")
    site.create("echo hello", name=name)
    page.clock.fast_forward(20_000)
    expect(page.get_by_role("link", name=name)).to_be_visible()
    page.unroute("**/api/events*")
    page.clock.fast_forward(61_000)
    line(page, "live")


def test_a_hidden_tab_gives_its_stream_back_and_resumes(page: Page, site: Server) -> None:
    hide = """(isHidden) => {
        Object.defineProperty(document, "hidden", { value: isHidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.clock.install()
    name = new_name()
    page.goto(found(name))
    line(page, "live")
    page.evaluate(hide, True)
    page.clock.fast_forward(6_000)
    line(page, "paused")
    site.create("echo hello", name=name)
    page.evaluate(hide, False)
    line(page, "live")
    expect(page.get_by_role("link", name=name)).to_be_visible()


# Keys ----------------------------------------------------------------------------------------


def test_a_key_is_asked_for_kept_by_the_tab_and_never_in_an_address(
    keyed: Keyed, open_page: Callable[..., Page], expected: list[str]
) -> None:
    expected += ["401"]
    key = keyed.key(new_name(), "write")["key"]
    page = open_page(keyed.server.url)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/ui/")
    field = page.get_by_label("API key")
    expect(field).to_be_focused()
    expect(page.get_by_text("the directory of its --data-dir")).to_be_visible()
    has_docs = bool(web.files(web.DOCUMENTATION))
    expected += [] if has_docs else ["404"]
    expect(page.get_by_role("link", name="Documentation of keys")).to_have_count(int(has_docs))
    command = page.locator(".sign-in .copy code")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        assert command.evaluate("(one) => one.scrollWidth <= one.clientWidth")
    field.fill("quilt_sk_of_nobody")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).not_to_be_empty()
    field.fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Functions", exact=True)).to_be_visible()
    line(page, "live")
    page.reload()
    line(page, "live")
    assert not [url for url in asked if key in url]
    assert page.context.cookies() == []
    assert page.evaluate("() => JSON.stringify(localStorage)").find(key) == -1
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.evaluate("() => sessionStorage.length") == 0


# Theme ---------------------------------------------------------------------------------------


def test_the_theme_is_the_system_s_until_another_is_chosen(open_page: Callable[..., Page]) -> None:
    page = open_page(color_scheme="dark")
    page.goto("/ui/")
    ground = "() => getComputedStyle(document.documentElement).backgroundColor"
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Light or dark").click()
    light = page.evaluate(ground)
    assert dark != light
    page.reload()
    assert page.evaluate(ground) == light


def test_an_address_that_is_no_page_says_so(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto("/ui/#/nowhere/at/all")
    expect(page.get_by_text("There is no such page.")).to_be_visible()
    # On a phone, the link is below the content.
    if web.files(web.DOCUMENTATION):
        link = page.get_by_role("contentinfo").get_by_role("link", name="Docs")
        expect(link).to_be_visible()
        assert page.request.get(link.evaluate("(one) => one.href")).status == 200
    page.get_by_role("link", name="All functions", exact=True).click()
    expect(page.get_by_role("heading", name="Functions", exact=True)).to_be_visible()


def test_the_skip_link_leads_to_the_content(page: Page) -> None:
    page.goto("/ui/")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()


# A proxy in front ----------------------------------------------------------------------------

BELOW_A_PATH = """
daemon off; worker_processes 1; pid ROOT/pid; error_log ROOT/error;
events { worker_connections 64; }
http {
    access_log off; gzip on; gzip_proxied any; gzip_types *;
    client_body_temp_path ROOT/body; proxy_temp_path ROOT/proxy; fastcgi_temp_path ROOT/fastcgi;
    uwsgi_temp_path ROOT/uwsgi; scgi_temp_path ROOT/scgi;
    server {
        listen 127.0.0.1:PORT;
        location /deep/below/ {
            proxy_pass http://SERVER/;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
        }
    }
}
"""


@pytest.fixture
def below(site: Server) -> Iterator[str]:
    """The address below which an nginx serves the dashboard: with a path, and with compression."""
    if not Path(NGINX).exists():
        pytest.skip(f"needs {NGINX}")
    with short_dir() as root:
        port = free_port()
        text = BELOW_A_PATH.replace("ROOT", str(root)).replace("PORT", str(port))
        text = text.replace("SERVER", urlsplit(site.url).netloc)
        (root / "nginx.conf").write_text(text)
        process = subprocess.Popen([NGINX, "-e", "stderr", "-c", str(root / "nginx.conf")])
        try:
            until((root / "pid").exists)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.kill(process.pid, signal.SIGTERM)
            process.wait()


def test_it_works_below_the_path_of_a_proxy_that_compresses(
    below: str, open_page: Callable[..., Page], site: Server
) -> None:
    name = new_name()
    function = site.deploy("echo hello", name=name)
    page = open_page(below)
    page.goto("/deep/below/")
    assert page.url.startswith(f"{below}/deep/below/ui/")
    line(page, "live")
    page.get_by_role("searchbox").fill(name)
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=name))
    expect(row).to_be_visible()
    function.invoke()
    expect(row).to_contain_text("1 / min")


def answer_with_another_main(route: Route) -> None:
    """Serves the dashboard with another main module, as after an upgrade of the server."""
    if route.request.is_navigation_request():
        route.continue_()
    else:
        index = route.fetch().text()
        assert 'src="main-' in index
        route.fulfill(body=index.replace('src="main-', 'src="main-of-now-'))


def test_the_page_reloads_after_an_upgrade_of_the_server(page: Page, expected: list[str]) -> None:
    expected.append(r"status of 404 .*/schedules-")
    page.goto("/ui/")
    expect(page.get_by_text("Live", exact=True)).to_be_attached()
    page.evaluate("window.isBefore = true")
    # The upgraded server no longer has the old modules, and its dashboard has another main module.
    page.route(re.compile(r"/schedules-.*js$"), lambda route: route.fulfill(status=404), times=1)
    page.route(re.compile("/ui/$"), answer_with_another_main)
    page.get_by_role("link", name="Schedules").click()
    expect(page.get_by_role("heading", name="Schedules", exact=True)).to_be_visible()
    assert page.evaluate("window.isBefore") is None, "it was not loaded again"


UPGRADED = "of an upgraded server"


@pytest.mark.parametrize(
    ("index", "loads"),
    [(None, 0), ("<!doctype html><h1>Sign in</h1>", 0), (UPGRADED, 1)],
    ids=["the same", "another page", "an upgrade"],
)
def test_a_missing_part_is_reported_after_one_reload_at_most(
    page: Page, expected: list[str], index: str | None, loads: int
) -> None:
    expected.append(r"status of 404 .*/schedules-")
    page.goto("/ui/")
    expect(page.get_by_text("Live", exact=True)).to_be_attached()
    loaded: list[str] = []
    page.on("load", lambda _: loaded.append("load"))
    page.route(re.compile(r"/schedules-.*js$"), lambda route: route.fulfill(status=404))
    if index == UPGRADED:
        page.route(re.compile("/ui/$"), answer_with_another_main)
    elif index is not None:
        page.route(re.compile("/ui/$"), lambda route: route.fulfill(body=index))
    page.get_by_role("link", name="Schedules").click()
    expect(page.get_by_text("Part of the page could not be loaded")).to_be_visible()
    assert len(loaded) == loads
