"""The ASGI application: one request from its first line to its answer.

Routing, requests and responses are Starlette's; what is strict here is the body (one JSON text,
within its limit, said to be JSON), the error body, and who may talk to a server without keys.
"""

import asyncio
import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import urlsplit

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as Path
from starlette.routing import Router
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from quiltfn.api import openapi, parse
from quiltfn.api.audit import AuditLog, Visit
from quiltfn.api.budgets import SHORT_BYTES
from quiltfn.api.help import HelpDocuments
from quiltfn.api.render import JSON, bug, encode, failure, success, tell_of_bug
from quiltfn.api.route import RequestContext, Route, Services
from quiltfn.api.routes import CALL_BY_ID, CALL_BY_NAME, ROUTES
from quiltfn.api.stream import streamed
from quiltfn.api.system import field_limits
from quiltfn.idempotency import Rendered, idempotent_request
from quiltfn.ids import new_id
from quiltfn.model.errors import (
    BadRequest,
    CapacityFull,
    Forbidden,
    Internal,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    QuiltfnError,
    ShuttingDown,
    StoreUnavailable,
    Unauthorized,
    Unprocessable,
    UnsupportedMediaType,
)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
CREDENTIALS = {"authorization": "Authorization", "x-api-key": "X-Api-Key"}
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
_log = structlog.get_logger("quiltfn.api")

# The two paths of a call as nearly everybody writes them; what is written otherwise is a call too,
# and goes the ordinary way.
CALL = re.compile(
    rb"/api/functions/(?:invoke/(?P<name>[A-Za-z0-9._-]+)|(?P<function_id>[0-9a-f-]{36})/invoke)"
)
LONGEST_CALL = 128


class App:
    """The ASGI application, and the shorter way of a call (see `protocol.py`)."""

    def __init__(self, router: Router, by_id: "Endpoint", by_name: "Endpoint") -> None:
        self._router, self._by_id, self._by_name = router, by_id, by_name
        # Callers ask for the same few again and again.
        self._known_call_at = lru_cache(maxsize=1024)(self._call_at)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._router(scope, receive, send)

    def call_at(self, path: bytes) -> "tuple[Endpoint, Mapping[str, str]] | None":
        """What answers a POST to this path, if that calls a function."""
        return self._known_call_at(path) if len(path) <= LONGEST_CALL else None

    def _call_at(self, path: bytes) -> "tuple[Endpoint, Mapping[str, str]] | None":
        found = CALL.fullmatch(path)
        if found is None:
            return None
        if found["name"] is not None:
            return self._by_name, MappingProxyType({"name": found["name"].decode()})
        return self._by_id, MappingProxyType({"function_id": found["function_id"].decode()})


def make_app(services: Services) -> App:
    """The application over `services`."""
    limits = field_limits(services)
    documents = HelpDocuments(ROUTES, encode(openapi.document(ROUTES, limits)), limits)
    audit_log = AuditLog(services.audit, services.clock)
    endpoints = {path: Endpoint(services, documents, audit_log, routes) for path, routes in ROUTES}
    paths = [Path(path, one.answer, methods=None) for path, one in endpoints.items()]
    for path in paths:
        path.methods = set()  # every method arrives, so that 405 is told in our own words
    router = Router(routes=paths, redirect_slashes=False, default=_no_such_route)
    return App(router, endpoints[CALL_BY_ID], endpoints[CALL_BY_NAME])


class Endpoint:
    """All methods of one path."""

    def __init__(
        self,
        services: Services,
        documents: HelpDocuments,
        audit_log: AuditLog,
        routes: dict[str, Route],
    ) -> None:
        self._services, self._routes = services, routes
        self._help, self._audit_log = documents, audit_log
        self._allow = ", ".join(sorted(routes))

    async def answer(self, request: Request) -> Response:
        """The answer to a request as Starlette has it."""
        try:
            answer = await self.respond(request)
        except ClientDisconnect:
            return Response(status_code=499)
        return Response(answer.body, answer.status, answer.headers)

    async def respond(self, request: Request, body: bytes | None = None) -> Rendered:
        """Whatever happens, one answer, with the request's id. `body`: where it is there already.

        Raises `ClientDisconnect` if the caller left before the request was whole.
        """
        request_id = _request_id(request)
        route = self._routes.get(request.method)
        visit = Visit(request=request, request_id=request_id, route=route, body=body)
        del body  # each body is kept once, as long as somebody needs it
        try:
            answer = await self._answer(visit)
        except QuiltfnError as error:
            answer = failure(error, request_id)
            if isinstance(error, MethodNotAllowed):
                answer.headers["allow"] = self._allow
            await self._audit_log.refused(visit, answer, error.code)
        except ClientDisconnect:
            raise
        except Exception:
            answer = bug(request, request_id)
            await self._audit_log.refused(visit, answer, Internal.code)
        finally:
            if visit.held:
                self._services.budgets.bodies.give_back(visit.held, visit.caller.tenant_id)
        if answer.status >= 400 or visit.action is not None:
            _tell(visit, answer)
        # A kept answer may be another request's as well, so the headers are not changed in place.
        headers = {**answer.headers, "x-request-id": request_id}
        return Rendered(status=answer.status, body=answer.body, headers=headers)

    async def _answer(self, visit: Visit) -> Rendered:
        """Who, what, may they; then the route's own work, once or again."""
        request, route = visit.request, visit.route
        access = self._services.access
        if access.is_open and access.is_outdated:
            await access.refresh()
        if access.is_open:
            check_neighbour(request, is_public=route is not None and route.scope is None)
        if route is None:
            raise MethodNotAllowed(f"{request.method} is not one of: {self._allow}")
        if route.scope is not None:
            if not access.is_open:
                check_credentials(request)
            visit.caller = await access.identify(request.headers, visit.address)
            visit.caller.must_have(route.scope)
        if route.action is not None and self._services.health.draining:
            raise ShuttingDown("the server is ending and changes nothing any more", retry_after=5)
        if route.is_invoke:
            check_place(request)
        if visit.body is not None:
            self._check_size(len(visit.body), self._limit(route))
            if len(visit.body) > SHORT_BYTES:
                self._make_room(visit, route, len(visit.body))
        elif request.method in ("POST", "PUT") and not route.streams:
            visit.body = await self._read(route, visit)
        key = request.headers.get("idempotency-key") if route.is_idempotent else None
        if key is None:
            return await self._execute(route, visit)

        answers, unkept = self._services.budgets.answers, 0

        async def execute() -> Rendered:
            nonlocal unkept
            answer = await self._execute(route, visit)
            if len(answer.body) > SHORT_BYTES:
                # The room it was made in has just come back; nobody has been called to it yet.
                unkept = len(answer.body)
                answers.sent(unkept)
            return answer

        path, raw = request.scope["path"], visit.body or b""
        keyed = idempotent_request(visit.caller.tenant_id, request.method, path, key, raw)
        del raw
        room = self._services.budgets.kept_answer(visit.caller.tenant_id)
        try:
            return await self._services.idempotency.run(keyed, execute, room)
        finally:
            answers.sent(-unkept)

    async def _execute(self, route: Route, visit: Visit) -> Rendered:
        """The route's own work, its refusals rendered and, where it changes something, audited."""
        request = visit.request
        context = RequestContext(
            services=self._services,
            help=self._help,
            caller=visit.caller,
            path=request.path_params,
            query={},
            headers=request.headers,
            url_path=request.scope["path"],
        )
        code, object_id = None, None
        try:
            if request.scope["query_string"] and route.scope is not None:
                context.query = _query(route, request)
            if route.streams:
                with self._services.budgets.uploads:
                    context.body = streamed(route, request, self._services.limits)
                    answer = await route.handler(context)
            else:
                if visit.body is not None and len(visit.body) > SHORT_BYTES:
                    await self._services.budgets.turn()
                context.body = _body(route, visit.take_body(), request, self._help.limits)
                answer = await route.handler(context)
            rendered, object_id = success(answer), answer.object_id
        except QuiltfnError as error:
            if isinstance(error, Internal):
                tell_of_bug(request, visit.request_id)
            rendered, code = failure(error, visit.request_id), error.code
        except ClientDisconnect:  # a stream that ended early: nothing came of it
            raise
        except Exception:
            # Nobody knows how far it came: it counts as executed and is audited.
            rendered, code = bug(request, visit.request_id), Internal.code
        if visit.action is not None:
            try:
                await self._audit_log.executed(visit, rendered, code, object_id)
            except StoreUnavailable as error:
                # What was done stays done, whatever the trail takes.
                error.executed = rendered.executed
                rendered = failure(error, visit.request_id)
        return rendered

    def _make_room(self, visit: Visit, route: Route, size: int) -> None:
        """Counts a body that has so many bytes by now, if it is long. Raises `RateLimited` and
        `CapacityFull`.
        """
        if size > SHORT_BYTES:
            tenant_id = visit.caller.tenant_id
            more = size - visit.held
            self._services.budgets.bodies.take(more, tenant_id, is_call=route.is_invoke)
            visit.held = size

    async def _read(self, route: Route, visit: Visit) -> bytes:
        """The body, refused as soon as it is known to be too long, or late, or too much for now."""
        request = visit.request
        limits, limit = self._services.limits, self._limit(route)
        announced = request.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > limit:
            raise PayloadTooLarge(f"the body has {announced} bytes; this route takes {limit}")
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(limits.body_timeout_s):
                async for chunk in request.stream():
                    size += len(chunk)
                    self._check_size(size, limit)
                    self._make_room(visit, route, size)
                    chunks.append(chunk)
        except TimeoutError:
            raise BadRequest(
                f"the body did not arrive within {limits.body_timeout_s:g} s"
            ) from None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _limit(self, route: Route) -> int:
        limits = self._services.limits
        return limits.invoke_body_max if route.is_invoke else limits.body_max

    def _check_size(self, size: int, limit: int) -> None:
        if size > limit:
            raise PayloadTooLarge(f"the body is longer than the {limit} bytes this route takes")


def _tell(visit: Visit, answer: Rendered) -> None:
    """Logs what was refused and what changed something. A call that went well has its record, and a
    line for each would cost more than keeping that. The path, never the query: it may hold a
    credential.
    """
    _log.info(
        "request",
        method=visit.request.method,
        path=visit.request.scope["path"],
        status=answer.status,
        request_id=visit.request_id,
        invocation_id=answer.headers.get("x-invocation-id"),
    )


def _body(route: Route, raw: bytes, request: Request, limits: Mapping[str, float]) -> object:
    """The body as its route's shape; None where none was sent and none is needed."""
    if not raw:
        if route.body is not None and route.needs_body:
            raise BadRequest("this call needs a JSON body")
        return None
    kind = request.headers.get("content-type", "")
    if kind != JSON and kind.partition(";")[0].strip().lower() != JSON:
        raise UnsupportedMediaType(
            "the body must be JSON, sent with Content-Type: application/json"
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("the body must be sent as it is, without a Content-Encoding")
    value = parse.json_value(raw)
    if route.body is None:
        if value != {}:
            raise Unprocessable.field("the body", "empty: this call takes none", value)
        return None
    return parse.shape(value, route.body, limits)


def _query(route: Route, request: Request) -> dict[str, str]:
    """Each parameter once, and none that the route does not know: a misspelt filter filters
    nothing.
    """
    known = [one.name for one in route.parameters if one.where == "query"]
    query: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            expected = f"one of: {', '.join(known)}" if known else "left out: this route has none"
            raise Unprocessable.field(f"the query parameter {name[:80]}", expected, None)
        if name in query:
            raise Unprocessable.field(name, "given once", None)
        query[name] = value
    return query


def check_neighbour(request: Request, *, is_public: bool) -> None:
    """Without keys the only fence is the loopback address, so a browser that was lured into
    talking to it (a rebound name, a page of another site or port) is turned away.

    Browsers name the page's origin with everything but GET, and whether it is another one with GET
    as well; what has neither header is no page. `is_public`: what anybody may read anyway, and
    follow a link to.
    """
    hosts = request.headers.getlist("host")
    if len(hosts) != 1:
        raise BadRequest("there must be one Host header")
    if not _is_loopback("//" + hosts[0]):
        raise Forbidden(
            "this server has no keys and answers only to loopback names",
            hint="call it as http://127.0.0.1 or http://localhost",
        )
    is_other = False
    if origins := request.headers.getlist("origin"):
        own = hosts[0].lower()
        same = (f"http://{own}", f"https://{own}")
        is_other = any(one.lower() not in same for one in origins)
    if not is_public:
        is_other |= request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none")
    if is_other:
        raise Forbidden(
            "this server has no keys and takes no calls from other pages, nor from those of other "
            "ports",
            hint="make a key (quiltfn keys create) and send it, or use the page at /docs",
        )


def check_place(request: Request) -> None:
    """No call takes one of the places that are kept for managing a server full of them."""
    if "state" in request.scope and request.scope["state"].get("is_spare"):
        raise CapacityFull("the server has all the connections that it takes", retry_after=1)


def check_credentials(request: Request) -> None:
    """Each credential once: of two, another party on the way may have counted the other one."""
    for key, name in CREDENTIALS.items():
        if len(request.headers.getlist(key)) > 1:
            raise Unauthorized(f"there must be one {name} header", hint=f"send {name} once")


@lru_cache(maxsize=256)
def _is_loopback(url: str) -> bool:
    try:
        return urlsplit(url).hostname in LOOPBACK_NAMES
    except ValueError:
        return False


async def _no_such_route(scope: AsgiScope, receive: Receive, send: Send) -> None:
    request_id = _request_id(Request(scope))
    error = NotFound("there is no such route", hint="GET /api/functions/help lists the routes")
    answer = failure(error, request_id)
    headers = {**answer.headers, "x-request-id": request_id}
    await Response(answer.body, answer.status, headers)(scope, receive, send)


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id")
    return given if given and REQUEST_ID.fullmatch(given) else new_id()
