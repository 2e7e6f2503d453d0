"""Checks of the tests' own harness: it must notice errors in a page."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from browser.accessibility import grave_findings
from browser.chromium import Complaints
from browser.pictures import Camera
from browser.wire import Wire
from e2e.server import Server
from promises import promise

pytestmark = promise("A52")

DASHBOARD = "/ui/"


@pytest.fixture
def heard(chromium: Browser, site: Server) -> Iterator[tuple[Page, Complaints]]:
    """The dashboard in a page, and the complaints about it."""
    context = chromium.new_context(base_url=site.url)
    complaints = Complaints(context, site.url)
    page = context.new_page()
    page.goto(DASHBOARD)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    yield page, complaints
    context.close()


def test_the_dashboard_itself_gives_no_cause_for_complaint(heard: tuple[Page, Complaints]) -> None:
    _, complaints = heard
    assert complaints.all() == []


def test_an_error_on_the_console_is_heard(heard: tuple[Page, Complaints]) -> None:
    page, complaints = heard
    page.evaluate("() => console.error('something is wrong')")
    page.evaluate("() => void setTimeout(() => { throw new Error('nobody caught it') })")
    page.wait_for_timeout(50)
    assert "something is wrong" in complaints.errors[0]
    assert "nobody caught it" in complaints.errors[1]
    assert not complaints.violations
    assert not complaints.strangers


@pytest.mark.parametrize(
    ("attempt", "directive"),
    [
        ("document.body.setAttribute('style', 'color: red')", "style-src-attr"),
        ("document.body.append(document.createElement('style'))", "style-src-elem"),
        ("fetch('https://example.com/').catch(() => {})", "connect-src"),
        ("document.body.innerHTML = '<b>bold</b>'", "require-trusted-types-for"),
    ],
)
def test_what_the_policy_refuses_is_heard(
    heard: tuple[Page, Complaints], attempt: str, directive: str
) -> None:
    page, complaints = heard
    page.evaluate(f"() => {{ try {{ {attempt} }} catch (refused) {{ void refused }} }}")
    page.wait_for_timeout(50)
    assert any(directive in one for one in complaints.violations), complaints.all()


def test_a_request_to_another_host_is_heard(heard: tuple[Page, Complaints], wire: Wire) -> None:
    page, complaints = heard
    elsewhere = f"http://127.0.0.1:{wire.port}/health"
    page.goto(elsewhere)
    assert complaints.strangers == [elsewhere]


def test_axe_finds_a_field_without_a_name(page: Page) -> None:
    page.goto(DASHBOARD)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert grave_findings(page) == []
    page.evaluate("() => document.querySelector('main').append(document.createElement('input'))")
    assert [one.partition(":")[0] for one in grave_findings(page)] == ["label"]


def test_a_wire_is_cut_stalled_and_mended(
    open_page: Callable[..., Page], wire: Wire, expected: list[str]
) -> None:
    expected += ["ERR_"]
    page = open_page(f"http://127.0.0.1:{wire.port}")
    ask = (
        "() => fetch('/health', {signal: AbortSignal.timeout(300)}).then((a) => a.status, () => 0)"
    )
    page.goto("/health")
    assert page.evaluate(ask) == 200
    wire.stall()
    assert page.evaluate(ask) == 0
    wire.mend()
    assert page.evaluate(ask) == 200
    wire.cut()
    assert page.evaluate(ask) == 0
    wire.mend()
    assert page.evaluate(ask) == 200


def test_pictures_are_taken_where_somebody_wants_them(page: Page, tmp_path: Path) -> None:
    page.goto(DASHBOARD)
    Camera(None).take(page, "none")
    Camera(tmp_path / "pictures").take(page, "list")
    taken = {one.name for one in tmp_path.rglob("*.png")}
    assert taken == {"list-1280.png", "list-768.png", "list-390.png"}
    assert page.viewport_size == {"width": 1280, "height": 900}
