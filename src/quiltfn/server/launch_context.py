"""The launcher's data for the server's process: two sockets, the settings, host facts, and the
secrets that only root may read.
"""

import argparse
import ctypes
import json
import resource
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from quiltfn import settings
from quiltfn.host import packages as host_packages
from quiltfn.host.health import HostFacts

if TYPE_CHECKING:
    from quiltfn.fleet.files import NodeFile

BUDGET_SHARE = 0.75
# Reserved for standard streams, event loop, listener, database, spool, and files that requests open
# briefly.
FILES_OF_ITS_OWN = 64
PR_SET_DUMPABLE = 4


class Inherited(msgspec.Struct, frozen=True, kw_only=True):
    """The launcher's data. `secrets`: the contents of files that only root may read; `fleet`: the
    file that makes the server a node of a fleet; the settings then have the file's store and name.
    """

    channel: socket.socket
    listener: socket.socket
    machine: HostFacts
    settings: settings.Settings
    secrets: dict[str, bytes]
    fleet: "NodeFile | None" = None


def close_memory() -> None:
    """Prevent other processes of this uid from tracing this process and from reading its memory
    and descriptors.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_DUMPABLE")


def inherit(arguments: list[str]) -> Inherited:
    """Take over the descriptors that the launcher left open, and close the memory to others.

    Raises `BadSetting` if a node's file is unusable.
    """
    close_memory()
    it = argparse.ArgumentParser(prog="quiltfn.server.main")
    for name in ("--channel", "--listener", "--given"):
        it.add_argument(name, type=int, required=True)
    numbers = it.parse_args(arguments)
    with open(numbers.given, "rb") as file:
        file.seek(0)
        given: dict[str, Any] = json.load(file)
    chosen = settings.from_everywhere(given["settings"], environ={})
    secrets: dict[str, str] = given["secrets"]
    fleet = node_file(secrets.pop("fleet", None))
    if fleet is not None:
        chosen = chosen.replace(store=fleet.store, node_id=fleet.name)
        if fleet.store_password:
            secrets["store_password_file"] = fleet.store_password
    channel, listener = (socket.socket(fileno=one) for one in (numbers.channel, numbers.listener))
    for opened in (channel, listener):
        opened.set_inheritable(False)
    facts = given["facts"] | {"node_id": chosen.node_id, "transport": transport_of(chosen)}
    facts["memory_max_mib"] = budget_mib(chosen, facts["memory_max_mib"])
    facts["connections_max"] = connections_max(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    facts["runsc"] = chosen.runsc
    facts["store"] = chosen.store
    facts["is_store_verified"] = settings.is_store_verified(chosen.store)
    facts["interpreters"] = host_packages.interpreters()
    facts["packages"] = host_packages.packages_hash()
    return Inherited(
        channel=channel,
        listener=listener,
        machine=msgspec.convert(facts, HostFacts),
        settings=chosen,
        secrets={name: text.encode() for name, text in secrets.items()},
        fleet=fleet,
    )


def node_file(text: str | None) -> "NodeFile | None":
    """The file that makes the server a node of a fleet. Raises `BadSetting`."""
    if text is None:
        return None
    from quiltfn.fleet import files  # noqa: PLC0415 — unused by a standalone server

    return files.parse(files.NodeFile, text)


def budget_mib(chosen: settings.Settings, machine_mib: int) -> int:
    """The memory for all instances together, which is also the maximum for one function."""
    return min(chosen.memory_budget_mib or int(BUDGET_SHARE * machine_mib), machine_mib)


def connections_max(files: int) -> int:
    """Maximum connections of a server with this limit on open files; the remaining files are for
    sandboxes.
    """
    return (files - FILES_OF_ITS_OWN) // 2


def transport_of(chosen: settings.Settings) -> str:
    """Who can read the traffic, as health reports it."""
    if chosen.tls_cert != Path():
        return "tls"
    return "loopback" if settings.is_loopback(chosen.host) else "cleartext"
