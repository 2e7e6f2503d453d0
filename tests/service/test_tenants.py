"""Operators see other tenants, stop their invocations, and disable them; on fake sandboxes."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import create_autospec, patch

import httpx
import pytest

from promises import promise
from quiltfn import __version__
from quiltfn.api.http import event_stream
from quiltfn.fleet.join import has_older_nodes
from quiltfn.model.access import Scope
from quiltfn.model.errors import StoreUnavailable, TenantDisabled
from quiltfn.model.member import Member, Presence
from quiltfn.model.schedule import Schedule
from quiltfn.model.tenant_quota import TenantQuota
from quiltfn.model.work import AsyncPolicy, Destination
from quiltfn.ports import AuditQuery
from quiltfn.sandbox.fake import FakeSandbox
from quiltfn.tenants.access import Access
from service.faults import held_up
from service.platform_harness import open_harness, until
from service.routes import Header, Web, holds, id_of
from timeouts import full_wait

pytestmark = promise("A86")


async def keys(web: Web) -> tuple[Header, Header, Header]:
    """Keys of an operator in the tenant ops, and of admins of acme and umbrella."""
    operator = await web.key("ops", Scope.OPERATOR)
    return operator, await web.key("acme", Scope.ADMIN), await web.key("umbrella", Scope.ADMIN)


def within(path: str, tenant: str = "acme") -> str:
    return str(httpx.URL(path).copy_set_param("tenant", tenant))


async def switched(web: Web, operator: Header, verb: str, tenant: str = "acme") -> dict[str, Any]:
    return dict(await web.good("POST", f"/api/tenants/{tenant}/{verb}", headers=operator))


async def function_of(web: Web, handler: str, tenant: str = "acme", name: str = "f") -> str:
    """The id of a new active function."""
    return id_of(await web.function(handler, name, tenant))


async def invoked(web: Web, function: str, key: Header, query: str = "") -> int:
    path = f"/api/functions/{function}/invoke{query}"
    return (await web("POST", path, headers=key)).status_code


@promise("N97")
async def test_none_is_disabled_while_a_node_of_an_older_version_would_serve_it(web: Web) -> None:
    operator, acme, _ = await keys(web)
    function = await function_of(web, "true")
    quotas = web.harness.services.quotas
    quotas.others.has_older_nodes = lambda: True
    refused = await web("POST", "/api/tenants/acme/disable", headers=operator)
    assert (refused.status_code, "older version" in refused.text) == (409, True)
    assert await invoked(web, function, acme) == 200
    quotas.others.has_older_nodes = lambda: False
    assert (await switched(web, operator, "disable"))["disabled"]
    quotas.others.has_older_nodes = lambda: True
    assert not (await switched(web, operator, "enable"))["disabled"]


@promise("N97")
@pytest.mark.parametrize(
    ("version", "presence", "is_older"),
    [
        ("0.0.1", Presence.PRESENT, True),
        ("0.0.1", Presence.LEFT, False),
        (__version__, Presence.PRESENT, False),
    ],
)
async def test_a_server_of_a_fleet_looks_for_nodes_of_older_versions(
    web: Web, version: str, presence: Presence, is_older: bool
) -> None:
    """Features that an older version lacks are refused while the fleet has such a node: every check
    asks for the fleet's members.
    """
    member = Member(name="two", epoch=1, version=version, presence=presence)
    membership: Any = SimpleNamespace(seen=lambda: [member])
    assert has_older_nodes(membership) is is_older
    services, others = web.harness.services, web.harness.platform.ground.others
    asked: list[Any] = [services.runtimes, services.aliases, services.quotas]
    assert all(part.others is others for part in asked)


@promise("N98")
async def test_another_node_s_word_on_a_disabled_tenant_holds_for_now(web: Web) -> None:
    _, acme, _ = await keys(web)
    function = await function_of(web, "echo 1")
    await web.url(f"/api/functions/{function}", acme, auth="none")
    quotas = web.harness.services.quotas
    for _ in range(2):
        assert await invoked(web, function, acme) == 200
        quotas.disabled.set("acme", disabled=True)  # as `FleetKeys` does it
        assert await invoked(web, function, acme) == 403
        await web.ask(503, "POST", "/fn/acme/f")
        await until(lambda: not web.harness.pools.counts(function).total)
        await quotas.follow_use()
        assert (quotas.of("acme"), quotas.disabled.names) == (TenantQuota(), [])
    quotas.disabled.set("acme", disabled=True)
    await quotas.disable("acme", disabled=True)
    await quotas.follow_use()
    assert quotas.disabled.names == ["acme"]


# --- an operator in another tenant ----------------------------------------------------------------


@promise("A85")
async def test_an_operator_sees_and_stops_what_another_tenant_has(web: Web) -> None:
    operator, acme, _ = await keys(web)
    path = await web.function("sleep 60", tenant="acme", environment={"PLAIN": "secret"})
    function = id_of(path)
    await web.ask(404, "GET", path, headers=operator)
    for shown, key, value in ((within(path), operator, "***"), (path, acme, "secret")):
        assert (await web.good("GET", shown, headers=key))["environment"] == {"PLAIN": value}

    call = asyncio.ensure_future(web("POST", f"{path}/invoke", headers=acme))
    running = web.harness.invoker.running_calls
    await until(lambda: running(function))
    record = running(function)[0].record
    listed = await web.good("GET", within("/api/invocations?status=running"), headers=operator)
    assert holds(listed["invocations"], [{"invocation_id": record.invocation_id}])
    cancel = f"{path}/invocations/{record.invocation_id}/cancel"
    await web.ask(404, "POST", cancel, headers=operator)
    assert (await web("POST", within(cancel), headers=operator)).json()["status"] == "cancelled"
    assert (await call).json()["status"] == "cancelled"

    for verb, state in (("pause", "paused"), ("resume", "active")):
        await web.ask(200, "POST", within(f"{path}/{verb}"), headers=operator)
        assert (await web.good("GET", path, headers=acme))["state"] == state
    target = f"/api/elasticity/functions/{function}/pool-target"
    body = {"min_instances": 0, "max_instances": 1}
    header = operator | {"X-Tenant-Id": "acme"}
    await web.ask(200, "POST", within(target), headers=header, json=body)

    # The tenant's audit log shows the operator.
    audit = web.harness.services.audit
    entries = list((await audit.query(AuditQuery(tenant_id="acme", limit=10))).items)
    whoami = await web.good("GET", "/api/whoami", headers=operator)
    assert {entry.credential for entry in entries} == {whoami["credential"]}
    assert {entry.action for entry in entries} == {
        *("function.pause", "function.resume", "invocation.cancel", "elasticity.pool_target"),
    }


@promise("A85")
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/functions", {"name": "g", "handler": "echo"}),
        ("POST", "/api/functions/invoke/f", {}),
        ("POST", "/api/functions/ID/invoke", {}),
        ("PUT", "/api/functions/ID", {"handler": "echo other"}),
        ("DELETE", "/api/functions/ID", None),
        ("GET", "/api/functions/ID/invocations/x/input", None),
        ("POST", "/api/keys", {"scope": "read"}),
        ("DELETE", "/api/keys/x", None),
    ],
)
async def test_an_operator_does_no_more_there(web: Web, method: str, path: str, body: Any) -> None:
    operator, acme, _ = await keys(web)
    function = await function_of(web, "echo 1")
    await web.refused(
        403,
        method,
        within(path.replace("ID", function)),
        headers=operator,
        json=body,
        error="another tenant",
    )
    assert (await web.good("GET", "/api/functions", headers=acme))["functions"][0]["name"] == "f"


async def test_an_operator_sees_the_keys_and_the_audit_log_of_one_tenant(web: Web) -> None:
    operator, _, _ = await keys(web)
    for verb in ("disable", "enable"):
        await switched(web, operator, verb)
    listed = {}
    for path, field in (("/api/keys", "keys"), ("/api/audit", "entries")):
        every = (await web.good("GET", path, headers=operator))[field]
        own = (await web.good("GET", within(path), headers=operator))[field]
        assert {one["tenant_id"] for one in own} == {"acme"}, "a change of a tenant is in its log"
        assert len(every) > len(own) or field == "entries"
        listed[field] = own
    assert [one["action"] for one in listed["entries"]][:2] == ["tenant.enable", "tenant.disable"]
    await web.ask(404, "POST", "/api/tenants/nobody/disable", headers=operator)
    newest = (await web.good("GET", "/api/audit", headers=operator))["entries"][0]
    assert (newest["action"], newest["tenant_id"] != "nobody") == ("tenant.disable", True)


@promise("A85", "A87")
async def test_only_operators_name_another_tenant_and_one_that_there_is(web: Web) -> None:
    operator, acme, umbrella = await keys(web)
    function = await function_of(web, "echo 1")
    path = f"/api/functions/{function}"
    for shown in (path, "/api/functions", "/api/whoami"):
        await web.refused(403, "GET", within(shown), error="tenant must", headers=umbrella)
        await web.ask(200, "GET", within(shown), headers=acme)  # acme's own function
    pause, in_header = f"{path}/pause", {"X-Tenant-Id": "acme"}
    twice = [*operator.items(), ("X-Tenant-Id", "acme"), ("X-Tenant-Id", "umbrella")]
    for status, method, target, headers, error in (
        (403, "POST", within(pause), umbrella, "tenant must"),
        (404, "GET", within("/api/functions", "nobody"), operator, "nobody"),
        (400, "GET", "/api/functions", twice, "X-Tenant-Id"),
        (422, "GET", within("/api/functions", "no tenant"), operator, "tenant must"),
        (422, "POST", f"{pause}?%74enant=acme", operator, "tenant"),
        (422, "POST", f"{pause}?tenant=acme&tenant=acme", operator, "tenant"),
        (422, "POST", f"{pause}?tenant=ops&tenant=acme", operator, "tenant"),
        # A server that ignored the header would act in the tenant of the key.
        (403, "POST", pause, umbrella | in_header, "X-Tenant-Id"),
        (403, "POST", pause, operator | in_header, "X-Tenant-Id"),
        (403, "POST", within(pause, "umbrella"), operator | in_header, "X-Tenant-Id"),
    ):
        await web.refused(status, method, target, error=error, headers=headers)
    assert (await web.good("GET", path, headers=acme))["state"] == "active"
    await web.url(path, acme, auth="webhook", webhook={"scheme": "github", "secret": "s" * 16})
    await web.ask(403, "GET", within(f"{path}/url?reveal=true"), headers=operator)
    assert "s" * 16 not in (await web("GET", within(f"{path}/url"), headers=operator)).text


async def test_tenants_are_listed_by_name_to_operators_alone(web: Web) -> None:
    operator, acme, _ = await keys(web)
    await function_of(web, "echo 1")
    await function_of(web, "echo 1", "without-keys")
    found = await web.good("GET", "/api/tenants", headers=operator)
    assert [one["tenant_id"] for one in found["tenants"]] == [
        *("acme", "ops", "umbrella", "without-keys"),
    ]
    assert found["tenants"][0] == {
        "tenant_id": "acme",
        "disabled": False,
        "functions": 1,
        "valid_keys": 1,
        "calls_in_flight": 0,
    }
    first = await web.good("GET", "/api/tenants?limit=3", headers=operator)
    rest = await web("GET", f"/api/tenants?cursor={first['next_cursor']}", headers=operator)
    assert [one["tenant_id"] for one in rest.json()["tenants"]] == ["without-keys"]
    for cursor in ("", "bogus", "!"):
        await web.refused(
            422, "GET", f"/api/tenants?cursor={cursor}", headers=operator, error="cursor"
        )
    for method, path in (
        ("GET", "/api/tenants"),
        ("POST", "/api/tenants/acme/disable"),
        ("POST", "/api/tenants/acme/enable"),
    ):
        await web.ask(403, method, path, headers=acme)
    for tenant, status in (("nobody", 404), ("no tenant", 422)):
        await web.ask(status, "POST", f"/api/tenants/{tenant}/disable", headers=operator)


# --- a tenant that is disabled --------------------------------------------------------------------


async def test_a_disabled_tenant_is_refused_and_serves_again_once_enabled(web: Web) -> None:
    operator, acme, umbrella = await keys(web)
    function = await function_of(web, "cat")
    other = await function_of(web, "cat", "umbrella")
    for function_id, key in ((function, acme), (other, umbrella)):
        await web.url(f"/api/functions/{function_id}", key, auth="none")
    await web.url(await web.function(name="closed", tenant="acme"), acme, auth="key")
    answer = await switched(web, operator, "disable")
    assert (answer["tenant_id"], answer["disabled"]) == ("acme", True)
    why = "disabled the tenant acme"
    for path in ("/api/functions", f"/api/functions/{function}", "/api/whoami"):
        refusal = await web.refused(403, "GET", path, error=why, headers=acme)
        assert refusal["error_code"] == "FORBIDDEN"
    assert await invoked(web, function, acme) == 403
    stranger = await web.ask(503, "POST", "/fn/acme/f")
    assert "acme" not in stranger.text
    assert stranger.headers["retry-after"] == "60", "nobody serves it in a second"
    await web.ask(503, "POST", "/fn/acme/f", headers=acme)  # this URL needs no key
    # A caller with a key learns the reason, both for existing and for missing functions. A caller
    # without one does not.
    for name in ("closed", "none-such"):
        await web.refused(403, "POST", f"/fn/acme/{name}", error=why, headers=acme)
        assert "disabled" not in (await web.ask(401, "POST", f"/fn/acme/{name}")).text
    # admission refuses it as well, even if no credential or pool does
    with pytest.raises(TenantDisabled):
        web.harness.services.admission.call("acme")
    # Other tenants are not affected, and operators still see the functions.
    assert (await web("POST", "/fn/umbrella/f", content=b"x")).content == b"x"
    assert await invoked(web, other, umbrella) == 200
    await web.ask(200, "GET", within("/api/functions"), headers=operator)
    assert (await switched(web, operator, "enable"))["disabled"] is False
    assert await invoked(web, function, acme) == 200
    assert (await web("POST", "/fn/acme/f", content=b"x")).content == b"x"
    log = await web.good("GET", "/api/audit?action=tenant", headers=operator)
    actions = ("tenant.enable", "tenant.disable")
    assert holds(log["entries"], [{"action": one, "object_id": "acme"} for one in actions])


async def test_streams_of_a_disabled_tenant_end(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.02)
    operator, *others = await keys(web)
    streams = web.harness.services.budgets.streams
    acme, umbrella = (
        asyncio.ensure_future(web("GET", "/api/events?follow=true", headers=key)) for key in others
    )
    await until(lambda: streams.open == 2)
    await asyncio.sleep(full_wait(0.1))
    assert not acme.done()
    await switched(web, operator, "disable")
    await until(acme.done)
    assert (await acme).status_code == 200
    assert not umbrella.done()
    streams.end()
    await umbrella


async def test_tenants_of_tokens_are_disabled(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, _, _ = await keys(web)
    path = "/api/tenants/by-token/disable"
    await web.ask(404, "POST", path, headers=operator)  # this server accepts no tokens
    monkeypatch.setattr(Access, "takes_tokens", property(lambda _: True))
    assert (await web("POST", path, headers=operator)).json()["disabled"] is True
    listed = (await web.good("GET", "/api/tenants", headers=operator))["tenants"]
    assert [one["tenant_id"] for one in listed if one["disabled"]] == ["by-token"]


async def test_what_a_disabled_tenant_runs_ends_and_its_instances_go(web: Web) -> None:
    operator, acme, _ = await keys(web)
    function = await function_of(web, "sleep 60")
    target = {"min_instances": 1, "max_instances": 2}
    path = f"/api/elasticity/functions/{function}/pool-target"
    header = acme | {"X-Tenant-Id": "acme"}
    await web.ask(200, "POST", path, headers=header, json=target)
    call = asyncio.ensure_future(web("POST", f"/api/functions/{function}/invoke", headers=acme))
    await until(lambda: web.harness.invoker.running_calls(function))
    assert web.harness.pools.counts(function).total
    await switched(web, operator, "disable")
    record = (await call).json()
    assert (record["status"], "disabled" in record["error_message"]) == ("cancelled", True)
    await until(lambda: not web.harness.pools.counts(function).total)
    await switched(web, operator, "enable")
    await until(lambda: web.harness.pools.counts(function).total)


async def test_no_change_of_a_disabled_tenant_s_functions_starts_an_instance(web: Web) -> None:
    """Neither an operator in the disabled tenant, whose key is accepted, nor an operator in another
    tenant can start an instance there.
    """
    operator = await web.key("ops", Scope.OPERATOR)
    own = await web.key("acme", Scope.OPERATOR) | {"X-Tenant-Id": "acme"}
    function = await function_of(web, "echo 1")
    path = f"/api/functions/{function}"
    scaling = f"/api/elasticity/functions/{function}/pool-target"
    scaled_to = {"min_instances": 1, "max_instances": 2}
    await switched(web, operator, "disable")
    await until(lambda: not web.harness.sandboxes.alive)
    started = len(web.harness.sandboxes.created)
    for method, target, body in (
        ("POST", scaling, scaled_to),
        ("PUT", path, {"handler": "echo 2"}),
        ("POST", f"{path}/deploy", None),
        ("POST", f"{path}/rollback", {"version": 1}),
        ("POST", f"{path}/pause", None),
        ("POST", f"{path}/resume", None),
    ):
        answer = await web(method, target, headers=own, json=body)
        assert answer.status_code == 200, (target, answer.text)
        web.harness.pass_time(5)
        await asyncio.sleep(0.01)
        assert len(web.harness.sandboxes.created) == started, target
        assert web.harness.pools.load(function) is None, f"{target} has opened its pool"
    shown = await web.good("GET", within(path), headers=operator)
    assert (shown["state"], shown["current_version"]) == ("deploying", 1)
    await switched(web, operator, "enable")
    await until(lambda: web.harness.catalog.get(function).function.state == "active")
    assert web.harness.pools.counts(function).total
    assert (await web("POST", f"{path}/invoke", headers=own)).json()["stdout"] == "1\n"


UNDER_WAY = [("resume", "active"), ("update", "active")]
STARTING = [("resume", "deploying"), ("update", "active"), ("deploy", "active")]


@pytest.mark.parametrize("is_enabled_at_once", [False, True])
@pytest.mark.parametrize(
    ("change", "state", "is_start"),
    [*((*one, False) for one in UNDER_WAY), *((*one, True) for one in STARTING)],
)
async def test_a_change_that_is_under_way_starts_nothing_of_a_tenant_that_is_disabled(
    web: Web, change: str, state: str, is_start: bool, is_enabled_at_once: bool
) -> None:
    """The tenant is disabled while the instance starts, or while the change is stored. The change
    still ends normally, at the latest once the tenant is enabled.
    """
    harness, operator = web.harness, await web.key("ops", Scope.OPERATOR)
    function = await function_of(web, "echo 1")
    entry = harness.catalog.get(function)
    if change == "resume":
        await harness.lifecycle.pause(entry)
    if change == "deploy":
        harness.pass_time(3600)
    slow, name = (harness.sandboxes, "create") if is_start else (harness.store, "save")
    changes = {"update": [{"handler": "echo 2"}]}.get(change, [])

    def is_slow(given: Any, *_: Any) -> bool:
        return is_start or given.state == "active"

    with held_up(slow, name, is_slow) as made:
        changing = asyncio.ensure_future(getattr(harness.lifecycle, change)(entry, *changes))
        await made.begun.wait()
        await switched(web, operator, "disable")
        if is_enabled_at_once:
            await switched(web, operator, "enable")
        made.may_go_on.set()
        await changing
    if not is_enabled_at_once:
        stored = harness.catalog.get(function).function
        assert (stored.state, stored.error_message) == (state, None)
        await until(lambda: not harness.sandboxes.alive)
        harness.pass_time(5)
        assert harness.pools.load(function) is None, "a pool of a disabled tenant is open"
        assert not harness.sandboxes.alive
        await switched(web, operator, "enable")
    await until(lambda: harness.catalog.get(function).function.state == "active")
    record = await harness.invoke(entry)
    assert record.stdout == (b"2\n" if change == "update" else b"1\n")
    assert harness.catalog.get(function).function.error_message is None


async def test_an_update_serves_whose_tenant_is_enabled_while_it_is_stored(web: Web) -> None:
    """Enabling the tenant opens the pool with the previous version, since the update has not
    replaced it yet.
    """
    harness, operator = web.harness, await web.key("ops", Scope.OPERATOR)
    entry = harness.catalog.get(await function_of(web, "echo 1"))
    await switched(web, operator, "disable")
    with held_up(harness.store, "save") as save:
        updating = asyncio.ensure_future(harness.lifecycle.update(entry, {"handler": "echo 2"}))
        await save.begun.wait()
        await switched(web, operator, "enable")
        save.may_go_on.set()
        assert (await updating).function.current_version == 2
    assert (await harness.invoke(entry)).stdout == b"2\n"


async def test_disabled_deliveries_wait(web: Web) -> None:
    operator, acme, _ = await keys(web)
    harness = web.harness
    function = await function_of(web, "echo 1")
    receiver = await function_of(web, "cat", name="receiver")
    policy = AsyncPolicy(on_success=Destination(function="receiver"))
    await harness.work.policies.set_policy(function, policy)
    deliveries = harness.services.deliveries
    store = deliveries._store
    with patch.object(store, "claim", wraps=store.claim, side_effect=StoreUnavailable) as claim:
        assert await invoked(web, function, acme, "?mode=async") == 202
        await until(lambda: claim.called)  # the invocation is stored, and due
        await switched(web, operator, "disable")
        claim.reset_mock(side_effect=True)
        deliveries._changed.set()
        await asyncio.sleep(full_wait(0.1))
        assert not claim.called
        await switched(web, operator, "enable")
        await until(lambda: claim.called)
        await until(lambda: harness.catalog.get(receiver).counters.invocation_count)


async def test_what_a_disabled_tenant_has_queued_waits_and_ticks_are_skipped(web: Web) -> None:
    operator, acme, _ = await keys(web)
    function = await function_of(web, "sleep 60")
    schedules = web.harness.services.schedules
    schedule = Schedule(id="", tenant_id="", function_id="", name="n", every_seconds=60)
    await schedules.create("acme", "f", schedule)
    policy = f"/api/functions/{function}/async-policy"
    await web.ask(200, "PUT", policy, headers=acme, json={"max_attempts": 3})
    assert await invoked(web, function, acme, "?mode=async") == 202
    running = web.harness.invoker.running_calls
    await until(lambda: running(function))
    queued_id = running(function)[0].record.invocation_id
    await switched(web, operator, "disable")
    path = f"/api/functions/{function}/invocations/{queued_id}"
    await until(lambda: not running(function))
    for _ in range(3):
        web.harness.pass_time(61)
        await schedules.fire_due()
        await asyncio.sleep(0.01)
    await web.harness.journal.synced()
    shown = await web.good("GET", within(path), headers=operator)
    assert shown["status"] == "queued", "the attempt that was ended is made again"
    runs = (await web.good("GET", within("/api/schedules/n/runs"), headers=operator))["runs"]
    assert runs
    assert {run["outcome"] for run in runs} == {"skipped"}
    assert "disabled" in runs[0]["reason"]
    await switched(web, operator, "enable")
    for _ in range(3):
        web.harness.pass_time(120)
        await asyncio.sleep(0.05)
    await until(lambda: running(function))
    assert running(function)[0].record.invocation_id == queued_id
    assert running(function)[0].record.attempt == 2


async def test_a_disabled_tenant_stays_so_over_a_restart_and_a_change_of_its_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specialise = create_autospec(FakeSandbox.specialise, side_effect=FakeSandbox.specialise)
    monkeypatch.setattr(FakeSandbox, "specialise", specialise)
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        operator, acme, _ = await keys(web)
        function = await function_of(web, "echo 1")
        other = await function_of(web, "echo other", "umbrella")
        for function_id in (function, other):
            await harness.lifecycle.set_scaling(harness.catalog.get(function_id), 2, 2)
        await switched(web, operator, "disable")
        quota = "/api/tenants/acme/quota"
        answer = await web("PUT", quota, headers=operator, json={"functions": 3})
        assert (answer.json()["disabled"], answer.json()["own"]) == (True, ["functions"])
        await web.ask(204, "DELETE", quota, headers=operator)
        specialise.reset_mock()
    async with open_harness(tmp_path) as harness:
        web = Web(harness)
        await harness.services.access.refresh()
        await web.ask(403, "GET", "/api/functions", headers=acme)
        await until(lambda: harness.pools.counts(other).ready == 2)
        handlers = {spec.handler for (_, spec), _ in specialise.call_args_list}
        assert handlers == {"echo other"}
        assert not harness.pools.counts(function).total
        assert harness.pools.load(function) is None
        await switched(web, operator, "enable")
        await until(lambda: harness.pools.counts(function).ready == 2)
        assert await invoked(web, function, acme) == 200
        assert (await web.good("GET", quota, headers=operator))["own"] == []


async def test_a_quota_may_be_0(web: Web) -> None:
    operator, acme, _ = await keys(web)
    function = await function_of(web, "echo 1")
    body = {"calls_in_flight": 0, "functions": 0, "image_bytes": 0}
    await web.ask(200, "PUT", "/api/tenants/acme/quota", headers=operator, json=body)
    new = {"name": "g", "handler": "echo"}
    for path, sent, option in (
        (f"/api/functions/{function}/invoke", {}, "--calls-in-flight"),
        (f"/api/functions/{function}/invoke?mode=async", {}, "--calls-in-flight"),
        ("/api/functions", new, "--functions"),
    ):
        answer = await web.ask(429, "POST", path, headers=acme, json=sent)
        assert f"quota set TENANT {option} N" in answer.json()["hint"]
    await web.ask(200, "GET", "/api/functions", headers=acme)


async def test_what_is_queued_waits_while_the_tenant_may_have_no_calls(web: Web) -> None:
    operator, acme, _ = await keys(web)
    function = await function_of(web, "echo 1")
    harness, quota = web.harness, "/api/tenants/acme/quota"
    harness.dispatcher.may_begin = lambda: False
    assert await invoked(web, function, acme, "?mode=async") == 202
    body = {"calls_in_flight": 0}
    await web.ask(200, "PUT", quota, headers=operator, json=body)
    harness.dispatcher.may_begin = lambda: True
    begun = harness.sandboxes.calls
    for _ in range(3):
        harness.pass_time(120)
        await asyncio.sleep(0.05)
    assert harness.sandboxes.calls == begun
    assert (await web.newest(f"/api/functions/{function}", acme))["status"] == "queued"
    await web.ask(204, "DELETE", quota, headers=operator)
    harness.pass_time(120)
    await until(lambda: harness.sandboxes.calls > begun)
