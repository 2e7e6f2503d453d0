"""A response whose length callers choose waits for memory, so that it takes none from others. It is
encoded in slices, so that the server handles other requests meanwhile.
"""

import asyncio
import gc
import json
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from promises import promise
from quiltfn.api.app import make_app
from quiltfn.api.http import budgets, long_json
from quiltfn.api.http.connection import COPIED_BYTES
from quiltfn.api.http.response import Response, encode
from quiltfn.api.http.route import AnyRoute
from quiltfn.api.routes import stats
from quiltfn.api.routes import web as web_files
from quiltfn.api.routes.table import ROUTES
from quiltfn.api.routes.web import WebFile
from quiltfn.calls.invoke import Request
from quiltfn.model.stats import HOUR_S, CallStats, Stretch, floor_to
from quiltfn.store.calls.journal import SpoolJournal
from quiltfn.wire.fields import fields_of, is_shape
from service.in_process import request_of
from service.routes import Web, id_of

pytestmark = promise("A24")

LONG = "\x01" * 30_000
# All other reads wait for memory, unless the response has only numbers. The keys say why these
# reads need not wait.
SHORT = {
    "a page of this program": r"/|/(health|docs|ui).*|/openapi.json|/metrics|.*/(help|examples)",
    "numbers and states": r".*/(health|pools?|info|doctor|egress|queue|timeline)",
    "few names, numbers and states": r".*/(url|aliases.*|[a-z]+-policy|quota|operations/.*|whoami)",
    "made in pieces, as it is read": r"/api/events|.*/logs",
    "for operators alone": r"/api/(instances|nodes.*|tenants)",
}


def is_short(route: AnyRoute) -> bool:
    """Whether the length of the response is bounded."""
    answer = route.answer
    if is_shape(answer) and {one.kind for one in fields_of(answer).values()} <= {int, float, bool}:
        return True
    return any(re.fullmatch(one, route.path) for one in SHORT.values())


def long_paths(record: dict[str, str]) -> Iterator[tuple[str, str]]:
    """The routes whose responses may be long, each with a path: of the function `f`, the record of
    an invocation of `f`, a runtime called `long`, and a schedule called `often`.
    """
    values = {
        "{function_id}": record["function_id"],
        "{invocation_id}": record["invocation_id"],
        "/runtimes/{name}": "/runtimes/long",
        "/schedules/{name}": "/schedules/often",
        "/nodes/{name}": f"/nodes/{record['execution_node_id']}",
        "{name}": "f",
        "{alias}": "live",
        "{version}": "1",
        "{path:path}": "main.py",
    }
    for route in ROUTES:
        if route.method == "GET" and not is_short(route):
            path = route.path
            for name, value in values.items():
                path = path.replace(name, value)
            yield route.path, path


async def test_every_response_with_texts_of_callers_waits_for_memory(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def made(method: str, path: str, **body: object) -> None:
        await web.good(method, path, body)

    function = await web.function("exit 1")
    await made("POST", f"{function}/invoke", payload="x")
    record = await web.newest(function)
    await made("PUT", function, handler="exit 1 #" + LONG)
    await made("PUT", f"{function}/aliases/live", version=1)
    runtime: dict[str, object] = {"name": "long", "kind": "shell", "environment": {"A": LONG}}
    await made("POST", "/api/runtimes", **runtime)
    await made("POST", "/api/schedules", name="often", function="f", cron="* * * * *", payload=LONG)
    monkeypatch.setattr(budgets, "RESPONSE_WAIT_S", 0.02)
    at_once = set()
    for template, path in long_paths(record):
        async with web.harness.services.budgets.responses.reserve(1 << 30, "another"):
            answer = await web("GET", path)
        if (answer.status_code, answer.json().get("error_code")) != (503, "CAPACITY_FULL"):
            at_once.add(template)
    assert not at_once
    cat = await web.function(name="long-output")
    await made("PUT", f"{cat}/record-policy", keep_input="all")
    await made("POST", f"{cat}/invoke", payload=LONG)
    kept = (await web.newest(cat))["invocation_id"]
    changes: list[tuple[str, str, dict[str, object]]] = [
        ("POST", f"{cat}/invoke", {"payload": LONG}),
        ("POST", "/api/functions/invoke/long-output", {"payload": LONG}),
        ("POST", f"{cat}/invocations/{kept}/replay", {}),
        ("PUT", function, {"timeout_seconds": 7}),
        ("POST", f"{function}/rollback", {"version": 2}),
        ("POST", f"{function}/deploy", {}),
        ("POST", "/api/runtimes", runtime),
        ("PUT", "/api/schedules/often", {"enabled": False}),
    ]
    for method, path, body in changes:
        async with web.harness.services.budgets.responses.reserve(1 << 30, "another"):
            answer = await web(method, path, body)
        assert (answer.status_code, answer.json().get("error_code")) == (503, "CAPACITY_FULL"), path


NULS = bytes(4 * 1024 * 1024)
# The longest step of the event loop may take at most this part of the time that it takes to encode
# the whole output as JSON.
PART = 1 / 5


class Steps:
    """Measures the longest step of the event loop, in seconds of CPU time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run, self.longest = asyncio.Handle._run, 0.0

        def timed(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            run(handle)
            self.longest = max(self.longest, time.thread_time() - began)

        monkeypatch.setattr(asyncio.Handle, "_run", timed)

    async def of(self, web: Web, method: str, path: str, body: bytes = b"") -> Response:
        """Returns the response to a request of a new app, and sets `longest` to its longest
        step.
        """
        app, headers = make_app(web.harness.services), {"host": "127.0.0.1"}
        headers["content-type"] = "application/json"
        request = request_of(method, path, headers, body)
        gc.disable()  # a collection takes time for every object of the process
        try:
            await asyncio.sleep(0)
            self.longest = 0.0
            response = await app(request)
            await asyncio.sleep(0)
        finally:
            gc.enable()
        assert response.status in (200, 404)
        return response


async def long_record(web: Web) -> dict[str, str]:
    """The path parameters of an invocation whose input and output are `NULS`."""
    function = await web.function()
    await web.good("PUT", f"{function}/record-policy", {"keep_input": "all"})
    request = Request(payload=NULS, may_write=True)
    services = web.harness.services
    record = await services.invoker.invoke(web.harness.catalog.get(id_of(function)), request)
    assert record.stdout == NULS
    await services.work.keep_input(record, request, "nobody")
    await web.harness.journal.synced()
    names = ("function_id", "invocation_id", "execution_node_id")
    return {name: getattr(record, name) for name in names}


def bound() -> float:
    began = time.thread_time()
    encode(NULS.decode())
    return (time.thread_time() - began) * PART


@promise("A88")
async def test_no_step_of_a_response_takes_long(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    record = await long_record(web)
    steps, took, most, sizes = Steps(monkeypatch), {}, bound(), {}
    for template, path in long_paths(record):
        response = await steps.of(web, "GET", path)
        took[template] = steps.longest
        sizes[template] = len(response.body) if isinstance(response.body, bytes) else 0
    of_input = json.dumps({"payload": "\0" * 300_000}).encode()
    invoke = f"/api/functions/{record['function_id']}/invoke"
    response = await steps.of(web, "POST", invoke, of_input)
    took["invoke"], sizes["invoke"] = steps.longest, len(response.body)  # type: ignore[arg-type]
    assert len([size for size in sizes.values() if size > 1 << 20]) == 5, sizes
    assert {name: step for name, step in took.items() if step > most} == {}


async def test_negative_control_json_in_one_step(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    record = await long_record(web)
    monkeypatch.setattr(long_json, "PIECE_BYTES", len(NULS))
    steps, path = Steps(monkeypatch), "/api/functions/{function_id}/invocations"
    await steps.of(web, "GET", path.format(**record))
    assert steps.longest > bound()


@promise("A88")
async def test_head_of_a_record_reads_no_output(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    record = await long_record(web)
    monkeypatch.delattr(SpoolJournal, "get")
    path = "/api/functions/{function_id}/invocations/{invocation_id}".format(**record)
    response = await Steps(monkeypatch).of(web, "HEAD", path)
    assert (response.status, response.header("content-type")) == (200, "application/json")
    assert not isinstance(response.body, bytes)  # a stream, so that no wrong Content-Length is sent
    assert [piece async for piece in response.body] == []


@promise("A89")
@pytest.mark.parametrize("packing", ["identity", "gzip"])
async def test_every_long_page_of_this_program_is_one_that_all_clients_share(
    web: Web, monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    """A client that reads such a page slowly must not take memory from others."""
    long = WebFile.of("long.html", b"x" * (COPIED_BYTES + 1), is_packed=False)
    monkeypatch.setattr(web_files, "files", lambda _: {"index.html": long, "long.html": long})
    own, lengths = SHORT["a page of this program"], {}
    for route in ROUTES:
        if route.method != "GET" or not re.fullmatch(own, route.path):
            continue
        path = re.sub(r"\{[^}]*\}", "long.html", route.path)
        for asked in (path, f"{path}?format=markdown"):
            answer = await web("GET", asked, headers={"Accept-Encoding": packing})
            lengths[asked] = len(answer.content)
            assert answer.extensions["is_shared"] or lengths[asked] <= COPIED_BYTES, asked
    assert len([one for one in lengths.values() if one > COPIED_BYTES]) >= 3


@pytest.mark.parametrize(
    ("path", "made"),
    [
        ("/api/usage?step=hour&from={start}", "_usage_row"),
        ("/api/functions/{function}/series?from={start}", "_point"),
    ],
)
async def test_others_have_their_turns_while_statistics_are_shown(
    web: Web, monkeypatch: pytest.MonkeyPatch, path: str, made: str
) -> None:
    function = id_of(await web.function())
    now = int(web.harness.clock.unix())
    hours = [floor_to(HOUR_S, now) - count * HOUR_S for count in range(1, 300)]
    sums = {
        Stretch("default", HOUR_S, start, function): CallStats(
            calls={"success": 1}, latency=dict.fromkeys(range(60), 1)
        )
        for start in hours
    }
    await web.harness.services.stats.add(sums)
    turns, own, seen = 0, getattr(stats, made), list[int]()

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def noted(*arguments: Any) -> Any:
        seen.append(turns)
        return own(*arguments)

    monkeypatch.setattr(stats, made, noted)
    monkeypatch.setattr(long_json, "PIECE_BYTES", 0)
    turning = asyncio.ensure_future(others())
    answer = await web("GET", path.format(start=hours[-1], function=function))
    turning.cancel()
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["rows" if made == "_usage_row" else "points"]) == len(hours)
    assert len(set(seen)) == len(seen) == len(hours)
