"""The dashboard in a browser, with a server that has 10,000 functions and a million records: the
time until it shows something, the time of each action of a user, and a warm call with and without
an open page, in turns.

Needs playwright (`scripts/setup --test`) and Debian's chromium-headless-shell.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

import harness
import seed

CHROMIUM = "/usr/bin/chromium-headless-shell"
TURNS, SETTLE_S = 3, 0.7
UNBOUNDED = ("--keep-invocations", "0", "--keep-invocations-days", "0")
FIRST_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
# Milliseconds from an action to the frame that shows its effect.
TOOK = """([act, seen]) => new Promise((resolve, reject) => {
  const one = (selector) => document.querySelector(selector);
  const acts = {
    filter(text) {
      const field = one("main input[type=search]");
      field.value = text;
      field.dispatchEvent(new InputEvent("input", { bubbles: true }));
    },
    press(selector) { one(selector).click(); },
    end() { scrollTo(0, document.body.scrollHeight); },
  };
  const begun = performance.now();
  const look = () => {
    const found = one(seen.selector)?.textContent ?? "";
    if (new RegExp(seen.text).test(found)) resolve(performance.now() - begun);
    else if (performance.now() - begun > 10000) reject(new Error(`${seen.selector}: ${found}`));
    else requestAnimationFrame(look);
  };
  acts[act[0]](act[1]);
  requestAnimationFrame(look);
})"""
COUNT = "main .bar [role=status]"
SORTED = "main [aria-sort]"


def main() -> None:
    options = harness.arguments(
        "page_speed",
        functions=(10_000, "functions of the server"),
        records=(1_000_000, "records of the server"),
    )
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "data"
        with harness.server(data_dir=data) as client:
            function = harness.deployed(client, name="template", handler="echo hello")
        seed.fill(data, options.functions, options.records)
        client = stack.enter_context(harness.server(*UNBOUNDED, data_dir=data))
        path = f"/api/functions/{function}/invoke"
        harness.wrk(client, path, connections=8, seconds=1)
        browser = stack.enter_context(sync_playwright()).chromium.launch(executable_path=CHROMIUM)
        stack.callback(browser.close)
        rounds = []
        for number in range(options.rounds):
            rounds.append(one_round(browser, client, path, options))
            print(f"round {number + 1} of {options.rounds}", end="\r", flush=True)
    show(rounds)
    harness.save(
        "page_speed",
        {"functions": options.functions, "records": options.records, "rounds": rounds},
    )


def one_round(browser: Browser, client: httpx.Client, path: str, options: Any) -> dict[str, Any]:
    """In a new browser context, which has no data of the server."""
    context = browser.new_context(base_url=str(client.base_url))
    page = context.new_page()
    opened(page, options.functions)
    first_paint = page.evaluate(FIRST_PAINT)
    acts = interactions(page, options.functions)
    alone, beside = [], []
    for _ in range(TURNS):
        page.goto("about:blank")
        alone.append(warm_p50_us(client, path, options.seconds))
        opened(page, options.functions)
        beside.append(warm_p50_us(client, path, options.seconds))
    context.close()
    return {
        "first_paint_ms": first_paint,
        "interactions_ms": acts,
        "alone_p50_us": statistics.median(alone),
        "beside_p50_us": statistics.median(beside),
    }


def opened(page: Page, functions: int) -> None:
    """Opens the list of functions, and waits until it is complete."""
    page.goto("/ui/")
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.textContent === text",
        arg=[COUNT, f"{functions:,}"],
    )


def warm_p50_us(client: httpx.Client, path: str, seconds: int) -> float:
    """The median of one caller's invocations, after a pause."""
    time.sleep(SETTLE_S)
    return harness.wrk(client, path, connections=1, seconds=seconds)["p50_us"]


def interactions(page: Page, functions: int) -> dict[str, float]:
    """Action → milliseconds until its effect is shown."""

    def took(act: str, label: str, selector: str, text: str) -> float:
        seen = {"selector": selector, "text": text}
        return float(page.evaluate(TOOK, [[act, label], seen]))

    calls = "main [role=columnheader]:nth-child(5) button"
    found = {
        "filter": took("filter", "seed-77", COUNT, f" of {functions:,}"),
        "show all": took("filter", "", COUNT, f"^{functions:,}$"),
        "sort": took("press", calls, SORTED, "Calls ↓"),
        "sort the other way": took("press", calls, SORTED, "Calls ↑"),
    }
    name = page.locator("main [data-n='3'] a").inner_text()
    found["open"] = took("press", "main [data-n='3'] a", "main h1", f"^{name}$")
    found["invocations"] = took("press", "nav a[href='#/invocations']", COUNT, "100 so far")
    for number in (200, 300, 400):
        found[f"older calls, to {number}"] = took("end", "", COUNT, f"{number} so far")
    return found


def show(rounds: list[dict[str, Any]]) -> None:
    print(f"{'first paint, ms':32}{harness.spread([one['first_paint_ms'] for one in rounds])}")
    for name in rounds[0]["interactions_ms"]:
        print(
            f"{name + ', ms':32}{harness.spread([one['interactions_ms'][name] for one in rounds])}"
        )
    over = [one["beside_p50_us"] / one["alone_p50_us"] for one in rounds]
    print(f"{'warm call beside it, x':32}{harness.spread(over)}")
    print(
        f"{'warm call alone, µs':32}{statistics.median(one['alone_p50_us'] for one in rounds):.0f}"
    )


if __name__ == "__main__":
    main()
