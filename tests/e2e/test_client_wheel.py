"""The client's wheel works on any system: alone in its environment, on a machine without a
server.
"""

import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from e2e import netlab
from e2e.server import Server, quiltfn, short_dir, watched
from e2e.test_documents import blocks, fetch, newcomer
from e2e.test_wheel import ROOT, run, sources
from promises import promise
from quiltfn.cli.root import ON_THIS_MACHINE
from timeouts import scaled

pytestmark = [pytest.mark.sandbox, promise("M11")]
PAGE = "docs/how-to/deploy-a-project.md"
TENANT = "shop"
LIST_PACKAGES = """
from importlib.metadata import distributions
print(*(one.name.lower() for one in distributions()))
"""
USES_BOTH_CLIENTS = """
import asyncio, quiltfn
with quiltfn.Client() as client:
    print(client.invoke("shop-window", payload={"name": "Ada"}).stdout)
async def main():
    async with quiltfn.AsyncClient() as client:
        print([one.name async for one in client.functions.list()])
asyncio.run(main())
"""


# Removes everything that Windows lacks from Python's modules. Only the client's own code sees
# "win32" as the platform; other modules still find Linux.
AS_ON_WINDOWS = """
import builtins, os, select, shutil, signal, socket, ssl, subprocess, sys, tempfile
class Windows:
    platform = "win32"
    def __getattr__(self, name):
        return getattr(sys, name)
usual = builtins.__import__
def asked(name, globals=None, *more, **named):
    is_client = (globals or {}).get("__name__", "").startswith("quiltfn")
    return Windows() if name == "sys" and is_client else usual(name, globals, *more, **named)
builtins.__import__ = asked
missing = {os: "killpg geteuid getuid O_DIRECTORY O_CLOEXEC fork", select: "poll epoll"}
for module, names in {**missing, signal: "SIGHUP SIGKILL SIGALRM setitimer"}.items():
    for name in names.split():
        delattr(module, name)
sys.modules |= dict.fromkeys(("fcntl", "grp", "pwd", "resource", "termios"))
from quiltfn.__main__ import main
main()
"""


@dataclass(frozen=True)
class ClientMachine:
    """A machine with a client that was installed from its wheel, and without a file of the
    checkout.
    """

    wheel: Path
    directory: Path

    @property
    def programs(self) -> Path:
        return self.directory / "venv" / "bin"

    @property
    def variables(self) -> dict[str, str]:
        return {**newcomer(self.directory), "PATH": f"{self.programs}:/usr/bin:/bin"}

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment. `more`: further environment variables."""
        return subprocess.run(
            [self.programs / words[0], *words[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**self.variables, **more},
            cwd=self.directory,
            timeout=scaled(60),
        )


@pytest.fixture(scope="module")
def machine() -> Iterator[ClientMachine]:
    """A machine that also has uv, and the packages that were fetched before."""
    python = "/usr/bin/python3" if os.access("/usr/bin/python3", os.X_OK) else sys.executable
    uv = Path(sys.executable).with_name("uv")
    fetch()
    with short_dir() as away:
        run(ROOT / "scripts" / "wheel", "--client", "--out", away / "made")
        (wheel,) = (away / "made").iterdir()
        run(uv, "venv", "--quiet", "--python", python, away / "venv")
        made = ClientMachine(wheel, away)
        run(uv, "pip", "install", "--quiet", "--python", made.programs / "python", wheel)
        (made.programs / "uv").symlink_to(uv)
        yield made


def test_it_is_one_wheel_for_every_system_without_the_server(machine: ClientMachine) -> None:
    assert re.fullmatch(r"quiltfn_client-[\d.]+-py3-none-any\.whl", machine.wheel.name)
    size = machine.wheel.stat().st_size
    print(f"{machine.wheel.name}: {size / 1000:.0f} kB")
    assert size < 1_000_000
    assert "quiltfn/sdk/client.py" in sources(machine.wheel)
    with zipfile.ZipFile(machine.wheel) as archive:
        names = archive.namelist()
    assert {one.split("/")[1].removesuffix(".py") for one in names if "/" in one} >= {"cli", "sdk"}
    others = [one for one in names if not re.search(r"\.dist-info/|\.py$|\.cjs$|/py\.typed$", one)]
    assert [one.partition(".data/")[2] for one in others] == ["data/share/man/man1/quiltfn.1"]
    began = time.monotonic()
    assert machine.run("quiltfn", "--version").stdout.startswith("quiltfn ")
    print(f"quiltfn --version: {1000 * (time.monotonic() - began):.0f} ms")
    missing = machine.run("python", "-c", "import quiltfn.launcher")
    assert "No module named 'quiltfn.launcher'" in missing.stderr
    packages = set(machine.run("python", "-c", LIST_PACKAGES).stdout.split())
    assert {"quiltfn-client", "msgspec", "rich"} <= packages
    assert not packages & {"alembic", "sqlalchemy", "uvloop", "cryptography", "quiltfn"}


@pytest.mark.parametrize("word", ON_THIS_MACHINE)
def test_commands_of_a_server_s_machine_are_refused(machine: ClientMachine, word: str) -> None:
    done = machine.run("quiltfn", word)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        f"error: this is the client of quiltfn, and {word} is a command of the server's machine",
        "hint: install quiltfn there, and run it there",
    ]


def test_its_help_says_where_those_commands_are(machine: ClientMachine) -> None:
    shown = machine.run("quiltfn", "--help").stdout
    assert "a server's machine with the whole of quiltfn:\n  serve" in shown
    assert "\nthis machine:\n  serve" in quiltfn("--help").stdout


@pytest.fixture(scope="module")
def lab() -> Iterator[netlab.Lab]:
    with short_dir() as directory, netlab.lab(directory) as made:
        yield made


@pytest.fixture
def server(lab: netlab.Lab) -> Iterator[tuple[Server, str]]:
    """A server that other machines can reach, and the key of a tenant with scope write."""
    with netlab.inside(lab.host), watched(f"--host {netlab.HOST_V4[0]}") as server:
        said = ("--tenant", TENANT, "--scope", "write", "--data-dir", str(server.data_dir))
        key = quiltfn("keys", "create", *said).stdout.strip()
        server.headers = {"Authorization": f"Bearer {key}"}
        yield server.start(), key


def test_three_commands_on_another_machine_lead_from_nothing_to_a_url(
    machine: ClientMachine, lab: netlab.Lab, server: tuple[Server, str]
) -> None:
    """The commands are those of the page, word for word. The function has a package and a
    schedule.
    """
    at, key = server
    typed = next(str(one["text"]) for one in blocks(PAGE))
    assert [line.split()[:2] for line in typed.splitlines()] == [
        ["quiltfn", "init"],
        ["quiltfn", "deploy"],
        ["quiltfn", "invoke"],
    ]
    here = machine.directory / "empty"
    here.mkdir()
    variables = {"QUILT_BASE_URL": at.url, "QUILT_API_KEY": key}
    with netlab.inside(lab.world):
        began = time.monotonic()
        said = run("/bin/sh", "-ec", typed, cwd=here, env=machine.variables | variables)
        took = time.monotonic() - began
        print(f"three commands, from nothing to a URL that answers: {took:.1f} s")
        both = machine.run("python", "-c", USES_BOTH_CLIENTS, **variables)
        files = machine.run("quiltfn", "functions", "files", "shop-window", **variables)
    assert took < scaled(60)
    url = f"{at.url}/fn/{TENANT}/shop-window"
    assert f"shop-window: {url}\n" in said
    assert '\n{"message": "Hello!"}' in said
    assert both.stdout == '{"message": "Hello!"}\n' + "['shop-window']\n", both.stderr
    assert "jinja2/environment.py" in files.stdout
    answer = httpx.post(url, headers=at.headers, timeout=scaled(30))
    assert answer.json() == {"message": "Hello!"}
    (schedule,) = at.call("GET", "/api/schedules").json()["schedules"]
    assert schedule["next_runs"]
    with netlab.inside(lab.world):
        gone = machine.run("quiltfn", "destroy", str(here / "shop-window"), "--yes", **variables)
    assert gone.returncode == 0, gone.stderr


def test_the_commands_work_with_what_windows_has(
    machine: ClientMachine, lab: netlab.Lab, server: tuple[Server, str]
) -> None:
    """The commands deploy a function with a package, invoke it with piped input, and print a
    table.
    """
    at, key = server
    variables = {"QUILT_BASE_URL": at.url, "QUILT_API_KEY": key}
    (machine.directory / "on_windows.py").write_text(AS_ON_WINDOWS)
    typed = """
        quiltfn() { python ../on_windows.py "$@"; }
        quiltfn init shop --package jinja2
        quiltfn deploy shop
        printf '{"name": "Ada"}' | quiltfn invoke shop
        quiltfn functions list
        quiltfn destroy shop --yes
    """
    here = machine.directory / "windows"
    here.mkdir()
    with netlab.inside(lab.world):
        said = run("/bin/bash", "-ec", typed, cwd=here, env=machine.variables | variables)
    assert "called with {'name': 'Ada'}" in said
    assert re.search(r"^shop +active", said, re.MULTILINE), said
    assert "deleted function shop" in said
