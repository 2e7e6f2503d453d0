"""A client for the routes of a server in this process, and scenarios of one request each.

A `Scenario` is a row of a table: a request, its status and response, its events, and the resources
that it must not change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from unittest.mock import ANY

import httpx

from quiltfn.api.app import make_app
from quiltfn.model.access import Scope
from quiltfn.model.function import NewFunction
from quiltfn.model.version import VersionSpec
from quiltfn.tenants.access import make_key
from service.in_process import InProcess
from service.platform_harness import TENANT, Harness

Header = dict[str, str]
ASYNC = {"Prefer": "respond-async"}


class Contains(str):
    """Equals every text that contains it."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self in str(other)

    __hash__ = str.__hash__


def holds(found: Any, expected: Any) -> bool:
    """Whether a value is as expected: an object must have at least the expected fields; any other
    value must be equal.
    """
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        return all(holds(found.get(name), value) for name, value in expected.items())
    if isinstance(expected, list) and isinstance(found, list) and len(found) == len(expected):
        return all(holds(*pair) for pair in zip(found, expected, strict=True))
    return bool(expected == found)


class Web:
    """A client of the application of a harness, in its process."""

    def __init__(self, harness: Harness, client: str = "127.0.0.1", **replaced: Any) -> None:
        """`client`: the client's address. `replaced`: services that replace those of the
        harness.
        """
        self.harness = harness
        services = harness.services.replace(**replaced) if replaced else harness.services
        self.http = httpx.AsyncClient(
            transport=InProcess(make_app(services), client), base_url="http://127.0.0.1"
        )

    async def __call__(
        self, method: str, path: str, body: Any = None, **more: Any
    ) -> httpx.Response:
        """The response. `body` is sent as JSON; `more`: arguments of `httpx`."""
        if body is not None:
            more["json"] = body
        return await self.http.request(method, path, **more)

    async def ask(
        self, status: int, method: str, path: str, body: Any = None, **more: Any
    ) -> httpx.Response:
        """The response, after checking its status."""
        response = await self(method, path, body, **more)
        assert response.status_code == status, (method, path, response.status_code, response.text)
        return response

    async def good(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The JSON of a successful response."""
        response = await self(method, path, body, **more)
        assert response.status_code < 300, (method, path, response.status_code, response.text)
        return response.json() if response.content else None

    async def refused(
        self, status: int, method: str, path: str, body: Any = None, error: str = "", **more: Any
    ) -> Any:
        """The JSON of an error with this status, whose message contains `error`."""
        refusal = (await self.ask(status, method, path, body, **more)).json()
        assert error in refusal["error"]
        return refusal

    async def key(self, tenant: str = TENANT, scope: Scope = Scope.WRITE) -> Header:
        """The header with a new key."""
        services = self.harness.services
        _, text = await make_key(services.keys, self.harness.clock, tenant, scope, None)
        await services.access.refresh()
        return {"X-Api-Key": text}

    async def function(
        self, handler: str = "cat", name: str = "f", tenant: str = TENANT, **more: Any
    ) -> str:
        """The path of a new active function."""
        lifecycle, max_instances = self.harness.lifecycle, more.pop("max_instances", 2)
        new = NewFunction(name=name, max_instances=max_instances)
        entry = await lifecycle.create(tenant, new, VersionSpec(handler=handler, **more))
        await lifecycle.deploy(entry)
        return f"/api/functions/{entry.function.id}"

    async def url(self, function: str, key: Header | None = None, **url: Any) -> dict[str, Any]:
        """Sets the URL of the function."""
        answer: dict[str, Any] = await self.good("PUT", f"{function}/url", url, headers=key)
        return answer

    async def submit(self, function: str, payload: str | None = None, **query: Any) -> str:
        """The path of a newly accepted invocation."""
        invoke, body = f"{function}/invoke", {"payload": payload}
        answer = await self.ask(202, "POST", invoke, body, headers=ASYNC, params=query)
        return answer.headers["location"]

    async def ended(self, invocation: str) -> dict[str, Any]:
        """The record of the invocation with this path, once it has ended."""
        record: dict[str, Any] = await self.good("GET", f"{invocation}?wait_seconds=10")
        return record

    async def newest(self, function: str, key: Header | None = None) -> dict[str, Any]:
        """The record of the newest invocation of the function."""
        await self.harness.journal.synced()
        found = await self.good("GET", f"{function}/invocations?limit=1", headers=key)
        newest: dict[str, Any] = found["invocations"][0]
        return newest


class Scenario(NamedTuple):
    """A request and its expected effects. `{f}` in a path: the path of a function."""

    request: str  # method and path
    status: int
    body: Any = None
    answer: Any = ANY  # the response's JSON, compared by `holds`
    events: Sequence[str] | None = None  # the types of events that it causes
    unchanged: str = ""  # a path whose response must not change
    name: str = ""  # needed if request and body do not identify the scenario

    def __str__(self) -> str:
        return self.name or f"{self.request} {str(self.body)[:60]}"

    async def perform(self, web: Web, function: str, key: Header | None = None) -> httpx.Response:
        """Performs the request and checks its effects. If it is refused, also checks that no
        handler has run.
        """
        method, _, path = self.request.replace("{f}", function).partition(" ")
        shown = self.unchanged.replace("{f}", function)
        before = _lasting(await web("GET", shown, headers=key)) if shown else None
        calls = web.harness.sandboxes.calls
        with web.harness.services.events.cursor(TENANT) as cursor:
            answer = await web.ask(self.status, method, path, self.body, headers=key)
            events = [event.type for event in iter(cursor.next, None)]
        assert self.answer is ANY or holds(answer.json(), self.answer), answer.text
        assert self.events is None or events == list(self.events)
        assert self.status < 300 or web.harness.sandboxes.calls == calls, "a handler has run"
        assert not shown or _lasting(await web("GET", shown, headers=key)) == before
        return answer


def _lasting(response: httpx.Response) -> dict[str, Any]:
    """The parts of a response that are the same for a repetition."""
    body: dict[str, Any] = response.json()
    return body | {"status": response.status_code, "request_id": None}


def id_of(path: str) -> str:
    """The id of the function or invocation with this path."""
    return path.rpartition("/")[2]
