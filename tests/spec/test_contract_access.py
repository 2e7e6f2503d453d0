"""The contract, "Base, auth, ids": addresses, credentials, scopes, request ids."""

import contextlib
import json
import re
import ssl
import time
from collections.abc import Callable

import httpx
import pytest

from e2e.server import Server, quiltfn, until
from promises import promise
from spec.api_client import (
    Api,
    TlsServer,
    certificate,
    files_below,
    is_error,
    make_key,
    new_address,
    new_name,
    of,
    token,
)
from spec.conftest import Keyed
from spec.live_events import streaming

pytestmark = [pytest.mark.sandbox, promise("A1")]
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
LIST = "/api/functions"


# Base addresses ------------------------------------------------------------------------------


def test_the_default_address_is_loopback_8080() -> None:
    help_text = quiltfn("serve", "--help").stdout
    assert re.search(r"--host VALUE.*\(default\s+127\.0\.0\.1\)", help_text, re.S)
    assert re.search(r"--port VALUE.*\(default\s+8080\)", help_text, re.S)


def test_times_are_unix_seconds_durations_milliseconds_and_ids_uuid7(tenant: Api) -> None:
    before = int(time.time())
    function_id = tenant.active()
    record = tenant.invoke(function_id)
    answer = tenant("GET", of(function_id))
    assert answer.headers["content-type"] == "application/json"
    for when in (answer.json()["created_at"], record["started_at"], record["ended_at"]):
        assert type(when) is int
        assert before <= when <= time.time() + 1
    assert type(record["duration_ms"]) is int
    versions = tenant.good("GET", f"{of(function_id)}/versions")["versions"]
    for made in (function_id, record["invocation_id"], versions[0]["id"]):
        assert UUID7.fullmatch(made)


# Credentials ---------------------------------------------------------------------------------


def with_headers(server: Server, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Api(server.url)("GET", LIST, headers=named)


def test_a_key_goes_into_either_header(keyed: Keyed) -> None:
    key = keyed.key(new_name(), "read")["key"]
    assert key.startswith("quilt_sk_")
    assert with_headers(keyed.server, X_Api_Key=key).status_code == 200
    assert with_headers(keyed.server, Authorization=f"Bearer {key}").status_code == 200
    assert with_headers(keyed.server, Authorization=f"bearer {key}").status_code == 200


def test_the_api_key_wins_over_the_bearer(keyed: Keyed) -> None:
    key, other = keyed.caller(new_name()), keyed.caller(new_name())
    mine = key.create()
    for bearer in (other.key, "rubbish"):
        answer = key("GET", of(mine), headers={"Authorization": f"Bearer {bearer}"})
        assert answer.status_code == 200
    wrong = with_headers(keyed.server, X_Api_Key="rubbish", Authorization=f"Bearer {key.key}")
    is_error(wrong, "UNAUTHORIZED", 401)


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key"])
def test_two_headers_of_one_name_are_refused(keyed: Keyed, name: str) -> None:
    key = keyed.key(new_name(), "read")["key"]
    value = f"Bearer {key}" if name == "Authorization" else key
    for headers in ([(name, value), (name, "x")], [(name, value), (name.lower(), value)]):
        answer = Api(keyed.server.url)("GET", LIST, headers=headers)
        is_error(answer, "UNAUTHORIZED", 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_an_expired_key_is_refused(keyed: Keyed) -> None:
    short = keyed.key(new_name(), "read", expires_seconds=1)
    assert short["expires_at"] == short["created_at"] + 1
    until(lambda: time.time() >= short["expires_at"], 3)
    is_error(with_headers(keyed.server, X_Api_Key=short["key"]), "UNAUTHORIZED", 401)


@promise("A6")
@pytest.mark.parametrize("by", ["http", "command"])
def test_a_revoked_key_is_refused_within_a_second(keyed: Keyed, by: str) -> None:
    key = keyed.key(new_name(), "read")
    assert with_headers(keyed.server, X_Api_Key=key["key"]).status_code == 200
    if by == "http":
        keyed.operator.good("DELETE", f"/api/keys/{key['id']}", status=204)
    else:
        done = quiltfn("keys", "revoke", key["id"], *keyed.server.key_options)
        assert done.code == 0, done.stderr
        until(lambda: with_headers(keyed.server, X_Api_Key=key["key"]).status_code != 200, 1)
    is_error(with_headers(keyed.server, X_Api_Key=key["key"]), "UNAUTHORIZED", 401)


@promise("A6")
def test_a_stream_ends_with_its_credential(keyed: Keyed) -> None:
    name = new_name()
    admin, key = keyed.caller(name), keyed.key(name, "read")
    function_id = admin.active("echo secret")
    short = token(keyed.secret, tenant=name, scope="read", exp=int(time.time()) + 3)
    readers = [Api(keyed.server.url, key["key"]), Api(keyed.server.url, short)]
    with contextlib.ExitStack() as stack:
        follow = [
            stack.enter_context(streaming(reader, "GET", f"{path}?follow=true"))[1]
            for reader in readers
            for path in (f"{of(function_id)}/logs", "/api/events")
        ]
        admin.good("POST", f"{of(function_id)}/invoke", {})
        for events in follow:  # the streams have the invocation while the token is valid
            next(events)
        keyed.operator.good("DELETE", f"/api/keys/{key['id']}", status=204)
        time.sleep(3.0)
        after = admin.good("POST", f"{of(function_id)}/invoke", {})["invocation_id"]
        for events in follow:  # the streams must end now
            for event in events:
                assert event.data.get("invocation_id") != after
    admin.clear()


@promise("A29")
@pytest.mark.one_server("each node counts failed credentials for itself")
def test_a_key_made_by_command_works_in_the_very_next_request(keyed: Keyed) -> None:
    for _ in range(5):
        key = make_key(keyed.server, "--tenant", new_name(), "--scope", "read")["key"]
        assert with_headers(keyed.server, X_Api_Key=key).status_code == 200
    # A valid key is accepted from an address with any number of failed credentials.
    address = new_address()
    api = Api(keyed.server.url, address=address)
    for number in range(25):
        wrong = f"quilt_sk_{number:012x}_{'x' * 43}"
        status = api("GET", LIST, headers={"X-Api-Key": wrong}).status_code
        assert status == (401 if number < 20 else 429)
    key = make_key(keyed.server, "--tenant", new_name(), "--scope", "read")["key"]
    assert api("GET", LIST, headers={"X-Api-Key": key}).status_code == 200


@promise("A6", "A29")
def test_the_first_key_ends_the_open_mode_within_a_second(another: Callable[..., Server]) -> None:
    server = another().start()
    anybody = Api(server.url)
    function_id = anybody.create()
    assert anybody.get(function_id)["tenant_id"] == "default"
    assert anybody("GET", "/api/audit").status_code == 200  # without keys, everybody has all scopes
    first = make_key(server)
    assert (first["scope"], first["tenant_id"]) == ("operator", "default")
    anybody.refused("UNAUTHORIZED", 401, "GET", LIST)
    assert Api(server.url, first["key"]).get(function_id)["id"] == function_id
    second = make_key(server)
    assert second["scope"] == "write"
    revoked = quiltfn("keys", "revoke", first["id"], "--data-dir", str(server.data_dir))
    assert revoked.code == 0
    revoked = quiltfn("keys", "revoke", second["id"], "--data-dir", str(server.data_dir))
    assert revoked.code == 0
    time.sleep(1.0)
    # The server stays closed after all keys were revoked.
    anybody.refused("UNAUTHORIZED", 401, "GET", LIST)


def test_cleartext_off_loopback_warns_and_shows_in_health(another: Callable[..., Server]) -> None:
    """The key was created before the server's first start, and is in no file of the server."""
    server = another("--host 0.0.0.0")
    key = make_key(server)["key"]
    server.start_without_waiting()
    line = server._first_line()
    address = line.removeprefix("listening on ").strip()
    assert server._first_line() == f"dashboard at {address}/ui/\n", "the line behind it"
    url = address.replace("0.0.0.0", "127.0.0.1")
    server.ids |= server.server_dirs()
    health = Api(url, key).good("GET", "/api/functions/health")
    assert health["transport"] == "cleartext"
    assert "are not encrypted" in server.log.read_text()
    Api(url).refused("UNAUTHORIZED", 401, "GET", LIST)
    assert Api(url, key).count() == 0
    assert key.encode() not in files_below(server.data_dir)
    assert key not in server.log.read_text()


def test_tls(another: Callable[..., Server]) -> None:
    server = another("--tls-cert ROOT/cert.pem --tls-key ROOT/key.pem", TlsServer)
    certificate(server.root)
    (server.root / "key.pem").chmod(0o600)
    server.start()
    trusted = ssl.create_default_context(cafile=str(server.root / "cert.pem"))
    api = Api(server.url, verify=trusted)
    assert api.good("GET", "/health") == {"status": "ok"}
    assert api.good("GET", "/api/functions/health")["transport"] == "tls"
    function_id = api.active()
    assert api.invoke(function_id)["stdout"] == "hello\n"
    plain = Api(server.url.replace("https", "http"))
    with pytest.raises(httpx.HTTPError):
        plain("GET", "/health")
    # The command line reports the same.
    authority = str(server.root / "cert.pem")
    there = quiltfn("health", "--url", server.url, "--cacert", authority)
    assert (there.code, there.stdout.splitlines()[0]) == (0, "ready"), there.stderr
    stranger = quiltfn("health", "--url", server.url)
    assert stranger.code == 1
    assert "is not trusted: self" in stranger.stderr
    unsafe = quiltfn("health", "--url", server.url.replace("https", "http"))
    assert unsafe.code == 3
    assert "use https://" in unsafe.stderr


# A server without keys -------------------------------------------------------------------------

NEIGHBOURS = {
    "host by name": ({"Host": "localhost"}, 200),
    "host by address and port": ({"Host": "127.0.0.1:1"}, 200),
    "own page": ({"Host": "localhost:8080", "Origin": "http://localhost:8080"}, 200),
    "own page by a browser": (
        {"Host": "[::1]:80", "Origin": "http://[::1]:80", "Sec-Fetch-Site": "same-origin"},
        200,
    ),
    "typed by a person": ({"Sec-Fetch-Site": "none"}, 200),
    "host of IPv6": ({"Host": "[::1]:8080"}, 200),
    "rebound name": ({"Host": "evil.test"}, 403),
    "name that begins well": ({"Host": "localhost.evil.test"}, 403),
    "name behind an at": ({"Host": "localhost@evil.test"}, 403),
    "page of another port": ({"Host": "localhost:80", "Origin": "http://localhost:3000"}, 403),
    "page of no port": ({"Host": "localhost:8080", "Origin": "http://localhost"}, 403),
    "page of another loopback name": (
        {"Host": "localhost:8080", "Origin": "http://127.0.0.1:8080"},
        403,
    ),
    "page that shares the site": ({"Sec-Fetch-Site": "same-site"}, 403),
    "page of another site": ({"Sec-Fetch-Site": "cross-site"}, 403),
    "foreign origin": ({"Origin": "https://evil.test"}, 403),
    "origin that is none": ({"Origin": "null"}, 403),
    "broken host": ({"Host": "[::1"}, 403),
}


@promise("A31")
@pytest.mark.parametrize(("headers", "status"), NEIGHBOURS.values(), ids=NEIGHBOURS.keys())
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_foreign_hosts_and_origins_are_refused(
    anybody: Api, headers: dict[str, str], status: int, method: str
) -> None:
    body = {"name": new_name(), "handler": "echo"} if method == "POST" else None
    answer = anybody(method, LIST, body, headers=headers)
    if status == 403:
        is_error(answer, "FORBIDDEN", 403)
        assert anybody.count() == 0
    else:
        assert answer.status_code == (201 if body else 200)


def test_of_two_origins_none_may_be_foreign_and_what_is_public_can_be_linked(anybody: Api) -> None:
    own = {"Host": "localhost:1"}
    origins = [("Origin", "http://localhost:1"), ("Origin", "http://localhost:2")]
    answer = anybody("GET", LIST, headers=[*own.items(), *origins])
    is_error(answer, "FORBIDDEN", 403)
    for path in ("/openapi.json", "/health"):
        answer = anybody("GET", path, headers={"Sec-Fetch-Site": "cross-site"})
        assert answer.status_code == 200


def test_a_server_with_keys_asks_no_page_where_it_is_from(keyed: Keyed) -> None:
    caller = keyed.caller(new_name(), "read")
    answer = caller("GET", LIST, headers={"Origin": "https://shop.test"})
    assert answer.status_code == 200, "a page has a key, or nothing"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_a_body_that_is_not_said_to_be_json_is_refused(anybody: Api, kind: str | None) -> None:
    body = json.dumps({"name": new_name(), "handler": "echo"}).encode()
    headers = {"Content-Type": kind} if kind else {}
    anybody.refused("UNSUPPORTED_MEDIA_TYPE", 415, "POST", LIST, content=body, headers=headers)
    assert anybody.count() == 0


# Headers for browsers --------------------------------------------------------------------------


@promise("A31")
def test_no_answer_can_be_framed_or_taken_for_something_else(anybody: Api) -> None:
    function_id = anybody.active()
    invoke = f"{of(function_id)}/invoke"
    for method, path, more in (
        ("GET", "/docs", {}),
        ("GET", "/openapi.json", {}),
        ("GET", "/nowhere", {}),
        ("GET", f"{LIST}/help?format=markdown", {}),
        ("POST", invoke, {}),
        ("POST", invoke, {"headers": {"Idempotency-Key": new_name()}}),
        ("DELETE", of(function_id), {}),
        ("DELETE", of(function_id), {}),
    ):
        headers = anybody(method, path, **more).headers
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["x-frame-options"] == "DENY", path
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path


# Request ids -----------------------------------------------------------------------------------


def test_a_valid_request_id_is_echoed_and_another_is_replaced(anybody: Api) -> None:
    for given in ("mine-17.a_B", None, "", "two words", "x" * 129, "a/b", "Ünicode"):
        headers = {} if given is None else {"X-Request-Id": given.encode("latin-1")}
        found = anybody("GET", f"{LIST}/no", headers=headers).headers["x-request-id"]
        assert found == given == "mine-17.a_B" or UUID7.fullmatch(found), given
