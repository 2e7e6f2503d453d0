"""The page of the audit log: filters, loading to its end, and single entries."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, Page, expect

from browser.accessibility import assert_usable
from browser.pictures import Camera
from promises import promise
from spec.api_client import Api, new_name, of
from spec.conftest import Keyed

pytestmark = promise("A57")

OpenAs = Callable[..., Page]


def rows(page: Page) -> Locator:
    return page.get_by_role("table").locator("[data-n]")


def changed(keyed: Keyed) -> tuple[Api, dict[str, Any], str]:
    """A tenant in which a function was created, and a reader's request to delete it was refused."""
    tenant = new_name()
    admin = keyed.key(tenant, "admin", label="laptop")
    api = Api(keyed.server.url, admin["key"])
    function_id = api.create(name="audited")
    reader = keyed.key(tenant, "read", label="reader")
    assert Api(keyed.server.url, reader["key"])("DELETE", of(function_id)).status_code == 403
    return api, admin, function_id


def test_it_says_who_did_what_and_what_was_refused(open_as: OpenAs, keyed: Keyed) -> None:
    _, admin, _ = changed(keyed)
    page = open_as(admin["key"])
    page.goto("/ui/#/audit")
    refused = rows(page).filter(has_text="function.delete")
    expect(refused).to_contain_text("FORBIDDEN")
    expect(refused).to_contain_text("reader")
    expect(refused).to_contain_text("403")
    made = rows(page).filter(has_text="function.create")
    expect(made).to_contain_text("laptop")
    expect(made).to_contain_text(str(admin["tenant_id"]))
    made.get_by_role("link", name="audited", exact=True).click()
    expect(page).to_have_url(re.compile("#/functions/"))


def test_deleted_names_are_shown_to_their_tenant_only(open_as: OpenAs, keyed: Keyed) -> None:
    api, admin, function_id = changed(keyed)
    other = keyed.caller(new_name(), "admin")
    assert other("DELETE", of(function_id)).status_code == 404
    (refused,) = other.good("GET", "/api/audit?action=function.delete")["entries"]
    assert (refused["object_id"], refused["object_name"]) == (function_id, None)
    schedule = {"name": "nightly", "function": "audited", "cron": "0 3 * * *"}
    api.good("POST", "/api/schedules", schedule, status=201)
    api.good("PUT", f"{of(function_id)}/aliases/live", {"version": 1})
    page = open_as(admin["key"])
    page.goto("/ui/#/audit")
    alias = rows(page).filter(has_text="alias.set")
    expect(alias.get_by_role("link", name="audited", exact=True)).to_be_visible()
    made = rows(page).filter(has_text="schedule.create")
    expect(made.get_by_role("link", name="nightly")).to_have_attribute(
        "href", "#/schedules/nightly"
    )
    api.good("DELETE", "/api/schedules/nightly", status=204)
    api.good("DELETE", of(function_id), status=204)
    page.reload()
    gone = rows(page).filter(has_text="function.delete").filter(has_text="204")
    expect(gone).to_contain_text("audited")
    expect(rows(page).filter(has_text="function.create")).to_contain_text("audited")
    expect(rows(page).filter(has_text=function_id)).to_have_count(0)


def test_filters_are_in_the_address(open_as: OpenAs, keyed: Keyed) -> None:
    _, admin, function_id = changed(keyed)
    page = open_as(admin["key"])
    page.goto("/ui/#/audit")
    expect(rows(page).filter(has_text="function.create")).to_be_visible()
    page.get_by_label("Actor").select_option(label=f"laptop ({admin['prefix']})")
    expect(rows(page).filter(has_text="function.delete")).to_have_count(0)
    expect(rows(page).filter(has_text="function.create")).to_be_visible()
    page.get_by_label("Any object").fill(function_id)
    page.get_by_label("Any object").press("Enter")
    expect(rows(page)).to_have_count(1)
    page.get_by_label("Time").select_option(label="the last hour")
    expect(page).to_have_url(
        re.compile(f"#/audit\\?who={admin['id']}&object={function_id}&since=1h$")
    )
    page.reload()
    expect(rows(page)).to_have_count(1)
    expect(page.get_by_label("Any object")).to_have_value(function_id)
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Any action").fill("function.delete")
    page.get_by_label("Any action").press("Enter")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_contain_text("reader")
    page.get_by_label("Any action").fill("nothing.like.it")
    page.get_by_label("Any action").press("Enter")
    expect(page.get_by_text("No matching entries.")).to_be_visible()


def test_an_entry_has_a_link_of_its_own(open_as: OpenAs, keyed: Keyed) -> None:
    _, admin, function_id = changed(keyed)
    page = open_as(admin["key"])
    page.goto("/ui/#/audit")
    rows(page).get_by_role("link", name="function.delete").click()
    entry = page.get_by_role("dialog", name="function.delete")
    expect(entry).to_contain_text("403 FORBIDDEN")
    expect(entry).to_contain_text(function_id)
    link = page.url
    page.keyboard.press("Escape")
    expect(entry).to_have_count(0)
    expect(page).not_to_have_url(re.compile("entry="))
    # An entry that the list does not show is fetched.
    page.goto(link.replace("#/audit?", "#/audit?action=key&"))
    expect(entry).to_contain_text("403 FORBIDDEN")
    entry.get_by_role("link", name="All that was done to it").click()
    expect(entry).to_have_count(0)
    expect(rows(page)).to_have_count(2)


def test_it_is_read_to_its_end(open_as: OpenAs, keyed: Keyed) -> None:
    api, admin, function_id = changed(keyed)
    for number in range(120):
        api.good("PUT", of(function_id), {"description": f"the {number}th"})
    page = open_as(admin["key"])
    page.goto("/ui/#/audit")
    expect(page.get_by_text("100 so far")).to_be_visible()
    rows(page).first.get_by_role("link").first.focus()
    page.keyboard.press("End")
    expect(page.get_by_role("status").filter(has_text="122")).to_have_text("122")
    page.keyboard.press("End")
    expect(rows(page).filter(has_text="function.create")).to_be_visible()


def test_nothing_keeps_people_from_using_it(open_as: OpenAs, keyed: Keyed, camera: Camera) -> None:
    _, admin, _ = changed(keyed)
    page = open_as(admin["key"])
    page.goto("/ui/#/audit")
    expect(rows(page).filter(has_text="function.create")).to_be_visible()
    assert_usable(page, camera, "audit")
    rows(page).get_by_role("link", name="function.delete").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert_usable(page, camera, "audit-entry")
