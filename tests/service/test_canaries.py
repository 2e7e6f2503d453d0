"""A version with a share of the invocations is rolled back automatically, on fake sandboxes."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from promises import promise
from quiltfn.model.canary import LEAST
from quiltfn.ports import AuditQuery
from service.faults import failing
from service.platform_harness import open_harness, until
from service.routes import Web
from service.test_aliases import printed, put

pytestmark = promise("W23")

RULE = {"error_rate": 0.05, "within_s": 300}
HALF = {"version": 2, "weight": 0.5}


async def with_canary(web: Web, handler: str = "exit 1", **alias: Any) -> str:
    """The path of a function with a second version, which gets a share of the invocations by the
    alias live.
    """
    path = await web.function("echo 1")
    await web.ask(200, "PUT", path, {"handler": handler})
    body: dict[str, Any] = {"version": 1, "also": HALF, "rollback_on": RULE}
    await put(web, path, **(body | alias))
    return path


async def called(web: Web, path: str, version: int = 2, times: int = LEAST) -> None:
    for _ in range(times):
        await web.ask(200, "POST", f"{path}/invoke?version={version}")


async def alias_of(web: Web, path: str, name: str = "live") -> dict[str, Any]:
    answer = await web("GET", f"{path}/aliases/{name}")
    return dict(answer.json())


async def rolled_back(web: Web, path: str, name: str = "live") -> dict[str, Any]:
    """The alias, once it was rolled back."""
    function_id = path.rsplit("/", 1)[1]
    aliases = web.harness.services.aliases
    await until(lambda: aliases.get(function_id, name).rolled_back)
    return await alias_of(web, path, name)


async def test_a_version_that_fails_is_taken_back_with_the_figures(web: Web) -> None:
    path = await with_canary(web)
    with web.harness.services.events.cursor("default") as cursor:
        await called(web, path)
        alias = await rolled_back(web, path)
        heard = []
        while (event := cursor.next()) is not None:
            heard.append((event.type, event.data))
    why = "version 2: 3 of 3 attempts failed, where 5 % may"
    assert (alias["version"], alias["also"], alias["rollback_on"]) == (1, None, None)
    assert alias["rolled_back"] == why
    [data] = [data.decode() for kind, data in heard if kind == "alias.rolled_back"]
    assert why in data
    assert '"alias":"live"' in data.replace(": ", ":")
    audit = web.harness.services.audit
    await until(lambda: not web.harness.services.aliases._changing.locked())
    query = AuditQuery(tenant_id="default", limit=10, action="alias.roll_back")
    entries: list[Any] = []
    while not entries:
        entries = list((await audit.query(query)).items)
    [entry] = entries
    assert (entry.object_id, entry.object_name) == (path.rsplit("/", 1)[1], "f")
    assert (entry.credential, entry.note) == ("canary", f"live: {why}")
    assert {await printed(web, f"{path}/invoke?alias=live") for _ in range(20)} == {"1"}
    # Setting the alias again resets its counts.
    again = await put(web, path, version=1, also=HALF, rollback_on=RULE)
    assert again["rolled_back"] is None
    await called(web, path, times=LEAST - 1)
    assert (await alias_of(web, path))["also"] == HALF


@promise("U17")
@pytest.mark.parametrize(("status", "is_back"), [(500, True), (404, False)])
async def test_a_version_answering_5xx_is_taken_back(web: Web, status: int, is_back: bool) -> None:
    path = await with_canary(web, "cat")
    await put(web, path, "next", version=2)
    await web.ask(200, "PUT", f"{path}/url", {"auth": "none"})
    for _ in range(LEAST):
        await web.ask(status, "POST", "/fn/f@next", content=f"Status: {status}\n\n".encode())
    if is_back:
        assert "3 of 3 attempts failed" in (await rolled_back(web, path))["rolled_back"]
    else:
        assert (await alias_of(web, path))["also"] == HALF


@pytest.mark.parametrize(
    ("handler", "main", "passed_s"),
    [("echo 2", 1, 0), ("exit 1", 2, 0), ("exit 1", 1, 301)],
    ids=["it succeeds", "the other version fails", "its time is over"],
)
async def test_what_does_not_take_a_version_back(
    web: Web, handler: str, main: int, passed_s: float
) -> None:
    second = {"version": 3 - main, "weight": 0.5}
    path = await with_canary(web, handler, version=main, also=second)
    web.harness.clock.time += passed_s
    await called(web, path, version=2, times=20)
    await called(web, path, version=1, times=5)
    await put(web, path, "later", version=1)  # a change behind a rollback that had begun
    alias = await alias_of(web, path)
    assert (alias["also"], alias["rolled_back"]) == (second, None)


async def test_calls_that_were_cancelled_are_no_fault_of_the_version(web: Web) -> None:
    path = await with_canary(web, "sleep 60")
    running = partial(web.harness.invoker.running_call, path.rsplit("/", 1)[1])
    for _ in range(LEAST + 2):
        answer = await web("POST", f"{path}/invoke?mode=async&version=2")
        call_id = answer.json()["invocation_id"]
        await until(partial(running, call_id))
        call = f"{path}/invocations/{call_id}"
        await web.ask(200, "POST", f"{call}/cancel")
        assert (await web.good("GET", f"{call}?wait_seconds=5"))["status"] == "cancelled"
    assert (await alias_of(web, path))["also"] == HALF


async def test_nothing_is_watched_where_no_alias_has_a_rule(web: Web) -> None:
    watched = web.harness.platform.canaries._watched
    assert not watched
    path = await with_canary(web)
    assert watched
    await put(web, path, version=1)
    assert not watched
    await put(web, path, version=1, also=HALF, rollback_on=RULE)
    await web.ask(204, "DELETE", path)
    assert not watched


async def test_it_stays_taken_back_after_a_restart_and_watched(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        path = await with_canary(web)
        await put(web, path, "other", version=1, also=HALF, rollback_on=RULE | {"error_rate": 0.9})
        await called(web, path)
        await rolled_back(web, path)
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        assert (await alias_of(web, path))["also"] is None
        await called(web, path, times=70)
        other = await rolled_back(web, path, "other")
        assert other["rolled_back"] == "version 2: 66 of 66 attempts failed, where 90 % may"


async def test_an_absent_store_is_asked_again(web: Web) -> None:
    path = await with_canary(web)
    with failing(web.harness.services.aliases._store, "save") as save:
        await called(web, path)
        assert (await rolled_back(web, path))["also"] is None
    assert save.call_count == 2


async def test_an_alias_that_was_changed_meanwhile_is_left_alone(web: Web) -> None:
    path = await with_canary(web)
    aliases, function_id = web.harness.services.aliases, path.rsplit("/", 1)[1]
    old = aliases.get(function_id, "live")
    assert await aliases.roll_back(function_id, replace(old, revision=9), "why") is None
    rolled_back = await aliases.roll_back(function_id, old, "why")
    assert rolled_back is not None
    assert rolled_back.id == function_id
    assert await aliases.roll_back(function_id, old, "why") is None
    assert aliases.get(function_id, "live").rolled_back == "why"
