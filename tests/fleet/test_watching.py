"""Real nodes: what is seen at one of them is true of all."""

from functools import partial

import pytest

from e2e.server import Function, Server, until
from fleet.nodes import Fleet

pytestmark = pytest.mark.sandbox

SHORT = "--fleet-beat-s 0.2 --fleet-fence-s 2 --fleet-end-s 4 --fleet-reap-s 6"


@pytest.fixture
def nodes(fleet: Fleet) -> tuple[Server, Server]:
    one, two = fleet.node("one", SHORT).start(), fleet.node("two", SHORT).start()
    return one, two


def on(node: Server, function: Function) -> Function:
    """The same function, asked for at another node, once that has heard of it."""
    there = Function(node, function.id)
    until(lambda: node.call("GET", there.path).json().get("state") == "active")
    return there


def has_ready(node: Server, path: str, count: int) -> bool:
    found = node.call("GET", path).json()
    return (found["ready_count"], found["total_count"]) == (count, count)


def test_instances_are_counted_over_all_nodes(nodes: tuple[Server, Server]) -> None:
    one, two = nodes
    here = one.deploy("echo hello; sleep ${QUILT_PAYLOAD:-0}", min_instances=1, max_instances=4)
    there = on(two, here)
    for node in nodes:
        until(partial(has_ready, node, f"{here.path}/pool", 1))
    # While the one has a call, another one starts at the second node.
    busy = one.later(here.invoke, "3")
    until(lambda: one.call("GET", f"{here.path}/pool").json()["busy_count"] == 1)
    until(lambda: there.invoke()["execution_node_id"] == "two")
    busy.result()
    for node in nodes:
        until(partial(has_ready, node, f"{here.path}/pool", 2))
        assert has_ready(node, "/api/functions/pool/stats", 2)
        [pool] = node.call("GET", "/api/functions/pools").json()["pools"]
        assert (pool["function_id"], pool["ready_count"]) == (here.id, 2)
        found = node.call("GET", "/api/instances").json()
        assert sorted(each["node_id"] for each in found["instances"]) == ["one", "two"]
        assert found["total_count"] == 2
