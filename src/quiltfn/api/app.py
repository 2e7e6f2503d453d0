"""The ASGI application: one request from its first line to its answer.

Routing, requests and responses are Starlette's; what is strict here is the body (one JSON text,
within its limit, said to be JSON), the error body, and who may talk to a server without keys.
"""

import re
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as Path
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from quiltfn.api import errors, parse
from quiltfn.api.routes import ROUTES, Answer, Asked, House, Route
from quiltfn.ids import new_id
from quiltfn.model.errors import (
    BadRequest,
    Forbidden,
    Internal,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    QuiltfnError,
    Unprocessable,
    UnsupportedMediaType,
)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
TENANT = "default"
_encode = msgspec.json.Encoder().encode
_log = structlog.get_logger("quiltfn.api")


def make_app(house: House) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """The application over `house`."""
    paths = [Path(path, _endpoint(house, routes), methods=None) for path, routes in ROUTES]
    for path in paths:
        path.methods = set()  # every method arrives, so that 405 is told in our own words
    router = Router(routes=paths, redirect_slashes=False, default=_no_such_route)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await router(scope, receive, send)

    return app


def _endpoint(house: House, routes: dict[str, Route]) -> Callable[[Request], Awaitable[Response]]:
    allow = ", ".join(sorted(routes))

    async def endpoint(request: Request) -> Response:
        request_id = _request_id(request)
        try:
            route = routes.get(request.method)
            if route is None:
                raise MethodNotAllowed(f"{request.method} is not one of: {allow}")
            answer = await _answer(house, route, request)
        except QuiltfnError as error:
            headers = {"allow": allow} if isinstance(error, MethodNotAllowed) else {}
            return _failure(error, request_id, headers)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception:
            _log.exception("a request failed", request_id=request_id, path=request.url.path)
            return _failure(Internal("the server made a mistake; its log has more"), request_id)
        body = b"" if answer.value is None else _encode(answer.value)
        response = Response(body, status_code=answer.status, headers=dict(answer.headers))
        if answer.value is not None:
            response.headers["content-type"] = "application/json"
        response.headers["x-request-id"] = request_id
        return response

    return endpoint


async def _answer(house: House, route: Route, request: Request) -> Answer:
    _check_neighbour(request)
    asked = Asked(
        house=house,
        tenant_id=TENANT,
        path=request.path_params,
        query=_query(request),
        headers=request.headers,
    )
    if request.method in ("POST", "PUT"):
        asked.body = _body(route, await _read(request, route.limit), request)
    return await route.handler(asked)


def _body(route: Route, raw: bytes, request: Request) -> object:
    """The body as its route's shape; None where none was sent and none is needed."""
    if not raw:
        if route.body is not None and route.needs_body:
            raise BadRequest("this call needs a JSON body")
        return None
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaType(
            "the body must be JSON, sent with Content-Type: application/json"
        )
    value = parse.json_value(raw)
    if route.body is None:
        if value != {}:
            raise Unprocessable.field("the body", "empty: this call takes none", value)
        return None
    return parse.shape(value, route.body)


async def _read(request: Request, limit: int) -> bytes:
    """The body, refused as soon as it is known to be longer than `limit` bytes."""
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > limit:
        raise PayloadTooLarge(f"the body has {announced} bytes; this route takes {limit}")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise PayloadTooLarge(f"the body is longer than the {limit} bytes this route takes")
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _query(request: Request) -> dict[str, str]:
    if not request.scope["query_string"]:
        return {}
    query: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in query:
            raise Unprocessable.field(name[:80], "given once", None)
        query[name] = value
    return query


def _check_neighbour(request: Request) -> None:
    """Without keys the only fence is the loopback address, so a browser that was lured into
    talking to it (a rebound name, a post from a foreign page) is turned away.
    """
    host = request.headers.get("host")
    if host is None:
        raise BadRequest("the Host header is missing")
    if not _is_loopback("//" + host):
        raise Forbidden(
            "this server has no keys and answers only to loopback names",
            hint="call it as http://127.0.0.1 or http://localhost",
        )
    origin = request.headers.get("origin")
    if origin is not None and not _is_loopback(origin):
        raise Forbidden("this server has no keys and takes no calls from other pages")


def _is_loopback(url: str) -> bool:
    try:
        return urlsplit(url).hostname in LOOPBACK_NAMES
    except ValueError:
        return False


async def _no_such_route(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope)
    error = NotFound("there is no such route", hint="GET /api/functions lists the functions")
    await _failure(error, _request_id(request))(scope, receive, send)


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else new_id()


def _failure(
    error: QuiltfnError, request_id: str, headers: dict[str, str] | None = None
) -> Response:
    status, body, more = errors.render(error, request_id)
    all_headers = {**more, **(headers or {}), "x-request-id": request_id}
    return Response(body, status, all_headers, media_type="application/json")
