"""Axe checks every page, in light and in dark, and every page must fit into windows of all sizes.

The windows are those of a laptop, a tablet and a phone. Pictures are taken on request.
"""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from browser.accessibility import assert_usable
from browser.pictures import Camera
from browser.scene import Scene
from promises import promise
from quiltfn.api.routes import web

pytestmark = promise("A52")

# The pages by name: each has the part of its address after #/, for the objects of the scene.
PAGES: dict[str, Callable[[Scene], str]] = {
    "functions": lambda _: "",
    "new-function": lambda _: "functions/new",
    "function": lambda scene: f"functions/{scene.functions['make-thumbnail']}",
    "function-failing": lambda scene: f"functions/{scene.functions['checkout-tests']}",
    "function-settings": lambda scene: f"functions/{scene.functions['charge-card']}/settings",
    "function-versions": lambda scene: (
        f"functions/{scene.functions['charge-card']}/versions?from=1&to=1"
    ),
    "function-scaling": lambda scene: f"functions/{scene.functions['charge-card']}/scaling",
    "function-async": lambda scene: f"functions/{scene.functions['charge-card']}/async",
    "function-schedules": lambda scene: f"functions/{scene.functions['price-feed']}/schedules",
    "function-network": lambda scene: f"functions/{scene.functions['charge-card']}/network",
    "call-cold": lambda scene: scene.calls["cold"],
    "call-coloured": lambda scene: scene.calls["coloured"],
    "call-retried": lambda scene: scene.calls["retried"],
    "call-queued": lambda scene: scene.calls["queued"],
    "invocations": lambda _: "invocations",
    "schedules": lambda _: "schedules",
    "schedule": lambda _: "schedules/nightly",
    "new-schedule": lambda _: "new-schedule",
    "runtimes": lambda _: "runtimes",
    "runtime": lambda _: "runtimes/shop",
    "usage-open": lambda _: "usage",
    "keys-open": lambda _: "keys",
    "audit-open": lambda _: "audit",
    "node-open": lambda _: "node",
}


# The page of the documentation to which each of these pages links.
LEADS_TO = {
    "function-schedules": "/docs/how-to/schedules.html",
    "keys-open": "/docs/how-to/keys.html",
}


@promise("A81")
@pytest.mark.parametrize("name", PAGES)
def test_nothing_keeps_people_from_using_it(
    open_page: Callable[..., Page], scene: Scene, camera: Camera, name: str
) -> None:
    page = open_page()
    page.goto(f"/ui/#/{PAGES[name](scene)}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator("main :is(.card, .empty)").first).to_be_visible()
    expect(page.get_by_role("main").locator("[aria-busy=true]")).to_have_count(0)
    assert_usable(page, camera, name)
    link = page.get_by_role("banner").get_by_role("link", name="Docs")
    if web.files(web.DOCUMENTATION):
        address = link.evaluate("(one) => one.href")
        assert page.request.get(address).status == 200, address
        assert LEADS_TO.get(name, "/docs/") in address
