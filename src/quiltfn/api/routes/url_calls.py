"""Invocations through function URLs: who may invoke, the handler's request, and the response.

Rule 1: callers without a credential don't learn which tenants, functions and URLs exist: the
response is 401 for everything that isn't public or doesn't exist.
Rule 2: a caller without a credential gets the handler's response, or a status and its meaning. It
gets neither the id of an invocation nor the reason of its failure.
"""

from collections.abc import Iterable
from functools import partial
from typing import Protocol

import msgspec

from quiltfn.api.call_response import LONG_OUTPUT_BYTES, long_response
from quiltfn.api.http.budgets import CallOutputBudget
from quiltfn.api.http.callers import identify
from quiltfn.api.http.failures import failure
from quiltfn.api.http.passed_on import announced_length
from quiltfn.api.http.request import Headers
from quiltfn.api.http.response import INVOCATION_ID, Header, Response
from quiltfn.api.http.route import ANY_METHOD, NOBODY, CalledFunction, RequestContext, Route
from quiltfn.api.live_answer import LiveAnswer, stream_answer
from quiltfn.api.live_call import LiveServices
from quiltfn.api.routes.parameters import PLACED
from quiltfn.calls.invoke import Request
from quiltfn.functions.aliases import Aliases
from quiltfn.functions.urls import Found, Urls
from quiltfn.host.health import Health
from quiltfn.http_trigger import cgi, cloudevents, cors, prelude
from quiltfn.http_trigger.answer import BadAnswer, HandlerAnswer, Head, sent_headers
from quiltfn.http_trigger.call import HttpCall, forwarded, passed_on
from quiltfn.http_trigger.event import answer_of, event_of
from quiltfn.http_trigger.target import Target, check_path, target_of
from quiltfn.http_trigger.webhook import is_ambiguous, is_signed, is_untimely
from quiltfn.model.access import Scope
from quiltfn.model.end_cause import HttpFailed, ResultTooLarge
from quiltfn.model.errors import (
    BadRequest,
    CapacityFull,
    Forbidden,
    FunctionNotActive,
    HandlerFailed,
    HandlerTimedOut,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    QuiltfnError,
    RateLimited,
    TenantDisabled,
    Unauthorized,
)
from quiltfn.model.invocation import (
    CallResult,
    ExitKind,
    Invocation,
    Source,
    Status,
)
from quiltfn.model.runtime import Kind
from quiltfn.model.url import Auth, Cors, FunctionUrl, Refusal
from quiltfn.model.version import ENVIRONMENT_MAX_BYTES, Version, VersionSpec
from quiltfn.observe import metrics
from quiltfn.ports import Clock

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
# For a web server, a body of up to this size is read before the invocation starts, so that a slow
# sender does not occupy an instance, and so that the body can be stored.
WHOLE_BYTES = 64 * 1024
UNSIGNED = "the signature of this call is missing, wrong, ambiguous or too old"
# The reasons by which refused invocations are counted. Other errors aren't refusals: the invocation
# has a record, or the server failed.
REASONS: dict[type[QuiltfnError], Refusal] = {
    Unauthorized: Refusal.CREDENTIAL,
    Forbidden: Refusal.CREDENTIAL,
    MethodNotAllowed: Refusal.METHOD,
    BadRequest: Refusal.REQUEST,
    PayloadTooLarge: Refusal.SIZE,
    FunctionNotActive: Refusal.STATE,
    TenantDisabled: Refusal.STATE,
    RateLimited: Refusal.LIMIT,
    CapacityFull: Refusal.LIMIT,
}


class UrlCallServices(LiveServices, Protocol):
    """The services for invocations through function URLs."""

    aliases: Aliases
    clock: Clock
    health: Health
    urls: Urls


class UrlRequest(msgspec.Struct, frozen=True):
    """An admitted request. `prefix`: the part of the path that names the function; `path`: the
    rest; both percent-encoded. `preflight`: the CORS rule for a preflight request, which the server
    answers by itself. `moved_to`: the target of a redirect. `version`: chosen by the alias that the
    path names, or by the default alias.
    """

    found: Found
    prefix: str
    path: str
    preflight: Cors | None = None
    moved_to: str | None = None
    version: Version | None = None

    @classmethod
    def of(cls, found: Found, target: Target) -> "UrlRequest":
        return cls(found, target.prefix(found.segments), target.rest(found.segments))

    @property
    def needs_no_function(self) -> bool:
        """Whether the response does not involve the function."""
        return self.preflight is not None or self.moved_to is not None

    @property
    def is_shell(self) -> bool:
        return self.spec.runtime_snapshot.kind is Kind.SHELL

    @property
    def is_server(self) -> bool:
        return self.spec.runtime_snapshot.kind is Kind.SERVER

    @property
    def spec(self) -> VersionSpec:
        return (self.version or self.found.entry.version).spec

    @property
    def url(self) -> FunctionUrl:
        return self.found.url


class Judge(msgspec.Struct):
    """Reads the response from an invocation's output, before its record is closed."""

    asked: UrlRequest
    is_binary_event: bool
    answer: HandlerAnswer | None = msgspec.field(default=None)

    def __call__(self, result: CallResult) -> CallResult:
        if result.stdout_dropped:
            most = len(result.stdout)
            too_large = ResultTooLarge(most + result.stdout_dropped, most, "response")
            return msgspec.structs.replace(result, refusal=too_large)
        try:
            self.answer = self._read(result)
        except BadAnswer as error:
            why = f"the handler's answer cannot be sent: {error}"
            return msgspec.structs.replace(result, refusal=HttpFailed(None, why))
        if result.code or result.kind is not ExitKind.EXITED:
            return result
        return msgspec.structs.replace(result, http_status=self.answer.head.status)

    def _read(self, result: CallResult) -> HandlerAnswer:
        output = result.stdout
        if result.answer_head is not None:
            begin = prelude.begin_of_server(result.answer_head)
            return HandlerAnswer(begin.head, output[begin.size :])
        is_shell, is_binary = self.asked.is_shell, self.is_binary_event
        if self.asked.url.stream:
            return prelude.whole_of(output, is_shell=is_shell, is_binary_event=is_binary)
        if is_shell:
            return cgi.answer_of(output)
        return answer_of(output, is_binary_event=is_binary)


# --- admission ---------------------------------------------------------------------------------


async def admit(context: RequestContext[UrlCallServices]) -> UrlRequest:
    """The function that the path names, if the caller may invoke it. Raises `Unauthorized`,
    `Forbidden`, `NotFound` and `RateLimited`.
    """
    request, services = context.request, context.services
    target = target_of(request.raw_path)
    found = None if target is None else services.urls.find(target.first, target.second)
    if found is not None and target is not None:
        asked, tenant_id = UrlRequest.of(found, target), found.entry.function.tenant_id
        has_version = (
            found.alias is not None or found.entry.function.id in services.aliases.defaults
        )
        if request.method == "OPTIONS":
            rule = _cors_of(context, found.url)
            if rule is not None and cors.is_preflight(rule, context.headers):
                context.tenant_id = tenant_id
                return msgspec.structs.replace(asked, preflight=rule)
        if found.url.auth is not Auth.KEY:
            context.tenant_id = tenant_id
            webhook = found.url.webhook
            if webhook is not None and is_ambiguous(webhook.scheme, _fields(context.headers)):
                raise Unauthorized(UNSIGNED)
            if _is_page_without_slash(context, target, found):
                return msgspec.structs.replace(asked, moved_to=_with_slash(context, target))
            return await _versioned(context, asked) if has_version else asked
    caller = await identify(services.access, request)
    if found is None or target is None or found.entry.function.tenant_id != caller.tenant_id:
        raise NotFound("there is no such URL")
    context.caller, context.tenant_id = caller, caller.tenant_id
    caller.must_have(Scope.INVOKE)
    return await _versioned(context, asked) if has_version else asked


def _cors_of(context: RequestContext[UrlCallServices], url: FunctionUrl) -> Cors | None:
    """The CORS rule for the request. None: the handler decides."""
    is_shared = not context.services.urls.host
    if url.cors is None and is_shared and url.auth is Auth.NONE:
        return cors.OWN_PAGES
    return url.cors


def _is_page_without_slash(
    context: RequestContext[UrlCallServices], target: Target, found: Found
) -> bool:
    """Whether a browser asks for a page at a function's path without a trailing slash. Relative
    links in that page would lead to other functions.
    """
    return (
        len(target.segments) == found.segments
        and context.request.method in ("GET", "HEAD")
        and _is_allowed("GET", found.url)
        and "text/html" in context.headers.get("accept", "")
    )


def _with_slash(context: RequestContext[UrlCallServices], target: Target) -> str:
    """The redirect target with a slash. It is relative, since a proxy may use another path, and
    must not look like a URL with a scheme.
    """
    query = context.request.query.decode("latin-1")
    return f"./{target.segments[-1]}/" + (f"?{query}" if query else "")


async def _versioned(context: RequestContext[UrlCallServices], asked: UrlRequest) -> UrlRequest:
    """Add the version of this invocation, by the alias in its path or the default alias. Raises
    `NotFound`.
    """
    aliases, found = context.services.aliases, asked.found
    try:
        if found.alias is None:
            version = await aliases.default_version(found.entry)
        else:
            version = await aliases.version(found.entry, found.alias)
    except NotFound:
        raise NotFound("there is no such URL") from None
    return msgspec.structs.replace(asked, version=version)


def called(context: RequestContext[UrlCallServices]) -> CalledFunction | None:
    """The function that the request invokes. None: the request invokes no function."""
    asked: UrlRequest = context.body
    if asked.needs_no_function:
        return None
    return CalledFunction(asked.found.entry, asked.version is not None)


def passes_on(context: RequestContext[UrlCallServices]) -> bool:
    """Whether the function gets the request's body while it arrives. Web servers do, unless the
    body is short, has to be complete for a check of its signature, or is to be stored.
    """
    asked: UrlRequest = context.body
    if asked.needs_no_function or not asked.is_server or asked.url.webhook is not None:
        return False
    length, services = announced_length(context.request), context.services
    if length is not None and length <= WHOLE_BYTES:
        return False
    policy = services.work.policies.record_policy_of(asked.found.entry.function.id)
    fits = length is not None and length <= services.limits.bytes_max
    return not (fits and policy.keep_input == "all")


def count_refusal(context: RequestContext[UrlCallServices], error: QuiltfnError) -> None:
    """Count a refused invocation if its URL exists."""
    services = context.services
    reason, target = REASONS.get(type(error)), target_of(context.request.raw_path)
    found = None if target is None else services.urls.find(target.first, target.second)
    if reason is None or found is None or error.invocation_id is not None:
        return
    now, webhook = services.clock.unix(), found.url.webhook
    if reason is Refusal.CREDENTIAL and webhook is not None:
        is_late = is_untimely(webhook, context.headers, now)
        reason = Refusal.TIME if is_late else Refusal.SIGNATURE
    services.urls.refused(found.entry.function.id, reason, now)
    metrics.count_url_refusal(reason)


# --- invocation --------------------------------------------------------------------------------


async def invoke_function_url(context: RequestContext[UrlCallServices]) -> Response:
    """Invoke a function by its URL: with any method and content type; the response is the handler's
    own. The path is /fn/<tenant>/<name>, or /fn/<name> for a function of the tenant default unless
    that is a tenant's name; <name>@<alias> selects an alias. What follows is the handler's path.
    Handlers of runners get an event in API Gateway's payload format 2.0, shell handlers get CGI/1.1
    variables.
    """
    asked: UrlRequest = context.body
    url, body = asked.url, context.raw_body or b""
    context.body = context.raw_body = None
    if asked.preflight is not None:
        return Response(status=204, headers=cors.preflight(asked.preflight, context.headers))
    if asked.moved_to is not None:
        return Response(status=307, headers=[("location", asked.moved_to), ("vary", "Accept")])
    if url.webhook is not None:
        now = context.services.clock.unix()
        if not is_signed(url.webhook, context.headers, body, now):
            raise Unauthorized(UNSIGNED)
    if not _is_allowed(context.request.method, url):
        return _wrong_method(context, url)
    check_path(asked.path)
    services, entry = context.services, asked.found.entry
    output = CallOutputBudget(services.budgets.outputs, context.tenant_id)
    request, judge = _request(context, asked, body, output)
    del body
    if url.stream:
        live = await stream_answer(context, entry, request, output, is_shell=asked.is_shell)
        if isinstance(live, LiveAnswer):
            headers = _headers(context, asked, live.begin.head, live.reader.invocation_id)
            headers.append(("x-accel-buffering", "no"))
            return Response(status=live.begin.head.status, headers=headers, body=live.body())
        return await _respond(context, asked, live, judge)
    with services.admission.call(context.tenant_id), output:
        record = await services.invoker.invoke(entry, request)
        await services.work.keep_input(record, request, context.caller.credential)
        return await _respond(context, asked, record, judge)


def _is_allowed(method: str, url: FunctionUrl) -> bool:
    if url.methods is None:
        return method != "TRACE"
    return method in url.methods or (method == "HEAD" and "GET" in url.methods)


def _wrong_method(context: RequestContext[UrlCallServices], url: FunctionUrl) -> Response:
    allowed = ", ".join(METHODS if url.methods is None else url.methods)
    error = MethodNotAllowed(f"{context.request.method} is not one of: {allowed}")
    count_refusal(context, error)
    response = failure(error, context.request_id)
    response.headers.append(("allow", allowed))
    return response


def _request(
    context: RequestContext[UrlCallServices],
    asked: UrlRequest,
    body: bytes,
    output: CallOutputBudget,
) -> tuple[Request, Judge]:
    """The handler's request. Raises `BadRequest` and `PayloadTooLarge`."""
    call = _call(context, asked, body)
    event = None if context.passed_on is not None else cloudevents.read(call.headers, body)
    judge = Judge(asked, cloudevents.is_binary(call.headers))
    traceparent = context.headers.get("traceparent")
    make = partial(
        Request,
        source=Source.URL,
        traceparent=traceparent,
        judge=judge,
        invocation_id=context.invocation_id,
        long_output=output,
        version=asked.version,
        client=context.request,
    )
    if not asked.is_shell:
        return make(payload=event_of(call, event), body=context.passed_on), judge
    if event is not None:
        call = cgi.from_event(call, event)
    own = asked.spec.runtime_snapshot.environment | asked.spec.environment
    variables = cgi.variables_of(call, own)
    if _size(variables) + _size(asked.spec.environment) > ENVIRONMENT_MAX_BYTES:
        raise PayloadTooLarge(
            f"the headers and the function's variables take more than the {ENVIRONMENT_MAX_BYTES} "
            "bytes that a handler is given",
            hint="send fewer headers, or give the function fewer variables",
        )
    return make(
        payload=call.body, environment=variables, adds_environment=True, may_write=True
    ), judge


def _size(variables: dict[str, str]) -> int:
    return sum(len(name) + len(value.encode()) + 2 for name, value in variables.items())


def _fields(headers: Headers) -> Iterable[Header]:
    """All header fields of a request, including repeated ones."""
    if not headers.repeated:
        return headers.items()
    return [(name, value) for name in headers for value in headers.getlist(name)]


def _call(context: RequestContext[UrlCallServices], asked: UrlRequest, body: bytes) -> HttpCall:
    request, headers, services = context.request, context.headers, context.services
    function = asked.found.entry.function
    call = HttpCall(
        method=request.method,
        prefix=asked.prefix,
        path=asked.path,
        query=request.query.decode("latin-1"),
        headers=passed_on(
            _fields(headers),
            is_ours=asked.url.auth is Auth.KEY,
            is_token=services.access.is_own_token if services.access.takes_tokens else None,
        ),
        body=body,
        client=request.client,
        scheme="https" if services.health.machine.transport == "tls" else "http",
        protocol=f"HTTP/{request.version}",
        tenant_id=function.tenant_id,
        function_id=function.id,
        request_id=context.request_id,
        now=services.clock.unix(),
    )
    _, port = call.name_and_port
    forwarded(call.headers, client=call.client, scheme=call.scheme, prefix=call.prefix, port=port)
    return call


# --- response ----------------------------------------------------------------------------------


async def _respond(
    context: RequestContext[UrlCallServices], asked: UrlRequest, record: Invocation, judge: Judge
) -> Response:
    """The response to an invocation that has ended. Raises `HandlerFailed`, `HandlerTimedOut`,
    `CapacityFull`, and, if the request's body was cut short, the reason for that.
    """
    _check_body(context, record)
    answer = judge.answer
    if record.status is not Status.SUCCESS or answer is None:
        raise failed(record)
    response = Response(
        status=answer.head.status,
        headers=_headers(context, asked, answer.head, record.invocation_id),
        body=answer.body,
    )
    if context.caller is not NOBODY and record.timeline is not None:
        response.headers.append(("server-timing", record.timeline.server_timing()))
    # The rest of the client's body is not waited for.
    response.closes = context.passed_on is not None and not context.request.is_whole
    if len(answer.body) > LONG_OUTPUT_BYTES:
        async with long_response(context, record.invocation_id, len(answer.body)):
            return response
    return response


def _check_body(context: RequestContext[UrlCallServices], record: Invocation) -> None:
    """Raise the reason if the invocation was cancelled because the request's body was cut short."""
    passed = context.passed_on
    if passed is None or passed.error is None or record.status is not Status.CANCELLED:
        return
    if isinstance(passed.error, QuiltfnError):
        passed.error.with_record(record.invocation_id, executed=True)
    raise passed.error


def _headers(
    context: RequestContext[UrlCallServices], asked: UrlRequest, head: Head, invocation_id: str
) -> list[Header]:
    own_host = bool(context.services.urls.host)
    fields = sent_headers(head, asked.prefix, has_own_host=own_host)
    rule = _cors_of(context, asked.url)
    if rule is cors.OWN_PAGES:
        fields = cors.answered_to_own_page(context.headers, fields)
    elif rule is not None:
        fields = cors.answered(rule, context.headers, fields)
    if context.caller is not NOBODY:
        fields.append((INVOCATION_ID, invocation_id))
    return fields


def failed(record: Invocation) -> QuiltfnError:
    """The error for an invocation without a response; callers with a key also get the id of its
    record. It contains no output of the handler, since anyone may invoke a URL.
    """
    message = record.public_message
    if record.status is Status.TIMEOUT:
        error: QuiltfnError = HandlerTimedOut(message)
    else:
        error = HandlerFailed(message)
    error.with_record(record.invocation_id, executed=True)
    return error


ROUTES = [
    Route(
        ANY_METHOD,
        "/fn/{path:path}",
        invoke_function_url,
        scope=None,
        admit=admit,
        passes_on=passes_on,
        on_refused=count_refusal,
        called=called,
        answer=str,
        is_invoke=True,
        texts=("*/*",),
        codes=(
            *PLACED,
            "UNAUTHORIZED",
            "RATE_LIMITED",
            "PAYLOAD_TOO_LARGE",
            "METHOD_NOT_ALLOWED",
            "HANDLER_FAILED",
            "HANDLER_TIMEOUT",
        ),
    ),
]
