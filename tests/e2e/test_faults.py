"""What is left when processes are killed, and how the server stops, fails and reports."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e import leftovers, sample_runtimes
from e2e.faults import Runtime, foreign_container
from e2e.full_disk import small_disk
from e2e.server import (
    CRUN,
    QUILTFN,
    Function,
    Server,
    is_alive,
    keeper_of,
    quiltfn,
    status_of,
    until,
    watched,
)
from promises import promise
from timeouts import full_wait, scaled

pytestmark = pytest.mark.sandbox
CALLS = 20
INSTANCE_MIB = 256  # the default memory limit of a function
FINAL = {"success", "failed", "timeout", "oom", "cancelled", "error", "interrupted"}
SLOW_OR_QUICK = '[ "$QUILT_PAYLOAD" = quick ] && exec echo quick; exec sleep "$SECONDS_LONG"'


def answered(function: Function) -> httpx.Response | None:
    """The response; None if the server ended first."""
    try:
        return function.try_invoke()
    except httpx.TransportError:
        return None


def slow_or_quick(server: Server, **fields: object) -> Function:
    """Deploys a handler that sleeps longer than it takes to start all invocations, or ends at once
    if the payload is `quick`.
    """
    seconds = int(scaled(30))
    environment = {"SECONDS_LONG": str(seconds)}
    return server.deploy(SLOW_OR_QUICK, timeout_seconds=seconds, environment=environment, **fields)


def running(server: Server, calls: int = CALLS) -> tuple[Function, list[Future[Any]]]:
    """Deploys a function and starts this many invocations; it may have one more instance."""
    budget = server.call("GET", "/api/system/info").json()["memory"]["budget_mib"]
    assert budget >= (calls + 1) * INSTANCE_MIB, f"the machine's memory holds too few: {budget} MiB"
    function = slow_or_quick(server, max_instances=calls + 1)
    futures = [server.later(answered, function) for _ in range(calls)]
    until(lambda: len(server.named("sleep")) == calls, 20)
    return function, futures


# kill -9 -------------------------------------------------------------------------------------


def kill(server: Server, victim: str) -> int:
    """Kills the victim; returns the exit code of the launcher."""
    pids = (server.pid, server.launcher)
    if victim in ("launcher", "both"):
        server.kill_launcher()
    if victim in ("server", "both"):
        # the server may have ended together with its launcher
        with contextlib.suppress(ProcessLookupError):
            server.kill_server()
    code = server.wait(20)
    until(lambda: not any(is_alive(pid) for pid in pids))
    return code


@promise("D1", "D2")
@pytest.mark.parametrize("victim", ["server", "launcher", "both"])
def test_nothing_is_lost_or_left_after_a_kill(server: Server, tmp_path: Path, victim: str) -> None:
    before = leftovers.look(server.root, server.run_dir, ())
    other = server.deploy("echo kept; exit 3")
    acknowledged = [other.invoke() for _ in range(20)]
    function, futures = running(server)
    with foreign_container(tmp_path):
        code = kill(server, victim)
        assert code == (70 if victim == "server" else -9)
        assert [future.result(scaled(10)) for future in futures] == [None] * CALLS
        if victim == "server":
            assert not leftovers.nothing_since(before, server.root, server.run_dir, server.ids)
        server.start()
        old = server.ids - {server.id}
        assert not leftovers.nothing_since(before, None, server.run_dir, old)
        records = function.records()
        assert len(records) == CALLS
        assert {record["status"] for record in records.values()} == {"interrupted"}
        assert all(record["error_message"] for record in records.values())
        kept = other.records()
        assert all(kept[record["invocation_id"]] == record for record in acknowledged)
        assert function.invoke("quick")["stdout"] == "quick\n"


# A process with the server's uid and in its control group, but in its own session and without its
# parent, like one that a compromised server has left.
ESCAPED = """
import os, sys, time
uid, *groups = sys.argv[1:]
for group in groups:
    with open(group + "/cgroup.procs", "w") as file:
        file.write("0")
if os.fork():
    os._exit(0)
os.setsid()
os.setresgid(*[int(uid)] * 3)
os.setresuid(*[int(uid)] * 3)
print(os.getpid(), flush=True)
os.close(1)
time.sleep(60)
"""


def escaped(server: Server, *groups: str) -> int:
    """Starts an escaped process in these control groups; returns its pid."""
    uid = status_of(server.pid)["Uid"].split()[0]
    words = [sys.executable, "-c", ESCAPED, uid, *groups]
    return int(subprocess.run(words, check=True, stdout=subprocess.PIPE, timeout=20).stdout)


def server_group(server: Server) -> str:
    """The control group of the server's processes, in v1 or v2."""
    lines = Path(f"/proc/{server.pid}/cgroup").read_text().splitlines()
    by_kind = {controllers: path for _, controllers, path in (one.split(":", 2) for one in lines)}
    freezer = by_kind.get("freezer")
    return f"/sys/fs/cgroup/freezer{freezer}" if freezer else f"/sys/fs/cgroup{by_kind['']}"


@promise("F39")
def test_what_the_server_has_left_ends_with_a_killed_launcher(server: Server) -> None:
    """The launcher's keeper ends them. Controls: they stay while the keeper is stopped, and a
    process in another group stays, too.
    """
    keeper = keeper_of(server.launcher)
    left, elsewhere = escaped(server, server_group(server)), escaped(server)
    function = server.deploy("sleep 60", max_instances=1)
    server.later(answered, function)
    until(lambda: server.named("sleep"))
    os.kill(keeper, signal.SIGSTOP)
    server.kill_launcher()
    server.wait()
    time.sleep(full_wait(1))
    assert is_alive(left)
    os.kill(keeper, signal.SIGCONT)
    until(lambda: not (is_alive(left) or is_alive(keeper) or server.named("sleep")))
    assert is_alive(elsewhere)
    os.kill(elsewhere, signal.SIGKILL)
    server.start()


@promise("F39")
def test_a_keeper_that_is_killed_has_a_successor_and_ends_with_a_launcher(server: Server) -> None:
    first = keeper_of(server.launcher)
    os.kill(first, signal.SIGKILL)
    until(lambda: keeper_of(server.launcher) != first)
    second = keeper_of(server.launcher)
    server.terminate()
    assert server.wait(3) == 0, "an idle server ends at once"
    assert "Traceback" not in server.log.read_text()
    until(lambda: not is_alive(second))
    server.start()


LEFT_BEHIND = """
import os, subprocess, time
def handler(event, context):
    subprocess.Popen(["sleep", "120"], start_new_session=True)
    time.sleep(120)
"""


@promise("W6")
@pytest.mark.parametrize(
    ("handler", "sleeps"),
    [
        ("setsid sleep 120 & sleep 120", 2),
        ("setsid sleep 120 & sleep 120 & while :; do echo; done", 2),
        (LEFT_BEHIND, 1),
    ],
    ids=["shell", "shell that writes", "python"],
)
def test_a_cancelled_call_runs_no_more_though_the_launcher_stands_still(
    warm: tuple[Server, Runtime], handler: str, sleeps: int
) -> None:
    """The guest ends the invocation itself. The response comes once all of the invocation's
    processes have ended.
    """
    server, _ = warm
    if handler == LEFT_BEHIND:
        function = sample_runtimes.python(server, handler, timeout_seconds=120)
    else:
        function = server.deploy(handler, timeout_seconds=120)
    call = server.later(server.http.post, f"{function.path}/invoke", json={})
    pids = until(lambda: found if len(found := server.named("sleep")) >= sleeps else None, 20)
    [invocation] = until(function.records)
    os.kill(server.launcher, signal.SIGSTOP)
    try:
        began = time.monotonic()
        cancelled = server.call("POST", f"{function.path}/invocations/{invocation}/cancel")
        took = time.monotonic() - began
        assert not [one for one in pids if is_alive(one)]
    finally:
        os.kill(server.launcher, signal.SIGCONT)
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert took < scaled(4)
    assert call.result().json()["status"] == "cancelled"
    function.delete()


def test_a_kill_while_sandboxes_are_being_made_leaves_nothing(server: Server) -> None:
    before = leftovers.look(server.root, server.run_dir, ())
    function = slow_or_quick(server, max_instances=30)
    futures = [server.later(answered, function) for _ in range(30)]
    until(lambda: len(server.sandbox_pids()) > 4)
    server.kill_server()
    assert server.wait(20) == 70
    assert [future.result(scaled(10)) for future in futures] == [None] * 30
    assert not leftovers.nothing_since(before, server.root, server.run_dir, server.ids)
    server.start()


@promise("D2")
def test_doctor_sweeps_the_dead_alone(server: Server, another: Callable[..., Server]) -> None:
    living = another(run_dir=server.run_dir, options="--prewarmed 0").start()
    kept, calls = running(living, 2)
    sandboxes = set(living.sandbox_pids())
    before = leftovers.look(server.root, server.run_dir, living.ids)
    running(server, 4)
    keeper = keeper_of(server.launcher)
    os.kill(keeper, signal.SIGSTOP)
    kill(server, "both")
    os.kill(keeper, signal.SIGKILL)  # a running keeper would end the sandboxes
    left = leftovers.look(server.root, server.run_dir, server.ids | living.ids).since(before)
    assert any("control group" in one for one in left)
    assert any("directory" in one for one in left)

    swept = quiltfn("doctor", "--sweep", "--run-dir", str(server.run_dir), own_process=True)
    assert (swept.code, swept.stderr) == (0, "")
    found = re.match(r"swept 1 ended server\(s\) and (\d+) sandbox\(es\)", swept.stdout)
    assert found, swept.stdout
    assert int(found[1]) >= 4  # the count includes prewarmed sandboxes
    ids = server.ids | living.ids
    assert not leftovers.nothing_since(before, server.root, server.run_dir, ids)
    assert set(living.sandbox_pids()) == sandboxes
    living.until_ready()
    again = quiltfn("doctor", "--sweep", "--run-dir", str(server.run_dir))
    assert again.stdout.startswith("swept 0 ended server(s)")
    force(living, kept)
    assert [call.result(scaled(5)).json()["error_code"] for call in calls] == ["SHUTTING_DOWN"] * 2


def force(server: Server, function: Function) -> None:
    """Sends a SIGTERM, which waits for running invocations, and another one, which does not."""
    server.terminate()
    until(lambda: function.try_invoke("quick").status_code == 503)
    assert is_alive(server.pid)
    server.terminate()
    began = time.monotonic()
    assert server.wait(5) == 0
    assert time.monotonic() - began < scaled(2.0)


# SIGTERM -------------------------------------------------------------------------------------


@promise("D5", "D24")
def test_the_first_sigterm_lets_running_calls_end(server: Server) -> None:
    slow = "sleep 60; echo finished"
    function = server.deploy(f'[ "$QUILT_PAYLOAD" ] || {{ {slow}; }}', max_instances=6)
    calls = [server.later(function.invoke) for _ in range(5)]
    until(lambda: len(server.named("sleep")) == 5)
    server.terminate()
    refused = until(lambda: (answer := function.try_invoke("quick")).status_code == 503 and answer)
    assert refused.json()["error_code"] == "SHUTTING_DOWN"
    assert int(refused.headers["retry-after"]) >= 1
    for method, path in (
        ("POST", "/api/functions"),
        ("PUT", function.path),
        ("DELETE", function.path),
        ("POST", "/api/keys"),
    ):
        answer = server.call(method, path, {"name": "late", "handler": "echo"})
        assert (answer.status_code, answer.json()["error_code"]) == (503, "SHUTTING_DOWN")
    assert server.call("GET", function.path).status_code == 200
    server.wake(5)
    assert {call.result()["stdout"] for call in calls} == {"finished\n"}
    assert server.wait(5) == 0
    server.start()
    records = function.records().values()
    assert [one["stdout"] for one in records].count("finished\n") == 5
    assert {one["status"] for one in records} == {"success"}


@promise("D5")
@pytest.mark.parametrize("how", ["second signal", "drain over"])
def test_what_does_not_end_in_time_is_interrupted(another: Callable[..., Server], how: str) -> None:
    server = another(options="--drain-s 0.5" if how == "drain over" else "").start()
    function, calls = running(server, 5)
    if how == "second signal":
        force(server, function)
    else:
        server.terminate()
        assert server.wait(2.5) == 0
    assert [call.result(scaled(1)).status_code for call in calls] == [503] * 5
    answered = {call.result().headers["x-invocation-id"] for call in calls}
    server.start()
    # a quick invocation may have been admitted before the signal
    records = function.records().items()
    assert answered == {one for one, record in records if record["status"] == "interrupted"}
    assert len(answered) == 5
    assert function.invoke("quick")["status"] == "success"


HANGS = """
import subprocess
subprocess.run(["sleep", "300"])
def handler(event, context):
    return 1
"""


@pytest.mark.parametrize("kind", ["python", "server"])
def test_an_instance_that_does_not_come_up_holds_nothing_up(server: Server, kind: str) -> None:
    """The handler's module, or its web server, would take minutes to start."""
    runtime = sample_runtimes.add(server, kind, {"mod.py": HANGS})
    handler = {"python": "mod:handler", "server": "exec sleep 300"}[kind]
    function = server.create(handler, runtime=runtime, cleanup_on_exit=False)
    deploys = server.later(server.call, "POST", f"{function.path}/deploy")
    until(lambda: server.named("sleep"), 10)
    server.terminate()
    assert server.wait(5) == 0
    deploys.result(scaled(5))
    assert not server.named("sleep")
    server.start()  # the start continues with the deployment
    until(lambda: server.named("sleep"), 10)
    function.delete()
    until(lambda: not server.named("sleep"), 5)


def test_sigterm_while_it_starts_ends_it_well(another: Callable[..., Server]) -> None:
    server = another()
    server.start_without_waiting()
    pid = until(server.server_pid)
    server.terminate()
    assert server.wait(5) == 0
    assert not is_alive(pid)
    assert server.server_dirs() == set()


# Refused starts ------------------------------------------------------------------------------


def serve(root: Path, *more: str, **how: object) -> tuple[int, str]:
    """Runs a `quiltfn serve` that must not start; returns its exit code and message."""
    arguments = ["serve", "--port", "0", *more]
    if "--data-dir" not in more:
        arguments += ["--data-dir", str(root / "data")]
    # The run directory cannot be in `root`, which the users of sandboxes cannot enter.
    with tempfile.TemporaryDirectory(prefix="quiltfn-test-") as run_dir:
        Path(run_dir).chmod(0o755)
        if "--run-dir" not in more:
            arguments += ["--run-dir", run_dir]
        ended = quiltfn(*arguments, **how)  # type: ignore[arg-type]
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith("quiltfn: ")
    return ended.code, ended.stderr


# The options, and the exit code and message that they lead to. HERE stands for a directory that
# other users cannot enter.
REFUSED = {
    "--host 0.0.0.0": (78, ["host 0.0.0.0 is not a loopback address", "quiltfn keys create"]),
    "--host 192.0.2.1": (69, ["192.0.2.1"]),
    # Only root can read this file: a child without root rights parses the settings in it.
    "--config HERE/quiltfn.toml": (
        78,
        ["host must be an IP address or localhost, not 'example.com'"],
    ),
    "--run-dir HERE/run": (73, ["HERE is closed to other users"]),
    "--crun HERE/nowhere": (69, ["apt install crun"]),
}


@pytest.mark.parametrize("options", REFUSED)
def test_options_that_are_refused(tmp_path: Path, options: str) -> None:
    tmp_path.chmod(0o700)
    file = tmp_path / "quiltfn.toml"
    file.write_text('host = "example.com"\n')
    file.chmod(0o600)
    code, said = serve(tmp_path, *options.replace("HERE", str(tmp_path)).split())
    expected, sentences = REFUSED[options]
    assert code == expected
    for sentence in sentences:
        assert sentence.replace("HERE", str(tmp_path)) in said


def test_it_is_refused_without_root(tmp_path: Path) -> None:
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    can = subprocess.run([*nobody, QUILTFN, "--version"], capture_output=True, check=False)
    if can.returncode != 0:
        pytest.skip(f"another user cannot run {QUILTFN}")
    done = subprocess.run(
        [*nobody, QUILTFN, "serve", "--port", "0", "--data-dir", tmp_path / "data"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 77
    assert "must be started as root" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = serve(tmp_path, "--port", str(port))
    assert code == 69
    assert f"127.0.0.1:{port}" in said
    assert "Address already in use" in said


def test_a_directory_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("mine")
    code, said = serve(tmp_path, "--data-dir", str(tmp_path / "photos"))
    assert code == 73
    assert "--data-dir" in said
    assert (tmp_path / "photos").stat().st_uid == os.getuid()
    assert [one.name for one in (tmp_path / "photos").iterdir()] == ["a.jpg"]


def test_a_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    with small_disk("tmpfs", 1) as disk:
        disk.data.mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(disk.at)], check=True)
        code, said = serve(tmp_path, "--data-dir", str(disk.data))
    assert code == 73
    assert str(disk.data) in said
    assert "Read-only file system" in said


def test_a_data_directory_in_use(warm: tuple[Server, Runtime]) -> None:
    server, _ = warm
    function = server.deploy("echo mine")
    code, said = serve(server.root)
    assert code == 74
    assert "Another quiltfn is serving" in said
    assert function.invoke()["stdout"] == "mine\n"


@promise("D4")
def test_a_database_of_garbage_is_refused_and_kept(server: Server) -> None:
    server.stop()
    database = server.data_dir / "quiltfn.db"
    intact = database.read_bytes()
    garbage = b"this is no database " * 1000
    database.write_bytes(garbage)
    code, said = serve(server.root)
    assert code == 74
    assert "quiltfn.db" in said
    assert database.read_bytes() == garbage
    database.unlink()
    assert serve(server.root)[0] == 74
    assert not database.exists()
    database.write_bytes(intact)
    server.start()


# The OCI runtime -----------------------------------------------------------------------------


@promise("F9")
def test_a_runtime_that_fails_is_noticed_at_start(tmp_path: Path) -> None:
    runtime = Runtime(tmp_path)
    runtime.becomes("fail")
    with tempfile.TemporaryDirectory(prefix="quiltfn-test-") as run_dir:
        Path(run_dir).chmod(0o755)
        code, said = serve(tmp_path, "--crun", str(runtime.path), "--run-dir", run_dir)
        assert list((Path(run_dir) / "servers").iterdir()) == []
    assert code == 69
    assert "the sandbox could not be made" in said


@contextlib.contextmanager
def breakable(options: str = "") -> Iterator[tuple[Server, Runtime]]:
    """A server and its OCI runtime. A test that breaks the runtime must repair it at its end."""
    with tempfile.TemporaryDirectory(prefix="quiltfn-test-") as directory:
        runtime = Runtime(Path(directory))
        with watched(options, crun=str(runtime.path)) as server:
            yield server.start(), runtime


@pytest.fixture(scope="module")
def cold() -> Iterator[tuple[Server, Runtime]]:
    """A server without prewarmed sandboxes, which would hide the broken runtime for a while."""
    with breakable("--prewarmed 0") as both:
        yield both


@pytest.fixture(scope="module")
def warm() -> Iterator[tuple[Server, Runtime]]:
    with breakable() as both:
        yield both


@pytest.mark.parametrize("mode", ["fail", "hang", "missing"])
def test_a_broken_runtime_fails_calls_for_now(cold: tuple[Server, Runtime], mode: str) -> None:
    server, runtime = cold
    function = server.deploy("exec sleep 20", timeout_seconds=1, max_instances=1)
    fine = server.deploy("echo fine")
    # the timeout has ended the function's only instance
    assert function.invoke()["status"] == "timeout"
    until(lambda: function.pool()["total_count"] == 0)
    runtime.becomes(mode)
    began = time.monotonic()
    answer = function.try_invoke()
    assert time.monotonic() - began < scaled(10)
    assert (answer.status_code, answer.json()["error_code"]) == (503, "RUNTIME_UNAVAILABLE")
    record = function.records()[answer.headers["x-invocation-id"]]
    assert (record["status"], record["exit_code"]) == ("error", None)
    assert record["error_message"]
    assert fine.invoke()["stdout"] == "fine\n"
    runtime.becomes("fine")
    assert function.invoke()["status"] == "timeout"  # this shows that the only slot was free again
    assert set(FINAL) >= {one["status"] for one in function.records().values()}
    for created in (function, fine):
        created.delete()


@promise("D23")
@pytest.mark.parametrize("mode", ["fail", "hang", "missing"])
def test_health_says_when_no_sandbox_can_be_made(warm: tuple[Server, Runtime], mode: str) -> None:
    server, runtime = warm

    def check() -> dict[str, Any]:
        report = server.call("GET", "/api/functions/health").json()
        assert report["ready"] is report["checks"]["oci_runtime"]["ok"]
        return report["checks"]["oci_runtime"]

    assert check() == {"ok": True, "reason": str(runtime.path)}
    info = server.call("GET", "/api/system/info").json()
    assert info["oci_runtime"] == str(runtime.path) != CRUN
    runtime.becomes(mode)
    until(lambda: not check()["ok"], 20)
    assert check()["reason"]
    runtime.becomes("fine")
    until(lambda: check()["ok"], 20)
