"""Aliases of functions on fake sandboxes: what calls by them run on, and who may."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from promises import promise
from quiltfn.model.access import Scope
from quiltfn.model.alias import ALIASES_MAX
from quiltfn.model.errors import StoreUnavailable
from service.platform_harness import open_harness
from service.test_urls import Web

pytestmark = promise("W21", "W22")


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_harness(tmp_path) as harness:
        yield Web(harness)


async def two_versions(web: Web, name: str = "f") -> str:
    """The path of a function whose versions print their numbers."""
    path = f"/api/functions/{await web.function(name, 'echo 1')}"
    assert (await web("PUT", path, json={"handler": "echo 2"})).status_code == 200
    return path


async def put(web: Web, path: str, name: str = "live", **body: Any) -> dict[str, Any]:
    answer = await web("PUT", f"{path}/aliases/{name}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def printed(web: Web, url: str, **more: Any) -> str:
    answer = await web("POST", url, **more)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["stdout"]).strip()


async def ran(web: Web, path: str) -> int:
    """The version that the newest call ran on."""
    newest = (await web.record(path.rsplit("/", 1)[1], {}))["invocation_id"]
    answer = await web("GET", f"{path}/invocations/{newest}/timeline")
    return int(answer.json()["version"])


async def test_an_alias_is_set_shown_listed_and_removed(web: Web) -> None:
    path = await two_versions(web)
    told = await put(web, path, version=1, also={"version": 2, "weight": 0.25})
    assert told == {
        "name": "live",
        "version": 1,
        "also": {"version": 2, "weight": 0.25},
        "rollback_on": None,
        "rolled_back": None,
        "default": False,
        "updated_at": 1_760_000_000,
    }
    assert (await web("GET", f"{path}/aliases/live")).json() == told
    other = await put(web, path, "Beta", version=2)
    assert (await web("GET", f"{path}/aliases")).json() == {"aliases": [other, told]}
    assert (await web("DELETE", f"{path}/aliases/live")).status_code == 204
    assert (await web("DELETE", f"{path}/aliases/live")).status_code == 404
    assert (await web("GET", f"{path}/aliases/live")).status_code == 404


async def test_calls_by_an_alias_run_on_its_version(web: Web) -> None:
    path = await two_versions(web)
    await put(web, path, version=1)
    assert await printed(web, f"{path}/invoke?alias=live") == "1"
    assert await printed(web, "/api/functions/invoke/f?alias=live") == "1"
    assert await printed(web, f"{path}/invoke") == "2"
    await put(web, path, version=2)
    assert await printed(web, f"{path}/invoke?alias=live") == "2"
    answer = await web("POST", f"{path}/invoke?alias=live&mode=async")
    assert answer.status_code == 202
    given = f"{path}/invocations/{answer.json()['invocation_id']}/input"
    assert (await web("GET", given)).json()["version"] == 2


async def test_calls_by_a_url_with_an_alias_run_on_its_version(web: Web) -> None:
    function_id = await web.function("f", "cat")
    path = f"/api/functions/{function_id}"
    assert (await web("PUT", path, json={"timeout_seconds": 5})).status_code == 200
    await web.url(function_id, {}, auth="none")
    urls = ("/fn/f@live", "/fn/default/f@live/further", "/fn/f%40live")
    for url in urls:
        assert (await web("POST", url)).status_code == 404, "before there is the alias"
    for version in (1, 2):
        await put(web, path, version=version)
        for url in urls:
            answer = await web("POST", url, content=b"hello")
            assert (answer.status_code, answer.content) == (200, b"hello")
            assert await ran(web, path) == version
    for url in ("/fn/f@none", "/fn/f@", "/fn/f@1", "/fn/default/f@none"):
        assert (await web("POST", url)).status_code == 404


async def test_a_url_with_an_alias_tells_strangers_nothing(web: Web) -> None:
    path = await two_versions(web)
    await put(web, path, version=1)
    await web.url(path.rsplit("/", 1)[1], {}, auth="key")
    key = await web.key(scope=Scope.INVOKE)
    for url in ("/fn/f@live", "/fn/f@none", "/fn/nobody@live"):
        assert (await web("POST", url)).status_code == 401
    assert (await web("POST", "/fn/f@live", headers=key)).status_code != 404
    assert (await web("POST", "/fn/f@none", headers=key)).status_code == 404


async def test_who_may_only_call_calls_the_versions_that_aliases_name(web: Web) -> None:
    path = await two_versions(web)
    key = await web.key(scope=Scope.WRITE)
    caller = await web.key(scope=Scope.INVOKE)
    assert (await web("POST", f"{path}/invoke?version=1", headers=caller)).status_code == 403
    body = {"version": 2, "also": {"version": 1, "weight": 0.5}}
    answer = await web("PUT", f"{path}/aliases/live", json=body, headers=key)
    assert answer.status_code == 200
    assert await printed(web, f"{path}/invoke?version=1", headers=caller) == "1"
    assert await printed(web, f"{path}/invoke?alias=live", headers=caller) in ("1", "2")
    answer = await web("PUT", f"{path}/aliases/live", json=body, headers=caller)
    assert answer.status_code == 403


async def test_calls_are_split_by_one_dice(web: Web) -> None:
    path = await two_versions(web)
    await put(web, path, version=1, also={"version": 2, "weight": 0.3})
    web.harness.services.aliases._dice = random.Random(7)
    dice = random.Random(7)
    expected = ["2" if dice.random() < 0.3 else "1" for _ in range(40)]
    assert [await printed(web, f"{path}/invoke?alias=live") for _ in range(40)] == expected
    assert len(set(expected)) == 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "version"),
        ({"version": 0}, "version"),
        ({"version": 1, "also": {"version": 1, "weight": 0.1}}, "also.version"),
        ({"version": 1, "also": {"version": 2, "weight": 0}}, "weight"),
        ({"version": 1, "also": {"version": 2, "weight": 1}}, "weight"),
        ({"version": 1, "also": {"weight": 0.5}}, "version"),
        ({"version": 1, "to": 3}, "to"),
    ],
)
async def test_wrong_aliases_name_their_field(web: Web, body: dict[str, Any], field: str) -> None:
    path = await two_versions(web)
    answer = await web("PUT", f"{path}/aliases/live", json=body)
    assert answer.status_code == 422
    assert field in answer.json()["error"]
    assert (await web("GET", f"{path}/aliases")).json() == {"aliases": []}


async def test_what_there_is_not_is_named(web: Web) -> None:
    path = await two_versions(web)
    for body in ({"version": 7}, {"version": 1, "also": {"version": 7, "weight": 0.1}}):
        answer = await web("PUT", f"{path}/aliases/live", json=body)
        assert (answer.status_code, "version 7" in answer.json()["error"]) == (404, True)
    answer = await web("POST", f"{path}/invoke?alias=live")
    assert (answer.status_code, "alias live" in answer.json()["error"]) == (404, True)
    assert (await web("POST", f"{path}/invoke?alias=live&version=1")).status_code == 422
    for wrong in ("1", "a" * 33, "a.b", "-a"):
        answer = await web("PUT", f"{path}/aliases/{wrong}", json={"version": 1})
        assert answer.status_code == 422


async def test_a_change_of_what_was_changed_meanwhile_is_refused(web: Web) -> None:
    path = await two_versions(web)
    url = f"{path}/aliases/live"
    first = await web("PUT", url, json={"version": 1})
    etag = {"If-Match": first.headers["etag"]}
    assert (await web("GET", url)).headers["etag"] == first.headers["etag"]
    assert (await web("PUT", url, json={"version": 2}, headers=etag)).status_code == 200
    assert (await web("PUT", url, json={"version": 1}, headers=etag)).status_code == 412
    assert (await web("DELETE", url, headers=etag)).status_code == 412
    assert (await web("GET", url)).json()["version"] == 2
    answer = await web("PUT", f"{path}/aliases/new", json={"version": 1}, headers=etag)
    assert answer.status_code == 412


async def test_a_function_has_so_many_aliases_at_most(web: Web) -> None:
    path = await two_versions(web)
    for number in range(ALIASES_MAX):
        await put(web, path, f"a{number}", version=1)
    answer = await web("PUT", f"{path}/aliases/more", json={"version": 1})
    assert answer.status_code == 409
    await put(web, path, "a0", version=2)


async def test_aliases_survive_a_restart_and_go_with_their_function(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        kept, gone = await two_versions(web, "kept"), await two_versions(web, "gone")
        for path in (kept, gone):
            await put(web, path, version=1)
        assert (await web("DELETE", gone)).status_code == 204
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        assert await printed(web, f"{kept}/invoke?alias=live") == "1"
        assert len(harness.services.aliases._rows) == 1


async def test_nothing_unstored_is_in_memory(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await two_versions(web)
    aliases = web.harness.services.aliases

    async def away(*_: object) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(aliases._store, "save", away)
        assert (await web("PUT", f"{path}/aliases/live", json={"version": 1})).status_code == 503
    assert (await web("GET", f"{path}/aliases")).json() == {"aliases": []}
    changes = [put(web, path, f"a{number % 3}", version=1 + number % 2) for number in range(9)]
    await asyncio.gather(*changes)
    assert len((await web("GET", f"{path}/aliases")).json()["aliases"]) == 3
