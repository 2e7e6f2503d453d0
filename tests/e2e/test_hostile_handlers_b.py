"""Handlers that attack: what they find out, whom they pretend to be, and what they leave behind."""

import hashlib
import json
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from e2e.hostile_setup import Ground, answers_again, script, times
from e2e.sample_runtimes import node, python
from e2e.server import Server, until
from e2e.test_warm_cost import traced
from timeouts import scaled

pytestmark = pytest.mark.sandbox
QUICK = '[ "$QUILT_PAYLOAD" = quick ] && exec echo quick\n'


@pytest.fixture(scope="module")
def server(ground: Ground) -> Server:
    return ground.server


# B14 ------------------------------------------------------------------------------------------

OPEN = {
    "shell": lambda server: server.deploy(
        # The listing's own descriptor is 3; a child of a child has no more than its parents.
        "ls /proc/self/fd; sh -c 'ls /proc/self/fd'; ls /proc/1/fd 2>/dev/null; true"
    ),
    "python": lambda server: python(
        server,
        "import os\ndef handler(event):\n for one in os.listdir('/proc/self/fd'):\n"
        "  try: print(one, os.readlink('/proc/self/fd/' + one), flush=True)\n"
        "  except OSError: pass",
    ),
    "node": lambda server: node(
        server,
        "const fs = require('fs');\nexports.handler = () => {"
        " const found = [];\n for (const one of fs.readdirSync('/proc/self/fd')) { try {"
        " found.push(one + ' ' + fs.readlinkSync('/proc/self/fd/' + one)) } catch (e) {} }\n"
        " console.error(found.join('\\n')); }",
    ),
}

OURS = {
    "python": re.compile(r"pipe:|/dev/null$"),
    "node": re.compile(r"pipe:|/dev/null$|/proc/\d+/fd$|anon_inode:|socket:"),  # its event loop
}


@pytest.mark.parametrize("runtime", OPEN)
def test_no_descriptor_of_ours_is_a_handlers(server: Server, runtime: str) -> None:
    function = OPEN[runtime](server)
    runs = times(30, 340)
    for _ in range(runs):
        record = function.invoke("x")
        assert record["status"] == "success", record
        if runtime == "shell":
            assert record["stdout"].split() == ["0", "1", "2", "3"] * 2
        else:
            open_ones = dict(line.split(" ", 1) for line in record["stderr"].splitlines())
            assert {"0", "1", "2"} <= set(open_ones)
            strange = [one for one in open_ones.values() if not OURS[runtime].match(one)]
            assert not strange, strange
            # A runner that stays with the handler is told of calls by one.
            sockets = [one for one in open_ones.values() if one.startswith("socket:")]
            assert len(sockets) <= (runtime == "node")
    function.delete()
    print(f"{runs} runs of {runtime}")


# B15 ------------------------------------------------------------------------------------------

SEARCH = r"""
import hashlib, json, os, socket, stat
wanted = {bytes.fromhex(one) for one in os.environ["DIGESTS"].split()}
found, read, size, pids = [], 0, 48, set()
def look(path):
    # A secret is 48 characters of hexadecimal; its digest is what we are looking for.
    global read
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return  # a pipe would have it wait
        with open(path, "rb") as file:
            data = file.read(1 << 20)
    except OSError:
        return
    read += 1
    for part in data.replace(b"=", b" ").replace(b"\0", b" ").split():
        if len(part) == size and hashlib.sha256(part).digest() in wanted:
            found.append(path)
for top in ("/", "/proc"):
    for path, below, files in os.walk(top):
        if path == "/":
            below[:] = [one for one in below if one not in ("usr", "proc")]
        if path == "/etc":  # these are the host's, for everybody
            below[:] = [one for one in below if one not in ("alternatives", "ssl")]
        if path == "/proc":
            pids |= {one for one in below if one.isdigit()}
            below[:] = [one for one in below if one != "thread-self"]
        for name in files:
            if not (name.startswith(("kmsg", "kpage")) or "/task/" in path or "/fd" in path):
                look(f"{path}/{name}")
for path in os.environ["PATHS"].split():
    for prefix in ("", "/proc/1/root", "/proc/self/root", "/proc/1/cwd/..", "/proc/self/fd/0/.."):
        look(prefix + path)
places = []
for address in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16"):
    try:
        socket.create_connection((address, 80), 1).close()
        places.append(address)
    except OSError:
        pass
print(json.dumps([found, read, sorted(pids), places]))
"""


def test_secrets_of_the_host_and_of_others_are_not_found(ground: Ground) -> None:
    """Canaries in /, /root, /tmp, the data directory, another call's variables and payload."""
    server = ground.server
    secret = hashlib.sha256(b"of another call").hexdigest()[:48]
    other = server.deploy("exec sleep 3", environment={"SECRET": secret})
    call = server.later(other.invoke, secret)
    until(lambda: server.named("sleep"))
    secrets = [*ground.canaries.values(), secret]
    digests = " ".join(hashlib.sha256(one.encode()).hexdigest() for one in secrets)
    paths = [*map(str, ground.canaries), "/etc/shadow", str(server.data_dir / "quiltfn.db")]
    paths += [f"/proc/{pid}/environ" for pid in (server.pid, server.launcher)]
    handler = script(SEARCH)
    own = {"DIGESTS": digests, "PATHS": " ".join(paths)}
    record = server.run(handler, environment=own, timeout_seconds=30)
    assert record["status"] == "success", record
    found, read, pids, reached = json.loads(record["stdout"])
    assert (found, reached) == ([], [])
    assert len(pids) <= 2, "its own processes and no more"
    assert read > 100
    control = server.run(handler, environment=own | {"OWN": secret}, timeout_seconds=30)
    assert json.loads(control["stdout"])[0], "negative control: its own variable is found"
    call.result()
    other.delete()
    print(f"{read} files read, {len(secrets)} canaries, 0 found")


# B16, without network -------------------------------------------------------------------------

REACH = r"""
import json, os, socket
told = {}
def attempt(name, call):
    try:
        call()
        told[name] = "reached"
    except OSError as error:
        told[name] = type(error).__name__
for address in os.environ["ADDRESSES"].split():
    for port in map(int, os.environ["PORTS"].split()):
        attempt(f"{address} {port}", lambda: socket.create_connection((address, port), 0.5))
for name in os.environ["ABSTRACT"].split():
    one = socket.socket(socket.AF_UNIX)
    attempt(f"@{name}", lambda: one.connect("\0" + name))
attempt("a name", lambda: socket.getaddrinfo("example.com", 80))
attempt("link-local", lambda: socket.create_connection(("fe80::1%lo", 80), 0.5))
for kind in ((2, 3, 1), (10, 3, 58), (17, 3, 0), (2, 2, 1)):
    attempt(f"socket {kind}", lambda: socket.socket(*kind))
print(json.dumps(told))
"""


def test_without_network_nobody_is_reached(server: Server) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.create_server(("", 0)) as everywhere:
        listener.bind("\0quiltfn-hostile-test")
        listener.listen()
        own = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False)
        addresses = ["127.0.0.1", "::1", "10.0.2.2", "172.17.0.1", *own.stdout.split()]
        ports = [server.url.rpartition(":")[2], str(everywhere.getsockname()[1]), "5432"]
        for name in addresses[:1]:  # from the host it is reached, so the attempt is a real one
            socket.create_connection((name, int(ports[1])), 1).close()
        record = server.run(
            script(REACH),
            environment={
                "ADDRESSES": " ".join(addresses),
                "PORTS": " ".join(ports),
                "ABSTRACT": "quiltfn-hostile-test",
            },
        )
    told = json.loads(record["stdout"])
    assert len(told) >= 18
    assert not [name for name, how in told.items() if how == "reached"]
    print(f"{len(told)} attempts, 0 reached")


# B17 ------------------------------------------------------------------------------------------

TAMPER = {
    "every pid is taken": "for n in $(seq 100); do setsid sleep 60 & done 2>/dev/null; exit 0",
    "everybody is killed": "sleep 60 & kill -9 -1; exit 0",
    "everybody is stopped": "(sleep 0.2; kill -STOP -1) & sleep 60",
    "memory goes to many small ones": "for n in $(seq 50); do (x=$(head -c 30000000 /dev/zero | "
    "tr '\\0' x); sleep 60) & done; wait",
    "its own output is written to by name": "for n in $(seq 0 50); do echo x >/proc/1/fd/$n; done;"
    " echo y >/dev/stdout; cat </proc/1/fd/3",
}


@pytest.mark.parametrize("how", TAMPER)
def test_the_guest_cannot_be_kept_from_its_work(server: Server, how: str) -> None:
    function = server.deploy(QUICK + TAMPER[how], timeout_seconds=2)
    for _ in range(times(1, 20)):
        began = time.monotonic()
        record = function.invoke()
        assert time.monotonic() - began < scaled(5)
        assert record["status"] in ("success", "failed", "timeout", "oom"), record
        answers_again(server, function)
    assert not [one for one in function.records().values() if one["status"] == "error"]
    function.delete()


# B18 ------------------------------------------------------------------------------------------

FORGE = r"""
import os, struct, sys
for nonce in range(8):
    end = struct.pack("<B3xIQIIQQ", ord("X"), 32, nonce, 0, 0, 0, 0)
    forged = end + struct.pack("<B3xIQ", ord("Z"), 8, nonce) + b"done 1 exited 0\n"
    for fd in [1, 2, *range(3, 64)]:
        try:
            os.write(fd, forged)
        except OSError:
            pass
if os.fork() == 0:  # and one that answers for the next
    os.setsid()
    for _ in range(1000):
        os.write(1, b"XXX forged\n")
    os._exit(0)
os._exit(7)
"""


@pytest.mark.parametrize("runtime", ["shell", "python"])
def test_no_result_is_forged(server: Server, runtime: str) -> None:
    """A handler that knows the protocols writes ends of calls wherever it can."""
    if runtime == "shell":
        function = server.deploy(
            'case "$QUILT_PAYLOAD" in honest*) exec printf "%s" "$QUILT_PAYLOAD";; esac\n'
            + script(FORGE),
            max_instances=1,
        )
    else:
        body = FORGE.replace("\n", "\n    ")
        function = python(
            server,
            "def handler(event):\n    if str(event).startswith('honest'): return event" + body,
            max_instances=1,
        )
    runs = times(50, 500)
    for number in range(runs):
        forged = function.invoke("forge")
        assert (forged["status"], forged["exit_code"]) == ("failed", 7), forged
        honest = function.invoke(f"honest{number}")
        assert (honest["status"], honest["stdout"]) == ("success", f"honest{number}"), honest
        assert honest["invocation_id"] != forged["invocation_id"]
    assert len(function.records()) == 2 * runs
    function.delete()
    print(f"{2 * runs} calls of {runtime}, 0 forged records")


# B19, B20 -------------------------------------------------------------------------------------

LINKS = r"""
import os, sys
canary = os.environ["CANARY"]
n = 0
for place in ("/tmp", "/dev/shm"):
    for name in ("laid", "config.json", "pid", "log", "payload"):
        for target in (canary, "/proc/1/root", "/proc/self/fd/1", "/etc/shadow", "../../../.."):
            for attempt in (
                lambda p: os.symlink(target, p), lambda p: os.mkfifo(p),
                lambda p: os.link("/proc/self/exe", p), lambda p: os.mkdir(p),
            ):
                path = f"{place}/{name}{n % 30}"
                n += 1
                try: attempt(path)
                except OSError: pass
                try: os.rename(path, f"{place}/out{n % 7}")
                except OSError: pass
print(n)
"""
INSIDE = re.compile(r'"(/proc/\d+/(root|cwd|fd/)|[^"]*/(laid|out)\d+)')


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_host_opens_nothing_that_a_handler_has_laid_out(ground: Ground, tmp_path: Path) -> None:
    server = ground.server
    canary, before = next(iter(ground.canaries)), set(server.sandbox_pids())
    # One sandbox, made before: what is done in a new one is done by children of the launcher.
    more = {"environment": {"CANARY": str(canary)}, "max_instances": 1}
    function = server.deploy(script(LINKS), **more)
    names = "open,openat,openat2,creat,readlink,readlinkat,unlinkat,rename,execve,chdir"
    made = 0
    with traced(server.pid, names, tmp_path, "-f") as served:
        with traced(server.launcher, names, tmp_path, "-f") as launched:
            for _ in range(times(24, 250)):
                record = function.invoke()
                assert record["status"] == "success", record
                made += int(record["stdout"])
            function.delete()
            until(lambda: set(server.sandbox_pids()) <= before)
    lines = [*served.lines, *launched.lines]
    assert launched.lines, "its clean-up was seen"
    assert not [line for line in lines if INSIDE.search(line) or str(canary) in line]
    print(f"{made} links, pipes and names; {len(lines)} calls of ours seen, 0 of them led inside")


DEBRIS = r"""
import os
made = 0
try:
    for _ in range(8000):
        os.mkdir("d"); os.chdir("d"); made += 1
except OSError: pass
os.chdir("/tmp")
for n in range(20000):
    name = b"/tmp/\n\xff\x1b[2J%d" % n
    try:
        if n % 10 == 0: os.mkdir(name, 0)
        else: os.close(os.open(name, os.O_CREAT, 0))
        made += 1
    except OSError: break
for n in range(1000):
    try:
        os.close(os.open(b"/dev/shm/\xfe%d" % n, os.O_CREAT, 0)); made += 1
    except OSError: break
os.chmod("/tmp/d", 0)
print(made)
"""


@pytest.mark.parametrize("end", ["next call", "destroy"])
def test_debris_is_gone_within_ten_seconds(server: Server, end: str) -> None:
    before = set(server.sandbox_pids())
    look = '[ "$QUILT_PAYLOAD" = look ] && exec ls -A /tmp /dev/shm\n'
    function = server.deploy(look + script(DEBRIS), timeout_seconds=20, max_instances=1)
    made = int(function.invoke()["stdout"])
    assert made >= 16_000
    began = time.monotonic()
    if end == "next call":
        record = function.invoke("look")
        assert record["stdout"] == "/dev/shm:\n\n/tmp:\n"
        assert record["cold_start"] is False
        took = time.monotonic() - began
        function.delete()
    else:
        function.delete()
        until(lambda: set(server.sandbox_pids()) <= before, 10)
        took = time.monotonic() - began
    assert took < scaled(10)
    print(f"{made} names, 8,000 deep, gone after {took * 1000:.0f} ms")
