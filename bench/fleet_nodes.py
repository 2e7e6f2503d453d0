"""A fleet for benchmarks: a PostgreSQL with default settings, and nodes as operators start them."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

import harness
import postgresql
from e2e.server import Server
from fleet.nodes import Fleet
from postgresql import PASSWORD, Cluster

# PostgreSQL's default settings, on disk and synced, except those that a figure is about.
INSTALLED = ("listen_addresses=127.0.0.1",)
DATABASE = "bench"


@contextlib.contextmanager
def database(*settings: str) -> Iterator[Cluster]:
    """A PostgreSQL with the empty database `DATABASE`. `settings`: its settings that differ from
    the defaults.
    """
    with postgresql.started((*INSTALLED, *settings), is_in_memory=False) as cluster:
        cluster.create(DATABASE)
        yield cluster


def not_by_tests(**_: object) -> Server:
    """Nodes are started by `harness.server`."""
    raise AssertionError


@contextlib.contextmanager
def nodes(
    cluster: Cluster, options: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, httpx.Client]]:
    """Running nodes by their names. `options`: command-line options of each."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        made = Fleet(Path(directory), cluster.tcp_url(DATABASE, None), not_by_tests).init(PASSWORD)
        found = {
            name: stack.enter_context(harness.server("--fleet", str(made.add(name)), *more))
            for name, more in options.items()
        }
        for name, client in found.items():
            client.headers["x-peer-port"] = made.addresses[name].rpartition(":")[2]
        yield found


def carried_bytes(end: str, port: int) -> tuple[int, int]:
    """Bytes received and sent by the sockets at this end ("sport" or "dport") of a TCP port."""
    command = ["ss", "-tinHO", end, "=", f":{port}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    words = [word.partition(":") for word in said.split()]
    return (
        sum(int(value) for name, _, value in words if name == "bytes_received"),
        sum(int(value) for name, _, value in words if name == "bytes_sent"),
    )
