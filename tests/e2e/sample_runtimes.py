"""Runtimes for tests, made from dictionaries of files: packed, uploaded and added."""

from __future__ import annotations

import io
import itertools
import tarfile
import textwrap
from typing import Any

from e2e.server import Function, Server

_numbers = itertools.count(1)


def pack(files: dict[str, str | bytes]) -> bytes:
    """A tar archive of the files. A file whose name ends with * becomes executable."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            data = textwrap.dedent(content).encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name.rstrip("*"))
            info.size, info.mode = len(data), 0o755 if name.endswith("*") else 0o644
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def upload(server: Server, files: dict[str, str | bytes]) -> str:
    """Uploads an image; returns its digest."""
    answer = server.http.post(
        "/api/runtimes/images", content=pack(files), headers={"content-type": "application/x-tar"}
    )
    assert answer.status_code in (200, 201), answer.text
    return str(answer.json()["digest"])


def add(
    server: Server, kind: str, files: dict[str, str | bytes], name: str | None = None, **more: Any
) -> str:
    """Adds a runtime; returns its name."""
    name = name or f"r{next(_numbers)}"
    body = {"name": name, "kind": kind, "image": upload(server, files), **more}
    answer = server.call("POST", "/api/runtimes", body)
    assert answer.status_code in (200, 201), answer.text
    return name


def python(server: Server, source: str, **fields: Any) -> Function:
    """Deploys a function: the `handler` of a Python module with this source."""
    return server.deploy("mod:handler", runtime=add(server, "python", {"mod.py": source}), **fields)


def node(server: Server, source: str, **fields: Any) -> Function:
    """Deploys a function: the `handler` that a CommonJS module with this source exports."""
    return server.deploy("mod:handler", runtime=add(server, "node", {"mod.js": source}), **fields)
