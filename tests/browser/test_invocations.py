"""The invocations of all functions: filters, endless scrolling, and live updates."""

import re
from collections.abc import Callable
from concurrent.futures import wait

import pytest
from playwright.sync_api import Locator, Page, expect

from browser.scene import Scene
from e2e.server import Function, Server
from promises import promise

pytestmark = promise("A55")

MANY = 420


@pytest.fixture(scope="module")
def busy(site: Server) -> Function:
    """A function with so many invocations that the list has several pages."""
    fn = site.deploy("exit $QUILT_PAYLOAD", name="busy-one", max_instances=4)
    wait([site.later(fn.invoke, str(int(n % 10 == 0))) for n in range(MANY)])
    return fn


def rows(page: Page) -> Locator:
    return page.get_by_role("table", name="Invocations").locator(".body [role=row]")


def count(page: Page) -> Locator:
    return page.locator(".bar").first.get_by_role("status")


def test_they_are_fetched_as_they_are_read(page: Page, busy: Function) -> None:
    page.goto(f"/ui/#/invocations?function={busy.id}")
    expect(count(page)).to_have_text("100 so far")
    expect(page.get_by_label("Function", exact=True)).to_have_value("busy-one")
    assert rows(page).count() < 60
    for _ in range(12):
        page.keyboard.press("End")
        page.mouse.wheel(0, 30_000)
        page.wait_for_timeout(100)
    expect(count(page)).to_have_text(str(MANY))
    assert rows(page).count() < 60
    expect(page.get_by_role("table", name="Invocations")).to_have_attribute(
        "aria-rowcount", str(MANY + 1)
    )


def test_filters_are_in_the_address(page: Page, busy: Function) -> None:
    page.goto("/ui/#/invocations")
    page.get_by_label("Function", exact=True).fill("busy-one")
    page.get_by_label("Status").select_option("failed")
    expect(count(page)).to_have_text(str(MANY // 10))
    expect(page).to_have_url(re.compile(rf"#/invocations\?function={busy.id}&status=failed$"))
    page.reload()
    expect(count(page)).to_have_text(str(MANY // 10))
    page.get_by_label("Start").select_option("cold starts")
    expect(page).to_have_url(re.compile("start=cold"))
    page.get_by_label("took at least").fill("999999")
    expect(page.get_by_text("No matching invocations.")).to_be_visible()
    page.get_by_role("button", name="Clear").click()
    expect(page).to_have_url(re.compile("#/invocations$"))
    expect(rows(page).first).to_be_visible()


def test_a_call_from_outside_comes_on_top_by_itself(page: Page, busy: Function) -> None:
    page.goto(f"/ui/#/invocations?function={busy.id}")
    expect(rows(page).first).to_be_visible()
    expect(page.get_by_text("Live", exact=True)).to_be_attached()
    made = busy.invoke("0")["invocation_id"]
    expect(rows(page).first).to_contain_text(made)


def test_who_reads_further_down_is_not_moved(page: Page, busy: Function) -> None:
    page.goto(f"/ui/#/invocations?function={busy.id}")
    expect(rows(page).first).to_be_visible()
    expect(page.get_by_text("Live", exact=True)).to_be_attached()
    page.mouse.wheel(0, 2000)
    page.wait_for_timeout(200)
    before = rows(page).nth(10).locator(".mono").inner_text()
    made = busy.invoke("0")["invocation_id"]
    newer = page.get_by_role("button", name="1 newer call")
    expect(newer).to_be_visible()
    assert rows(page).nth(10).locator(".mono").inner_text() == before
    newer.click()
    expect(rows(page).first).to_contain_text(made)


def test_with_the_keyboard_to_a_call(page: Page, scene: Scene) -> None:
    function = scene.functions["send-invoice"]
    page.goto(f"/ui/#/invocations?function={function}")
    expect(rows(page)).to_have_count(7)
    rows(page).first.get_by_role("link").focus()
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Call of send-invoice")).to_be_visible()
    page.go_back()
    expect(rows(page)).to_have_count(7)


def test_errors_have_their_http_status_and_reason(page: Page, scene: Scene) -> None:
    page.goto(f"/ui/#/invocations?function={scene.functions['order-status']}")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("the handler responded with HTTP 503")
    expect(rows(page).get_by_role("cell").filter(has_text=re.compile("^503$"))).to_be_visible()
    page.goto(f"/ui/#/functions/{scene.functions['order-status']}")
    latest = page.get_by_role("region", name="Latest calls").get_by_role("row").nth(1)
    expect(latest).to_contain_text("the handler responded with HTTP 503")
    expect(page.locator(".last-error")).to_contain_text("HTTP 503")
    expect(page.locator(".title")).to_contain_text("active, failing")
    page.goto(f"/ui/#/functions/{scene.functions['charge-card']}")
    failed = page.get_by_role("region", name="Latest calls").get_by_role("row", name="failed")
    expect(failed.first).to_contain_text("the handler exited with code 4")


def test_filters_fold_on_a_telephone(open_page: Callable[..., Page], busy: Function) -> None:
    page = open_page(viewport={"width": 390, "height": 844})
    page.goto(f"/ui/#/invocations?function={busy.id}")
    top = rows(page).first.bounding_box()
    assert top is not None
    assert top["y"] < 844 / 4
    button = page.get_by_role("button", name="Filters (1)")
    expect(page.get_by_role("group", name="Filters")).to_be_hidden()
    button.click()
    page.get_by_label("Status").select_option("failed")
    expect(count(page)).to_have_text(str(MANY // 10))
    expect(page.get_by_role("button", name="Filters (2)")).to_be_visible()
    # The link of the current page must be to the right of the faded left edge.
    here = page.get_by_role("link", name="Invocations", exact=True).bounding_box()
    row = page.get_by_role("navigation", name="Pages").bounding_box()
    assert here is not None
    assert row is not None
    assert here["x"] - row["x"] >= 48
