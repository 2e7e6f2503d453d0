"""The HTTP application: turns every request into a response, whatever happens.

A connection (`api/http/connection.py`) passes every request to `App` and sends the `Response` that
`App` returns. Middleware that sees every request, such as a tracer, wraps `App`.
"""

import contextlib
import re
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from types import MappingProxyType

import msgspec
import structlog

from quiltfn.api.audit import AuditLog
from quiltfn.api.help import HelpDocuments
from quiltfn.api.http import body, parse
from quiltfn.api.http.budgets import SHORT_BYTES
from quiltfn.api.http.callers import TENANT, TENANT_HEADER, identify, visiting
from quiltfn.api.http.compression import Compression
from quiltfn.api.http.errors import for_strangers
from quiltfn.api.http.failures import bug, failure, log_bug
from quiltfn.api.http.guards import check_connection, check_origin, is_for_host
from quiltfn.api.http.idempotency import idempotent_request
from quiltfn.api.http.passed_on import HELD_BYTES, PassedOnBody, too_long
from quiltfn.api.http.path_pattern import PathPattern
from quiltfn.api.http.request import ClientDisconnected, Request
from quiltfn.api.http.response import INVOCATION_ID, Response
from quiltfn.api.http.route import (
    ANY_METHOD,
    NOBODY,
    AnyRoute,
    Application,
    Handler,
    RequestContext,
    Route,
    by_path,
)
from quiltfn.api.http.tracing import traced
from quiltfn.api.routes import web
from quiltfn.api.routes.system import field_limits
from quiltfn.api.routes.table import ROUTES
from quiltfn.api.services import Services
from quiltfn.base.ids import new_id
from quiltfn.functions.catalog import Entry
from quiltfn.model.access import Caller
from quiltfn.model.errors import (
    BadRequest,
    Internal,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    QuiltfnError,
    ShuttingDown,
    StoreUnavailable,
    Unprocessable,
    cut_off,
    no_such_route,
)
from quiltfn.model.function import FunctionState
from quiltfn.model.url import PREFIX
from quiltfn.tenants.access import ANYBODY

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Lookups of paths up to this length are cached, since clients repeat a few paths.
REMEMBERED_PATH = 128
_log = structlog.get_logger("quiltfn.api")

Context = RequestContext[Services]


def make_app(services: Services, routes: Sequence[Route[Services]] = ROUTES) -> Application:
    """The application over `services`."""
    for directory in (web.DASHBOARD, web.DOCUMENTATION):
        web.files(directory)  # read now, so that a disk that hangs later has no effect
    documents = HelpDocuments(routes, field_limits(services))
    audit_log = AuditLog(services.audit, services.clock)
    compression = Compression(services.budgets.responses)
    make = partial(Endpoint, services, documents, audit_log, compression)
    app = App([make(path, ways) for path, ways in by_path(routes).items()], services.urls.host)
    return app if services.tracer is None else traced(app, app.route_of, services.tracer)


class App:
    """Finds the endpoint of a request. `url_host`: the host that serves only function URLs, if
    there is one.
    """

    def __init__(self, endpoints: "Iterable[Endpoint]", url_host: str = "") -> None:
        table = [(PathPattern(endpoint.path), endpoint) for endpoint in endpoints]
        table.sort(key=lambda row: row[0].rank)
        self._longest = 1 + max(pattern.length for pattern, _ in table)
        # Endpoints by number of path segments; the last entry is for all longer paths.
        self._endpoints = [
            [(pattern, endpoint) for pattern, endpoint in table if pattern.takes(length)]
            for length in range(self._longest + 1)
        ]
        self._url_host = url_host
        self._find_remembered = lru_cache(maxsize=1024)(self._find)

    def __call__(self, request: Request) -> Awaitable[Response]:
        """Returns the response to `request`, refusals included. Raises `ClientDisconnected`."""
        path = request.path
        if self._url_host and is_for_host(request, self._url_host) != path.startswith(PREFIX):
            return _no_such_route(request)
        find = self._find_remembered if len(path) <= REMEMBERED_PATH else self._find
        found = find(path)
        if found is None:
            return _no_such_route(request)
        endpoint, request.parameters = found
        return endpoint.respond(request)

    def route_of(self, request: Request) -> AnyRoute | None:
        """Returns the route for a request."""
        path = request.path
        find = self._find_remembered if len(path) <= REMEMBERED_PATH else self._find
        found = find(path)
        return None if found is None else found[0].route(request.method)

    def answer_call(
        self, request: Request, request_id: str, caller: Caller, handler: Handler[Services]
    ) -> Awaitable[Response]:
        """Returns the response of `handler`, or to its error, for an invocation that has begun:
        `request` was read and authorized.
        """
        found = self._find(request.path)
        assert found is not None
        endpoint, request.parameters = found
        return endpoint.answer_call(request, request_id, caller, handler)

    def _find(self, path: str) -> "tuple[Endpoint, Mapping[str, str]] | None":
        segments = path.split("/")
        for pattern, endpoint in self._endpoints[min(len(segments), self._longest)]:
            parameters = pattern.parameters_of(segments)
            if parameters is not None:
                return endpoint, MappingProxyType(parameters)
        return None


class Endpoint:
    """All methods of one path. HEAD is a GET whose body is not sent; OPTIONS is answered here."""

    def __init__(
        self,
        services: Services,
        documents: HelpDocuments,
        audit_log: AuditLog,
        compression: Compression,
        path: str,
        routes: Mapping[str, Route[Services]],
    ) -> None:
        self.path = path
        self._services, self._help, self._audit_log = services, documents, audit_log
        self._compression = compression
        self._has_others = services.lifecycle.others.are_possible
        is_alone = services.fleet.is_alone and not self._has_others
        self._run = self._execute if is_alone else self._execute_somewhere
        self._routes = dict(routes)
        self._any_method = self._routes.pop(ANY_METHOD, None)
        if "GET" in self._routes:
            self._routes.setdefault("HEAD", self._routes["GET"])
        self._allow = ", ".join(sorted({*self._routes, "OPTIONS"}))

    def route(self, method: str) -> Route[Services] | None:
        """The route of a method, if the path has one."""
        return self._routes.get(method, self._any_method)

    async def respond(self, request: Request) -> Response:
        """Returns one response, with the request's id, whatever happens. Raises
        `ClientDisconnected`.
        """
        request_id = own_or_new_id(request)
        route = self._routes.get(request.method, self._any_method)
        context = self._context(request, request_id, route)
        if request.forwarded is not None:
            context.invocation_id = request.forwarded.invocation_id
        try:
            response = await self._respond(context, request, route)
        except QuiltfnError as error:
            error = _as_known(context, error)
            response = _unverified(context, route, error) or _failure(context, route, error)
            if isinstance(error, MethodNotAllowed):
                response.headers.append(("allow", self._allow))
            await self._audit_log.refused(context, response, error.code)
        except ClientDisconnected:
            raise
        except Exception:
            response = bug(request, request_id)
            await self._audit_log.refused(context, response, Internal.code)
        finally:
            if context.reserved_bytes:
                bodies = self._services.budgets.bodies
                bodies.release(
                    context.reserved_bytes, context.tenant_id, is_stranger=context.is_stranger
                )
        if route is not None and not route.is_invoke and route is not self._any_method:
            await self._compression.apply(response, request.headers)
        return _complete(context, route, response)

    async def answer_call(
        self, request: Request, request_id: str, caller: Caller, handler: Handler[Services]
    ) -> Response:
        """As `App.answer_call`."""
        route = msgspec.structs.replace(self._routes[request.method], handler=handler)
        context = self._context(request, request_id, route)
        context.caller, context.tenant_id = caller, caller.tenant_id
        return _complete(context, route, await self._execute(context, request, route))

    def _context(self, request: Request, request_id: str, route: Route[Services] | None) -> Context:
        return RequestContext(
            services=self._services,
            help=self._help,
            request=request,
            request_id=request_id,
            route=route,
            headers=request.headers,
            parameters=request.parameters,
            path=request.path,
        )

    async def _respond(
        self, context: Context, request: Request, route: Route[Services] | None
    ) -> Response:
        """Authenticates and authorizes the request, then executes or replays it."""
        services = self._services
        access, forwarded = services.access, request.forwarded
        # A request that only reads is cancelled if its client disconnects. A GET of a function URL,
        # whose route has `admit`, invokes a function.
        is_read = request.method in ("GET", "HEAD")
        request.ends_with_client = is_read and (route is None or route.admit is None)
        # For a forwarded request, the node that received it has named the caller.
        is_known = forwarded is not None and forwarded.caller is not None
        if access.is_open and not is_known and access.is_outdated:
            await access.refresh()
        if route is not None and route.admit is not None:
            return await self._respond_raw(context, request, route)
        is_open = access.is_open and forwarded is None
        if is_open:
            check_origin(request, is_public=route is not None and route.scope is None)
        if route is None:
            if request.method == "OPTIONS":
                return Response(status=204, headers=[("allow", self._allow)])
            raise MethodNotAllowed(f"{request.method} is not one of: {self._allow}")
        if route.scope is not None:
            # Only in a fleet can keys be stale.
            anybody = ANYBODY if services.fleet.is_alone or not is_open else access.anybody()
            caller = anybody if is_open else await identify(access, request)
            context.caller, context.tenant_id = caller, caller.tenant_id
            visits = b"tenant" in request.query or TENANT_HEADER in request.headers
            caller = await self._visit(context, request, route) if visits else caller
            caller.must_have(route.scope)
        if route.action is not None and services.health.draining:
            raise ShuttingDown("the server is ending and changes nothing any more", retry_after=5)
        if route.is_invoke and request.is_reserved:
            check_connection(request)
        if request.method in ("POST", "PUT") and not route.streams:
            limits = services.limits
            limit = limits.invoke_body_max if route.is_invoke else limits.body_max
            if request.is_whole:
                self._take_body(context, request, route, limit)
            else:
                await self._read_body(context, request, route, limit)
        key = request.headers.get("idempotency-key") if route.is_idempotent else None
        if key is None:
            return await self._run(context, request, route)
        return await self._execute_once(context, request, route, key)

    async def _respond_raw(
        self, context: Context, request: Request, route: Route[Services]
    ) -> Response:
        """Handles a request that its route admits by itself, with any body."""
        assert route.admit is not None
        try:
            context.body = await route.admit(context)
        except NotFound:
            await self._services.lifecycle.others.hear_of_missing()
            context.body = await route.admit(context)
        if request.is_reserved:
            check_connection(request)
        limit = self._services.limits.bytes_max
        if request.is_whole:
            self._take_body(context, request, route, limit)
        elif route.passes_on is not None and route.passes_on(context):
            self._pass_on(context, request, route)
        else:
            await self._read_body(context, request, route, limit)
        return await self._run(context, request, route)

    async def _visit(self, context: Context, request: Request, route: AnyRoute) -> Caller:
        """As `visiting`, also for a tenant that another node has just created. A refused request
        keeps the caller's own tenant, for the audit log.
        """
        try:
            caller = visiting(self._services, context.caller, request, route)
        except NotFound:
            await self._services.lifecycle.others.hear_of_missing()
            caller = visiting(self._services, context.caller, request, route)
        context.caller, context.tenant_id = caller, caller.tenant_id
        return caller

    def _pass_on(self, context: Context, request: Request, route: AnyRoute) -> None:
        """Lets the handler read the body while it arrives."""
        limits = self._services.limits
        passed = PassedOnBody(request, limits.server_body_max, limits.body_timeout_s)
        length = HELD_BYTES if passed.length is None else passed.length
        self._reserve(context, route, min(length, HELD_BYTES))
        context.passed_on = passed

    def _take_body(self, context: Context, request: Request, route: AnyRoute, limit: int) -> None:
        """Takes a body that has arrived completely, as most have."""
        size = len(request.body)
        if size > limit:
            raise too_long(limit)
        if size > SHORT_BYTES:
            self._reserve(context, route, size)
        context.raw_body = request.take_body()

    async def _read_body(
        self, context: Context, request: Request, route: AnyRoute, limit: int
    ) -> None:
        """Reads a body that is still arriving."""
        reserve = partial(self._reserve, context, route)
        timeout_s = self._services.limits.body_timeout_s
        context.raw_body = await body.read_whole(request, limit, timeout_s, reserve)

    def _reserve(self, context: Context, route: AnyRoute, size: int) -> None:
        """Counts a long body, of `size` bytes so far. Raises `RateLimited` and `CapacityFull`."""
        if size > SHORT_BYTES:
            more = size - context.reserved_bytes
            bodies = self._services.budgets.bodies
            bodies.reserve(
                more,
                context.tenant_id,
                is_call=route.is_invoke,
                is_stranger=context.is_stranger,
            )
            context.reserved_bytes = size

    async def _execute_once(
        self, context: Context, request: Request, route: Route[Services], key: str
    ) -> Response:
        """Returns the first response to this Idempotency-Key, executed now or stored before."""
        responses, unstored = self._services.budgets.responses, 0

        async def execute() -> Response:
            nonlocal unstored
            response = await self._run(context, request, route)
            if route.is_invoke and response.executed:
                # The record must be on disk before the response is stored: a power cut must not
                # lose the record of a stored response. If this fails, storing the response fails
                # too.
                with contextlib.suppress(StoreUnavailable):
                    await self._services.journal.synced()
            if isinstance(response.body, bytes) and len(response.body) > SHORT_BYTES:
                # `_run` has just released the memory of this response, so these bytes are still
                # free.
                unstored = len(response.body)
                responses.add_unsent(unstored)
            return response

        tenant_id = context.tenant_id
        raw, path = context.raw_body or b"", request.path
        keyed = idempotent_request(tenant_id, request.method, path, key, raw, request.query)
        del raw
        budget, find = self._services.budgets.stored_response(tenant_id), None
        if route.found is not None:
            context.invocation_id, find = new_id(), partial(route.found, context)
        try:
            return await self._services.idempotency.run(
                keyed, execute, budget, context.invocation_id, find
            )
        finally:
            responses.add_unsent(-unstored)

    async def _execute(
        self, context: Context, request: Request, route: Route[Services]
    ) -> Response:
        """Runs the route's handler, renders its refusals, and audits it if it changes something."""
        code = None
        try:
            if request.query and route.scope is not None:
                context.query = _query(route, context)
            if route.admit is not None:
                response = await route.handler(context)
            elif route.streams:
                with self._services.budgets.uploads:
                    context.body = body.streamed(route, request, self._services.limits)
                    response = await route.handler(context)
            else:
                raw, context.raw_body = context.raw_body, None
                if raw:
                    if len(raw) > SHORT_BYTES:
                        await self._services.budgets.turn()
                    context.body = body.parsed(route, raw, request, self._help.limits)
                elif route.body is not None and route.needs_body:
                    raise BadRequest("this call needs a JSON body")
                del raw  # keep one copy of the body, and only while it is needed
                response = await route.handler(context)
        except QuiltfnError as error:
            if isinstance(error, Internal):
                log_bug(request, context.request_id)
            error = _as_known(context, error)
            response, code = _failure(context, route, error), error.code
        except ClientDisconnected:  # before the whole body arrived
            raise
        except Exception:
            # The handler's progress is unknown, so the request counts as executed and is audited.
            response, code = bug(request, context.request_id), Internal.code
        if route.action is not None:
            response = await self._audited(context, response, code)
        return response

    def _is_known(self, context: Context, route: Route[Services]) -> bool:
        """Whether a request need not wait for the changes of other nodes: an invocation of a
        function that is active here, or a public request about no function.
        """
        named, catalog = context.parameters, self._services.catalog
        if not route.is_invoke:
            return route.scope is None and "function_id" not in named
        if route.admit is not None and route.called is not None:
            called = route.called(context)
            if called is None:
                return True
            entry: Entry | None = called.entry
        elif "function_id" in named:
            entry = catalog.known(named["function_id"])
        else:
            entry = catalog.find(context.tenant_id, named["name"]) if "name" in named else None
        return entry is not None and entry.function.state is FunctionState.ACTIVE

    async def _hear_of_others(self, context: Context, route: AnyRoute) -> None:
        """Applies the changes that other nodes have already acknowledged. Raises `Unauthorized` if
        the caller's credential was revoked.
        """
        context.is_current = await self._services.lifecycle.others.hear()
        is_identified_here = route.scope is not None and context.request.forwarded is None
        if is_identified_here:
            self._services.access.check_holds(context.caller)

    async def _execute_somewhere(
        self, context: Context, request: Request, route: Route[Services]
    ) -> Response:
        """As `_execute` in a fleet: runs the request here or forwards it to the node responsible,
        which then also audits it.
        """
        response = None
        try:
            if request.query and route.scope is not None:
                context.query = _query(route, context)
            if self._has_others and not self._is_known(context, route):
                await self._hear_of_others(context, route)
            response = await self._services.fleet.elsewhere(context, route)
        except QuiltfnError as error:
            error = _as_known(context, error)
            response = _failure(context, route, error)
            if route.action is not None:
                response = await self._audited(context, response, error.code)
        return response or await self._execute(context, request, route)

    async def _audited(self, context: Context, response: Response, code: str | None) -> Response:
        """Returns the response once the audit log has its entry."""
        try:
            await self._audit_log.executed(context, response, code)
        except StoreUnavailable as error:
            # The change stays in effect even if the audit log cannot store its entry.
            error.executed = response.executed
            return failure(error, context.request_id)
        return response


def _unverified(
    context: Context, route: Route[Services] | None, error: QuiltfnError
) -> Response | None:
    """The response for unverified callers, if the route has one and a credential could not be
    checked.
    """
    if not isinstance(error, StoreUnavailable) or context.caller is not NOBODY:
        return None
    if route is None or route.unverified is None:
        return None
    with contextlib.suppress(QuiltfnError):
        context.query = _query(route, context)
    return route.unverified(context, error)


def _as_known(context: Context, error: QuiltfnError) -> QuiltfnError:
    """Replaces `NotFound` if this node may be behind: another node may know the object."""
    return cut_off() if isinstance(error, NotFound) and not context.is_current else error


def _failure(context: Context, route: Route[Services] | None, error: QuiltfnError) -> Response:
    """Renders a refusal or a failure, with the details that this caller may see."""
    if route is not None and route.on_refused is not None:
        route.on_refused(context, error)
    if route is not None and isinstance(error, PayloadTooLarge):
        error.hint = error.hint or route.longer_bodies
    has_record = error.invocation_id is not None
    if route is not None and route.admit is not None and context.caller is NOBODY:
        error = for_strangers(error)
    response = failure(error, context.request_id)
    response.has_record = has_record
    return response


def _complete(context: Context, route: AnyRoute | None, response: Response) -> Response:
    """Logs the request, if it must be, and adds its id to the response."""
    if response.status >= 400 or (route is not None and route.action is not None):
        _log_request(context, response)
    response.headers.append(("x-request-id", context.request_id))
    return response


def _log_request(context: Context, response: Response) -> None:
    """Logs refusals and changes. A successful invocation has its record, and a log line would cost
    more than the record. Logs the path, never the query, which may contain a credential.
    """
    _log.info(
        "request",
        method=context.request.method,
        path=context.path,
        status=response.status,
        request_id=context.request_id,
        invocation_id=response.header(INVOCATION_ID),
    )


def _query(route: AnyRoute, context: Context) -> dict[str, str]:
    """Returns the query parameters, without the tenant. Refuses repeated and unknown ones: a
    misspelt filter would filter nothing.
    """
    known = [one.name for one in route.parameters if one.where == "query"]
    query: dict[str, str] = {}
    for name, value in parse.parameters(context.request.query):
        if name not in known and name != TENANT:
            expected = f"one of: {', '.join(known)}" if known else "left out: this route has none"
            short = name[:80]
            raise Unprocessable.field(short, expected, label=f"the query parameter {short}")
        if name in query:
            raise Unprocessable.field(name, "given once", None)
        query[name] = value
    if query.pop(TENANT, context.tenant_id) != context.tenant_id:
        label = f"the name of {TENANT}"
        raise Unprocessable.field(TENANT, "written without %", label=label)
    return query


async def _no_such_route(request: Request) -> Response:
    request_id = own_or_new_id(request)
    error = no_such_route()
    response = failure(error, request_id)
    response.headers.append(("x-request-id", request_id))
    return response


def own_or_new_id(request: Request) -> str:
    """Returns the request id that the client sent, or a new one."""
    given = request.headers.get("x-request-id")
    return given if given is not None and REQUEST_ID.fullmatch(given) else new_id()
