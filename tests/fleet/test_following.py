"""Real nodes of one fleet: what is done on one is so on the other within a second."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from e2e.server import Function, Server, until
from fleet.nodes import Fleet
from timeouts import scaled

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def nodes(shared_fleet: Fleet) -> tuple[Server, Server]:
    return shared_fleet.node("one").start(), shared_fleet.node("two").start()


def seen(ask: Callable[[], httpx.Response], true: Callable[[httpx.Response], bool]) -> None:
    """Asks until it is so, for a second."""
    since = time.monotonic()
    while not true(answer := ask()):
        assert time.monotonic() - since < scaled(1.0), answer.text
        time.sleep(0.01)


def on(node: Server, function: Function) -> Function:
    """The same function by another node."""
    return Function(node, function.id)


def test_what_is_done_on_one_node_is_so_on_the_other_within_a_second(
    nodes: tuple[Server, Server],
) -> None:
    one, two = nodes
    function = one.deploy("echo 1", name="shared")
    there = on(two, function)

    def asked() -> httpx.Response:
        return two.call("GET", there.path)

    def becomes(**fields: Any) -> None:
        def is_so(answer: httpx.Response) -> bool:
            return answer.is_success and fields.items() <= answer.json().items()

        seen(asked, is_so)

    def done(method: str, path: str, body: Any = None) -> None:
        answer = one.call(method, path, body)
        assert answer.is_success, answer.text

    becomes(state="active")
    record = there.invoke()
    assert (record["stdout"], record["execution_node_id"]) == ("1\n", "two")
    seen(
        lambda: one.call("GET", f"{function.path}/invocations/{record['invocation_id']}"),
        lambda answer: answer.is_success and answer.json()["execution_node_id"] == "two",
    )
    done("PUT", function.path, {"handler": "echo 2"})
    becomes(current_version=2)
    assert there.invoke()["stdout"] == "2\n"
    done("PUT", f"{function.path}/url", {"auth": "none"})
    seen(
        lambda: two.call("GET", "/fn/shared"),
        lambda answer: answer.status_code == 200,
    )
    done("PUT", f"{function.path}/async-policy", {"max_attempts": 3})
    seen(
        lambda: two.call("GET", f"{function.path}/async-policy"),
        lambda answer: answer.json()["max_attempts"] == 3,
    )
    done("POST", f"{function.path}/pause")
    becomes(state="paused")
    assert there.try_invoke().status_code == 409
    # Nobody waits between two nodes.
    assert two.call("POST", f"{function.path}/resume").is_success
    done("POST", f"{function.path}/pause")
    assert two.call("POST", f"{function.path}/resume").is_success
    assert there.invoke()["stdout"] == "2\n"
    done("DELETE", function.path)
    seen(asked, lambda answer: answer.status_code == 404)
    until(lambda: function.id not in two.call("GET", "/api/instances").text, 10)


def test_nobody_has_to_wait_between_two_nodes(nodes: tuple[Server, Server]) -> None:
    """As behind a balancer that takes turns."""
    for turn in range(10):
        one, two = nodes if turn % 2 else nodes[::-1]
        function = one.create("echo 1", min_instances=0)
        there = on(two, function)
        assert there.deploy()["state"] == "active"
        assert function.invoke()["stdout"] == "1\n"
        changed = one.call("PUT", function.path, {"handler": "echo 2"})
        assert changed.json()["current_version"] == 2, changed.text
        paused = two.call("POST", f"{there.path}/pause")
        assert paused.is_success, paused.text
        assert there.try_invoke().status_code == 409
        resumed = one.call("POST", f"{function.path}/resume")
        assert resumed.is_success, resumed.text
        assert there.try_invoke().status_code == 200
        assert function.invoke()["stdout"] == "2\n"
        there.delete()


def test_what_was_acknowledged_is_so_in_the_very_next_request(nodes: tuple[Server, Server]) -> None:
    """Whichever node that goes to: in lists and records as well as in changes by name."""
    for turn in range(10):
        one, two = nodes if turn % 2 else nodes[::-1]
        function = one.create("echo 1", name=f"new{turn}", max_instances=3)
        there = on(two, function)
        listed = two.call("GET", "/api/functions").json()["functions"]
        assert function.id in [each["id"] for each in listed]
        job = {"name": f"job{turn}", "function": f"new{turn}", "cron": "0 0 1 1 *"}
        assert two.call("POST", "/api/schedules", job).status_code == 201
        assert one.call("GET", f"/api/schedules/{job['name']}").status_code == 200
        function.deploy()
        record = there.invoke()
        found = one.call("GET", f"{function.path}/invocations/{record['invocation_id']}")
        assert found.json()["stdout"] == "1\n", found.text
        assert one.call("PUT", function.path, {"max_instances": 2}).is_success
        assert two.call("GET", there.path).json()["max_instances"] == 2
        assert two.call("DELETE", there.path).is_success
        assert one.call("GET", function.path).status_code == 404


def test_accepted_work_of_a_node_that_is_stopped_runs_on_the_other(
    nodes: tuple[Server, Server],
) -> None:
    one, two = nodes
    function = two.deploy("echo work", max_instances=4)
    there = on(one, function)
    seen(lambda: one.call("GET", there.path), lambda answer: answer.is_success)
    accepted = []
    for _ in range(20):
        answer = one.call("POST", f"{there.path}/invoke?mode=async&delay_seconds=3", {})
        assert answer.status_code == 202, answer.text
        accepted.append(answer.json()["invocation_id"])
    one.stop()
    until(lambda: all(is_over(one_id, function) for one_id in accepted), 30)
    records = [function.records()[one_id] for one_id in accepted]
    assert {(one["status"], one["execution_node_id"]) for one in records} == {("success", "two")}
    assert len(function.records()) == 20
    one.start()


def is_over(invocation_id: str, function: Function) -> bool:
    return function.records()[invocation_id]["status"] == "success"


def test_each_tick_of_a_schedule_is_made_once_by_two_nodes(nodes: tuple[Server, Server]) -> None:
    one, two = nodes
    function = one.deploy("echo tick", name="ticking", max_instances=4)
    body = {"name": "ticks", "function": "ticking", "every_seconds": 1, "jitter_seconds": 0}
    made = one.call("POST", "/api/schedules", body)
    assert made.status_code == 201, made.text
    time.sleep(20)
    paused = two.call("PUT", "/api/schedules/ticks", {"enabled": False})
    assert paused.is_success, paused.text
    runs = two.call("GET", "/api/schedules/ticks/runs?limit=1000").json()["runs"]
    due = [run["due_at"] for run in runs]
    assert len(due) == len(set(due)), "a tick was decided on twice"
    assert 18 <= sum(run["outcome"] == "accepted" for run in runs) <= 22
    assert max(due) - min(due) + 1 == len(due), "a tick was left out"
    fired = {run["invocation_id"] for run in runs}
    until(lambda: set(function.records()) == fired, 10)
