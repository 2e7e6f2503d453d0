"""Restricts the requests of schemathesis: all schemas are allowed, but only handlers that are
harmless and quick.
"""

import gzip
import io
import re
import tarfile
from typing import Any

import schemathesis

# The highest harmless value of each field, and the highest value that the server accepts.
BODY_CAPS = {
    "timeout_seconds": (2, 86_400),
    "min_instances": (1, 1000),
    "max_instances": (2, 1000),
    "max_attempts": (2, 10),
}
QUERY_CAPS = {"wait_seconds": (1, 60), "delay_seconds": (1, 31_536_000)}
HOUR_S, PAST_S, YEAR_2100 = 3600, 1_760_000_000, 4_102_444_800
URL = re.compile("https?://[!-~]{1,2040}")
NOBODY = "https://hooks.invalid/"  # RFC 2606 reserves this name, so the host will never exist
# These streams last as long as their reader, and are tested in tests/spec/test_events.py and
# test_live_output.py.
ENDLESS = ("/api/events", "/api/functions/{function_id}/logs")
HANDLERS = ("echo hello", "cat", "exit 3", "sleep 0.05")
HANDLER_MAX = 64 * 1024


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:  # noqa: ARG001
    """Replaces valid values by harmless ones. Invalid values stay invalid."""
    if not isinstance(body, dict):
        return body
    handler = body.get("handler")
    if isinstance(handler, str) and 0 < len(handler) <= HANDLER_MAX and "\0" not in handler:
        body["handler"] = HANDLERS[len(handler) % len(HANDLERS)]
    for name, (most, high) in BODY_CAPS.items():
        value = body.get(name)
        if type(value) is int and most < value <= high:
            body[name] = most
    often = body.get("every_seconds")
    if type(often) is int and 1 <= often < HOUR_S:
        body["every_seconds"] = HOUR_S
    for name in ("on_success", "on_failure"):
        destination = body.get(name)
        if isinstance(destination, dict) and URL.fullmatch(str(destination.get("url"))):
            destination["url"] = NOBODY
    return body


@schemathesis.hook
def map_query(context: Any, query: Any) -> Any:  # noqa: ARG001
    """Like `map_body`, for query parameters that make the server wait."""
    if not isinstance(query, dict):
        return query
    for name, (most, high) in QUERY_CAPS.items():
        value = whole(query.get(name))
        if value is not None and most < value <= high:
            query[name] = most
    value = whole(query.get("not_before"))
    if value is not None and PAST_S < value <= YEAR_2100:
        query["not_before"] = PAST_S
    return query


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:  # noqa: ARG001
    """Prevents requests for endless streams. The document's own examples need this, since the
    functions above don't see them.
    """
    if case.operation.path in ENDLESS and str(case.query.get("follow")).lower() == "true":
        case.query["follow"] = False


def whole(value: Any) -> int | None:
    """The whole number that a query gives as text; None if it is none."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None


@schemathesis.serializer("application/x-tar", "application/gzip")
def archive(context: Any, value: Any) -> bytes:
    """Text and bytes stay as they are; any other value becomes a file in a valid archive."""
    if isinstance(value, str | bytes):
        return value.encode("utf-8", "replace") if isinstance(value, str) else value
    data, out = repr(value).encode("utf-8", "replace"), io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("value")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    is_gzip = "gzip" in str(context.case.media_type)
    return gzip.compress(out.getvalue()) if is_gzip else out.getvalue()
