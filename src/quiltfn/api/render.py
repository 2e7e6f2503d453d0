"""Answers as they go out: what a route came to, a refusal, and a mistake of ours."""

import msgspec
import structlog
from starlette.requests import Request

from quiltfn.api import errors
from quiltfn.api.route import Answer
from quiltfn.idempotency import Rendered
from quiltfn.model.errors import Internal, PayloadTooLarge, QuiltfnError
from quiltfn.observe import metrics

JSON = "application/json"
encode = msgspec.json.Encoder().encode
_log = structlog.get_logger("quiltfn.api")


def success(answer: Answer) -> Rendered:
    """What a route came to."""
    if answer.value is None:
        return Rendered(status=answer.status, body=b"", headers=dict(answer.headers))
    value = answer.value
    body = value if isinstance(value, bytes) else None
    if body is None:
        is_text = isinstance(value, str) and answer.content_type != JSON
        body = value.encode() if is_text else encode(value)
    headers = {**answer.headers, "content-type": answer.content_type}
    return Rendered(status=answer.status, body=body, headers=headers)


def bug(request: Request, request_id: str) -> Rendered:
    """What is told of an exception that nobody expected; the log has the rest."""
    tell_of_bug(request, request_id)
    answer = failure(Internal("the server made a mistake; its log has more"), request_id)
    return msgspec.structs.replace(answer, executed=True)


def tell_of_bug(request: Request, request_id: str) -> None:
    """Logs the exception in hand."""
    _log.exception("a request failed", request_id=request_id, path=request.scope["path"])


def failure(error: QuiltfnError, request_id: str) -> Rendered:
    """A refusal or a failure, with the one body that all of them have."""
    metrics.count_refusal(error.code)
    status, body, headers = errors.render(error, request_id)
    headers["content-type"] = JSON
    if isinstance(error, PayloadTooLarge):
        headers["connection"] = "close"  # what is still to come of the body is not read
    return Rendered(status=status, body=body, headers=headers, executed=error.executed)
