"""Traces requests: continues the caller's trace, or starts a new one."""

from collections.abc import Callable

from quiltfn.api.http.request import Request
from quiltfn.api.http.response import INVOCATION_ID, Response
from quiltfn.api.http.route import AnyRoute, Application
from quiltfn.observe.trace import Answered, Tracer, Value, current

HEADER = "traceparent"
METRICS = "/metrics"
# Maximum length of a path in a span: callers choose it, and thousands of spans may be queued.
PATH_MAX = 512
ACCEPTED, SERVER_ERROR = 202, 500
IDS = {"quiltfn.request_id": "x-request-id", "faas.invocation_id": INVOCATION_ID}


def traced(
    app: Application, route_of: Callable[[Request], AnyRoute | None], tracer: Tracer
) -> Application:
    """Wrap `app` so that these requests have spans: all invocations, and all routes that need a
    key, except for the metrics, which are requested all the time. The span replaces the request's
    `traceparent`, so all work for the request belongs to the span. An invocation of a function URL,
    which may need no key, starts a new trace: unauthenticated callers must not decide how much is
    traced.
    """

    async def respond(request: Request) -> Response:
        route = route_of(request)
        if route is None or not _is_traced(route):
            return await app(request)
        has_key = route.scope is not None
        trace = tracer.request(request.headers.get(HEADER) if has_key else None)
        request.headers[HEADER] = trace.context.traceparent
        token = current.set(trace.context)
        try:
            response = await app(request)
        finally:
            current.reset(token)
        if trace.context.is_sampled:
            tracer.answered(trace, _answered(request, route.path, response))
        return response

    return respond


def _is_traced(route: AnyRoute) -> bool:
    return route.is_invoke or (route.scope is not None and route.path != METRICS)


def _answered(request: Request, path: str, response: Response) -> Answered:
    """Attributes with OpenTelemetry's names, without the query, which may contain a credential."""
    attributes: dict[str, Value] = {
        "http.request.method": request.method,
        "http.route": path,
        "url.path": request.path[:PATH_MAX],
        "http.response.status_code": response.status,
    }
    for name, header in IDS.items():
        value = response.header(header)
        if value is not None:
            attributes[name] = value
    error = f"HTTP {response.status}" if response.status >= SERVER_ERROR else None
    work_id = response.header(INVOCATION_ID) if response.status == ACCEPTED else None
    return Answered(f"{request.method} {path}", attributes, error, work_id)
