"""The interfaces to accepted work in the store, and what each side may rely on."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from quiltfn.model.end_cause import EndCause
from quiltfn.model.invocation import Invocation, Source, Status

# One claim gives inputs of so many bytes, or one that is longer.
CLAIM_MAX_BYTES = 16 * 1024 * 1024
# What a variable takes in memory beside its characters.
VARIABLE_BYTES = 200


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller gave to a call. `version`: None for the one that is current when the call runs.
    `caller`: the credential that asked, by name.
    """

    payload: bytes | None = None
    environment: dict[str, str] | None = None
    timeout_seconds: int | None = None
    version: int | None = None
    caller: str = ""
    may_write: bool = False
    traceparent: str | None = None

    @property
    def size_bytes(self) -> int:
        """What it counts: there may be thousands of short variables."""
        variables = (self.environment or {}).items()
        size = sum(len(name) + len(value) + VARIABLE_BYTES for name, value in variables)
        return len(self.payload or b"") + size


class AcceptedWork(msgspec.Struct, frozen=True, kw_only=True):
    """Work that a caller gives to the platform. `record`: in status `queued`. Times in Unix
    milliseconds; `given_at` in seconds, by the wall clock. `max_queued`: how many of the function
    may wait, with this one.
    """

    record: Invocation
    input: Input
    given_at: int
    due_at_ms: int
    expires_at_ms: int
    max_queued: int


class ClaimedWork(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at accepted work, which is this node's to run. `record`: in status `queued`, with
    the number of this attempt.
    """

    record: Invocation
    input: Input
    due_at_ms: int
    expires_at_ms: int


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What one claim gave. `ended`: the records of work that was ended instead: it was too old, or
    its input cannot be decrypted. `next_due_ms`: when the first of what still waits is due; None:
    nothing waits.
    """

    work: Sequence[ClaimedWork]
    ended: Sequence[Invocation] = ()
    next_due_ms: int | None = None


class FunctionQueue(msgspec.Struct, frozen=True, kw_only=True):
    """The work of one function that waits. `next_due_ms`: of the first of it."""

    function_id: str
    tenant_id: str
    waiting: int
    next_due_ms: int


class DueWork(msgspec.Struct, frozen=True, kw_only=True):
    """A function with work that waits. `next_due_ms`: when the first of it is due."""

    function_id: str
    tenant_id: str
    next_due_ms: int


class QueueCounts(msgspec.Struct, frozen=True, kw_only=True):
    """A function's work that is not over. `queued`: due and waiting; `delayed`: due later.
    `oldest_due_ms`: since when the oldest of `queued` is due; None without any.
    """

    queued: int = 0
    delayed: int = 0
    running: int = 0
    dead_letters: int = 0
    oldest_due_ms: int | None = None


# How much of each stream of an attempt is kept, if another one follows: the end, which says most.
ATTEMPT_OUTPUT_BYTES = 16 * 1024


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at a call that is over. `started_at` and `ended_at` in Unix milliseconds.
    `stdout` and `stderr`: the end of each stream; None: not known, or in the record.
    """

    attempt: int
    status: Status
    started_at: int | None
    ended_at: int | None
    duration_ms: int | None
    exit_code: int | None
    error_message: str | None
    execution_node_id: str
    cold_start: bool
    version: int | None
    stdout: bytes | None = None
    stderr: bytes | None = None
    end_cause: EndCause | None = None


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """Work that was given up. `reason`: "attempts" or "age". `died_at` in Unix seconds."""

    invocation_id: str
    function_id: str
    reason: str
    died_at: int
    status: Status
    attempts: int
    error_message: str | None
    source: Source
    end_cause: EndCause | None = None


class Queue(Protocol):
    """Runs the accepted work of this node."""

    def arrived(self, function_id: str, tenant_id: str, due_at_ms: int) -> None:
        """Work of the function was accepted and is on disk."""

    async def withdraw(self, invocation_id: str) -> bool:
        """Puts work back that this node has claimed and not begun, so that it can be cancelled.
        False where there is no such work.
        """
