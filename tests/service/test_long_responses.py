"""A response whose length callers choose waits for memory, so that nobody takes it from others."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from promises import promise
from quiltfn.api.http import budgets
from quiltfn.api.routes.table import ROUTES
from service.platform_harness import open_harness
from service.test_urls import Web

pytestmark = promise("A24")

LONG = "\x01" * 30_000
# Everything else that can be read waits for memory. Why these do not:
SHORT = {
    "a page of this program": r"/|/(health|docs|ui).*|/openapi.json|/metrics|.*/(help|examples)",
    "numbers and states": r".*/(health|pools?|info|doctor|egress|queue|timeline)|.*/pool/stats",
    "few names, numbers and states": r".*/(url|aliases.*|[a-z]+-policy|quota|operations/.*|whoami)",
    "made in pieces, as it is read": r"/api/events|.*/logs",
    "for operators alone": r"/api/(instances|nodes.*|tenants)",
}


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_harness(tmp_path) as harness:
        yield Web(harness)


async def test_every_response_with_texts_of_callers_waits_for_memory(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def made(method: str, path: str, **body: object) -> None:
        answer = await web(method, path, json=body)
        assert answer.status_code < 300, answer.text

    function = f"/api/functions/{await web.function(handler='exit 1')}"
    await made("POST", f"{function}/invoke", payload="x")
    record = await web.record(function.rpartition("/")[2], {})
    await made("PUT", function, handler="exit 1 #" + LONG)
    await made("PUT", f"{function}/aliases/live", version=1)
    await made("POST", "/api/runtimes", name="long", kind="shell", environment={"A": LONG})
    await made("POST", "/api/schedules", name="often", function="f", cron="* * * * *", payload=LONG)
    values = {
        "{function_id}": function.rpartition("/")[2],
        "{invocation_id}": record["invocation_id"],
        "/runtimes/{name}": "/runtimes/long",
        "/schedules/{name}": "/schedules/often",
        "/nodes/{name}": f"/nodes/{record['execution_node_id']}",
        "{name}": "f",
        "{alias}": "live",
        "{version}": "1",
        "{path:path}": "main.py",
    }
    monkeypatch.setattr(budgets, "RESPONSE_WAIT_S", 0.02)
    at_once = set()
    for template, methods in ROUTES:
        short = any(re.fullmatch(pattern, template) for pattern in SHORT.values())
        if "GET" not in methods or short:
            continue
        path = template
        for name, value in values.items():
            path = path.replace(name, value)
        async with web.harness.services.budgets.responses.reserve(1 << 30, "another"):
            answer = await web("GET", path)
        if (answer.status_code, answer.json().get("error_code")) != (503, "CAPACITY_FULL"):
            at_once.add(template)
    assert not at_once
