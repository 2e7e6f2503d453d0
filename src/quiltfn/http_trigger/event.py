"""Converts requests to events of API Gateway's payload format 2.0, and results to responses like
those of Lambda function URLs, so that adapters for those work unchanged.

https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html
https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads
"""

import base64
import binascii
import time
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from quiltfn.http_trigger import cloudevents
from quiltfn.http_trigger.answer import (
    HEADERS_MAX,
    HEADERS_MAX_BYTES,
    JSON,
    OCTETS,
    SET_COOKIE,
    TEXT,
    BadAnswer,
    HandlerAnswer,
    Head,
    head_of,
    too_many_headers,
)
from quiltfn.http_trigger.call import Field, HttpCall
from quiltfn.http_trigger.cloudevents import NOTHING, is_word, size_of
from quiltfn.model.errors import BadRequest, PayloadTooLarge
from quiltfn.model.invocation import PAYLOAD_MAX_BYTES

# Types whose bodies are text, besides text/*, *+json and *+xml.
TEXT_TYPES = frozenset(
    {
        "",
        "application/ecmascript",
        "application/graphql",
        "application/javascript",
        "application/json",
        "application/x-ndjson",
        "application/x-www-form-urlencoded",
        "application/xml",
        "application/yaml",
    }
)
PAIRS_MAX = 1000
# Characters that take six bytes in JSON; other control characters have short escapes.
CONTROLS = bytes(set(range(32)) - set(b"\b\t\n\f\r"))
# The limit on headers as JSON, which takes more bytes than the headers.
HEAD_MAX_BYTES = 2 * HEADERS_MAX_BYTES
_encode = msgspec.json.Encoder().encode


def event_of(call: HttpCall, cloud_event: cloudevents.Event | None = None) -> bytes:
    """The event, as JSON. `cloud_event`: the content of the request, if it is a CloudEvent. Raises
    `PayloadTooLarge`.
    """
    headers, host = dict(call.headers), call.host
    cookies = headers.pop("cookie", None)
    if call.body:
        headers["content-length"] = str(len(call.body))
    body, is_base64 = _body_of(call)
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": call.path,
        "rawQueryString": call.query,
        "headers": headers,
        "requestContext": {
            "accountId": call.tenant_id,
            "apiId": call.function_id,
            "domainName": host,
            "domainPrefix": host.partition(".")[0],
            "http": {
                "method": call.method,
                "path": call.path,
                "protocol": call.protocol,
                "sourceIp": call.client,
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": call.request_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": _time_of(int(call.now)),
            "timeEpoch": int(call.now * 1000),
        },
        "isBase64Encoded": is_base64,
    }
    if cookies:
        event["cookies"] = [one.strip() for one in cookies.split(";") if one.strip()]
    if call.query:
        event["queryStringParameters"] = _parameters_of(call.query)
    if body is not None:
        event["body"] = body
    if cloud_event is not None:
        event["cloudEvent"] = cloud_event
    payload = _encode(event)
    if len(payload) > PAYLOAD_MAX_BYTES:
        raise _too_long(len(payload))
    return payload


def _too_long(size: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the event that this request makes has {size} bytes or more; a handler takes "
        f"{PAYLOAD_MAX_BYTES}, and a body that is no text takes a third more"
    )


@lru_cache(maxsize=1)  # cached, since many requests come in the same second
def _time_of(second: int) -> str:
    return time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(second))


def _parameters_of(query: str) -> dict[str, str]:
    """Decodes the query; joins the values of a repeated name with commas. Parameters after the
    first thousand are only in `rawQueryString`.
    """
    found: dict[str, str] = {}
    first = "&".join(query.split("&", PAIRS_MAX)[:PAIRS_MAX])
    for name, value in parse_qsl(first, keep_blank_values=True):
        found[name] = f"{found[name]},{value}" if name in found else value
    return found


def _body_of(call: HttpCall) -> tuple[str | None, bool]:
    if not call.body:
        return None, False
    if is_text(call.headers.get("content-type", "")) and "content-encoding" not in call.headers:
        try:
            text = call.body.decode()
        except UnicodeDecodeError:
            pass
        else:
            size = len(call.body)
            if size > PAYLOAD_MAX_BYTES // 6:  # with escapes, it may be too long for an event
                size += 5 * (size - len(call.body.translate(None, CONTROLS)))
                if size > PAYLOAD_MAX_BYTES:
                    raise _too_long(size)
            return text, False
    size = 4 * len(call.body) // 3
    if size > PAYLOAD_MAX_BYTES:
        raise _too_long(size)
    return base64.b64encode(call.body).decode(), True


def is_text(content_type: str) -> bool:
    """Whether a body of this type is passed on as text if it is valid UTF-8."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in TEXT_TYPES or kind.startswith("text/") or kind.endswith(("+json", "+xml"))


def answer_of(result: bytes, *, is_binary_event: bool = False) -> HandlerAnswer:
    """Converts a handler's result to a response: an object with `statusCode`, a CloudEvent, any
    other JSON value, text, or bytes. `is_binary_event`: the request was a CloudEvent in binary
    mode, so a CloudEvent in the response uses that mode, too. Raises `BadAnswer`.
    """
    if not result:
        return HandlerAnswer(Head(200, [("content-type", TEXT)]), b"")
    try:
        outline = outline_of(result)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return HandlerAnswer(Head(200, [("content-type", _kind_of(result))]), result)
    if outline is not None and size_of(outline.statusCode):
        return _answer(outline)
    event = None
    if outline is not None and bytes(outline.specversion) == _encode(cloudevents.VERSION):
        event = cloudevents.of_result(result)
    if event is None:
        return HandlerAnswer(Head(200, [("content-type", JSON)]), result)
    try:
        fields, body = cloudevents.message_of(event, is_binary=is_binary_event)
    except BadRequest as error:
        raise BadAnswer(str(error)) from None
    return HandlerAnswer(head_of(200, fields), body)


class Outline(msgspec.Struct):
    """The fields of a result that control the response, still encoded; empty: missing. Values are
    not decoded, since decoding one may take 200 bytes and 40 µs (`1e308`).
    """

    statusCode: msgspec.Raw = NOTHING
    headers: msgspec.Raw = NOTHING
    cookies: msgspec.Raw = NOTHING
    isBase64Encoded: msgspec.Raw = NOTHING
    body: msgspec.Raw = NOTHING
    specversion: msgspec.Raw = NOTHING


_decode_outline = msgspec.json.Decoder(Outline).decode
_decode_headers = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode
_decode_cookies = msgspec.json.Decoder(list[msgspec.Raw] | None).decode


def outline_of(result: bytes) -> Outline | None:
    """The outline of a result; None: it is no JSON object. Raises as `msgspec.json.decode`."""
    result.decode()  # msgspec does not check skipped values
    try:
        return _decode_outline(result)
    except msgspec.ValidationError:
        msgspec.json.decode(result, type=msgspec.Raw)  # validates without decoding
        return None


def _kind_of(result: bytes) -> str:
    try:
        result.decode()
    except UnicodeDecodeError:
        return OCTETS
    return TEXT


def _answer(outline: Outline) -> HandlerAnswer:
    """The response for an object with `statusCode`. A body other than text is sent as the JSON that
    the handler wrote.
    """
    head = metadata_of(outline)
    encoding = bytes(outline.isBase64Encoded)
    if encoding not in (b"", b"null", b"true", b"false"):
        raise BadAnswer("isBase64Encoded must be true or false")
    body = bytes(outline.body)
    if body in (b"", b"null"):
        return HandlerAnswer(head.with_type(JSON), b"")
    if not body.startswith(b'"'):
        return HandlerAnswer(head.with_type(JSON), body)
    text = msgspec.json.decode(body, type=str).encode()
    if encoding != b"true":
        return HandlerAnswer(head.with_type(JSON), text)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadAnswer("isBase64Encoded is true, and body is not base64") from None
    return HandlerAnswer(head.with_type(OCTETS), data)


def metadata_of(outline: Outline) -> Head:
    """`statusCode`, `headers` and `cookies` of a result. Raises `BadAnswer`."""
    size = size_of(outline.headers) + size_of(outline.cookies)
    if size > HEAD_MAX_BYTES:
        raise BadAnswer(f"its headers have {size} bytes; at most {HEAD_MAX_BYTES} are read")
    try:
        headers = _decode_headers(bytes(outline.headers) or b"null") or {}
    except msgspec.DecodeError:
        raise BadAnswer("headers must be an object") from None
    try:
        cookies = _decode_cookies(bytes(outline.cookies) or b"null") or []
    except msgspec.DecodeError:
        raise BadAnswer("cookies must be a list of strings") from None
    if len(headers) + len(cookies) > HEADERS_MAX:
        raise too_many_headers(len(headers) + len(cookies))
    fields: list[Field] = []
    for name, raw in headers.items():
        text = _word_of(raw)
        if isinstance(text, bool) or not isinstance(text, str | int | float):
            raise BadAnswer(f"the header {name[:80]!a} must be a string")
        fields.append((name, str(text)))
    for raw in cookies:
        text = _word_of(raw)
        if not isinstance(text, str):
            raise BadAnswer("cookies must be a list of strings")
        fields.append((SET_COOKIE, text))
    return head_of(_word_of(outline.statusCode), fields)


def _word_of(raw: msgspec.Raw) -> object:
    """Decodes a text or a short scalar; None for any other value."""
    if not is_word(raw):
        return None
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:  # numbers such as 1e999
        return None
