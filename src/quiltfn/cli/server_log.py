"""Log lines for functions that are HTTP servers: one per request, instead of its response.

The standard output of such an invocation is the response: an object with `statusCode` and the
`request`, eight NULs, and the body.
"""

from collections.abc import Iterator

import msgspec

from quiltfn.cli import show
from quiltfn.sdk import ApiError, Client, InvocationSummary
from quiltfn.sdk import Invocation as Record
from quiltfn.sdk.events import End, Event, Output

HEAD_MAX_BYTES = 32 * 1024
END = b"\0" * 8


class RequestLine(msgspec.Struct, frozen=True, kw_only=True):
    """One request that got a response. `method`, `path`: None in records of earlier servers."""

    invocation_id: str
    function_name: str
    method: str | None
    path: str | None
    http_status: int
    duration_ms: int | None
    ended_at: int | None

    def __str__(self) -> str:
        words = [self.method or "-", self.path or "-", str(self.http_status)]
        took = [] if self.duration_ms is None else [f"{self.duration_ms} ms"]
        return " ".join([show.when(self.ended_at), *words, *took])


class _Request(msgspec.Struct):
    method: str | None = None
    path: str | None = None


class _Head(msgspec.Struct):
    """The beginning of the output of an HTTP response."""

    status: int = msgspec.field(name="statusCode")
    request: _Request = msgspec.field(default_factory=_Request)


class Servers:
    """Finds out which functions are HTTP servers, with two requests each."""

    def __init__(self, client: Client) -> None:
        self._client, self._known = client, dict[str, bool]()

    def has(self, function: str) -> bool:
        if function not in self._known:
            self._known[function] = self._is_server(function)
        return self._known[function]

    def _is_server(self, function: str) -> bool:
        try:
            runtime = self._client.functions.get(function).runtime
            return self._client.runtimes.get(runtime).kind == "server"
        except ApiError:  # the function was deleted; its invocations are shown unchanged
            return False

    def line_of(self, record: Record | InvocationSummary) -> RequestLine | None:
        """The line of an ended invocation. None: it was not an HTTP request."""
        try:
            head = self._client.functions.get_invocation_output(
                record.function_id, record.invocation_id, last=HEAD_MAX_BYTES - 1
            )
        except ApiError as error:
            if error.code != "RANGE_NOT_SATISFIABLE":
                raise
            return None
        return _line(head, record)


def as_lines(events: Iterator[Event]) -> Iterator[Event | RequestLine]:
    """The events of a server. A line replaces each response once that has ended."""
    heads: dict[str | None, list[Output]] = {}
    for event in events:
        if isinstance(event, Output) and event.stream == "stdout":
            kept = heads.setdefault(event.invocation_id, [])
            if sum(len(one.data) for one in kept) < HEAD_MAX_BYTES:
                kept.append(event)
            continue
        if isinstance(event, End):
            record = event.invocation
            kept = heads.pop(record.invocation_id, []) or heads.pop(None, [])
            line = _line(b"".join(one.data for one in kept), record)
            yield from kept if line is None else [line]
        yield event


def _line(output: bytes, record: Record | InvocationSummary) -> RequestLine | None:
    end = output.find(END, 0, HEAD_MAX_BYTES)
    if end < 0:
        return None
    try:
        head = msgspec.json.decode(output[:end], type=_Head)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if head.status != record.http_status:  # the handler itself wrote this output
        return None
    return RequestLine(
        invocation_id=record.invocation_id,
        function_name=record.function_name,
        method=head.request.method,
        path=head.request.path,
        http_status=head.status,
        duration_ms=record.duration_ms,
        ended_at=record.ended_at,
    )
