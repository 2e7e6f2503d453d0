"""The drivers of stories on real sandboxes: one with a new server per story, and one with three
nodes of a fleet, which sends each request to any of them.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import httpx

import postgresql
from e2e.server import Server, until, watched
from fleet.front import fronted
from service.story_machine import StoryMachine

ANSWER_S = 60.0
BEGUN_S = 0.03  # the time in which a request should reach its handler or its queue, in seconds


class RealRunning:
    """A request that is sent by a separate thread."""

    def __init__(self, answer: Future[httpx.Response | None]) -> None:
        self._answer = answer

    def done(self) -> bool:
        return self._answer.done()

    def answer(self) -> httpx.Response | None:
        return self._answer.result(ANSWER_S)


class RealDriver:
    """Drives a real server. `speed` is ignored, since real sandboxes take their own time. At the
    end, checks that nothing is left on the host.
    """

    slow, delays, is_fleet = (0.2, 0.7, 1.5), (0, 0, 1, 2), False

    def __init__(self, _speed: int) -> None:
        self._open = contextlib.ExitStack()
        self._nodes = [self._open.enter_context(watched("--prewarmed 0")).start()]

    @property
    def _http(self) -> httpx.Client:
        return self._nodes[0].http

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        return self._http.request(method, path, json=body, headers=headers)

    def unix(self) -> float:
        return time.time()

    def runs(self, _invocation_id: str) -> None:
        return None

    def start_call(self, method: str, path: str, body: Any = None) -> RealRunning:
        client = self._http  # the client of this run of the server

        def send() -> httpx.Response | None:
            try:
                return client.request(method, path, json=body)
            except httpx.TransportError:
                return None

        running = RealRunning(self._nodes[0].later(send))
        self.wait(BEGUN_S)
        return running

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def kill_sandbox(self, which: int) -> bool:
        found = [
            (name, guest, listed(node))
            for node in self._nodes
            for name, guest in sorted(node.guests().items())
        ]
        if not found:
            return False
        name, guest, where = found[which % len(found)]
        with contextlib.suppress(ProcessLookupError):
            os.kill(guest, signal.SIGKILL)
        # The directory is gone once the server has noticed the end and removed the sandbox.
        until(lambda: not (where / name).exists())
        return True

    def restart(self, *, kill: bool) -> None:
        start_again(self._nodes[0], kill=kill)

    def sandboxes(self) -> int:
        return sum(len(list(listed(node).glob("*/status"))) for node in self._nodes)

    def of_function(self, _key: str) -> None:
        return None

    def complaints(self) -> list[str]:
        said = [line for node in self._nodes for line in node.log.read_text().splitlines()]
        return [line for line in said if is_complaint(line)]

    def close(self) -> None:
        self._open.close()


class FleetDriver(RealDriver):
    """Drives a fleet. Each request goes to one of three nodes; each restart restarts the next
    node.
    """

    is_fleet = True
    _names = itertools.count(1)

    def __init__(self, _speed: int) -> None:
        self._open = contextlib.ExitStack()
        cluster, name = postgresql.running(), f"story{next(self._names)}"
        self._open.callback(cluster.drop, name)
        directory = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        served = fronted(cluster, name, "--prewarmed 0", directory)
        self._nodes, front = self._open.enter_context(served)
        self._turn = itertools.cycle(self._nodes)
        self._client = self._open.enter_context(front.client())

    @property
    def _http(self) -> httpx.Client:
        return self._client

    def restart(self, *, kill: bool) -> None:
        start_again(next(self._turn), kill=kill)


def start_again(server: Server, *, kill: bool) -> None:
    if kill:
        server.kill_server()
        assert server.wait(20) == 70
        server.start()
    else:
        server.restart()


def listed(server: Server) -> Path:
    """The OCI runtime's state: each sandbox in the runtime's list has a directory with its status
    there.
    """
    return server.sandbox_files / "crun"


class RealStories(StoryMachine):
    tell = RealDriver
    waits = (0.0, 0.02, 0.3, 1.0)
    heard: ClassVar[Counter[str]] = Counter()


class FleetStories(RealStories):
    tell = FleetDriver
    heard: ClassVar[Counter[str]] = Counter()


def is_complaint(line: str) -> bool:
    """Whether a line of the server's log is an error, or begins a traceback that is not JSON."""
    try:
        return json.loads(line)["level"] in ("error", "critical")
    except (ValueError, KeyError, TypeError):
        return "Traceback" in line
