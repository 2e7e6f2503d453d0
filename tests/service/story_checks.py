"""The invariants to check after every step of a story."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from service.story_driver import Driver
from service.story_model import (
    FINAL,
    KnownFunction,
    Submitted,
    Under,
    check_record,
    check_refusal,
)
from service.story_work import finish, look_at_queue, look_at_work

FUNCTIONS = "/api/functions"
POOL = ("warming_count", "ready_count", "busy_count")
STATES = ("warming", "ready", "busy", "recycling", "terminating")
COUNTED = ("invocation_count", "error_count", "last_invoked_at")
EMPTY_WITHIN_S, CANCELLED_WITHIN_S, REST_WITHIN_S = 5.0, 7.0, 12.0
COUNTED_WITHIN_S = 8.0  # the time within which the counts of several nodes agree with the records


@dataclass
class StoryState:
    """A server, and its history so far."""

    driver: Driver
    live: dict[str, KnownFunction] = field(default_factory=dict)
    gone: list[KnownFunction] = field(default_factory=list)
    under: list[Under] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    pools: dict[str, Any] = field(default_factory=dict)
    made: int = 0
    heard: Counter[str] = field(default_factory=Counter)

    # Requests --------------------------------------------------------------------------------

    def good(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        answer = self.driver.call(method, path, body)
        assert answer.status_code == status, f"{method} {path}: {answer.text}"
        return answer.json() if answer.content else None

    def refused(self, code: str, status: int, answer: httpx.Response) -> None:
        assert (answer.status_code, answer.json()["error_code"]) == (status, code), answer.text

    def until(self, holds: Callable[[], bool], timeout_s: float, message: str) -> None:
        """Lets time pass until the condition holds."""
        passed, step = 0.0, 0.02
        while not holds():
            assert passed < timeout_s, f"not within {timeout_s} s: {message}; {self.stats()}"
            self.driver.wait(step)
            passed, step = passed + step, min(2 * step, 0.5)

    def calls(self, function: KnownFunction) -> list[Under]:
        """The function's invocations that may still be running."""
        return [one for one in self.under if one.function is function and not one.running.done()]

    def is_busy(self, function: KnownFunction) -> bool:
        """Whether an invocation of the function may still be running."""
        return bool(self.calls(function) or function.unfinished)

    def unfinished(self) -> list[Submitted]:
        return [work for one in self.live.values() for work in one.unfinished]

    def note(self, function: KnownFunction, state: str | None = None) -> None:
        """Notes a change of the function, possibly while invocations are running."""
        function.is_changed = True
        if state is not None:
            function.state = state
        for call in self.under:
            if call.function is function:
                call.versions.add(function.current)
                call.states.add(function.state)
        for work in function.unfinished:
            work.versions.add(function.current)
            work.rests = False

    def new_id(self, key: str) -> None:
        assert key not in self.ids, f"the id {key} was given twice"
        self.ids.add(key)

    # The ends of invocations ---------------------------------------------------------------------

    def ended(self, call: Under, answer: httpx.Response | None) -> None:
        """Checks that an invocation may have ended like this, after everything that happened to
        it.
        """
        function = call.function
        if answer is None:
            assert call.is_stopped, "the connection ended, and nobody stopped the server"
            function.unanswered += 1
            self.heard["unanswered"] += 1
            return
        number = answer.headers.get("x-invocation-id")
        body = answer.json()
        self.heard[body["status"] if answer.status_code == 200 else body["error_code"]] += 1
        if answer.status_code == 200:
            self.new_id(body["invocation_id"])
            assert number == body["invocation_id"]
            assert call.states & {"active", "deploying"}, f"it was {call.states}, and ran: {body}"
            if body["status"] == "cancelled":
                assert "deleted" in call.states, body
            else:
                check_record(function, call.payload, call.versions, body)
            function.answers[number] = body
            return
        code = check_refusal(body, answer.status_code)
        excuses = {
            "FUNCTION_NOT_ACTIVE": call.states != {"active"},
            "NOT_FOUND": "deleted" in call.states,
            "CAPACITY_FULL": not call.was_alone,
            "RUNTIME_UNAVAILABLE": call.is_hurt or (call.is_stopped and self.driver.is_fleet),
            "SHUTTING_DOWN": call.is_stopped,
        }
        assert excuses[code], f"there was no reason for {answer.text} ({call})"
        if number is not None and code == "RUNTIME_UNAVAILABLE" and call.is_stopped:
            # The end is unknown until the node reports it, or the one that takes this node over.
            function.unanswered += 1
            function.lost.add(number)
        elif number is not None:
            status = {"RUNTIME_UNAVAILABLE": "error", "SHUTTING_DOWN": "interrupted"}[code]
            function.answers[number] = {"status": status}

    def join(self, call: Under) -> None:
        self.under.remove(call)
        if "deleted" in call.states:
            self.until(call.running.done, CANCELLED_WITHIN_S, "the call of what was deleted")
        self.ended(call, call.running.answer())

    # After every step ------------------------------------------------------------------------

    def look(self) -> None:
        """Checks all invariants after a step."""
        assert not self.driver.complaints(), "\n".join(self.driver.complaints())
        # The invocations that may be running are noted first: one may end while records are read,
        # but an ended invocation stays ended.
        running = {one.id: len(self.calls(one)) for one in self.live.values()}
        listed, records = self._steady()
        assert list(listed) == sorted(one.id for one in self.live.values())
        for function in self.live.values():
            self.look_at(function, listed[function.id])
            found = records[function.id]
            look_at_work(self, function, {one["invocation_id"]: one for one in found})
            self.look_at_records(function, listed[function.id], found, running[function.id])
            if function.is_changed:
                self.look_at_versions(function)
                function.is_changed = False
        self.until(self._add_up, EMPTY_WITHIN_S, "pools that add up to the sums")
        for function in self.live.values():
            self.look_at_pool(function)
        for function in self.gone[-1:]:
            self.refused("NOT_FOUND", 404, self.driver.call("GET", function.path))

    def _steady(self) -> tuple[dict[str, Any], dict[str, list[Any]]]:
        """Functions and their records, read at a time when no invocation ended."""
        listed = self.good("GET", FUNCTIONS)["functions"]
        while True:
            records = {one.id: self._records(one.path) for one in self.live.values()}
            before, listed = listed, self.good("GET", FUNCTIONS)["functions"]
            if listed == before:
                return {one["id"]: one for one in listed}, records

    def _records(self, path: str) -> list[Any]:
        """All records of a function, page by page: a page may end early on a busy machine."""
        found: list[Any] = []
        more = ""
        while True:
            page = self.good("GET", f"{path}/invocations?limit=1000{more}")
            found += page["invocations"]
            if page["next_cursor"] is None:
                return found
            more = f"&cursor={page['next_cursor']}"

    def current(self, function: KnownFunction) -> dict[str, Any]:
        """The function as shown by GET; a deployment may have ended meanwhile."""
        shown: dict[str, Any] = self.good("GET", function.path)
        self.hear(function, shown)
        return shown

    def hear(self, function: KnownFunction, shown: dict[str, Any]) -> None:
        if function.state == "deploying" and shown["state"] in ("active", "error"):
            assert (shown["state"] == "active") == function.versions[function.current].stands
            function.is_ill = shown["state"] == "error"
            self.note(function, shown["state"])

    def look_at(self, function: KnownFunction, shown: dict[str, Any]) -> None:
        """Checks the function's fields."""
        self.hear(function, shown)
        kind = function.versions[function.current]
        expected = kind.body() | {
            "id": function.id,
            "name": function.name,
            "state": function.state,
            "current_version": function.current,
            "min_instances": function.low,
            "max_instances": function.high,
        }
        assert {name: shown[name] for name in expected} == expected
        if function.is_ill is not None:
            assert (shown["error_message"] is not None) == function.is_ill, shown

    def look_at_records(
        self, function: KnownFunction, shown: dict[str, Any], records: list[Any], running: int
    ) -> None:
        """Checks the function's records and their sums: each acknowledged invocation has a record,
        and each record belongs to a request of this story.
        """
        found = {one["invocation_id"]: one for one in records}
        assert len(found) == len(records), "a record is listed twice"
        ended = {one for one, record in found.items() if record["status"] in FINAL}
        failed = {one for one in ended if found[one]["status"] != "success"}
        counted, recorded = (
            (shown["invocation_count"], shown["error_count"]),
            (len(ended), len(failed)),
        )
        if self.driver.is_fleet:  # counts of other nodes arrive later: see `_is_counted`
            assert all(one <= other for one, other in zip(counted, recorded, strict=True)), shown
        else:
            assert counted == recorded, f"{shown}, but these are its records: {records}"
        for number, answer in function.answers.items():
            assert number in found, f"{answer} was acknowledged and is no record"
            kept = {name: found[number][name] for name in answer}
            assert kept == answer, f"{kept} is another than the one that was acknowledged: {answer}"
        pending = sum(one.function is function for one in self.under)
        strange = found.keys() - function.answers.keys() - function.works.keys()
        assert len(strange) <= pending + function.unanswered, f"nobody made all of these: {found}"
        alive = found.keys() - ended - function.works.keys()
        assert len(alive) <= running, f"nobody waits for all of these: {found}"

    def look_at_versions(self, function: KnownFunction) -> None:
        versions = self.good("GET", f"{function.path}/versions")["versions"]
        numbers = [one["version"] for one in versions]
        assert numbers == sorted(function.versions, reverse=True), numbers
        assert len({one["id"] for one in versions}) == len(versions)
        active = [one["version"] for one in versions if one["is_active"]]
        assert active == [function.current], f"active: {active}, not {function.current}"
        for version in versions:
            body = function.versions[version["version"]].body()
            assert {name: version[name] for name in body} == body
            assert version["function_id"] == function.id

    def pool(self, function: KnownFunction) -> dict[str, Any]:
        pool: dict[str, Any] = self.good("GET", f"{function.path}/pool")
        assert set(pool) == {"function_id", "total_count", *POOL}
        assert pool["function_id"] == function.id
        assert pool["total_count"] == sum(pool[name] for name in POOL), pool
        return pool

    def look_at_pool(self, function: KnownFunction) -> None:
        pool = self.pools[function.id]
        # Another node may already have started an instance in place of an ended one.
        if self.driver.is_fleet:
            pool = self._settled_pool(function)
        now, most = self.driver.of_function(function.key) or (pool["total_count"],) * 2
        assert pool["total_count"] <= function.bound, f"{pool}, at most {function.bound}"
        assert most <= function.bound, f"there were {most} sandboxes, at most {function.bound}"
        function.bound = max(function.high, min(function.bound, now))
        if function.state in ("pending", "paused", "error"):
            self.until(lambda: self._is_empty(function), EMPTY_WITHIN_S, "an empty pool")

    def _settled_pool(self, function: KnownFunction) -> dict[str, Any]:
        """The function's pool. In a fleet, waits until its counts are within the bound, since one
        node's data on others may be outdated.
        """
        answers = [self.pools[function.id]]

        def is_within() -> bool:
            answers.append(self.pool(function))
            return bool(answers[-1]["total_count"] <= function.bound)

        self.until(is_within, EMPTY_WITHIN_S, f"at most {function.bound} in {answers}")
        return answers[-1]

    def _is_empty(self, function: KnownFunction) -> bool:
        pool = self.pool(function)
        busy = pool["busy_count"] and not self.is_busy(function)
        return not (pool["ready_count"] or pool["warming_count"] or busy)

    def stats(self) -> dict[str, int]:
        stats: dict[str, int] = self.good("GET", f"{FUNCTIONS}/pool/stats")
        for name in ("total", *STATES):
            assert stats[f"{name}_count"] == stats[f"{name}_containers"], stats
        assert stats["total_count"] == sum(stats[f"{name}_count"] for name in STATES), stats
        return stats

    def _add_up(self) -> bool:
        """Whether the pools add up to the tenant's sums; a change between the requests hides it."""
        self.pools = {one.id: self.pool(one) for one in self.live.values()}
        stats = self.stats()
        busy = stats["busy_count"] + stats["recycling_count"]
        counts = (stats["warming_count"], stats["ready_count"], busy)
        return counts == tuple(sum(one[name] for one in self.pools.values()) for name in POOL)

    # At rest ---------------------------------------------------------------------------------

    def rest(self) -> None:
        """Checks, once all invocations have ended, that the counts match the records, and that
        nothing is stuck.
        """
        for call in list(self.under):
            self.join(call)
        finish(self)
        self.until(self._is_at_rest, REST_WITHIN_S, "rest")
        for function in self.gone:
            held = self.driver.of_function(function.key)
            assert held is None or held[0] == 0, f"{function.name} was deleted and is alive"
        self.look()
        for function in self.live.values():
            look_at_queue(self, function)
            if self.driver.is_fleet:
                self.until(partial(self._is_counted, function), COUNTED_WITHIN_S, "counters")

    def _is_counted(self, function: KnownFunction) -> bool:
        """Whether the function's counts match its records, including those of lost nodes."""
        shown = self.current(function)
        records = self._records(function.path)  # a paused function's queued invocations stay queued
        ends = {one["invocation_id"]: one["status"] for one in records if one["status"] in FINAL}
        failed = sum(one != "success" for one in ends.values())
        is_known = function.lost <= ends.keys()
        return is_known and (shown["invocation_count"], shown["error_count"]) == (len(ends), failed)

    def _is_at_rest(self) -> bool:
        stats = self.stats()
        # Instances kept for a rollback count as warming, and may stay.
        moving = any(stats[f"{name}_count"] for name in ("busy", "recycling", "terminating"))
        for function in self.live.values():
            self.current(function)
            if function.state == "deploying":
                return False
            if function.state == "active" and self.pool(function)["ready_count"] < function.low:
                return False
        return not moving and self.driver.sandboxes() == stats["total_count"]
