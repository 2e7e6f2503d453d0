"""The page about usage: over time, by function, as a file, and compared with the tenant's
limits.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from e2e.server import until
from promises import promise
from spec.api_client import Api, new_name
from spec.conftest import Keyed

pytestmark = promise("A58")

OpenAs = Callable[..., Page]


@pytest.fixture
def used(keyed: Keyed) -> tuple[Api, str]:
    """The admin of a tenant with two functions that were invoked, and the name of the tenant."""
    tenant = new_name()
    api = keyed.caller(tenant)
    good, bad = api.active(name="works"), api.active("exit 3", name="fails")
    for function_id, times in ((good, 3), (bad, 2)):
        for _ in range(times):
            api.invoke(function_id)
    until(lambda: api.good("GET", "/api/usage")["total"]["calls"] == 5)
    return api, tenant


def figure(page: Page, name: str) -> Any:
    return page.locator("dl.figures > div").filter(has_text=name).locator("dd").first


def test_it_adds_up_and_is_downloaded(
    open_as: OpenAs, used: tuple[Api, str], tmp_path: Path
) -> None:
    page = open_as(used[0].key)
    page.goto("/ui/#/usage")
    expect(figure(page, "Calls")).to_have_text("5")
    expect(figure(page, "Errors")).to_have_text("2")
    expect(figure(page, "GB-seconds")).not_to_have_text("0")
    chart = page.get_by_role("img", name=re.compile("5 calls.*arrow keys"))
    expect(chart).to_be_visible()
    assert chart.locator("rect.used").count() >= 1
    chart.focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".frames [aria-live]")).to_have_text(re.compile(r"\d\d:00: 5 calls"))
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="fails"))
    expect(row).to_contain_text("2")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download as CSV").click()
    assert re.fullmatch(r"usage-\d{4}-\d\d-\d\d\.csv", waiting.value.suggested_filename)
    waiting.value.save_as(tmp_path / "usage.csv")
    with (tmp_path / "usage.csv").open(newline="") as file:
        rows = {one["function_name"]: one for one in csv.DictReader(file)}
    assert (rows["works"]["calls"], rows["works"]["errors"]) == ("3", "0")
    assert (rows["fails"]["calls"], rows["fails"]["errors"]) == ("2", "2")
    assert float(rows["works"]["gb_seconds"]) > 0
    page.get_by_role("button", name="week").click()
    expect(page).to_have_url(re.compile(r"\?period=week$"))
    expect(figure(page, "Calls")).to_have_text("5")
    page.get_by_role("button", name="month").click()
    expect(page.locator(".frames")).to_be_visible()
    expect(page).to_have_url(re.compile(r"\?period=month$"))
    page.reload()
    expect(page.get_by_role("button", name="month")).to_have_attribute("aria-pressed", "true")


def test_functions_sorted_with_deleted_ones(open_as: OpenAs, used: tuple[Api, str]) -> None:
    api, _ = used
    gone = api.good("GET", "/api/functions/by-name/fails")["id"]
    api.good("DELETE", f"/api/functions/{gone}", status=204)
    page = open_as(api.key)
    page.goto("/ui/#/usage")
    table = page.get_by_role("table", name="Usage by function")
    table.get_by_role("button", name="Calls").click()
    expect(table.locator("[data-n='0']")).to_contain_text("works")
    table.get_by_role("button", name="Calls").click()
    expect(table.locator("[data-n='0']")).to_contain_text("deleted function")
    expect(table.locator("[data-n='0']")).to_contain_text(gone)


def test_limits_stand_beside_usage(open_as: OpenAs, keyed: Keyed, used: tuple[Api, str]) -> None:
    _, tenant = used
    quota = {"functions": 8, "gb_seconds_per_day": 3600}
    keyed.operator.good("PUT", f"/api/tenants/{tenant}/quota", quota)
    for scope in ("read", "operator"):
        page = open_as(keyed.key(tenant, scope)["key"])
        page.goto("/ui/#/usage")
        limits = page.get_by_role("region", name=f"Limits of the tenant {tenant}")
        expect(limits).to_contain_text("2 of 8")
        expect(limits).to_contain_text(re.compile(r"[\d.]+ of 3,600"))
        expect(limits.get_by_role("img", name="25 %")).to_be_visible()
        at_once = "0 of 1,000" if scope == "operator" else "at most 1,000"
        expect(limits).to_contain_text(at_once)


def test_a_tenant_without_calls_is_told_so(open_as: OpenAs, keyed: Keyed) -> None:
    page = open_as(keyed.key(new_name(), "read")["key"])
    page.goto("/ui/#/usage")
    expect(page.get_by_text("Nothing was called in this time.")).to_be_visible()
    expect(page.get_by_role("table")).to_have_count(0)
