"""The page about the machine, for operators."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from promises import promise
from quiltfn import __version__
from spec.api_client import Api, new_name
from spec.conftest import Keyed

pytestmark = promise("A58")

OpenAs = Callable[..., Page]


@pytest.fixture
def busy(keyed: Keyed) -> tuple[Api, str]:
    """A client of an operator, and the name of the operator's function, which has an instance."""
    tenant, name = new_name(), new_name()
    api = keyed.caller(tenant, "operator")
    function_id = api.active(name=name)
    api.invoke(function_id)
    return api, name


def test_an_operator_sees_the_machine(open_as: OpenAs, keyed: Keyed, busy: tuple[Api, str]) -> None:
    _, name = busy
    page = open_as(keyed.operator.key)
    page.goto("/ui/#/node")
    expect(page.locator(".facts")).to_contain_text(f"version {__version__}")
    expect(page.locator(".facts")).to_contain_text(re.compile(r"started (now|\d+ (s|min) ago)"))
    memory = page.get_by_role("region", name="Memory")
    expect(memory).to_be_visible()  # this region moves those beside it once it is loaded
    health = page.get_by_role("region", name="Health")
    expect(health).to_contain_text("ready")
    expect(health).to_contain_text(re.compile(r"disk.*[GM]iB free"))
    boxes = [one.bounding_box() for one in health.get_by_role("listitem").all()]
    assert len({box["x"] for box in boxes if box}) == 1  # all items are in one column
    expect(memory.get_by_role("img")).to_have_attribute(
        "aria-label", re.compile(r"[\d.]+ [KM]iB of [\d.]+ GiB are held")
    )
    page.get_by_role("searchbox").fill(name)  # the list only draws rows that are in sight
    row = page.get_by_role("table", name="Instances").get_by_role("row").filter(has_text=name)
    expect(row).to_contain_text("ready")
    expect(row).to_contain_text(re.compile(r"[KM]iB"))
    protections = page.get_by_role("region", name="Protections in force")
    expect(protections).to_contain_text("seccomp")
    findings = page.get_by_role("region", name="System checks")
    findings.get_by_role("button", name="All").click()
    expect(findings).to_contain_text("control groups")


def test_a_tenant_is_disabled_after_a_question_and_enabled(open_as: OpenAs, keyed: Keyed) -> None:
    tenant = new_name()
    admin = keyed.caller(tenant, "admin")
    page = open_as(keyed.operator.key)
    page.goto("/ui/#/node")
    tenants = page.get_by_role("table", name="Tenants")
    row = tenants.get_by_role("row").filter(has_text=tenant)
    expect(row).to_contain_text("enabled")
    row.get_by_role("button", name=f"Disable {tenant}").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    admin.good("GET", "/api/functions")
    row.get_by_role("button", name=f"Disable {tenant}").click()
    page.get_by_role("dialog").get_by_role("button", name="Disable").click()
    expect(row).to_contain_text("disabled")
    admin.refused("FORBIDDEN", 403, "GET", "/api/functions")
    row.get_by_role("button", name=f"Enable {tenant}").click()
    expect(row).to_contain_text("enabled")
    admin.good("GET", "/api/functions")


def test_a_key_of_a_disabled_tenant_is_signed_out(
    open_as: OpenAs, keyed: Keyed, expected: list[str]
) -> None:
    tenant = new_name()
    admin = keyed.caller(tenant, "admin")
    keyed.operator.good("POST", f"/api/tenants/{tenant}/disable")
    expected.append("403")
    page = open_as(admin.key)
    page.goto("/ui/#/")
    expect(page.get_by_role("alert")).to_contain_text("disabled")
    expect(page.locator("h1 + [role=status]")).to_have_text("")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    keyed.operator.good("POST", f"/api/tenants/{tenant}/enable")
