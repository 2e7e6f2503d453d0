"""`service.story_driver.Driver` on a real server with real sandboxes, one for each story."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import httpx

from e2e.server import Server, until, watched
from service.story_machine import StoryMachine

ANSWER_S = 60.0
BEGUN_S = 0.03  # what a request has to get to its handler, or in line


class RealRunning:
    """A request in a thread of its own."""

    def __init__(self, answer: Future[httpx.Response | None]) -> None:
        self._answer = answer

    def done(self) -> bool:
        return self._answer.done()

    def answer(self) -> httpx.Response | None:
        return self._answer.result(ANSWER_S)


class RealDriver:
    """Every `speed` is this machine's own. At the end the host is asked what is left."""

    slow, delays = (0.2, 0.7, 1.5), (0, 0, 1, 2)

    def __init__(self, _speed: int) -> None:
        self._open = contextlib.ExitStack()
        self._server: Server = self._open.enter_context(watched("--prewarmed 0"))
        self._server.start()

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        return self._server.http.request(method, path, json=body, headers=headers)

    def unix(self) -> float:
        return time.time()

    def runs(self, _invocation_id: str) -> None:
        return None

    def start_call(self, method: str, path: str, body: Any = None) -> RealRunning:
        client = self._server.http  # of this life of the server

        def send() -> httpx.Response | None:
            try:
                return client.request(method, path, json=body)
            except httpx.TransportError:
                return None

        running = RealRunning(self._server.later(send))
        self.wait(BEGUN_S)
        return running

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def kill_sandbox(self, which: int) -> bool:
        found = sorted(self._server.guests().items())
        if not found:
            return False
        name, guest = found[which % len(found)]
        with contextlib.suppress(ProcessLookupError):
            os.kill(guest, signal.SIGKILL)
        # The server has it removed once it knows.
        until(lambda: not (self._listed / name).exists())
        return True

    def restart(self, *, kill: bool) -> None:
        if kill:
            self._server.kill_server()
            assert self._server.wait(20) == 70
            self._server.start()
        else:
            self._server.restart()

    def sandboxes(self) -> int:
        return len(list(self._listed.glob("*/status")))

    def of_function(self, _key: str) -> None:
        return None

    def complaints(self) -> list[str]:
        said = self._server.log.read_text().splitlines()
        return [line for line in said if is_complaint(line)]

    def close(self) -> None:
        self._open.close()

    @property
    def _listed(self) -> Path:
        """Where the OCI runtime has what it lists: a directory with a status for each."""
        return self._server.sandbox_files / "crun"


class RealStories(StoryMachine):
    tell = RealDriver
    waits = (0.0, 0.02, 0.3, 1.0)
    heard: ClassVar[Counter[str]] = Counter()


def is_complaint(line: str) -> bool:
    """Of the server's log: a mistake of its own, or what is no line of the log at all."""
    try:
        return json.loads(line)["level"] in ("error", "critical")
    except (ValueError, KeyError, TypeError):
        return "Traceback" in line
