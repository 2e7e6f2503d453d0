"""Asynchronous invocations in a story: the queued ones, their possible outcomes, and operations on
queued invocations.

The rules are part of `story_machine.StoryMachine`; `look_at_work` checks the invariants after each
step of a story.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from service.story_model import (
    FINAL,
    INVOCATION,
    KnownFunction,
    Submitted,
    check_record,
    check_refusal,
)

if TYPE_CHECKING:
    from service.story_checks import StoryState

WHICH = st.integers(0, 3)
PAYLOADS = st.sampled_from(["ok", "exit 0", "exit 7", "exit 255", "sleep 0", "sleep 1"])
BACKOFFS = st.sampled_from([0, 0, 1])
WAIT_S, WAITS = 20, 150
RETRIED = ("failed", "timeout", "error", "interrupted")
some_work = precondition(lambda self: any(one.works for one in self.state.live.values()))
some_function = precondition(lambda self: bool(self.state.live))


class WorkRules:
    """Operations of callers on asynchronous invocations."""

    state: StoryState

    def pick(self, which: int) -> KnownFunction:
        raise NotImplementedError

    def suffer(self, function: KnownFunction, verb: str, which: int) -> None:
        raise NotImplementedError

    @some_function
    @rule(which=WHICH, payload=PAYLOADS, delay=st.integers(0, 3), count=st.integers(1, 3))
    def submit(self, which: int, payload: str, delay: int, count: int) -> None:
        function = self.pick(which)
        for _ in range(count):
            self._submit(function, payload, delay)

    def _submit(self, function: KnownFunction, payload: str, delay: int) -> None:
        driver = self.state.driver
        word, _, slow = payload.partition(" ")
        if word == "sleep":
            payload = f"sleep {driver.slow[int(slow)]:g}"
        seconds = driver.delays[delay]
        due = driver.unix() + seconds
        path = f"{function.path}/invoke?mode=async" + (f"&delay_seconds={seconds}" * bool(seconds))
        before = function.state
        answer = driver.call("POST", path, {"payload": payload})
        body = answer.json()
        if answer.status_code != 202:
            assert check_refusal(body, answer.status_code) == "FUNCTION_NOT_ACTIVE", body
            assert before in ("pending", "error", "deploying"), f"it was {before}: {body}"
            return
        assert before not in ("pending", "error"), f"it was {before}, and took work"
        assert (body["status"], body["started_at"]) == ("queued", None), body
        self._queued(function, body["invocation_id"], payload, due)

    def _queued(self, function: KnownFunction, number: str, payload: str, due: float) -> None:
        self.state.new_id(number)
        attempts, versions = {function.attempts}, {function.current}
        function.works[number] = Submitted(number, payload, due, versions, attempts)

    @some_function
    @rule(
        which=WHICH,
        payload=PAYLOADS,
        count=st.integers(1, 4),
        attempts=st.integers(1, 3),
        verb=st.sampled_from(["pause", "delete", "end", "kill", "lose", "content", "cancel", ""]),
        again=st.booleans(),
    )
    def change_under_work(
        self, which: int, payload: str, count: int, attempts: int, verb: str, again: bool
    ) -> None:
        function = self.pick(which)
        self._set_policy(function, attempts, 0, alone=False)
        for _ in range(count):
            self._submit(function, payload, 0)
        self.state.driver.wait(self.state.driver.slow[0] / 2)
        if verb == "cancel":
            for work in function.unfinished[:2]:
                self._cancel(function, work)
        elif verb:
            self.suffer(function, verb, count)
        if function.name in self.state.live and self.state.live[function.name] is function:
            self.state.look()
            if again:
                finish(self.state)
                self.state.look()
                self._redrive(function, every=True, drop=False)

    @some_function
    @rule(which=WHICH, attempts=st.integers(1, 3), first=BACKOFFS, alone=st.booleans())
    def set_policy(self, which: int, attempts: int, first: int, alone: bool) -> None:
        self._set_policy(self.pick(which), attempts, first, alone=alone)

    def _set_policy(
        self, function: KnownFunction, attempts: int, first: int, *, alone: bool
    ) -> None:
        backoff = {"first": first, "jitter": 0}
        body: dict[str, Any] = {"max_attempts": attempts, "backoff_seconds": backoff}
        body["max_concurrency"] = 1 if alone else None
        self.state.good("PUT", f"{function.path}/async-policy", body)
        function.attempts = attempts
        for work in function.unfinished:
            work.attempts.add(attempts)

    @some_work
    @rule(which=WHICH, number=st.integers(0, 9))
    def cancel(self, which: int, number: int) -> None:
        functions = [one for one in self.state.live.values() if one.works]
        function = functions[which % len(functions)]
        works = function.unfinished or list(function.works.values())
        self._cancel(function, works[number % len(works)])

    def _cancel(self, function: KnownFunction, work: Submitted) -> None:
        path = f"{function.path}/invocations/{work.id}"
        was_over = work.final is not None
        answer = self.state.driver.call("POST", f"{path}/cancel")
        if answer.status_code == 200:
            assert not was_over, f"it was over: {work}"
            assert answer.json()["status"] == "cancelled", answer.text
            work.is_cancelled, work.rests = True, False
            shown = self.state.good("GET", path)
            assert shown == answer.json(), f"it was cancelled, and is {shown}"
            return
        self.state.refused("CONFLICT", 409, answer)
        if not answer.json()["retry_after"]:
            assert self.state.good("GET", path)["status"] in FINAL, answer.text

    @some_work
    @rule(which=WHICH, every=st.booleans(), drop=st.booleans())
    def redrive(self, which: int, every: bool, drop: bool) -> None:
        functions = [one for one in self.state.live.values() if one.works]
        self._redrive(functions[which % len(functions)], every=every, drop=drop)

    def _redrive(self, function: KnownFunction, *, every: bool, drop: bool) -> None:
        state = self.state
        path, dead = f"{function.path}/dead-letters", sorted(function.dead)
        if drop and dead:
            state.good("DELETE", f"{path}/{dead[0]}", status=204)
            state.refused("NOT_FOUND", 404, state.driver.call("DELETE", f"{path}/{dead[0]}"))
            function.dead.remove(dead.pop(0))
        # An invocation that ends at the same time would make the outcome ambiguous.
        every = every and not function.unfinished
        chosen = dead if every else dead[:1]
        if not every and not chosen:
            return
        body: dict[str, Any] = {"all": True} if every else {"invocation_ids": chosen}
        # The invocation may already run when it is checked.
        before, due = function.state, state.driver.unix()
        answer = state.driver.call("POST", f"{path}/redrive", body)
        if answer.status_code != 200:
            assert check_refusal(answer.json(), answer.status_code) == "FUNCTION_NOT_ACTIVE"
            assert before in ("pending", "error", "deploying"), f"it was {before}: {answer.text}"
            return
        done, payloads = answer.json(), Counter[str]()
        for number in done["invocation_ids"]:
            given = state.good("GET", f"{function.path}/invocations/{number}/input")
            assert given["source"] == "redrive", given
            payloads[given["payload"]] += 1
            self._queued(function, number, given["payload"], due)
        assert done["redriven"] == payloads.total(), done
        asked = Counter(function.works[one].payload for one in chosen)
        assert payloads == asked, f"{asked} were to be redriven, and {payloads} were"
        function.dead -= set(chosen)


def dead_letters(state: StoryState, function: KnownFunction) -> list[dict[str, Any]]:
    page = state.good("GET", f"{function.path}/dead-letters?limit=1000")
    found: list[dict[str, Any]] = page["dead_letters"]
    return found


def look_at_work(state: StoryState, function: KnownFunction, found: dict[str, Any]) -> None:
    """`found`: the function's records by their ids."""
    if not function.works:
        return
    for work in list(function.unfinished):
        assert work.id in found, f"{work} was accepted and is no record"
        record = found[work.id]
        assert set(record) - {"attempt"} == INVOCATION, record
        look_at_one(state, function, work, record)
    look_at_dead_letters(state, function)


def look_at_one(
    state: StoryState, function: KnownFunction, work: Submitted, record: dict[str, Any]
) -> None:
    """Checks an asynchronous invocation that had not ended at the last check."""
    status, path = record["status"], f"{function.path}/invocations/{work.id}"
    if status in FINAL:
        check_end(function, work, record)
        attempts = state.good("GET", f"{path}/attempts")["attempts"]
        check_attempts(work, record, attempts)
        runs = state.driver.runs(work.id)
        if runs is not None:
            assert runs <= len(attempts), f"it ran {runs} times: {work}, {attempts}"
            assert runs >= 1 or status not in ("success", "failed"), f"it never ran: {record}"
        work.final = status
        function.answers[work.id] = record
        state.heard[f"work {status}"] += 1
        state.heard["retries"] += max(0, len(attempts) - 1)
        if status not in ("success", "cancelled"):
            function.dead.add(work.id)
        return
    assert status in ("queued", "running"), record
    assert not work.is_cancelled, f"it was cancelled: {record}"
    if status == "running":
        assert state.driver.unix() >= int(work.due), f"it runs before its time: {work}"
    assert status == "queued" or not work.rests, f"it began while its function paused: {record}"
    work.rests = status == "queued" and function.state == "paused"


def check_end(function: KnownFunction, work: Submitted, record: dict[str, Any]) -> None:
    """Checks that an asynchronous invocation may have ended like this."""
    status = record["status"]
    assert work.is_cancelled == (status == "cancelled"), f"{work}: {record}"
    if status in ("success", "failed", "timeout"):
        check_record(function, work.payload, work.versions, record)
        assert record["started_at"] >= int(work.due), f"it ran before its time: {work}, {record}"
    elif status == "error":
        assert work.is_hurt, f"there was no reason for {record}"
    elif status == "interrupted":
        assert work.is_stopped, f"there was no reason for {record}"
    else:
        assert status == "cancelled", record


def check_attempts(work: Submitted, record: dict[str, Any], attempts: list[Any]) -> None:
    """Checks the attempts of an ended invocation: their number is what its policies required, and
    each has a reason.
    """
    text = f"{work}: {record}, {attempts}"
    assert [one["attempt"] for one in attempts] == list(range(1, len(attempts) + 1)), text
    assert len(attempts) <= max(work.attempts), f"more attempts than its policies allow: {text}"
    if record["status"] != "cancelled":
        assert attempts, text
        assert attempts[-1]["status"] == record["status"], text
        attempts, last = attempts[:-1], len(attempts)
        if record["status"] != "success":
            assert last >= min(work.attempts), f"given up too soon: {text}"
    else:
        attempts = [one for one in attempts if one["status"] != "cancelled"]
    assert all(one["status"] in RETRIED for one in attempts), text


def look_at_dead_letters(state: StoryState, function: KnownFunction) -> None:
    listed = dead_letters(state, function)
    ids = {one["invocation_id"] for one in listed}
    assert len(ids) == len(listed), f"a dead letter is listed twice: {listed}"
    assert all(one["reason"] == "attempts" for one in listed), listed
    lost = function.dead - ids
    assert not lost, f"{lost} were given up and are no dead letters: {listed}"
    strange = ids - function.dead - {one.id for one in function.unfinished}
    assert not strange, f"{strange} were not given up, or redriven: {listed}"


def finish(state: StoryState) -> None:
    """Waits until all asynchronous invocations have ended that can end."""
    for function in list(state.live.values()):
        for work in list(function.unfinished):
            path = f"{function.path}/invocations/{work.id}?wait_seconds={WAIT_S}"
            for _ in range(WAITS):
                if state.current(function)["state"] not in ("active", "deploying"):
                    break
                if state.good("GET", path)["status"] in FINAL:
                    break
            else:
                raise AssertionError(f"it never ends: {work}; {state.stats()}")


def look_at_queue(state: StoryState, function: KnownFunction) -> None:
    """Checks, once all invocations have ended, that the counts match the queue."""
    queue = state.good("GET", f"{function.path}/queue")
    waits = len(function.unfinished)
    assert queue["running"] == 0, queue
    assert queue["queued"] + queue["delayed"] == waits, f"{queue}, and {function.unfinished}"
    assert queue["dead_letters"] == len(function.dead), f"{queue}, and {function.dead}"
    assert (queue["oldest_age_seconds"] is None) == (queue["queued"] == 0), queue
