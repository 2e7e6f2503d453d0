"""Operations during the upgrade of a fleet, at nodes of two versions: each operation is made at
each node, and its effects are checked at other nodes.
"""

import time
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Any

from e2e.server import Function, Server, until

_numbers = count(1)


def versions(asked: Server) -> dict[str, str]:
    """The versions of the nodes that are present, as this node knows them."""
    found = asked.call("GET", "/api/nodes").json()["nodes"]
    return {one["name"]: one["version"] for one in found if one["presence"] == "present"}


def manage(nodes: Sequence[Server]) -> None:
    """Makes many kinds of changes at each node, and checks each change at the next node."""
    for at, other in zip(nodes, [*nodes[1:], nodes[0]], strict=True):
        name = f"managed{next(_numbers)}"
        made = at.create("echo 1", name=name, min_instances=0)
        there = Function(other, made.id)
        assert there.deploy()["state"] == "active"
        ask(at, "PUT", made.path, {"handler": "echo 2", "description": "changed"})
        assert ask(other, "GET", made.path)["current_version"] == 2
        record = there.invoke()
        assert record["stdout"] == "2\n"
        found = ask(at, "GET", f"{made.path}/invocations/{record['invocation_id']}")
        assert found["status"] == "success"
        job = {"name": name, "function": name, "cron": "0 0 1 1 *"}
        ask(at, "POST", "/api/schedules", job)
        assert ask(other, "GET", f"/api/schedules/{name}")["cron"] == job["cron"]
        ask(at, "PUT", f"{made.path}/async-policy", {"max_attempts": 2})
        assert ask(other, "GET", f"{made.path}/async-policy")["max_attempts"] == 2
        ask(other, "PUT", f"{made.path}/url", {"auth": "none"})
        until(lambda: at.call("GET", f"/fn/{name}").text == "2\n")  # noqa: B023 - within a second
        accepted = accept(at, there, 3)
        until(lambda: is_done(other, there, accepted), 30)  # noqa: B023
        assert len(ask(at, "GET", "/api/instances")["instances"]) > 0
        ask(other, "DELETE", f"/api/schedules/{name}")
        ask(other, "DELETE", there.path)
        assert at.call("GET", made.path).status_code == 404


def ask(at: Server, method: str, path: str, body: Any = None) -> Any:
    answer = at.call(method, path, body)
    text = f"{method} {path}: {answer.status_code} {answer.text}"
    assert answer.is_success, f"{text}\n{at.log.read_text()[-4000:]}"
    return answer.json() if answer.content else None


def accept(at: Server, function: Function, number: int, delay_s: int = 0) -> list[str]:
    """Queues invocations of a function; returns their ids."""
    path = f"{function.path}/invoke?mode=async&delay_seconds={delay_s}"
    return [ask(at, "POST", path, {})["invocation_id"] for _ in range(number)]


def is_done(asked: Server, function: Function, accepted: Sequence[str]) -> bool:
    """Whether all these invocations have succeeded."""
    found = [ask(asked, "GET", f"{function.path}/invocations/{one}") for one in accepted]
    assert all(one["status"] in ("queued", "running", "success") for one in found), found
    return all(one["status"] == "success" for one in found)


def are_once(asked: Server, function: Function, accepted: Sequence[str]) -> bool:
    """Whether exactly these invocations were made of the function, each with one attempt."""
    found = ask(asked, "GET", f"/api/invocations?function_id={function.id}&limit=1000")
    attempts = {one["invocation_id"]: one["attempt"] for one in found["invocations"]}
    return attempts == dict.fromkeys(accepted, 1)


def drain(asked: Server, name: str) -> None:
    """Drains a node, and waits until it runs nothing and other nodes have had time to notice."""
    ask(asked, "POST", f"/api/nodes/{name}/drain")
    until(partial(is_at_rest, asked, name), 30)


def uncordon(asked: Server, name: str) -> None:
    ask(asked, "POST", f"/api/nodes/{name}/uncordon")


def is_at_rest(asked: Server, name: str) -> bool:
    time.sleep(0.6)
    own = ask(asked, "GET", f"/api/nodes/{name}")
    return bool(own["state"] == "draining" and own["running_calls"] == 0)
