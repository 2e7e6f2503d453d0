"""The client library: what it sends, how it reads, what it raises. No server, no socket."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from quiltfn.sdk import (
    ApiError,
    AsyncClient,
    Changes,
    Client,
    ConnectionFailed,
    NewFunction,
    NewRuntime,
    Request,
    UnreadableAnswer,
    requests,
)
from unit.canned_server import Canned

FUNCTION: dict[str, Any] = {
    "id": "f1",
    "tenant_id": "default",
    "cluster_id": None,
    "owner_node_id": "n1",
    "name": "hello",
    "description": None,
    "handler": "echo hello",
    "runtime": "shell",
    "state": "active",
    "current_version": 1,
    "memory_limit_mb": 256,
    "cpu_limit_percent": 100.0,
    "timeout_seconds": 30,
    "environment": {},
    "min_instances": 0,
    "max_instances": 5,
    "cleanup_on_exit": True,
    "working_directory": None,
    "created_at": 1760000000,
    "updated_at": 1760000000,
    "last_invoked_at": None,
    "invocation_count": 0,
    "error_count": 0,
    "error_message": None,
}
INVOCATION: dict[str, Any] = {
    "invocation_id": "i1",
    "function_id": "f1",
    "function_name": "hello",
    "execution_node_id": "n1",
    "status": "success",
    "started_at": 1760000000,
    "ended_at": 1760000000,
    "duration_ms": 3,
    "exit_code": 0,
    "stdout": "hello\n",
    "stderr": "",
    "error_message": None,
    "cold_start": False,
}
REFUSAL = {
    "error": "the function is paused",
    "error_code": "FUNCTION_NOT_ACTIVE",
    "request_id": "r1",
    "details": {"state": "paused"},
    "retry_after": 2,
    "hint": "resume it",
}

Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUILT_BASE_URL", raising=False)
    monkeypatch.delenv("QUILT_API_KEY", raising=False)


def client(answer: Answer, **given: Any) -> Client:
    return Client(transport=Canned(answer), **given)


def answering(status: int, body: Any, **headers: str) -> Answer:
    return lambda _: httpx.Response(
        status, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


def sent(request: Request[Any], **given: Any) -> httpx.Request:
    """What goes out for a request; the answer does not matter."""
    caught: list[httpx.Request] = []

    def catch(out: httpx.Request) -> httpx.Response:
        caught.append(out)
        return httpx.Response(418)

    with client(catch, **given) as at, pytest.raises(ApiError):
        at.send(request)
    return caught[0]


# --- what is sent ------------------------------------------------------------------------------


def every_request() -> Iterator[tuple[Request[Any], str, str]]:
    base = "/api/functions"
    yield requests.create(NewFunction(name="a", handler="b")), "POST", base
    yield requests.list_functions(), "GET", base
    yield requests.list_functions(limit=2, state="active"), "GET", f"{base}?limit=2&state=active"
    yield requests.get("f1"), "GET", f"{base}/f1"
    yield requests.get_by_name("a"), "GET", f"{base}/by-name/a"
    yield requests.update("f1", Changes(handler="c")), "PUT", f"{base}/f1"
    yield requests.delete("f1"), "DELETE", f"{base}/f1"
    yield requests.deploy("f1"), "POST", f"{base}/f1/deploy"
    yield requests.pause("f1"), "POST", f"{base}/f1/pause"
    yield requests.resume("f1"), "POST", f"{base}/f1/resume"
    yield requests.invoke("f1"), "POST", f"{base}/f1/invoke"
    yield requests.invoke_by_name("a"), "POST", f"{base}/invoke/a"
    yield (
        requests.invocations("f1", cold_start=True),
        "GET",
        f"{base}/f1/invocations?cold_start=true",
    )
    yield requests.invocation("f1", "i1"), "GET", f"{base}/f1/invocations/i1"
    yield requests.timeline("f1", "i1"), "GET", f"{base}/f1/invocations/i1/timeline"
    yield requests.output("f1", "i1"), "GET", f"{base}/f1/invocations/i1/output?stream=stdout"
    yield requests.versions("f1"), "GET", f"{base}/f1/versions"
    yield requests.rollback("f1", 1), "POST", f"{base}/f1/rollback"
    yield requests.pool("f1"), "GET", f"{base}/f1/pool"
    yield requests.pool_stats(), "GET", f"{base}/pool/stats"
    yield requests.health(), "GET", f"{base}/health"
    yield requests.alive(), "GET", "/health"
    yield requests.info(), "GET", "/api/system/info"
    yield (
        requests.set_scaling("f1", 1, 2, tenant_id="t"),
        "POST",
        "/api/elasticity/functions/f1/pool-target",
    )
    yield requests.runtimes(), "GET", "/api/runtimes"
    yield requests.runtime("etl"), "GET", "/api/runtimes/etl"
    yield requests.add_runtime(NewRuntime(name="etl", kind="shell")), "POST", "/api/runtimes"
    yield requests.remove_runtime("etl"), "DELETE", "/api/runtimes/etl"
    yield requests.keys(), "GET", "/api/keys"
    yield requests.create_key(), "POST", "/api/keys"
    yield requests.revoke_key("k1"), "DELETE", "/api/keys/k1"
    yield requests.audit(limit=5, cursor="c"), "GET", "/api/audit?limit=5&cursor=c"


@pytest.mark.parametrize(("request_", "method", "path"), list(every_request()))
def test_each_request_goes_to_its_route(request_: Request[Any], method: str, path: str) -> None:
    out = sent(request_)
    assert (out.method, out.url.raw_path.decode()) == (method, path)


@pytest.mark.parametrize(
    ("word", "segment"),
    [("a b", "a%20b"), ("a/b", "a%2Fb"), ("..", "%2E%2E"), ("ä?#", "%C3%A4%3F%23"), ("a.b", "a.b")],
)
def test_a_name_stays_one_segment_of_the_path_whatever_it_holds(word: str, segment: str) -> None:
    out = sent(requests.get_by_name(word), base_url="http://far.example/quilt/")
    assert out.url.raw_path.decode() == f"/quilt/api/functions/by-name/{segment}"


def test_an_empty_name_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        requests.get("")


@pytest.mark.parametrize("verb", [requests.deploy, requests.pause, requests.resume])
def test_a_verb_without_a_body_has_length_zero_and_no_content_type(
    verb: Callable[[str], Request[Any]],
) -> None:
    out = sent(verb("f1"))
    assert out.content == b""
    assert out.headers["content-length"] == "0"
    assert "content-type" not in out.headers


def test_create_sends_only_what_was_given() -> None:
    out = sent(requests.create(NewFunction(name="a", handler="b", cluster_id=None)))
    assert json.loads(out.content) == {"name": "a", "handler": "b", "cluster_id": None}
    assert out.headers["content-type"] == "application/json"


def test_update_tells_a_reset_from_a_field_left_alone() -> None:
    out = sent(requests.update("f1", Changes(description=None)))
    assert json.loads(out.content) == {"description": None}


def test_invoke_sends_payload_environment_timeout_and_idempotency_key() -> None:
    out = sent(
        requests.invoke(
            "f1", "text", environment={"A": "1"}, timeout_seconds=5, idempotency_key="once"
        )
    )
    assert json.loads(out.content) == {
        "payload": "text",
        "environment": {"A": "1"},
        "timeout_seconds": 5,
    }
    assert out.headers["idempotency-key"] == "once"


def test_retarget_sends_both_targets_and_the_tenant() -> None:
    out = sent(requests.set_scaling("f1", 1, 2, tenant_id="t1"))
    assert json.loads(out.content) == {"min_instances": 1, "max_instances": 2}
    assert out.headers["x-tenant-id"] == "t1"


def test_a_new_key_sends_only_what_was_given() -> None:
    assert json.loads(sent(requests.create_key()).content) == {}
    out = sent(requests.create_key(scope="invoke", tenant="t", expires_seconds=60))
    assert json.loads(out.content) == {"scope": "invoke", "tenant": "t", "expires_seconds": 60}


def test_an_invoke_may_take_the_longest_timeout_and_other_requests_do_not() -> None:
    invoke, get = sent(requests.invoke("f1")), sent(requests.get("f1"))
    assert invoke.extensions["timeout"]["read"] == 86_430
    assert get.extensions["timeout"]["read"] == 30
    for short in (
        requests.invoke("f1", timeout_seconds=5),
        requests.invoke_by_name("a", timeout_seconds=5),
    ):
        assert sent(short).extensions["timeout"]["read"] == 35


def test_a_part_of_the_output_is_asked_for_as_a_range() -> None:
    assert "range" not in sent(requests.output("f1", "i1")).headers
    for asked, told in (({"first": 2}, "bytes=2-"), ({"last": 0}, "bytes=0-0")):
        assert sent(requests.output("f1", "i1", **asked)).headers["range"] == told
    assert requests.output("f1", "i1").understand(200, {}, b"\xff\0") == b"\xff\0"


def test_address_and_key_come_from_the_argument_then_the_environment_then_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = sent(requests.alive())
    assert str(out.url) == "http://127.0.0.1:8080/health"
    assert "x-api-key" not in out.headers
    monkeypatch.setenv("QUILT_BASE_URL", "http://env.example:1")
    monkeypatch.setenv("QUILT_API_KEY", "quilt_sk_env\n")
    out = sent(requests.alive())
    assert (out.url.host, out.headers["x-api-key"]) == ("env.example", "quilt_sk_env")
    out = sent(requests.alive(), base_url="http://arg.example", api_key="quilt_sk_arg")
    assert (out.url.host, out.headers["x-api-key"]) == ("arg.example", "quilt_sk_arg")


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://x", "http://", "http://x:port", "x"])
def test_an_address_that_cannot_work_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(ValueError, match=r"must look like http://127\.0\.0\.1:8080"):
        Client(url)


def test_a_mangled_key_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="copied whole") as refused:
        Client(api_key="quilt_sk_ä")
    assert "quilt_sk" not in str(refused.value)


# --- how answers are read ----------------------------------------------------------------------


def test_answers_become_types_and_unknown_fields_are_ignored() -> None:
    with client(answering(200, {**FUNCTION, "from_the_future": 1})) as at:
        function = at.send(requests.get("f1"))
    assert (function.name, function.state, function.current_version) == ("hello", "active", 1)


def test_a_list_tells_where_it_goes_on() -> None:
    with client(answering(200, {"functions": [FUNCTION], "next_cursor": "c2"})) as at:
        page = at.send(requests.list_functions())
    assert [one.id for one in page.functions] == ["f1"]
    assert page.next_cursor == "c2"


KEY = {"id": "k1", "tenant_id": "t", "scope": "write", "prefix": "ab", "created_at": 1}


def test_keys_and_the_audit_trail_become_types() -> None:
    with client(answering(200, {"keys": [KEY]})) as at:
        (key,) = at.send(requests.keys())
    assert (key.id, key.expires_at, key.revoked_at) == ("k1", None, None)
    entry = {"id": "a", "at": 1, "tenant_id": "t", "credential": "k1", "action": "key.create"}
    with client(answering(200, {"entries": [{**entry, "status": 201}], "next_cursor": "c"})) as at:
        page = at.send(requests.audit())
    assert (page.entries[0].action, page.entries[0].status, page.next_cursor) == (
        "key.create",
        201,
        "c",
    )


def test_a_new_key_does_not_show_itself_in_a_log() -> None:
    with client(answering(201, {**KEY, "key": "quilt_sk_secret"})) as at:
        made = at.send(requests.create_key())
    assert made.key == "quilt_sk_secret"
    assert "secret" not in f"{made!r} {made}"


def test_health_becomes_a_type() -> None:
    part = {"ok": False, "reason": "full"}
    body = {"status": "unavailable", "ready": False, "checks": {"disk": part}}
    with client(answering(200, body)) as at:
        report = at.send(requests.health())
    assert not report.ready
    assert report.checks["disk"].reason == "full"


def test_a_delete_answers_nothing() -> None:
    with client(lambda _: httpx.Response(204)) as at:
        assert at.send(requests.delete("f1").with_body()) == (None, b"")


def test_a_handler_that_failed_is_a_result() -> None:
    failed = {**INVOCATION, "status": "failed", "exit_code": 3}
    with client(answering(200, failed)) as at:
        ended = at.send(requests.invoke("f1"))
    assert (ended.status, ended.exit_code) == ("failed", 3)


def test_a_request_can_be_read_as_a_type_and_as_the_bytes_that_came() -> None:
    body = b'{"success":true,  "message":null}'
    with client(lambda _: httpx.Response(200, content=body)) as at:
        paused, raw = at.send(requests.pause("f1").with_body())
    assert paused.success
    assert raw == body


async def test_the_asynchronous_client_reads_and_raises_the_same() -> None:
    def answer(out: httpx.Request) -> httpx.Response:
        asked_for_it = out.url.path.endswith("/invoke")
        return httpx.Response(
            200 if asked_for_it else 409, json=INVOCATION if asked_for_it else REFUSAL
        )

    async with AsyncClient(transport=httpx.MockTransport(answer)) as at:
        assert (await at.send(requests.invoke("f1"))).stdout == "hello\n"
        with pytest.raises(ApiError, match="the function is paused"):
            await at.send(requests.resume("f1"))


# --- what is raised ----------------------------------------------------------------------------


def test_a_refusal_carries_all_the_server_said() -> None:
    with client(answering(409, REFUSAL, x_invocation_id="i9")) as at:
        with pytest.raises(ApiError, match="the function is paused") as raised:
            at.send(requests.invoke("f1"))
    error = raised.value
    assert (error.status, error.code, error.hint) == (409, "FUNCTION_NOT_ACTIVE", "resume it")
    assert (error.details, error.retry_after) == ({"state": "paused"}, 2)
    assert (error.request_id, error.invocation_id) == ("r1", "i9")


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"error":"\xff"}', b'{"error": 7}'])
def test_a_refusal_without_a_readable_body_keeps_its_status_and_headers(body: bytes) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        headers = {"retry-after": "7", "x-request-id": "r2"}
        return httpx.Response(503, content=body, headers=headers)

    with client(answer) as at, pytest.raises(ApiError, match="status 503") as raised:
        at.send(requests.get("f1"))
    assert (raised.value.code, raised.value.retry_after) == ("UNKNOWN", 7)
    assert raised.value.request_id == "r2"


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"id":"\xff"}', b""])
def test_an_answer_that_is_not_quiltfns_is_said_to_be_so(body: bytes) -> None:
    with client(lambda _: httpx.Response(200, content=body)) as at:
        with pytest.raises(UnreadableAnswer, match="does not speak like quiltfn"):
            at.send(requests.get("f1"))


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (httpx.ConnectError, r"no quiltfn server answers at .*; start one with: quiltfn serve"),
        (httpx.ConnectTimeout, r"no quiltfn server answers"),
        (httpx.ReadTimeout, r"did not answer within 30 s"),
        (httpx.ReadError, r"ended before the answer was there: ReadError"),
    ],
)
async def test_no_answer_is_a_sentence_in_both_clients(
    failure: type[httpx.TransportError], sentence: str
) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise failure("")

    with client(fail) as at, pytest.raises(ConnectionFailed, match=sentence):
        at.send(requests.get("f1"))
    async with AsyncClient(transport=httpx.MockTransport(fail)) as later:
        with pytest.raises(ConnectionFailed, match=sentence):
            await later.send(requests.get("f1"))


@pytest.mark.parametrize("name", ["image.tar", "image.tar.gz", "image.tgz"])
async def test_an_archive_is_streamed_with_its_length_and_kind(tmp_path: Path, name: str) -> None:
    archive = tmp_path / name
    archive.write_bytes(b"x" * 700_000)
    kind = "application/x-tar" if name.endswith("tar") else "application/gzip"
    seen: list[tuple[str, str, int]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        headers = request.headers
        seen.append((headers["content-type"], headers["content-length"], len(request.content)))
        return httpx.Response(201, json={"digest": "ab", "files": 1, "size_bytes": 2})

    async def answer_async(request: httpx.Request) -> httpx.Response:
        await request.aread()
        return answer(request)

    with Client(transport=Canned(answer)) as one:
        assert one.send(requests.upload_image(archive)).digest == "ab"
    async with AsyncClient(transport=httpx.MockTransport(answer_async)) as other:
        assert (await other.send(requests.upload_image(archive).with_body()))[0].files == 1
    assert seen == [(kind, "700000", 700_000)] * 2
