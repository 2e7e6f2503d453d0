"""The contract: output can be read while it is written, and is stored exactly as it was shown."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from e2e.server import Server, until
from promises import promise
from quiltfn.sdk import Client, Output, Started
from spec.api_client import Api, is_error, new_name, of
from spec.live_events import Event, all_of, output, streaming
from timeouts import scaled

pytestmark = pytest.mark.sandbox

# This handler writes a line only after the one before was read.
IN_TURNS = """exec python3 -c '
import fcntl, os, termios, time
for number in 1, 2, 3:
    for fd, name in (1, "out"), (2, "err"):
        os.write(fd, f"{name}{number}\\n".encode())
        while any(fcntl.ioctl(fd, termios.FIONREAD, bytes(4))): time.sleep(0.001)
'"""
TURNS = [("stdout", b"out1\n"), ("stderr", b"err1\n"), ("stdout", b"out2\n")]
TURNS += [("stderr", b"err2\n"), ("stdout", b"out3\n"), ("stderr", b"err3\n")]
MIB = 1024 * 1024


@pytest.fixture
def api(open_server: Server) -> Iterator[Api]:
    api = Api(open_server.url)
    yield api
    api.clear()


def turns(found: list[Event]) -> list[tuple[str, bytes]]:
    pieces = [(one.name, one.bytes) for one in found if one.name in ("stdout", "stderr")]
    grouped = itertools.groupby(pieces, lambda piece: piece[0])
    return [(stream, b"".join(data for _, data in some)) for stream, some in grouped]


def logs(record: dict[str, str] | Event, query: str = "") -> str:
    found = record.data if isinstance(record, Event) else record
    return f"{of(found['function_id'])}/invocations/{found['invocation_id']}/logs{query}"


def invoke(function_id: str) -> str:
    return f"{of(function_id)}/invoke"


# Invocations whose caller watches ----------------------------------------------------------------


@promise("A36")
@pytest.mark.one_server("another node has a cold start of its own")
def test_a_call_is_seen_from_its_start_to_its_end(api: Api) -> None:
    function_id = api.active(IN_TURNS)
    with streaming(api, "POST", invoke(function_id), {"payload": None}) as (answer, coming):
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.headers["cache-control"] == "no-store"
        found = list(coming)
    first, last = found[0], found[-1]
    assert first.name == "started"
    assert first.data == {"invocation_id": answer.headers["x-invocation-id"], "cold_start": False}
    assert turns(found) == TURNS
    assert last.name == "end"
    assert last.data == api.good("GET", logs(last).removesuffix("/logs"))
    assert last.data["stdout"] == "out1\nout2\nout3\n"
    assert [one.name for one in found].count("end") == 1


def test_a_call_by_name_is_seen_as_well(api: Api) -> None:
    name = new_name()
    api.active("echo hello", name=name)
    found = all_of(api, "POST", f"/api/functions/invoke/{name}")
    assert [one.name for one in found] == ["started", "stdout", "end"]
    assert found[1].data == {"offset": 0, "text": "hello\n"}
    assert found[-1].data["status"] == "success"


@promise("A37")
def test_what_is_not_utf_8_is_base64_and_no_character_is_split(api: Api) -> None:
    function_id = api.active(
        r"printf 'caf\303'; sleep 0.05; printf '\251 '; sleep 0.05; printf '\377\376'"
    )
    found = all_of(api, "POST", invoke(function_id))
    assert output(found) == b"caf\xc3\xa9 \xff\xfe"
    texts = [one.data["text"] for one in found if "text" in one.data]
    assert "".join(texts) == "café "
    assert [one.data for one in found if "base64" in one.data] == [{"offset": 6, "base64": "//4="}]


@promise("A36")
def test_a_refusal_before_the_start_is_an_ordinary_one(api: Api) -> None:
    with streaming(api, "POST", invoke(api.create("echo hello"))) as (answer, _):
        is_error(answer, "FUNCTION_NOT_ACTIVE", 409)
    with streaming(api, "POST", invoke(new_name())) as (answer, _):
        is_error(answer, "NOT_FOUND", 404)
    with streaming(api, "POST", invoke(api.active()), {"timeout_seconds": 999}) as (answer, _):
        is_error(answer, "UNPROCESSABLE_ENTITY", 422)


@promise("A36")
def test_every_end_is_told(api: Api) -> None:
    for handler, status in (("echo no; exit 3", "failed"), ("echo so; sleep 9", "timeout")):
        limit = {"timeout_seconds": 1} if status == "timeout" else {}
        found = all_of(api, "POST", invoke(api.active(handler)), limit)
        assert found[-1].name == "end"
        assert found[-1].data["status"] == status
        assert output(found).decode() == found[-1].data["stdout"] != ""


@promise("A37")
def test_long_output_ends_with_what_was_dropped(api: Api) -> None:
    function_id = api.active(f"head -c {7 * MIB} /dev/zero | tr '\\0' x; echo e >&2")
    found = all_of(api, "POST", invoke(function_id))
    assert output(found) == b"x" * (6 * MIB)
    assert output(found, "stderr") == b"e\n"
    gap, end = found[-2:]
    assert (gap.name, end.name) == ("gap", "end")
    assert gap.data == {"stream": "stdout", "offset": 6 * MIB, "bytes": MIB}
    assert end.data["stdout"] == "x" * (6 * MIB)
    record = api.good("GET", logs(end).removesuffix("/logs"))
    assert end.data == record


@promise("A37")
def test_text_that_json_must_escape_is_whole_in_the_end(api: Api) -> None:
    text = r'"\\\t\303\251\377 "stderr":""'
    handler = f"i=0; while [ $i -lt 9000 ]; do printf '{text}'; i=$((i+1)); done"
    end = all_of(api, "POST", invoke(api.active(handler)))[-1]
    assert end.data == api.good("GET", logs(end).removesuffix("/logs"))
    assert len(end.data["stdout"]) > 100_000


# Callers that disconnect -------------------------------------------------------------------------


def leave(api: Api, function_id: str, *headers: str, first: bytes) -> None:
    """Starts an invocation, waits for its first output if that is streamed, and closes the
    connection.
    """
    to = urlsplit(str(api.http.base_url))
    with socket.create_connection((to.hostname, to.port)) as client:
        lines = [f"POST {invoke(function_id)} HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 0"]
        client.sendall("\r\n".join([*lines, *headers, "", ""]).encode())
        client.settimeout(scaled(10))
        got = b""
        while first not in got:
            got += client.recv(65536)


def only_record(api: Api, function_id: str) -> dict[str, str]:
    def final() -> dict[str, str] | None:
        found = api.good("GET", f"{of(function_id)}/invocations")["invocations"]
        return found[0] if found and found[0]["status"] != "running" else None

    return until(final)


SEEN = "Accept: text/event-stream"
CANCELS = "X-On-Disconnect: cancel"


@promise("A41")
@pytest.mark.parametrize("headers", [[SEEN], [SEEN, "X-On-Disconnect: continue"]])
def test_a_call_goes_on_when_its_reader_goes_away(api: Api, headers: list[str]) -> None:
    function_id = api.active("echo begun; sleep 0.5; echo done", max_instances=1)
    leave(api, function_id, *headers, first=b"begun")
    record = only_record(api, function_id)
    assert (record["status"], record["stdout"]) == ("success", "begun\ndone\n")
    assert api.invoke(function_id)["status"] == "success"


@promise("A41")
def test_a_call_is_cancelled_with_its_reader_where_that_is_asked_for(api: Api) -> None:
    function_id = api.active("echo begun; sleep 20; echo done", max_instances=1)
    began = time.monotonic()
    leave(api, function_id, SEEN, CANCELS, first=b"begun")
    record = only_record(api, function_id)
    assert (record["status"], record["stdout"]) == ("cancelled", "begun\n")
    assert record["error_message"] == "its caller went away"
    assert time.monotonic() - began < scaled(5)
    assert until(lambda: api.pool(function_id)["busy_count"] == 0)


@promise("A41")
def test_a_call_without_a_stream_is_cancelled_as_well(api: Api) -> None:
    function_id = api.active("sleep 20", max_instances=1)
    leave(api, function_id, CANCELS, first=b"")
    record = only_record(api, function_id)
    assert record["status"] == "cancelled"
    stays = api.active("sleep 0.3; echo done")
    leave(api, stays, first=b"")
    assert only_record(api, stays)["status"] == "success"


@promise("A41")
def test_a_call_waiting_for_an_instance_is_cancelled_at_once(open_server: Server, api: Api) -> None:
    function_id = api.active("sleep 60; echo done", max_instances=1)
    busy = threading.Thread(target=api.invoke, args=(function_id,))
    busy.start()
    until(lambda: open_server.named("sleep"))
    for headers in ([CANCELS], [SEEN, CANCELS]):
        leave(api, function_id, *headers, first=b"")
    path = f"{of(function_id)}/invocations"
    until(lambda: len(api.good("GET", path)["invocations"]) == 3)
    open_server.wake()
    busy.join()
    found = api.good("GET", path)["invocations"]
    assert sorted(one["status"] for one in found) == ["cancelled", "cancelled", "success"]
    assert all(one["started_at"] is None for one in found if one["status"] == "cancelled")


def test_an_unknown_wish_is_refused(api: Api) -> None:
    answer = api("POST", invoke(api.active()), headers={"x-on-disconnect": "stop"})
    assert is_error(answer, "UNPROCESSABLE_ENTITY", 422)["error"].startswith("X-On-Disconnect")


# The logs of an invocation -----------------------------------------------------------------------


@pytest.fixture
def ended(api: Api) -> tuple[Api, dict[str, str]]:
    """A client, and an invocation that has ended."""
    return api, api.invoke(api.active(IN_TURNS))


@promise("A38")
def test_both_streams_are_text_in_order_of_arrival(ended: tuple[Api, dict[str, str]]) -> None:
    api, record = ended
    answer = api("GET", logs(record))
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.content == b"".join(data for _, data in TURNS)
    assert api("GET", logs(record, "?stream=stderr")).text == "err1\nerr2\nerr3\n"
    assert api("GET", logs(record, "?tail=2")).text == "out3\nerr3\n"
    assert api("GET", logs(record, "?tail=0")).text == ""
    assert api("GET", logs(record, "?tail=99")).content == answer.content
    assert api("GET", logs(record, "?stream=stdout&tail=1")).text == "out3\n"
    assert api("GET", logs(record, "?offset=5-5")).text == "out2\nerr2\nout3\nerr3\n"
    assert api("GET", logs(record, "?stream=stdout&offset=10")).text == "out3\n"


def test_events_of_a_call_that_is_over_end_with_it(ended: tuple[Api, dict[str, str]]) -> None:
    api, record = ended
    found = all_of(api, "GET", logs(record))
    assert turns(found) == TURNS
    assert found[-1].name == "end"
    assert found[-1].data == record
    assert all(one.data["offset"] % 5 == 0 for one in found[:-1])
    is_error(api("GET", logs(record).replace(record["invocation_id"], "none")), "NOT_FOUND", 404)


@promise("A38")
def test_a_reader_returns_behind_the_last_event_it_had(ended: tuple[Api, dict[str, str]]) -> None:
    api, record = ended
    found = all_of(api, "GET", logs(record))
    for index, event in enumerate(found[:-1]):
        assert event.id is not None
        again = all_of(api, "GET", logs(record), last_event_id=event.id)
        assert turns(again) == turns(found[index + 1 :])
        assert again[-1].data == record
        assert turns(all_of(api, "GET", logs(record, f"?offset={event.id}"))) == turns(again)


@promise("A37")
def test_a_reader_ahead_of_the_record_or_of_an_earlier_attempt_hears_it(api: Api) -> None:
    """Event ids contain the attempt, except during the first attempt, since an offset is only valid
    in its own attempt.
    """
    function_id = api.active("echo hello; exit 1")
    policy = {"max_attempts": 2, "backoff_seconds": {"first": 0, "jitter": 0}}
    api.good("PUT", f"{of(function_id)}/async-policy", policy)
    accepted = api.good("POST", f"{invoke(function_id)}?mode=async", {}, 202)
    path = f"{of(function_id)}/invocations/{accepted['invocation_id']}?wait_seconds=60"
    record = api.good("GET", path)
    assert record["status"] == "failed"
    hello, gap = [("stdout", b"hello\n")], {"stream": "stdout", "offset": 6, "bytes": 14}
    for event_id, expected, gaps in (
        ("3-0", hello, []),
        ("20-0", hello, []),
        ("3-0-2", [("stdout", b"lo\n")], []),
        ("20-0-2", [], [gap]),
    ):
        found = all_of(api, "GET", logs(record), last_event_id=event_id)
        assert turns(found) == expected, event_id
        assert [one.data for one in found if one.name == "gap"] == gaps, event_id
        assert {one.id for one in found if one.name == "stdout"} <= {"6-0-2"}
        assert found[-1].name == "end"


@promise("A38", "P18")
def test_a_running_call_is_followed_by_any_number_of_readers(api: Api) -> None:
    function_id = api.active("for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done")
    with streaming(api, "POST", invoke(function_id)) as (answer, coming):
        next(coming)
        path = logs(
            {"function_id": function_id, "invocation_id": answer.headers["x-invocation-id"]}
        )
        found: list[list[Event]] = []
        readers = [
            threading.Thread(target=lambda: found.append(all_of(api, "GET", path)))
            for _ in range(10)
        ]
        for reader in readers:
            reader.start()
        # a request without `follow` returns the output so far
        assert api("GET", path).status_code == 200
        for reader in readers:
            reader.join()
        own = list(coming)
    assert output(own) == b"1\n2\n3\n4\n5\n6\n"
    assert [output(one) for one in found] == [output(own)] * 10
    assert all(one[-1].data == own[-1].data for one in found)


# The logs of a function --------------------------------------------------------------------------


@promise("A38")
def test_all_calls_of_a_function_are_followed(api: Api) -> None:
    function_id, other = api.active("echo $QUILT_PAYLOAD; echo e >&2"), api.active("echo other")
    with streaming(api, "GET", f"{of(function_id)}/logs?follow=true") as (answer, coming):
        assert answer.headers["content-type"] == "text/event-stream"
        records = [api.invoke(function_id, str(number)) for number in range(3)]
        api.invoke(other)
        found: dict[str, list[Event]] = {}
        while sum(one[-1].name == "end" for one in found.values()) < 3:
            event = next(coming)
            found.setdefault(event.data["invocation_id"], []).append(event)
    assert set(found) == {record["invocation_id"] for record in records}
    for record in records:
        seen = found[record["invocation_id"]]
        assert seen[0].name == "started"
        assert output(seen).decode() == record["stdout"]
        assert output(seen, "stderr") == b"e\n"
        assert seen[-1].data == record


# The client library ------------------------------------------------------------------------------


def test_a_closed_iterator_ends_its_call_if_that_is_wanted(open_server: Server, api: Api) -> None:
    function_id = api.active("echo begun; sleep 20")
    with Client(open_server.url) as client:
        coming = client.functions.stream(function_id, on_disconnect="cancel")
        assert isinstance(next(coming), Started)
        assert isinstance(next(coming), Output)
        coming.close()  # type: ignore[attr-defined]
    assert only_record(api, function_id)["status"] == "cancelled"
