"""`kill -9`: the store has all work that it accepted, and no attempt is run twice.

A child accepts, claims, runs, cancels and redrives work at the same time and reports each step over
a pipe, as callers and handlers would. It is killed at a random moment, over and over on the same
directory; in the end, `e2e.work_history` compares. The negative control runs work before the
journal has its start, and the same check must find this mistake.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from contract import pieces
from contract.pieces import NOW_S, begun
from contract.stores import (
    a_stored_function,
    an_id,
    done,
    not_none,
    opened_as_before,
    opened_journal,
    pages_of,
    record_pages,
    said_before_a_kill,
)
from e2e.work_history import (
    Job,
    Record,
    Redrive,
    Rule,
    Run,
    WorkHistory,
    WorkSeen,
    WorkVerdict,
    judge_work,
)
from promises import promise
from quiltfn.model.function import Function
from quiltfn.model.invocation import Invocation, Source
from quiltfn.model.work import AsyncPolicy, Backoff, outcome
from quiltfn.ports.work import AcceptedWork, ClaimedWork
from quiltfn.store import SpoolJournal, SqlPolicies, SqlStore, SqlWork

pytestmark = promise("D31")

ROUNDS, CONTROL_ROUNDS, LIFE_S = 8, 4, 0.8
# A time by which all work is due, even after back-off.
LATER_MS, EXPIRES_MS = (NOW_S + 3600) * 1000, (NOW_S + 7200) * 1000
POLICIES = (AsyncPolicy(), AsyncPolicy(max_attempts=3, backoff=Backoff(first=0.01)))


class Child:
    """The work of the process to kill. `eager`: it breaks the promise on purpose."""

    def __init__(self, store: SqlStore, journal: SpoolJournal, eager: bool) -> None:
        self.queue, self.journal = SqlWork(store.database), journal
        self.eager, self.dice = eager, random.Random()

    async def live(self, functions: list[tuple[Function, AsyncPolicy]]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for function, policy in functions:
                for _ in range(4):
                    tasks.create_task(self.accept_for_ever(function))
                for _ in range(2):
                    tasks.create_task(self.run_for_ever(function, policy))

    async def accept_for_ever(self, function: Function) -> None:
        while True:
            piece = a_piece(function, token := an_id())
            tell("giving", function.id, token)
            await self.queue.accept(piece)
            tell("accepted", token, piece.record.invocation_id)
            if self.dice.random() < 0.25:
                tell("cancelling", token, piece.record.invocation_id)
                name = piece.record.invocation_id
                if await self.queue.cancel(function.id, name, NOW_S) is not None:
                    tell("cancelled", token, name, time.monotonic())
            if self.dice.random() < 0.05:
                await self.redrive(function)
            await asyncio.sleep(self.dice.random() * 0.005)

    async def redrive(self, function: Function) -> None:
        dead = [
            one.invocation_id for one in (await self.queue.dead_letters(function.id, 5, None)).items
        ]
        again = []
        for call_id in dead:
            given = not_none(await self.queue.input(call_id))
            assert given.payload is not None
            again.append((call_id, a_piece(function, given.payload.decode(), Source.REDRIVE)))
        tell("redriving", ",".join(dead))
        made = await self.queue.redrive(function.id, again)
        tell("redriven", ",".join(dead), ",".join(made))

    async def run_for_ever(self, function: Function, policy: AsyncPolicy) -> None:
        while True:
            most = self.dice.randint(1, 8)
            claim = await self.queue.claim(function.id, most, LATER_MS, is_begun=False)
            for number, work in enumerate(claim.work):
                if number and self.dice.random() < 0.05:
                    left = [other.record.invocation_id for other in claim.work[number:]]
                    await self.queue.release(left)
                    break
                await self.run(work, policy)
            await asyncio.sleep(self.dice.random() * 0.005)

    async def run(self, work: ClaimedWork, policy: AsyncPolicy) -> None:
        assert work.input.payload is not None
        token, name = work.input.payload.decode(), work.record.invocation_id
        record = begun(work.record)
        if not self.eager:
            self.journal.opened(record)
        tell("run", name, record.attempt, time.monotonic(), token)
        await asyncio.sleep(self.dice.random() * (0.02 if self.eager else 0.002))
        if self.eager:
            self.journal.opened(record)
        ended = ended_well(record, token) if self.dice.random() < 0.6 else done(record, 7, b"")
        decided = outcome(policy, ended, NOW_S * 1000, work.expires_at_ms, 0.5, an_id)
        ended = replace(ended, outcome=decided)
        self.journal.closed(ended)
        if ended.is_final:
            tell("ended", token, name, ended.status.value)


def a_piece(function: Function, token: str, source: Source = Source.ASYNC) -> AcceptedWork:
    more = {"expires_at_ms": EXPIRES_MS, "max_queued": 100_000}
    piece = pieces.a_piece(function, token.encode(), **more)
    return replace(piece, record=replace(piece.record, source=source))


def ended_well(record: Invocation, token: str) -> Invocation:
    return done(record, 0, token.encode())


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[SqlStore, SpoolJournal]]:
    async with opened_as_before(path) as store, opened_journal(store, path) as journal:
        yield store, journal


def child(path: Path, eager: bool) -> None:
    asyncio.run(live(path, eager))


async def live(path: Path, eager: bool) -> None:
    async with opened(path) as (store, journal):
        functions = [one.function for one in await store.load()]
        policies = {key: policy for key, policy, _ in await SqlPolicies(store.database).load()}
        tell("ready")
        of = [(one, policies.get(one.id) or POLICIES[0]) for one in functions]
        await Child(store, journal, eager).live(of)


# The parent ---------------------------------------------------------------------------------------


class Reports:
    """The messages of all children, as a history and runs."""

    def __init__(self, functions: dict[str, int]) -> None:
        self.history = WorkHistory(max_attempts=functions)
        self.jobs: dict[str, Job] = {}
        self.runs: list[Run] = []
        self.ends: list[tuple[str, str]] = []

    @property
    def is_complete(self) -> bool:
        """Whether enough work was accepted, some was acknowledged as cancelled, and some was
        redriven.
        """
        cancelled = any(
            at is not None for job in self.jobs.values() for at in job.cancelled.values()
        )
        enough = sum(len(job.accepted) for job in self.history.jobs) > 10 * ROUNDS
        return enough and cancelled and any(one.made for one in self.history.redrives)

    def take(self, lines: list[str]) -> None:
        for line in lines:
            event, *words = line.split(" ")
            if event == "giving":
                self.jobs[words[1]] = Job(words[1], words[0], sent=1)
                self.history.jobs.append(self.jobs[words[1]])
            elif event == "accepted":
                self.jobs[words[0]].accepted.add(words[1])
            elif event in ("cancelling", "cancelled"):
                at_s = float(words[2]) if event == "cancelled" else None
                self.jobs[words[0]].cancelled[words[1]] = at_s
            elif event == "run":
                self.runs.append(Run(words[0], int(words[1]), float(words[2]), words[3]))
            elif event == "redriving" and words[0]:
                self.history.redrives.append(Redrive(words[0].split(",")))
            elif event == "redriven" and words[0]:
                made = words[1].split(",") if words[1] else []
                self.history.redrives.append(Redrive(words[0].split(","), made))
            elif event == "ended":
                self.ends.append((words[1], words[2]))


async def finished(path: Path, reports: Reports) -> WorkSeen:
    """End all waiting work, and read everything that was stored."""
    async with opened(path) as (store, journal):
        child = Child(store, journal, eager=False)
        functions = [stored.function for stored in await store.load()]
        for function in functions:
            while True:
                claim = await child.queue.claim(function.id, 500, LATER_MS, is_begun=False)
                if not claim.work:
                    break
                for work in claim.work:
                    assert work.input.payload is not None
                    token, record = work.input.payload.decode(), begun(work.record)
                    journal.opened(record)
                    name = record.invocation_id
                    reports.runs.append(Run(name, record.attempt, time.monotonic(), token))
                    ended = ended_well(record, token)
                    policy = POLICIES[reports.history.max_attempts[function.id] > 1]
                    decided = outcome(policy, ended, NOW_S * 1000, EXPIRES_MS, 0.5, an_id)
                    journal.closed(replace(ended, outcome=decided))
                await journal.synced()
        return await look(store, journal, child.queue, functions)


async def look(
    store: SqlStore, journal: SpoolJournal, queue: SqlWork, functions: list[Function]
) -> WorkSeen:
    seen = WorkSeen({}, {}, {}, {}, {}, {}, {})
    for function in functions:
        pages = await record_pages(journal, function_id=function.id, limit=1000)
        for record in (one for page in pages for one in page):
            name = record.invocation_id
            seen.records[name] = shape(record)
            given = await queue.input(name)
            if given is not None and given.payload is not None:
                seen.tokens[name] = given.payload.decode()
            seen.attempts[name] = [
                {"attempt": one.attempt, "status": one.status.value}
                for one in await queue.attempts(name)
            ]
        letters = await pages_of(partial(queue.dead_letters, function.id, 1000))
        seen.dead_letters[function.id] = [one.invocation_id for page in letters for one in page]
        counts = await queue.counts(function.id, LATER_MS)
        names = ("queued", "delayed", "running", "dead_letters")
        seen.queues[function.id] = {name: getattr(counts, name) for name in names}
    for stored in await store.load():
        counted = stored.counters.invocation_count
        seen.functions[stored.function.id] = {"invocation_count": counted}
    return seen


def shape(record: Invocation) -> Record:
    return {
        "invocation_id": record.invocation_id,
        "function_id": record.function_id,
        "status": record.status.value,
        "stdout": record.stdout.decode(),
    }


async def two_functions(path: Path) -> dict[str, int]:
    """Create two functions, with one attempt and with three; return their ids."""
    async with opened_as_before(path) as store:
        found = {}
        for policy in POLICIES:
            function = await a_stored_function(store)
            await SqlPolicies(store.database).save_async(function.id, policy)
            found[function.id] = policy.max_attempts
        return found


async def storm(
    path: Path, reports: Reports, rounds: int, *, eager: bool
) -> tuple[WorkVerdict, WorkSeen]:
    """Run and kill a child `rounds` times, and further until children have done everything to
    compare. `reports`: earlier messages to continue from.
    """
    dice = random.Random()
    for number in range(5 * rounds):
        if number >= rounds and (eager or reports.is_complete):
            break
        # A slow machine does less in a run, so children live longer once the rounds are over.
        life_s = dice.random() * LIFE_S * max(1, number - rounds)
        reports.take(await said_before_a_kill(life_s, child, path, eager))
    seen = await finished(path, reports)
    return judge_work(reports.history, reports.runs, seen), seen


async def test_kills_lose_no_accepted_work_and_run_no_attempt_twice(path: Path) -> None:
    reports = Reports(await two_functions(path))
    verdict, seen = await storm(path, reports, ROUNDS, eager=False)
    assert verdict.is_clean, f"{verdict}\n" + "\n".join(verdict.examples)
    # Everything that children have reported as ended has ended.
    changed = [
        one for one in reports.ends if seen.records[one[0]]["status"] not in (one[1], "cancelled")
    ]
    assert not changed
    statuses = {record["status"] for record in seen.records.values()}
    assert statuses >= {"success", "failed", "cancelled"}
    assert sum(len(job.accepted) for job in reports.history.jobs) > 10 * ROUNDS
    assert any(one.made for one in reports.history.redrives)


async def test_the_check_would_notice_work_that_runs_before_its_start_is_kept(path: Path) -> None:
    reports = Reports(await two_functions(path))
    for _ in range(5):  # several attempts, since the moments of the kills are random
        verdict, _ = await storm(path, reports, CONTROL_ROUNDS, eager=True)
        if verdict.found[Rule.TWICE] > 0:
            return
    raise AssertionError(str(verdict))
