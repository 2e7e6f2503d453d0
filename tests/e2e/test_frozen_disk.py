"""A disk that accepts no writes: every write to its files blocks."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from e2e.server import Server, until
from promises import promise
from timeouts import scaled

pytestmark = [pytest.mark.sandbox, promise("D25")]


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def a_disk(file: Path, at: Path) -> Iterator[None]:
    """Mounts an ext4 file system that is in a file."""
    file.write_bytes(b"")
    subprocess.run(["truncate", "-s", "256M", file], check=True)
    run("mkfs.ext4", "-q", str(file))
    at.mkdir()
    run("mount", "-o", "loop", str(file), str(at))
    (at / "lost+found").rmdir()
    try:
        yield
    finally:
        run("umount", str(at))


@contextlib.contextmanager
def frozen(at: Path) -> Iterator[None]:
    run("fsfreeze", "-f", str(at))
    try:
        yield
    finally:
        run("fsfreeze", "-u", str(at))


def a_disk_or_none(image: Path, at: Path) -> contextlib.ExitStack:
    """Mounts `a_disk`; skips the test if that is not possible."""
    disk = contextlib.ExitStack()
    try:
        disk.enter_context(a_disk(image, at))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no file system of its own: {error.stderr!r}")
    return disk


def test_health_answers_without_a_disk(another: Callable[..., Server], tmp_path: Path) -> None:
    server = another()
    with a_disk_or_none(tmp_path / "disk", server.data_dir):
        server.start()
        function = server.deploy("echo hello")
        function.invoke()
        with frozen(server.data_dir):
            waiting = server.later(function.try_invoke)
            time.sleep(2.5)
            began = time.monotonic()
            assert httpx.get(f"{server.url}/health", trust_env=False).json() == {"status": "ok"}
            for path in ("/api/functions/health", "/api/functions", function.path):
                answer = httpx.get(server.url + path, trust_env=False)
                assert (answer.status_code, answer.json()["error_code"]) == (
                    503,
                    "STORE_UNAVAILABLE",
                )
                assert "disk" in answer.json()["error"]
                assert int(answer.headers["retry-after"]) >= 1
            create = {"name": "late", "handler": "echo", "environment": {"LONG": "x" * 100_000}}
            answer = httpx.post(f"{server.url}/api/functions", json=create, trust_env=False)
            assert answer.status_code == 503
            assert time.monotonic() - began < scaled(3)
            assert not waiting.done()
        assert waiting.result(scaled(20)).json()["stdout"] == "hello\n"
        server.until_ready()
        names = {one["name"] for one in server.call("GET", "/api/functions").json()["functions"]}
        assert "late" not in names
        until(lambda: "takes writes again" in server.log.read_text())
        server.stop()


def test_an_idle_server_answers_without(another: Callable[..., Server], tmp_path: Path) -> None:
    """The server is idle when the disk freezes, so its event loop is free, and the server reports
    the problem itself.
    """
    server = another()
    with a_disk_or_none(tmp_path / "disk", server.data_dir):
        server.start()
        function = server.deploy("echo hello")
        with frozen(server.data_dir):
            began = time.monotonic()
            report = server.call("GET", "/api/functions/health").json()
            assert time.monotonic() - began < scaled(6)
            assert not report["ready"]
            assert not report["checks"]["store"]["ok"]
            assert server.call("GET", function.path).status_code == 200
        server.until_ready()
        server.stop()
