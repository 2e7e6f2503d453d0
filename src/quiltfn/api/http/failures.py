"""What a request is answered with if it is refused or fails: counted, and logged if it is a bug."""

import structlog

from quiltfn.api.http.errors import error_response
from quiltfn.api.http.request import Request
from quiltfn.api.http.response import Response
from quiltfn.model.errors import Internal, QuiltfnError
from quiltfn.observe import metrics

_log = structlog.get_logger("quiltfn.api")


def failure(error: QuiltfnError, request_id: str) -> Response:
    """A refusal or a failure, with the one body that all of them have."""
    metrics.count_refusal(error.code)
    return error_response(error, request_id)


def bug(request: Request, request_id: str) -> Response:
    """What the client is told of an exception that nobody expected; the log has the rest."""
    log_bug(request, request_id)
    response = failure(Internal("the server made a mistake; its log has more"), request_id)
    response.executed = True
    return response


def log_bug(request: Request, request_id: str) -> None:
    """Logs the exception that is being handled."""
    _log.exception("a request failed", request_id=request_id, path=request.path)
