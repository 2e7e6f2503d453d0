"""CloudEvents, with the official SDK as the peer."""

import base64
import json
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from cloudevents.core.bindings.http import (
    HTTPMessage,
    from_http_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from promises import promise
from quiltfn.http_trigger import cloudevents
from quiltfn.http_trigger.answer import BadAnswer
from quiltfn.http_trigger.cloudevents import ATTRIBUTES_MAX, ATTRIBUTES_MAX_CHARS
from quiltfn.http_trigger.event import answer_of
from quiltfn.model.errors import BadRequest

pytestmark = promise("U14")

ATTRIBUTES: dict[str, Any] = {
    "id": "A234-1234-1234",
    "source": "/mycontext",
    "type": "com.example.someevent",
    "specversion": "1.0",
    "subject": 'Ünïcode % "quoted"',
    "time": datetime(2018, 4, 5, 17, 31, tzinfo=UTC),
    "comexampleextension1": "value",
}
DATAS: list[tuple[str, Any]] = [
    ("application/json", {"message": "Hello", "n": [1, 2]}),
    ("text/plain", "plain text"),
    ("application/octet-stream", b"\x00\xff\x01"),
]
MODES = {"binary": to_binary_event, "structured": to_structured_event}


def of_sdk(kind: str, data: Any) -> CloudEvent:
    return CloudEvent(attributes=ATTRIBUTES | {"datacontenttype": kind}, data=data)


def data_of(event: cloudevents.Event) -> Any:
    return msgspec.json.decode(event["data"])


def is_event(event: dict[str, Any]) -> bool:
    return cloudevents.of_result(json.dumps(event, ensure_ascii=False).encode()) is not None


def lowered(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kind", "data"), DATAS)
def test_what_the_official_sdk_sends_is_read(mode: str, kind: str, data: Any) -> None:
    message = MODES[mode](of_sdk(kind, data))
    event = cloudevents.read(lowered(message.headers), message.body)
    assert event is not None
    for name in ("id", "source", "type", "specversion", "subject", "comexampleextension1"):
        assert event[name] == ATTRIBUTES[name]
    assert event["datacontenttype"] == kind
    got = base64.b64decode(event["data_base64"]) if "data_base64" in event else data_of(event)
    assert got == data


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kind", "data"), DATAS)
def test_the_official_sdk_reads_what_is_answered(mode: str, kind: str, data: Any) -> None:
    event = {**ATTRIBUTES, "time": "2018-04-05T17:31:00Z", "datacontenttype": kind}
    if isinstance(data, bytes):
        event["data_base64"] = base64.b64encode(data).decode()
    else:
        event["data"] = data
    answer = answer_of(json.dumps(event).encode(), is_binary_event=mode == "binary")
    assert answer.head.status == 200
    read = from_http_event(HTTPMessage(headers=dict(answer.head.headers), body=answer.body))
    attributes = read.get_attributes()
    for name, value in ATTRIBUTES.items():
        assert attributes[name] == value
    assert read.get_data() == data


RIGHT = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}


@pytest.mark.parametrize(
    "change",
    [
        *({name: None} for name in RIGHT),
        *({name: ""} for name in RIGHT),
        {"specversion": "0.3"},
        {"specversion": 1.0},
        {"Upper": "x"},
        {"with_underscore": "x"},
        {"nested": {"a": 1}},
        {"data": 1, "data_base64": "AA=="},
        {"data_base64": 5},
        {"datacontenttype": 5},
        *({"datacontenttype": f"text/plain{one}"} for one in ("\0", "\n", "\r", "\x7f", "\u20ac")),
        {f"a{number}": "" for number in range(ATTRIBUTES_MAX - len(RIGHT) + 1)},
        {"id": "\u20ac" * ATTRIBUTES_MAX_CHARS},
        {"datacontenttype": "x" * ATTRIBUTES_MAX_CHARS},
        dict.fromkeys(("a", "b"), "x" * (ATTRIBUTES_MAX_CHARS // 2)),
    ],
    ids=lambda change: str(change)[:40],
)
def test_what_is_no_event_is_refused(change: dict[str, Any]) -> None:
    event = RIGHT | change
    headers = {"content-type": "application/cloudevents+json"}
    with pytest.raises(BadRequest):
        cloudevents.read(headers, json.dumps(event).encode())
    assert not is_event(event)
    assert is_event(RIGHT)
    for body in (b"", b"[]", b"1", b"{", b"\xff", b"[" * 10_000):  # none of these is a JSON object
        with pytest.raises(BadRequest):
            cloudevents.read(headers, body)


def test_as_many_attributes_as_become_headers_are_taken() -> None:
    for more in (
        {f"a{number}": "" for number in range(ATTRIBUTES_MAX - len(RIGHT))},
        {"a": "\u20ac" * (ATTRIBUTES_MAX_CHARS - sum(map(len, RIGHT.values())))},
        {"data": "x" * (ATTRIBUTES_MAX_CHARS + 1)},
    ):
        assert is_event(RIGHT | more)


MANY = b"[" + b",".join([b"{}"] * 60_000) + b"]"
SLOW = b"[" + b",".join([b"1e308"] * 20_000) + b"]"


@pytest.mark.parametrize("data", [MANY, SLOW])
@pytest.mark.parametrize("mode", ["structured", "binary", "result"])
def test_no_value_is_made_of_data(data: bytes, mode: str) -> None:
    """Anybody may send an event with many values. To decode it would take 200 bytes or 40 µs for
    each value. Control: decoding and encoding the values.
    """
    structured = json.dumps(RIGHT).encode().removesuffix(b"}") + b', "data": ' + data + b"}"
    binary = {f"ce-{name}": value for name, value in RIGHT.items()}
    json_type = {"content-type": "application/json"}

    def pass_on() -> bytes:
        if mode == "result":
            return answer_of(structured).body
        headers, body = binary | json_type, data
        if mode == "structured":
            headers, body = {"content-type": cloudevents.STRUCTURED}, structured
        event = cloudevents.read(headers, body)
        assert event is not None
        assert cloudevents.body_of(event) == (data, "application/json")
        return msgspec.json.encode(event)

    def cost_of(work: Callable[[], bytes]) -> tuple[float, int]:
        began = time.process_time()
        assert data in work()
        took = time.process_time() - began
        tracemalloc.start()
        work()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return took, most

    took, most = cost_of(pass_on)
    took_made, most_made = cost_of(lambda: msgspec.json.encode(msgspec.json.decode(data)))
    assert most < 8 * len(data) + 100_000
    assert (took < took_made / 4) if data is SLOW else (most < most_made / 2)


@pytest.mark.parametrize(
    "attribute", [b"1" * 33, b"1" * 5000, b"1e999", b"[" * 16 + b"]" * 16, b"[" * 400 + b"]" * 400]
)
def test_attributes_are_short_words_or_texts(attribute: bytes) -> None:
    text = json.dumps(RIGHT).encode().removesuffix(b"}") + b', "a": %b}'
    headers = {"content-type": cloudevents.STRUCTURED}
    assert cloudevents.read(headers, text % b"-2147483648")
    with pytest.raises(BadRequest):
        cloudevents.read(headers, text % attribute)
    # The attributes' length is checked before they are decoded.
    many = json.dumps(RIGHT | {f"a{n}": 0 for n in range(100_000)}).encode()
    with pytest.raises(BadRequest, match="bytes"):
        cloudevents.read(headers, many)


def test_a_binary_request_has_all_attributes_and_is_none_without_its_version() -> None:
    headers = {f"ce-{name}": value for name, value in RIGHT.items()}
    assert cloudevents.read(headers, b"") == RIGHT
    for name in ("ce-id", "ce-source", "ce-type"):
        with pytest.raises(BadRequest):
            cloudevents.read({k: v for k, v in headers.items() if k != name}, b"")
    assert cloudevents.read({"content-type": "application/json"}, b"{}") is None
    assert cloudevents.read({"ce-id": "1"}, b"{}") is None


def test_an_answer_with_data_that_is_no_base64_is_refused() -> None:
    event = json.dumps(RIGHT | {"data_base64": "***"}).encode()
    with pytest.raises(BadAnswer):
        answer_of(event, is_binary_event=True)


@given(
    st.dictionaries(st.text(max_size=10), st.text(max_size=20), max_size=4),
    st.booleans(),
)
def test_no_attribute_breaks_out_of_its_header(more: dict[str, str], is_binary: bool) -> None:
    try:
        answer = answer_of(json.dumps(RIGHT | more).encode(), is_binary_event=is_binary)
    except BadAnswer:  # an attribute was called statusCode
        return
    for name, value in answer.head.headers:
        assert not set("\r\n\0") & set(name + value)
