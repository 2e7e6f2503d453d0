"""A tenant's quota of instances on a real server: how many there are, and who gets errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from e2e.server import Server, until, watched
from promises import promise
from spec.api_client import Api, make_key, new_name, of

pytestmark = [pytest.mark.sandbox, promise("A32")]
QUOTA = 3


@dataclass
class LimitedServer:
    """A server on which a tenant may have three instances."""

    server: Server
    acme: Api
    umbrella: Api

    def instances(self) -> int:
        """How many instances acme has: all sandboxes, since none are prewarmed."""
        return len(self.server.guests())


@pytest.fixture(scope="module")
def keys() -> Iterator[tuple[Server, list[str]]]:
    """The server, and a key of each tenant."""
    with watched(f"--tenant-instances {QUOTA} --prewarmed 0 --queue-wait-s 2") as server:
        tenants = ("acme", "umbrella")
        made = [make_key(server, "--tenant", one, "--scope", "write") for one in tenants]
        yield server.start(), [one["key"] for one in made]


@pytest.fixture
def limited(keys: tuple[Server, list[str]]) -> Iterator[LimitedServer]:
    """The server without an instance, before and after."""
    server, (acme, umbrella) = keys
    yield LimitedServer(server, Api(server.url, acme), Api(server.url, umbrella))
    for key in (acme, umbrella):
        Api(server.url, key).clear()
    until(lambda: not server.guests())


def deployed(api: Api, function_id: str) -> dict[str, object]:
    return api.good("POST", f"{of(function_id)}/deploy")


def test_one_tenant_cannot_take_the_machine(limited: LimitedServer) -> None:
    acme, umbrella = limited.acme, limited.umbrella
    kept = [acme.active(min_instances=1) for _ in range(QUOTA)]
    assert limited.instances() == QUOTA
    # A deploy, a call and a target beyond the quota are refused with a reason.
    late = acme.create()
    state = deployed(acme, late)
    assert state["state"] == "error"
    assert str(state["error_message"]).startswith("the tenant has 3 instances, its quota")
    body = {"name": new_name(), "handler": "true", "min_instances": QUOTA + 1}
    error = acme.refused("UNPROCESSABLE_ENTITY", 422, "POST", "/api/functions", body)
    assert error["error"].startswith("min_instances must be at most 3")
    assert acme.invoke(kept[0])["stdout"] == "hello\n"
    assert limited.instances() == QUOTA
    # Another tenant has its own.
    theirs = umbrella.active()
    assert umbrella.invoke(theirs)["status"] == "success"
    assert limited.instances() == QUOTA + 1


def test_what_is_idle_leaves_and_what_is_busy_is_waited_for(limited: LimitedServer) -> None:
    acme = limited.acme
    functions = [acme.active("sleep 0.2; echo done") for _ in range(QUOTA + 2)]
    until(lambda: limited.instances() == QUOTA)
    # Five functions share three places: each call is served, and there are never more.
    for _ in range(2):
        calls = [limited.server.later(acme.invoke, one) for one in functions]
        most = 0
        while not all(call.done() for call in calls):
            most = max(most, acme.good("GET", "/api/functions/pool/stats")["total_count"])
        assert most <= QUOTA
        assert [call.result()["stdout"] for call in calls] == ["done\n"] * len(calls)
    # Three stay busy for longer than invocations wait: the fourth is refused with the reason.
    busy = [acme.active("sleep 60; :") for _ in range(QUOTA)]
    calls = [limited.server.later(acme.invoke, one) for one in busy]
    until(lambda: len(limited.server.named("sleep")) == QUOTA)
    error = acme.refused("CAPACITY_FULL", 503, "POST", f"{of(functions[0])}/invoke", {})
    assert "the tenant has as many instances as its quota allows" in error["error"]
    limited.server.wake(QUOTA)
    assert [call.result()["status"] for call in calls] == ["success"] * QUOTA


def test_minimums_of_many_functions_stay_within_it_over_a_restart(limited: LimitedServer) -> None:
    acme = limited.acme
    functions = [acme.create(min_instances=1) for _ in range(QUOTA + 2)]
    states = [deployed(acme, one)["state"] for one in functions]
    assert states == ["active"] * QUOTA + ["error"] * 2
    for function in functions[:QUOTA]:
        acme.good(
            "PUT", of(function), {"handler": "echo again"}
        )  # needs a place for the new version
        assert limited.instances() <= QUOTA
    limited.server.restart()
    acme = Api(limited.server.url, acme.key)
    until(lambda: limited.instances() == QUOTA)
    assert acme.good("GET", "/api/functions/pool/stats")["total_count"] == QUOTA
