"""Real nodes of one fleet: a change on one takes effect on the others within a second."""

import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from e2e.server import Function, Server, until
from fleet.freshness import MOST_S, Freshness
from fleet.nodes import Fleet
from promises import promise
from timeouts import scaled

pytestmark = pytest.mark.sandbox


@pytest.fixture(scope="module")
def nodes(shared_fleet: Fleet) -> tuple[Server, Server]:
    return shared_fleet.node("one").start(), shared_fleet.node("two").start()


def seen(call: Callable[[], httpx.Response], true: Callable[[httpx.Response], bool]) -> None:
    """Invokes until the condition holds. Every invocation that begins a second or more from now
    must fulfil it. Other requests would prove nothing, since a node applies the others'
    acknowledged changes before it answers them.
    """
    since = time.monotonic()
    while True:
        began = time.monotonic()
        if true(answer := call()):
            return
        assert began - since < scaled(1.0), answer.text
        time.sleep(0.01)


@promise("N20")
def test_what_one_node_does_the_other_sees_within_a_second(nodes: tuple[Server, Server]) -> None:
    first, second = nodes
    function = first.deploy("echo 1", name="shared")
    there = Function(second, function.id)

    def prints(text: str) -> Callable[[httpx.Response], bool]:
        return lambda answer: answer.is_success and answer.json()["stdout"] == text

    def answers(status: int) -> Callable[[httpx.Response], bool]:
        return lambda answer: answer.status_code == status

    def done(method: str, path: str, body: Any = None) -> None:
        answer = first.call(method, path, body)
        assert answer.is_success, answer.text

    record = there.invoke()
    assert (record["stdout"], record["execution_node_id"]) == ("1\n", "two")
    for number in range(2, 6):
        done("PUT", function.path, {"handler": f"echo {number}"})
        seen(there.try_invoke, prints(f"{number}\n"))
    done("POST", f"{function.path}/rollback", {"version": 1})
    seen(there.try_invoke, prints("1\n"))
    by_url = partial(second.call, "GET", "/fn/shared")
    done("PUT", f"{function.path}/url", {"auth": "none"})
    seen(by_url, answers(200))
    done("DELETE", f"{function.path}/url")
    seen(by_url, answers(404))
    done("POST", f"{function.path}/pause")
    seen(there.try_invoke, answers(409))
    assert second.call("POST", f"{function.path}/resume").is_success
    # The second node gets the next request at once, before it has heard of the first node's change.
    done("POST", f"{function.path}/pause")
    assert second.call("POST", f"{function.path}/resume").is_success
    assert there.invoke()["stdout"] == "1\n"
    done("DELETE", function.path)
    seen(there.try_invoke, answers(404))
    until(lambda: function.id not in second.call("GET", "/api/instances").text, 10)


def test_a_storm_measures_how_late_calls_see_a_change(nodes: tuple[Server, Server]) -> None:
    fleet: Any = SimpleNamespace(nodes=[SimpleNamespace(**named(one)) for one in nodes])
    fleet.deploy = nodes[0].deploy
    freshness = Freshness(fleet, lambda _node, _since: True)
    freshness.start()
    try:
        until(lambda: freshness.changes > 4, 30)
    finally:
        freshness.stop()
    assert freshness.stale_there == 0, freshness.examples
    assert freshness.slowest_s < scaled(MOST_S), freshness.examples


def named(node: Server) -> dict[str, Any]:
    """The node's data in the form that `Freshness` needs."""
    return {"name": node.id, "url": node.url, "headers": node.headers}


@promise("N26")
def test_what_was_acknowledged_is_so_in_the_very_next_request(nodes: tuple[Server, Server]) -> None:
    """The next request may go to any node, and may be a list, a record, or a change by name."""
    for turn in range(10):
        first, second = nodes if turn % 2 else nodes[::-1]
        function = first.create("echo 1", name=f"new{turn}", max_instances=3)
        there = Function(second, function.id)
        listed = second.call("GET", "/api/functions").json()["functions"]
        assert function.id in [each["id"] for each in listed]
        job = {"name": f"job{turn}", "function": f"new{turn}", "cron": "0 0 1 1 *"}
        assert second.call("POST", "/api/schedules", job).status_code == 201
        assert first.call("GET", f"/api/schedules/{job['name']}").status_code == 200
        function.deploy()
        record = there.invoke()
        found = first.call("GET", f"{function.path}/invocations/{record['invocation_id']}")
        assert found.json()["stdout"] == "1\n", found.text
        assert first.call("PUT", function.path, {"max_instances": 2}).is_success
        assert second.call("GET", there.path).json()["max_instances"] == 2
        assert second.call("DELETE", there.path).is_success
        assert first.call("GET", function.path).status_code == 404
