"""Checks asynchronous invocations after a storm: the responses to clients, the effects of handlers,
and the server's data must agree.

This module has no input or output: a storm (storms.py) records its requests, their responses and
the handlers' runs, and compares at the end. Times are seconds of the machine's uptime, which
setting a clock does not change.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from e2e.history import FINAL, gives_way, lateness
from quiltfn.store.calls.schedules import RUNS_KEPT

Record = dict[str, Any]
GOOD = {"success", "cancelled"}
RAN = {"success", "failed"}


class Rule(StrEnum):
    """A rule that history must obey; its value is its name in reports."""

    LOST = "accepted and lost"
    CHANGED = "changed"
    TWICE = "run twice"
    NOT_RUN = "ended without a run"
    UNFINISHED = "never final"
    CANCELLED = "cancelled and run"
    DEAD_LETTER = "dead letters wrong"
    REDRIVE_LOST = "redrives lost"
    REDRIVE_DOUBLED = "redrives doubled"
    TICK_LOST = "ticks lost"
    TICK_DOUBLED = "ticks doubled"
    COUNT = "counts wrong"


@dataclass
class Job:
    """An asynchronous invocation with a unique payload, `token`. `sent`: the number of requests for
    it.

    `key`: the Idempotency-Key of all these requests, if any; `is_spent`: whether the key has a
    permanent response without an id. `accepted`: the ids in responses. `answers`: the final records
    that a client got, each with the time of the response by the monotonic clock. `cancelled`: the
    time at which the response to a cancel request was read, by id; None: there was no response.
    """

    token: str
    function: str
    key: str | None = None
    sent: int = 0
    is_spent: bool = False
    accepted: set[str] = field(default_factory=set)
    answers: list[tuple[float, Record]] = field(default_factory=list)
    cancelled: dict[str, float | None] = field(default_factory=dict)


@dataclass
class Redrive:
    """A request to redrive dead letters. `made`: the new ids; None: there was no response."""

    dead: list[str]
    made: list[str] | None = None


@dataclass
class WorkHistory:
    """The requests of a storm, and their responses. `max_attempts`: the maximum of each function,
    by its id. `schedules`: the names of acknowledged schedules, which are also the payloads of
    their invocations.
    """

    max_attempts: dict[str, int] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    redrives: list[Redrive] = field(default_factory=list)
    schedules: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """A run of a handler, from the note that the handler wrote at its start. `deadline_ms` differs
    between attempts.
    """

    invocation_id: str
    deadline_ms: int
    at_s: float
    token: str


@dataclass
class Schedule:
    """The server's data on a schedule. `due`: how often it was due so far by its interval; None if
    the clock was set meanwhile. `fired`, `missed`, `skipped`: the server's counts; `waiting`: the
    number of due times whose invocation is not queued yet. `ticks`: each due time, and the id of
    its invocation, if any.
    """

    due: int | None
    fired: int
    missed: int
    skipped: int
    waiting: int
    ticks: list[tuple[int, str | None]]


@dataclass
class WorkSeen:
    """The server's data. `records`, `attempts` and `tokens`: by invocation id; `schedules`: by
    name; all others: by function id. `tokens`: the payloads of asynchronous invocations.
    """

    records: dict[str, Record]
    tokens: dict[str, str]
    attempts: dict[str, list[Record]]
    dead_letters: dict[str, list[str]]
    queues: dict[str, Record]
    functions: dict[str, Record]
    schedules: dict[str, Schedule]


@dataclass
class WorkVerdict:
    """How often each rule was broken, with examples."""

    found: Counter[Rule] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.found

    def note(self, rule: Rule, example: str) -> None:
        self.found[rule] += 1
        if self.found[rule] <= 10:
            self.examples.append(f"{rule}: {example}")

    def __str__(self) -> str:
        return ", ".join(f"{rule} {self.found[rule]}" for rule in Rule)


def judge_work(
    history: WorkHistory,
    runs: Iterable[Run],
    seen: WorkSeen,
    cuts: Iterable[tuple[float, float]] = (),
    may_lose_s: float = 0.0,
) -> WorkVerdict:
    """Compares the history with the data, after the server had time to end all asynchronous
    invocations. `cuts`, `may_lose_s`: as for `judge` in history.py; an end that was reported
    shortly before a power cut may differ afterwards.
    """
    verdict, cuts = WorkVerdict(), list(cuts)
    runs_of: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        runs_of[run.invocation_id].append(run)
    ids_of: dict[str, set[str]] = defaultdict(set)
    for invocation_id, token in seen.tokens.items():
        ids_of[token].add(invocation_id)
    for ran in runs_of.values():
        ids_of[ran[0].token].add(ran[0].invocation_id)
    dead = {one for letters in seen.dead_letters.values() for one in letters}
    asked = {one for redrive in history.redrives for one in redrive.dead}
    for job in history.jobs:
        for at, answered in job.answers:
            kept = seen.records.get(answered["invocation_id"])
            is_final = lateness(at, cuts, may_lose_s) is None and not gives_way(answered)
            if kept not in (None, answered) and is_final:
                verdict.note(Rule.CHANGED, f"{job.token} was told {answered}, kept is {kept}")
        _judge_job(job, ids_of[job.token] | job.accepted, asked, dead, seen, verdict)
        _judge_cancellations(job, runs_of, seen, verdict)
    for invocation_id, record in seen.records.items():
        most = history.max_attempts[record["function_id"]]
        _judge_record(record, runs_of[invocation_id], seen, most, verdict)
    work = {*(job.token for job in history.jobs), *history.schedules}
    for invocation_id in set(runs_of) - set(seen.records):
        # A power cut may lose the record of a synchronous invocation without a response.
        tokens = sorted({run.token for run in runs_of[invocation_id]} & work)
        if tokens:
            verdict.note(Rule.LOST, f"{invocation_id} of {tokens} has run and has no record")
    _judge_dead_letters(dead, asked, seen, verdict)
    _judge_redrives(history, dead, seen, verdict)
    for name in history.schedules:
        _judge_schedule(name, seen, verdict)
    _judge_counts(history, seen, verdict)
    return verdict


def _judge_job(
    job: Job,
    ids: set[str],
    asked: set[str],
    dead: set[str],
    seen: WorkSeen,
    verdict: WorkVerdict,
) -> None:
    """Checks one payload. `ids`: all invocations with this payload; `asked`: those of them that a
    redrive named. Each request may have created one invocation at most, and each redrive exactly
    one.
    """
    for accepted in job.accepted:  # a loop, since a set difference would iterate over all records
        if accepted not in seen.records:
            verdict.note(Rule.LOST, f"{job.token}: {accepted}")
    again = len(ids & asked)
    made = min(job.sent, 1) if job.key is not None else job.sent
    if len(ids) > made + again:
        rule = Rule.REDRIVE_DOUBLED if again else Rule.TWICE
        verdict.note(rule, f"{job.token}, sent {job.sent}, redriven {again}: {sorted(ids)}")
    # An invocation may have been a dead letter until a lost node's record of its success arrived.
    gone = {one for one in ids & asked - dead if one in seen.records and not is_good(one, seen)}
    if gone and len(ids) < 1 + len(gone):
        verdict.note(Rule.REDRIVE_LOST, f"{job.token}: {sorted(gone)} left nothing behind")


def is_good(invocation_id: str, seen: WorkSeen) -> bool:
    return seen.records[invocation_id]["status"] in GOOD


def _judge_cancellations(
    job: Job, runs_of: dict[str, list[Run]], seen: WorkSeen, verdict: WorkVerdict
) -> None:
    for call_id, at_s in job.cancelled.items():
        if at_s is None:
            continue
        late = [run for run in runs_of[call_id] if run.at_s > at_s]
        if late:
            verdict.note(Rule.CANCELLED, f"{call_id} cancelled at {at_s}, run at {late[0].at_s}")
        record = seen.records.get(call_id)
        if record is not None and record["status"] != "cancelled":
            verdict.note(Rule.CHANGED, f"{call_id} was cancelled and is {record['status']}")


def _judge_record(
    record: Record, ran: list[Run], seen: WorkSeen, max_attempts: int, verdict: WorkVerdict
) -> None:
    """Checks that each run belongs to one attempt, and that each attempt has at most one run."""
    name, status = record["invocation_id"], record["status"]
    token = seen.tokens.get(name)
    if status not in FINAL:
        verdict.note(Rule.UNFINISHED, f"{name} is {status}")
    if token is None:  # this is a synchronous invocation
        if len(ran) > 1:
            verdict.note(Rule.TWICE, f"{name} has no attempts and {len(ran)} runs")
        return
    attempts = seen.attempts.get(name, [])
    if len(ran) > min(len(attempts), max_attempts):
        verdict.note(
            Rule.TWICE, f"{name}: {len(attempts)} of {max_attempts} attempts, {len(ran)} runs"
        )
    if len({run.deadline_ms for run in ran}) < len(ran):
        verdict.note(Rule.TWICE, f"{name}: two runs with one deadline")
    if len(ran) < sum(one["status"] in RAN for one in attempts):
        verdict.note(Rule.NOT_RUN, f"{name}: {attempts} and {len(ran)} runs")
    if status == "success" and record["stdout"] != token:
        verdict.note(Rule.CHANGED, f"{name} of {token} says {record['stdout']!r}")
    numbers = [one["attempt"] for one in attempts]
    if numbers != list(range(1, len(numbers) + 1)) or len(numbers) > max_attempts:
        verdict.note(Rule.COUNT, f"{name}: attempts {numbers} of {max_attempts}")
    if any(one["status"] in GOOD for one in attempts[:-1]):
        verdict.note(Rule.TWICE, f"{name} went on after its end: {attempts}")
    if status in RAN and (not attempts or attempts[-1]["status"] != status):
        verdict.note(Rule.COUNT, f"{name} is {status} after {attempts}")


def _judge_dead_letters(
    dead: set[str], asked: set[str], seen: WorkSeen, verdict: WorkVerdict
) -> None:
    """Checks that a failed invocation is a dead letter until it is redriven."""
    for call_id in seen.tokens:
        record = seen.records.get(call_id)
        if record is None or record["status"] not in FINAL:
            continue
        if record["status"] in GOOD and call_id in dead:
            verdict.note(Rule.DEAD_LETTER, f"{call_id} is {record['status']} and a dead letter")
        if record["status"] not in GOOD and call_id not in dead | asked:
            verdict.note(Rule.DEAD_LETTER, f"{call_id} is {record['status']} and no dead letter")
    for call_id in dead - set(seen.records):
        verdict.note(Rule.DEAD_LETTER, f"{call_id} is a dead letter without a record")


def _judge_redrives(
    history: WorkHistory, dead: set[str], seen: WorkSeen, verdict: WorkVerdict
) -> None:
    made: Counter[str] = Counter()
    for redrive in history.redrives:
        if redrive.made is None:
            continue
        made.update(redrive.made)
        for call_id in redrive.made:
            if call_id not in seen.records:
                verdict.note(Rule.REDRIVE_LOST, f"{call_id}, made of one of {redrive.dead}")
        for call_id in dead & set(redrive.dead):
            verdict.note(Rule.REDRIVE_LOST, f"{call_id} was run again and is still a dead letter")
        if len(redrive.made) > len(set(redrive.dead)):
            verdict.note(Rule.REDRIVE_DOUBLED, f"{redrive.dead} became {redrive.made}")
    for call_id, times in made.items():
        if times > 1:
            verdict.note(Rule.REDRIVE_DOUBLED, f"{call_id} was made {times} times")


def _judge_schedule(name: str, seen: WorkSeen, verdict: WorkVerdict) -> None:
    """Checks that every due time since the first has an invocation, or is counted as missed or
    skipped.
    """
    schedule = seen.schedules.get(name)
    if schedule is None:
        verdict.note(Rule.TICK_LOST, f"the schedule {name} itself")
        return
    due = [at for at, _ in schedule.ticks]
    made = [one for _, one in schedule.ticks if one is not None]
    for at, times in Counter(due).items():
        # If the clock was set, the same time may have occurred twice.
        if times > 1 and schedule.due is not None:
            verdict.note(Rule.TICK_DOUBLED, f"{name}: {times} at {at}")
    for call_id, times in Counter(made).items():
        if times > 1:
            verdict.note(Rule.TICK_DOUBLED, f"{name}: {call_id} was made by {times}")
    for call_id in made:
        if call_id not in seen.records:
            verdict.note(Rule.TICK_LOST, f"{name}: {call_id}")
    # After a long storm, the list no longer has the oldest due times.
    if len(made) > schedule.fired or (len(due) < RUNS_KEPT and len(made) < schedule.fired):
        rule = Rule.TICK_LOST if len(made) < schedule.fired else Rule.TICK_DOUBLED
        verdict.note(rule, f"{name}: {len(made)} made work, {schedule.fired} are counted")
    counted = schedule.fired + schedule.missed + schedule.skipped + schedule.waiting
    if schedule.due is not None and counted != schedule.due:
        rule = Rule.TICK_LOST if counted < schedule.due else Rule.TICK_DOUBLED
        counts = f"{schedule.fired} fired, {schedule.missed} missed, {schedule.skipped} skipped"
        verdict.note(rule, f"{name}: {schedule.due} were due; {counts}, {schedule.waiting} wait")


def _judge_counts(history: WorkHistory, seen: WorkSeen, verdict: WorkVerdict) -> None:
    kept = Counter(
        record["function_id"] for record in seen.records.values() if record["status"] in FINAL
    )
    for function in history.max_attempts:
        queue, letters = seen.queues[function], seen.dead_letters[function]
        counted = seen.functions[function]["invocation_count"]
        if counted != kept[function]:
            verdict.note(Rule.COUNT, f"{function}: {counted} invocations, {kept[function]} records")
        if queue["dead_letters"] != len(letters) or len(set(letters)) != len(letters):
            verdict.note(Rule.COUNT, f"{function}: {queue} with {len(letters)} dead letters")
        if queue["queued"] or queue["delayed"] or queue["running"]:
            verdict.note(Rule.UNFINISHED, f"{function}: {queue}")
