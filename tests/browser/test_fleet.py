"""The nodes of a fleet in the dashboard: real nodes, with their own PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from browser.accessibility import assert_usable
from browser.fleet_scene import WAITS, fleet_of
from browser.pictures import Camera
from e2e.server import Function, Server, until
from promises import promise
from quiltfn import __version__
from timeouts import scaled

pytestmark = promise("N60")

OpenPage = Callable[..., Page]
SOON_MS = scaled(15) * 1000  # time for a heartbeat, and for the page to fetch the nodes again


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """The nodes `one` and `two`, which both have an instance of resize-pictures. All tests but the
    last one must leave both nodes ready.
    """
    with fleet_of(tmp_path_factory.mktemp("fleet"), ("one", "two")) as (first, second):
        function = first.deploy(WAITS, name="resize-pictures", max_instances=4)
        Function(second, first.deploy("echo sent", name="send-invoice").id).invoke()
        running = first.later(function.invoke, "1.5")
        until(lambda: busy_on(first, "one") == 1)
        Function(second, function.id).invoke()
        assert running.result()["status"] == "success"
        yield first, second


@pytest.fixture
def first_node(nodes: tuple[Server, Server]) -> Server:
    return nodes[0]


def busy_on(server: Server, name: str) -> int:
    return int(server.call("GET", f"/api/nodes/{name}").json()["busy_instances"])


def row_of(page: Page, table: str, name: str) -> Locator:
    rows = page.get_by_role("table", name=table, exact=True).locator("[data-n]")
    return rows.filter(has=page.get_by_text(name, exact=True))


def state_of(server: Server, name: str) -> str:
    return str(server.call("GET", f"/api/nodes/{name}").json()["state"])


def test_an_operator_sees_nodes_and_instances(open_page: OpenPage, first_node: Server) -> None:
    page = open_page(first_node.url)
    page.goto("/ui/")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Fleet").click()
    first = row_of(page, "Nodes", "one")
    expect(first).to_contain_text("ready")
    expect(first).to_contain_text("answers this page")
    expect(first).to_contain_text(__version__)
    expect(first).to_contain_text(re.compile(r"[MG]iB"))
    expect(row_of(page, "Nodes", "two")).to_contain_text("ready")
    expect(page.get_by_text("2 of 2")).to_be_visible()
    placed = row_of(page, "Where instances are", "resize-pictures")
    for name in ("one", "two"):
        expect(placed.get_by_label(f"on {name}: 0 busy, 1 ready")).to_be_visible(timeout=SOON_MS)
    page.get_by_role("searchbox").fill("resize")
    expect(page.get_by_role("table", name="Where instances are").locator("[data-n]")).to_have_count(
        1
    )
    first.get_by_role("link").focus()
    page.keyboard.press("ArrowDown")
    expect(row_of(page, "Nodes", "two").get_by_role("link")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("two")
    expect(row_of(page, "Functions there", "resize-pictures")).to_be_visible(timeout=SOON_MS)


def test_a_node_is_told_what_to_do_and_asked_about_first(
    open_page: OpenPage, first_node: Server
) -> None:
    page = open_page(first_node.url)
    page.goto("/ui/#/fleet/two")
    page.get_by_role("button", name="Drain two").click()
    dialog = page.get_by_role("dialog", name="Drain two?")
    expect(dialog).to_contain_text("it has none now")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert state_of(first_node, "two") == "ready"
    page.get_by_role("button", name="Drain two").click()
    dialog.get_by_role("button", name="Drain").click()
    expect(page.get_by_text("Nothing runs there: it can be stopped.")).to_be_visible()
    assert state_of(first_node, "two") == "draining"
    page.goto("/ui/#/fleet")
    expect(row_of(page, "Nodes", "two")).to_contain_text("draining")
    # this is the last node that accepts invocations
    page.get_by_role("button", name="Drain one").click()
    expect(page.get_by_role("dialog")).to_contain_text("No other node takes calls")
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Uncordon two").click()
    expect(row_of(page, "Nodes", "two")).to_contain_text("ready")
    page.goto("/ui/#/fleet/two")
    # cordoning loses nothing, so the page does not ask
    page.get_by_role("button", name="Cordon two").click()
    expect(page.get_by_text("It starts no queued invocations and accepts none")).to_be_visible()
    page.get_by_role("button", name="Uncordon two").click()
    expect(page.get_by_role("button", name="Cordon two")).to_be_visible()
    assert state_of(first_node, "two") == "ready"


def test_the_machine_page_has_instances_of_all_nodes(
    open_page: OpenPage, first_node: Server
) -> None:
    page = open_page(first_node.url)
    page.goto("/ui/#/node")
    expect(page.get_by_role("heading", name="Instances of all nodes")).to_be_visible()
    page.get_by_role("searchbox").fill("resize-pictures")
    rows = page.get_by_role("table", name="Instances").locator("[data-n]")
    expect(rows).to_have_count(2)
    for name in ("one", "two"):
        expect(rows.filter(has=page.get_by_text(name, exact=True))).to_have_count(1)
    page.get_by_role("link", name="All nodes").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Fleet")


def test_nothing_keeps_people_from_using_it(
    open_page: OpenPage, first_node: Server, camera: Camera
) -> None:
    page = open_page(first_node.url)
    page.goto("/ui/#/fleet")
    expect(row_of(page, "Where instances are", "resize-pictures")).to_be_visible(timeout=SOON_MS)
    assert_usable(page, camera, "fleet")
    page.goto("/ui/#/fleet/one")
    expect(page.get_by_role("heading", level=2).first).to_be_visible()
    assert_usable(page, camera, "fleet-node")


def test_a_server_that_is_alone_does_not_name_the_page(page: Page) -> None:
    page.goto("/ui/#/fleet")
    expect(row_of(page, "Nodes", "alone")).to_contain_text("ready")
    expect(page.get_by_text("This server is alone.")).to_be_visible()
    navigation = page.get_by_role("navigation", name="Pages")
    expect(navigation.get_by_role("link", name="Node")).to_be_visible()
    expect(navigation.get_by_role("link", name="Fleet")).to_have_count(0)


def test_a_removed_node_stays_listed(open_page: OpenPage, nodes: tuple[Server, Server]) -> None:
    first, second = nodes
    page = open_page(first.url)
    page.goto("/ui/#/fleet/two")
    page.get_by_role("button", name="Remove two").click()
    dialog = page.get_by_role("dialog", name="Remove two for good?")
    expect(dialog).to_contain_text("It ends within seconds.")
    expect(dialog).to_contain_text("No server of this name starts in the fleet again.")
    dialog.get_by_role("button", name="Cancel").click()
    assert state_of(first, "two") == "ready"
    page.get_by_role("button", name="Remove two").click()
    dialog.get_by_role("button", name="Remove").click()
    page.goto("/ui/#/fleet")
    expect(row_of(page, "Nodes", "two")).to_contain_text("removed")
    page.goto("/ui/#/fleet/two")
    expect(page.get_by_text("It was removed from the fleet")).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("two$"))).to_have_count(0)
    assert state_of(first, "two") == "removed"
    assert second.wait() != 0
