"""Aliases on fake sandboxes: the versions that run, and who may invoke them."""

import asyncio
import random
from pathlib import Path
from typing import Any

from promises import promise
from quiltfn.model.access import Scope
from quiltfn.model.alias import ALIASES_MAX
from service.faults import away
from service.platform_harness import open_harness
from service.routes import Web

pytestmark = promise("W21", "W22")


async def two_versions(web: Web, name: str = "f") -> str:
    """The path of a function whose versions print their numbers."""
    path = await web.function("echo 1", name)
    await web.good("PUT", path, {"handler": "echo 2"})
    return path


async def put(web: Web, path: str, name: str = "live", **body: Any) -> dict[str, Any]:
    answer = await web.ask(200, "PUT", f"{path}/aliases/{name}", body)
    return answer.json()


async def printed(web: Web, url: str, **more: Any) -> str:
    answer = await web.ask(200, "POST", url, **more)
    return str(answer.json()["stdout"]).strip()


async def ran(web: Web, path: str) -> int:
    """The version that the newest invocation ran on."""
    newest = (await web.newest(path))["invocation_id"]
    answer = await web("GET", f"{path}/invocations/{newest}/timeline")
    return int(answer.json()["version"])


async def test_an_alias_is_set_shown_listed_and_removed(web: Web) -> None:
    path = await two_versions(web)
    alias = await put(web, path, version=1, also={"version": 2, "weight": 0.25})
    assert alias == {
        "name": "live",
        "version": 1,
        "also": {"version": 2, "weight": 0.25},
        "rollback_on": None,
        "rolled_back": None,
        "default": False,
        "updated_at": 1_760_000_000,
    }
    assert (await web.good("GET", f"{path}/aliases/live")) == alias
    other = await put(web, path, "Beta", version=2)
    assert (await web.good("GET", f"{path}/aliases")) == {"aliases": [other, alias]}
    await web.ask(204, "DELETE", f"{path}/aliases/live")
    await web.ask(404, "DELETE", f"{path}/aliases/live")
    await web.ask(404, "GET", f"{path}/aliases/live")


async def test_calls_by_an_alias_run_on_its_version(web: Web) -> None:
    path = await two_versions(web)
    await put(web, path, version=1)
    assert await printed(web, f"{path}/invoke?alias=live") == "1"
    assert await printed(web, "/api/functions/invoke/f?alias=live") == "1"
    assert await printed(web, f"{path}/invoke") == "2"
    await put(web, path, version=2)
    assert await printed(web, f"{path}/invoke?alias=live") == "2"
    answer = await web.ask(202, "POST", f"{path}/invoke?alias=live&mode=async")
    given = f"{path}/invocations/{answer.json()['invocation_id']}/input"
    assert (await web.good("GET", given))["version"] == 2


async def test_calls_by_a_url_with_an_alias_run_on_its_version(web: Web) -> None:
    path = await web.function()
    await web.ask(200, "PUT", path, {"timeout_seconds": 5})
    await web.url(path, auth="none")
    urls = ("/fn/f@live", "/fn/default/f@live/further", "/fn/f%40live")
    for url in urls:
        await web.ask(404, "POST", url)  # the alias does not exist yet
    for version in (1, 2):
        await put(web, path, version=version)
        for url in urls:
            answer = await web("POST", url, content=b"hello")
            assert (answer.status_code, answer.content) == (200, b"hello")
            assert await ran(web, path) == version
    for url in ("/fn/f@none", "/fn/f@", "/fn/f@1", "/fn/default/f@none"):
        await web.ask(404, "POST", url)


async def test_a_url_with_an_alias_tells_strangers_nothing(web: Web) -> None:
    path = await two_versions(web)
    await put(web, path, version=1)
    await web.url(path, auth="key")
    key = await web.key(scope=Scope.INVOKE)
    for url in ("/fn/f@live", "/fn/f@none", "/fn/nobody@live"):
        await web.ask(401, "POST", url)
    assert (await web("POST", "/fn/f@live", headers=key)).status_code != 404
    await web.ask(404, "POST", "/fn/f@none", headers=key)


async def test_who_may_only_call_calls_the_versions_that_aliases_name(web: Web) -> None:
    path = await two_versions(web)
    key = await web.key(scope=Scope.WRITE)
    caller = await web.key(scope=Scope.INVOKE)
    await web.ask(403, "POST", f"{path}/invoke?version=1", headers=caller)
    body = {"version": 2, "also": {"version": 1, "weight": 0.5}}
    await web.ask(200, "PUT", f"{path}/aliases/live", body, headers=key)
    assert await printed(web, f"{path}/invoke?version=1", headers=caller) == "1"
    assert await printed(web, f"{path}/invoke?alias=live", headers=caller) in ("1", "2")
    await web.ask(403, "PUT", f"{path}/aliases/live", body, headers=caller)


async def test_calls_are_split_by_one_dice(web: Web) -> None:
    path = await two_versions(web)
    await put(web, path, version=1, also={"version": 2, "weight": 0.3})
    web.harness.services.aliases._dice = random.Random(7)
    dice = random.Random(7)
    expected = ["2" if dice.random() < 0.3 else "1" for _ in range(40)]
    assert [await printed(web, f"{path}/invoke?alias=live") for _ in range(40)] == expected
    assert len(set(expected)) == 2


async def test_what_there_is_not_is_named(web: Web) -> None:
    path = await two_versions(web)
    for body in ({"version": 7}, {"version": 1, "also": {"version": 7, "weight": 0.1}}):
        answer = await web.refused(404, "PUT", f"{path}/aliases/live", body)
        assert "version 7" in answer["error"]
    await web.refused(404, "POST", f"{path}/invoke?alias=live", error="alias live")
    await web.ask(422, "POST", f"{path}/invoke?alias=live&version=1")


async def test_a_change_of_what_was_changed_meanwhile_is_refused(web: Web) -> None:
    path = await two_versions(web)
    url = f"{path}/aliases/live"
    first = await web("PUT", url, {"version": 1})
    etag = {"If-Match": first.headers["etag"]}
    assert (await web("GET", url)).headers["etag"] == first.headers["etag"]
    await web.ask(200, "PUT", url, {"version": 2}, headers=etag)
    await web.ask(412, "PUT", url, {"version": 1}, headers=etag)
    await web.ask(412, "DELETE", url, headers=etag)
    assert (await web.good("GET", url))["version"] == 2
    await web.ask(412, "PUT", f"{path}/aliases/new", {"version": 1}, headers=etag)


async def test_a_function_has_so_many_aliases_at_most(web: Web) -> None:
    path = await two_versions(web)
    for number in range(ALIASES_MAX):
        await put(web, path, f"a{number}", version=1)
    await web.ask(409, "PUT", f"{path}/aliases/more", {"version": 1})
    await put(web, path, "a0", version=2)


async def test_aliases_survive_a_restart_and_go_with_their_function(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        kept, gone = await two_versions(web, "kept"), await two_versions(web, "gone")
        for path in (kept, gone):
            await put(web, path, version=1)
        await web.ask(204, "DELETE", gone)
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        assert await printed(web, f"{kept}/invoke?alias=live") == "1"
        assert len(harness.services.aliases._rows) == 1


async def test_nothing_unstored_is_in_memory(web: Web) -> None:
    path = await two_versions(web)
    aliases = web.harness.services.aliases
    with away(aliases._store, "save"):
        await web.ask(503, "PUT", f"{path}/aliases/live", {"version": 1})
    assert (await web.good("GET", f"{path}/aliases")) == {"aliases": []}
    changes = [put(web, path, f"a{number % 3}", version=1 + number % 2) for number in range(9)]
    await asyncio.gather(*changes)
    assert len((await web.good("GET", f"{path}/aliases"))["aliases"]) == 3
