"""Events that happen in a tenant, for its followers. They contain no payload and no output, except
the text of the handler that the cause of a failure quotes.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from quiltfn.model.end_cause import cause_data
from quiltfn.model.function import Function, FunctionState
from quiltfn.model.invocation import Invocation


class EventType(StrEnum):
    """What an event reports."""

    FUNCTION_CREATED = "function.created"
    FUNCTION_UPDATED = "function.updated"
    FUNCTION_DEPLOYED = "function.deployed"
    FUNCTION_PAUSED = "function.paused"
    FUNCTION_ROLLED_BACK = "function.rolled_back"
    FUNCTION_ERROR = "function.error"
    FUNCTION_DELETED = "function.deleted"
    INVOCATION_STARTED = "invocation.started"
    INVOCATION_ENDED = "invocation.ended"
    CALLS = "calls"
    POOL = "pool"
    QUEUE = "queue"
    SCHEDULE_FIRED = "schedule.fired"
    ALIAS_ROLLED_BACK = "alias.rolled_back"
    GAP = "gap"
    RESET = "reset"


E = EventType
# Every reader gets these events, which report that it has missed others.
ALWAYS = frozenset((E.GAP, E.RESET))
GROUPS: dict[str, frozenset[EventType]] = {
    "function": frozenset(one for one in E if one.startswith("function.")),
    # a `calls` event sums up starts and ends without events of their own
    "invocation": frozenset((E.INVOCATION_STARTED, E.INVOCATION_ENDED, E.CALLS)),
    "schedule": frozenset((E.SCHEDULE_FIRED,)),
    "alias": frozenset((E.ALIAS_ROLLED_BACK,)),
}
# The words by which a reader may select events.
WORDS = (*GROUPS, *(one for one in E if one not in ALWAYS))


def types_of(words: Collection[str]) -> frozenset[EventType]:
    """The event types that some of the `WORDS` stand for."""
    found: set[EventType] = set()
    for word in words:
        found |= GROUPS.get(word) or {EventType(word)}
    return frozenset(found)


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event. `id`: the boot's epoch and an increasing number. `data`: JSON in one line."""

    id: str
    type: EventType
    data: bytes


class CallSummary(msgspec.Struct, kw_only=True):
    """Summary of a function's invocations whose starts and ends get no event of their own."""

    started: int = 0
    cold_starts: int = 0
    ended: Counter[str] = msgspec.field(default_factory=Counter)
    duration_ms: int = 0
    longest_ms: int = 0

    @property
    def count(self) -> int:
        """The number of starts and ends."""
        return self.started + self.ended.total()

    def add_start(self, *, cold_start: bool) -> None:
        self.started += 1
        self.cold_starts += cold_start

    def add_end(self, status: str, duration_ms: int | None) -> None:
        self.ended[status] += 1
        took = duration_ms or 0
        self.duration_ms += took
        self.longest_ms = max(self.longest_ms, took)

    def add(self, event: Mapping[str, Any]) -> None:
        """Adds another summary, as returned by `event_data`."""
        self.started += event["started"]
        self.cold_starts += event["cold_starts"]
        self.ended.update(event["ended"])
        self.duration_ms += event["duration_ms"]
        self.longest_ms = max(self.longest_ms, event["longest_ms"])

    def event_data(self, function_id: str) -> dict[str, Any]:
        """The data of a `calls` event. `duration_ms`: the sum for all that ended."""
        return {
            "function_id": function_id,
            "started": self.started,
            "cold_starts": self.cold_starts,
            "ended": dict(self.ended),
            "duration_ms": self.duration_ms,
            "longest_ms": self.longest_ms,
        }


def change_of(before: Function | None, after: Function | None) -> EventType:
    """The type of event for a change of a function."""
    if before is None:
        return E.FUNCTION_CREATED
    if after is None:
        return E.FUNCTION_DELETED
    if after.error_message and after.error_message != before.error_message:
        return E.FUNCTION_ERROR
    if after.state is not before.state:
        if after.state is FunctionState.ACTIVE:
            return E.FUNCTION_DEPLOYED
        if after.state is FunctionState.PAUSED:
            return E.FUNCTION_PAUSED
        if after.state is FunctionState.ERROR:
            return E.FUNCTION_ERROR
    if after.current_version < before.current_version:
        return E.FUNCTION_ROLLED_BACK
    return E.FUNCTION_UPDATED


def told_of_function(function: Function) -> dict[str, Any]:
    """The data of an event about a function."""
    return {
        "function_id": function.id,
        "state": function.state,
        "version": function.current_version,
    }


def told_of_start(record: Invocation) -> dict[str, Any]:
    """The data of `invocation.started`."""
    return {
        "invocation_id": record.invocation_id,
        "function_id": record.function_id,
        "version": record.version,
        "source": record.source,
        "attempt": record.attempt,
        "cold_start": record.cold_start,
    }


def told_of_end(record: Invocation) -> dict[str, Any]:
    """The data of `invocation.ended`. `is_final` False: another attempt follows."""
    return {
        **told_of_start(record),
        "status": record.status,
        "duration_ms": record.duration_ms,
        "end_cause": cause_data(record.cause),
        "is_final": record.is_final,
    }
