"""CloudEvents 1.0 over HTTP: reads events from requests and writes them to responses, in binary and
in structured mode
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md).

An event is an object of the JSON format: attributes by name, and `data` or `data_base64`. `data` is
passed on without decoding, since a value such as `1e308` would take 200 bytes and 40 µs.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import msgspec

from quiltfn.http_trigger.call import Field
from quiltfn.model.errors import BadRequest

VERSION = "1.0"
REQUIRED = ("specversion", "id", "source", "type")
STRUCTURED = "application/cloudevents+json"
MARK = "ce-"
# Names of attributes have lowercase letters and digits (specification, "Naming Conventions").
NAME = re.compile("[a-z0-9]{1,64}")
# Printable ASCII except space, double quote and percent sign (HTTP binding, 3.1.3.2).
PLAIN = "".join(chr(one) for one in range(0x21, 0x7F) if chr(one) not in '"%')
# A media type is ASCII (RFC 2045, 5.1). Headers and variables cannot have control characters.
MEDIA_TYPE = re.compile("[\\t -~]*")
# Limits on attributes, which become headers that are encoded character by character. In JSON, a
# character may take several bytes.
ATTRIBUTES_MAX, ATTRIBUTES_MAX_CHARS, ATTRIBUTES_MAX_BYTES = 256, 32 * 1024, 256 * 1024
# The maximum length of decoded values other than texts: true, false, or a short number.
LONGEST_WORD = 32
DATA = ("data", "data_base64")
OF_THE_BODY = (*DATA, "datacontenttype")

Event = dict[str, Any]
NOTHING = msgspec.Raw()


class _Data(msgspec.Struct):
    """The members of an event that may be long."""

    data: msgspec.Raw = NOTHING
    data_base64: msgspec.Raw = NOTHING


_decode_data = msgspec.json.Decoder(_Data).decode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def is_structured(headers: Mapping[str, str]) -> bool:
    kind = headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == STRUCTURED


def is_binary(headers: Mapping[str, str]) -> bool:
    return "ce-specversion" in headers and not is_structured(headers)


def read(headers: Mapping[str, str], body: bytes) -> Event | None:
    """Returns the event in a request; None: the request has none. Raises `BadRequest`."""
    if is_structured(headers):
        return _checked(decoded(body))
    if not is_binary(headers):
        return None
    event = {
        name.removeprefix(MARK): unquote(value)
        for name, value in headers.items()
        if name.startswith(MARK)
    }
    kind = headers.get("content-type")
    if kind is not None:
        event["datacontenttype"] = kind
    if body:
        event |= _data_of(kind, body)
    return _checked(event)


def decoded(text: bytes) -> Event:
    """Decodes an event in the JSON format, without checking it. Raises `BadRequest`."""
    try:
        text.decode()  # also checks the encoding of the parts that are not decoded below
        data = _decode_data(text)
        size = len(text) - size_of(data.data) - size_of(data.data_base64)
        if size > ATTRIBUTES_MAX_BYTES:
            raise BadRequest(
                f"the CloudEvent's attributes have {size} bytes; at most {ATTRIBUTES_MAX_BYTES} "
                "are accepted"
            )
        event: Event = _decode_members(text)
        if len(event) > ATTRIBUTES_MAX:
            return event  # `problem_of` refuses it
        for name, value in event.items():
            if name != "data" and is_word(value):
                event[name] = msgspec.json.decode(value)
    except msgspec.ValidationError:
        raise BadRequest(
            "a CloudEvent must be a JSON object whose attributes are texts, whole numbers, true or "
            "false"
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("the CloudEvent is not valid JSON") from None
    return event


def _data_of(kind: str | None, body: bytes) -> Event:
    """Returns a body as `data` if it is JSON or text, and as `data_base64` otherwise."""
    plain = (kind or "").partition(";")[0].strip().lower()
    try:
        text = body.decode()
        if plain == "application/json" or plain.endswith("+json"):
            return {"data": msgspec.json.decode(body, type=msgspec.Raw)}
        if plain.startswith("text/"):
            return {"data": msgspec.Raw(msgspec.json.encode(text))}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return {"data_base64": base64.b64encode(body).decode()}


def _checked(event: Event) -> Event:
    problem = problem_of(event)
    if problem is not None:
        raise BadRequest(f"the CloudEvent is not valid: {problem}")
    return event


def problem_of(event: Event) -> str | None:
    """Returns why an event is invalid; None: it is valid."""
    if len(event) > ATTRIBUTES_MAX:
        return f"it has {len(event)} attributes; at most {ATTRIBUTES_MAX} are accepted"
    for name in REQUIRED:
        if not isinstance(event.get(name), str) or not event[name]:
            return f"{name} must be a text that is not empty"
    if event["specversion"] != VERSION:
        return f"specversion must be {VERSION}"
    texts = [one for name, one in event.items() if name not in DATA and isinstance(one, str)]
    if sum(map(len, texts)) > ATTRIBUTES_MAX_CHARS:
        return f"its attributes have more than {ATTRIBUTES_MAX_CHARS} characters"
    for name, value in event.items():
        if name not in OF_THE_BODY and not NAME.fullmatch(name):
            return f"the attribute {name[:80]!a} must be named in lowercase letters and digits"
        if name != "data" and not isinstance(value, str | int | bool | None):
            return f"{name} must be a text, a whole number, true or false"
    if "data" in event and "data_base64" in event:
        return "it has both data and data_base64"
    kind = event.get("datacontenttype")
    if kind is not None and not (isinstance(kind, str) and MEDIA_TYPE.fullmatch(kind)):
        return "datacontenttype must be a media type"
    if not isinstance(event.get("data_base64", ""), str):
        return "data_base64 must be a text"
    return None


def of_result(result: bytes) -> Event | None:
    """Returns the event in a handler's result, if the result is one."""
    try:
        event = decoded(result)
    except BadRequest:
        return None
    return event if problem_of(event) is None else None


def message_of(event: Event, *, is_binary: bool) -> tuple[list[Field], bytes]:
    """Returns headers and body of a message with the event."""
    if not is_binary:
        return [("content-type", f"{STRUCTURED}; charset=utf-8")], msgspec.json.encode(event)
    fields = [
        (MARK + name, quote(_text(value), safe=PLAIN))
        for name, value in event.items()
        if name not in OF_THE_BODY and value is not None
    ]
    body, default = body_of(event)
    kind = event.get("datacontenttype") or default
    return [*fields, ("content-type", kind)], body


def body_of(event: Event) -> tuple[bytes, str]:
    """Returns the data of an event as bytes, and the media type if the event has none."""
    if "data_base64" in event:
        try:
            return base64.b64decode(event["data_base64"], validate=True), "application/octet-stream"
        except (binascii.Error, ValueError):
            raise BadRequest("the CloudEvent's data_base64 is not base64") from None
    data = bytes(event.get("data", b"null"))
    if data == b"null":
        return b"", "application/json"
    kind = (event.get("datacontenttype") or "application/json").partition(";")[0].strip()
    if data.startswith(b'"') and not (kind == "application/json" or kind.endswith("+json")):
        return msgspec.json.decode(data, type=str).encode(), kind
    return data, "application/json"


def size_of(value: msgspec.Raw) -> int:
    """Bytes of an encoded value; 0: it is missing."""
    return memoryview(value).nbytes


def is_word(value: msgspec.Raw) -> bool:
    """Whether an encoded value is a text, or so short that decoding it costs little."""
    return size_of(value) <= LONGEST_WORD or bytes(memoryview(value)[:1]) == b'"'


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
