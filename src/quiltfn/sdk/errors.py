"""What can go wrong for a client: the server refused, nobody answered, or the answer is no sense.

A handler that fails is none of these; it is an Invocation whose status says so.
"""

from collections.abc import Mapping
from typing import Any

import msgspec


class ClientError(Exception):
    """A request did not lead to the answer that was asked for."""


class ApiError(ClientError):
    """The server refused or failed, and said why."""

    def __init__(self, status: int, body: "ErrorBody", invocation_id: str | None = None) -> None:
        super().__init__(body.error)
        self.status = status
        self.code = body.error_code
        self.message = body.error
        self.hint = body.hint
        self.details = body.details
        self.retry_after = body.retry_after
        self.request_id = body.request_id
        self.invocation_id = invocation_id
        """Set where a record of the call exists although it could not be run."""


class ConnectionFailed(ClientError):
    """No answer came: nobody listens there, or the connection ended or was silent too long."""


class NotTrusted(ClientError):
    """The server's certificate is not one that is believed here; nothing was sent."""


class UnreadableAnswer(ClientError):
    """What answered did not send what a quiltfn server sends."""


class ErrorBody(msgspec.Struct, kw_only=True, frozen=True):
    """The body of every refusal."""

    error: str
    error_code: str = "UNKNOWN"
    request_id: str | None = None
    details: dict[str, Any] | None = None
    retry_after: float | None = None
    hint: str | None = None


def read_error(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The error in an answer. A parser's or a proxy's refusal may lack the body; the status stays.

    `headers` are looked up by lower-case name.
    """
    try:
        said = msgspec.json.decode(body, type=ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = ErrorBody(
            error=f"the server answered with status {status} and no explanation",
            request_id=headers.get("x-request-id"),
            retry_after=_seconds(headers.get("retry-after")),
        )
    return ApiError(status, said, headers.get("x-invocation-id"))


def _seconds(text: str | None) -> float | None:
    # The header may also be a date, which only proxies send; then no time is better than a guess.
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
