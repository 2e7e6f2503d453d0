"""The responses to clients during a storm, compared with the server's data afterwards.

This module has no input or output: a storm (storms.py) records its requests and responses, and
compares at the end. Each client changes only its own functions and tokens, so acknowledged changes
have one order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from quiltfn.model.end_cause import NODE_LOST

Record = dict[str, Any]
FINAL = {"success", "failed", "timeout", "oom", "cancelled", "error", "interrupted"}


@dataclass
class Call:
    """One invocation with a unique payload. `at`: the time of each response, by the monotonic
    clock. `key`: the Idempotency-Key of all its requests, if it has one.
    """

    token: str
    function: str
    key: str | None = None
    answers: list[tuple[float, Record]] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)


def is_spent(status: int, body: Record | None) -> bool:
    """Whether the key has a permanent response: its first request ended together with
    the server.
    """
    return (
        status == 503
        and body is not None
        and body["error_code"] == "SHUTTING_DOWN"
        and body["retry_after"] is None
    )


@dataclass
class Owned:
    """A function that one client changes. `sent`: sent descriptions that were never
    acknowledged.
    """

    name: str
    id: str | None = None
    description: str | None = None
    sent: list[str] = field(default_factory=list)
    is_deleted: bool = False
    asked_to_delete: bool = False


@dataclass
class History:
    calls: list[Call] = field(default_factory=list)
    functions: list[Owned] = field(default_factory=list)

    def acknowledged(self) -> int:
        return sum(len(call.answers) for call in self.calls)


@dataclass
class Seen:
    """The server's data. `records` by function, newest first; `functions` by name."""

    records: dict[str, list[Record]]
    functions: dict[str, Record]


@dataclass
class Verdict:
    """How often each rule was broken, with examples."""

    lost: int = 0
    changed: int = 0
    twice: int = 0
    never_final: int = 0
    disorder: int = 0
    functions: int = 0
    lost_late: int = 0  # allowed losses, which were acknowledged shortly before a power cut
    # the longest time from the acknowledgement of a lost change to the power cut
    oldest_late_s: float = 0.0
    examples: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.examples

    def note(self, field: str, example: str) -> None:
        setattr(self, field, getattr(self, field) + 1)
        if len(self.examples) < 40:
            self.examples.append(f"{field}: {example}")

    def __str__(self) -> str:
        late = ""
        if self.lost_late:
            late = (
                f" ({self.lost_late} in the last {self.oldest_late_s * 1000:.0f} ms before a cut)"
            )
        return (
            f"lost {self.lost}{late}, changed {self.changed}, run twice {self.twice}, never final "
            f"{self.never_final}, out of order {self.disorder}, functions wrong {self.functions}"
        )


def judge(
    history: History,
    seen: Seen,
    cuts: Iterable[tuple[float, float]] = (),
    may_lose_s: float = 0.0,
) -> Verdict:
    """Compares responses and data. `cuts`: for each power cut, its time and the time at which the
    server was dead. A change may be lost if it was acknowledged less than `may_lose_s` before the
    cut, or between the cut and the server's death.
    """
    verdict = Verdict()
    cuts = list(cuts)
    by_id = {one["invocation_id"]: one for records in seen.records.values() for one in records}
    by_token = defaultdict(list)
    for record in by_id.values():
        if record["stdout"]:
            by_token[record["stdout"].strip()].append(record)
    for call in history.calls:
        _judge_call(call, by_id, by_token, verdict, lambda at: lateness(at, cuts, may_lose_s))
    for records in seen.records.values():
        _judge_records(records, verdict)
    for owned in history.functions:
        _judge_function(owned, seen.functions.get(owned.name), verdict)
    return verdict


def lateness(at: float, cuts: list[tuple[float, float]], may_lose_s: float) -> float | None:
    """The time from `at` to the power cut that may have caused the loss; None: there is no such
    cut.
    """
    ages = (max(0.0, cut - at) for cut, dead in cuts if cut - may_lose_s <= at <= dead)
    return next(ages, None)


def gives_way(record: Record) -> bool:
    """Whether another node has recorded this end on behalf of a lost node, whose own record may
    arrive later.
    """
    return record["status"] == "interrupted" and record.get("error_message") == NODE_LOST.sentence


def _judge_call(
    call: Call,
    by_id: dict[str, Record],
    by_token: dict[str, list[Record]],
    verdict: Verdict,
    late_by: Callable[[float], float | None],
) -> None:
    ids = {answer["invocation_id"] for _, answer in call.answers}
    if call.key is not None and (len(ids) > 1 or len(by_token[call.token]) > 1):
        verdict.note("twice", f"{call.token}: answered {ids}, {len(by_token[call.token])} records")
    for at, answer in call.answers:
        kept = by_id.get(answer["invocation_id"])
        if answer["status"] == "success" and answer["stdout"].strip() != call.token:
            verdict.note("changed", f"{call.token} was told {answer['stdout']!r}")
        if kept is None:
            late = late_by(at)
            if late is not None:
                verdict.lost_late += 1
                verdict.oldest_late_s = max(verdict.oldest_late_s, late)
            else:
                verdict.note("lost", f"{call.token}: {answer['invocation_id']}")
        elif kept != answer and not (
            gives_way(answer) or (late_by(at) is not None and kept["status"] == "interrupted")
        ):
            verdict.note("changed", f"{call.token} was told {answer}, kept is {kept}")


def _judge_records(records: list[Record], verdict: Verdict) -> None:
    """Checks the order of records, newest first: ids show the order of invocations, and the times
    in the records must not contradict it.
    """
    for record in records:
        if record["status"] not in FINAL:
            verdict.note("never_final", f"{record['invocation_id']} is {record['status']}")
        began, ended = record["started_at"], record["ended_at"]
        if began is not None and ended is not None and ended < began:
            verdict.note("disorder", f"{record['invocation_id']} ended before it began")
    ids = [one["invocation_id"] for one in records]
    if ids != sorted(ids, reverse=True):
        verdict.note("disorder", "a list of records is not in the order of their ids")
    if len(ids) != len(set(ids)):
        verdict.note("twice", "an id stands twice in a list of records")


def _judge_function(owned: Owned, kept: Record | None, verdict: Verdict) -> None:
    if kept is None:
        if owned.id is not None and not owned.asked_to_delete:
            verdict.note("functions", f"{owned.name} is lost")
    elif owned.is_deleted:
        verdict.note("functions", f"{owned.name} is back after its deletion")
    elif owned.id is not None and kept["description"] not in {owned.description, *owned.sent}:
        expected = f"{owned.description!r} or one of {owned.sent}"
        verdict.note("functions", f"{owned.name}: {kept['description']!r}, not {expected}")
