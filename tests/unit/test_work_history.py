"""The checker of accepted work finds each mistake of a server, and nothing where all is well."""

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
    judge_work,
)
from promises import promise

pytestmark = promise("D31", "N70")

ONE, THREE = "one-attempt", "three-attempts"
TOLD_S = 100.0


class Case:
    """A history of all kinds of work on a server that makes no mistake."""

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
        again.told.append((TOLD_S, dict(self.seen.records["again"])))
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
            self.seen.queues[function] = {
                "queued": 0,
                "delayed": 0,
                "running": 0,
                "dead_letters": letters,
            }

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

    def judge(self) -> Any:
        return judge_work(self.history, self.runs, self.seen)


def run_of(case: Case, name: str) -> Run:
    return next(run for run in case.runs if run.invocation_id == name)


def forget(case: Case, name: str) -> None:
    """The server has lost it wholly."""
    del case.seen.records[name]
    case.seen.tokens.pop(name, None)
    case.seen.attempts.pop(name, None)
    case.runs = [run for run in case.runs if run.invocation_id != name]


# The mistakes: each is done to a history without any ----------------------------------------------


def lose_what_was_accepted(case: Case) -> None:
    forget(case, "plain")


def lose_the_record_of_what_ran(case: Case) -> None:
    del case.seen.records["unanswered"]


def run_an_attempt_twice(case: Case) -> None:
    case.runs.append(replace(run_of(case, "retried"), at_s=50.0, deadline_ms=50_000))
    case.runs.append(replace(run_of(case, "retried"), at_s=51.0, deadline_ms=51_000))


def run_twice_within_one_deadline(case: Case) -> None:
    case.runs.append(run_of(case, "retried"))


def run_the_only_attempt_twice(case: Case) -> None:
    case.runs.append(replace(run_of(case, "plain"), at_s=50.0, deadline_ms=50_000))


def try_the_only_attempt_again(case: Case) -> None:
    """Recorded as two attempts, so that only the policy says that it is wrong."""
    case.seen.attempts["plain"].insert(0, {"attempt": 1, "status": "interrupted"})
    case.seen.attempts["plain"][1]["attempt"] = 2


def run_a_synchronous_call_twice(case: Case) -> None:
    case.runs.append(replace(run_of(case, "sync"), at_s=50.0, deadline_ms=50_000))


def accept_a_key_twice(case: Case) -> None:
    case.record("keyed-2", "keyed", ONE, ["success"])


def accept_a_request_twice(case: Case) -> None:
    case.record("plain-2", "plain", ONE, ["success"])


def try_again_after_a_success(case: Case) -> None:
    case.seen.attempts["retried"][1]["status"] = "success"


def leave_it_queued(case: Case) -> None:
    case.seen.records["plain"]["status"] = "queued"


def count_it_as_queued(case: Case) -> None:
    case.seen.queues[ONE]["queued"] = 1


def count_it_as_running(case: Case) -> None:
    case.seen.queues[ONE]["running"] = 1


def run_after_the_cancellation(case: Case) -> None:
    case.runs.append(Run("waiting", 50_000, 50.0, "waiting"))


def undo_the_cancellation(case: Case) -> None:
    case.seen.records["waiting"]["status"] = "interrupted"


def change_what_was_told(case: Case) -> None:
    case.seen.records["again"]["status"] = "timeout"


def mix_up_the_payloads(case: Case) -> None:
    case.seen.records["plain"]["stdout"] = "keyed"


def succeed_without_a_run(case: Case) -> None:
    case.runs = [run for run in case.runs if run.invocation_id != "plain"]


def lose_a_dead_letter(case: Case) -> None:
    case.seen.dead_letters[THREE].clear()
    case.seen.queues[THREE]["dead_letters"] = 0


def keep_a_dead_letter_of_a_success(case: Case) -> None:
    case.seen.dead_letters[ONE].append("plain")
    case.seen.queues[ONE]["dead_letters"] = 1


def keep_a_dead_letter_without_a_record(case: Case) -> None:
    case.seen.dead_letters[ONE].append("nobody's")
    case.seen.queues[ONE]["dead_letters"] = 1


def lose_what_a_redrive_made(case: Case) -> None:
    forget(case, "again-2")


def lose_a_redrive_that_was_not_answered(case: Case) -> None:
    forget(case, "again-2")
    case.history.redrives.pop(0)


def keep_what_was_redriven(case: Case) -> None:
    case.seen.dead_letters[ONE].append("again")
    case.seen.queues[ONE]["dead_letters"] = 1


def redrive_twice(case: Case) -> None:
    case.record("again-3", "again", ONE, ["success"])


def answer_a_redrive_with_two(case: Case) -> None:
    case.record("again-3", "again", ONE, ["success"])
    case.history.redrives[0].made = ["again-2", "again-3"]


def lose_a_schedule(case: Case) -> None:
    case.seen.schedules.clear()


def lose_a_tick(case: Case) -> None:
    case.seen.schedules["every-second"].ticks.pop(1)


def lose_a_tick_and_its_count(case: Case) -> None:
    lose_a_tick(case)
    case.seen.schedules["every-second"].fired -= 1


def forget_to_count_a_missed_tick(case: Case) -> None:
    case.seen.schedules["every-second"].missed = 0


def lose_the_work_of_a_tick(case: Case) -> None:
    forget(case, "tick-2")


def fire_a_tick_twice(case: Case) -> None:
    case.record("tick-2b", "tick", ONE, ["success"])
    case.seen.schedules["every-second"].ticks.append((2000, "tick-2b"))
    case.seen.schedules["every-second"].fired += 1


def make_one_work_for_two_ticks(case: Case) -> None:
    schedule = case.seen.schedules["every-second"]
    schedule.ticks[1] = (2000, "tick-1")


def count_a_tick_twice(case: Case) -> None:
    case.seen.schedules["every-second"].missed += 1


def miscount_the_invocations(case: Case) -> None:
    case.seen.functions[ONE]["invocation_count"] += 1


def miscount_the_dead_letters(case: Case) -> None:
    case.seen.queues[THREE]["dead_letters"] = 0


def leave_out_an_attempt(case: Case) -> None:
    case.seen.attempts["retried"].pop(1)
    case.runs.remove(run_of(case, "retried"))


def end_otherwise_than_the_last_attempt(case: Case) -> None:
    case.seen.attempts["retried"][-1]["status"] = "timeout"


MISTAKES: list[tuple[Callable[[Case], None], Rule]] = [
    (lose_what_was_accepted, Rule.LOST),
    (lose_the_record_of_what_ran, Rule.LOST),
    (run_an_attempt_twice, Rule.TWICE),
    (run_twice_within_one_deadline, Rule.TWICE),
    (run_the_only_attempt_twice, Rule.TWICE),
    (try_the_only_attempt_again, Rule.COUNT),
    (run_a_synchronous_call_twice, Rule.TWICE),
    (accept_a_key_twice, Rule.TWICE),
    (accept_a_request_twice, Rule.TWICE),
    (try_again_after_a_success, Rule.TWICE),
    (leave_it_queued, Rule.UNFINISHED),
    (count_it_as_queued, Rule.UNFINISHED),
    (count_it_as_running, Rule.UNFINISHED),
    (run_after_the_cancellation, Rule.CANCELLED),
    (undo_the_cancellation, Rule.CHANGED),
    (change_what_was_told, Rule.CHANGED),
    (mix_up_the_payloads, Rule.CHANGED),
    (succeed_without_a_run, Rule.NOT_RUN),
    (lose_a_dead_letter, Rule.DEAD_LETTER),
    (keep_a_dead_letter_of_a_success, Rule.DEAD_LETTER),
    (keep_a_dead_letter_without_a_record, Rule.DEAD_LETTER),
    (lose_what_a_redrive_made, Rule.REDRIVE_LOST),
    (lose_a_redrive_that_was_not_answered, Rule.REDRIVE_LOST),
    (keep_what_was_redriven, Rule.REDRIVE_LOST),
    (redrive_twice, Rule.REDRIVE_DOUBLED),
    (answer_a_redrive_with_two, Rule.REDRIVE_DOUBLED),
    (lose_a_schedule, Rule.TICK_LOST),
    (lose_a_tick, Rule.TICK_LOST),
    (lose_a_tick_and_its_count, Rule.TICK_LOST),
    (forget_to_count_a_missed_tick, Rule.TICK_LOST),
    (lose_the_work_of_a_tick, Rule.TICK_LOST),
    (fire_a_tick_twice, Rule.TICK_DOUBLED),
    (make_one_work_for_two_ticks, Rule.TICK_DOUBLED),
    (count_a_tick_twice, Rule.TICK_DOUBLED),
    (miscount_the_invocations, Rule.COUNT),
    (miscount_the_dead_letters, Rule.COUNT),
    (leave_out_an_attempt, Rule.COUNT),
    (end_otherwise_than_the_last_attempt, Rule.COUNT),
]


def test_a_history_that_agrees_is_clean() -> None:
    verdict = Case().judge()
    assert verdict.is_clean, verdict.examples


@pytest.mark.parametrize(("mistake", "rule"), MISTAKES)
def test_mistaken_servers_are_found_out(mistake: Callable[[Case], None], rule: Rule) -> None:
    case = Case()
    mistake(case)
    verdict = case.judge()
    assert verdict.found[rule] >= 1, verdict
    assert not verdict.is_clean


def test_every_rule_has_a_mistake_that_breaks_it() -> None:
    assert {rule for _, rule in MISTAKES} == set(Rule)


def test_a_dead_letter_that_had_ended_well_on_a_lost_node_was_not_lost_by_a_redrive() -> None:
    """Its node was taken over, and once it is back the true end takes the place of what was made
    up. A redrive that was asked for meanwhile, and not answered, has made nothing.
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
        cuts = [(cut, cut + 1)]
        return judge_work(case.history, case.runs, case.seen, cuts, 0.5).found[Rule.CHANGED]

    assert found(TOLD_S + 0.4, change_what_was_told) == 0
    assert found(TOLD_S + 0.6, change_what_was_told) == 1
    assert found(TOLD_S + 0.4, undo_the_cancellation) == 1
