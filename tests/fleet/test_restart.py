"""Nodes are stopped with SIGTERM and started again while clients invoke through a load balancer.

`scripts/soak fleet --matrix` does the same with three nodes and 200 invocations a second.
"""

import time

import pytest

from e2e.server import Server
from fleet.balancer import Balancer, Calls
from fleet.nodes import Fleet
from free_ports import free_port
from promises import promise

pytestmark = [pytest.mark.sandbox, promise("N71", "N74")]

SHORT = "--fleet-beat-s 0.2 --fleet-fence-s 3 --fleet-end-s 4 --fleet-reap-s 10"
PER_SECOND = 60


def test_a_node_that_is_restarted_fails_no_call(fleet: Fleet) -> None:
    """The node is not drained before SIGTERM. Invocations on their way to it must run at the other
    node.
    """
    first, second = (at_its_port(fleet, name).start() for name in ("one", "two"))
    function = first.deploy("true", max_instances=4)
    with Balancer([first, second]) as balancer:
        with Calls(balancer, f"{function.path}/invoke", PER_SECOND, callers=8) as calls:
            time.sleep(1)
            first.restart()
            time.sleep(1)
    assert not calls.failed, calls.failed
    assert calls.ends["success"] > PER_SECOND


def at_its_port(fleet: Fleet, name: str) -> Server:
    """A load balancer knows a node by its address, so the port stays the same after a restart."""
    return fleet.node(name, f"{SHORT} --port {free_port()}")
