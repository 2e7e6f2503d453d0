"""Paths, parameters and error codes that several groups of routes share."""

from quiltfn.api.http import pages, parse
from quiltfn.api.http.route import Parameter
from quiltfn.api.openapi import VISIBLE
from quiltfn.model.access import Scope

FUNCTION = "/api/functions/{function_id}"
INVOCATION = FUNCTION + "/invocations/{invocation_id}"
READ, INVOKE, WRITE, ADMIN = Scope.READ, Scope.INVOKE, Scope.WRITE, Scope.ADMIN
OPERATOR = Scope.OPERATOR
# A time in Unix seconds.
MOMENT = {"type": "integer", "minimum": 0, "maximum": parse.UNIX_MAX}
LIMIT = Parameter(
    name="limit",
    about="maximum number of entries in the page",
    schema={"type": "integer", "minimum": 1, "maximum": pages.PAGE_MAX},
    example=50,
)
CURSOR = Parameter(
    name="cursor",
    about="next_cursor of the previous page",
    schema={"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
)
OF_FUNCTION = Parameter(name="function_id", about="only those of this function")
OF_LABEL = Parameter(name="cluster_id", about="only those of functions with this label")
FUNCTION_OF_INSTANCES = Parameter(name="function_id", about="only instances of this function")
RANGE = Parameter(name="Range", where="header", about="a part of the output, such as bytes=0-1023")
IF_MATCH = Parameter(
    name="If-Match",
    where="header",
    about="apply the change only if the object still has this ETag",
)
IDEMPOTENCY = Parameter(
    name="Idempotency-Key",
    where="header",
    about="within 24 hours, a repeated request with the same key, query and body gets the first "
    "response",
    schema=VISIBLE,
)
LAST_EVENT = Parameter(
    name="Last-Event-ID", where="header", about="resume after the event with this id"
)
PLACED = ("CAPACITY_FULL", "RUNTIME_UNAVAILABLE", "SHUTTING_DOWN", "FUNCTION_NOT_ACTIVE")
GONE = ("NOT_FOUND",)
