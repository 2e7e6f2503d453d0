"""A client of a real server: it has credentials, a separate tenant for each test, and can send raw
bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx
import jwt

from e2e.server import START_S, Server, quiltfn, until
from timeouts import scaled

TLS_READY = re.compile(r"listening on (https://127\.0\.0\.1:\d+)\n")
ERROR_KEYS = ["error", "error_code", "request_id", "details", "retry_after", "hint"]
DETAIL_KEYS = {"field", "expected", "received", "example", "state", "exit_code", "see"}
PAGE_CREATE: dict[str, Any] = json.loads(
    '{"name":"my-function","cluster_id":"cluster_123","description":"Processes incoming data",'
    '"handler":"echo hello","runtime":"shell","memory_limit_mb":256,"cpu_limit_percent":25.0,'
    '"timeout_seconds":30,"environment":{"NODE_ENV":"production"},"min_instances":0,'
    '"max_instances":5,"cleanup_on_exit":true,"working_directory":"/app"}'
)
PAGE_INVOKE: dict[str, Any] = json.loads(
    '{"payload":"{\\"key\\":\\"value\\"}","environment":{"EXTRA_VAR":"value"},"timeout_seconds":30}'
)
_numbers = itertools.count(1)


def new_address() -> str:
    """A loopback address that no request has used yet, so that no failed credentials count for
    it.
    """
    number = next(_numbers)
    return f"127.7.{number // 250}.{number % 250 + 1}"


def new_name() -> str:
    return f"f{next(_numbers)}-{secrets.token_hex(3)}"


def make_key(server: Server, *arguments: str) -> dict[str, Any]:
    """Runs `quiltfn keys create`; returns its output."""
    done = quiltfn("keys", "create", *arguments, *server.key_options, "--output", "json")
    assert done.code == 0, done.stderr
    return json.loads(done.stdout)


def make_secret(root: Path) -> str:
    """Writes the secret for signed tokens to a file for the server."""
    secret = secrets.token_urlsafe(48)
    (root / "jwt-secret").write_text(secret)
    return secret


def token(secret: str, **claims: Any) -> str:
    plain = {"sub": "somebody", "tenant": "default", "scope": "operator", "exp": time.time() + 600}
    return jwt.encode(plain | claims, secret, "HS256")


def certificate(root: Path) -> None:
    """A self-signed certificate for 127.0.0.1: `cert.pem` and `key.pem`."""
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1"
    command += " -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=root, check=True, capture_output=True)


class TlsServer(Server):
    """A server with HTTPS, whose certificate is in its directory."""

    def start(self) -> Server:
        before = self.server_dirs()
        self.start_without_waiting()
        line = self._first_line()
        ready = TLS_READY.fullmatch(line)
        assert ready, f"instead of the ready line: {line!r}\n{self.log.read_text()}"
        self.url = ready[1]
        self.id = (self.server_dirs() - before).pop()
        self.ids.add(self.id)
        self.pid = until(self.server_pid, START_S)
        return self


class Api:
    """A client of a server, with or without a credential. `others_hear_s`: how many seconds after a
    change an invocation at another node may ignore it. `nodes`: the number of nodes that may get
    the requests.
    """

    others_hear_s: ClassVar[float] = 0.0
    nodes: ClassVar[int] = 1

    def __init__(
        self,
        url: str,
        key: str | None = None,
        verify: ssl.SSLContext | bool = False,
        address: str | None = None,
    ) -> None:
        """`address`: the client's own address, such as 127.0.0.7."""
        headers = {"X-Api-Key": key} if key else {}
        self.key = key
        self.http = httpx.Client(
            base_url=url,
            headers=headers,
            timeout=scaled(60),
            transport=httpx.HTTPTransport(
                verify=verify,  # without HTTPS there is no certificate to verify
                # A connection for each request, so that none has to be closed.
                limits=httpx.Limits(max_keepalive_connections=0),
                local_address=address,
            ),
        )

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """Sends a request. `body` is sent as JSON, `content=` unchanged."""
        if body is not None:
            more["json"] = body
        return self.http.request(method, path, **more)

    def good(self, method: str, path: str, body: Any = None, status: int = 200, **more: Any) -> Any:
        answer = self(method, path, body, **more)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    def refused(
        self, code: str, status: int, method: str, path: str, body: Any = None, **more: Any
    ) -> dict[str, Any]:
        return is_error(self(method, path, body, **more), code, status)

    def heard(self) -> None:
        """Waits until every node that may get requests has applied the changes."""
        time.sleep(self.others_hear_s)

    def create(self, handler: str = "echo hello", **fields: Any) -> str:
        body = {"name": new_name(), "handler": handler} | fields
        return self.good("POST", "/api/functions", body, 201)["function_id"]

    def active(self, handler: str = "echo hello", **fields: Any) -> str:
        function_id = self.create(handler, **fields)
        state = self.good("POST", f"/api/functions/{function_id}/deploy")
        assert state["state"] == "active", state
        return function_id

    def invoke(self, function_id: str, payload: str | None = None, **body: Any) -> dict[str, Any]:
        return self.good("POST", f"{of(function_id)}/invoke", {"payload": payload} | body)

    def get(self, function_id: str) -> dict[str, Any]:
        return self.good("GET", of(function_id))

    def pool(self, function_id: str) -> dict[str, Any]:
        return self.good("GET", f"{of(function_id)}/pool")

    def count(self) -> int:
        return len(self.good("GET", "/api/functions")["functions"])

    def pages(self, path: str, field: str, *, has_links: bool = True) -> list[list[Any]]:
        """The pages of a list, found by the cursor and the Link header in turn."""
        found: list[list[Any]] = []
        asked = path
        while True:
            answer = self("GET", asked)
            assert answer.status_code == 200, answer.text
            found.append(answer.json()[field])
            cursor, link = answer.json()["next_cursor"], answer.headers.get("link")
            if cursor is None:
                assert link is None
                return found
            asked = f"{path}&cursor={cursor}"
            if has_links:
                named = re.fullmatch(r'<(.*)>; rel="next"', str(link))
                assert named, link
                asked = named[1] if len(found) % 2 else asked

    def clear(self) -> None:
        for function in self.good("GET", "/api/functions")["functions"]:
            self("DELETE", of(function["id"]))


def of(function_id: str) -> str:
    return f"/api/functions/{function_id}"


def is_error(answer: httpx.Response, code: str, status: int) -> dict[str, Any]:
    """Checks that the body of an error is complete, and has no secrets or internal details."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert list(body) == ERROR_KEYS, body
    assert body["error_code"] == code, body
    assert body["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["content-type"] == "application/json"
    assert body["details"] is None or set(body["details"]) == DETAIL_KEYS
    about = re.match(r"(\S+) (must be|is required|is not a field)\b", body["error"])
    if code == "UNPROCESSABLE_ENTITY" and about is not None:
        assert body["details"]["field"] == about[1].removesuffix("…"), "programs read the field"
        assert body["details"]["expected"], "and what it must be"
    retry = answer.headers.get("retry-after")
    assert retry == (None if body["retry_after"] is None else str(body["retry_after"]))
    for secret in ("Traceback", "site-packages", "/quiltfn/", "sqlalchemy"):
        assert secret not in answer.text
    return body


class Wire:
    """A socket to a server, to send bytes that no client library would send."""

    def __init__(self, url: str, timeout_s: float = 5.0) -> None:
        at = urlsplit(url)
        self.socket = socket.create_connection((at.hostname, at.port), timeout_s)

    def send(self, data: bytes) -> Wire:
        """Sends as many bytes as the other side accepts."""
        with contextlib.suppress(OSError):
            self.socket.sendall(data)
        return self

    def receive(self, timeout_s: float = scaled(3)) -> bytes:
        """Returns the data until the other side closes, or sends nothing for a moment."""
        found, end = b"", time.monotonic() + timeout_s
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while time.monotonic() < end:
                self.socket.settimeout(0.25 if found else timeout_s)
                data = self.socket.recv(65536)
                if not data:
                    break
                found += data
        return found

    def close(self) -> None:
        self.socket.close()


def statuses(data: bytes) -> list[int]:
    """The status of each response in the data."""
    return [int(one) for one in re.findall(rb"HTTP/1\.[01] (\d{3}) ", data)]


def raw(url: str, data: bytes, timeout_s: float = scaled(3)) -> bytes:
    wire = Wire(url)
    try:
        return wire.send(data).receive(timeout_s)
    finally:
        wire.close()


def request(
    method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> bytes:
    """A plain request with these headers and a Host header."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def files_below(path: Path) -> bytes:
    """The content of all files below the directory, in one piece for searching."""
    return b"".join(one.read_bytes() for one in path.rglob("*") if one.is_file())


def rss_kib(pid: int) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])  # type: ignore[index]


def peak_kib(pid: int) -> int:
    """The peak of memory since `forget_peak`, in KiB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])  # type: ignore[index]


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")
