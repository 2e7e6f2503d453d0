"""The page of an invocation: its timeline, its output, and its actions."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from browser.pictures import Camera
from browser.scene import Scene
from browser.wire import Wire
from e2e.server import Function, Server, until
from promises import promise
from timeouts import scaled

pytestmark = promise("A54")


@pytest.fixture
def function(deployed: Callable[..., Function]) -> Callable[..., Function]:
    return deployed


def page_of(function: Function, invocation_id: str) -> str:
    return f"/ui/#/functions/{function.id}/invocations/{invocation_id}"


def running(function: Function) -> str:
    """The id of a running invocation of the function."""
    found = until(
        lambda: [one for one, r in function.records().items() if r["status"] == "running"]
    )
    return str(found[0])


def output_of(page: Page) -> Locator:
    return page.get_by_role("region", name="Output", exact=True)


def status(page: Page) -> Locator:
    return page.locator(".title").get_by_role("status")


def test_a_cold_start_is_explained(page: Page, scene: Scene) -> None:
    page.goto(f"/ui/#/{scene.calls['cold']}")
    expect(page.get_by_text("Cold: every instance was busy.")).to_be_visible()
    expect(page.get_by_text(re.compile(r"in all \S+ ms"))).to_be_visible()
    phases = page.get_by_role("table", name="Phases").get_by_role("row")
    expect(phases).to_have_count(5)
    expect(phases.nth(3)).to_contain_text(re.compile(r"ran.*the handler.*ms", re.S))
    expect(page.get_by_role("region", name="Input")).to_contain_text("/cup.jpg")
    expect(page.get_by_role("region", name="Environment and related calls")).to_contain_text(
        "SHOP_REGION"
    )
    expect(page.get_by_role("main")).not_to_contain_text("eu-west")


@promise("W27")
def test_attempts_are_listed(page: Page, scene: Scene) -> None:
    page.goto(f"/ui/#/{scene.calls['retried']}")
    rows = page.get_by_role("region", name="Attempts").get_by_role("row")
    # the head of the table, and two rows for each attempt: the second gives the reason of its
    # failure
    expect(rows).to_have_count(7)
    expect(rows.nth(5)).to_contain_text("failed")
    expect(rows.nth(6)).to_have_text("the handler exited with code 4: card declined by issuer")
    log = page.get_by_role("region", name="Log of attempt 2", exact=True)
    expect(log).not_to_be_visible()
    rows.nth(4).get_by_text("Log", exact=True).click()
    expect(log).to_have_text("card declined by issuer")
    log = page.get_by_role("region", name="Log", exact=True)
    # the page shows the log of the last attempt
    expect(log).to_have_text("card declined by issuer")


def test_output_is_coloured_and_searched(page: Page, scene: Scene) -> None:
    page.goto(f"/ui/#/{scene.calls['coloured']}")
    output = output_of(page)
    expect(output.locator(".fg2").first).to_have_text("✓")
    find = page.get_by_label("Find in output", exact=True)
    page.keyboard.press("/")
    expect(find).to_be_focused()
    find.fill("✓ A")
    expect(output.locator("mark")).to_have_count(4)  # both matches extend over two colors
    find.press("Enter")
    expect(page.get_by_text("2 of 2")).to_be_visible()
    expect(output.locator("mark.current").last).to_have_text(" a")
    find.fill("nowhere")
    expect(page.get_by_text("none", exact=True)).to_be_visible()


def test_output_is_saved_byte_for_byte(
    page: Page, function: Callable[..., Function], tmp_path: Path
) -> None:
    fn = function(r"printf 'caf\351 \033[31mred\033[0m\n'")
    record = fn.invoke()
    page.goto(page_of(fn, record["invocation_id"]))
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download").click()
    saved.value.save_as(tmp_path / "output")
    assert (tmp_path / "output").read_bytes() == b"caf\xe9 \033[31mred\033[0m\n"
    assert saved.value.suggested_filename.endswith("-stdout.txt")


def test_binary_output_is_hexadecimal(page: Page, function: Callable[..., Function]) -> None:
    fn = function(r"printf '\211PNG\r\n\032\n\000\000\000\rIHDR'")
    call_id = fn.invoke("a\0b")["invocation_id"]
    page.goto(f"/ui/#/functions/{fn.id}/invocations/{call_id}")
    output = page.get_by_role("region", name="Output in hexadecimal")
    expect(output).to_contain_text("00000000  89 50 4e 47 0d 0a 1a 0a 00 00 00 0d 49 48 44 52")
    expect(output).to_contain_text("|.PNG........IHDR|")
    shown_as = page.get_by_role("group", name="Shown as")
    shown_as.get_by_role("button", name="text").click()
    expect(page.get_by_role("region", name="Output", exact=True)).to_contain_text("PNG")
    shown_as.get_by_role("button", name="hex").click()
    expect(output).to_be_visible()
    page.goto(f"/ui/#/functions/{fn.id}")
    page.get_by_role("button", name="Call", exact=False).first.click()
    expect(output).to_contain_text("|.PNG........IHDR|")


def test_a_call_is_seen_while_it_runs(
    page: Page, site: Server, function: Callable[..., Function]
) -> None:
    fn = function("for part in one two three; do echo part $part; sleep 60; done; echo end >&2")
    call = site.later(fn.invoke)
    page.goto(page_of(fn, running(fn)))
    expect(output_of(page)).to_have_text("part one")
    expect(status(page)).to_contain_text("running")
    expect(page.get_by_role("button", name="Cancel")).to_be_visible()
    site.wake()
    expect(output_of(page)).to_have_text("part onepart two")
    site.wake()
    expect(output_of(page)).to_have_text("part onepart twopart three")
    site.wake()
    call.result()
    expect(status(page)).to_contain_text("success")
    expect(page.get_by_role("region", name="Log")).to_have_text("end")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    expect(page.get_by_role("table", name="Phases")).to_be_visible()


def test_what_was_written_while_the_wire_was_cut_is_there_once(
    open_page: Callable[..., Page],
    site: Server,
    wire: Wire,
    function: Callable[..., Function],
    expected: list[str],
) -> None:
    expected += ["ERR_"]
    fn = function("for part in 1 2 3 4 5 6; do echo part $part; sleep 0.5; done")
    call = site.later(fn.invoke)
    page = open_page(f"http://127.0.0.1:{wire.port}")
    page.goto(page_of(fn, running(fn)))
    expect(output_of(page)).to_contain_text("part 2")
    wire.cut()
    page.wait_for_timeout(700)
    wire.mend()
    call.result()
    expect(status(page)).to_contain_text("success", timeout=scaled(10_000))
    expect(output_of(page)).to_have_text("".join(f"part {n}" for n in range(1, 7)))


def test_a_queued_call_says_when_it_is_due(page: Page, scene: Scene) -> None:
    page.goto(f"/ui/#/{scene.calls['queued']}")
    expect(page.get_by_role("region", name="In the queue")).to_contain_text(
        re.compile("It is due in 5[0-9] min")
    )


def test_a_call_is_replayed_with_another_input_on_another_version(
    page: Page, site: Server, function: Callable[..., Function]
) -> None:
    fn = function('echo "one $QUILT_PAYLOAD"')
    site.call("PUT", f"{fn.path}/record-policy", {"keep_input": "all"})
    record = fn.invoke("cup")
    site.call("PUT", fn.path, {"handler": 'echo "two $QUILT_PAYLOAD"'})
    page.goto(page_of(fn, record["invocation_id"]))
    expect(output_of(page)).to_have_text("one cup")
    page.get_by_role("button", name="Replay").click()
    dialog = page.get_by_role("dialog", name="Replay")
    expect(dialog.get_by_label("Payload")).to_have_value("cup")
    dialog.get_by_role("button", name="Replay").click()
    expect(output_of(page)).to_have_text("two cup")
    page.get_by_role("link", name=record["invocation_id"]).click()
    expect(output_of(page)).to_have_text("one cup")
    page.get_by_role("button", name="Replay").click()
    dialog.get_by_label("Payload").fill("plate")
    dialog.get_by_label("Version").select_option("version 1")
    page.keyboard.press("Control+Enter")
    expect(output_of(page)).to_have_text("one plate")
    expect(page.locator(".facts")).to_contain_text("version 1")


def test_an_input_that_was_not_kept_can_be_kept_from_now_on(
    page: Page, site: Server, function: Callable[..., Function]
) -> None:
    fn = function("cat")
    record = fn.invoke("x")
    page.goto(f"/ui/#/functions/{fn.id}")
    payload = page.get_by_label("Payload")
    payload.fill("mine")
    page.keyboard.press("Control+Enter")
    page.get_by_role("link", name="This call").click()
    page.reload()
    page.get_by_role("button", name="Call again").click()
    expect(payload).to_have_value("mine")
    expect(page.get_by_text("calls what serves")).to_be_visible()
    page.keyboard.press("Tab")
    payload.fill("other")
    page.keyboard.press("Control+Enter")
    output = page.get_by_role("region", name="Output", exact=True)
    expect(output).to_have_text("other")
    page.goto(page_of(fn, record["invocation_id"]))
    page.get_by_role("button", name="Call again").click()
    expect(payload).to_have_value("")  # the payload was not sent by this tab, so it is unknown
    expect(page.get_by_text("What that call was given was not kept.")).to_be_visible()
    expect(output).to_have_count(0)  # the page must not show the output of another invocation
    page.go_back()
    expect(page.get_by_text("only where the function's setting keep_input is all")).to_be_visible()
    page.get_by_role("button", name="Keep inputs from now on").click()
    expect(page.get_by_text("are kept from now on")).to_be_visible()
    assert site.call("GET", f"{fn.path}/record-policy").json() == {"keep_input": "all"}


def test_a_link_to_a_call_is_copied(open_page: Callable[..., Page], scene: Scene) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    page.goto(f"/ui/#/{scene.calls['success']}")
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_text("The link is copied.")).to_be_visible()
    assert page.evaluate("() => navigator.clipboard.readText()") == page.url


def test_a_call_that_is_not_there_is_told_in_the_servers_words(
    page: Page, function: Callable[..., Function], expected: list[str]
) -> None:
    expected += ["404"]
    fn = function("true")
    page.goto(page_of(fn, "01999999-0000-7000-8000-000000000001"))
    expect(page.get_by_role("alert")).to_contain_text("no invocation with this id")


def test_long_output_shown_in_parts(page: Page, function: Callable[..., Function]) -> None:
    fn = function("seq 1 5000; echo needle; seq 1 100")
    page.goto(page_of(fn, fn.invoke()["invocation_id"]))
    output = output_of(page)
    expect(output.locator("> div")).to_have_count(1000)
    page.get_by_role("button", name="Show later lines").click()
    expect(output.locator("> div").first).to_have_text("1001")
    page.get_by_label("Find in output", exact=True).fill("needle")
    expect(output.locator("mark.current")).to_be_in_viewport()
    page.get_by_role("button", name="Show earlier lines").click()
    expect(output.locator("> div")).to_have_count(1000)


def test_what_a_call_caused_leads_there_and_back(
    page: Page, site: Server, function: Callable[..., Function]
) -> None:
    after, fn = function("echo told"), function("exit 3")
    name = site.call("GET", after.path).json()["name"]
    site.call("PUT", f"{fn.path}/async-policy", {"on_failure": {"function": name}})
    queued = site.call("POST", f"{fn.path}/invoke?mode=async", {}).json()["invocation_id"]
    until(lambda: [r for r in after.records().values() if r["status"] == "success"])
    page.goto(page_of(fn, queued))
    around = page.get_by_role("region", name="Environment and related calls")
    around.get_by_role("link", name=name).click()
    expect(output_of(page)).to_have_text("told")
    around.get_by_role("link", name=queued).click()
    expect(page.get_by_text("the handler exited with code 3")).to_be_visible()


def test_why_a_call_failed_is_said_with_its_limits(
    page: Page, function: Callable[..., Function], camera: Camera
) -> None:
    slow = function("sleep 60", timeout_seconds=1)
    slow.server.call("POST", f"{slow.path}/invoke")
    page.goto(page_of(slow, next(iter(slow.records()))))
    why = page.get_by_role("region", name="Why it ended so")
    expect(why).to_contain_text("the timeout is 1 s")
    broken = function("echo no such order >&2; exit 4")
    broken.server.call("PUT", f"{broken.path}/async-policy", {"max_attempts": 1})
    broken.server.call("POST", f"{broken.path}/invoke?mode=async")
    call = until(lambda: [i for i, r in broken.records().items() if r["status"] == "failed"])[0]
    page.goto(page_of(broken, call))
    expect(why).to_contain_text("the handler exited with code 4")
    expect(why).to_contain_text("attempt 1 of 1: it was given up and is a dead letter")
    expect(why).to_contain_text("no such order")
    camera.take(page, "why")
