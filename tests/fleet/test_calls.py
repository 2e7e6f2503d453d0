"""Real nodes that run invocations for each other."""

import asyncio
import os
import signal
import threading
import time
from functools import partial
from typing import Any

import httpx
import pytest

from e2e.server import Function, Server, until
from fleet.nodes import Fleet, on
from promises import promise
from quiltfn.base.setting_files import read_private
from quiltfn.fleet import files
from quiltfn.fleet.peers import SILENT_S, HttpPeers
from service.peers.pair import Directory
from timeouts import scaled

pytestmark = [pytest.mark.sandbox, promise("N74")]

BEAT_S, HEARD_S = 0.2, 1.0  # the time within which invocations at other nodes follow a change
SHORT = f"--fleet-beat-s {BEAT_S} --fleet-fence-s 2 --fleet-end-s 4 --fleet-reap-s 10"


@pytest.fixture(scope="module")
def shared(shared_fleet: Fleet) -> list[Server]:
    """Three nodes. Each test must leave them as they were."""
    return [shared_fleet.node(name, SHORT).start() for name in ("one", "two", "three")]


class Nodes:
    """Three nodes, and a function with one instance, on the first node."""

    def __init__(self, nodes: list[Server], handler: str, **more: Any) -> None:
        self.first, self.second, self.third = nodes
        self.function = self.first.deploy(handler, **{"max_instances": 1, **more})
        for node in (self.second, self.third):
            on(node, self.function)
        assert self.ran_on(self.function.invoke()) == "one"
        for node in (self.second, self.third):
            until(partial(has_one_ready, self.at(node)))
        time.sleep(3 * BEAT_S)  # the other nodes have read the state by then

    def at(self, node: Server) -> Function:
        return Function(node, self.function.id)

    @staticmethod
    def ran_on(record: dict[str, Any]) -> str:
        return str(record["execution_node_id"])


def has_one_ready(function: Function) -> bool:
    return bool(function.pool()["ready_count"] == 1)


def knows(node: Server, path: str) -> bool:
    return bool(node.call("GET", path).status_code == 200)


def test_a_version_taken_back_at_one_node_gets_no_more_calls(shared: list[Server]) -> None:
    first, second, third = shared
    function = first.deploy("echo one", max_instances=3)
    assert first.call("PUT", function.path, {"handler": "exit 1"}).status_code == 200
    assert first.call("POST", f"{function.path}/rollback", {"version": 1}).status_code == 200
    alias, call = f"{function.path}/aliases/live", f"{function.path}/invoke?alias=live"
    body = {"version": 1, "also": {"version": 2, "weight": 0.5}, "rollback_on": {"error_rate": 0.1}}
    assert first.call("PUT", alias, body).status_code == 200
    for node in (second, third):
        until(partial(knows, node, alias))

    def called_at(node: Server) -> str:
        answer = node.call("POST", call, {})
        assert answer.status_code == 200, answer.text
        return answer.headers["x-function-version"]

    until(lambda: called_at(third) == "2")  # at first, each node sees the alias with both versions
    until(lambda: called_at(second) and second.call("GET", alias).json()["also"] is None)
    time.sleep(HEARD_S)
    for node in shared:
        assert {called_at(node) for _ in range(10)} == {"1"}
        assert "2: " in node.call("GET", alias).json()["rolled_back"]


@promise("N16")
def test_a_call_goes_to_the_node_that_has_an_instance(shared: list[Server]) -> None:
    nodes = Nodes(shared, "cat")
    path = f"{nodes.function.path}/invoke"
    answer = nodes.second.call("POST", path, {"payload": "grain"})
    assert (answer.status_code, answer.json()["stdout"]) == (200, "grain")
    assert answer.json()["execution_node_id"] == "one"
    assert answer.json()["cold_start"] is False
    # A long payload and a long result arrive completely.
    long = nodes.third.call("POST", path, {"payload": "x" * 3_000_000})
    assert len(long.json()["stdout"]) == 3_000_000
    # Every node finds the record, under the id that the first node assigned.
    record = f"{nodes.function.path}/invocations/{answer.headers['x-invocation-id']}"
    for node in (nodes.first, nodes.second, nodes.third):
        until(partial(knows, node, record))


@promise("N18", "N75")
def test_a_running_call_is_seen_from_any_node(shared: list[Server], shared_fleet: Fleet) -> None:
    nodes = Nodes(shared, "echo begun; sleep ${QUILT_PAYLOAD:-0}")
    called = nodes.second.later(nodes.at(nodes.second).invoke, "30")
    [call_id] = until(lambda: running(nodes.third, nodes.function))
    record = f"{nodes.function.path}/invocations/{call_id}"
    logs = nodes.third.call("GET", f"{record}/logs")
    assert logs.text == "begun\n"
    timeline = nodes.third.call("GET", f"{record}/timeline")
    assert timeline.status_code == 200
    own = files.parse(files.NodeFile, read_private("fleet", shared_fleet.directory / "three.toml"))
    where = {name: shared_fleet.addresses[name] for name in ("one", "two")}
    assert asyncio.run(known(own, where, call_id)) == {"one": "true", "two": "false"}
    cancelled = nodes.third.call("POST", f"{record}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert called.result()["status"] == "cancelled"
    assert asyncio.run(known(own, where, call_id)) == {"one": "false", "two": "false"}


async def known(own: files.NodeFile, nodes: dict[str, str], invocation_id: str) -> dict[str, str]:
    """Asks each node for an invocation that may be lost; returns their responses."""
    peers = HttpPeers(own, Directory(nodes), keys=None)
    found, target = {}, f"/fleet/calls/{invocation_id}".encode()
    try:
        for name in nodes:
            async with peers.request(name, "GET", target, (), b"", None) as answer:
                found[name] = (await answer.read(100)).decode()
    finally:
        await peers.aclose()
    return found


def running(node: Server, function: Function) -> list[str]:
    found = node.call("GET", f"{function.path}/invocations?status=running").json()
    return [one["invocation_id"] for one in found["invocations"]]


@promise("N17")
def test_a_call_of_a_killed_node_fails_at_once_and_is_not_repeated(shared: list[Server]) -> None:
    nodes = Nodes(shared, "sleep ${QUILT_PAYLOAD:-0}")
    path = f"{nodes.second.url}{nodes.function.path}/invoke"
    called = nodes.second.later(nodes.second.http.post, path, json={"payload": "30"})
    [call_id] = until(lambda: running(nodes.third, nodes.function))
    killed_at = time.monotonic()
    nodes.first.kill_launcher()
    nodes.first.wait()
    answer = called.result()
    assert time.monotonic() - killed_at < scaled(3)
    assert (answer.status_code, answer.json()["error_code"]) == (503, "RUNTIME_UNAVAILABLE")
    assert answer.headers["x-invocation-id"] == call_id
    record = f"{nodes.function.path}/invocations/{call_id}"
    until(lambda: nodes.third.call("GET", record).json()["status"] == "interrupted", 20)
    # Once the other nodes have taken the node over, they may start its instance.
    assert nodes.ran_on(nodes.at(nodes.second).invoke("0")) in ("two", "three")
    nodes.first.start()  # the start cleans up after the killed server


@promise("N75")
def test_a_node_that_stands_still_is_noticed(shared: list[Server]) -> None:
    nodes = Nodes(shared, "echo hello", max_instances=3)
    path = f"{nodes.function.path}/invoke"
    assert (
        nodes.ran_on(nodes.at(nodes.second).invoke()) == "one"
    )  # from now on there is a connection between the nodes
    server = nodes.first.pid
    os.kill(server, signal.SIGSTOP)
    try:
        began = time.monotonic()
        sent = nodes.second.call("POST", path)
        assert SILENT_S <= time.monotonic() - began < SILENT_S + scaled(2)
        later = [nodes.second.call("POST", path).json() for _ in range(2)]
    finally:
        os.kill(server, signal.SIGCONT)
    # The invocation that had been sent may have run, so it fails; later ones run at other nodes.
    assert (sent.status_code, sent.json()["error_code"]) == (503, "RUNTIME_UNAVAILABLE")
    assert {nodes.ran_on(one) for one in later} <= {"two", "three"}
    record = f"{nodes.function.path}/invocations/{sent.headers['x-invocation-id']}"
    until(partial(knows, nodes.third, record))


@promise("N19", "N96")
def test_nodes_that_are_drained_one_after_the_other_fail_no_call(shared: list[Server]) -> None:
    """During an upgrade, each node is drained in turn. Invocations at a drained node must run at
    another one, including those that name a version.
    """
    nodes = Nodes(shared, "echo hello", max_instances=4)
    changed = nodes.first.call("PUT", nodes.function.path, {"handler": "echo other"})
    assert changed.status_code == 200
    ends: list[tuple[int, str]] = []
    is_over = threading.Event()

    def call(node: Server, query: str) -> None:
        with httpx.Client(trust_env=False, timeout=scaled(20)) as http:
            while not is_over.is_set():
                answer = http.post(f"{node.url}{nodes.function.path}/invoke{query}", json={})
                ends.append((answer.status_code, answer.text if answer.is_error else ""))
                time.sleep(0.02)

    callers = [
        node.later(call, node, query)
        for node in (nodes.first, nodes.second, nodes.third)
        for query in ("", "?version=1")
    ]
    try:
        for name in ("one", "two", "three"):
            for verb in ("drain", "uncordon"):
                before = len(ends)
                assert nodes.first.call("POST", f"/api/nodes/{name}/{verb}").status_code == 200
                time.sleep(1)  # the other nodes know the change by then
                until(lambda before=before: len(ends) > before + 50, 30)  # type: ignore[misc]
        until(lambda: len(ends) > 100, 30)
    finally:
        is_over.set()
    for caller in callers:
        caller.result()
    assert {status for status, _ in ends} == {200}, {text for _, text in ends}
