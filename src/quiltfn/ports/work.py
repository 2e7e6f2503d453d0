"""The interfaces to accepted work in the store, and what each side may rely on."""

from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from quiltfn.model.invocation import Invocation, Source, Status
from quiltfn.model.work import AsyncPolicy, RecordPolicy
from quiltfn.ports import Page, TenantFunctions

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

    queued: int
    delayed: int
    running: int
    dead_letters: int
    oldest_due_ms: int | None


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


class WorkStore(Protocol):
    """The queue of accepted work, for any number of servers. Raises `StoreUnavailable`.

    The end of an attempt is not written here: it is the record that `Journal.closed` gets, whose
    `outcome` is carried out in the transaction that stores the record.
    """

    async def accept(self, work: AcceptedWork) -> None:
        """Stores the record, its input and its place in the queue: on disk when this returns.

        Calls that come at the same time share one transaction. Raises `CapacityFull` if as many
        wait as may, or if inputs of the tenant or of all take too much, and `NotFound` if the
        function was deleted. Storing the same id again changes nothing.
        """

    async def load(self) -> Sequence[FunctionQueue]:
        """Every function that has work waiting. Called at the start."""

    async def due(self) -> Sequence[DueWork]:
        """Every function that has work waiting, and when the first of it is due: one query."""

    async def over(self, invocation_ids: Collection[str]) -> Collection[str]:
        """Those of the ids whose calls are over."""

    async def claim(self, function_id: str, limit: int, now_ms: int, *, is_begun: bool) -> Claim:
        """Makes up to `limit` due pieces of work this node's, oldest first: on disk when this
        returns. No other server gets them. Work that is too old, or whose input cannot be
        decrypted, is ended instead: its record gets the status `error`, and it becomes a dead
        letter.

        `is_begun`: where the server ends before the journal has the attempt, the attempt counts as
        interrupted all the same. Otherwise the work waits again after the next start, unless the
        machine itself was started anew in between, for then the journal may have lost the attempt.
        """

    async def release(self, invocation_ids: Sequence[str], due_at_ms: int | None = None) -> None:
        """Puts claimed work back that was not begun; the attempt does not count. `due_at_ms`: when
        it is due now; None: as before.
        """

    async def release_others(self, function_id: str, known: Collection[str]) -> int | None:
        """Puts back what this server has claimed of the function since its start, but for the
        `known` ids: after a claim or a release of which the store did not say whether it was made.
        Returns when the first of what waits is due, in Unix milliseconds; None: nothing waits.
        """

    async def cancel(self, function_id: str, invocation_id: str, now: int) -> Invocation | None:
        """Ends work that waits; returns its record, `cancelled`. None where none such waits."""

    async def claimed_by(self, invocation_id: str) -> str | None:
        """The node that has claimed this work; None where nobody has, or where it is over."""

    async def counts(self, function_id: str, now_ms: int) -> QueueCounts:
        """How much work the function has, by what it waits for."""

    async def queues(
        self, of: TenantFunctions, limit: int, cursor: str | None, now_ms: int
    ) -> Page[tuple[str, QueueCounts]]:
        """Likewise of each function that has some, or dead letters, by their ids."""

    async def attempts(self, invocation_id: str) -> Sequence[Attempt]:
        """The attempts at accepted work that are over, first to last."""

    async def input(self, invocation_id: str) -> Input | None:
        """What the caller gave, where it was kept. Raises `Unprocessable` where it is encrypted
        and the key is another."""

    async def input_variables(self, invocation_id: str) -> Sequence[str] | None:
        """The names of the variables that the caller gave; none where they are encrypted with
        another key, and None where the input is not kept.
        """

    async def dead_input(self, function_id: str, invocation_id: str) -> Input | None:
        """Likewise, if the call is a dead letter of the function; else None."""

    async def keep_input(self, record: Invocation, kept: Input) -> None:
        """Keeps the input of a call that was no accepted work."""

    async def dead_letters(
        self, of: str | TenantFunctions, limit: int, cursor: str | None
    ) -> Page[DeadLetter]:
        """The dead letters of the function with the id, or of several, newest first."""

    async def redrive(
        self, function_id: str, again: Sequence[tuple[str, AcceptedWork]]
    ) -> Sequence[str]:
        """Takes dead letters away and accepts each one's work again under a new id, in one
        transaction. Pairs of the dead letter's id and its new work. Returns the new ids; a dead
        letter that is gone by then is skipped.
        """

    async def drop_dead_letter(self, function_id: str, invocation_id: str) -> bool:
        """Takes one away; its record stays. Returns whether it was there."""


class PolicyStore(Protocol):
    """What functions say of their accepted work and their records. Raises `StoreUnavailable`."""

    async def load(
        self, only: Collection[str] | None = None
    ) -> Sequence[tuple[str, AsyncPolicy | None, RecordPolicy | None]]:
        """Each function that has other policies than the defaults, of all or of those with these
        ids.
        """

    async def save_async(self, function_id: str, policy: AsyncPolicy | None) -> None:
        """Replaces a policy; None: the default. Raises `NotFound` if the function was deleted."""

    async def save_record(self, function_id: str, policy: RecordPolicy | None) -> None:
        """The same for the record policy."""


class Queue(Protocol):
    """Runs the accepted work of this node."""

    def arrived(self, function_id: str, tenant_id: str, due_at_ms: int) -> None:
        """Work of the function was accepted and is on disk."""

    async def withdraw(self, invocation_id: str) -> bool:
        """Puts work back that this node has claimed and not begun, so that it can be cancelled.
        False where there is no such work.
        """
