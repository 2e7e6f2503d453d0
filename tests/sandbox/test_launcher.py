"""The launcher with a failing OCI runtime and a compromised server."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.server import CRUN, children, is_alive, keeper_of, quiltfn, until, why_not
from promises import promise
from quiltfn.launcher import cgroups, state
from quiltfn.launcher.jobs import LEFT_BEHIND_S, TIMEOUT_S
from sandbox.launcher_process import RUNSC, LauncherProcess, place, run_launcher
from timeouts import full_wait, scaled

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]

# An OCI runtime with another name, which runs crun as its child and breaks it as a file says.
RUNTIME = """#!/bin/sh
case "$(cat {mode}) $*" in
    kill:*" run "*)
        mode=$(cat {mode})
        {crun} "$@" & child=$!
        sleep "${{mode#kill:}}"
        kill -9 $child
        wait
        exit 137;;
    late*" run "*)
        {crun_late} "$@" & wait; exit 1;;
    detached*" run "*)
        setsid {crun_late} "$@" & exit 1;;
    "fail run "*|fail*" run "*)
        exit 3;;
esac
{crun} "$@"
"""
LATE = """#!/bin/sh
sleep {late_s}
exec {crun} "$@"
"""
# Longer than the launcher waits for processes that a failed program has left.
LATE_S = LEFT_BEHIND_S + 1


class Runtime:
    """An OCI runtime that a test can break. `becomes`: "fine"; "fail"; "kill:SECONDS" then kills
    crun; "late" and "detached" start crun after the job's time limit, in the program's process tree
    or outside of it.
    """

    def __init__(self, directory: Path, real: str = CRUN) -> None:
        self.path, self._mode = directory / "own-runtime", directory / "mode"
        late = directory / "crun-late"
        for path, text in ((self.path, RUNTIME), (late, LATE)):
            names = {"mode": self._mode, "crun": real, "crun_late": late, "late_s": LATE_S}
            path.write_text(text.format(**names))
            path.chmod(0o755)
        self.becomes("fine")

    def becomes(self, mode: str) -> None:
        self._mode.write_text(mode)


@pytest.fixture
def root() -> Iterator[Path]:
    with place() as path:
        yield path


@pytest.fixture(scope="module")
def shared() -> Iterator[LauncherProcess]:
    """A launcher that tests share; they must leave it as they found it."""
    with place() as path, run_launcher(path) as made:
        yield made


def works(made: LauncherProcess, **wanted: Any) -> None:
    """Checks that a sandbox can be created and ended, and leaves nothing, not even zombies."""
    before = made.sandboxes()
    answer = made.create(**wanted)
    assert "sandbox" in answer, answer
    made.destroy(answer["sandbox"])
    until(lambda: not made.zombies(), 3)
    until(lambda: made.sandboxes() <= before, 3)


# Reaping of ended processes ------------------------------------------------------------------


@promise("F31")
def test_a_server_that_calls_itself_crun_is_not_taken_for_it(root: Path) -> None:
    with run_launcher(root) as made:
        made.do("call_me('crun')")
        works(made)
        made.server.send(b"os._exit(5)")
        assert made.wait() == 70
        assert "the server ended with 5" in made.said()


@promise("F31")
def test_orphans_of_the_server_are_reaped_whatever_they_are_called(shared: LauncherProcess) -> None:
    for name in ("odd", "crun", "exe", "python3"):
        shared.do(f"orphan(lambda: call_me({name!r}))")
    works(shared)


@promise("F31")
def test_many_sandboxes_at_once_are_made_beside_dying_orphans(shared: LauncherProcess) -> None:
    shared.do("""
for _ in range(40):
    orphan(lambda: None)
wanted = dict(memory_mib=64, cpu_percent=100, image=None, base_image=None, network="none")
wanted |= dict(writable_paths=[], packages=None)
wanted |= dict(pids=64, tmp_mib=64, file_mib=64, open_files=1024)
for n in range(20):
    channel.send(json.dumps({"n": n, "verb": "create", "isolation": "crun", **wanted}).encode())
    orphan(lambda: None)
answer = []
for _ in range(20):
    data, descriptors, _, _ = socket.recv_fds(channel, 65536, 2)
    kept.extend(descriptors)
    answer.append(json.loads(data))
made = [one["sandbox"] for one in answer if "sandbox" in one]
""")
    made = shared.do("answer = made")
    assert len(made) == 20
    for sandbox in made:
        shared.destroy(sandbox)
    works(shared)
    assert not shared.sandboxes()


# Programs that fail --------------------------------------------------------------------------


@promise("F32")
@pytest.mark.parametrize("isolation", ["crun", "gvisor"])
def test_a_killed_runtime_leaves_nothing_and_harms_nobody_later(root: Path, isolation: str) -> None:
    real = CRUN if isolation == "crun" else RUNSC
    if not os.access(real, os.X_OK):
        pytest.skip(f"needs {real}")
    runtime = Runtime(root, real)
    path = {"crun" if isolation == "crun" else "runsc": str(runtime.path)}
    wanted = {"isolation": isolation, "memory_mib": 256}
    moments = (1, 3, 5, 8, 11, 14, 18, 25) if isolation == "crun" else (5, 30, 60, 90, 150, 250)
    with run_launcher(root, **path) as made:
        works(made, **wanted)
        refused = 0
        for milliseconds in moments:
            runtime.becomes(f"kill:{milliseconds / 1000}")
            answer = made.create(**wanted)
            refused += "error" in answer
            assert "error" not in answer or "could not be made" in answer["error"], answer
            if "sandbox" in answer:
                made.destroy(answer["sandbox"])
        assert refused
        runtime.becomes("fine")
        works(made, **wanted)
        assert not made.sandboxes()


@promise("F32")
def test_a_killed_egress_proxy_ends_its_sandbox_and_harms_nobody(shared: LauncherProcess) -> None:
    answer = shared.create(network="egress")
    if "egress needs" in answer.get("error", ""):
        pytest.skip(answer["error"])
    (proxy,) = in_sandbox(shared, answer["sandbox"] + "-egress-proxy")
    os.kill(proxy, signal.SIGKILL)
    until(lambda: not in_sandbox(shared, answer["sandbox"]), 3)
    shared.destroy(answer["sandbox"])
    works(shared)
    assert not shared.groups() - {"server-process"}


@promise("F32")
@pytest.mark.parametrize("mode", ["late", "detached"])
def test_what_a_failed_runtime_started_ends_before_a_sandbox(root: Path, mode: str) -> None:
    runtime = Runtime(root)
    # In the mode `detached` no program may exceed its time limit, however busy the machine is.
    job_s = scaled(0.5) if mode == "late" else TIMEOUT_S
    with run_launcher(root, crun=str(runtime.path), job_s=job_s) as made:
        runtime.becomes(mode)
        answer = made.create()
        assert "own-runtime" in answer["error"], answer
        assert ("was killed" in answer["error"]) == (mode == "late")
        assert not of_file(root / "crun-late")
        time.sleep(LATE_S)
        assert not made.sandboxes()
        runtime.becomes("fine")
        works(made)


@promise("F32")
def test_a_stranger_that_is_the_launcher_s_child_outlives_the_failure(root: Path) -> None:
    """A container's start script, for example, may start another program and then execute the
    launcher.
    """
    runtime = Runtime(root)
    sidecar = ["sh", "-c", f'sleep 300 & echo $! >{root}/pid; exec "$@"', "sh"]
    with run_launcher(root, through=sidecar, crun=str(runtime.path)) as made:
        stranger = int((root / "pid").read_text())
        try:
            assert stranger in children(made.launcher)
            runtime.becomes("fail")
            assert "own-runtime ended with 3" in made.create()["error"]
            assert is_alive(stranger)
        finally:
            os.kill(stranger, signal.SIGKILL)
        runtime.becomes("fine")
        works(made)


@promise("F32")
def test_a_sandbox_of_gvisor_outlives_the_failure_of_another_program(root: Path) -> None:
    if not os.access("/usr/bin/runsc", os.X_OK):
        pytest.skip("needs runsc")
    runtime = Runtime(root)
    with run_launcher(root, crun=str(runtime.path)) as made:
        kept = made.create(isolation="gvisor", memory_mib=256)
        assert "sandbox" in kept, kept
        alive = in_sandbox(made, kept["sandbox"])
        assert len(alive) > 1, "the sentry, and its helper, which is a child of the launcher too"
        runtime.becomes("fail")
        assert "own-runtime ended with 3" in made.create()["error"]
        # The sentry may start more of its own processes at any time, but none may have ended.
        assert alive <= in_sandbox(made, kept["sandbox"])
        runtime.becomes("fine")
        made.destroy(kept["sandbox"])
        works(made)


def of_file(path: Path) -> list[int]:
    """The pids of processes that execute this script."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.fsencode(path) in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return [pid for pid in found if is_alive(pid)]


def in_sandbox(made: LauncherProcess, sandbox: str) -> set[int]:
    found = set()
    for path, _, files in os.walk("/sys/fs/cgroup"):
        if path.endswith(f"/{made.id}/{sandbox}") and "cgroup.procs" in files:
            found |= {int(pid) for pid in Path(path, "cgroup.procs").read_text().split()}
    return found


# Leftovers of a server -------------------------------------------------------------------------

# A child that outlives the server: its parent has ended, it has another name, it ignores all
# signals that can be ignored, and it holds a guest's socket, the listener and the channel.
HIDE = """
answer = create()

def stay():
    os.setsid()
    for number in signal.valid_signals():
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    call_me("kworker/0:1")
    while True:
        time.sleep(0.1)

told, tell = os.pipe()
orphan(lambda: (os.write(tell, str(os.getpid()).encode()), stay()))
answer |= {"pid": int(os.read(told, 20))}
"""


@promise("F34")
@pytest.mark.parametrize("how", ["it ends", "SIGTERM", "server killed"])
def test_what_a_server_has_forked_ends_with_its_launcher(root: Path, how: str) -> None:
    with run_launcher(root) as made:
        hidden = made.do(HIDE)["pid"]
        assert is_alive(hidden)
        server = made.server_pid
        if how == "it ends":
            made.server.send(b"os._exit(5)")
        elif how == "SIGTERM":
            os.kill(made.launcher, signal.SIGTERM)
        else:
            os.kill(server, signal.SIGKILL)
        assert made.wait() == (0 if how == "SIGTERM" else 70)
        assert not is_alive(hidden)


@promise("F34", "F39")
@pytest.mark.parametrize("by", ["the keeper", "the next start", "doctor"])
def test_what_a_server_forked_is_swept_after_a_kill_of_the_launcher(root: Path, by: str) -> None:
    with run_launcher(root) as made:
        hidden = made.do(HIDE)
        keeper = keeper_of(made.launcher)
        os.kill(keeper, signal.SIGSTOP)
        os.kill(made.launcher, signal.SIGKILL)
        assert made.wait() == -signal.SIGKILL
        time.sleep(full_wait(0.2))
        assert is_alive(hidden["pid"]), "nobody is there to end it"
        guests = in_sandbox(made, hidden["sandbox"])
        assert guests, "and it holds the guest's socket, so that this lives on as well"
        os.kill(keeper, signal.SIGCONT if by == "the keeper" else signal.SIGKILL)
        if by == "the keeper":
            until(lambda: not any(map(is_alive, (hidden["pid"], *guests, keeper))))
            return
        if by == "doctor":
            run_dir = str(root / "run")
            assert (
                "swept 1 ended server(s)"
                in quiltfn("doctor", "--sweep", "--run-dir", run_dir).stdout
            )
            assert not any(map(is_alive, (hidden["pid"], *guests)))
            return
        with run_launcher(root, data="other") as again:
            assert not any(map(is_alive, (hidden["pid"], *guests)))
            works(again)


@promise("F35")
def test_the_next_start_gets_the_directory_that_such_a_child_holds_on_to(root: Path) -> None:
    with run_launcher(root) as made:
        made.do(f"""
import fcntl
directory = os.open({str(root / "data")!r}, os.O_RDONLY)
fcntl.flock(os.open("/dev/null", os.O_RDONLY), fcntl.LOCK_SH)
told, tell = os.pipe()

def hold():
    os.write(tell, b"!")
    while True:
        with contextlib.suppress(OSError):
            fcntl.flock(directory, fcntl.LOCK_EX)
        time.sleep(0.01)

orphan(hold)
os.read(told, 1)
""")
        os.kill(made.launcher, signal.SIGKILL)
        made.wait()
        time.sleep(0.1)
        with run_launcher(root) as again:
            works(again)


@promise("F35")
def test_two_servers_are_strangers_to_each_other(root: Path) -> None:
    with run_launcher(root) as first, run_launcher(root, data="other") as other:
        uids = [made.do("answer = os.getresuid()") for made in (first, other)]
        assert len({uid for each in uids for uid in each}) == 2
        pid, own = other.server_pid, first.server_pid
        tries = {
            "os.kill({}, 0)": "PermissionError",
            "open('/proc/{}/mem', 'r+b')": "PermissionError",
            "os.listdir('/proc/{}/fd')": "PermissionError",
            "signal.pidfd_send_signal(os.pidfd_open({}), 0)": "PermissionError",
        }
        for code, refused in tries.items():
            assert refused in str(first.do(f"answer = str({code.format(pid)})")), code
            assert refused not in str(first.do(f"answer = str({code.format(own)})")), code
        assert "PermissionError" in first.do(f"os.listdir({str(root / 'other')!r})")


@promise("F34")
def test_on_v2_a_server_s_group_ends_with_all_it_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    unified = next(
        (Path(one) for one in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")
         if Path(one, "cgroup.controllers").exists()), None,
    )  # fmt: skip
    if unified is None:
        pytest.skip("needs cgroup v2, alone or beside v1")
    monkeypatch.setattr(cgroups, "MOUNT", unified)
    groups, name = cgroups.V2(), f"{os.getpid():08x}"
    readable, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            groups.enter_alone(name)
            if os.fork() == 0:
                os.setsid()
            os.write(tell, f"{os.getpid()} ".encode())
            time.sleep(60)
        os._exit(1)
    os.close(tell)
    try:
        seen: set[int] = set()
        while len(seen) < 2:
            seen |= set(map(int, os.read(readable, 64).split()))
        for forked in seen:
            group = Path(f"/proc/{forked}/cgroup").read_text()
            assert f"/quiltfn-server-{name}\n" in group
        _, all_ended = state.end_everything(name, cgroups.V2())
        assert all_ended
        assert not any(map(is_alive, seen))
    finally:
        os.close(readable)
        os.waitpid(pid, 0)
    assert not list(unified.rglob(f"quiltfn-server-{name}"))


@promise("F34")
def test_a_server_that_forks_without_end_is_bounded_and_ended(root: Path) -> None:
    with run_launcher(root) as made:
        assert "BlockingIOError" in made.do("""
for _ in range(5000):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)
""")
        many = children(made.server_pid)
        assert 500 < len(many) < 1100
        made.server.send(b"os._exit(5)")
        assert made.wait() == 70
        assert not any(map(is_alive, many))


# Directories and mounts for requests -----------------------------------------------------------


def mount_points(made: LauncherProcess) -> set[str]:
    """The mount points in the image from which every sandbox is made."""
    run_dir = (made.root / "run").resolve().relative_to("/")
    seen = Path(f"/proc/{made.launcher}/root", run_dir)  # only the launcher sees it
    return {one.name for one in (seen / "servers" / made.id / "root").iterdir()}


def image_mounts(made: LauncherProcess) -> int:
    mounts = Path(f"/proc/{made.launcher}/mountinfo").read_text()
    return mounts.count(f"/servers/{made.id}/images/")


@promise("F36")
def test_a_refused_request_leaves_no_directory_and_no_mount(shared: LauncherProcess) -> None:
    before, mounted = mount_points(shared), image_mounts(shared)
    image = {"image": "0" * 64, "writable_paths": ["/asked/for"]}
    refused = shared.create(isolation="gvisor", network="egress", writable_paths=["/asked/for"])
    assert "cannot have network: egress" in refused["error"]
    assert mount_points(shared) == before
    reason = f"its files cannot be mounted: image {'0' * 64} is not on this machine"
    assert reason in shared.create(**image)["error"]
    assert image_mounts(shared) == mounted
    answer = shared.create(writable_paths=["/asked/for"])
    assert mount_points(shared) == before | {"asked"}
    shared.destroy(answer["sandbox"])
    works(shared)


@promise("F36")
def test_directories_for_writable_paths_are_bounded(root: Path) -> None:
    with run_launcher(root, made_max=6) as made:
        for path in ("/a/b/c", "/a/b/d", "/a/e"):
            made.destroy(made.create(writable_paths=[path])["sandbox"])
        before = mount_points(made)
        answer = made.create(writable_paths=["/f/g"])
        assert "as many as there may be" in answer["error"], answer
        assert mount_points(made) == before
        made.destroy(made.create(writable_paths=["/f", "/a/b/c"])["sandbox"])
        works(made)


@promise("F36")
def test_mounts_of_images_are_bounded_and_a_sandbox_keeps_its_own(root: Path) -> None:
    with run_launcher(root, mounted_max=3) as made:
        images = [f"{n:064x}" for n in range(6)]
        for digest in images:
            made.do(f"""
path = {str(root / "data/images" / digest)!r}
os.makedirs(path)
open(path + "/name", "w").write({digest!r})
""")
        sandboxes = [made.create(image=one)["sandbox"] for one in (*images, images[0])]
        assert image_mounts(made) <= 3
        for sandbox, image in zip(sandboxes, (*images, images[0]), strict=True):
            (guest,) = in_sandbox(made, sandbox)
            assert Path(f"/proc/{guest}/root/app/name").read_text() == image
            made.destroy(sandbox)
        works(made)


# Limits on processes -------------------------------------------------------------------------


@contextlib.contextmanager
def few_processes(pid: int, most: int) -> Iterator[None]:
    """Limits the number of processes by a control group, into which it puts this process."""
    top = Path("/sys/fs/cgroup/pids")
    group = (top if top.is_dir() else top.parent) / f"few-{pid}"
    line = next(
        one
        for one in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        if "pids" in one or one.startswith("0::")
    )
    home = group.parent / line.rpartition(":")[2].lstrip("/")
    group.mkdir()
    try:
        (group / "pids.max").write_text(str(most))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        (home / "cgroup.procs").write_text(str(pid))
        group.rmdir()


@pytest.mark.parametrize(
    ("isolation", "network", "most"),
    [("crun", "none", 1), ("crun", "none", 2), ("gvisor", "none", 1), ("crun", "egress", 1)],
)
def test_no_process_left_is_said_as_what_it_is(
    shared: LauncherProcess, isolation: str, network: str, most: int
) -> None:
    works(shared)
    with few_processes(shared.launcher, most):
        answer = shared.create(isolation=isolation, network=network)
    if "egress needs" in answer["error"] or "there is no" in answer["error"]:
        pytest.skip(answer["error"])
    assert "no further process can be started" in answer["error"], answer
    assert "pids.max" in answer["error"]
    works(shared)


# Signals -------------------------------------------------------------------------------------

ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
BROKEN = {
    *(signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV),
    *(signal.SIGSYS, signal.SIGTRAP, signal.SIGKILL),
}
STOPPING = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}


@promise("F33")
def test_no_other_signal_ends_the_launcher_or_the_server(shared: LauncherProcess) -> None:
    server = shared.server_pid
    for number in sorted(signal.valid_signals() - ENDING - BROKEN - STOPPING):
        os.kill(shared.launcher, number)
        if number not in (signal.SIGCHLD,):
            os.kill(server, number)
    works(shared)
    assert shared.process.poll() is None
    assert is_alive(server)


@promise("F33")
@pytest.mark.parametrize("number", sorted(ENDING))
def test_signals_end_the_launcher_with_its_clean_up(root: Path, number: signal.Signals) -> None:
    with run_launcher(root) as made:
        assert "sandbox" in made.create()
        os.kill(made.launcher, number)
        assert made.wait() == 0


FLOOD = r"""
got, pids = [], []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
def ask_on():
    packet = json.dumps({"n": 1, "verb": "counters", "sandbox": "0" * 24}).encode()
    while True: channel.send(packet)
def take_answers():
    while True: channel.recv(65536)
for work in (*[ask_on] * 8, take_answers):
    pids.append(os.fork())
    if pids[-1] == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with contextlib.suppress(OSError): work()
        os._exit(0)
"""


@promise("F33")
def test_a_server_that_asks_without_end_keeps_the_launcher_from_nothing(root: Path) -> None:
    with run_launcher(root) as made:
        assert "sandbox" in made.create()
        assert made.do(FLOOD) is None
        time.sleep(0.5)
        os.kill(made.launcher, signal.SIGTERM)
        until(lambda: made.do("answer = got"), 5)
        made.do("[os.kill(one, signal.SIGKILL) for one in pids]")
        made.do("signal.signal(signal.SIGTERM, signal.SIG_DFL)")


@promise("F33")
def test_what_its_parent_has_ignored_or_blocked_does_not_count(root: Path) -> None:
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    with run_launcher(root, through=[sys.executable, "-c", ignoring]) as made:
        works(made)
        os.kill(made.launcher, signal.SIGTERM)
        assert made.wait() == 0


@promise("F33")
def test_a_launcher_that_is_broken_ends_and_the_next_one_sweeps(root: Path) -> None:
    with run_launcher(root) as made:
        assert "sandbox" in made.create()
        os.kill(made.launcher, signal.SIGSEGV)
        assert made.wait(scaled(10)) == -signal.SIGSEGV
        before = made.id
        with run_launcher(root, data="other") as again:
            assert "swept what 1 ended server(s) had left" in again.said()
            assert before not in {one.name for one in (root / "run" / "servers").iterdir()}
            works(again)
