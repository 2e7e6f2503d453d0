"""The one response type: every handler returns it, and every connection sends it.

Results, refusals, replays for an `Idempotency-Key` and long streams are all a `Response`, so the
audit log, the request log and a tracer see all responses.
"""

from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec

JSON = "application/json"
# The header with the id of an invocation.
INVOCATION_ID = "x-invocation-id"
FUNCTION_VERSION = "x-function-version"
Header = tuple[str, str]
encode = msgspec.json.Encoder().encode


class CutShort(Exception):
    """Raised by a body's iterator if the body cannot be completed for a known reason."""


class Response(msgspec.Struct, kw_only=True, eq=False):
    """A status, headers in the order of sending, and a body.

    `headers`: lowercase names, which may repeat. `body`: bytes, or an async iterator whose chunks
    are sent as they arrive. A chunk is requested only once the client has read most of the previous
    ones, and the iterator's `aclose` is always called at the end. If the iterator raises, the
    connection ends without marking the body as complete. A stream has chunked encoding unless
    `headers` contain its `content-length`. `executed`: False for a refusal before any work was
    done. `is_unknown`: work may have been done. `has_record`: the refused invocation has a record.
    `object_id`, for the audit log: the created object, if the path does not name it; `object_name`:
    the object's name, unless the path names a function. `closes`: the connection ends after the
    response. `is_shared`: all clients share this body, which stays in memory anyway.
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
        """As `first_value`."""
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
