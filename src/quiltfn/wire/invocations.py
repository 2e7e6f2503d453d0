"""Calls and their records, as they are sent and answered."""

from typing import Annotated

from msgspec import Struct

from quiltfn.wire.constraints import Bytes, Documented
from quiltfn.wire.fields import about
from quiltfn.wire.functions import (
    VARIABLES,
    FunctionId,
    FunctionName,
    NextCursor,
    NodeId,
    TimeoutSeconds,
    UnixSeconds,
)

PAYLOAD_MAX_BYTES = 6 * 1024 * 1024

Payload = Annotated[
    str,
    about(
        f"a string of at most {PAYLOAD_MAX_BYTES} bytes, or null: the handler's standard input",
        '{"key":"value"}',
        Bytes(0, PAYLOAD_MAX_BYTES),
    ),
]
EnvironmentOfCall = Annotated[
    dict[str, str],
    about(
        "environment variables of this call, in place of the function's. A key below scope write "
        "can set only those that the function declares with an empty value, and none that makes "
        "programs run code (BASH_ENV, LD_PRELOAD, NODE_OPTIONS, PATH, …)",
        {"EXTRA_VAR": "value"},
        Documented(VARIABLES),
        short="env",
    ),
]
Milliseconds = Annotated[int, about("milliseconds", 3)]
Microseconds = Annotated[int, about("microseconds", 420)]


class NewInvocation(
    Struct, forbid_unknown_fields=True, kw_only=True, frozen=True, omit_defaults=True
):
    """What one call gives its handler."""

    payload: Payload | None = None
    environment: EnvironmentOfCall | None = None
    timeout_seconds: TimeoutSeconds | None = None


InvocationId = Annotated[str, about("the call's id", "01999999-0000-7000-8000-000000000001")]
InvocationStatus = Annotated[
    str,
    about(
        "queued, running, success, failed, timeout, oom, cancelled, error or interrupted", "success"
    ),
]
ExitCode = Annotated[int, about("the handler's exit code, or null", 0)]
Output = Annotated[str, about("what the handler wrote, as text", "hello\n")]
InvocationError = Annotated[str, about("why it did not succeed, or null", None)]
ColdStart = Annotated[bool, about("whether the call waited for an instance to start", False)]
ColdReason = Annotated[
    str, about("first, scaled_out, updated, evicted or replaced; null of a warm call", None)
]
PhaseName = Annotated[str, about("queued, placed, specialised, ran or recorded", "ran")]


class Invocation(Struct, kw_only=True, frozen=True):
    """The record of a call. `status` is success, failed, timeout, oom, cancelled, error or
    interrupted once it is final.

    Times in Unix seconds, `duration_ms` in milliseconds. Bytes of `stdout` and `stderr` that are
    not UTF-8 show as U+FFFD here.
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


StreamName = Annotated[str, about("stdout or stderr", "stdout")]
Offset = Annotated[int, about("how many bytes of the stream come before", 0)]


class CallStarted(Struct, kw_only=True, frozen=True):
    """The event `started`: a handler has the call."""

    invocation_id: InvocationId
    cold_start: ColdStart


class OutputChunk(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The events `stdout` and `stderr`: what a handler wrote, as text where it is UTF-8."""

    offset: Offset
    text: Annotated[str, about("the bytes as text", "hello\n")] | None = None
    base64: Annotated[str, about("the bytes, where they are not UTF-8", "//4=")] | None = None
    invocation_id: InvocationId | None = None


class OutputGap(Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The event `gap`: so many bytes from `offset` on are not in the record. They were written
    beyond its limit, or belong to a returned value that is too large.
    """

    stream: StreamName
    offset: Offset
    bytes: Annotated[int, about("how many bytes are missing", 1951424)]
    invocation_id: InvocationId | None = None


class CallsGap(Struct, kw_only=True, frozen=True):
    """The event `gap` of a function's logs: so many calls are left out, as the reader was slow."""

    calls: Annotated[int, about("how many calls are left out", 12)]


class InvocationPage(Struct, kw_only=True, frozen=True):
    """Some records, newest first."""

    invocations: list[Invocation]
    next_cursor: NextCursor | None


class Phase(Struct, kw_only=True, frozen=True):
    """A part of a call's time; 0 for what did not happen."""

    name: PhaseName
    microseconds: Microseconds


class Timeline(Struct, kw_only=True, frozen=True):
    """Where the time of a call went: its phases add up to the total.

    `cold_reason`: first, scaled_out, updated, evicted or replaced; null of a warm call.
    """

    invocation_id: InvocationId
    cold_start: ColdStart
    cold_reason: ColdReason | None
    phases: list[Phase]
    total_microseconds: Microseconds
