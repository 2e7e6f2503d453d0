"""Types of asynchronous invocations in the store, and the interface to the queue."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from quiltfn.model.end_cause import EndCause
from quiltfn.model.invocation import Invocation, Source, Status

# Maximum bytes of the inputs of one claim, unless a single input is longer.
CLAIM_MAX_BYTES = 16 * 1024 * 1024
# Memory of a variable in addition to its characters.
VARIABLE_BYTES = 200


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """The input of an invocation. `version`: None for the version that is current when it runs.
    `caller`: the name of the credential.
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
        """The memory that the input counts, including an overhead for each variable."""
        variables = (self.environment or {}).items()
        size = sum(len(name) + len(value) + VARIABLE_BYTES for name, value in variables)
        return len(self.payload or b"") + size


class AcceptedWork(msgspec.Struct, frozen=True, kw_only=True):
    """Work to be accepted. `record`: its record, with status `queued`. Times in Unix milliseconds,
    but `given_at` in seconds by the wall clock. `max_queued`: maximum length of the function's
    queue, including this item.
    """

    record: Invocation
    input: Input
    given_at: int
    due_at_ms: int
    expires_at_ms: int
    max_queued: int


class ClaimedWork(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt at asynchronous work, assigned to this node. `record`: its record, with status
    `queued` and the number of this attempt.
    """

    record: Invocation
    input: Input
    due_at_ms: int
    expires_at_ms: int


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one claim. `ended`: the records of work that was ended instead, since it was
    too old or its input can't be decrypted. `next_due_ms`: when the first item that is left in the
    queue is due; None: the queue is empty.
    """

    work: Sequence[ClaimedWork]
    ended: Sequence[Invocation] = ()
    next_due_ms: int | None = None


class FunctionQueue(msgspec.Struct, frozen=True, kw_only=True):
    """One function's queue. `next_due_ms`: when its first item is due."""

    function_id: str
    tenant_id: str
    waiting: int
    next_due_ms: int


class DueWork(msgspec.Struct, frozen=True, kw_only=True):
    """A function with queued work. `next_due_ms`: when its first item is due."""

    function_id: str
    tenant_id: str
    next_due_ms: int


class QueueCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of a function's unfinished work. `queued`: due and waiting; `delayed`: due later.
    `oldest_due_ms`: since when the oldest queued invocation is due; None if none is queued.
    """

    queued: int = 0
    delayed: int = 0
    running: int = 0
    dead_letters: int = 0
    oldest_due_ms: int | None = None


# Bytes stored of each stream of an attempt, if another attempt follows: its end is the most useful
# part.
ATTEMPT_OUTPUT_BYTES = 16 * 1024


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One completed attempt of an invocation. `started_at` and `ended_at` in Unix milliseconds.
    `stdout` and `stderr`: the end of each stream; None: unknown, or in the record.
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
    """A dead letter. `reason`: "attempts" or "age". `died_at` in Unix seconds."""

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
    """Runs the asynchronous invocations of this node."""

    def arrived(self, function_id: str, tenant_id: str, due_at_ms: int) -> None:
        """Work of the function was accepted and is on disk."""

    async def withdraw(self, invocation_id: str) -> bool:
        """Release work that this node has claimed but not started, so that it can be cancelled.
        Returns False if there is no such work.
        """
