"""The page of a function: live updates, invocations, changes, and undoing them."""

import importlib.util
import json
import py_compile
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from browser.chromium import ASKS_BEFORE_IT_LEAVES
from browser.layout import misfits
from browser.pictures import Camera
from browser.scene import archive_of
from e2e.server import Function, Server, until
from promises import promise
from spec.api_client import new_name, of
from spec.conftest import Keyed
from timeouts import scaled

pytestmark = promise("A75", "A76", "A81")

SLOW = "for n in 1 2 3 4 5 6 7 8 9; do echo step $n; sleep 1; done"
PASTE = """(field, length) => {
    const clipboardData = new DataTransfer();
    clipboardData.setData("text/plain", "x".repeat(length));
    const event = new ClipboardEvent("paste", {clipboardData, bubbles: true, cancelable: true});
    if (field.dispatchEvent(event)) field.value = "pasted";
}"""
SEEN_WITHIN_S = 0.3
TRIES = 5
SECTIONS = ("", "settings", "versions", "scaling", "async", "schedules", "network")


@pytest.fixture
def function(site: Server) -> Callable[..., Function]:
    """Creates functions, each with a unique name."""
    return site.deploy


def open_at(page: Page, function: Function, section: str = "") -> None:
    page.goto(f"/ui/#/functions/{function.id}{section and '/' + section}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def name_of(function: Function) -> str:
    return str(function.server.call("GET", function.path).json()["name"])


def state(page: Page) -> Locator:
    return page.locator(".title").get_by_role("status")


def region(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=name, exact=True)


def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until the element has the focus."""
    expect(wanted).to_be_visible()
    for _ in range(60):
        page.keyboard.press("Tab")
        if wanted.evaluate("(one) => one === document.activeElement"):
            return
    raise AssertionError(f"the tabulator does not lead to {wanted}")


def test_from_code_to_a_rollback_without_a_mouse(page: Page, site: Server) -> None:
    page.goto("/ui/#/functions/new")
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("typed-here")
    tab_to(page, page.get_by_label("Language"))
    page.keyboard.type("Shell")
    page.keyboard.press("Control+Enter")
    tab_to(page, page.get_by_role("link", name="Go to typed-here"))
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_label("Payload"))
    page.keyboard.type("you")
    page.keyboard.press("Control+Enter")
    expect(region(page, "Output")).to_have_text("hello, you")
    tab_to(page, page.get_by_role("link", name="Settings"))
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_label("Timeout"))
    page.keyboard.press("Control+A")
    page.keyboard.type("12")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Version 2 of typed-here serves.")).to_be_visible()
    tab_to(page, page.get_by_role("link", name="Versions"))
    page.keyboard.press("Enter")
    tab_to(page, page.get_by_role("button", name="Serve version 1"))
    page.keyboard.press("Enter")
    expect(page.get_by_text("Version 1 of typed-here serves.")).to_be_visible()
    made = site.call("GET", "/api/functions/by-name/typed-here").json()
    assert (made["current_version"], made["timeout_seconds"]) == (1, 30)


def test_output_streams_and_escape_cancels(page: Page, function: Callable[..., Function]) -> None:
    slow = function(SLOW)
    open_at(page, slow)
    page.get_by_label("Payload").evaluate(PASTE, 10 * 1024 * 1024)
    expect(page.get_by_text("10 MiB are too long for this field")).to_be_visible()
    expect(page.get_by_label("Payload")).to_have_value("")
    page.get_by_label("Payload").fill('{"a": 1')
    expect(page.get_by_text("This is no valid JSON")).to_be_visible()
    page.keyboard.press("Control+Enter")
    expect(region(page, "Output")).to_contain_text("step 2")
    expect(region(page, "Try it").get_by_role("status")).to_contain_text("running")
    page.keyboard.press("Escape")
    expect(region(page, "Try it").get_by_role("status")).to_contain_text("cancelled")
    assert [one["status"] for one in slow.records().values()] == ["cancelled"]
    # Another page loses nothing: the output is shown, and the sent payload is offered again.
    page.get_by_role("link", name="Scaling").click()
    page.get_by_role("link", name="Overview").click()
    expect(region(page, "Output")).to_contain_text("step 2")
    expect(page.get_by_label("Sent earlier")).to_contain_text('{"a": 1')


def test_an_answer_comes_into_sight_and_leaves_the_focus(
    open_page: Callable[..., Page], function: Callable[..., Function]
) -> None:
    fn = function("seq 9; echo the last line >&2; exit 1")
    for width, height in ((390, 844), (1280, 720)):
        page = open_page(viewport={"width": width, "height": height}, reduced_motion="reduce")
        open_at(page, fn)
        assert page.evaluate("() => scrollY") == 0
        button = page.get_by_role("button", name=re.compile("^Call"))
        button.click()
        expect(page.get_by_label("Log")).to_be_in_viewport(ratio=1)
        expect(region(page, "Try it").get_by_role("status")).to_be_in_viewport(ratio=1)
        expect(button).to_be_focused()
        # Since there are two texts, each shows its name.
        for name in ("Output", "Log"):
            named = "(one) => getComputedStyle(one, '::before').content"
            assert page.get_by_label(name).evaluate(named) == f'"{name}"'


def test_a_call_has_variables(page: Page, function: Callable[..., Function]) -> None:
    greeting = function('echo "$GREETING, $(cat)"')
    open_at(page, greeting)
    page.get_by_text("Environment variables of this call").click()
    page.get_by_role("button", name="Add a variable").click()
    page.get_by_label("Name of variable 1").fill("GREETING")
    page.get_by_label("Value of GREETING").fill("good day")
    for mode, caller in (("Wait for the answer", "reader"), ("Queue it", "queue")):
        page.get_by_label("Payload").fill(caller)
        page.get_by_label("How").select_option(mode)
        page.get_by_role("button", name=re.compile("^Call")).click()
        expect(region(page, "Output")).to_have_text(f"good day, {caller}")
        outcome = region(page, "Try it").get_by_role("status")
        expect(outcome).to_contain_text(re.compile(r"success.*ms.*exit 0", re.S))
        link = outcome.get_by_role("link", name="This call").get_attribute("href")
        assert str(link).rsplit("/", 1)[1] in greeting.records()


def test_a_call_is_shown_as_a_line_for_a_terminal(
    page: Page, function: Callable[..., Function], camera: Camera
) -> None:
    fn = function('printf "%s, %s" "$(cat)" "$PLACE"; echo noted >&2')
    open_at(page, fn)
    page.get_by_label("Payload").fill("it's me")
    page.get_by_text("This call from a terminal").click()
    assert page.get_by_text("curl -sS").evaluate("(one) => one.scrollWidth <= one.clientWidth")
    camera.take(page, "call-line")
    answered = json.loads(delivered(str(page.get_by_text("curl -sS").text_content())))
    assert (answered["status"], answered["stdout"]) == ("success", "it's me, ")
    assert answered["stderr"] == "noted\n"


@pytest.mark.parametrize("wanted", ["pending", "error", "paused"])
def test_a_function_that_takes_no_invocations_offers_none(
    page: Page, site: Server, function: Callable[..., Function], wanted: str
) -> None:
    if wanted == "paused":
        fn = function("true")
        fn.server.call("POST", f"{fn.path}/pause")
    else:
        fn = site.create("main:missing", runtime="python")
        if wanted == "error":
            site.call("POST", f"{fn.path}/deploy")
    open_at(page, fn)
    expect(state(page)).to_contain_text(wanted)
    button = region(page, "Try it").get_by_role("button", name="Call", exact=False)
    expect(button).to_have_attribute("aria-disabled", "true")
    expect(page.locator(".refused-now")).to_contain_text(re.compile("(Deploy|Resume) it"))
    page.get_by_label("Payload").press("Control+Enter")
    expect(page.locator(".outcome")).to_have_count(0)
    page.get_by_label("How").select_option("async")
    expected = "false" if wanted == "paused" else "true"
    expect(button).to_have_attribute("aria-disabled", expected)


def test_it_is_paused_resumed_and_deleted(page: Page, function: Callable[..., Function]) -> None:
    fn = function("echo hi")
    open_at(page, fn)
    page.get_by_role("button", name="Pause").click()
    expect(state(page)).to_contain_text("paused")
    page.get_by_role("button", name="Undo").click()
    expect(state(page)).to_contain_text("active")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").click()
    expect(state(page)).to_contain_text("active")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert fn.server.call("GET", fn.path).status_code == 200
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("was deleted.")).to_be_visible()
    assert fn.server.call("GET", fn.path).status_code == 404


def test_what_others_do_is_seen_at_once(page: Page, function: Callable[..., Function]) -> None:
    """The fastest of several attempts counts, since other processes on the machine may delay
    some.
    """
    fn = function("echo hi")
    open_at(page, fn)
    expect(page.get_by_role("status").filter(has_text="Live")).to_be_visible()
    took: list[float] = []
    for verb, wanted in [("pause", "paused"), ("resume", "active")] * TRIES:
        assert fn.server.call("POST", f"{fn.path}/{verb}").status_code == 200
        since = time.monotonic()
        state(page).get_by_text(wanted).wait_for(timeout=scaled(5) * 1000)
        took.append(time.monotonic() - since)
    assert min(took) < scaled(SEEN_WITHIN_S), took


def test_calls_of_others_are_listed(page: Page, function: Callable[..., Function]) -> None:
    fn = function("exit 3")
    open_at(page, fn)
    expect(page.get_by_text("It has not been called.")).to_be_visible()
    record = fn.invoke()
    row = region(page, "Latest calls").get_by_role("row").nth(1)
    expect(row).to_contain_text("failed")
    expect(row).to_contain_text(record["invocation_id"])
    expect(region(page, "Last hour")).to_contain_text("100 %")
    expect(page.get_by_title("Estimated from a histogram")).to_have_text(
        re.compile(r"^\s*Highest p99\s*about [\d.]+ m?s\s*$")
    )
    page.get_by_role("button", name="week").click()
    expect(region(page, "Last week").get_by_role("img")).to_have_attribute(
        "aria-label", re.compile("1 call, 1 failed")
    )
    expect(page).to_have_url(re.compile(r"\?period=week$"))


@promise("A80")
def test_a_secret_is_masked_until_it_is_revealed_and_saved_as_it_is(
    open_page: Callable[..., Page], function: Callable[..., Function]
) -> None:
    variables = {"API_TOKEN": "t0p-secret", "MODE": "fast"}
    fn = function("echo $API_TOKEN", environment=variables)
    page = open_page(viewport={"width": 390, "height": 844})
    open_at(page, fn, "settings")
    secret = page.get_by_label("Value of API_TOKEN")
    expect(secret).to_have_attribute("type", "password")
    expect(page.get_by_label("Value of MODE")).to_have_attribute("type", "text")
    page.get_by_role("button", name="Reveal API_TOKEN").click()
    expect(secret).to_have_attribute("type", "text")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
    page.get_by_role("button", name="Hide API_TOKEN").click()
    page.get_by_label("Value of MODE").fill("slow")
    page.get_by_role("button", name="Save and deploy").click()
    expect(page.get_by_text(re.compile("Version 2 of .* serves"))).to_be_visible()
    saved = fn.server.call("GET", fn.path).json()["environment"]
    assert saved == {"API_TOKEN": "t0p-secret", "MODE": "slow"}


def test_an_update_is_deployed_and_undone(page: Page, function: Callable[..., Function]) -> None:
    fn = function("echo old", environment={"OLD": "1"})
    open_at(page, fn, "settings")
    expect(page.get_by_text("memory limit in MiB, from 256")).to_be_visible()
    page.get_by_label("Memory").fill("300")
    page.get_by_role("button", name="Remove OLD").click()
    page.get_by_role("button", name="Save and deploy").click()
    expect(page.get_by_text(re.compile("Version 2 of .* serves"))).to_be_visible()
    now = fn.server.call("GET", fn.path).json()
    assert (now["memory_limit_mb"], now["environment"], now["handler"]) == (300, {}, "echo old")
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text(re.compile("Version 1 of .* serves"))).to_be_visible()
    expect(page.get_by_label("Memory")).to_have_value("256")


def test_a_failed_version_is_known_after_a_redeploy(page: Page, site: Server) -> None:
    packed(site, "broken", main="handler = lambda event: 'first'\n")
    fn = site.deploy("main:handler", runtime="broken")
    open_at(page, fn, "settings")
    code = page.locator(".open-file .cm-content")
    code.press("Control+A")
    code.press_sequentially("def handler(event) return 1")
    page.get_by_role("button", name="Save and deploy").click()
    expect(page.get_by_text("Saved as version 2, which could not start.")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(1)
    expect(page.get_by_text("failed: SyntaxError")).to_have_count(1)
    expect(page.get_by_role("alert").locator("pre")).to_contain_text("^")
    page.get_by_role("button", name="Redeploy version 1").click()
    expect(page.get_by_text(re.compile("Version 1 of .* serves"))).to_be_visible()
    page.get_by_role("link", name="Versions").click()
    row = page.get_by_role("row").filter(has_text="v2")
    expect(row).to_contain_text("could not start")
    expect(row).to_contain_text("SyntaxError")
    row.get_by_role("button", name="Serve version 2").click()
    expect(page.get_by_role("alert")).to_contain_text("version 2 cannot serve")
    expect(page.get_by_text("failed: SyntaxError")).to_have_count(1)
    # The message can be closed, and is shown again when the same error occurs again.
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_role("link", name="Code and settings").click()
    expect(page.get_by_label("Memory")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_role("link", name="Versions").click()
    row.get_by_role("button", name="Serve version 2").click()
    expect(page.get_by_role("alert")).to_contain_text("version 2 cannot serve")


def test_unsaved_edits_survive_other_pages(page: Page, function: Callable[..., Function]) -> None:
    fn = function("echo before")
    open_at(page, fn, "settings")
    tab = page.get_by_role("link", name="Code and settings")
    expect(tab).not_to_contain_text("not saved")
    page.get_by_label("Timeout").fill("17")
    expect(tab).to_contain_text("not saved")
    page.get_by_role("link", name="Overview").click()
    expect(region(page, "Try it")).to_be_visible()
    expect(tab).to_contain_text("not saved")
    assert page.evaluate(ASKS_BEFORE_IT_LEAVES)
    tab.click()
    expect(page.get_by_label("Timeout")).to_have_value("17")
    page.get_by_role("button", name="Discard").click()
    expect(tab).not_to_contain_text("not saved")
    assert not page.evaluate(ASKS_BEFORE_IT_LEAVES)


def test_versions_are_compared(page: Page, function: Callable[..., Function]) -> None:
    fn = function("echo old", environment={"A": "1", "B": "secret"})
    changes = {"handler": "echo new", "environment": {"A": "2"}, "memory_limit_mb": 512}
    fn.server.call("PUT", fn.path, changes)
    page.set_viewport_size({"width": 1280, "height": 600})
    open_at(page, fn, "versions")
    page.get_by_role("button", name="Compare version 2").click()
    differs = region(page, "What differs")
    expect(differs.get_by_role("heading")).to_be_in_viewport(ratio=1)
    expect(differs.locator(".cm-changedLine")).to_be_in_viewport(ratio=1)
    shown, aliases = differs.bounding_box(), page.get_by_role("form", name="Aliases").bounding_box()
    assert shown
    assert aliases
    assert shown["y"] < aliases["y"]
    expect(differs.get_by_role("row", name=re.compile("Memory"))).to_contain_text("512 MiB")
    expect(differs.get_by_role("row", name=re.compile("Variable A"))).to_contain_text("another")
    expect(differs.get_by_role("row", name=re.compile("Variable B"))).to_contain_text("\u2013")
    expect(differs.locator(".cm-changedLine")).to_have_text("echo new")
    expect(page.get_by_role("main")).not_to_contain_text("secret")
    expect(page).to_have_url(re.compile(r"\?from=1&to=2$"))


def test_any_old_version_is_compared_with_the_current(page: Page, site: Server) -> None:
    fn = site.create("echo old")
    for number in range(55):
        site.call("PUT", fn.path, {"handler": f"echo {number}"})
    assert site.call("POST", f"{fn.path}/rollback", {"version": 1}).status_code == 200
    open_at(page, fn, "versions")
    page.get_by_role("button", name="Compare version 56").click()
    differs = region(page, "What differs")
    expect(differs.get_by_label("from")).to_have_value("1")
    expect(differs.get_by_label("from").locator("option:checked")).to_have_text("v1 (current)")
    expect(differs.locator(".cm-changedLine")).to_have_text("echo 54")
    page.get_by_role("button", name="Compare version 1", exact=True).click()
    expect(page).to_have_url(re.compile(r"\?from=2&to=1$"))


def test_an_alias_is_split_and_undone(page: Page, function: Callable[..., Function]) -> None:
    fn = function("echo old")
    runtime = {"name": "shop.c11726e6df5b217d026367052fb1805f", "kind": "shell"}
    fn.server.call("POST", "/api/runtimes", runtime)
    fn.server.call("PUT", fn.path, {"handler": "exit 3", "runtime": runtime["name"]})
    fn.server.call("POST", f"{fn.path}/rollback", {"version": 1})
    open_at(page, fn, "versions")
    versions, aliases = region(page, "Versions"), page.get_by_role("form", name="Aliases")
    expect(aliases).to_contain_text("An alias is a name that calls use instead of a version")
    aliases.get_by_role("button", name="New alias").click()
    aliases.get_by_label("Name").fill("live")
    aliases.get_by_role("button", name="Save").click()
    expect(versions.get_by_role("row", name=re.compile("^v1"))).to_contain_text("live")

    aliases.get_by_role("button", name="Change live").click()
    aliases.get_by_label("Send a part to").select_option("v2")
    aliases.get_by_label("Its part of the calls").fill("50")
    aliases.get_by_role("button", name="Save").click()
    row = aliases.get_by_role("row", name=re.compile("^live"))
    expect(row).to_contain_text("v1 50 %, v2 50 %")
    expect(row).to_contain_text("taken back if more than 5 % of its calls fail")
    expect(versions.get_by_role("row", name=re.compile("^v2"))).to_contain_text("live 50 %")
    # The row also has to show an alias with a long name, and a project's runtime.
    share = {"version": 2, "weight": 0.5}
    long = f"{fn.path}/aliases/production"
    fn.server.call("PUT", long, {"version": 1, "also": share, "default": True})
    page.reload()
    expect(versions.get_by_role("row", name=re.compile("^v1"))).to_contain_text("currentlive 50 %")
    assert misfits(page) == []
    fn.server.call("DELETE", long)
    page.reload()

    # The second version fails, so the alias is rolled back automatically, and the page must show
    # that.
    alias = f"{fn.path}/aliases/live"
    for _ in range(60):
        fn.server.call("POST", f"{fn.path}/invoke?alias=live", {})
    assert fn.server.call("GET", alias).json()["also"] is None
    expect(row).to_contain_text("rolled back version 2: ")
    expect(row.get_by_role("button", name="All to v2")).to_have_count(0)

    aliases.get_by_role("button", name="Remove live").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_text("Alias live was removed.")).to_be_visible()
    assert fn.server.call("GET", alias).status_code == 404
    page.get_by_role("button", name="Undo").last.click()
    expect(row).to_contain_text("v1")
    assert fn.server.call("GET", alias).json()["version"] == 1


def runs_on(fn: Function) -> tuple[Any, ...]:
    """The current version, and the versions of the default alias: those that invocations run on."""
    now = fn.server.call("GET", fn.path).json()
    default = now["default_alias"]
    return now["current_version"], default["version"], default["also"]


@promise("W29")
def test_another_version_s_calls_stay(page: Page, function: Callable[..., Function]) -> None:
    fn = function("echo good")
    fn.server.call("PUT", fn.path, {"handler": "echo bad"})
    share = {"version": 2, "weight": 0.5}
    rules = {"error_rate": 0.1, "p99_ms": None, "within_s": 300}
    live = {"version": 1, "also": share, "rollback_on": rules, "default": True}
    alias = f"{fn.path}/aliases/live"
    for also, said in ((share, "v1 50 %, v2 50 % (live)"), (None, "v1 (live)")):
        rule = rules if also else None
        fn.server.call("PUT", alias, live | {"also": also, "rollback_on": rule})
        open_at(page, fn)
        facts, back = (
            page.locator(".facts"),
            re.compile(f"version 2 *calls run on {re.escape(said)}"),
        )
        box = region(page, "Try it")
        box.get_by_role("button", name="Call").click()
        expect(box.get_by_role("status")).to_contain_text("success")
        expect(box).not_to_contain_text("serves now")
        page.get_by_role("link", name="Code and settings").click()
        expect(page.get_by_text(f"Calls run on {said}, and stay there unless the")).to_be_visible()
        page.get_by_label("Memory").fill("300" if also else "320")
        expect(page.get_by_text(f"so calls stay on {said}.")).to_be_visible()
        page.get_by_role("button", name="Save and deploy").click()
        expect(page.get_by_text(f"is current. Calls run on {said}.")).to_be_visible()
        newest = runs_on(fn)[0]
        assert runs_on(fn) == (newest, 1, also)
        page.get_by_role("button", name="Undo").last.click()
        expect(facts).to_contain_text(back)
        assert runs_on(fn) == (2, 1, also)
        # A version with other code gets all invocations; undoing that restores the split.
        page.locator(".cm-content").first.press("Control+End")
        page.locator(".cm-content").first.press_sequentially("er")
        page.get_by_role("button", name="Save and deploy").click()
        expect(page.get_by_text(re.compile(f"Version {newest + 1} of .* serves"))).to_be_visible()
        assert runs_on(fn) == (newest + 1, newest + 1, None)
        page.get_by_role("button", name="Undo").last.click()
        expect(facts).to_contain_text(back)
        assert runs_on(fn) == (2, 1, also)
        assert fn.server.call("GET", alias).json()["rollback_on"] == rule


@promise("W29")
@pytest.mark.parametrize("also", [None, {"version": 2, "weight": 0.5}], ids=["whole", "split"])
def test_undo_after_serve_gives_no_call_to_a_version_that_had_none(
    page: Page, function: Callable[..., Function], also: dict[str, Any] | None
) -> None:
    """The version that is made current is one that invocations run on already: after an automatic
    rollback, or in a split.
    """
    fn = function("echo good")
    fn.server.call("PUT", fn.path, {"handler": "echo bad"})
    alias = {"version": 1, "also": also, "default": True}
    fn.server.call("PUT", f"{fn.path}/aliases/live", alias)

    assert runs_on(fn) == (2, 1, also)
    open_at(page, fn, "versions")
    row = region(page, "Versions").get_by_role("row", name=re.compile("^v2"))
    expect(row).to_contain_text("current")
    expect(row).not_to_contain_text("serves")
    page.get_by_role("button", name="Serve version 1").click()
    undo = page.get_by_role("button", name="Undo")
    expect(undo).to_be_visible()
    assert runs_on(fn) == (1, 1, None)
    undo.click()
    said = "v1 50 %, v2 50 % (live)" if also else "v1 (live)"
    expect(page.locator(".facts")).to_contain_text(
        re.compile(f"version 2 *calls run on {re.escape(said)}")
    )
    assert runs_on(fn) == (2, 1, also)


def test_a_call_names_an_alias_or_a_version(page: Page, function: Callable[..., Function]) -> None:
    fn = function("echo old")
    fn.server.call("PUT", fn.path, {"handler": "echo new"})
    fn.server.call("PUT", f"{fn.path}/aliases/live", {"version": 1})
    open_at(page, fn)
    box = region(page, "Try it")
    target = box.get_by_label("Runs on")
    for chosen, said, output in (
        ("alias live: v1", "calls alias live", "old"),
        ("what serves: v2", "calls what serves", "new"),
        ("version 1", "calls version 1", "old"),
    ):
        target.select_option(chosen)
        expect(box).to_contain_text(said)
        box.get_by_role("button", name="Call").click()
        expect(box.locator(".output").first).to_have_text(output)
        expect(box.get_by_role("status")).to_contain_text("success")
    expect(box).not_to_contain_text("which serves now")
    box.get_by_text("This call from a terminal").click()
    expect(box).to_contain_text("/invoke?version=1")


def test_badges_of_versions_stay_on_one_line_on_a_telephone(
    open_page: Callable[..., Page], function: Callable[..., Function]
) -> None:
    fn = function("echo old")
    changes = {"handler": "echo new", "environment": {"A": "1"}, "memory_limit_mb": 512}
    # the texts beside the badges are so long that they leave no room
    fn.server.call("PUT", fn.path, changes)
    shares = {"version": 1, "also": {"version": 2, "weight": 0.1}}
    fn.server.call("PUT", f"{fn.path}/aliases/live", shares)
    page = open_page(viewport={"width": 390, "height": 844})
    open_at(page, fn, "versions")
    for said in ("live 90 %", "live 10 %", "serves"):
        badge = region(page, "Versions").get_by_text(said, exact=True)
        lines, unused_px, is_cut = badge.evaluate("""(one) => {
            const text = document.createRange();
            text.selectNodeContents(one);
            const width = text.getBoundingClientRect().width;
            return [text.getClientRects().length, one.clientWidth - width,
                one.scrollWidth > one.clientWidth];
        }""")
        assert (lines, is_cut) == (1, False), said
        assert unused_px < 16, said


def packed(
    site: Server, runtime: str, more: dict[str, str | bytes] | None = None, **modules: str
) -> None:
    """Gives a Python runtime these modules, the files in `more`, and nothing else."""
    kind = {"content-type": "application/x-tar"}
    content = archive_of(
        {f"{name.replace('__', '/')}.py": text for name, text in modules.items()} | (more or {})
    )
    image = site.http.post("/api/runtimes/images", content=content, headers=kind).json()["digest"]
    added = site.call("POST", "/api/runtimes", {"name": runtime, "kind": "python", "image": image})
    assert added.status_code in (200, 201), added.text


def returning(word: str) -> str:
    return f"def handler(event): return {word!r}\n"


def test_a_replaced_runtime_is_told_until_the_next_update(page: Page, site: Server) -> None:
    packed(site, "renewed", main="def handler(event): return 1")
    fn = site.deploy("main:handler", runtime="renewed")
    open_at(page, fn)
    notice = page.get_by_text("The runtime renewed was replaced since version 1 was made.")
    expect(page.get_by_role("region", name="Pool")).to_be_visible()
    expect(notice).to_have_count(0)
    packed(site, "renewed", main="def handler(event): return 2")
    page.reload()
    expect(notice).to_be_visible()
    site.call("PUT", fn.path, {"memory_limit_mb": 300})
    expect(notice).to_have_count(0)


def test_a_second_click_takes_nothing_back(page: Page, site: Server) -> None:
    """After the first click, no other button may appear in the same place. If the function's own
    code was edited, the notice is about its versions, not about a replaced runtime.
    """
    packed(site, "edited-here", main=returning("first"))
    fn = site.deploy("main:handler", runtime="edited-here")
    packed(site, "edited-here", main=returning("second"))
    fn.server.call("PUT", fn.path, {"runtime": "edited-here"})
    open_at(page, fn, "versions")
    button = page.get_by_role("button", name="Serve version 1")
    before = page.get_by_role("row", name="v1").bounding_box()
    at = button.bounding_box()
    assert at is not None
    middle = (at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    page.mouse.click(*middle)
    page.wait_for_timeout(180)
    page.mouse.click(*middle)
    expect(page.get_by_text(re.compile("Version 1 of .* serves"))).to_be_visible()
    expect(page.get_by_role("row", name="v1")).to_contain_text("serves")
    page.mouse.click(*middle)
    assert page.get_by_role("row", name="v1").bounding_box() == before
    expect(page.get_by_role("button", name="Serve version 2")).to_be_enabled()
    expect(region(page, "What differs")).to_have_count(0)
    assert fn.server.call("GET", fn.path).json()["current_version"] == 1
    page.get_by_role("link", name="Overview").click()
    expect(page.get_by_text("Version 1 is current; newer: v2.")).to_be_visible()
    expect(page.get_by_text("was replaced since")).to_have_count(0)
    page.get_by_role("main").get_by_role("link", name="v2").click()
    page.get_by_role("button", name="Serve version 2").click()
    expect(page.get_by_text(re.compile("Version 2 of .* serves"))).to_be_visible()


def test_files_of_its_runtime_are_replaced(page: Page, site: Server, tmp_path: Path) -> None:
    packed(site, "replaced", main=returning("old"))
    fn = site.deploy("main:handler", runtime="replaced")
    file = tmp_path / "main.py"
    file.write_text(returning("new"))
    open_at(page, fn, "settings")
    expect(page.get_by_role("list", name="Files of this version")).to_contain_text("main.py")
    page.get_by_label("Replace the files").set_input_files(file)
    page.get_by_role("button", name="Replace and deploy").click()
    expect(page.get_by_text(re.compile("Version 2 of .* serves"))).to_be_visible()
    assert "new" in fn.invoke()["stdout"]


def compiled(directory: Path, path: str, text: str) -> dict[str, str | bytes]:
    """The compiled file of a module, as the command line makes it. Python reads this file, not the
    source.
    """
    source = directory / "source.py"
    source.write_text(text)
    made = py_compile.compile(
        str(source), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )
    place = Path(path)
    name = importlib.util.cache_from_source(place.name)
    return {str(place.parent / name): Path(str(made)).read_bytes()}


def test_the_code_is_read_changed_and_compared(page: Page, site: Server, tmp_path: Path) -> None:
    main = "from lib.more import word\n\n\ndef handler(event): return word\n"
    first = "word = 'first'\n"
    bytecode = compiled(tmp_path, "lib/more.py", first)
    packed(site, "edited", more=bytecode, main=main, lib__more=first)
    fn = site.deploy("main:handler", runtime="edited")
    open_at(page, fn, "settings")
    code = page.locator(".open-file .cm-content")
    expect(code).to_contain_text("def handler")  # the page opens the file with the handler
    expect(page.get_by_role("list", name="Files of this version")).not_to_contain_text("pyc")
    page.get_by_role("button", name="lib/more.py").click()
    expect(code).to_contain_text("word = 'first'")
    code.fill("word = 'second'\n")
    page.get_by_label("Memory").fill("300")
    code.press("Control+Enter")
    expect(page.get_by_text(re.compile("Version 2 of .* serves"))).to_be_visible()
    expect(code).to_be_focused()
    assert "second" in fn.invoke()["stdout"]
    assert fn.server.call("GET", fn.path).json()["memory_limit_mb"] == 300
    open_at(page, fn, "versions")
    page.get_by_role("button", name="Compare version 2").click()
    shown = page.get_by_role("region", name="What differs")
    expect(page.get_by_role("row", name="v2")).to_contain_text("Code (lib/more.py), Memory")
    expect(shown).to_contain_text("lib/more.py")
    expect(shown.locator("q-code", has_text="second")).to_contain_text("first")
    expect(shown).not_to_contain_text("main.py")


def test_which_version_answers_is_said_while_another_is_deployed(page: Page, site: Server) -> None:
    packed(site, "coming", main="handler = lambda event: 'first'\n")
    fn = site.deploy("main:handler", runtime="coming")
    open_at(page, fn, "settings")
    slow = "import subprocess; subprocess.run(['sleep', '60']); handler = lambda event: 'second'"
    code = page.locator(".open-file .cm-content")
    code.press("Control+A")
    code.press_sequentially(slow)  # the typing is faster than the page draws
    expect(code).to_have_text(slow)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("version 2 is being deployed; version 1 answers")).to_be_visible()
    page.get_by_role("link", name="Overview").click()
    page.get_by_role("button", name=re.compile("^Call")).click()
    outcome = region(page, "Try it").get_by_role("status")
    expect(outcome).to_contain_text("version 1")
    site.wake()
    expect(page.get_by_text(re.compile("Version 2 of .* serves"))).to_be_visible()
    expect(page.get_by_text("is being deployed")).to_have_count(0)
    expect(outcome).to_contain_text("not version 2, which serves now")
    page.get_by_role("button", name=re.compile("^Call")).click()
    expect(outcome).to_contain_text(re.compile("ms.*version 2"))
    expect(outcome).not_to_contain_text("serves now")


def test_instances_are_set_at_once(page: Page, function: Callable[..., Function]) -> None:
    fn = function("echo hi")
    open_at(page, fn, "scaling")
    page.get_by_label("At least", exact=True).fill("2")
    page.get_by_label("At most", exact=True).fill("3")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text(re.compile("has 2 to 3 instances"))).to_be_visible()
    expect(
        page.get_by_role("img", name="2 ready, 0 warming, 0 parked, of 3 at most")
    ).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_label("At most", exact=True)).to_have_value("5")
    assert fn.server.call("GET", fn.path).json()["current_version"] == 1


def test_dead_letters_redriven_and_dropped(page: Page, function: Callable[..., Function]) -> None:
    fn = function("exit 1")
    for _ in range(2):
        fn.server.call("POST", f"{fn.path}/invoke?mode=async")
    dead = f"{fn.path}/dead-letters"
    until(lambda: len(fn.server.call("GET", dead).json()["dead_letters"]) == 2)
    open_at(page, fn, "async")
    rows = region(page, "Dead letters").get_by_role("row")
    expect(rows).to_have_count(3)
    rows.nth(1).get_by_role("button", name="Drop").click()
    page.get_by_role("dialog").get_by_role("button", name="Drop").click()
    expect(rows).to_have_count(2)
    page.get_by_role("button", name="Redrive all").click()
    expect(page.get_by_text("1 call queued again.")).to_be_visible()
    until(lambda: len(fn.records()) == 3)


def test_the_policy_of_accepted_work_is_set(page: Page, function: Callable[..., Function]) -> None:
    fn, destination = function("echo hi"), function("cat")
    open_at(page, fn, "async")
    policy = page.get_by_role("form", name="How accepted work is run")
    policy.get_by_label("Attempts").fill("4")
    policy.get_by_label("oom").uncheck()
    policy.get_by_role("group", name="After a success").get_by_label("Tell").select_option(
        "a function"
    )
    policy.get_by_label("Function").fill(name_of(destination))
    policy.get_by_role("button", name="Save").click()
    expect(page.get_by_text("The policy was saved.")).to_be_visible()
    stored = fn.server.call("GET", f"{fn.path}/async-policy").json()
    assert stored["max_attempts"] == 4
    assert stored["retry_on"] == ["failed", "timeout", "error", "interrupted"]
    assert stored["on_success"] == {"function": name_of(destination)}
    fn.server.call("POST", f"{fn.path}/invoke?mode=async")
    expect(region(page, "Deliveries")).to_contain_text("delivered", timeout=scaled(20) * 1000)
    page.get_by_label("Inputs").select_option("all")
    expect(page.get_by_text("What is kept was changed.")).to_be_visible()
    assert fn.server.call("GET", f"{fn.path}/record-policy").json() == {"keep_input": "all"}


def test_why_a_delivery_waits_is_seen_and_it_is_sent_at_once(
    page: Page, function: Callable[..., Function]
) -> None:
    fn = function("echo hi")
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    hook = {"url": "http://127.0.0.1:9/hook", "secret": secret}
    fn.server.call("PUT", f"{fn.path}/async-policy", {"on_success": hook})
    fn.server.call("POST", f"{fn.path}/invoke?mode=async")
    open_at(page, fn, "async")
    deliveries = region(page, "Deliveries")
    why = deliveries.get_by_text("callbacks may not go to").filter(visible=True)
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        expect(why).to_be_visible(timeout=scaled(20) * 1000)
    deliveries.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("It is tried again.")).to_be_visible()
    expect(deliveries).to_contain_text("2 tries", timeout=scaled(20) * 1000)


def test_the_secret_of_a_destination_is_dots_until_it_is_revealed(
    page: Page, function: Callable[..., Function]
) -> None:
    fn = function("echo hi")
    hooks = {
        end: {"url": "http://127.0.0.1:9/hook", "secret": f"whsec_{letter * 32}"}
        for end, letter in (("on_success", "S"), ("on_failure", "F"))
    }
    assert fn.server.call("PUT", f"{fn.path}/async-policy", hooks).status_code == 200
    page.set_viewport_size({"width": 390, "height": 900})
    open_at(page, fn, "async")
    for group, end in (("After a success", "on_success"), ("After it was given up", "on_failure")):
        form = page.get_by_role("group", name=group)
        secret = form.get_by_label("Secret", exact=True)
        expect(secret).to_have_value(hooks[end]["secret"])
        expect(secret).to_have_attribute("type", "password")
        form.get_by_role("button", name="Reveal secret").click()
        expect(secret).to_have_attribute("type", "text")
    secret.fill("whsec_" + "N" * 32)
    page.get_by_role("button", name="Save").first.click()
    hooks["on_failure"]["secret"] = "whsec_" + "N" * 32
    path = f"{fn.path}/async-policy"
    until(lambda: fn.server.call("GET", path).json()["on_failure"] == hooks["on_failure"])


def test_its_schedules_run_and_pause(page: Page, function: Callable[..., Function]) -> None:
    fn = function("echo hi")
    body = {"name": "of-function", "function": name_of(fn), "cron": "0 3 * * *"}
    assert fn.server.call("POST", "/api/schedules", body).status_code == 201
    open_at(page, fn, "schedules")
    page.set_viewport_size({"width": 390, "height": 900})
    for button in (f"Run {body['name']} now", f"Turn {body['name']} off"):
        expect(page.get_by_role("button", name=button)).to_be_in_viewport(ratio=1)
    page.get_by_role("button", name="Run of-function now").click()
    until(lambda: len(fn.records()) == 1)
    page.get_by_role("button", name="Turn of-function off").click()
    expect(page.get_by_role("button", name="Turn of-function on")).to_be_visible()
    assert fn.server.call("GET", "/api/schedules/of-function").json()["enabled"] is False
    fn.server.call("DELETE", "/api/schedules/of-function")


def test_it_gets_a_url_and_loses_it(page: Page, function: Callable[..., Function]) -> None:
    fn = function("echo over http")
    open_at(page, fn, "network")
    outgoing = region(page, "Outgoing connections")
    expect(outgoing).to_contain_text("No network access (set in its runtime).")
    page.get_by_role("button", name="Give it a URL").click()
    callers = page.get_by_label("Who may call")
    expect(callers.locator("option", has_text="none")).to_have_text("none: anybody")
    callers.select_option("none")
    page.get_by_label("Methods", exact=True).fill("GET, HEAD")
    page.get_by_label("Methods", exact=True).press("Enter")
    expect(page.get_by_text(re.compile("has a URL"))).to_be_visible()
    url = page.get_by_text(f"{fn.server.url}/fn/")
    assert "over http" in fn.server.http.get(str(url.text_content())).text
    assert fn.server.http.post(str(url.text_content())).status_code == 405
    page.reload()
    refused = "Refused since the server started: 1 (method 1); the last one"
    expect(page.get_by_text(refused)).to_be_visible()
    # The list of refusals must not be sent as part of the form.
    page.get_by_label("Stream the answer").check()
    page.get_by_role("button", name="Save").last.click()
    expect(page.get_by_text("The URL was changed.")).to_be_visible()
    page.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_text("It has no URL")).to_be_visible()


def test_a_webhook_gets_a_secret_and_a_delivery_to_try_it(
    page: Page, function: Callable[..., Function], camera: Camera
) -> None:
    fn = function("echo delivered")
    open_at(page, fn, "network")
    page.get_by_role("button", name="Give it a URL").click()
    page.get_by_label("Who may call").select_option("webhook")
    for scheme in ("standard", "github", "stripe"):
        page.get_by_label("Scheme").select_option(scheme)
        page.get_by_role("button", name="Generate").click()
        secret = page.get_by_label("Secret").input_value()
        # The secret is only stored when the form is saved.
        assert secret not in fn.server.call("GET", f"{fn.path}/url?reveal=true").text
        page.get_by_role("button", name="Save").last.click()
        expect(page.get_by_text(re.compile("has a URL|The URL was changed")).last).to_be_visible()
        page.reload()
        expect(page.get_by_label("Secret")).to_have_value("")
        expect(page.get_by_label("Secret")).to_have_attribute("type", "password")
        page.get_by_role("button", name="Reveal").click()
        expect(page.get_by_label("Secret")).to_have_value(secret)
        line = page.get_by_text("curl -i")
        camera.take(page, f"webhook-{scheme}")
        assert "delivered" in delivered(str(line.text_content()))
        forged = str(line.text_content()).replace('--data-binary "$body"', "--data-binary forged")
        assert "401" in delivered(forged)
    # The form sends other settings without the secret, which must stay as it was.
    page.reload()
    page.get_by_label("Methods", exact=True).fill("POST")
    page.get_by_label("Methods", exact=True).press("Enter")
    expect(page.get_by_text("The URL was changed.")).to_be_visible()
    shown = fn.server.call("GET", f"{fn.path}/url?reveal=true").json()
    assert (shown["methods"], shown["webhook"]["secret"]) == (["POST"], secret)


def delivered(line: str) -> str:
    """The output of a shell command that the page shows, which sends a request to the function."""
    asked = subprocess.run(
        ["sh", "-c", line], check=True, capture_output=True, text=True, timeout=scaled(30)
    )
    return asked.stdout


def test_what_is_refused_is_said_beside_its_field(
    page: Page, function: Callable[..., Function], camera: Camera, expected: list[str]
) -> None:
    expected.append("status of 422")
    fn = function("echo 1")
    open_at(page, fn, "settings")
    field = page.get_by_label("Working directory")
    for wrong, why in (("/proc/1", "outside"), ("no/absolute/path", "")):
        field.fill(wrong)
        page.keyboard.press("Control+Enter")
        alert = page.get_by_role("alert")
        expect(alert).to_have_text(re.compile(f"^Working directory must be {why}"))
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_be_focused()
        expect(field).to_have_value(wrong)
    camera.take(page, "refused")
    page.get_by_role("button", name="Discard").click()
    expect(field).to_have_value("")
    field.fill("/tmp")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Version 2 of")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)


def test_a_field_within_a_part_of_a_form_shows_its_refusal(
    page: Page, function: Callable[..., Function], expected: list[str]
) -> None:
    expected.append("status of 422")
    fn = function("echo 1")
    open_at(page, fn, "network")
    page.get_by_role("button", name="Give it a URL").click()
    page.get_by_label("Pages of other origins").check()
    page.get_by_label("Origins", exact=True).fill("app.example.com")
    page.get_by_label("Origins", exact=True).press("Enter")
    expect(page.get_by_role("alert")).to_have_text(re.compile("^Origins must be origins"))


def test_a_key_is_offered_what_it_may(keyed: Keyed, open_as: Callable[..., Page]) -> None:
    tenant = new_name()
    owner = keyed.caller(tenant)
    path = of(owner.active("echo hi", environment={"WORD": "hidden-from-readers"}))
    owner.good("POST", f"{path}/invoke?mode=async", status=202)
    offered = {}
    for scope in ("read", "invoke"):
        page = open_as(keyed.key(tenant, scope)["key"])
        found = set()
        for section in SECTIONS:
            page.goto(f"/ui/#{path.removeprefix('/api')}{section and '/' + section}")
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            expect(page.get_by_role("main").locator("[aria-busy=true]")).to_have_count(0)
            found |= set(page.get_by_role("main").get_by_role("button").all_inner_texts())
        assert "hidden-from-readers" not in page.content()
        offered[scope] = {" ".join(text.split()) for text in found}
    looking = {"hour", "day", "week", "Compare"}
    assert offered["read"] <= looking | {"Copy"}
    assert offered["invoke"] - offered["read"] == {"Call Ctrl ↵"}
