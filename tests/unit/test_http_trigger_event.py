"""Events in API Gateway's payload format 2.0, and responses of Lambda function URLs."""

import base64
import json
import time
import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promises import promise
from quiltfn.http_trigger import event as module
from quiltfn.http_trigger.answer import (
    JSON,
    OCTETS,
    SANDBOX,
    TEXT,
    BadAnswer,
    Head,
    cookie_of,
    head_of,
    sent_headers,
)
from quiltfn.http_trigger.call import TOKENS_MAX, HttpCall, forwarded, passed_on
from quiltfn.http_trigger.event import PAIRS_MAX, answer_of, event_of
from quiltfn.http_trigger.prelude import PRELUDE_MAX_BYTES, Begin, begin_of, whole_of
from quiltfn.http_trigger.target import check_path, target_of
from quiltfn.model.access import TOKEN, TOKEN_HEAD_MAX, tokens_in
from quiltfn.model.errors import BadRequest, PayloadTooLarge
from quiltfn.model.invocation import PAYLOAD_MAX_BYTES
from timeouts import scaled

CALL = HttpCall(
    method="POST",
    prefix="/fn/acme/hello",
    path="/a/b%20c",
    query="x=1&x=2&empty=&y=%2F+z",
    headers={
        "host": "fn.example.com",
        "content-type": "application/json; charset=utf-8",
        "user-agent": "curl/8",
        "cookie": "a=1; b=2",
    },
    body=b'{"k":1}',
    client="192.0.2.7",
    scheme="http",
    protocol="HTTP/1.1",
    tenant_id="acme",
    function_id="f-1",
    request_id="r-1",
    now=1_583_348_638.390,
)


def event(**changes: Any) -> dict[str, Any]:
    made = event_of(msgspec.structs.replace(CALL, **changes))
    return json.loads(made)


def test_the_event_of_a_request() -> None:
    assert event() == {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/a/b%20c",
        "rawQueryString": "x=1&x=2&empty=&y=%2F+z",
        "cookies": ["a=1", "b=2"],
        "headers": {
            "host": "fn.example.com",
            "content-type": "application/json; charset=utf-8",
            "user-agent": "curl/8",
            "content-length": "7",
        },
        "queryStringParameters": {"x": "1,2", "empty": "", "y": "/ z"},
        "requestContext": {
            "accountId": "acme",
            "apiId": "f-1",
            "domainName": "fn.example.com",
            "domainPrefix": "fn",
            "http": {
                "method": "POST",
                "path": "/a/b%20c",
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.7",
                "userAgent": "curl/8",
            },
            "requestId": "r-1",
            "routeKey": "$default",
            "stage": "$default",
            "time": "04/Mar/2020:19:03:58 +0000",
            "timeEpoch": 1583348638390,
        },
        "body": '{"k":1}',
        "isBase64Encoded": False,
    }
    made = event(body=b"", query="", headers={})  # fields that the request lacks are left out
    assert not {"body", "cookies", "queryStringParameters"} & set(made)
    assert made["isBase64Encoded"] is False
    query = "&".join(f"a{number}=%41" for number in range(PAIRS_MAX + 1))
    made = event(query=query)
    assert len(made["queryStringParameters"]) == PAIRS_MAX
    assert made["rawQueryString"] == query


@pytest.mark.parametrize(
    ("kind", "body", "is_base64"),
    [
        ("text/plain", b"a", False),
        ("application/x-www-form-urlencoded", b"a=1", False),
        ("application/vnd.api+json", b"{}", False),
        ("text/plain", b"\xff", True),
        ("image/png", b"a", True),
        ("application/octet-stream", b"text", True),
        ("multipart/form-data; boundary=x", b"--x", True),
    ],
)
def test_a_body_that_is_no_text_is_base64(kind: str, body: bytes, is_base64: bool) -> None:
    made = event(body=body, headers={"content-type": kind})
    assert made["isBase64Encoded"] is is_base64
    assert (base64.b64decode(made["body"]) if is_base64 else made["body"].encode()) == body
    compressed = {"content-type": kind, "content-encoding": "gzip"}
    assert event(body=body, headers=compressed)["isBase64Encoded"]


def test_a_too_long_body_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    most = PAYLOAD_MAX_BYTES // 6
    with pytest.raises(PayloadTooLarge):
        event(body=bytes(most))  # the body would fit alone, but not beside the other fields
    assert len(event(body=b"\n" * 2 * most)["body"]) == 2 * most
    assert event(body=b"\xff" + bytes(2 * most))["isBase64Encoded"]
    monkeypatch.delattr(module, "_encode")
    monkeypatch.delattr(module, "base64")
    base64_most = PAYLOAD_MAX_BYTES // 4 * 3
    controls = (bytes(most + 1), bytes(PAYLOAD_MAX_BYTES), b"x" * most + bytes(most))
    for body in (*controls, b"\xff" * (base64_most + 2)):
        with pytest.raises(PayloadTooLarge):
            event(body=body)


@given(st.binary(max_size=100), st.text(st.characters(max_codepoint=255), max_size=40))
def test_any_body_of_any_type_arrives(body: bytes, kind: str) -> None:
    made = event(body=body, headers={"content-type": kind})
    text = made.get("body", "")
    assert (base64.b64decode(text) if made["isBase64Encoded"] else text.encode()) == body


# --- forwarded fields --------------------------------------------------------------------------


@promise("U4")
def test_a_credential_of_ours_is_not_passed_on() -> None:
    fields = [("authorization", "Bearer x"), ("x-api-key", "y"), ("x-other", "z")]
    assert passed_on(fields, is_ours=True) == {"x-other": "z"}
    assert passed_on(fields, is_ours=False) == dict(fields)
    leaked = [("authorization", "Bearer quilt_sk_0123456789ab_x"), ("x-api-key", "quilt_sk_x")]
    assert passed_on(leaked, is_ours=False) == {}
    elsewhere = [("x-token", "a quilt_sk_x"), ("cookie", "a=1; k=quilt_sk_x;b=2"), ("x-b", "1")]
    assert passed_on(elsewhere, is_ours=False) == {"cookie": "a=1;b=2", "x-b": "1"}


def token(number: int) -> str:
    return f"eyJhbGciOiJIUzI1NiJ9.{number:040}.{number:043}"


def test_so_many_signed_tokens_are_checked_and_no_more() -> None:
    checked: list[str] = []

    def is_token(text: str) -> bool:
        checked.append(text)
        return False

    fields = [(f"x-{number}", token(number)) for number in range(TOKENS_MAX)]
    twice = [*fields, ("x-again", token(0))]
    assert passed_on(twice, is_ours=False, is_token=is_token) == dict(twice)
    assert len(checked) == TOKENS_MAX
    with pytest.raises(BadRequest, match="signed tokens"):
        passed_on([*fields, ("x-more", token(99))], is_ours=False, is_token=is_token)
    assert passed_on([*fields, ("x-more", token(99))], is_ours=False), "none is known to anybody"


def test_the_headers_of_signed_tokens_that_are_checked_are_short() -> None:
    """Each header is parsed wherever a token may begin, so long headers would take long."""
    rest = token(0).partition(".")[2]
    found = list(tokens_in("eyJ" + "eyJhbGci" * 2000 + "." + rest))
    assert found
    assert max(len(text.partition(".")[0]) for text in found) <= TOKEN_HEAD_MAX
    for length in (TOKEN_HEAD_MAX, TOKEN_HEAD_MAX + 1):
        head = "eyJ" + "A" * (length - 3)
        assert (f"{head}.{rest}" in tokens_in(f"x={head}.{rest}")) is (length == TOKEN_HEAD_MAX)
        assert bool(TOKEN.fullmatch(f"{head}.{rest}")) is (length == TOKEN_HEAD_MAX)


@pytest.mark.parametrize("text", ["a." * 32_000, "eyJ" * 21_000, "eyJ." * 16_000, "-" * 64_000])
def test_tokens_are_found_in_time_that_grows_with_the_text_alone(text: str) -> None:
    began = time.process_time()
    assert not list(tokens_in(text))
    assert time.process_time() - began < scaled(0.5)


def test_fields_of_a_connection_are_not_passed_on_and_those_of_one_name_become_one() -> None:
    fields = [
        ("connection", "keep-alive, X-Secret-Hop"),
        ("x-secret-hop", "1"),
        ("transfer-encoding", "chunked"),
        ("content-length", "5"),
        ("upgrade", "websocket"),
        ("te", "trailers"),
        ("expect", "100-continue"),
        ("x-forwarded-prefix", "/evil"),
        ("host", "h"),
    ]
    assert passed_on(fields, is_ours=False) == {"host": "h"}
    fields = [("x-a", "1"), ("x-a", "2"), ("cookie", "a=1"), ("cookie", "b=2")]
    assert passed_on(fields, is_ours=False) == {"x-a": "1,2", "cookie": "a=1; b=2"}


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        # What a proxy says about the caller stays, whatever the caller's Connection header names.
        ([("connection", "X-Forwarded-For, Forwarded, X-Real-Ip, X-A"), ("x-forwarded-for", "c"),
          ("forwarded", "for=c"), ("x-real-ip", "c"), ("x-a", "1")],
         ["x-forwarded-for", "forwarded", "x-real-ip"]),
        # To CGI and WSGI, a name with underscores is the same variable as one with dashes.
        ([("x_forwarded_for", "evil"), ("x-real_ip", "evil"), ("ce_type", "evil")], []),
        ([("x-a", "1"), ("x_a", "2")], ["x-a"]),
        ([("connection", "x-b"), ("x-b", "1"), ("x_b", "2")], []),
        ([("x_a", "2"), ("x_c", "3")], ["x_a", "x_c"]),
    ],
)  # fmt: skip
def test_a_caller_changes_nothing_checked(fields: list[tuple[str, str]], kept: list[str]) -> None:
    assert list(passed_on(fields, is_ours=False)) == kept


def test_where_it_came_from_is_added() -> None:
    more = {"client": "192.0.2.1", "scheme": "http", "prefix": "/fn/a/b", "port": "8080"}
    assert forwarded({}, **more) == {
        "x-forwarded-for": "192.0.2.1",
        "x-forwarded-proto": "http",
        "x-forwarded-port": "8080",
        "x-forwarded-prefix": "/fn/a/b",
    }
    proxy = {"x-forwarded-for": "198.51.100.1", "x-forwarded-proto": "https"}
    headers = forwarded(proxy, **more)
    assert headers["x-forwarded-for"] == "198.51.100.1, 192.0.2.1"
    assert headers["x-forwarded-proto"] == "https"


# --- responses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "status", "kind", "body"),
    [
        (b"", 200, TEXT, b""),
        (b"hello", 200, TEXT, b"hello"),
        (b"\xff\xfe", 200, OCTETS, b"\xff\xfe"),
        (b'{"a": 1}', 200, JSON, b'{"a": 1}'),
        (b"[1]", 200, JSON, b"[1]"),
        (b"null", 200, JSON, b"null"),
        (b'"text"', 200, JSON, b'"text"'),
        (b'{"statusCode": 201}', 201, JSON, b""),
        (b'{"statusCode": "404", "body": "no"}', 404, JSON, b"no"),
        (b'{"statusCode": 200.0, "body": {"a": 1}}', 200, JSON, b'{"a": 1}'),
        (b'{"statusCode": 200, "body": "aGk=", "isBase64Encoded": true}', 200, OCTETS, b"hi"),
        (b'{"statusCode": 200, "headers": {"Content-Type": "a/b"}, "body": "x"}', 200, "a/b", b"x"),
        (b'{"statusCode": 200, "headers": null, "cookies": null, "body": null}', 200, JSON, b""),
    ],
)
def test_what_a_result_is_answered_as(result: bytes, status: int, kind: str, body: bytes) -> None:
    answer = answer_of(result)
    assert (answer.head.status, answer.body) == (status, body)
    assert answer.head.headers == [("content-type", kind)]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"statusCode": 99}, "status"),
        ({"statusCode": 101}, "status"),
        ({"statusCode": 600}, "status"),
        ({"statusCode": True}, "status"),
        ({"statusCode": None}, "status"),
        ({"statusCode": "2e2"}, "status"),
        ({"statusCode": 10**30}, "status"),
        ({"statusCode": 200, "headers": []}, "headers"),
        ({"statusCode": 200, "headers": {"a b": "c"}}, "name"),
        ({"statusCode": 200, "headers": {"a:": "c"}}, "name"),
        ({"statusCode": 200, "headers": {"": "c"}}, "name"),
        ({"statusCode": 200, "headers": {"a\r\nx-injected": "c"}}, "name"),
        ({"statusCode": 200, "headers": {"a": "b\r\nx-injected: c"}}, "control"),
        ({"statusCode": 200, "headers": {"a": "b\nSet-Cookie: c"}}, "control"),
        ({"statusCode": 200, "headers": {"a": "b\0"}}, "control"),
        ({"statusCode": 200, "headers": {"a": ["b"]}}, "string"),
        ({"statusCode": 200, "headers": {"a": True}}, "string"),
        ({"statusCode": 200, "headers": {"a": None}}, "string"),
        ({"statusCode": 200, "headers": {"a": "x" * 40_000}}, "bytes"),
        ({"statusCode": 200, "headers": {f"a{n}": "x" for n in range(101)}}, "101 headers"),
        ({"statusCode": 200, "headers": {f"a{n}": [] for n in range(101)}}, "101 headers"),
        ({"statusCode": 200, "cookies": [0] * 101}, "101 headers"),
        ({"statusCode": 200, "cookies": "a=1"}, "cookies"),
        ({"statusCode": 200, "cookies": [1]}, "cookies"),
        ({"statusCode": 200, "cookies": ["a=1\r\nx: y"]}, "control"),
        ({"statusCode": 200, "isBase64Encoded": "yes", "body": ""}, "isBase64Encoded"),
        ({"statusCode": 200, "isBase64Encoded": True, "body": "***"}, "base64"),
        ({"statusCode": 200, "isBase64Encoded": True, "body": "é"}, "base64"),
    ],
)
def test_what_is_no_answer_is_refused_with_its_reason(value: Any, why: str) -> None:
    with pytest.raises(BadAnswer, match=why):
        answer_of(json.dumps(value).encode())


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@promise("U6")
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "statusCode": JSON_VALUES | st.integers(100, 700),
            "headers": JSON_VALUES | st.dictionaries(st.text(max_size=12), st.text(max_size=12)),
            "cookies": JSON_VALUES | st.lists(st.text(max_size=12), max_size=3),
            "body": JSON_VALUES,
            "isBase64Encoded": st.booleans() | JSON_VALUES,
        },
    )
)
def test_no_result_brings_a_line_of_its_own_into_the_headers(value: Any) -> None:
    try:
        answer = answer_of(json.dumps(value).encode())
    except BadAnswer:
        return
    assert 200 <= answer.head.status <= 599
    for fields in (answer.head.headers, sent_headers(answer.head, "/fn/a/b", has_own_host=False)):
        for name, text in fields:
            assert not set("\r\n\0") & set(name + text)
            (name + text).encode("latin-1")


def test_text_beyond_ascii_is_sent_as_utf_8() -> None:
    head = head_of(200, [("X-Name", "Zoë 🎈")])
    assert head.headers[0][1].encode("latin-1").decode() == "Zoë 🎈"
    with pytest.raises(BadAnswer, match="surrogate"):
        head_of(200, [("x", "\ud800")])


def test_what_is_ours_to_say_is_dropped() -> None:
    fields = [
        (name, "x")
        for name in (
            *("Keep-Alive", "Transfer-Encoding", "Upgrade", "Trailer", "TE"),
            *("Content-Length", "Date", "Server", "X-Request-Id", "X-Invocation-Id"),
            *("X-Frame-Options", "X-Content-Type-Options", "Server-Timing"),
        )
    ]
    fields += [("Connection", "close, X-Hop"), ("X-Hop", "1"), ("X-Kept", "2")]
    for own_host in (True, False):
        sent = sent_headers(head_of(200, fields), "/fn/a/b", has_own_host=own_host)
        policy = [] if own_host else [("content-security-policy", SANDBOX)]
        assert sent == [("x-kept", "2"), *policy]


MANY = json.dumps([{}] * 60_000).encode()
NUMBERS = b"[" + b",".join([b"1" * 5000] * 30) + b"]"  # these numbers are longer than Python allows
SLOW = b"[" + b",".join([b"1e308"] * 20_000) + b"]"


@pytest.mark.parametrize(
    ("result", "kind", "body"),
    [
        (MANY, "application/json", MANY),
        (b'{"rows": ' + MANY + b"}", "application/json", b'{"rows": ' + MANY + b"}"),
        (b'{"statusCode": 200, "body": ' + MANY + b"}", "application/json", MANY),
        (b'{"statusCode": 200, "body": "x", "more": ' + MANY + b"}", "application/json", b"x"),
        (b'{"statusCode": 200, "body": null, "more": ' + MANY + b"}", "application/json", b""),
        (b'{"statusCode": 200, "body": ' + NUMBERS + b"}", "application/json", NUMBERS),
        (NUMBERS, "application/json", NUMBERS),
        (SLOW, "application/json", SLOW),
        (MANY + b"]", "text/plain; charset=utf-8", MANY + b"]"),
        (MANY + b"\xff", "application/octet-stream", MANY + b"\xff"),
    ],
    ids=range(10),
)
def test_long_results_are_answered_without_making(result: bytes, kind: str, body: bytes) -> None:
    tracemalloc.start()
    try:
        answer = answer_of(result)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (answer.head.status, answer.body) == (200, body)
    assert answer.head.headers == [("content-type", kind)]
    assert most < 3 * len(result) + 100_000, "made, they take 64 bytes each and more"


@pytest.mark.parametrize("value", [MANY, NUMBERS, SLOW, SLOW[:30_001] + b"1]"])
@pytest.mark.parametrize("name", ["headers", "cookies", "statusCode", "isBase64Encoded"])
def test_a_head_of_many_values_is_no_answer(name: str, value: bytes) -> None:
    result = b'{"statusCode": 200, "%b": %b}' % (name.encode(), value)
    began = time.process_time()
    with pytest.raises(BadAnswer):
        answer_of(result)
    assert time.process_time() - began < scaled(0.02)


def test_the_begin_of_a_stream_makes_no_values() -> None:
    """The beginning of a stream is parsed again with each piece that arrives, so this must be fast.
    Control: decoding the values.
    """
    line = b'{"x": ' + SLOW[:30_001] + b"1]}"
    began = time.process_time()
    assert begin_of(line + b"\n", is_shell=False) is None
    took = time.process_time() - began
    began = time.process_time()
    msgspec.json.decode(line)
    assert took < (time.process_time() - began) / 10


@promise("U6")
@pytest.mark.parametrize(
    "name",
    [
        *("X-Accel-Redirect", "x-accel-buffering", "X-Sendfile", "X-Sendfile2"),
        *("X-LIGHTTPD-send-file", "X-LIGHTTPD-send-tempfile", "X-Reproxy-URL", "X-Reproxy-File"),
    ],
)
@pytest.mark.parametrize("own_host", [True, False])
def test_a_handler_gives_no_orders_to_a_proxy(name: str, own_host: bool) -> None:
    """With such a header, a proxy would send one of its own files, or a response of another
    address.
    """
    head = head_of(200, [(name, "/internal"), ("X-Accelerated", "kept")])
    sent = sent_headers(head, "/fn/a/b", has_own_host=own_host)
    assert [one for one, _ in sent if one.startswith("x-")] == ["x-accelerated"]


OF_THE_HOST = {
    **dict.fromkeys(["Accept-CH", "Critical-CH", "Delegate-CH"], "Sec-CH-UA-Arch"),
    **dict.fromkeys(["Set-Login", "Activate-Storage-Access"], "logged-in"),
    "Use-As-Dictionary": 'match="/*"',
    "Secure-Session-Registration": '(ES256);path="/start"',
    "Strict-Transport-Security": "max-age=1",
    "Clear-Site-Data": '"*"',
    "Service-Worker-Allowed": "/",
    "Alt-Svc": 'h3=":443"',
    "NEL": "{}",
    "Report-To": "{}",
    "Origin-Agent-Cluster": "?1",
    "Speculation-Rules": '"/rules"',
    "A-Header-Of-The-Next-Browser": "1",
    "WWW-Authenticate": 'Bearer, Basic realm="everybody"',
}
OF_THE_RESPONSE = {
    "Cache-Control": "no-store",
    "Content-Disposition": "attachment",
    "ETag": '"1"',
    "Location": "there",
    "Link": "<2>; rel=next",
    "Retry-After": "1",
    "Access-Control-Allow-Origin": "*",
    "Ce-Type": "t",
    "Mcp-Session-Id": "1",
    "X-Anything": "1",
    "WWW-Authenticate": 'Bearer realm="api"',
}


@promise("U15")
def test_on_a_shared_host_only_what_holds_for_the_response_alone_is_sent() -> None:
    for fields, on_shared in ((OF_THE_HOST, {}), (OF_THE_RESPONSE, OF_THE_RESPONSE)):
        head = head_of(200, fields.items())
        everything = [(name.lower(), value) for name, value in fields.items()]
        assert sent_headers(head, "/fn/a/b", has_own_host=True) == everything
        kept = [(name.lower(), value) for name, value in on_shared.items()]
        policy = ("content-security-policy", SANDBOX)
        assert sent_headers(head, "/fn/a/b", has_own_host=False) == [*kept, policy]
    # The browser applies both this policy and the server's.
    own = ("content-security-policy", "sandbox allow-same-origin")
    assert sent_headers(head_of(200, [own]), "/fn/a/b", has_own_host=False) == [own, policy]


@pytest.mark.parametrize(
    ("cookie", "sent"),
    [
        ("a=1", "a=1; Path=/fn/t/n"),
        ("a=1; Path=/", "a=1; Path=/fn/t/n"),
        ("a=1; path=/sub; HttpOnly", "a=1; HttpOnly; Path=/fn/t/n/sub"),
        ("a=1; Path=/fn/t/n/sub", "a=1; Path=/fn/t/n/sub"),
        ("a=1; Path=/fn/t/n", "a=1; Path=/fn/t/n"),
        ("a=1; Path=/fn/t/name", "a=1; Path=/fn/t/n/fn/t/name"),
        ("a=1; Path=/api", "a=1; Path=/fn/t/n/api"),
        ("a=1; Path=api", "a=1; Path=/fn/t/n"),
        ("a=1; Path", "a=1; Path=/fn/t/n"),
        ("a=1; Domain=example.com; Secure", "a=1; Secure; Path=/fn/t/n"),
        ("a=1; DOMAIN =example.com", "a=1; Path=/fn/t/n"),
        ("a=1; Path=/x; Path=/", "a=1; Path=/fn/t/n"),
    ],
)
def test_a_cookie_is_for_its_function_alone(cookie: str, sent: str) -> None:
    assert cookie_of(cookie, "/fn/t/n") == sent
    head = head_of(200, [("Set-Cookie", cookie)])
    assert sent_headers(head, "/fn/t/n", has_own_host=True) == [("set-cookie", sent)]


@given(st.text(max_size=60))
def test_no_cookie_is_for_anybody_else(cookie: str) -> None:
    *_, path = cookie_of(cookie, "/fn/t/n").split("; ")
    assert path == "Path=/fn/t/n" or path.startswith("Path=/fn/t/n/")
    parts = [
        one.partition("=")[0].strip().lower() for one in cookie_of(cookie, "/fn/t/n").split(";")
    ]
    assert "domain" not in parts[1:]
    assert parts[1:].count("path") == 1


# --- the beginning of a stream -----------------------------------------------------------------


def test_a_stream_begins_with_an_object_and_the_end_of_a_line_or_eight_nuls() -> None:
    head = Head(201, [("x-a", "b"), ("content-type", OCTETS)])
    prelude = b'{"statusCode": 201, "headers": {"X-A": "b"}}'
    for end in (b"\n", b"\0" * 8):
        output = prelude + end + b"body"
        assert begin_of(output, is_shell=False) == Begin(head, len(prelude + end))
        assert begin_of(output[: len(prelude)], is_shell=False) is None
        assert whole_of(output, is_shell=False).body == b"body"
    pretty = json.dumps({"statusCode": 201, "headers": {"X-A": "b"}}, indent=2).encode()
    assert begin_of(pretty, is_shell=False) is None
    assert begin_of(pretty + b"\0" * 8, is_shell=False) == Begin(head, len(pretty) + 8)


def test_a_stream_without_a_begin_is_sent_as_it_comes() -> None:
    plain = Begin(Head(200, [("content-type", OCTETS)]), 0)
    assert begin_of(b"", is_shell=False) is None
    assert begin_of(b"a", is_shell=False) == plain
    assert begin_of(b"{" + b"x" * PRELUDE_MAX_BYTES, is_shell=False) == plain
    assert begin_of(b"hello", is_shell=True) is None, "it may be the name of a header"
    assert begin_of(b"hello\n", is_shell=True) == Begin(Head(200, [("content-type", TEXT)]), 0)
    ordinary = whole_of(b'{"statusCode": 404, "body": "no"}', is_shell=False)
    assert (ordinary.head.status, ordinary.body) == (404, b"no")
    with pytest.raises(BadAnswer, match="status"):
        begin_of(b'{"statusCode": 99}\nbody', is_shell=False)


# --- paths -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "first", "second"),
    [
        ("/fn/a", "a", None),
        ("/fn/a/", "a", ""),
        ("/fn/a/b", "a", "b"),
        ("/fn/a/b/c", "a", "b"),
        ("/fn/a%2Fb", "a/b", None),
        ("/fn/%61", "a", None),
        ("/fn/", "", None),
        ("/fn//a", "", "a"),
        ("/fn/../api/functions", "..", "api"),
    ],
)
def test_a_path_is_split_as_it_was_sent(path: str, first: str, second: str | None) -> None:
    target = target_of(path)
    assert target is not None
    assert (target.first, target.second) == (first, second)


def test_what_stays_of_a_path_is_the_function_s() -> None:
    target = target_of("/fn/acme/hello/a%2Fb//c/")
    assert target is not None
    assert (target.prefix(2), target.rest(2)) == ("/fn/acme/hello", "/a%2Fb//c/")
    assert (target.prefix(1), target.rest(1)) == ("/fn/acme", "/hello/a%2Fb//c/")


@pytest.mark.parametrize("path", ["/fn", "/fn%2Fa", "/%66n/a", "/FN/a", "//fn/a", "/api/fn/a", ""])
def test_what_is_not_below_fn_is_no_target(path: str) -> None:
    assert target_of(path) is None


CLIMBING = """
/.. /../x /a/../b /. /a/./b /%2e%2e/x /%2E%2e /.%2e/x /..%2fx /a%2f..%2fb /..%5cx /a\\..\\b /%00
/a%00b /a/.. /%2e
"""


@pytest.mark.parametrize("path", CLIMBING.split())
def test_a_path_that_climbs_is_refused(path: str) -> None:
    with pytest.raises(BadRequest):
        check_path(path)


@pytest.mark.parametrize(
    "path", ["/", "/a.b", "/a/..b", "/...", "/a%2fb", "/%252e%252e/", "/.well-known/x"]
)
def test_a_path_that_does_not_is_not(path: str) -> None:
    check_path(path)
