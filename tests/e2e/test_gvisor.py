"""Runtimes with `isolation: gvisor` keep the same promises with a kernel of their own in each
sandbox.

These are the cases of security_cases.py that apply to gVisor. Tests say where its behaviour
differs.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e import sample_runtimes
from e2e.leftovers import SERVER_UIDS, UIDS, Traces, nothing_since
from e2e.server import Function, Server, children, is_alive, statuses_of, until
from e2e.test_fence import PROBE, TRIES, sections
from promises import promise
from timeouts import scaled

pytestmark = [pytest.mark.sandbox, pytest.mark.gvisor]
STATE = "n = 0\ndef handler(event):\n    global n\n    n += 1\n    return [n, event]\n"


def add_runtimes(server: Server) -> None:
    for kind in ("shell", "python"):
        body = {"name": f"g-{kind}", "kind": kind, "isolation": "gvisor"}
        answer = server.call("POST", "/api/runtimes", body)
        assert answer.status_code == 201, answer.text


@pytest.fixture(scope="module")
def box(shared: Server) -> Server:
    add_runtimes(shared)
    return shared


def deploy(box: Server, handler: str, **fields: Any) -> Function:
    return box.deploy(handler, runtime="g-shell", **fields)


def run(box: Server, handler: str, payload: str | None = None, **fields: Any) -> dict[str, Any]:
    return box.run(handler, payload, runtime="g-shell", timeout_seconds=30, **fields)


def python(code: str) -> str:
    return f"exec python3 - <<'END'\n{code}\nEND"


# Invocations ---------------------------------------------------------------------------------


def test_health_says_what_was_seen_of_it(box: Server) -> None:
    protection = box.call("GET", "/api/functions/health").json()["protections"]["gvisor"]
    assert protection.startswith("runsc "), protection
    assert "its sentry has seccomp, no_new_privs, an own uid range" in protection


def test_a_call_is_served_by_another_kernel_than_the_hosts(box: Server) -> None:
    record = run(box, "cat; cat /proc/version; ls /proc", "hello\n")
    said, version, *names = record["stdout"].splitlines()
    assert (record["status"], said) == ("success", "hello")
    assert version != Path("/proc/version").read_text().strip()
    assert os.uname().release not in version
    assert "sentry-meminfo" in names


def test_output_exit_code_and_large_payloads(box: Server) -> None:
    function = deploy(box, "wc -c; echo no >&2; exit 7")
    record = function.invoke("x" * 900_000)
    assert (record["status"], record["exit_code"]) == ("failed", 7)
    assert (record["stdout"].strip(), record["stderr"]) == ("900000", "no\n")
    function.delete()
    record = run(box, "head -c 6291500 /dev/zero | tr '\\0' x")
    assert (record["status"], record["stdout"]) == ("success", "x" * 6291456)
    assert record["error_message"].endswith("6291456 bytes are kept and 44 were dropped")


@pytest.mark.parametrize(("cleanup", "numbers"), [(True, [1, 1, 1]), (False, [1, 2, 3])])
def test_a_python_function_keeps_state_only_where_it_may(
    box: Server, cleanup: bool, numbers: list[int]
) -> None:
    name = sample_runtimes.add(box, "python", {"mod.py": STATE}, isolation="gvisor")
    function = box.deploy("mod:handler", runtime=name, cleanup_on_exit=cleanup, max_instances=1)
    records = [function.invoke(json.dumps(n)) for n in range(3)]
    assert [json.loads(one["stdout"]) for one in records] == [[n, i] for i, n in enumerate(numbers)]
    function.delete()


def test_packages_lie_below_the_code(box: Server) -> None:
    packages = sample_runtimes.upload(
        box, {"site-packages/lib.py": "WORD = 'packages'", "mod.py": "not this one"}
    )
    source = "import lib\ndef handler(event, context):\n    return lib.WORD\n"
    name = sample_runtimes.add(
        box, "python", {"mod.py": source}, isolation="gvisor", packages=packages
    )
    assert box.deploy("mod:handler", runtime=name).invoke()["stdout"] == "packages"


def test_writable_paths_are_there_and_emptied(box: Server) -> None:
    body = {"name": "g-data", "kind": "shell", "isolation": "gvisor", "writable_paths": ["/data"]}
    assert box.call("POST", "/api/runtimes", body).status_code == 201
    function = box.deploy("ls -A /data; echo x >/data/x && cat /data/x", runtime="g-data")
    assert [function.invoke()["stdout"] for _ in range(2)] == ["x\n", "x\n"]
    function.delete()


# Isolation (B1, B9, B14 to B16) --------------------------------------------------------------


@pytest.fixture(scope="module", params=["cold", "warm"])
def inside(box: Server, request: pytest.FixtureRequest) -> dict[str, str]:
    function = deploy(box, PROBE, timeout_seconds=30)
    if request.param == "warm":
        assert function.invoke()["status"] == "success"
    record = function.invoke()
    function.delete()
    return sections(record["stdout"])


def test_identity(inside: dict[str, str]) -> None:
    """Unlike Linux, gVisor has no line about no_new_privs in /proc/self/status."""
    status = dict(line.split(":\t", 1) for line in inside["status"].splitlines() if ":\t" in line)
    assert {int(one) for one in status["Uid"].split()} == {1000}
    assert {int(one) for one in status["Gid"].split()} == {1000}
    assert status["Groups"].split() == []
    assert {int(status[f"Cap{one}"], 16) for one in ("Inh", "Prm", "Eff", "Bnd")} == {0}
    assert status["Seccomp"] == "2"
    assert inside["id"].startswith("uid=1000(handler) gid=1000(handler) groups=1000(handler)")


def test_descriptors_and_names(inside: dict[str, str]) -> None:
    links = [line.split()[-3:] for line in inside["fds"].splitlines() if "->" in line]
    assert [one[0] for one in links if "payload" not in one[2]][-3:] == ["1", "2", "3"]
    assert inside["fds"].count("->") == 4, "the standard streams, and the listing itself"
    assert "quiltfn" not in inside["cgroup"] + inside["mountinfo"]
    assert inside["umask"].split() == ["0022", "/tmp"]
    assert "nproc" not in inside


def test_limits(inside: dict[str, str]) -> None:
    limits = {line[:26].strip(): line[26:].split()[:2] for line in inside["limits"].splitlines()}
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max open files"] == ["4096", "4096"]
    assert limits["Max file size"] == [str(512 << 20)] * 2
    assert limits["Max processes"] == ["512", "512"]


def made(box: Server) -> dict[str, list[int]]:
    """The processes of gVisor's sandboxes. They are read while the server creates none: the child
    that becomes a sandbox joins its control group early, before the other processes do.
    """
    groups: dict[str, list[int]] = {}
    for _ in range(round(scaled(20))):
        time.sleep(0.1)
        groups = {name: pids for name, pids in box.sandbox_pids().items() if gvisors(pids)}
        seen = [list(statuses_of(pids)) for pids in groups.values()]
        is_whole = all(len(those) >= 3 for those in seen)
        if (
            len(groups) >= 2
            and is_whole
            and all(one["NoNewPrivs"] == "1" for those in seen for one in those)
        ):
            break
    return groups


@promise("F19")
def test_every_process_of_a_sandbox_is_held_on_the_host(box: Server) -> None:
    function = deploy(box, "exec sleep 3", max_instances=2)
    before = set(box.sandbox_pids())
    calls = [box.later(function.invoke) for _ in range(2)]
    groups = made(box)
    assert len(groups) >= 2, before
    bases = []
    for pids in groups.values():
        seen = list(statuses_of(pids))
        assert len(seen) >= 3, "a sentry, its helper, and stubs that handlers' code is in"
        assert {one["NoNewPrivs"] for one in seen} == {"1"}
        assert {one["Seccomp"] for one in seen} == {"2"}
        uids = {int(uid) for one in seen for uid in one["Uid"].split()}
        assert len({(uid - UIDS[0]) // 65_536 for uid in uids}) == 1
        assert all(uid in UIDS and uid not in SERVER_UIDS for uid in uids)
        bases.append(min(uids))
        for pid in (int(one["Pid"]) for one in seen):
            for name in ("user", "mnt", "net", "ipc", "uts"):
                host = Path(f"/proc/self/ns/{name}").readlink()
                with suppress(FileNotFoundError):
                    assert Path(f"/proc/{pid}/ns/{name}").readlink() != host
    assert len(set(bases)) == len(groups), "each sandbox has uids of its own"
    assert [call.result()["status"] for call in calls] == ["success"] * 2
    function.delete()


def gvisors(pids: list[int]) -> bool:
    """Whether one of the processes is gVisor's sentry."""
    with suppress(OSError):
        return any(b"runsc-sandbox" in Path(f"/proc/{p}/cmdline").read_bytes() for p in pids)
    return False


# These attempts succeed in gVisor and not in a crun sandbox, since only gVisor's own kernel is
# affected. Pid 1 is visible, but its environment has only HOME; priorities have no effect.
HARMLESS = {
    *("see pid 1", "list pid 1's descriptors", "environ of pid 1"),
    *("nice", "oom_score_adj"),
}


def test_everything_forbidden_fails(box: Server) -> None:
    port = box.url.rpartition(":")[2]
    record = run(box, python(TRIES), environment={"PORT": port})
    tries: dict[str, int] = json.loads(record["stdout"])
    assert len(tries) >= 60
    assert {name for name, code in tries.items() if code == 0} <= HARMLESS
    assert not [name for name, code in tries.items() if code < 0], "a try killed its process"
    for name in ("unshare user", "clone user", "ptrace oneself", "mount", "keyctl", "bpf"):
        assert tries[name] == 1, name


PID_1 = """
import os
for name in os.listdir("/proc/1/fd"):
    path = "/proc/1/fd/" + name
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        continue
    seen = os.fstat(fd)
    kind = "null" if os.major(seen.st_rdev) == 1 and os.minor(seen.st_rdev) == 3 else "pipe"
    if kind == "pipe" and not os.readlink(path).startswith("pipe:"):
        kind = os.readlink(path)
    print("opened", kind)
for name in ("mem", "cwd/.", "root/.", "exe", "map_files", "task/1/mem"):
    try:
        os.listdir("/proc/1/" + name) if name[-1] in "./s" else open("/proc/1/" + name).read(1)
        print("read", name)
    except OSError:
        pass
print("environ", sorted(one.split("=")[0] for one in open("/proc/1/environ").read().split("\\0")))
"""


def test_the_control_socket_and_the_guest_are_out_of_reach(box: Server) -> None:
    """Of the guest's descriptors, a handler can only open /dev/null and the pipes of its own
    output.
    """
    lines = run(box, python(PID_1))["stdout"].splitlines()
    assert set(lines) <= {"opened null", "opened pipe", "environ ['', 'HOME']"}, lines


WALK = """
import os, sys
canary = os.environ["CANARY"][::-1].encode()  # so that the handler's own memory does not hold it
found = 0
def look(path):
    global found
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        data = os.read(fd, 1 << 20)
        os.close(fd)
    except OSError:
        return
    found += 1
    if canary in data:
        print("CANARY", path)
for path in os.environ["PLACES"].split():
    for prefix in ("", "/proc/1/root", "/proc/self/root", "/app/../../..", "/proc/self/cwd/../.."):
        look(prefix + path)
for top in ("/proc", "/sys", "/run", "/etc", "/var", "/root", "/home", "/dev", "/tmp", "/app"):
    for path, directories, files in os.walk(top):
        if path.count("/") > 5:
            directories[:] = []
        for name in files:
            if name not in ("kmsg", "urandom", "random", "zero", "full"):
                look(os.path.join(path, name))
for fd in os.listdir("/proc/self/fd"):
    for up in ("..", "../..", "../../../../etc/shadow"):
        look("/proc/self/fd/" + fd + "/" + up)
print("looked", found > 20)
"""


def test_secrets_of_the_host_are_not_found(box: Server) -> None:
    canary = "quiltfn-canary-" + os.urandom(12).hex()
    places = [Path("/root"), Path("/run"), Path("/etc"), Path("/var/tmp"), box.root, box.data_dir]
    files = [place / "quiltfn-canary" for place in places]
    try:
        for file in files:
            file.write_text(canary)
            file.chmod(0o644)
        environment = {"CANARY": canary[::-1], "PLACES": " ".join(str(one) for one in files)}
        record = run(box, python(WALK), environment=environment)
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    assert record["stdout"] == "looked True\n", record


def test_what_the_call_before_was_told_is_not_found(box: Server) -> None:
    canary = "quiltfn-canary-" + os.urandom(12).hex()
    code = "import os, sys\nif os.environ['QUILT_PAYLOAD'] == 'look':\n    exec(WALK)\n"
    script = f"WALK = {WALK!r}\n{code}"
    function = deploy(
        box, python(script), environment={"CANARY": canary[::-1], "PLACES": ""}, max_instances=1
    )
    assert function.invoke(canary)["status"] == "success"
    assert function.invoke("look", timeout_seconds=30)["stdout"] == "looked True\n"
    function.delete()


CONNECT = """
import os, socket, sys
for family, kind, address in eval(os.environ["WHERE"]):
    try:
        with socket.socket(family, kind) as one:
            one.settimeout(1)
            one.connect(address)
            one.send(b"x")
        print("reached", address)
    except OSError:
        pass
for family, kind, number in ((2, 3, 1), (2, 2, 1), (10, 3, 58), (17, 3, 0), (16, 3, 9)):
    try:
        socket.socket(family, kind, number)
        print("made", family, kind, number)
    except OSError:
        pass
with socket.socket() as own, socket.socket() as other:
    own.bind(("127.0.0.1", 0))
    own.listen()
    other.connect(own.getsockname())
    print("loopback of its own")
"""


@pytest.fixture
def host_listeners() -> Iterator[tuple[list[Any], list[str]]]:
    """Listeners that count connections, on every kind of address of the host."""
    come: list[str] = []
    with socket.socket() as inet, socket.socket(socket.AF_UNIX) as unix:
        inet.bind(("0.0.0.0", 0))
        unix.bind("\0quiltfn-gvisor-test")
        for sock in (inet, unix):
            sock.listen()
            sock.settimeout(0.1)
        over = threading.Event()

        def accept(listener: socket.socket) -> None:
            while not over.is_set():
                with suppress(TimeoutError):
                    connection, _ = listener.accept()
                    connection.close()
                    come.append(str(listener))

        threads = [threading.Thread(target=accept, args=(one,)) for one in (inet, unix)]
        for thread in threads:
            thread.start()
        port = inet.getsockname()[1]
        own = {one[4][0] for one in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
        where = [(2, 1, (host, port)) for host in sorted({"127.0.0.1", *own})]
        where += [(1, 1, "\0quiltfn-gvisor-test"), (2, 1, ("169.254.169.254", 80))]  # type: ignore[list-item]
        yield where, come
        over.set()
        for thread in threads:
            thread.join()


def test_no_network_but_its_own_loopback(
    box: Server, host_listeners: tuple[list[Any], list[str]]
) -> None:
    where, come = host_listeners
    where = [*where, (2, 1, ("127.0.0.1", int(box.url.rpartition(":")[2])))]
    record = run(box, python(CONNECT), environment={"WHERE": repr(where)})
    assert record["stdout"] == "loopback of its own\n", record
    assert come == []


# Deadlines, limits, recycling ----------------------------------------------------------------


def test_a_deadline_holds_and_the_next_call_is_served(box: Server) -> None:
    handler = '[ "$QUILT_PAYLOAD" = quick ] && exec echo quick; trap "" TERM; sleep 99 & sleep 99'
    function = deploy(box, handler)
    began = time.monotonic()
    assert function.invoke("slow", timeout_seconds=1)["status"] == "timeout"
    assert time.monotonic() - began < scaled(5)
    assert function.invoke("quick")["stdout"] == "quick\n"
    function.delete()


def test_a_fork_bomb_ends_at_its_deadline(box: Server) -> None:
    function = deploy(box, "f() { f | f & }; f; sleep 99", timeout_seconds=2)
    began = time.monotonic()
    # So many processes may also need more memory than the sandbox has.
    assert function.invoke()["status"] in ("timeout", "oom")
    assert time.monotonic() - began < scaled(8)
    assert run(box, "echo fine")["stdout"] == "fine\n"
    function.delete()


def test_a_handler_has_no_more_than_its_processes(box: Server) -> None:
    many = "i=0; while [ $i -lt 200 ]; do sleep 20 & i=$((i+1)); done; echo $i"
    body = {"name": "g-few", "kind": "shell", "isolation": "gvisor", "process_limit": 64}
    assert box.call("POST", "/api/runtimes", body).status_code == 201
    record = box.run(many, runtime="g-few")
    assert (record["status"], record["stdout"]) == ("failed", "")
    assert "Cannot fork" in record["stderr"]


def test_too_much_memory_is_told_and_survived(box: Server) -> None:
    handler = '[ "$QUILT_PAYLOAD" = quick ] && exec echo quick; exec tail /dev/zero'
    function = deploy(box, handler, timeout_seconds=30)
    assert function.invoke("hog")["status"] == "oom"
    assert function.invoke("quick")["stdout"] == "quick\n"
    function.delete()


def test_a_small_share_of_the_processor_is_enough_to_start(another: Callable[..., Server]) -> None:
    server = another(options="--prewarmed 0").start()
    add_runtimes(server)
    function = deploy(server, "exec sleep 1", cpu_limit_percent=5, timeout_seconds=30)
    assert function.invoke()["status"] == "success"
    assert [*server.cpu_percents().values()] == [5]
    function.delete()


LEAVE = """
import ctypes, os, subprocess
libc = ctypes.CDLL(None, use_errno=True)
for name in ("/tmp", "/dev/shm"):
    print(name, os.listdir(name))
print("shm", libc.shmget(77, 4096, 0), "sem", libc.semget(77, 1, 0), "msg", libc.msgget(77, 0))
print("queue", libc.mq_open(b"/left", 2))
others = [p for p in os.listdir("/proc") if p.isdigit() and p not in ("1", str(os.getpid()))]
print("others", sum("sleep" in open(f"/proc/{p}/comm").read() for p in others))
open("/tmp/left", "w").write("x" * 100_000)
os.makedirs("/tmp/a/b/c")
os.chmod("/tmp/a", 0)
open("/dev/shm/left", "w").close()
libc.shmget(77, 4096, 0o1000), libc.semget(77, 1, 0o1000), libc.msgget(77, 0o1000)
libc.mq_open(b"/left", 0o102, 0o666, None)
subprocess.Popen(["sleep", "100"], start_new_session=True)
"""
NOTHING = "/tmp []\n/dev/shm []\nshm -1 sem -1 msg -1\nqueue -1\nothers 0\n"


@promise("F19")
def test_nothing_of_a_call_is_left_for_the_next(box: Server) -> None:
    function = deploy(box, python(LEAVE), max_instances=1)
    records = [function.invoke() for _ in range(4)]
    assert {one["stdout"] for one in records} == {NOTHING}, records
    function.delete()


# The host ------------------------------------------------------------------------------------


def test_ended_sandboxes_leave_no_process_and_no_file(box: Server) -> None:
    function = deploy(box, "exec sleep 30", timeout_seconds=1)
    assert function.invoke()["status"] == "timeout"
    function.delete()
    bundles = box.sandbox_files / "bundles"

    def settled() -> bool:
        known = set(box.sandbox_pids())
        there = {one.name for one in bundles.iterdir()}
        zombies = [p for p in children(box.launcher) if not is_alive(p)]
        return there == known and not zombies

    until(settled)


@pytest.mark.parametrize("killed", ["kill_server", "kill_launcher"])
def test_a_killed_server_leaves_nothing(server: Server, killed: str) -> None:
    add_runtimes(server)
    function = deploy(server, "exec sleep 30", max_instances=2)
    call = server.later(function.invoke)
    until(lambda: function.pool()["busy_count"] == 1)
    pids = [pid for pids in server.sandbox_pids().values() for pid in pids]
    getattr(server, killed)()
    with pytest.raises((httpx.TransportError, AssertionError)):
        call.result(scaled(5))
    server.wait()
    if killed == "kill_launcher":  # the next launcher removes the directories
        server.start()
        server.until_ready()
    until(lambda: not [pid for pid in pids if is_alive(pid)])
    dead = server.ids - ({server.id} if server.process else set())
    assert not nothing_since(Traces(frozenset()), None, server.run_dir, dead)


# A machine without gVisor --------------------------------------------------------------------


@promise("F18")
def test_without_gvisor_it_is_refused_and_never_replaced(server: Server) -> None:
    """The machine has lost gVisor since the function was created with it."""
    add_runtimes(server)
    function = deploy(server, "echo served")
    server.stop()
    server._command += ["--runsc", "/nowhere/runsc"]
    server.start()
    protection = server.call("GET", "/api/functions/health").json()["protections"]["gvisor"]
    assert protection == "refused: there is no /nowhere/runsc: apt install runsc"

    answer = function.try_invoke()
    assert answer.status_code == 503, answer.text
    assert "isolation: gvisor is refused: there is no /nowhere/runsc" in answer.text
    assert "isolation: gvisor is refused" in function.deploy()["error_message"]
    body = {"name": "more", "kind": "shell", "isolation": "gvisor"}
    answer = server.call("POST", "/api/runtimes", body)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("isolation must be crun: this server has no gVisor")
    new = {"name": "new", "handler": "true", "runtime": "g-shell"}
    answer = server.call("POST", "/api/functions", new)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("runtime must be one with isolation crun")
    assert server.run("echo crun")["stdout"] == "crun\n"
    assert not any(gvisors(pids) for pids in server.sandbox_pids().values())


def test_a_broken_gvisor_is_refused(another: Callable[..., Server], tmp_path: Path) -> None:
    broken = tmp_path / "runsc"
    says = '[ "$1" = --version ] && exec echo runsc version release-20260101.0\nexit 9\n'
    broken.write_text(f"#!/bin/sh\n{says}")
    broken.chmod(0o755)
    server = another(options=f"--runsc {broken}").start()
    protection = server.call("GET", "/api/functions/health").json()["protections"]["gvisor"]
    assert protection == "refused: the sandbox could not be made: runsc ended with 9"
    body = {"name": "g", "kind": "shell", "isolation": "gvisor"}
    assert server.call("POST", "/api/runtimes", body).status_code == 422


def test_it_is_not_combined_with_egress(box: Server) -> None:
    body = {"name": "g-out", "kind": "shell", "isolation": "gvisor", "network": "egress"}
    answer = box.call("POST", "/api/runtimes", body)
    assert answer.status_code == 422
    assert answer.json()["error"] == "network must be none with isolation gvisor"


@promise("A71")
def test_processor_time_is_measured_of_its_kernel_as_well(box: Server) -> None:
    function = deploy(box, "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; times")
    record = function.invoke()
    user, system = record["stdout"].splitlines()[0].split()
    own = sum(float(one.partition("m")[2].rstrip("s")) for one in (user, system))
    assert own > 0.05
    function.delete()

    def used() -> float | None:
        rows = box.call("GET", "/api/usage?by=function").json()["rows"]
        return next((one["cpu_seconds"] for one in rows if one["function_id"] == function.id), None)

    cpu = until(used, 30)
    assert own <= cpu + 0.02
