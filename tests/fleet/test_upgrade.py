"""Two nodes are upgraded from this version to a newer one with a newer schema, and one of them is
downgraded, while clients invoke.

`scripts/soak fleet --row rolling-upgrade` does the same with three nodes and 200 invocations a
second.
"""

import time

import pytest

from e2e.server import short_dir, until
from fleet import rolling
from fleet.balancer import Balancer, Calls
from fleet.newer import newer, of_checkout
from fleet.nodes import Fleet
from fleet.test_restart import at_its_port
from promises import promise

pytestmark = [pytest.mark.sandbox, promise("N80", "N83")]

PER_SECOND = 60


def test_a_fleet_is_upgraded_node_by_node_and_fails_no_call(fleet: Fleet) -> None:
    old, nodes = of_checkout(), {name: at_its_port(fleet, name).start() for name in ("one", "two")}
    first, second = nodes.values()
    function = first.deploy("true", max_instances=4)
    job = first.deploy("sleep 0.2; echo done", max_instances=4)
    with short_dir() as directory, Balancer([first, second]) as balancer:
        new = newer(directory / "newer")
        is_on = dict.fromkeys(nodes, old.number)
        with Calls(balancer, f"{function.path}/invoke", PER_SECOND, callers=8) as calls:
            accepted = rolling.accept(second, job, 20, 2)
            for name, version in (("one", new), ("two", new), ("two", old)):
                node, other = nodes[name], second if name == "one" else first
                rolling.drain(other, name)
                node.stop()
                node.runs(version.program)
                node.start()
                rolling.uncordon(other, name)
                is_on[name] = version.number
                until(lambda: rolling.versions(other) == rolling.versions(node) == is_on)  # noqa: B023
                rolling.manage([first, second])
                accepted += rolling.accept(node, job, 5, 1)
            time.sleep(1)
        until(lambda: rolling.is_done(first, job, accepted), 30)
        assert rolling.are_once(second, job, accepted)
    assert not calls.failed, calls.failed
    assert calls.ends["success"] > PER_SECOND
    for node in nodes.values():
        assert "Traceback" not in node.log.read_text(), node.log.read_text()[-4000:]
