"""Third-party packages from their registries, behind a function."""

import base64
import json
import shutil
import struct
import textwrap
import time
import zlib
from pathlib import Path
from typing import Any

import pytest

from e2e.server import Function, Server, quiltfn
from timeouts import scaled

pytestmark = pytest.mark.sandbox


def deploy(
    server: Server, directory: Path, files: dict[str, str], *, kind: str = "python", **fields: Any
) -> Function:
    """Adds the runtime by the command line, as a user does, and deploys a function with it. Its
    handler is `main:handler`, unless `fields` has another one.
    """
    for name, text in files.items():
        (directory / name).write_text(textwrap.dedent(text))
    name = f"real-{directory.name.strip('_').replace('_', '-').lower()[:40].strip('-')}"
    url = ("--url", server.url)
    made = quiltfn(
        "runtimes", "add", name, "--kind", kind, "--dir", str(directory), *url, timeout_s=240
    )
    if "could not be installed" in made.stderr and is_unreachable(made.stderr):
        pytest.skip(f"no registry of packages: {made.stderr[-300:]}")
    assert made.code == 0, made.stderr
    return server.deploy(fields.pop("handler", "main:handler"), runtime=name, **fields)


def is_unreachable(text: str) -> bool:
    words = ("dns error", "client error (Connect)", "Temporary failure", "ENOTFOUND", "ETIMEDOUT")
    return any(word in text for word in words)


def answer(record: dict[str, Any]) -> Any:
    assert record["status"] == "success", record
    return json.loads(record["stdout"])


KEEP = pytest.mark.parametrize("cleanup", [True, False], ids=["forks", "keeps"])


@KEEP
def test_numpy(shared: Server, tmp_path: Path, cleanup: bool) -> None:
    source = """
    import numpy as np

    def handler(event, context):
        matrix = np.array(event["matrix"], dtype=float)
        values = np.linalg.eigvalsh(matrix @ matrix.T)
        return {"shape": matrix.shape, "largest": round(float(values.max()), 6),
                "random": float(np.random.default_rng().random()), "old": float(np.random.rand())}
    """
    files = {"main.py": source, "requirements.txt": "numpy"}
    function = deploy(shared, tmp_path, files, cleanup_on_exit=cleanup)
    calls = [answer(function.invoke('{"matrix": [[3, 0], [0, 4]]}')) for _ in range(3)]
    assert [(one["shape"], one["largest"]) for one in calls] == [([2, 2], 16.0)] * 3
    assert len({one["random"] for one in calls}) == 3
    assert len({one["old"] for one in calls}) == 3


def test_pillow(shared: Server, tmp_path: Path) -> None:
    source = """
    import base64
    import io
    from PIL import Image, ImageFilter

    def handler(event, context):
        picture = Image.open(io.BytesIO(base64.b64decode(event["image"])))
        small = picture.convert("L").filter(ImageFilter.BLUR).resize((8, 8))
        out = io.BytesIO()
        small.save(out, "PNG")
        return out.getvalue() if event.get("raw") else base64.b64encode(out.getvalue()).decode()
    """
    function = deploy(shared, tmp_path, {"main.py": source, "requirements.txt": "pillow"})
    event = json.dumps({"image": base64.b64encode(picture(64)).decode()})
    record = function.invoke(event)
    assert record["status"] == "success", record
    made = base64.b64decode(record["stdout"])
    assert made.startswith(b"\x89PNG")
    assert struct.unpack(">II", made[16:24]) == (8, 8)


def picture(size: int) -> bytes:
    """A red PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    rows = (b"\0" + b"\xff\0\0" * size) * size
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_jinja2(shared: Server, tmp_path: Path) -> None:
    source = """
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    pages = Environment(loader=FileSystemLoader("/app/templates"), autoescape=select_autoescape())

    def handler(event, context):
        return pages.get_template("page.html").render(**event)
    """
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "page.html").write_text(
        "<h1>{{ title }}</h1>{% for item in items %}<li>{{ item }}</li>{% endfor %}"
    )
    function = deploy(shared, tmp_path, {"main.py": source, "requirements.txt": "jinja2"})
    record = function.invoke('{"title": "<T>", "items": [1, 2]}')
    assert record["stdout"] == "<h1>&lt;T&gt;</h1><li>1</li><li>2</li>"


def test_networkx(shared: Server, tmp_path: Path) -> None:
    source = """
    import networkx as nx

    def handler(event, context):
        graph = nx.barabasi_albert_graph(event["nodes"], 3, seed=1)
        return {"components": nx.number_connected_components(graph),
                "path": len(nx.shortest_path(graph, 0, event["nodes"] - 1))}
    """
    function = deploy(shared, tmp_path, {"main.py": source, "requirements.txt": "networkx"})
    assert answer(function.invoke('{"nodes": 500}')) == {"components": 1, "path": 3}


WSGI = '''
"""Any WSGI application behind a function: the event is a request, the answer a response."""

import io
import sys

from werkzeug.testapp import test_app


def handler(event, context):
    body = event.get("body", "").encode()
    environ = {
        "REQUEST_METHOD": event.get("method", "GET"),
        "PATH_INFO": event.get("path", "/"),
        "QUERY_STRING": event.get("query", ""),
        "CONTENT_LENGTH": str(len(body)),
        "SERVER_NAME": "function",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in event.get("headers", {}).items():
        environ["HTTP_" + name.upper().replace("-", "_")] = value
    started = []
    parts = test_app(environ, lambda status, headers, _=None: started.append((status, headers)))
    text = b"".join(parts).decode()
    status, headers = started[0]
    return {"status": int(status.split()[0]), "headers": dict(headers), "body": text}
'''


def test_a_wsgi_application(shared: Server, tmp_path: Path) -> None:
    function = deploy(shared, tmp_path, {"main.py": WSGI, "requirements.txt": "werkzeug"})
    seen = answer(function.invoke('{"path": "/here", "query": "a=1", "headers": {"X-Y": "z"}}'))
    assert seen["status"] == 200
    assert seen["headers"]["Content-Type"].startswith("text/html")
    assert "WSGI Information" in seen["body"]
    assert "/here" in seen["body"]


def test_a_package_of_npm(shared: Server, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    source = """
    const _ = require('lodash');
    exports.handler = (event) => _.mapValues(_.groupBy(event.words, 'length'), _.size);
    """
    package = '{"name": "x", "version": "1.0.0", "dependencies": {"lodash": "4.17.21"}}'
    files = {"main.js": source, "package.json": package}
    function = deploy(shared, tmp_path, files, kind="node")
    assert answer(function.invoke('{"words": ["a", "bb", "c"]}')) == {"1": 2, "2": 1}


def test_from_an_empty_directory_to_the_first_answer(shared: Server, tmp_path: Path) -> None:
    """With one dependency, all by the command line, as in the tutorial."""
    began = time.monotonic()
    (tmp_path / "main.py").write_text("import six\ndef handler(event): return six.__name__\n")
    (tmp_path / "requirements.txt").write_text("six\n")
    url = ("--url", shared.url)
    for command in (
        ("runtimes", "add", "first", "--kind", "python", "--dir", str(tmp_path)),
        ("functions", "create", "first-try", "--handler", "main:handler", "--runtime", "first"),
        ("functions", "deploy", "first-try"),
        ("invoke", "first-try"),
    ):
        done = quiltfn(*command, *url, timeout_s=120)
        assert done.code == 0, done.stderr
    assert done.stdout.strip() == "six"
    assert time.monotonic() - began < scaled(30)
    quiltfn("functions", "delete", "first-try", "--yes", *url)
