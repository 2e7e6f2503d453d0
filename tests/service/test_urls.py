"""URLs of functions on fake sandboxes: who may call, what strangers are told, what is kept."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from metric_values import sample_value
from promises import promise
from quiltfn.api.app import make_app
from quiltfn.api.call_response import LONG_OUTPUT_BYTES
from quiltfn.api.http import budgets
from quiltfn.model.access import Scope
from quiltfn.model.function import NewFunction
from quiltfn.model.url import Auth, FunctionUrl
from quiltfn.model.version import VersionSpec
from quiltfn.tenants.access import make_key
from service.in_process import InProcess
from service.platform_harness import Harness, open_harness

SECRET = "a secret of sixteen bytes or more"
GITHUB = {"auth": "webhook", "webhook": {"scheme": "github", "secret": SECRET}}
CORS = {"allow_origins": ["https://app.example.com"]}


class Web:
    """The application of a harness, asked in process, with keys where a test has made some."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.http = self._client(harness)

    def _client(self, harness: Harness, host: str = "127.0.0.1") -> httpx.AsyncClient:
        transport = InProcess(make_app(harness.services))
        return httpx.AsyncClient(transport=transport, base_url=f"http://{host}")

    async def __call__(self, method: str, path: str, **more: Any) -> httpx.Response:
        return await self.http.request(method, path, **more)

    async def key(self, tenant: str = "default", scope: Scope = Scope.WRITE) -> dict[str, str]:
        """The header of a new key."""
        services = self.harness.services
        _, text = await make_key(services.keys, self.harness.clock, tenant, scope, None)
        await services.access.refresh()
        return {"X-Api-Key": text}

    async def function(
        self, name: str = "f", handler: str = "cat", tenant: str = "default", **more: Any
    ) -> str:
        """The id of an active function."""
        lifecycle = self.harness.lifecycle
        spec = VersionSpec(handler=handler, **more)
        entry = await lifecycle.create(tenant, NewFunction(name=name, max_instances=2), spec)
        await lifecycle.deploy(entry)
        return entry.function.id

    async def url(self, function_id: str, key: dict[str, str], **url: Any) -> dict[str, Any]:
        answer = await self("PUT", f"/api/functions/{function_id}/url", json=url, headers=key)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def record(self, function_id: str, key: dict[str, str]) -> dict[str, Any]:
        """The newest."""
        await self.harness.journal.synced()
        path = f"/api/functions/{function_id}/invocations?limit=1"
        found = await self("GET", path, headers=key)
        return found.json()["invocations"][0]


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with open_harness(tmp_path) as harness:
        yield Web(harness)


@promise("U1")
async def test_nothing_is_reachable_before_a_url_is_set_and_after_it_is_gone(web: Web) -> None:
    key = await web.key()
    function = await web.function()
    path = f"/api/functions/{function}/url"
    for _ in range(2):
        assert (await web("POST", "/fn/f", headers=key)).status_code == 404
        assert (await web("GET", path, headers=key)).status_code == 404
        shown = await web("GET", f"/api/functions/{function}", headers=key)
        assert "x-function-url" not in shown.headers
        told = await web.url(function, key, auth="none")
        shown = await web("GET", f"/api/functions/{function}", headers=key)
        assert told["path"] == shown.headers["x-function-url"] == "/fn/default/f"
        for url in ("/fn/f", "/fn/default/f"):
            answer = await web("POST", url, content=b"hello")
            assert (answer.status_code, answer.content) == (200, b"hello")
        assert (await web("DELETE", path, headers=key)).status_code == 204
        assert (await web("DELETE", path, headers=key)).status_code == 204


@promise("U1")
async def test_a_url_goes_with_its_function_and_survives_a_restart(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        for name in ("kept", "gone"):
            await web.url(await web.function(name), {}, auth="none", methods=["GET"])
        gone = harness.catalog.by_name("default", "gone").function.id
        assert (await web("DELETE", f"/api/functions/{gone}")).status_code == 204
        assert harness.services.urls.of(gone) is None
        await web.function("gone")
        assert (await web("GET", "/fn/gone")).status_code == 404, "a new one has no URL"
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        assert (await web("GET", "/fn/kept")).status_code == 200
        assert (await web("GET", "/fn/gone")).status_code == 404


@pytest.mark.parametrize(
    ("url", "field"),
    [
        ({"auth": "webhook"}, "webhook"),
        ({"auth": "key", **{"webhook": GITHUB["webhook"]}}, "webhook"),
        ({"auth": "maybe"}, "auth"),
        ({"methods": []}, "methods"),
        ({"methods": ["get"]}, "methods"),
        ({"methods": ["TRACE"]}, "methods"),
        ({"methods": ["GET", "GET"]}, "methods"),
        ({"methods": [f"M{'A' * n}" for n in range(60)]}, "methods"),
        ({"stream": "yes"}, "stream"),
        ({"stray": 1}, "stray"),
        ({"cors": {"allow_origins": ["app.example.com"]}}, "cors.allow_origins"),
        ({"cors": {"allow_origins": ["https://app.example.com/"]}}, "cors.allow_origins"),
        ({"cors": {"allow_origins": []}}, "cors.allow_origins"),
        ({"cors": {"allow_credentials": True}}, "cors.allow_credentials"),
        ({"cors": {"allow_headers": ["a b"]}}, "cors.allow_headers"),
        ({"cors": {"max_age_seconds": 86_401}}, "cors.max_age_seconds"),
        ({"cors": {"stray": 1}}, "cors.stray"),
        ({"auth": "webhook", "webhook": {"scheme": "github", "secret": "short"}}, "webhook.secret"),
        ({"auth": "webhook", "webhook": {"scheme": "github", "secret": "***"}}, "webhook.secret"),
        (
            {"auth": "webhook", "webhook": {"scheme": "standard", "secret": "x" * 40}},
            "webhook.secret",
        ),
        (
            {"auth": "webhook", "webhook": {"scheme": "stripe", "secret": "x" * 40}},
            "webhook.secret",
        ),
        ({"auth": "webhook", "webhook": {"scheme": "other", "secret": SECRET}}, "webhook.scheme"),
        ({"auth": "webhook", "webhook": {"scheme": "github"}}, "webhook.secret"),
    ],
    ids=str,
)
async def test_what_is_no_url_is_refused_by_its_field(web: Web, url: Any, field: str) -> None:
    function = await web.function()
    answer = await web("PUT", f"/api/functions/{function}/url", json=url)
    assert answer.status_code == 422, answer.text
    told = answer.json()["error"]
    assert told.startswith((f"{field} must be", f"{field} is")), told
    assert SECRET not in answer.text
    assert (await web("GET", f"/api/functions/{function}/url")).status_code == 404


async def test_secrets_are_shown_on_request_to_those_who_may_write(web: Web) -> None:
    write, read = await web.key(), await web.key(scope=Scope.READ)
    function = await web.function()
    masked = {"scheme": "github", "secret": "***"}
    assert (await web.url(function, write, **GITHUB))["webhook"] == masked
    path = f"/api/functions/{function}/url"
    for key in (read, write):
        assert (await web("GET", path, headers=key)).json()["webhook"] == masked
    reveal = f"{path}?reveal=true"
    assert (await web("GET", reveal, headers=write)).json()["webhook"]["secret"] == SECRET
    refused = await web("GET", reveal, headers=read)
    assert refused.status_code == 403
    assert SECRET not in refused.text
    assert (await web("GET", f"{path}?reveal=1", headers=write)).status_code == 422
    for method in ("PUT", "DELETE"):
        body: dict[str, Any] = {"json": {}} if method == "PUT" else {}
        assert (await web(method, path, headers=read, **body)).status_code == 403


async def test_a_secret_that_is_left_out_stays_as_it_is(web: Web) -> None:
    write = await web.key()
    function = await web.function()
    path = f"/api/functions/{function}/url"
    kept = {"auth": "webhook", "webhook": {"scheme": "github"}}
    assert (await web("PUT", path, headers=write, json=kept)).status_code == 422
    await web.url(function, write, **GITHUB)
    await web.url(function, write, methods=["POST"], **kept)
    shown = (await web("GET", f"{path}?reveal=true", headers=write)).json()
    assert (shown["methods"], shown["webhook"]["secret"]) == (["POST"], SECRET)
    stripe = {"auth": "webhook", "webhook": {"scheme": "stripe", "secret": None}}
    refused = await web("PUT", path, headers=write, json=stripe)
    assert refused.status_code == 422, "it is none of that scheme"
    assert refused.json()["error"].startswith("webhook.secret must be"), refused.text


async def test_changes_of_urls_are_audited_without_their_secrets(web: Web) -> None:
    operator = await web.key(scope=Scope.OPERATOR)
    function = await web.function()
    await web.url(function, operator, **GITHUB)
    await web("DELETE", f"/api/functions/{function}/url", headers=operator)
    told = await web("GET", "/api/audit", headers=operator)
    assert {"url.set", "url.delete"} <= {one["action"] for one in told.json()["entries"]}
    assert SECRET not in told.text


# --- who may -----------------------------------------------------------------------------------


@promise("U4")
async def test_a_key_is_asked_for_and_is_not_passed_on(web: Web) -> None:
    key = await web.key(scope=Scope.INVOKE)
    write = await web.key()
    function = await web.function(handler="echo $HTTP_X_API_KEY$HTTP_AUTHORIZATION")
    await web.url(function, write)
    assert (await web("GET", "/fn/f")).status_code == 401
    assert (await web("GET", "/fn/f", headers={"X-Api-Key": "wrong"})).status_code == 401
    assert (await web("GET", "/fn/f", headers=await web.key(scope=Scope.READ))).status_code == 403
    answer = await web("GET", "/fn/f", headers=key)
    assert answer.status_code == 200
    assert key["X-Api-Key"] not in answer.text
    assert answer.headers["x-invocation-id"]
    bearer = {"Authorization": f"Bearer {key['X-Api-Key']}"}
    answer = await web("GET", "/fn/f", headers=bearer)
    assert (answer.status_code, answer.text) == (200, "\n")


@promise("U3")
async def test_without_a_credential_nobody_learns_what_there_is(web: Web) -> None:
    """Whatever the path: a function with a key, with a webhook, without a URL, or none at all."""
    key = await web.key("acme")
    await web.key("default")
    await web.url(await web.function("keyed", tenant="acme"), key)
    await web.url(await web.function("hooked", tenant="acme"), key, **GITHUB)
    await web.function("bare", tenant="acme")
    told = set()
    paths = ["acme/keyed", "acme/hooked", "acme/bare", "acme/none", "acme", "nobody/keyed"]
    paths += ["keyed", "nobody", "", "acme/", "%2e%2e/api", "acme%2Fkeyed", "a/b/c/d"]
    for path in paths:
        answer = await web("POST", f"/fn/{path}", headers={"X-Request-Id": "same"})
        body = answer.json()
        told.add((answer.status_code, body["error_code"]))
        assert "x-invocation-id" not in answer.headers
    assert told == {(401, "UNAUTHORIZED")}


@promise("U3")
async def test_a_key_of_another_tenant_finds_nothing(web: Web) -> None:
    own, other = await web.key("acme"), await web.key("other", Scope.OPERATOR)
    await web.url(await web.function("f", tenant="acme"), own)
    there, missing = [
        await web("POST", path, headers={**other, "X-Request-Id": "same"})
        for path in ("/fn/acme/f", "/fn/acme/none")
    ]
    assert there.status_code == missing.status_code == 404
    assert there.content == missing.content
    assert (await web("POST", "/fn/acme/f", headers=own)).status_code == 200


@promise("U5")
async def test_who_can_sign_may_call(web: Web) -> None:
    await web.key("default")
    key = await web.key()
    function = await web.function(handler="echo $HTTP_X_HUB_SIGNATURE_256")
    await web.url(function, key, **GITHUB)
    body = b'{"zen": "Anything added dilutes everything else."}'
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    signed = {"X-Hub-Signature-256": f"sha256={digest}"}
    answer = await web("POST", "/fn/f", content=body, headers=signed)
    assert (answer.status_code, answer.text) == (200, f"sha256={digest}\n")
    calls = web.harness.sandboxes.calls
    for content, headers in ((body + b" ", signed), (body, {}), (body, key)):
        refused = await web("POST", "/fn/f", content=content, headers=headers)
        assert refused.status_code == 401
    for more in (("X-Hub-Signature-256", "x"), ("x_hub_signature_256", "x"),
                 ("Connection", "x-hub-signature-256")):  # fmt: skip
        refused = await web("POST", "/fn/f", content=body, headers=[*signed.items(), more])
        assert refused.status_code == 401, more
    assert web.harness.sandboxes.calls == calls, "the function was not called"
    assert (await refused_by(web, function, key))["signature"] == 6
    harmless = [*signed.items(), ("Connection", "x-other"), ("X_Other", "1")]
    assert (await web("POST", "/fn/f", content=body, headers=harmless)).status_code == 200


async def refused_by(web: Web, function: str, key: dict[str, str]) -> dict[str, int]:
    shown = await web("GET", f"/api/functions/{function}/url", headers=key)
    assert (shown.json()["last_refused_at"] is None) == (shown.json()["refused"] == {})
    return shown.json()["refused"]


def refused_calls(reason: str) -> float:
    name = "quiltfn_url_refused_calls_total"
    return sample_value(name, {"reason": reason})


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
    assert (await web("POST", "/fn/f", content=b"a", headers=good)).status_code == 200
    assert await refused_by(web, function, key) == {}
    for content, headers, status in (
        (b"b", good, 401),
        (b"a", {}, 401),
        (b"a", signed(now - 301, b"a"), 401),
        (b"a" * (8 << 20), good, 413),
    ):
        answer = await web("POST", "/fn/f", content=content, headers=headers)
        assert answer.status_code == status
    assert (await web("GET", "/fn/f", headers=signed(now, b""))).status_code == 405
    assert await refused_by(web, function, key) == {
        "signature": 2,
        "time": 1,
        "size": 1,
        "method": 1,
    }
    assert (refused_calls("signature"), refused_calls("time")) == (before[0] + 2, before[1] + 1)
    await web.url(function, key)
    assert (await web("POST", "/fn/f")).status_code == 401
    assert (await refused_by(web, function, key))["credential"] == 1


async def test_refusals_take_no_memory_for_what_does_not_exist_or_is_gone(web: Web) -> None:
    function, key = await web.function(), await web.key()
    urls = web.harness.services.urls
    for n in range(10):
        assert (await web("POST", f"/fn/missing-{n}")).status_code == 401
    assert (await web("POST", "/fn/f")).status_code == 401, "it has no URL"
    assert urls._refusals == {}
    await web.url(function, key)
    for _ in range(10):
        assert (await web("POST", "/fn/f")).status_code == 401
    assert await refused_by(web, function, key) == {"credential": 10}
    await web("DELETE", f"/api/functions/{function}/url", headers=key)
    assert urls._refusals == {}


async def test_a_call_that_failed_has_a_record_and_is_not_counted(web: Web) -> None:
    function = await web.function(handler="exit 1")
    await web.url(function, {}, auth="none")
    assert (await web("POST", "/fn/f")).status_code == 502
    assert await refused_by(web, function, {}) == {}


@promise("U17")
@pytest.mark.parametrize("stream", [True, False])
async def test_a_status_from_500_counts_as_an_error_of_success(web: Web, stream: bool) -> None:
    function = await web.function()
    await web.url(function, {}, auth="none", stream=stream)
    path = f"/api/functions/{function}"
    before = sample_value("quiltfn_http_errors_total")
    for status in (200, 404, 500, 503):
        answer = await web("POST", "/fn/f", content=f"Status: {status}\n\nhi".encode())
        assert answer.status_code == status
        record = await web.record(function, {})
        assert (record["status"], record["http_status"]) == ("success", status)
    listed = (await web("GET", f"/api/invocations?function_id={function}")).json()["invocations"]
    assert [one["http_status"] for one in listed] == [503, 500, 404, 200]
    assert (await web("GET", path)).json()["error_count"] == 2
    stored = (await web.harness.store.counters())[function]
    assert (stored.invocation_count, stored.error_count) == (4, 2), "as after a restart"
    series = (await web("GET", f"{path}/series")).json()
    assert sum(point["errors"] for point in series["points"]) == 2
    assert sum(point["statuses"]["success"] for point in series["points"]) == 4
    assert sample_value("quiltfn_http_errors_total") == before + 2
    # What the API calls has no HTTP response.
    assert (await web("POST", f"{path}/invoke")).json().get("http_status") is None


@promise("U16")
async def test_a_path_that_was_a_tenant_s_is_nobody_else_s(tmp_path: Path) -> None:
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        key = await web.key("default")
        await web.url(await web.function("acme", "echo $PATH_INFO"), key, auth="none")
        assert (await web("GET", "/fn/acme/hook")).text == "/hook\n", "there is no such tenant"
        acme = await web.key("acme")
        assert (await web("GET", "/fn/acme/hook")).status_code == 401
        function = await web.function("hook", "echo acme's", tenant="acme")
        await web.url(function, acme, auth="none")
        assert (await web("GET", "/fn/acme/hook")).text == "acme's\n"
        assert (await web("GET", "/fn/default/acme/hook")).text == "/hook\n"
        await web("DELETE", f"/api/functions/{function}/url", headers=acme)
        assert (await web("GET", "/fn/acme/hook")).status_code == 401, "without a URL"
        await web("DELETE", f"/api/functions/{function}", headers=acme)
        assert (await web("GET", "/fn/acme/hook")).status_code == 401, "without a function"


@promise("U16")
@pytest.mark.parametrize("had_url", [True, False])
async def test_tenants_without_keys_keep_their_paths(tmp_path: Path, had_url: bool) -> None:
    """As one whose callers have signed tokens."""
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        await web.url(await web.function("acme", "echo $PATH_INFO"), {}, auth="none")
        function = await web.function("hook", "echo acme's", tenant="acme")
        assert (await web("GET", "/fn/acme/hook")).status_code == 404, "the tenant has a function"
        entry = harness.catalog.by_id("acme", function)
        if had_url:
            await harness.services.urls.set(entry, FunctionUrl(auth=Auth.NONE))
            assert (await web("GET", "/fn/acme/hook")).text == "acme's\n"
        await harness.lifecycle.delete(entry)
    async with open_harness(tmp_path) as harness:
        answer = await Web(harness)("GET", "/fn/acme/hook")
        assert answer.status_code == (404 if had_url else 200)


@promise("U2")
async def test_any_method_and_any_bytes(web: Web) -> None:
    await web.url(await web.function(), {}, auth="none")
    body = bytes(range(256)) * 10
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND", "OPTIONS"):
        answer = await web(method, "/fn/f", content=body, headers={"content-type": "x/y"})
        assert (answer.status_code, answer.content) == (200, body)
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert (await web("TRACE", "/fn/f")).status_code == 405
    assert (await web("PUT", "/fn/f", content=b"x" * (6 * 2**20))).status_code == 200
    refused = await web("PUT", "/fn/f", content=b"x" * (6 * 2**20 + 1))
    assert (refused.status_code, "kind server" in refused.json()["hint"]) == (413, True)


async def test_other_methods_than_those_of_the_url_are_refused(web: Web) -> None:
    await web.url(await web.function(), {}, auth="none", methods=["GET"])
    assert (await web("GET", "/fn/f")).status_code == 200
    assert (await web("HEAD", "/fn/f")).status_code == 200
    refused = await web("POST", "/fn/f")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")


@promise("U13")
async def test_a_shell_answers_by_a_header_block(web: Web) -> None:
    await web.url(await web.function(), {}, auth="none")
    lines = [b"Status: 418", b"X-A: b", b"Connection: close", b"Content-Length: 1"]
    output = b"\n".join([*lines, b"X-Invocation-Id: mine", b"", b"teapot"])
    answer = await web("POST", "/fn/f", content=output)
    assert (answer.status_code, answer.content) == (418, b"teapot")
    assert answer.headers["x-a"] == "b"
    assert answer.headers["content-length"] == "6"
    for name in ("connection", "x-invocation-id"):
        assert name not in answer.headers
    assert answer.headers["content-security-policy"] == "sandbox allow-scripts allow-forms"


FAILURES = [
    ("exit 3", 502, "HANDLER_FAILED", "exited with code 3"),
    ("zz-4711", 502, "HANDLER_FAILED", "exited with code 127"),  # its log has that name
    ("oom", 502, "HANDLER_FAILED", "memory"),
    ("sleep 30", 504, "HANDLER_TIMEOUT", "deadline"),
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
        function = await web.function(name, handler, timeout_seconds=1)
        await web.url(function, key, auth=auth, stream=stream)
    told = await web("GET", "/fn/keyed", headers=key)
    assert told.status_code == status
    body = told.json()
    assert body["error_code"] == code
    assert why in body["error"]
    assert "zz-4711" not in told.text
    invocation_id = told.headers["x-invocation-id"]
    assert invocation_id in body["hint"]
    stranger = await web("GET", "/fn/open")
    assert stranger.status_code == status
    assert "x-invocation-id" not in stranger.headers
    assert why not in stranger.text
    assert stranger.json()["hint"] is None
    if status == 503:
        assert int(stranger.headers["retry-after"]) >= 1
    record = await web.record(web.harness.catalog.by_name("default", "open").function.id, key)
    assert record["invocation_id"] not in stranger.text
    assert handler != "zz-4711" or "zz-4711" in record["error_message"]


@promise("U9")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_bad_answer_is_502_and_its_record_says_why(web: Web, stream: bool) -> None:
    key = await web.key("default")
    function = await web.function()
    await web.url(function, key, stream=stream)
    answer = await web("POST", "/fn/f", content=b"Status: 99\n\nx", headers=key)
    assert answer.status_code == 502
    await asyncio.sleep(0.01)
    record = await web.record(function, key)
    assert record["invocation_id"] == answer.headers["x-invocation-id"]
    assert (record["status"], record["exit_code"]) == ("failed", 1)
    assert record["error_message"].startswith("the handler's answer cannot be sent: its status")
    assert record["stdout"] == "Status: 99\n\nx", "what it wrote is kept"


async def test_what_is_not_available_is_503_for_strangers(web: Web) -> None:
    key = await web.key("default")
    for name, auth in (("open", "none"), ("keyed", "key")):
        function = await web.function(name)
        await web.url(function, key, auth=auth)
        await web("POST", f"/api/functions/{function}/pause", headers=key)
    answer = await web("GET", "/fn/open")
    assert (answer.status_code, answer.json()["error_code"]) == (503, "CAPACITY_FULL")
    assert answer.headers["retry-after"] == "1"
    assert "paused" not in answer.text
    answer = await web("GET", "/fn/keyed", headers=key)
    assert (answer.status_code, answer.json()["error_code"]) == (409, "FUNCTION_NOT_ACTIVE")


async def test_long_answers_name_their_call(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    key = await web.key("default")
    function = await web.function()
    await web.url(function, key)
    body = b"x" * (LONG_OUTPUT_BYTES + 1)
    assert (await web("POST", "/fn/f", content=body, headers=key)).content == body
    monkeypatch.setattr(budgets, "RESPONSE_WAIT_S", 0.05)
    async with web.harness.services.budgets.responses.reserve(1 << 30, "another"):
        answer = await web("POST", "/fn/f", content=body, headers=key)
    assert (answer.status_code, answer.json()["error_code"]) == (503, "CAPACITY_FULL")
    record = await web.record(function, key)
    assert (record["invocation_id"], record["status"]) == (
        answer.headers["x-invocation-id"],
        "success",
    )


@promise("U8")
async def test_no_header_takes_the_place_of_a_variable(web: Web) -> None:
    own = {"HTTP_X_MODE": "safe"}
    await web.url(await web.function(handler="echo $HTTP_X_MODE", environment=own), {}, auth="none")
    await web.url(await web.function("g", handler="echo $HTTP_PROXY"), {}, auth="none")
    answer = await web("GET", "/fn/f", headers={"X-Mode": "evil"})
    assert answer.text == "safe\n"
    answer = await web("GET", "/fn/g", headers={"Proxy": "http://evil.example"})
    assert answer.text == "\n"


async def test_a_path_that_climbs_is_refused(web: Web) -> None:
    await web.url(await web.function(handler="echo $PATH_INFO"), {}, auth="none")
    for path in ("%2e%2e/x", "a/%2e%2e/%2e%2e/x", "..%2fx", "a%2fb", "%00"):
        answer = await web("GET", f"/fn/f/{path}")
        assert answer.status_code == 400, path
    assert (await web("GET", "/fn/f/a%20b/c")).text == "/a b/c\n"


async def test_calls_are_recorded_as_such_and_kept_and_replayed(web: Web) -> None:
    function = await web.function(handler="echo $REQUEST_METHOD")
    await web.url(function, {}, auth="none")
    base = f"/api/functions/{function}"
    await web("PUT", f"{base}/record-policy", json={"keep_input": "all"})
    await web("PATCH", "/fn/f", content=b"\xff\x00", headers={"X-A": "b"})
    record = await web.record(function, {})
    given = (await web("GET", f"{base}/invocations/{record['invocation_id']}/input")).json()
    assert given["source"] == "url"
    assert given["environment"]["HTTP_X_A"] == "b"
    assert given["payload"] == "\ufffd\x00"
    replayed = await web("POST", f"{base}/invocations/{record['invocation_id']}/replay")
    assert replayed.status_code == 200, replayed.text
    assert replayed.json()["stdout"] == "PATCH\n"


async def test_preflights_are_answered_without_the_function(web: Web) -> None:
    key = await web.key("default")
    await web.url(await web.function(), key, cors=CORS)
    asks = {"Origin": CORS["allow_origins"][0], "Access-Control-Request-Method": "PUT"}
    answer = await web("OPTIONS", "/fn/f", headers=asks)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == asks["Origin"]
    assert web.harness.sandboxes.calls == 0
    answer = await web("POST", "/fn/f", headers={**key, **asks}, content=b"x")
    assert answer.headers["access-control-allow-origin"] == asks["Origin"]
    other = await web("POST", "/fn/f", headers={**key, "Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers


@promise("U18")
async def test_a_page_without_an_origin_reads_its_own_url_if_open(tmp_path: Path) -> None:
    page = {"Origin": "null"}
    asks = {**page, "Access-Control-Request-Method": "PUT"}
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        key = await web.key("default")
        function = await web.function()
        for url, is_allowed in (
            ({"auth": "none"}, True),
            ({"auth": "none", "cors": CORS}, False),
            ({"auth": "key"}, False),
            (GITHUB, False),
        ):
            await web.url(function, key, **url)
            for method, headers in (("OPTIONS", asks), ("POST", page)):
                answer = await web(method, "/fn/f", headers={**headers, **key})
                told = answer.headers.get("access-control-allow-origin")
                assert told == ("null" if is_allowed else None), (url, method)
                assert "access-control-allow-credentials" not in answer.headers
        await web.url(function, key, auth="none")
        before = harness.sandboxes.calls
        evil = {**asks, "Origin": "https://evil.example"}
        assert (
            "access-control-allow-origin"
            not in (await web("OPTIONS", "/fn/f", headers=evil)).headers
        )
        assert harness.sandboxes.calls == before + 1, "the handler may answer it"


@promise("U18")
async def test_a_browser_is_sent_to_the_slash_behind_which_relative_links_are(web: Web) -> None:
    function = await web.function(handler="echo $PATH_INFO")
    await web.url(function, {}, auth="none")
    page = {"Accept": "text/html,*/*;q=0.8"}
    for path, to in (
        ("/fn/default/f", "./f/"),
        ("/fn/default/f?a=1&b", "./f/?a=1&b"),
        ("/fn/f", "./f/"),
        ("/fn/default/%66", "./%66/"),
    ):
        moved = await web("GET", path, headers=page)
        assert (moved.status_code, moved.headers["location"]) == (307, to)
    assert web.harness.sandboxes.calls == 0
    for method, path, headers in (
        ("GET", "/fn/default/f/", page),
        ("GET", "/fn/default/f", {}),
        ("GET", "/fn/default/f", {"Accept": "application/json"}),
        ("POST", "/fn/default/f", page),
    ):
        answer = await web(method, path, headers=headers)
        assert (answer.status_code, answer.text) == (200, "/\n"), (method, path)
    await web.url(function, {}, auth="none", methods=["POST"])
    assert (await web("GET", "/fn/default/f", headers=page)).status_code == 405
    await web.url(function, {})
    assert (await web("GET", "/fn/default/f", headers=page)).status_code == 200, "a key is needed"


async def test_without_keys_pages_of_other_origins_cannot_call_what_needs_one(web: Web) -> None:
    await web.url(await web.function(), {})
    assert (await web("POST", "/fn/f", content=b"x")).status_code == 200
    evil = {"Origin": "https://evil.example"}
    assert (await web("POST", "/fn/f", content=b"x", headers=evil)).status_code == 403
    await web.url(await web.function("g"), {}, auth="none")
    assert (await web("POST", "/fn/g", content=b"x", headers=evil)).status_code == 200


@promise("U13")
async def test_a_host_of_their_own_has_the_urls_and_nothing_else(tmp_path: Path) -> None:
    async with open_harness(tmp_path, settings={"url_host": "FN.example.com"}) as harness:
        web = Web(harness)
        key = await web.key("default")
        told = await web.url(await web.function(), key, auth="none")
        assert told["host"] == "fn.example.com"
        own = {"Host": "fn.EXAMPLE.com:8443"}
        answer = await web("POST", "/fn/f", content=b"x", headers=own)
        assert answer.status_code == 200
        assert "content-security-policy" not in answer.headers
        assert (await web("POST", "/fn/f", content=b"x")).status_code == 404
        for path in ("/api/functions", "/health", "/docs", "/openapi.json", "/metrics"):
            assert (await web("GET", path, headers={**own, **key})).status_code == 404
        assert (await web("GET", "/api/functions", headers=key)).status_code == 200


async def test_a_cloud_event_that_is_none_is_refused(web: Web) -> None:
    await web.url(await web.function(handler="echo $HTTP_CE_TYPE"), {}, auth="none")
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
    kind = {"content-type": "application/cloudevents+json"}
    answer = await web("POST", "/fn/f", content=json.dumps(event), headers=kind)
    assert answer.text == "t\n"
    for wrong in ({"id": ""}, {"datacontenttype": "a\0b"}, {"datacontenttype": "\u20ac"}):
        answer = await web("POST", "/fn/f", content=json.dumps(event | wrong), headers=kind)
        assert (answer.status_code, web.harness.sandboxes.calls) == (400, 1)


async def test_a_stream_is_what_the_handler_writes(web: Web) -> None:
    await web.url(await web.function(), {}, auth="none", stream=True)
    body = b"Status: 201\nContent-Type: x/y\n\n" + b"0123456789" * 50_000
    answer = await web("POST", "/fn/f", content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (201, "x/y")
    assert answer.content == b"0123456789" * 50_000
    assert (await web("POST", "/fn/f", content=b"")).content == b""
    assert (await web("POST", "/fn/f", content=b"plain\n")).content == b"plain\n"


async def test_calls_of_urls_count_in_the_limits_of_the_tenant(tmp_path: Path) -> None:
    async with open_harness(tmp_path, settings={"tenant_calls_in_flight": 1}) as harness:
        web = Web(harness)
        key = await web.key("default")
        await web.url(await web.function(handler="sleep 1"), key, auth="none")
        answers = await asyncio.gather(*(web("GET", "/fn/f") for _ in range(3)))
        assert sorted(one.status_code for one in answers) == [200, 429, 429]
        refused = next(one for one in answers if one.status_code == 429)
        assert refused.json()["error"] == "there were too many calls"
        assert refused.headers["retry-after"]
