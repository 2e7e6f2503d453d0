"""What a route is: its handler, who may call it, what it takes, and everything it can answer."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

import msgspec

from quiltfn.api.http.budgets import Budgets
from quiltfn.api.http.passed_on import PassedOnBody
from quiltfn.api.http.request import NO_PARAMETERS, Headers, Request
from quiltfn.api.http.response import Response
from quiltfn.base.immutable import Frozen
from quiltfn.functions.catalog import Catalog, Entry
from quiltfn.model.access import Caller, Scope
from quiltfn.model.errors import Forbidden, QuiltfnError, StoreUnavailable
from quiltfn.model.invocation import PAYLOAD_MAX_BYTES
from quiltfn.tenants.access import Access

MIB = 1024 * 1024
# In place of a method, in the table of routes: any.
ANY_METHOD = "*"


class ApiLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may need of the server, and a call may have of it, in bytes and seconds."""

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
        """The longest body that goes to a handler as it is."""
        return min(self.invoke_body_max, PAYLOAD_MAX_BYTES)


class RouteServices(Frozen):
    """What any route may need. A module of routes adds what its own need in a class of its own;
    `Services` (services.py) is all of these together.
    """

    access: Access
    catalog: Catalog
    limits: ApiLimits
    budgets: Budgets


S = TypeVar("S", bound=RouteServices)

# Who a request comes from as long as no credential was checked.
NOBODY = Caller(tenant_id="", scope=Scope.READ, credential="nobody")


class RequestContext(msgspec.Struct, Generic[S], kw_only=True, eq=False):
    """One request and everything that is known about it by now; what a handler is given.

    `caller`: NOBODY until a credential says more; `tenant_id`: from the credential, and from
    nowhere else. `parameters`: what the path names; `query`: its parameters. `body`: as the shape
    that the route declares; where the route takes a stream, its chunks while they arrive; where the
    route admits by itself, what its `admit` has found.
    `invocation_id`: of the call that a request with an Idempotency-Key begins; its handler uses it.
    `raw_body`: until it is parsed. `passed_on`: in its place, a body that is still arriving.
    `reserved_bytes`: of the budget of long bodies. `is_executed`:
    the route's own work was begun. `is_current`: False if what other nodes have made may be missing
    here.
    """

    services: S
    help: Any
    request: Request
    request_id: str
    route: "Route | None"
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
        """The function that the path names by id."""
        return self.services.catalog.by_id(self.tenant_id, self.parameters["function_id"])

    def entry_by_name(self) -> Entry:
        """The function that the path names."""
        return self.services.catalog.by_name(self.tenant_id, self.parameters["name"])

    @property
    def sees_values(self) -> bool:
        """Whether the caller has scope `write`, in its own tenant: it may see secrets and set any
        variable.
        """
        return self.caller.scope.includes(Scope.WRITE) and not self.caller.is_visiting

    def must_see_values(self) -> None:
        """Raises `Forbidden` for a caller to whom secrets are not shown."""
        self.caller.must_have(Scope.WRITE)
        if not self.sees_values:
            raise Forbidden("an operator sees no secrets of another tenant")

    @property
    def is_stranger(self) -> bool:
        """Whether the caller has no credential: it calls a public URL."""
        return self.caller is NOBODY

    @property
    def action(self) -> str | None:
        """Its name in the audit log, if it is there to change something."""
        return self.route.action if self.route is not None else None


Handler = Callable[[RequestContext[Any]], Awaitable[Response]]
Found = Callable[[RequestContext[Any], str], Awaitable[Response | None]]


class CalledFunction(msgspec.Struct, frozen=True):
    """What a request calls. `names_version`: by a version or an alias, which may be the current one
    of the function.
    """

    entry: Entry
    names_version: bool = False


Called = Callable[[RequestContext[Any]], CalledFunction | None]
Unverified = Callable[[RequestContext[Any], StoreUnavailable], Response]


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """A query parameter or a header that a route reads. `schema`: JSON Schema."""

    name: str
    about: str
    schema: Mapping[str, Any] = msgspec.field(default_factory=lambda: {"type": "string"})
    required: bool = False
    where: str = "query"
    example: Any = None


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """`scope` None: anybody, without a credential. `answer` None: no body; str: text alone; a
    union: one of these shapes.

    `texts`: the content types of an answer that is text, always or where the caller asks for it.
    `also`: further statuses with answers of their own; bytes: those of the first of `texts`.
    `headers`: those of its own that a good answer may have (see `api/openapi.py`).

    `codes`: the refusals of its own, beside those that every route has (see `api/openapi.py`).
    `action`: its name in the audit log, for what changes something.
    `streams`: the content types of a body that is no JSON and is handed on as it arrives.
    `admit`: of a route without `scope`: says who asks and for what, before the body is read; raises
    what it refuses. The body is then any bytes, whatever the method, and stays in `raw_body`.
    `passes_on`: of such a route: whether its work takes the body of this request while it arrives.
    `found`: of a route that begins a call, under the id that the context has: what a repetition
    gets whose first response was lost, if that call was accepted. It may raise `NotFound`.
    `on_refused`: is told what such a route refuses or fails with.
    `called`: of a route that another node may answer: the function that the request calls, or None.
    `is_about_call`: the node answers where the call runs that the path names.
    `for_visitors`: of a route that takes more than `read`: whether operators may use it anywhere.
    `unverified`: what whoever asks is answered while no credential can be checked.
    """

    handler: Handler
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
    admit: Callable[[RequestContext[Any]], Awaitable[Any]] | None = None
    passes_on: Callable[[RequestContext[Any]], bool] | None = None
    found: Found | None = None
    on_refused: Callable[[RequestContext[Any], QuiltfnError], None] | None = None
    called: Called | None = None
    is_about_call: bool = False
    for_visitors: bool = False
    unverified: Unverified | None = None

    @property
    def about(self) -> str:
        """What it does, in its handler's own words."""
        return " ".join((self.handler.__doc__ or "").split())

    @property
    def longer_bodies(self) -> str:
        """A hint: what a longer body takes."""
        if self.passes_on is not None:
            return (
                "a runtime of kind server takes longer bodies, up to the setting "
                "server_body_max_bytes"
            )
        if self.streams:
            return "the setting image_upload_max_bytes says how long an archive may be"
        setting = "invoke_body_max_bytes" if self.is_invoke else "body_max_bytes"
        return f"the setting {setting} says how long the body may be"


# Every path with its methods, in the order in which paths are looked at.
RouteTable = Iterable[tuple[str, Mapping[str, Route]]]
# What a connection calls, and what a middleware takes and gives.
Application = Callable[[Request], Awaitable[Response]]
