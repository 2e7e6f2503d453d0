"""Responses to requests that are refused or fail. They are counted, and bugs are logged."""

import structlog

from quiltfn.api.http.errors import error_response
from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response
from quiltfn.model.errors import Internal, QuiltfnError
from quiltfn.observe import metrics

_log = structlog.get_logger("quiltfn.api")


def failure(error: QuiltfnError, request_id: str) -> Response:
    """Count an error, and return its response."""
    metrics.count_refusal(error.code)
    return error_response(error, request_id)


def bug(request: Request, request_id: str) -> Response:
    """The response to an unexpected exception, which is logged."""
    log_bug(request, request_id)
    response = failure(Internal("internal server error; check the server's log"), request_id)
    response.executed = True
    return response


def log_bug(request: Request, request_id: str) -> None:
    """Log the exception that is being handled."""
    _log.exception("a request failed", request_id=request_id, path=request.path)
