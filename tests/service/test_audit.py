"""The audit log as the API and `quiltfn keys` write it: a real store, and no socket."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from promises import promise
from quiltfn.api import audit
from quiltfn.api.http.route import ApiLimits
from quiltfn.model.access import Scope
from quiltfn.model.audit import AuditEntry
from quiltfn.operator import keys as keys_command
from quiltfn.ports import AuditQuery
from quiltfn.settings import Settings
from quiltfn.store import SqlAudit, open_sqlite
from quiltfn.tenants.access import make_key
from service.faults import away
from service.platform_harness import Harness
from service.routes import Header, Web
from sqlite_template import with_schema

CREATE = "/api/functions"
DEPLOY = "/api/functions/some-id/deploy"
BODY = {"name": "f", "handler": "echo a-secret"}
WRONG = "quilt_sk_" + "0" * 12 + "_" + "x" * 43


class AuditedApp(Web):
    """A server whose requests come from 192.0.2.7, and which refuses bodies of over 200 bytes."""

    def __init__(self, harness: Harness) -> None:
        super().__init__(harness, "192.0.2.7", limits=ApiLimits(body_max=200))

    async def named_key(self, scope: Scope) -> tuple[str, Header]:
        """A new key's id, and the header that carries it."""
        services = self.harness.services
        key, text = await make_key(services.keys, self.harness.clock, "mine", scope, None)
        await services.access.refresh()
        return key.id, {"X-Api-Key": text}

    async def post(self, path: str, headers: Header, body: Any = None) -> int:
        return (await self("POST", path, body, headers=headers)).status_code

    async def entries(self) -> Sequence[AuditEntry]:
        audit = self.harness.services.audit
        return (await audit.query(AuditQuery(tenant_id=None, limit=1000))).items


@pytest.fixture
def door(server: Harness) -> AuditedApp:
    return AuditedApp(server)


# Refused before execution --------------------------------------------------------------------


@promise("A12")
async def test_who_is_refused_before_the_work_leaves_an_entry(door: AuditedApp) -> None:
    reader, may_read = await door.named_key(Scope.READ)
    writer, may_write = await door.named_key(Scope.WRITE)
    named = {"X-Request-Id": "r-1"}
    too_long = BODY | {"description": "x" * 200}
    twice = may_write | {"Idempotency-Key": "two words"}
    assert await door.post(CREATE, named, BODY) == 401
    assert await door.post(CREATE, named | {"X-Api-Key": WRONG}, BODY) == 401
    assert await door.post(DEPLOY, named | may_read) == 403
    assert await door.post(CREATE, named | may_write, too_long) == 413
    assert await door.post(CREATE, named | twice, BODY) == 422
    assert await door.post(f"{CREATE}?tenant=another", named | may_write, BODY) == 403
    assert await door.post(CREATE, named | may_write | {"X-Tenant-Id": "another"}, BODY) == 403
    found = (await door.entries())[::-1]
    assert [(one.credential, one.tenant_id, one.action, one.status) for one in found] == [
        ("nobody", "", "function.create", 401),
        ("nobody", "", "function.create", 401),
        (reader, "mine", "function.deploy", 403),
        (writer, "mine", "function.create", 413),
        (writer, "mine", "function.create", 422),
        (writer, "mine", "function.create", 403),
        (writer, "mine", "function.create", 403),
    ]
    assert [one.object_id for one in found if one.object_id is not None] == ["some-id"]
    assert [one.error_code for one in found][1:4] == [
        "UNAUTHORIZED",
        "FORBIDDEN",
        "PAYLOAD_TOO_LARGE",
    ]
    assert {one.address for one in found} == {"192.0.2.7"}
    assert {one.request_id for one in found} == {"r-1"}
    assert not {"a-secret", WRONG, may_write["X-Api-Key"]} & set(str(found).split("'"))
    assert "secret" not in str(found)


async def test_a_page_turned_away_from_an_open_server_is_entered(door: AuditedApp) -> None:
    assert await door.post(CREATE, {"Origin": "https://evil.test"}, BODY) == 403
    assert [(one.credential, one.status) for one in await door.entries()] == [("nobody", 403)]


async def test_what_would_change_nothing_leaves_none(door: AuditedApp) -> None:
    await door.named_key(Scope.READ)
    assert (await door.http.get(CREATE)).status_code == 401
    assert (await door.http.patch(CREATE)).status_code == 405
    assert await door.post(f"{CREATE}/some-id/invoke", {}) == 401
    assert await door.entries() == []


@promise("A12")
async def test_a_flood_of_refusals_leaves_a_hundred_entries_and_then_one_a_minute(
    door: AuditedApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Someone on the internet guesses keys of the server all night.
    monkeypatch.setattr(audit, "REFUSALS_AT_ONCE", 10)
    _, may_read = await door.named_key(Scope.READ)
    for _ in range(30):  # refusals that make no entry use none of the allowance
        await door.http.get(CREATE)
    for _ in range(30):
        assert await door.post(CREATE, {}, BODY) == 401
    assert len(await door.entries()) == 10
    door.harness.clock.time += 119
    for _ in range(5):
        await door.post(CREATE, {}, BODY)
    assert len(await door.entries()) == 11
    door.harness.clock.time += 3600
    for _ in range(30):
        await door.post(CREATE, {}, BODY)
    assert len(await door.entries()) == 21
    # A known caller has a separate allowance, which is limited as well.
    for _ in range(30):
        assert await door.post(CREATE, may_read, BODY) == 403
    assert len(await door.entries()) == 31


async def test_the_memory_of_who_was_refused_is_bounded(
    door: AuditedApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "CREDENTIALS_MAX", 3)
    kept = audit.AuditLog(door.harness.services.audit, door.harness.clock)
    for number in range(50):
        assert kept._may_append(f"jwt:{number}")
        assert len(kept._allowances) <= 4


async def test_a_path_that_is_refused_is_cut(door: AuditedApp) -> None:
    await door.named_key(Scope.READ)
    await door.post(f"{CREATE}/{'x' * 9000}/deploy", {})
    assert [one.object_id for one in await door.entries()] == ["x" * audit.OBJECT_MAX]


async def test_a_refusal_stands_where_the_store_takes_no_entry(door: AuditedApp) -> None:
    await door.named_key(Scope.READ)
    with away(door.harness.services.audit, "append"):
        assert await door.post(CREATE, {}, BODY) == 401


async def test_a_call_whose_entry_was_not_taken_is_not_entered_as_refused(door: AuditedApp) -> None:
    # The request was executed and may have changed something. An entry that calls it refused would
    # be wrong.
    _, may_write = await door.named_key(Scope.WRITE)
    with away(door.harness.services.audit, "append") as append:
        assert await door.post(CREATE, may_write, {"name": 1}) == 503
    ((entry,), _) = append.call_args
    assert (append.call_count, entry.error_code) == (1, "UNPROCESSABLE_ENTITY")


# Credentials ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key"])
async def test_of_two_credentials_in_one_header_none_counts(door: AuditedApp, name: str) -> None:
    # If the server accepted the first of two headers, a proxy that checks the last one would have
    # checked another credential.
    _, good = await door.named_key(Scope.READ)
    text = good["X-Api-Key"] if name == "X-Api-Key" else f"Bearer {good['X-Api-Key']}"
    for other in (text, "wrong", ""):
        for pair in ((text, other), (other, text)):
            answer = await door.http.get(CREATE, headers=[(name, one) for one in pair])
            assert answer.status_code == 401
            assert name in answer.json()["error"]
            assert answer.headers["www-authenticate"].startswith("Bearer")


# The command ---------------------------------------------------------------------------------


async def test_the_keys_command_leaves_entries_without_a_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def command(*arguments: str) -> dict[str, Any]:
        given = keys_command.parser().parse_args([*arguments, "--output", "json"])
        assert await keys_command.run(given, Settings(data_dir=tmp_path), None) == 0
        return json.loads(capsys.readouterr().out)

    key = await command("create", "--tenant", "mine")
    await command("list")
    await command("revoke", key["id"])
    async with open_sqlite(with_schema(tmp_path)) as store:
        found = (await SqlAudit(store.database).query(AuditQuery(tenant_id="mine", limit=10))).items
    assert [(one.action, one.status) for one in found] == [("key.revoke", 204), ("key.create", 201)]
    assert {one.object_id for one in found} == {key["id"]}
    assert {(one.credential, one.address) for one in found} == {("cli", "local")}
    assert key["key"] not in str(found)
