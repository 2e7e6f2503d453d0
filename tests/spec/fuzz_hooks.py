"""What schemathesis may send: any shape, but handlers that are harmless and quick."""

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
        ("timeout_seconds", 2, 900),
        ("min_instances", 1, 1000),
        ("max_instances", 2, 1000),
    ):
        value = body.get(name)
        if type(value) is int and most < value <= high:
            body[name] = most
    return body
