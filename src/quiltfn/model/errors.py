"""The errors that a caller can get.

An error is a sentence, a stable code, and the party at fault. HTTP statuses have their only table
in `api/http/errors.py`.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from quiltfn.model.timeline import StartTiming

NUMBER_MAX_BITS = 63


class ApiCall(NamedTuple):
    """A request that an error recommends. `operation`: its id in the OpenAPI document; `text`: its
    form in the message or the hint, so that clients can replace it by their own command.
    """

    operation: str
    text: str


DEPLOY = ApiCall("deployFunction", "POST /api/functions/<id>/deploy")
RESUME = ApiCall("resumeFunction", "POST /api/functions/<id>/resume")
LIST_ROUTES = ApiCall("getHelp", "GET /api/functions/help")
FIND_BY_NAME = ApiCall("getFunctionByName", "GET /api/functions/by-name/<name>")
LIST_FUNCTIONS = ApiCall("listFunctions", "GET /api/functions")
SET_RECORD_POLICY = ApiCall("setRecordPolicy", "PUT /api/functions/<id>/record-policy")
GET_RECORD = ApiCall("getInvocation", "GET …/invocations/<invocation_id>")
GIVE_URL = ApiCall("setFunctionUrl", "PUT …/url")
UPLOAD_IMAGE = ApiCall("uploadImage", "POST /api/runtimes/images")


class QuiltfnError(Exception):
    """An error shown to the caller. The first line of its docstring is the default message."""

    code: ClassVar[str] = "INTERNAL"
    blame: ClassVar[Literal["caller", "platform"]] = "platform"

    def __init__(
        self,
        message: str | None = None,
        *,
        details: dict[str, Any] | None = None,
        hint: str | None = None,
        see: ApiCall | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])
        self.details = details
        self.hint = hint
        self.see = see
        self.retry_after = retry_after
        self.invocation_id: str | None = None
        self.executed = False

    def with_record(self, invocation_id: str, *, executed: bool) -> None:
        """Adds the id of the invocation's record. `executed`: the handler was started and may have
        done its work, so quiltfn must not retry the invocation for the caller.
        """
        self.invocation_id, self.executed = invocation_id, executed
        self.hint = self.hint or f"the invocation has a record: {invocation_id}"


class BadRequest(QuiltfnError):
    """The request is not one valid JSON text."""

    code, blame = "BAD_REQUEST", "caller"


class Unauthorized(QuiltfnError):
    """A credential is needed, and it must be right, current and not revoked."""

    code, blame = "UNAUTHORIZED", "caller"


class RateLimited(QuiltfnError):
    """A limit was reached; try again later."""

    code, blame = "RATE_LIMITED", "caller"


class Forbidden(QuiltfnError):
    """The credential or the origin of this request does not allow it."""

    code, blame = "FORBIDDEN", "caller"


class TenantDisabled(Forbidden):
    """An operator has disabled the tenant.

    `for_its_key`: the caller has one of its credentials.
    """

    for_its_key = False


class NotFound(QuiltfnError):
    """It does not exist."""

    code, blame = "NOT_FOUND", "caller"


class MethodNotAllowed(QuiltfnError):
    """This path does not support that method."""

    code, blame = "METHOD_NOT_ALLOWED", "caller"


class Conflict(QuiltfnError):
    """This conflicts with something that exists."""

    code, blame = "CONFLICT", "caller"


class Outdated(Conflict):
    """Another server changed this at the same time."""


class PreconditionFailed(QuiltfnError):
    """The function was changed since it was read."""

    code, blame = "PRECONDITION_FAILED", "caller"


class FunctionNotActive(QuiltfnError):
    """The function cannot be invoked in the state it is in."""

    code, blame = "FUNCTION_NOT_ACTIVE", "caller"


class PayloadTooLarge(QuiltfnError):
    """The body is longer than this route allows."""

    code, blame = "PAYLOAD_TOO_LARGE", "caller"


class UnsupportedMediaType(QuiltfnError):
    """The body must be JSON, and its Content-Type must say so."""

    code, blame = "UNSUPPORTED_MEDIA_TYPE", "caller"


class Unprocessable(QuiltfnError):
    """A field is missing, unknown, of the wrong type or out of range."""

    code, blame = "UNPROCESSABLE_ENTITY", "caller"

    @classmethod
    def field(
        cls,
        name: str,
        expected: str,
        received: object = None,
        example: object = None,
        *,
        label: str | None = None,
        null: str = "",
    ) -> "Unprocessable":
        """An error about one field: its path, the expected value, and an example that works.
        `name`: the name of a field, query parameter or header; empty: the whole body. `label`:
        replaces the name in the message. `null`: the meaning of null. Only the message has it, not
        the details, which forms and command lines show: these have no null.
        """
        details = {"expected": expected, "received": truncate(received), "example": example}
        if name:
            details["field"] = name
        or_null = f", or null {null}" if null else ""
        return cls(f"{label or name} must be {expected}{or_null}", details=details)


class RangeNotSatisfiable(QuiltfnError):
    """The range begins after the last byte.

    `size`: the total number of bytes.
    """

    code, blame = "RANGE_NOT_SATISFIABLE", "caller"
    size = 0

    @classmethod
    def beyond(cls, size: int) -> "RangeNotSatisfiable":
        expected = f"a range that begins within {size} bytes"
        details = {"field": "Range", "expected": expected}
        error = cls(f"Range must be {expected}", details=details)
        error.size = size
        return error


class CapacityFull(QuiltfnError):
    """Every instance is busy and the wait queue is full, or the call waited too long."""

    code, blame = "CAPACITY_FULL", "platform"


class ShuttingDown(QuiltfnError):
    """The server is shutting down and accepts no new invocations."""

    code, blame = "SHUTTING_DOWN", "platform"


class StoreUnavailable(QuiltfnError):
    """The database accepts no writes at the moment."""

    code, blame = "STORE_UNAVAILABLE", "platform"


class OutcomeUnknown(StoreUnavailable):
    """The database did not tell whether it has stored the change."""

    def __init__(self) -> None:
        super().__init__()
        self.executed = True  # perhaps


class RuntimeUnavailable(QuiltfnError):
    """No sandbox could be made for this call.

    `start_timing`: that of the failed start, if a start failed.
    """

    code, blame = "RUNTIME_UNAVAILABLE", "platform"
    start_timing: StartTiming | None = None


class HandlerFailed(QuiltfnError):
    """The function behind this URL failed."""

    code, blame = "HANDLER_FAILED", "caller"


class HandlerTimedOut(QuiltfnError):
    """The function behind this URL timed out."""

    code, blame = "HANDLER_TIMEOUT", "caller"


# The next step for a function that isn't active, by its state.
NEXT_STEP: Mapping[str, tuple[str, ApiCall | None]] = {
    "pending": (f"deploy it first: {DEPLOY.text}", DEPLOY),
    "deploying": ("it is being deployed: try again in a moment", None),
    "paused": (f"resume it first: {RESUME.text}", RESUME),
    "error": (f"read error_message, then deploy it again: {DEPLOY.text}", DEPLOY),
}


class Internal(QuiltfnError):
    """Internal server error; check the server's log."""


def no_such_route() -> NotFound:
    """The refusal of a path that the server doesn't know."""
    hint = f"{LIST_ROUTES.text} lists the routes"
    return NotFound("there is no such route", hint=hint, see=LIST_ROUTES)


def older_node(lacks: str) -> Conflict:
    """The refusal of a feature while a node of the previous version is present: it would ignore
    the feature.
    """
    return Conflict(
        f"a node of an older version is there, which {lacks}", hint="upgrade all nodes first"
    )


def cut_off() -> StoreUnavailable:
    """Replaces `NotFound` on a node that may not know yet of an object that another node has
    created.
    """
    return StoreUnavailable(
        "this node cannot reach the database; another node may have created the object since",
        retry_after=1,
    )


def truncate(value: object, most: int = 200) -> object:
    """`value` in a form for an error: long texts are truncated, containers become their number of
    items, and numbers that JSON can't represent become text.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > NUMBER_MAX_BITS:
        return truncate(str(value), 20)
    if isinstance(value, str) and len(value) > most:
        return value[:most] + "…"
    if isinstance(value, dict | list):
        return f"{'object' if isinstance(value, dict) else 'array'} of {len(value)}"
    return value
