"""Unmodified HTTP servers as functions, in real sandboxes."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import subprocess
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e import sample_runtimes
from e2e.server import Function, Server, until
from e2e.test_real_code import deploy
from e2e.test_urls import ask, at_url
from promises import promise
from timeouts import scaled

pytestmark = pytest.mark.sandbox

# A server of the standard library. It knows nothing of this platform.
SOURCE = """
    import hashlib, http.server, json, os, subprocess, sys, threading, time

    LOCK = threading.Condition()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status, body, **fields):
            self.send_response(status)
            for name, value in fields.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, form, *values):
            print("log", form % values, flush=True)

        def serve(self):
            size = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(size)
            path, _, query = self.path.partition("?")
            getattr(self, "on_" + path.strip("/").replace("-", "_"), self.on_other)(body, query)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = serve

        def on_other(self, body, query):
            told = {"method": self.command, "path": self.path, "headers": dict(self.headers),
                    "body": body.decode("latin-1"), "pid": os.getpid(),
                    "port": os.environ["PORT"], "endpoint": os.environ["AWS_LAMBDA_HTTP_ENDPOINT"],
                    "name": os.environ.get("NAME")}
            self.answer(200, json.dumps(told).encode(), content_type="application/json")

        def on_echo(self, body, query):
            self.send_response(200)
            self.send_header("content-type", "application/octet-stream")
            self.send_header("x-digest", hashlib.sha256(body).hexdigest())
            self.send_header("set-cookie", "a=1")
            self.send_header("set-cookie", "b=2; Path=/sub")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def on_stream(self, body, query):
            self.send_response(201)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for number in range(3):
                self.wfile.write(b"2\\r\\n%d\\n\\r\\n" % number)
                if query == "waits":
                    subprocess.run(["sleep", "60"])
            self.wfile.write(b"0\\r\\n\\r\\n")

        def on_until_end(self, body, query):
            self.close_connection = True
            self.wfile.write(b"HTTP/1.1 200 OK\\r\\ncontent-type: text/plain\\r\\n\\r\\nall of it")

        def on_raw(self, body, query):
            self.close_connection = True
            self.wfile.write(body)

        def on_status(self, body, query):
            self.answer(int(query), b"told")

        def on_events(self, body, query):
            self.answer(200, b"event: " + body)

        def on_sleep(self, body, query):
            time.sleep(float(query))
            self.answer(200, b"slept")

        now, most, may_end = 0, 0, threading.Event()

        def on_meet(self, body, query):
            with LOCK:
                Handler.now += 1
                Handler.most = max(Handler.most, Handler.now)
            print("met", query, flush=True)
            Handler.may_end.wait(30)
            with LOCK:
                Handler.now -= 1
            self.answer(200, b"%d %d" % (os.getpid(), Handler.most))

        def on_let_go(self, body, query):
            Handler.may_end.set()
            self.answer(200, b"%d" % Handler.now)

        def on_gather(self, body, query):
            with LOCK:
                Handler.now += 1
                Handler.most = max(Handler.most, Handler.now)
                LOCK.notify_all()
                LOCK.wait_for(lambda: Handler.most >= int(query), 20)
            time.sleep(0.05)
            with LOCK:
                Handler.now -= 1
                most = Handler.most
            self.answer(200, b"%d %d" % (os.getpid(), most))

        def on_now(self, body, query):
            self.answer(200, b"%d" % Handler.now)

        def on_exit(self, body, query):
            print("going", flush=True)
            os._exit(int(query))

        def on_say(self, body, query):
            print(query, file=sys.stderr, flush=True)
            self.answer(200, b"said")

        def on_flood(self, body, query):
            print("x" * int(query), flush=True)
            self.answer(200, b"flooded")

        def on_large(self, body, query):
            self.answer(200, b"y" * int(query))

        def on_memory(self, body, query):
            held = [b"x" * 1024 * 1024 for _ in range(4096)]
            self.answer(200, str(len(held)).encode())

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128

    time.sleep(float(os.environ.get("STARTS_IN", "0")))
    print("starting", flush=True)
    Server(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""
COMMAND = "exec python3 server.py"
STATUS = "def on_status(self, body, query):"
MANY = b"".join(b"x%d: y\r\n" % number for number in range(150))


def web(server: Server, source: str = SOURCE, handler: str = COMMAND, **fields: Any) -> Function:
    runtime = sample_runtimes.add(server, "server", {"server.py": source})
    return server.deploy(handler, runtime=runtime, cleanup_on_exit=False, **fields)


def last(function: Function) -> dict[str, Any]:
    """The record of the last call."""
    answer = function.server.call("GET", f"{function.path}/invocations?limit=1")
    record: dict[str, Any] = answer.json()["invocations"][0]
    return record


# --- requests and answers ------------------------------------------------------------------------


@promise("R30")
def test_a_request_arrives_as_it_was_sent(shared: Server) -> None:
    function = web(shared)
    path = at_url(shared, function)
    mine = {"x-mine": "v", "x-invocation-id": "forged", "te": "gzip", "cookie": "a=1; b=2"}
    target = f"{path}/a%20b/c?x=1&y=%20"
    answer = ask(shared, "PUT", target, content=b"hello", headers=mine)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["method"], told["path"], told["body"]) == ("PUT", "/a%20b/c?x=1&y=%20", "hello")
    assert (told["port"], told["endpoint"]) == ("8080", "0.0.0.0:8080")
    headers = told["headers"]
    record = last(function)
    assert headers["x-mine"] == "v"
    assert headers["cookie"] == "a=1; b=2"
    assert headers["x-forwarded-prefix"] == path
    assert headers["x-invocation-id"] == record["invocation_id"]
    assert float(headers["x-invocation-deadline-ms"]) > 1000 * record["started_at"]
    assert "te" not in headers
    assert record["status"] == "success"


@promise("R30")
def test_any_bytes_arrive_and_come_back(shared: Server) -> None:
    path = at_url(shared, web(shared))
    bodies = [b"", b"\0", bytes(range(256)) * 4, b"{}", b"x" * 65_537, bytes(range(256)) * 16_384]
    for body, method in zip(bodies, itertools.cycle(["POST", "PATCH", "PUT"]), strict=False):
        answer = ask(shared, method, f"{path}/echo", content=body)
        assert answer.status_code == 200, answer.text
        assert answer.content == body
        assert answer.headers["x-digest"] == hashlib.sha256(body).hexdigest()
        cookies = answer.headers.get_list("set-cookie")
        assert cookies == [f"a=1; Path={path}", f"b=2; Path={path}/sub"]


@promise("R30")
def test_answers_of_every_form(shared: Server) -> None:
    path = at_url(shared, web(shared))
    for _ in range(2):  # what comes next is right
        head = ask(shared, "HEAD", f"{path}/status?200")
        assert (head.status_code, head.content) == (200, b"")
        assert ask(shared, "GET", f"{path}/until-end").text == "all of it"
        assert ask(shared, "GET", f"{path}/status?404").status_code == 404
        interim = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
        assert ask(shared, "POST", f"{path}/raw", content=interim).status_code == 204
        assert ask(shared, "GET", f"{path}/stream").text == "0\n1\n2\n"


@promise("R30")
def test_an_answer_is_streamed_while_it_is_made(shared: Server) -> None:
    function = web(shared)
    path = at_url(shared, function, stream=True)
    with httpx.stream("GET", f"{shared.url}{path}/stream?waits", timeout=scaled(60)) as answer:
        assert answer.status_code == 201
        pieces = answer.iter_raw()
        for number in range(3):
            assert next(pieces) == b"%d\n" % number
            assert last(function)["status"] == "running"
            shared.wake()
        assert list(pieces) == []
    until(lambda: last(function)["status"] == "success")


@promise("R31")
def test_a_call_that_is_no_request_is_posted_to_a_path(shared: Server) -> None:
    function = web(shared)
    record = function.invoke('{"a": 1}')
    assert (record["status"], record["stdout"]) == ("success", 'event: {"a": 1}')
    other = web(shared, environment={"AWS_LWA_PASS_THROUGH_PATH": "/echo"})
    record = other.invoke("as it is")
    assert (record["status"], record["stdout"]) == ("success", "as it is")
    refusing = web(shared, environment={"AWS_LWA_PASS_THROUGH_PATH": "/status?503"})
    record = refusing.invoke("{}")
    assert (record["status"], record["exit_code"], record["stdout"]) == ("failed", 1, "told")
    assert record["error_message"] == "the server answered 503 to POST /status?503"
    elsewhere = web(shared, environment={"AWS_LWA_PASS_THROUGH_PATH": "/status?404"})
    told = elsewhere.invoke("{}")["error_message"]
    assert told.startswith("the server answered 404 to POST /status?404 (calls that are no")


@promise("R31")
def test_an_event_of_an_api_gateway_is_the_request_that_it_tells_of(shared: Server) -> None:
    event: dict[str, Any] = {
        "version": "2.0",
        "rawPath": "/x y",
        "rawQueryString": "q=1",
        "headers": {"X-Mine": "v", "content-length": "999", "transfer-encoding": "chunked"},
        "cookies": ["a=1"],
        "requestContext": {"http": {"method": "POST", "path": "/x y"}},
        "body": "aGVsbG8=",
        "isBase64Encoded": True,
    }
    function = web(shared)
    record = function.invoke(json.dumps(event))
    head, _, body = record["stdout"].partition("\0" * 8)
    assert json.loads(head)["statusCode"] == 200
    told = json.loads(body)
    assert (told["method"], told["path"], told["body"]) == ("POST", "/x%20y?q=1", "hello")
    assert told["headers"]["content-length"] == "5"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"headers": {"x": "a\r\nevil: 1"}}, "holds a control character"),
        ({"headers": {"x y": "a"}}, "the name of a header is not valid"),
        ({"rawPath": "http://other/"}, "rawPath must begin with /"),
        ({"requestContext": {"http": {"method": "GET / HTTP/1.1"}}}, "cannot have the method"),
        ({"body": "!"}, "body is not base64"),
    ]
    for wrong, why in cases:
        record = function.invoke(json.dumps(event | wrong))
        assert record["status"] == "failed"
        assert why in record["error_message"]


# --- answers that are none -----------------------------------------------------------------------


@promise("R32")
@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"no http at all", "is no HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nx: a\x01b\r\ncontent-length: 0\r\n\r\n", "is no HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nx y: a\r\ncontent-length: 0\r\n\r\n", "is no HTTP/1.1"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "is no HTTP/1.1",
        ),
        (
            b"HTTP/1.1 101 Other\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
            "another protocol",
        ),
        (b"HTTP/1.1 200 OK\r\n" + MANY + b"content-length: 0\r\n\r\n", "has 151 headers"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 400_000, "a head of more than"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi", "in the middle of its answer"),
        (b"HTTP/1.1 999 OK\r\ncontent-length: 0\r\n\r\n", "its status must be"),
        (b"", "without an answer"),
    ],
)
def test_what_is_no_answer_is_sent_to_nobody(shared: Server, raw: bytes, why: str) -> None:
    function = web(shared)
    path = at_url(shared, function)
    answer = ask(shared, "POST", f"{path}/raw", content=raw)
    assert answer.status_code == 502, answer.text
    record = last(function)
    assert record["status"] == "failed"
    assert why in record["error_message"], record["error_message"]
    # It costs that request alone.
    assert ask(shared, "GET", f"{path}/status?200").text == "told"


@promise("R32")
def test_an_answer_that_nobody_asked_for_is_given_to_nobody(shared: Server) -> None:
    one = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"
    path = at_url(shared, web(shared))
    for _ in range(3):
        answer = ask(shared, "POST", f"{path}/raw", content=one + b"abc" + one + b"bad")
        assert answer.text == "abc"
        assert ask(shared, "GET", f"{path}/status?200").text == "told"


@promise("R32")
def test_too_long_an_answer_is_none(shared: Server) -> None:
    function = web(shared)
    path = at_url(shared, function)
    assert ask(shared, "GET", f"{path}/large?{7 * 1024 * 1024}").status_code == 502
    assert "longer than" in last(function)["error_message"]
    assert len(ask(shared, "GET", f"{path}/large?{5 * 1024 * 1024}").content) == 5 * 1024 * 1024


# --- its log, its deadline and its end -----------------------------------------------------------


@promise("R36")
def test_what_it_writes_is_in_the_record_of_the_call(shared: Server) -> None:
    function = web(shared)
    path = at_url(shared, function)
    for word in ("one", "two"):
        assert ask(shared, "GET", f"{path}/say?{word}").text == "said"
        lines = last(function)["stderr"].splitlines()
        assert word in lines
        assert ("starting" in lines) == (word == "one")
        assert "two" not in lines or "one" not in lines
    assert ask(shared, "GET", f"{path}/flood?{3 * 1024 * 1024}").text == "flooded"
    record = last(function)
    assert len(record["stderr"]) == 1024 * 1024
    assert "were dropped" in record["error_message"]


@promise("R33")
def test_a_deadline_ends_the_call_and_its_instance(shared: Server) -> None:
    function = web(shared, timeout_seconds=round(scaled(1)))
    path = at_url(shared, function)
    before = ask(shared, "GET", path).json()["pid"]
    assert before == ask(shared, "GET", path).json()["pid"]
    assert ask(shared, "GET", f"{path}/sleep?30").status_code == 504
    assert last(function)["status"] == "timeout"
    until(lambda: function.pool()["total_count"] == 0)
    assert ask(shared, "GET", path).status_code == 200
    assert last(function)["cold_start"] is True


@promise("R33")
@pytest.mark.parametrize(
    ("code", "exit_code", "message"),
    [(3, 3, "the handler exited with code 3"), (0, 1, "the server ended with status 0")],
)
def test_an_end_in_a_call_is_told(shared: Server, code: int, exit_code: int, message: str) -> None:
    function = web(shared)
    path = at_url(shared, function)
    assert ask(shared, "POST", f"{path}/exit?{code}").status_code == 502
    record = last(function)
    assert (record["status"], record["exit_code"]) == ("failed", exit_code)
    assert message in record["error_message"]
    assert record["stderr"].endswith("going\n")
    assert ask(shared, "GET", f"{path}/status?200").text == "told"
    assert last(function)["cold_start"] is True


def test_one_that_ends_between_two_calls_is_replaced(shared: Server) -> None:
    soon = "            threading.Timer(0.2, os._exit, [1]).start()"
    source = SOURCE.replace(STATUS, f"{STATUS}\n{soon}")
    function = web(shared, source)
    path = at_url(shared, function)
    for number in range(2):
        assert ask(shared, "GET", f"{path}/status?200").text == "told"
        assert last(function)["cold_start"] is (number > 0)
        until(lambda: function.pool()["total_count"] == 0)


@promise("R33")
def test_one_that_needs_too_much_memory_is_told(shared: Server) -> None:
    function = web(shared)
    path = at_url(shared, function)
    assert ask(shared, "GET", f"{path}/memory").status_code == 502
    assert last(function)["status"] == "oom"
    assert ask(shared, "GET", f"{path}/status?200").text == "told"


def test_a_call_is_cancelled(shared: Server) -> None:
    function = web(shared)
    path = at_url(shared, function)
    running = shared.later(ask, shared, "GET", f"{path}/sleep?20")
    until(lambda: function.records() and last(function)["status"] == "running")
    one = last(function)["invocation_id"]
    answer = shared.call("POST", f"{function.path}/invocations/{one}/cancel")
    assert answer.json()["status"] == "cancelled"
    assert running.result().status_code == 502


# --- its start -----------------------------------------------------------------------------------


def refusal(server: Server, handler: str, **fields: Any) -> str:
    runtime = sample_runtimes.add(server, "server", {"server.py": SOURCE})
    function = server.create(handler, runtime=runtime, cleanup_on_exit=False, **fields)
    answer = server.call("POST", f"{function.path}/deploy")
    assert answer.json()["state"] == "error", answer.text
    return str(answer.json()["error_message"])


@promise("R33")
def test_one_that_does_not_start_is_told(shared: Server) -> None:
    told = refusal(shared, "echo no such thing; exit 7")
    assert told.endswith(
        "the server ended with status 7 before it accepted connections on port 8080: no such thing"
    )
    assert "was killed by signal 9" in refusal(shared, "kill -9 $$")
    assert "foreground" in refusal(shared, "sleep 9 & exit 0")
    in_pieces = "printf 'the reason'; sleep 0.2; echo; sleep 0.2; exit 7"
    assert refusal(shared, in_pieces).endswith("port 8080: the reason")


def test_it_is_ready_when_its_port_accepts_or_a_path_answers(shared: Server) -> None:
    slow = web(shared, environment={"STARTS_IN": "0.5", "PORT": "3000"})
    assert json.loads(slow.invoke('{"version": "2.0"}')["stdout"].partition(": ")[2]) == {
        "version": "2.0"
    }
    source = SOURCE.replace(
        STATUS,
        "looks = 0\n"
        "        def on_ready(self, body, query):\n"
        "            Handler.looks += 1\n"
        "            self.answer(503 if Handler.looks < 4 else 200, b'')\n"
        "        def on_looks(self, body, query):\n"
        "            self.answer(200, b'%d' % Handler.looks)\n"
        f"        {STATUS}",
    )
    function = web(shared, source, environment={"AWS_LWA_READINESS_CHECK_PATH": "/ready"})
    assert ask(shared, "GET", f"{at_url(shared, function)}/looks").text == "4"


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("cleanup_on_exit", {"cleanup_on_exit": True}),
        ("environment.PORT", {"environment": {"PORT": "80"}}),
        ("environment.AWS_LWA_PORT", {"environment": {"AWS_LWA_PORT": "x"}}),
        (
            "environment.AWS_LWA_PASS_THROUGH_PATH",
            {"environment": {"AWS_LWA_PASS_THROUGH_PATH": "x"}},
        ),
        (
            "environment.AWS_LAMBDA_HTTP_ENDPOINT",
            {"environment": {"AWS_LAMBDA_HTTP_ENDPOINT": "x:1"}},
        ),
        ("handler", {"handler": "  "}),
    ],
)
def test_what_cannot_be_is_refused(shared: Server, field: str, fields: dict[str, Any]) -> None:
    runtime = sample_runtimes.add(shared, "server", {"server.py": SOURCE})
    body = {"name": "web", "handler": COMMAND, "runtime": runtime, "cleanup_on_exit": False}
    answer = shared.call("POST", "/api/functions", body | fields)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"].startswith(f"{field} must be")


def test_variables_of_a_call_and_gvisor_are_refused(shared: Server) -> None:
    answer = web(shared).try_invoke("{}", environment={"A": "b"})
    assert (answer.status_code, answer.json()["error"][:27]) == (422, "environment must be absent:")
    body = {"name": "g", "kind": "server", "isolation": "gvisor"}
    answer = shared.call("POST", "/api/runtimes", body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("isolation must be crun with kind server")


@promise("R34")
def test_two_servers_on_one_port_do_not_meet(shared: Server) -> None:
    one, other = (web(shared, environment={"NAME": name}) for name in ("one", "other"))
    paths = [at_url(shared, one), at_url(shared, other)]
    for _ in range(2):  # the second time on the connection of the first
        assert [ask(shared, "GET", path).json()["name"] for path in paths] == ["one", "other"]
    look = "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 8080), 2)'"
    outside = shared.deploy(look)
    assert "Connection refused" in outside.invoke()["stderr"]


# --- several calls at a time ---------------------------------------------------------------------


def shared_by(server: Server, calls: int, **fields: Any) -> tuple[Function, str]:
    """A server that gets so many calls at a time, in one instance."""
    environment = {"AWS_LAMBDA_MAX_CONCURRENCY": str(calls)}
    function = web(server, environment=environment, max_instances=1, **fields)
    return function, at_url(server, function)


def meet(server: Server, path: str, calls: int) -> list[Future[httpx.Response]]:
    """So many calls that are in the server, and stay."""
    running = [server.later(ask, server, "GET", f"{path}/meet?{n}") for n in range(calls)]
    until(lambda: ask(server, "GET", f"{path}/now").text == str(calls))
    return running


@promise("R35")
def test_calls_share_an_instance_up_to_its_concurrency(shared: Server) -> None:
    _, path = shared_by(shared, 4)
    running = [shared.later(ask, shared, "GET", f"{path}/gather?4") for _ in range(14)]
    told = [one.result().text.split() for one in running]
    assert len({pid for pid, _ in told}) == 1
    assert {most for _, most in told} == {"4"}  # so many at once, and never more
    # Negative control: without the variable there is one at a time.
    alone = web(shared, max_instances=1)
    path = at_url(shared, alone)
    running = [shared.later(ask, shared, "GET", f"{path}/gather?1") for _ in range(6)]
    assert {one.result().text.split()[1] for one in running} == {"1"}


@promise("R35")
def test_a_deadline_of_one_call_leaves_the_others(shared: Server) -> None:
    function, path = shared_by(shared, 8)
    running = meet(shared, path, 3)
    answer = function.try_invoke(
        '{"version": "2.0", "rawPath": "/sleep", "rawQueryString": "60", '
        '"requestContext": {"http": {"method": "GET"}}}',
        timeout_seconds=1,
    )
    assert answer.json()["status"] == "timeout"
    # It is not given to another call, and is not ended under those that it has.
    assert not any(one.done() for one in running)
    assert function.pool()["busy_count"] == 1
    function.delete()
    assert {one.result().status_code for one in running} <= {502, 503}


@promise("R35")
def test_a_cancelled_call_leaves_the_others(shared: Server) -> None:
    function, path = shared_by(shared, 8)
    running = meet(shared, path, 3)
    first = next(number for number, one in function.records().items() if one["status"] == "running")
    answer = shared.call("POST", f"{function.path}/invocations/{first}/cancel")
    assert answer.json()["status"] == "cancelled"
    until(lambda: any(one.done() for one in running))
    assert [one.done() for one in running].count(True) == 1
    assert function.pool()["busy_count"] == 1
    function.delete()
    assert [one.result().status_code for one in running].count(200) == 0


@promise("R35")
def test_an_end_ends_every_call_in_it_and_each_is_told(shared: Server) -> None:
    function, path = shared_by(shared, 8)
    running = meet(shared, path, 5)
    assert ask(shared, "GET", f"{path}/exit?3").status_code == 502
    assert {one.result().status_code for one in running} == {502}
    ended = [one for one in function.records().values() if one["exit_code"] == 3]
    assert len(ended) == 6
    assert {one["status"] for one in ended} == {"failed"}
    assert ask(shared, "GET", f"{path}/now").text == "0"


@promise("R36")
def test_each_line_is_in_the_record_of_one_call(shared: Server) -> None:
    function, path = shared_by(shared, 8)
    running = meet(shared, path, 5)
    assert int(ask(shared, "GET", f"{path}/let-go").text) <= 5
    told = [one.result().text.split() for one in running]
    assert len({pid for pid, _ in told}) == 1
    assert {most for _, most in told} == {"5"}
    ask(shared, "GET", f"{path}/now")
    lines = [line for one in function.records().values() for line in one["stderr"].splitlines()]
    assert sorted(line for line in lines if line.startswith("met ")) == [
        f"met {number}" for number in range(5)
    ]


# --- servers that nobody here wrote --------------------------------------------------------------


def real(
    server: Server, directory: Path, files: dict[str, str], handler: str, **fields: Any
) -> Function:
    more = {"kind": "server", "cleanup_on_exit": False, "handler": handler, **fields}
    return deploy(server, directory, files, **more)


FASTAPI = """
    import asyncio
    import subprocess
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import StreamingResponse

    app = FastAPI()

    @app.post("/items/{name}", status_code=201)
    async def item(name: str, request: Request, response: Response):
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return {"name": name, "size": len(await request.body()), "cookie": request.cookies.get("c")}

    @app.post("/events")
    async def events(request: Request):
        return {"event": await request.json()}

    @app.get("/slow")
    async def slow():
        async def pieces():
            for number in range(3):
                yield f"{number}\\n"
                await asyncio.to_thread(subprocess.run, ["sleep", "60"])
        return StreamingResponse(pieces(), media_type="text/plain")
"""


def test_fastapi_under_uvicorn(shared: Server, tmp_path: Path) -> None:
    files = {"main.py": FASTAPI, "requirements.txt": "fastapi\nuvicorn"}
    command = "exec python3 -m uvicorn main:app --host 0.0.0.0 --port $PORT"
    function = real(shared, tmp_path, files, command)
    path = at_url(shared, function, stream=True)
    headers = {"cookie": "c=3", "content-type": "application/octet-stream"}
    for _ in range(2):
        answer = ask(
            shared, "POST", f"{path}/items/a%20b", content=bytes(range(256)), headers=headers
        )
        assert answer.status_code == 201, answer.text
        assert answer.json() == {"name": "a b", "size": 256, "cookie": "3"}
        assert len(answer.headers.get_list("set-cookie")) == 2
    assert "POST /items/a%20b HTTP/1.1" in last(function)["stderr"]
    assert json.loads(function.invoke('{"a": 1}')["stdout"]) == {"event": {"a": 1}}
    with httpx.stream("GET", f"{shared.url}{path}/slow", timeout=scaled(60)) as stream:
        pieces = stream.iter_raw()
        for number in range(3):
            assert next(pieces) == b"%d\n" % number
            assert last(function)["status"] == "running"
            shared.wake()
        assert list(pieces) == []


def test_express(shared: Server, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    source = """
    const express = require('express');
    const [host, port] = process.env.AWS_LAMBDA_HTTP_ENDPOINT.split(':');
    const app = express();
    app.use(express.json());
    app.post('/items/:name', (request, response) => {
        response.cookie('a', '1').status(201)
            .json({ name: request.params.name, x: request.query.x, body: request.body });
    });
    app.listen(Number(port), host, () => console.log('listening'));
    """
    package = {"name": "x", "version": "1.0.0", "dependencies": {"express": "^4.21.0"}}
    files = {"main.js": source, "package.json": json.dumps(package)}
    path = at_url(shared, real(shared, tmp_path, files, "exec node main.js"))
    for _ in range(2):
        answer = ask(shared, "POST", f"{path}/items/a%20b?x=1", json={"k": [1]})
        assert answer.status_code == 201, answer.text
        assert answer.json() == {"name": "a b", "x": "1", "body": {"k": [1]}}
        assert answer.headers["set-cookie"] == f"a=1; Path={path}"


GO = """
package main

import (
    "fmt"
    "io"
    "net/http"
    "os"
)

func main() {
    http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
        body, _ := io.ReadAll(r.Body)
        fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
    })
    http.ListenAndServe(":"+os.Getenv("PORT"), nil)
}
"""
# As a static program without any library: what Go makes is one as well.
C = r"""
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(atoi(getenv("PORT")))};
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) != 0 || listen(listener, 64) != 0)
        return 1;
    for (;;) {
        char text[65536], method[16], path[1024];
        int fd = accept(listener, NULL, NULL);
        ssize_t n = read(fd, text, sizeof text - 1);
        text[n > 0 ? n : 0] = 0;
        if (n > 0 && sscanf(text, "%15s %1023s", method, path) == 2)
            dprintf(fd, "HTTP/1.0 200 OK\r\ncontent-type: text/plain\r\n\r\n%s %s %s", method, path,
                    strstr(text, "\r\n\r\n") + 4);
        close(fd);
    }
}
"""


@pytest.mark.parametrize("language", ["go", "c"])
def test_a_static_program(shared: Server, tmp_path: Path, language: str) -> None:
    compiler = "go" if language == "go" else "cc"
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    made, source = tmp_path / "made", tmp_path / f"tool.{language}"
    made.mkdir()
    source.write_text(GO if language == "go" else C)
    how = ["go", "build"] if language == "go" else ["cc", "-static", "-O1"]
    subprocess.run([*how, "-o", made / "tool", source], check=True, cwd=tmp_path)
    path = at_url(shared, real(shared, made, {}, "exec ./tool"))
    for _ in range(3):
        answer = ask(shared, "PUT", f"{path}/there", content=b"hello")
        assert (answer.status_code, answer.text) == (200, "PUT /there hello")


@promise("R38")
def test_calls_that_share_an_instance_count_its_time_once(shared: Server) -> None:
    def seconds(concurrency: int) -> float:
        """What eight calls of a second count that came at once."""
        own = {"AWS_LAMBDA_MAX_CONCURRENCY": str(concurrency)}
        function = web(shared, environment=own, memory_limit_mb=256, max_instances=8)
        path = at_url(shared, function)
        calls = [shared.later(ask, shared, "GET", f"{path}/sleep?1") for _ in range(8)]
        assert [one.result().text for one in calls] == ["slept"] * 8

        def used() -> float:
            found = shared.call("GET", "/api/usage?by=function&step=all").json()["rows"]
            own = [one for one in found if one["function_id"] == function.id]
            done = sum(one["calls"] for one in own)
            return sum(float(one["gb_seconds"]) for one in own) if done == 8 else 0.0

        return float(until(used)) * 4

    assert 0.9 < seconds(8) < scaled(4)
    assert seconds(1) > 7.9, "control: eight instances count a second each"
