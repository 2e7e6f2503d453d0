"""Asynchronous invocations in real sandboxes, whose server is stopped and killed."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.server import Function, Server, until, watched
from e2e.work_load import WITNESSED, Witness, witness
from promises import promise
from timeouts import scaled

pytestmark = pytest.mark.sandbox
PIECES, KILLS = 150, 3
FINAL = {"success", "failed", "timeout", "oom", "cancelled", "error", "interrupted"}


@pytest.fixture(scope="module")
def runs() -> Iterator[Witness]:
    """Sees the runs of handlers."""
    with witness() as runs:
        yield runs


@pytest.fixture(scope="module")
def server(runs: Witness) -> Iterator[Server]:
    """A server that tests stop, kill, and restart."""
    with watched(crun=str(runs.crun)) as server:
        yield server.start()


def accept(server: Server, function: Function, count: int, **query: Any) -> list[str]:
    """Queues invocations; returns the ids of the acknowledged ones."""
    ids = []
    for number in range(count):
        answer = server.http.post(
            f"{function.path}/invoke",
            params={"mode": "async", **query},
            json={"payload": str(number)},
        )
        assert answer.status_code == 202, answer.text
        ids.append(answer.json()["invocation_id"])
    return ids


def policy(server: Server, function: Function, **fields: Any) -> None:
    answer = server.call("PUT", f"{function.path}/async-policy", fields)
    assert answer.status_code == 200, answer.text


def record(server: Server, function: Function, invocation_id: str, wait_s: int = 0) -> Any:
    query = f"?wait_seconds={wait_s}" if wait_s else ""
    answer = server.call("GET", f"{function.path}/invocations/{invocation_id}{query}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def final(server: Server, function: Function, invocation_id: str) -> Any:
    found = until(
        lambda: [
            one for one in [record(server, function, invocation_id, 5)] if one["status"] in FINAL
        ],
        scaled(60),
    )
    return found[0]


def attempts(server: Server, function: Function, invocation_id: str) -> list[str]:
    answer = server.call("GET", f"{function.path}/invocations/{invocation_id}/attempts")
    return [one["status"] for one in answer.json()["attempts"]]


def test_what_was_acknowledged_runs_once_for_each_attempt_despite_kills(
    server: Server, runs: Witness
) -> None:
    chance = random.Random(20261126)
    once, often = [server.deploy(f"{WITNESSED}sleep 0.01", max_instances=2) for _ in range(2)]
    policy(server, often, max_attempts=10, backoff_seconds={"first": 0.1})
    ids = {once.id: accept(server, once, PIECES), often.id: accept(server, often, PIECES)}
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.05, 0.6))
        server.kill_server()
        server.wait(20)
        server.start()
    for function, allowed in ((once, {"success", "interrupted"}), (often, {"success"})):
        for number, call_id in enumerate(ids[function.id]):
            ended = final(server, function, call_id)
            assert ended["status"] in allowed, ended
            assert ended["status"] != "success" or ended["stdout"] == str(number)
    counts = Counter(run.invocation_id for run in runs.runs())
    for call_id in ids[once.id]:
        (only,) = attempts(server, once, call_id)
        # An interrupted attempt may have been killed before its run.
        assert (only == "success") <= counts[call_id] <= 1
    for call_id in ids[often.id]:
        *before, last = attempts(server, often, call_id)
        assert (set(before) <= {"interrupted"}, last) == (True, "success")
        assert 1 <= counts[call_id] <= 1 + len(before)
    for function in (once, often):
        queue = server.call("GET", f"{function.path}/queue").json()
        assert (queue["queued"], queue["running"]) == (0, 0), queue


@promise("W13")
def test_a_stop_puts_back_what_has_not_begun_and_lets_running_work_end(server: Server) -> None:
    function = server.deploy("sleep 0.5; echo done", max_instances=1)
    ids = accept(server, function, 4)
    until(lambda: record(server, function, ids[0])["status"] == "running")
    server.restart()
    for call_id in ids:
        assert final(server, function, call_id)["status"] == "success"
        assert attempts(server, function, call_id) == ["success"]
