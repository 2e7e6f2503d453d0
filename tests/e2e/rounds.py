"""Rounds of invocations that race with a change of their function: update, rollback, pause or
delete.

`scripts/soak races` runs a thousand rounds of each; `test_races.py` fifty.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from e2e.server import Server, watched
from e2e.timed_client import Client, Marked, TimedResponse, client_of, deploy, is_free, until
from timeouts import scaled

CALLERS = (2, 8)
# Each client and the change begin up to this many seconds after the start of a round: random delays
# cover every moment of an invocation.
LATE_S = 0.03
MOST_S = 20.0


@dataclass
class Observed:
    """The observations for one kind of change. `overlapping`: the number of invocations that ran
    during the change.
    """

    rounds: int = 0
    calls: int = 0
    overlapping: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    change_ms: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        slowest = max(self.change_ms, default=0.0)
        answers = ", ".join(f"{count} {what}" for what, count in sorted(self.answers.items()))
        return (
            f"{self.rounds} rounds, {self.calls} calls ({self.overlapping} during the change): "
            f"{answers}; slowest change {slowest:.0f} ms"
        )


@dataclass
class Race:
    """Clients that invoke continuously while one change is made."""

    random: random.Random
    observed: Observed = field(default_factory=Observed)

    async def run(
        self, function: Marked, change: Callable[[], Awaitable[TimedResponse]]
    ) -> tuple[TimedResponse, list[TimedResponse]]:
        """Returns the responses to the change and to all invocations. The last invocation of each
        client started after the change.
        """
        gate, changed = asyncio.Event(), asyncio.Event()
        callers = [
            asyncio.ensure_future(self._call(function, gate, changed))
            for _ in range(self.random.randint(*CALLERS))
        ]
        changing = asyncio.ensure_future(self._change(change, gate, changed))
        gate.set()
        async with asyncio.timeout(scaled(MOST_S)):
            answers = [one for caller in callers for one in await caller]
            done = await changing
        self.observed.rounds += 1
        self.observed.calls += len(answers)
        self.observed.overlapping += sum(
            one.began < done.ended and one.ended > done.began for one in answers
        )
        self.observed.answers.update(one.outcome for one in answers)
        self.observed.change_ms.append((done.ended - done.began) * 1000)
        return done, answers

    async def _call(
        self, function: Marked, gate: asyncio.Event, changed: asyncio.Event
    ) -> list[TimedResponse]:
        late = self.random.uniform(0, LATE_S)
        await gate.wait()
        await asyncio.sleep(late)
        answers: list[TimedResponse] = []
        while True:
            is_last = changed.is_set()
            answers.append(await function.invoke())
            if is_last:
                return answers
            if answers[-1].status != 200:
                await asyncio.sleep(0.002)

    async def _change(
        self,
        change: Callable[[], Awaitable[TimedResponse]],
        gate: asyncio.Event,
        changed: asyncio.Event,
    ) -> TimedResponse:
        late = self.random.uniform(0, LATE_S)
        await gate.wait()
        await asyncio.sleep(late)
        try:
            return await change()
        finally:
            changed.set()


def check_switch(done: TimedResponse, answers: list[TimedResponse], old: str, new: str) -> None:
    """Checks that no invocation failed, and that each ran the old or new version, but only the new
    one if it began after the change.
    """
    for answer in answers:
        assert answer.mark in ({new} if answer.began > done.ended else {old, new}), (done, answer)


def check_closed(done: TimedResponse, answers: list[TimedResponse], old: str, code: str) -> None:
    """Checks that every invocation ran or was refused, and that those that began after the change
    were refused.
    """
    for answer in answers:
        if answer.began > done.ended or answer.status != 200:
            assert answer.code == code, (done, answer)
        else:
            assert answer.mark == old, answer


async def updates(client: Client, race: Race, rounds: int) -> None:
    function = await deploy(client, "0", max_instances=3)
    for number in range(1, rounds + 1):
        old, new = str(number - 1), str(number)
        done, answers = await race.run(function, partial(function.put, new))
        assert done.status == 200, done
        assert done.body["current_version"] == number + 1, done
        check_switch(done, answers, old, new)
        await until(lambda: is_free(function))
    await function.delete()


async def rollbacks(client: Client, race: Race, rounds: int) -> None:
    function = await deploy(client, "1", max_instances=3)
    assert (await function.put("2")).status == 200
    for number in range(rounds):
        old, new = (2, 1) if number % 2 == 0 else (1, 2)
        done, answers = await race.run(function, partial(function.rollback, new))
        assert done.status == 200, done
        assert done.body["current_version"] == new, done
        check_switch(done, answers, str(old), str(new))
        await until(lambda: is_free(function))
    assert len(await function.versions()) == 2
    await function.delete()


async def pauses(client: Client, race: Race, rounds: int) -> None:
    function = await deploy(client, "1", max_instances=3)

    async def is_cold() -> bool:
        return bool((await function.pool())["total_count"] == 0)

    for _ in range(rounds):
        done, answers = await race.run(function, partial(function.verb, "pause"))
        assert done.status == 200, done
        check_closed(done, answers, "1", "FUNCTION_NOT_ACTIVE")
        await until(is_cold)
        resumed = await function.verb("resume")
        assert resumed.body["state"] == "active", resumed
    await function.delete()


async def deletes(client: Client, race: Race, rounds: int) -> None:
    for _ in range(rounds):
        function = await deploy(client, "1", max_instances=3)
        done, answers = await race.run(function, function.delete)
        assert done.status == 204, done
        check_closed(done, answers, "1", "NOT_FOUND")


KINDS = {"update": updates, "rollback": rollbacks, "pause": pauses, "delete": deletes}


async def is_at_rest(client: Client) -> bool:
    """Whether the tenant has no instances."""
    stats = (await client.ask("GET", "/api/functions/pool/stats")).body
    return bool(stats["total_count"] == 0)


async def play(server: Server, kind: str, rounds: int, seed: int) -> Observed:
    """Runs rounds of one kind; at the end, checks that the functions have left nothing."""
    race = Race(random.Random(seed))
    async with client_of(server) as client:
        await KINDS[kind](client, race, rounds)
        await until(lambda: is_at_rest(client), timeout_s=10)
    return race.observed


def main() -> int:
    it = argparse.ArgumentParser(prog="scripts/soak races", description=__doc__)
    it.add_argument("--rounds", type=int, default=1000)
    it.add_argument("--seed", type=int, default=int(time.time()))
    it.add_argument("--kind", choices=[*KINDS], action="append")
    given = it.parse_args()
    print(f"seed {given.seed}")
    for kind in given.kind or KINDS:
        with watched() as server:
            server.start()
            print(f"{kind}: {asyncio.run(play(server, kind, given.rounds, given.seed))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
