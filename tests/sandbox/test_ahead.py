"""A shell that was started before its call does what one does that is started for it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from quiltfn.guest.wire import SHELL, STREAM_MAX, How
from sandbox.guest_box import SANITIZER_EXIT, Answer, Box, build_guest

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
]
VARIABLES = {"QUILT_A": "a'b''c", "QUILT_B": 'x\ny $V `id` \\ " é\t*', "TRACEPARENT": "00-1-2-01"}


@pytest.fixture(scope="module", params=["shipped", "sanitized"])
def guest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp(request.param) / "guest"
    return build_guest(target, sanitized=request.param == "sanitized")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_guest(tmp_path_factory.mktemp("one") / "guest", sanitized=False)


@pytest.fixture
def box(guest: Path) -> Iterator[Box]:
    with Box(guest) as one:
        yield one
        assert one.close() != SANITIZER_EXIT


def shell(box: Box, handler: str, *, ahead: bool = True) -> None:
    environment = {"PATH": "/usr/bin:/bin", "V": "of the version", "W": "w"}
    argv = ["/bin/sh", "-c", handler]
    assert box.specialise(argv, environment=environment, flags=SHELL * ahead).errno == 0


def comm(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def seen(answer: Answer) -> tuple[object, ...]:
    assert answer.end is not None
    return answer.end.how, answer.end.code, answer.stdout, answer.stderr


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("payload", [None, b"line one\nline two\n"], ids=["no payload", "payload"])
def test_it_is_the_same(shipped: Path, handler: str, payload: bytes | None) -> None:
    with Box(shipped) as plain:
        shell(plain, handler, ahead=False)
        expected = seen(plain.call(VARIABLES, payload))
    with Box(shipped) as box:
        shell(box, handler)
        for _ in range(3):
            assert seen(box.call(VARIABLES, payload)) == expected


def test_it_waits_before_the_call_comes_and_is_gone_with_it(box: Box) -> None:
    shell(box, "echo $$")
    waiting: list[int] = []
    end = time.monotonic() + 5
    while not waiting and time.monotonic() < end:  # it is started behind the guest's answer
        waiting = [pid for pid in box.processes() if comm(pid) == "sh"]
    assert len(waiting) == 1
    answer = box.call()
    # Its number in the sandbox is the one it waited with.
    assert answer.stdout.strip() in {b"2", b"3"}
    assert waiting[0] not in box.processes()


def test_negative_control_without_the_flag_nothing_waits(box: Box) -> None:
    shell(box, "echo $$", ahead=False)
    assert box.processes() == [box.guest_pid]


def test_what_waits_knows_nothing_of_the_call_before(box: Box) -> None:
    script = "cat; tr '\\0' '\\n' </proc/self/environ; cat /proc/[0-9]*/environ; set"
    shell(box, f'case "$QUILT_A" in look) {script};; *) cat >/tmp/x; cp /tmp/x /tmp/y;; esac')
    for number in range(20):
        secret = f"secret-{number}-of-the-call"
        box.call({"QUILT_A": "plant", "QUILT_B": secret}, secret.encode())
        looked = box.call({"QUILT_A": "look"})
        assert b"of-the-call" not in looked.stdout + looked.stderr


def test_a_call_with_an_environment_of_its_own_gets_a_shell_of_its_own(box: Box) -> None:
    shell(box, 'echo "$IFS$V"; a=x:y; echo $a')
    replaced = box.call({"PATH": "/bin", "IFS": ":", "QUILT_A": "1"}, env_replaces=True)
    with_own = (replaced.stdout, replaced.stderr)
    assert with_own == (b" \t\n\nx:y\n", b"")  # no V, and IFS from the environment does not count
    assert b"of the version" in box.call(VARIABLES).stdout


@pytest.mark.parametrize("size", [10, 14_000, 15_000, 64 * 1024])
@pytest.mark.parametrize("letter", ["x", "'"])
def test_variables_of_every_size_arrive(box: Box, size: int, letter: str) -> None:
    shell(box, 'printf %s "$QUILT_PAYLOAD"')
    value = letter * size
    assert box.call({"QUILT_PAYLOAD": value}).stdout == value.encode()


@pytest.mark.parametrize("size", [0, 1, 70_000, 6 << 20])
def test_payloads_of_every_size_arrive_whole(box: Box, size: int) -> None:
    shell(box, "cat")
    payload = os.urandom(size)
    for _ in range(2):
        answer = box.call(payload=payload)
        assert answer.stdout == payload[:STREAM_MAX]


def test_a_handler_of_the_greatest_length(box: Box) -> None:
    shell(box, "echo " + "x" * (64 * 1024 - 5))
    assert len(box.call().stdout) == 64 * 1024 - 4


def test_a_shell_that_is_killed_while_it_waits_costs_nothing(box: Box) -> None:
    shell(box, "echo fine")
    for _ in range(3):
        time.sleep(0.05)
        for pid in set(box.processes()) - {box.guest_pid}:
            os.kill(pid, 9)
            while state(pid) not in ("", "Z"):
                time.sleep(0.001)
        assert seen(box.call()) == (How.EXITED, 0, b"fine\n", b"")


def test_a_deadline_ends_it(box: Box) -> None:
    shell(box, "sleep 60")
    answer = box.call(timeout_ms=200)
    assert answer.end is not None
    assert answer.end.how is How.DEADLINE
