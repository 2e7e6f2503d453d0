"""The page of all functions: its content, live updates, and large numbers of functions."""

import re
import sqlite3
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from e2e.server import Server
from promises import promise
from spec.api_client import new_name
from timeouts import scaled

pytestmark = promise("A72")

MANY = 10_000
SLOWEST_MS = 200
# Measures the time from pressing a key or a button until the whole effect is on the screen.
NOTE_DELAYS = """
window.delays = [];
new PerformanceObserver((list) => {
    for (const one of list.getEntries()) window.delays.push([one.name, one.duration]);
}).observe({ type: "event", durationThreshold: 16 });
"""


def table(page: Page) -> Locator:
    return page.get_by_role("table", name="Functions")


def row_of(page: Page, name: str) -> Locator:
    return table(page).get_by_role("row").filter(has=page.get_by_role("link", name=name))


def test_a_call_from_outside_is_seen_in_its_row(page: Page, site: Server) -> None:
    name = new_name()
    function = site.deploy("sleep 60; exit 1", name=name)
    page.goto(f"/ui/#/?q={name}")
    row = row_of(page, name)
    expect(row).to_contain_text("never")
    expect(page.get_by_text("Live", exact=True)).to_be_attached()
    running = site.later(function.invoke)
    expect(row.get_by_role("img", name="1 busy")).to_be_visible()
    site.wake()
    duration_ms = running.result()["duration_ms"]
    expect(row.get_by_role("img", name="0 busy, 1 ready")).to_be_visible()
    expect(row).to_contain_text("1 / min")
    expect(row).to_contain_text("now")
    page.reload()
    expect(row.get_by_role("img", name="0 busy, 1 ready")).to_be_visible()
    expect(row.get_by_title("1 error in 1 call of the last hour").first).to_have_text("100 %")
    value, unit = row.get_by_title("1 error in 1 call of the last hour").last.inner_text().split()
    assert float(value) * {"ms": 1, "s": 1000}[unit] == pytest.approx(duration_ms, rel=0.1)


def test_errors_are_seen_on_a_telephone(page: Page, site: Server) -> None:
    name = new_name()
    site.deploy("exit 1", name=name).invoke()
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"/ui/#/?q={name}")
    expect(row_of(page, name).get_by_text("1 error", exact=True)).to_be_visible()
    page.set_viewport_size({"width": 1280, "height": 844})
    expect(row_of(page, name).get_by_text("1 error", exact=True)).to_be_hidden()


def test_missing_statistics_are_retried(page: Page, site: Server, expected: list[str]) -> None:
    expected.append(r"status of 503 .*/pools")
    site.create("echo", name=new_name())
    answer = {"error": "no pools today", "error_code": "STORE_UNAVAILABLE"}
    page.route(
        re.compile("/api/functions/pools"),
        lambda route: route.fulfill(status=503, json=answer),
        times=1,
    )
    page.goto("/ui/")
    expect(page.get_by_text("no pools today")).to_be_visible()
    page.get_by_role("button", name=re.compile("again", re.IGNORECASE)).click()
    expect(page.get_by_text("no pools today")).to_have_count(0)


def test_changes_of_functions_are_seen_without_a_reload(page: Page, site: Server) -> None:
    name = new_name()
    page.goto(f"/ui/#/?q={name}")
    expect(page.get_by_text("Live", exact=True)).to_be_attached()
    function = site.create("echo hello", name=name)
    row = row_of(page, name)
    expect(row).to_contain_text("not deployed")
    function.deploy()
    expect(row.get_by_text("active")).to_be_attached()
    function.delete()
    expect(row).to_have_count(0)


def test_a_search_and_a_state_are_kept_in_the_address(page: Page, site: Server) -> None:
    word = new_name()
    site.deploy("echo", name=f"{word}-one")
    site.create("echo", name=f"{word}-two", description="the second")
    page.goto("/ui/")
    expect(table(page)).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type(f"SECOND {word}")
    expect(table(page).get_by_role("link")).to_have_text([f"{word}-two"])
    page.keyboard.press("Escape")
    page.get_by_role("searchbox").fill(word)
    page.get_by_role("button", name="active").click()
    expect(table(page).get_by_role("link")).to_have_text([f"{word}-one"])
    expect(page).to_have_url(re.compile("state=active"))
    page.reload()
    expect(table(page).get_by_role("link")).to_have_text([f"{word}-one"])
    page.get_by_role("searchbox").fill("nobody has this name")
    page.get_by_role("button", name="Show all").click()
    expect(page.get_by_role("searchbox")).to_have_value("")
    expect(table(page)).to_be_visible()


def test_rows_are_sorted_and_walked_with_the_keyboard(page: Page, site: Server) -> None:
    word = new_name()
    for letter in "bac":
        site.create("echo", name=f"{word}-{letter}")
    page.goto(f"/ui/#/?q={word}")
    names = table(page).get_by_role("link")
    expect(names).to_have_count(3)
    for order in ("abc", "cba", "abc"):
        page.get_by_role("button", name="Name").click()
        expect(names).to_have_text([f"{word}-{letter}" for letter in order])
    expect(page.get_by_role("columnheader", name="Name")).to_have_attribute(
        "aria-sort", "ascending"
    )
    # Tab reaches the list once; inside the list, the arrow keys move.
    assert [names.nth(n).get_attribute("tabindex") for n in range(3)] == ["0", "-1", "-1"]
    names.first.focus()
    page.keyboard.press("ArrowDown")
    expect(names.nth(1)).to_be_focused()
    page.keyboard.press("End")
    expect(names.nth(2)).to_be_focused()
    page.keyboard.press("k")
    expect(names.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("#/functions/"))


def test_a_server_without_functions_teaches_how_to_make_one(
    another: Callable[..., Server], open_page: Callable[..., Page]
) -> None:
    empty = another().start()
    page = open_page(empty.url, permissions=["clipboard-read", "clipboard-write"])
    page.goto("/ui/")
    expect(page.get_by_role("heading", name="No functions yet")).to_be_visible()
    copied = []
    for button in page.get_by_role("button", name="Copy the command").all()[:2]:
        button.click()
        copied.append(page.evaluate("() => navigator.clipboard.readText()"))
    assert copied == [
        f"export QUILT_BASE_URL='{empty.url}'",
        "quiltfn functions create hello --handler 'echo hello'",
    ]
    page.get_by_role("link", name="Create function").click()
    expect(page.get_by_role("heading", name="New function")).to_be_visible()


def multiply(server: Server, functions: int) -> None:
    """Adds copies of the only function to the database of a stopped server."""
    with sqlite3.connect(server.data_dir / "quiltfn.db") as database:
        for table, own in (("function", ("id", "name")), ("version", ("id", "function_id"))):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            number = "printf('01a00000-0000-7000-8000-%012d', n)"
            given = {own[0]: number, own[1]: number}
            if table == "function":
                given["name"] = "printf('job-%05d', n)"
            values = ", ".join(given.get(one, one) for one in columns)
            database.execute(
                f"WITH RECURSIVE more(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM more "
                f"WHERE n < {functions - 1}) INSERT INTO {table} ({', '.join(columns)}) "
                f"SELECT {values} FROM {table}, more"
            )
    database.close()


@pytest.fixture
def crowded(another: Callable[..., Server]) -> Server:
    """A server with ten thousand functions."""
    server = another(f"--tenant-functions {MANY}").start()
    server.create("echo hello", name="the-first")
    server.stop()
    multiply(server, MANY)
    return server.start()


def test_ten_thousand_functions_are_usable(crowded: Server, open_page: Callable[..., Page]) -> None:
    page = open_page(crowded.url)
    page.add_init_script(NOTE_DELAYS)
    page.goto("/ui/#/?sort=name&order=asc")
    expect(table(page)).to_have_attribute("aria-rowcount", str(MANY + 1), timeout=scaled(30_000))
    rows = table(page).get_by_role("rowgroup").last.get_by_role("row")
    assert rows.count() < 60, "only those in sight are in the document"
    page.keyboard.press("/")
    page.keyboard.type("job-0777", delay=20)
    expect(rows).to_have_count(10)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="pending").click()
    page.get_by_role("button", name="Name").click()
    page.get_by_role("button", name="Name").click()
    rows.get_by_role("link").first.focus()
    page.keyboard.press("End")
    expect(page.get_by_role("link", name="the-first")).to_be_focused()
    page.keyboard.press("Home")
    expect(page.get_by_role("link", name="job-00001")).to_be_focused()
    page.wait_for_timeout(300)
    delays = page.evaluate("() => window.delays")
    assert delays, "something was measured"
    slowest = sorted(delays, key=lambda delay: -delay[1])[:5]
    assert slowest[0][1] <= scaled(SLOWEST_MS), slowest


def test_a_long_name_of_a_runtime_stays_in_its_column(page: Page, site: Server) -> None:
    runtime = f"{new_name()}.server-42af91d2362d1f47"
    made = site.call("POST", "/api/runtimes", {"name": runtime, "kind": "shell"})
    assert made.status_code == 201, made.text
    name = new_name()
    site.call("POST", "/api/functions", {"name": name, "handler": "echo", "runtime": runtime})
    page.set_viewport_size({"width": 1280, "height": 900})
    page.goto(f"{site.url}/ui/#/?q={name}")  # the list only draws rows that are in sight
    cells = row_of(page, name).get_by_role("cell")
    expect(cells.nth(1)).to_have_attribute("title", runtime)
    height = cells.nth(1).evaluate("one => one.getBoundingClientRect().height")
    assert height <= cells.nth(2).evaluate("one => one.getBoundingClientRect().height") + 2
    inner = cells.nth(1).evaluate("one => [getComputedStyle(one).overflowX, one.clientWidth]")
    assert inner[0] == "hidden"
