"""Why a handler failed: the exception at the end of its log, or its exit code."""

import time
from typing import Any

import msgspec
import pytest

from contract.stores import a_call, a_function
from promises import promise
from quiltfn.model import end_cause, failure_reason
from quiltfn.model.failure_reason import TAIL_BYTES, TRACEBACK
from quiltfn.model.invocation import CallResult, ExitKind
from quiltfn.model.runtime import Kind, Network

pytestmark = promise("A84")

PYTHON = """looking for zz-4711
Traceback (most recent call last):
  File "/app/main.py", line 5, in handler
    return PRICES[event["sku"]]
  File "/usr/lib/python3.13/collections/__init__.py", line 9, in get
    raise
{}
"""
NODE = """one line
{}
    at exports.handler (/app/index.js:3:11)
    at run (/.runners/node.js:10:2)
"""
GROUP = """  + Exception Group Traceback (most recent call last):
  |   File "/app/main.py", line 9, in handler
  |     raise ExceptionGroup("several", found)
  | ExceptionGroup: several (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/app/main.py", line 6, in one
    | ValueError: first
    +---------------- 2 ----------------
    | {}KeyError: 'zz-2'
    +------------------------------------
"""
RAISED = 'Traceback (most recent call last):\n    |   File "/app/main.py", line 7, in two\n    | '
GROUP_END = "+------------------------------------\n"
python, node = PYTHON.format, NODE.format
REFUSED = "ConnectionRefusedError: [Errno 111] Connection refused"
NO_NETWORK = "; this runtime has no network"
LOGGED = python("KeyError: 'cached'")
# The exception in the log of a child process.
FOREIGN = python("KeyError: 'theirs'") + "SystemExit: theirs\n"
IN_NODE, PROGRAM, SERVER = (True, Kind.NODE), (False, None), (True, None)
RUNNER = (True, Kind.PYTHON)


def of_exit(code: int) -> str:
    return end_cause.Exited(code).sentence


def cause_of(
    code: int,
    stderr: str,
    kind: tuple[bool, Kind | None],
    *,
    network: Network | None = Network.NONE,
) -> end_cause.EndCause:
    is_value, runner = kind
    log = stderr.encode()
    return failure_reason.read(code, log, is_value=is_value, runner=runner, network=network)


@pytest.mark.parametrize(
    ("code", "stderr", "kind", "expected"),
    [
        (1, LOGGED, RUNNER, "KeyError: 'cached' (main.py, line 5)"),
        (3, LOGGED, PROGRAM, "KeyError: 'cached' (main.py, line 5)"),
        (3, LOGGED, SERVER, "KeyError: 'cached' (main.py, line 5)"),
        (1, python("shop.errors.Gone"), RUNNER, "shop.errors.Gone (main.py, line 5)"),
        (1, python("m.f.<locals>.Bad: 3"), RUNNER, "m.f.<locals>.Bad: 3 (main.py, line 5)"),
        (1, python("A: 1") + python("B: 2"), RUNNER, "B: 2 (main.py, line 5)"),
        (1, python("A: 1\nmore of it"), RUNNER, "A: 1 (main.py, line 5)"),
        (1, GROUP.format(RAISED), RUNNER, "KeyError: 'zz-2' (main.py, line 7)"),
        (1, GROUP.format(RAISED), PROGRAM, "KeyError: 'zz-2' (main.py, line 7)"),
        (1, GROUP.format(""), RUNNER, "ValueError: first (main.py, line 6)"),
        (1, node("TypeError: x is none"), IN_NODE, "TypeError: x is none (index.js, line 3)"),
        (
            1,
            node("E: a").rstrip() + " {\n  code: 'B',\n  [cause]: E\n}\n",
            IN_NODE,
            "E: a (index.js, line 3)",
        ),
        # Exceptions of other languages, which the handler has logged.
        (1, FOREIGN + node("E: a"), IN_NODE, "E: a (index.js, line 3)"),
        (1, FOREIGN, IN_NODE, of_exit(1)),
        (1, node("E: a"), RUNNER, of_exit(1)),
        (1, node("E: a"), PROGRAM, "E: a (index.js, line 3)"),
        # Exceptions that the handler has logged, but survived.
        (3, LOGGED, RUNNER, of_exit(3)),
        (3, LOGGED + "fatal: disk full\nSystemExit: 3\n", RUNNER, of_exit(3)),
        (1, LOGGED + "fatal: disk full\nSystemExit: 1\n", RUNNER, of_exit(1)),
        (1, LOGGED + "SystemExit: no disk\n", RUNNER, of_exit(1) + ": no disk"),
        (1, "SystemExit: 1\n" + LOGGED, RUNNER, "KeyError: 'cached' (main.py, line 5)"),
        (1, LOGGED + "fatal: full\n", PROGRAM, of_exit(1) + ": fatal: full"),
        (1, LOGGED + "fatal: full\n", SERVER, of_exit(1)),
        (1, node("E: a") + "fatal: full\n", IN_NODE, of_exit(1)),
        (1, node("E: a") + "fatal: full\n", PROGRAM, of_exit(1) + ": fatal: full"),
        (1, "Error: a\n    at node:events:519:28\n", IN_NODE, "Error: a (events, line 519)"),
        (1, "Error: a\n    at file:///app/m.mjs:9\n", IN_NODE, "Error: a (m.mjs, line 9)"),
        (1, "Error: a\n    at f (index 2)\n", IN_NODE, of_exit(1)),
        (1, "Error: a\n    at /app/:9:11\n", IN_NODE, of_exit(1)),
        # Logs without an exception.
        (1, python("not an exception"), RUNNER, of_exit(1)),
        (1, "KeyError: 1\n", RUNNER, of_exit(1)),
        (3, "the last thing that it printed\n", RUNNER, of_exit(3)),
        (3, "cat: nothing: No such file\n", PROGRAM, of_exit(3) + ": cat: nothing: No such file"),
        (3, "\n \n", PROGRAM, of_exit(3)),
        (3, "", PROGRAM, of_exit(3)),
        (3, "    at f (/app/index.js:3:11)\n", PROGRAM, None),
        # Unprintable and very long messages, and errors that the missing network explains.
        (1, python("E: \x1b[2J\x00\u202e"), RUNNER, None),
        (1, python("E: " + "x" * 5000), RUNNER, None),
        (1, python(REFUSED), RUNNER, f"{REFUSED} (main.py, line 5){NO_NETWORK}"),
        (3, "curl: (6) Could not resolve host: x\n\n", PROGRAM, None),
    ],
)
def test_a_reason_is_what_ended_the_handler(
    code: int, stderr: str, kind: tuple[bool, Kind | None], expected: str | None
) -> None:
    reason = cause_of(code, stderr, kind).sentence
    assert expected in (None, reason)
    assert reason.isprintable()
    assert len(reason) < 300


HOSTILE = [
    "    at " + "a" * 993,
    "    at " + ("a:1" * 400)[:992] + "x",
    "    at " + "a" * 500 + ":" + "1" * 491 + "x",
    "    at " + "/a" * 490 + ":1:1",
    '  File "' + "a" * 990,
    "E" * 999,
    "a<locals>" * 110,
    "+-" * 499,
    "| " * 499,
    TRACEBACK,
    " " * 999,
    " " * 998 + "x",
    "",
]


@pytest.mark.parametrize("line", HOSTILE)
@pytest.mark.parametrize("kind", [RUNNER, IN_NODE, PROGRAM])
@pytest.mark.parametrize("end", ["", GROUP_END, "\nError: a\n    at /app/m.mjs:9:11"])
def test_no_text_takes_long_to_read(line: str, kind: tuple[bool, Kind | None], end: str) -> None:
    """The event loop reads the log, so a slow reader would delay everything."""

    def cpu_s(text: str) -> float:
        began = time.process_time()
        cause_of(1, text, kind)
        return time.process_time() - began

    def shortest(line: str) -> float:
        text = (line + "\n") * (TAIL_BYTES // (len(line) + 1)) + end
        return min(cpu_s(text) for _ in range(5))

    # Some texts take 20 times as long; a text that is read again from each position would take
    # thousands of times as long.
    assert shortest(line) < 100 * shortest("x" * 20)


@pytest.mark.parametrize(
    ("said", "network", "more"),
    [
        (REFUSED, Network.NONE, NO_NETWORK),
        (REFUSED, Network.EGRESS, "; network egress reaches public addresses alone"),
        (REFUSED, None, ""),
        ("OSError: [Errno 101] Network is unreachable", Network.NONE, NO_NETWORK),
        ("OSError: [Errno 101] Network is unreachable", Network.EGRESS, ""),
        ("KeyError: 'cached'", Network.NONE, ""),
        ("KeyError: 'cached'", Network.EGRESS, ""),
    ],
)
def test_failed_connections_are_explained(said: str, network: Network | None, more: str) -> None:
    reason = cause_of(1, python(said), RUNNER, network=network).sentence
    assert reason == f"{said} (main.py, line 5){more}"


NO_STATUS = end_cause.HttpFailed(None, "it has no status")
AT = {"file": "main.py", "line": 5}
ALL = {"cause": "network", "reason": NO_NETWORK.removeprefix("; "), "host": None, "port": None}
NOWHERE = {"code": None, "type": None, "file": None, "line": None}
NO_HOST = "curl: (6) Could not resolve host: x"


def exception(kind: str, message: str | None, **at: object) -> dict[str, object]:
    return {"cause": "exception", "type": kind, "message": message} | AT | at


@promise("A90")
@pytest.mark.parametrize(
    ("code", "stderr", "kind", "expected"),
    [
        (1, LOGGED, RUNNER, exception("KeyError", "'cached'")),
        (
            1,
            node("TypeError: a: b"),
            IN_NODE,
            exception("TypeError", "a: b", file="index.js", line=3),
        ),
        (1, python("a.Gone"), RUNNER, exception("a.Gone", None)),
        (3, "cat: no file\n", PROGRAM, {"cause": "exit", "code": 3, "message": "cat: no file"}),
        (3, "\n", PROGRAM, {"cause": "exit", "code": 3, "message": None}),
        (
            1,
            python(REFUSED),
            RUNNER,
            exception("ConnectionRefusedError", "[Errno 111] Connection refused", code=None) | ALL,
        ),
        (6, f"{NO_HOST}\n", PROGRAM, ALL | NOWHERE | {"code": 6, "message": NO_HOST}),
    ],
)
def test_the_cause_is_data(
    code: int, stderr: str, kind: tuple[bool, Kind | None], expected: dict[str, object]
) -> None:
    assert end_cause.cause_data(cause_of(code, stderr, kind)) == expected


def exited(kind: ExitKind = ExitKind.EXITED, **more: Any) -> CallResult:
    return CallResult(kind=kind, **more)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (exited(code=3, stderr=b"zz-1: SECRET\n"), of_exit(3)),
        (exited(code=3, stderr=b"Na:me (a, line 1)\n"), of_exit(3)),
        (exited(code=3, stderr=b"S" * 300), of_exit(3)),
        (exited(code=3), of_exit(3)),
        (exited(refusal=NO_STATUS), "it has no status"),
        (exited(kind=ExitKind.SIGNALLED, code=9), "the handler was killed by signal 9"),
        (
            exited(kind=ExitKind.SANDBOX_GONE, reason="importing app failed: SECRET"),
            "the platform could not run the handler",
        ),
        (exited(), None),
    ],
)
def test_only_the_servers_words_are_for_everybody(result: CallResult, expected: str | None) -> None:
    record = a_call(a_function()).after(result, now=0, duration_ms=1)
    assert record.public_message == expected
    # The store returns records without their own message.
    stored = msgspec.structs.replace(record, own_message=None)
    assert b"S" not in (stored.public_message or "").encode()
