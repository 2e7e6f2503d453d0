"""The machines of a fleet on one machine: a network namespace for each, a bridge between them, and
a PostgreSQL in one of them.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATABASE = "database"  # the machine that PostgreSQL runs on
SUBNETS = "10.213"
API_PORT, PEER_PORT = 8000, 8443
READY_S, STOP_S = 30.0, 60.0


class NotAsPromised(Exception):
    """Something is not as a fleet promises."""


def run(*command: str | Path, **options: Any) -> str:
    """The output of a command. Raises `NotAsPromised` with what it said."""
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
    """`machines`: their names, in the order of their addresses."""

    tag: str
    prefix: str
    subnet: str
    machines: Sequence[str]

    @property
    def bridge(self) -> str:
        return f"qf{self.tag}"

    @property
    def host(self) -> str:
        """The address of this machine, which every other one reaches."""
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
        """What runs a command on the machine, as the start of a command line."""
        return "nsenter", f"--net=/run/netns/{self.space(machine)}"

    def processes(self, machine: str) -> list[int]:
        """Everything that runs there."""
        return [int(pid) for pid in run("ip", "netns", "pids", self.space(machine)).split()]

    def _number(self, machine: str) -> int:
        return self.machines.index(machine) + 2


@contextlib.contextmanager
def network(prefix: str, machines: Sequence[str]) -> Iterator[Network]:
    """Nothing of it is left afterwards. `prefix`: of the namespaces' names."""
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
    """Several fleets may be on this machine at a time."""
    used = run("ip", "-4", "-brief", "address")
    thirds = random.sample(range(1, 255), 254)
    return next(one for third in thirds if f"{(one := f'{SUBNETS}.{third}')}." not in used)


def _remove(*command: str) -> None:
    subprocess.run(command, stderr=subprocess.DEVNULL, check=False)


class Postgres:
    """A PostgreSQL of Debian's on the machine `DATABASE`. `password`: the file that has it."""

    def __init__(self, directory: Path, reached: Network) -> None:
        found = [
            one for one in Path("/usr/lib/postgresql").glob("*/bin") if (one / "initdb").exists()
        ]
        if not found:
            raise NotAsPromised("there is no PostgreSQL: scripts/setup --fleet installs it")
        self._programs = max(found, key=lambda one: int(one.parent.name))
        self._user, self._network = pwd.getpwnam("postgres"), reached
        self._data, self.password = directory / "postgresql", directory / "password"
        self._log = directory / "postgresql.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._initdb()

    @property
    def url(self) -> str:
        """Without the password."""
        return f"postgresql://quiltfn@{self._network.address(DATABASE)}/postgres"

    def start(self) -> None:
        """Returns once it answers."""
        user = ("setpriv", f"--reuid={self._user.pw_uid}", f"--regid={self._user.pw_gid}")
        become = (*self._network.inside(DATABASE), *user, "--clear-groups")
        where = ("-D", self._data, "-h", self._network.address(DATABASE), "-k", self._data)
        command = [str(one) for one in (*become, self._programs / "postgres", *where)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._data
            )
        is_ready = [str(self._programs / "pg_isready"), "-h", self._network.address(DATABASE)]
        end = time.monotonic() + READY_S
        while subprocess.run(is_ready, capture_output=True, check=False).returncode:
            if time.monotonic() > end or self._process.poll() is not None:
                raise NotAsPromised(f"PostgreSQL did not start:\n{self._log.read_text()[-4000:]}")
            time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: in good order, and every connection ends; SIGQUIT: at once, as in a crash.
        Harmless when repeated.
        """
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(STOP_S)
            self._process = None

    def _initdb(self) -> None:
        self._data.mkdir(mode=0o700)
        self.password.write_text(secrets.token_hex(16) + "\n")
        who: dict[str, Any] = {
            "user": self._user.pw_uid,
            "group": self._user.pw_gid,
            "extra_groups": [],
        }
        for one in (self._data, self.password):
            os.chown(one, self._user.pw_uid, self._user.pw_gid)
        options = ("-U", "quiltfn", "--auth=scram-sha-256", f"--pwfile={self.password}")
        run(
            *(self._programs / "initdb", "-D", self._data, *options, "-E", "UTF8"),
            cwd=self._data,
            **who,
        )
        with (self._data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {self._network.subnet}.0/24 scram-sha-256\n")


@contextlib.contextmanager
def database(directory: Path, reached: Network) -> Iterator[Postgres]:
    """A PostgreSQL that runs, with its files in an existing directory."""
    one = Postgres(directory, reached)
    try:
        one.start()
        yield one
    finally:
        one.stop()
