"""Real nodes of one fleet: which of them count as present, and what happens to the invocations of a
lost node.
"""

import os
import signal
import time
from typing import Any

import httpx
import pytest

from e2e.server import Function, Server, quiltfn, until
from fleet.nodes import Fleet
from promises import promise
from quiltfn.model.end_cause import NODE_LOST
from timeouts import full_wait

pytestmark = [pytest.mark.sandbox, promise("N33", "N74")]
REAP_S = 10
SHORT = f"--fleet-beat-s 0.2 --fleet-fence-s 3 --fleet-end-s 4 --fleet-reap-s {REAP_S}"
THRICE = {"max_attempts": 3, "backoff_seconds": {"first": 0.1, "jitter": 0}}


@pytest.fixture(scope="module")
def two_nodes(shared_fleet: Fleet) -> tuple[Server, Server]:
    """Two nodes with the default times of a fleet. Each test must leave them as they were."""
    return shared_fleet.node("one").start(), shared_fleet.node("two").start()


def nodes(asked: Server) -> dict[str, dict[str, Any]]:
    answer = asked.call("GET", "/api/nodes")
    assert answer.status_code == 200, answer.text
    return {one["name"]: one for one in answer.json()["nodes"]}


def kill_all(node: Server) -> None:
    """Kills the launcher, and with it the node's server and sandboxes."""
    node.kill_launcher()
    node.wait()


def accepted(node: Server, function: Function) -> str:
    answer = node.call("POST", f"{function.path}/invoke?mode=async", {"payload": "x"})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["invocation_id"])


def record_of(node: Server, function: Function, call: str) -> dict[str, Any]:
    answer = node.call("GET", f"{function.path}/invocations/{call}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def attempts_of(node: Server, function: Function, call: str) -> list[dict[str, Any]]:
    answer = node.call("GET", f"{function.path}/invocations/{call}/attempts")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["attempts"])


def heard_of(node: Server, state: str) -> bool:
    """Whether the node knows its own state, and then had time for a heartbeat, by which it learns
    the state of others.
    """
    own = next(one for one in nodes(node).values() if one["is_own"])
    time.sleep(1)
    return bool(own["state"] == state)


def running_on(asked: Server, function: Function, node: str) -> int:
    """The number of invocations that run on a node, according to the store."""
    found = asked.call("GET", f"{function.path}/invocations?status=running").json()
    return sum(one["execution_node_id"] == node for one in found["invocations"])


def take_overs(node: Server) -> float:
    return node.metric("quiltfn_fleet_take_overs_total")


@promise("N30")
def test_the_work_of_a_killed_node_is_tried_again_elsewhere(fleet: Fleet) -> None:
    killed = fleet.node("one", SHORT).start()
    function = killed.deploy("sleep 300; echo done", max_instances=8, timeout_seconds=300)
    answer = killed.call("PUT", f"{function.path}/async-policy", THRICE)
    assert answer.status_code == 200, answer.text
    two, three = (fleet.node(name, SHORT).start() for name in ("two", "three"))
    assert (
        killed.call("POST", "/api/nodes/one/cordon").status_code == 200
    )  # node one accepts no invocations of other nodes
    until(lambda: heard_of(killed, "cordoned"))
    kept = [two.later(Function(two, function.id).invoke) for _ in range(2)]
    until(lambda: nodes(two)["two"]["running_calls"] + nodes(two)["three"]["running_calls"] == 2)
    assert killed.call("POST", "/api/nodes/one/uncordon").status_code == 200
    for name in ("two", "three"):  # all invocations must start on node one, which will be lost
        assert killed.call("POST", f"/api/nodes/{name}/cordon").status_code == 200
    until(lambda: all(heard_of(node, "cordoned") for node in (two, three)))
    calls = [accepted(killed, function) for _ in range(4)]
    lost = killed.later(
        killed.http.post, f"{killed.url}{function.path}/invoke", json={"payload": "x"}
    )
    # the store has the start of each invocation
    until(lambda: running_on(two, function, "one") == 5)
    for name in ("two", "three"):
        assert killed.call("POST", f"/api/nodes/{name}/uncordon").status_code == 200
    began = time.monotonic()
    kill_all(killed)
    with pytest.raises(httpx.HTTPError):
        lost.result()
    until(lambda: nodes(two)["one"]["presence"] == "gone", 3 * REAP_S)
    # node one must not be taken over before its instances have certainly ended
    assert time.monotonic() - began > REAP_S - 1

    def have_succeeded() -> bool:
        for node in (two, three):
            node.wake(0)
        return {record_of(three, function, one)["status"] for one in calls} == {"success"}

    until(have_succeeded, 30)
    for call in calls:
        attempts = attempts_of(three, function, call)
        assert len(attempts) == 2, (attempts, record_of(three, function, call))
        first, second = attempts
        assert (first["status"], first["execution_node_id"]) == ("interrupted", "one")
        assert (second["status"], second["execution_node_id"] in ("two", "three")) == (
            "success",
            True,
        )
    assert [one.result()["status"] for one in kept] == ["success", "success"]
    assert take_overs(two) + take_overs(three) == 1
    listed = two.call("GET", f"{function.path}/invocations?status=interrupted").json()
    (ended,) = listed["invocations"]
    assert record_of(two, function, ended["invocation_id"])["error_message"] == NODE_LOST.sentence
    # When the lost node starts again, it is a member again, and changes none of these records.
    killed.start()
    assert nodes(two)["one"]["presence"] == "present"
    statuses = [record_of(killed, function, call)["status"] for call in calls]
    assert statuses == ["success"] * 4
    # these counts come from the store
    found = killed.call("GET", f"/api/functions/{function.id}").json()
    assert found["invocation_count"] == len(calls) + len(kept) + 1


@promise("N32")
def test_a_node_that_stood_still_too_long_ends_and_starts_anew(fleet: Fleet) -> None:
    first, second = fleet.node("one", SHORT).start(), fleet.node("two", SHORT).start()
    os.kill(first.pid, signal.SIGSTOP)
    try:
        until(lambda: nodes(second)["one"]["is_silent"], REAP_S)
        until(lambda: nodes(second)["one"]["presence"] == "gone", 3 * REAP_S)
        assert not nodes(second)["one"]["is_silent"]
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert first.wait() != 0  # a service manager restarts a server that failed
    assert "this node ends: another node has taken this one over" in first.log.read_text()
    first.start()
    assert nodes(second)["one"]["presence"] == "present"
    first.until_ready()


@promise("N31")
def test_a_node_that_is_stopped_in_order_leaves_at_once(two_nodes: tuple[Server, Server]) -> None:
    first, second = two_nodes
    before = take_overs(second)
    function = first.deploy("sleep 2; echo done")
    running = first.later(function.invoke)
    until(lambda: nodes(first)["one"]["running_calls"] == 1)
    first.terminate()
    assert running.result()["status"] == "success"
    assert first.wait() == 0
    # The node has left the fleet, so nobody waits for the reap time of 100 s.
    until(lambda: nodes(second)["one"]["presence"] == "gone", 10)
    assert take_overs(second) == before + 1
    first.start()


@promise("N62")
def test_a_node_that_is_stopped_as_it_starts_leaves(two_nodes: tuple[Server, Server]) -> None:
    first, second = two_nodes
    first.restart()
    first.terminate()
    assert first.wait() == 0
    until(lambda: nodes(second)["one"]["presence"] != "present", 10)  # this is before the reap time
    first.start()


@promise("N64")
def test_a_node_is_drained_and_uncordoned_by_another(two_nodes: tuple[Server, Server]) -> None:
    first, second = two_nodes
    function = first.deploy("sleep 3; echo done", max_instances=2)
    running = first.later(function.invoke)
    until(lambda: nodes(first)["one"]["running_calls"] == 1)
    at = ("--url", second.url)
    done = quiltfn("nodes", "drain", "one", *at)
    assert done.code == 0, done.stderr
    assert "draining" in done.stdout
    until(lambda: not first.is_ready())
    assert first.call("GET", "/health").status_code == 200
    left_out = first.call("GET", "/health/ready")  # load balancers ask this, without a key
    assert (left_out.status_code, left_out.json()["error_code"]) == (503, "SHUTTING_DOWN")
    assert second.call("GET", "/health/ready").json() == {"status": "ok"}
    health = first.call("GET", "/api/functions/health")
    assert "draining" in health.json()["checks"]["accepting_calls"]["reason"]
    # New requests to the drained node run at the other one.
    assert function.invoke()["execution_node_id"] == "two"
    second.until_ready()
    assert running.result()["status"] == "success"  # the running invocation ended normally
    until(lambda: nodes(second)["one"]["running_calls"] == 0)
    waiting = accepted(first, function)
    first.restart()  # the node stays drained after a restart
    until(lambda: function.try_invoke().json().get("execution_node_id") == "two")
    until(lambda: record_of(first, function, waiting)["status"] == "success")
    assert record_of(first, function, waiting)["execution_node_id"] == "two"
    assert quiltfn("nodes", "uncordon", "one", *at).code == 0
    first.until_ready()
    listed = quiltfn("nodes", "list", *at)
    assert [line.split()[:2] for line in listed.stdout.splitlines()[1:]] == [
        ["one", "ready"],
        ["two", "ready"],
    ]


def test_a_cordoned_node_begins_no_accepted_work_and_serves_calls(fleet: Fleet) -> None:
    node = fleet.node("one").start()
    function = node.deploy("echo done")
    assert node.call("POST", "/api/nodes/one/cordon").json()["state"] == "cordoned"
    waiting = accepted(node, function)
    assert function.invoke()["status"] == "success"
    assert record_of(node, function, waiting)["status"] == "queued"
    node.until_ready()
    assert node.call("POST", "/api/nodes/one/uncordon").json()["state"] == "ready"
    until(lambda: record_of(node, function, waiting)["status"] == "success")


def test_a_removed_node_stays_out(shared_fleet: Fleet, two_nodes: tuple[Server, Server]) -> None:
    first, second = shared_fleet.node("three").start(), two_nodes[1]
    until(lambda: nodes(second)["three"]["presence"] == "present")
    assert second.call("DELETE", "/api/nodes/nobody").status_code == 404
    assert second.call("DELETE", "/api/nodes/three").status_code == 204
    assert first.wait() != 0
    assert "an operator has removed this node" in first.log.read_text()
    first.start_without_waiting()
    assert first.wait() == 78
    assert "The node three was removed from the fleet" in first.log.read_text()
    assert nodes(second)["three"]["state"] == "removed"
    refused = second.call("POST", "/api/nodes/three/uncordon")
    assert refused.status_code == 409
    second.until_ready()


def test_health_says_when_the_others_may_take_a_node_for_gone(fleet: Fleet, cluster: Any) -> None:
    # Two nodes confirm keys to each other without the database; by then, a node that is alone
    # cannot tell whether its callers are authorized.
    times = SHORT.replace("--fleet-end-s 4", "--fleet-end-s 40").replace(str(REAP_S), "60")
    node, _ = (fleet.node(name, times).start() for name in ("one", "two"))
    health = node.call("GET", "/api/functions/health").json()
    assert health["checks"]["membership"] == {"ok": True, "reason": "the other nodes see it"}
    with cluster.frozen():
        time.sleep(full_wait(2))
        late = node.call("GET", "/api/functions/health").json()
    assert not late["checks"]["membership"]["ok"]
    assert "no heartbeat was stored for" in late["checks"]["membership"]["reason"]
    node.until_ready(30)
    assert nodes(node)["one"]["presence"] == "present"
