"""The one table from error codes to HTTP statuses, and the one body that every refusal has."""

import msgspec

from quiltfn.model.errors import QuiltfnError, RangeNotSatisfiable
from quiltfn.wire import ErrorBody, ErrorDetails

STATUS = {
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "BAD_REQUEST": 400,
    "CONFLICT": 409,
    "PRECONDITION_FAILED": 412,
    "FUNCTION_NOT_ACTIVE": 409,
    "PAYLOAD_TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "RANGE_NOT_SATISFIABLE": 416,
    "UNPROCESSABLE_ENTITY": 422,
    "RATE_LIMITED": 429,
    "CAPACITY_FULL": 503,
    "SHUTTING_DOWN": 503,
    "STORE_UNAVAILABLE": 503,
    "RUNTIME_UNAVAILABLE": 503,
    "INTERNAL": 500,
}


def render(error: QuiltfnError, request_id: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers."""
    body = ErrorBody(
        error=str(error),
        error_code=error.code,
        request_id=request_id,
        details=ErrorDetails(**error.details) if error.details else None,
        retry_after=error.retry_after,
        hint=error.hint,
    )
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.code == "UNAUTHORIZED":
        headers["www-authenticate"] = 'Bearer realm="quiltfn"'
    if isinstance(error, RangeNotSatisfiable):
        headers["content-range"] = f"bytes */{error.size}"
    if error.invocation_id is not None:
        headers["x-invocation-id"] = error.invocation_id
    return STATUS[error.code], msgspec.json.encode(body), headers
