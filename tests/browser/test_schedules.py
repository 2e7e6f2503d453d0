"""Schedules: listed, created, changed, run and deleted."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from browser.scene import Scene
from e2e.server import Function, Server
from promises import promise

pytestmark = promise("A56")


@pytest.fixture
def function(deployed: Callable[..., Function]) -> Function:
    return deployed('echo "ran with $QUILT_PAYLOAD"')


@pytest.fixture
def hourly(site: Server, function: Function) -> Iterator[str]:
    """Creates a schedule that a test may change or delete; yields its name."""
    name = f"hourly-{function.id[-12:]}"
    whose = site.call("GET", function.path).json()["name"]
    body = {"name": name, "function": whose, "cron": "0 * * * *", "payload": "tea"}
    assert site.call("POST", "/api/schedules", body).status_code == 201
    yield name
    site.call("DELETE", f"/api/schedules/{name}")


def row(page: Page, name: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


def test_the_list_says_when_each_runs_and_what_came_of_it(page: Page, scene: Scene) -> None:
    assert scene
    page.goto("/ui/#/schedules")
    expect(row(page, "nightly")).to_contain_text("0 3 * * *")
    expect(row(page, "nightly")).to_contain_text("At 03:00 every day")
    expect(row(page, "nightly")).to_contain_text("Europe/Paris")
    strip = row(page, "nightly").get_by_role("group", name="Latest runs")
    expect(strip.locator(".status.success")).to_have_count(1)
    expect(row(page, "nightly")).to_contain_text("success")
    expect(row(page, "prices")).to_contain_text("Every 15 minutes")
    expect(row(page, "prices")).to_contain_text(re.compile(r"in ([2-9]|1[0-4]) min"))
    expect(row(page, "weekly-index")).to_contain_text("paused")
    page.get_by_role("searchbox").fill("report")
    expect(row(page, "nightly")).to_be_visible()
    expect(row(page, "prices")).to_have_count(0)


def test_one_is_made_by_its_form(page: Page, site: Server, function: Function) -> None:
    name = site.call("GET", function.path).json()["name"]
    page.goto("/ui/#/schedules")
    page.get_by_role("link", name="New schedule").click()
    page.get_by_label("Name", exact=True).fill("made-here")
    page.get_by_label("Function", exact=True).fill(name)
    page.get_by_label("Cron expression").fill("0 9 * * 1-5")
    expect(page.get_by_text("on weekdays at 9:00")).to_be_visible()
    page.get_by_label("Time zone").fill("Asia/Tokyo")
    page.get_by_label("Payload").fill('{"a": 1}')
    variables = page.get_by_role("group", name="Environment").last
    for number, (name, value) in enumerate([("GREETING", "good day"), ("API_TOKEN", "x=y")], 1):
        variables.get_by_role("button", name="Add a variable").click()
        variables.get_by_label(f"Name of variable {number}").fill(name)
        variables.get_by_label(f"Value of {name}").fill(value)
    expect(variables.get_by_label("Value of GREETING")).to_have_attribute("type", "text")
    expect(variables.get_by_label("Value of API_TOKEN")).to_have_attribute("type", "password")
    page.get_by_label("If still running").select_option("let the next one wait")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="made-here")).to_be_visible()
    expect(page.get_by_role("region", name="Next runs").get_by_role("listitem")).to_have_count(5)
    expect(page.get_by_role("region", name="Next runs")).to_contain_text("09:00")
    expect(page.get_by_role("region", name="Each run")).to_contain_text("GREETING")
    made = site.call("GET", "/api/schedules/made-here").json()
    assert made["environment"] == {"GREETING": "good day", "API_TOKEN": "x=y"}
    assert (made["timezone"], made["overlap"]) == ("Asia/Tokyo", "queue")
    assert made["payload"] == '{"a": 1}'
    site.call("DELETE", "/api/schedules/made-here")


def test_refusals_are_beside_the_form(page: Page, function: Function, expected: list[str]) -> None:
    expected += ["422"]
    assert function
    page.goto("/ui/#/new-schedule")
    page.get_by_label("Name", exact=True).fill("wrong")
    page.get_by_label("Function", exact=True).fill("nobody-has-this")
    page.get_by_role("button", name="Create schedule").click()
    expect(page.get_by_role("alert")).to_contain_text("function")
    expect(page.get_by_label("Name", exact=True)).to_have_value("wrong")


def test_one_is_changed_paused_and_resumed(page: Page, site: Server, hourly: str) -> None:
    page.goto(f"/ui/#/schedules/{hourly}")
    page.get_by_role("button", name="Edit").click()
    expect(page.get_by_label("Payload")).to_have_value("tea")
    page.get_by_role("button", name="at an interval").click()
    page.get_by_label("Seconds from one run to the next").fill("7200")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".facts")).to_contain_text("Every 2 hours")
    stored = site.call("GET", f"/api/schedules/{hourly}").json()
    assert (stored["every_seconds"], stored["cron"], stored["payload"]) == (7200, None, "tea")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("None while it is paused.")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("region", name="Next runs").get_by_role("listitem")).to_have_count(5)


def test_one_is_run_now_and_its_runs_lead_to_their_calls(page: Page, hourly: str) -> None:
    page.goto(f"/ui/#/schedules/{hourly}")
    expect(page.get_by_text("It has not been due yet.")).to_be_visible()
    page.get_by_role("button", name="Run now").click()
    output = page.get_by_role("region", name="Output", exact=True)
    expect(output).to_have_text("ran with tea")
    page.go_back()
    runs = page.get_by_role("region", name="Runs").get_by_role("row")
    expect(runs).to_have_count(2)
    expect(runs.nth(1)).to_contain_text("success")
    strip = page.get_by_role("region", name="Runs").get_by_role("group", name="Latest runs")
    expect(strip.get_by_role("link")).to_have_count(1)
    expect(strip.locator(".status.success")).to_have_count(1)
    runs.nth(1).get_by_role("link").click()
    expect(output).to_have_text("ran with tea")


def test_one_is_deleted_after_a_question(page: Page, site: Server, hourly: str) -> None:
    page.goto(f"/ui/#/schedules/{hourly}")
    page.get_by_role("button", name="Delete").click()
    question = page.get_by_role("dialog", name=f"Delete {hourly}?")
    question.get_by_role("button", name="Cancel").click()
    assert site.call("GET", f"/api/schedules/{hourly}").status_code == 200
    page.get_by_role("button", name="Delete").click()
    question.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Schedules")).to_be_visible()
    expect(row(page, hourly)).to_have_count(0)
    assert site.call("GET", f"/api/schedules/{hourly}").status_code == 404
