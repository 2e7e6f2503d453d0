"""Debian's headless Chromium, and errors that our pages must not cause in it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, sync_playwright

# The headless shell takes a third of the time to start, and half of the memory, of the full
# browser.
CHROMIUM = "/usr/bin/chromium-headless-shell"
NO_HOST = ("data", "blob", "about")
ASKS_BEFORE_IT_LEAVES = """() => {
    const event = new Event("beforeunload", {cancelable: true});
    dispatchEvent(event);
    return event.defaultPrevented;
}"""
TELL_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) => console.error(
    `violation: ${event.effectiveDirective} ${event.blockedURI} ${event.sample}`), true);
"""


def why_no_browser() -> str | None:
    """The reason why no browser can be started here; None: it can."""
    return None if os.access(CHROMIUM, os.X_OK) else f"needs {CHROMIUM}"


@contextmanager
def launched() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        try:
            yield browser
        finally:
            browser.close()


class Complaints:
    """Collects what goes wrong in every page of a context, from its first byte on.

    `errors`: errors and warnings of the console, and uncaught exceptions. `violations`: what the
    content security policy refused. `strangers`: addresses of other hosts that were requested.
    """

    def __init__(self, context: BrowserContext, own: str) -> None:
        self.errors: list[str] = []
        self.violations: list[str] = []
        self.strangers: list[str] = []
        self._own = urlsplit(own).netloc
        context.add_init_script(TELL_VIOLATIONS)
        context.on("weberror", lambda error: self.errors.append(f"uncaught: {error.error}"))
        context.on(
            "console",
            lambda message: self._said(message.type, message.text, message.location["url"]),
        )
        context.on("request", lambda request: self._asked(request.url))

    def all(self) -> list[str]:
        strangers = [f"a request to another host: {url}" for url in self.strangers]
        return [*self.errors, *self.violations, *strangers]

    def _said(self, kind: str, text: str, url: str) -> None:
        if text.startswith("violation: "):
            self.violations.append(text)
        elif kind in ("error", "warning"):
            self.errors.append(f"{text} ({url})")

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in NO_HOST and parts.netloc != self._own:
            self.strangers.append(url)
