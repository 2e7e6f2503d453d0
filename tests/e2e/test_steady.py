"""A steady load is unaffected by repeated updates and rollbacks of its function."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from e2e.server import Server
from e2e.timed_client import Marked, TimedResponse, client_of, deploy
from promises import promise

pytestmark = [pytest.mark.sandbox, promise("P13")]

CALLS_PER_S = 50
SWITCHES = 12  # the number of updates, and of rollbacks
BETWEEN_S = 0.125  # at this pace, invocations overlap each change, or it would prove nothing


@dataclass
class Load:
    """Invokes at fixed times, whether earlier invocations have ended or not."""

    function: Marked
    calls: list[asyncio.Task[TimedResponse]] = field(default_factory=list)
    _done: bool = False

    async def run(self) -> None:
        begun = time.monotonic()
        while not self._done:
            self.calls.append(asyncio.ensure_future(self.function.invoke()))
            due = begun + len(self.calls) / CALLS_PER_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def end(self) -> list[TimedResponse]:
        self._done = True
        return await asyncio.gather(*self.calls)


async def switch_often(function: Marked) -> list[tuple[str, TimedResponse]]:
    """Updates the function repeatedly, and rolls it back version by version. Returns the mark of
    the version after each change, and the change's response.
    """
    made: list[tuple[str, TimedResponse]] = []
    for number in range(2, SWITCHES + 2):
        made.append((str(number), await function.put(str(number))))
        await asyncio.sleep(BETWEEN_S)
    for number in range(SWITCHES, 0, -1):
        made.append((str(number), await function.rollback(number)))
        await asyncio.sleep(BETWEEN_S)
    for mark, answer in made:
        assert answer.status == 200, answer
        assert answer.body["current_version"] == int(mark), answer
        assert answer.body["error_message"] is None, answer
    return made


def check_marks(answers: list[TimedResponse], switches: list[tuple[str, TimedResponse]]) -> None:
    """Checks that each invocation ran the version of the last change before it, or of a change
    during it.
    """
    for answer in answers:
        serving = ["1"]
        for mark, made in switches:
            if made.ended < answer.began:
                serving = [mark]
            elif made.began < answer.ended:
                serving.append(mark)
        assert answer.mark in serving, (serving, answer)


async def reasons(function: Marked, answers: list[TimedResponse]) -> Counter[str]:
    """The reasons of cold starts, counted."""
    found: Counter[str] = Counter()
    for answer in answers:
        if answer.body["cold_start"]:
            path = f"{function.path}/invocations/{answer.body['invocation_id']}/timeline"
            found[(await function.client.ask("GET", path)).body["cold_reason"]] += 1
    return found


async def steady(server: Server, **fields: int) -> Counter[str]:
    """Changes a function under a steady load; returns the reasons of cold starts."""
    async with client_of(server) as client:
        function = await deploy(client, "1", **fields)
        load = Load(function)
        running = asyncio.ensure_future(load.run())
        await asyncio.sleep(BETWEEN_S)
        switches = await switch_often(function)
        answers = await load.end()
        await running
        check_marks(answers, switches)
        cold = await reasons(function, answers)
        took = sorted((one.ended - one.began) * 1000 for one in answers)
        slowest = max((one.ended - one.began) * 1000 for _, one in switches)
        print(
            f"{len(answers)} calls at {CALLS_PER_S}/s, {len(switches)} switches: "
            f"p50 {took[len(took) // 2]:.1f} ms, p99 {took[len(took) * 99 // 100]:.1f} ms, "
            f"slowest {took[-1]:.0f} ms, slowest switch {slowest:.0f} ms, cold {dict(cold)}"
        )
        await function.delete()
    return cold


async def test_no_call_fails_or_is_cold_during_changes(another: Callable[..., Server]) -> None:
    """The minimum has more instances than the load needs, so overlapping invocations start none."""
    server = another(options="--prewarmed 0").start()
    assert await steady(server, min_instances=3, max_instances=10) == {}


async def test_with_one_instance_a_switch_costs_a_cold_one(another: Callable[..., Server]) -> None:
    server = another(options="--prewarmed 0").start()
    cold = await steady(server, max_instances=1)
    assert cold.total() <= 2 * SWITCHES, cold
