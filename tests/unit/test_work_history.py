"""The checker of asynchronous calls finds every mistake, and nothing in a correct history."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from e2e.work_history import (
    Job,
    Record,
    Redrive,
    Rule,
    Run,
    Schedule,
    WorkHistory,
    WorkSeen,
    WorkVerdict,
    judge_work,
)
from promises import promise

pytestmark = promise("D31", "N70")

ONE, THREE = "one-attempt", "three-attempts"
TOLD_S = 100.0


class Case:
    """A history of all kinds of asynchronous calls on a server without mistakes."""

    def __init__(self) -> None:
        self.history = WorkHistory(max_attempts={ONE: 1, THREE: 3}, schedules=["every-second"])
        self.runs: list[Run] = []
        self.seen = WorkSeen({}, {}, {}, {ONE: [], THREE: []}, {}, {}, {})
        self.job("plain", ["success"], sent=1)
        self.job("keyed", ["success"], key="k", sent=3)
        self.job("unanswered", ["success"], accepted=False, sent=1)
        self.job("never-arrived", None, accepted=False, sent=1)
        self.job("retried", ["interrupted", "failed", "success"], function=THREE, sent=1)
        self.job("dead", ["failed"] * 3, function=THREE, sent=1)
        self.job("waiting", [], status="cancelled", sent=1).cancelled["waiting"] = 0.5
        self.job("running", ["cancelled"], sent=1).cancelled["running"] = 90.0
        again = self.job("again", ["failed"], sent=1)
        self.record("again-2", "again", ONE, ["success"])
        self.history.redrives.append(Redrive(["again"], ["again-2"]))
        self.history.redrives.append(Redrive(["again"], None))
        again.answers.append((TOLD_S, dict(self.seen.records["again"])))
        self.seen.records["sync"] = self.shape("sync", ONE, "success")
        self.runs.append(Run("sync", 9_000, 9.0, "a synchronous call"))
        for number in (1, 2, 4):
            self.record(f"tick-{number}", "tick", ONE, ["success"])
        ticks = [(number * 1000, f"tick-{number}") for number in (1, 2, 4)]
        self.seen.schedules["every-second"] = Schedule(5, 3, 1, 0, 1, [*ticks])
        self.seen.dead_letters[THREE].append("dead")
        for function in (ONE, THREE):
            of = [one for one in self.seen.records.values() if one["function_id"] == function]
            letters = len(self.seen.dead_letters[function])
            self.seen.functions[function] = {"invocation_count": len(of)}
            counts = dict.fromkeys(("queued", "delayed", "running"), 0)
            self.seen.queues[function] = counts | {"dead_letters": letters}

    def job(
        self,
        token: str,
        attempts: list[str] | None,
        *,
        function: str = ONE,
        status: str | None = None,
        accepted: bool = True,
        **more: Any,
    ) -> Job:
        job = Job(token, function, accepted={token} if accepted else set(), **more)
        self.history.jobs.append(job)
        if attempts is not None:
            self.record(token, token, function, attempts, status)
        return job

    def record(
        self, name: str, token: str, function: str, attempts: list[str], status: str | None = None
    ) -> None:
        final = status or attempts[-1]
        self.seen.records[name] = self.shape(name, function, final, token)
        self.seen.tokens[name] = token
        self.seen.attempts[name] = [
            {"attempt": number, "status": one} for number, one in enumerate(attempts, 1)
        ]
        at_s = float(len(self.runs))
        self.runs += [
            Run(name, round(at_s * 1000) + number, at_s, token)
            for number, one in enumerate(attempts)
            if one != "interrupted"
        ]

    @staticmethod
    def shape(name: str, function: str, status: str, token: str = "") -> Record:
        stdout = token if status == "success" else ""
        return {"invocation_id": name, "function_id": function, "status": status, "stdout": stdout}

    def judge(self, *cut_off: Any) -> WorkVerdict:
        return judge_work(self.history, self.runs, self.seen, *cut_off)

    # Mistakes that a server can make

    @property
    def schedule(self) -> Schedule:
        return self.seen.schedules["every-second"]

    def run_of(self, name: str) -> Run:
        return next(run for run in self.runs if run.invocation_id == name)

    def run_again(self, name: str, *at_s: float) -> None:
        again = self.run_of(name)
        self.runs += [replace(again, at_s=at, deadline_ms=round(at * 1000)) for at in at_s]

    def drop_runs(self, name: str) -> None:
        self.runs = [run for run in self.runs if run.invocation_id != name]

    def forget(self, name: str) -> None:
        """The server has lost every trace of an asynchronous call."""
        del self.seen.records[name]
        self.seen.tokens.pop(name, None)
        self.seen.attempts.pop(name, None)
        self.drop_runs(name)

    def keep_letters(self, function: str, *names: str) -> None:
        self.seen.dead_letters[function] = [*names]
        self.seen.queues[function]["dead_letters"] = len(names)

    def count(self, *, fired: int = 0, missed: int = 0) -> None:
        self.schedule.fired += fired
        self.schedule.missed += missed


def try_the_only_attempt_again(case: Case) -> None:
    """The call is recorded with two attempts, so that only the policy shows the mistake."""
    case.seen.attempts["plain"].insert(0, {"attempt": 1, "status": "interrupted"})
    case.seen.attempts["plain"][1]["attempt"] = 2


def undo_the_cancellation(case: Case) -> None:
    case.seen.records["waiting"]["status"] = "interrupted"


def change_what_was_told(case: Case) -> None:
    case.seen.records["again"]["status"] = "timeout"


def lose_a_redrive_that_was_not_answered(case: Case) -> None:
    case.forget("again-2")
    case.history.redrives.pop(0)


def answer_a_redrive_with_two(case: Case) -> None:
    case.record("again-3", "again", ONE, ["success"])
    case.history.redrives[0].made = ["again-2", "again-3"]


def lose_a_tick_and_its_count(case: Case) -> None:
    case.schedule.ticks.pop(1)
    case.count(fired=-1)


def fire_a_tick_twice(case: Case) -> None:
    case.record("tick-2b", "tick", ONE, ["success"])
    case.schedule.ticks.append((2000, "tick-2b"))
    case.count(fired=1)


def make_one_work_for_two_ticks(case: Case) -> None:
    case.schedule.ticks[1] = (2000, "tick-1")


def count_an_invocation_twice(case: Case) -> None:
    case.seen.functions[ONE]["invocation_count"] += 1


def leave_out_an_attempt(case: Case) -> None:
    case.seen.attempts["retried"].pop(1)
    case.runs.remove(case.run_of("retried"))


# Each mistake is applied to a correct history.
MISTAKES: dict[Rule, dict[str, Callable[[Case], object]]] = {
    Rule.LOST: {
        "what was accepted": lambda case: case.forget("plain"),
        "the record of what ran": lambda case: case.seen.records.pop("unanswered"),
    },
    Rule.TWICE: {
        "an attempt": lambda case: case.run_again("retried", 50.0, 51.0),
        "within one deadline": lambda case: case.runs.append(case.run_of("retried")),
        "the only attempt": lambda case: case.run_again("plain", 50.0),
        "a synchronous call": lambda case: case.run_again("sync", 50.0),
        "a key": lambda case: case.record("keyed-2", "keyed", ONE, ["success"]),
        "a request": lambda case: case.record("plain-2", "plain", ONE, ["success"]),
        "after a success": lambda case: case.seen.attempts["retried"][1].update(status="success"),
    },
    Rule.UNFINISHED: {
        "left queued": lambda case: case.seen.records["plain"].update(status="queued"),
        "counted as queued": lambda case: case.seen.queues[ONE].update(queued=1),
        "counted as running": lambda case: case.seen.queues[ONE].update(running=1),
    },
    Rule.CANCELLED: {"run": lambda case: case.runs.append(Run("waiting", 50_000, 50.0, "waiting"))},
    Rule.CHANGED: {
        "a cancellation undone": undo_the_cancellation,
        "what was told": change_what_was_told,
        "payloads mixed up": lambda case: case.seen.records["plain"].update(stdout="keyed"),
    },
    Rule.NOT_RUN: {"a success": lambda case: case.drop_runs("plain")},
    Rule.DEAD_LETTER: {
        "lost": lambda case: case.keep_letters(THREE),
        "of a success": lambda case: case.keep_letters(ONE, "plain"),
        "without a record": lambda case: case.keep_letters(ONE, "nobody's"),
    },
    Rule.REDRIVE_LOST: {
        "what it made": lambda case: case.forget("again-2"),
        "without an answer": lose_a_redrive_that_was_not_answered,
        "its letter kept": lambda case: case.keep_letters(ONE, "again"),
    },
    Rule.REDRIVE_DOUBLED: {
        "without an answer": lambda case: case.record("again-3", "again", ONE, ["success"]),
        "answered with two": answer_a_redrive_with_two,
    },
    Rule.TICK_LOST: {
        "the schedule": lambda case: case.seen.schedules.clear(),
        "a tick": lambda case: case.schedule.ticks.pop(1),
        "with its count": lose_a_tick_and_its_count,
        "a missed one is not counted": lambda case: case.count(missed=-1),
        "its work": lambda case: case.forget("tick-2"),
    },
    Rule.TICK_DOUBLED: {
        "fired twice": fire_a_tick_twice,
        "one work for two": make_one_work_for_two_ticks,
        "counted twice": lambda case: case.count(missed=1),
    },
    Rule.COUNT: {
        "the only attempt tried again": try_the_only_attempt_again,
        "invocations": count_an_invocation_twice,
        "dead letters": lambda case: case.seen.queues[THREE].update(dead_letters=0),
        "an attempt left out": leave_out_an_attempt,
        "another end": lambda case: case.seen.attempts["retried"][-1].update(status="timeout"),
    },
}


def test_a_history_that_agrees_is_clean() -> None:
    verdict = Case().judge()
    assert verdict.is_clean, verdict.examples


@pytest.mark.parametrize(
    ("rule", "mistake"), [(rule, one) for rule, found in MISTAKES.items() for one in found]
)
def test_mistaken_servers_are_found_out(rule: Rule, mistake: str) -> None:
    case = Case()
    MISTAKES[rule][mistake](case)
    verdict = case.judge()
    assert verdict.found[rule] >= 1, verdict


def test_every_rule_has_a_mistake_that_breaks_it() -> None:
    assert MISTAKES.keys() == set(Rule)


def test_a_dead_letter_that_had_ended_well_on_a_lost_node_was_not_lost_by_a_redrive() -> None:
    """The node of the call was taken over; once the node is back, the true end replaces the assumed
    one. A redrive that was requested meanwhile, without a response, had no effect.
    """
    case = Case()
    lose_a_redrive_that_was_not_answered(case)
    assert case.judge().found[Rule.REDRIVE_LOST] == 1
    case.seen.records["again"] |= {"status": "success", "stdout": "again"}
    assert case.judge().found[Rule.REDRIVE_LOST] == 0


def test_a_cancellation_without_an_answer_promises_nothing() -> None:
    case = Case()
    next(job for job in case.history.jobs if job.token == "plain").cancelled["plain"] = None
    assert case.judge().is_clean


def test_only_an_end_told_just_before_a_cut_of_power_may_be_another_one_afterwards() -> None:
    def found(cut: float, *mistakes: Callable[[Case], None]) -> Any:
        case = Case()
        for mistake in mistakes:
            mistake(case)
        return case.judge([(cut, cut + 1)], 0.5).found[Rule.CHANGED]

    assert found(TOLD_S + 0.4, change_what_was_told) == 0
    assert found(TOLD_S + 0.6, change_what_was_told) == 1
    assert found(TOLD_S + 0.4, undo_the_cancellation) == 1
