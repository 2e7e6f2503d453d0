"""A handler's view of itself and of the machine, checked from inside and from outside of the
sandbox.

Cheap checks are also made on the host, where they must have another result: this shows that the
probe can fail.
"""

import errno
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from e2e.leftovers import SERVER_UIDS, UIDS
from e2e.server import Server, children, parse_status, status_of, until
from promises import promise
from timeouts import scaled

pytestmark = pytest.mark.sandbox
SECTIONS = {
    "id": "id",
    "status": "cat /proc/self/status",
    "cgroup": "cat /proc/self/cgroup",
    "fds": "ls -l /proc/self/fd",
    "mountinfo": "cat /proc/self/mountinfo",
    "pids": "ls /proc",
    "net": "cat /proc/net/dev",
    "uid_map": "cat /proc/self/uid_map",
    "limits": "cat /proc/self/limits",
    "oom": "cat /proc/self/oom_score_adj",
    "root": "ls -A / /dev",
    "umask": "umask; pwd",
    "routes": "cat /proc/net/route",
}
PROBE = "".join(f"echo '== {name}'; {command}; " for name, command in SECTIONS.items())


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^== (\w+)\n", text, flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.fixture(scope="module", params=["first", "later"])
def inside(shared: Server, request: pytest.FixtureRequest) -> dict[str, str]:
    """What a handler sees in a sandbox that existed before its function, in the warm stock."""

    def seen_from_the_stock() -> dict[str, str] | None:
        maps = [Path(f"/proc/{pid}/uid_map") for pid in shared.guests().values()]
        there = {path.read_text().split()[1] for path in maps}
        function = shared.deploy(PROBE)
        if request.param == "later":
            assert function.invoke()["status"] == "success"
        record = function.invoke()
        function.delete()
        seen = sections(record["stdout"])
        return seen if seen["uid_map"].split()[1] in there else None

    return until(seen_from_the_stock)


@pytest.fixture(scope="module")
def outside() -> dict[str, str]:
    done = subprocess.run(["/bin/sh", "-c", PROBE], capture_output=True, text=True, check=False)
    return sections(done.stdout)


def fence(seen: dict[str, str]) -> dict[str, Any]:
    """The parts of the handler's identity that every sandbox must have."""
    status = parse_status(seen["status"])
    return {
        "uid": {int(one) for one in status["Uid"].split()},
        "gid": {int(one) for one in status["Gid"].split()},
        "groups": status["Groups"].split(),
        "caps": {int(status[f"Cap{one}"], 16) for one in ("Inh", "Prm", "Eff", "Bnd", "Amb")},
        "no_new_privs": status["NoNewPrivs"],
        "seccomp": status["Seccomp"],
    }


@promise("F1")
def test_identity(inside: dict[str, str], outside: dict[str, str]) -> None:
    wanted = {
        "uid": {1000},
        "gid": {1000},
        "groups": [],
        "caps": {0},
        "no_new_privs": "1",
        "seccomp": "2",
    }
    assert fence(inside) == wanted
    on_host = fence(outside)
    assert on_host["uid"] == {0}
    assert on_host["caps"] != {0}
    assert on_host["seccomp"] == "0"
    assert inside["id"].startswith("uid=1000(handler) gid=1000(handler) groups=1000(handler)")
    mapping = [int(one) for one in inside["uid_map"].split()]
    assert mapping[0] == 0
    assert mapping[1] in UIDS
    assert mapping[2] == 65_536


@promise("F2")
def test_descriptors(inside: dict[str, str]) -> None:
    links = re.findall(r" (\d+) -> (.*)", inside["fds"])
    assert [number for number, _ in links] == ["0", "1", "2", "3"]
    assert links[0][1] == "/memfd:payload (deleted)"  # the payload is empty
    assert links[1][1].startswith("pipe:")
    assert links[2][1].startswith("pipe:")
    assert re.fullmatch(r"/proc/\d+/fd", links[3][1])  # the directory that ls itself has opened


@promise("F3")
def test_only_its_own_processes(inside: dict[str, str], outside: dict[str, str]) -> None:
    def processes(seen: dict[str, str]) -> set[str]:
        return {one for one in seen["pids"].split() if one.isdigit()}

    assert len(processes(inside)) <= 2
    assert "1" not in processes(inside)
    assert "1" in processes(outside)


@promise("F4")
def test_only_loopback(inside: dict[str, str], outside: dict[str, str]) -> None:
    assert re.findall(r"^\s*(\S+):", inside["net"], re.M) == ["lo"]
    assert len(inside["routes"].splitlines()) <= 1
    assert outside["net"].count(":") >= 1


@promise("F5")
def test_nothing_of_the_hosts_control_groups(inside: dict[str, str]) -> None:
    paths = [line.split(":", 2)[2] for line in inside["cgroup"].splitlines()]
    named = [path for path in paths if "quiltfn" in path]
    assert not named, "the cgroup namespace begins at the sandbox's own group"


@promise("F5")
def test_its_own_control_group_is_shown_and_no_other(shared: Server) -> None:
    """The handler sees the limits of its own sandbox, read-only, and nothing of the groups above or
    beside it.
    """
    code = """
import os, sys
top = "/sys/fs/cgroup"
v2 = os.path.exists(top + "/cgroup.controllers")
names = ["memory.max", "pids.max"] if v2 else ["memory/memory.limit_in_bytes", "pids/pids.max"]
print(*(open(f"{top}/{name}").read().strip() for name in names))
print(sum(len(found) for _, found, _ in os.walk(top)) - (0 if v2 else 4))
for place, below, files in os.walk("/sys"):
    for name in [*files, *below, "made"]:
        path = os.path.join(place, name)
        for act in (lambda: os.mkdir(path + "x"), lambda: os.open(path, os.O_WRONLY),
                    lambda: os.rmdir(path), lambda: os.chmod(path, 0o777)):
            try: print("did it to", path, act())
            except OSError: pass
"""
    function = shared.deploy(f"exec python3 - <<'END'\n{code}\nEND", memory_limit_mb=300)
    for _ in range(2):
        assert function.invoke()["stdout"].split() == [str(300 << 20), "512", "0"]
    function.delete()


def test_mounts(inside: dict[str, str]) -> None:
    mounts = {}
    for line in inside["mountinfo"].splitlines():
        left, _, right = line.partition(" - ")
        mounts[left.split()[4]] = (right.split()[0], set(left.split()[5].split(",")))
    writable = {
        point for point, (kind, options) in mounts.items() if "rw" in options and kind == "tmpfs"
    }
    assert {"/tmp", "/dev/shm"} <= writable <= {"/tmp", "/dev/shm", "/dev"}
    for point in ("/", "/usr"):
        assert {"ro", "nosuid", "nodev"} <= mounts[point][1]
    kinds = {kind for kind, _ in mounts.values()}
    assert not kinds & {"sysfs", "debugfs", "securityfs", "bpf"}
    assert "/sys" not in mounts
    groups = {point for point, (kind, _) in mounts.items() if kind in ("cgroup", "cgroup2")}
    assert all(point.startswith("/sys/fs/cgroup") for point in groups)
    for point in groups:
        assert {"ro", "noexec", "nosuid", "nodev"} <= mounts[point][1]
    for point, (kind, options) in mounts.items():
        masked = kind == "tmpfs" and point.startswith("/proc/") and "ro" in options
        node = kind == "devtmpfs"  # a device node of the host, bound by the runtime
        assert masked or node or "nosuid" in options, point
    assert {"noexec", "nosuid", "nodev"} <= mounts["/proc"][1]


def test_limits_and_defaults(inside: dict[str, str]) -> None:
    limits = {line[:26].strip(): line[26:].split()[:2] for line in inside["limits"].splitlines()}
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max open files"] == ["4096", "4096"]
    assert limits["Max file size"] == [str(512 << 20)] * 2
    assert limits["Max locked memory"] == [str(64 << 10)] * 2
    assert int(inside["oom"]) >= 500
    assert inside["umask"].split() == ["0022", "/tmp"]


@promise("F5")
def test_only_two_places_are_writable(shared: Server) -> None:
    code = """
import os
for top in ("/", "/proc"):
    for path, directories, files in os.walk(top):
        directories[:] = [d for d in directories if os.path.join(path, d) not in ("/usr", "/proc")]
        for name in files if top == "/proc" else [*files, "."]:
            full = os.path.normpath(os.path.join(path, name))
            mode = os.O_WRONLY | os.O_NONBLOCK
            try:
                flags = mode if os.path.isfile(full) else os.O_TMPFILE | os.O_WRONLY
                fd = os.open(full, flags)
            except OSError:
                continue
            if not full.startswith("/proc/%d" % os.getpid()) and "/self/" not in full:
                print(full)
            os.close(fd)
for name in ("/usr/x", "/etc/x", "/app/x", "/dev/x", "/x", "/proc/sys/kernel/core_pattern"):
    try:
        open(name, "w").close()
        print("wrote", name)
    except OSError:
        pass
"""
    record = shared.run(f"exec python3 - <<'END'\n{code}\nEND", timeout_seconds=20)
    assert record["stderr"] == ""
    found = {one for one in record["stdout"].splitlines() if "thread-self" not in one}
    assert found == {"/tmp", "/dev/shm"}


def test_devices(shared: Server) -> None:
    code = """
import os, stat
for name in sorted(os.listdir("/dev")):
    if not os.path.islink("/dev/" + name) and not os.path.isdir("/dev/" + name):
        print(name, stat.S_ISCHR(os.stat("/dev/" + name).st_mode))
for kind, major, minor in ((stat.S_IFBLK, 8, 0), (stat.S_IFCHR, 1, 1)):
    try:
        os.mknod("/tmp/node", 0o600 | kind, os.makedev(major, minor))
        print("made a node")
    except PermissionError:
        pass
"""
    record = shared.run(f"exec python3 - <<'END'\n{code}\nEND")
    names = ("full", "null", "random", "tty", "urandom", "zero")
    assert record["stdout"].splitlines() == [f"{name} True" for name in names]


# From outside --------------------------------------------------------------------------------


@promise("F6")
def test_two_instances_at_once_are_two_users_of_the_host(shared: Server) -> None:
    function = shared.deploy("sleep 60; :", max_instances=2)
    calls = [shared.later(function.invoke) for _ in range(2)]
    pids = until(lambda: [] if len(shared.named("sleep")) < 2 else shared.named("sleep"))
    seen = [status_of(pid) for pid in pids]
    uids = {int(status["Uid"].split()[0]) for status in seen}
    assert len(uids) == 2
    for uid, status in zip(uids, seen, strict=True):
        assert uid in UIDS
        assert (uid - UIDS[0]) % 65_536 == 1000
        assert uid not in SERVER_UIDS
        assert status["Groups"].strip() == ""
        assert int(status["CapBnd"], 16) == 0
    for pid in pids:
        for name in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
            host = Path(f"/proc/self/ns/{name}").readlink()
            assert Path(f"/proc/{pid}/ns/{name}").readlink() != host
    shared.wake(2)
    assert [call.result()["status"] for call in calls] == ["success"] * 2


@promise("F8")
def test_the_server_itself_has_no_root(shared: Server) -> None:
    status = status_of(shared.pid)
    (uid,) = {int(one) for one in status["Uid"].split()}
    assert uid in SERVER_UIDS
    assert uid == shared.data_dir.stat().st_uid
    assert status["Groups"].strip() == ""
    assert {int(status[f"Cap{one}"], 16) for one in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert int(status_of(shared.launcher)["CapEff"], 16) != 0
    assert shared.pid in children(shared.launcher)


READ_MEMORY = """
import sys
with open(f"/proc/{sys.argv[1]}/maps") as maps:
    start = int(maps.readline().split("-")[0], 16)
with open(f"/proc/{sys.argv[1]}/mem", "rb") as memory:
    memory.seek(start)
    assert memory.read(4) == b"\\x7fELF"
"""


@promise("F35")
def test_nobody_of_its_uid_reads_the_server_s_memory(shared: Server) -> None:
    uid = status_of(shared.pid)["Uid"].split()[0]
    become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
    with subprocess.Popen([*become, "sleep", "60"]) as other:
        until(lambda: status_of(other.pid)["Name"] == "sleep")
        read = [*become, "/usr/bin/python3", "-c", READ_MEMORY]
        control = subprocess.run([*read, str(other.pid)], capture_output=True, check=False)
        tried = subprocess.run([*read, str(shared.pid)], capture_output=True, check=False)
        other.kill()
    assert control.returncode == 0, control.stderr
    assert b"Permission denied" in tried.stderr
    assert shared.call("GET", "/health").json() == {"status": "ok"}


@promise("F25")
def test_what_sandboxes_are_made_of_is_for_the_launcher_alone(shared: Server) -> None:
    shared.run("true")
    seen_by_all = shared.run_dir / "servers" / shared.id / "sandboxes"
    assert list(seen_by_all.iterdir()) == []
    bundles = shared.sandbox_files / "bundles"
    # The processes of an ended sandbox may exist a little longer than its files.
    until(lambda: set(shared.sandbox_pids()) <= {one.name for one in bundles.iterdir()})
    assert shared.sandbox_pids()
    (line,) = (
        one
        for one in Path(f"/proc/{shared.launcher}/mountinfo").read_text().splitlines()
        if one.split()[4] == str(seen_by_all.resolve())
    )
    assert " - tmpfs " in line


# Forbidden actions ---------------------------------------------------------------------------

TRIES = Path(__file__).with_name("forbidden.py").read_text()
# These attempts succeed for root on the host, so they can succeed at all.
HARMLESS_ON_HOST = ("nice", "raw socket", "packet socket", "see pid 1", "the API", "setuid")
# These attempts fail with other errors than EPERM: in the sandbox, the file or the address does not
# exist, is read-only, or is not the handler's.
BY_PLACE = (
    *("see pid 1", "list pid 1's descriptors", "memory of pid 1", "environ of pid 1"),
    *("the control socket", "the API", "the metadata service", "oom_score_adj", "sysctl", "sysrq"),
    *("core pattern", "pressure", "interrupts", "kcore", "host passwd", "docker socket"),
)


@pytest.fixture(scope="module")
def tries(shared: Server) -> dict[str, int]:
    port = shared.url.rpartition(":")[2]
    record = shared.run(
        f"exec python3 - <<'END'\n{TRIES}\nEND", environment={"PORT": port}, timeout_seconds=20
    )
    assert record["status"] == "success", record
    return json.loads(record["stdout"])


@promise("F7")
def test_everything_forbidden_fails(tries: dict[str, int]) -> None:
    assert len(tries) >= 60
    assert not [name for name, code in tries.items() if code == 0]
    assert not [name for name, code in tries.items() if code < 0], "a try killed its process"
    if os.uname().machine == "x86_64":
        assert tries["clone3"] == errno.ENOSYS  # libc then uses clone instead
        # Not EFAULT or EINVAL: these would mean that the kernel has examined the arguments.
        refused = {name for name, code in tries.items() if code == errno.EPERM}
        # Libraries try netlink sockets, and do without them if the kernel seems to lack them.
        assert tries["audit socket"] == errno.EINVAL
        assert set(tries) - refused == {"clone3", "audit socket", *BY_PLACE}


@promise("F7")
def test_the_same_tries_succeed_where_nothing_forbids_them(shared: Server) -> None:
    only = f"TRIES = {{n: t for n, t in TRIES.items() if n in {HARMLESS_ON_HOST!r}}}\n"
    code = TRIES.replace("result = {}\n", f"{only}result = {{}}\n")
    port = shared.url.rpartition(":")[2]
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code],
        env={"PORT": port},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == dict.fromkeys(HARMLESS_ON_HOST, 0)


@promise("C9")
def test_a_killed_guest_costs_one_call_and_is_replaced(shared: Server) -> None:
    function = shared.deploy('[ "$QUILT_PAYLOAD" = quick ] && exec echo quick; exec sleep 20')
    call = shared.later(function.try_invoke)
    sleeper = until(lambda: shared.named("sleep"))[0]
    guest = int(status_of(sleeper)["PPid"])
    os.kill(guest, signal.SIGKILL)
    answer = call.result(scaled(5))
    assert (answer.status_code, answer.json()["error_code"]) == (503, "RUNTIME_UNAVAILABLE")
    record = function.records()[answer.headers["x-invocation-id"]]
    assert (record["status"], record["exit_code"]) == ("error", None)
    assert function.invoke("quick")["stdout"] == "quick\n"


def test_a_stopped_guest_ends_at_the_outer_deadline(shared: Server) -> None:
    function = shared.deploy("exec sleep 20", timeout_seconds=3)
    call = shared.later(function.invoke)
    guest = int(status_of(until(lambda: shared.named("sleep"))[0])["PPid"])
    os.kill(guest, signal.SIGSTOP)
    assert call.result(scaled(5))["status"] == "timeout"
    until(lambda: not shared.named("sleep"), 2.0)
