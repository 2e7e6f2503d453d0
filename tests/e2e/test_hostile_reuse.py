"""Nothing of an invocation is left for the next one, nothing of a version for another, and nothing
of a tenant for another.

`test_warm_reuse.py` tests the same for interpreters that stay between invocations.
"""

import json
import os
import signal
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from e2e.hostile_setup import Ground, of_another_tenant, script, times
from e2e.server import Function, Server, status_of, statuses_of, until
from promises import promise
from timeouts import scaled

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def server(ground: Ground) -> Server:
    return ground.server


def alone(server: Server, handler: str, **fields: Any) -> Function:
    """A function whose invocations all run in the same sandbox, one after the other."""
    return server.deploy(handler, max_instances=1, **fields)


# C1, C5, C6: the state of a process -----------------------------------------------------------

STATE = r"""
env -0 | tr '\0' '\n' | grep -v ^QUILT_ | sort; umask; pwd; ulimit -a; nice; trap; alias; set -o
command -v planted; echo "$PS4|$ENV|$BASH_ENV|$HISTFILE|$-"
grep -E '^(Sig|Shd|NoNew|Thr|Cap|Gro)' /proc/self/status
cat /proc/self/comm /proc/self/oom_score_adj /proc/self/timerslack_ns /proc/self/coredump_filter
ls /proc/self/fd; ls -d /proc/[0-9]*; cat /proc/self/limits; stat -c '%a %u %Y' /tmp >/dev/null
"""
SPOIL = r"""
export SPOILT=1 PATH=/tmp:$PATH ENV=/tmp/rc BASH_ENV=/tmp/rc PS4=x IFS=x HOME=/dev/shm; umask 000
cd /dev/shm; ulimit -n 99; ulimit -s 512; renice 10 $$ >/dev/null 2>&1; trap '' TERM HUP; set -f -u
alias ls=false; planted() { :; }; exec 7</usr/bin/env 8>/tmp/open
echo 900 >/proc/self/oom_score_adj
echo 'export SPOILT=2' >/tmp/rc; echo 'export SPOILT=3' >/tmp/.profile
echo 255 >/proc/self/coredump_filter
setsid sleep 60 <&- >&- 2>&- & (sleep 0 &) & kill -STOP $!; exit 0
"""


def test_the_second_call_starts_as_the_first_did(server: Server) -> None:
    function = alone(server, f'if [ "$QUILT_PAYLOAD" = spoil ]; then {SPOIL}\nfi\n{STATE}')
    fresh = steady(function.invoke("look"))
    for _ in range(times(10, 100)):
        assert function.invoke("spoil")["status"] == "success"
        record = function.invoke("look")
        assert record["cold_start"] is False
        assert steady(record) == fresh
    pids = chain.from_iterable(server.sandbox_pids().values())
    assert "Z" not in {status["State"][0] for status in statuses_of(pids)}
    function.delete()
    print(f"{len(fresh)} lines of state, 0 of them another after a call that spoilt all of them")


def steady(record: dict[str, Any]) -> list[str]:
    """The text without pids, which differ between invocations."""
    assert record["status"] == "success", record
    lines = [one for one in record["stdout"].splitlines() if not one.startswith("/proc/")]
    return [*lines, f"{record['stdout'].count('/proc/')} processes"]


# C2: secrets of the invocation before ---------------------------------------------------------

LOOK = r"""
case "$QUILT_PAYLOAD" in plant*) echo "$SECRET" >/tmp/s; echo "$SECRET" >/dev/shm/s; exit 0;; esac
cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/1/mem /tmp/* /dev/shm/* 2>/dev/null |
tr '\0' '\n' |
grep -c s3cr[3]t
"""


def test_a_secret_is_nowhere_in_the_next_call_of_a_shell(server: Server) -> None:
    function = alone(server, LOOK)
    pairs = times(50, 100)
    for number in range(pairs):
        secret = {"SECRET": f"s3cr3t-{number}"}
        assert function.invoke("plant", environment=secret)["status"] == "success"
        assert function.invoke("look")["stdout"] == "0\n"
    own = function.invoke("look", environment={"SECRET": "s3cr3t"})
    assert int(own["stdout"]) >= 1, "negative control: a secret of its own is found"
    function.delete()
    print(f"{pairs} pairs, 0 hits")


# C3: files and other objects ------------------------------------------------------------------

LEAVE = r"""
import ctypes, fcntl, os, socket
libc = ctypes.CDLL(None)
for place in ("/tmp", "/dev/shm", "/run", os.environ["HOME"], ".", "/", "/app", "/var/tmp"):
    try: open(place + "/left", "w").close(); os.mkdir(place + "/.left")
    except OSError: pass
try:
    os.symlink("/proc/1/root", "/tmp/.left/link"); os.mkfifo("/tmp/.left/pipe")
    os.chmod("/tmp/.left", 0)
except OSError: pass  # it was left before
libc.shmget(77, 1 << 20, 0o1666); libc.semget(78, 1, 0o1666); libc.msgget(79, 0o1666)
libc.syscall(240, b"left", os.O_CREAT | os.O_RDWR, 0o600, None)
one = socket.socket(socket.AF_UNIX); one.bind("\0left"); one.listen()
two = socket.create_server(("127.0.0.1", 4444))
fcntl.flock(os.open("/usr/bin/env", os.O_RDONLY), fcntl.LOCK_EX)
if os.fork() == 0:
    os.setsid(); import time; time.sleep(60)
"""
SEEN = r"""
import fcntl, json, os
found = []
for place in ("/tmp", "/dev/shm", "/run", os.environ["HOME"], "/", "/app", "/var/tmp"):
    try: found += [place + "/" + one for one in os.listdir(place) if "left" in one]
    except OSError: pass
for kind in ("shm", "sem", "msg"):
    found += [kind] * (open("/proc/sysvipc/" + kind).read().count("\n") - 1)
for name in ("unix", "tcp"):
    text = open("/proc/net/" + name).read()
    found += [name] if "left" in text or ":115C 00000000:0000 0A" in text else []
try: fcntl.flock(os.open("/usr/bin/env", os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError: found.append("lock")
print(json.dumps(found))
"""


@promise("C8")
@pytest.mark.parametrize("cleanup", [True, False])
def test_what_can_be_left_is_gone(server: Server, cleanup: bool) -> None:
    leave, look = script(LEAVE), script(SEEN)
    handler = f'if [ "$QUILT_PAYLOAD" = leave ]; then {leave}\nfi\n{look}'
    function = alone(server, handler, cleanup_on_exit=cleanup)
    for _ in range(times(3, 30)):
        assert function.invoke("leave")["status"] == "success"
        record = function.invoke("look")
        found = set(json.loads(record["stdout"]))
        assert record["cold_start"] is False
        assert found == (set() if cleanup else {"/tmp/left", "/tmp/.left"})
    function.delete()


# C4: processes that continue ------------------------------------------------------------------


def test_what_a_shell_left_running_writes_into_no_other_call(server: Server) -> None:
    late = "(setsid sh -c 'for n in 1 2 3 4 5 6 7 8 9; do echo late; sleep 0.001; done' &)"
    function = alone(server, f'{late} >&2; printf %s "$QUILT_PAYLOAD"')
    pairs = times(50, 1000)
    for number in range(pairs):
        record = function.invoke(f"n{number}")
        assert record["stdout"] == f"n{number}"
        assert set(record["stderr"].split()) <= {"late"}
    later = '[ "$QUILT_PAYLOAD" ] && (setsid sh -c "sleep 0.01; echo late" &); exit 0'
    quiet = alone(server, later)
    for _ in range(pairs // 2):
        assert quiet.invoke("x")["status"] == "success"
        assert quiet.invoke()["stdout"] == ""
    for used in (function, quiet):
        used.delete()
    print(f"{pairs + pairs // 2} pairs, 0 bytes crossed")


# C7: updates during invocations ---------------------------------------------------------------


def test_a_call_runs_one_version_whole(server: Server) -> None:
    """Invocations continue while the function is updated and rolled back; each must run one version
    only.
    """
    function = server.deploy(
        "echo $TAG $QUILT_FUNCTION_VERSION", environment={"TAG": "1"}, max_instances=2
    )
    changes = times(8, 20)
    records: list[dict[str, Any]] = []
    for number in range(2, changes + 2):
        calls = [server.later(function.try_invoke) for _ in range(6)]
        body = {"environment": {"TAG": str(number)}}
        assert server.call("PUT", function.path, body).status_code == 200
        calls += [server.later(function.try_invoke) for _ in range(6)]
        records += [answer.json() for one in calls if (answer := one.result()).status_code == 200]
    answer = server.call("POST", f"{function.path}/rollback", {"version": 1})
    assert answer.status_code == 200, answer.text
    records += [function.invoke() for _ in range(5)]
    assert records[-1]["stdout"] == "1 1\n"
    for record in records:
        tag, version = record["stdout"].split()
        assert tag == version, record
    function.delete()
    print(f"{len(records)} calls across {changes} updates and a rollback, 0 mixed up")


# C8: data of another tenant -------------------------------------------------------------------

PLANT = r"""
import os
pattern = b"PLANTED-BY-ANOTHER-TENANT"
block = pattern * (1 << 16)
kept = [bytearray(block) for _ in range(8)]
for n in range(4):
    for place in ("/tmp", "/dev/shm"): open(f"{place}/x{n}", "wb").write(block)
"""
SCAN = r"""
import ctypes, mmap, os
pattern = b"PLANTED-BY-ANOTHER-" + b"TENANT"
found = 0
libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p
for size in (1 << 12, 1 << 16, 1 << 20, 1 << 24):
    found += ctypes.string_at(libc.malloc(size), size).count(pattern)
fresh = mmap.mmap(-1, 16 << 20)
found += fresh.read(16 << 20).strip(b"\0") != b""
for place in ("/tmp", "/dev/shm"):
    found += len(os.listdir(place))
    fd = os.open(place + "/s", os.O_CREAT | os.O_RDWR); os.ftruncate(fd, 8 << 20)
    os.posix_fallocate(fd, 0, 8 << 20); found += os.pread(fd, 8 << 20, 0).strip(b"\0") != b""
print(found, os.uname().nodename)
"""


def test_nothing_of_a_tenant_is_found_by_another(ground: Ground) -> None:
    """The functions of both tenants have the same name. The first one is deleted before the
    second one is invoked.
    """
    server = ground.server
    call = of_another_tenant(server, "neighbour")
    pairs, hosts, uids = times(3, 250), set(), set()
    for _ in range(pairs):
        ours = server.deploy(script(PLANT), name="same")
        assert ours.invoke()["status"] == "success"
        theirs = deploy_as(call, {"name": "same", "handler": script(SCAN)})
        firsts = [pids[0] for pids in server.sandbox_pids().values()]
        alive = [status["Uid"] for status in statuses_of(firsts)]
        assert len(set(alive)) == len(alive), "no two have a host uid in common"
        uids |= set(alive)
        ours.delete()
        record = call("POST", f"{theirs}/invoke", {}).json()
        found, host = record["stdout"].split()
        assert found == "0"
        hosts.add(host)
        assert call("DELETE", theirs).status_code == 204
    assert len(hosts) == pairs, "each a sandbox of its own"
    print(f"{pairs} pairs, 0 patterns, {len(uids)} ranges of host uids seen")


def deploy_as(call: Callable[..., Any], body: dict[str, Any]) -> str:
    made = call("POST", "/api/functions", body)
    assert made.status_code == 201, made.text
    path = f"/api/functions/{made.json()['function_id']}"
    assert call("POST", f"{path}/deploy").json()["state"] == "active"
    return path


# C9: random numbers ---------------------------------------------------------------------------


def test_no_two_draw_the_same(server: Server) -> None:
    draw = "od -An -N16 -tx1 /dev/urandom | tr -d ' '; cat /proc/sys/kernel/random/uuid; hostname"
    function = server.deploy(
        f"{draw}; cat /etc/machine-id 2>/dev/null; sleep 0.02", max_instances=4
    )
    drawn = []
    for _ in range(25):
        calls = [server.later(function.invoke) for _ in range(4)]
        drawn += [one.result()["stdout"].split() for one in calls]
    assert {len(one) for one in drawn} == {3}, "and there is no machine-id to have in common"
    assert len({value for one in drawn for value in one[:2]}) == 200
    assert len({one[2] for one in drawn}) >= 2
    function.delete()
    print(f"200 of 200 draws distinct, {len({one[2] for one in drawn})} names of sandboxes")


# C10: invocations after a bad end -------------------------------------------------------------

BAD = {
    "timeout": ("exec sleep 30", "timeout"),
    "oom": ("exec python3 -c \"x = b'x' * (400 << 20)\"", "oom"),
    "failed": ("exit 3", "failed"),
    "killed": ("kill -9 $$", "failed"),
    "guest killed": ("exec sleep 30", "error"),
}


@pytest.mark.parametrize("how", BAD)
def test_after_a_bad_end_the_next_call_succeeds(server: Server, how: str) -> None:
    """The next invocation runs in another sandbox, unless only the handler itself has ended."""
    handler, status = BAD[how]
    handler = f'[ "$QUILT_PAYLOAD" = who ] && exec hostname\n{handler}'
    function = alone(server, handler, timeout_seconds=20)
    limit = 1 if how == "timeout" else 20
    rounds = times({"timeout": 2, "oom": 3}.get(how, 10), 100)
    for _ in range(rounds):
        before = function.invoke("who")["stdout"]
        if how == "guest killed":
            kill_guest_of(function)
        else:
            assert function.invoke(timeout_seconds=limit)["status"] == status
        after = function.invoke("who")
        assert after["status"] == "success"
        assert (after["stdout"] == before) is (how in ("failed", "killed"))
    function.delete()
    print(f"{how}: {rounds} of {rounds} times the next call succeeded")


def kill_guest_of(function: Function) -> None:
    call = function.server.later(function.try_invoke)
    sleeper = until(lambda: function.server.named("sleep"))[0]
    os.kill(int(status_of(sleeper)["PPid"]), signal.SIGKILL)
    assert call.result(scaled(5)).status_code == 503
    assert Path("/proc/self").exists()
