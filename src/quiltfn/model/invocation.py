"""Invocation: its durable record, and the interpretation of its end."""

import enum
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from quiltfn.model import failure_reason
from quiltfn.model.end_cause import (
    Cancelled,
    EndCause,
    Exited,
    HttpFailed,
    Interrupted,
    NotStarted,
    OutOfMemory,
    ResultTooLarge,
    Signalled,
    TimedOut,
)
from quiltfn.model.output import AnswerHead
from quiltfn.model.runtime import Kind, Network
from quiltfn.model.state_machine import transition
from quiltfn.model.timeline import Timeline

PAYLOAD_MAX_BYTES = 6 * 1024 * 1024
HTTP_ERRORS = 500  # An HTTP response with this status or a higher one counts as an error.
PAYLOAD_IN_ENVIRONMENT_MAX_BYTES = 64 * 1024
MIB = 1024 * 1024
# The value of `CallResult.by` if the server, not the guest, killed the handler at its deadline.
FROM_OUTSIDE = "outside"


class Status(StrEnum):
    """The progress of an invocation."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    TIMEOUT = "timeout"
    OOM = "oom"
    CANCELLED = "cancelled"
    ERROR = "error"
    INTERRUPTED = "interrupted"


class Source(StrEnum):
    """The source of an invocation."""

    SYNC = "sync"
    ASYNC = "async"
    SCHEDULE = "schedule"
    URL = "url"
    REDRIVE = "redrive"
    REPLAY = "replay"
    DESTINATION = "destination"


class CallEvent(StrEnum):
    """Events of an invocation. An end has the name of the resulting status."""

    HANDED_OVER = "handed over"
    RETRIED = "retried"
    SUCCESS = "success"
    FAILED = "failed"
    TIMEOUT = "timeout"
    OOM = "oom"
    CANCELLED = "cancelled"
    ERROR = "error"
    INTERRUPTED = "interrupted"


S, E = Status, CallEvent
NEXT: Mapping[Status, Mapping[CallEvent, Status]] = {
    S.QUEUED: {
        E.HANDED_OVER: S.RUNNING,
        E.CANCELLED: S.CANCELLED,
        E.ERROR: S.ERROR,
        E.INTERRUPTED: S.INTERRUPTED,
    },
    S.RUNNING: {
        E.RETRIED: S.QUEUED,
        E.SUCCESS: S.SUCCESS,
        E.FAILED: S.FAILED,
        E.TIMEOUT: S.TIMEOUT,
        E.OOM: S.OOM,
        E.CANCELLED: S.CANCELLED,
        E.ERROR: S.ERROR,
        E.INTERRUPTED: S.INTERRUPTED,
    },
    S.SUCCESS: {},
    S.FAILED: {},
    S.TIMEOUT: {},
    S.OOM: {},
    S.CANCELLED: {},
    S.ERROR: {},
    S.INTERRUPTED: {},
}
DESCRIPTIONS: Mapping[Status, str] = {
    S.QUEUED: "It waits for an instance, or for its due time. Only asynchronous invocations have a "
    "record in this state.",
    S.RUNNING: "It has an instance, and its start is recorded.",
    S.SUCCESS: "Its handler exited with 0.",
    S.FAILED: "Its handler exited with another code, or was killed by a signal (128 + its number).",
    S.TIMEOUT: "It did not end by its deadline, and was killed with all its processes.",
    S.OOM: "It exceeded its memory limit, and the kernel killed it (137).",
    S.CANCELLED: "It was ended by a request, because its function was deleted, or because its "
    "caller's body remained incomplete.",
    S.ERROR: "The platform could not run it, or it was asynchronous and became too old. A waiting "
    "caller got a 503.",
    S.INTERRUPTED: "The server ended while it ran or may have run; whether its handler finished "
    "its work is unknown.",
}
FINAL = frozenset(status for status, then in NEXT.items() if not then)


class ExitKind(enum.Enum):
    """How a handler ended, as reported by the guest, or concluded without a report."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    DEADLINE = "deadline"
    NOT_STARTED = "not started"
    SANDBOX_GONE = "sandbox gone"
    CANCELLED = "cancelled"
    # The caller's request body was incomplete, so the invocation was abandoned.
    BODY_CUT = "body cut"
    INTERRUPTED = "interrupted"


class CallResult(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The result of one invocation, as reported by its sandbox. `code`: exit code or signal number.
    `*_dropped`: discarded bytes of a stream beyond its limit. `output_order`, `share_us`: as in the
    record. `answer_head`: as in the output. `reason`: a sentence on why the handler did not end by
    itself. `by`: the key in `end_cause.BY` of its end, or FROM_OUTSIDE. `refusal`: why the output
    of a handler that exited with 0 is an invalid result; None if it is valid. `http_status`: the
    result's, if it is an HTTP response.
    """

    kind: ExitKind
    code: int = 0
    out_of_memory: bool = False
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_dropped: int = 0
    stderr_dropped: int = 0
    output_order: str | None = None
    reason: str | None = None
    by: str | None = None
    refusal: EndCause | None = None
    share_us: int | None = None
    answer_head: AnswerHead | None = None
    http_status: int | None = None


class RunContext(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Data that, in addition to its result, determines an invocation's end. `memory_mib`: the limit
    of the instance; 0: unknown. `timeout_s`: the invocation's. `is_value`: standard output is the
    handler's return value. `runner`: the built-in runner, of Python or Node.js.
    """

    memory_mib: int = 0
    timeout_s: int | None = None
    is_value: bool = False
    runner: Kind | None = None
    network: Network | None = None


NOT_KNOWN = RunContext()


class WorkOutcome(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The consequences of an attempt of an asynchronous invocation, decided by `model/work.py`.

    `retry_at_ms`: when the next attempt is due, in Unix milliseconds; None after the last.
    `dead_letter`: why it becomes a dead letter, "attempts" or "age"; None: it becomes none.
    `destination_id`: the id of the delivery to a destination of the function's policy; None: no
    delivery. `decided_at_ms`: the trusted time of the decision, in Unix milliseconds.
    `replaces_id`: an earlier delivery that may have reported this invocation as interrupted, or
    None.
    """

    retry_at_ms: int | None = None
    dead_letter: str | None = None
    destination_id: str | None = None
    decided_at_ms: int = 0
    replaces_id: str | None = None


class Invocation(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The record of one invocation. Times in Unix seconds, `duration_ms` in milliseconds. The
    journal omits fields with default values.

    `stdout`, `stderr`: the handler's output, byte for byte; `*_dropped`: the number of further
    bytes that it wrote. `timeline`: None until the record is final, and if the server died first.

    `version`: the number of the version that ran; None in records of earlier releases, and until an
    asynchronous invocation starts. `attempt`: from 1; while queued, the number of the next attempt.
    `due_at`: when an asynchronous invocation may start. `parent_invocation_id`: the invocation that
    caused this one. `origin_invocation_id`: the invocation that this one repeats. `output_order`:
    the order in which its streams were written, a JSON list of [stream, bytes], oldest first; None:
    unknown. `memory_mib`: the memory limit of the attempt, once it is over; 0 if none ran.
    `http_status`: that of the handler's result, if it is an HTTP response. `share_us`: on an
    instance that several invocations may share, the attempt's share of the time, in microseconds.
    `outcome`: the consequences of a completed attempt. `end_cause`: why the invocation didn't
    succeed; always None in records of earlier releases. `own_message`: for a failed invocation, its
    error_message without the handler's text.

    `share_us`, `outcome` and `own_message` are in the journal, but have no columns: when the record
    is stored, the first is added to statistics, the second is applied, and the third is dropped.
    """

    invocation_id: str
    tenant_id: str
    function_id: str
    function_name: str
    execution_node_id: str
    status: Status
    started_at: int | None = None
    ended_at: int | None = None
    duration_ms: int | None = None
    exit_code: int | None = None
    # Base64 in the journal, which is JSON.
    stdout: bytes = msgspec.field(default=b"", name="stdout_base64")
    stderr: bytes = msgspec.field(default=b"", name="stderr_base64")
    error_message: str | None = None
    cold_start: bool = False
    timeline: Timeline | None = None
    stdout_dropped: int = 0
    stderr_dropped: int = 0
    version: int | None = None
    source: Source = Source.SYNC
    attempt: int = 1
    due_at: int | None = None
    parent_invocation_id: str | None = None
    origin_invocation_id: str | None = None
    output_order: str | None = None
    memory_mib: int = 0
    http_status: int | None = None
    end_cause: EndCause | None = None
    share_us: int | None = None
    outcome: WorkOutcome | None = None
    own_message: str | None = None

    @property
    def public_message(self) -> str | None:
        """The message for readers who must not see the handler's output: callers of URLs, and
        traces.
        """
        if self.status is Status.ERROR:  # The reason may quote output of the handler's module.
            return "the platform could not run the handler"
        return self.own_message if self.status is Status.FAILED else self.error_message

    @property
    def cause(self) -> EndCause | None:
        """Why the invocation counts as an error, which includes a success with a 5xx response."""
        if self.end_cause is None and self.is_http_error:
            return HttpFailed(self.http_status)
        return self.end_cause

    @property
    def is_final(self) -> bool:
        """Whether the invocation is over: its status is final, and no attempt follows."""
        outcome = self.outcome
        return self.status in FINAL and (outcome is None or outcome.retry_at_ms is None)

    @property
    def is_http_error(self) -> bool:
        """Whether the handler succeeded, but with an HTTP response of an error (5xx)."""
        status = self.http_status
        return self.status is Status.SUCCESS and status is not None and status >= HTTP_ERRORS

    @property
    def is_error(self) -> bool:
        """Whether a completed invocation counts as an error."""
        status = self.http_status  # no property, to save time: every invocation runs this
        return self.status is not Status.SUCCESS or (status is not None and status >= HTTP_ERRORS)

    @property
    def started_ms(self) -> int | None:
        """When the handler got the invocation, in Unix milliseconds; whole seconds if the exact
        time is unknown.
        """
        if self.started_at is None:
            return None
        kept = 0 if self.timeline is None else self.timeline.started_ms
        return kept or self.started_at * 1000

    @property
    def mib_ms(self) -> int:
        """The attempt's memory limit times its duration, or times its share of a shared instance's
        time.
        """
        if self.share_us is not None:
            return round(self.memory_mib * self.share_us / 1000)
        return self.memory_mib * (self.duration_ms or 0)

    def after_attempt(self) -> "Invocation":
        """The record once this attempt is over: unchanged, or, if another attempt follows, queued
        again with the number of that attempt.
        """
        if self.outcome is None or self.outcome.retry_at_ms is None:
            return self
        return msgspec.structs.replace(
            self,
            status=transition(NEXT, Status.RUNNING, CallEvent.RETRIED),
            started_at=None,
            ended_at=None,
            duration_ms=None,
            exit_code=None,
            stdout=b"",
            stderr=b"",
            stdout_dropped=0,
            stderr_dropped=0,
            timeline=None,
            output_order=None,
            memory_mib=0,
            http_status=None,
            share_us=None,
            own_message=None,
            attempt=self.attempt + 1,
            due_at=self.outcome.retry_at_ms // 1000,
            outcome=None,
        )

    def after(
        self,
        result: CallResult,
        now: int,
        duration_ms: int,
        timeline: Timeline | None = None,
        ran_in: RunContext = NOT_KNOWN,
    ) -> "Invocation":
        """The final record of a running invocation. `now`: its start plus its duration, since the
        wall clock may have been set meanwhile. If the return value is too large, the invocation
        fails, since a part of a value is useless.
        """
        event, exit_code, cause = conclude(result, ran_in)
        own = None if cause is None else cause.sentence
        if event is CallEvent.FAILED and result.kind is ExitKind.EXITED and result.code:
            cause = failure_reason.read(
                result.code,
                result.stderr,
                is_value=ran_in.is_value,
                runner=ran_in.runner,
                network=ran_in.network,
            )
        message = None if cause is None else cause.sentence
        if ran_in.is_value and result.stdout_dropped and event is CallEvent.SUCCESS:
            most = len(result.stdout)
            size = most + result.stdout_dropped
            event, exit_code, cause = CallEvent.FAILED, 1, ResultTooLarge(size, most)
            message = own = cause.sentence
            result = msgspec.structs.replace(
                result, stdout=b"", stdout_dropped=size, output_order=None
            )
        elif result.stdout_dropped or result.stderr_dropped:
            message, own = _with_dropped(message, result), _with_dropped(own, result)
        head = result.answer_head
        return msgspec.structs.replace(
            self,
            status=transition(NEXT, self.status, event),
            http_status=result.http_status if head is None else head.status,
            ended_at=now,
            duration_ms=duration_ms,
            exit_code=exit_code,
            stdout=result.stdout,
            stderr=result.stderr,
            error_message=message,
            end_cause=cause,
            timeline=timeline,
            stdout_dropped=result.stdout_dropped,
            stderr_dropped=result.stderr_dropped,
            output_order=result.output_order,
            memory_mib=ran_in.memory_mib,
            share_us=result.share_us,
            own_message=own if event is CallEvent.FAILED else None,
        )


def _with_dropped(message: str | None, result: CallResult) -> str | None:
    """The message of a record, including the number of dropped bytes."""
    lines = [message] if message else []
    if result.stdout_dropped:
        lines.append(_lacks("standard output", result.stdout, result.stdout_dropped))
    if result.stderr_dropped:
        lines.append(_lacks("log (standard error)", result.stderr, result.stderr_dropped))
    return "; ".join(lines)


def _lacks(stream: str, kept: bytes, dropped: int) -> str:
    return f"of its {stream} the first {len(kept)} bytes are kept and {dropped} were dropped"


def conclude(
    result: CallResult, ran_in: RunContext = NOT_KNOWN
) -> tuple[CallEvent, int | None, EndCause | None]:
    """The meaning of a result: the event, the exit code, and the cause without the handler's text.

    An out-of-memory kill counts only if the handler did not exit with 0. A shell whose child was
    killed may continue and exit with 0, which is a success.
    """
    kind = result.kind
    if kind is ExitKind.EXITED and result.code == 0:
        if result.refusal is None:
            return CallEvent.SUCCESS, 0, None
        return CallEvent.FAILED, 1, result.refusal
    if kind is ExitKind.CANCELLED:
        return CallEvent.CANCELLED, None, Cancelled(result.by or "request")
    if kind is ExitKind.BODY_CUT:
        return CallEvent.CANCELLED, None, Cancelled("body_cut", result.reason)
    if kind is ExitKind.INTERRUPTED:
        return CallEvent.INTERRUPTED, None, Interrupted(result.by or "server_stopped")
    if kind is ExitKind.DEADLINE:
        from_outside = result.by == FROM_OUTSIDE
        return CallEvent.TIMEOUT, None, TimedOut(ran_in.timeout_s, from_outside)
    if result.out_of_memory:
        limit = ran_in.memory_mib * MIB if ran_in.memory_mib else None
        return CallEvent.OOM, 137, OutOfMemory(limit)
    if kind is ExitKind.EXITED:
        return CallEvent.FAILED, result.code, Exited(result.code)
    if kind is ExitKind.SIGNALLED:
        return CallEvent.FAILED, 128 + result.code, Signalled(result.code)
    reason = result.reason or "the sandbox ended before the handler did"
    return CallEvent.ERROR, None, NotStarted("ran", reason)
