"""The contract: who follows a tenant gets its events, and none of other tenants."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from e2e.server import Server
from promises import promise
from quiltfn.sdk import Client, TenantEvent
from spec.api_client import Api, is_error, new_name, of
from spec.conftest import Keyed
from spec.live_events import Event, streaming
from timeouts import scaled

pytestmark = pytest.mark.sandbox

FOLLOW = "/api/events?follow=true"
SECRET = "s3cret-4711"


@pytest.fixture
def api(open_server: Server) -> Iterator[Api]:
    api = Api(open_server.url)
    yield api
    api.clear()


def until_type(coming: Iterator[Event], name: str) -> list[Event]:
    """The events up to the first one of this type."""
    found: list[Event] = []
    end = time.monotonic() + scaled(20)
    for event in coming:
        found.append(event)
        if event.name == name:
            return found
        assert time.monotonic() < end, [each.name for each in found]
    raise AssertionError("the stream ended")


@promise("A44")
def test_the_life_of_a_function_is_seen(api: Api) -> None:
    with streaming(api, "GET", FOLLOW) as (answer, coming):
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["x-accel-buffering"] == "no"
        function_id = api.active(f"echo {SECRET}", environment={"WORD": SECRET})
        record = api.good("POST", f"{of(function_id)}/invoke", {"payload": SECRET})
        found = until_type(coming, "pool")  # the event is sent a moment after the change
        api.good("PUT", of(function_id), {"handler": "echo two"})
        api.heard()  # each node's own events are in order, but there is no order between nodes
        api.good("POST", f"{of(function_id)}/rollback", {"version": 1})
        api.heard()
        api.good("POST", f"{of(function_id)}/pause")
        api.heard()
        api("DELETE", of(function_id))
        found += until_type(coming, "function.deleted")
    names = [one.name for one in found]
    heard = [name for name in names if name != "pool"]
    assert heard == [
        "function.created",
        "function.updated",  # the function is being deployed
        "function.deployed",
        "invocation.started",
        "invocation.ended",
        "function.updated",
        "function.rolled_back",
        "function.paused",
        "function.deleted",
    ]
    (ended,) = (one for one in found if one.name == "invocation.ended")
    assert ended.data == {
        "invocation_id": record["invocation_id"],
        "function_id": function_id,
        "version": 1,
        "source": "sync",
        "attempt": 1,
        "cold_start": False,
        "status": "success",
        "duration_ms": record["duration_ms"],
        "end_cause": None,
        "is_final": True,
    }
    assert all(one.data["function_id"] == function_id for one in found)
    assert SECRET not in json.dumps([one.data for one in found])
    numbers = [tuple(map(int, (one.id or "").split("-"))) for one in found]
    assert numbers == sorted(numbers)
    assert len({epoch for epoch, _ in numbers}) == 1


@promise("A45")
def test_who_comes_back_goes_on_where_it_was_and_filters_are_kept(api: Api) -> None:
    function_id = api.active("echo hello")
    path = f"{FOLLOW}&function_id={function_id}&types=invocation"
    with streaming(api, "GET", path) as (_, coming):
        api.good("POST", f"{of(function_id)}/invoke")
        (_, first) = until_type(coming, "invocation.ended")
    missed = api.good("POST", f"{of(function_id)}/invoke")["invocation_id"]
    other = api.active("echo other")
    api.good("POST", f"{of(other)}/invoke")
    with streaming(api, "GET", path, last_event_id=first.id or "") as (_, coming):
        found = until_type(coming, "invocation.ended")
    assert [one.name for one in found] == ["invocation.started", "invocation.ended"]
    assert {one.data["invocation_id"] for one in found} == {missed}


@promise("A45")
def test_who_comes_back_from_another_start_is_told_to_fetch_again(api: Api) -> None:
    with streaming(api, "GET", FOLLOW, last_event_id="999999-1") as (_, coming):
        (reset,) = until_type(coming, "reset")
    assert reset.data == {}


def test_what_does_not_fit_is_refused_by_its_name(api: Api) -> None:
    for path in ("/api/events", f"{of(api.active())}/logs"):
        refusal = is_error(api("GET", path), "UNPROCESSABLE_ENTITY", 422)
        assert refusal["error"].startswith("follow must be true")
    is_error(api("GET", f"{FOLLOW}&function_id=nothing"), "NOT_FOUND", 404)


@promise("A44")
def test_tenants_see_nothing_of_each_other(keyed: Keyed) -> None:
    ours, theirs = keyed.caller(new_name()), keyed.caller(new_name())
    with streaming(theirs, "GET", FOLLOW) as (_, coming):
        function_id = ours.active("echo hello")
        ours.good("POST", f"{of(function_id)}/invoke")
        own = theirs.active("echo mine")
        found = until_type(coming, "function.deployed")
        assert {one.data["function_id"] for one in found} == {own}
    refused = theirs("GET", f"{FOLLOW}&function_id={function_id}")
    is_error(refused, "NOT_FOUND", 404)


def test_the_client_library_and_the_command_follow(api: Api, open_server: Server) -> None:
    function_id = api.active("true")
    name = api.get(function_id)["name"]

    def changes() -> None:
        while not over.is_set():
            api.good("PUT", of(function_id), {"description": new_name()})
            over.wait(0.2)

    over = threading.Event()
    changing = threading.Thread(target=changes)
    changing.start()
    try:
        with Client(base_url=open_server.url) as client:
            event = next(client.system.follow_events(name, types=["function.updated"]))
        output = command(open_server.url, "events", "-f", "--types", "function.updated")
    finally:
        over.set()
        changing.join()
    assert isinstance(event, TenantEvent)
    assert (event.type, event.data["function_id"]) == ("function.updated", function_id)
    assert f"function.updated     function_id={function_id} state=active" in output


def command(url: str, *words: str) -> str:
    """Runs a command until it has printed its first line, then interrupts it; returns the line."""
    words = (sys.executable, "-m", "quiltfn", *words, "--url", url)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        running.send_signal(signal.SIGINT)
        assert running.wait(scaled(10)) == 130
    return line
