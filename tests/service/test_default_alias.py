"""The default alias on fake sandboxes: invocations that name no version use it. Updates, rollbacks
and canaries may change it.
"""

from typing import Any

import pytest

from promises import promise
from quiltfn.model.alias import Alias, Share
from service.faults import away
from service.platform_harness import until
from service.routes import Web
from service.test_aliases import printed, put, two_versions

pytestmark = promise("W25")

SPLIT = {"version": 2, "weight": 0.5}
RULE = {"error_rate": 0.05, "within_s": 300}


class Dice:
    """Chooses the alias's main version and its second version in turn."""

    def __init__(self) -> None:
        self.count = 0

    def random(self) -> float:
        self.count += 1
        return (0.99, 0.0)[self.count % 2]


@promise("N97")
async def test_none_is_made_while_a_node_of_an_older_version_would_drop_it(web: Web) -> None:
    path = await two_versions(web)
    body: dict[str, Any] = {"version": 1, "default": True}
    aliases = web.harness.services.aliases
    aliases.others.has_older_nodes = lambda: True
    refused = await web("PUT", f"{path}/aliases/live", body)
    assert (refused.status_code, "older version" in refused.text) == (409, True)
    assert await aliases_of(web, path) == {}
    assert not (await put(web, path, version=1))["default"]
    aliases.others.has_older_nodes = lambda: False
    assert (await put(web, path, **body))["default"]
    aliases.others.has_older_nodes = lambda: True  # existing aliases may be changed even then
    assert (await put(web, path, version=2, default=True))["default"]
    assert not (await put(web, path, version=2, default=False))["default"]


async def aliases_of(web: Web, path: str) -> dict[str, dict[str, Any]]:
    found = (await web.good("GET", f"{path}/aliases"))["aliases"]
    return {one["name"]: one for one in found}


async def rolled_back_to(web: Web, path: str, version: int) -> dict[str, dict[str, Any]]:
    answer = await web.ask(200, "POST", f"{path}/rollback", {"version": version})
    assert answer.json()["current_version"] == version
    return await aliases_of(web, path)


async def test_calls_that_name_nothing_run_by_the_default_alias(web: Web) -> None:
    path = await two_versions(web)
    plain = (f"{path}/invoke", "/api/functions/invoke/f")
    assert {await printed(web, url) for url in plain} == {"2"}, "before there is one"
    alias = await put(web, path, version=1, default=True)
    assert alias["default"] is True
    assert {await printed(web, url) for url in plain} == {"1"}
    await put(web, path, version=1, also=SPLIT)  # the alias stays the default
    web.harness.services.aliases._dice = Dice()  # type: ignore[assignment]
    for url in plain:
        assert {await printed(web, url) for _ in range(2)} == {"1", "2"}
    # Naming a version overrides the alias, even for the current version.
    assert {await printed(web, f"{path}/invoke?version=2") for _ in range(3)} == {"2"}
    assert {await printed(web, f"{path}/invoke?version=1") for _ in range(3)} == {"1"}
    await put(web, path, version=1, default=False)
    assert {await printed(web, url) for url in plain} == {"2"}
    await put(web, path, version=1, default=True)
    await web.ask(204, "DELETE", f"{path}/aliases/live")
    assert {await printed(web, url) for url in plain} == {"2"}


async def test_a_function_has_one_default_alias(web: Web) -> None:
    path = await two_versions(web)
    await put(web, path, version=1, default=True)
    await web.refused(
        409, "PUT", f"{path}/aliases/beta", {"version": 2, "default": True}, error="live"
    )
    assert set(await aliases_of(web, path)) == {"live"}
    await put(web, path, "beta", version=2, default=False)
    await put(web, path, version=2, default=True)
    assert (await aliases_of(web, path))["beta"]["default"] is False


@promise("W26")
async def test_a_function_names_its_default_alias_wherever_it_is_shown(web: Web) -> None:
    path = await two_versions(web)
    views = (path, "/api/functions/by-name/f", "/api/functions", "/api/functions?view=brief")

    async def named() -> list[dict[str, Any] | None]:
        found = [(await web.good("GET", url)) for url in views]
        return [one.get("functions", [one])[0].get("default_alias") for one in found]

    await put(web, path, version=1)
    assert await named() == [None] * 4, "an alias that is no default"
    etag = (await web("GET", path)).headers["etag"]
    alias = await put(web, path, version=1, also=SPLIT, rollback_on=RULE, default=True)
    assert await named() == [alias] * 4
    assert (await web("GET", path)).headers["etag"] == etag, "the function is the same"


async def test_an_update_moves_the_default_alias_unless_it_is_to_stay(web: Web) -> None:
    path = await two_versions(web)
    await put(web, path, version=1, also=SPLIT, rollback_on=RULE, default=True)
    await put(web, path, "other", version=1, also=SPLIT)
    url = f"{path}?default_alias=keep"
    await web.ask(200, "PUT", url, {"handler": "echo 3"})
    live = (await aliases_of(web, path))["live"]
    assert (live["version"], live["also"], live["default"]) == (1, SPLIT, True)
    assert {await printed(web, f"{path}/invoke") for _ in range(20)} <= {"1", "2"}
    await web.ask(200, "PUT", path, {"handler": "echo 4"})
    found = await aliases_of(web, path)
    live = found["live"]
    assert (live["version"], live["also"], live["rollback_on"]) == (4, None, None)
    assert live["default"] is True
    assert found["other"]["also"] == SPLIT
    assert await printed(web, f"{path}/invoke") == "4"
    await web.refused(
        422, "PUT", f"{path}?default_alias=stay", {"handler": "echo 5"}, error="default_alias"
    )


@promise("W29")
@pytest.mark.parametrize(
    ("alias", "query", "changes", "after"),
    [
        ({"version": 1}, "", {"memory_limit_mb": 300}, 1),
        ({"version": 1}, "", {"environment": {"A": "1"}}, 1),
        ({"version": 1, "also": SPLIT}, "", {"timeout_seconds": 9}, 1),
        ({"version": 1}, "", {"handler": "echo 2"}, 1),
        ({"version": 1}, "", {"handler": "echo 3", "memory_limit_mb": 300}, 3),
        ({"version": 1}, "?default_alias=move", {"memory_limit_mb": 300}, 3),
        ({"version": 2}, "", {"memory_limit_mb": 300}, 3),
    ],
)
async def test_an_update_that_leaves_the_code_leaves_calls_that_run_elsewhere(
    web: Web, alias: dict[str, Any], query: str, changes: dict[str, Any], after: int
) -> None:
    path = await two_versions(web)
    before = await put(web, path, **alias, default=True)
    updated = await web("PUT", f"{path}{query}", changes)
    assert (updated.status_code, updated.json()["current_version"]) == (200, 3), updated.text
    live = (await aliases_of(web, path))["live"]
    assert live["version"] == after
    assert updated.json()["default_alias"] == live
    assert after == 3 or live == before


async def test_a_rollback_may_leave_the_default_alias_as_it_is(web: Web) -> None:
    path = await web.function("echo 1")
    for number in (2, 3):
        await web.ask(200, "PUT", path, {"handler": f"echo {number}"})
    keep = f"{path}/rollback?default_alias=keep"
    for alias, after in (
        ({"version": 1}, (1, None)),
        ({"version": 1, "also": SPLIT}, (1, SPLIT)),
        ({"version": 3}, (3, None)),
        ({"version": 1, "also": SPLIT | {"version": 3}}, (1, SPLIT | {"version": 3})),
    ):
        await rolled_back_to(web, path, 3)
        await put(web, path, **alias, default=True)
        for _ in range(2):  # the second rollback has nothing left to do
            answer = await web("POST", keep, {"version": 2})
            assert (answer.status_code, answer.json()["current_version"]) == (200, 2)
            live = (await aliases_of(web, path))["live"]
            assert (live["version"], live["also"]) == after
    await web.refused(
        422, "POST", f"{path}/rollback?default_alias=stay", {"version": 1}, error="default_alias"
    )


async def test_a_rollback_leaves_no_alias_on_the_version_that_was_current(web: Web) -> None:
    path = await two_versions(web)
    await put(web, path, version=1, also=SPLIT, rollback_on=RULE, default=True)
    await put(web, path, "half", version=1, also={"version": 2, "weight": 0.1})
    await put(web, path, "whole", version=2)
    await put(web, path, "main", version=2, also={"version": 1, "weight": 0.1})
    await put(web, path, "old", version=1)
    before = (await aliases_of(web, path))["old"]
    with web.harness.services.events.cursor("default") as cursor:
        found = await rolled_back_to(web, path, 1)
        events = list(iter(cursor.next, None))
    names = ("live", "half", "whole", "main", "old")
    to_1 = dict.fromkeys(names, (1, None))
    assert {name: (one["version"], one["also"]) for name, one in found.items()} == to_1
    assert found["old"] == before
    assert found["live"]["default"] is True
    for name in ("live", "half", "whole", "main"):
        assert found[name]["rolled_back"] == "version 2 was rolled back to version 1"
    rolled_back = [event for event in events if event.type == "alias.rolled_back"]
    assert len(rolled_back) == 3, "of those that had a second version"
    queries = ("", *(f"?alias={name}" for name in names))
    assert {await printed(web, f"{path}/invoke{query}") for query in queries} == {"1"}
    assert await rolled_back_to(web, path, 1) == found, "a second time changes nothing"


async def test_a_rollback_to_the_current_version_ends_what_keeps_calls_elsewhere(web: Web) -> None:
    path = await two_versions(web)
    await put(web, path, version=1, default=True)
    assert await printed(web, f"{path}/invoke") == "1"
    found = await rolled_back_to(web, path, 2)
    assert (found["live"]["version"], found["live"]["rolled_back"]) == (2, None)
    assert await printed(web, f"{path}/invoke") == "2"


async def test_a_canary_that_fails_takes_its_version_from_every_call(web: Web) -> None:
    path = await web.function("echo 1")
    await put(web, path, version=1, default=True)
    await web.ask(200, "PUT", f"{path}?default_alias=keep", {"handler": "exit 1"})
    await put(web, path, version=1, also=SPLIT, rollback_on=RULE)
    web.harness.services.aliases._dice = Dice()  # type: ignore[assignment]
    for _ in range(6):
        await web.ask(200, "POST", "/api/functions/invoke/f")
    aliases, function_id = web.harness.services.aliases, path.rsplit("/", 1)[1]
    await until(lambda: aliases.get(function_id, "live").rolled_back)
    assert {await printed(web, f"{path}/invoke") for _ in range(6)} == {"1"}
    assert (await aliases_of(web, path))["live"]["default"] is True


async def test_unstored_changes_move_no_alias(web: Web) -> None:
    path = await two_versions(web)
    await put(web, path, version=1, also=SPLIT, default=True)
    before = await aliases_of(web, path)
    with away(web.harness.services.lifecycle._store, "save"):
        await web.ask(503, "POST", f"{path}/rollback", {"version": 1})
    assert await aliases_of(web, path) == before
    assert (await web.good("GET", path))["current_version"] == 2


@pytest.mark.parametrize(
    ("alias", "after"),
    [
        ({"version": 3}, {"version": 1}),
        ({"version": 1}, None),
        ({"version": 2}, None),
        ({"version": 2, "also": 3}, {"version": 2}),
        ({"version": 2, "also": 1}, None),
        ({"version": 3, "also": 2}, {"version": 1}),
        ({"version": 2, "is_default": True}, {"version": 1}),
        ({"version": 2, "also": 3, "is_default": True}, {"version": 1}),
        ({"version": 1, "also": 2, "is_default": True}, {"version": 1}),
    ],
)
def test_a_rollback_and_its_alias(alias: dict[str, Any], after: dict[str, Any] | None) -> None:
    also = alias.pop("also", None)
    before = Alias(name="a", also=also and Share(version=also, weight=0.1), **alias)
    found = before.after_rollback(3, 1)
    if after is None:
        assert found == before
    else:
        assert (found.versions, found.is_default) == ((after["version"],), before.is_default)
        assert found.rolled_back == "version 3 was rolled back to version 1"


@pytest.mark.parametrize("is_default", [True, False])
def test_a_rollback_to_the_current_version_ends_no_split_of_other_aliases(is_default: bool) -> None:
    split = Alias(name="a", version=1, also=Share(version=2, weight=0.1), is_default=is_default)
    assert split.after_rollback(2, 2).versions == ((2,) if is_default else (1, 2))
