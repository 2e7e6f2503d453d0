"""Commands that print output while a handler writes it."""

from __future__ import annotations

import json
import selectors
import subprocess
import time

import pytest

from e2e.server import QUILTFN, Server, quiltfn, until
from promises import promise
from spec.api_client import Api, new_name

pytestmark = [pytest.mark.sandbox, promise("A43")]


@pytest.fixture
def name(anybody: Api) -> str:
    """The name of a function that writes to both streams and fails."""
    name = new_name()
    anybody.active("echo out; sleep 0.3; echo err >&2; echo more; exit 3", name=name)
    return name


def command(server: Server, *words: str) -> tuple[int, str, str]:
    done = quiltfn(*words, "--url", server.url)
    return done.code, done.stdout, done.stderr


def test_a_call_is_shown_as_it_writes(open_server: Server, anybody: Api) -> None:
    name = new_name()
    anybody.active("echo out; sleep 2; echo err >&2; date +%s.%N; exit 3", name=name)
    words = [str(QUILTFN), "invoke", name, "--stream", "--url", open_server.url]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"out\n"
        assert time.time() < float(process.stdout.read()), "it came after the last was written"
    assert process.returncode == 3


def test_the_record_is_its_json(open_server: Server, name: str) -> None:
    code, out, _ = command(open_server, "invoke", name, "--stream", "-o", "json")
    record = json.loads(out)
    assert (code, record["status"], record["stdout"]) == (3, "failed", "out\nmore\n")


def test_logs_of_a_function_are_of_its_last_calls(open_server: Server, anybody: Api) -> None:
    name = new_name()
    function_id = anybody.active('echo "$QUILT_PAYLOAD"; echo e >&2; echo last', name=name)
    calls = [anybody.invoke(function_id, str(number)) for number in range(3)]
    code, out, err = command(open_server, "logs", name)
    assert (code, out) == (0, "0\nlast\n1\nlast\n2\nlast\n")
    assert err.count("e\n") == 3
    assert all(one["invocation_id"] in err for one in calls)
    assert command(open_server, "logs", name, "--tail", "1", "--stream", "stdout")[1] == (
        "last\n" * 3
    )
    assert command(open_server, "logs", name, "--since", "1h")[1] == out
    only = command(open_server, "logs", function_id, "--call", calls[1]["invocation_id"])
    assert only[1] == "1\nlast\n"
    lines = command(open_server, "logs", name, "-o", "json")[1].splitlines()
    assert [json.loads(one)["event"] for one in lines[-1:]] == ["end"]
    code, _, err = command(open_server, "logs", name, "--since", "soon")
    assert (code, "--since must be an age" in err) == (2, True)


@promise("W27")
def test_retried_attempts_are_in_logs_and_lists(open_server: Server, anybody: Api) -> None:
    name = new_name()
    function_id = anybody.active("echo out; echo err >&2; exit 3", name=name)
    policy = {"max_attempts": 3, "backoff_seconds": {"first": 0, "jitter": 0}}
    anybody.good("PUT", f"/api/functions/{function_id}/async-policy", policy)
    waited = command(open_server, "invoke", name, "--async", "--wait")
    assert (
        waited[2]
        .splitlines()[-1]
        .startswith("failed (the handler exited with code 3: err), attempt 3 · ")
    )
    for words in (("--function", name), ()):
        assert "failed (3), attempt 3" in command(open_server, "invocations", *words)[1]
    found = command(open_server, "functions", "invocations", name, "-o", "json")
    (record,) = json.loads(found[1])["invocations"]
    call = record["invocation_id"]
    for words in ((), ("--call", call), ("--since", "1h")):
        code, out, err = command(open_server, "logs", name, *words)
        assert (code, out) == (0, "out\n" * 3)
        said = [line.partition(" in ")[0] for line in err.splitlines()]
        assert said == [
            line for number in (1, 2, 3) for line in ("err", f"{call} attempt {number} failed")
        ]
        assert err.count(" ms: the handler exited with code 3: err\n") == 3
    out = command(open_server, "logs", name, "--stream", "stdout", "--tail", "0")[1]
    assert out == ""
    lines = command(open_server, "logs", name, "-o", "json")[1].splitlines()
    events = [json.loads(one) for one in lines]
    over = [one["attempt"] for one in events if one["event"] == "attempt"]
    assert [(one["attempt"], one["stdout"]) for one in over] == [(1, "out\n"), (2, "out\n")]


def test_the_logs_of_a_function_are_followed(open_server: Server, anybody: Api, name: str) -> None:
    function_id = anybody.good("GET", f"/api/functions/by-name/{name}")["id"]
    words = [str(QUILTFN), "logs", name, "-f", "--url", open_server.url]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        look = selectors.DefaultSelector()
        look.register(process.stdout, selectors.EVENT_READ)

        def is_seen() -> bool:
            anybody.invoke(function_id)  # invokes until the command listens
            return bool(look.select(0))

        until(is_seen, 30)
        seen = process.stdout.readline()
        process.terminate()
    assert seen == b"out\n"
