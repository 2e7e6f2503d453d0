"""Operations that race with invocations or with each other, on a real server.

The contract says what must hold: no update or rollback makes an invocation fail; pause and delete
refuse invocations with their own codes; nothing that was deleted comes back; and a repeated
operation has one effect.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from e2e.rounds import KINDS, play
from e2e.server import Server, watched
from e2e.timed_client import (
    ECHO,
    Client,
    Marked,
    TimedResponse,
    client_of,
    create,
    crun_root,
    deploy,
    listed,
    sandboxes,
    until,
)
from promises import promise

pytestmark = [pytest.mark.sandbox, promise("P12")]

ROUNDS = 50
TOGETHER = 20
GONE_S = 5.0


@pytest.fixture(scope="module")
def counted() -> Iterator[Server]:
    """A server without prewarmed sandboxes, so that all sandboxes are instances. Each test must end
    its instances.
    """
    with watched("--prewarmed 0") as server:
        yield server.start()


@pytest_asyncio.fixture
async def client(shared: Server) -> AsyncIterator[Client]:
    async with client_of(shared) as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
async def test_calls_racing_a_change_run_or_are_refused_by_name(shared: Server, kind: str) -> None:
    observed = await play(shared, kind, ROUNDS, seed=1)
    print(f"{kind}: {observed}")
    assert observed.rounds == ROUNDS
    assert observed.overlapping >= ROUNDS, "the calls met no change"


# Simultaneous updates --------------------------------------------------------------------------


async def check_versions(function: Marked, numbers: list[int]) -> None:
    """Checks that the function has exactly these versions, and that only its current one is active
    and runs.
    """
    versions = await function.versions()
    assert [one["version"] for one in versions] == sorted(numbers, reverse=True)
    active = [one for one in versions if one["is_active"]]
    assert len(active) == 1, active
    assert (await function.get()).body["current_version"] == active[0]["version"]
    assert (await function.invoke()).mark == active[0]["environment"]["MARK"]


async def test_of_twenty_updates_of_the_same_state_one_wins(client: Client) -> None:
    """Twenty clients read the function, and then all of them save changes."""
    function = await deploy(client, "0")
    for turn in range(3):
        etag = (await function.get()).headers["etag"]
        saving = (function.put(f"{turn}.{n}", If_Match=etag) for n in range(TOGETHER))
        answers = await asyncio.gather(*saving)
        outcomes = Counter(one.outcome for one in answers)
        assert outcomes == {"200": 1, "PRECONDITION_FAILED": TOGETHER - 1}
        (won,) = [n for n, one in enumerate(answers) if one.status == 200]
        assert (await function.invoke()).mark == f"{turn}.{won}"
        await check_versions(function, list(range(1, turn + 3)))
    await function.delete()


# Deletes and operations that could bring a function back -----------------------------------------


async def check_instances(server: Server, alive: list[Marked]) -> None:
    """Waits until the only instances are those of these functions, and all sandboxes belong to
    them.
    """

    async def is_so() -> bool:
        totals = [(await one.pool())["total_count"] for one in alive]
        client = alive[0].client if alive else None
        if client is not None:
            stats = (await client.ask("GET", "/api/functions/pool/stats")).body
            if stats["total_count"] != sum(totals):
                return False
        return bool(sandboxes(server) == sum(totals))

    await until(is_so, timeout_s=GONE_S, every_s=0.05)
    assert len(listed(server)) == sandboxes(server), crun_root(server)


async def test_a_name_is_free_the_moment_its_function_is_deleted(counted: Server) -> None:
    """A script deletes and creates a function repeatedly, and several copies of the script may run
    at once.
    """
    async with client_of(counted) as client:
        old = await deploy(client, "0", name="same", min_instances=2)
        for turn in range(1, 11):
            answers = await asyncio.gather(
                old.delete(), *(_try_create(client, str(turn)) for _ in range(4)), old.invoke()
            )
            assert answers[0].status == 204
            assert answers[-1].outcome in ("success", "NOT_FOUND", "cancelled"), answers[-1]
            made = [one for one in answers[1:-1] if one.status == 201]
            assert {one.outcome for one in answers[1:-1]} <= {"201", "CONFLICT"}
            assert len(made) <= 1, "two functions of one name"
            made = made or [await _try_create(client, str(turn))]
            assert (await old.invoke()).code == "NOT_FOUND"
            new = Marked(client, made[0].body["function_id"], str(turn))
            assert new.id != old.id
            assert (await new.verb("deploy")).body["state"] == "active"
            assert (await new.invoke()).mark == str(turn)
            old = new
        await check_instances(counted, [old])
        assert (await old.delete()).status == 204
        await check_instances(counted, [])


async def _try_create(client: Client, mark: str) -> TimedResponse:
    body = {"name": "same", "handler": ECHO, "environment": {"MARK": mark}}
    return await client.ask("POST", "/api/functions", body | {"min_instances": 2})


async def test_what_is_deleted_while_it_is_deployed_stays_deleted(counted: Server) -> None:
    async with client_of(counted) as client:
        for turn in range(12):
            function = await create(client, "1", min_instances=3)
            deploying = asyncio.ensure_future(function.verb("deploy"))
            await asyncio.sleep(turn * 0.008)  # from before the end of the deployment to after it
            deleted, again = await asyncio.gather(function.delete(), function.verb("deploy"))
            assert deleted.status == 204
            assert (await deploying).outcome in ("200", "NOT_FOUND"), await deploying
            assert again.outcome in ("200", "NOT_FOUND"), again
            for verb in ("deploy", "resume", "pause"):
                assert (await function.verb(verb)).code == "NOT_FOUND"
            assert (await function.invoke()).code == "NOT_FOUND"
        await check_instances(counted, [])


async def test_what_is_deleted_while_it_is_updated_stays_deleted(counted: Server) -> None:
    async with client_of(counted) as client:
        for turn in range(10):
            function = await deploy(client, "1", min_instances=2)
            changing = asyncio.ensure_future(function.put("2"))
            await asyncio.sleep(turn * 0.008)
            deleted, resumed = await asyncio.gather(function.delete(), function.verb("resume"))
            assert deleted.status == 204
            assert (await changing).outcome in ("200", "NOT_FOUND"), await changing
            assert resumed.outcome in ("200", "NOT_FOUND"), resumed
            assert (await function.put("3")).code == "NOT_FOUND"
        await check_instances(counted, [])


# Repeated requests -------------------------------------------------------------------------------


async def check_state(function: Marked, state: str, version: int, instances: int) -> None:
    body = (await function.get()).body
    assert (body["state"], body["current_version"]) == (state, version), body

    async def is_so() -> bool:
        return bool((await function.pool())["total_count"] == instances)

    await until(is_so)


async def test_deploy_pause_and_resume_twice_do_it_once(counted: Server) -> None:
    async with client_of(counted) as client:
        function = await create(client, "1", min_instances=2)
        for verb, state, instances in (
            ("deploy", "active", 2),
            ("resume", "active", 2),
            ("pause", "paused", 0),
            ("resume", "active", 2),
            ("pause", "paused", 0),
            ("deploy", "active", 2),
        ):
            twice = await asyncio.gather(function.verb(verb), function.verb(verb))
            for answer in (*twice, await function.verb(verb)):
                assert answer.status == 200, (verb, answer)
                if verb == "pause":
                    assert answer.body == {"success": True, "message": None}
                else:
                    assert answer.body["state"] == "active", (verb, answer)
            await check_state(function, state, 1, instances)
            await check_instances(counted, [function])
        assert len(await function.versions()) == 1
        await function.delete()
