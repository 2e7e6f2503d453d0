"""Invocation: its durable record, and what its end means."""

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
HTTP_ERRORS = 500  # From this status on, an HTTP response counts as an error.
PAYLOAD_IN_ENVIRONMENT_MAX_BYTES = 64 * 1024
MIB = 1024 * 1024
# `CallResult.by` if something other than the sandbox's deadline killed the handler.
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
    """What may happen to an invocation; an end has the name of the resulting status."""

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
    S.QUEUED: "It waits for an instance, or for its time. Accepted work has a record by then; "
    "other calls do not.",
    S.RUNNING: "It has an instance, and the record of its start is written.",
    S.SUCCESS: "Its handler exited with 0.",
    S.FAILED: "Its handler exited with another code, or was killed by a signal (128 + its number).",
    S.TIMEOUT: "It did not end by its deadline and was killed with everything it had started.",
    S.OOM: "It needed more memory than its limit and the kernel killed it (137).",
    S.CANCELLED: "It was ended on request, because its function was deleted, or because the rest "
    "of its caller's body did not come.",
    S.ERROR: "The platform could not run it, or accepted work was too old to be started. A caller "
    "who waited got a 503.",
    S.INTERRUPTED: "The server ended while it ran, or may have run; whether its handler did its "
    "work is not known.",
}
FINAL = frozenset(status for status, then in NEXT.items() if not then)


class ExitKind(enum.Enum):
    """How a handler ended, as reported by the guest or concluded from its silence."""

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
    `*_dropped`: bytes of a stream beyond its limit, which are discarded. `output_order`,
    `share_us`: as in the record. `answer_head`: as in the output. `reason`: a sentence on why the
    handler did not end by itself. `by`: who ended it, as in `end_cause.BY`. `refusal`: why the
    output of a handler that exited with 0 is no valid result; None if it is valid. `http_status`:
    of the result, if that is an HTTP response.
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
    """What determines the end of an invocation beside its result. `memory_mib`: the limit of the
    instance that ran it; 0: unknown. `timeout_s`: of the invocation. `is_value`: whether standard
    output is the handler's return value. `runner`: the built-in runner, of Python or Node.js.
    """

    memory_mib: int = 0
    timeout_s: int | None = None
    is_value: bool = False
    runner: Kind | None = None
    network: Network | None = None


NOT_KNOWN = RunContext()


class WorkOutcome(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What follows an attempt of an asynchronous invocation (`model/work.py` decides it).

    `retry_at_ms`: when the next attempt is due, in Unix milliseconds; None after the last.
    `dead_letter`: why it becomes a dead letter, "attempts" or "age"; None: it does not.
    `destination_id`: the id of the delivery to a destination of the function's policy; None: there
    is none. `decided_at_ms`: the trusted time of the decision, in Unix milliseconds. `replaces_id`:
    the delivery that may have reported this invocation as interrupted before; None: there is none.
    """

    retry_at_ms: int | None = None
    dead_letter: str | None = None
    destination_id: str | None = None
    decided_at_ms: int = 0
    replaces_id: str | None = None


class Invocation(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """The record of one invocation. Times in Unix seconds, `duration_ms` in milliseconds.

    `stdout`, `stderr`: the handler's output, byte for byte; `*_dropped`: how many more bytes it
    wrote. `timeline`: None until the record is final, and if the invocation ended with its server.

    `version`: the number of the version that ran; None in records of earlier releases, and until an
    asynchronous invocation starts. `attempt`: from 1; while queued, the next one's number.
    `due_at`: when an asynchronous invocation may start. `parent_invocation_id`: the invocation that
    caused this one. `origin_invocation_id`: the invocation that this one repeats. `output_order`:
    how its streams interleave, a JSON list of [stream, bytes], oldest first; None: unknown.
    `memory_mib`: the memory limit of the attempt, once it is over; 0 if none ran. `http_status`: of
    the handler's result, if that is an HTTP response. `share_us`: on an instance that several
    invocations may share, the attempt's share of the time, in microseconds. `outcome`: what follows
    a completed attempt. `end_cause`: why it didn't succeed; None also in records of earlier
    releases. `own_message`: of a failed invocation, its error_message without the handler's text.

    `share_us`, `outcome` and `own_message` are in the journal and in no column: storing the record
    adds the first to statistics, carries the second out, and drops the third.
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
    # The fields below are not part of the API's invocation. The journal omits defaults.
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
        """Its message for readers who may not see the handler's output: callers of URLs, traces."""
        if self.status is Status.ERROR:  # Its reason can quote what the handler's module wrote.
            return "the platform could not run the handler"
        return self.own_message if self.status is Status.FAILED else self.error_message

    @property
    def cause(self) -> EndCause | None:
        """Why it counts as an error, even if its handler succeeded with a 5xx response."""
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
        status = self.http_status  # not through a property: every invocation runs this
        return self.status is not Status.SUCCESS or (status is not None and status >= HTTP_ERRORS)

    @property
    def started_ms(self) -> int | None:
        """When the handler got it, in Unix milliseconds; whole seconds if the record has
        no more.
        """
        if self.started_at is None:
            return None
        kept = 0 if self.timeline is None else self.timeline.started_ms
        return kept or self.started_at * 1000

    @property
    def mib_ms(self) -> int:
        """What the attempt used: memory limit times duration, or its share on a shared instance."""
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
        """The final record of a running invocation. `now`: its start plus its duration, because the
        wall clock may have been set meanwhile. An invocation with a too large return value fails,
        since a part of the value is useless.
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
    """The message of a record, including how much output was dropped."""
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
    """What a result means: the event, the exit code, and the cause without the handler's text.

    An out-of-memory kill counts only if the handler did not exit with 0: a shell may lose a child
    to it, continue and exit 0, and that is a success.
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
