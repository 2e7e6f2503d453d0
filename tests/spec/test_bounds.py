"""Bounds on what callers can make the server hold: it must respond even if they try."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from e2e.server import Server, until, watched
from promises import promise
from spec.api_client import (
    Api,
    TlsServer,
    Wire,
    certificate,
    is_error,
    make_key,
    new_name,
    peak_kib,
    request,
    rss_kib,
    statuses,
)
from timeouts import scaled

MIB = 1024 * 1024
OPEN: list[Wire] = []


def serving(options: str) -> Callable[[], Iterator[Server]]:
    """Makes a fixture for a server with these options, which the tests of the module share."""

    def serve() -> Iterator[Server]:
        with watched(options) as server:
            yield server.start()

    return pytest.fixture(scope="module")(serve)


plain = serving("")
impatient = serving("--head-timeout-s 3 --body-timeout-s 3 --keep-alive-s 2 --write-timeout-s 2")
crowded = serving("--connections-max 50 --queue-wait-s 30")
little_room = serving("--bodies-max-bytes 8388608")
small_pages = serving("--page-max-bytes 1048576")


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """Closes every connection of a test at the end of the test."""
    yield
    while OPEN:
        OPEN.pop().close()


def connect(url: str, timeout_s: float = 5.0) -> Wire:
    OPEN.append(Wire(url, timeout_s))
    return OPEN[-1]


def seconds_until_closed(wire: Wire, byte: bytes, every_s: float, most_s: float) -> float:
    """The time after which the server closes a connection on which a byte is sent now and then."""
    start = time.monotonic()
    wire.socket.setblocking(False)
    while time.monotonic() - start < most_s:
        time.sleep(every_s)
        try:
            wire.socket.sendall(byte)
            while wire.socket.recv(65536):
                pass
        except BlockingIOError:
            continue
        except OSError:
            pass
        return time.monotonic() - start
    return most_s


JSON = {"Content-Type": "application/json", "Content-Length": "1000000"}
TRICKLED = {
    "400, its time is over": ("POST", "/api/functions", JSON, 400),
    "404": ("POST", "/api/nothing", JSON, 404),
    "400, no function": ("POST", "/api/functions/x/deploy", JSON, 400),
    "405": ("PATCH", "/api/functions", JSON, 405),
    "200, HEAD": ("HEAD", "/api/functions", JSON, 200),
    "204, OPTIONS": ("OPTIONS", "/api/functions", JSON, 204),
    "403": ("GET", "/api/functions", JSON | {"Origin": "http://evil.example"}, 403),
    "413": ("POST", "/api/functions", JSON | {"Content-Length": "999999999"}, 413),
    "415": ("POST", "/api/runtimes/images", JSON, 415),
    "200": ("GET", "/health", JSON, 200),
    "200, in chunks": ("GET", "/health", {"Transfer-Encoding": "chunked"}, 200),
}


@promise("A19")
def test_a_body_that_trickles_on_behind_its_answer_ends_the_connection(impatient: Server) -> None:
    def trickles(case: str) -> float:
        method, path, headers, status = TRICKLED[case]
        wire = connect(impatient.url)
        begin = b"1" if "Transfer-Encoding" not in headers else b"ffff\r\n1"
        wire.send(request(method, path, headers, begin))
        answered = wire.receive(scaled(5))
        assert statuses(answered) == [status], case
        return seconds_until_closed(wire, b"1", 0.2, scaled(14))

    with ThreadPoolExecutor(len(TRICKLED)) as pool:
        took = dict(zip(TRICKLED, pool.map(trickles, TRICKLED), strict=True))
    # The server allows five seconds for the rest; the body's own three seconds are over by then.
    assert max(took.values()) < scaled(10), took


@promise("A19")
def test_empty_lines_do_not_keep_a_connection(impatient: Server) -> None:
    wire = connect(impatient.url)
    wire.send(request("GET", "/health"))
    assert statuses(wire.receive()) == [200]
    assert seconds_until_closed(wire, b"\r\n", 0.2, scaled(12)) < scaled(6)


def test_the_rest_of_a_body_may_follow_its_answer(impatient: Server) -> None:
    """A client that sends the rest of its body a moment later must get the response, and may reuse
    the connection.
    """
    wire = connect(impatient.url)
    wire.send(request("POST", "/api/nothing", {"Content-Length": "100000"}, b"x" * 10))
    assert statuses(wire.receive(scaled(1))) == [404]
    wire.send(b"x" * 99_990 + request("GET", "/health"))
    assert statuses(wire.receive()) == [200]


@promise("A19")
def test_requests_ahead_of_their_turn_are_bounded(open_server: Server) -> None:
    function = open_server.deploy("sleep 1")
    try:
        wire = connect(open_server.url)
        call = request("POST", f"{function.path}/invoke")
        wire.send(call + request("GET", "/health") * 5000)
        found = statuses(wire.receive(scaled(6)))
        # The running invocation, and the sixteen that may wait behind it on the connection.
        assert found == [200] * 17
        wire = connect(open_server.url)
        large = request("POST", "/api/functions", {"Content-Length": "100000"}, b"x" * 100_000)
        wire.send(call + request("GET", "/health") + large)
        assert statuses(wire.receive(scaled(6))) == [200, 200]
    finally:
        function.delete()


@promise("A19")
def test_a_reader_that_does_not_read_is_cut_off(impatient: Server) -> None:
    before, quiet = rss_kib(impatient.pid), impatient.call("GET", "/health")
    assert quiet.status_code == 200
    wire = connect(impatient.url, 20)
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wire.socket.settimeout(0.5)
    asks, sent = request("GET", "/openapi.json") * 100, 0
    start = time.monotonic()
    while time.monotonic() - start < scaled(20):
        try:
            wire.socket.send(asks)
            sent += 1
        except TimeoutError:
            assert rss_kib(impatient.pid) - before < 24 * 1024
        except OSError:
            break
    assert time.monotonic() - start < scaled(15)
    assert rss_kib(impatient.pid) - before < 24 * 1024


def flood(url: str, count: int, data: bytes = b"") -> list[Wire]:
    wires = []
    for _ in range(count):
        wires.append(connect(url, 2.0))
        wires[-1].send(data)
    return wires


FLOODS = {
    "silent": lambda _: b"",
    "half a head": lambda _: b"GET /health HTTP/1.1\r\nX-Slow: ",
    "half a body": lambda path: request("POST", path, {"Content-Length": "1000"}, b"{"),
    "calls that run": lambda path: request("POST", path + "/invoke"),
}


@promise("A18")
@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_leaves_room_for_management(crowded: Server, kind: str) -> None:
    server = crowded
    function = server.deploy("sleep 4", max_instances=1)
    function_path, data = function.path, FLOODS[kind](function.path)
    wires = flood(server.url, 150, data)
    held = len(os.listdir(f"/proc/{server.pid}/fd"))
    assert held < 50 + 32 + 60
    for path in ("/health", "/api/functions", function_path, "/api/functions/pool/stats"):
        answer = Api(server.url).http.get(path, timeout=scaled(5))
        assert answer.status_code == 200, path
    if kind == "calls that run":
        # The reserved slots are never used for invocations.
        refused = Api(server.url).http.post(f"{function_path}/invoke", timeout=scaled(5))
        body = is_error(refused, "CAPACITY_FULL", 503)
        assert body["retry_after"] == 1
    for wire in wires:
        wire.close()
    function.delete()


@contextmanager
def with_files(limits: str) -> Iterator[Server]:
    """A server with this limit on open files, which is not started yet."""
    with watched() as server:
        server._command = ["prlimit", f"--nofile={limits}", *server._command]
        yield server


@promise("A18")
def test_with_few_files_connections_and_sandboxes_leave_each_other_some() -> None:
    with with_files("1024:1024") as server:
        server.start()
        flood(server.url, 900)
        assert len(os.listdir(f"/proc/{server.pid}/fd")) < 64 + 480 + 32
        function = Api(server.url).http.post(
            "/api/functions", json={"name": "f", "handler": "echo hello"}, timeout=scaled(5)
        )
        path = f"/api/functions/{function.json()['function_id']}"
        for verb in ("deploy", "invoke"):
            assert Api(server.url).http.post(f"{path}/{verb}", timeout=scaled(5)).status_code == 200
        assert Api(server.url).http.delete(path, timeout=scaled(5)).status_code == 204


@promise("A18")
def test_the_soft_limit_of_files_is_raised() -> None:
    with with_files("256:4096") as server:
        server.start()
        for pid in (server.pid, server.launcher):
            with open(f"/proc/{pid}/limits") as file:
                limits = next(line for line in file if line.startswith("Max open files"))
            assert limits.split()[3:5] == ["4096", "4096"]


@promise("A18")
def test_too_few_files_are_told() -> None:
    with with_files("256:256") as server:
        server.start_without_waiting()
        assert server.wait() == 69
        assert "needs 1024" in server.log.read_text()


@promise("A20")
def test_a_long_body_that_waits_is_kept_once(plain: Server) -> None:
    server = plain
    function = server.deploy("sleep 3", max_instances=1)
    function.invoke()
    body = json.dumps({"payload": "x" * (6 * MIB)}).encode()
    before = rss_kib(server.pid)
    wires = [connect(server.url, 20) for _ in range(9)]
    for wire in wires:
        head = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        wire.send(request("POST", f"{function.path}/invoke", head, body))
    time.sleep(1.0)
    grown = rss_kib(server.pid) - before
    assert grown < 9 * 6 * 1024 * 1.25, grown
    for wire in wires:
        wire.close()
    function.delete()


@promise("A20")
def test_long_bodies_have_room_and_short_calls_go_on(another: Callable[..., Server]) -> None:
    server = another("--bodies-max-bytes 24000000 --queue-wait-s 30").start()
    function = server.deploy("sleep 60; :", max_instances=1)
    quick = server.deploy("cat")
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(function.try_invoke, "x" * (4 * MIB)) for _ in range(6)]
        until(lambda: sum(call.done() for call in calls) >= 4)
        full = [call.result() for call in calls if call.done()]
        for answer in full:
            body = is_error(answer, "RATE_LIMITED", 429)
            assert body["retry_after"] == 1
        assert quick.invoke("hello")["stdout"] == "hello"
        # A server whose room is full of invocations can still be managed.
        server.create("x" * 60_000)
        server.wake()
        until(lambda: sum(call.done() for call in calls) >= 5)
        server.wake()
        done = [call.result() for call in calls if call.result().status_code == 200]
        assert len(done) == 2
    assert quick.invoke("x" * (4 * MIB))["status"] == "success"  # the whole budget is free again


@pytest.mark.parametrize("whose", ["strangers", "own"])
def test_unfinished_bodies_leave_a_tenant_room(little_room: Server, whose: str) -> None:
    """Strangers get only a small share of the budget, so the tenant's own invocations have room.
    Unfinished bodies of the tenant's own can take all of it.
    """
    server = little_room
    function = server.deploy("cat")
    api = Api(server.url)
    api.good("PUT", f"{function.path}/url", {"auth": "none"})
    name = api.good("GET", function.path)["name"]
    path = f"/fn/{name}" if whose == "strangers" else f"{function.path}/invoke"
    head = {"Content-Type": "application/json", "Content-Length": str(MIB)}

    def is_full() -> bool:
        """Whether the server refuses another unfinished body."""
        connect(server.url, 20).send(request("POST", path, head, b" " * (MIB - 100)))
        answer = httpx.post(server.url + path, json={"payload": "x" * MIB}, timeout=scaled(20))
        return answer.status_code == 429

    until(is_full)
    answer = function.try_invoke("x" * (MIB + MIB // 2))
    if whose == "own":
        is_error(answer, "RATE_LIMITED", 429)
    else:
        assert answer.status_code == 200


def pages_of(api: Api, path: str, name: str) -> list[list[dict[str, Any]]]:
    """Every page of a list, following the cursors. Each must be within the size limit, unless it
    has only one entry.
    """
    found, cursor = [], None
    while True:
        answer = api.http.get(path, params={"cursor": cursor} if cursor else {})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert len(answer.content) < MIB + 1000 or len(body[name]) == 1
        assert ("next" in answer.links) == bool(body.get("next_cursor"))
        found.append(body[name])
        cursor = body.get("next_cursor")
        if cursor is None:
            return found


@promise("A21")
def test_a_page_of_records_ends_with_its_bytes(small_pages: Server) -> None:
    # Each byte of this output becomes six bytes in JSON.
    function = small_pages.deploy("head -c 200000 /dev/zero")
    long = small_pages.deploy("head -c 1000000 /dev/zero")
    made = [function.invoke()["invocation_id"] for _ in range(5)]
    api = Api(small_pages.url)
    found = pages_of(api, f"{function.path}/invocations", "invocations")
    assert [len(page) for page in found] == [1] * 5
    assert [one["invocation_id"] for page in found for one in page] == made[::-1]
    made = [long.invoke()["invocation_id"] for _ in range(2)]
    found = pages_of(api, f"{long.path}/invocations", "invocations")
    assert [one["invocation_id"] for page in found for one in page] == made[::-1]
    bare = api.http.get(f"{long.path}/invocations", params={"output": "none"}).json()
    assert [one["invocation_id"] for one in bare["invocations"]] == made[::-1]
    assert {one["stdout"] for one in bare["invocations"]} == {""}
    assert len(bare["invocations"][0]) == 13
    refused = api.http.get(f"{long.path}/invocations", params={"output": "some"})
    is_error(refused, "UNPROCESSABLE_ENTITY", 422)


@promise("A21")
def test_pages_of_functions_and_versions_end_with_their_bytes(small_pages: Server) -> None:
    api = Api(small_pages.url)
    handlers = ["#" + str(number) + "x" * 60_000 for number in range(20)]
    function = small_pages.create(handlers[0])
    for handler in handlers[1:]:
        assert api.http.put(function.path, json={"handler": handler}).status_code == 200
    found = pages_of(api, f"{function.path}/versions", "versions")
    assert len(found) == 2
    assert [one["version"] for page in found for one in page] == list(range(20, 0, -1))
    made = {small_pages.create(handler).id for handler in handlers}
    found = pages_of(api, "/api/functions", "functions")
    assert len(found) >= 2
    assert made <= {one["id"] for page in found for one in page}


@promise("A21")
def test_a_page_of_long_records_costs_the_server_little(plain: Server) -> None:
    server = plain
    function = server.deploy("head -c 3000000 /dev/zero | tr '\\0' x", max_instances=2)
    for _ in range(24):
        assert function.invoke()["status"] == "success"
    before = rss_kib(server.pid)

    def lists(_: int) -> int:
        answer = Api(server.url).http.get(
            f"{function.path}/invocations?limit=1000", timeout=scaled(60)
        )
        return answer.status_code

    with ThreadPoolExecutor(12) as pool:
        codes = [pool.submit(lists, number) for number in range(14)]
        slowest = 0.0
        while not all(code.done() for code in codes):
            start = time.monotonic()
            assert Api(server.url).http.get("/health", timeout=scaled(10)).status_code == 200
            slowest = max(slowest, time.monotonic() - start)
    assert {code.result() for code in codes} == {200}
    assert slowest < scaled(2)
    assert peak_kib(server.pid) < 300 * 1024, (before, peak_kib(server.pid))


@promise("A22")
def test_handlers_and_environments_have_room_in_bytes(another: Callable[..., Server]) -> None:
    server = another("--functions-max-bytes 2097152").start()
    body = {"handler": "#" + "x" * 60_000, "environment": {"A": "x" * 30_000}}
    api, made = Api(server.url), 0
    while (
        answer := api.http.post("/api/functions", json=body | {"name": f"long{made}"})
    ).is_success:
        path = f"/api/functions/{answer.json()['function_id']}"
        made += 1
        assert made < 20
    is_error(answer, "RATE_LIMITED", 429)
    assert made == 11
    # A change that needs no more room is accepted, and room that was freed can be used again.
    assert api.http.put(path, json={"description": "x"}).status_code == 200
    small = server.create("echo hello")
    longer = api.http.put(small.path, json=body)
    is_error(longer, "RATE_LIMITED", 429)
    assert api.http.delete(path).status_code == 204
    assert api.http.put(small.path, json=body).status_code == 200
    # A rollback needs the room of the version that it makes current.
    assert api.http.put(small.path, json={"handler": "true", "environment": {}}).is_success
    assert api.http.post("/api/functions", json=body | {"name": "again"}).status_code == 201
    is_error(api.http.post(f"{small.path}/rollback", json={"version": 2}), "RATE_LIMITED", 429)


@promise("A22")
def test_calls_with_long_output_take_turns_and_lose_none(plain: Server) -> None:
    server = plain
    function = server.deploy("head -c 6000000 /dev/zero | tr '\\0' x", max_instances=16)
    quick = server.deploy("echo hello")
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(function.invoke) for _ in range(20)]
        while not all(call.done() for call in calls):
            assert quick.invoke()["stdout"] == "hello\n"
        assert {len(call.result()["stdout"]) for call in calls} == {6_000_000}
    assert peak_kib(server.pid) < 300 * 1024


@promise("A24")
def test_one_tenant_leaves_half_of_all_bounds_to_others(another: Callable[..., Server]) -> None:
    """One tenant uses as much as it can for running invocations and for functions; another tenant
    must still be served.
    """
    server = another("--bodies-max-bytes 16777216 --functions-max-bytes 1048576")
    keys = [make_key(server, "--tenant", one, "--scope", "write") for one in "ab"]
    server.start()
    greedy, other = (Api(server.url, one["key"]) for one in keys)

    def deploy(api: Api, handler: str) -> str:
        body = {"name": new_name(), "handler": handler, "max_instances": 20}
        made = api("POST", "/api/functions", body | {"timeout_seconds": 12})
        path = f"/api/functions/{made.json()['function_id']}"
        assert api("POST", f"{path}/deploy").json()["state"] == "active"
        return path

    # Handlers that write for longer would hold more memory at once if they did not wait for each
    # other.
    keeps = deploy(greedy, "head -c 7000000 /dev/zero; sleep 9")
    holds = deploy(greedy, "sleep 9")
    long, echo = deploy(other, "head -c 3000000 /dev/zero | tr '\\0' x"), deploy(other, "wc -c")
    payload = {"payload": "x" * (3 * MIB)}
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(greedy, "POST", f"{keeps}/invoke") for _ in range(8)]
        calls += [pool.submit(greedy, "POST", f"{holds}/invoke", payload) for _ in range(4)]
        time.sleep(2)
        for _ in range(3):
            answer = other("POST", f"{long}/invoke").json()
            assert (answer["status"], len(answer["stdout"])) == ("success", 3_000_000)
            assert answer["duration_ms"] < scaled(2000)
            answer = other("POST", f"{echo}/invoke", payload).json()
            assert answer["stdout"].strip() == str(3 * MIB)
        refused = [call.result() for call in calls if call.done()]
        assert len(refused) == 2  # the tenant has used up its own half
        for answer in refused:
            is_error(answer, "RATE_LIMITED", 429)
    body = {"handler": "#" + "x" * 60_000}
    while (answer := greedy("POST", "/api/functions", body | {"name": new_name()})).is_success:
        pass
    is_error(answer, "RATE_LIMITED", 429)
    assert other("POST", "/api/functions", body | {"name": new_name()}).status_code == 201


@promise("A23")
def test_handshakes_that_do_not_end_leave_room_for_others(another: Callable[..., Server]) -> None:
    options = "--tls-cert ROOT/cert.pem --tls-key ROOT/key.pem"
    server = another(options, kind=TlsServer)
    certificate(server.root)
    server.start()
    for _ in range(600):
        OPEN.append(Wire(server.url))
    until(lambda: len(os.listdir(f"/proc/{server.pid}/fd")) > 200)
    time.sleep(0.5)
    # the beginning of a ClientHello, after which nothing is sent
    OPEN[0].send(b"\x16\x03\x01\x02\x00\x01")
    assert len(os.listdir(f"/proc/{server.pid}/fd")) < 256 + 100
    trusted = ssl.create_default_context(cafile=str(server.root / "cert.pem"))
    for _ in range(3):
        with httpx.Client(verify=trusted, trust_env=False, base_url=server.url) as client:
            assert client.get("/health", timeout=scaled(5)).status_code == 200
            assert client.get("/health", timeout=scaled(5)).status_code == 200
    server.close()


@promise("A22")
def test_unread_kept_answers_are_loaded_one_at_a_time(plain: Server) -> None:
    server = plain
    function = server.deploy("head -c 6000000 /dev/zero | tr '\\0' x")
    key = {"Idempotency-Key": "again"}
    first = Api(server.url).http.post(f"{function.path}/invoke", headers=key, timeout=scaled(30))
    assert first.status_code == 200
    for _ in range(60):
        OPEN.append(Wire(server.url))
        OPEN[-1].socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        OPEN[-1].send(request("POST", f"{function.path}/invoke", key))
    time.sleep(3)
    assert peak_kib(server.pid) < 300 * 1024
    while OPEN:
        OPEN.pop().close()
    again = Api(server.url).http.post(f"{function.path}/invoke", headers=key, timeout=scaled(30))
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"


AT_ONCE = 9


@promise("A22")
def test_long_answers_to_be_kept_wait_for_each_other(plain: Server) -> None:
    server = plain
    # Each byte becomes six bytes in the response, so `AT_ONCE` of these responses exceed the limit.
    long = "head -c 6200000 /dev/zero | tr '\\0' '\\1'"
    function = server.deploy(long, max_instances=AT_ONCE, timeout_seconds=60)

    def keyed(number: int) -> tuple[int, int]:
        path, key = f"{server.url}{function.path}/invoke", {"Idempotency-Key": str(number)}
        with httpx.Client(trust_env=False, timeout=scaled(60)) as http:
            with http.stream("POST", path, headers=key) as answer:
                return answer.status_code, sum(len(part) for part in answer.iter_raw())

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(keyed, range(AT_ONCE)))
    assert {code for code, _ in answers} == {200}
    assert min(size for _, size in answers) > 6 * 6_200_000
    assert peak_kib(server.pid) < 300 * 1024
