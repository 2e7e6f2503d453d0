"""Builds the request that a web server in a sandbox gets for an invocation, and turns the head of
the response into output of the invocation.

Rule 1: a payload that is an event of API Gateway's payload format 2.0, such as `event.py` creates
for a request to a URL, becomes that request again; any other payload becomes a POST to a path that
the function's settings name.
Rule 2: no part of a payload can end a line or a request early.
Rule 3: a response is output in the format of Lambda's response streaming, so that all code for
streamed responses can read it. Its head is also passed on separately, so that it need not be
parsed.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from urllib.parse import quote

import msgspec

from quiltfn.http_trigger.answer import SET_COOKIE, wrong_field
from quiltfn.http_trigger.call import HOP_BY_HOP, SAID_AGAIN, Field
from quiltfn.http_trigger.prelude import END, PRELUDE_MAX_BYTES
from quiltfn.model.json_size import COUNTED_FROM_BYTES, is_costly
from quiltfn.model.output import AnswerHead

METHOD = re.compile(r"[A-Z]{1,32}")
VISIBLE = re.compile(r"[\x21-\x7e]*")
JSON, OCTETS = "application/json", "application/octet-stream"
# Methods of requests that have no further effect if repeated (RFC 9110, 9.2.2).
IDEMPOTENT = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"})
WITH_BODY = frozenset({"PATCH", "POST", "PUT"})
PATH_SHOWN_MAX = 1_000
# Limits of an event. A request to a URL has at most 100 headers, with at most the highest possible
# `head_max_bytes`; as JSON they may be twice as long.
HEADERS_MAX, COOKIES_MAX, HEAD_MAX_BYTES = 256, 25_000, 2 * 1024 * 1024
# For `is_costly`: a header counts as three strings (name, value, separator), a cookie as two.
VALUES_OF_HEADERS, VALUES_OF_COOKIES = 3 * HEADERS_MAX, 2 * COOKIES_MAX
# Python takes 60 ns for each byte that it may have to encode.
ENCODED_MAX_BYTES = 64 * 1024
OF_PROXIES = "x-forwarded-"
TOO_MANY_HEADERS = f"headers names more than {HEADERS_MAX}"
NOT_PASSED_ON = HOP_BY_HOP | (SAID_AGAIN - {"x-forwarded-prefix"})


class BadRequestEvent(Exception):
    """The event cannot be sent as an HTTP request; the message is a sentence that says why."""


class BadServerAnswer(Exception):
    """The response of a web server cannot be passed on; the message is a sentence that says why."""


class ServerRequest(msgspec.Struct, frozen=True):
    """A request to be sent. `is_event`: the invocation was not an HTTP request, so its result is
    only the body of the response.
    """

    head: bytes
    body: bytes
    method: str
    path: str
    is_event: bool

    @property
    def may_be_repeated(self) -> bool:
        return not self.is_event and self.method in IDEMPOTENT


class _Http(msgspec.Struct):
    method: str


class _Context(msgspec.Struct):
    http: _Http


class _Event(msgspec.Struct, tag_field="version", tag="2.0"):
    """The fields of an event that become the request; other fields repeat these."""

    rawPath: str
    requestContext: _Context
    rawQueryString: str = ""
    headers: msgspec.Raw = msgspec.Raw(b"{}")
    cookies: msgspec.Raw = msgspec.Raw(b"[]")
    body: str | None = None
    isBase64Encoded: bool = False


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_headers = msgspec.json.Decoder(dict[str, str]).decode
_decode_cookies = msgspec.json.Decoder(list[str]).decode
_encode = msgspec.json.Encoder().encode


def request_of(
    payload: bytes | None,
    event_path: str,
    about_call: Mapping[str, str],
    framing: str | None = None,
) -> ServerRequest:
    """The request of an invocation. `about_call`: headers that identify the invocation; an event
    cannot set them. `framing`: the header that frames the body, if the body is sent separately.
    Raises `BadRequestEvent`.
    """
    found = _event_of(payload)
    if found is None:
        kind = JSON if _is_json(payload) else OCTETS
        fields = [("host", "localhost"), ("content-type", kind), *about_call.items()]
        return _request("POST", event_path, fields, payload or b"", is_event=True)
    event, headers, cookies = found
    dropped = NOT_PASSED_ON | about_call.keys()
    fields = [
        (name, value)
        for name, value in [(name.lower(), value) for name, value in headers.items()]
        if name not in dropped and ("_" not in name or _is_passed_on(name, dropped))
    ]
    if cookies:
        fields.append(("cookie", "; ".join(cookies)))
    if "host" not in [name for name, _ in fields]:
        fields.append(("host", "localhost"))
    path = _target(event.rawPath, event.rawQueryString)
    method = event.requestContext.http.method
    fields += about_call.items()
    if framing is not None:
        return _request(method, path, fields, b"", is_event=False, framing=framing)
    return _request(method, path, fields, _body_of(event), is_event=False)


def framing_of(length: int | None) -> str:
    """The header that frames a body of `length` bytes; None: known only at its end."""
    return "transfer-encoding: chunked" if length is None else f"content-length: {length}"


def _is_passed_on(name: str, dropped: Set[str]) -> bool:
    """False for a name with underscores that a web server could confuse with a header that the
    platform sets: WSGI and CGI map both x-a and x_a to the same variable.
    """
    same = name.replace("_", "-")
    return same not in dropped and not same.startswith(OF_PROXIES)


def _event_of(payload: bytes | None) -> tuple[_Event, dict[str, str], list[str]] | None:
    """Parses a payload: the event, its headers and its cookies; None if it is not an event. Headers
    and cookies are counted before they are decoded, since a payload may have a million.
    """
    if not payload or not payload.startswith(b"{"):
        return None
    try:
        event = _decode_event(payload)
        if len(payload) > COUNTED_FROM_BYTES:
            _check_head(event)
        headers = _decode_headers(event.headers)
        cookies = _decode_cookies(event.cookies)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if len(headers) > HEADERS_MAX:
        raise BadRequestEvent(TOO_MANY_HEADERS)
    return event, headers, cookies


def _check_head(event: _Event) -> None:
    """Raises `BadRequestEvent` if the head of a long event is too large to be decoded."""
    headers, cookies = bytes(event.headers), bytes(event.cookies)
    size = len(headers) + len(cookies) + len(event.rawPath) + len(event.rawQueryString)
    if size > HEAD_MAX_BYTES:
        raise BadRequestEvent(f"its head has {size} bytes; at most {HEAD_MAX_BYTES} are sent")
    if is_costly(headers, VALUES_OF_HEADERS):
        raise BadRequestEvent(TOO_MANY_HEADERS)
    if is_costly(cookies, VALUES_OF_COOKIES):
        raise BadRequestEvent(f"cookies names more than {COOKIES_MAX}")


def _is_json(payload: bytes | None) -> bool:
    try:
        msgspec.json.decode(payload or b"", type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _body_of(event: _Event) -> bytes:
    if event.body is None:
        return b""
    if not event.isBase64Encoded:
        return event.body.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(event.body.encode(), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequestEvent("isBase64Encoded is true, and body is not base64") from None


def _target(path: str, query: str) -> str:
    """The target of the request. A path from a URL is already percent-encoded; unencoded characters
    in events of other programs are encoded here.
    """
    if not path.startswith("/"):
        raise BadRequestEvent("rawPath must begin with /")
    if not VISIBLE.fullmatch(path) or "?" in path or "#" in path:
        path = _encoded(path, "/%:@!$&'()*+,;=~")
    if not VISIBLE.fullmatch(query) or "#" in query:
        query = _encoded(query, "/%:@!$&'()*+,;=~?")
    return f"{path}?{query}" if query else path


def _encoded(text: str, safe: str) -> str:
    if len(text) > ENCODED_MAX_BYTES:
        raise BadRequestEvent(
            f"a path or query of more than {ENCODED_MAX_BYTES} characters must be percent-encoded"
        )
    return quote(text, safe=safe)


def _request(
    method: str,
    path: str,
    fields: Sequence[Field],
    body: bytes,
    *,
    is_event: bool,
    framing: str | None = None,
) -> ServerRequest:
    if not METHOD.fullmatch(method) or method == "CONNECT":
        raise BadRequestEvent(f"a request cannot have the method {method[:32]!a}")
    wrong = wrong_field(fields)
    if wrong is not None:
        raise BadRequestEvent(wrong)
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields])
    if framing is None and (body or method in WITH_BODY):
        framing = framing_of(len(body))
    end = "\r\n" if framing is None else f"{framing}\r\n\r\n"
    head = f"{method} {path} HTTP/1.1\r\n{lines}{end}"
    try:  # in an event of a URL, each character stands for one byte of the header
        encoded = head.encode("latin-1")
    except UnicodeEncodeError:
        encoded = head.encode("utf-8", "replace")
    return ServerRequest(encoded, body, method, path, is_event)


def answer_head(
    status: int, fields: Iterable[tuple[bytes, bytes]], method: str, target: str
) -> tuple[AnswerHead, bytes]:
    """The head of a response, and the output that precedes its body. For readers of logs, this
    output also names the request, without the query, which may have credentials. Raises
    `BadServerAnswer`.
    """
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("latin-1").lower(), _text_of(raw_value)
        if name == SET_COOKIE:
            cookies.append(value)
        elif name in headers:
            headers[name] += ", " + value
        else:
            headers[name] = value
    head = {"statusCode": status, "headers": headers, "cookies": cookies}
    request = {"method": method, "path": target.partition("?")[0][:PATH_SHOWN_MAX]}
    prelude = _encode({**head, "request": request}) + END
    if len(prelude) > PRELUDE_MAX_BYTES:  # without the request, since the response matters more
        prelude = _encode(head) + END
    if len(prelude) > PRELUDE_MAX_BYTES:
        raise BadServerAnswer(f"its headers have more than {PRELUDE_MAX_BYTES} bytes")
    return AnswerHead(status, headers, cookies, len(prelude)), prelude


def _text_of(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
