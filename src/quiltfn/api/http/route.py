"""Definition of a route: its handler, required scope, input, and all possible responses."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, Never, Protocol, TypeVar

import msgspec

from quiltfn.api.http.budgets import Budgets
from quiltfn.api.http.passed_on import PassedOnBody
from quiltfn.api.http.request import NO_PARAMETERS, Headers, Request
from quiltfn.api.http.response import Response
from quiltfn.functions.catalog import Catalog, Entry
from quiltfn.model.access import Caller, Scope
from quiltfn.model.errors import Forbidden, QuiltfnError, StoreUnavailable
from quiltfn.model.invocation import PAYLOAD_MAX_BYTES
from quiltfn.tenants.access import Access

MIB = 1024 * 1024
# The `method` of a route for all methods.
ANY_METHOD = "*"


class ApiLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of requests and invocations, in bytes and seconds."""

    body_max: int = MIB
    invoke_body_max: int = 8 * MIB
    server_body_max: int = 1024 * MIB
    image_max: int = 512 * MIB
    image_unpacked_max: int = 2048 * MIB
    image_files_max: int = 100_000
    stdout_max: int = 6 * MIB
    stderr_max: int = MIB
    timeout_max_s: int = 86_400
    body_timeout_s: float = 30.0
    page_max: int = 8 * MIB

    @property
    def bytes_max(self) -> int:
        """The longest body that is passed to a handler unchanged."""
        return min(self.invoke_body_max, PAYLOAD_MAX_BYTES)


class RouteServices(Protocol):
    """The services that any route may need. Each module of routes has a protocol that adds the
    services of its handlers; `Services` (services.py) has them all.
    """

    access: Access
    catalog: Catalog
    limits: ApiLimits
    budgets: Budgets


S = TypeVar("S", bound=RouteServices)
S_co = TypeVar("S_co", bound=RouteServices, covariant=True)
S_contra = TypeVar("S_contra", bound=RouteServices, contravariant=True)

# The caller of a request until a credential is checked.
NOBODY = Caller(tenant_id="", scope=Scope.READ, credential="nobody")


class RequestContext(msgspec.Struct, Generic[S_co], kw_only=True, eq=False):
    """One request and everything known about it so far; the argument of a handler.

    `caller`: NOBODY until a credential is checked; `tenant_id`: that of the credential, of the
    function whose URL is invoked, or the tenant that an operator's query names.
    `parameters`: those of the path; `query`: those of the query. `body`: parsed by the schema of
    the route; for a route with `streams`, the chunks as they arrive; for a route with `admit`, the
    result of `admit`. `invocation_id`: the id that the handler gives to the invocation begun by a
    request with an Idempotency-Key. `raw_body`: the body until it is parsed. `passed_on`: the body
    if the handler reads it as it arrives. `reserved_bytes`: the request's part of the budget of
    long bodies. `is_executed`: the audit log treats the request as executed. `is_current`: False if
    changes of other nodes may be missing here.
    """

    services: S_co
    help: Any
    request: Request
    request_id: str
    route: "AnyRoute | None"
    headers: Headers
    parameters: Mapping[str, str]
    path: str
    caller: Caller = NOBODY
    tenant_id: str = ""
    query: Mapping[str, str] = NO_PARAMETERS
    body: Any = None
    raw_body: bytes | None = None
    passed_on: PassedOnBody | None = None
    invocation_id: str | None = None
    reserved_bytes: int = 0
    is_executed: bool = False
    is_current: bool = True

    def entry(self) -> Entry:
        """The function whose id is in the path."""
        return self.services.catalog.by_id(self.tenant_id, self.parameters["function_id"])

    def entry_by_name(self) -> Entry:
        """The function whose name is in the path."""
        return self.services.catalog.by_name(self.tenant_id, self.parameters["name"])

    @property
    def sees_values(self) -> bool:
        """Whether the caller has scope `write`, in its own tenant: it may see secrets and set any
        variable.
        """
        return self.caller.scope.includes(Scope.WRITE) and not self.caller.is_visiting

    def must_see_values(self) -> None:
        """Raises `Forbidden` for a caller that may not see secrets."""
        self.caller.must_have(Scope.WRITE)
        if not self.sees_values:
            raise Forbidden("an operator sees no secrets of another tenant")

    @property
    def is_stranger(self) -> bool:
        """Whether no credential was checked, as for an invocation of a public URL."""
        return self.caller is NOBODY

    @property
    def action(self) -> str | None:
        """The request's name in the audit log, if it changes something."""
        return self.route.action if self.route is not None else None


# A request to any route.
AnyContext = RequestContext[RouteServices]
Handler = Callable[[RequestContext[S]], Awaitable[Response]]
Found = Callable[[RequestContext[S], str], Awaitable[Response | None]]


class CalledFunction(msgspec.Struct, frozen=True):
    """The function that a request invokes. `names_version`: the request names a version or an alias
    (even if that is the current version), or the function has a default alias.
    """

    entry: Entry
    names_version: bool = False


Called = Callable[[RequestContext[S]], CalledFunction | None]
Unverified = Callable[[RequestContext[S], StoreUnavailable], Response]


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A query parameter or a header that a route reads. `schema`: JSON Schema."""

    name: str
    about: str
    schema: Mapping[str, Any] = msgspec.field(default_factory=lambda: {"type": "string"})
    required: bool = False
    where: str = "query"
    example: Any = None


class Route(msgspec.Struct, Generic[S_contra], frozen=True):
    """Only `method`, `path` and `handler` are given by position.

    `scope`: None if no credential is required. `answer`: the schema of the response; None: no body;
    str: only text; a union: one of several schemas.

    `texts`: the content types of a text response, always or if the caller asks for it. `also`:
    further statuses with their own responses; bytes: a response of the types in `texts`. `headers`:
    the route's own headers of a successful response (see `api/openapi.py`).

    `codes`: the route's own error codes, besides those of every route (see `api/openapi.py`).
    `action`: the name in the audit log of a change by this route.
    `streams`: the content types of a body that isn't JSON and reaches the handler as it arrives.
    `admit`: for a route without `scope`: identifies caller and target before the body is read, or
    raises a refusal. The body may then be any bytes, for any method, and stays in `raw_body`.
    `passes_on`, with `admit`: whether the handler reads the body of this request as it arrives.
    `found`: for a route that begins an invocation with the id of the context: the response to a
    repetition if the invocation was queued, but the first response was lost. It may raise
    `NotFound`. `on_refused`, with `admit`: called with each refusal or failure. `called`: the
    function that the request invokes, perhaps on another node; None: it invokes none.
    `is_about_call`: the node that runs the invocation in the path responds. `for_visitors`:
    operators may use the route in every tenant, although it requires more than `read`.
    `unverified`: the response to all callers while credentials cannot be checked.
    """

    method: str
    path: str
    handler: Handler[S_contra]
    scope: Scope | None
    answer: Any = None
    status: int = 200
    body: type | None = None
    needs_body: bool = True
    is_invoke: bool = False
    is_idempotent: bool = False
    parameters: tuple[Parameter, ...] = ()
    codes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    also: Mapping[int, Any] = msgspec.field(default_factory=dict)
    headers: tuple[str, ...] = ()
    action: str | None = None
    streams: tuple[str, ...] = ()
    admit: Callable[[RequestContext[S_contra]], Awaitable[Any]] | None = None
    passes_on: Callable[[RequestContext[S_contra]], bool] | None = None
    found: Found[S_contra] | None = None
    on_refused: Callable[[RequestContext[S_contra], QuiltfnError], None] | None = None
    called: Called[S_contra] | None = None
    is_about_call: bool = False
    for_visitors: bool = False
    unverified: Unverified[S_contra] | None = None

    @property
    def about(self) -> str:
        """The route's description: the docstring of the handler."""
        return " ".join((self.handler.__doc__ or "").split())

    @property
    def longer_bodies(self) -> str:
        """A hint about sending longer bodies."""
        if self.passes_on is not None:
            return (
                "a runtime of kind server takes longer bodies, up to the setting "
                "server_body_max_bytes"
            )
        if self.streams:
            return "the setting image_upload_max_bytes says how long an archive may be"
        setting = "invoke_body_max_bytes" if self.is_invoke else "body_max_bytes"
        return f"the setting {setting} limits the length of the body"


# A route with unknown services: it can be described, but its handler can't be called.
AnyRoute = Route[Never]
R = TypeVar("R", bound=AnyRoute)


def by_path(routes: Iterable[R]) -> dict[str, dict[str, R]]:
    """The routes by path and method, in the order of the paths' first routes."""
    paths: dict[str, dict[str, R]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = route
    return paths


# The function that a connection calls with each request, and that a middleware wraps.
Application = Callable[[Request], Awaitable[Response]]
