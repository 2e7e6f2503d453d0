"""The administration's pages with a key of each scope, and the window that lists keyboard
shortcuts.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from browser.accessibility import assert_usable
from browser.pictures import Camera
from promises import promise
from spec.api_client import new_name
from spec.conftest import Keyed

pytestmark = promise("A58")

OpenAs = Callable[..., Page]
SCOPES = ("read", "invoke", "write", "admin", "operator")
# The scope that each page needs.
NEEDS = {"usage": "read", "keys": "admin", "audit": "admin", "node": "operator"}


@pytest.mark.parametrize("scope", SCOPES)
def test_a_page_that_the_key_may_not_see_says_so_in_the_servers_words(
    open_as: OpenAs, keyed: Keyed, expected: list[str], scope: str
) -> None:
    expected += ["status of 403"]
    page = open_as(keyed.key(new_name(), scope)["key"])
    for name, needed in NEEDS.items():
        page.goto(f"/ui/#/{name}")
        expect(page.get_by_role("heading", level=1)).to_have_text(name.capitalize())
        expect(page.get_by_role("main").locator("[aria-busy=true]")).to_have_count(0)
        alert = page.get_by_role("main").get_by_role("alert")
        if SCOPES.index(scope) >= SCOPES.index(needed):
            expect(alert).to_have_count(0)
            continue
        expect(alert).to_contain_text(
            f"this credential has scope {scope}; the request needs {needed}"
        )
        expect(alert).to_contain_text(f"use a key with scope {needed}")


def test_another_key_helps(open_as: OpenAs, keyed: Keyed, expected: list[str]) -> None:
    expected += ["status of 40[13]"]
    tenant = new_name()
    page = open_as(keyed.key(tenant, "read")["key"])
    page.goto("/ui/#/keys")
    page.get_by_role("button", name="Sign in with another key").click()
    page.get_by_label("API key").fill(keyed.key(tenant, "admin", label="better")["key"])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("row").filter(has_text="better")).to_be_visible()


def test_a_question_mark_shows_the_shortcuts(page: Page) -> None:
    page.goto("/ui/#/usage")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    button = page.get_by_role("button", name="Keyboard")
    button.focus()
    page.keyboard.press("?")
    window = page.get_by_role("dialog", name="Keyboard")
    expect(window).to_contain_text("goes to the search")
    page.keyboard.press("Escape")
    expect(window).to_have_count(0)
    expect(button).to_be_focused()
    button.click()
    expect(window).to_be_visible()
    window.get_by_role("button", name="Close").click()
    expect(window).to_have_count(0)


def test_where_something_is_typed_it_is_a_question_mark(page: Page) -> None:
    page.goto("/ui/#/audit")
    field = page.get_by_label("Any action")
    field.press("?")
    expect(field).to_have_value("?")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_nothing_keeps_people_from_using_it(
    open_as: OpenAs, keyed: Keyed, camera: Camera, expected: list[str]
) -> None:
    expected += ["status of 403"]
    page = open_as(keyed.key(new_name(), "read")["key"])
    page.goto("/ui/#/node")
    expect(page.get_by_role("alert")).to_be_visible()
    assert_usable(page, camera, "barred")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert_usable(page, camera, "shortcuts")
