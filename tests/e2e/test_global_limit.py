"""Memory that a sandbox can use beyond its own limit (socket buffers), and the limit for all
sandboxes together.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.hostile_setup import CGROUPS, script, serving
from e2e.server import Server
from promises import promise

pytestmark = [pytest.mark.sandbox, promise("F23")]
MIB = 1 << 20
V1 = (CGROUPS / "memory").is_dir()
MEMORY_MIB = 256


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def of_the_machine(path: str) -> int:
    return int(Path(path).read_text())


def groups_of(pid: int) -> list[str]:
    """The control groups that limit the process, without that of the freezer, which also contains
    the server.
    """
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return [one for one in lines if one.split(":")[1] in ("memory", "pids", "cpu", "")]


# The limit for all sandboxes ------------------------------------------------------------------


def test_all_sandboxes_together_have_a_limit(server: Server) -> None:
    """The sum of the sandboxes' limits may exceed the machine's memory. If it is used up, only
    handlers may be killed.
    """
    protection = server.call("GET", "/api/functions/health").json()["protections"]["ceiling"]
    above = {one: (CGROUPS / one if V1 else CGROUPS) / "quiltfn" for one in ("memory", "pids")}
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory = int((above["memory"] / ("memory.limit_in_bytes" if V1 else "memory.max")).read_text())
    assert 0.7 * machine <= memory <= 0.9 * machine
    tasks = int((above["pids"] / "pids.max").read_text())
    assert tasks <= of_the_machine("/proc/sys/kernel/pid_max") // 2
    assert f": {memory // MIB} MiB" in protection
    assert protection.endswith(f" {tasks} processes and threads")
    if V1:
        sockets = int((above["memory"] / "memory.kmem.tcp.limit_in_bytes").read_text())
        assert sockets == memory // 4
        assert (above["memory"] / "memory.use_hierarchy").read_text().strip() == "1"
    for pid in (server.pid, server.launcher):
        assert "/quiltfn/" not in str(groups_of(pid)), "it would die of what its handlers do"
    function = server.deploy("echo")
    function.invoke()
    guests = server.guests()
    assert guests
    assert all("/quiltfn/" in str(groups_of(pid)) for pid in guests.values())
    function.delete()


def test_servers_share_the_limit(server: Server) -> None:
    def protection_of(of: Server) -> str:
        return of.call("GET", "/api/functions/health").json()["protections"]["ceiling"]

    with serving() as other:
        assert protection_of(other) == protection_of(server)
    assert server.run("echo still here")["status"] == "success"


# Memory of sockets ----------------------------------------------------------------------------

STUFF = """
import json, socket, time
kept, sent = [], 0
with socket.create_server(("127.0.0.1", 0), backlog=400) as listener:
    for _ in range(400):
        try:
            pair = socket.create_connection(listener.getsockname(), 1), listener.accept()[0]
        except OSError: break
        for one in pair: one.setblocking(False)
        kept += pair
    end, full = time.time() + 4, 0
    while time.time() < end and full < 3:  # nobody reads: where nothing went, nothing will
        before = sent
        for one in kept:
            if time.time() >= end: break
            try: sent += one.send(bytes(1 << 20))
            except OSError: pass
        full = full + 1 if sent == before else 0
    time.sleep(0.2)  # to be seen
print(json.dumps([len(kept), sent]))
"""


# Connections that nobody accepts: the kernel charges a connection to the process that accepts it.
WAITING = """
import os, socket, time
for _ in range(20):
    if os.fork() == 0: break
kept = []
listener = socket.create_server(("127.0.0.1", 0), backlog=450)
for _ in range(450):
    try: kept.append(socket.create_connection(listener.getsockname(), 1))
    except OSError: break
for one in kept:
    one.setblocking(False)
    try:
        while True: one.send(bytes(1 << 20))
    except OSError: pass
time.sleep(0.5)
"""


def tcp_bytes() -> int:
    """The memory that TCP uses on this machine, in all network namespaces."""
    (line,) = (
        one for one in Path("/proc/net/sockstat").read_text().splitlines() if one[:4] == "TCP:"
    )
    return int(line.split()[-1]) * os.sysconf("SC_PAGE_SIZE")


def stuff(server: Server, handler: str, *, is_limited: bool = True) -> dict[str, Any]:
    """Runs the handler, and returns its record. `grown`: how much TCP's memory grew at most during
    the invocation.
    """
    function = server.deploy(script(handler), memory_limit_mb=MEMORY_MIB, timeout_seconds=20)
    before, grown = tcp_bytes(), 0
    call = server.later(function.invoke)
    while not call.done():
        grown = max(grown, tcp_bytes() - before)
        if not is_limited:
            for group in (CGROUPS / "memory" / "quiltfn" / server.id).iterdir():
                if group.is_dir():
                    (group / "memory.kmem.tcp.limit_in_bytes").write_text("-1")
        time.sleep(0.01)
    record = call.result()
    # On v2, the connections count as the handler's own memory, so it may run out of memory.
    assert record["status"] == "success" or (record["status"] == "oom" and not V1), record
    function.delete()
    return record | {"grown": grown}


def test_what_sockets_hold_is_held_by_the_sandboxs_memory(server: Server) -> None:
    record = stuff(server, STUFF)
    print(f"400 connections: {record['grown'] / MIB:.0f} MiB of {MEMORY_MIB}")
    assert MIB < record["grown"] <= MEMORY_MIB * MIB
    if record["status"] == "success":
        assert json.loads(record["stdout"])[0] >= 100, "it had its sockets"


def test_what_nobody_accepts_is_not_without_bound(server: Server) -> None:
    """The kernel charges such connections to no group. They have a bound nevertheless: their
    buffers start small, and the number of sockets is limited.
    """
    record = stuff(server, WAITING)
    print(f"9,450 connections that wait: {record['grown'] / MIB:.0f} MiB, {record['status']}")
    assert record["grown"] <= 3 * MEMORY_MIB * MIB


@pytest.mark.skipif(not V1, reason="v2 has no limit of sockets that could be taken away")
def test_without_a_limit_of_sockets_they_hold_more(server: Server) -> None:
    record = stuff(server, STUFF, is_limited=False)
    print(f"400 connections without a limit: {record['grown'] / MIB:.0f} MiB")
    assert record["grown"] > MEMORY_MIB * MIB
