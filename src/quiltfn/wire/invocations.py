"""Calls and their records, as they are sent and answered."""

from typing import Annotated

from msgspec import Struct

from quiltfn.wire.constraints import Bytes, Documented
from quiltfn.wire.fields import about
from quiltfn.wire.functions import VARIABLES, FunctionName, NextCursor, TimeoutSeconds, UnixSeconds

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


class Invocation(Struct, kw_only=True, frozen=True):
    """The record of a call. `status` is success, failed, timeout, oom, cancelled, error or
    interrupted once it is final.

    Times in Unix seconds, `duration_ms` in milliseconds. Bytes of `stdout` and `stderr` that are
    not UTF-8 show as U+FFFD here.
    """

    invocation_id: str
    function_id: str
    function_name: FunctionName
    execution_node_id: str
    status: str
    started_at: UnixSeconds | None
    ended_at: UnixSeconds | None
    duration_ms: Milliseconds | None
    exit_code: int | None
    stdout: str
    stderr: str
    error_message: str | None
    cold_start: bool


class InvocationPage(Struct, kw_only=True, frozen=True):
    """Some records, newest first."""

    invocations: list[Invocation]
    next_cursor: NextCursor | None


class Phase(Struct, kw_only=True, frozen=True):
    """A part of a call's time; 0 for what did not happen."""

    name: str
    microseconds: Microseconds


class Timeline(Struct, kw_only=True, frozen=True):
    """Where the time of a call went: its phases add up to the total.

    `cold_reason`: first, scaled_out, updated, evicted or replaced; null of a warm call.
    """

    invocation_id: str
    cold_start: bool
    cold_reason: str | None
    phases: list[Phase]
    total_microseconds: Microseconds
