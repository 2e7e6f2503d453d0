"""The limits of a sandbox, and programs that need many resources."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e import sample_runtimes
from e2e.server import Server
from promises import promise

pytestmark = pytest.mark.sandbox
SHOW = """
df -k /tmp | awk '/^tmpfs/ { print $2 / 1024 }'
df -i /tmp | awk '/^tmpfs/ { print $2 }'
echo $(($(ulimit -f) / 2048)); ulimit -n
(for n in $(seq {many}); do sleep 20 & done) 2>/dev/null; set -- /proc/[0-9]*; echo $#
"""


def room(server: Server, runtime: str, many: int) -> list[int]:
    """The room in a sandbox: MiB and inodes of /tmp, MiB of a file, open files, and how many of
    `many` processes can exist.
    """
    record = server.run(SHOW.replace("{many}", str(many)), runtime=runtime, timeout_seconds=20)
    return [int(word) for word in record["stdout"].split()]


@promise("R24")
def test_a_runtime_gives_its_sandboxes_other_room(shared: Server) -> None:
    limits: dict[str, Any] = {
        "process_limit": 40,
        "tmp_limit_mb": 32,
        "file_limit_mb": 16,
        "open_files_limit": 256,
    }
    runtime = sample_runtimes.add(shared, "shell", {"x": "x"}, **limits)
    *rest, processes = room(shared, runtime, many=60)
    assert rest == [32, 32 * 256, 16, 256]
    assert 25 < processes < 40
    *rest, processes = room(shared, "shell", many=60)
    assert rest == [512, 512 * 256, 512, 4096]
    assert processes > 60


@promise("R24")
def test_no_sandbox_has_more_than_the_operator_allows(another: Callable[..., Server]) -> None:
    most = (
        "--sandbox-processes-max 50 --sandbox-tmp-max-mib 10 --sandbox-file-max-mib 5 "
        "--sandbox-open-files-max 100"
    )
    server = another(most).start()
    *rest, processes = room(server, "shell", many=60)
    assert rest == [10, 10 * 256, 5, 100]
    assert processes < 50
    body = {"name": "large", "kind": "shell", "tmp_limit_mb": 11}
    assert server.call("POST", "/api/runtimes", body).status_code == 422


# Files and limits that programs look for -----------------------------------------------------


@promise("R25")
def test_a_sandbox_finds_its_own_name(shared: Server) -> None:
    code = "import os, socket; n = socket.gethostname(); print(n, socket.gethostbyname(n))"
    record = shared.run(f"python3 -c '{code}'; hostname; getent hosts localhost")
    name, address, again, *rest = record["stdout"].split()
    assert (name, address) == (again, "127.0.1.1")
    assert "localhost" in rest
    assert name != shared.run("hostname")["stdout"].strip()


TERMINALS = """
import os, pty
kept = []
try:
    while True: kept.append(os.openpty())
except OSError as error:
    print(len(kept), error.errno)
for pair in kept:
    for one in pair: os.close(one)
pid, terminal = pty.fork()
if pid == 0:
    os.execlp("sh", "sh", "-c", "tty; echo asked >/dev/tty; stty size")
try:
    while data := os.read(terminal, 1000): print(data.decode(), end="")
except OSError: pass  # nobody has the other end any more
os.waitpid(pid, 0)
print(os.listdir("/dev/pts"), oct(os.stat("/dev/pts/0").st_mode), os.stat("/dev/pts/0").st_uid)
"""


@promise("R25")
def test_a_sandbox_has_terminals_of_its_own(shared: Server) -> None:
    code = f"exec python3 - <<'END'\n{TERMINALS}\nEND"
    here, there = (shared.deploy(code) for _ in range(2))
    for function in (here, there):
        record = function.invoke()
        assert record["stdout"].split() == [
            *("32", "28"),
            *("/dev/pts/0", "asked", "0", "0"),
            *("['0',", "'ptmx']", "0o20600", "1000"),
        ], record
        function.delete()
    assert shared.run("ls /dev/pts")["stdout"].split() == ["ptmx"], "none is left for the next"


@promise("R25")
def test_what_programs_read_in_etc_is_there_and_nothing_secret(shared: Server) -> None:
    record = shared.run(
        "cd /etc; find . -type l ! -exec test -e {} ';' -print | grep -v alternatives; echo =; "
        "cat localtime | wc -c; ls; echo =; "
        "find . ! -type l ! -readable; ls machine-id shadow ssh npmrc pip.conf 2>/dev/null"
    )
    dangling, found, secret = record["stdout"].split("=\n")
    # A link must resolve, unless its target is in a tree of the host that sandboxes lack, or is
    # missing on the host, too.
    leads = [os.path.realpath(f"/etc/{one}") for one in dangling.split()]
    assert [
        one for one in leads if one.startswith(("/etc/", "/usr/")) and os.path.exists(one)
    ] == []
    zone, *names = found.split()
    assert int(zone) > 100
    for name in ("fonts", "mime.types", "os-release", "services", "timezone"):
        assert (name in names) == Path("/etc", name).exists(), name
    assert [one for one in secret.split() if not one.startswith("./ssl/private")] == []


@promise("R25")
@pytest.mark.skipif(not shutil.which("git"), reason="needs git: what it says of /app is not shown")
def test_git_looks_at_files_that_are_somebody_else_s(shared: Server) -> None:
    files: dict[str, str | bytes] = {".git/HEAD": "ref: refs/heads/main\n"}
    files |= {".git/objects/x": "", ".git/refs/x": ""}
    runtime = sample_runtimes.add(shared, "shell", files)
    record = shared.run("cd /app && git symbolic-ref HEAD", runtime=runtime)
    assert record["stdout"] == "refs/heads/main\n", record


@promise("R25")
@pytest.mark.parametrize("cleanup", [True, False], ids=["forks", "keeps"])
def test_interpreters_that_a_handler_starts_find_its_modules(shared: Server, cleanup: bool) -> None:
    source = """
    import subprocess, sys
    def handler(event):
        code = "import beside, package, mine; print(beside.x, package.x, mine.x)"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    """
    files: dict[str, str | bytes] = {"mod.py": source, "beside.py": "x = 1"}
    files |= {"site-packages/package.py": "x = 2", "own/mine.py": "x = 3"}
    runtime = sample_runtimes.add(shared, "python", files)
    environment = {"PYTHONPATH": "/app/own"}
    fields = {"environment": environment, "cleanup_on_exit": cleanup}
    function = shared.deploy("mod:handler", runtime=runtime, **fields)
    for _ in range(2):
        assert function.invoke()["stdout"] == "1 2 3\n"
    function.delete()


SEEN = """
import os
seen = {}
for line in open("/proc/meminfo"):
    name, _, value = line.partition(":")
    assert value.endswith(" kB\\n"), line
    seen[name] = int(value.split()[0])
assert {"Buffers", "Cached", "SReclaimable", "Shmem", "Active", "Inactive"} <= set(seen), seen
print(seen["MemTotal"], seen["MemFree"], seen["MemAvailable"], seen["SwapTotal"])
for act in (lambda: open("/proc/meminfo", "r+"), lambda: os.unlink("/proc/meminfo"),
            lambda: os.chmod("/proc/meminfo", 0o777), lambda: os.truncate("/proc/meminfo", 0)):
    try: print("did it", act())
    except OSError: pass
"""


@promise("R40")
def test_programs_without_control_groups_see_the_sandbox_memory(shared: Server) -> None:
    """A prewarmed sandbox shows a limit before its own limit is known, so the test tries several
    limits.
    """
    for mib in (256, 300, 512):
        record = shared.run(f"exec python3 - <<'END'\n{SEEN}\nEND", memory_limit_mb=mib)
        kib = str(mib * 1024)
        assert record["stdout"].split() == [kib, kib, kib, "0"], record
    (total, *_) = shared.run("free -k | grep ^Mem:", memory_limit_mb=280)["stdout"].split()[1:]
    assert int(total) == 280 * 1024
    own = Path("/proc/meminfo").read_text()
    assert int(own.split()[1]) > 512 * 1024, "control: the machine's is another"
