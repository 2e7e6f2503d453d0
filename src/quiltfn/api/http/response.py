"""The one response type: every handler returns it, and every connection sends it.

Results, refusals, replays for an `Idempotency-Key` and long streams are all a `Response`, so
whatever looks at responses (the audit log, the request log, a tracer) sees all of them.
"""

from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec

JSON = "application/json"
# The header that names the record of a call.
INVOCATION_ID = "x-invocation-id"
FUNCTION_VERSION = "x-function-version"
Header = tuple[str, str]
encode = msgspec.json.Encoder().encode


class CutShort(Exception):
    """Raised by the iterator of a body that cannot be completed, for a known reason."""


class Response(msgspec.Struct, kw_only=True, eq=False):
    """A status, headers in the order of sending, and a body.

    `headers`: lowercase names, which may repeat. `body`: bytes, or an async iterator whose chunks
    are sent as they arrive. A chunk is requested only once the client has read most of the previous
    ones, and the iterator's `aclose` is always called at the end. If the iterator raises, the
    connection ends without the mark of a complete body. A stream has chunked encoding unless
    `headers` contain its `content-length`. `executed`: False for a refusal before any work was
    done. `is_unknown`: whether work was done is unknown. `has_record`: the refused call has a
    record nevertheless. `object_id`: the created object for the audit log, if the path does not
    name it; `object_name`: its name, unless it is an existing function. `closes`: the response ends
    the connection. `is_shared`: all clients get this body, and it stays in memory anyway.
    """

    status: int = 200
    headers: list[Header] = msgspec.field(default_factory=list)
    body: bytes | AsyncIterator[bytes] = b""
    executed: bool = True
    is_unknown: bool = False
    has_record: bool = False
    object_id: str | None = None
    object_name: str | None = None
    closes: bool = False
    is_shared: bool = False

    def header(self, name: str) -> str | None:
        """The first value of a header, by its name in lowercase letters."""
        return first_value(self.headers, name)


def first_value(headers: Iterable[Header], name: str) -> str | None:
    """The first value of a header, by its lowercase name; None if there is none."""
    for header, value in headers:
        if header == name:
            return value
    return None


def json_response(
    value: Any,
    status: int = 200,
    headers: Iterable[Header] = (),
    object_id: str | None = None,
) -> Response:
    """`value` as JSON."""
    return Response(
        status=status,
        headers=[*headers, ("content-type", JSON)],
        body=encode(value),
        object_id=object_id,
    )


def text_response(text: str, content_type: str, headers: Iterable[Header] = ()) -> Response:
    """`text` in UTF-8."""
    return Response(headers=[*headers, ("content-type", content_type)], body=text.encode())
