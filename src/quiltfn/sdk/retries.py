"""Decides whether and when a failed request is repeated."""

import os
from typing import Any, TypeVar

from msgspec.structs import replace

from quiltfn.sdk.errors import ApiError, ClientError, ConnectionFailed, NotFoundError
from quiltfn.sdk.request import Request

T = TypeVar("T")

FIRST_DELAY_S = 0.1
DELAY_MAX_S = 10.0
KEY = "Idempotency-Key"
# Errors that the server returns before it does anything.
REFUSED_UNDONE = ("RATE_LIMITED", "CAPACITY_FULL", "SHUTTING_DOWN")
TEMPORARY = (429, 502, 503, 504)


class Retries:
    """Repeats a request at most `most` times, but never a request that could be executed twice."""

    def __init__(self, most: int) -> None:
        """Raises ValueError for a number below 0."""
        if most < 0:
            raise ValueError(f"retries must be 0 or more, not {most}")
        self.most = most

    def prepared(self, request: Request[T]) -> Request[T]:
        """The request, with an idempotency key if it accepts one."""
        if not (request.takes_key and self.most) or KEY in request.headers:
            return request
        headers = {**request.headers, KEY: os.urandom(18).hex()}
        return replace(request, headers=headers, is_repeatable=True)

    def delay(self, request: Request[Any], error: ClientError, attempt: int) -> float | None:
        """Seconds to wait before the request is repeated. None: don't repeat the request.

        `attempt`: how often the request was already repeated.
        """
        if attempt >= self.most or not self._may_repeat(request, error):
            return None
        asked = error.retry_after if isinstance(error, ApiError) else None
        delay = float(asked) if asked else FIRST_DELAY_S * 2**attempt
        return delay if delay <= DELAY_MAX_S else None

    def is_done(self, request: Request[Any], error: ClientError, attempt: int) -> bool:
        """Whether the error of a repetition shows that an earlier request has succeeded."""
        return attempt > 0 and request.method == "DELETE" and isinstance(error, NotFoundError)

    def _may_repeat(self, request: Request[Any], error: ClientError) -> bool:
        if isinstance(error, ConnectionFailed):
            return not error.was_sent or (request.is_repeatable and not error.is_timeout)
        if not isinstance(error, ApiError) or error.invocation_id is not None:
            return False
        if error.code in REFUSED_UNDONE:
            return True
        still_runs = KEY in request.headers and error.code == "CONFLICT" and error.retry_after
        return request.is_repeatable and (error.status in TEMPORARY or bool(still_runs))
