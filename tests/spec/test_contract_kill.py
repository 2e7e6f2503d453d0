"""The contract: what survives a kill of the server, and what must not happen twice.

One server is killed once. Each test starts its story before the kill, and continues it afterwards.
"""

import sqlite3
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from typing import Any

import httpx
import pytest

from e2e.server import Server, until, watched
from promises import promise
from spec.api_client import Api, of
from spec.test_contract_output import ALL, PRINT, output_of
from spec.test_contract_services import FUNCTIONS, TARGETS
from spec.test_contract_timeline import phases, timeline
from spec.test_runtimes import RUNTIMES, add, saying, upload

pytestmark = [pytest.mark.sandbox, promise("A1", "A8", "C11", "C14", "D7", "R5")]
Story = Generator[None, Api, None]


def keyed_create(api: Api, _server: Server) -> Story:
    body, key = {"name": "kept", "handler": "echo"}, {"Idempotency-Key": "k"}
    first = api("POST", FUNCTIONS, body, headers=key)
    api = yield
    again = api("POST", FUNCTIONS, body, headers=key)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotency-replayed"] == "true"


def keyed_call_that_ran(api: Api, server: Server) -> Story:
    function_id, key = api.active("sleep 30", timeout_seconds=60), {"Idempotency-Key": "k"}
    path, calls = f"{of(function_id)}/invoke", f"{of(function_id)}/invocations"

    def call() -> None:
        with suppress(httpx.HTTPError):
            api("POST", path, {}, headers=key)

    running = server.later(call)
    until(lambda: api.good("GET", calls)["invocations"])
    api = yield
    running.result()
    died = api("POST", path, {}, headers=key)  # the key's request is never executed again
    assert (died.status_code, died.json()["error_code"]) == (503, "SHUTTING_DOWN")
    records = api.good("GET", calls)["invocations"]
    assert [(one["status"], one["exit_code"]) for one in records] == [("interrupted", None)]
    assert api.get(function_id)["state"] == "active"


def operation_cut_off(api: Api, server: Server) -> Story:
    headers = {"X-Tenant-Id": "default", "X-Orch-Action-Id": "a", "Idempotency-Key": "cut-off"}
    path = f"/api/elasticity/control/functions/{api.create()}/pool-target"
    whole = api.good("POST", path, TARGETS, headers=headers | {"Idempotency-Key": "whole"})
    made = api.good("POST", path, TARGETS, headers=headers)
    # The state between two writes is too brief to kill the server in, so the test creates it.
    change(server, "UPDATE operation SET status = 'running' WHERE operation_id = ?",
           made["operation_id"])  # fmt: skip
    api = yield
    operations = "/api/elasticity/control/operations/"
    assert api.good("GET", operations + whole["operation_id"]) == whole
    found = api.good("GET", operations + made["operation_id"])
    assert (found["status"], found["retryable"]) == ("failed", True)
    assert found["reason_code"] == "ELASTICITY_INTERRUPTED"
    assert "the server ended" in found["reason_message"]
    again = api.good("POST", path, TARGETS, 409, headers=headers)  # this must never happen twice
    assert again["operation_id"] == made["operation_id"]


def change(server: Server, statement: str, key: str) -> None:
    """Changes one row of the database, as soon as the row exists."""

    def changed() -> bool:
        with closing(sqlite3.connect(server.data_dir / "quiltfn.db")) as database, database:
            return database.execute(statement, (key,)).rowcount == 1

    until(changed)


def timelines(api: Api, server: Server) -> Story:
    function_id = api.active()
    record, older = api.invoke(function_id), api.invoke(function_id)
    before = timeline(api, record)
    without = "UPDATE invocation SET timeline = NULL WHERE invocation_id = ? AND timeline NOT NULL"
    change(server, without, older["invocation_id"])  # records of early versions look like this
    api = yield
    after = timeline(api, record)
    # The duration of the last write is known only after the write, so a kill may lose it.
    lost = before["total_microseconds"] - after["total_microseconds"]
    assert 0 <= lost <= phases(before)["recorded"]
    without_write = [
        [one for one in told["phases"] if one["name"] != "recorded"] for told in (before, after)
    ]
    assert without_write[0] == without_write[1]
    timing = timeline(api, older)
    assert (timing["phases"], timing["total_microseconds"]) == ([], 0)
    assert timing["attempts"][0]["started_at_ms"] == older["started_at"] * 1000


def output(api: Api, _server: Server) -> Story:
    record = api.invoke(api.active(PRINT))
    api = yield
    assert output_of(api, record).content == ALL
    shown = api.good("GET", f"{of(record['function_id'])}/invocations/{record['invocation_id']}")
    assert shown == record


def pinned_runtime(api: Api, _server: Server) -> Story:
    add(api, "etl", image=upload(api, saying("here")))
    function_id = api.active("cat /app/word", runtime="etl")
    api = yield
    assert api.invoke(function_id)["stdout"] == "here"
    assert [one["name"] for one in api.good("GET", RUNTIMES)["runtimes"]][-1] == "etl"


def states_and_minimum(api: Api, _server: Server) -> Story:
    function_id, paused = api.active(min_instances=1), api.active()
    api.good("POST", f"{of(paused)}/pause")
    api = yield
    assert api.get(function_id)["state"] == "active"
    until(lambda: api.pool(function_id)["ready_count"] == 1)
    assert api.invoke(function_id)["cold_start"] is False
    assert api.get(paused)["state"] == "paused"


STORIES = {
    one.__name__: one
    for one in (
        *(keyed_create, keyed_call_that_ran, operation_cut_off, timelines, output),
        *(pinned_runtime, states_and_minimum),
    )
}


@pytest.fixture(scope="module")
def begun() -> Iterator[tuple[Api, dict[str, Story]]]:
    """Starts every story on a server, kills it, and yields its successor."""
    with watched() as server:
        first = Api(server.start().url)
        stories: dict[str, Any] = {name: story(first, server) for name, story in STORIES.items()}
        for story in stories.values():
            next(story)
        server.kill_server()
        server.wait()
        yield Api(server.start().url), stories


@pytest.mark.parametrize("name", STORIES)
def test_it_goes_on_after_a_kill(begun: tuple[Api, dict[str, Story]], name: str) -> None:
    successor, stories = begun
    with suppress(StopIteration):
        stories[name].send(successor)
