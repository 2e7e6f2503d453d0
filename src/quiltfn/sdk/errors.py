"""The exceptions of the client library.

`ApiError`: the server returned an error; its subclasses are the kinds of errors.
`ConnectionFailed`: there was no response. `NotTrusted`: the server's certificate is not trusted.
`UnreadableAnswer`: the response is not from a quiltfn server. `FunctionFailed`: the request was
executed, but the function cannot start.

A failed handler raises no exception: the result is an `Invocation` whose status is not success.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from quiltfn.sdk.decoding import decode

if TYPE_CHECKING:
    from quiltfn.wire import Function

T = TypeVar("T")


class ClientError(Exception):
    """The base of all exceptions of the client library."""


class ApiError(ClientError):
    """The server returned an error.

    `code`: the stable code of the error. `field`: path of the invalid field, or name of the query
    parameter or header. `hint`: suggested action. `retry_after`: in seconds.
    """

    def __init__(self, status: int, body: "ErrorBody", invocation_id: str | None = None) -> None:
        super().__init__(body.error)
        self.status = status
        self.code = body.error_code
        self.message = body.error
        self.hint = body.hint
        self.details = body.details
        self.field: str | None = (body.details or {}).get("field")
        self.retry_after = body.retry_after
        self.request_id = body.request_id
        self.invocation_id = invocation_id
        """Set if the invocation has a record although the request failed."""


class InvalidRequestError(ApiError):
    """400, 413, 415, 416, 422: the request is invalid; `field` names the invalid part."""


class AuthenticationError(ApiError):
    """401: a credential is missing, wrong, expired or revoked."""


class PermissionDeniedError(ApiError):
    """403: the credential does not allow this."""


class NotFoundError(ApiError):
    """404: the object does not exist, or belongs to another tenant."""


class ConflictError(ApiError):
    """409, 412: the request conflicts with existing objects or with the function's state."""


class RateLimitError(ApiError):
    """429: a limit of the tenant was reached, or too many wrong credentials were sent."""


class UnavailableError(ApiError):
    """502, 503, 504: temporarily unavailable; `retry_after`: seconds to wait before a retry."""


class ServerError(ApiError):
    """500: internal server error; check the server's log."""


CLASSES: Mapping[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    412: ConflictError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    416: InvalidRequestError,
    422: InvalidRequestError,
    429: RateLimitError,
    500: ServerError,
    502: UnavailableError,
    503: UnavailableError,
    504: UnavailableError,
}


class ConnectionFailed(ClientError):
    """There was no response. `was_sent`: whether the server may have received the request.
    `is_timeout`: whether the server accepted the request but did not respond in time.
    """

    def __init__(self, message: str, *, was_sent: bool = True, is_timeout: bool = False) -> None:
        super().__init__(message)
        self.was_sent, self.is_timeout = was_sent, is_timeout


class NotTrusted(ClientError):
    """The server's certificate is not trusted; nothing was sent."""


class UnreadableAnswer(ClientError):
    """The response is not from a quiltfn server, or is damaged."""


class FunctionFailed(ClientError):
    """The function cannot start. `function`: its state; the message is its `error_message`."""

    def __init__(self, function: "Function") -> None:
        super().__init__(function.error_message or f"{function.name} is in state {function.state}")
        self.function = function


class DeployFailed(FunctionFailed):
    """A deploy or resume ended in the state `error`: the function accepts no invocations."""


class VersionFailed(FunctionFailed):
    """The version that an update created, or that a rollback named, cannot start. The previous
    version stays current.
    """


class ErrorBody(msgspec.Struct, kw_only=True, frozen=True):
    """The body of an error response. All fields are optional: a proxy's body may lack most."""

    error: str
    error_code: str = "UNKNOWN"
    request_id: str | None = None
    details: dict[str, Any] | None = None
    retry_after: float | None = None
    hint: str | None = None


class ReplayBody(msgspec.Struct, frozen=True):
    """The body for a repeated operation: the original, with a reason that says so."""

    operation_id: str
    reason_code: str
    reason_message: str


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The error in a response. If the body is unusable, as in responses of proxies, the status
    determines the error.

    `headers` are looked up by lower-case name.
    """
    said = _decoded(body, ErrorBody) or _replay(headers, body)
    if said is None:
        said = ErrorBody(
            error=f"the server responded with status {status} and no explanation",
            request_id=headers.get("x-request-id"),
            retry_after=_seconds(headers.get("retry-after")),
        )
    kind = CLASSES.get(status, ApiError)
    return kind(status, said, headers.get("x-invocation-id"))


def _replay(headers: Mapping[str, str], body: bytes) -> ErrorBody | None:
    found = _decoded(body, ReplayBody)
    if found is None:
        return None
    return ErrorBody(
        error=found.reason_message,
        error_code=found.reason_code,
        request_id=headers.get("x-request-id"),
        details=decode(body, dict[str, Any]),
    )


def _decoded(body: bytes, shape: type[T]) -> T | None:
    try:
        return decode(body, shape)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _seconds(text: str | None) -> float | None:
    # The header may also be a date, which only proxies send; it is ignored.
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
