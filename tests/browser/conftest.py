"""A browser with a real server. Any complaint of the browser fails the test."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect

from browser.chromium import Complaints, launched, why_no_browser
from browser.pictures import Camera
from browser.scene import Scene, make_scene
from browser.wire import Wire, wire_to
from e2e.server import Function, Server, watched
from lasting import Lasting
from quiltfn.sdk import Client
from spec.api_client import Api, make_key
from spec.conftest import Keyed
from timeouts import scaled

expect.set_options(timeout=scaled(5_000))
WINDOW: ViewportSize = {"width": 1280, "height": 900}
SEEN_AS: dict[str, Any] = {
    "locale": "en-GB",
    "timezone_id": "Europe/Paris",
    "color_scheme": "light",
    "viewport": WINDOW,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_no_browser()
    for item in items:
        if reason and item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def site() -> Iterator[Server]:
    """A server that tests share. They must use unique names, and may leave what they have
    created.
    """
    with watched() as server:
        yield server.start()


@pytest.fixture(scope="session")
def _browsers() -> Iterator[Lasting[Browser]]:
    with closing(Lasting(launched)) as browsers:
        yield browsers


# The scope is not the session: while the browser is open, no other test can have an event loop of
# its own.
@pytest.fixture(scope="module")
def chromium(_browsers: Lasting[Browser], request: pytest.FixtureRequest) -> Iterator[Browser]:
    with _browsers.lent(request) as browser:
        yield browser


@pytest.fixture
def expected() -> list[str]:
    """Patterns of the complaints that a test causes on purpose."""
    return []


@contextmanager
def watched_page(browser: Browser, url: str, expected: list[str], **more: Any) -> Iterator[Page]:
    """A page in a context of its own. At the end, only `expected` complaints may have occurred."""
    context = browser.new_context(base_url=url, **(SEEN_AS | more))
    complaints = Complaints(context, url)
    try:
        yield context.new_page()
    finally:
        context.close()
    known = [re.compile(pattern) for pattern in expected]
    left = [one for one in complaints.all() if not any(pattern.search(one) for pattern in known)]
    assert not left, "\n".join(left)


@pytest.fixture
def deployed(site: Server) -> Iterator[Callable[..., Function]]:
    """Deploys functions, and deletes them after the test's pages were closed."""
    made: list[Function] = []

    def deploy(handler: str, **fields: Any) -> Function:
        made.append(site.deploy(handler, **fields))
        return made[-1]

    yield deploy
    for created in made:
        created.delete()


@pytest.fixture
def open_page(
    chromium: Browser, site: Server, expected: list[str], deployed: Callable[..., Function]
) -> Iterator[Callable[..., Page]]:
    """Opens pages, each in a context of its own, with the options of `Browser.new_context`."""
    del deployed  # this fixture is requested so that it ends after the pages
    with ExitStack() as stack:
        yield lambda url=site.url, **more: stack.enter_context(
            watched_page(chromium, url, expected, **more)
        )


@pytest.fixture(scope="session")
def keyed() -> Iterator[Keyed]:
    """A server with keys that tests share; each must use tenants of its own."""
    with watched() as server:
        key = make_key(server, "--tenant", "default", "--scope", "operator")["key"]
        server.start()
        yield Keyed(server, "", Api(server.url, key))


@pytest.fixture
def open_as(open_page: Callable[..., Page], keyed: Keyed) -> Callable[..., Page]:
    """Opens pages of the server with keys, signed in with the given key."""

    def opened(key: str, **more: Any) -> Page:
        page = open_page(keyed.server.url, **more)
        page.add_init_script(f"sessionStorage.setItem('quiltfn.key', '{key}')")
        return page

    return opened


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page()


@pytest.fixture
def wire(site: Server) -> Iterator[Wire]:
    """A connection to the server that can be cut. A page uses it by opening its port."""
    address = urlsplit(site.url)
    with wire_to(str(address.hostname), int(address.port or 0)) as wire:
        yield wire


@pytest.fixture
def camera(request: pytest.FixtureRequest) -> Camera:
    directory = request.config.getoption("--pictures")
    return Camera(None if directory is None else Path(directory))


@pytest.fixture(scope="session")
def scene(site: Server) -> Scene:
    """The functions and invocations that tests share. Tests must not change them."""
    with Client(site.url) as client:
        return make_scene(client)
