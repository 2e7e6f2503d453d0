"""The one response type: what every handler returns, and what every connection sends.

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
    """Raised by the iterator of a body that cannot be sent to its end, for a known reason."""


class Response(msgspec.Struct, kw_only=True, eq=False):
    """A status, headers in the order in which they are sent, and a body.

    `headers`: a name may come several times; names in small letters. `body`: bytes, or an async
    iterator whose chunks are sent as they come. A chunk is asked for only once the client has taken
    most of those before it, and the iterator's `aclose` is called however the response ends. If the
    iterator raises, the connection ends without the mark of a complete body. A stream has chunked
    encoding unless `headers` say its `content-length`.

    `executed`: False for a refusal that came before anything was done. `is_unknown`: nobody knows
    whether it was. `has_record`: the call that is refused has a record all the same. `object_id`:
    what was made, for the audit log, where the path does not name it; `object_name`: what it is
    called, where that is no function that is still there. `closes`: the connection ends
    with it. `is_shared`: the body is one that all clients get, and which stays in memory anyway.
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
        """The first value of a header, by its name in small letters."""
        return first_value(self.headers, name)


def first_value(headers: Iterable[Header], name: str) -> str | None:
    """The first value of a header, by its name in small letters; None where there is none."""
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
