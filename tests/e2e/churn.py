"""Churn: two hundred clients that change and invoke a few functions, and kill their instances.

`scripts/soak churn` runs it for ten minutes, `test_herd.py` for six seconds. Checks that no
function exceeds its maximum of instances, that the limits of simultaneous invocations stay within
the budget, and that the pools match the OCI runtime's list afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from e2e.server import Server, watched
from e2e.timed_client import (
    Client,
    Marked,
    Sampler,
    TimedResponse,
    client_of,
    create,
    listed,
    until,
)
from e2e.timed_client import sandboxes as on_host

BUDGET_MIB = 1024
OPTIONS = f"--prewarmed 0 --memory-budget-mib {BUDGET_MIB}"
MAXIMA = (2, 3, 4, 5)  # the maximum numbers of instances of the functions
MEMORY_MIB = (256, 512)  # memory limits of versions
# Prints its start and its end by the host's clock, and the memory limit of its version.
HANDLER = 'date +%s%N; sleep 0.005; date +%s%N; echo "${LIMIT:-256}"'
THINK_S = 2.0
SAMPLE_S = 0.02
VERBS = {"invoke": 86, "update": 4, "rollback": 2, "deploy": 3, "pause": 1, "resume": 3, "kill": 1}
MAY_BE = {
    "invoke": {"success", "FUNCTION_NOT_ACTIVE", "CAPACITY_FULL", "RUNTIME_UNAVAILABLE"},
    "update": {"200"},
    "rollback": {"200", "NOT_FOUND"},  # the version may not exist yet
    "deploy": {"200"},
    "pause": {"200", "CONFLICT"},  # the function may be in the state `error` after a failed deploy
    "resume": {"200", "CONFLICT"},
}


@dataclass
class Report:
    """The operations and observations of all clients."""

    answers: Counter[str] = field(default_factory=Counter)
    # the start, the end and the memory limit of each handler
    ran: list[tuple[int, int, int]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    samples: int = 0
    most_on_host: int = 0

    def peak_mib(self) -> int:
        """The highest sum of the memory limits of handlers that ran at the same time."""
        turns = [(began, mib) for began, _, mib in self.ran]
        turns += [(ended, -mib) for _, ended, mib in self.ran]
        now = peak = 0
        for _, mib in sorted(turns):
            now += mib
            peak = max(peak, now)
        return peak

    def __str__(self) -> str:
        text = ", ".join(f"{what} {count}" for what, count in sorted(self.answers.items()))
        return (
            f"{self.answers.total()} requests: {text}; {self.samples} samples, at most "
            f"{self.most_on_host} sandboxes of {sum(MAXIMA)} and {self.peak_mib()} MiB of "
            f"{BUDGET_MIB} in use; {len(self.wrong)} wrong"
        )


@dataclass
class Churn:
    """Runs the clients until `end` (monotonic seconds)."""

    server: Server
    client: Client
    functions: list[Marked]
    end: float
    report: Report = field(default_factory=Report)

    async def client_life(self, dice: random.Random) -> None:
        while True:
            await asyncio.sleep(dice.uniform(0, THINK_S))
            if time.monotonic() >= self.end:
                return
            (verb,) = dice.choices([*VERBS], [*VERBS.values()])
            if verb == "kill":
                await asyncio.to_thread(self._kill, dice)
                self.report.answers["kill"] += 1
            else:
                self._note(verb, await self._do(verb, dice.choice(self.functions), dice))

    async def _do(self, verb: str, function: Marked, dice: random.Random) -> TimedResponse:
        if verb == "invoke":
            return await function.invoke()
        if verb == "update":
            mib = dice.choice(MEMORY_MIB)
            environment = {"MARK": str(dice.random()), "LIMIT": str(mib)}
            body = {"environment": environment, "memory_limit_mb": mib}
            return await self.client.ask("PUT", function.path, body)
        if verb == "rollback":
            return await function.rollback(dice.randint(1, 5))
        return await function.verb(verb)

    def _note(self, verb: str, answer: TimedResponse) -> None:
        self.report.answers[f"{verb}: {answer.outcome}"] += 1
        if answer.outcome not in MAY_BE[verb]:
            self.report.wrong.append(f"{verb}: {answer.status} {answer.body}")
        if answer.status == 503 and answer.code == "CAPACITY_FULL" and not _retry(answer):
            self.report.wrong.append(f"no retry_after: {answer.body}")
        if answer.outcome == "success":
            began, ended, mib = (int(one) for one in answer.body["stdout"].split())
            self.report.ran.append((began, ended, mib))

    def _kill(self, dice: random.Random) -> None:
        """Kills the guest of a random sandbox."""
        guests = list(self.server.guests().values())
        if guests:
            with suppress(ProcessLookupError):
                os.kill(dice.choice(guests), signal.SIGKILL)

    def look(self, sampler: Sampler) -> None:
        report = self.report
        for function, most in zip(self.functions, MAXIMA, strict=True):
            pool = sampler.get(f"{function.path}/pool")
            if pool["total_count"] > most:
                report.wrong.append(f"more than {most}: {pool}")
        stats = sampler.get("/api/functions/pool/stats")
        there = on_host(self.server)
        report.most_on_host = max(report.most_on_host, there)
        if max(stats["total_count"], there) > sum(MAXIMA):
            report.wrong.append(f"more than {sum(MAXIMA)}: {there} on the host, {stats}")
        if stats["busy_count"] * min(MEMORY_MIB) > BUDGET_MIB:
            report.wrong.append(f"more than {BUDGET_MIB} MiB: {stats}")


def _retry(answer: TimedResponse) -> bool:
    return answer.body["retry_after"] >= 1 and "retry-after" in answer.headers


async def churn(server: Server, seconds: float, clients: int, seed: int) -> Report:
    async with client_of(server) as client:
        functions = [
            await create(client, "0", handler=HANDLER, max_instances=most) for most in MAXIMA
        ]
        it = Churn(server, client, functions, time.monotonic() + seconds)
        for function in functions:
            await it._do("update", function, random.Random(seed))
            assert (await function.verb("deploy")).body["state"] == "active"
        with Sampler(server, it.look, SAMPLE_S) as sampler:
            lives = (it.client_life(random.Random(seed + n)) for n in range(clients))
            await asyncio.gather(*lives)
        it.report.samples = sampler.count
        if it.report.peak_mib() > BUDGET_MIB:
            it.report.wrong.append(f"{it.report.peak_mib()} MiB ran at once")
        await _check_rest(it)
    return it.report


async def _check_rest(it: Churn) -> None:
    """Checks that the pools match the OCI runtime's list, and that every function works as before
    the churn.
    """

    async def agrees() -> bool:
        pools = [await one.pool() for one in it.functions]
        stats = (await it.client.ask("GET", "/api/functions/pool/stats")).body
        at_rest = stats["busy_count"] + stats["recycling_count"] + stats["terminating_count"] == 0
        total = sum(one["total_count"] for one in pools)
        return bool(at_rest and total == stats["total_count"] == len(listed(it.server)))

    await until(agrees, timeout_s=10, every_s=0.1)
    for function in it.functions:
        deployed = await function.verb("deploy")
        if deployed.body["state"] != "active" or (await function.invoke()).outcome != "success":
            it.report.wrong.append(f"not as before: {deployed.body}")
    await until(agrees, timeout_s=10, every_s=0.1)
    for function in it.functions:
        await function.delete()

    async def nothing() -> bool:
        return not listed(it.server)

    await until(nothing, timeout_s=10, every_s=0.1)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak churn", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    print(f"seed {given.seed}")
    with watched(OPTIONS) as server:
        server.start()
        report = asyncio.run(churn(server, given.seconds, given.clients, given.seed))
    print(report)
    for line in report.wrong[:50]:
        print(line)
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
