"""What a hostile invocation can do to survive until the next one, in every runtime, with crun and
with gVisor. In bare namespaces, `tests/sandbox/test_survivors.py` tries more ways.
"""

import json
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from e2e import sample_runtimes
from e2e.server import Function, Server, until
from promises import promise

pytestmark = pytest.mark.sandbox
TIERS = ["crun", pytest.param("gvisor", marks=pytest.mark.gvisor)]

# Prints the other processes, and then leaves three: a child of its parent, an orphaned child of its
# own, and a child that nothing ends, since the runner's means of ending it are removed.
PYTHON = """
import ctypes, os, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
def alive():
    found = []
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) not in (1, os.getpid(), os.getppid()):
            try: state = open(f"/proc/{pid}/stat").read().rpartition(") ")[2][0]
            except OSError: continue
            found += [pid] * (state != "Z")
    return found
def stay():
    os.setsid()
    time.sleep(60)
    os._exit(0)
def handler(event):
    seen = alive()
    sys.modules["__main__"].end_children = lambda: None
    if libc.syscall(CLONE, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0) == 0: stay()
    if os.fork() == 0:
        if os.fork() == 0: stay()
        os._exit(0)
    if os.fork() == 0: stay()
    time.sleep(0.1)
    return [seen, len(alive())]
"""
NODE = r"""
const fs = require('fs'), { spawn } = require('child_process');
const kill = process.kill, read = fs.readdirSync, open = fs.readFileSync;
const state = (pid) => { try { return open(`/proc/${pid}/stat`, 'utf8').split(') ')[1][0] }
                         catch { return 'Z' } };
const alive = () => read('/proc').filter((one) => /^\d+$/.test(one) && one !== '1'
                    && Number(one) !== process.pid && state(one) !== 'Z');
exports.handler = async () => {
    const seen = alive();
    process.kill = () => {};
    fs.readdirSync = (path) => path === '/proc' ? ['1', String(process.pid)] : read(path);
    spawn('sleep', ['60'], { stdio: 'ignore' });
    spawn('sh', ['-c', 'sleep 60 & sleep 60 & exit'], { stdio: 'ignore', detached: true });
    await new Promise((done) => setTimeout(done, 300));
    return [seen, alive().length];
};
"""
SHELL = """
clone() { python3 -c 'import ctypes, os, signal, time
n = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
if ctypes.CDLL(None).syscall(n, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0) == 0: time.sleep(60)'; }
there() { set -- /proc/[0-9]*; echo $#; }
[ "$QUILT_INVOCATION_ID" ] && seen=$(( $(there) > 3 ))
clone & setsid sleep 60 & (sleep 60 &); sleep 0.5
echo "[$seen, $(there)]"
"""


def deploy(server: Server, kind: str, tier: str, source: str, **fields: Any) -> Function:
    if kind == "shell":
        body = {"name": f"shell-{tier}", "kind": kind, "isolation": tier}
        assert server.call("POST", "/api/runtimes", body).status_code in (201, 409)
        return server.deploy(source, runtime=body["name"], timeout_seconds=30, **fields)
    file = {"python": "mod.py", "node": "mod.js"}[kind]
    runtime = sample_runtimes.add(server, kind, {file: source}, isolation=tier)
    return server.deploy("mod:handler", runtime=runtime, timeout_seconds=30, **fields)


ONCE = "import threading\nthreading.Thread(target=time.sleep, args=(999,), daemon=True).start()\n"
# This gVisor cannot start threads, so neither Node.js nor Python with `ONCE` runs in it.
KINDS = {
    "python": ("python", PYTHON, TIERS),
    "python that stays": ("python", PYTHON, TIERS),
    "python started for each": ("python", PYTHON + ONCE, TIERS[:1]),
    "node": ("node", NODE, TIERS[:1]),
    "node that stays": ("node", NODE, TIERS[:1]),
    "shell": ("shell", SHELL, TIERS),
}


@promise("F26")
@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("tier", TIERS)
def test_no_process_of_a_call_is_alive_in_the_next(shared: Server, how: str, tier: str) -> None:
    kind, source, tiers = KINDS[how]
    if tier == "gvisor" and tiers != TIERS:
        pytest.skip("the gVisor of this machine starts no threads in sandboxes")
    stays = "stays" in how
    function = deploy(shared, kind, tier, source, max_instances=1, cleanup_on_exit=not stays)
    for number in range(4):
        record = function.invoke()
        assert record["status"] == "success", record
        assert number == 0 or record["cold_start"] is False
        seen, left = json.loads(record["stdout"])
        assert not seen
        assert left >= 3
    function.delete()


# Changes the process from which the next invocation is forked; `look` returns what a fork shows of
# such changes.
TREAT = """
import ctypes, os, resource
libc = ctypes.CDLL(None, use_errno=True)
GET, IO_SET, IO_GET = {"x86_64": (315, 251, 252), "aarch64": (275, 30, 31)}[os.uname().machine]
PARAM = os.sched_param(0)
def look():
    shown = ctypes.create_string_buffer(128)
    libc.syscall(GET, 0, shown, 128, 0)
    limits = [resource.getrlimit(kind) for kind in range(16)]
    return [shown.raw.hex(), sorted(os.sched_getaffinity(0)), limits, os.getpriority(0, 0),
            os.sched_getscheduler(0), libc.syscall(IO_GET, 1, 0)]
TREATMENTS = {
    "limit": lambda pid: resource.prlimit(pid, resource.RLIMIT_NOFILE, (77, 77)),
    "priority": lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 7),
    "processors": lambda pid: os.sched_setaffinity(pid, {min(os.sched_getaffinity(0))}),
    "scheduling": lambda pid: os.sched_setscheduler(pid, os.SCHED_BATCH, PARAM),
    "for forks": lambda pid: os.sched_setscheduler(pid, os.SCHED_RESET_ON_FORK, PARAM),
    "input and output": lambda pid: libc.syscall(IO_SET, 1, pid, 3 << 13),
}
def handler(event):
    if event == "look":
        return [os.uname().nodename, look()]
    try:
        TREATMENTS[event](os.getppid())
    except OSError:
        pass
    return os.uname().nodename
"""
TREATMENTS = ["limit", "priority", "processors", "scheduling", "for forks", "input and output"]


@promise("F27")
@pytest.mark.parametrize("tier", TIERS)
def test_no_call_is_treated_by_the_one_before(shared: Server, tier: str) -> None:
    """If an invocation has modified the process from which invocations are forked, its instance
    serves no other one.
    """
    function = deploy(shared, "python", tier, TREAT, max_instances=1)
    fresh = json.loads(function.invoke("look")["stdout"])[1]
    renewed = []
    for how in TREATMENTS:
        where, _ = json.loads(function.invoke("look")["stdout"])
        function.try_invoke(how)
        record = function.invoke("look")
        assert record["status"] == "success", record
        after, seen = json.loads(record["stdout"])
        assert seen == fresh, how
        renewed += [how] * (after != where)
    print(f"{tier}: renewed after {renewed}")
    if tier == "crun":
        assert renewed == TREATMENTS
    function.delete()


# Leaves a child of the process from which invocations are forked, so that this process has to reap
# it, not the guest. Once this process has seen the end of the invocation, the child waits a little
# longer and sends it a signal.
ENDING = """
import ctypes, json, os, signal, time
CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
def handler(event):
    if event is None: return "fine"
    number, microseconds = event
    runner, me, (ready, tell) = os.getppid(), os.getpid(), os.pipe()
    if ctypes.CDLL(None).syscall(CLONE, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0):
        os.read(ready, 1)
        return "armed"
    os.setsid()
    os.write(tell, b"x")
    for stream in range(3): os.close(stream)
    try:
        while True: os.kill(me, 0)
    except ProcessLookupError:
        pass
    until = time.perf_counter() + microseconds / 1e6
    while time.perf_counter() < until: pass
    os.kill(runner, number)
    os._exit(0)
"""


@promise("F27")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGSTOP])
def test_no_call_ends_or_stops_what_the_next_is_forked_from(shared: Server, number: int) -> None:
    function = deploy(shared, "python", "crun", ENDING, max_instances=1)
    # It takes most of a second until a stopped runner is noticed.
    step, rounds = (8, 1) if number == signal.SIGSTOP else (4, 3)
    for microseconds in [*range(0, 160, step)] * rounds:
        function.try_invoke(json.dumps([number, microseconds]))
        record = function.invoke()
        assert (record["status"], record["stdout"]) == ("success", "fine"), record
    function.delete()


# Leaves a sibling of the handler. When the invocation is over, the sibling signals the process from
# which both were forked.
SEND = """
import ctypes, os, signal, time
CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
def handler(event):
    if event == "look": return "fine"
    number, wait, ends = event
    runner, me = os.getppid(), os.getpid()
    r, w = os.pipe()
    if ctypes.CDLL(None).syscall(CLONE, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os.setsid()
        os.write(w, b"x")
        for fd in range(3): os.close(fd)
        try:
            while os.kill(me, 0) is None: pass
        except ProcessLookupError: pass
        end = time.perf_counter() + wait / 1e6
        while time.perf_counter() < end: pass
        os.kill(runner, number)
        if not ends: time.sleep(60)
        os._exit(0)
    os.read(r, 1)
    return "sent"
"""


@promise("F30")
@pytest.mark.parametrize("tier", TIERS)
def test_no_call_fails_after_one_that_signalled_its_runner(shared: Server, tier: str) -> None:
    function = deploy(shared, "python", tier, SEND, max_instances=1)
    for number in (2, 9, 15, 3):
        for wait in (0, 60, 110, 160):
            for ends in (True, False):
                function.try_invoke(json.dumps([number, wait, ends]))
                record = function.invoke("look")
                assert (record["status"], record["stdout"]) == ("success", "fine"), record
    function.delete()


# Order of out-of-memory kills -----------------------------------------------------------------

LOWER = """
import json, os, threading, time
def write(path, text):
    try:
        with open(path, "w") as file: file.write(text)
    except OSError as error:
        return error.strerror
def handler(event):
    told = []
    child = os.fork() or time.sleep(30)
    for pid in ("self", "thread-self", os.getpid(), child, os.getppid(), 1):
        for name in ("oom_score_adj", "oom_adj"):
            for score in ("-1000", "-900", "0", "1", "499"):
                told.append(write(f"/proc/{pid}/{name}", score))
    time.sleep(4)  # to be looked at, on a busy machine too
    return sorted(set(map(str, told)))
"""


def score_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@promise("F28")
@pytest.mark.parametrize("tier", TIERS)
def test_handlers_are_killed_first_and_cannot_change_that(shared: Server, tier: str) -> None:
    """On the host, every process of a gVisor sandbox has the score of a handler."""
    before = {pid for pids in shared.sandbox_pids().values() for pid in pids}
    function = deploy(shared, "python", tier, LOWER)
    call = shared.later(function.invoke)

    def started() -> dict[str, set[int]]:
        now = {one: set(pids) - before for one, pids in shared.sandbox_pids().items()}
        return {one: pids for one, pids in now.items() if pids}

    # In crun's: guest, runner, handler and its child; a prewarmed sandbox has the first two.
    count = 4 if tier == "crun" else 2
    where = until(lambda: [one for one, pids in started().items() if len(pids) >= count])
    guests = shared.guests()
    # `scores` has the last score of each process, since a process that is just being forked still
    # has its parent's. A sandbox that was created for this invocation has a new guest, whose score
    # is checked below.
    floor, scores = score_of(shared.launcher), dict[int, int]()
    looked_at_below = {guests[where[0]]} if tier == "crun" else set[int]()
    while not call.done():
        for pid in started().get(where[0], set()) - looked_at_below:
            with suppress(OSError):  # the score of a process that has just ended cannot be read
                scores[pid] = score_of(pid)
        time.sleep(0.05)
    assert set(scores.values()) == {500}
    if tier == "crun":
        assert floor < score_of(guests[where[0]]) == max(0, floor + 1)
        errors = json.loads(call.result()["stdout"])
        assert set(errors) <= {"Read-only file system", "No such file or directory"}
    function.delete()


# Connections that a handler sees --------------------------------------------------------------

CONNECT = """
import socket
def seen():
    lines = [line.split() for name in ("tcp", "tcp6") for line in open(f"/proc/net/{name}")]
    return [line[1:4] for line in lines if line[3] in ("06", "04", "05", "09", "0B")]
def handler(event):
    found = seen()
    if event == "connect":
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            server = socket.create_server((host, 0), family=family)
            for first in range(4):
                near = socket.create_connection(server.getsockname()[:2])
                far, _ = server.accept()
                ends = [near, far] if first % 2 else [far, near]
                if first > 1: ends[0].shutdown(socket.SHUT_WR), ends[1].sendall(b"x")
                for end in ends: end.close()
    return found
"""


@promise("F29")
@pytest.mark.parametrize("tier", TIERS)
def test_no_call_sees_whom_another_was_connected_with(shared: Server, tier: str) -> None:
    function = deploy(shared, "python", tier, CONNECT, max_instances=1)
    for event in ("connect", "look", "connect", "connect", "look"):
        record = function.invoke(event)
        assert (record["status"], record["stdout"]) == ("success", "[]"), record
    function.delete()
