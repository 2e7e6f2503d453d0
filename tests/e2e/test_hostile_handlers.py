"""Handlers that attack: what they may use up, how they end, and which doors they find open.

Each runs in a sandbox of this module's own server. Meanwhile another tenant's function is called,
and afterwards the host is compared with what it was (`oracle.py`).
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from e2e import oracle
from e2e.hostile_setup import Ground, Meter, answers_again, host_can_fork, script, times
from e2e.sample_runtimes import node, python
from e2e.server import Function, Server, until
from e2e.test_fence import fence
from timeouts import scaled

pytestmark = pytest.mark.sandbox
MIB = 1 << 20
QUICK = '[ "$QUILT_PAYLOAD" = quick ] && exec echo quick\n'
PIDS_MAX, MEMORY_MAX = 64, 256 * MIB
# The kernel counts a fork before it refuses it: one on each processor may be seen beyond the limit.
PIDS_SEEN_MAX = PIDS_MAX + (os.cpu_count() or 1)


@pytest.fixture(scope="module")
def server(ground: Ground) -> Server:
    return ground.server


def timed(function: Function, payload: str | None = None) -> tuple[dict[str, Any], float]:
    began = time.monotonic()
    return function.invoke(payload), time.monotonic() - began


# B1 ------------------------------------------------------------------------------------------

WHO = {
    "shell": lambda server: server.deploy("cat /proc/self/status"),
    "python": lambda server: python(
        server, "def handler(event): return open('/proc/self/status').read()"
    ),
    "node": lambda server: node(
        server, "exports.handler = () => require('fs').readFileSync('/proc/self/status', 'utf8')"
    ),
}


@pytest.mark.parametrize("runtime", WHO)
def test_every_runtime_runs_handlers_as_nobody_in_particular(server: Server, runtime: str) -> None:
    function = WHO[runtime](server)
    for cold in (True, False):
        record = function.invoke("x")
        assert fence({"status": record["stdout"]}) == {
            "uid": {1000},
            "gid": {1000},
            "groups": [],
            "caps": {0},
            "no_new_privs": "1",
            "seccomp": "2",
        }
        assert record["cold_start"] is cold or record["cold_start"] is False
    function.delete()


# B2 ------------------------------------------------------------------------------------------

BOMBS = {
    "shell": "b() { b | b & }; b; while :; do b; done",
    "fork": script("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"),
    "threads": script(
        "import threading, time\nwhile True:\n"
        "    try: threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    except RuntimeError: pass"
    ),
    "vfork": script(
        "import os\nwhile True:\n"
        "    try: os.posix_spawn('/bin/sleep', ['sleep', '60'], {})\n    except OSError: pass"
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_of_processes_stays_within_its_limit_and_ends(server: Server, bomb: str) -> None:
    function = server.deploy(QUICK + BOMBS[bomb], timeout_seconds=1)
    with Meter(server) as meter:
        call = server.later(timed, function)
        host_can_fork()
        record, took = call.result()
    assert record["status"] in ("timeout", "failed"), record
    assert took < scaled(2.0)
    assert meter.pids <= PIDS_SEEN_MAX
    # A shell gives up when it cannot fork, sometimes between two looks.
    assert meter.pids > PIDS_MAX // 2 or bomb == "shell", "it was one"
    until(lambda: not any(len(pids) > 3 for pids in server.sandbox_pids().values()), 2.0)
    answers_again(server, function)
    print(f"{bomb}: at most {meter.pids} of {PIDS_MAX} processes, over after {took:.2f} s")
    function.delete()


# B3 ------------------------------------------------------------------------------------------

MANY = "import os\nfor _ in range({n}):\n    if os.fork() == 0: break\n"
EATERS = {
    "touch": ("x = b'x' * (600 << 20)", {"oom"}),
    "shared mapping": (
        "import mmap\nm = mmap.mmap(-1, 600 << 20)\nfor i in range(0, 600 << 20, 4096): m[i] = 1",
        {"oom"},
    ),
    "memfd": (
        "import os\nfor n in range(12):\n    fd = os.memfd_create('x')\n"
        "    for _ in range(60): os.write(fd, bytes(1 << 20))",
        {"oom"},
    ),
    "tmpfs and heap": (
        "import os\nfor d, n in (('/tmp', 70), ('/dev/shm', 20)):\n    try:\n"
        "        with open(d + '/x', 'wb', 0) as f:\n"
        "            for _ in range(n): f.write(bytes(1 << 20))\n    except OSError: pass\n"
        "x = b'x' * (240 << 20)",
        {"oom"},
    ),
    "sockets": (
        MANY.format(n=4) + "import socket, time\nkept = []\ntry:\n    while True:\n"
        "        pair = socket.socketpair(); pair[0].setblocking(False); kept.append(pair)\n"
        "        try:\n            while True: pair[0].send(bytes(65536))\n"
        "        except BlockingIOError: pass\nexcept OSError: time.sleep(1)",
        {"oom", "success", "failed"},
    ),
    "pipes": (
        MANY.format(n=4) + "import os, time\ntry:\n    while True:\n"
        "        r, w = os.pipe(); os.set_blocking(w, False)\n"
        "        try:\n            while True: os.write(w, bytes(65536))\n"
        "        except BlockingIOError: pass\nexcept OSError: time.sleep(1)",
        {"oom", "success", "failed"},
    ),
    "names that are not there": (
        "import os, time\nend, n = time.time() + 2, 0\nwhile time.time() < end:\n    n += 1\n"
        "    try: os.stat('/usr/no-%d' % n)\n    except OSError: pass",
        {"success"},
    ),
}


@pytest.mark.parametrize("eater", EATERS)
def test_memory_of_every_kind_is_the_sandboxs_own(server: Server, eater: str) -> None:
    code, ends = EATERS[eater]
    function = server.deploy(QUICK + script(code), timeout_seconds=8)
    with Meter(server) as meter:
        record, took = timed(function)
    assert record["status"] in ends, record
    assert took < 8, "it did not need its deadline"
    assert 0 < meter.memory <= MEMORY_MAX * 1.05
    # Others may be at work on the machine; what no limit counted would be more than this.
    assert meter.host_drop <= MEMORY_MAX + 1024 * MIB
    answers_again(server, function)
    told = f"{meter.memory // MIB} MiB at most, the host's fell by {meter.host_drop // MIB}"
    print(f"{eater}: {record['status']} after {took:.2f} s, {told}")
    function.delete()


# B4 ------------------------------------------------------------------------------------------

FILL = r"""
import errno, json, os
told = {}
for place in ("/tmp", "/dev/shm", "/dev", "/", "/app", "/usr", "/etc"):
    wrote, why = 0, ""
    try:
        for n in range(8):
            fd = os.open(f"{place}/fill{n}", os.O_WRONLY | os.O_CREAT)
            for _ in range(60):
                wrote += os.write(fd, bytes(1 << 20))
    except OSError as error:
        why = errno.errorcode[error.errno]
    told[place] = [wrote, why]
    for n in range(8):
        try: os.unlink(f"{place}/fill{n}")
        except OSError: pass
    made = 0
    try:
        while True:
            os.mknod(f"{place}/i{made}")
            made += 1
    except OSError as error:
        told[place] += [made, errno.errorcode[error.errno]]
    for n in range(made): os.unlink(f"{place}/i{n}")
fd = os.open("/tmp/sparse", os.O_RDWR | os.O_CREAT)
for name, call in (
    ("sparse", lambda: os.ftruncate(fd, 1 << 40)),
    ("allocated", lambda: os.posix_fallocate(fd, 0, 1 << 40)),
):
    try:
        call()
        told[name] = "made"
    except OSError as error:
        told[name] = errno.errorcode[error.errno]
print(json.dumps(told))
"""


def test_a_disk_is_filled_to_its_cap_and_it_is_the_sandboxs_own(server: Server) -> None:
    def size() -> int:
        return sum(one.stat().st_blocks * 512 for one in server.data_dir.rglob("*"))

    before = size()
    record = server.run(script(FILL), timeout_seconds=30)
    assert record["status"] == "success", record
    told = json.loads(record["stdout"])
    assert told["sparse"] == told["allocated"] == "EFBIG"
    for place, (most, inodes) in {"/tmp": (64, 16_384), "/dev/shm": (16, 1024)}.items():
        wrote, why, made, why_not_more = told[place]
        assert (why, why_not_more) == ("ENOSPC", "ENOSPC")
        assert (most - 1) * MIB <= wrote <= most * MIB
        assert inodes - 8 <= made <= inodes
    for place in ("/dev", "/", "/app", "/usr", "/etc"):
        wrote, why, made, why_not_more = told[place]
        assert (wrote, made) == (0, 0), place
        assert {why, why_not_more} <= {"EROFS", "EACCES", "EPERM"}, (place, told)
    assert size() - before <= 16 * MIB
    print({place: told[place] for place in ("/tmp", "/dev/shm")})


# B6 ------------------------------------------------------------------------------------------

STUBBORN = [
    "trap '' TERM INT HUP; while :; do :; done",
    "kill -STOP $$; sleep 60",
    "(trap '' HUP; sleep 60) & kill -STOP $!; wait",
    # The parent of a vfork cannot be interrupted by anything but its end.
    script("import ctypes, time\nlibc = ctypes.PyDLL(None)\nif libc.vfork() == 0: time.sleep(60)"),
]


def test_every_deadline_is_kept(server: Server) -> None:
    functions = [server.deploy(one, timeout_seconds=1, max_instances=2) for one in STUBBORN]
    calls = []
    for _ in range(times(4, 25)):
        turn = [server.later(timed, one) for one in functions]
        calls += [one.result() for one in turn]
    assert {record["status"] for record, _ in calls} == {"timeout"}
    # Without the start of the sandbox that each needs after the one before.
    late = sorted(record["duration_ms"] / 1000 - 1 for record, _ in calls)
    assert late[int(len(late) * 0.99)] <= scaled(1.0)
    assert late[0] >= 0
    until(lambda: not server.named("sleep"), 2.0)
    for one in functions:
        until(lambda one=one: one.pool()["total_count"] == 0, 2.0)
        one.delete()
    print(f"{len(calls)} of {len(calls)} deadlines kept, at most {late[-1] * 1000:.0f} ms late")


DEBT = """
import mmap, os
POPULATE = 0x8000
flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | POPULATE
held = mmap.mmap(-1, 200 << 20, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | POPULATE)
for _ in range(30):
    if os.fork() == 0: break
{way}
"""
DEBTS = {
    # 30 times 12 MiB do not fit beside the 200: one call has the kernel look for memory for long.
    "memory": "while True: mmap.mmap(-1, 12 << 20, flags).close()",
    "bytes": "fd = os.open('/dev/zero', 0)\nwhile True: os.preadv(fd, [held], 0)",
}


@pytest.mark.parametrize("way", DEBTS)
def test_a_deadline_is_kept_where_much_more_was_used_than_the_processor_gives(
    server: Server, way: str
) -> None:
    """The kernel lets a call go on beyond the quota; the group then waits for what it owes."""
    code = script(DEBT.replace("{way}", DEBTS[way]))
    function = server.deploy(code, timeout_seconds=3, cpu_limit_percent=10)
    late = []
    for _ in range(times(2, 10)):
        record, took = timed(function)
        assert record["status"] == "timeout", record
        assert took < scaled(3 + 2.0)
        late.append(record["duration_ms"] / 1000 - 3)
    assert min(late) >= 0
    assert max(late) <= scaled(1.0)
    until(lambda: not server.named("python3"), 2.0)
    function.delete()
    print(f"{way}: at most {max(late) * 1000:.0f} ms late")


# B9, B11 --------------------------------------------------------------------------------------

PROBE = Path(__file__).with_name("closed_doors.py").read_text()


@pytest.fixture(scope="module")
def doors(server: Server) -> dict[str, str]:
    record = server.run(script(PROBE), timeout_seconds=30)
    assert record["status"] == "success", record
    return json.loads(record["stdout"])


def test_no_other_door_of_the_kernel_is_open(doors: dict[str, str]) -> None:
    """Beyond those of `forbidden.py`: every other call, family, flag and architecture."""
    opened = {name: how for name, how in doors.items() if how.startswith("open")}
    assert not opened
    calls = {name: how for name, how in doors.items() if name.startswith("call ")}
    assert set(calls.values()) <= {"EPERM", "ENOSYS"}, calls
    assert len(doors) >= 120
    print(f"{len(doors)} doors, all closed: {sorted(set(doors.values()))}")


def test_no_control_group_can_be_reached_or_mounted(doors: dict[str, str]) -> None:
    mounted = {name: how for name, how in doors.items() if name.startswith("mount ")}
    assert len(mounted) >= 8
    assert set(mounted.values()) == {"EPERM"}
    assert doors["writable files of a control group"] == "none"


# B13 ------------------------------------------------------------------------------------------

OVERWRITE = r"""
import glob, os, time
end, looked, opened = time.time() + float(os.environ["SECONDS_LONG"]), 0, []
while time.time() < end:
    for link in ("/proc/self/exe", *glob.glob("/proc/[0-9]*/exe"), "/.guest", "/proc/1/exe"):
        looked += 1
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND):
            try:
                os.close(os.open(link, flags))
                opened.append(link)
            except OSError:
                pass
os.execv("/bin/sh", ["sh", "-c", f"echo {looked} {len(opened)}"])
"""


def guest_digests(server: Server) -> set[str]:
    """Of the guest's program, as each sandbox has it."""
    (pids, *_) = server.sandbox_pids().values()
    found = {oracle.digest(Path(f"/proc/{pid}/root/.guest")) for pid in pids}
    assert found != {"cannot be read"}
    return found


def test_no_program_can_be_written_to_while_others_are_started(server: Server) -> None:
    """What starts meanwhile: new sandboxes. The oracle has the digest of crun."""
    seconds = times(2, 30)
    attack = server.deploy(script(OVERWRITE), environment={"SECONDS_LONG": str(seconds)})
    call = server.later(attack.invoke)
    starts, before = 0, guest_digests(server)
    while not call.done():
        server.run("exec 3</proc/self/exe; echo $(/proc/self/exe --version 2>&1 | head -c 20)")
        starts += 1
    looked, opened = map(int, call.result()["stdout"].split())
    assert (opened, looked > 100, starts > 1) == (0, True, True)
    assert guest_digests(server) == before
    shebang = "printf '#!/proc/self/exe\\n' >/tmp/x; chmod +x /tmp/x; timeout 1 /tmp/x; echo $?"
    assert int(server.run(shebang)["stdout"]) != 0
    attack.delete()
    print(f"{looked} tries on running programs, {starts} sandboxes started meanwhile, 0 opened")
