"""Simulates the machines of a fleet on one machine: a network namespace for each, a bridge between
them, and PostgreSQL in one or two of them.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATABASE = "database"  # the name of PostgreSQL's machine
STANDBY = "standby"  # the name of the machine of a second PostgreSQL, if any
SUBNETS = "10.213"
API_PORT, PEER_PORT = 8000, 8443
READY_S, STOP_S = 30.0, 60.0


class NotAsPromised(Exception):
    """The fleet has broken a promise (a sentence)."""


def run(*command: str | Path, **options: Any) -> str:
    """The output of a command. Raises `NotAsPromised` with its standard error if it fails."""
    done = subprocess.run(
        [str(one) for one in command], capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        words = " ".join(map(str, command[:4]))
        raise NotAsPromised(f"{words} … ended with {done.returncode}:\n{done.stderr.strip()}")
    output: str = done.stdout
    return output


@dataclass(frozen=True)
class Network:
    """`machines`: the names of the machines, in the order of their addresses."""

    tag: str
    prefix: str
    subnet: str
    machines: Sequence[str]

    @property
    def bridge(self) -> str:
        return f"qf{self.tag}"

    @property
    def host(self) -> str:
        """The host's address, which all machines can reach."""
        return f"{self.subnet}.1"

    def address(self, machine: str) -> str:
        return f"{self.subnet}.{self._number(machine)}"

    def space(self, machine: str) -> str:
        """The machine's namespace."""
        return f"{self.prefix}-{self.tag}-{machine}"

    def link(self, machine: str) -> str:
        """The bridge's end of the machine's cable."""
        return f"qf{self.tag}{self._number(machine)}"

    def inside(self, machine: str) -> tuple[str, ...]:
        """The beginning of a command line that runs a command on the machine."""
        return "nsenter", f"--net=/run/netns/{self.space(machine)}"

    def processes(self, machine: str) -> list[int]:
        """The process ids of everything that runs on the machine."""
        return [int(pid) for pid in run("ip", "netns", "pids", self.space(machine)).split()]

    def _number(self, machine: str) -> int:
        return self.machines.index(machine) + 2


@contextlib.contextmanager
def network(prefix: str, machines: Sequence[str]) -> Iterator[Network]:
    """Creates the network; removes it at the end of the block. `prefix`: of the namespaces'
    names.
    """
    made = Network(secrets.token_hex(2), prefix, _unused_subnet(), machines)
    try:
        run("ip", "link", "add", made.bridge, "type", "bridge")
        run("ip", "address", "add", f"{made.host}/24", "dev", made.bridge)
        run("ip", "link", "set", made.bridge, "up")
        for machine in machines:
            inside, inner = ("ip", "-n", made.space(machine)), f"qn{made.link(machine)[2:]}"
            run("ip", "netns", "add", made.space(machine))
            run("ip", "link", "add", made.link(machine), "type", "veth", "peer", "name", inner)
            run("ip", "link", "set", inner, "netns", made.space(machine))
            run("ip", "link", "set", made.link(machine), "master", made.bridge, "up")
            run(*inside, "address", "add", f"{made.address(machine)}/24", "dev", inner)
            run(*inside, "link", "set", inner, "up")
            run(*inside, "link", "set", "lo", "up")
        yield made
    finally:
        for machine in machines:
            _remove("ip", "netns", "delete", made.space(machine))
        _remove("ip", "link", "delete", made.bridge)


def _unused_subnet() -> str:
    """A subnet that is free, since several fleets may run on this host at a time."""
    used = run("ip", "-4", "-brief", "address")
    thirds = random.sample(range(1, 255), 254)
    return next(subnet for third in thirds if f"{(subnet := f'{SUBNETS}.{third}')}." not in used)


def _remove(*command: str) -> None:
    subprocess.run(command, stderr=subprocess.DEVNULL, check=False)


class Postgres:
    """Debian's PostgreSQL on a machine. `password`: the file with the password of its role."""

    def __init__(self, directory: Path, reached: Network, machine: str = DATABASE) -> None:
        found = [
            one for one in Path("/usr/lib/postgresql").glob("*/bin") if (one / "initdb").exists()
        ]
        if not found:
            raise NotAsPromised("there is no PostgreSQL: scripts/setup --fleet installs it")
        self._programs = max(found, key=lambda path: int(path.parent.name))
        self._user, self._network, self.machine = pwd.getpwnam("postgres"), reached, machine
        self._data, self.password = directory / f"postgresql-{machine}", directory / "password"
        self._log = directory / f"postgresql-{machine}.log"
        self._sockets = directory / f"sockets-{machine}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return self._network.address(self.machine)

    @property
    def url(self) -> str:
        """The URL without the password."""
        return f"postgresql://quiltfn@{self.address}/postgres"

    def start(self) -> None:
        """Starts PostgreSQL; returns once it accepts connections."""
        become = (*self._network.inside(self.machine), *self._become)
        where = ("-D", self._data, "-h", self.address, "-k", self._sockets)
        command = [str(one) for one in (*become, self._programs / "postgres", *where)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._data
            )
        # Checked at its socket, since its machine may be cut off.
        is_ready = [str(self._programs / "pg_isready"), "-h", str(self._sockets)]
        end = time.monotonic() + READY_S
        while subprocess.run(is_ready, capture_output=True, check=False).returncode:
            if time.monotonic() > end or self._process.poll() is not None:
                raise NotAsPromised(f"PostgreSQL did not start:\n{self._log.read_text()[-4000:]}")
            time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stops PostgreSQL. SIGINT: an orderly stop, which ends every connection; SIGQUIT: an
        immediate stop, as in a crash. An orderly stop may wait for an unreachable machine; after a
        timeout it becomes an immediate one. May be repeated.
        """
        if self._process is not None:
            self._process.send_signal(how)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait(STOP_S)
            self._process = None

    def kill(self) -> None:
        """Kills all processes of PostgreSQL at once, by SIGKILL. May be repeated."""
        for pid in self._network.processes(self.machine):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(STOP_S)
            self._process = None

    def initdb(self) -> None:
        """Creates the database cluster, without starting it."""
        self.password.write_text(secrets.token_hex(16) + "\n")
        os.chown(self.password, self._user.pw_uid, self._user.pw_gid)
        options = ("-U", "quiltfn", "--auth=scram-sha-256", f"--pwfile={self.password}")
        self._make(self._programs / "initdb", "-D", self._data, *options, "-E", "UTF8")
        with (self._data / "postgresql.conf").open("a") as file:
            # For a standby; default: five seconds.
            file.write("wal_retrieve_retry_interval = 500ms\n")
            # The maximum time for which an orderly stop waits for an unreachable standby; default:
            # a minute.
            file.write("wal_sender_timeout = 20s\n")
        with (self._data / "pg_hba.conf").open("a") as file:
            for database in ("all", "replication"):
                file.write(f"host {database} all {self._network.subnet}.0/24 scram-sha-256\n")

    def reaches(self, other: Postgres) -> bool:
        """Whether the machine reaches another PostgreSQL; after a link is back, this takes a
        while.
        """
        asking = ("-h", other.address, "-t", "1")
        program = str(self._programs / "pg_isready")
        command = [*self._network.inside(self.machine), program, *asking]
        return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0

    def copy_from(self, primary: Postgres) -> None:
        """Makes this a copy of another PostgreSQL, which it follows once it is started."""
        shutil.rmtree(self._data, ignore_errors=True)
        source = f"host={primary.address} user=quiltfn password={self.password.read_text().strip()}"
        copy = ("-D", self._data, "-d", source, "-R", "-X", "stream", "-c", "fast", "-N")
        self._make(*self._network.inside(self.machine), self._programs / "pg_basebackup", *copy)

    @property
    def _become(self) -> tuple[str, ...]:
        user = self._user
        return ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")

    def _make(self, *command: str | Path) -> None:
        """Creates the directories, and runs a command that fills the data directory, as the user
        `postgres`.
        """
        self._sockets.mkdir(exist_ok=True)
        self._data.mkdir(mode=0o700)
        for path in (self._data, self._sockets):
            os.chown(path, self._user.pw_uid, self._user.pw_gid)
        inside = command[:2] if command[0] == "nsenter" else ()
        run(*inside, *self._become, *command[len(inside) :], cwd=self._data)


@contextlib.contextmanager
def database(directory: Path, reached: Network) -> Iterator[Postgres]:
    """Runs a PostgreSQL during the block, with its files in an existing directory."""
    database = Postgres(directory, reached)
    try:
        database.initdb()
        database.start()
        yield database
    finally:
        database.stop()
