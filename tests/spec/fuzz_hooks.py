"""What schemathesis may send: any shape, but handlers that are harmless and quick."""

import gzip
import io
import tarfile
from typing import Any

import schemathesis

HANDLERS = ("echo hello", "cat", "exit 3", "sleep 0.05")
HANDLER_MAX = 64 * 1024


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:  # noqa: ARG001
    """Replaces values that would be taken; what is wrong stays wrong."""
    if not isinstance(body, dict):
        return body
    handler = body.get("handler")
    if isinstance(handler, str) and 0 < len(handler) <= HANDLER_MAX and "\0" not in handler:
        body["handler"] = HANDLERS[len(handler) % len(HANDLERS)]
    for name, most, high in (
        ("timeout_seconds", 2, 86_400),
        ("min_instances", 1, 1000),
        ("max_instances", 2, 1000),
    ):
        value = body.get(name)
        if type(value) is int and most < value <= high:
            body[name] = most
    return body


@schemathesis.serializer("application/x-tar", "application/gzip")
def archive(context: Any, value: Any) -> bytes:
    """Text and bytes as they are; anything else as a file in an archive that is good."""
    if isinstance(value, str | bytes):
        return value.encode("utf-8", "replace") if isinstance(value, str) else value
    data, out = repr(value).encode("utf-8", "replace"), io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("value")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    is_gzip = "gzip" in str(context.case.media_type)
    return gzip.compress(out.getvalue()) if is_gzip else out.getvalue()
