"""A function at its URL, and requests to it."""

from __future__ import annotations

from typing import Any

import httpx

from e2e.server import Function
from timeouts import scaled


class Site:
    """A function with a URL. `path`: the path of the URL on the server."""

    def __init__(self, function: Function, **url: Any) -> None:
        """Gives the function a URL. `url`: further fields of the URL."""
        self.function, self.server = function, function.server
        answer = self.server.call("PUT", f"{function.path}/url", {"auth": "none", **url})
        assert answer.status_code == 200, answer.text
        self.path = str(answer.json()["path"])

    @property
    def url(self) -> str:
        return self.server.url + self.path

    def ask(self, method: str, where: str = "", **more: Any) -> httpx.Response:
        return httpx.request(method, self.url + where, timeout=scaled(60), **more)

    def get(self, where: str = "") -> httpx.Response:
        return self.ask("GET", where)

    def records(self) -> list[dict[str, Any]]:
        """The last records, newest first."""
        answer = self.server.call("GET", f"{self.function.path}/invocations?limit=5")
        found: list[dict[str, Any]] = answer.json()["invocations"]
        return found

    def last(self) -> dict[str, Any]:
        """The last record."""
        return self.records()[0]
