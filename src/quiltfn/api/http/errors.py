"""Maps error codes to HTTP statuses, and encodes the body that all errors share."""

from quiltfn.api.http.response import INVOCATION_ID, JSON, Header, Response, encode
from quiltfn.model.errors import (
    CapacityFull,
    FunctionNotActive,
    Internal,
    OutcomeUnknown,
    PayloadTooLarge,
    QuiltfnError,
    RangeNotSatisfiable,
    TenantDisabled,
)
from quiltfn.wire import ErrorBody, ErrorDetails, SeeAlso

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
    "HANDLER_FAILED": 502,
    "HANDLER_TIMEOUT": 504,
}

# Messages for unauthenticated callers where the original message would reveal more.
WORDS = {
    "RATE_LIMITED": "there were too many calls",
    "HANDLER_FAILED": "the function failed",
    "HANDLER_TIMEOUT": "the function took too long",
}
# Retry-After for unauthenticated callers if a function is unavailable. The second value is for a
# tenant that an operator disabled, for an unknown time.
RETRY_AFTER_S, DISABLED_RETRY_AFTER_S = 1, 60


def error_body(error: QuiltfnError, request_id: str = "") -> bytes:
    """The body alone, for responses that are written without a `Response`."""
    return encode(_body(error, request_id))


def error_response(error: QuiltfnError, request_id: str) -> Response:
    """The response for `error`."""
    headers: list[Header] = []
    if error.retry_after is not None:
        headers.append(("retry-after", str(error.retry_after)))
    if error.code == "UNAUTHORIZED":
        headers.append(("www-authenticate", 'Bearer realm="quiltfn"'))
    if isinstance(error, RangeNotSatisfiable):
        headers.append(("content-range", f"bytes */{error.size}"))
    if error.invocation_id is not None:
        headers.append((INVOCATION_ID, error.invocation_id))
    headers.append(("content-type", JSON))
    return Response(
        status=STATUS[error.code],
        headers=headers,
        body=error_body(error, request_id),
        executed=error.executed,
        is_unknown=isinstance(error, OutcomeUnknown),
        # the rest of the request's body is not read
        closes=isinstance(error, PayloadTooLarge),
    )


def for_strangers(error: QuiltfnError) -> QuiltfnError:
    """The error for an unauthenticated caller: it reveals nothing about the tenant, its functions
    or its invocations. A caller with a credential learns why that credential is refused.
    """
    if isinstance(error, TenantDisabled) and error.for_its_key:
        return error
    status = STATUS[error.code]
    is_off = isinstance(error, FunctionNotActive | TenantDisabled)
    if is_off or status == STATUS[CapacityFull.code]:
        is_disabled = isinstance(error, TenantDisabled)
        seconds = error.retry_after or (DISABLED_RETRY_AFTER_S if is_disabled else RETRY_AFTER_S)
        return CapacityFull("the function is not available at the moment", retry_after=seconds)
    if status == STATUS[Internal.code]:
        return Internal("internal server error")
    shown_error = type(error)(WORDS.get(error.code, str(error)), retry_after=error.retry_after)
    if isinstance(error, PayloadTooLarge) and error.invocation_id is None:
        shown_error.hint = error.hint  # it says nothing about this function
    shown_error.executed = error.executed
    return shown_error


def _body(error: QuiltfnError, request_id: str) -> ErrorBody:
    details = error.details or {}
    if error.see is not None:
        details = {**details, "see": SeeAlso(operation=error.see.operation, text=error.see.text)}
    return ErrorBody(
        error=str(error),
        error_code=error.code,
        request_id=request_id,
        details=ErrorDetails(**details) if details else None,
        retry_after=error.retry_after,
        hint=error.hint,
    )
