"""Unmodified HTTP servers as functions, in real sandboxes."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e import sample_runtimes
from e2e.server import Function, Server, until
from e2e.test_real_code import deploy
from e2e.url_site import Site
from promises import promise
from timeouts import scaled

pytestmark = pytest.mark.sandbox

# A web server of Python's standard library, without any code for this platform.
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


def site_of(server: Server, source: str = SOURCE, **fields: Any) -> Site:
    return Site(web(server, source, **fields))


@pytest.fixture(scope="module")
def site(shared: Server) -> Site:
    """A web server for tests that do not change it."""
    return site_of(shared)


# --- requests and responses ----------------------------------------------------------------------


@promise("R30")
def test_a_request_arrives_as_it_was_sent(site: Site) -> None:
    mine = {"x-mine": "v", "x-invocation-id": "forged", "te": "gzip", "cookie": "a=1; b=2"}
    answer = site.ask("PUT", "/a%20b/c?x=1&y=%20", content=b"hello", headers=mine)
    assert answer.status_code == 200, answer.text
    request, record = answer.json(), site.last()
    assert record["status"] == "success"
    seen = (request["method"], request["path"], request["body"])
    assert seen == ("PUT", "/a%20b/c?x=1&y=%20", "hello")
    assert (request["port"], request["endpoint"]) == ("8080", "0.0.0.0:8080")
    headers = request["headers"]
    expected = {"x-mine": "v", "cookie": "a=1; b=2", "x-forwarded-prefix": site.path}
    assert headers.items() >= (expected | {"x-invocation-id": record["invocation_id"]}).items()
    assert float(headers["x-invocation-deadline-ms"]) > 1000 * record["started_at"]
    assert "te" not in headers


@promise("R30")
def test_any_bytes_arrive_and_come_back(site: Site) -> None:
    bodies = [b"", b"\0", bytes(range(256)) * 4, b"{}", b"x" * 65_537, bytes(range(256)) * 16_384]
    for body, method in zip(bodies, itertools.cycle(["POST", "PATCH", "PUT"]), strict=False):
        answer = site.ask(method, "/echo", content=body)
        assert answer.status_code == 200, answer.text
        assert answer.content == body
        assert answer.headers["x-digest"] == hashlib.sha256(body).hexdigest()
        cookies = answer.headers.get_list("set-cookie")
        assert cookies == [f"a=1; Path={site.path}", f"b=2; Path={site.path}/sub"]


@promise("R30")
def test_answers_of_every_form(site: Site) -> None:
    for _ in range(2):  # the second time shows that later requests work
        head = site.ask("HEAD", "/status?200")
        assert (head.status_code, head.content) == (200, b"")
        assert site.get("/until-end").text == "all of it"
        assert site.get("/status?404").status_code == 404
        interim = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
        assert site.ask("POST", "/raw", content=interim).status_code == 204
        assert site.get("/stream").text == "0\n1\n2\n"


def read_in_turns(site: Site, where: str) -> int:
    """Reads three numbered lines, each before the web server writes the next one; returns the
    status.
    """
    with httpx.stream("GET", site.url + where, timeout=scaled(60)) as answer:
        pieces = answer.iter_raw()
        for number in range(3):
            assert next(pieces) == b"%d\n" % number
            assert site.last()["status"] == "running"
            site.server.wake()
        assert list(pieces) == []
    return answer.status_code


@promise("R30")
def test_an_answer_is_streamed_while_it_is_made(shared: Server) -> None:
    site = Site(web(shared), stream=True)
    assert read_in_turns(site, "/stream?waits") == 201
    until(lambda: site.last()["status"] == "success")


@promise("R31")
@pytest.mark.parametrize(
    ("path", "payload", "ends", "why"),
    [
        (None, '{"a": 1}', ("success", 0, 'event: {"a": 1}'), "None"),
        ("/echo", "as it is", ("success", 0, "as it is"), "None"),
        ("/status?503", "{}", ("failed", 1, "told"), r"the server answered 503 to POST \S+"),
        (
            "/status?404",
            "{}",
            ("failed", 1, "told"),
            r".* 404 to POST \S+ \(AWS_LWA_PASS_THROUGH.*",
        ),
    ],
)
def test_a_call_that_is_no_request_is_posted_to_a_path(
    shared: Server, path: str | None, payload: str, ends: tuple[object, ...], why: str
) -> None:
    environment = {"AWS_LWA_PASS_THROUGH_PATH": path} if path else {}
    record = web(shared, environment=environment).invoke(payload)
    assert (record["status"], record["exit_code"], record["stdout"]) == ends
    assert re.fullmatch(why, str(record["error_message"])), record


@promise("R31")
def test_an_event_of_an_api_gateway_is_the_request_that_it_tells_of(site: Site) -> None:
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
    record = site.function.invoke(json.dumps(event))
    head, _, body = record["stdout"].partition("\0" * 8)
    assert json.loads(head)["statusCode"] == 200
    request = json.loads(body)
    seen = (request["method"], request["path"], request["body"])
    assert seen == ("POST", "/x%20y?q=1", "hello")
    assert request["headers"]["content-length"] == "5"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"headers": {"x": "a\r\nevil: 1"}}, "has a control character"),
        ({"headers": {"x y": "a"}}, "the name of a header is not valid"),
        ({"rawPath": "http://other/"}, "rawPath must begin with /"),
        ({"requestContext": {"http": {"method": "GET / HTTP/1.1"}}}, "cannot have the method"),
        ({"body": "!"}, "body is not base64"),
    ]
    for wrong, why in cases:
        record = site.function.invoke(json.dumps(event | wrong))
        assert record["status"] == "failed"
        assert why in record["error_message"]


# --- invalid responses ---------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"
EMPTY = b"content-length: 0\r\n\r\n"
NO_ANSWERS = (
    (b"no http at all", "is not HTTP/1.1"),
    (OK + b"x: a\x01b\r\n" + EMPTY, "is not HTTP/1.1"),
    (OK + b"x y: a\r\n" + EMPTY, "is not HTTP/1.1"),
    (OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "is not HTTP/1.1"),
    (b"HTTP/1.1 101 Other\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", "another protocol"),
    (OK + MANY + EMPTY, "has 151 headers"),
    (OK + b"x: " + b"y" * 400_000, "a head of more than"),
    (OK + b"content-length: 5\r\n\r\nhi", "in the middle of its response"),
    (b"HTTP/1.1 999 OK\r\n" + EMPTY, "its status must be"),
    (b"", "without a response"),
)


@promise("R32")
def test_what_is_no_answer_is_sent_to_nobody(site: Site) -> None:
    for raw, why in NO_ANSWERS:
        answer = site.ask("POST", "/raw", content=raw)
        assert answer.status_code == 502, answer.text
        record = site.last()
        assert record["status"] == "failed"
        assert why in record["error_message"], (raw[:80], record["error_message"])
        # The web server's next response is accepted.
        assert site.get("/status?200").text == "told"


@promise("R32")
def test_an_answer_that_nobody_asked_for_is_given_to_nobody(site: Site) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"
    for _ in range(3):
        answer = site.ask("POST", "/raw", content=head + b"abc" + head + b"bad")
        assert answer.text == "abc"
        assert site.get("/status?200").text == "told"


@promise("R32")
def test_too_long_an_answer_is_none(site: Site) -> None:
    assert site.get(f"/large?{7 * 1024 * 1024}").status_code == 502
    assert "longer than" in site.last()["error_message"]
    assert len(site.get(f"/large?{5 * 1024 * 1024}").content) == 5 * 1024 * 1024


# --- the log, the deadline and the end of a web server -------------------------------------------


@promise("R36")
def test_what_it_writes_is_in_the_record_of_the_call(shared: Server) -> None:
    site = site_of(shared)
    for word in ("one", "two"):
        assert site.get(f"/say?{word}").text == "said"
        lines = site.last()["stderr"].splitlines()
        assert word in lines
        assert ("starting" in lines) == (word == "one")
        assert "two" not in lines or "one" not in lines
    assert site.get(f"/flood?{3 * 1024 * 1024}").text == "flooded"
    record = site.last()
    assert len(record["stderr"]) == 1024 * 1024
    assert "were dropped" in record["error_message"]


@promise("R33")
def test_a_deadline_ends_the_call_and_its_instance(shared: Server) -> None:
    site = site_of(shared, timeout_seconds=round(scaled(1)))
    before = site.get().json()["pid"]
    assert before == site.get().json()["pid"]
    assert site.get("/sleep?30").status_code == 504
    assert site.last()["status"] == "timeout"
    until(lambda: site.function.pool()["total_count"] == 0)
    assert site.get().status_code == 200
    assert site.last()["cold_start"] is True


@promise("R33")
def test_an_end_in_a_call_is_told(shared: Server) -> None:
    site = site_of(shared)
    for code, exit_code, message in (
        (3, 3, "the handler exited with code 3"),
        (0, 1, "the server ended with status 0"),
    ):
        assert site.ask("POST", f"/exit?{code}").status_code == 502
        record = site.last()
        assert (record["status"], record["exit_code"]) == ("failed", exit_code)
        assert message in record["error_message"]
        assert record["stderr"].endswith("going\n")
        assert site.get("/status?200").text == "told"
        assert site.last()["cold_start"] is True
    # A web server that needs too much memory is replaced as well.
    assert site.get("/memory").status_code == 502
    assert site.last()["status"] == "oom"
    assert site.get("/status?200").text == "told"


def test_one_that_ends_between_two_calls_is_replaced(shared: Server) -> None:
    soon = "            threading.Timer(0.2, os._exit, [1]).start()"
    site = site_of(shared, SOURCE.replace(STATUS, f"{STATUS}\n{soon}"))
    for number in range(2):
        assert site.get("/status?200").text == "told"
        assert site.last()["cold_start"] is (number > 0)
        until(lambda: site.function.pool()["total_count"] == 0)


def test_a_call_is_cancelled(shared: Server) -> None:
    site = site_of(shared)
    running = shared.later(site.get, "/sleep?20")
    until(lambda: site.function.records() and site.last()["status"] == "running")
    call = f"{site.function.path}/invocations/{site.last()['invocation_id']}"
    assert shared.call("POST", f"{call}/cancel").json()["status"] == "cancelled"
    assert running.result().status_code == 502


# --- start of a web server -----------------------------------------------------------------------


def refusal(server: Server, handler: str) -> str:
    runtime = sample_runtimes.add(server, "server", {"server.py": SOURCE})
    state = server.create(handler, runtime=runtime, cleanup_on_exit=False).deploy()
    assert state["state"] == "error", state
    return str(state["error_message"])


@promise("R33")
def test_one_that_does_not_start_is_told(shared: Server) -> None:
    ended = refusal(shared, "echo no such thing; exit 7")
    assert ended.endswith(
        "the server ended with status 7 before it accepted connections on port 8080: no such thing"
    )
    assert "was killed by signal 9" in refusal(shared, "kill -9 $$")
    assert "foreground" in refusal(shared, "sleep 9 & exit 0")
    in_pieces = "printf 'the reason'; sleep 0.2; echo; sleep 0.2; exit 7"
    assert refusal(shared, in_pieces).endswith("port 8080: the reason")


def test_it_is_ready_when_its_port_accepts_or_a_path_answers(shared: Server) -> None:
    slow = web(shared, environment={"STARTS_IN": "0.5", "PORT": "3000"})
    event = slow.invoke('{"version": "2.0"}')["stdout"].partition(": ")[2]
    assert json.loads(event) == {"version": "2.0"}
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
    site = site_of(shared, source, environment={"AWS_LWA_READINESS_CHECK_PATH": "/ready"})
    assert site.get("/looks").text == "4"


def test_variables_of_a_call_and_gvisor_are_refused(site: Site) -> None:
    answer = site.function.try_invoke("{}", environment={"A": "b"})
    assert (answer.status_code, answer.json()["error"][:27]) == (422, "environment must be absent:")
    body = {"name": "g", "kind": "server", "isolation": "gvisor"}
    answer = site.server.call("POST", "/api/runtimes", body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("isolation must be crun with kind server")


@promise("R34")
def test_two_servers_on_one_port_do_not_meet(shared: Server) -> None:
    names = ["one", "other"]
    sites = [site_of(shared, environment={"NAME": name}) for name in names]
    for _ in range(2):  # the second time, each request uses the connection of the first
        assert [each.get().json()["name"] for each in sites] == names
    look = "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 8080), 2)'"
    assert "Connection refused" in shared.run(look)["stderr"]


# --- simultaneous invocations --------------------------------------------------------------------


def shared_by(server: Server, calls: int) -> Site:
    """A web server that gets up to this many invocations at the same time, in one instance."""
    environment = {"AWS_LAMBDA_MAX_CONCURRENCY": str(calls)}
    return site_of(server, environment=environment, max_instances=1)


def at_once(site: Site, paths: Iterable[str]) -> list[Future[httpx.Response]]:
    return [site.server.later(site.get, path) for path in paths]


def meet(site: Site, calls: int) -> list[Future[httpx.Response]]:
    """Starts this many invocations, and waits until all of them are in the web server."""
    running = at_once(site, (f"/meet?{number}" for number in range(calls)))
    until(lambda: site.get("/now").text == str(calls))
    return running


def pids_and_most(calls: list[Future[httpx.Response]]) -> tuple[set[str], set[str]]:
    """The pids of web servers in the responses, and the highest numbers of simultaneous invocations
    that these servers saw.
    """
    answers = [call.result().text.split() for call in calls]
    return {pid for pid, _ in answers}, {most for _, most in answers}


@promise("R35")
def test_calls_share_an_instance_up_to_its_concurrency(shared: Server) -> None:
    pids, most = pids_and_most(at_once(shared_by(shared, 4), ["/gather?4"] * 14))
    assert (len(pids), most) == (1, {"4"})  # four invocations run at once, and never more
    # Negative control: without the variable, invocations run one at a time.
    _, most = pids_and_most(at_once(site_of(shared, max_instances=1), ["/gather?1"] * 6))
    assert most == {"1"}


@promise("R35")
def test_a_deadline_of_one_call_leaves_the_others(shared: Server) -> None:
    site = shared_by(shared, 8)
    running = meet(site, 3)
    answer = site.function.try_invoke(
        '{"version": "2.0", "rawPath": "/sleep", "rawQueryString": "60", '
        '"requestContext": {"http": {"method": "GET"}}}',
        timeout_seconds=1,
    )
    assert answer.json()["status"] == "timeout"
    # The instance gets no further invocation, but is not ended while other invocations run in it.
    assert not any(one.done() for one in running)
    assert site.function.pool()["busy_count"] == 1
    site.function.delete()
    assert {one.result().status_code for one in running} <= {502, 503}


@promise("R35")
def test_a_cancelled_call_leaves_the_others(shared: Server) -> None:
    site = shared_by(shared, 8)
    running = meet(site, 3)
    records = site.function.records().items()
    first = next(number for number, one in records if one["status"] == "running")
    answer = shared.call("POST", f"{site.function.path}/invocations/{first}/cancel")
    assert answer.json()["status"] == "cancelled"
    until(lambda: any(one.done() for one in running))
    assert [one.done() for one in running].count(True) == 1
    assert site.function.pool()["busy_count"] == 1
    site.function.delete()
    assert [one.result().status_code for one in running].count(200) == 0


@promise("R35")
def test_an_end_ends_every_call_in_it_and_each_is_told(shared: Server) -> None:
    site = shared_by(shared, 8)
    running = meet(site, 5)
    assert site.get("/exit?3").status_code == 502
    assert {one.result().status_code for one in running} == {502}
    ended = [one for one in site.function.records().values() if one["exit_code"] == 3]
    assert len(ended) == 6
    assert {one["status"] for one in ended} == {"failed"}
    assert site.get("/now").text == "0"


@promise("R36")
def test_each_line_is_in_the_record_of_one_call(shared: Server) -> None:
    site = shared_by(shared, 8)
    running = meet(site, 5)
    assert int(site.get("/let-go").text) <= 5
    pids, most = pids_and_most(running)
    assert (len(pids), most) == (1, {"5"})
    site.get("/now")
    records = site.function.records().values()
    lines = [line for one in records for line in one["stderr"].splitlines()]
    met = sorted(line for line in lines if line.startswith("met "))
    assert met == [f"met {number}" for number in range(5)]


# --- web servers from package registries ---------------------------------------------------------


def real(server: Server, directory: Path, files: dict[str, str], handler: str, **url: Any) -> Site:
    more: dict[str, Any] = {"kind": "server", "cleanup_on_exit": False, "handler": handler}
    return Site(deploy(server, directory, files, **more), **url)


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
    site = real(shared, tmp_path, files, command, stream=True)
    headers = {"cookie": "c=3", "content-type": "application/octet-stream"}
    for _ in range(2):
        answer = site.ask("POST", "/items/a%20b", content=bytes(range(256)), headers=headers)
        assert answer.status_code == 201, answer.text
        assert answer.json() == {"name": "a b", "size": 256, "cookie": "3"}
        assert len(answer.headers.get_list("set-cookie")) == 2
    assert "POST /items/a%20b HTTP/1.1" in site.last()["stderr"]
    assert json.loads(site.function.invoke('{"a": 1}')["stdout"]) == {"event": {"a": 1}}
    assert read_in_turns(site, "/slow") == 200


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
    site = real(shared, tmp_path, files, "exec node main.js")
    for _ in range(2):
        answer = site.ask("POST", "/items/a%20b?x=1", json={"k": [1]})
        assert answer.status_code == 201, answer.text
        assert answer.json() == {"name": "a b", "x": "1", "body": {"k": [1]}}
        assert answer.headers["set-cookie"] == f"a=1; Path={site.path}"


# A static program without libraries, as Go compiles them.
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


def test_a_static_program(shared: Server, tmp_path: Path) -> None:
    made, source = tmp_path / "made", tmp_path / "tool.c"
    made.mkdir()
    source.write_text(C)
    subprocess.run(["cc", "-static", "-O1", "-o", made / "tool", source], check=True)
    site = real(shared, made, {}, "exec ./tool")
    for _ in range(3):
        answer = site.ask("PUT", "/there", content=b"hello")
        assert (answer.status_code, answer.text) == (200, "PUT /there hello")


@promise("R38")
def test_calls_that_share_an_instance_count_its_time_once(shared: Server) -> None:
    def seconds(concurrency: int) -> float:
        """The seconds of instances that are counted for eight simultaneous invocations of one
        second each.
        """
        own = {"AWS_LAMBDA_MAX_CONCURRENCY": str(concurrency)}
        site = site_of(shared, environment=own, memory_limit_mb=256, max_instances=8)
        assert [one.result().text for one in at_once(site, ["/sleep?1"] * 8)] == ["slept"] * 8

        def used() -> float:
            found = shared.call("GET", "/api/usage?by=function&step=all").json()["rows"]
            own = [one for one in found if one["function_id"] == site.function.id]
            done = sum(one["calls"] for one in own)
            return sum(float(one["gb_seconds"]) for one in own) if done == 8 else 0.0

        return float(until(used)) * 4

    assert 0.9 < seconds(8) < scaled(4)
    assert seconds(1) > 7.9, "control: eight instances count a second each"
