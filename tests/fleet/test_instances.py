"""Real nodes that share the instances of a function, which are counted from outside."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e.server import Function, Server, until
from fleet.nodes import Fleet, on
from fleet.sampler import groups, sampled, sandboxes
from promises import promise
from timeouts import full_wait, scaled

pytestmark = [pytest.mark.sandbox, promise("N10", "N14", "N74")]

SHORT = "--prewarmed 0 --fleet-beat-s 0.2 --fleet-fence-s 1 --fleet-end-s 3 --fleet-reap-s 9"


@pytest.fixture(scope="module")
def two_nodes(shared_fleet: Fleet) -> tuple[Server, Server]:
    return shared_fleet.node("one", SHORT).start(), shared_fleet.node("two", SHORT).start()


@pytest.fixture
def nodes(two_nodes: tuple[Server, Server]) -> Iterator[tuple[Server, Server]]:
    """Two nodes, which have no functions and sandboxes before and after each test."""
    yield two_nodes
    first = two_nodes[0]
    for function in first.call("GET", "/api/functions").json()["functions"]:
        Function(first, function["id"]).delete()
    homes = [group for node in two_nodes for group in groups(node)]
    until(lambda: not sandboxes(homes))


@contextlib.contextmanager
def most_at_a_time(*nodes: Server) -> Iterator[Callable[[], int]]:
    """Yields a function that returns the highest number of sandboxes on all nodes together, counted
    until the end of the block.
    """
    most, homes = 0, [group for node in nodes for group in groups(node)]

    def count(there: set[Path]) -> None:
        nonlocal most
        most = max(most, len({one.name for one in there}))

    with sampled(count, lambda: sandboxes(homes)):
        yield lambda: most


def test_calls_at_two_nodes_have_one_instance_at_a_time(nodes: tuple[Server, Server]) -> None:
    first, second = nodes
    function = first.deploy("echo hello", max_instances=1)
    there = on(second, function)
    for name in ("one", "two"):  # a cordoned node only runs invocations that clients send to it
        assert first.call("POST", f"/api/nodes/{name}/cordon").status_code == 200
    time.sleep(full_wait(1.5))  # each node knows it by then
    with most_at_a_time(first, second) as most:
        for _ in range(3):
            for each in (function, there):  # the instance is at this node, or moves there
                assert each.invoke()["status"] == "success"
        until(lambda: most() == 1)  # only the last instance stays, for further invocations
    assert most() == 1
    with most_at_a_time(first, second) as most:  # control: two instances are counted as two
        first.deploy("echo hello", min_instances=1, max_instances=1)
        until(lambda: most() == 2)
    for name in ("one", "two"):
        assert first.call("POST", f"/api/nodes/{name}/uncordon").status_code == 200
    time.sleep(full_wait(1))  # each node knows it by then


def test_calls_of_two_versions_have_one_instance_at_a_time(nodes: tuple[Server, Server]) -> None:
    first, second = nodes
    function = first.deploy("echo old", max_instances=1)
    there = on(second, function)
    assert first.call("PUT", function.path, {"handler": "echo new"}).status_code == 200
    alias = f"{function.path}/aliases/live"
    assert first.call("PUT", alias, {"version": 1}).status_code == 200
    until(lambda: second.call("GET", alias).status_code == 200)
    with most_at_a_time(first, second) as most:
        for query in ("version=1", "alias=live"):
            named = second.call("POST", f"{there.path}/invoke?{query}").json()
            assert named["stdout"] == "old\n"
            assert named["execution_node_id"] == "two"
            assert function.invoke()["stdout"] == "new\n"
        until(lambda: most() == 1)  # only the last instance stays, for further invocations
    assert most() == 1


@promise("N27")
def test_a_function_changes_where_a_node_keeps_its_minimum(nodes: tuple[Server, Server]) -> None:
    """The minimum takes all places, so the new version can only start in place of an old
    instance.
    """
    first, second = nodes
    function = first.deploy("echo old", min_instances=1, max_instances=1)
    there = on(second, function)
    with most_at_a_time(first, second) as most:
        began = time.monotonic()
        changed = second.call("PUT", there.path, {"handler": "echo new"}).json()
        assert (changed["current_version"], changed["error_message"]) == (2, None), changed
        again = first.call("POST", f"{function.path}/deploy").json()
        assert (again["state"], again["error_message"]) == ("active", None), again
        assert time.monotonic() - began < scaled(8)  # the change did not have to wait for a timeout
        assert function.invoke()["stdout"] == "new\n"
        until(lambda: function.pool()["ready_count"] == 1)
    assert most() == 1


def test_a_stopped_node_s_instances_end_before_new_ones_start(nodes: tuple[Server, Server]) -> None:
    """A node's server is stopped. Its launcher must end the instances before another node starts
    new ones, and none may be left when the server is resumed.
    """
    first, second = nodes
    function = first.deploy("echo hello", max_instances=1, min_instances=1)
    there = on(second, function)
    assert function.invoke()["status"] == "success"
    held = sandboxes(groups(first))
    assert len({one.name for one in held}) == 1
    with most_at_a_time(first, second) as most:
        os.kill(first.pid, signal.SIGSTOP)
        stopped_at = time.monotonic()
        until(lambda: not sandboxes(groups(first)), 6)
        assert time.monotonic() - stopped_at > 2  # the instances ended at the deadline, not before
        record = until(lambda: succeeded(there), 20)
        assert record["execution_node_id"] == "two"
        os.kill(first.pid, signal.SIGCONT)
        assert first.wait(scaled(20)) != 0  # the node was taken over, so the resumed server ends
        until(lambda: second.call("GET", there.path).json()["owner_node_id"] == "two")
        until(
            lambda: len({one.name for one in sandboxes(groups(second))}) == 1
        )  # the minimum, which node two maintains from now on
    assert most() == 1
    first.start()


def succeeded(function: Function) -> dict[str, object] | None:
    answer = function.try_invoke()
    return answer.json() if answer.status_code == 200 else None
