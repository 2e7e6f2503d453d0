"""Why an invocation didn't succeed: a code, `cause`, with data for programs; and a `sentence` for
people, which is the record's `error_message`.

Only `message`, `type` and `file` hold text from the handler.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

# The values of `by` in `Cancelled` and `Interrupted`, in words.
BY: Mapping[str, str] = {
    "request": "the call was cancelled",
    "request_before_start": "the call was cancelled before it was started",
    "caller_left": "its caller went away",
    "gave_way": "its caller went away, and the invocation gave way to one that somebody waits for",
    "body_cut": "the rest of the caller's body did not come",
    "function_deleted": "the function was deleted",
    "tenant_disabled": "an operator has disabled the tenant",
    "server_stopped": "the server was stopped while the call was running",
    "server_ended": "the server ended while the call was running",
    "server_ended_unknown": "the server ended, and whether the call was started then is not known",
    "node_lost": "the node that had the call does not answer any more; whether the handler did its "
    "work is not known",
    "store_lost": "the node could not reach the store for too long, and other nodes may have taken "
    "it over",
}


class Raised(msgspec.Struct, frozen=True, gc=False, tag_field="cause", tag="exception"):
    """An exception ended the handler. `message`: None if it has none. `file`: None if unknown."""

    type: str
    message: str | None = None
    file: str | None = None
    line: int | None = None

    @property
    def sentence(self) -> str:
        place = "" if self.file is None else f" ({self.file}, line {self.line})"
        return self.type + ("" if self.message is None else f": {self.message}") + place


class Exited(msgspec.Struct, frozen=True, gc=False, tag_field="cause", tag="exit"):
    """The handler exited with `code`. `message`: its last output, if known."""

    code: int
    message: str | None = None

    @property
    def sentence(self) -> str:
        behind = "" if self.message is None else f": {self.message}"
        return f"the handler exited with code {self.code}{behind}"


class Signalled(msgspec.Struct, frozen=True, gc=False, tag_field="cause", tag="signal"):
    """The handler was killed by the signal with this number."""

    signal: int

    @property
    def sentence(self) -> str:
        return f"the handler was killed by signal {self.signal}"


class TimedOut(msgspec.Struct, frozen=True, gc=False, tag_field="cause", tag="timeout"):
    """The handler was killed at its deadline. `from_outside`: by the server, not by the guest."""

    limit_seconds: int | None = None
    from_outside: bool = False

    @property
    def sentence(self) -> str:
        outside = "killed from outside at its deadline"
        return outside if self.from_outside else "the handler timed out"


class OutOfMemory(msgspec.Struct, frozen=True, gc=False, tag_field="cause", tag="oom"):
    """The kernel killed the handler: out of memory. `peak_bytes`: for later use; always None."""

    limit_bytes: int | None = None
    peak_bytes: int | None = None

    @property
    def sentence(self) -> str:
        limit = "" if self.limit_bytes is None else f" of {self.limit_bytes // 1024**2} MiB"
        return f"the handler needed more memory than its limit{limit} and was killed"


class HttpFailed(msgspec.Struct, frozen=True, gc=False, tag_field="cause", tag="http"):
    """The handler's HTTP response is an error, or can't be sent for the reason `message`. `status`:
    None if there is none.
    """

    status: int | None
    message: str | None = None

    @property
    def sentence(self) -> str:
        return self.message or f"the handler responded with HTTP status {self.status}"


class NotStarted(msgspec.Struct, frozen=True, gc=False, tag_field="cause", tag="start"):
    """The platform couldn't run the handler. `phase`: the step that failed, as in the timeline."""

    phase: str
    message: str

    @property
    def sentence(self) -> str:
        return self.message


class NoNetwork(msgspec.Struct, frozen=True, gc=False, tag_field="cause", tag="network"):
    """The handler couldn't reach an address. The other fields say how it then ended, as in
    `Raised` and `Exited`.
    """

    reason: str
    host: str | None = None
    port: int | None = None
    code: int | None = None
    type: str | None = None
    message: str | None = None
    file: str | None = None
    line: int | None = None

    @property
    def sentence(self) -> str:
        end: Raised | Exited
        if self.type is not None:
            end = Raised(self.type, self.message, self.file, self.line)
        elif self.code is not None:
            end = Exited(self.code, self.message)
        else:
            return self.reason
        return f"{end.sentence}; {self.reason}"


class Cancelled(msgspec.Struct, frozen=True, gc=False, tag_field="cause", tag="cancelled"):
    """The invocation was cancelled. `by`: a key of `BY`. `message`: a more exact sentence."""

    by: str
    message: str | None = None

    @property
    def sentence(self) -> str:
        return self.message or BY.get(self.by, self.by)


class Interrupted(msgspec.Struct, frozen=True, gc=False, tag_field="cause", tag="interrupted"):
    """The server or its node ended first. `by`: a key of `BY`."""

    by: str

    @property
    def sentence(self) -> str:
        return BY.get(self.by, self.by)


class ResultTooLarge(
    msgspec.Struct, frozen=True, gc=False, tag_field="cause", tag="result_too_large"
):
    """The handler returned more than the limit for results, or for HTTP responses."""

    bytes: int
    limit_bytes: int
    kind: Literal["result", "response"] = "result"

    @property
    def sentence(self) -> str:
        if self.kind == "response":
            return f"its answer is longer than the {self.limit_bytes} bytes that are kept of one"
        most = f"at most {self.limit_bytes} are kept of a result"
        return f"the handler returned {self.bytes} bytes; {most}"


EndCause = (
    Raised
    | Exited
    | Signalled
    | TimedOut
    | OutOfMemory
    | HttpFailed
    | NotStarted
    | NoNetwork
    | Cancelled
    | Interrupted
    | ResultTooLarge
)
NODE_LOST = Interrupted("node_lost")


def cause_data(cause: EndCause | None) -> dict[str, Any] | None:
    """The cause in the form for clients."""
    return None if cause is None else msgspec.to_builtins(cause)


def cause_json(cause: EndCause | None) -> str | None:
    """The cause in its stored form."""
    return None if cause is None else msgspec.json.encode(cause).decode()
