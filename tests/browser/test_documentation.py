"""The documentation in a browser: links, search, and forms that send requests."""

import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from browser.accessibility import SCHEMES, grave_findings
from promises import promise
from quiltfn.api.routes import web
from spec.api_client import new_name
from spec.conftest import Keyed

Open = Callable[..., Page]
pytestmark = [
    pytest.mark.skipif(
        not web.files(web.DOCUMENTATION), reason="no documentation was built: scripts/setup --docs"
    ),
    promise("A78"),
]


def test_what_is_searched_for_is_found_without_the_internet(open_page: Open) -> None:
    page = open_page()
    page.goto("/docs/")
    page.keyboard.press("/")
    page.keyboard.type("dead letters")
    page.keyboard.press("Enter")
    found = page.get_by_role("main").get_by_role("link", name="Asynchronous invocations")
    expect(found.first).to_be_visible()
    expect(page.locator("p.context").first).to_contain_text("dead letter")
    found.first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Asynchronous invocations")


def test_what_users_ask_leads_to_its_section(open_page: Open) -> None:
    page = open_page()
    for question, page_name, heading in (
        ("where do I keep data?", "egress", "Where do I keep data?"),
        ("custom domain", "urls-and-webhooks-in", "Custom domain"),
        ("CORS", "urls-and-webhooks-in", "CORS"),
        ("rollback", "versions-and-aliases", "Roll back"),
        ("call a function from a function", "asynchronous-calls", "Queueing from a handler"),
        ("upload form", "web-servers", "Long bodies"),
    ):
        page.goto(f"/docs/search.html?q={quote(question)}")
        first = page.locator("ul.search > li > a").first
        expect(first).to_have_attribute("href", re.compile(f"how-to/{page_name}.html#"))
        first.click()
        expect(page.get_by_role("heading", name=heading)).to_be_in_viewport()


def test_text_in_the_address_is_no_html(open_page: Open) -> None:
    page = open_page()
    query = quote('"><img src=x onerror="window.ran=1"><script>window.ran=1</script>')
    for at in ("search.html?q={}", "search.html?q=timeout&highlight={}", "#{}"):
        page.goto(f"/docs/{at.format(query)}")
        whole = ".search-summary" if "?" in at else "h1"
        expect(page.locator(whole).first).to_be_visible()
        assert page.evaluate("window.ran") is None, at
        assert page.locator("img[src=x]").count() == 0, at


def test_an_operation_is_sent_from_its_page(
    open_as: Callable[..., Page], keyed: Keyed, expected: list[str]
) -> None:
    expected.append("409")
    key = keyed.key(new_name(), "write")["key"]
    page = open_as(key)
    page.goto("/docs/api/functions.html")
    section = page.locator("section", has=page.get_by_role("heading", name="Create a function"))
    section = section.last
    section.get_by_text("Try it").click()
    expect(section.get_by_label("body")).to_have_value(re.compile('"handler": "echo hello"'))
    section.get_by_role("button", name="Send").click()
    expect(section.get_by_label("answer")).to_contain_text("201")
    expect(section.get_by_label("answer")).to_contain_text('"state": "pending"')
    section.get_by_role("button", name="Send").click()
    expect(section.get_by_label("answer")).to_contain_text("409")


def test_a_form_says_what_its_fields_take(open_page: Open) -> None:
    page = open_page(viewport={"width": 390, "height": 844})
    page.goto("/docs/api/calls.html")
    heading = page.get_by_role("heading", name="Invoke a function and wait for the end")
    section = page.locator("section", has=heading).last
    section.get_by_text("Try it", exact=True).click()
    for name, words in {"function_id": "id, and not its name", "mode": "sync or async"}.items():
        expect(section.get_by_label(name, exact=True)).to_have_attribute(
            "placeholder", re.compile(words)
        )
    # On a phone, a field must have a line of its own to be readable.
    box = section.get_by_label("function_id", exact=True).bounding_box()
    assert box is not None
    assert box["width"] > 300


def test_the_tab_keeps_and_sends_a_key(open_page: Open, keyed: Keyed, expected: list[str]) -> None:
    expected.append("401")
    page = open_page(keyed.server.url)
    page.goto("/docs/api/keys.html")
    section = page.locator(
        "section", has=page.get_by_role("heading", name="Show the caller's credential")
    ).last
    section.get_by_text("Try it").click()
    section.get_by_role("button", name="Send").click()
    expect(section.get_by_label("answer")).to_contain_text("401")
    page.get_by_label("API key").fill(keyed.key(new_name(), "read")["key"])
    page.get_by_label("API key").blur()
    section.get_by_role("button", name="Send").click()
    expect(section.get_by_label("answer")).to_contain_text('"scope": "read"')
    page.goto("/docs/api/functions.html")
    expect(page.get_by_label("API key")).to_have_value(re.compile("quilt_sk_"))


def test_what_helps_comes_before_what_explains_how_it_came_to_be(open_page: Open) -> None:
    page = open_page()
    page.goto("/docs/search.html?q=timeout")
    expect(page.locator(".search-summary")).to_contain_text("found")
    paths = page.locator("ul.search > li > a").evaluate_all("all => all.map(one => one.pathname)")
    explains = ["/decisions/" in one or "/changelog" in one for one in paths]
    assert True in explains
    assert explains[:5] == [False] * 5


def test_a_page_can_be_read_by_everybody(open_page: Open) -> None:
    page = open_page(viewport={"width": 390, "height": 844}, reduced_motion="reduce")
    # The longest pages have only elements that other pages have, and axe takes long for them.
    long = ("reference/settings.html", "api/calls.html")
    for name in ("", "reference/keep-alive.html", "api/keys.html", *long):
        page.goto(f"/docs/{name}")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        for scheme, options in SCHEMES.items() if name not in long else ():
            page.emulate_media(color_scheme=scheme)
            assert grave_findings(page, options) == [], (name, scheme)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, name
