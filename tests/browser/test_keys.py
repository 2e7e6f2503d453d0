"""Keys: created, shown once, and revoked."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Browser, Page, expect

from browser.accessibility import assert_usable
from browser.conftest import watched_page
from browser.pictures import Camera
from e2e.server import until, watched
from promises import promise
from spec.api_client import Api, new_name
from spec.conftest import Keyed

pytestmark = promise("A57")

OpenAs = Callable[..., Page]


def make(page: Page, label: str, scope: str, ends: str) -> str:
    """Creates a key with the form; returns the secret. The window that shows the secret stays
    open.
    """
    page.get_by_role("button", name="New key").click()
    form = page.get_by_role("form", name="New key")
    form.get_by_label("Label").fill(label)
    form.get_by_label("Scope").select_option(scope)
    form.get_by_label("Ends").select_option(label=ends)
    form.get_by_role("button", name="Make key").click()
    return page.get_by_role("dialog", name="The new key").locator("code").inner_text()


def test_one_is_made_and_shown_once(open_as: OpenAs, keyed: Keyed) -> None:
    admin = keyed.key(new_name(), "admin")
    page = open_as(admin["key"])
    page.goto("/ui/#/keys")
    row = page.get_by_role("row").filter(has_text="the key of this tab")
    expect(row).to_contain_text("admin")
    secret = make(page, "nightly build", "invoke", "in a week")
    whoami = Api(keyed.server.url, secret).good("GET", "/api/whoami")
    assert (whoami["tenant_id"], whoami["scope"]) == (admin["tenant_id"], "invoke")
    page.get_by_role("button", name="I have it").click()
    expect(page.locator("code", has_text=secret)).to_have_count(0)
    made = page.get_by_role("row").filter(has_text="nightly build")
    expect(made).to_contain_text("invoke")
    expect(made).to_contain_text(re.compile("in [67] d"))
    expect(made).to_contain_text(secret.split("_")[2])
    assert secret not in page.content()
    page.reload()
    expect(made).to_be_visible()
    assert secret not in page.content()


def test_refusals_are_in_the_form(open_as: OpenAs, keyed: Keyed, expected: list[str]) -> None:
    expected += ["403"]
    page = open_as(keyed.key(new_name(), "admin", expires_seconds=3600)["key"])
    page.goto("/ui/#/keys")
    page.get_by_role("button", name="New key").click()
    page.get_by_role("button", name="Make key").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("a key cannot live longer than the one that makes it")
    expect(alert).to_contain_text(re.compile(r"give expires_seconds of \d+ or less"))


def test_one_is_revoked_after_a_question(open_as: OpenAs, keyed: Keyed) -> None:
    tenant = new_name()
    page = open_as(keyed.key(tenant, "admin")["key"])
    other = Api(keyed.server.url, keyed.key(tenant, "read", label="old laptop")["key"])
    page.goto("/ui/#/keys")
    page.get_by_role("button", name="Revoke old laptop").click()
    question = page.get_by_role("dialog", name="Revoke old laptop?")
    question.get_by_role("button", name="Cancel").click()
    other.good("GET", "/api/whoami")
    page.get_by_role("button", name="Revoke old laptop").click()
    question.get_by_role("button", name="Revoke").click()
    row = page.get_by_role("row").filter(has_text="old laptop")
    expect(row).to_contain_text("revoked")
    expect(row.get_by_role("button")).to_have_count(0)
    until(lambda: other("GET", "/api/whoami").status_code == 401)
    page.get_by_role("button", name="valid", exact=True).click()
    expect(row).to_have_count(0)
    expect(page).to_have_url(re.compile(r"#/keys\?state=valid$"))


def test_an_operator_sees_on_a_phone_whose_key_it_is(open_as: OpenAs, keyed: Keyed) -> None:
    tenant, label = new_name(), new_name()
    keyed.key(tenant, "read", label=label)
    page = open_as(keyed.key("default", "operator")["key"])
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto("/ui/#/keys")
    row = page.get_by_role("row").filter(has_text=label)
    expect(row.get_by_text(f"tenant {tenant}")).to_be_visible()


def test_revoking_its_own_signs_out(open_as: OpenAs, keyed: Keyed, expected: list[str]) -> None:
    expected += ["401"]
    page = open_as(keyed.key(new_name(), "admin", label="mine")["key"])
    page.goto("/ui/#/keys")
    page.get_by_role("button", name="Revoke mine").click()
    question = page.get_by_role("dialog")
    expect(question).to_contain_text("you are signed out")
    question.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_the_first_one_closes_the_server_and_the_tab_goes_on_with_it(chromium: Browser) -> None:
    with watched() as server, watched_page(chromium, server.start().url, []) as page:
        page.goto("/ui/#/keys")
        expect(page.get_by_text("everybody who reaches this server")).to_be_visible()
        page.get_by_role("button", name="New key").click()
        form = page.get_by_role("form", name="New key")
        scopes = form.get_by_label("Scope").get_by_role("option")
        expect(scopes).to_have_text([re.compile("operator")])
        form.get_by_role("button", name="Make key").click()
        expect(page.get_by_role("dialog", name="The new key")).to_be_visible()
        assert server.call("GET", "/api/functions").status_code == 401
        page.get_by_role("button", name="I have it").click()
        page.reload()
        expect(page.get_by_role("row").filter(has_text="the key of this tab")).to_be_visible()
        expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def test_nothing_keeps_people_from_using_it(open_as: OpenAs, keyed: Keyed, camera: Camera) -> None:
    tenant = new_name()
    page = open_as(keyed.key(tenant, "admin", label="laptop")["key"])
    gone = keyed.key(tenant, "read", label="dashboard on the wall")
    keyed.operator.good("DELETE", f"/api/keys/{gone['id']}", status=204)
    page.goto("/ui/#/keys")
    make(page, "nightly build", "invoke", "in a week")
    assert_usable(page, camera, "keys-made")
    page.get_by_role("button", name="I have it").click()
    page.get_by_role("button", name="New key").click()
    assert_usable(page, camera, "keys")
