"""Working directories that lead out of the sandbox, and what a handler can reach from them.

The attack is CVE-2024-21626: a directory of the host stayed open in the OCI runtime, and was
entered through /proc/self/fd. These tests create the links of a hostile image below the host's own
/usr, which is the image.
"""

import os
import re
import secrets
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from e2e.server import IN_FULL, Function, Server, children, is_alive, short_dir, until
from promises import promise
from spec.api_client import Api, new_name

# deletes the functions at the end
pytestmark = [pytest.mark.sandbox, pytest.mark.usefixtures("anybody")]
FUNCTIONS = "/api/functions"
DESCRIPTORS = 1024
TRIES = 1100

# Links in the image, which must be refused as working directories. "HOST" stands for the directory
# of the canary. Each takes a sandbox. So only as many descriptors are tried as the OCI runtime can
# have open; with `scripts/soak hostile`, all.
LINKED = DESCRIPTORS if IN_FULL else 64
LEAD_OUT = {f"fd{number}": f"/proc/self/fd/{number}" for number in range(LINKED)}
LEAD_OUT |= {
    "fd9-of-a-thread": "/proc/thread-self/fd/9",
    "fd9-relative": "../../../../proc/self/fd/9",
    "fd9-by-a-link": "fd9",
    "fd9-upwards": "/proc/self/fd/9/../../..",
    "dev-fd": "/dev/fd/3",
    "root-of-1-and-on": "/proc/1/root/HOST",
    "cwd-of-1-and-on": "/proc/1/cwd/HOST",
    "proc": "/proc",
    "cgroup": "/sys/fs/cgroup",
    "shm": "/dev/shm",
    "host": "HOST",
    "host-upwards": "../../../../../../../..HOST",
    "file": "/etc/passwd",
    "dangling": "/missing",
    "loop": "loop",
}
# Directories of another user, and directories in them.
CLOSED = ["closed", "closed/inner", "link-to-closed"]
# Allowed working directories, and the path that a handler in each of them sees.
INSIDE = {
    "/": "/",
    "/tmp": "/tmp",
    "/app": "/app",
    "/usr/bin": "/usr/bin",
    "IMAGE/open": "IMAGE/open",
    "IMAGE/link-to-top": "/",
    "IMAGE/link-to-tmp": "/tmp",
    "IMAGE/link-to-open": "IMAGE/open",
    "IMAGE/root-of-1": "/",  # process 1 is the guest, whose root is the sandbox's
    "IMAGE/cwd-of-1": "/",
}

# Prints the working directory, the directory in which `..` ends, and a line for every file that the
# handler can read but should not.
READABLE = "read /proc/self/comm: sh"
PROBE = r"""
tries=0
try() { tries=$((tries + 1)); { read -r line <"$1"; } 2>/dev/null && echo "read $1: $line"; }
try /proc/self/comm  # one that succeeds
echo "starts $(stat -Lc %d:%i .) $(pwd -P 2>/dev/null)"
for up in . .. ../.. ../../.. ../../../.. ../../../../.. ../../../../../../../..; do
    try "$up$CANARY"
    try "/proc/self/cwd/$up$CANARY"
    try "/proc/1/cwd/$up$CANARY"
    try "/proc/1/root/$up$CANARY"
done
for number in $(seq 0 1023); do
    for up in . ../../../../../../../..; do
        try "/proc/self/fd/$number/$up$CANARY"
    done
done
cat "../../../../../../../..$CANARY" 2>/dev/null
for step in 1 2 3 4 5 6 7 8; do cd -P .. 2>/dev/null; done
echo "stops $(stat -Lc %d:%i .) $(stat -Lc %d:%i /)"
echo "tries $tries"
"""


@dataclass(frozen=True)
class Canary:
    """A file of the host that everybody may read who can reach it. `image`: the directory with the
    links, which `INSIDE` calls IMAGE.
    """

    path: Path
    text: str
    image: Path

    def name(self, path: str) -> str:
        return path.replace("IMAGE", str(self.image))


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    image = Path(tempfile.mkdtemp(prefix="quiltfn-test-", dir="/usr/local"))
    try:
        with short_dir() as host:
            text = secrets.token_hex(16)
            (host / "canary").write_text(text + "\n")
            lay_out(image, host)
            yield Canary(host / "canary", text, image)
    finally:
        shutil.rmtree(image)


def lay_out(image: Path, host: Path) -> None:
    image.chmod(0o755)
    for name, target in LEAD_OUT.items():
        (image / name).symlink_to(target.replace("/HOST", str(host)).replace("HOST", str(host)))
    (image / "root-of-1").symlink_to("/proc/1/root")
    (image / "cwd-of-1").symlink_to("/proc/1/cwd")
    (image / "open").mkdir()
    (image / "closed" / "inner").mkdir(parents=True)
    (image / "closed").chmod(0o700)
    links = {"closed": image / "closed", "open": image / "open", "top": "/", "tmp": "/tmp"}
    for name, where in links.items():
        (image / f"link-to-{name}").symlink_to(where)  # type: ignore[arg-type]


def leaks(output: str, canary: Canary) -> list[str]:
    """The signs in a probe's output that it left the sandbox, or that it could not try
    everything.
    """
    lines = output.splitlines()
    found = [line for line in lines if line.startswith("read ") and line != READABLE]
    if READABLE not in lines:
        found.append("the probe cannot read")
    if canary.text in output:
        found.append("the canary was read")
    stops = re.search(r"^stops (\S+) (\S+)$", output, re.M)
    if stops is None or stops[1] != stops[2]:
        found.append(f"`..` ends elsewhere than at /: {output[-200:]!r}")
    tries = re.search(r"^tries (\d+)$", output, re.M)
    if tries is None or int(tries[1]) < TRIES:
        found.append(f"too few tries: {output[-200:]!r}")
    return found


# Refused requests ----------------------------------------------------------------------------


@promise("F13")
def test_no_descriptor_is_a_directory_to_work_in(open_server: Server, anybody: Api) -> None:
    def create(path: str) -> tuple[int, str]:
        body = {"name": new_name(), "handler": "cat", "working_directory": path}
        answer = open_server.call("POST", FUNCTIONS, body)
        return answer.status_code, answer.json().get("error_code", "")

    paths = [f"/proc/self/fd/{number}" for number in range(DESCRIPTORS)]
    paths += [f"/dev/fd/{number}" for number in range(64)]
    paths += [f"/proc/thread-self/fd/{number}" for number in range(64)]
    paths += [f"{start}proc/self/fd/7" for start in ("/tmp/../", "/./", "//")]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(create, paths))
    print(f"{len(answers)} directories refused")
    assert len(answers) >= TRIES
    assert set(answers) == {(422, "UNPROCESSABLE_ENTITY")}
    assert anybody.count() == 0


# In the sandbox --------------------------------------------------------------------------------


def make(server: Server, path: str, canary: Canary) -> Function:
    """A function that looks for the canary from the working directory `path`; not deployed yet."""
    environment = {"CANARY": str(canary.path)}
    return server.create(PROBE, working_directory=path, environment=environment)


@promise("F13")
def test_a_link_of_the_image_leads_nowhere(open_server: Server, canary: Canary) -> None:
    """The API does not see such links, so the guest enters the directory and checks where it is."""

    def attempt(path: str) -> tuple[str, str, int, str]:
        function = make(open_server, path, canary)
        deployed, call = function.deploy(), function.try_invoke()
        function.delete()
        error = deployed["error_message"] or ""
        code = call.json().get("error_code", "")
        return deployed["state"], error.partition(path)[1], call.status_code, code

    paths = [f"{canary.image}/{name}" for name in [*LEAD_OUT, *CLOSED]]
    with ThreadPoolExecutor(4) as threads:
        ends = list(threads.map(attempt, paths))
    wrong = {path: end for path, end in zip(paths, ends, strict=True)
             if end != ("error", path, 409, "FUNCTION_NOT_ACTIVE")}  # fmt: skip
    assert not wrong
    print(f"{len(ends)} deploys ended in error")
    # The processes of the last sandboxes stay zombies until the next sandbox is created.
    until(lambda: len(zombies(open_server.launcher)) <= 2)


def zombies(parent: int) -> list[int]:
    return [pid for pid in children(parent) if not is_alive(pid)]


@promise("F13")
@pytest.mark.parametrize("path", INSIDE)
def test_sandbox_directories_reach_no_host(open_server: Server, canary: Canary, path: str) -> None:
    function = make(open_server, canary.name(path), canary)
    deployed = function.deploy()
    assert deployed["state"] == "active", deployed
    record = function.invoke()
    assert record["status"] == "success", record
    assert leaks(record["stdout"], canary) == []
    starts = re.search(r"^starts (\d+):(\d+) (.+)$", record["stdout"], re.M)
    assert starts, record["stdout"]
    assert starts[3] == canary.name(INSIDE[path])
    # The host sees the same directory through the guest's own root.
    seen = {os.stat(f"/proc/{pid}/root{starts[3]}") for pid in guests(open_server)}
    assert (int(starts[1]), int(starts[2])) in {(one.st_dev, one.st_ino) for one in seen}
    function.delete()


def guests(server: Server) -> list[int]:
    return until(lambda: server.named(".guest"))


# Negative controls -----------------------------------------------------------------------------

# A sandbox of a careless runtime: the image is its root, but descriptor 7 can be an open directory
# outside of it. It has a /proc of its own processes, since in the host's /proc, the first process
# would lead root to the host.
CARELESS = """
mount -t tmpfs none "$1"; cd "$1"; mkdir usr proc dev
touch dev/null; mount --bind /dev/null dev/null
mount --rbind /usr usr; mount -t proc proc proc
for name in bin lib lib64; do ln -s "usr/$name" "$name"; done
exec chroot . /bin/sh -c "$2"
"""


def careless(canary: Canary, enter: str, leak: str | None) -> str:
    """The output of the probe in such a sandbox, after the command `enter`. `leak`: the directory
    that stayed open as descriptor 7.
    """
    probe = f"export CANARY={shlex.quote(str(canary.path))}; {enter}{PROBE}"
    redirect = f"exec 7<{leak}; " if leak else ""
    apart = "unshare --mount --pid --fork --propagation private"
    script = f'{redirect}exec {apart} sh -ec "$0" sh "$1" "$2"'
    with short_dir() as root:
        done = subprocess.run(
            ["sh", "-c", script, CARELESS, str(root), probe],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_probe_finds_an_open_descriptor(canary: Canary) -> None:
    """Negative control: `leaks` reports a descriptor of a directory outside."""
    assert leaks(careless(canary, "", None), canary) == []
    found = leaks(careless(canary, "", "/"), canary)
    assert found[0].startswith("read /proc/self/fd/7/")
    assert "the canary was read" in found


def test_the_probe_finds_a_directory_outside(canary: Canary) -> None:
    """Negative control: `leaks` reports a working directory outside."""
    output = careless(canary, "cd /proc/self/fd/7;", "/usr/bin")
    found = leaks(output, canary)
    assert "the canary was read" in found
    assert any("`..` ends elsewhere" in one for one in found)
