"""CloudEvents 1.0 over HTTP: events out of requests and into answers, in binary and in structured
mode (https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md).

An event is an object of the JSON format: attributes by name, and `data` or `data_base64`.
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
from quiltfn.model.json_size import costs, is_costly

VERSION = "1.0"
REQUIRED = ("specversion", "id", "source", "type")
STRUCTURED = "application/cloudevents+json"
MARK = "ce-"
# Attributes are named in small letters and digits (specification, "Naming Conventions").
NAME = re.compile("[a-z0-9]{1,64}")
# Printable ASCII but space, double quote and percent (HTTP binding, 3.1.3.2).
PLAIN = "".join(chr(one) for one in range(0x21, 0x7F) if chr(one) not in '"%')
# A media type is ASCII (RFC 2045, 5.1). As a header or a variable it can hold no control character.
MEDIA_TYPE = re.compile("[\\t -~]*")
# What anybody may send is made into values, up to so many.
VALUES_MAX = 50_000
# Attributes become headers, which are encoded character by character.
ATTRIBUTES_MAX, ATTRIBUTES_MAX_CHARS = 256, 32 * 1024
DATA = ("data", "data_base64")
OF_THE_BODY = (*DATA, "datacontenttype")

Event = dict[str, Any]


def is_structured(headers: Mapping[str, str]) -> bool:
    kind = headers.get("content-type", "").partition(";")[0]
    return kind.strip().lower() == STRUCTURED


def is_binary(headers: Mapping[str, str]) -> bool:
    return "ce-specversion" in headers and not is_structured(headers)


def read(headers: Mapping[str, str], body: bytes) -> Event | None:
    """The event that a request carries; None: it carries none. Raises `BadRequest`."""
    if is_structured(headers):
        if is_costly(body, VALUES_MAX):
            raise BadRequest(f"the CloudEvent holds {costs(VALUES_MAX)}")
        try:
            event = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BadRequest("the CloudEvent is no JSON") from None
        if not isinstance(event, dict):
            raise BadRequest("a CloudEvent is a JSON object")
        return _checked(event)
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


def _data_of(kind: str | None, body: bytes) -> Event:
    """A body as `data`, where it is JSON of not too many values or text, else as `data_base64`."""
    plain = (kind or "").partition(";")[0].strip().lower()
    try:
        is_json = plain == "application/json" or plain.endswith("+json")
        if is_json and not is_costly(body, VALUES_MAX):
            return {"data": msgspec.json.decode(body)}
        if plain.startswith("text/"):
            return {"data": body.decode()}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return {"data_base64": base64.b64encode(body).decode()}


def _checked(event: Event) -> Event:
    problem = problem_of(event)
    if problem is not None:
        raise BadRequest(f"the CloudEvent is not valid: {problem}")
    return event


def problem_of(event: Event) -> str | None:
    """Why this is no event; None: it is one."""
    if len(event) > ATTRIBUTES_MAX:
        return f"it has {len(event)} attributes; at most {ATTRIBUTES_MAX} are taken"
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
            return f"the attribute {name[:80]!a} must be named in small letters and digits"
        if name != "data" and not isinstance(value, str | int | bool | None):
            return f"{name} must be a text, a whole number, true or false"
    if "data" in event and "data_base64" in event:
        return "it has data and data_base64"
    kind = event.get("datacontenttype")
    if kind is not None and not (isinstance(kind, str) and MEDIA_TYPE.fullmatch(kind)):
        return "datacontenttype must be a media type"
    if not isinstance(event.get("data_base64", ""), str):
        return "data_base64 must be a text"
    return None


def is_event(value: Event) -> bool:
    """Whether a handler's result is an event."""
    return value.get("specversion") == VERSION and problem_of(value) is None


def message_of(event: Event, *, is_binary: bool) -> tuple[list[Field], bytes]:
    """The headers and the body that carry an event."""
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
    """The data of an event as bytes, and its type where the event names none."""
    if "data_base64" in event:
        try:
            return base64.b64decode(event["data_base64"], validate=True), "application/octet-stream"
        except (binascii.Error, ValueError):
            raise BadRequest("the CloudEvent's data_base64 is not base64") from None
    data = event.get("data")
    if data is None:
        return b"", "application/json"
    kind = (event.get("datacontenttype") or "application/json").partition(";")[0].strip()
    if isinstance(data, str) and not (kind == "application/json" or kind.endswith("+json")):
        return data.encode(), kind
    return msgspec.json.encode(data), "application/json"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
