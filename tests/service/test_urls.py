"""Function URLs on fake sandboxes: access, responses to strangers, and records."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest

from metric_values import sample_value
from promises import promise
from quiltfn.api.call_response import LONG_OUTPUT_BYTES
from quiltfn.api.http import budgets
from quiltfn.model.access import Scope
from quiltfn.model.url import Auth, FunctionUrl
from service.platform_harness import open_harness
from service.routes import Contains, Header, Web

SECRET = "a secret of sixteen bytes or more"
GITHUB: dict[str, Any] = {"auth": "webhook", "webhook": {"scheme": "github", "secret": SECRET}}
CORS = {"allow_origins": ["https://app.example.com"]}
OPEN: dict[str, Any] = {"auth": "none"}
ALLOWED = "access-control-allow-origin"
APP, EVIL = {"Origin": CORS["allow_origins"][0]}, {"Origin": "https://evil.example"}
PREFLIGHT = {"Access-Control-Request-Method": "PUT"}


@promise("U1")
async def test_nothing_is_reachable_before_a_url_is_set_and_after_it_is_gone(web: Web) -> None:
    key = await web.key()
    function = await web.function()
    path = f"{function}/url"
    for _ in range(2):
        await web.ask(404, "POST", "/fn/f", headers=key)
        await web.ask(404, "GET", path, headers=key)
        shown = await web("GET", function, headers=key)
        assert "x-function-url" not in shown.headers
        created = await web.url(function, key, **OPEN)
        shown = await web("GET", function, headers=key)
        assert created["path"] == shown.headers["x-function-url"] == "/fn/default/f"
        for url in ("/fn/f", "/fn/default/f"):
            assert (await web.ask(200, "POST", url, content=b"hello")).content == b"hello"
        for _ in range(2):
            await web.ask(204, "DELETE", path, headers=key)


@promise("U1")
async def test_a_url_goes_with_its_function_and_survives_a_restart(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        for name in ("kept", "gone"):
            await web.url(await web.function(name=name), **OPEN, methods=["GET"])
        gone = harness.catalog.by_name("default", "gone").function.id
        await web.ask(204, "DELETE", f"/api/functions/{gone}")
        assert harness.services.urls.of(gone) is None
        await web.function(name="gone")
        await web.ask(404, "GET", "/fn/gone")  # a new function has no URL
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        await web.ask(200, "GET", "/fn/kept")
        await web.ask(404, "GET", "/fn/gone")


async def test_secrets_are_shown_on_request_to_those_who_may_write(web: Web) -> None:
    write, read = await web.key(), await web.key(scope=Scope.READ)
    function = await web.function()
    masked = {"scheme": "github", "secret": "***"}
    assert (await web.url(function, write, **GITHUB))["webhook"] == masked
    path = f"{function}/url"
    for key in (read, write):
        assert (await web.good("GET", path, headers=key))["webhook"] == masked
    reveal = f"{path}?reveal=true"
    assert (await web.good("GET", reveal, headers=write))["webhook"]["secret"] == SECRET
    assert SECRET not in (await web.ask(403, "GET", reveal, headers=read)).text
    await web.ask(422, "GET", f"{path}?reveal=1", headers=write)
    await web.ask(403, "PUT", path, {}, headers=read)
    await web.ask(403, "DELETE", path, headers=read)


async def test_a_secret_that_is_left_out_stays_as_it_is(web: Web) -> None:
    write = await web.key()
    function = await web.function()
    path = f"{function}/url"
    kept = {"auth": "webhook", "webhook": {"scheme": "github"}}
    await web.ask(422, "PUT", path, kept, headers=write)
    await web.url(function, write, **GITHUB)
    await web.url(function, write, methods=["POST"], **kept)
    shown = await web.good("GET", f"{path}?reveal=true", headers=write)
    assert (shown["methods"], shown["webhook"]["secret"]) == (["POST"], SECRET)
    stripe = {"auth": "webhook", "webhook": {"scheme": "stripe", "secret": None}}
    refusal = await web.refused(422, "PUT", path, stripe, headers=write)
    assert refusal["error"].startswith("webhook.secret must be"), "it is none of that scheme"


async def test_changes_of_urls_are_audited_without_their_secrets(web: Web) -> None:
    operator = await web.key(scope=Scope.OPERATOR)
    function = await web.function()
    await web.url(function, operator, **GITHUB)
    await web("DELETE", f"{function}/url", headers=operator)
    log = await web("GET", "/api/audit", headers=operator)
    assert {"url.set", "url.delete"} <= {entry["action"] for entry in log.json()["entries"]}
    assert SECRET not in log.text


# --- access ------------------------------------------------------------------------------------


@promise("U4")
async def test_a_key_is_asked_for_and_is_not_passed_on(web: Web) -> None:
    invoke, write = await web.key(scope=Scope.INVOKE), await web.key()
    function = await web.function("echo $HTTP_X_API_KEY$HTTP_AUTHORIZATION")
    await web.url(function, write)
    await web.ask(401, "GET", "/fn/f")
    await web.ask(401, "GET", "/fn/f", headers={"X-Api-Key": "wrong"})
    await web.ask(403, "GET", "/fn/f", headers=await web.key(scope=Scope.READ))
    for header in (invoke, {"Authorization": f"Bearer {invoke['X-Api-Key']}"}):
        answer = await web.ask(200, "GET", "/fn/f", headers=header)
        assert answer.text == "\n"
        assert answer.headers["x-invocation-id"]


@promise("U3")
async def test_without_a_credential_nobody_learns_what_there_is(web: Web) -> None:
    """The response is the same for a function with a key, with a webhook or without a URL, and for
    a missing function.
    """
    key = await web.key("acme")
    await web.key("default")
    await web.url(await web.function(name="keyed", tenant="acme"), key)
    await web.url(await web.function(name="hooked", tenant="acme"), key, **GITHUB)
    await web.function(name="bare", tenant="acme")
    paths = ["acme/keyed", "acme/hooked", "acme/bare", "acme/none", "acme", "nobody/keyed"]
    paths += ["keyed", "nobody", "", "acme/", "%2e%2e/api", "acme%2Fkeyed", "a/b/c/d"]
    for path in paths:
        answer = await web.ask(401, "POST", f"/fn/{path}", headers={"X-Request-Id": "same"})
        assert answer.json()["error_code"] == "UNAUTHORIZED"
        assert "x-invocation-id" not in answer.headers


@promise("U3")
async def test_a_key_of_another_tenant_finds_nothing(web: Web) -> None:
    own, other = await web.key("acme"), await web.key("other", Scope.OPERATOR)
    await web.url(await web.function(tenant="acme"), own)
    there, missing = [
        await web.ask(404, "POST", path, headers={**other, "X-Request-Id": "same"})
        for path in ("/fn/acme/f", "/fn/acme/none")
    ]
    assert there.content == missing.content
    await web.ask(200, "POST", "/fn/acme/f", headers=own)


@promise("U5")
async def test_who_can_sign_may_call(web: Web) -> None:
    key = await web.key()
    function = await web.function("echo $HTTP_X_HUB_SIGNATURE_256")
    await web.url(function, key, **GITHUB)
    body = b'{"zen": "Anything added dilutes everything else."}'
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    signature = ("X-Hub-Signature-256", f"sha256={digest}")
    answer = await web.ask(200, "POST", "/fn/f", content=body, headers=[signature])
    assert answer.text == f"sha256={digest}\n"
    calls = web.harness.sandboxes.calls
    for content, headers in (
        (body + b" ", [signature]),
        (body, []),
        (body, [*key.items()]),
        (body, [signature, ("X-Hub-Signature-256", "x")]),
        (body, [signature, ("x_hub_signature_256", "x")]),
        (body, [signature, ("Connection", "x-hub-signature-256")]),
    ):
        await web.ask(401, "POST", "/fn/f", content=content, headers=headers)
    assert web.harness.sandboxes.calls == calls, "the function was not called"
    assert (await refused_by(web, function, key))["signature"] == 6
    harmless = [signature, ("Connection", "x-other"), ("X_Other", "1")]
    await web.ask(200, "POST", "/fn/f", content=body, headers=harmless)


async def refused_by(web: Web, function: str, key: Header | None = None) -> dict[str, int]:
    shown = await web.good("GET", f"{function}/url", headers=key)
    assert (shown["last_refused_at"] is None) == (shown["refused"] == {})
    refused: dict[str, int] = shown["refused"]
    return refused


def refused_calls(reason: str) -> float:
    return sample_value("quiltfn_url_refused_calls_total", {"reason": reason})


async def test_refused_calls_are_counted_by_why_and_good_ones_are_not(web: Web) -> None:
    function, key = await web.function(), await web.key()
    stripe = {"scheme": "stripe", "secret": f"whsec_{SECRET}"}
    await web.url(function, key, auth="webhook", webhook=stripe, methods=["POST"])
    before = refused_calls("signature"), refused_calls("time")

    def signed(unix: int, body: bytes) -> dict[str, str]:
        text = b"%d.%b" % (unix, body)
        digest = hmac.new(stripe["secret"].encode(), text, hashlib.sha256).hexdigest()
        return {"Stripe-Signature": f"t={unix},v1={digest}"}

    now = int(web.harness.clock.unix())
    good = signed(now, b"a")
    await web.ask(200, "POST", "/fn/f", content=b"a", headers=good)
    assert await refused_by(web, function, key) == {}
    for content, headers, status in (
        (b"b", good, 401),
        (b"a", {}, 401),
        (b"a", signed(now - 301, b"a"), 401),
        (b"a" * (8 << 20), good, 413),
    ):
        await web.ask(status, "POST", "/fn/f", content=content, headers=headers)
    await web.ask(405, "GET", "/fn/f", headers=signed(now, b""))
    refused = {"signature": 2, "time": 1, "size": 1, "method": 1}
    assert await refused_by(web, function, key) == refused
    assert (refused_calls("signature"), refused_calls("time")) == (before[0] + 2, before[1] + 1)
    await web.url(function, key)
    await web.ask(401, "POST", "/fn/f")
    assert (await refused_by(web, function, key))["credential"] == 1


async def test_refusals_take_no_memory_for_what_does_not_exist_or_is_gone(web: Web) -> None:
    function, key = await web.function(), await web.key()
    urls = web.harness.services.urls
    for path in ("f", *(f"missing-{n}" for n in range(10))):  # f exists, but has no URL
        await web.ask(401, "POST", f"/fn/{path}")
    assert urls._refusals == {}
    await web.url(function, key)
    for _ in range(10):
        await web.ask(401, "POST", "/fn/f")
    assert await refused_by(web, function, key) == {"credential": 10}
    await web("DELETE", f"{function}/url", headers=key)
    assert urls._refusals == {}


async def test_a_call_that_failed_has_a_record_and_is_not_counted(web: Web) -> None:
    function = await web.function("exit 1")
    await web.url(function, **OPEN)
    await web.ask(502, "POST", "/fn/f")
    assert await refused_by(web, function) == {}


@promise("U17")
@pytest.mark.parametrize("stream", [True, False])
async def test_a_status_from_500_counts_as_an_error_of_success(web: Web, stream: bool) -> None:
    path = await web.function()
    await web.url(path, **OPEN, stream=stream)
    before = sample_value("quiltfn_http_errors_total")
    for status in (200, 404, 500, 503):
        await web.ask(status, "POST", "/fn/f", content=f"Status: {status}\n\nhi".encode())
        record = await web.newest(path)
        assert (record["status"], record["http_status"]) == ("success", status)
    function_id = path.rpartition("/")[2]
    listed = (await web.good("GET", f"/api/invocations?function_id={function_id}"))["invocations"]
    assert [record["http_status"] for record in listed] == [503, 500, 404, 200]
    assert (await web.good("GET", path))["error_count"] == 2
    stored = (await web.harness.store.counters())[function_id]
    assert (stored.invocation_count, stored.error_count) == (4, 2), "as after a restart"
    points = (await web.good("GET", f"{path}/series"))["points"]
    assert sum(point["errors"] for point in points) == 2
    assert sum(point["statuses"]["success"] for point in points) == 4
    assert sample_value("quiltfn_http_errors_total") == before + 2
    # An invocation through the API has no HTTP status of its own.
    assert (await web.good("POST", f"{path}/invoke")).get("http_status") is None


@promise("U16")
async def test_a_path_that_was_a_tenant_s_is_nobody_else_s(web: Web) -> None:
    key, hook = await web.key("default"), "/fn/acme/hook"
    await web.url(await web.function("echo $PATH_INFO", "acme"), key, **OPEN)
    assert (await web("GET", hook)).text == "/hook\n", "there is no such tenant"
    acme = await web.key("acme")
    await web.ask(401, "GET", hook)
    function = await web.function("echo acme's", "hook", "acme")
    await web.url(function, acme, **OPEN)
    assert (await web("GET", hook)).text == "acme's\n"
    assert (await web("GET", "/fn/default/acme/hook")).text == "/hook\n"
    for gone in (f"{function}/url", function):
        await web.ask(204, "DELETE", gone, headers=acme)
        await web.ask(401, "GET", hook)


@promise("U16")
@pytest.mark.parametrize("had_url", [True, False])
async def test_tenants_without_keys_keep_their_paths(tmp_path: Path, had_url: bool) -> None:
    """A tenant without keys is, for example, one whose callers have signed tokens."""
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        await web.url(await web.function("echo $PATH_INFO", "acme"), **OPEN)
        await web.function("echo acme's", "hook", "acme")
        await web.ask(404, "GET", "/fn/acme/hook")  # the tenant has a function, but no URL
        entry = harness.catalog.by_name("acme", "hook")
        if had_url:
            await harness.services.urls.set(entry, FunctionUrl(auth=Auth.NONE))
            assert (await web("GET", "/fn/acme/hook")).text == "acme's\n"
        await harness.lifecycle.delete(entry)
    async with open_harness(tmp_path) as harness:
        await Web(harness).ask(404 if had_url else 200, "GET", "/fn/acme/hook")


# --- requests and responses ----------------------------------------------------------------------


@promise("U2")
async def test_any_method_and_any_bytes(web: Web) -> None:
    await web.url(await web.function(), **OPEN)
    body, limit = bytes(range(256)) * 10, 6 * 2**20
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND", "OPTIONS"):
        headers = {"content-type": "x/y"}
        answer = await web.ask(200, method, "/fn/f", content=body, headers=headers)
        assert answer.content == body
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    await web.ask(405, "TRACE", "/fn/f")
    await web.ask(200, "PUT", "/fn/f", content=b"x" * limit)
    refusal = await web.refused(413, "PUT", "/fn/f", content=b"x" * (limit + 1))
    assert "kind server" in refusal["hint"]


async def test_other_methods_than_those_of_the_url_are_refused(web: Web) -> None:
    await web.url(await web.function(), **OPEN, methods=["GET"])
    await web.ask(200, "GET", "/fn/f")
    await web.ask(200, "HEAD", "/fn/f")
    assert (await web.ask(405, "POST", "/fn/f")).headers["allow"] == "GET"


@promise("U13")
async def test_a_shell_answers_by_a_header_block(web: Web) -> None:
    await web.url(await web.function(), **OPEN)
    lines = [b"Status: 418", b"X-A: b", b"Connection: close", b"Content-Length: 1"]
    output = b"\n".join([*lines, b"X-Invocation-Id: mine", b"", b"teapot"])
    answer = await web.ask(418, "POST", "/fn/f", content=output)
    assert answer.content == b"teapot"
    assert (answer.headers["x-a"], answer.headers["content-length"]) == ("b", "6")
    assert not {"connection", "x-invocation-id"} & answer.headers.keys()
    assert answer.headers["content-security-policy"] == "sandbox allow-scripts allow-forms"


@promise("U8")
async def test_no_header_takes_the_place_of_a_variable(web: Web) -> None:
    for name, environment, header, text in (
        ("HTTP_X_MODE", {"HTTP_X_MODE": "safe"}, "X-Mode", "safe\n"),
        ("HTTP_PROXY", {}, "Proxy", "\n"),
    ):
        function = await web.function(f"echo ${name}", name, environment=environment)
        await web.url(function, **OPEN)
        assert (await web("GET", f"/fn/{name}", headers={header: "evil"})).text == text


async def test_a_path_that_climbs_is_refused(web: Web) -> None:
    await web.url(await web.function("echo $PATH_INFO"), **OPEN)
    for path in ("%2e%2e/x", "a/%2e%2e/%2e%2e/x", "..%2fx", "a%2fb", "%00"):
        await web.ask(400, "GET", f"/fn/f/{path}")
    assert (await web("GET", "/fn/f/a%20b/c")).text == "/a b/c\n"


async def test_preflights_are_answered_without_the_function(web: Web) -> None:
    key = await web.key("default")
    await web.url(await web.function(), key, cors=CORS)
    asks = APP | PREFLIGHT
    assert (await web.ask(204, "OPTIONS", "/fn/f", headers=asks)).headers[ALLOWED] == APP["Origin"]
    assert web.harness.sandboxes.calls == 0
    answer = await web("POST", "/fn/f", headers={**key, **asks})
    assert answer.headers[ALLOWED] == APP["Origin"]
    assert ALLOWED not in (await web("POST", "/fn/f", headers={**key, **EVIL})).headers


@promise("U18")
async def test_a_page_without_an_origin_reads_its_own_url_if_open(web: Web) -> None:
    page, key, function = {"Origin": "null"}, await web.key("default"), await web.function()
    for url, allowed in (
        (OPEN, "null"),
        (OPEN | {"cors": CORS}, None),
        ({"auth": "key"}, None),
        (GITHUB, None),
    ):
        await web.url(function, key, **url)
        for method, headers in (("OPTIONS", page | PREFLIGHT), ("POST", page)):
            answer = await web(method, "/fn/f", headers=headers | key)
            assert answer.headers.get(ALLOWED) == allowed, (url, method)
            assert "access-control-allow-credentials" not in answer.headers
    await web.url(function, key, **OPEN)
    before = web.harness.sandboxes.calls
    assert ALLOWED not in (await web("OPTIONS", "/fn/f", headers=EVIL | PREFLIGHT)).headers
    assert web.harness.sandboxes.calls == before + 1, "the handler may answer it"


@promise("U18")
async def test_a_browser_is_sent_to_the_slash_behind_which_relative_links_are(web: Web) -> None:
    function = await web.function("echo $PATH_INFO")
    await web.url(function, **OPEN)
    page = {"Accept": "text/html,*/*;q=0.8"}
    for path, to in (
        ("/fn/default/f", "./f/"),
        ("/fn/default/f?a=1&b", "./f/?a=1&b"),
        ("/fn/f", "./f/"),
        ("/fn/default/%66", "./%66/"),
    ):
        assert (await web.ask(307, "GET", path, headers=page)).headers["location"] == to
    assert web.harness.sandboxes.calls == 0
    for method, path, headers in (
        ("GET", "/fn/default/f/", page),
        ("GET", "/fn/default/f", {}),
        ("GET", "/fn/default/f", {"Accept": "application/json"}),
        ("POST", "/fn/default/f", page),
    ):
        assert (await web.ask(200, method, path, headers=headers)).text == "/\n", (method, path)
    await web.url(function, **OPEN, methods=["POST"])
    await web.ask(405, "GET", "/fn/default/f", headers=page)
    await web.url(function)
    await web.ask(200, "GET", "/fn/default/f", headers=page)  # a key is needed


async def test_without_keys_pages_of_other_origins_cannot_call_what_needs_one(web: Web) -> None:
    await web.url(await web.function())
    await web.url(await web.function(name="open"), **OPEN)
    await web.ask(200, "POST", "/fn/f")
    await web.ask(403, "POST", "/fn/f", headers=EVIL)
    await web.ask(200, "POST", "/fn/open", headers=EVIL)


async def test_a_cloud_event_that_is_none_is_refused(web: Web) -> None:
    await web.url(await web.function("echo $HTTP_CE_TYPE"), **OPEN)
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
    kind = {"content-type": "application/cloudevents+json"}
    assert (await web("POST", "/fn/f", event, headers=kind)).text == "t\n"
    for wrong in ({"id": ""}, {"datacontenttype": "a\0b"}, {"datacontenttype": "\u20ac"}):
        await web.ask(400, "POST", "/fn/f", event | wrong, headers=kind)
    assert web.harness.sandboxes.calls == 1


async def test_a_stream_is_what_the_handler_writes(web: Web) -> None:
    await web.url(await web.function(), **OPEN, stream=True)
    body = b"Status: 201\nContent-Type: x/y\n\n" + b"0123456789" * 50_000
    answer = await web.ask(201, "POST", "/fn/f", content=body)
    assert answer.headers["content-type"] == "x/y"
    assert answer.content == b"0123456789" * 50_000
    for plain in (b"", b"plain\n"):
        assert (await web("POST", "/fn/f", content=plain)).content == plain


FAILURES = [
    ("exit 3", 502, "HANDLER_FAILED", "exited with code 3"),
    # its log contains this handler's name
    ("zz-4711", 502, "HANDLER_FAILED", "exited with code 127"),
    ("oom", 502, "HANDLER_FAILED", "memory"),
    ("sleep 30", 504, "HANDLER_TIMEOUT", "timed out"),
    ("die", 503, "RUNTIME_UNAVAILABLE", "sandbox"),
]


@promise("A84", "U9")
@pytest.mark.parametrize(("handler", "status", "code", "why"), FAILURES, ids=str)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_a_failure_is_answered_with(
    web: Web, handler: str, status: int, code: str, why: str, stream: bool
) -> None:
    key = await web.key("default")
    for name, auth in (("keyed", "key"), ("open", "none")):
        function = await web.function(handler, name, timeout_seconds=1)
        await web.url(function, key, auth=auth, stream=stream)
    answer = await web.ask(status, "GET", "/fn/keyed", headers=key)
    body = answer.json()
    assert (body["error_code"], body["error"]) == (code, Contains(why))
    assert answer.headers["x-invocation-id"] in body["hint"]
    assert "zz-4711" not in answer.text
    stranger = await web.ask(status, "GET", "/fn/open")
    assert "x-invocation-id" not in stranger.headers
    assert why not in stranger.text
    assert stranger.json()["hint"] is None
    if status == 503:
        assert int(stranger.headers["retry-after"]) >= 1
    record = await web.newest(function, key)
    assert record["invocation_id"] not in stranger.text
    assert handler != "zz-4711" or "zz-4711" in record["error_message"]


@promise("U9")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_bad_answer_is_502_and_its_record_says_why(web: Web, stream: bool) -> None:
    key, function = await web.key("default"), await web.function()
    await web.url(function, key, stream=stream)
    answer = await web.ask(502, "POST", "/fn/f", content=b"Status: 99\n\nx", headers=key)
    await asyncio.sleep(0.01)
    record = await web.newest(function, key)
    assert record["invocation_id"] == answer.headers["x-invocation-id"]
    assert (record["status"], record["exit_code"]) == ("failed", 1)
    assert record["error_message"].startswith("the handler's answer cannot be sent: its status")
    assert record["stdout"] == "Status: 99\n\nx", "what it wrote is kept"


async def test_what_is_not_available_is_503_for_strangers(web: Web) -> None:
    key = await web.key("default")
    for name, auth in (("open", "none"), ("keyed", "key")):
        function = await web.function(name=name)
        await web.url(function, key, auth=auth)
        await web.good("POST", f"{function}/pause", headers=key)
    answer = await web.ask(503, "GET", "/fn/open")
    assert answer.json()["error_code"] == "CAPACITY_FULL"
    assert answer.headers["retry-after"] == "1"
    assert "paused" not in answer.text
    refusal = await web.refused(409, "GET", "/fn/keyed", headers=key)
    assert refusal["error_code"] == "FUNCTION_NOT_ACTIVE"


async def test_long_answers_name_their_call(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    key, function = await web.key("default"), await web.function()
    await web.url(function, key)
    body = b"x" * (LONG_OUTPUT_BYTES + 1)
    assert (await web("POST", "/fn/f", content=body, headers=key)).content == body
    monkeypatch.setattr(budgets, "RESPONSE_WAIT_S", 0.05)
    async with web.harness.services.budgets.responses.reserve(1 << 30, "another"):
        answer = await web.ask(503, "POST", "/fn/f", content=body, headers=key)
    assert answer.json()["error_code"] == "CAPACITY_FULL"
    record = await web.newest(function, key)
    named = (answer.headers["x-invocation-id"], "success")
    assert (record["invocation_id"], record["status"]) == named


async def test_calls_are_recorded_as_such_and_kept_and_replayed(web: Web) -> None:
    function = await web.function("echo $REQUEST_METHOD")
    await web.url(function, **OPEN)
    await web.good("PUT", f"{function}/record-policy", {"keep_input": "all"})
    await web("PATCH", "/fn/f", content=b"\xff\x00", headers={"X-A": "b"})
    call = f"{function}/invocations/{(await web.newest(function))['invocation_id']}"
    kept = await web.good("GET", f"{call}/input")
    assert (kept["source"], kept["payload"]) == ("url", "\ufffd\x00")
    assert kept["environment"]["HTTP_X_A"] == "b"
    assert (await web.good("POST", f"{call}/replay"))["stdout"] == "PATCH\n"


@promise("U13")
async def test_a_host_of_their_own_has_the_urls_and_nothing_else(tmp_path: Path) -> None:
    async with open_harness(tmp_path, settings={"url_host": "FN.example.com"}) as harness:
        web = Web(harness)
        key = await web.key("default")
        url = await web.url(await web.function(), key, **OPEN)
        assert url["host"] == "fn.example.com"
        own = {"Host": "fn.EXAMPLE.com:8443"}
        answer = await web.ask(200, "POST", "/fn/f", content=b"x", headers=own)
        assert "content-security-policy" not in answer.headers
        await web.ask(404, "POST", "/fn/f", content=b"x")
        for path in ("/api/functions", "/health", "/docs", "/openapi.json", "/metrics"):
            await web.ask(404, "GET", path, headers={**own, **key})
        await web.ask(200, "GET", "/api/functions", headers=key)


async def test_calls_of_urls_count_in_the_limits_of_the_tenant(tmp_path: Path) -> None:
    async with open_harness(tmp_path, settings={"tenant_calls_in_flight": 1}) as harness:
        web = Web(harness)
        key = await web.key("default")
        await web.url(await web.function("sleep 1"), key, **OPEN)
        answers = await asyncio.gather(*(web("GET", "/fn/f") for _ in range(3)))
        first, *refused = sorted(answers, key=lambda answer: answer.status_code)
        assert first.status_code == 200
        for answer in refused:
            assert (answer.status_code, answer.json()["error"]) == (
                429,
                "there were too many calls",
            )
            assert answer.headers["retry-after"]
