"""The request to a server in a sandbox for a call, and its response as output."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from promises import promise
from quiltfn.http_trigger import prelude, server
from quiltfn.http_trigger.event import event_of
from quiltfn.http_trigger.server import (
    BadRequestEvent,
    BadServerAnswer,
    ServerRequest,
    answer_head,
    request_of,
)
from quiltfn.model.json_size import COUNTED_FROM_BYTES
from unit.test_http_trigger_event import CALL

EVENT: dict[str, Any] = {
    "version": "2.0",
    "rawPath": "/",
    "requestContext": {"http": {"method": "GET"}},
}


def of(**changes: Any) -> ServerRequest:
    return request_of(json.dumps(EVENT | changes).encode(), "/events", {"x-invocation-id": "i"})


def lines(request: ServerRequest) -> list[str]:
    first, *rest, last, nothing = request.head.decode("latin-1").split("\r\n")
    assert (last, nothing) == ("", "")
    return [first, *sorted(rest)]


def test_a_request_is_the_one_that_its_event_was_made_of() -> None:
    headers = {"host": "h", "x-a": "b\xe9", "cookie": "a=1; b=2", "content-type": "x/y"}
    asked = replace(CALL, method="PUT", path="/a%20b", query="q=1&q=2", headers=headers, body=b"\0")
    made = event_of(asked)
    request = request_of(made, "/events", {"x-invocation-id": "i", "traceparent": "t"})
    assert (request.method, request.body, request.is_event) == ("PUT", b"\0", False)
    assert lines(request) == [
        "PUT /a%20b?q=1&q=2 HTTP/1.1",
        "content-length: 1",
        "content-type: x/y",
        "cookie: a=1; b=2",
        "host: h",
        "traceparent: t",
        "x-a: b\xe9",
        "x-invocation-id: i",
    ]
    # These characters are encoded.
    request = of(rawPath="/a b\r\nX: y?#", rawQueryString="q=\u00e9 \r\n#")
    assert lines(request)[0] == "GET /a%20b%0D%0AX:%20y%3F%23?q=%C3%A9%20%0D%0A%23 HTTP/1.1"


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (None, "application/octet-stream"),
        (b"", "application/octet-stream"),
        (b"text", "application/octet-stream"),
        (b"\xff", "application/octet-stream"),
        (b"[1", "application/octet-stream"),
        (b"[1]", "application/json"),
        (b'{"version":"1.0","rawPath":"/"}', "application/json"),
        (b'{"version":"2.0"}', "application/json"),
        (b'{"version":"2.0","rawPath":1,"requestContext":{"http":{"method":"GET"}}}', None),
    ],
)
def test_what_is_no_request_is_posted(payload: bytes | None, kind: str | None) -> None:
    request = request_of(payload, "/there?x", {})
    assert request.is_event
    assert not request.may_be_repeated
    assert request.body == (payload or b"")
    assert lines(request) == [
        "POST /there?x HTTP/1.1",
        f"content-length: {len(payload or b'')}",
        f"content-type: {kind or 'application/json'}",
        "host: localhost",
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("X_Invocation_Id", "x-invocation_id", "X-Invocation-Id", "X_Forwarded_For"),
        *("transfer_encoding", "Transfer-Encoding", "Content-Length", "Connection", "connection"),
        *("Upgrade", "Expect"),
    ],
)
def test_no_header_of_a_connection_or_of_ours_is_the_caller_s(name: str) -> None:
    forwarded = lines(of(headers={name: "9", "x_a": "1", "x-forwarded-for": "by us"}))
    assert forwarded == [
        "GET / HTTP/1.1",
        "host: localhost",
        "x-forwarded-for: by us",
        "x-invocation-id: i",
        "x_a: 1",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": {"a": "b\r\nc: d"}},
        {"headers": {"a": "b\nc"}},
        {"headers": {"a": "b\0"}},
        {"headers": {"a\r\nb": "c"}},
        {"headers": {"": "c"}},
        {"headers": {"a:b": "c"}},
        {"cookies": ["a=1\r\nx: y"]},
        {"rawPath": "no"},
        {"rawPath": "http://x/"},
        {"requestContext": {"http": {"method": "GET /"}}},
        {"requestContext": {"http": {"method": "CONNECT"}}},
        {"requestContext": {"http": {"method": ""}}},
        {"body": "!", "isBase64Encoded": True},
    ],
)
def test_what_would_be_another_request_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadRequestEvent):
        of(**changes)


def many(count: int) -> dict[str, str]:
    return {f"n{number}": "" for number in range(count)}


LONG = "x" * (1 << 21)
HEADERS, HEAD = "headers names more than 256", "its head has"
COOKIES, PATH = "cookies names more than 25000", "must be percent-encoded"


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        (HEADERS, {"headers": many(257)}),
        (HEADERS, {"headers": many(20_000)}),
        (HEADERS, {"headers": many(20_000), "body": LONG}),
        (COOKIES, {"cookies": [""] * 200_000}),
        (HEAD, {"headers": {"a": LONG}}),
        (HEAD, {"cookies": [LONG]}),
        (HEAD, {"cookies": ["a" * 1000] * 3000}),
        (HEAD, {"rawPath": "/" + LONG}),
        (HEAD, {"rawQueryString": LONG}),
        (PATH, {"rawPath": "/" + " " * 65_536}),
        (PATH, {"rawQueryString": "#" * 65_537}),
    ],
)
def test_a_head_that_takes_long_to_make_is_refused_before_it_is_made(
    why: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head is made for each attempt of each invocation, so this must not take long."""
    monkeypatch.delattr(server, "_request")
    if why != PATH and len(json.dumps(changes)) > COUNTED_FROM_BYTES:
        monkeypatch.delattr(server, "_decode_headers")
    with pytest.raises(BadRequestEvent, match=why):
        of(**changes)


def test_the_longest_head_of_a_url_is_sent() -> None:
    """The head is as long as `head_max_bytes` and 100 headers allow."""
    headers = {f"n{number}": '"' * 10_000 for number in range(99)} | {"cookie": "a;" * 8000}
    made = event_of(replace(CALL, headers=headers, query="%" * 16_000))
    request = request_of(made, "/events", {})
    assert not request.is_event
    assert request.head.count(b"\r\n") == 104


texts = st.text(max_size=30)


@given(texts, texts, st.dictionaries(texts, texts, max_size=3), st.lists(texts, max_size=2), texts)
def test_a_head_has_one_end_whatever_an_event_says(
    path: str, query: str, headers: dict[str, str], cookies: list[str], method: str
) -> None:
    changes = {"rawPath": path, "rawQueryString": query, "headers": headers, "cookies": cookies}
    changes["requestContext"] = {"http": {"method": method or "GET"}}
    try:
        payload = json.dumps(EVENT | changes).encode()
        request = request_of(payload, "/events", {})
    except BadRequestEvent:
        return
    if request.is_event:
        return
    head = request.head
    assert head.endswith(b"\r\n\r\n")
    assert head.count(b"\r\n\r\n") == 1
    assert head.count(b"\n") == head.count(b"\r") == head.count(b"\r\n")
    assert len(head.split(b"\r\n")[0].split(b" ")) == 3


def test_an_answer_is_read_back_as_a_streamed_one() -> None:
    fields = [(b"X-A", b"1"), (b"x-a", b"\xff"), (b"Set-Cookie", b"a=1"), (b"set-cookie", b"b=2")]
    head, text = answer_head(201, fields, "GET", "/tea?size=2")
    output = text + b"{body\0\0\0\0\0\0\0\0"
    answer = prelude.whole_of(output, is_shell=False)
    assert prelude.begin_of_server(head) == prelude.begin_of(output, is_shell=False)
    assert (answer.head.status, answer.body) == (201, b"{body\0\0\0\0\0\0\0\0")
    headers = dict(answer.head.headers)
    assert headers["x-a"].encode("latin-1").decode() == "1, \xff"
    cookies = [value for name, value in answer.head.headers if name == "set-cookie"]
    assert cookies == ["a=1", "b=2"]


@promise("A83")
@pytest.mark.parametrize(
    ("target", "path"),
    [("/tea?token=s3cret", "/tea"), ("/", "/"), (f"/{'x' * 2000}", f"/{'x' * 999}")],
)
def test_an_answer_names_its_request_and_no_query(target: str, path: str) -> None:
    text = answer_head(200, [], "GET", target)[1]
    head = json.loads(text.removesuffix(prelude.END))
    assert head["request"] == {"method": "GET", "path": path}


def test_a_head_that_just_fits_is_sent_without_its_request_and_a_longer_one_is_refused() -> None:
    """A longer head would not be found in the output."""
    fields = [(b"x", b"y" * (prelude.PRELUDE_MAX_BYTES - 70))]
    text = answer_head(200, fields, "GET", "/tea")[1]
    assert b'"request"' not in text
    assert len(text) <= prelude.PRELUDE_MAX_BYTES
    assert prelude.whole_of(text, is_shell=False).body == b""
    with pytest.raises(BadServerAnswer):
        answer_head(200, [(b"x", b"y" * prelude.PRELUDE_MAX_BYTES)], "GET", "/")
