"""Schemas of invocations and their records."""

from typing import Annotated

from msgspec import UNSET, Struct, UnsetType

from quiltfn.wire.constraints import Bytes, Documented
from quiltfn.wire.fields import about
from quiltfn.wire.functions import (
    VARIABLES,
    FunctionId,
    FunctionName,
    NextCursor,
    NodeId,
    TimeoutSeconds,
)
from quiltfn.wire.numbers import UnixSeconds

__all__ = [
    "CallStarted",
    "CallsGap",
    "EndCause",
    "Invocation",
    "InvocationPage",
    "InvocationSummary",
    "InvocationSummaryPage",
    "NewInvocation",
    "OutputChunk",
    "OutputGap",
    "Phase",
    "TimedAttempt",
    "Timeline",
]

PAYLOAD_MAX_BYTES = 6 * 1024 * 1024

Payload = Annotated[
    str,
    about(
        f"the handler's standard input: a string of at most {PAYLOAD_MAX_BYTES} bytes",
        '{"key":"value"}',
        Bytes(0, PAYLOAD_MAX_BYTES),
    ),
]
EnvironmentOfCall = Annotated[
    dict[str, str],
    about(
        "environment variables of this invocation, which override the function's. A key below "
        "scope write can set only variables that the function declares with an empty value, and "
        "none that make programs run code (BASH_ENV, LD_PRELOAD, NODE_OPTIONS, PATH, …)",
        {"EXTRA_VAR": "value"},
        Documented(VARIABLES),
        short="env",
    ),
]
Milliseconds = Annotated[int, about("milliseconds", 3)]
Microseconds = Annotated[int, about("microseconds", 420)]
UnixMilliseconds = Annotated[int, about("Unix milliseconds", 1760000000123)]
EnvironmentNames = Annotated[
    list[str],
    about(
        "names of the variables that the runtime, the version and the invocation set; those of "
        "the invocation only while it runs or if its input is stored",
        ["EXTRA_VAR", "NODE_ENV"],
    ),
]

HasInput = Annotated[bool, about("whether the invocation's input is stored", True)]


class NewInvocation(
    Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True
):
    """An invocation's input."""

    payload: Payload | None = None
    environment: EnvironmentOfCall | None = None
    timeout_seconds: TimeoutSeconds | None = None


InvocationId = Annotated[str, about("the invocation's id", "01999999-0000-7000-8000-000000000001")]
InvocationStatus = Annotated[
    str,
    about(
        "queued, running, success, failed, timeout, oom, cancelled, error or interrupted", "success"
    ),
]
ExitCode = Annotated[int, about("the handler's exit code, or null", 0)]
Output = Annotated[str, about("output of the handler as text", "hello\n")]
InvocationError = Annotated[
    str, about("why it didn't succeed, such as its last exception, or null", None)
]
ColdStart = Annotated[bool, about("whether the invocation waited for an instance to start", False)]
ColdReason = Annotated[
    str, about("first, scaled_out, updated, evicted or replaced; null for a warm start", None)
]
PhaseName = Annotated[str, about("queued, placed, specialised, ran or recorded", "ran")]


HttpStatus = Annotated[
    int,
    about(
        "status of the handler's HTTP response, if there was one; an invocation with a status "
        "of 500 or higher counts as an error",
        None,
    ),
]


AttemptNumber = Annotated[
    int, about("1 for the first attempt; for a queued invocation, the next attempt", 1)
]


CauseCode = Annotated[
    str,
    about(
        "exception, exit, signal, timeout, oom, http, start, network, cancelled, interrupted or "
        "result_too_large",
        "exception",
    ),
]
CauseType = Annotated[str, about("exception, network: the type of the exception", "KeyError")]
CauseMessage = Annotated[
    str,
    about(
        "exception, network: the exception's message; exit: the handler's last output; http, "
        "start, cancelled: details",
        "'zz-4711'",
    ),
]
CauseFile = Annotated[
    str, about("exception, network: the name of the file that raised it", "bad.py")
]
CauseLine = Annotated[int, about("exception, network: the line in that file", 4)]
CauseExitCode = Annotated[int, about("exit, network: the handler's exit code", 3)]
CauseSignal = Annotated[int, about("signal: its number", 9)]
CauseTimeout = Annotated[int, about("timeout: the limit of the invocation", 30, unit="s")]
CauseFromOutside = Annotated[
    bool,
    about(
        "timeout: whether the sandbox had to be killed because it didn't stop the handler", False
    ),
]
CauseLimitBytes = Annotated[
    int, about("oom: the memory limit; result_too_large: the size limit", 268435456, unit="bytes")
]
CausePeakBytes = Annotated[
    int, about("oom: peak memory usage; null: not measured", None, unit="bytes")
]
CauseStatus = Annotated[
    int, about("http: status of the response; null: no response could be sent", 503)
]
CausePhase = Annotated[
    str, about("start: the last phase reached: queued, placed, specialised or ran", "placed")
]
CauseReason = Annotated[
    str, about("network: why nothing could be reached", "this runtime has no network")
]
CauseHost = Annotated[str, about("network: the destination, if known", "127.0.0.1")]
CausePort = Annotated[int, about("network: the destination, if known", 8080)]
CauseBy = Annotated[
    str,
    about(
        "cancelled, interrupted: the cause: request, request_before_start, caller_left, "
        "gave_way, body_cut, function_deleted, tenant_disabled, server_stopped, server_ended, "
        "server_ended_unknown, node_lost or store_lost",
        "request",
    ),
]
CauseBytes = Annotated[
    int, about("result_too_large: size of the returned value", 8388608, unit="bytes")
]
CauseKind = Annotated[str, about("result_too_large: result or response", "result")]


class EndCause(Struct, kw_only=True, frozen=True):
    """Why an invocation didn't succeed, for programs: a code and its data."""

    cause: CauseCode
    type: CauseType | UnsetType | None = UNSET
    message: CauseMessage | UnsetType | None = UNSET
    file: CauseFile | UnsetType | None = UNSET
    line: CauseLine | UnsetType | None = UNSET
    code: CauseExitCode | UnsetType | None = UNSET
    signal: CauseSignal | UnsetType = UNSET
    limit_seconds: CauseTimeout | UnsetType | None = UNSET
    from_outside: CauseFromOutside | UnsetType = UNSET
    limit_bytes: CauseLimitBytes | UnsetType | None = UNSET
    peak_bytes: CausePeakBytes | UnsetType | None = UNSET
    status: CauseStatus | UnsetType | None = UNSET
    phase: CausePhase | UnsetType = UNSET
    reason: CauseReason | UnsetType = UNSET
    host: CauseHost | UnsetType | None = UNSET
    port: CausePort | UnsetType | None = UNSET
    by: CauseBy | UnsetType = UNSET
    bytes: CauseBytes | UnsetType = UNSET
    kind: CauseKind | UnsetType = UNSET


CauseOfEnd = Annotated[
    EndCause,
    about(
        "why it didn't succeed, as data; null if it succeeded, and in records of earlier releases",
        None,
    ),
]


class Invocation(Struct, kw_only=True, frozen=True):
    """The record of an invocation. Its final `status` is success, failed, timeout, oom, cancelled,
    error or interrupted. `attempt` is present from the second attempt on.

    Times in Unix seconds, `duration_ms` in milliseconds. Bytes of `stdout` and `stderr` that aren't
    UTF-8 are replaced by U+FFFD.
    """

    invocation_id: InvocationId
    function_id: FunctionId
    function_name: FunctionName
    execution_node_id: NodeId
    status: InvocationStatus
    started_at: UnixSeconds | None
    ended_at: UnixSeconds | None
    duration_ms: Milliseconds | None
    exit_code: ExitCode | None
    stdout: Output
    stderr: Output
    error_message: InvocationError | None
    cold_start: ColdStart
    http_status: HttpStatus | UnsetType = UNSET
    attempt: AttemptNumber | UnsetType = UNSET


HTTP_ERRORS = 500  # An HTTP response with this status or a higher one counts as an error.

Source = Annotated[
    str, about("sync, async, schedule, url, redrive, replay or destination", "async")
]
VersionOfCall = Annotated[int, about("number of the version that ran, or null", 1)]
DueAt = Annotated[
    int, about("when an asynchronous invocation becomes due, in Unix seconds, or null", None)
]
ParentId = Annotated[str, about("id of the invocation that caused this one, or null", None)]
ParentFunctionId = Annotated[
    str, about("id of the function whose invocation caused this one, or null", None)
]
OriginId = Annotated[str, about("id of the invocation that this one repeats, or null", None)]


class InvocationSummary(Struct, kw_only=True, frozen=True):
    """An invocation without its output. Times in Unix seconds, `duration_ms` in milliseconds."""

    invocation_id: InvocationId
    function_id: FunctionId
    function_name: FunctionName
    execution_node_id: NodeId
    status: InvocationStatus
    started_at: UnixSeconds | None
    ended_at: UnixSeconds | None
    duration_ms: Milliseconds | None
    exit_code: ExitCode | None
    error_message: InvocationError | None
    cold_start: ColdStart
    version: VersionOfCall | None
    source: Source
    attempt: AttemptNumber
    due_at: DueAt | None
    parent_invocation_id: ParentId | None
    origin_invocation_id: OriginId | None
    http_status: HttpStatus | None = None
    end_cause: CauseOfEnd | None = None


class InvocationSummaryPage(Struct, kw_only=True, frozen=True):
    """A page of invocations, newest first. If only few of very many invocations match, a page can
    be short or empty although there is a `next_cursor`.
    """

    invocations: list[InvocationSummary]
    next_cursor: NextCursor | None


StreamName = Annotated[str, about("stdout or stderr", "stdout")]
Offset = Annotated[int, about("offset in the stream, in bytes", 0)]


class CallStarted(Struct, kw_only=True, frozen=True):
    """The event `started`: the invocation was handed to a handler."""

    invocation_id: InvocationId
    cold_start: ColdStart


class OutputChunk(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The events `stdout` and `stderr`: output of a handler, as text if it is UTF-8."""

    offset: Offset
    text: Annotated[str, about("the bytes as text", "hello\n")] | None = None
    base64: Annotated[str, about("the bytes, if they aren't UTF-8", "//4=")] | None = None
    invocation_id: InvocationId | None = None


class OutputGap(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The event `gap`: `bytes` bytes from `offset` on aren't in the record. They exceeded the
    record's limit, belong to a returned value that is too large, or had been sent to a reader
    before they were lost with the server that ran the invocation.
    """

    stream: StreamName
    offset: Offset
    bytes: Annotated[int, about("number of missing bytes", 1951424)]
    invocation_id: InvocationId | None = None


class CallsGap(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The event `gap` of a function's logs: `calls` invocations are left out because the reader was
    too slow; or, with `node_id`, that node's output is missing.
    """

    calls: Annotated[int, about("number of invocations left out", 12)]
    node_id: NodeId | None = None


class InvocationPage(Struct, kw_only=True, frozen=True):
    """A page of records, newest first."""

    invocations: list[Invocation]
    next_cursor: NextCursor | None


class Phase(Struct, kw_only=True, frozen=True):
    """A phase of an invocation's timeline; 0 if it didn't happen."""

    name: PhaseName
    microseconds: Microseconds


class TimedAttempt(Struct, kw_only=True, frozen=True):
    """One attempt of an invocation. `started_at_ms`: null if it was not handed to an instance;
    whole seconds if the exact time is unknown. `duration_ms`: null while the attempt runs.
    """

    attempt: AttemptNumber
    status: InvocationStatus
    started_at_ms: UnixMilliseconds | None
    duration_ms: Milliseconds | None
    cold_start: ColdStart
    version: VersionOfCall | None
    execution_node_id: NodeId


class Timeline(Struct, kw_only=True, frozen=True):
    """The timeline of an invocation: its phases add up to the total. While it runs, the phases so
    far; empty if the phases weren't recorded.

    `cold_reason`: first, scaled_out, updated, evicted or replaced; null for a warm start.
    `children`: the newest invocations that this one caused, at most 100, in order of age (oldest
    first).
    """

    invocation_id: InvocationId
    cold_start: ColdStart
    cold_reason: ColdReason | None
    phases: list[Phase]
    total_microseconds: Microseconds
    status: InvocationStatus | None = None
    accepted_at_ms: UnixMilliseconds | None = None
    version: VersionOfCall | None = None
    source: Source | None = None
    due_at: DueAt | None = None
    parent_invocation_id: ParentId | None = None
    parent_function_id: ParentFunctionId | None = None
    origin_invocation_id: OriginId | None = None
    children: list[InvocationSummary] = []
    environment_names: EnvironmentNames = []
    attempts: list[TimedAttempt] = []
    has_input: HasInput = False
    http_status: HttpStatus | None = None
    end_cause: CauseOfEnd | None = None
