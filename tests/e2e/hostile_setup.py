"""The environment of hostile handlers: a server with two tenants, a monitored victim, and a
monitored host.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e import oracle
from e2e.oracle import Victim
from e2e.server import CRUN, IN_FULL, Function, Server, until, watched
from spec.api_client import make_key
from timeouts import scaled

CGROUPS = Path("/sys/fs/cgroup")


def times(few: int, many: int) -> int:
    """The number of attempts: `few` in scripts/test, `many` in `scripts/soak hostile`."""
    return many if IN_FULL else few


@dataclass
class Ground:
    """`server` sends requests as the attacker's tenant. `canaries`: the content of each canary on
    the host.
    """

    server: Server
    victim: Victim
    canaries: dict[Path, str]


@contextmanager
def serving(crun: str = CRUN, options: str = "--prewarmed 0") -> Iterator[Server]:
    """A server with keys, whose requests are those of the tenant `attacker`."""
    with watched(options, crun=crun) as server:
        attacker = make_key(server, "--tenant", "attacker", "--scope", "operator")["key"]
        server.start().http.headers["X-Api-Key"] = attacker
        yield server


@contextmanager
def ground() -> Iterator[Ground]:
    """Yields the environment. At the end, checks that the host is unchanged, and that the victim
    was not affected.
    """
    with ExitStack() as stack:
        server = stack.enter_context(serving())
        places = (Path("/"), Path("/root"), Path("/tmp"), server.data_dir)
        planted = stack.enter_context(oracle.canaries(*places))
        before = oracle.look(planted)
        key = make_key(server, "--tenant", "victim", "--scope", "write")["key"]
        until_known(server, key)
        victim = Victim(server.url, key)
        with victim:
            yield Ground(server, victim, planted)
        print(f"\n{victim}")
        changed = oracle.difference(before, oracle.look(planted))
        assert not changed, changed
        assert not victim.failures, victim.failures
        assert oracle.p99(victim.under_attack_ms) <= victim.bound_ms + scaled(oracle.TOLERANCE_MS)


def until_known(server: Server, key: str) -> None:
    """Waits until the server accepts a new key, which takes up to a second."""
    headers = {"X-Api-Key": key}
    until(lambda: server.http.get("/api/functions", headers=headers).status_code == 200)


def script(code: str) -> str:
    """A handler of the shell runtime that runs a Python program."""
    return f"exec python3 - <<'END'\n{code}\nEND"


def of_another_tenant(server: Server, tenant: str) -> Callable[..., Any]:
    """Returns a function like `server.call` that sends requests of the given tenant."""
    key = make_key(server, "--tenant", tenant, "--scope", "write")["key"]
    until_known(server, key)

    def call(method: str, path: str, body: Any = None) -> Any:
        return server.http.request(method, path, json=body, headers={"X-Api-Key": key})

    return call


class Meter(threading.Thread):
    """Measures the peaks of the sandboxes' control groups. `pids`: the most processes of one
    sandbox; `memory`: the most bytes of one. `host_drop`: by how much the machine's available
    memory fell.
    """

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server, self._done = server, threading.Event()
        self.pids = self.memory = self.host_drop = self.looks = 0

    def __enter__(self) -> Meter:
        self._before = available()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        while not self._done.wait(0.004):
            self.looks += 1
            self.pids = max([self.pids, *self._numbers("pids", "pids.current").values()])
            for name in ("memory.max_usage_in_bytes", "memory.peak"):
                self.memory = max([self.memory, *self._numbers("memory", name).values()])
            self.host_drop = max(self.host_drop, self._before - available())

    def _numbers(self, controller: str, name: str) -> dict[str, int]:
        top = CGROUPS / controller if (CGROUPS / controller).is_dir() else CGROUPS
        found = {}
        for path in (top / "quiltfn" / self._server.id).glob(f"*/{name}"):
            with suppress(OSError, ValueError):
                found[path.parent.name] = int(path.read_text())
        return found


def available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no MemAvailable")


def host_can_fork(count: int = 20) -> None:
    for _ in range(count):
        subprocess.run(["/bin/true"], check=True)


def answers_again(server: Server, function: Function, payload: str = "quick") -> None:
    """Checks that the API and the function work within five seconds of an attack."""
    began = time.monotonic()
    assert server.call("GET", "/api/functions").status_code == 200
    assert time.monotonic() - began < scaled(1)
    record = function.invoke(payload)
    assert (record["status"], record["stdout"]) == ("success", "quick\n"), record
    assert time.monotonic() - began < scaled(5)
