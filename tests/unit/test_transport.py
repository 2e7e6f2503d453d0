"""The client library's own connection, with sockets that behave well and badly."""

import gzip
import http.server
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from promises import promise
from quiltfn.cli import run
from quiltfn.sdk import (
    ApiError,
    AsyncClient,
    Client,
    ConnectionFailed,
    NotTrusted,
    UnreadableAnswer,
    transport,
)
from quiltfn.sdk.request import Request, ask
from self_signed import self_signed
from timeouts import scaled

pytestmark = promise("M5")

ALIVE = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"status":"ok"}'


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QUILT_BASE_URL", "QUILT_API_KEY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Recorder(http.server.BaseHTTPRequestHandler):
    """Records the requests that it answers, and counts connections."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str, dict[str, str], bytes]]
    connections: list[object]

    def setup(self) -> None:
        super().setup()
        self.connections.append(object())

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.seen.append((self.command, self.path, dict(self.headers.items()), body))
        self.send_response(200)
        self.send_header("Content-Length", "15")
        self.end_headers()
        self.wfile.write(b'{"status":"ok"}')

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, *_: Any) -> None:
        pass


def client(url: str, **given: Any) -> Client:
    """A client that sends every request once."""
    return Client(url, retries=0, **given)


def async_client(url: str, **given: Any) -> AsyncClient:
    return AsyncClient(url, retries=0, **given)


@contextmanager
def listening(context: ssl.SSLContext | None = None) -> Iterator[tuple[int, type[Recorder]]]:
    kind = type("Fresh", (Recorder,), {"seen": [], "connections": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1], kind
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def behaving(act: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that calls `act` with every connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    act(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(scaled(5))


# --- one connection ----------------------------------------------------------------------------


def test_requests_share_a_connection_and_say_what_they_are() -> None:
    with listening() as (port, kind), client(f"http://127.0.0.1:{port}/quilt/") as at:
        for _ in range(3):
            at.system.get_liveness()
        with pytest.raises(UnreadableAnswer):
            at.functions.get("a b")
    assert len(kind.connections) == 1
    methods = [(method, path) for method, path, _, _ in kind.seen]
    assert methods[0] == ("GET", "/quilt/health")
    assert methods[-1] == ("GET", "/quilt/api/functions/by-name/a%20b")
    assert kind.seen[0][2]["Host"] == f"127.0.0.1:{port}"


def test_threads_share_a_client() -> None:
    with listening() as (port, kind), client(f"http://127.0.0.1:{port}") as at:
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: at.system.get_liveness(), range(200)))
    assert [one.status for one in answers] == ["ok"] * 200
    assert len(kind.connections) <= 8


def test_a_connection_that_the_server_has_closed_is_made_again() -> None:
    asked: list[bytes] = []
    closed = threading.Semaphore(0)

    def once(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(ALIVE)
        connection.close()
        closed.release()

    with behaving(once) as url, client(url) as at:
        for _ in range(3):
            assert at.system.get_liveness().status == "ok"
            assert closed.acquire(timeout=scaled(5))
    assert len(asked) == 3


def test_after_a_failure_the_next_request_gets_a_fresh_connection() -> None:
    answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", ALIVE]

    def act(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answers.pop(0))

    with behaving(act) as url, client(url) as at:
        with pytest.raises((ConnectionFailed, UnreadableAnswer)):
            at.system.get_liveness()
        assert at.system.get_liveness().status == "ok"


def test_an_archive_goes_out_whole(tmp_path: Path) -> None:
    archive = tmp_path / "image.tar.gz"
    archive.write_bytes(gzip.compress(b"x" * 1_000_000) * 400)
    with listening() as (port, kind), client(f"http://127.0.0.1:{port}") as at:
        with pytest.raises(UnreadableAnswer):
            at.runtimes.upload_image(archive)
    (_, _, headers, body) = kind.seen[0]
    assert headers["Content-Type"] == "application/gzip"
    assert headers["Content-Length"] == str(len(body)) == str(archive.stat().st_size)


def test_a_refusal_that_comes_before_the_body_is_read_is_told(tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(b"x" * 20_000_000)
    said = b'{"error":"the body is too long","error_code":"PAYLOAD_TOO_LARGE"}'

    def refuse(connection: socket.socket) -> None:
        connection.recv(1024)
        head = f"HTTP/1.1 413 X\r\nConnection: close\r\nContent-Length: {len(said)}\r\n\r\n"
        connection.sendall(head.encode() + said)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(scaled(5))
        for _ in range(10):  # reads a part of the body; the end of the connection is then a reset
            connection.recv(65536)

    with behaving(refuse) as url, client(url) as at:
        with pytest.raises(ApiError, match="the body is too long"):
            at.runtimes.upload_image(archive)


# --- errors ------------------------------------------------------------------------------------


def test_nobody_there_says_how_to_start_one_on_this_machine_alone() -> None:
    with pytest.raises(ConnectionFailed, match="start one with: quiltfn serve"):
        client("http://127.0.0.1:9").system.get_liveness()
    with pytest.raises(ConnectionFailed) as raised:
        client("http://nobody.invalid:9").system.get_liveness()
    assert "start one with" not in str(raised.value)
    assert "no quiltfn server responds at http://nobody.invalid:9: " in str(raised.value)


@pytest.mark.parametrize(
    ("said", "error", "sentence"),
    [
        (b"", ConnectionFailed, "ended before the response arrived"),
        (b"SSH-2.0-OpenSSH\r\n", UnreadableAnswer, "is not a quiltfn server"),
        (b"HTTP/1.1 200 OK\r\n", ConnectionFailed, "ended before|is not a quiltfn server"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", UnreadableAnswer, "is not a quiltfn server"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
            UnreadableAnswer,
            "is not a quiltfn server",
        ),
    ],
)
def test_a_bad_answer_is_a_sentence(said: bytes, error: type[Exception], sentence: str) -> None:
    def act(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(said)

    with behaving(act) as url, client(url) as at:
        with pytest.raises((ConnectionFailed, UnreadableAnswer), match=sentence) as raised:
            at.system.get_liveness()
    assert isinstance(raised.value, error) or sentence.startswith("ended")


def test_silence_is_told_with_its_length() -> None:
    silent = threading.Event()
    slow = Request(method="GET", path="/", read=bytes, read_timeout_s=0.2)

    def act(_: socket.socket) -> None:
        silent.wait(scaled(5))

    with behaving(act) as url, client(url) as at:
        with pytest.raises(ConnectionFailed, match=r"did not respond within 0.2 s"):
            at.run(ask(slow))
        silent.set()


def test_the_kernel_is_asked_to_notice_within_two_minutes_that_a_server_has_gone() -> None:
    with listening() as (port, _):
        there = transport.HttpTransport(f"http://127.0.0.1:{port}", None)
        connection = there._connected()
        asked = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle_s, each_s, probes = [
            connection.sock.getsockopt(socket.IPPROTO_TCP, option) for option in options
        ]
        connection.close()
    assert asked == 1
    assert idle_s + each_s * probes <= 120


# --- certificates ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, as a PEM file."""
    return self_signed(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1")


@contextmanager
def secure(certificate: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, f"{certificate}.key")
    with listening(context) as (port, _):
        yield port


async def test_a_certificate_that_is_not_trusted_is_told_as_that(certificate: Path) -> None:
    with secure(certificate) as port:
        url = f"https://127.0.0.1:{port}"
        with client(url) as at, pytest.raises(NotTrusted, match=r"not trusted: self.signed"):
            at.system.get_liveness()
        async with async_client(url) as other:
            with pytest.raises(NotTrusted, match=r"cacert=FILE, or SSL_CERT_FILE"):
                await other.system.get_liveness()


async def test_the_authority_s_sources(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with secure(certificate) as port:
        url = f"https://127.0.0.1:{port}"
        with client(url, cacert=certificate) as at:
            assert at.system.get_liveness().status == "ok"
        async with async_client(url, cacert=certificate) as other:
            assert (await other.system.get_liveness()).status == "ok"
        # The variable also applies on loopback.
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with client(url) as at:
            assert at.system.get_liveness().status == "ok"
        async with async_client(url) as other:
            assert (await other.system.get_liveness()).status == "ok"


def test_a_certificate_for_another_name_is_told_as_that(certificate: Path) -> None:
    with secure(certificate) as port, client(f"https://localhost:{port}", cacert=certificate) as at:
        with pytest.raises(NotTrusted, match=r"not valid for 'localhost'"):
            at.system.get_liveness()


def test_the_command_line_tells_certificates_from_a_missing_server(
    certificate: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with secure(certificate) as port:
        url = ["--url", f"https://127.0.0.1:{port}"]
        assert run(["health", *url]) == 1
        output = capsys.readouterr().err
        assert "is not trusted: self" in output
        assert "--cacert FILE, or SSL_CERT_FILE" in output
        # The certificate is accepted, but the response is not quiltfn's.
        assert run(["health", *url, "--cacert", str(certificate)]) == 1
        assert "is not a quiltfn server" in capsys.readouterr().err
        assert run(["health", *url, "--cacert", str(tmp_path / "none.pem")]) == 2
        assert "--cacert: " in capsys.readouterr().err
        (tmp_path / "no.pem").write_text("nothing")
        assert run(["health", *url, "--cacert", str(tmp_path / "no.pem")]) == 2
        assert "holds no certificate" in capsys.readouterr().err
    assert run(["health", "--url", "http://127.0.0.1:9", "--cacert", str(certificate)]) == 2


def test_tls_where_there_is_none_and_none_where_there_is(certificate: Path) -> None:
    with listening() as (port, _), client(f"https://127.0.0.1:{port}") as at:
        with pytest.raises(ConnectionFailed, match="then use http://"):
            at.system.get_liveness()
    with secure(certificate) as port, client(f"http://127.0.0.1:{port}") as at:
        with pytest.raises(ConnectionFailed, match="use https://"):
            at.system.get_liveness()


def test_no_certificate_is_loaded_for_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "trusted", None)
    monkeypatch.setattr(ssl, "create_default_context", None)
    client("http://127.0.0.1:9").close()


# --- proxies -----------------------------------------------------------------------------------


def test_a_proxy_is_asked_for_other_machines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening() as (port, kind):
        monkeypatch.setenv("http_proxy", f"http://me:pass@127.0.0.1:{port}")
        with client("http://far.invalid:81/x") as at:
            assert at.system.get_liveness().status == "ok"
        monkeypatch.setenv("no_proxy", "far.invalid")
        with pytest.raises(ConnectionFailed):
            client("http://far.invalid:81/x").system.get_liveness()
        with pytest.raises(ConnectionFailed):
            client("http://127.0.0.1:9").system.get_liveness()
    ((method, path, headers, _),) = kind.seen
    assert (method, path) == ("GET", "http://far.invalid:81/x/health")
    assert headers["Proxy-Authorization"] == "Basic bWU6cGFzcw=="
    assert headers["Host"] == "far.invalid:81"


def test_https_goes_through_a_tunnel(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def refuse(connection: socket.socket) -> None:
        asked.append(connection.recv(65536))
        connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    with behaving(refuse) as url:
        monkeypatch.setenv("https_proxy", url)
        with client("https://far.invalid") as at, pytest.raises(ConnectionFailed, match="403"):
            at.system.get_liveness()
    assert asked[0].startswith(b"CONNECT far.invalid:443 HTTP/1.")
