"""Sends requests over HTTP/1.1 with the standard library alone.

Importing an HTTP library would take longer than a request, and a command sends few requests.
"""

import base64
import http.client
import selectors
import socket
import ssl
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Struct
from msgspec.structs import replace

CONNECT_S = 5.0
WRITE_S = 30.0
CHUNK_BYTES = 64 * 1024
# A response may take a day, so TCP keep-alive has to detect an unreachable server: after a minute
# of silence it probes every 15 s; four probes without a reply close the connection.
if sys.platform == "darwin":
    _IDLE = socket.TCP_KEEPALIVE
else:
    _IDLE = socket.TCP_KEEPIDLE
KEEP_ALIVE = ((_IDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
PORTS = {"http": 80, "https": 443}


class HttpRequest(Struct, frozen=True, kw_only=True):
    """One request. If the body is a file, `headers` has its length."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | BinaryIO | None
    read_timeout_s: float


class HttpResponse(Struct, frozen=True, kw_only=True):
    """One response; the names of headers are lower-case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Transport(Protocol):
    """Sends requests.

    All methods raise NotConnected, AnswerTimeout, OSError (including ssl.SSLError) or
    http.client.HTTPException.
    """

    def exchange(self, request: HttpRequest) -> HttpResponse: ...

    def open(self, request: HttpRequest) -> tuple[HttpResponse, Generator[bytes, None, None]]:
        """A response whose content arrives in chunks; its own `content` is empty. Closing the
        iterator closes the connection.
        """
        ...

    def close(self) -> None: ...


class NotConnected(OSError):
    """The connection could not be established; the exception's cause is the reason."""


class AnswerTimeout(OSError):
    """The server accepted the request but did not respond in time."""


class HttpTransport:
    """Keeps connections open between requests, as many as there were parallel requests."""

    def __init__(self, base_url: str, trust: ssl.SSLContext | None) -> None:
        """`trust`: only used for https. Raises ValueError for an unusable proxy."""
        self._to = urlsplit(base_url)
        self._proxy = proxy_for(self._to)
        self._trust = trust
        self._idle: list[http.client.HTTPConnection] = []

    def exchange(self, request: HttpRequest) -> HttpResponse:
        connection = self._kept() or self._connected()
        try:
            answer = self._exchanged(connection, request)
        except BaseException:
            connection.close()
            raise
        if connection.sock is not None:
            self._idle.append(connection)
        return answer

    def open(self, request: HttpRequest) -> tuple[HttpResponse, Generator[bytes, None, None]]:
        connection = self._connected()  # used for one stream and then closed
        try:
            response = self._asked(connection, request)
        except BaseException:
            connection.close()
            raise
        return _head_of(response), _chunks_of(connection, response)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _kept(self) -> http.client.HTTPConnection | None:
        """An idle connection that the server has not closed. Threads need no lock, since `pop` and
        `append` of a list are atomic."""
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread has taken the last one
                return None
            if _is_open(connection.sock):
                return connection
            connection.close()
        return None

    def _connected(self) -> http.client.HTTPConnection:
        connection = self._made()
        try:
            connection.connect()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEP_ALIVE:
                connection.sock.setsockopt(socket.IPPROTO_TCP, option, value)
        except ssl.SSLError:
            connection.close()
            raise
        except OSError as error:
            connection.close()
            raise NotConnected(*error.args) from error
        return connection

    def _made(self) -> http.client.HTTPConnection:
        host, port = self._to.hostname or "", self._to.port or PORTS[self._to.scheme]
        at, at_port = host, port
        if self._proxy is not None:
            at, at_port = self._proxy.hostname or "", self._proxy.port or PORTS["http"]
        if self._to.scheme == "http":
            return http.client.HTTPConnection(at, at_port, timeout=CONNECT_S)
        secure = http.client.HTTPSConnection(at, at_port, timeout=CONNECT_S, context=self._trust)
        if self._proxy is not None:
            secure.set_tunnel(host, port, _authorization("Proxy-Authorization", self._proxy))
        return secure

    def _exchanged(
        self, connection: http.client.HTTPConnection, request: HttpRequest
    ) -> HttpResponse:
        response = self._asked(connection, request)
        try:
            with response:
                content = response.read()
        except TimeoutError as error:
            raise AnswerTimeout(*error.args) from error
        return replace(_head_of(response), content=content)

    def _asked(
        self, connection: http.client.HTTPConnection, request: HttpRequest
    ) -> http.client.HTTPResponse:
        """Send the request, and return once the head of the response has arrived."""
        headers = {**request.headers, **_authorization("Authorization", self._to)}
        parts = urlsplit(request.url)
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        if self._proxy is not None and self._to.scheme == "http":
            headers |= _authorization("Proxy-Authorization", self._proxy)
            path = f"http://{self._to.netloc.rpartition('@')[2]}{path}"
        connection.sock.settimeout(WRITE_S)
        refused: OSError | None = None
        try:
            connection.request(request.method, path, request.body, headers)
        except (BrokenPipeError, ConnectionResetError) as error:
            refused = error  # the server may have responded before it stopped reading
        connection.sock.settimeout(request.read_timeout_s)
        try:
            return connection.getresponse()
        except TimeoutError as error:
            raise AnswerTimeout(*error.args) from error
        except (OSError, http.client.HTTPException) as error:
            raise refused or error from None


def _head_of(response: http.client.HTTPResponse) -> HttpResponse:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return HttpResponse(status=response.status, headers=headers, content=b"")


def _chunks_of(
    connection: http.client.HTTPConnection, response: http.client.HTTPResponse
) -> Generator[bytes, None, None]:
    try:
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk
    except TimeoutError as error:
        raise AnswerTimeout(*error.args) from error
    finally:
        response.close()
        connection.close()


def _is_open(sock: socket.socket | None) -> bool:
    """Whether the connection can be reused: a connection that the server has closed is readable."""
    if sock is None:
        return False
    with selectors.DefaultSelector() as look:
        look.register(sock, selectors.EVENT_READ)
        return not look.select(0)


def _authorization(header: str, parts: SplitResult) -> dict[str, str]:
    """The header for the user name and password in an address."""
    if parts.username is None:
        return {}
    words = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {header: f"Basic {base64.b64encode(words.encode()).decode()}"}


def is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def proxy_for(to: SplitResult) -> SplitResult | None:
    """The proxy that the environment names; None for a server on this machine."""
    host = to.hostname or ""
    if is_loopback(host):
        return None
    from urllib.request import getproxies, proxy_bypass  # noqa: PLC0415 — only for remote servers

    proxies = getproxies()
    named = proxies.get(to.scheme) or proxies.get("all")
    if not named or proxy_bypass(host):
        return None
    try:
        proxy = urlsplit(named if "://" in named else f"http://{named}")
        is_address = proxy.scheme == "http" and bool(proxy.hostname) and proxy.port != 0
        kind = f", not {proxy.scheme}" if proxy.scheme != "http" else ""
    except ValueError:  # without its message, which may contain a part of the password
        is_address, kind = False, ""
    if not is_address:
        raise ValueError(f"the proxy for {host} must be an http:// address{kind}")
    return proxy


def trusted(authority: Path | None) -> ssl.SSLContext:
    """The trusted authorities: the machine's, or those in the file `authority`.

    SSL_CERT_FILE and SSL_CERT_DIR replace the machine's. Raises ValueError if the file cannot be
    used.
    """
    if authority is not None:
        try:
            return ssl.create_default_context(cafile=str(authority))
        except (OSError, ssl.SSLError) as error:
            why = (
                "holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
            )
            raise ValueError(f"cacert: {authority} cannot be used: {why}") from None
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and any(Path(paths.capath).iterdir())):
        return ssl.create_default_context()
    import certifi  # noqa: PLC0415 — only if the machine has none

    return ssl.create_default_context(cafile=certifi.where())
