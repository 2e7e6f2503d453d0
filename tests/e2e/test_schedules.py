"""A server with a schedule that is due every second is killed: each due time runs once, and missed
ones are counted.
"""

import time
from typing import Any

import pytest

from e2e.server import Server, until
from promises import promise

pytestmark = pytest.mark.sandbox
PATH = "/api/schedules/ticks"


def runs(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.call("GET", f"{PATH}/runs?limit=1000").json()["runs"]
    return found


def schedule(server: Server) -> dict[str, Any]:
    shown: dict[str, Any] = server.call("GET", PATH).json()
    return shown


@promise("W15")
def test_each_tick_is_run_once_whatever_is_killed(server: Server) -> None:
    function = server.deploy("echo tick")
    name = server.call("GET", f"/api/functions/{function.id}").json()["name"]
    body = {"name": "ticks", "function": name, "every_seconds": 1}
    made = server.call("POST", "/api/schedules", json=body)
    assert made.status_code == 201, made.text
    for _ in range(3):
        before = len(runs(server))
        wait_for_more(server, before)
        server.kill_server()
        server.wait()
        time.sleep(2.5)  # due times without a server
        server.start()
    before = len(runs(server))
    wait_for_more(server, before)
    paused = server.call("PUT", PATH, json={"enabled": False})
    assert paused.status_code == 200, paused.text
    found, shown = runs(server), schedule(server)
    due = [one["due_at"] for one in found]
    assert len(due) == len(set(due)), "a tick was decided on twice"
    # Between the first and the last run, each second was either run or missed.
    accounted = sum(one["missed"] or 1 for one in found)
    first = min(due) - (found[-1]["missed"] or 1) + 1
    assert accounted == max(due) - first + 1
    assert shown["missed_count"] == sum(one["missed"] for one in found) > 0
    accepted = [one for one in found if one["outcome"] == "accepted"]
    assert shown["fired_count"] == len(accepted)
    calls = until(lambda: ended(server, function.id, len(accepted)), 30)
    ids = {one["invocation_id"] for one in accepted}
    assert {one["invocation_id"] for one in calls} == ids, "a run without a call, or the reverse"


def wait_for_more(server: Server, before: int) -> None:
    until(lambda: len(runs(server)) >= before + 2, 30)


def ended(server: Server, function_id: str, count: int) -> list[dict[str, Any]] | None:
    path = f"/api/functions/{function_id}/invocations?limit=1000"
    calls: list[dict[str, Any]] = server.call("GET", path).json()["invocations"]
    open_ones = [one for one in calls if one["status"] in ("queued", "running")]
    return calls if len(calls) >= count and not open_ones else None
