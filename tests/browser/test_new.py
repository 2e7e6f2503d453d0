"""The page to create a function: from its code to its first result."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import FilePayload, Page, Route, expect

from browser.chromium import ASKS_BEFORE_IT_LEAVES
from browser.pictures import Camera
from e2e.server import Server
from promises import promise
from spec.api_client import new_name
from timeouts import scaled

pytestmark = promise("A73")


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    """A page that may use the clipboard."""
    return open_page(permissions=["clipboard-read", "clipboard-write"])


def write(page: Page, code: str) -> None:
    """Replaces the content of the editor with this code, by pasting."""
    expect(page.locator("q-code .cm-content")).to_be_visible()
    page.evaluate("(code) => navigator.clipboard.writeText(code)", code)
    page.get_by_role("textbox", name="Code").click()
    page.keyboard.press("Control+a")
    page.keyboard.press("Control+v")


def make(page: Page) -> None:
    page.get_by_role("button", name="Create, deploy and call").click()


HELLO, PAGE, WEBHOOK = "Answer a call", "Web page", "Webhook receiver"
ANSWERS = {
    ("python", HELLO): '{"hello": "world"}',
    ("python", PAGE): "hello, Ada",
    ("python", WEBHOOK): "received",
    ("node", HELLO): '{"hello":"world"}',
    ("node", PAGE): "hello, Ada",
    ("node", WEBHOOK): "received",
    ("shell", HELLO): "hello, world",
    ("shell", PAGE): "hello from /",
    ("shell", WEBHOOK): "received 19 bytes",
}


@pytest.mark.parametrize(("language", "template"), ANSWERS)
def test_each_template_answers_its_first_call_and_a_request(
    page: Page, site: Server, camera: Camera, language: str, template: str
) -> None:
    name = new_name()
    page.goto("/ui/#/functions/new")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Language").select_option(language)
    begin = page.get_by_label("Begin with")
    begin.select_option(str(begin.get_by_text(template).text_content()))
    camera.take(page, f"new-{language}")
    if template == HELLO and language != "shell":
        expect(page.locator("q-code .cm-content")).to_contain_text("parsed if it is JSON")
    make(page)
    answer = page.get_by_role("region", name="Answer")
    expect(answer).to_contain_text("success", timeout=scaled(20_000))
    expect(page.get_by_label("Output", exact=True)).to_contain_text(ANSWERS[language, template])
    expect(page.get_by_role("list", name="Progress").get_by_text("Call done")).to_be_attached()
    made = site.call("GET", f"/api/functions/by-name/{name}").json()
    assert made["state"] == "active"
    assert made["runtime"] == ("shell" if language == "shell" else name)
    if template == HELLO:
        return
    site.call("PUT", f"/api/functions/{made['id']}/url", {"auth": "none"})
    response = site.http.post(f"{site.url}/fn/default/{name}?name=Ada", json={"action": "opened"})
    assert response.status_code == (202 if template == WEBHOOK else 200), response.text
    assert ("received" if template == WEBHOOK else "hello") in response.text


def test_a_draft_is_kept_and_what_was_made_has_its_own_address(page: Page, site: Server) -> None:
    name = new_name()
    page.goto("/ui/#/functions/new")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Language").select_option("shell")
    write(page, "cat; exit 3")
    page.get_by_label("Payload").fill("{'name': 'Ada'}")
    expect(page.get_by_text("This is no valid JSON: it is sent as text.")).to_be_visible()
    page.get_by_label("Payload").fill("sent first")
    expect(page.get_by_text("This is no valid JSON")).to_have_count(0)
    page.get_by_role("link", name="Runtimes").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Runtimes")
    assert page.evaluate(ASKS_BEFORE_IT_LEAVES)
    page.go_back()
    expect(page.get_by_label("Name")).to_have_value(name)
    expect(page.get_by_label("Payload")).to_have_value("sent first")
    page.get_by_label("Name").press("Control+Enter")
    answer = page.get_by_role("region", name="Answer")
    expect(answer).to_contain_text("failed", timeout=scaled(20_000))
    expect(answer).to_be_in_viewport(ratio=1)
    # A failed invocation must not be shown as a completed step.
    progress = page.get_by_role("list", name="Progress")
    expect(progress.get_by_text("Call broken")).to_be_attached()
    expect(progress.get_by_text("Call done")).to_have_count(0)
    assert not page.evaluate(ASKS_BEFORE_IT_LEAVES)
    made = site.call("GET", f"/api/functions/by-name/{name}").json()
    expect(page).to_have_url(re.compile(f"#/functions/{made['id']}$"))
    # The function keeps its name when it is deployed again.
    expect(page.get_by_label("Name")).not_to_be_editable()
    expect(page.get_by_text("The function exists: rename it on its page")).to_be_visible()
    page.get_by_label("Payload").fill("sent next")
    button = page.get_by_role("button", name="Call again")
    button.click()
    expect(page.get_by_label("Output", exact=True)).to_have_text("sent next")
    expect(button).to_be_in_viewport(ratio=1)
    assert site.call("GET", f"/api/functions/{made['id']}").json()["current_version"] == 1
    page.get_by_role("link", name=f"Go to {name}").click()
    expect(page.get_by_label("Payload")).to_have_value("sent next")
    expect(page.get_by_label("Sent earlier")).to_contain_text("sent first")
    page.get_by_role("link", name="Functions", exact=True).first.click()
    page.get_by_role("link", name="New function").click()
    expect(page.get_by_label("Name")).to_have_value("")


def test_the_answer_before_stays_in_its_place_until_the_next_one_is_there(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")  # the page then scrolls without an animation
    page.goto("/ui/#/functions/new")
    page.get_by_label("Name").fill(new_name())
    page.get_by_label("Language").select_option("shell")
    write(page, "cat")
    page.get_by_label("Payload").fill("sent first")
    make(page)
    answer, output = page.get_by_role("region", name="Answer"), page.get_by_label("Output")
    expect(output).to_have_text("sent first", timeout=scaled(20_000))
    page.get_by_label("Payload").fill("sent next")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/invoke", hold)
    before, top = answer.bounding_box(), page.evaluate("scrollY")
    page.get_by_role("button", name="Call again").click()
    expect(page.get_by_role("button", name="Working")).to_be_visible()
    expect(answer).to_have_attribute("aria-busy", "true")
    expect(output).to_have_text("sent first")
    assert (answer.bounding_box(), page.evaluate("scrollY")) == (before, top)
    while not held:
        page.wait_for_timeout(10)
    held[0].continue_()
    expect(answer).to_have_attribute("aria-busy", "false")
    expect(output).to_have_text("sent next")


def test_a_draft_can_be_dropped_and_a_wrong_name_is_told_once(page: Page) -> None:
    page.goto("/ui/#/functions/new")
    page.get_by_label("Name").fill("my job")
    page.keyboard.press("Control+Enter")
    field = page.get_by_label("Name")
    expect(field).to_have_attribute("aria-invalid", "true")
    # The rule for names is shown only once.
    expect(page.get_by_text(re.compile("letters"))).to_have_count(1)
    page.get_by_role("button", name="Discard").click()
    expect(field).to_have_value("")
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.get_by_role("button", name="Discard")).to_have_count(0)


def test_files_that_are_dropped_are_the_image(page: Page, site: Server) -> None:
    name = new_name()
    code = b"import other\n\n\ndef handler(event):\n    return other.word()\n"
    word = b"def word():\n    return open('/app/word.txt').read()\n"
    files: list[FilePayload] = [
        {"name": f"{name}.py", "mimeType": "text/x-python", "buffer": code},
        {"name": "other.py", "mimeType": "text/x-python", "buffer": word},
        {"name": "word.txt", "mimeType": "text/plain", "buffer": b"out of a file"},
        {"name": "unwanted.bin", "mimeType": "application/octet-stream", "buffer": b"\0"},
    ]
    page.goto("/ui/#/functions/new")
    page.get_by_label("Choose files").set_input_files(files)
    expect(page.get_by_label("Name")).to_have_value(name)
    expect(page.locator("q-code .cm-content")).to_contain_text("import other")
    page.get_by_role("button", name="Leave out unwanted.bin").click()
    make(page)
    expect(page.get_by_label("Output", exact=True)).to_have_text(
        "out of a file", timeout=scaled(20_000)
    )
    runtime = site.call("GET", f"/api/runtimes/{name}").json()
    assert runtime["kind"] == "python"


def test_what_is_wrong_is_said_and_only_the_rest_is_done_again(page: Page, site: Server) -> None:
    taken, name = new_name(), new_name()
    there = site.create("echo", name=taken)
    page.goto("/ui/#/functions/new")
    field, alert = page.get_by_label("Name"), page.get_by_role("alert")
    expect(field).to_be_focused()
    page.keyboard.type("my job")
    page.keyboard.press("Control+Enter")
    expect(alert).to_have_text(re.compile("^Name must be 1 to 64 letters"))
    expect(field).to_be_focused()
    field.fill(taken)
    write(page, "def handler(event)\n")
    make(page)
    expect(alert).to_contain_text(f"There is a function {taken} already")
    expect(alert.get_by_role("link")).to_have_attribute("href", f"#/functions/{there.id}")
    assert site.call("GET", f"/api/runtimes/{taken}").status_code == 404
    field.fill(name)
    make(page)
    expect(alert).to_contain_text("SyntaxError", timeout=scaled(20_000))
    expect(page.locator(".cm-markedLine")).to_have_text("def handler(event)")
    made = site.call("GET", f"/api/functions/by-name/{name}").json()
    link = page.get_by_role("link", name=f"the page of {name}")
    expect(link).to_have_attribute("href", f"#/functions/{made['id']}")
    write(page, "def handler(event):\n    return 'mended'\n")
    expect(page.locator(".cm-markedLine")).to_have_count(0)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_label("Output", exact=True)).to_have_text("mended", timeout=scaled(20_000))
    assert page.get_by_role("alert").count() == 0
    expect(page.get_by_role("region", name="Answer")).to_contain_text("version 2")
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    write(page, "def handler(event):\n    return = 3\n")
    page.keyboard.press("Control+Enter")
    expect(alert).to_contain_text("version 3 cannot serve", timeout=scaled(20_000))
    expect(page.locator(".cm-markedLine")).to_have_text("    return = 3")
    expect(page.get_by_text("Version 2 still answers calls")).to_be_visible()
    expect(page.get_by_role("region", name="Answer")).to_have_count(0)
    made = site.call("GET", f"/api/functions/by-name/{name}").json()
    assert made["current_version"] == 2
    assert "SyntaxError" in made["error_message"]


def test_text_that_is_typed_over_a_selection_brings_no_styles(page: Page) -> None:
    """Such styles would violate the content security policy, and the console would report that."""
    page.goto("/ui/#/functions/new")
    code = page.locator("q-code .cm-content")
    code.press("Control+a")
    page.keyboard.type("# mine\ndef handler(event):\n", delay=5)
    expect(code).to_contain_text("# mine")
    expect(code).to_contain_text("def handler(event):")
