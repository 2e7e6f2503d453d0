"""Request bodies that a web server in a real sandbox reads while they arrive."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from e2e import sample_runtimes
from e2e.server import Server, until
from e2e.url_site import Site
from promises import promise
from timeouts import scaled

pytestmark = pytest.mark.sandbox

MIB = 1024 * 1024
LONG = 100 * MIB
# The maximum growth of quiltfn's memory, however long the body is.
GROWS_MAX_KIB = 12 * 1024
WEBHOOK = {"scheme": "github", "secret": "s" * 16}
# The bytes that the kernel buffers on both connections before the sender notices that nobody reads.
BUFFERS_MAX = 64 * MIB
SOURCE = """
    import hashlib, http.server, json, os, threading

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        may_read, seen = threading.Event(), 0

        def answer(self, status, told):
            body = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def pieces(self):
            if "chunked" in self.headers.get("transfer-encoding", ""):
                while size := int(self.rfile.readline(), 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return
            left = int(self.headers["content-length"])
            while left and (piece := self.rfile.read1(min(left, 65536))):
                left -= len(piece)
                yield piece

        def do_POST(self):
            getattr(self, "on_" + self.path.strip("/"))()

        def on_count(self):
            Handler.seen, digest = 0, hashlib.sha256()
            for piece in self.pieces():
                Handler.seen += len(piece)
                digest.update(piece)
            self.answer(200, {"seen": Handler.seen, "digest": digest.hexdigest(),
                              "framing": self.headers.get("content-length"), "pid": os.getpid()})

        def on_wait(self):
            Handler.may_read.wait(60)
            self.on_count()

        def on_refuse(self):  # and closes the connection, with all that came unread
            self.close_connection = True
            self.answer(413, {"error": "too long for me"})

        def on_echo(self):
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for piece in self.pieces():
                self.wfile.write(b"%x\\r\\n%b\\r\\n" % (len(piece), piece))
            self.wfile.write(b"0\\r\\n\\r\\n")

        def do_GET(self):
            if self.path == "/go":
                Handler.may_read.set()
            self.answer(200, {"seen": Handler.seen, "pid": os.getpid()})

    http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""


def receiver(server: Server, timeout_seconds: int = 30, **url: object) -> Site:
    runtime = sample_runtimes.add(server, "server", {"server.py": SOURCE})
    function = server.deploy(
        "exec python3 server.py",
        runtime=runtime,
        cleanup_on_exit=False,
        environment={"AWS_LAMBDA_MAX_CONCURRENCY": "8"},
        max_instances=1,
        timeout_seconds=timeout_seconds,
    )
    return Site(function, **url)


@pytest.fixture(scope="module")
def site(shared: Server) -> Site:
    return receiver(shared)


@contextlib.contextmanager
def sender(site: Site, where: str, *fields: str) -> Iterator[socket.socket]:
    """A connection on which the head of a POST was sent, without its body."""
    host, _, port = site.server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=scaled(60)) as connection:
        head = "\r\n".join([f"POST {site.path}{where} HTTP/1.1", "host: x", *fields, "", ""])
        connection.sendall(head.encode())
        yield connection


def answer_of(connection: socket.socket) -> bytes:
    """Reads until the response is complete or the server ends the connection."""
    found = b""
    while True:
        head, end, body = found.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if end and length and len(body) >= int(length):
            return found
        if not (more := connection.recv(65536)):
            return found
        found += more


def statuses(site: Site) -> list[tuple[str, str | None]]:
    return [(one["status"], one["error_message"]) for one in site.records()]


@contextlib.contextmanager
def growth(server: Server) -> Iterator[Callable[[], int]]:
    """Yields a function that returns the maximum growth of the server's memory in the block, in
    KiB.
    """
    before, over = server.rss_kib(), threading.Event()
    most = before

    def look() -> None:
        nonlocal most
        while not over.wait(0.02):
            most = max(most, server.rss_kib())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: most - before
    finally:
        over.set()
        thread.join()


@promise("R37")
def test_long_bodies_pass_through_and_nothing_is_kept(site: Site) -> None:
    piece = bytes(range(256)) * 4096
    digest = hashlib.sha256(piece * (LONG // MIB)).hexdigest()
    site.ask("POST", "/count", content=piece)  # a first request makes one-time allocations
    with growth(site.server) as grown:
        for length in (f"content-length: {LONG}", "transfer-encoding: chunked"):
            with sender(site, "/count", length) as connection:
                for _ in range(LONG // MIB):
                    is_chunked = "chunked" in length
                    connection.sendall(b"%x\r\n%b\r\n" % (MIB, piece) if is_chunked else piece)
                connection.sendall(b"0\r\n\r\n" if is_chunked else b"")
                answer = answer_of(connection)
            assert answer.startswith(b"HTTP/1.1 200"), answer
            assert digest.encode() in answer
            assert (b'"framing": null' in answer) is is_chunked
        assert grown() < GROWS_MAX_KIB
    assert statuses(site)[:2] == [("success", None)] * 2


@promise("R37")
def test_control_bodies_that_are_held_are_seen_in_the_memory(shared: Server) -> None:
    """Control: the server reads the body of a webhook completely to check its signature, and its
    memory shows that.
    """
    site = receiver(shared, auth="webhook", webhook=WEBHOOK)
    size = 4 * MIB
    with growth(shared) as grown, contextlib.ExitStack() as stack:
        for _ in range(4):
            connection = sender(site, "/count", f"content-length: {size}")
            stack.enter_context(connection).sendall(b"x" * (size - 1))
        until(lambda: grown() > GROWS_MAX_KIB)


@promise("R37")
def test_what_the_server_does_not_read_waits_with_the_client(site: Site) -> None:
    site.ask("POST", "/count", content=b"x" * MIB)
    sent = 0
    with (
        growth(site.server) as grown,
        sender(site, "/wait", f"content-length: {LONG}") as connection,
    ):
        connection.settimeout(scaled(1.0))
        with contextlib.suppress(TimeoutError):
            while sent < LONG:
                sent += connection.send(b"x" * min(65536, LONG - sent))
        assert sent < BUFFERS_MAX
        assert site.get("/go").status_code == 200  # other invocations are served meanwhile
        connection.settimeout(scaled(60))
        while sent < LONG:
            sent += connection.send(b"x" * min(65536, LONG - sent))
        assert f'"seen": {LONG}'.encode() in answer_of(connection)
        assert grown() < GROWS_MAX_KIB


def test_a_body_is_there_before_its_end(site: Site) -> None:
    half = MIB // 2
    fields = f"content-length: {2 * half}", "expect: 100-continue"
    with sender(site, "/count", *fields) as connection:
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"x" * half)
        until(lambda: site.get("/").json()["seen"] == half)
        connection.sendall(b"x" * half)
        assert f'"seen": {2 * half}'.encode() in answer_of(connection)


def test_an_answer_and_a_body_pass_each_other(shared: Server) -> None:
    site = receiver(shared, stream=True)
    with sender(site, "/echo", "transfer-encoding: chunked") as connection:
        found = b""
        for word in (b"first", b"second", b"third"):
            connection.sendall(b"%x\r\n%b\r\n" % (len(word), word))
            while word not in found:
                found += connection.recv(65536)
        connection.sendall(b"0\r\n\r\n")
        while not found.endswith(b"0\r\n\r\n"):
            found += connection.recv(65536)


@promise("R37")
def test_an_early_answer_arrives(site: Site) -> None:
    for _ in range(5):
        with sender(site, "/refuse", f"content-length: {LONG}") as connection:
            with contextlib.suppress(ConnectionError):
                for _ in range(8):
                    connection.sendall(b"x" * MIB)
            answer = answer_of(connection)
        assert answer.startswith(b"HTTP/1.1 413"), answer
        assert b"too long for me" in answer
    assert statuses(site) == [("success", None)] * 5


@promise("R37")
def test_a_client_leaving_or_stalling_ends_its_call_alone(another: Callable[..., Server]) -> None:
    site = receiver(another("--body-timeout-s 2 --server-body-max-bytes 1048576").start())
    pid = site.get("/").json()["pid"]
    with sender(site, "/count", f"content-length: {MIB}") as connection:
        connection.sendall(b"x" * 1000)
        until(lambda: site.get("/").json()["seen"] == 1000)
    left = "its caller went away before the body had ended"
    until(lambda: ("cancelled", left) in statuses(site))
    began = time.monotonic()
    with sender(site, "/count", f"content-length: {MIB}") as connection:
        connection.sendall(b"x" * 1000)
        answer = answer_of(connection)
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert 1.5 < time.monotonic() - began < scaled(10)
    stalled = "nothing more of the body arrived within 2 s"
    assert statuses(site)[0] == ("cancelled", stalled)
    with sender(site, "/count", f"content-length: {MIB + 1}") as connection:
        assert answer_of(connection).startswith(b"HTTP/1.1 413")
    with sender(site, "/count", "transfer-encoding: chunked") as connection:
        connection.sendall(b"100001\r\n" + b"x" * (MIB + 1) + b"\r\n0\r\n\r\n")
        assert answer_of(connection).startswith(b"HTTP/1.1 413")
    too_long = f"the body is longer than the {MIB} bytes this route takes"
    assert statuses(site)[0] == ("cancelled", too_long)
    assert site.get("/").json()["pid"] == pid, "the instance goes on"


def test_the_deadline_ends_a_call_whose_body_trickles(shared: Server) -> None:
    site = receiver(shared, timeout_seconds=2)
    with sender(site, "/count", f"content-length: {MIB}") as connection:
        over = time.monotonic() + scaled(20)
        connection.settimeout(0.2)
        found = b""
        while not found and time.monotonic() < over:
            with contextlib.suppress(TimeoutError):
                connection.sendall(b"x")
                found = connection.recv(65536)
    assert found.startswith(b"HTTP/1.1 504"), found
    assert statuses(site)[0][0] == "timeout"
