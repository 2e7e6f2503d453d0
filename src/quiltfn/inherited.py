"""What the launcher hands to the server's process: two sockets, the settings, the facts about the
machine, and the secrets that only root may read.
"""

import argparse
import ctypes
import json
import resource
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from quiltfn import host_packages, settings
from quiltfn.health import HostFacts

BUDGET_SHARE = 0.75
# Standard streams, event loop, listener, database, spool, and what a request opens for a moment.
FILES_OF_ITS_OWN = 64
PR_SET_DUMPABLE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """What the launcher gives. `secrets`: the contents of files that only root may read."""

    channel: socket.socket
    listener: socket.socket
    machine: HostFacts
    settings: settings.Settings
    secrets: dict[str, bytes]


def close_memory() -> None:
    """Keeps other processes of this uid from tracing it and from its memory and descriptors."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_DUMPABLE")


def inherit(arguments: list[str]) -> Inherited:
    """Takes over what the launcher left open for this process, and closes its memory to others."""
    close_memory()
    it = argparse.ArgumentParser(prog="quiltfn.main")
    for name in ("--channel", "--listener", "--given"):
        it.add_argument(name, type=int, required=True)
    numbers = it.parse_args(arguments)
    with open(numbers.given, "rb") as file:
        file.seek(0)
        given: dict[str, Any] = json.load(file)
    chosen = settings.from_everywhere(given["settings"], environ={})
    channel, listener = (socket.socket(fileno=one) for one in (numbers.channel, numbers.listener))
    for one in (channel, listener):
        one.set_inheritable(False)
    facts = given["facts"] | {"node_id": chosen.node_id, "transport": transport_of(chosen)}
    facts["memory_max_mib"] = budget_mib(chosen, facts["memory_max_mib"])
    facts["connections_max"] = connections_max(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    facts["store"] = chosen.store
    facts["is_store_verified"] = settings.is_store_verified(chosen.store)
    facts["interpreters"] = host_packages.interpreters()
    facts["packages"] = host_packages.packages_hash()
    return Inherited(
        channel=channel,
        listener=listener,
        machine=msgspec.convert(facts, HostFacts),
        settings=chosen,
        secrets={name: text.encode() for name, text in given["secrets"].items()},
    )


def budget_mib(chosen: settings.Settings, machine_mib: int) -> int:
    """The memory for all instances together, and so the most that one function may have."""
    return min(chosen.memory_budget_mib or int(BUDGET_SHARE * machine_mib), machine_mib)


def connections_max(files: int) -> int:
    """Connections that a server with so many open files may have: the sandboxes get the rest."""
    return (files - FILES_OF_ITS_OWN) // 2


def transport_of(chosen: settings.Settings) -> str:
    """What health says of who can read along."""
    if chosen.tls_cert != Path():
        return "tls"
    return "loopback" if settings.is_loopback(chosen.host) else "cleartext"
