"""What a hostile call does to survive until the next call, or to affect it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.server import until
from fuzz.harness import with_mistake
from promises import promise
from quiltfn.guest.wire import Clean, End, ExitKind, Output, Specialised
from sandbox import test_runner
from sandbox.bare_guest import BareGuest, build_guest
from sandbox.test_runner import RUNNER, python, small, words

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to map a range of user ids"),
]

app = test_runner.app


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_guest(tmp_path_factory.mktemp("guest") / "guest", sanitized=False)


@pytest.fixture
def bare_guest(empty: BareGuest) -> BareGuest:
    return empty


# `plant` leaves a process that watches for the process of the next call, reads its memory, responds
# in its place and kills it. `leave` determines how the watching process stays, and returns 0 in it.
WATCHER = """
import ctypes, os, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
CLONE, PARENT = {"x86_64": 56, "aarch64": 220}[os.uname().machine], 0x8000
def sibling():
    return libc.syscall(CLONE, PARENT | signal.SIGCHLD, 0, 0, 0, 0)
def leave():
    {leave}
def processes():
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}
def watch():
    # Made here, so that nobody else's memory has it in one piece.
    secret = b"-".join([b"s3cr3t", b"of", b"the", b"victim"])
    end = time.monotonic() + 20
    while time.monotonic() < end:
        for pid in processes() - {1, os.getpid(), os.getppid()}:
            try:
                with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
                    for line in maps:
                        area, mode = line.split()[:2]
                        start, stop = (int(one, 16) for one in area.split("-"))
                        if "w" in mode:
                            memory.seek(start)
                            if secret in memory.read(stop - start):
                                for fd, said in ((2, b"stolen"), (RESULT, b"forged")):
                                    try: os.write(fd, said)
                                    except OSError: pass
                                os.kill(pid, 9)
                                return
            except OSError:
                pass
def handler(event):
    if event != "plant":
        secret = event + "-of-the-victim"
        time.sleep(0.3)
        return [sorted(processes() - {os.getpid()}), len(secret)]
    global RESULT
    RESULT = sys.modules["__main__"].RESULT
    if leave() == 0:
        os.setsid()
        watch()
        os._exit(0)
    return "planted"
"""
# How the watching process is related to the call's process. Processes between the two end at once,
# if possible.
LEFT = {
    "sibling": "return sibling()",
    "child of a sibling": "return sibling() or (os.fork() and os._exit(0)) or 0",
    "sibling of a sibling": "return sibling() or (sibling() and os._exit(0)) or 0",
    "double fork": "return os.fork() or (os.fork() and os._exit(0)) or 0",
    "child of a subreaper": (
        "return sibling() or libc.prctl(36, 1, 0, 0, 0) or (os.fork() and time.sleep(60)) or 0"
    ),
    "sibling made by a thread": (
        "import threading\n    made = []\n"
        "    one = threading.Thread(target=lambda: made.append(sibling()) or made[0] or watch())\n"
        "    one.start()\n    time.sleep(0.05)\n    return 1"
    ),
    "threads of a leader that has ended": (
        "if sibling():\n        return 1\n    import _thread\n"
        "    _thread.start_new_thread(watch, ())\n"
        "    libc.syscall({'x86_64': 60, 'aarch64': 93}[os.uname().machine], 0)"
    ),
}


def watcher(how: str) -> str:
    return WATCHER.replace("{leave}", LEFT[how])


def alive(bare_guest: BareGuest) -> int:
    """The number of processes with a thread that is not a zombie."""
    threads = [Path(f"/proc/{pid}/task").glob("*/stat") for pid in bare_guest.processes()]
    states = [[one.read_text().rpartition(") ")[2][0] for one in each] for each in threads]
    return sum(set(each) != {"Z"} for each in states)


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guest with a planted bug: it only checks its own children."""
    directory = tmp_path_factory.mktemp("blind")
    right = "static bool alone_with(pid_t kept)\n{\n"
    mistaken = f"{right}    if (kill_children_but(kept) == 0)\n        return true;\n"
    source = with_mistake(directory, "survivors.c", right, mistaken)
    return build_guest(directory / "program", sanitized=False, source=source)


@pytest.mark.parametrize("how", ["sibling", "sibling made by a thread"])
def test_negative_control_leftovers_answer_the_next_call(blind: Path, app: Path, how: str) -> None:
    trusting = re.sub(r"\n +reap\(\)", "", RUNNER.read_text())
    with BareGuest(blind) as bare_guest:
        python(bare_guest, app, watcher(how), source_of_runner=trusting)
        assert bare_guest.call(payload=b"plant").stdout == b"planted"
        end = bare_guest.call(payload=b"s3cr3t").end
        assert end is not None
        assert (end.kind, end.code) == (ExitKind.KILLED, 9)


@promise("F26")
@pytest.mark.parametrize("how", LEFT)
def test_nothing_of_a_call_is_alive_in_the_next(bare_guest: BareGuest, app: Path, how: str) -> None:
    assert python(bare_guest, app, watcher(how)) == Specialised(0, "fork")
    for _ in range(5):
        assert bare_guest.call(payload=b"plant").stdout == b"planted"
        # The guest, the runner, and its fork for the next call.
        until(lambda: alive(bare_guest) >= 3)
        assert alive(bare_guest) == 3
        answer = bare_guest.call(payload=b"s3cr3t")
        assert (answer.stderr, json.loads(answer.stdout)) == (b"", [[], 20])


# A third-party runner that forks. It never reads the status of children that it did not create.
FORKING = """
import ctypes, socket
CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
sock = socket.socket(fileno=3)
say("ready fork")
while True:
    head, streams, _, _ = socket.recv_fds(sock, 64, 3)
    _, number, _, _, variables, payload = head.split()
    child = os.fork()
    if child == 0:
        for fd in range(3): os.dup2(streams[fd], fd)
        while ctypes.CDLL(None).syscall(CLONE, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:
            time.sleep(60)
        print(payload.decode(), flush=True)
        os._exit(0)
    for fd in streams: os.close(fd)
    os.waitpid(child, 0)
    say(f"done {number.decode()} exited 0")
"""


@promise("F26")
def test_a_runner_of_somebody_elses_need_not_help(bare_guest: BareGuest) -> None:
    """Children that the runner does not reap are dead, and count as processes of the sandbox until
    it does.
    """
    assert small(bare_guest, FORKING).errno == 0
    for number in range(1, 6):
        assert words(bare_guest.call()) == ["-1"]
        assert alive(bare_guest) == 2
        assert len(bare_guest.processes()) == 2 + number


def test_what_a_runner_that_forks_writes_itself_is_of_the_calls_log(bare_guest: BareGuest) -> None:
    says = "    print('by the runner', flush=True)\n    say(f'done {number.decode()}"
    small(
        bare_guest,
        FORKING.replace('    say(f"done {number.decode()}', says).replace(
            'exited 0")', "exited 0')"
        ),
    )
    for _ in range(2):
        answer = bare_guest.call()
        assert (answer.stdout, answer.stderr) == (b"-1\n", b"by the runner\n")


# `look` returns what a handler can see of its standard streams; `spoil` changes everything of them
# that a handler can change.
STREAMS = """
import fcntl, os, socket, stat, sys
SPOILING = [
    lambda fd: fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK),
    lambda fd: fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT | fcntl.fcntl(fd, fcntl.F_GETFL)),
    lambda fd: fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid()),
    lambda fd: fcntl.fcntl(fd, fcntl.F_SETSIG, 9),
    lambda fd: fcntl.fcntl(fd, 1031, 1 << 12),  # F_SETPIPE_SZ
    lambda fd: fcntl.flock(fd, fcntl.LOCK_EX),
    lambda fd: os.fchmod(fd, 0o2123),
    lambda fd: os.utime(fd, (7, 7)),
]
def look():
    found = []
    for fd in (0, 1, 2, sys.modules["__main__"].RESULT):
        seen = os.fstat(fd)
        text = open(f"/proc/self/fdinfo/{fd}").read()
        size = fcntl.fcntl(fd, 1032) if stat.S_ISFIFO(seen.st_mode) else 0
        found.append([fcntl.fcntl(fd, fcntl.F_GETFL), fcntl.fcntl(fd, fcntl.F_GETOWN), size,
                      fcntl.fcntl(fd, fcntl.F_GETSIG), seen.st_mode, seen.st_mtime == 7,
                      "lock" in text, fd, stat.S_ISFIFO(seen.st_mode) and seen.st_ino])
    return found
def handler(event):
    found = look()
    if event == "spoil":
        for fd in (0, 1, 2, sys.modules["__main__"].RESULT):
            for spoil in SPOILING:
                try: spoil(fd)
                except OSError: pass
    return [found, look()] if event == "spoil" else [found]
"""


@promise("F27")
def test_no_two_calls_have_a_stream_in_common(bare_guest: BareGuest, app: Path) -> None:
    assert python(bare_guest, app, STREAMS) == Specialised(0, "fork")
    inodes: set[int] = set()
    fresh = [one[:-1] for one in json.loads(bare_guest.call().stdout)[0]]
    for _ in range(3):
        before, spoilt = json.loads(bare_guest.call(payload=b"spoil").stdout)
        assert [one[:-1] for one in before] == fresh
        assert all(one[:-1] != was for one, was in zip(spoilt, fresh, strict=True))
        after = json.loads(bare_guest.call(payload=b"look").stdout)[0]
        assert [one[:-1] for one in after] == fresh
        now = {one[-1] for one in after + before} - {0}
        assert len(now) == 4
        assert not inodes & now
        inodes |= now


def test_negative_control_a_staying_runner_has_streams(bare_guest: BareGuest, app: Path) -> None:
    python(bare_guest, app, STREAMS.replace("F_SETSIG, 9", "F_SETSIG, 0"), keep=True)
    bare_guest.call(payload=b"spoil")
    (after,) = json.loads(bare_guest.call(payload=b"look").stdout)
    assert 0 not in [one[1] for one in after]


# Makes the kernel send signals to the runner later: when somebody reads written data, or when the
# kernel collects sockets that hold each other.
ARMED = """
import fcntl, os, signal, socket
def arm(fd, number):
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getppid())
    fcntl.fcntl(fd, fcntl.F_SETSIG, number)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_ASYNC | fcntl.fcntl(fd, fcntl.F_GETFL))
def handler(event):
    if event == "look": return "fine"
    for fd in (1, 2): arm(fd, int(event))
    one, two = socket.socketpair()
    three, four = socket.socketpair()
    for each in (one, two, three, four): arm(each.fileno(), int(event))
    socket.send_fds(one, [b"x"], [one.fileno(), two.fileno(), three.fileno()])
    os.write(2, b"x" * 10_000)
    return "armed"
"""


def test_an_arranged_signal_does_not_reach_the_runner(bare_guest: BareGuest, app: Path) -> None:
    """F_SETSIG is not tested here: the seccomp filter refuses it, and a bare guest has no
    filter.
    """
    assert python(bare_guest, app, ARMED).errno == 0
    call_in_turns(bare_guest)


def test_negative_control_a_signalled_runner_fails_next(bare_guest: BareGuest, app: Path) -> None:
    heeding = RUNNER.read_text().replace("_signal.SIG_IGN", "_signal.SIG_DFL")
    python(bare_guest, app, ARMED, source_of_runner=heeding)
    with pytest.raises((EOFError, OSError, AssertionError)):
        call_in_turns(bare_guest)


def call_in_turns(bare_guest: BareGuest) -> None:
    for _ in range(20):
        assert bare_guest.call(payload=b"0").stdout == b"armed"
        assert bare_guest.call(payload=b"look").stdout == b"fine"


# A sibling of the call's process waits until that process is gone, then sends a signal to the
# runner and ends, or stays. In these tests, the guest waits for a mark of the sibling before it
# looks for processes, so the signal is always in time.
SENDER = """
import ctypes, os, signal, time
CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
def handler(event):
    if event == "look": return "fine"
    number, ends = event
    os.unlink("{mark}")
    runner, me = os.getppid(), os.getpid()
    if ctypes.CDLL(None).syscall(CLONE, 0x8000 | signal.SIGCHLD, 0, 0, 0, 0) != 0: return "sent"
    try:
        while os.kill(me, 0) is None: pass
    except ProcessLookupError: pass
    os.kill(runner, number)
    os.close(os.open("{mark}", os.O_CREAT))
    if not ends: time.sleep(60)
    os._exit(0)
"""
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGKILL, signal.SIGSTOP, 32, 64]
LATE = "bool kill_all_but(pid_t kept)\n{\n"
NAP = """
    for (int n = 0; n < 2000 && access("{mark}", F_OK) != 0; n++)
        nanosleep(&(struct timespec){0, 5 * (long)MS_NS}, NULL);
    nanosleep(&(struct timespec){0, 250 * (long)MS_NS}, NULL);
"""


@pytest.fixture(scope="module")
def mark() -> Iterator[Path]:
    """A file that handlers can remove and create again. Calls without a sender leave it alone."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o777)
        Path(name, "mark").touch()
        yield Path(name, "mark")


def sender(mark: Path) -> str:
    mark.touch()
    return SENDER.replace("{mark}", str(mark))


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory, mark: Path) -> Path:
    directory = tmp_path_factory.mktemp("late")
    source = with_mistake(directory, "survivors.c", LATE, LATE + NAP.replace("{mark}", str(mark)))
    return build_guest(directory / "program", sanitized=False, source=source)


@pytest.fixture(scope="module")
def late_and_blind(tmp_path_factory: pytest.TempPathFactory, mark: Path) -> Path:
    """A guest with two planted bugs: it also does not check the state of the runner."""
    directory = tmp_path_factory.mktemp("late-and-blind")
    source = with_mistake(directory, "survivors.c", LATE, LATE + NAP.replace("{mark}", str(mark)))
    right = "        spoilt = !same || !waits;\n"
    call = source / "call.c"
    text = call.read_text()
    assert text.count(right) == 1
    call.write_text(text.replace(right, "        spoilt = !same && !waits && !there;\n"))
    return build_guest(directory / "program", sanitized=False, source=source)


@promise("F30")
@pytest.mark.parametrize("ends", [True, False], ids=["ends", "stays"])
@pytest.mark.parametrize("number", SIGNALS, ids=str)
def test_a_call_that_signals_the_runner_is_the_last_of_its_instance(
    late: Path, app: Path, mark: Path, number: int, ends: bool
) -> None:
    with BareGuest(late) as bare_guest:
        python(bare_guest, app, sender(mark))
        bare_guest.send_call(payload=json.dumps([int(number), ends]).encode())
        said, end = output_and_end(bare_guest)
        # The sender lived until all processes were stopped, and then made the runner continue
        # together with them.
        if number == signal.SIGSTOP and not ends and (end.kind, end.code) == (ExitKind.EXITED, 0):
            assert said == b"sent"
            assert isinstance(bare_guest.next(), Clean)
            assert bare_guest.call(payload=b"look").stdout == b"fine"
            return
        if end.kind is ExitKind.KILLED:
            # The runner ended before it reported the end of the call.
            assert (number != signal.SIGSTOP, end.code) == (True, number)
        elif end.kind is ExitKind.DEADLINE:
            # The runner was stopped before it reported the end of the call.
            assert (number, said) == (signal.SIGSTOP, b"sent")
        else:
            assert (end.kind, end.code) == (ExitKind.EXITED, 1)
            assert (
                b"the invocation ended, stopped or signalled the process from which it was forked"
                in said
            )
        with pytest.raises(EOFError):
            bare_guest.next()


def output_and_end(bare_guest: BareGuest) -> tuple[bytes, End]:
    said = b""
    while not isinstance(event := bare_guest.next(), End):
        assert isinstance(event, Output)
        said += event.data
    return said, event


@pytest.mark.parametrize("number", [signal.SIGCHLD, signal.SIGCONT, signal.SIGIO, signal.SIGURG])
def test_kernel_signals_do_not_reach_it(late: Path, app: Path, mark: Path, number: int) -> None:
    heeding = f"import signal\nsignal.signal({int(number)}, lambda *_: 1 / 0)\n"
    with BareGuest(late) as bare_guest:
        python(bare_guest, app, heeding + sender(mark))
        for _ in range(2):
            assert (
                bare_guest.call(payload=json.dumps([int(number), True]).encode()).stdout == b"sent"
            )
            assert bare_guest.call(payload=b"look").stdout == b"fine"


def test_negative_control_a_blind_guest_fails(late_and_blind: Path, app: Path, mark: Path) -> None:
    for _ in range(5):
        with BareGuest(late_and_blind) as bare_guest:
            python(bare_guest, app, sender(mark))
            bare_guest.send_call(payload=json.dumps([int(signal.SIGSTOP), True]).encode())
            said, end = output_and_end(bare_guest)
            assert said == b"sent"
            if end.kind is ExitKind.DEADLINE:
                continue  # the runner was stopped before it reported the end of the call
            assert isinstance(bare_guest.next(), Clean)
            bare_guest.send_call(payload=b"look", timeout_ms=500)
            _, end = output_and_end(bare_guest)
            assert end.kind == ExitKind.DEADLINE
            return
    raise AssertionError("the signal never came after the end of the call")


SETTINGS = """
import signal
signal.signal(signal.SIGUSR1, signal.SIG_IGN)
signal.signal(signal.SIGURG, signal.SIG_IGN)
signal.signal(signal.SIGTERM, lambda *_: None)
NAMES = ("SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")
def seen(): return [line for line in open("/proc/self/status") if line.startswith(NAMES)]
before = seen()
def handler(event): return [before, seen()]
"""


def test_a_call_finds_signals_as_its_module_set_them(bare_guest: BareGuest, app: Path) -> None:
    assert python(bare_guest, app, SETTINGS) == Specialised(0, "fork")
    for _ in range(2):
        before, seen = json.loads(bare_guest.call().stdout)
        assert seen == before


# A runner that keeps state. A call leaves a child that ends or stops the runner when the call is
# over.
KEEPS = """
import threading, time
def handler(event):
    import os, signal
    if event == "look": return "fine"
    me, r = os.getpid(), os.pipe()
    if os.fork() == 0:
        os.setsid()
        time.sleep(0.02)
        os.kill(me, event)
        os._exit(0)
    import sys
    sys.modules["__main__"].end_children = lambda: None
    return "sent"
"""


@promise("F30")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT])
def test_a_runner_with_state_that_is_deaf_is_given_up(late: Path, app: Path, number: int) -> None:
    with BareGuest(late) as bare_guest:
        python(bare_guest, app, KEEPS, keep=True)
        bare_guest.send_call(payload=str(int(number)).encode())
        said, end = output_and_end(bare_guest)
        assert (end.kind, end.code, said[:4]) == (ExitKind.EXITED, 0, b"sent")
        with pytest.raises(EOFError):
            bare_guest.next()


# A third-party runner reacts to signals as its language does.
@promise("F30")
@pytest.mark.parametrize("ignores", [False, True], ids=["heeds SIGIO", "ignores SIGIO"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_a_foreign_runner_signalled_is_given_up(late: Path, number: int, ignores: bool) -> None:
    """The runner may be killed before it has sent anything; then the next call must work."""
    sends = (
        "me, runner = os.getpid(), os.getppid()\n"
        "        call = ctypes.CDLL(None).syscall\n"
        "        if payload != b'-1' and call(CLONE, 0x8000 | 17, 0, 0, 0, 0) == 0:\n"
        "            try:\n                while os.kill(me, 0) is None: pass\n"
        "            except ProcessLookupError: pass\n"
        f"            os.kill(runner, {int(number)})\n            os._exit(0)\n"
    )
    loop = FORKING[FORKING.index("        while ctypes") : FORKING.index("        print(payload")]
    allowed = {(ExitKind.EXITED, 0), (ExitKind.EXITED, 1), (ExitKind.KILLED, int(number))}
    if number == signal.SIGSTOP:  # a stopped runner reports nothing before the deadline
        allowed.add((ExitKind.DEADLINE, 0))
    with BareGuest(late) as bare_guest:
        small(bare_guest, IGNORING * ignores + FORKING.replace(loop, "        " + sends))
        for _ in range(10):
            bare_guest.send_call(payload=b"send")
            _, end = output_and_end(bare_guest)
            assert (end.kind, end.code) in allowed
            try:
                assert isinstance(bare_guest.next(), Clean)
            except EOFError:
                break
            assert words(bare_guest.call()) == ["-1"]
        else:
            pytest.fail("it was never given up")


# The guest need not read the status of this runner after each call: no signal can be pending in it,
# or reach it late.
IGNORING = "signal.signal(signal.SIGIO, signal.SIG_IGN)\n"
BLOCKING = "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n"


@pytest.mark.parametrize(
    "does", ["os._exit(0)", "os.kill(os.getpid(), 19)"], ids=["ends", "stands still"]
)
def test_one_that_ignores_sigio_and_stops_is_given_up(bare_guest: BareGuest, does: str) -> None:
    """The runner stops itself after its `done`, so there is no process of the call that the guest
    could find.
    """
    small(
        bare_guest,
        IGNORING + FORKING.replace("while ctypes", "while 0 and ctypes") + f"    {does}\n",
    )
    bare_guest.send_call()
    try:
        _, end = output_and_end(bare_guest)
        while True:
            assert isinstance(bare_guest.next(), Clean)
            bare_guest.send_call(timeout_ms=300)
            _, end = output_and_end(bare_guest)
    except EOFError:
        return
    assert end


@pytest.mark.parametrize(
    ("settings", "reads"), [("", True), (IGNORING, False), (IGNORING + BLOCKING, True)]
)
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_status_of_a_runner_that_forks_is_read_only_where_a_signal_may_wait_or_come_late(
    bare_guest: BareGuest, settings: str, reads: bool
) -> None:
    small(bare_guest, settings + FORKING.replace("while ctypes", "while 0 and ctypes"))
    bare_guest.call()
    assert ("State:" in syscalls(bare_guest)) is reads


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_status_of_a_runner_with_state_is_not_read(bare_guest: BareGuest, app: Path) -> None:
    python(bare_guest, app, "def handler(): return 1\n", keep=True)
    bare_guest.call()
    seen = syscalls(bare_guest)
    assert "State:" not in seen
    assert "waitid(" in seen
    assert seen.count("getdents64(") == CALLS


CALLS = 10


def syscalls(bare_guest: BareGuest) -> str:
    """The guest's system calls during some calls, as strace prints them."""
    command = ["strace", "-s", "40", "-p", str(bare_guest.guest_pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "attached" in process.stderr.readline()
        for _ in range(CALLS):
            bare_guest.call()
        process.send_signal(signal.SIGINT)
        return process.stderr.read()


IN_COMMON = {
    "file": ("import sys\nheld = open(sys.executable)", "keeps /usr/bin/python3"),
    "socket": ("import socket\nheld = socket.socket()", "keeps socket:["),
    "memory": ("import mmap\nheld = mmap.mmap(-1, 4096)", "shares memory"),
    "lock": ("import multiprocessing\nheld = multiprocessing.Lock()", "shares memory"),
}


@promise("F27")
@pytest.mark.parametrize("shared", IN_COMMON)
def test_what_forks_would_share_is_not_forked(
    bare_guest: BareGuest, app: Path, shared: str
) -> None:
    source, says = IN_COMMON[shared]
    failure = python(
        bare_guest, app, f"import os\n{source}\ndef handler(): return str(os.getpid())\n"
    )
    assert failure.text.startswith(f"once the module {says}")
    assert len({bare_guest.call().stdout for _ in range(3)}) == 3


def test_negative_control_closed_or_own_files_are_fine(bare_guest: BareGuest, app: Path) -> None:
    source = (
        "import mmap, sys\nwith open(sys.executable, 'rb') as file: head = file.read(4)\n"
        "held = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE)\ndef handler(): return head[1:]\n"
    )
    assert python(bare_guest, app, source) == Specialised(0, "fork")
    assert bare_guest.call().stdout == b"ELF"
