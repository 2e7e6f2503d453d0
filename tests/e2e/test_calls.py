"""What a handler can do to its invocation, and what the caller and the host see of that."""

import hashlib
import json
import random
import string
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.server import Function, Server, children, is_alive, until
from promises import promise
from timeouts import scaled

pytestmark = pytest.mark.sandbox
MIB = 1024 * 1024


def timed(work: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], float]:
    began = time.monotonic()
    return work(), time.monotonic() - began


# Deadlines and leftover processes ------------------------------------------------------------

STUBBORN = {
    "sleeps": "sleep 60",
    "ignores signals and spins": "trap '' TERM INT HUP; while :; do :; done",
    "stops itself": "kill -STOP $$; echo on",
    "stops its child": "sleep 60 & kill -STOP $!; wait",
    "does not read the payload, does not close its output": "exec 2>&-; sleep 60",
}


@promise("C1")
def test_a_call_ends_at_its_deadline(shared: Server) -> None:
    functions = {how: shared.deploy(one, timeout_seconds=1) for how, one in STUBBORN.items()}
    calls = {how: shared.later(timed, one.invoke) for how, one in functions.items()}
    for how, call in calls.items():
        record, took = call.result()
        assert (record["status"], record["exit_code"]) == ("timeout", None), how
        assert 1.0 <= took < scaled(2.0), how
        assert record["error_message"]
    until(lambda: not shared.named("sleep"), 1.0)
    until(lambda: not any(one.pool()["total_count"] for one in functions.values()), 2.0)


@promise("D8")
def test_sandboxes_that_ended_leave_no_process_and_no_zombie(shared: Server) -> None:
    functions = [shared.deploy("sleep 60 & echo on") for _ in range(3)]
    for function in functions:
        function.invoke()
    before = shared.sandbox_pids()
    for function in functions:
        function.delete()
    until(lambda: len(before.keys() - shared.sandbox_pids().keys()) >= len(functions))
    ended = before.keys() - shared.sandbox_pids().keys()
    # A zombie has an entry in /proc, like any other process; so zombies must be gone, too.
    known = [pid for sandbox in ended for pid in before[sandbox]]
    until(lambda: not [pid for pid in known if Path(f"/proc/{pid}").exists()])
    until(lambda: not [pid for pid in children(shared.launcher) if not is_alive(pid)])


@promise("C2")
@pytest.mark.parametrize("end", ["exit 0", "sleep 30"], ids=["success", "timeout"])
def test_a_daemon_does_not_outlive_its_call(shared: Server, end: str) -> None:
    daemon = "(setsid sh -c 'exec <&- >&- 2>&-; exec sleep 777' &) & "
    function = shared.deploy(
        f'case "$QUILT_PAYLOAD" in look) cat /proc/[0-9]*/comm;; *) {daemon} {end};; esac'
    )
    first = function.invoke(timeout_seconds=20 if end == "exit 0" else 1)
    assert first["status"] == ("success" if end == "exit 0" else "timeout")
    until(lambda: not shared.named("sleep"), 2.0)
    second = function.invoke("look")
    assert set(second["stdout"].split()) <= {"sh", "cat"}
    assert second["cold_start"] is (end != "exit 0")


@promise("C3")
def test_a_grandchild_that_holds_the_output_open_does_not_hold_the_answer(shared: Server) -> None:
    function = shared.deploy("sleep 100 & echo done")
    record, took = timed(function.invoke)
    assert (record["status"], record["stdout"]) == ("success", "done\n")
    assert took < scaled(1.0)


def test_closed_output_is_an_end_like_any_other(shared: Server) -> None:
    assert shared.run("exec >&- 2>&-; exit 0")["status"] == "success"


# Kinds of ends -------------------------------------------------------------------------------


CODES = {"exit 3": 3, "exit 255": 255, "kill -KILL $$": 137, "kill -SEGV $$": 139}


def test_a_failure_tells_its_code(shared: Server) -> None:
    function = shared.deploy('echo out; echo err >&2; eval "$QUILT_PAYLOAD"')
    for end, code in CODES.items():
        record = function.invoke(end)
        assert (record["status"], record["exit_code"]) == ("failed", code), end
        assert (record["stdout"], record["stderr"]) == ("out\n", "err\n")
        assert str(code if code < 128 else code - 128) in record["error_message"] or code == 255


@promise("C4")
def test_a_handler_that_eats_its_memory_ends_as_oom_and_is_replaced(shared: Server) -> None:
    """Control: with less than its memory limit, the same handler succeeds."""
    function = shared.deploy(
        "exec python3 -c \"x = b'x' * ($QUILT_PAYLOAD << 20); print(len(x) >> 20)\""
    )
    record = function.invoke("400")
    assert (record["status"], record["exit_code"]) == ("oom", 137)
    again = function.invoke("150")
    assert (again["status"], again["stdout"], again["cold_start"]) == ("success", "150\n", True)


# Output --------------------------------------------------------------------------------------


@promise("C5")
@pytest.mark.parametrize("where", ["stdout", "stderr", "both"])
def test_a_flood_of_output_is_cut_and_counted(shared: Server, where: str) -> None:
    flood = {
        "stdout": "yes | head -c 10G",
        "stderr": "yes | head -c 10G >&2",
        "both": "(yes | head -c 10G >&2) & yes | head -c 10G",
    }[where]
    function = shared.deploy(flood, timeout_seconds=1)
    before = shared.rss_kib()
    record = function.invoke()
    assert shared.rss_kib() - before < 56 * 1024
    assert record["status"] == "timeout"
    for stream in ("stdout", "stderr") if where == "both" else (where,):
        most = 6 * MIB if stream == "stdout" else MIB
        assert record[stream] == "y\n" * (most // 2)
        name = "standard output" if stream == "stdout" else "log (standard error)"
        assert f"of its {name} the first {most} bytes" in record["error_message"]
    assert function.records()[record["invocation_id"]] == record
    function.delete()


def test_a_flood_of_single_bytes_does_not_hinder_the_end(shared: Server) -> None:
    code = "import os\nfor _ in range(50000): os.write(1, b'x')"
    record = shared.run(f'exec python3 -c "{code}"')
    assert (record["status"], record["stdout"]) == ("success", "x" * 50_000)


# Payload and environment ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def digest(shared: Server) -> Function:
    return shared.deploy("sha256sum; echo ${QUILT_PAYLOAD+set} ${#QUILT_PAYLOAD}")


@promise("C6")
@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 128 * 1024, 6 * MIB])
def test_a_payload_arrives_byte_for_byte(digest: Function, size: int) -> None:
    payload = "".join(random.Random(size).choices(string.printable, k=size))
    wanted = hashlib.sha256(payload.encode()).hexdigest()
    got = digest.invoke(payload)["stdout"].split()
    assert got == [wanted, "-", *(["set", str(size)] if size <= 64 * 1024 else ["0"])]


def test_a_payload_beyond_its_limit_is_refused(digest: Function) -> None:
    before = digest.records()
    refused = digest.try_invoke("x" * (6 * MIB + 1))
    assert (refused.status_code, refused.json()["error_code"]) == (422, "UNPROCESSABLE_ENTITY")
    assert refused.json()["error"].startswith("payload")
    too_long = digest.try_invoke("x" * (8 * MIB + 1))
    assert (too_long.status_code, too_long.json()["error_code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert "invoke_body_max_bytes" in too_long.json()["hint"]
    assert digest.records() == before


AWKWARD = {
    "quotes": """'"`$(touch /tmp/x) $HOME \\n ${""",
    "newlines": "\n\na\r\nb\n",
    "unicode": "ä€😀\u202e\u0301\ufeff",
    "control": "\x1b[31m\x01\x7f",
}


def test_an_awkward_payload_is_the_same_in_both_places(shared: Server) -> None:
    """Only a payload with a NUL cannot be in the variable. Without a payload, the variable is
    missing.
    """
    function = shared.deploy('cat; printf "|%s" "${QUILT_PAYLOAD-none}"')
    for name, payload in AWKWARD.items():
        assert function.invoke(payload)["stdout"] == f"{payload}|{payload}", name
    assert function.invoke("a\0b")["stdout"] == "a\0b|none"
    assert function.invoke()["stdout"] == "|none"
    assert shared.run(r"printf 'a\377b'")["stdout"] == "a\ufffdb", "what is not text is replaced"


def test_the_environment_is_the_versions_then_the_calls_then_ours(shared: Server) -> None:
    function = shared.deploy("env -0", environment={"A": "of version", "B": "of version"})
    before = time.time()
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}

    def variables(headers: dict[str, str] = trace, **more: object) -> dict[str, str]:
        body = {"payload": "p", "timeout_seconds": 5} | more
        answer = shared.http.post(f"{function.path}/invoke", json=body, headers=headers)
        record = answer.json()
        pairs = dict(one.split("=", 1) for one in record["stdout"].split("\0") if one)
        assert pairs["QUILT_INVOCATION_ID"] == record["invocation_id"]
        return pairs

    plain = variables()
    assert (plain["A"], plain["B"], plain["HOME"]) == ("of version", "of version", "/tmp")
    assert plain["QUILT_FUNCTION_ID"] == function.id
    assert plain["QUILT_FUNCTION_VERSION"] == "1"
    assert (plain["QUILT_PAYLOAD"], plain["QUILT_MEMORY_LIMIT_MB"]) == ("p", "256")
    assert plain["QUILT_FUNCTION_NAME"]
    assert plain["TRACEPARENT"] == trace["traceparent"]
    assert "TRACEPARENT" not in variables({})
    deadline = int(plain["QUILT_DEADLINE_MS"]) / 1000
    assert before + 5 <= deadline + 0.001
    assert deadline <= time.time() + 5

    awkward = "line\nline '\"$(id)"
    laid_over = variables(environment={"B": awkward, "C": "of call"})
    assert (laid_over["A"], laid_over["B"], laid_over["C"]) == ("of version", awkward, "of call")
    assert set(laid_over) - set(plain) == {"C"}

    after = variables(environment=None)
    assert "C" not in after
    assert after["B"] == "of version"


def test_the_largest_environment_that_is_accepted_can_be_executed(shared: Server) -> None:
    """If much more were accepted, execve would fail with E2BIG: it limits each variable, and all of
    them together.
    """
    environment = {f"V{n}": "x" for n in range(4_000)}
    assert shared.run("env | grep -c ^V", environment=environment)["stdout"] == "4000\n"


# Names on the host ---------------------------------------------------------------------------


@promise("F11")
def test_no_text_of_a_user_names_anything_on_the_host(shared: Server) -> None:
    marker = "VeryOwnName-27b1"
    function = shared.create(f": {marker}; sleep 60; :", name=marker)
    assert function.deploy()["state"] == "active"
    call = shared.later(function.invoke)
    pids = until(lambda: shared.named("sleep"))
    lines = [Path(f"/proc/{pid}/cgroup").read_text() for pid in pids]
    names = [str(one) for top in (shared.run_dir, shared.data_dir) for one in top.rglob("*")]
    commands = [
        Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in (shared.pid, shared.launcher)
    ]
    shared.wake()
    assert call.result()["status"] == "success"
    assert marker not in json.dumps([lines, names, commands])
