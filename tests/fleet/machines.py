"""Nodes of a fleet and their shared PostgreSQL, each on a machine of its own (a network namespace).
Each of them can be killed, stopped and cut off.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx

from e2e import leftovers
from e2e.server import QUILTFN, Function, Server, quiltfn, short_dir, until
from e2e.test_clock import Jump
from fleet.nodes import on
from fleet.replicated import Replicated, statement
from fleet_network import (
    API_PORT,
    DATABASE,
    PEER_PORT,
    STANDBY,
    Network,
    Postgres,
    database,
    network,
)
from timeouts import scaled

NAMES = ("one", "two", "three")
HOST = "host"  # the machine of clients
# the memory limit of the first function in MiB; the sandbox that a start tests has another one
FIRST_MIB = 301
AGAIN_S = 0.3  # how many seconds a service manager waits until it restarts a node

# These times are short, so that a storm of a minute has many take-overs. If the launcher is
# stopped, the server gets five seconds more.
TIMES = {"beat": 0.5, "fence": 2.0, "end": 3.0, "reap": 11.0}
REAP_S = TIMES["reap"]
TABLE = """\
table inet quiltfn_cut
delete table inet quiltfn_cut
table inet quiltfn_cut {
    chain input {
        type filter hook input priority -300; policy accept;
        DROPS
    }
}
"""


def options_of(times: dict[str, float]) -> str:
    return " ".join(f"--fleet-{name}-s {value}" for name, value in times.items())


class FleetMachine(Server):
    """A node on a machine of its own. `keep` restarts it whenever it ends."""

    def __init__(self, root: Path, name: str, reached: Network, file: Path, **more: Any) -> None:
        """`more`: arguments of `Server`. `times`: the fleet's times, as settings."""
        self.name, self.network = name, reached
        self.address = reached.address(name)
        self.jump: Jump | None = more.pop("jump", None)
        where = f"--host {self.address} --port {API_PORT} --fleet {file}"
        more["options"] = f"{where} --prewarmed 0 {more.get('options', '')}"
        program = [*reached.inside(name), *(more.pop("program", ()) or [str(QUILTFN)])]
        super().__init__(root, program=program, **more)
        self.url = f"http://{self.address}:{API_PORT}"
        # When the node became ready, by the monotonic clock; None: it is not running.
        self.up_since: float | None = None
        self.starts = 0
        self.lives: list[str] = []  # for each server of the node: when it was ready, and its id
        self.codes: list[int] = []  # the node's exit codes
        self._ends = threading.Event()
        self._keeper: threading.Thread | None = None

    def runs(self, program: Sequence[str]) -> None:
        super().runs([*self.network.inside(self.name), *program])

    def keep(self) -> None:
        """From now on, restarts the node 0.3 s after each end."""
        self._ends.clear()
        self._keeper = threading.Thread(target=self._keep)
        self._keeper.start()

    def _keep(self) -> None:
        while not self._ends.is_set():
            try:
                self.start()
            except Exception:  # the database may be unavailable: try again
                self._reaped()
            else:
                self.starts, self.up_since = self.starts + 1, time.monotonic()
                self.lives.append(f"{time.strftime('%H:%M:%S')} {self.id}")
                assert self.process is not None
                self.codes.append(self.process.wait())
                self.up_since = None
                self._forget()
            self._ends.wait(AGAIN_S)

    def _reaped(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self._forget()

    def stop_keeping(self) -> None:
        """Stops restarting the node, which continues to run: the caller has to stop it."""
        self._ends.set()

    def close(self) -> None:
        self._ends.set()
        for pid in self.network.processes(self.name):
            self._signal(pid, signal.SIGCONT)
        if self._keeper is not None:
            end = time.monotonic() + 60
            while self._keeper.is_alive() and time.monotonic() < end:
                if self.process is not None:
                    self._signal(self.process.pid, signal.SIGTERM)
                self._keeper.join(scaled(10))
            if self._keeper.is_alive():
                self.kill_all()
                self._keeper.join()
        else:
            super().close()
            return
        self._threads.shutdown()

    # Faults of a node ------------------------------------------------------------------------

    def kill_all(self) -> None:
        """Kills all processes of the machine at once, as if it lost power."""
        for pid in self.network.processes(self.name):
            self._signal(pid, signal.SIGKILL)

    def send(self, whom: str, number: signal.Signals) -> None:
        """Sends a signal to the server, the launcher or both, if they run."""
        process = self.process
        if process is None:
            return
        server = self.server_pid() if whom != "launcher" else None
        for pid in (process.pid if whom != "server" else None, server):
            if pid is not None:
                self._signal(pid, number)

    def kill_a_sandbox(self, dice: random.Random) -> bool:
        """Kills every process of a sandbox, if there is one."""
        found = self.sandbox_pids() if self.up_since is not None else {}
        if not found:
            return False
        for pid in found[dice.choice(sorted(found))]:
            self._signal(pid, signal.SIGKILL)
        return True

    @staticmethod
    def _signal(pid: int, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Machines:
    """A fleet, as an `AnyServer`. `url` is that of a random node."""

    def __init__(self, directory: Path, reached: Network, postgres: Postgres | Replicated) -> None:
        self.directory, self.network, self.postgres = directory, reached, postgres
        self.nodes: list[FleetMachine] = []
        self.headers: dict[str, str] = {}
        # The maximum number of instances of each function, by the function's memory limit in MiB.
        self.instances: dict[int, int] = {}
        self.times = TIMES
        self._cuts: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    # Setup, by the commands that operators use ------------------------------------------------

    def init(self) -> None:
        """Creates the fleet, and a key for an operator."""
        secret = (
            "--store",
            self.postgres.url,
            "--store-password-file",
            str(self.postgres.password),
        )
        made = quiltfn("fleet", "init", "--fleet", str(self.file), *secret)
        assert made.code == 0, made.stderr
        key = quiltfn("keys", "create", "--tenant", "default", *secret, "--output", "json")
        assert key.code == 0, key.stderr
        self.headers["Authorization"] = (
            f"Bearer {httpx.Response(200, text=key.stdout).json()['key']}"
        )

    @property
    def file(self) -> Path:
        return self.directory / "fleet.toml"

    def add(self, name: str, **more: Any) -> FleetMachine:
        """Adds a node, which is not started yet. `more`: arguments of `FleetMachine`."""
        file, own = self.directory / f"{name}.toml", self.directory / name
        where = ("--address", f"{self.network.address(name)}:{PEER_PORT}", "--output", str(file))
        done = quiltfn("fleet", "add-node", name, *where, "--fleet", str(self.file))
        assert done.code == 0, done.stderr
        own.mkdir(mode=0o755)
        node = FleetMachine(own, name, self.network, file, **more)
        node.headers = self.headers
        self.nodes.append(node)
        return node

    def named(self, name: str) -> FleetMachine:
        return next(one for one in self.nodes if one.name == name)

    # Requests of clients ---------------------------------------------------------------------

    @property
    def url(self) -> str:
        return random.choice(self.nodes).url

    def call(self, method: str, path: str, json: Any = None) -> httpx.Response:
        return self.nodes[0].call(method, path, json)

    def deploy(self, handler: str, **fields: Any) -> Function:
        """Deploys a function with a memory limit that no other function has, by which its instances
        are recognized. `at`: the node that gets the requests, and so the first instance.
        """
        asked = fields.pop("at", self.nodes[0])
        mib = FIRST_MIB + len(self.instances)
        self.instances[mib] = fields.get("max_instances", 1)
        function: Function = asked.deploy(handler, memory_limit_mb=mib, **fields)
        for node in self.nodes:
            on(node, function)
        return function

    def are_ready(self) -> bool:
        """Whether every node runs and knows that all other nodes do."""
        if any(one.up_since is None for one in self.nodes):
            return False
        with contextlib.suppress(httpx.HTTPError, RuntimeError):
            return all(self._sees_all(one) for one in self.nodes)
        return False

    def _sees_all(self, node: FleetMachine) -> bool:
        with httpx.Client(
            base_url=node.url, headers=self.headers, timeout=5, trust_env=False
        ) as http:
            if not http.get("/api/functions/health").json().get("ready"):
                return False
            found = http.get("/api/nodes").json().get("nodes", ())
        return [one["presence"] for one in found] == ["present"] * len(self.nodes)

    # Faults of the network ---------------------------------------------------------------------

    def cut(self, sender: str, receiver: str) -> None:
        """Silently drops all data from the first machine to the second."""
        self._cut_or_heal({(sender, receiver)}, set())

    def cut_both(self, first: str, other: str) -> None:
        self._cut_or_heal({(first, other), (other, first)}, set())

    def heal(self, first: str, other: str) -> None:
        self._cut_or_heal(set(), {(first, other), (other, first)})

    def heal_all(self) -> None:
        self._cut_or_heal(set(), set(self._cuts))

    def unplug(self, name: str) -> None:
        """Silently drops all data to and from the machine."""
        self._link(name, "down")

    def plug(self, name: str) -> None:
        self._link(name, "up")

    def _link(self, name: str, state: str) -> None:
        subprocess.run(["ip", "link", "set", self.network.link(name), state], check=True)

    def _cut_or_heal(self, cut: set[tuple[str, str]], healed: set[tuple[str, str]]) -> None:
        with self._lock:
            self._cuts = (self._cuts | cut) - healed
            for receiver in {there for _, there in cut | healed}:
                senders = [self._address(one) for one, there in self._cuts if there == receiver]
                drops = f"ip saddr {{ {', '.join(senders)} }} drop" if senders else ""
                text = TABLE.replace("DROPS", drops)
                command = [*self.network.inside(receiver), "nft", "-f", "-"]
                subprocess.run(command, input=text, text=True, check=True)

    def _address(self, machine: str) -> str:
        return self.network.host if machine == HOST else self.network.address(machine)

    # Faults of the database ------------------------------------------------------------------

    @property
    def pair(self) -> Replicated:
        """The database and its standby. Raises `AssertionError` if there is no standby."""
        assert isinstance(self.postgres, Replicated)
        return self.postgres

    def statement(self, text: str) -> list[tuple[Any, ...]]:
        """Runs a statement as the superuser, outside of a transaction."""
        pair = self.postgres
        return statement(pair.primary if isinstance(pair, Replicated) else pair, text)

    @property
    def databases(self) -> Sequence[str]:
        """The machine of the database, and that of its standby if there is one."""
        return self.postgres.machines if isinstance(self.postgres, Replicated) else (DATABASE,)

    def disconnect(self) -> int:
        """Ends every connection of nodes to the database; returns how many there were."""
        ended = self.statement(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        return len(ended)

    def read_only(self, state: bool) -> None:
        """Makes new transactions read-only, as on a standby."""
        self.statement(
            f"ALTER SYSTEM SET default_transaction_read_only = {'on' if state else 'off'}"
        )
        self.statement("SELECT pg_reload_conf()")


@contextlib.contextmanager
def machines(
    times: dict[str, float] | None = None,
    names: Sequence[str] = NAMES,
    make: Callable[[Path, str], dict[str, Any]] = lambda _root, _name: {},
    store: Callable[[Path, Network], AbstractContextManager[Postgres | Replicated]] = database,
) -> Iterator[Machines]:
    """Runs a fleet, which is removed at the end. `make`: returns further arguments of
    `FleetMachine` for a node. `store`: creates the database.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(short_dir())
        reached = stack.enter_context(network("quiltfn-storm", (DATABASE, STANDBY, *names)))
        fleet = Machines(directory, reached, stack.enter_context(store(directory, reached)))
        fleet.times = times or TIMES
        fleet.init()
        before = leftovers.look(directory, directory / "none", ())
        stack.callback(_check_nothing_left, fleet, before)
        for name in names:
            more = make(directory, name)
            more["options"] = f"{options_of(fleet.times)} {more.get('options', '')}"
            node = fleet.add(name, **more)
            stack.callback(node.close)
            node.keep()
            until(lambda node=node: node.up_since, 40)  # type: ignore[misc]
        stack.callback(fleet.heal_all)
        yield fleet


def _check_nothing_left(fleet: Machines, before: leftovers.Traces) -> None:
    for node in fleet.nodes:
        left = leftovers.nothing_since(before, node.root, node.run_dir, node.ids)
        assert not left, f"left on the host: {left}\n{node.log.read_text()[-4000:]}"


def with_a_clock(root: Path, name: str) -> dict[str, Any]:
    """The arguments of `FleetMachine` for a node with a wall clock that can be set."""
    own = root / f"clock-{name}"
    own.mkdir(mode=0o755)
    jump = Jump(own)
    return {"jump": jump, "program": jump.program}
