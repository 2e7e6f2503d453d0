"""LD_PRELOAD only affects the handler: no other process loads the library."""

import contextlib
import itertools
import os
import signal
import sysconfig
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from e2e.leftovers import UIDS
from e2e.server import CRUN, Function, Server, children, status_of, until
from promises import promise
from timeouts import scaled

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.usefixtures("anybody"),  # deletes the functions at the end
    pytest.mark.one_server("it looks at one server's processes"),
]
# The library exists, since it is a part of libc, and no program is linked with it.
LIBRARY = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/libBrokenLocale.so.1"
VARIABLE = {"LD_PRELOAD": LIBRARY}
# The shell prints its memory maps, and then sleeps so that the test can examine it from outside.
HANDLER = 'while read -r line; do echo "$line"; done </proc/self/maps; sleep 60; echo on'
HANDLER_ID = 1000
CRUNS, STARTS_MAX = 5, 100


class Watch(threading.Thread):
    """Repeatedly reads the memory maps and environments of all processes around a server.

    `looks`: how often each role was examined: launcher, server, handler, or the name of another
    program, such as guest or crun. `cruns`: the pids of OCI runtimes. `found`: the roles with the
    library in their memory maps. `given`: the roles with its name in their environment.
    """

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server, self._done = server, threading.Event()
        self.looks: defaultdict[str, int] = defaultdict(int)
        self.found: set[str] = set()
        self.given: set[str] = set()
        self.cruns: set[int] = set()

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        """Reads the processes until the end. An OCI runtime lives for only 20 ms, so it is searched
        a hundred times as often as the others.
        """
        turn = 0
        while not self._done.is_set():
            for pid in below(self._server.launcher):
                if turn % 100 == 0 or pid not in (self._server.launcher, self._server.pid):
                    self._look(pid)
            if turn % 100 == 0:
                for pid in itertools.chain(*self._server.sandbox_pids().values()):
                    self._look(pid)
            turn += 1

    def _look(self, pid: int) -> None:
        with contextlib.suppress(OSError):
            role = self._role(pid)
            maps = Path(f"/proc/{pid}/maps").read_text()
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            # The process ended, or executed another program, while it was read.
            if not maps or role != self._role(pid):
                return
            self.looks[role] += 1
            if role == "crun":
                self.cruns.add(pid)
            if LIBRARY in maps:
                self.found.add(role)
            if LIBRARY.encode() in environment:
                self.given.add(role)

    def _role(self, pid: int) -> str:
        if pid in (self._server.launcher, self._server.pid):
            return "launcher" if pid == self._server.launcher else "server"
        uid = int(status_of(pid)["Uid"].split()[0])
        if uid in UIDS and (uid - UIDS[0]) % 65_536 == HANDLER_ID:
            return "handler"
        return Path(f"/proc/{pid}/comm").read_text().strip().removeprefix(".")


def below(pid: int) -> Iterator[int]:
    yield pid
    for child in children(pid):
        yield from below(child)


@pytest.fixture(autouse=True)
def _library() -> None:
    if not Path(LIBRARY).exists():
        pytest.skip(f"needs {LIBRARY}")


def watched_call(server: Server, function: Function, **body: Any) -> tuple[Watch, dict[str, Any]]:
    """Runs an invocation, and watches until each role was examined often enough."""
    with Watch(server) as watch:
        call = server.later(function.invoke, **body)
        until(lambda: min(watch.looks[role] for role in ("guest", "handler", "server")) >= 5)
        for pid in server.named("sleep"):
            os.kill(pid, signal.SIGKILL)
        record = call.result(scaled(10))
    assert record["status"] == "success", record
    assert record["stdout"].endswith("on\n")
    return watch, record


@promise("F14")
@pytest.mark.parametrize("when", ["function", "call"])
def test_a_preloaded_library_is_in_handlers_alone(open_server: Server, when: str) -> None:
    fields = {"environment": VARIABLE}
    function = open_server.deploy(HANDLER, **(fields if when == "function" else {}))
    watch, record = watched_call(open_server, function, **(fields if when == "call" else {}))
    function.delete()
    assert LIBRARY in record["stdout"]
    print(dict(watch.looks))
    assert watch.found == {"handler"}
    assert watch.given == {"handler"}


def test_the_next_call_is_free_of_it(open_server: Server) -> None:
    """Another control of the test above: without the variable, no process loads the library."""
    function = open_server.deploy(HANDLER, max_instances=1)
    watched_call(open_server, function, environment=VARIABLE)
    watch, record = watched_call(open_server, function)
    function.delete()
    assert record["cold_start"] is False
    assert LIBRARY not in record["stdout"]
    assert (watch.found, watch.given) == (set(), set())


@promise("F14")
def test_a_sandbox_is_made_without_it(open_server: Server) -> None:
    """Functions are started until the OCI runtime itself was examined often enough."""
    with Watch(open_server) as watch:
        for _ in range(STARTS_MAX):
            function = open_server.deploy(HANDLER.replace("60", "0.1"), environment=VARIABLE)
            assert LIBRARY in function.invoke()["stdout"]
            function.delete()
            if len(watch.cruns) >= CRUNS and watch.looks["guest"]:
                break
    print(dict(watch.looks), len(watch.cruns))
    assert len(watch.cruns) >= CRUNS
    assert {"launcher", "server", "crun", "guest", "handler"} <= set(watch.looks)
    assert watch.found == {"handler"}
    assert watch.given == {"handler"}


def test_the_watch_sees_a_library_in_the_launcher_and_in_the_oci_runtime(
    another: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Negative control: the launcher and the OCI runtime are started with the variable, and `Watch`
    finds the library in both.
    """
    runtime = tmp_path / "crun"
    runtime.write_text(f'#!/bin/sh\nLD_PRELOAD={LIBRARY} exec {CRUN} "$@"\n')
    runtime.chmod(0o755)
    server = another("", partial(Server, crun=str(runtime)))
    with monkeypatch.context() as changed:
        changed.setenv("LD_PRELOAD", LIBRARY)
        server.start()
    with Watch(server) as watch:
        for _ in range(STARTS_MAX):
            server.run("echo on")
            if "crun" in watch.found:
                break
    assert {"launcher", "crun"} <= watch.found
    assert {"launcher", "crun"} <= watch.given
