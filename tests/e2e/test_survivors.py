"""What a hostile call does to be there when the next one runs, in every kind and both isolations.

In bare namespaces, where more ways are tried: `tests/sandbox/test_survivors.py`.
"""

import json
import os
from typing import Any

import pytest

from e2e import runtime_box
from e2e.server import Function, Server

pytestmark = pytest.mark.sandbox
GVISOR = pytest.param(
    "gvisor",
    marks=pytest.mark.skipif(
        not os.access("/usr/bin/runsc", os.X_OK), reason="needs /usr/bin/runsc: apt install runsc"
    ),
)
TIERS = ["crun", GVISOR]

# Says who else is there, then leaves a child of its parent, a child of its own that has lost its
# parent, and a child that nobody is asked to end: what the runner would do that with is taken away.
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
    runtime = runtime_box.add(server, kind, {file: source}, isolation=tier)
    return server.deploy("mod:handler", runtime=runtime, timeout_seconds=30, **fields)


ONCE = "import threading\nthreading.Thread(target=time.sleep, args=(999,), daemon=True).start()\n"
# No threads can be started under this gVisor, so there is neither Node nor `once` of Python there.
KINDS = {
    "python": ("python", PYTHON, TIERS),
    "python that stays": ("python", PYTHON, TIERS),
    "python started for each": ("python", PYTHON + ONCE, TIERS[:1]),
    "node": ("node", NODE, TIERS[:1]),
    "node that stays": ("node", NODE, TIERS[:1]),
    "shell": ("shell", SHELL, TIERS),
}


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("tier", TIERS)
def test_no_process_of_a_call_is_alive_in_the_next(shared: Server, how: str, tier: str) -> None:
    kind, source, tiers = KINDS[how]
    if tier == "gvisor" and GVISOR not in tiers:
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


# What one call sets for the process that the next is forked from, and what a fork shows of it.
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


@pytest.mark.parametrize("tier", TIERS)
def test_no_call_is_treated_by_the_one_before(shared: Server, tier: str) -> None:
    """An instance whose process was treated serves no other call."""
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
