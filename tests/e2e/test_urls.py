"""URLs of functions on real sandboxes: bytes, streams, attacks, and third-party frameworks behind
them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from e2e import sample_runtimes
from e2e.server import Function, Server, until
from e2e.test_real_code import deploy
from e2e.url_site import Site
from promises import promise
from spec.api_client import raw, request, statuses
from timeouts import scaled

pytestmark = pytest.mark.sandbox


# --- requests and responses --------------------------------------------------------------------

ECHO_PYTHON = """
    import base64
    import hashlib

    def handler(event):
        body = event.get("body") or ""
        data = base64.b64decode(body) if event["isBase64Encoded"] else body.encode()
        return {
            "statusCode": 200,
            "headers": {"content-type": "application/octet-stream",
                        "x-digest": hashlib.sha256(data).hexdigest(),
                        "x-path": event["rawPath"],
                        "x-method": event["requestContext"]["http"]["method"]},
            "cookies": ["a=1", "b=2; Path=/sub"],
            "body": base64.b64encode(data).decode(),
            "isBase64Encoded": True,
        }
"""
ECHO_NODE = """
    const { createHash } = require('crypto');
    exports.handler = async (event) => {
        const data = Buffer.from(event.body ?? '', event.isBase64Encoded ? 'base64' : 'utf8');
        return {
            statusCode: 200,
            headers: { 'content-type': 'application/octet-stream',
                       'x-digest': createHash('sha256').update(data).digest('hex'),
                       'x-path': event.rawPath, 'x-method': event.requestContext.http.method },
            cookies: ['a=1', 'b=2; Path=/sub'],
            body: data.toString('base64'),
            isBase64Encoded: true,
        };
    };
"""
ECHO_SHELL = """
cat >/tmp/body
printf 'Content-Type: application/octet-stream\\nX-Digest: %s\\nX-Path: %s\\nX-Method: %s\\n' \
    "$(sha256sum /tmp/body | cut -d' ' -f1)" "$PATH_INFO" "$REQUEST_METHOD"
printf 'Set-Cookie: a=1\\nSet-Cookie: b=2; Path=/sub\\n\\n'
cat /tmp/body
"""
KINDS = ["shell", "python", "node"]


def echo(server: Server, kind: str) -> Function:
    if kind == "shell":
        return server.deploy(ECHO_SHELL)
    if kind == "node" and shutil.which("node") is None:
        pytest.skip("node is not installed")
    make = sample_runtimes.python if kind == "python" else sample_runtimes.node
    return make(server, ECHO_PYTHON if kind == "python" else ECHO_NODE)


@promise("U2")
@pytest.mark.parametrize("kind", KINDS)
def test_any_bytes_arrive_and_come_back(shared: Server, kind: str) -> None:
    site = Site(echo(shared, kind))
    bodies = [b"", b"\0", bytes(range(256)) * 4, b"{}", "Zoë".encode(), b"x" * 65_537]
    bodies.append(bytes(range(256)) * (4096 * 4))  # 4 MiB
    for body, method in zip(bodies, itertools.cycle(["POST", "PATCH", "DELETE"]), strict=False):
        answer = site.ask(method, "/a%20b/c?x=1", content=body)
        assert answer.status_code == 200, answer.text
        assert answer.content == body
        assert answer.headers["x-digest"] == hashlib.sha256(body).hexdigest()
        assert answer.headers["x-method"] == method
        assert answer.headers["x-path"] == ("/a b/c" if kind == "shell" else "/a%20b/c")
        cookies = answer.headers.get_list("set-cookie")
        assert cookies == [f"a=1; Path={site.path}", f"b=2; Path={site.path}/sub"]
        assert answer.headers["content-security-policy"].endswith(
            "sandbox allow-scripts allow-forms"
        )


# --- streams -----------------------------------------------------------------------------------

# These handlers wait after each part until they are woken.
STREAMS = {
    "shell": "printf 'Status: 201\\nX-A: b\\n\\n'; for n in 0 1 2; do echo $n; sleep 60 || :; done",
    "python": """
        import subprocess
        def handler(event):
            yield {"statusCode": 201, "headers": {"x-a": "b"}}
            for number in range(3):
                yield f"{number}\\n"
                subprocess.run(["sleep", "60"])
    """,
    "node": """
        const { execFile } = require('child_process');
        exports.handler = async function* () {
            yield { statusCode: 201, headers: { 'x-a': 'b' } };
            for (let number = 0; number < 3; number++) {
                yield `${number}\\n`;
                await new Promise((resolve) => execFile('sleep', ['60'], resolve));
            }
        };
    """,
}


def streaming(server: Server, kind: str, source: str | None = None) -> Function:
    source = source or STREAMS[kind]
    if kind == "shell":
        return server.deploy(source)
    if kind == "node" and shutil.which("node") is None:
        pytest.skip("node is not installed")
    return getattr(sample_runtimes, kind)(server, source)


@promise("U11")
@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_is_seen_while_it_is_written(shared: Server, kind: str) -> None:
    site = Site(streaming(shared, kind), stream=True)
    with httpx.stream("GET", site.url, timeout=scaled(60)) as answer:
        assert (answer.status_code, answer.headers["x-a"]) == (201, "b")
        pieces = answer.iter_raw()
        for number in range(3):
            assert next(pieces) == b"%d\n" % number
            shared.wake()  # the client has the part before the handler writes the next one
        assert list(pieces) == []


@promise("U11")
def test_a_stream_that_fails_ends_without_its_end(shared: Server) -> None:
    function = shared.deploy("echo begun; sleep 0.2; exit 3")
    site = Site(function, stream=True)
    response = raw(shared.url, request("GET", site.path, {"Connection": "close"}))
    assert statuses(response) == [200]
    assert b"begun\n" in response
    assert not response.endswith(b"0\r\n\r\n"), "it must not look whole"
    assert Site(function).get().status_code == 502


def test_a_reader_that_leaves_a_stream_leaves_nothing(shared: Server) -> None:
    function = shared.deploy("i=0; while [ $i -lt 40 ]; do echo $i; sleep 0.02; i=$((i+1)); done")
    site = Site(function, stream=True)
    with httpx.stream("GET", site.url) as answer:
        next(answer.iter_raw())
    until(lambda: [one["status"] for one in function.records().values()] == ["success"])


# --- attacks -----------------------------------------------------------------------------------

INJECTIONS = {
    "python": [
        '{"statusCode": 200, "headers": {"x-a": "b\\r\\nSet-Cookie: evil=1"}}',
        '{"statusCode": 200, "headers": {"x-a\\r\\nx-evil": "b"}}',
        '{"statusCode": 200, "headers": {"x-a": "b\\nx-evil: 1"}}',
        '{"statusCode": 200, "cookies": ["a=b\\r\\nx-evil: 1"]}',
        '{"statusCode": "200 OK\\r\\nx-evil: 1"}',
        '{"statusCode": 101, "headers": {"upgrade": "websocket"}}',
    ],
    "shell": ["Status: 200\nX-A: b\rX-Evil: 1\n\n", "Status: 200 OK\rX-Evil: 1\n\n"],
}


@promise("U6")
def test_a_handler_brings_no_line_of_its_own_into_an_answer(shared: Server) -> None:
    source = "def handler(event): return event['body']\n"
    sites = {
        "python": Site(sample_runtimes.python(shared, source)),
        "shell": Site(shared.deploy("cat")),
    }
    for kind, vectors in INJECTIONS.items():
        for vector in vectors:
            text = {"content-type": "text/plain"}
            answer = sites[kind].ask("POST", content=vector, headers=text)
            assert answer.status_code in (200, 502), vector
            assert "x-evil" not in answer.headers, vector
            assert "evil" not in answer.headers.get("set-cookie", ""), vector
    # Control: a header without a line break arrives, so it is the check that stops the others.
    plain = sites["shell"].ask("POST", content="Status: 200\nX-Evil: 1\n\n")
    assert plain.headers["x-evil"] == "1"


@promise("U6")
def test_a_handler_lies_about_no_length(shared: Server) -> None:
    site = Site(shared.deploy("cat"))
    lies = b"Status: 200\nContent-Length: 1\nTransfer-Encoding: chunked\n"
    lies += b"Connection: keep-alive\n\nhello"
    lie = request("POST", site.path, {"Content-Length": str(len(lies))}, lies)
    response = raw(shared.url, lie + request("GET", site.path, {"Connection": "close"}))
    assert statuses(response) == [200, 200]
    first, _, _ = response.partition(b"hello")
    assert first.lower().count(b"content-length: 5\r\n") == 1
    assert b"transfer-encoding" not in first.lower()


def smuggled(path: str) -> Iterator[bytes]:
    """Requests with another request in their bodies, framed in ways that two parsers read
    differently.
    """
    hidden = request("GET", f"{path}/phantom")
    size = str(len(hidden))
    for headers in (
        {"Content-Length": size, "Transfer-Encoding": "chunked"},
        {"Transfer-Encoding": "xchunked", "Content-Length": size},
        {"Transfer-Encoding": "chunked, identity"},
        {"Content-Length": f"+{size}"},
        {"Content-Length": "0, " + size},
    ):
        yield request("POST", path, headers, b"0\r\n\r\n" + hidden)
    for method in ("GET", "DELETE", "PATCH", "PROPFIND", "OPTIONS", "HEAD", "POST"):
        yield request(method, path, {"Content-Length": size}, hidden)


@promise("U7")
def test_no_request_hides_in_the_body_of_another(shared: Server) -> None:
    path = Site(shared.deploy("echo $PATH_INFO; cat >/dev/null")).path
    for answer in [shared.later(raw, shared.url, one, 1.0) for one in smuggled(path)]:
        assert b"/phantom\n" not in answer.result()
        assert len(statuses(answer.result())) <= 1, answer.result()
    again = raw(shared.url, request("GET", f"{path}/phantom", {"Connection": "close"}))
    assert b"/phantom\n" in again, "the request by itself is answered"


@promise("U7")
def test_no_path_leads_elsewhere(shared: Server) -> None:
    path = Site(shared.deploy("echo in $PATH_INFO")).path
    base = path.rsplit("/", 1)[0]
    for target in (
        f"{path}/../../../api/functions",
        f"{path}/%2e%2e/%2e%2e/api/functions",
        f"{path}/..%2f..%2fapi",
        f"{path}/a/./b",
        f"{path}%2f..%2f..%2fapi",
        f"{base}/%2e%2e/api/functions",
        "/fn/../api/functions",
        "/fn/%2e%2e/api/functions",
        "/fn%2f..%2fapi/functions",
        "//fn/default",
    ):
        response = raw(shared.url, request("GET", target, {"Connection": "close"}))
        assert statuses(response)[0] in (400, 404), target
        assert b'"functions"' not in response
        assert b"in /" not in response, target
    response = raw(shared.url, request("GET", f"{path}/a/b", {"Connection": "close"}))
    assert b"in /a/b\n" in response


@promise("U8")
def test_a_shell_has_nothing_of_httpoxy(shared: Server) -> None:
    site = Site(shared.deploy("env"))
    headers = {
        "Proxy": "http://evil.example",
        "PATH": "/evil",
        "LD_PRELOAD": "/evil",
        "X_Y": "evil",
    }
    answer = site.ask("GET", headers=headers)
    assert "PROXY" not in answer.text
    assert "X_Y" not in answer.text
    variables = dict(line.partition("=")[::2] for line in answer.text.splitlines())
    assert "evil" not in variables["PATH"]
    assert "LD_PRELOAD" not in variables
    assert variables["HTTP_PATH"] == "/evil"
    assert variables["GATEWAY_INTERFACE"] == "CGI/1.1"


# --- adapters from package registries ----------------------------------------------------------


@promise("U10")
def test_flask_behind_apig_wsgi(shared: Server, tmp_path: Path) -> None:
    source = """
    from apig_wsgi import make_lambda_handler
    from flask import Flask, Response, request, session

    app = Flask(__name__)
    app.secret_key = "x"

    @app.route("/items/<name>", methods=["GET", "POST"])
    def item(name):
        session["seen"] = name
        return {"name": name, "args": request.args.to_dict(flat=False),
                "json": request.get_json(silent=True),
                "host": request.host, "scheme": request.scheme}

    @app.route("/raw", methods=["PUT"])
    def raw():
        return Response(request.get_data()[::-1], 201, content_type="image/x")

    handler = make_lambda_handler(app)
    """
    files = {"main.py": source, "requirements.txt": "apig-wsgi\nflask"}
    site = Site(deploy(shared, tmp_path, files))
    answer = site.ask("POST", "/items/a%20b?x=1&x=2", json={"k": [1]})
    assert answer.status_code == 200, answer.text
    host = urlsplit(shared.url).netloc
    assert answer.json() == {
        "name": "a b",
        "args": {"x": ["1", "2"]},
        "json": {"k": [1]},
        "host": host,
        "scheme": "http",
    }
    assert answer.headers["set-cookie"].endswith(f"Path={site.path}")
    binary = site.ask("PUT", "/raw", content=bytes(range(256)))
    assert (binary.status_code, binary.content) == (201, bytes(range(256))[::-1])
    assert binary.headers["content-type"] == "image/x"
    assert site.get("/none").status_code == 404


@promise("U10")
def test_fastapi_behind_mangum(shared: Server, tmp_path: Path) -> None:
    source = """
    from fastapi import FastAPI, Request, Response
    from mangum import Mangum

    app = FastAPI()

    @app.post("/items/{name}", status_code=201)
    async def item(name: str, request: Request, response: Response):
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return {"name": name, "size": len(await request.body()), "url": str(request.url.path),
                "cookie": request.cookies.get("c")}

    handler = Mangum(app, lifespan="off")
    """
    files = {"main.py": source, "requirements.txt": "fastapi\nmangum"}
    site = Site(deploy(shared, tmp_path, files))
    headers = {"cookie": "c=3", "content-type": "application/octet-stream"}
    answer = site.ask("POST", "/items/a%20b", content=bytes(range(256)), headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.json() == {"name": "a b", "size": 256, "url": "/items/a b", "cookie": "3"}
    assert len(answer.headers.get_list("set-cookie")) == 2


@promise("U10")
def test_express_behind_serverless_http(shared: Server, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    source = """
    const express = require('express');
    const serverless = require('serverless-http');
    const app = express();
    app.use(express.json());
    app.post('/items/:name', (request, response) => {
        response.cookie('a', '1').status(201)
            .json({ name: request.params.name, x: request.query.x, body: request.body });
    });
    exports.handler = serverless(app);
    """
    wanted = {"express": "^4.21.0", "serverless-http": "^3.2.0"}
    package = {"name": "x", "version": "1.0.0", "dependencies": wanted}
    files = {"main.js": source, "package.json": json.dumps(package)}
    site = Site(deploy(shared, tmp_path, files, kind="node"))
    answer = site.ask("POST", "/items/a%20b?x=1", json={"k": [1]})
    assert answer.status_code == 201, answer.text
    assert answer.json() == {"name": "a b", "x": "1", "body": {"k": [1]}}
    assert answer.headers["set-cookie"] == f"a=1; Path={site.path}"
