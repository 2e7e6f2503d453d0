"""The client library: requests, responses and exceptions, without a server or socket."""

import http.client
import inspect
import json
import re
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest

from promises import promise
from quiltfn import sdk, wire
from quiltfn.api.http.errors import error_body
from quiltfn.api.http.path_pattern import PathPattern
from quiltfn.api.routes.table import ROUTES
from quiltfn.model.errors import Unprocessable
from quiltfn.sdk import (
    ApiError,
    AsyncClient,
    AuthenticationError,
    Client,
    ClientError,
    ConflictError,
    ConnectionFailed,
    DeployFailed,
    Function,
    FunctionFailed,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    UnavailableError,
    UnreadableAnswer,
    VersionFailed,
    asynchronous,
)
from quiltfn.sdk import client as client_module
from quiltfn.sdk.errors import read_error
from quiltfn.sdk.functions import Functions
from quiltfn.sdk.groups import NAMES
from quiltfn.sdk.request import Flow, Request
from quiltfn.sdk.work import WorkMethods
from unit import canned_server
from unit.canned_server import ID, INVOCATION, Canned

FUNCTION = canned_server.FUNCTION | {"description": None, "current_version": 1, "environment": {}}
REFUSAL = {
    "error": "the function is paused",
    "error_code": "FUNCTION_NOT_ACTIVE",
    "request_id": "r1",
    "details": {"state": "paused"},
    "retry_after": 2,
    "hint": "resume it",
}

Responder = Callable[[httpx.Request], httpx.Response]
Call = Callable[[Client], Any]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUILT_BASE_URL", raising=False)
    monkeypatch.delenv("QUILT_API_KEY", raising=False)


def client(answer: Responder, **given: Any) -> Client:
    return Client(transport=Canned(answer), **{"retries": 0, **given})


def async_client(answer: Responder, **given: Any) -> AsyncClient:
    return AsyncClient(transport=httpx.MockTransport(answer), **{"retries": 0, **given})


async def both(answer: Responder, call: Call, **given: Any) -> Any:
    """The result of a call, which must be the same for both clients."""
    with client(answer, **given) as at:
        found = call(at)
    async with async_client(answer, **given) as later:
        assert await call(later) == found  # type: ignore[arg-type]
    return found


async def both_raise(
    answer: Responder, call: Call, kind: type[Exception], message: str | None = None, **given: Any
) -> Any:
    """The exception of a call, which must be the same for both clients."""
    with client(answer, **given) as at, pytest.raises(kind, match=message) as raised:
        call(at)
    async with async_client(answer, **given) as later:
        with pytest.raises(kind, match=message) as also:
            await call(later)  # type: ignore[arg-type]
    assert type(also.value) is type(raised.value)
    return raised.value


def answering(status: int, body: Any, **headers: str) -> Responder:
    return lambda _: httpx.Response(
        status, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def failing(error: Exception) -> Responder:
    def fail(_: httpx.Request) -> httpx.Response:
        raise error

    return fail


def sent(call: Call, **given: Any) -> httpx.Request:
    """The request of a call; the response does not matter."""
    caught: list[httpx.Request] = []

    def catch(out: httpx.Request) -> httpx.Response:
        caught.append(out)
        return httpx.Response(418)

    with client(catch, **given) as at, pytest.raises(ApiError):
        call(at)
    return caught[0]


# --- requests ----------------------------------------------------------------------------------

BASE = "/api/functions"
CALL = f"/{ID}/invocations/i1"
# Calls with options, which change the path. `plain_requests` has each method without options.
CALLS: list[tuple[Call, str]] = [
    (lambda at: at.functions.list(page_size=2, state="active").first(), "?limit=2&state=active"),
    (
        lambda at: at.functions.list(search="a b", sort="name", order="desc").first(),
        "?q=a+b&sort=name&order=desc",
    ),
    (lambda at: at.functions.list_summaries(sort="name").first(), "?view=brief&sort=name"),
    (lambda at: at.functions.list_pools(ID), f"/pools?function_id={ID}"),
    (lambda at: at.functions.get("a"), "/by-name/a"),
    (lambda at: at.functions.invoke("a"), "POST /invoke/a"),
    (lambda at: at.invoke("etl@3"), "POST /invoke/etl?version=3"),
    (lambda at: at.invoke(f"{ID}@live"), f"POST /{ID}/invoke?alias=live"),
    (lambda at: list(at.functions.stream("hello")), "POST /invoke/hello"),
    (lambda at: at.functions.submit(ID), f"POST /{ID}/invoke?mode=async"),
    (
        lambda at: at.functions.submit("a", not_before=timedelta(seconds=0.5)),
        "POST /invoke/a?mode=async&delay_seconds=1",
    ),
    (
        lambda at: at.functions.submit(ID, not_before=datetime(2026, 1, 1, tzinfo=UTC)),
        f"POST /{ID}/invoke?mode=async&not_before=1767225600",
    ),
    (
        lambda at: at.functions.list_invocations(ID, cold_start=True).first(),
        f"/{ID}/invocations?cold_start=true",
    ),
    (
        lambda at: at.invocations.list_of(ID, status="failed", since=5, version=2).first(),
        f"GET /api/invocations?function_id={ID}&status=failed&version=2&from=5",
    ),
    (
        lambda at: at.invocations.list(until=datetime(2026, 1, 1, tzinfo=UTC)).first(),
        "GET /api/invocations?to=1767225600",
    ),
    (lambda at: at.functions.wait(ID, "i1"), f"{CALL}?wait_seconds=60"),
    (lambda at: at.functions.get_invocation_output(ID, "i1"), f"{CALL}/output?stream=stdout"),
    (
        lambda at: at.functions.get_invocation_logs(ID, "i1", stream="stderr", tail=5),
        f"{CALL}/logs?stream=stderr&tail=5",
    ),
    (
        lambda at: list(at.functions.follow_invocation_logs(ID, "i1", after="3-0")),
        f"{CALL}/logs?follow=true&offset=3-0",
    ),
    (lambda at: list(at.functions.follow_logs(ID)), f"/{ID}/logs?follow=true"),
    (
        lambda at: list(at.system.follow_events(ID, types=["function", "pool"])),
        f"GET /api/events?follow=true&function_id={ID}&types=function%2Cpool",
    ),
    (
        lambda at: at.functions.get_version_file(ID, 2, "lib/a b/.."),
        f"/{ID}/versions/2/files/lib/a%20b/%2E%2E",
    ),
    (
        lambda at: at.functions.list_dead_letters(ID, page_size=5).first(),
        f"/{ID}/dead-letters?limit=5",
    ),
    (
        lambda at: at.functions.list_dead_letters(cluster_id="a").first(),
        "GET /api/dead-letters?cluster_id=a",
    ),
    (lambda at: at.functions.list_queues(page_size=5).first(), "GET /api/queues?limit=5"),
    (
        lambda at: at.functions.list_deliveries(status="failed").first(),
        "GET /api/deliveries?status=failed",
    ),
    (
        lambda at: at.functions.list_deliveries(ID, status="failed").first(),
        f"/{ID}/deliveries?status=failed",
    ),
    (lambda at: at.functions.get_url(ID, reveal=True), f"/{ID}/url?reveal=true"),
    (lambda at: at.functions.list_stats(window_seconds=60).first(), "/stats?window=60"),
    (
        lambda at: at.functions.get_series(ID, start=5, end=9, step_seconds=60),
        f"/{ID}/series?from=5&to=9&step=60",
    ),
    (
        lambda at: at.system.get_usage(start=5, step="hour", by="function"),
        "GET /api/usage?from=5&step=hour&by=function",
    ),
    (
        lambda at: at.system.list_instances(ID, most=5),
        f"GET /api/instances?function_id={ID}&limit=5",
    ),
    (
        lambda at: at.system.list_audit_entries(page_size=5, cursor="c").first(),
        "GET /api/audit?limit=5&cursor=c",
    ),
    (
        lambda at: at.system.list_audit_entries(action="key", object_id="k1", since=5).first(),
        "GET /api/audit?action=key&object_id=k1&from=5",
    ),
    (lambda at: at.nodes.remove("n1", force=True), "DELETE /api/nodes/n1?force=true"),
    (lambda at: at.runtimes.remove("e", shared=True), "DELETE /api/runtimes/e?shared=true"),
]


def requested(row: str) -> list[str]:
    """The method and the path that a row of `CALLS` names."""
    method, _, path = row.rpartition(" ")
    return [method or "GET", path if path.startswith("/api/") else BASE + path]


@pytest.mark.parametrize(("call", "row"), CALLS)
def test_options_are_in_the_path(call: Call, row: str) -> None:
    out = sent(call)
    assert [out.method, out.url.raw_path.decode()] == requested(row)


class Sent(Exception):
    """Raised instead of sending a request."""

    def __init__(self, request: Request[Any]) -> None:
        self.request = request


class Recorder:
    """Replaces a client, and sends nothing."""

    is_async = False

    def run(self, flow: Flow[Any]) -> Any:
        raise Sent(next(flow))


VALUES = {"function": ID, "version": 1, "min_instances": 0, "max_instances": 1}


def plain_requests() -> Iterator[tuple[str, str, str, Any]]:
    """The first request of each method if it gets only its required arguments: the method's full
    name, the HTTP method, the path, and how the response is read.
    """
    at = Client("http://127.0.0.1:9")
    for group in (getattr(at, name) for name in NAMES):
        recorded = type(group)(Recorder())
        for name in dir(recorded):
            if name.startswith("_") or name == "upload_image":
                continue
            call = getattr(recorded, name)
            required = [
                one
                for one in inspect.signature(call).parameters.values()
                if one.default is one.empty
            ]
            values = {one.name: VALUES.get(one.name, "x") for one in required}
            by_place = [one.name for one in required if one.kind is one.POSITIONAL_OR_KEYWORD]
            given = [values.pop(name) for name in by_place]
            named = {one.name: values[one.name] for one in required if one.kind is one.KEYWORD_ONLY}
            with pytest.raises(Sent) as sent:
                next(iter(call(*given, **named)))
            request = sent.value.request
            yield call.__name__, request.method, request.path.partition("?")[0], request.read


# Methods whose names differ from those of their routes: the method's name, then the route's.
OTHER_NAMES = """
    create_key create_api_key, list_keys list_api_keys, revoke_key revoke_api_key,
    get_info get_system_info, whoami get_whoami, follow_events list_events,
    get_url get_function_url, set_url set_function_url, delete_url delete_function_url,
    get_quota get_tenant_quota, set_quota set_tenant_quota, delete_quota delete_tenant_quota,
    get_egress get_function_egress, get_pool get_function_pool, get_queue get_function_queue,
    get_series get_function_series, list_stats list_function_stats,
    list_pools list_function_pools, list_versions list_function_versions,
    list_function_summaries list_functions, list_attempts list_invocation_attempts,
    list_dead_letters list_tenant_dead_letters, drop_dead_letter delete_dead_letter,
    list_deliveries list_tenant_deliveries, list_invocations_of list_tenant_invocations,
    list_files list_runtime_files, list_packages list_runtime_packages,
    follow_invocation_logs get_invocation_logs, follow_function_logs get_function_logs,
    get_alias_with_etag get_alias, get_function_with_etag get_function,
    update_function_if_match update_function, wait_for_invocation get_invocation,
    stream_function invoke_function, submit_function invoke_function,
    pause_schedule update_schedule, resume_schedule update_schedule,
    run_schedule invoke_schedule, create_operation get_function, set_pool_target get_function
"""


def test_each_method_calls_the_route_of_its_name_and_reads_what_it_answers() -> None:
    ranked = sorted(ROUTES, key=lambda route: PathPattern(route.path).rank)
    other_names = dict(pair.split() for pair in OTHER_NAMES.split(","))
    read = 0
    for name, method, path, reader in plain_requests():
        route = next(
            one for one in ranked if one.method == method and re.fullmatch(pattern(one.path), path)
        )
        if path == "/api/invocations":  # two methods in different groups have this name
            assert name in ("list_invocations", "list_invocations_of")
        else:
            assert route.handler.__name__ == other_names.get(name, name)
        if isinstance(reader, partial):
            answers = (route.answer, *get_args(route.answer), *route.also.values())
            assert reader.keywords["shape"] in answers, (method, path)
            read += 1
    assert read > 60


def test_every_route_of_the_api_can_be_called() -> None:
    """Exceptions: routes for people or for any HTTP client, and the server's own metrics."""
    routes = {(route.method, pattern(route.path)) for route in ROUTES}
    called = {
        (method, path.partition("?")[0]) for method, path in map(requested, dict(CALLS).values())
    }
    called |= {(method, path) for _, method, path, _ in plain_requests()}
    called |= {
        ("POST", f"/api/elasticity/functions/{ID}/pool-target"),
        ("POST", f"/api/elasticity/control/functions/{ID}/pool-target"),
        ("POST", "/api/runtimes/images"),
    }
    left = {
        (method, path)
        for method, path in routes
        if not any(one == method and re.fullmatch(path, other) for one, other in called)
    }
    page = ("/", "/ui", "/ui/", "/ui/[^/]+")
    left = {(method, path) for method, path in left if path not in page}
    others = ("/docs", "/openapi", "/metrics", "help", "examples", "/api/elasticity/health", "/fn/")
    assert not [path for _, path in left if not any(one in path for one in others)]


def pattern(path: str) -> str:
    path = path.replace(".", r"\.")
    return re.sub(r"{\w+}", "[^/]+", re.sub(r"{\w+:path}", ".+", path))


@pytest.mark.parametrize(
    ("word", "segment"),
    [("a b", "a%20b"), ("a/b", "a%2Fb"), ("..", "%2E%2E"), ("ä?#", "%C3%A4%3F%23"), ("a.b", "a.b")],
)
def test_a_name_stays_one_segment_of_the_path_whatever_it_holds(word: str, segment: str) -> None:
    out = sent(lambda at: at.runtimes.get(word), base_url="http://far.example/quilt/")
    assert out.url.raw_path.decode() == f"/quilt/api/runtimes/{segment}"


NAN = float("nan")
UNUSABLE: dict[type[Exception], list[Any]] = {
    TypeError: [
        (lambda at: at.functions.get(None), "function must be a name or an id, not None"),
        (lambda at: at.runtimes.get(None), "a name or id must be text, not None"),
        (lambda at: at.runtimes.upload_image(7), "archive must be a path, not int"),
        (lambda at: at.invoke(ID, {"a": {1}}), r"payload\['a'\] is a set"),
        (lambda at: at.functions.create(name="a"), r"create\(\) missing .*'handler'"),
        (lambda at: at.functions.create(name="a", handler="b", colour="red"), "colour"),
        (lambda at: at.functions.get(), r"get\(\) missing .*'function'"),
        (lambda at: at.functions.list(colour=1), r"list\(\) got .*'colour'"),
        (
            lambda at: at.functions.submit(ID, not_before=5),
            "not_before must be a datetime or a timedelta, not 5",
        ),
        (
            lambda at: at.functions.submit(ID, delay_seconds=5),
            r"'delay_seconds'; it takes: function, payload, .*not_before",
        ),
        (
            lambda at: at.functions.redrive_dead_letters(ID, "i1"),
            "invocation_ids must be a list of words, not 'i1'",
        ),
        (
            lambda at: next(iter(at.system.follow_events(types="calls"))),
            "types must be a list of words, not 'calls'",
        ),
    ],
    ValueError: [
        (lambda at: at.functions.get("a/b"), "function must be .* not 'a/b'"),
        (lambda at: at.functions.get(""), "function must not be empty"),
        (lambda at: at.functions.deploy(""), "function must not be empty"),
        (lambda at: at.invoke("@1"), "function must not be empty"),
        (lambda at: at.invoke("a@"), "a version or an alias after @, not 'a@'"),
        (lambda at: at.runtimes.upload_image("no.tar"), "archive: there is no file no"),
        (lambda at: at.functions.list(page_size=0), "page_size must be 1 or more"),
        (lambda at: at.invoke(ID, {"a": [1, NAN]}), r"payload\['a'\]\[1\] is nan"),
        (
            lambda at: at.functions.submit(ID, not_before=timedelta(seconds=-1)),
            "not_before must not be negative",
        ),
        (
            lambda at: at.functions.submit(ID, not_before=datetime(2026, 1, 1)),
            "not_before must be a datetime with a time zone",
        ),
    ],
}


@pytest.mark.parametrize(
    ("kind", "call", "message"), [(kind, *row) for kind, rows in UNUSABLE.items() for row in rows]
)
async def test_unusable_arguments_are_named(
    kind: type[Exception], call: Call, message: str
) -> None:
    server = Server({})
    await both_raise(server, call, kind, message)
    assert server.seen == []


def test_unusable_clients_are_refused_and_show_no_secret() -> None:
    with pytest.raises(ValueError, match="retries must be 0 or more, not -1"):
        Client(retries=-1)
    with pytest.raises(ValueError, match="not http://…@x"):
        Client("http://user:s3cr3t@x", cacert=Path("ca.pem"))
    with pytest.raises(ValueError, match="copied completely") as refused:
        Client(api_key="quilt_sk_ä")
    assert "quilt_sk" not in str(refused.value)


@pytest.mark.parametrize("verb", ["deploy", "pause", "resume"])
def test_a_verb_without_a_body_has_length_zero_and_no_content_type(verb: str) -> None:
    out = sent(lambda at: getattr(at.functions, verb)(ID))
    assert (out.content, out.headers["content-length"]) == (b"", "0")
    assert "content-type" not in out.headers


def with_payload(payload: object) -> Call:
    return lambda at: at.invoke(ID, payload, environment={"A": "1"}, timeout_seconds=5)


WITH_PAYLOAD = {"environment": {"A": "1"}, "timeout_seconds": 5}


@pytest.mark.parametrize(
    ("call", "body"),
    [
        (lambda at: at.functions.create(name="a", handler="b"), {"name": "a", "handler": "b"}),
        (lambda at: at.functions.update(ID, description=None), {"description": None}),
        (lambda at: at.invoke(ID), {}),
        (with_payload("text"), WITH_PAYLOAD | {"payload": "text"}),
        (with_payload({"a": [1]}), WITH_PAYLOAD | {"payload": '{"a":[1]}'}),
        (with_payload(b"bytes"), WITH_PAYLOAD | {"payload": "bytes"}),
        (lambda at: at.keys.create(), {}),
        (lambda at: at.keys.create(scope="read", tenant="t"), {"scope": "read", "tenant": "t"}),
        (lambda at: at.keys.create(expires_seconds=60), {"expires_seconds": 60}),
    ],
)
def test_a_body_has_what_was_given_alone(call: Call, body: dict[str, Any]) -> None:
    out = sent(call)
    assert json.loads(out.content) == body
    assert out.headers["content-type"] == "application/json"


def test_a_policy_is_sent_with_its_defaults() -> None:
    first, other = sdk.Backoff(first=5), sdk.NewDestination(function="b")
    policy = {"backoff_seconds": first, "on_failure": other}
    out = sent(lambda at: at.functions.set_async_policy(ID, **policy))  # type: ignore[arg-type]
    body = json.loads(out.content)
    assert (body["max_attempts"], body["on_failure"]) == (1, {"function": "b"})
    assert body["backoff_seconds"] == {"first": 5, "factor": 2.0, "most": 600.0, "jitter": 0.2}


def test_an_invoke_may_take_the_longest_timeout_and_other_requests_do_not() -> None:
    assert sent(lambda at: at.invoke(ID)).extensions["timeout"]["read"] == 86_430
    assert sent(lambda at: at.functions.get(ID)).extensions["timeout"]["read"] == 30
    for function in (ID, "a"):
        out = sent(lambda at, function=function: at.invoke(function, timeout_seconds=5))  # type: ignore[misc]
        assert out.extensions["timeout"]["read"] == 35


def test_a_part_of_the_output_is_asked_for_as_a_range() -> None:
    def output(**part: Any) -> httpx.Request:
        return sent(lambda at: at.functions.get_invocation_output(ID, "i1", **part))

    assert "range" not in output().headers
    assert output(first=2).headers["range"] == "bytes=2-"
    assert output(last=0).headers["range"] == "bytes=0-0"
    with client(lambda _: httpx.Response(200, content=b"\xff\0")) as at:
        assert at.functions.get_invocation_output(ID, "i1") == b"\xff\0"


def test_address_and_key_come_from_the_nearest_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(**given: str) -> tuple[str, str | None]:
        out = sent(lambda at: at.system.get_liveness(), **given)
        return str(out.url), out.headers.get("x-api-key")

    assert asked() == ("http://127.0.0.1:8080/health", None)
    monkeypatch.setenv("QUILT_BASE_URL", "http://env.example:1")
    monkeypatch.setenv("QUILT_API_KEY", "quilt_sk_env\n")
    assert asked() == ("http://env.example:1/health", "quilt_sk_env")
    given = {"base_url": "http://arg.example", "api_key": "quilt_sk_arg"}
    assert asked(**given) == ("http://arg.example/health", "quilt_sk_arg")


NO_ADDRESSES = ["localhost:8080", "ftp://x", "http://", "http://x:port", "x"]
SECRET_ADDRESSES = [
    *["ftp://user:s3cr3t@x", "http://user:s3cr3t@x y", "http://user:s3cr3t@"],
    *["http://user:p/s3cr3t@x", "http://us@er:s3cr3t@x:port", "user:s3cr3t@x"],
]


@pytest.mark.parametrize("url", [*NO_ADDRESSES, *SECRET_ADDRESSES])
@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_an_address_that_cannot_work_is_refused_without_its_password(make: Any, url: str) -> None:
    with pytest.raises(ValueError, match=r"must look like http://127\.0\.0\.1:8080") as refused:
        make(url)
    assert "s3cr3t" not in str(refused.value)
    assert "user" not in str(refused.value)


FAILURES: list[Exception] = [
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("late"),
    httpx.ReadError("reset"),
    ssl.SSLCertVerificationError("self-signed"),
    ssl.SSLError("wrong version"),
    http.client.BadStatusLine("SSH-2.0"),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "no text"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("user", ["user:s3cr3t@", "user:1/s3cr3t@", ""])
def test_a_password_in_an_address_is_not_in_a_failure(failure: Exception, user: str) -> None:
    if isinstance(failure, ssl.SSLCertVerificationError):
        failure.verify_message = "self-signed"
    elif isinstance(failure, ssl.SSLError):
        failure.reason = "WRONG_VERSION_NUMBER"
    with client(failing(failure), base_url=f"http://{user}far.example:81") as at:
        with pytest.raises(ClientError) as raised:
            at.functions.get(ID)
    assert "s3cr3t" not in str(raised.value)
    assert "far.example:81" in str(raised.value)
    assert ("http://…@far.example:81" in str(raised.value)) is bool(user)


@pytest.mark.parametrize(
    "proxy", ["http://user:p/s3cr3t@p", "http://user:s3cr3t@\u2100p", "socks5://user:s3cr3t@p"]
)
def test_a_proxy_s_password_is_not_shown(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ValueError, match="must be an http:// address") as refused:
        Client("http://far.example")
    assert "s3cr3t" not in str(refused.value)


# --- names and ids -----------------------------------------------------------------------------


GET_IT, DEPLOY, INVOKE = ("GET", f"/{ID}"), ("POST", f"/{ID}/deploy"), ("POST", f"/{ID}/invoke")


class Server:
    """Responses from a table, by method and path; everything else is 404."""

    def __init__(self, answers: dict[tuple[str, str], Any]) -> None:
        self.answers = answers
        self.seen: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []
        self.keys: list[str | None] = []
        self.headers: httpx.Headers = httpx.Headers()

    def __call__(self, out: httpx.Request) -> httpx.Response:
        asked = (out.method, out.url.raw_path.decode().removeprefix(BASE))
        self.seen.append(asked)
        self.bodies.append(out.read())
        self.keys.append(out.headers.get("idempotency-key"))
        self.headers = out.headers
        answer = self.answers.get(asked)
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        missing = {"error": "there is no such function", "error_code": "NOT_FOUND"}
        return httpx.Response(404 if answer is None else 200, json=answer or missing)


def test_a_name_is_looked_up_where_the_api_wants_an_id() -> None:
    like_an_id = "01999999-0000-7000-8000-00000000000f"
    names = {("GET", f"/by-name/{name}"): FUNCTION for name in ("a", like_an_id)}
    server = Server({**names, DEPLOY: FUNCTION})
    with client(server) as at:
        assert at.functions.deploy("a").id == at.functions.deploy(ID).id == ID
        assert server.seen == [("GET", "/by-name/a"), DEPLOY, DEPLOY]
        assert at.functions.deploy(like_an_id).id == ID
    with client(Server({})) as at, pytest.raises(NotFoundError, match="no such function"):
        at.functions.get(like_an_id)


async def test_a_pool_target_that_is_not_named_stays_and_the_tenant_is_told() -> None:
    scaling = {"function_id": ID, "min_instances": 2, "max_instances": 5}
    server = Server({("GET", "/by-name/a"): {**FUNCTION, "tenant_id": "t1"},
                     ("POST", f"/api/elasticity/functions/{ID}/pool-target"): scaling})  # fmt: skip
    found = await both(server, lambda at: at.elasticity.set_pool_target("a", min_instances=2))
    assert (found.min_instances, found.max_instances) == (2, 5)
    assert json.loads(server.bodies[-1]) == {"min_instances": 2, "max_instances": 5}
    assert server.headers["x-tenant-id"] == "t1"
    await both(server, lambda at: at.elasticity.set_pool_target("a", max_instances=5))
    assert json.loads(server.bodies[-1]) == {"min_instances": 0, "max_instances": 5}


def operate(at: Client) -> Any:
    return at.elasticity.create_operation(
        ID, min_instances=1, max_instances=2, idempotency_key="k", action_id="a1"
    )


OPERATE = ("POST", f"/api/elasticity/control/functions/{ID}/pool-target")
OPERATION = {
    **{"operation_id": "o", "operation_type": "pool_target", "action_id": "a1"},
    **{"status": "succeeded", "reason_code": None, "reason_message": None, "retryable": False},
}


def test_an_operation_has_its_keys() -> None:
    server = Server({("GET", f"/{ID}"): FUNCTION, OPERATE: OPERATION})
    with client(server) as at:
        assert operate(at).status == "succeeded"
    assert (server.keys[-1], server.headers["x-orch-action-id"]) == ("k", "a1")


# --- reading responses -------------------------------------------------------------------------


def test_answers_become_types_and_unknown_fields_are_ignored() -> None:
    with client(answering(200, {**FUNCTION, "from_the_future": 1})) as at:
        function = at.functions.get(ID)
    assert (function.name, function.state, function.current_version) == ("hello", "active", 1)


async def test_a_list_whose_page_leads_to_itself_ends() -> None:
    repeat = answering(200, {"functions": [], "next_cursor": "c2"})
    with (
        client(repeat) as at,
        pytest.raises(UnreadableAnswer, match="the same page of the list twice"),
    ):
        list(at.functions.list())
    async with async_client(repeat) as later:
        with pytest.raises(UnreadableAnswer, match="the same page of the list twice"):
            async for _ in later.functions.list():
                pass


async def test_a_list_is_iterated_over_page_by_page() -> None:
    second = {"functions": [{**FUNCTION, "name": "second"}], "next_cursor": None}
    server = Server(
        {
            ("GET", "?limit=1"): {"functions": [FUNCTION], "next_cursor": "c2"},
            ("GET", "?limit=1&cursor=c2"): second,
        }
    )
    with client(server) as at:
        found = at.functions.list(page_size=1)
        assert server.seen == []
        assert [one.name for one in found] == ["hello", "second"]
        assert [page.next_cursor for page in found.pages()] == ["c2", None]
        first = found.first()
        assert (first.functions[0].name, first.next_cursor) == ("hello", "c2")
        (rest,) = at.functions.list(page_size=1, cursor="c2")
        assert rest.name == "second"
    async with async_client(server) as later:
        found_later = later.functions.list(page_size=1)
        assert [one.name async for one in found_later] == ["hello", "second"]
        assert [page.next_cursor async for page in found_later.pages()] == ["c2", None]
        assert (await found_later.first()).next_cursor == "c2"


KEY: dict[str, Any] = {
    **{"id": "k1", "tenant_id": "t", "scope": "write", "prefix": "ab", "created_at": 1},
    **{"expires_at": None, "revoked_at": None},
}


@promise("A87")
async def test_a_client_within_another_tenant_names_it_and_the_first_does_not() -> None:
    seen: list[str | None] = []

    def server(request: httpx.Request) -> httpx.Response:
        tenant = request.url.params.get("tenant")
        assert "x-tenant-id" not in request.headers, "an older server would ignore it"
        if "cursor" in request.url.params:
            assert tenant == seen[-1]
            return httpx.Response(200, json={"keys": []})
        seen.append(tenant)
        return httpx.Response(200, json={"keys": [], "next_cursor": "c2"})

    with client(server) as at:
        acme = at.in_tenant("acme")
        for within in (at, acme, acme.in_tenant("umbrella"), at):
            within.keys.list()
    assert seen == [None, "acme", "umbrella", None]
    seen.clear()

    class Own(Client):
        """A program's own client."""

    with Own(transport=Canned(server), retries=0) as own:
        for each in (own, own.in_tenant("acme")):
            each.keys.list()
    assert seen == [None, "acme"]
    seen.clear()
    async with async_client(server) as later:
        other = later.in_tenant("acme")
        for also_within in (later, other, later):
            await also_within.keys.list()
    assert seen == [None, "acme", None]
    for closed in (at, acme, acme.in_tenant("umbrella")):
        with pytest.raises(RuntimeError, match="the client is closed"):
            closed.keys.list()
    with pytest.raises(RuntimeError, match="the client is closed"):
        await other.keys.list()
    first = client(server)
    first.in_tenant("acme").close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        first.keys.list()


def test_keys_and_the_audit_log_become_types() -> None:
    # An older server, whose lists have no pages.
    with client(answering(200, {"keys": [KEY]})) as at:
        (key,) = at.keys.list()
    assert (key.id, key.expires_at, key.revoked_at) == ("k1", None, None)

    def page(request: httpx.Request) -> httpx.Response:
        last = request.url.params.get("cursor") == "c2"
        keys = [{**KEY, "id": "k2"}] if last else [KEY]
        return httpx.Response(200, json={"keys": keys, "next_cursor": None if last else "c2"})

    with client(page) as at:
        assert [key.id for key in at.keys.list()] == ["k1", "k2"]
    entry = {
        **{"id": "a", "at": 1, "tenant_id": "t", "credential": "k1", "action": "key.create"},
        **{"object_id": None, "status": 201, "error_code": None, "address": "", "request_id": "r"},
    }
    with client(answering(200, {"entries": [entry], "next_cursor": None})) as at:
        (found,) = at.system.list_audit_entries()
    assert (found.action, found.status) == ("key.create", 201)


def test_a_new_key_does_not_show_itself_in_a_log() -> None:
    with client(answering(201, {**KEY, "key": "quilt_sk_secret"})) as at:
        made = at.keys.create()
    assert made.key == "quilt_sk_secret"
    assert "secret" not in f"{made!r} {made}"


async def test_a_handler_that_failed_is_a_result() -> None:
    failed = answering(200, {**INVOCATION, "status": "failed", "exit_code": 3})
    ended = await both(failed, lambda at: at.invoke(ID))
    assert (ended.status, ended.exit_code, ended.stdout) == ("failed", 3, "hello\n")


async def test_the_bytes_of_a_response_can_be_had() -> None:
    body, heard = b'{"success":true,  "message":null}', list[Any]()
    answer: Responder = lambda _: httpx.Response(200, content=body)  # noqa: E731
    paused = await both(answer, lambda at: at.functions.pause(ID), on_response=heard.append)
    assert paused.success
    assert heard == [body] * 2


async def test_a_function_has_an_etag_that_an_update_goes_by() -> None:
    answer = answering(200, FUNCTION, ETag='"f1"')
    function, etag = await both(answer, lambda at: at.functions.get_with_etag(ID))
    assert (function.id, etag) == (ID, '"f1"')
    out = sent(lambda client: client.functions.update_if_match(ID, etag, handler="echo"))
    assert (out.headers["if-match"], json.loads(out.content)) == ('"f1"', {"handler": "echo"})
    with client(answering(412, REFUSAL)) as at, pytest.raises(ConflictError):
        at.functions.update_if_match(ID, etag, handler="echo")


# --- exceptions --------------------------------------------------------------------------------


async def test_a_refusal_carries_all_the_server_said() -> None:
    answer = answering(409, REFUSAL, x_invocation_id="i9")
    error = await both_raise(answer, lambda at: at.invoke(ID), ConflictError, "is paused")
    assert (error.status, error.code, error.hint) == (409, "FUNCTION_NOT_ACTIVE", "resume it")
    assert (error.details, error.field, error.retry_after) == ({"state": "paused"}, None, 2)
    assert (error.request_id, error.invocation_id) == ("r1", "i9")


@promise("A90")
def test_a_refusal_names_the_field_that_is_wrong() -> None:
    body = error_body(Unprocessable.field("cors.max_age_seconds", "a whole number", "x"))
    error = read_error(422, {}, body)
    assert (type(error), error.field) == (InvalidRequestError, "cors.max_age_seconds")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(400, InvalidRequestError), (422, InvalidRequestError), (401, AuthenticationError)],
        *[(403, PermissionDeniedError), (404, NotFoundError), (409, ConflictError)],
        *[(412, ConflictError), (429, RateLimitError), (500, ServerError)],
        *[(503, UnavailableError), (418, ApiError)],
    ],
)
async def test_a_refusal_has_a_type_of_its_own(status: int, kind: type[ApiError]) -> None:
    answer = answering(status, REFUSAL)
    assert type(await both_raise(answer, lambda at: at.invoke(ID), ApiError)) is kind


def test_a_repeated_operation_says_which_one_it_was() -> None:
    reason = {"reason_code": "ELASTICITY_IDEMPOTENCY_REPLAY", "reason_message": "used before"}
    repeated = httpx.Response(409, json=OPERATION | reason, headers={"x-request-id": "r3"})
    server = Server({("GET", f"/{ID}"): FUNCTION, OPERATE: repeated})
    with client(server) as at, pytest.raises(ConflictError, match="used before") as raised:
        operate(at)
    error = raised.value
    assert (error.code, error.request_id) == ("ELASTICITY_IDEMPOTENCY_REPLAY", "r3")
    assert error.details == OPERATION | reason


FAILED = {**FUNCTION, "error_message": "version 2 cannot serve: no module"}
BROKEN = {**FUNCTION, "state": "error", "error_message": "no module"}


@pytest.mark.parametrize(
    ("call", "answer", "kind", "message"),
    [
        (lambda at: at.functions.update(ID, handler="c"), FAILED, VersionFailed, "version 2 can"),
        (lambda at: at.functions.rollback(ID, 2), FAILED, VersionFailed, "version 2 cannot"),
        (lambda at: at.functions.deploy(ID), BROKEN, DeployFailed, "no module"),
        (lambda at: at.functions.resume(ID), BROKEN, DeployFailed, "no module"),
    ],
)
async def test_a_function_that_cannot_serve_is_an_exception_that_carries_it(
    call: Call, answer: Any, kind: type[FunctionFailed], message: str
) -> None:
    error = await both_raise(answering(200, answer), call, kind, message)
    assert isinstance(error, ClientError)
    assert error.function.current_version == 1  # type: ignore[attr-defined]


def test_what_serves_or_is_not_yet_deployed_is_a_result() -> None:
    """Negative control: these responses raise no exception. Even in the state `error`, an update
    has created a version.
    """
    stopped = {**FUNCTION, "state": "error", "current_version": 2}
    with client(answering(200, stopped)) as at:
        assert at.functions.update(ID, handler="c").state == "error"
        assert at.functions.rollback(ID, 2).current_version == 2
    with client(answering(200, {**FUNCTION, "state": "deploying"})) as at:
        assert at.functions.deploy(ID).state == "deploying"


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error":"\xff"}', b'{"error": 7}'])
def test_a_refusal_without_a_readable_body_keeps_its_status_and_headers(body: bytes) -> None:
    headers = {"retry-after": "7", "x-request-id": "r2"}
    answer = httpx.Response(503, content=body, headers=headers)
    with client(lambda _: answer) as at, pytest.raises(ApiError, match="status 503") as raised:
        at.functions.get(ID)
    error = raised.value
    assert (error.code, error.retry_after, error.request_id) == ("UNKNOWN", 7, "r2")


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"id":"\xff"}', b""])
def test_an_answer_that_is_not_quiltfns_is_said_to_be_so(body: bytes) -> None:
    with client(lambda _: httpx.Response(200, content=body)) as at:
        with pytest.raises(UnreadableAnswer, match="is not a quiltfn server"):
            at.functions.get(ID)


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (httpx.ConnectError, r"no quiltfn server responds at .*; start one with: quiltfn serve"),
        (httpx.ConnectTimeout, r"no quiltfn server responds"),
        (httpx.ReadTimeout, r"did not respond within 30 s"),
        (httpx.ReadError, r"ended before the response arrived: ReadError"),
    ],
)
async def test_no_answer_is_a_sentence(failure: type[httpx.TransportError], sentence: str) -> None:
    get: Call = lambda at: at.functions.get(ID)  # noqa: E731
    await both_raise(failing(failure("")), get, ConnectionFailed, sentence)


# --- retries -----------------------------------------------------------------------------------


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits of the clients between their attempts. No time passes in them."""
    waited: list[float] = []

    async def wait(delay: float) -> None:
        waited.append(delay)

    monkeypatch.setattr(client_module.time, "sleep", waited.append)  # type: ignore[attr-defined]
    monkeypatch.setattr(asynchronous.asyncio, "sleep", wait)  # type: ignore[attr-defined]
    return waited


def refusal(status: int, code: str, **more: Any) -> httpx.Response:
    headers = more.pop("headers", {})
    body = {"error": "no", "error_code": code, **more}
    return httpx.Response(status, json=body, headers=headers)


SUBMIT = ("POST", f"/{ID}/invoke?mode=async")
LOST = httpx.ReadError("")
NOBODY = httpx.ConnectError("")
STORE_AWAY, FULL = refusal(503, "STORE_UNAVAILABLE"), refusal(503, "CAPACITY_FULL")
RECORDED = refusal(503, "CAPACITY_FULL", headers={"x-invocation-id": "i1"})
STILL_RUNS = refusal(409, "CONFLICT", retry_after=1)
SOON, LATE = (refusal(429, "RATE_LIMITED", retry_after=seconds) for seconds in (3, 60))


def get(at: Any) -> Any:
    return at.functions.get(ID)


def deploy(at: Any) -> Any:
    return at.functions.deploy(ID)


def invoke(at: Any) -> Any:
    return at.invoke(ID)


def invoke_once(at: Any) -> Any:
    return at.invoke(ID, idempotency_key="once")


def submit(at: Any) -> Any:
    return at.functions.submit(ID)


def submit_once(at: Any) -> Any:
    return at.functions.submit(ID, idempotency_key="once")


@promise("M10")
@pytest.mark.parametrize(
    ("call", "answers", "waited", "kind"),
    [
        # Requests that change nothing, were certainly not executed, or have a key are sent again.
        (get, [LOST, STORE_AWAY, FUNCTION], [0.1, 0.2], None),
        (invoke, [NOBODY, INVOCATION], [0.1], None),
        (invoke, [FULL, INVOCATION], [0.1], None),
        (invoke, [refusal(429, "RATE_LIMITED"), INVOCATION], [0.1], None),
        (invoke_once, [LOST, STILL_RUNS, INVOCATION], [0.1, 1.0], None),
        (submit_once, [LOST] * 3, [0.1, 0.2], ConnectionFailed),
        # The server says how long to wait; if that is too long, the client does not wait.
        (get, [SOON, LATE], [3.0], RateLimitError),
        (get, [httpx.ReadTimeout("")], [], ConnectionFailed),
        # Requests that could be executed twice, or have a record, are sent once.
        *[(call, [LOST], [], ConnectionFailed) for call in (deploy, invoke, submit)],
        *[(call, [STORE_AWAY], [], UnavailableError) for call in (deploy, invoke)],
        *[(call, [refusal(500, "INTERNAL")], [], ServerError) for call in (deploy, invoke)],
        (invoke, [RECORDED], [], UnavailableError),
    ],
)
async def test_a_request_that_could_be_done_twice_is_sent_once(
    call: Call, answers: list[Any], waited: list[float], kind: Any, waits: list[float]
) -> None:
    left = answers * 2  # each of the two clients gets all responses
    server = Server(dict.fromkeys([GET_IT, DEPLOY, INVOKE, SUBMIT], left))
    if kind is None:
        await both(server, call, retries=2)
    else:
        await both_raise(server, call, kind, retries=2)
    assert left == []
    assert waits == waited * 2
    assert set(server.keys) == {"once" if call in (invoke_once, submit_once) else None}


def test_a_create_gets_a_key_of_its_own_and_is_sent_again(waits: list[float]) -> None:
    made = {"function_id": ID, "name": "a", "state": "pending", "version": 1}
    server = Server({("POST", ""): [LOST, made, made]})
    with client(server, retries=2) as at:
        assert at.functions.create(name="a", handler="b").function_id == ID
        at.functions.create(name="a", handler="b")
    first, again, other = server.keys
    assert first == again != other
    assert first is not None
    assert waits == [0.1]


def test_a_delete_that_was_done_and_whose_answer_was_lost_is_done(waits: list[float]) -> None:
    server = Server({("DELETE", f"/{ID}"): [LOST, None]})
    with client(server, retries=2) as at:
        at.functions.delete(ID)
    with client(Server({}), retries=2) as at, pytest.raises(NotFoundError):
        at.functions.delete(ID)
    assert waits == [0.1]


# --- uploads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["image.tar", "image.tar.gz", "image.tgz"])
async def test_an_archive_is_streamed_with_its_length_and_kind(tmp_path: Path, name: str) -> None:
    archive = tmp_path / name
    archive.write_bytes(b"x" * 700_000)
    kind = "application/x-tar" if name.endswith("tar") else "application/gzip"
    seen: list[tuple[str, str, int]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        headers = request.headers
        seen.append((headers["content-type"], headers["content-length"], len(request.content)))
        image = {"digest": "ab", "files": 1, "size_bytes": 2, "environment": {}, "interpreters": {}}
        return httpx.Response(201, json=image)

    async def answer_async(request: httpx.Request) -> httpx.Response:
        await request.aread()
        return answer(request)

    with Client(transport=Canned(answer)) as client:
        assert client.runtimes.upload_image(archive).digest == "ab"
    async with AsyncClient(transport=httpx.MockTransport(answer_async)) as other:
        assert (await other.runtimes.upload_image(archive)).files == 1
    assert seen == [(kind, "700000", 700_000)] * 2


# --- asynchronous calls ------------------------------------------------------------------------


async def test_a_wait_asks_again_until_the_call_is_over_and_looks_a_name_up_once() -> None:
    running = [INVOCATION | {"status": status} for status in ("queued", "running", "success")]
    wait = ("GET", f"/{ID}/invocations/i1?wait_seconds=60")
    server = Server({("GET", "/by-name/a"): FUNCTION, wait: running * 2})
    found = await both(server, lambda at: at.functions.wait("a", "i1"))
    assert found.status == "success"
    assert server.seen == [("GET", "/by-name/a"), *[wait] * 3] * 2


def test_a_wait_that_takes_too_long_says_so() -> None:
    running = answering(200, INVOCATION | {"status": "running"})
    with client(running) as api, pytest.raises(TimeoutError, match="still running after 0 s"):
        api.functions.wait(ID, "i1", timeout_seconds=0)


# --- annotations and exports -------------------------------------------------------------------


def test_methods_have_the_names_and_the_documentation_of_what_they_do() -> None:
    with client(answering(500, {})) as at:
        for name in {**vars(Functions), **vars(WorkMethods)}:
            if not name.startswith("_"):
                assert getattr(at.functions, name).__doc__, name
                assert getattr(Functions, name).__doc__, name


def test_everything_that_is_exported_is_there() -> None:
    for name in sdk.__all__:
        assert getattr(sdk, name) is not None
    assert sdk.Function is Function
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = sdk.nothing


def test_what_methods_take_and_give_is_exported() -> None:
    """A program that annotates a result, or creates an argument, imports its type from the module
    of the client.
    """
    missing = set()
    at = Client("http://127.0.0.1:9")
    assert len(NAMES) > 5
    for group in (getattr(at, name) for name in NAMES):
        for name, method in inspect.getmembers(group, callable):
            if not name.startswith("_"):
                named = set(re.findall(r"\b[A-Z]\w+", str(inspect.signature(method))))
                missing |= {one for one in named - set(sdk.__all__) if hasattr(wire, one)}
    assert not missing


def test_help_shows_the_fields_that_a_method_takes() -> None:
    client = Client("http://127.0.0.1:9")
    shown = inspect.signature(client.functions.create).parameters
    assert {"name", "handler", "memory_limit_mb"} <= shown.keys()
    assert shown["memory_limit_mb"].annotation is int
    assert client.functions.create.__name__ == "create_function"
    changes = inspect.signature(client.functions.update).parameters
    assert next(iter(changes)) == "function"
