"""The real guest, compiled as released and with sanitizers, in bare namespaces."""

from __future__ import annotations

import hashlib
import os
import random
import struct
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from promises import promise
from quiltfn.guest.wire import (
    ASK_SOCKET,
    CALL_MAX,
    KEEP_TMP,
    PREPARE_SHELL,
    SPECIALISE_MAX,
    STDERR_MAX,
    STDOUT_MAX,
    STRINGS_MAX,
    Clean,
    End,
    ExitKind,
    Output,
    encode_call,
    encode_prepare,
    encode_specialise,
)
from sandbox.bare_guest import BareGuest
from sandbox.bare_namespaces import SANITIZER
from timeouts import scaled

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to map a range of user ids"),
]

EVAL = ["/bin/sh", "-c", 'eval "$SCRIPT"']
GONE, BAD_START, BAD_FRAME = 0, 1, 2


@pytest.fixture
def bare_guest(empty: BareGuest) -> BareGuest:
    """A guest; each invocation has the script that is its handler."""
    assert empty.specialise(EVAL).errno == 0
    return empty


def python(code: str) -> str:
    return f"exec /usr/bin/python3 -I -c '{code}'"


# ------------------------------------------------------------------------- start and identity


def test_the_guest_refuses_to_be_anything_but_process_1(guest):
    # The guest runs as root here, outside of a PID namespace. If it continued, its first clean-up
    # would kill all processes of the machine.
    done = subprocess.run([guest, "size=1m", "size=1m", "0"], env=SANITIZER, check=False)
    assert done.returncode == BAD_START


def test_a_handler_has_no_privilege_and_three_descriptors(bare_guest):
    before = Path(f"/proc/{bare_guest.guest_pid}/status").read_text()
    assert "CapPrm:\t00000000002001e0" in before  # the capabilities that handlers must not have
    status = bare_guest.run("cat /proc/self/status").stdout.decode()
    for name in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert f"Cap{name}:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert "Uid:\t1000\t1000\t1000\t1000" in status
    assert "Gid:\t1000\t1000\t1000\t1000" in status
    assert "Groups:\t \n" in status
    assert "Umask:\t0022" in status
    assert bare_guest.run("cat /proc/self/oom_score_adj").stdout == b"500\n"
    # The fourth descriptor is that of ls, for the directory that it lists.
    assert bare_guest.run("ls /proc/self/fd").stdout.split() == [b"0", b"1", b"2", b"3"]
    # The handler has a session of its own: the sixth field of stat (the session) equals the first
    # one (the process).
    stat = bare_guest.run("read -r stat </proc/self/stat; echo $stat").stdout.split()
    assert stat[0] == stat[5]


def test_a_handler_starts_with_no_signal_blocked_or_ignored(empty):
    # The handler is not a shell, which would reset the signals by itself.
    assert empty.specialise(["/usr/bin/cat", "/proc/self/status"]).errno == 0
    status = empty.call().stdout.decode()
    for name in ("SigBlk", "SigIgn", "SigPnd", "ShdPnd"):
        assert f"{name}:\t0000000000000000" in status
    assert "SigBlk:\t0000000000010000" in Path(f"/proc/{empty.guest_pid}/status").read_text()


@promise("F3")
def test_the_guest_cannot_be_seen_or_signalled_by_a_handler(bare_guest):
    assert bare_guest.run("kill -9 1").stderr != b""
    assert bare_guest.run("ls /proc/1").stdout == b""
    assert bare_guest.run("cat /proc/1/environ").stdout == b""
    assert bare_guest.run("echo alive").stdout == b"alive\n"


def test_the_standard_streams_can_be_opened_again_by_name(bare_guest):
    answer = bare_guest.run("echo one >/dev/stdout; echo two >/dev/stderr; cat /dev/stdin")
    assert (answer.stdout, answer.stderr) == (b"one\n", b"two\n")
    bare_guest.send_call({"SCRIPT": "cat </dev/stdin"}, b"payload")
    assert bare_guest.answer().stdout == b"payload"


@pytest.mark.parametrize("is_followed", [True, False])
def test_output_that_somebody_follows_is_sent_at_once(bare_guest, is_followed):
    """The handler prints the time at which it wrote. Control: if nobody follows the invocation, the
    output is held back.
    """
    script = "printf '%s\\n' $(date +%s%N); sleep 0.02"

    def delay_ms():
        bare_guest.send_call({"SCRIPT": script}, is_followed=is_followed)
        first = bare_guest.next()
        delay = time.time_ns() - int(first.data)
        while not isinstance(bare_guest.next(), Clean):
            pass
        return delay / 1e6

    # Even on a busy machine, some of many attempts are read as soon as they are sent.
    if is_followed:
        assert any(delay_ms() < 1.5 for _ in range(200))
    else:
        assert all(delay_ms() > 1.8 for _ in range(20))


def test_a_flood_that_somebody_follows_is_sent_in_few_pieces(bare_guest):
    script = "i=0; while [ $i -lt 20000 ]; do echo x; i=$((i+1)); done"
    began = time.monotonic()
    bare_guest.send_call({"SCRIPT": script}, is_followed=True)
    answer = bare_guest.answer()
    assert answer.stdout == b"x\n" * 20_000
    took_ms = (time.monotonic() - began) * 1000
    pieces = sum(isinstance(one, Output) for one in answer.events)
    assert pieces <= took_ms / 2 + 12


# ----------------------------------------------------------------------- payload and environment


def test_a_payload_arrives_whole_on_standard_input(bare_guest):
    for size in (0, 1, 65_508, 65_536, 1 << 20, CALL_MAX - 500):
        payload = random.Random(size).randbytes(size)
        answer = bare_guest.call({"SCRIPT": "sha256sum"}, payload)
        assert answer.stdout.split()[0].decode() == hashlib.sha256(payload).hexdigest(), size
    # Without a payload, standard input is /dev/null.
    assert bare_guest.run("readlink /proc/self/fd/0; cat").stdout == b"/dev/null\n"


def test_the_variables_of_a_call_are_added_or_replace_all_and_are_forgotten(empty):
    assert empty.specialise(["/usr/bin/env"], environment={"BASE": "1"}).errno == 0
    assert empty.call({"CALL": "2"}).stdout == b"BASE=1\nCALL=2\n"
    assert empty.call().stdout == b"BASE=1\n"
    assert empty.call({"CALL": "3"}, env_replaces=True).stdout == b"CALL=3\n"
    assert empty.call({}, env_replaces=True).stdout == b""
    assert empty.call().stdout == b"BASE=1\n"


def test_a_secret_of_a_call_is_not_kept_in_the_guest(bare_guest):
    secret = b"correct-horse-" + os.urandom(8).hex().encode()

    def held() -> bool:
        with open(f"/proc/{bare_guest.guest_pid}/mem", "rb", buffering=0) as memory:
            for line in Path(f"/proc/{bare_guest.guest_pid}/maps").read_text().splitlines():
                start, end = (int(edge, 16) for edge in line.split()[0].split("-"))
                if "rw" not in line or end - start > 1 << 26:
                    continue
                memory.seek(start)
                if secret in memory.read(end - start):
                    return True
        return False

    bare_guest.send_call({"SCRIPT": "cat >/dev/null", "SECRET": secret.decode()}, secret)
    bare_guest.answer()
    assert not held()
    bare_guest.run(f"for i in 1 2 3 4 5 6 7 8 9; do echo {secret.decode()}; done")
    assert held()  # control: the search finds the secret while the output buffer has it


# --------------------------------------------------------------------------------------- output


def test_both_streams_and_the_end_are_one_packet(bare_guest):
    script = "echo one; echo two >&2; echo three; exit 3"
    answers = [bare_guest.run(script) for _ in range(20)]
    assert {(a.stdout, a.stderr) for a in answers} == {(b"one\nthree\n", b"two\n")}
    assert answers[-1].end == End(bare_guest.nonce, ExitKind.EXITED, 3, 0, 0, "")
    # On a busy machine the shell may take longer to end than output is held back, so only the
    # fastest attempt counts.
    assert min(a.reads for a in answers) == 1


def test_output_is_streamed_while_the_handler_runs(bare_guest):
    bare_guest.send_call({"SCRIPT": "echo early; exec sleep 60"}, timeout_ms=60_000)
    began = time.monotonic()
    assert bare_guest.next() == Output(bare_guest.nonce, "stdout", b"early\n")
    assert time.monotonic() - began < scaled(5)


def test_beyond_its_limit_output_is_counted_and_thrown_away(bare_guest):
    answer = bare_guest.run("head -c 9000000 /dev/zero; head -c 1048577 /dev/zero >&2; exit 0")
    assert (len(answer.stdout), len(answer.stderr)) == (STDOUT_MAX, STDERR_MAX)
    assert answer.end == End(bare_guest.nonce, ExitKind.EXITED, 0, 9_000_000 - STDOUT_MAX, 1, "")


def test_the_command_line_says_how_much_of_each_stream_is_kept(guest):
    with BareGuest(guest, "output=70000,65536") as bare_guest:
        assert bare_guest.specialise(EVAL).errno == 0
        answer = bare_guest.run("head -c 70001 /dev/zero; head -c 65538 /dev/zero >&2")
    assert (len(answer.stdout), len(answer.stderr)) == (70_000, 65_536)
    assert answer.end == End(bare_guest.nonce, ExitKind.EXITED, 0, 1, 2, "")


@promise("C15")
def test_the_longest_deadline_does_not_come_at_once(bare_guest):
    answer = bare_guest.run("sleep 0.05; echo done", timeout_ms=2**32 - 1)
    assert answer.stdout == b"done\n"


def test_a_flood_starves_neither_the_other_stream_nor_the_deadline(bare_guest):
    answer = bare_guest.run("yes & yes >&2 & sleep 0.2; echo last >&2; wait", timeout_ms=700)
    assert answer.end is not None
    assert answer.end.kind is ExitKind.DEADLINE
    assert answer.seconds < scaled(2)
    assert (len(answer.stdout), len(answer.stderr)) == (STDOUT_MAX, STDERR_MAX)
    assert answer.end.dropped_stdout > 0
    assert answer.end.dropped_stderr > 0


def test_output_in_packet_mode_loses_no_byte(bare_guest):
    code = (
        "import fcntl,os;fcntl.fcntl(1,fcntl.F_SETFL,os.O_DIRECT);"
        "[os.write(1,bytes([65+i%26])*3001) for i in range(100)]"
    )
    answer = bare_guest.run(python(code))
    assert answer.stdout == b"".join(bytes([65 + i % 26]) * 3001 for i in range(100))


def test_frames_written_by_a_handler_are_only_its_output(bare_guest):
    # The handler knows the protocol and forges the frame of its end, but cannot write to the
    # socket.
    forged = struct.pack("<B3xIQIIQQ", ord("X"), 32, 43, 0, 0, 0, 0)
    bare_guest.send_call({"SCRIPT": "cat; cat <&3; exit 7"}, forged)
    answer = bare_guest.answer()
    assert answer.stdout == forged
    assert answer.end == End(bare_guest.nonce, ExitKind.EXITED, 7, 0, 0, "")


# ------------------------------------------------------------------------------- ends of calls


def test_a_handler_killed_by_a_signal_is_reported_so(bare_guest):
    assert bare_guest.run("kill -9 $$").end == End(bare_guest.nonce, ExitKind.KILLED, 9, 0, 0, "")
    assert bare_guest.run("kill -TERM $$").end == End(
        bare_guest.nonce, ExitKind.KILLED, 15, 0, 0, ""
    )


def test_the_deadline_ends_whatever_does_not_end(bare_guest):
    for script in (
        "sleep 60",
        "trap '' TERM INT HUP QUIT; while :; do :; done",
        "kill -STOP $$",
        "exec 0<&- 1>&- 2>&-; exec sleep 60",
        "sleep 60 & sleep 60 & wait",
    ):
        answer = bare_guest.run(script, timeout_ms=200)
        assert answer.end == End(bare_guest.nonce, ExitKind.DEADLINE, 0, 0, 0, ""), script
        assert 0.15 < answer.seconds < scaled(1.2), script
        assert answer.alive_at_end == 1, script
        assert bare_guest.run("echo next").stdout == b"next\n"


def test_a_grandchild_that_holds_stdout_open_does_not_hold_the_answer(bare_guest):
    answer = bare_guest.run("sleep 60 & echo done")
    assert answer.stdout == b"done\n"
    assert answer.end is not None
    assert answer.end.kind is ExitKind.EXITED
    assert answer.seconds < scaled(1)


def test_a_daemon_is_dead_before_the_end_is_told(bare_guest):
    lives = 'trap "" TERM HUP; echo $$ >/tmp/daemon; while :; do sleep 0.01; done'
    daemon = f"(setsid sh -c '{lives}' >/dev/null 2>&1 &)"
    waits = "until [ -s /tmp/daemon ]; do sleep 0.01; done"
    answer = bare_guest.run(f"{daemon}; {waits}; kill -0 $(cat /tmp/daemon) && echo yes")
    assert (answer.stdout, answer.alive_at_end) == (b"yes\n", 1)
    assert bare_guest.run("echo next").stdout == b"next\n"


def test_two_hundred_processes_and_a_thousand_descriptors_leave_nothing(bare_guest):
    bomb = (
        "import os,time\n"
        'for i in range(1000):\n os.open("/dev/null",0)\n'
        "for i in range(200):\n"
        " if os.fork()==0:\n  os.setsid();os.fork();time.sleep(60)\n"
        "print(1)"
    )
    for _ in range(3):
        answer = bare_guest.run(f"ulimit -n 2048; {python(bomb)}")
        assert answer.stdout == b"1\n"
        assert answer.alive_at_end == 1
    assert bare_guest.run("echo next").stdout == b"next\n"


def test_a_handler_that_forks_without_end_meets_its_deadline(bare_guest):
    # Here, the limit of processes for the handler's uid stops the bomb, not a control group.
    answer = bare_guest.run("ulimit -u 60; f() { while :; do (:) & done; }; f", timeout_ms=400)
    assert answer.end is not None
    assert answer.end.kind is ExitKind.DEADLINE
    assert answer.seconds < scaled(3)
    assert answer.alive_at_end == 1


def test_a_stream_parked_in_a_message_to_nobody_does_not_hold_the_answer(bare_guest):
    code = (
        "import os,socket,array\n"
        "a,b=socket.socketpair()\n"
        'f=array.array("i",[1,a.fileno(),b.fileno()])\n'
        'for s in (a,b):\n s.sendmsg([b"x"],[(socket.SOL_SOCKET,socket.SCM_RIGHTS,f)])\n'
        'os.write(1,b"parked")'
    )
    answer = bare_guest.run(python(code))
    assert answer.stdout == b"parked"
    assert answer.seconds < scaled(2)
    assert bare_guest.run("echo next").stdout == b"next\n"


def test_a_program_that_is_not_there_is_told_in_a_sentence(empty):
    assert empty.specialise(["/bin/nonesuch"]).errno == 0
    for _ in range(2):
        end = empty.call().end
        assert end == End(
            empty.nonce,
            ExitKind.NOT_STARTED,
            2,
            0,
            0,
            "the sandbox could not execute /bin/nonesuch: No such file or directory",
        )


def test_a_program_that_may_not_be_executed_is_told_in_a_sentence(empty):
    assert empty.specialise(["/etc/passwd"]).errno == 0
    end = empty.call(payload=b"x" * 1_000_000).end
    assert end is not None
    assert (end.kind, end.code) == (ExitKind.NOT_STARTED, 13)
    assert end.text == "the sandbox could not execute /etc/passwd: Permission denied"


# ------------------------------------------------------------------------------------ cleaning

SYSV = (
    "import ctypes\n"
    "c=ctypes.CDLL(None)\n"
    "ids=[[c.shmget(0,4096,0o1000),c.semget(0,1,0o1000),c.msgget(0,0o1000)] for _ in range(5)]\n"
    "assert min(map(min,ids))>=0\n"
)
LOOK = "find /tmp /dev/shm -mindepth 1;cd /proc/sysvipc; tail -qn +2 shm sem msg"


def test_files_and_system_v_objects_are_gone_for_the_next_call(bare_guest):
    assert bare_guest.run(LOOK).stdout == b""
    # Control: the same search finds the objects while they exist.
    code = (
        SYSV + 'import os;open("/tmp/a","w");open("/dev/shm/b","w");os.system(os.environ["LOOK"])'
    )
    script = f"mkdir -p -m 0 /tmp/deep/er; {python(code)}"
    found = bare_guest.call({"SCRIPT": script, "LOOK": LOOK}).stdout.decode()
    assert {"/tmp/a", "/tmp/deep", "/dev/shm/b"} < set(found.splitlines())
    assert len(found.splitlines()) == 4 + 15
    assert bare_guest.run(LOOK).stdout == b""


def test_keep_tmp_keeps_tmp_and_nothing_else(empty):
    assert empty.specialise(EVAL, flags=KEEP_TMP).errno == 0
    empty.run("echo x >/tmp/kept; echo x >/dev/shm/gone;" + python(SYSV))
    assert empty.run(LOOK).stdout == b"/tmp/kept\n"


def test_a_renewed_file_system_is_like_the_first(bare_guest):
    look = (
        "stat -c %a:%u:%g:%i /tmp /dev/shm; df -i /tmp;"
        "grep -E ' (/tmp|/dev/shm) ' /proc/self/mounts"
    )
    fresh = bare_guest.run(look).stdout
    assert b"1777:0:0" in fresh
    for _ in range(5):
        bare_guest.run("echo x >/tmp/a; echo x >/dev/shm/b")
        assert bare_guest.run(look).stdout == fresh


def test_a_full_tmp_and_a_deep_tree_are_cleaned(bare_guest):
    deep = 'import os\nos.chdir("/tmp")\nfor _ in range(900):\n os.mkdir("d");os.chdir("d")'
    bare_guest.run(f"cat /dev/zero >/tmp/full; {python(deep)}")
    assert bare_guest.run(LOOK).stdout == b""


def test_the_second_call_finds_what_the_first_found(bare_guest):
    look = (
        "umask; pwd; ulimit -a; nice; env | sort; ls /proc/self/fd;"
        "grep -E 'Sig|Cap|Shd' /proc/self/status"
    )
    first = bare_guest.run(look).stdout
    bare_guest.run(
        "umask 000; cd /tmp; ulimit -n 100; ulimit -c 0; trap '' TERM; renice 19 $$;"
        "export A=b; exec 9>/tmp/x"
    )
    assert bare_guest.run(look).stdout == first


# ----------------------------------------------------------------------------- working directory


@pytest.mark.parametrize(
    ("cwd", "errno", "says"),
    [
        ("/nope", 2, "working_directory /nope does not exist in the sandbox"),
        ("/etc/passwd", 20, "working_directory /etc/passwd is not a directory in the sandbox"),
        ("app", 22, "working_directory app is not an absolute path"),
        ("", 22, "working_directory  is not an absolute path"),
        ("/proc", 22, "must not be in /proc, /sys or /dev"),
        ("/proc/self/cwd", 22, "must not be in"),
        ("/dev/shm", 22, "must not be in"),
        ("/sys/fs", 22, "must not be in"),
        ("/usr/../proc/self", 22, "leads out of"),
        ("/root", 13, "cannot be entered by the handler's user"),
        ("/" + "x" * 5000, 36, "could not be entered"),
    ],
)
def test_a_bad_working_directory_is_refused_at_specialisation(empty, cwd, errno, says):
    answer = empty.specialise(EVAL, cwd)
    assert answer.errno == errno
    assert says in answer.text
    assert empty.wait() == GONE


def test_a_link_is_followed_once_and_to_where_it_really_leads(empty):
    # For process 1, the link leads to its own root; a handler could not follow it.
    assert empty.specialise(["/bin/pwd"], "/usr/../proc/1/root/usr").errno == 0
    assert empty.call().stdout == b"/usr\n"


def test_a_working_directory_is_where_the_handler_starts(empty):
    assert empty.specialise(["/bin/pwd"], "/usr/bin").errno == 0
    assert [empty.call().stdout for _ in range(2)] == [b"/usr/bin\n"] * 2


# -------------------------------------------------------------------- violations of the protocol

FINE = encode_specialise(argv=["/bin/true"], cwd="/", environment={})


def host_frame(kind: str, payload: bytes = b"", *, zeros: bytes = b"\0\0\0") -> bytes:
    return kind.encode() + zeros + struct.pack("<I", len(payload)) + payload


def blobs(*strings: bytes) -> bytes:
    body = b"".join(struct.pack("<I", len(one)) + one for one in strings)
    return struct.pack("<I", len(strings)) + body


def call_frame(flags: int, env_bytes: int, rest: bytes) -> bytes:
    return host_frame("C", struct.pack("<QIII", 1, 1000, flags, env_bytes) + rest)


# A beginning without flags and with the directory "/", and the maximum length of a single string
# after it.
START = b"\0\0\0\0" + b"\1\0\0\0/"
FULL = SPECIALISE_MAX - len(START) - 8
VIOLATIONS = {
    "a kind that does not exist": host_frame("?"),
    "a guest's kind": host_frame("H", b"\1\0\0\0"),
    "reserved bytes": host_frame("S", FINE[8:], zeros=b"\0\1\0"),
    "a call before specialisation": encode_call(nonce=1, timeout_ms=1, environment={}),
    "an empty specialisation": host_frame("S"),
    "a specialisation too long": struct.pack("<B3xI", ord("S"), 256 * 1024 + 1),
    "an unknown flag": host_frame("S", b"\x40" + FINE[9:]),
    "a server that is a runner": host_frame("S", b"\x22" + FINE[9:]),
    "a server that is a shell": host_frame("S", b"\x28" + FINE[9:]),
    "a socket before specialisation": ASK_SOCKET,
    "a shell prepared beside a runner": encode_prepare(argv=["/bin/sleep", "9"], environment={})
    + PREPARE_SHELL,
    "a preparation too long": struct.pack("<B3xI", ord("R"), 256 * 1024 + 1),
    "a preparation with bytes left over": host_frame("R", blobs(b"/bin/true") + blobs() + b"\0"),
    "two preparations": 2 * encode_prepare(argv=["/bin/sleep", "9"], environment={}),
    "state to keep without a runner": host_frame("S", b"\4" + FINE[9:]),
    "bytes left over": host_frame("S", FINE[8:] + b"\0"),
    "no arguments": host_frame("S", START + blobs() + blobs()),
    "a NUL": host_frame("S", START + blobs(b"a\0b") + blobs()),
    "no name": host_frame("S", START + blobs(b"a") + blobs(b"=b")),
    "no value": host_frame("S", START + blobs(b"a") + blobs(b"ab")),
    "a blob too long": host_frame("S", b"\0\0\0\0" + b"\xff\xff\xff\xff/" + blobs() + blobs()),
    "too many strings": host_frame("S", START + blobs(*[b""] * (STRINGS_MAX + 1)) + blobs()),
    # These frames fill the guest's buffer to its last byte; a read beyond it would be an overrun.
    "a blob that leaves the buffer": host_frame(
        "S", START + struct.pack("<II", 1, FULL + 1) + b"a" * FULL
    ),
    "a number that leaves the buffer": host_frame("S", START + blobs(b"a" * (FULL - 2)) + b"\0\0"),
}
CALL_VIOLATIONS = {
    "a second specialisation": FINE,
    "a socket of what is no server": ASK_SOCKET,
    "a late preparation": encode_prepare(argv=["/bin/true"], environment={}),
    "a late preparation of a shell": PREPARE_SHELL,
    "a short head": host_frame("C", b"\0" * 19),
    "a frame too long": struct.pack("<B3xI", ord("C"), CALL_MAX + 1),
    "an unknown flag": call_frame(8, 4, blobs()),
    "an environment longer than the frame": call_frame(1, 5, blobs()),
    "an environment longer than allowed": call_frame(1, 256 * 1024 + 1, b"\0" * 300_000),
    "an environment with bytes left over": call_frame(1, 5, blobs() + b"\0"),
    "an environment cut short": call_frame(1, 3, blobs()),
    "a payload that is not announced": call_frame(0, 4, blobs() + b"x"),
    "a second call behind the first": encode_call(nonce=1, timeout_ms=999, environment={}) * 2,
}


@pytest.mark.parametrize("frame", VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_a_guest_that_is_sent_nonsense_ends_its_sandbox(empty, frame):
    empty.socket.sendall(frame)
    assert empty.wait() == BAD_FRAME


@pytest.mark.parametrize("frame", CALL_VIOLATIONS.values(), ids=CALL_VIOLATIONS.keys())
def test_a_specialised_guest_that_is_sent_nonsense_ends_its_sandbox(bare_guest, frame):
    with suppress(BrokenPipeError):  # the guest may have ended before it has read everything
        bare_guest.socket.sendall(frame)
    assert bare_guest.wait() == BAD_FRAME
    with suppress(ConnectionResetError):  # the guest may have left unread bytes
        assert bare_guest.socket.recv(1) == b""  # the guest has started no handler


def test_anything_sent_during_a_call_ends_the_sandbox(bare_guest):
    bare_guest.send_call({"SCRIPT": "sleep 60 & exec sleep 60"}, timeout_ms=60_000)
    time.sleep(0.1)
    bare_guest.send_call({"SCRIPT": "echo second"})
    assert bare_guest.wait() == BAD_FRAME
    assert bare_guest.processes() == []


def test_a_host_that_hangs_up_ends_the_sandbox_idle_or_busy(guest):
    for script in (None, "sleep 60 & exec sleep 60"):
        with BareGuest(guest) as bare_guest:
            assert bare_guest.specialise(EVAL).errno == 0
            if script:
                bare_guest.send_call({"SCRIPT": script}, timeout_ms=60_000)
                time.sleep(0.05)
            assert bare_guest.close() == GONE


def test_three_hundred_calls_leave_the_guest_as_it_was(bare_guest):
    def held() -> tuple[int, int]:
        status = Path(f"/proc/{bare_guest.guest_pid}/status").read_text()
        size = int(status.split("VmSize:")[1].split()[0])
        return len(os.listdir(f"/proc/{bare_guest.guest_pid}/fd")), size

    bare_guest.call({"SCRIPT": "echo x"}, b"payload")
    before = held()
    for i in range(300):
        answer = bare_guest.call({"SCRIPT": "cat; echo x >/tmp/x; (sleep 9 &)"}, b"payload %d" % i)
        assert answer.stdout == b"payload %d" % i
        assert answer.events[-1] == Clean(bare_guest.nonce)
    assert held() == before


# -------------------------------------------------------------------------------------- fuzzing


def damaged(chance: random.Random) -> bytes:
    """A plausible conversation with a guest, damaged by flipped bits, wrong lengths, cuts,
    repetitions and noise.
    """
    special = encode_specialise(
        argv=["/bin/true", "a" * chance.randrange(50)],
        cwd=chance.choice(["/", "/usr", "/nope", "relative"]),
        environment={f"V{i}": "x" * chance.randrange(40) for i in range(chance.randrange(6))},
        flags=chance.choice([0, 1, 2, 6, 7]),
    )
    calls = [
        encode_call(
            nonce=chance.randrange(1 << 64),
            timeout_ms=chance.choice([0, 1, 50]),
            environment={f"W{i}": "y" for i in range(chance.randrange(4))},
            payload=chance.choice([None, b"", chance.randbytes(chance.randrange(70_000))]),
            env_replaces=chance.random() < 0.5,
        )
    ]
    frames = [special, *calls] if chance.random() < 0.9 else [chance.randbytes(40), special]
    stream = bytearray(b"".join(frames))
    for _ in range(chance.randrange(4)):
        at = chance.randrange(min(len(stream), 300))
        match chance.randrange(4):
            case 0:
                stream[at] ^= 1 << chance.randrange(8)
            case 1:
                stream[at : at + 4] = struct.pack("<I", chance.choice([0, 5, 0xFFFF, 0xFFFFFFFF]))
            case 2:
                del stream[at : at + chance.randrange(1, 9)]
            case _:
                stream[at:at] = chance.randbytes(chance.randrange(1, 9))
    return bytes(stream)


def test_damaged_conversations_never_make_the_guest_misbehave(guest):
    chance, ends, until = random.Random(20_240_501), set(), time.monotonic() + 4
    while time.monotonic() < until:
        with BareGuest(guest) as bare_guest:
            try:
                bare_guest.socket.sendall(damaged(chance))
                bare_guest.socket.shutdown(1)
                while bare_guest.socket.recv(1 << 16):
                    pass
            except (BrokenPipeError, ConnectionResetError):
                pass
            ends.add(bare_guest.close())
    assert ends == {GONE, BAD_FRAME}
