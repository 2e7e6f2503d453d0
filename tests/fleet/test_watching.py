"""Real nodes: each shows the events and the state of the whole fleet. It is one test, since the
start of a fleet takes seconds.
"""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from e2e.server import Function, Server, until
from fleet.nodes import Fleet, on
from promises import promise
from timeouts import scaled

pytestmark = [pytest.mark.sandbox, promise("N50", "N51", "N52", "N53", "N54")]

SHORT = "--fleet-beat-s 0.2 --fleet-fence-s 2 --fleet-end-s 4 --fleet-reap-s 10"
NamedEvent = tuple[str, dict[str, Any]]


def has_ready(node: Server, path: str, count: int) -> bool:
    found = node.call("GET", path).json()
    return (found["ready_count"], found["total_count"]) == (count, count)


@contextlib.contextmanager
def followed(node: Server, path: str = "/api/events") -> Iterator[list[NamedEvent]]:
    """Collects the events that a node sends, until the end of the block."""
    events: list[NamedEvent] = []
    with (
        httpx.Client(trust_env=False, timeout=None) as http,
        http.stream("GET", f"{node.url}{path}?follow=true") as answer,
    ):
        assert answer.status_code == 200
        lines = answer.iter_lines()

        def read() -> None:
            name = ""
            with contextlib.suppress(httpx.HTTPError, httpx.StreamError):
                for line in lines:
                    kind, _, value = line.partition(": ")
                    if kind == "event":
                        name = value
                    elif kind == "data":
                        events.append((name, json.loads(value)))

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        yield events
        answer.extensions["network_stream"].get_extra_info("socket").shutdown(2)
        thread.join(scaled(10))


def of_call(events: list[NamedEvent], invocation_id: str) -> list[str]:
    return [name for name, data in events if data.get("invocation_id") == invocation_id]


def is_told(events: list[NamedEvent], function: Function) -> bool:
    """Whether the start and the end of an invocation arrive, once each. After many invocations,
    they may be part of a summary.
    """
    answer = function.try_invoke()
    assert answer.status_code == 200, answer.text
    call = answer.headers["x-invocation-id"]
    for _ in range(10):
        if len(of_call(events, call)) == 2:
            break
        time.sleep(0.1)
    return of_call(events, call) == ["invocation.started", "invocation.ended"]


def is_written(events: list[NamedEvent], function: Function) -> bool:
    """Whether the output and the end of an invocation arrive, in this order and once."""
    call = function.try_invoke().headers["x-invocation-id"]
    for _ in range(10):
        if "end" in of_call(events, call):
            break
        time.sleep(0.1)
    return of_call(events, call) == ["started", "stdout", "end"]


def test_what_is_seen_at_one_node_is_true_of_all(fleet: Fleet) -> None:
    first, second = fleet.node("one", SHORT).start(), fleet.node("two", SHORT).start()
    with followed(second) as events:
        here = instances_are_counted_over_both(first, second)
        events_come_from_both(second, here, events)
    with followed(second, f"{here.path}/logs") as events:
        for function in (here, Function(second, here.id)):
            until(partial(is_written, events, function))
    calls_in_flight_are_those_of_both(first, second, here)
    with followed(second) as events:
        a_killed_node_is_a_gap_and_heals(first, second, here, events)
        began = time.monotonic()
        second.stop()
        assert time.monotonic() - began < scaled(8), "it waited for its readers"


def instances_are_counted_over_both(first: Server, second: Server) -> Function:
    here = first.deploy("echo hello; sleep ${QUILT_PAYLOAD:-0}", min_instances=1, max_instances=4)
    there = on(second, here)
    for node in (first, second):
        until(partial(has_ready, node, f"{here.path}/pool", 1))

    def starts_there() -> bool:
        """Invokes at the second node while the first invocation runs. Returns whether the second
        invocation ran at node two.
        """
        busy = first.later(here.invoke, "1.5")
        until(lambda: busy.done() or here.pool()["busy_count"] == 1)
        ran_on = there.invoke()["execution_node_id"]
        busy.result()
        return bool(ran_on == "two")

    until(starts_there)  # on a busy machine, the first invocation may end too soon
    for node in (first, second):
        until(partial(has_ready, node, f"{here.path}/pool", 2))
        assert has_ready(node, "/api/functions/pool/stats", 2)
        [pool] = node.call("GET", "/api/functions/pools").json()["pools"]
        assert (pool["function_id"], pool["ready_count"]) == (here.id, 2)
        found = node.call("GET", "/api/instances").json()
        assert sorted(each["node_id"] for each in found["instances"]) == ["one", "two"]
        assert found["total_count"] == 2
    return here


def events_come_from_both(second: Server, here: Function, events: list[NamedEvent]) -> None:
    names = [name for name, data in events if data.get("function_id") == here.id]
    assert names.count("function.created") == 1
    assert names.count("function.deployed") == 1
    for function in (here, Function(second, here.id)):
        until(partial(is_told, events, function))
    until(lambda: [data["ready"] for name, data in events if name == "pool"][-1] == 2)
    ids = [data["invocation_id"] for name, data in events if name == "invocation.ended"]
    assert len(set(ids)) == len(ids), "an end was told twice"


QUOTA = "/api/tenants/default/quota"


def limited(nodes: tuple[Server, ...], **limits: float) -> None:
    """Sets the tenant's limits, and waits until all nodes have them."""
    assert nodes[0].call("PUT", QUOTA, limits).status_code == 200
    for node in nodes:
        until(partial(has_limits, node, limits))


def has_limits(node: Server, limits: dict[str, float]) -> bool:
    found: dict[str, Any] = node.call("GET", QUOTA).json()
    return limits.items() <= found.items()


def is_taken(function: Function) -> bool:
    return function.try_invoke().status_code == 200


def in_flight(node: Server) -> int:
    used: dict[str, int] = node.call("GET", QUOTA).json()["used"]
    return used["calls_in_flight"]


@contextlib.contextmanager
def held(*functions: Function) -> Iterator[None]:
    """Runs an invocation of each function until the end of the block."""
    calls = [each.server.later(each.try_invoke, "600") for each in functions]

    def have_ended() -> bool:
        for each in functions:
            found = each.server.call("GET", f"{each.path}/invocations?status=running").json()
            for record in found["invocations"]:
                path = f"{each.path}/invocations/{record['invocation_id']}/cancel"
                each.server.call("POST", path)
        return all(call.done() for call in calls)

    try:
        yield
    finally:
        until(have_ended)


def calls_in_flight_are_those_of_both(first: Server, second: Server, here: Function) -> None:
    limited((first, second), calls_in_flight=2)
    there = Function(second, here.id)
    with held(here, there):
        until(lambda: in_flight(first) == 2 == in_flight(second))
        for each in (here, there):
            refused = each.try_invoke()
            assert (refused.status_code, refused.json()["error_code"]) == (429, "RATE_LIMITED")
    for each in (here, there):
        until(partial(is_taken, each))


def a_killed_node_is_a_gap_and_heals(
    first: Server, second: Server, here: Function, events: list[NamedEvent]
) -> None:
    until(partial(is_told, events, here))
    first.kill_launcher()
    first.wait()
    until(lambda: ("gap", {"events": None, "node_id": "one"}) in events)
    until(partial(is_told, events, Function(second, here.id)))
    gaps = [name for name, _ in events].count("gap")
    first.start()
    again = on(first, here)
    # Events may have been missed before the node was followed again, which is another gap.
    until(lambda: [name for name, _ in events].count("gap") > gaps)
    until(partial(is_told, events, again))
