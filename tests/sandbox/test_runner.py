"""The guest with runners that stay between calls: correct, broken and hostile ones."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import tempfile
import time
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from e2e.server import until
from fuzz.harness import with_mistake
from promises import promise
from quiltfn.guest.wire import (
    FRESH,
    KEEP_STATE,
    KEEP_TMP,
    RESIDENT,
    STDOUT_MAX,
    Clean,
    End,
    ExitKind,
    Output,
    Specialised,
    encode_prepare,
)
from sandbox.bare_guest import BareGuest, Outcome, build_guest
from sandbox.test_prefork import within
from timeouts import scaled

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to map a range of user ids"),
]

RUNNER = Path(__file__).parents[2] / "src/quiltfn/guest/runners/python.py"
# A minimal runner. It sends MODE once it is ready; for each call, it runs DO with the call's
# number.
SMALL = """
import os, sys, time, signal
control = open(3, "r+b", buffering=0)
def say(line): control.write(line.encode() + b"\\n")
def hear():
    head = control.read(64)
    assert len(head) == 64 and head.endswith(b"\\n")
    _, number, _, which, variables, payload = head.decode().split()
    need, rest = int(variables) + max(0, int(payload)), b""
    while len(rest) < need: rest += control.read(need - len(rest))
    return number, which, rest[:int(variables)], rest[int(variables):]
"""


@pytest.fixture
def bare_guest(empty: BareGuest) -> BareGuest:
    return empty


def small(bare_guest: BareGuest, script: str, *, keep: bool = False) -> Specialised:
    argv = ["/usr/bin/python3", "-I", "-S", "-c", SMALL + script]
    return bare_guest.specialise(argv, flags=RESIDENT | keep * (KEEP_STATE | KEEP_TMP))


ECHO = """
say("ready {mode}")
while True:
    number, which, variables, payload = hear()
    print(os.getpid(), which, payload.decode(), variables.decode().replace(chr(0), ";"), flush=True)
    print("told", file=sys.stderr, flush=True)
    say(f"done {{number}} exited 0")
"""


def words(answer: Outcome) -> list[str]:
    assert answer.end is not None
    assert (answer.end.kind, answer.end.code) == (ExitKind.EXITED, 0)
    return answer.stdout.decode().split()


def end_of(bare_guest: BareGuest) -> End:
    """Reads until the end of the call; ignores its output."""
    while True:
        event = bare_guest.next()
        if isinstance(event, End):
            return event


@pytest.mark.parametrize("keep", [True, False])
def test_a_runner_gets_a_call_and_its_answer_comes_back(bare_guest: BareGuest, keep: bool) -> None:
    assert small(bare_guest, ECHO.format(mode="keep"), keep=keep) == Specialised(0, "keep")
    answer = bare_guest.call({"A": "1", "B": "x y"}, b"hello")
    assert words(answer)[1:] == ["add", "hello", "A=1;B=x", "y;"]
    assert answer.stderr == b"told\n"
    assert words(bare_guest.call(env_replaces=True))[1:] == ["all"]


def test_state_that_may_be_kept_is_kept_in_one_process(bare_guest: BareGuest) -> None:
    small(bare_guest, ECHO.format(mode="keep"), keep=True)
    assert len({words(bare_guest.call())[0] for _ in range(5)}) == 1


@pytest.mark.parametrize("mode", ["keep", "once"])
def test_state_that_must_go_costs_a_process_each_call(bare_guest: BareGuest, mode: str) -> None:
    small(bare_guest, ECHO.format(mode=mode), keep=False)
    assert len({words(bare_guest.call())[0] for _ in range(5)}) == 5
    assert len(bare_guest.processes()) == 2  # the guest and the next runner


def test_the_next_runner_is_ready_before_the_sandbox_is_clean(bare_guest: BareGuest) -> None:
    small(bare_guest, "time.sleep(0.3)\n" + ECHO.format(mode="once"))
    # the guest sent CLEAN for the first call after it had started the second runner
    for _ in range(2):
        began = time.monotonic()
        answer = bare_guest.call()
        clean_s = time.monotonic() - began
        assert words(answer)
        assert clean_s - answer.seconds > 0.25, "END did not wait for it"


def test_what_a_runner_says_before_it_is_ready_opens_the_log(bare_guest: BareGuest) -> None:
    script = "print('out'); sys.stdout.flush(); print('import', file=sys.stderr, flush=True)\n"
    small(bare_guest, script + ECHO.format(mode="keep"), keep=True)
    assert sorted(bare_guest.call().stderr.split()) == [b"import", b"out", b"told"]
    assert bare_guest.call().stderr == b"told\n"


def test_a_flood_before_it_is_ready_is_cut_and_does_not_hold_it_up(bare_guest: BareGuest) -> None:
    script = "os.write(2, b'x' * (1 << 20))\n"
    assert small(bare_guest, script + ECHO.format(mode="keep"), keep=True).errno == 0
    assert len(bare_guest.call().stderr) == 16 * 1024 + len(b"told\n")


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        ("say('refused it has no handler')", errno.ENOEXEC, "it has no handler"),
        (
            "sys.exit(7)",
            errno.ECHILD,
            "the runtime's program ended with status 7 before it was ready",
        ),
        ("os.kill(os.getpid(), 11)", errno.ECHILD, "the runtime's program was killed by signal 11"),
        ("raise ValueError('no luck')", errno.ECHILD, "ended with status 1 before it was ready"),
    ],
)
def test_a_runner_that_cannot_start_says_why(
    bare_guest: BareGuest, script: str, code: int, text: str
) -> None:
    answer = small(bare_guest, script)
    assert answer.errno == code
    assert text in answer.text
    assert answer.written.endswith(b"ValueError: no luck\n" if "luck" in script else b"")
    assert bare_guest.wait() == 0


@pytest.mark.parametrize("pages", range(17, 29))
def test_what_it_wrote_last_may_come_as_it_ends(bare_guest: BareGuest, pages: int) -> None:
    """The output is longer than a pipe holds: the program writes the rest and ends while the guest
    reads.
    """
    script = f"os.write(1, b'x' * {pages} * 4096 + b'end'); os._exit(7)"
    assert small(bare_guest, script).written.endswith(b"xend")


@pytest.mark.parametrize("end", ["say('refused it has no handler')", "sys.exit(7)"])
def test_a_runner_that_cannot_start_says_what_it_wrote(bare_guest: BareGuest, end: str) -> None:
    """The last lines are kept, even if the runner wrote more than is kept for the first call."""
    script = "os.write(2, b''.join(b'line %d\\n' % one for one in range(20_000)))\n"
    answer = small(bare_guest, script + end)
    assert answer.written.endswith(b"\nline 19998\nline 19999\n")
    assert len(answer.written) == 4096
    assert answer.text.endswith("handler" if "refused" in end else "status 7 before it was ready")


def test_a_program_that_is_missing_is_named(bare_guest: BareGuest) -> None:
    answer = bare_guest.specialise(["/nope/runner"], flags=RESIDENT)
    assert "could not execute /nope/runner: No such file or directory" in answer.text


@pytest.mark.parametrize(
    ("script", "kind", "code"),
    [
        ("say(f'done {hear()[0]} exited 3')", ExitKind.EXITED, 3),
        ("say(f'done {hear()[0]} killed 9')", ExitKind.KILLED, 9),
        ("hear(); os._exit(4)", ExitKind.EXITED, 4),
        ("hear(); os.kill(os.getpid(), 11)", ExitKind.KILLED, 11),
    ],
)
def test_how_a_call_ends(bare_guest: BareGuest, script: str, kind: ExitKind, code: int) -> None:
    small(bare_guest, f"say('ready keep')\n{script}\ntime.sleep(9)", keep=True)
    bare_guest.send_call()
    end = end_of(bare_guest)
    assert (end.kind, end.code) == (kind, code)


def test_a_runner_that_should_stay_and_ended_ends_the_sandbox(bare_guest: BareGuest) -> None:
    small(bare_guest, "say('ready keep'); hear(); os._exit(4)", keep=True)
    bare_guest.send_call()
    assert end_of(bare_guest).kind is ExitKind.EXITED
    assert bare_guest.wait() == 0


def test_a_runner_that_does_not_answer_runs_into_the_deadline(bare_guest: BareGuest) -> None:
    small(bare_guest, "say('ready keep'); hear(); time.sleep(60)", keep=True)
    began = time.monotonic()
    bare_guest.send_call(timeout_ms=300)
    assert end_of(bare_guest).kind is ExitKind.DEADLINE
    assert 0.25 < time.monotonic() - began < scaled(1.5)
    assert bare_guest.wait() == 0
    assert bare_guest.processes() == []


def test_a_runner_not_reading_a_payload_holds_up_its_own_call_only(bare_guest: BareGuest) -> None:
    small(bare_guest, "say('ready keep'); time.sleep(60)", keep=True)
    bare_guest.send_call(payload=b"p" * (6 << 20), timeout_ms=300)
    assert end_of(bare_guest).kind is ExitKind.DEADLINE


def test_payloads_of_every_size_arrive_whole(bare_guest: BareGuest) -> None:
    script = """
say("ready keep")
import zlib
while True:
    number, _, _, payload = hear()
    print(len(payload), zlib.crc32(payload), flush=True)
    say(f"done {number} exited 0")
"""
    small(bare_guest, script, keep=True)
    for size in (0, 1, 65_535, 65_536, 65_537, 6 << 20):
        payload = (bytes(range(251)) * (size // 251 + 1))[:size]
        for _ in range(2):
            answer = bare_guest.call({"V": "1"}, payload)
            assert words(answer) == [str(size), str(zlib.crc32(payload))]


def test_a_large_answer_is_cut_where_every_output_is(bare_guest: BareGuest) -> None:
    script = """
say("ready keep")
number = hear()[0]
sys.stdout.buffer.write(b"a" * 9_000_000)
sys.stdout.flush()
say(f"done {number} exited 0")
time.sleep(60)
"""
    small(bare_guest, script, keep=True)
    answer = bare_guest.call()
    assert answer.end is not None
    assert len(answer.stdout) == STDOUT_MAX
    assert answer.end.dropped_stdout == 9_000_000 - STDOUT_MAX


def test_lines_that_make_no_sense_are_passed_over(bare_guest: BareGuest) -> None:
    noises = [
        "say('done')",
        "say('done 1 exited 0')",
        "say(f'done {number} vanished 0')",
        "say(f'done {number} exited 256')",
        "say('x' * 400)",
        "control.write(bytes(range(1, 10)) + b'\\n')",
        "say('ready fork')",
    ]
    script = f"""
say("ready keep")
for noise in {noises!r}:
    number = hear()[0]
    exec(noise)
    print(noise, flush=True)
    say(f"done {{number}} exited 0")
time.sleep(60)
"""
    small(bare_guest, script, keep=True)
    for noise in noises:
        assert words(bare_guest.call()) == noise.split()


def test_a_line_without_an_end_silences_the_runner(bare_guest: BareGuest) -> None:
    script = """
say("ready keep")
number = hear()[0]
try:
    control.write(b"x" * 5000)
    say(f"\\ndone {number} exited 0")
except OSError:
    pass  # nobody listens any more
time.sleep(60)
"""
    small(bare_guest, script, keep=True)
    bare_guest.send_call(timeout_ms=300)
    assert end_of(bare_guest).kind is ExitKind.DEADLINE


@promise("R11")
@pytest.mark.parametrize("mode", ["keep", "fork"])
def test_orphaned_processes_die_with_the_call(bare_guest: BareGuest, mode: str) -> None:
    script = f"""
say("ready {mode}")
while True:
    number = hear()[0]
    for _ in range(8):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                if os.fork() == 0: time.sleep(60)
                time.sleep(60)
            os._exit(0)
        os.wait()
    say(f"done {{number}} exited 0")
"""
    small(bare_guest, script, keep=mode == "keep")
    for _ in range(3):
        answer = bare_guest.call()
        assert answer.end is not None
        assert len(bare_guest.processes()) == 2


def test_a_fork_bomb_of_a_call_is_over_when_the_sandbox_is_clean(bare_guest: BareGuest) -> None:
    """The bomb's own children are dead before the guest reports the end of the call. The negative
    control below shows what would happen without that.
    """
    script = """
import resource
say("ready keep")
number = hear()[0]
if os.fork() == 0:
    resource.setrlimit(resource.RLIMIT_NPROC, (60, 60))
    if os.fork() == 0:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try: os.fork()
            except OSError: pass
    os._exit(0)
os.wait()
time.sleep(0.2)
say(f"done {number} exited 0")
number = hear()[0]
say(f"done {number} exited 0")
time.sleep(60)
"""
    small(bare_guest, script, keep=True)
    bare_guest.call(timeout_ms=20_000)
    assert len(bare_guest.processes()) == 2
    words(bare_guest.call())


# Messages of a runner at the wrong time ---------------------------------------------------------

# Changes the name of a runner's process (PR_SET_NAME), which the test can see from the host.
CALLED = "__import__('ctypes').CDLL(None).prctl(15, b'{}', 0, 0, 0)"


def until_called(bare_guest: BareGuest, name: str) -> None:
    """Waits until a process of the sandbox has this name."""

    def is_there() -> bool:
        paths = [Path(f"/proc/{pid}/comm") for pid in bare_guest.processes()]
        with contextlib.suppress(OSError):  # the process ended meanwhile
            return name in [path.read_text().strip() for path in paths]
        return False

    until(is_there)


AHEAD = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
say("ready keep")
number = int(hear()[0])
one = f"done {number} exited 0 4\\none.".encode()
ahead = f"done {number + 1} exited 0 4\\nEVIL".encode()
WRITE
number = hear()[0]
control.write(f"done {number} exited 0 4\\nmine".encode())
time.sleep(60)
"""


def test_a_runner_that_says_more_than_its_answer_is_done(bare_guest: BareGuest) -> None:
    small(bare_guest, AHEAD.replace("WRITE", "control.write(one + ahead)"), keep=True)
    bare_guest.send_call()
    said = bare_guest.next()
    assert isinstance(said, Output)
    assert said.data == b"one."
    assert end_of(bare_guest).kind is ExitKind.EXITED
    assert bare_guest.wait() == 0


def answer_after_one_ahead(bare_guest: BareGuest) -> tuple[bytes, End]:
    """The result of the second call, for which the runner sent a forged result after the end of the
    first call.
    """
    waits = "signal.sigwait([signal.SIGUSR1])"
    late = f"control.write(one); {waits}; control.write(ahead); {CALLED.format('ahead')}"
    small(bare_guest, AHEAD.replace("WRITE", late), keep=True)
    assert bare_guest.call().stdout == b"one."
    for pid in set(bare_guest.processes()) - {bare_guest.guest_pid}:
        os.kill(pid, signal.SIGUSR1)
    until_called(bare_guest, "ahead")
    bare_guest.send_call()
    said = b""
    while not isinstance(event := bare_guest.next(), End):
        assert isinstance(event, Output)
        said += event.data
    return said, event


def test_what_a_runner_says_before_a_call_does_not_answer_it(bare_guest: BareGuest) -> None:
    said, end = answer_after_one_ahead(bare_guest)
    assert (said, end.kind) == (b"", ExitKind.NOT_STARTED)
    assert "which wrote to its control socket too early" in end.text
    assert bare_guest.wait() == 0


def test_negative_control_without_the_look_it_answers_the_call(tmp_path: Path) -> None:
    right = "(runner.control >= 0 && held_by(runner.control) > 0)"
    source = with_mistake(tmp_path, "runner.c", right, "false")
    broken = build_guest(tmp_path / "broken", sanitized=False, source=source)
    with BareGuest(broken) as bare_guest:
        said, end = answer_after_one_ahead(bare_guest)
        assert (said, end.kind) == (b"EVIL", ExitKind.EXITED)


def test_a_runner_for_one_call_speaking_first_costs_that_alone(bare_guest: BareGuest) -> None:
    ahead = f"say('done 42 exited 0'); {CALLED.format('ahead')}"
    small(bare_guest, f"say('ready once'); {ahead}; time.sleep(60)")
    for _ in range(2):
        until_called(bare_guest, "ahead")
        answer = bare_guest.call()
        assert answer.end is not None
        assert answer.end.kind is ExitKind.NOT_STARTED


# The Python runner itself -----------------------------------------------------------------------


@pytest.fixture
def app() -> Iterator[Path]:
    """A directory that the guest also sees, unlike /tmp, of which it has its own."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def python(
    bare_guest: BareGuest, app: Path, source: str, *, keep: bool = False, source_of_runner: str = ""
) -> Specialised:
    """A Python runner with a module of the test, which does not use the runner's own directory of
    modules.
    """
    (app / "mod.py").write_text(source)
    source_of_runner = source_of_runner or RUNNER.read_text()
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(app)}
    environment |= {"QUILT_HANDLER": "mod:handler", "QUILT_KEEP": str(int(keep))}
    runner = app / "runner.py"
    runner.write_text(source_of_runner)
    argv = ["/usr/bin/python3", "-s", str(runner)]
    return bare_guest.specialise(
        argv, "/", environment, flags=RESIDENT | keep * (KEEP_STATE | KEEP_TMP)
    )


def prepared(bare_guest: BareGuest, app: Path, source: str, flags: int = RESIDENT) -> Specialised:
    """Like `python`, with an interpreter that was started before its version was known."""
    (app / "mod.py").write_text(source)
    runner = app / "runner.py"
    runner.write_text(RUNNER.read_text().replace('HOME = "/app"', f'HOME = "{app}"'))
    argv = ["/usr/bin/python3", "-s", str(runner)]
    bare_guest.socket.sendall(
        encode_prepare(argv=argv, environment={"QUILT_PREWARMED": "1", "OLD": "1"})
    )
    environment = {"PATH": "/usr/bin:/bin", "QUILT_HANDLER": "mod:handler", "NEW": "2"}
    return bare_guest.specialise(argv, "/usr", environment, flags=flags)


WHERE = "import os\ndef handler(): return [os.getcwd(), os.environ.get('OLD'), os.environ['NEW']]"


def test_a_prepared_interpreter_becomes_what_it_is_told(bare_guest: BareGuest, app: Path) -> None:
    assert prepared(bare_guest, app, WHERE) == Specialised(0, "fork")
    for _ in range(2):
        assert json.loads(bare_guest.call().stdout) == ["/usr", None, "2"]


def test_a_useless_prepared_interpreter_is_replaced(bare_guest: BareGuest, app: Path) -> None:
    assert prepared(bare_guest, app, WHERE, RESIDENT | FRESH) == Specialised(0, "fork")
    assert json.loads(bare_guest.call().stdout) == ["/usr", None, "2"]
    until(lambda: len(bare_guest.processes()) == 3)  # the guest, the runner, and a fork ahead


OWN = "import os, random\ndef handler(): return [os.getpid(), random.random()]"


def test_the_process_of_a_call_is_forked_before_it_comes(bare_guest: BareGuest, app: Path) -> None:
    """It serves one call, with random numbers of its own. An idle instance has none."""
    numbers = set()
    assert python(bare_guest, app, OWN) == Specialised(0, "fork")
    for _ in range(4):
        (ahead,) = map(within, until(lambda: forks_of(bare_guest)[1:]))
        pid, number = json.loads(bare_guest.call().stdout)
        assert pid == ahead
        numbers.add(number)
    assert len(numbers) == 4
    until(lambda: len(forks_of(bare_guest)) == 1, 10)
    assert json.loads(bare_guest.call().stdout)[1] not in numbers


def test_a_fork_that_has_ended_before_its_call_is_replaced(
    bare_guest: BareGuest, app: Path
) -> None:
    assert python(bare_guest, app, OWN) == Specialised(0, "fork")
    for _ in range(3):
        (ahead,) = until(lambda: forks_of(bare_guest)[1:])
        number = within(ahead)
        os.kill(ahead, signal.SIGKILL)
        until(partial(is_zombie, ahead))
        answer = bare_guest.call()
        assert (answer.stderr, json.loads(answer.stdout)[0] != number) == (b"", True)


BUSY = {
    "json": "import json\njson._default_decoder = json.JSONDecoder(object_hook=lambda _: 1 / 0)",
    "json's class": "import json\ndel json.JSONEncoder.encode",
    "poll": "import select\ndel select.poll",
    "random": "import random\ndef seed(): raise ValueError\nrandom.seed = seed",
    "slow hook": "import os, time\nos.register_at_fork(after_in_child=lambda: time.sleep(1))",
}


@pytest.mark.parametrize("change", BUSY)
def test_a_module_that_changes_what_a_fork_uses_harms_no_more_than_its_own_calls(
    bare_guest: BareGuest, app: Path, change: str
) -> None:
    """What is done before a call must neither fail the call nor end the runner."""
    source = f"{BUSY[change]}\ndef handler(event, context): return 'here'"
    assert python(bare_guest, app, source) == Specialised(0, "fork")
    if change == "random":  # without it, two forks would draw the same numbers
        answer = bare_guest.call()
        assert answer.end is not None
        assert (answer.end.code, answer.stdout) == (1, b"")
        return
    for _ in range(2):
        until(lambda: len(forks_of(bare_guest)) == 2)
        answer = bare_guest.call()
        assert (answer.stderr, answer.stdout) == (b"", b"here")


def test_a_fork_that_a_hook_keeps_busy_ends_with_the_idle_time(
    bare_guest: BareGuest, app: Path
) -> None:
    spin = (
        "import os\ndef spin():\n    while True: pass\nos.register_at_fork(after_in_child=spin)\n"
    )
    assert python(bare_guest, app, spin + OWN) == Specialised(0, "fork")
    until(lambda: len(forks_of(bare_guest)) == 2)
    until(lambda: len(forks_of(bare_guest)) == 1, 10)


def test_a_fork_ahead_that_fails_is_made_for_the_call(bare_guest: BareGuest, app: Path) -> None:
    fails_once = (
        "import os\nfork, failed = os.fork, []\ndef other():\n    if failed: return fork()\n"
        "    failed.append(1); raise BlockingIOError\nos.fork = other\n"
    )
    assert python(bare_guest, app, fails_once + OWN) == Specialised(0, "fork")
    answer = bare_guest.call()
    assert (answer.stderr, len(json.loads(answer.stdout))) == (b"", 2)


def test_a_result_that_cannot_be_sent_fails_the_call(bare_guest: BareGuest, app: Path) -> None:
    source = "import os\ndef handler():\n    os.closerange(3, 100)\n    return 'lost'"
    assert python(bare_guest, app, source) == Specialised(0, "fork")
    for _ in range(2):
        answer = bare_guest.call()
        assert answer.end is not None
        assert (answer.end.code, answer.stdout) == (1, b"")
        assert b"the result could not be sent" in answer.stderr


def is_zombie(pid: int) -> bool:
    return ") Z" in Path(f"/proc/{pid}/stat").read_text()


def forks_of(bare_guest: BareGuest) -> list[int]:
    """The runner and its forks."""
    return sorted(bare_guest.processes())[1:]


def test_a_prepared_interpreter_that_died_shows_when_it_is_wanted(bare_guest: BareGuest) -> None:
    bare_guest.socket.sendall(encode_prepare(argv=["/bin/false"], environment={}))
    time.sleep(0.2)
    answer = bare_guest.specialise(["/bin/false"], flags=RESIDENT)
    assert "ended with status 1 before it was ready" in answer.text


HOSTILE = """
import os, signal, glob
secret = ["clean"]
def handler(event, context):
    told = []
    zygote = os.getppid()
    for what in ("mem", "environ", "maps", "fd", "cwd"):
        try:
            path = f"/proc/{zygote}/{what}"
            if what in ("fd",): os.listdir(path)
            elif what == "cwd": os.readlink(path)
            else: open(path, "rb").close()
            told.append(what)
        except OSError:
            pass
    try:
        os.fstat(3)
        told.append("control")
    except OSError:
        pass
    for number in os.listdir("/proc"):
        if number.isdigit() and int(number) not in (os.getpid(), zygote):
            told.append("pid " + number)
    secret.append("spoilt")
    os.environ["SPOILT"] = "1"
    import builtins
    builtins.spoilt = True
    os.chdir("/tmp")
    os.umask(0)
    return {"told": told, "secret": len(secret), "had": hasattr(builtins, "spoilt") and 0}
"""


@promise("R10")
def test_a_call_in_a_fork_cannot_reach_its_parent(bare_guest: BareGuest, app: Path) -> None:
    assert python(bare_guest, app, HOSTILE) == Specialised(0, "fork")
    for _ in range(3):
        assert bare_guest.call().stdout == b'{"told": [], "secret": 2, "had": 0}'


def test_negative_control_without_lock_it_is_open(bare_guest: BareGuest, app: Path) -> None:
    left_open = RUNNER.read_text().replace("harden(True)", "harden(False)")
    python(bare_guest, app, HOSTILE, source_of_runner=left_open)
    assert b'"mem"' in bare_guest.call().stdout


@promise("R10")
def test_a_call_that_ends_its_parent_ends_the_sandbox(bare_guest: BareGuest, app: Path) -> None:
    source = "import os, time\ndef handler():\n    os.kill(os.getppid(), 9)\n    time.sleep(5)\n"
    python(bare_guest, app, source)
    bare_guest.send_call()
    end = end_of(bare_guest)
    assert (end.kind, end.code) == (ExitKind.KILLED, 9)
    assert bare_guest.wait() == 0


TREATMENTS = {
    "limit": "import resource; resource.prlimit(zygote, resource.RLIMIT_NOFILE, (77, 77))",
    "core": "import resource; resource.prlimit(zygote, resource.RLIMIT_STACK, (1 << 20, 1 << 20))",
    "priority": "os.setpriority(os.PRIO_PROCESS, zygote, 7)",
    "processors": "os.sched_setaffinity(zygote, {min(os.sched_getaffinity(0))})",
    "scheduling": "os.sched_setscheduler(zygote, os.SCHED_BATCH, os.sched_param(0))",
    "for forks": "os.sched_setscheduler(zygote, os.SCHED_RESET_ON_FORK, os.sched_param(0))",
    # the policy SCHED_OTHER with slices of 100 ms; before Linux 6.12, slices cannot be set
    "turns": (
        "import ctypes, struct; n = {'x86_64': 314, 'aarch64': 274}[os.uname().machine]; "
        "turns = struct.pack('IIQiIQQQ', 48, 0, 0, 0, 0, 10**8, 0, 0); "
        "ctypes.CDLL(None).syscall(n, zygote, turns, 0)"
    ),
    "input and output": (
        "import ctypes; n = {'x86_64': 251, 'aarch64': 30}[os.uname().machine]; "
        "ctypes.CDLL(None).syscall(n, 1, zygote, 3 << 13)"
    ),
}


@pytest.mark.parametrize("how", TREATMENTS)
def test_a_call_that_treats_its_parent(bare_guest: BareGuest, app: Path, how: str) -> None:
    release = tuple(map(int, os.uname().release.split(".")[:2]))
    if how == "turns" and release < (6, 12):
        pytest.skip("this kernel has no turns of a process's own")
    source = f"import os\ndef handler():\n    zygote = os.getppid()\n    {TREATMENTS[how]}\n"
    python(bare_guest, app, source)
    bare_guest.send_call()
    end = end_of(bare_guest)
    assert (end.kind, end.code) == (ExitKind.EXITED, 1)
    assert bare_guest.wait() == 0


def test_no_call_is_treated_by_leftovers_of_the_last(bare_guest: BareGuest, app: Path) -> None:
    source = "import os\ndef handler():\n    zygote, was = os.getppid(), os.getpriority(0, 0)\n"
    source += "    if os.fork() == 0:\n        os.setsid()\n        while True:\n"
    source += f"            {TREATMENTS['priority']}\n    return str(was)\n"
    python(bare_guest, app, source)
    while True:  # the runner catches the leftover at some point; until then, it must have no effect
        bare_guest.send_call()
        said = b""
        while not isinstance(event := bare_guest.next(), End):
            said += event.data if isinstance(event, Output) and event.stream == "stdout" else b""
        if event.code == 1:
            break
        assert said == b"0"
        assert isinstance(bare_guest.next(), Clean)
    assert bare_guest.wait() == 0


def test_non_blocking_pipes_do_not_harm_the_next_call(bare_guest: BareGuest, app: Path) -> None:
    source = (
        "import os\ndef handler(event):\n    for fd in (1, 2): os.set_blocking(fd, False)\n"
        "    return 'x' * 300_000\n"
    )
    python(bare_guest, app, source)
    for _ in range(3):
        assert len(bare_guest.call().stdout) == 300_000


def test_a_module_that_starts_a_thread_is_not_forked(bare_guest: BareGuest, app: Path) -> None:
    source = (
        "import threading, time, os\n"
        "threading.Thread(target=time.sleep, args=(99,), name='ticker', daemon=True).start()\n"
        "def handler(event): return str(os.getpid())\n"
    )
    failure = python(bare_guest, app, source)
    assert failure.errno == 0
    assert failure.text.startswith("once the module starts threads")
    assert "ticker" in failure.text
    assert len({bare_guest.call().stdout for _ in range(3)}) == 3


def test_forks_do_not_draw_the_same_numbers(bare_guest: BareGuest, app: Path) -> None:
    source = (
        "import random, uuid, os, ssl, secrets, tempfile\n"
        "random.random()\n"
        "def handler(event):\n"
        "    name = tempfile.mktemp()\n"
        "    return [random.random(), str(uuid.uuid4()), str(uuid.uuid1()),\n"
        "            os.urandom(8).hex(), ssl.RAND_bytes(8).hex(), secrets.token_hex(8), name]\n"
    )
    python(bare_guest, app, source)
    drawn = [json.loads(bare_guest.call().stdout) for _ in range(50)]
    for each in zip(*drawn, strict=True):
        assert len(set(each)) == 50


# The end of the line arrives while the guest still reads earlier output. When the guest continues,
# the longest possible result is in its buffer.
ANSWER_AMID_A_FLOOD = """
import fcntl
fcntl.fcntl(2, 1031, 1 << 20)  # F_SETPIPE_SZ
say("ready keep")
while True:
    number, *_ = hear()
    control.write(f"done {number} exited 0 65536".encode())
    os.write(2, b"e" * 900000)
    control.write(b"\\n" + b"a" * 65536)
"""


@promise("F20")
def test_an_answer_amid_a_flood_stays_within_the_guests_buffer(bare_guest: BareGuest) -> None:
    assert small(bare_guest, ANSWER_AMID_A_FLOOD, keep=True).errno == 0
    for _ in range(10):
        answer = bare_guest.call()
        assert answer.end is not None
        assert (answer.end.kind, answer.end.code) == (ExitKind.EXITED, 0)
        assert (answer.stdout, answer.stderr) == (b"a" * 65_536, b"e" * 900_000)


@pytest.mark.parametrize("keep", [True, False], ids=["keeps", "forks"])
def test_what_a_handler_returns_is_its_result_and_what_it_prints_is_not(
    bare_guest: BareGuest, app: Path, keep: bool
) -> None:
    source = "import os\ndef handler(size):\n    os.system('echo said')\n    return 'r' * size\n"
    python(bare_guest, app, source, keep=keep)
    for size in (0, 1, 60_000, 60_001, 300_000):
        for _ in range(2):
            answer = bare_guest.call(payload=str(size).encode())
            assert (answer.result, answer.stdout) == (b"r" * size, b"r" * size)
            assert answer.stderr == b"said\n"


def test_a_module_loaded_for_each_call_has_results(bare_guest: BareGuest, app: Path) -> None:
    source = "import socket\nheld = socket.socket()\ndef handler(): yield from 'abc'\n"
    assert python(bare_guest, app, source).text.startswith("once ")
    assert [bare_guest.call().result for _ in range(2)] == [b"abc", b"abc"]


# Standard output is the result only if the runner says so; text with `done` is always the result.
BOTH = """
say("{first}ready keep")
while True:
    number = hear()[0]
    os.write(1, b"o" * 20)
    os.write(2, b"e" * 20)
    os.write(3, f"done {{number}} exited 0 20\\n".encode() + b"r" * 20)
"""


@pytest.mark.parametrize(
    ("first", "limits", "result", "shown", "dropped"),
    [
        ("", "100,100", b"r" * 20, b"o" * 20 + b"r" * 20, (0, 0, 0)),
        ("", "100,100,7", b"r" * 7, b"o" * 20 + b"r" * 7, (0, 0, 13)),
        ("", "5,6,7", b"r" * 7, b"o" * 5 + b"r" * 7, (15, 14, 13)),
        # Without a limit of its own, the result has the limit of standard output.
        ("", "25,100", b"r" * 5, b"o" * 20 + b"r" * 5, (15, 0, 0)),
        ("result stdout\\n", "25,100", b"o" * 20 + b"r" * 5, b"o" * 20 + b"r" * 5, (15, 0, 0)),
        ("result stdout\\n", "0,100,25", b"o" * 20 + b"r" * 5, b"o" * 20 + b"r" * 5, (0, 0, 15)),
    ],
)
def test_a_result_has_a_limit_of_its_own(
    guest: Path, first: str, limits: str, result: bytes, shown: bytes, dropped: tuple[int, ...]
) -> None:
    with BareGuest(guest, f"output={limits}") as bare_guest:
        small(bare_guest, BOTH.format(first=first), keep=True)
        for _ in range(2):
            answer = bare_guest.call()
            assert (answer.result, answer.stdout) == (result, shown)
            assert answer.end is not None
            end = answer.end
            assert (end.dropped_stdout, end.dropped_stderr, end.dropped_result) == dropped
