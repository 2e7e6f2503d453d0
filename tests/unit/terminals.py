"""Runs commands as processes: a server for them, and a terminal in which they run."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from timeouts import scaled
from unit.test_transport import listening


@contextmanager
def serving(reply: Callable[[str, bytes], Any]) -> Iterator[str]:
    """Run a server and yield its address. `reply`: takes a path and a body, and returns the JSON of
    the response; None: 404.
    """
    with listening() as (port, kind):

        def answer(self: Any) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            found = reply(self.path.partition("?")[0], body)
            text = json.dumps(found or {"error": "no"}).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        kind.do_GET = kind.do_POST = answer
        yield f"http://127.0.0.1:{port}"


class Screen:
    """A program in its own terminal, drawn by tmux. `home`: a directory for tmux's socket."""

    def __init__(self, home: Path, command: list[str], env: Mapping[str, str]) -> None:
        self._tmux = ["tmux", "-S", str(home / "tmux"), "-f", "/dev/null"]
        size = ["-x", "120", "-y", "30"]
        env = {**env, "LC_ALL": "C.UTF-8"}
        self.run("new-session", "-d", *size, *command, env={**os.environ, **env})

    def __enter__(self) -> "Screen":
        return self

    def __exit__(self, *_: object) -> None:
        self.run("kill-server")

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            [*self._tmux, *words], check=True, capture_output=True, text=True, env=env
        )
        return done.stdout

    def text(self) -> str:
        return self.run("capture-pane", "-p")

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + scaled(20)
        while text not in (shown := self.text()):
            assert time.monotonic() < deadline, f"{text!r} is not in\n{shown}"
            time.sleep(0.02)

    def type(self, text: str, key: str, *, shows: str) -> None:
        """Type `text` and then `key`, and wait until the screen shows `shows`."""
        self.run("send-keys", "-l", text)
        self.run("send-keys", key)
        self.wait_for(shows)


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}: apt install {program}")
