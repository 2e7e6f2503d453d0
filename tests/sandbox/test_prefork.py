"""A shell that was started before its invocation must behave like one that is started for it."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fuzz.harness import with_mistake
from promises import promise
from quiltfn.guest.wire import PREPARE_SHELL, SHELL, ExitKind
from sandbox.bare_guest import SANITIZER_EXIT, BareGuest, Outcome, build_guest
from sandbox.bare_namespaces import LIBRARY, SHOWN, STATIC_SHELL
from timeouts import scaled

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to map a range of user ids"),
]

HANDLERS = [
    "echo hello",
    "exit 3",
    "kill -9 $$",
    "kill -TERM $$",
    "nosuchcommand",
    "cat",
    "cat; echo; cat",
    "read a; echo $a; cat",
    "head -c 3; cat",
    "echo $0",
    "echo $-",
    "echo $#; echo $*",
    "echo $LINENO",
    "true\necho $LINENO\nnosuch",
    "exec cat",
    "exec sh -c 'echo in; exit 4'",
    "echo out; echo err >&2",
    'echo $V $W; echo ${QUILT_A} "$QUILT_B"',
    "env | grep -v -e '^_=' -e OLDPWD | sort",
    "export V=own; env | grep ^V=",
    "printf '%s' \"$QUILT_B\" | od -c | head",
    "pwd; cd /tmp; pwd",
    "umask; ulimit -n",
    "set -e; false; echo no",
    "set -u; echo $NOPE",
    "trap 'echo bye' EXIT; exit 5",
    "trap 'echo int' INT; kill -INT $$; echo on",
    "(exit 6); echo $?; (exit 6)",
    'f() { echo "f $1"; }; f x; f() { :; }',
    "for i in 1 2 3; do echo $i; done | tail -1",
    "cat <<E\nhere $V\nE",
    "cat <<'E'\nhere $V\nE",
    "# a comment only",
    "\n\n",
    "   echo spaces",
    ":; # trailing",
    "ls /proc/self/fd | wc -l",
    "test -p /dev/stdout && echo pipe; test -t 0 || echo none",
    "echo x > /dev/stdout; echo y > /dev/stderr",
    "sleep 0.05 & wait; echo waited; jobs",
    "alias e='echo aliased'\ne",
    "readonly R=1; R=2; echo no",
    "echo ${Y:?unset}",
    ". /nope; echo no",
    "break; echo $?",
    "return 3; echo no",
    "eval 'echo $V'",
    "echo $((1 + 2)) $((0x10))",
    "echo $((1 +))",
    "echo 'unterminated",
    "if true; then echo no end",
    "echo )",
    "case x in x) echo x;; esac; esac",
    "echo a && && echo b",
    "exec 9</dev/null; cat <&9; echo 9",
    "exec >/dev/null; echo gone",
    "exec 2>&1; echo e >&2",
    "-x; echo no option of a shell",
    "+e",
    "--",
]
BAD_FRAME = 2
VARIABLES = {"QUILT_A": "a'b''c", "QUILT_B": 'x\ny $V `id` \\ " é\t*', "TRACEPARENT": "00-1-2-01"}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_guest(tmp_path_factory.mktemp("one") / "guest", sanitized=False)


BY_LIBRARY, STATIC = f"shell={LIBRARY}", f"shell={STATIC_SHELL}"
needs_static = pytest.mark.skipif(
    STATIC_SHELL not in SHOWN, reason="no static copy of this machine's shell was built"
)
with_zygote = pytest.mark.parametrize(
    "forked", [BY_LIBRARY, pytest.param(STATIC, marks=needs_static)], ids=["library", "static"]
)


@pytest.fixture(
    params=[(BY_LIBRARY,), pytest.param((STATIC,), marks=needs_static), ()],
    ids=["library", "static", "by script"],
)
def bare_guest(guest: Path, request: pytest.FixtureRequest) -> Iterator[BareGuest]:
    with BareGuest(guest, *request.param) as started:
        yield started
        assert started.close() != SANITIZER_EXIT


@pytest.fixture(
    params=[BY_LIBRARY, pytest.param(STATIC, marks=needs_static)], ids=["library", "static"]
)
def forking(guest: Path, request: pytest.FixtureRequest) -> Iterator[BareGuest]:
    """A guest with a zygote, from which it forks shells in advance."""
    with BareGuest(guest, request.param) as started:
        yield started
        assert started.close() != SANITIZER_EXIT


def shell(bare_guest: BareGuest, handler: str, *, prefork: bool = True) -> None:
    environment = {"PATH": "/usr/bin:/bin", "V": "of the version", "W": "w"}
    argv = ["/bin/sh", "-c", handler]
    assert bare_guest.specialise(argv, environment=environment, flags=SHELL * prefork).errno == 0


def comm(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def seen(answer: Outcome) -> tuple[ExitKind, int, bytes, bytes]:
    assert answer.end is not None
    return answer.end.kind, answer.end.code, answer.stdout, answer.stderr


@promise("R13")
@pytest.mark.parametrize("handler", HANDLERS)
def test_it_is_the_same(shipped: Path, handler: str) -> None:
    payloads = [None, b"line one\nline two\n"]
    with BareGuest(shipped) as plain:
        shell(plain, handler, prefork=False)
        expected = [seen(plain.call(VARIABLES, payload)) for payload in payloads]
    forked = [f"shell={path}" for path in SHOWN]
    ways = [((one,), frames) for one in forked for frames in (b"", PREPARE_SHELL)]
    for options, frames in [*ways, ((), b"")]:
        with BareGuest(shipped, *options) as bare_guest:
            bare_guest.socket.sendall(frames)
            shell(bare_guest, handler)
            for _ in range(2):
                found = [seen(bare_guest.call(VARIABLES, payload)) for payload in payloads]
                assert found == expected, (options, frames)


def shells(bare_guest: BareGuest, count: int) -> set[int]:
    """Waits until the sandbox has this number of shells; returns their pids. The guest starts
    shells after its response.
    """
    end = time.monotonic() + scaled(5)
    while time.monotonic() < end:
        found = {pid for pid in bare_guest.processes() if comm(pid) == "sh"}
        if len(found) == count:
            return found
    raise AssertionError(f"{found} and not {count}")


def within(pid: int) -> int:
    """The pid of a process in its own namespace."""
    return int(re.findall(r"^NSpid:.*\t(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.M)[0])


def test_it_waits_before_the_call_comes_and_is_gone_with_it(guest: Path) -> None:
    with BareGuest(guest) as bare_guest:
        shell(bare_guest, "echo $$")
        (waiting,) = shells(bare_guest, 1)
        number = within(waiting)
        # The shell of the invocation has the pid of the one that waited.
        assert bare_guest.call().stdout == b"%d\n" % number
        assert waiting not in bare_guest.processes()


def test_a_fork_waits_before_the_call_comes_and_the_zygote_stays(forking: BareGuest) -> None:
    shell(forking, "echo $$ $PPID")
    both = shells(forking, 2)
    for _ in range(5):
        fork = max(both, key=within)
        number = within(fork)
        assert forking.call().stdout == b"%d 1\n" % number
        then = shells(forking, 2)
        assert both & then == both - {fork}  # only the zygote stays
        both = then


@pytest.mark.parametrize(
    ("options", "zygotes"),
    [((BY_LIBRARY,), 1), pytest.param((STATIC,), 1, marks=needs_static), ((), 0)],
    ids=["library", "static", "script"],
)
def test_an_idle_sandbox_keeps_no_shell_ready(
    tmp_path: Path, options: tuple[str, ...], zygotes: int
) -> None:
    """A waiting fork and the zygote would use half of an idle sandbox's memory. The fork ends
    first; here, the zygote follows after three more seconds instead of 58.
    """
    soon = with_mistake(tmp_path, "prefork.c", "ZYGOTE_RESTS_S = 60", "ZYGOTE_RESTS_S = 5")
    guest = build_guest(tmp_path / "program", sanitized=False, source=soon)
    with BareGuest(guest, *options) as bare_guest:
        shell(bare_guest, "echo $PPID")
        for _ in range(2):
            shells(bare_guest, zygotes + 1)
            idle = shells(bare_guest, zygotes)
            assert bare_guest.call().stdout == b"1\n"
            assert idle < shells(bare_guest, zygotes + 1)
        shells(bare_guest, zygotes)
        shells(bare_guest, 0)
        assert bare_guest.call().stdout == b"1\n"


SHOWS_ITSELF = [
    "tr '\\0' '|' </proc/$$/cmdline",
    "grep -E '^(Name|Umask|PPid|Uid|Gid|Groups|NoNewPrivs|Seccomp.*|Threads):' /proc/$$/status",
    # SigBlk is not compared: a shell blocks signals for a moment whenever it starts a command.
    "grep -E '^(Cap.*|Sig[QPIC].*|Shd.*):' /proc/$$/status",
    "readlink /proc/$$/exe /proc/$$/cwd /proc/$$/root",
    "cat /proc/$$/limits /proc/$$/oom_score_adj",
    "stat -c '%u %g %a' /proc/$$ /proc/$$/fd /proc/$$/environ",
    "stat -L -c '%F %a' /proc/$$/fd/[12]; ls /proc/$$/fd",
    "set -- $(cat /proc/$$/stat); test $5 = $$ -a $6 = $$ && echo a session of its own: $4",
    "nice; id; groups; umask -S",
    "exec 3<>/dev/null; ls /proc/$$/fd; sh -c 'ls /proc/self/fd'",
    "python3 -I -c 'import threading; t = threading.Thread(target=print); t.start(); t.join()'",
]


@promise("R13")
@with_zygote
@pytest.mark.parametrize("frames", [b"", PREPARE_SHELL], ids=["told at once", "prepared"])
@pytest.mark.parametrize("handler", SHOWS_ITSELF)
def test_a_fork_shows_itself_as_a_shell_that_was_started(
    shipped: Path, handler: str, frames: bytes, forked: str
) -> None:
    with BareGuest(shipped) as plain:
        shell(plain, handler, prefork=False)
        kind, code, output, errors = seen(plain.call(VARIABLES))
    if forked == STATIC:  # it is another file
        output = output.replace(b"/usr/bin/dash\n", STATIC_SHELL.encode() + b"\n")
    expected = (kind, code, output, errors)
    with BareGuest(shipped, forked) as bare_guest:
        bare_guest.socket.sendall(frames)
        shell(bare_guest, handler)
        shells(bare_guest, 2)
        for _ in range(2):
            assert seen(bare_guest.call(VARIABLES)) == expected
    assert expected[2]


@pytest.mark.parametrize(
    ("handler", "environment", "prefork", "stays"),
    [
        (": " + "x" * 1020, {}, True, True),
        (": " + "x" * 1022, {}, True, False),
        ("id -u", {"LD_BIND_NOW": "1"}, True, False),
        ("id -u", {}, False, False),
    ],
    ids=["a comment's length", "longer", "a variable read at the start", "no shell"],
)
@with_zygote
def test_a_prepared_zygote_serves_the_versions_that_it_suits(
    *,
    shipped: Path,
    handler: str,
    environment: dict[str, str],
    prefork: bool,
    stays: bool,
    forked: str,
) -> None:
    """A zygote that does not suit the version must end before the version's first process
    starts.
    """
    with BareGuest(shipped, forked) as bare_guest:
        bare_guest.socket.sendall(PREPARE_SHELL)
        (prepared,) = shells(bare_guest, 1)
        bare_guest.specialise(
            ["/bin/sh", "-c", handler],
            environment={"PATH": "/usr/bin:/bin", **environment},
            flags=SHELL * prefork,
        )
        for _ in range(2):
            answer = bare_guest.call()
            assert answer.end is not None
            assert (answer.end.kind, answer.end.code) == (ExitKind.EXITED, 0)
            assert (prepared in bare_guest.processes()) is stays


@with_zygote
def test_a_prepared_zygote_is_gone_for_a_version_with_another_shell(
    shipped: Path, forked: str
) -> None:
    with BareGuest(shipped, forked) as bare_guest:
        bare_guest.socket.sendall(PREPARE_SHELL)
        (prepared,) = shells(bare_guest, 1)
        argv = ["/bin/bash", "-c", "echo ${BASH_VERSION:+bash}"]
        assert bare_guest.specialise(argv, flags=SHELL).errno == 0
        assert bare_guest.call().stdout == b"bash\n"
        assert prepared not in bare_guest.processes()


def test_a_shell_is_prepared_once(shipped: Path) -> None:
    with BareGuest(shipped, BY_LIBRARY) as bare_guest:
        bare_guest.socket.sendall(2 * PREPARE_SHELL)
        assert bare_guest.wait() == BAD_FRAME


REACH = r"""
import ctypes, os, resource, signal
libc = ctypes.CDLL(None, use_errno=True)
told = []
for pid in range(1, 60):
    if pid in (os.getpid(), os.getppid()) and pid != 1:
        continue
    tries = {
        "kill": lambda: os.kill(pid, 0),
        "stop": lambda: os.kill(pid, signal.SIGSTOP),
        "limit": lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (50, 50)),
        "priority": lambda: os.setpriority(os.PRIO_PROCESS, pid, 19),
        "affinity": lambda: os.sched_setaffinity(pid, {0}),
        "scheduler": lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)),
        "memory": lambda: open(f"/proc/{pid}/mem", "rb").close(),
        "files": lambda: os.listdir(f"/proc/{pid}/fd"),
        "variables": lambda: open(f"/proc/{pid}/environ", "rb").close(),
        "score": lambda: open(f"/proc/{pid}/oom_score_adj", "r+b").close(),
    }
    for name, what in tries.items():
        try:
            what()
            told.append(f"{name} {pid}")
        except OSError:
            pass
    if libc.syscall(157, 62, pid, 0, 0) == 0:  # PR_SCHED_CORE
        told.append(f"core {pid}")
own = (str(os.getpid()), str(os.getppid()))
print(told, [n for n in os.listdir("/proc") if n.isdigit() and n not in own])
"""


@promise("F21")
def test_no_handler_reaches_the_zygote(forking: BareGuest) -> None:
    shell(forking, f"python3 -I - <<'END'\n{REACH}\nEND\nexit 0")
    for _ in range(3):
        zygote = min(shells(forking, 2), key=within)
        assert seen(forking.call()) == (ExitKind.EXITED, 0, b"[] []\n", b"")
        assert zygote in forking.processes()
        status = Path(f"/proc/{zygote}/status").read_text()
        held = dict(re.findall(r"^Cap(\w+):	(\w+)$", status, re.M))
        # The capabilities CAP_SETGID and CAP_SETUID, in the sandbox's own user namespace.
        both = f"{1 << 6 | 1 << 7:016x}"
        assert held == {"Inh": both, "Prm": both, "Eff": both, "Bnd": "0" * 16, "Amb": "0" * 16}


def test_negative_control_what_a_handler_started_is_in_reach(forking: BareGuest) -> None:
    shell(forking, f"sleep 5 & python3 -I - <<'END'\n{REACH}\nEND\nexit 0")
    output = forking.call().stdout
    for name in (b"kill", b"stop", b"limit", b"priority", b"affinity", b"memory", b"files"):
        assert name in output


@pytest.mark.parametrize("file", ["/mnt/nothing.so", "/etc/passwd", "/bin/true", "/bin/sh"])
def test_without_what_makes_it_a_zygote_a_shell_does_nothing_as_the_guest(
    shipped: Path, file: str
) -> None:
    with BareGuest(shipped, f"shell={file}") as bare_guest:
        shell(bare_guest, "id -u; echo x >>/tmp/runs; wc -l </tmp/runs; grep Cap /proc/$$/status")
        for _ in range(3):
            lines = bare_guest.call().stdout.split(b"\n")
            assert lines[:2] == [b"1000", b"1"]
            assert {line.split()[-1] for line in lines[2:-1]} == {b"0" * 16}


@with_zygote
@pytest.mark.parametrize("name", ["LD_LIBRARY_PATH", "LD_PRELOAD", "MALLOC_ARENA_MAX"])
def test_what_a_shell_reads_when_it_starts_is_there_by_then(
    shipped: Path, name: str, forked: str
) -> None:
    value = "/usr/lib/x86_64-linux-gnu/libm.so.6" if name == "LD_PRELOAD" else "1"
    handler = f'echo "${name}"; grep -c libm /proc/$$/maps'
    mapped = b"0" if name != "LD_PRELOAD" else b""
    with BareGuest(shipped, forked) as bare_guest:
        environment = {"PATH": "/usr/bin:/bin", name: value}
        argv = ["/bin/sh", "-c", handler]
        assert bare_guest.specialise(argv, environment=environment, flags=SHELL).errno == 0
        for _ in range(2):
            first, second, _ = bare_guest.call().stdout.split(b"\n")
            assert first == value.encode()
            assert second == mapped or int(second) > 0
    with BareGuest(shipped, forked) as bare_guest:
        shell(bare_guest, handler)
        own = {"PATH": "/usr/bin:/bin", name: value}
        assert bare_guest.call(own, env_replaces=True).stdout.startswith(value.encode() + b"\n")


def test_a_call_s_leftovers_take_the_zygote_and_another_comes(forking: BareGuest) -> None:
    shell(forking, "sleep 60 & (setsid sleep 60 &) ; echo $$")
    for _ in range(4):
        before = shells(forking, 2)
        assert forking.call().end is not None
        after = shells(forking, 2)
        assert not before & after
        assert not [pid for pid in forking.processes() if comm(pid) == "sleep"]


def test_a_zygote_that_hangs_costs_two_seconds_once(forking: BareGuest) -> None:
    shell(forking, "echo fine")
    zygote = min(shells(forking, 2), key=within)
    forking.call()
    shells(forking, 2)
    os.kill(zygote, signal.SIGSTOP)
    forking.call()  # the shell for this invocation was forked before
    answer = forking.call()
    assert seen(answer) == (ExitKind.EXITED, 0, b"fine\n", b"")
    assert answer.seconds > 1
    for _ in range(3):
        again = forking.call()
        assert seen(again) == (ExitKind.EXITED, 0, b"fine\n", b"")
        assert again.seconds < 0.75 * answer.seconds


def test_negative_control_without_the_flag_nothing_waits(bare_guest: BareGuest) -> None:
    shell(bare_guest, "echo $$", prefork=False)
    assert bare_guest.processes() == [bare_guest.guest_pid]


@promise("F21")
def test_what_waits_knows_nothing_of_the_call_before(bare_guest: BareGuest) -> None:
    script = "cat; tr '\\0' '\\n' </proc/self/environ; cat /proc/[0-9]*/environ; set"
    shell(
        bare_guest, f'case "$QUILT_A" in look) {script};; *) cat >/tmp/x; cp /tmp/x /tmp/y;; esac'
    )
    for number in range(20):
        secret = f"secret-{number}-of-the-call"
        bare_guest.call({"QUILT_A": "plant", "QUILT_B": secret}, secret.encode())
        looked = bare_guest.call({"QUILT_A": "look"})
        assert b"of-the-call" not in looked.stdout + looked.stderr


def test_a_call_with_an_environment_of_its_own_has_that_alone(bare_guest: BareGuest) -> None:
    shell(bare_guest, 'echo "$IFS$V"; a=x:y; echo $a')
    replaced = bare_guest.call({"PATH": "/bin", "IFS": ":", "QUILT_A": "1"}, env_replaces=True)
    with_own = (replaced.stdout, replaced.stderr)
    # V is not set, and IFS of the environment has no effect
    assert with_own == (b" \t\n\nx:y\n", b"")
    assert b"of the version" in bare_guest.call(VARIABLES).stdout


@promise("R13")
@pytest.mark.parametrize(
    ("options", "waiting"),
    [((BY_LIBRARY,), 2), pytest.param((STATIC,), 2, marks=needs_static), ((), 1)],
    ids=["library", "static", "script"],
)
def test_a_call_that_finds_no_shell_ready_starts_its_handler_once(
    shipped: Path, options: tuple[str, ...], waiting: int
) -> None:
    """A shell that is started ahead has none of its variables, of which the loader obeys some."""
    loaded = {"QUILT_A": "1", "LD_DEBUG": "files", "LD_DEBUG_OUTPUT": "/tmp/loaded"}
    with BareGuest(shipped, *options) as bare_guest:
        shell(bare_guest, 'case "$QUILT_A" in "") sleep 60;; esac; set -- /tmp/loaded.*; echo $#')
        for _ in range(2):
            late = bare_guest.call(timeout_ms=100).end
            assert late is not None
            assert late.kind is ExitKind.DEADLINE  # no shell is made ready after it
            answer = bare_guest.call(loaded, env_replaces=True)
            assert seen(answer) == (ExitKind.EXITED, 0, b"1\n", b"")
            shells(bare_guest, waiting)  # nor does the sandbox lose its zygote over them


def test_a_shell_that_cannot_be_made_ready_does_not_fail_the_call(shipped: Path) -> None:
    """The kernel accepts the handler's line, but not the longer one of a shell that waits."""
    with BareGuest(shipped) as bare_guest:
        shell(bare_guest, "echo fine #" + "x" * 131_050)
        for _ in range(2):
            assert seen(bare_guest.call()) == (ExitKind.EXITED, 0, b"fine\n", b"")


@promise("F21")
def test_what_waits_does_not_show_how_many_variables_the_call_before_had(
    bare_guest: BareGuest,
) -> None:
    shell(bare_guest, "od -c /proc/$$/environ")
    first = bare_guest.call(VARIABLES).stdout
    assert bare_guest.call().stdout == first


def test_variables_and_payloads_of_every_size_arrive(bare_guest: BareGuest) -> None:
    shell(bare_guest, 'printf %s "$QUILT_PAYLOAD"; cat')
    for size in (10, 14_000, 15_000, 64 * 1024):
        for value in ("x" * size, "'" * size):
            assert bare_guest.call({"QUILT_PAYLOAD": value}).stdout == value.encode(), size
    for size in (0, 1, 70_000, 6 << 20):
        payload = os.urandom(size)
        assert bare_guest.call({"QUILT_PAYLOAD": ""}, payload).stdout == payload, size


def test_a_handler_of_the_greatest_length(bare_guest: BareGuest) -> None:
    shell(bare_guest, "echo " + "x" * (64 * 1024 - 5))
    assert len(bare_guest.call().stdout) == 64 * 1024 - 4


def test_a_shell_that_is_killed_while_it_waits_costs_nothing(bare_guest: BareGuest) -> None:
    shell(bare_guest, "echo fine")
    for _ in range(3):
        time.sleep(0.05)
        for pid in set(bare_guest.processes()) - {bare_guest.guest_pid}:
            os.kill(pid, 9)
            while state(pid) not in ("", "Z"):
                time.sleep(0.001)
        assert seen(bare_guest.call()) == (ExitKind.EXITED, 0, b"fine\n", b"")


def test_a_deadline_ends_it(bare_guest: BareGuest) -> None:
    shell(bare_guest, "sleep 60")
    answer = bare_guest.call(timeout_ms=200)
    assert answer.end is not None
    assert answer.end.kind is ExitKind.DEADLINE
