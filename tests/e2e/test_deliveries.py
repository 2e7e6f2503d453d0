"""Deliveries of a real server that is killed, counted by a receiver outside of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.server import QUILTFN, Server, until
from free_ports import free_port
from promises import promise
from timeouts import scaled

pytestmark = pytest.mark.sandbox

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
CALLS = 60
ROOT = Path(__file__).parents[2]


class Counting(ThreadingHTTPServer):
    """A receiver that counts the ids that it has acknowledged with 204."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Post)
        self.ids: Counter[str] = Counter()
        self.lock = threading.Lock()


class Post(BaseHTTPRequestHandler):
    server: Counting

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:
            self.server.ids[self.headers["webhook-id"]] += 1
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def counting() -> Iterator[Counting]:
    with Counting() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_the_receiver_takes_what_is_genuine(another: Callable[..., Server], tmp_path: Path) -> None:
    """Runs the two code blocks of the page, with a different port. Their receiver accepts a
    delivery, and answers a forged request with 401.
    """
    page = (ROOT / "docs/how-to/webhooks-out.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (commands,) = re.findall(r"```sh\n(quiltfn functions async-policy.*?)```", page, re.DOTALL)
    port = str(free_port())
    (tmp_path / "hook-secret").write_text(f"{SECRET}\n")
    server = another(options="--callback-networks 127.0.0.0/8").start()
    server.deploy("echo done", name="audited")
    said = tmp_path / "said"
    with said.open("wb") as out:
        words = [sys.executable, "-c", program.replace("9000", port)]
        receiver = subprocess.Popen(words, cwd=tmp_path, stdout=out, stderr=subprocess.DEVNULL)
    try:
        until(lambda: post_to(port) == 401, 20)
        path = f"{QUILTFN.parent}:{os.environ['PATH']}"
        there = {**os.environ, "QUILT_BASE_URL": server.url, "PATH": path}
        script = ["/bin/bash", "-ec", commands.replace("9000", port)]
        subprocess.run(script, cwd=tmp_path, env=there, check=True, timeout=scaled(60))
        until(lambda: said.read_text() == "invocation.success done\n\n", 20)
    finally:
        receiver.kill()
        receiver.wait()


def post_to(port: str) -> int | None:
    """The status of the response to a forged request; None: nothing listens yet."""
    forged = {"webhook-id": "1", "webhook-timestamp": "1", "webhook-signature": "v1,eA=="}
    try:
        return httpx.post(f"http://127.0.0.1:{port}/", content=b"{}", headers=forged).status_code
    except httpx.ConnectError:
        return None


@promise("A46")
def test_every_end_arrives_despite_kills(another: Callable[..., Server]) -> None:
    server = another(options="--callback-networks 127.0.0.1/32").start()
    with counting() as receiver:
        function = server.deploy("true")
        to_url = {"url": f"http://127.0.0.1:{receiver.server_port}/hook", "secret": SECRET}
        policy = {"max_attempts": 5, "on_success": to_url}
        answer = server.call("PUT", f"{function.path}/async-policy", json=policy)
        assert answer.status_code == 200, answer.text
        accepted = 0
        for _ in range(3):
            for _ in range(CALLS // 3):
                answer = server.call("POST", f"{function.path}/invoke?mode=async")
                assert answer.status_code == 202, answer.text
                accepted += 1
            server.kill_server()
            assert server.wait(20) == 70
            server.start()

        def delivered() -> list[str]:
            path = f"{function.path}/deliveries?limit=1000&status=delivered"
            return [one["delivery_id"] for one in server.call("GET", path).json()["deliveries"]]

        until(lambda: len(delivered()) == accepted, 60)
        assert set(delivered()) == set(receiver.ids)
        assert len(receiver.ids) == accepted
        log = server.log.read_text()
    assert SECRET not in log
    assert f":{receiver.server_port}/hook" not in log
