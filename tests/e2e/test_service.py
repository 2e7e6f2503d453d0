"""quiltfn as a systemd service, installed as docs/how-to/install.md says.

The tests change the machine, so they need a disposable one, which `scripts/test-v2` creates.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.leftovers import SERVER_UIDS, UIDS
from e2e.server import children, is_alive, status_of, until
from promises import promise
from timeouts import scaled

ROOT = Path(__file__).resolve().parents[2]
UNIT = Path("/etc/systemd/system/quiltfn.service")
SETTINGS = Path("/etc/quiltfn/quiltfn.toml")
QUILTFN = "/usr/local/bin/quiltfn"
URL = "http://127.0.0.1:8080"
GROUP = Path("/sys/fs/cgroup/system.slice/quiltfn.service")
START_S = 40.0  # the first start, before any module is compiled, may take this long
# The score of `systemd-analyze security` when the unit was written. A lower score means less
# exposure.
EXPOSED_MAX = 7.9

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(
        os.environ.get("QUILTFN_THROW_AWAY_MACHINE") != "yes",
        reason="installs a service: scripts/test-v2 runs it on a machine that is thrown away",
    ),
    pytest.mark.skipif(not Path("/run/systemd/system").is_dir(), reason="needs systemd"),
    promise("F12"),
]


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def property_of(name: str) -> str:
    """The value of a property of the service, as systemd reports it."""
    return run("systemctl", "show", "--value", f"--property={name}", "quiltfn").strip()


def answers() -> bool:
    try:
        return httpx.get(f"{URL}/health", timeout=scaled(30)).json() == {"status": "ok"}
    except httpx.HTTPError:
        return False


def ours() -> list[int]:
    """The pids of processes of sandboxes and of the server, found by their uids."""
    return [
        int(one.name)
        for one in Path("/proc").iterdir()
        if one.name.isdigit() and is_alive(int(one.name)) and _uid(int(one.name)) in UIDS
    ]


def _uid(pid: int) -> int:
    try:
        return int(status_of(pid)["Uid"].split()[0])
    except OSError:
        return -1


def call(handler: str, **fields: Any) -> dict[str, Any]:
    """Creates a function and invokes it once; returns the response."""
    with httpx.Client(base_url=URL, timeout=scaled(60), trust_env=False) as http:
        made = http.post("/api/functions", json={"name": "one", "handler": handler, **fields})
        assert made.status_code == 201, made.text
        path = f"/api/functions/{made.json()['function_id']}"
        deployed = http.post(f"{path}/deploy").json()
        assert deployed["state"] == "active", deployed
        record: dict[str, Any] = http.post(f"{path}/invoke", json={}).json()
        assert http.delete(path).status_code == 204
    return record


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    SETTINGS.parent.mkdir(exist_ok=True)
    shutil.copyfile(ROOT / "packaging/quiltfn.toml", SETTINGS)
    shutil.copyfile(ROOT / "packaging/quiltfn.service", UNIT)
    run("systemctl", "daemon-reload")
    yield
    run("systemctl", "stop", "quiltfn")
    UNIT.unlink()
    shutil.rmtree(SETTINGS.parent)
    shutil.rmtree("/var/lib/quiltfn", ignore_errors=True)
    run("systemctl", "daemon-reload")


@pytest.fixture
def service() -> Iterator[int]:
    """A started service; yields the launcher's pid."""
    # forgets failures of earlier starts; there may be none
    run("systemctl", "reset-failed", "quiltfn", check=False)
    run("systemctl", "start", "quiltfn")
    try:
        until(answers, START_S)
    except AssertionError:
        pytest.fail(run("journalctl", "--unit=quiltfn", "--no-pager", "--lines=50"))
    yield int(property_of("MainPID"))
    run("systemctl", "stop", "quiltfn")


def test_systemd_finds_no_fault() -> None:
    assert run("systemd-analyze", "verify", "--man=no", str(UNIT)) == ""


@pytest.mark.usefixtures("service")
def test_a_service_exposes_no_more_than_it_did() -> None:
    said = run("systemd-analyze", "security", "--no-pager", "quiltfn.service")
    found = re.search(r"Overall exposure level for quiltfn.service: ([\d.]+)", said)
    assert found, said
    assert float(found[1]) <= EXPOSED_MAX, said


def test_calls_run_in_groups_that_the_service_was_given(service: int) -> None:
    record = call("cat /proc/self/cgroup; echo hello")
    assert (record["status"], record["stdout"]) == ("success", "0::/\nhello\n")
    group = property_of("ControlGroup")
    assert Path(f"/proc/{service}/cgroup").read_text() == f"0::{group}/supervisor\n"
    (server,) = [pid for pid in children(service) if _uid(pid) in SERVER_UIDS]
    held = Path(f"/proc/{server}/cgroup").read_text()
    assert held.startswith(f"0::{group}/supervisor/quiltfn-server-"), held
    inside = [pid for pid in ours() if pid != server]
    assert inside, "there are no prewarmed sandboxes"
    for pid in inside:
        assert f"{group}/quiltfn/" in Path(f"/proc/{pid}/cgroup").read_text()
    assert not list((GROUP / "cgroup.procs").read_text().split()), "v2 wants processes in leaves"
    assert {"cpu", "memory", "pids"} <= set((GROUP / "cgroup.subtree_control").read_text().split())


def test_limits_hold_in_a_service(service: int) -> None:
    record = call("python3 -c 'x = bytearray(400 << 20)'", memory_limit_mb=256)
    assert record["status"] == "oom", record
    record = call("exec sleep 20", timeout_seconds=1)
    assert record["status"] == "timeout", record
    assert int(property_of("MainPID")) == service, "OOMPolicy=continue: the service goes on"


@pytest.mark.usefixtures("service")
def test_the_doctor_sees_it() -> None:
    said = run(QUILTFN, "doctor", "--run-dir=/run/quiltfn", "--data-dir=/var/lib/quiltfn/data")
    assert "ok   quiltfn.service is installed" in said
    assert "ok   control groups: v2" in said
    assert "ok   no leftovers of ended servers" in said
    assert "NO " not in said


@pytest.mark.parametrize("whom", ["launcher", "server"])
def test_what_is_killed_is_started_again_and_leaves_nothing(service: int, whom: str) -> None:
    before = {one.name for one in (GROUP / "quiltfn").iterdir() if one.is_dir()}
    (server,) = [pid for pid in children(service) if _uid(pid) in SERVER_UIDS]
    os.kill(service if whom == "launcher" else server, 9)
    until(lambda: int(property_of("MainPID")) not in (0, service) and answers(), START_S)
    assert call("echo again")["stdout"] == "again\n"
    after = {one.name for one in (GROUP / "quiltfn").iterdir() if one.is_dir()}
    assert len(after) == 1
    assert not after & before
    assert property_of("NRestarts") == "1"


@pytest.mark.usefixtures("service")
def test_a_stop_leaves_nothing() -> None:
    assert call("echo hello")["status"] == "success"
    run("systemctl", "stop", "quiltfn")
    assert (property_of("Result"), property_of("ExecMainStatus")) == ("success", "0")
    assert not ours()
    assert not GROUP.exists()
    assert not list(Path("/run/quiltfn/servers").iterdir())
    assert "quiltfn" not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.usefixtures("service")
def test_a_service_that_was_killed_whole_is_swept_by_the_doctor() -> None:
    run("systemctl", "kill", "--signal=KILL", "--kill-whom=all", "quiltfn")
    run("systemctl", "stop", "quiltfn")
    until(lambda: not ours())
    said = run(QUILTFN, "doctor", "--sweep", "--run-dir=/run/quiltfn")
    assert re.fullmatch(r"swept \d+ ended server\(s\) and \d+ sandbox\(es\)\n", said)
    assert not GROUP.exists()
