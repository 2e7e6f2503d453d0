"""CGI/1.1: the variables of a shell, and how its output is parsed."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltfn.http_trigger import cgi, cloudevents
from quiltfn.http_trigger.answer import TEXT, BadAnswer
from quiltfn.http_trigger.call import HttpCall
from quiltfn.http_trigger.cgi import answer_of, block_of, variables_of
from quiltfn.model.errors import BadRequest
from quiltfn.model.version import VARIABLE

CALL = HttpCall(
    method="POST",
    prefix="/fn/acme/hello",
    path="/a/b%20c",
    query="x=1&y=%2F",
    headers={
        "host": "fn.example.com:8443",
        "content-type": "text/plain",
        "content-length": "999",
        "x-custom-thing": "yes",
        "proxy": "http://evil.example",
        "x_custom_thing": "shadow",
        "accept": "***",
    },
    body=b"hello",
    client="192.0.2.7",
    scheme="https",
    protocol="HTTP/1.1",
    tenant_id="acme",
    function_id="f",
    request_id="r",
    now=0.0,
)


def call(**changes: Any) -> HttpCall:
    return msgspec.structs.replace(CALL, **changes)


def test_the_variables_of_rfc_3875() -> None:
    variables = variables_of(CALL, ())
    assert variables.pop("SERVER_SOFTWARE").startswith("quiltfn/")
    assert variables == {
        "CONTENT_LENGTH": "5",
        "CONTENT_TYPE": "text/plain",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "HTTPS": "on",
        "HTTP_HOST": "fn.example.com:8443",
        "HTTP_X_CUSTOM_THING": "yes",
        "PATH_INFO": "/a/b c",
        "QUERY_STRING": "x=1&y=%2F",
        "REMOTE_ADDR": "192.0.2.7",
        "REQUEST_METHOD": "POST",
        "REQUEST_SCHEME": "https",
        "REQUEST_URI": "/fn/acme/hello/a/b%20c?x=1&y=%2F",
        "SCRIPT_NAME": "/fn/acme/hello",
        "SERVER_NAME": "fn.example.com",
        "SERVER_PORT": "8443",
        "SERVER_PROTOCOL": "HTTP/1.1",
    }
    variables = variables_of(call(body=b"", headers={"host": "h"}), ())
    assert not {"CONTENT_LENGTH", "CONTENT_TYPE"} & set(variables)
    assert (variables["SERVER_NAME"], variables["SERVER_PORT"]) == ("h", "443")
    headers = {"x-name": "Zoë".encode().decode("latin-1")}
    variables = variables_of(call(path="/%C3%A9/%FF", headers=headers), ())
    assert (variables["HTTP_X_NAME"], variables["PATH_INFO"]) == ("Zoë", "/é/\ufffd")
    # A header must not replace a variable of the function.
    headers = {"x-secret": "mine", "x-other": "1"}
    variables = variables_of(call(headers=headers), {"HTTP_X_SECRET", "PATH_INFO"})
    assert not {"HTTP_X_SECRET", "PATH_INFO"} & set(variables)
    assert variables["HTTP_X_OTHER"] == "1"


@given(st.dictionaries(st.from_regex(r"[!#$%&'*+.^_`|~0-9a-z-]{1,40}", fullmatch=True), st.text()))
def test_whatever_headers_come_the_names_are_those_of_cgi(headers: dict[str, str]) -> None:
    headers = {
        name: value.encode("utf-8", "replace").decode("latin-1") for name, value in headers.items()
    }
    for name in variables_of(call(headers=headers), ()):
        assert VARIABLE.fullmatch(name)
        known = variables_of(call(headers={}), ())
        assert name in known or name == "CONTENT_TYPE" or name.startswith("HTTP_")
        assert name != "HTTP_PROXY"


@pytest.mark.parametrize("path", ["/a%2fb", "/a%2Fb", "/%2e%2e%2F"])
def test_an_encoded_slash_is_refused(path: str) -> None:
    with pytest.raises(BadRequest):
        variables_of(call(path=path), ())


HEADS: list[tuple[bytes, int, list[tuple[str, str]], bytes]] = [
    (b"Content-Type: text/html\n\n<p>", 200, [("content-type", "text/html")], b"<p>"),
    (b"Content-Type: text/html\r\n\r\n<p>", 200, [("content-type", "text/html")], b"<p>"),
    (b"Status: 404 Not Found\n\nno", 404, [("content-type", TEXT)], b"no"),
    (b"Status: 201\nX-A:b\n\n", 201, [("x-a", "b"), ("content-type", TEXT)], b""),
    (b"Location: /there\n\n", 302, [("location", "/there"), ("content-type", TEXT)], b""),
    (b"status: 204\n\n", 204, [("content-type", TEXT)], b""),
    (b"Content-Type: a/b\n\n\n\nx\n", 200, [("content-type", "a/b")], b"\n\nx\n"),
    (b"Content-Type:\ta/b \n\n\x00\xff", 200, [("content-type", "a/b")], b"\x00\xff"),
    (
        b"Set-Cookie: a=1\nSet-Cookie: b=2\nContent-Type: a/b\n\n",
        200,
        [("set-cookie", "a=1"), ("set-cookie", "b=2"), ("content-type", "a/b")],
        b"",
    ),
]


@pytest.mark.parametrize(("output", "status", "headers", "body"), HEADS)
def test_a_header_block_is_split_off(
    output: bytes, status: int, headers: list[tuple[str, str]], body: bytes
) -> None:
    answer = answer_of(output)
    assert (answer.head.status, answer.head.headers, answer.body) == (status, headers, body)


@pytest.mark.parametrize(
    "output",
    [
        b"",
        b"hello\n",
        b"Note: this is no header\n\nblock\n",
        b"Content-Type: text/html\n<p>",
        b"Content-Type: text/html",
        b"\n\nContent-Type: text/html\n\n",
        b" Content-Type: text/html\n\n",
        b"Content Type: text/html\n\n",
        b"Content-Type : text/html\n\nx",
        b"Content-Type: a/b\n folded\n\n",
        b"\xff\xfe\n\n",
        b"Content-Type: " + b"x" * 40_000 + b"\n\nbody",
    ],
)
def test_anything_else_is_text(output: bytes) -> None:
    answer = answer_of(output)
    assert (answer.head.status, answer.body) == (200, output)
    assert answer.head.headers == [("content-type", TEXT)]


@pytest.mark.parametrize(
    "output",
    [
        b"Status: 99\n\n",
        b"Status: 101 Switching Protocols\n\n",
        b"Status: 700\n\n",
        b"Status: abc\n\n",
        b"Status: 2000\n\n",
        b"Status:\n\n",
        b"Status: 200\nStatus: 500\n\n",
        b"Content-Type: a\rX-Injected: b\n\n",
        b"Content-Type: a\x00b\n\n",
        b"Content-Type: a/b\n" + b"X-A: b\n" * 200 + b"\n",
    ],
)
def test_a_block_that_is_no_http_is_no_answer(output: bytes) -> None:
    with pytest.raises(BadAnswer):
        answer_of(output)


@given(st.binary(max_size=200))
def test_any_output_is_an_answer_or_refused(output: bytes) -> None:
    try:
        answer = answer_of(output)
    except BadAnswer:
        return
    assert output.endswith(answer.body)
    for name, value in answer.head.headers:
        assert not set("\r\n\0") & set(name + value)


@given(st.sampled_from([head[0] for head in HEADS]) | st.binary(max_size=80), st.data())
def test_an_early_decision_is_that_at_the_end_of_output(output: bytes, data: Any) -> None:
    size = data.draw(st.integers(0, len(output)))
    try:
        part = block_of(output[:size], is_whole=False)
        whole = block_of(output, is_whole=True)
    except BadAnswer:
        assert output not in [head[0] for head in HEADS]
        return
    assert part is None or part == whole


def test_no_more_fields_are_looked_at_than_an_answer_can_have() -> None:
    """Output that arrives in pieces is parsed from its beginning each time, so it must not have
    many fields.
    """
    fields = b"X-A: b\n" * 200
    begun = block_of(fields[:-1], is_whole=False)
    assert begun is not None
    assert begun.head is None
    with pytest.raises(BadAnswer):
        block_of(b"Content-Type: a/b\n" + fields[:-1], is_whole=False)
    assert block_of(b"X-A: b\n" * 50, is_whole=False) is None


def test_a_cloud_event_is_given_in_binary_mode() -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {"a": 1}}
    headers = {"content-type": "application/cloudevents+json"}
    body = msgspec.json.encode(event)
    given_ = cgi.from_event(call(headers=headers, body=body), cloudevents.decoded(body))
    variables = variables_of(given_, ())
    assert (variables["HTTP_CE_TYPE"], variables["HTTP_CE_ID"]) == ("t", "1")
    assert (variables["CONTENT_TYPE"], given_.body) == ("application/json", b'{"a":1}')
    binary = call(headers={"ce-specversion": "1.0"})
    assert cgi.from_event(binary, event) is binary
