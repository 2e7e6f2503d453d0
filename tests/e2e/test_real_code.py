"""Functions that use third-party packages from their registries."""

import base64
import json
import shutil
import struct
import textwrap
import zlib
from pathlib import Path
from typing import Any

import pytest

from e2e.server import Function, Server, quiltfn

pytestmark = pytest.mark.sandbox


def deploy(
    server: Server, directory: Path, files: dict[str, str], *, kind: str = "python", **fields: Any
) -> Function:
    """Adds a runtime by the command line, as a user does, and deploys a function with this runtime.
    The handler is `main:handler`, unless `fields` has another one.
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


def test_numpy(shared: Server, tmp_path: Path) -> None:
    source = """
    import numpy as np

    def handler(event, context):
        matrix = np.array(event["matrix"], dtype=float)
        values = np.linalg.eigvalsh(matrix @ matrix.T)
        return {"shape": matrix.shape, "largest": round(float(values.max()), 6),
                "random": float(np.random.default_rng().random()), "old": float(np.random.rand())}
    """
    files = {"main.py": source, "requirements.txt": "numpy"}
    function = deploy(shared, tmp_path, files)
    for cleanup in (True, False):
        shared.call("PUT", function.path, {"cleanup_on_exit": cleanup})
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
    """A red PNG image."""

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
