"""A story's model of the functions that it has created, and the responses that this model
allows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from service.story_driver import NOWHERE, Running, handler

INVOCATION = {
    *("invocation_id", "function_id", "function_name", "execution_node_id", "status"),
    *("started_at", "ended_at", "duration_ms", "exit_code", "stdout", "stderr"),
    *("error_message", "cold_start"),
}
FINAL = {"success", "failed", "timeout", "oom", "cancelled", "error", "interrupted"}
# The possible refusals of an invocation, with their codes.
REFUSALS = {
    ("FUNCTION_NOT_ACTIVE", 409),
    ("NOT_FOUND", 404),
    ("CAPACITY_FULL", 503),
    ("RUNTIME_UNAVAILABLE", 503),
    ("SHUTTING_DOWN", 503),
}
WITH_RETRY_AFTER = {"CAPACITY_FULL", "SHUTTING_DOWN"}


@dataclass(frozen=True)
class Kind:
    """The properties of a version that stories change."""

    mark: str
    stands: bool = True
    timeout_seconds: int = 60

    def body(self) -> dict[str, Any]:
        return {
            "handler": handler(self.mark),
            "working_directory": None if self.stands else NOWHERE,
            "timeout_seconds": self.timeout_seconds,
        }


@dataclass
class Submitted:
    """An asynchronous invocation. `due`: its earliest start, in Unix seconds. `versions`,
    `attempts`: since it was accepted, the versions that were current, and the numbers of attempts
    that the policy allowed. `final`: its final status, once seen. `rests`: whether, at the last
    check, it was queued and its function was paused.
    """

    id: str
    payload: str
    due: float
    versions: set[int]
    attempts: set[int]
    final: str | None = None
    is_cancelled: bool = False
    is_hurt: bool = False
    is_stopped: bool = False
    rests: bool = False


@dataclass
class KnownFunction:
    """One function, according to its story.

    `bound`: the maximum number of instances; it falls to `high` as instances end. `is_ill`: whether
    error_message must be set; None: it may be. `answers`: the records of acknowledged invocations
    by id, either complete or only with the status. `unanswered`: the number of invocations whose
    response nobody got; `lost`: those of them whose id is known from another node. `is_changed`:
    whether the function changed since its versions were last checked. `works`: its asynchronous
    invocations by id; `dead`: the dead letters among them. `attempts`: the maximum of its policy.
    """

    id: str
    name: str
    key: str
    versions: dict[int, Kind]
    low: int
    high: int
    state: str = "pending"
    current: int = 1
    is_ill: bool | None = False
    bound: int = 0
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    unanswered: int = 0
    lost: set[str] = field(default_factory=set)
    is_changed: bool = True
    works: dict[str, Submitted] = field(default_factory=dict)
    dead: set[str] = field(default_factory=set)
    attempts: int = 1

    def __post_init__(self) -> None:
        self.bound = self.high

    @property
    def path(self) -> str:
        return f"/api/functions/{self.id}"

    @property
    def unfinished(self) -> list[Submitted]:
        """The asynchronous invocations whose end was not seen yet."""
        return [one for one in self.works.values() if one.final is None]

    @property
    def newest(self) -> int:
        return max(self.versions)

    def limit(self, low: int, high: int) -> None:
        """Sets new targets, which existing instances may exceed while they are busy."""
        self.low, self.high, self.bound = low, high, max(high, self.bound)


@dataclass
class Under:
    """An invocation that is in progress. Events during this time justify some refusals. `versions`:
    the versions that were current since it began.
    """

    function: KnownFunction
    running: Running
    payload: str
    versions: set[int]
    was_alone: bool
    states: set[str]
    is_hurt: bool = False
    is_stopped: bool = False


def check_refusal(body: dict[str, Any], status: int) -> str:
    """Checks that a refusal has the promised form; returns its code."""
    assert set(body) == {
        *("error", "error_code", "request_id", "details", "retry_after", "hint"),
    }, body
    code: str = body["error_code"]
    assert (code, status) in REFUSALS, f"{status} {body}"
    if code in WITH_RETRY_AFTER:
        assert body["retry_after"], body
    if code == "FUNCTION_NOT_ACTIVE":
        assert body["details"]["state"] in ("pending", "deploying", "paused", "error"), body
    return code


def check_record(
    function: KnownFunction, payload: str, versions: set[int], record: dict[str, Any]
) -> None:
    """Checks that an invocation's end is that of its handler, on a possible version."""
    # only records of later attempts have `attempt`
    assert set(record) - {"attempt"} == INVOCATION, record
    assert record["function_id"] == function.id
    assert record["started_at"] is not None
    assert record["ended_at"] >= record["started_at"]
    status, code = record["status"], record["exit_code"]
    word, _, argument = payload.partition(" ")
    if status == "timeout":
        assert word == "sleep", record
        assert code is None, record
        return
    expected = int(argument) if word == "exit" else 0
    assert (status, code) == ("failed" if expected else "success", expected), record
    assert (record["error_message"] is None) == (status == "success"), record
    allowed = {f"{function.versions[one].mark} {one}\n" for one in versions}
    assert record["stdout"] in allowed, f"{record['stdout']!r} is none of {allowed}"
