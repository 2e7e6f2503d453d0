"""Data that callers store is limited in bytes, per tenant and in total, at little cost."""

import random
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
from alembic import command
from msgspec.structs import replace
from sqlalchemy import create_engine, pool

from contract import stores
from contract.stores import (
    OF_SQLITE,
    a_call,
    a_function,
    a_stored_function,
    an_entry,
    change,
    done,
    explained,
    ids,
    ids_left,
    not_none,
    restart,
    rows,
)
from manual_clock import ManualClock
from promises import promise
from quiltfn.model.cursors import first_id
from quiltfn.model.errors import CapacityFull, RateLimited
from quiltfn.model.function import Function
from quiltfn.model.idempotency import IdempotentRequest, StoredResponse
from quiltfn.model.operation import Operation
from quiltfn.model.retention import RetentionPolicy, StorageLimit
from quiltfn.ports import AuditQuery
from quiltfn.store import (
    SpoolJournal,
    SqlAudit,
    SqlAuditRetention,
    SqlIdempotencyStore,
    SqlOperations,
    SqlRetention,
    SqlStore,
    migrations,
)
from quiltfn.store.calls import records
from quiltfn.store.database.sql import statements
from quiltfn.store.tenants import usage
from quiltfn.store.tenants.usage import KINDS, RECORD_BYTES

pytestmark = promise("D16")

ANSWER_BYTES, HEADERS_BYTES = 500, 200
SIZES = {
    "record": "size_bytes",
    "answer": f"{ANSWER_BYTES} + length(path) + length(key) "
    f"+ CASE WHEN length(CAST(headers AS text)) > {HEADERS_BYTES} "
    f"THEN length(CAST(headers AS text)) ELSE {HEADERS_BYTES} END + length(body)",
    "audit": "500 + length(credential) + length(request_id)",
    "operation": "500 + length(idempotency_key) + length(action_id)",
    "input": "size_bytes",
    "delivery": "500 + length(body)",
    "stats": "150 + length(stats)",
}
NOW = 1_760_000_000
OUTPUT = 1000
ONE = RECORD_BYTES + OUTPUT
A_KEY = ANSWER_BYTES + HEADERS_BYTES + len("/f") + len("k")


def exact(path: Path) -> None:
    """Check that the sums that triggers have counted match the rows."""
    truth = " UNION ALL ".join(
        f"SELECT '{kind.name}', tenant_id, sum({SIZES[kind.name]}), count(*) "
        f"FROM {kind.table} GROUP BY tenant_id"
        for kind in KINDS
    )
    kept = "SELECT kind, tenant_id, bytes, number FROM usage WHERE number > 0 OR bytes != 0"
    assert rows(path, f"{kept} ORDER BY 1, 2") == rows(path, f"{truth} ORDER BY 1, 2")


async def calls(
    journal: SpoolJournal, function: Function, count: int, since: int = NOW - 5000
) -> list[str]:
    """Stores ended invocations with `OUTPUT` bytes of output; returns their ids, oldest first."""
    made = [
        a_call(function, invocation_id=f"{first_id(since + n)}-7000-8000-{n:012x}")
        for n in range(count)
    ]
    for call in made:
        journal.opened(call)
    await journal.synced()
    for call in made:
        journal.closed(done(call, stdout="x" * OUTPUT))  # type: ignore[arg-type]
    await journal.synced()
    return [call.invocation_id for call in made]


async def prune(store: SqlStore, count: int = 0, **bound: int) -> None:
    retention = SqlRetention(store.database, ManualClock(NOW))
    while await retention.prune_some(
        RetentionPolicy(count=count, seconds=0, size=StorageLimit(**bound))
    ):
        pass


async def of_tenant(store: SqlStore, tenant_id: str) -> Function:
    return await a_stored_function(store, tenant_id=tenant_id, name=a_function().name)


# Records -------------------------------------------------------------------------------------


async def test_tenants_have_bounds(store: SqlStore, journal: SpoolJournal, tmp_path: Path) -> None:
    first, other = await of_tenant(store, "one"), await of_tenant(store, "other")
    ours = await calls(journal, first, 30)
    theirs = await calls(journal, other, 10, NOW - 90_000)
    exact(tmp_path)
    await prune(store, tenant=12 * ONE)
    assert await ids_left(journal, first) == ours[18:]
    assert await ids_left(journal, other) == theirs
    exact(tmp_path)


async def test_the_largest_loses(store: SqlStore, journal: SpoolJournal, tmp_path: Path) -> None:
    functions = [await of_tenant(store, f"t{n}") for n in range(3)]
    counts = (5, 20, 12)
    for function, count in zip(functions, counts, strict=True):
        await calls(journal, function, count, NOW - 1000 * count)
    await prune(store, all=21 * ONE)
    assert [len(await ids_left(journal, one)) for one in functions] == [5, 8, 8]
    exact(tmp_path)


async def test_over_all_numbers_the_largest_loses(store: SqlStore, journal: SpoolJournal) -> None:
    first, other = await of_tenant(store, "one"), await of_tenant(store, "other")
    theirs = await calls(journal, other, 10, NOW - 90_000)
    ours = await calls(journal, first, 30)
    await prune(store, count=30)
    assert await ids_left(journal, other) == theirs
    assert await ids_left(journal, first) == ours[10:]
    await prune(store, count=12)
    assert [len(await ids_left(journal, function)) for function in (first, other)] == [6, 6]


@pytest.mark.parametrize("bound", [{"count": 30}, {"all": 30 * ONE}, {"tenant": 15 * ONE}])
async def test_records_of_the_last_minute_switch_no_bound_off_for_others(
    store: SqlStore, journal: SpoolJournal, bound: dict[str, int]
) -> None:
    """The largest tenant's records are too young to be removed. Others must still be cut, but only
    to an equal share.
    """
    flood = await of_tenant(store, "flood")
    young = await calls(journal, flood, 50, NOW - 55)
    functions = [await of_tenant(store, f"t{n}") for n in range(2)]
    for function, count in zip(functions, (20, 4), strict=True):
        await calls(journal, function, count, NOW - 1000 * count)
    await prune(store, **bound)
    assert await ids_left(journal, flood) == young
    counts = [len(await ids_left(journal, function)) for function in functions]
    assert counts == [15 if "tenant" in bound else 13, 4]


def test_the_level_is_what_leaves_the_bound() -> None:
    chance = random.Random(7)
    for _ in range(500):
        has = sorted((chance.randrange(100) for _ in range(chance.randrange(9))), reverse=True)
        excess = chance.randrange(-20, sum(has) + 20)
        level = usage._level(has, excess)
        given = sum(max(0, one - level) for one in has)
        if excess <= 0:
            assert given == 0
        elif excess >= sum(has):
            assert given == sum(has)
        else:
            assert excess <= given < excess + len(has)


async def test_young_output_may_go(store: SqlStore, journal: SpoolJournal, tmp_path: Path) -> None:
    function = await of_tenant(store, "one")
    made = await calls(journal, function, 20, NOW - 30)
    await prune(store, tenant=12 * ONE)
    assert await ids_left(journal, function) == made
    found = [await journal.get(function.id, one) for one in made]
    sizes = [(len(one.stdout), one.stdout_dropped) for one in found if one is not None]
    without = next(n for n, (size, _) in enumerate(sizes) if size)
    assert sizes == [(0, OUTPUT)] * without + [(OUTPUT, 0)] * (20 - without)
    assert 8 <= without < 15
    exact(tmp_path)


async def test_deleting_and_ending_are_counted(
    store: SqlStore, journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    gone = await a_stored_function(store)
    await calls(journal, gone, 5, NOW - 9000)
    await calls(journal, function, 5)
    journal.opened(a_call(function))
    await journal.synced()
    exact(tmp_path)
    await store.delete(gone.id)
    await store.wait_swept()
    exact(tmp_path)


@OF_SQLITE
async def test_finding_what_goes_reads_indexes_alone(store: SqlStore) -> None:
    bounds = {"tenant_id": "default", "before": "g", "above": 0, "most": 10, "with_open": True}
    oldest = " · ".join(await explained(store, statements("sqlite")["oldest_of_tenant"], bounds))
    for index in ("invocation_of_tenant", "invocation_open_output"):
        assert f"COVERING INDEX {index} (tenant_id=? AND invocation_id<?)" in oldest
    assert "TEMP B-TREE" not in oldest
    givers = usage._givers("sqlite", usage.ANSWER, usage.Unit.BYTES)
    steps = " · ".join(await explained(store, givers, {"kind": "answer"}))
    assert "INDEX idempotent_answer_with_body (tenant_id=?)" in steps


async def test_large_records_are_counted_as_small_ones_are(
    store: SqlStore, journal: SpoolJournal, function: Function, tmp_path: Path
) -> None:
    gone = await a_stored_function(store)
    opened = [a_call(one, invocation_id=id) for one, id in zip([function] * 3, ids(3), strict=True)]
    for call in opened[:1]:
        journal.opened(call)
    await journal.synced()
    await store.delete(gone.id)
    for call in (*opened, a_call(gone)):
        journal.closed(done(call, stdout=b"x" * records.LARGE_BYTES + b"y"))
    await journal.synced()
    exact(tmp_path)
    size = RECORD_BYTES + records.LARGE_BYTES + 1
    kept = rows(tmp_path, "SELECT bytes, number FROM usage WHERE kind = 'record'")
    assert kept == [(3 * size, 3)]


@OF_SQLITE
async def test_a_large_record_is_not_copied_on_its_way_in(store: SqlStore) -> None:
    def copies(statement: str) -> bool:
        values = [None] * statement.count("?")
        connection = sqlite3.connect(store.database.directory.database)
        with closing(connection):
            steps = connection.execute(f"EXPLAIN {statement}", values).fetchall()
        return any(step[1] == "OpenEphemeral" for step in steps)

    assert not copies(records.upsert_large(1))
    assert copies(records.upsert_rows(1, 1))  # negative control: this statement makes a copy


def test_an_upgrade_counts_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "quiltfn.db"
    engine = create_engine(f"sqlite:///{path}", poolclass=pool.NullPool)
    with engine.connect() as connection, connection.begin():
        command.upgrade(migrations.config(connection), "0008")
        for row_id in ids(7):
            row = {"id": row_id, "tenant": "a" if row_id[-1] in "0123456789" else "b"}
            connection.exec_driver_sql(RECORD, row)
            connection.exec_driver_sql(KEPT, row)
    with engine.connect() as connection, connection.begin():
        command.upgrade(migrations.config(connection), "head")
    exact(tmp_path)
    ((records_bytes,),) = rows(tmp_path, "SELECT sum(bytes) FROM usage WHERE kind = 'record'")
    assert records_bytes == 7 * RECORD_BYTES
    change(tmp_path, "DELETE FROM invocation", "DELETE FROM idempotent_answer")
    exact(tmp_path)


RECORD = """
INSERT INTO invocation (invocation_id, tenant_id, function_id, function_name, execution_node_id,
    status, stdout, stderr, cold_start)
VALUES (:id, :tenant, 'f', 'f', 'n', 'success', 'text of before', '', 0)
"""
KEPT = """
INSERT INTO idempotent_answer (tenant_id, method, path, key, body_digest, headers, body, made_at)
VALUES (:tenant, 'POST', '/f', :id, 'd', '{}', x'00ff00', 1)
"""


# Responses -----------------------------------------------------------------------------------


def a_keyed_request(key: str, tenant_id: str = "default") -> IdempotentRequest:
    return IdempotentRequest(
        tenant_id=tenant_id, method="POST", path="/f", key=key, body_digest="d"
    )


async def answered(
    answers: SqlIdempotencyStore, request: IdempotentRequest, size: int = 5000
) -> None:
    assert await answers.reserve(request, NOW) is None
    await answers.complete(request, 200, {"x-invocation-id": request.key}, b"x" * size)


async def test_the_oldest_answers_go_and_their_keys_stay(store: SqlStore, tmp_path: Path) -> None:
    answers = SqlIdempotencyStore(store.database, StorageLimit(tenant=30_000))
    for number in range(10):
        await answered(answers, replace(a_keyed_request(str(number))))
        await answered(
            SqlIdempotencyStore(store.database), a_keyed_request(str(number), "other"), 100_000
        )
        exact(tmp_path)
    for number in range(10):
        kept = not_none(await answers.reserve(a_keyed_request(str(number)), NOW))
        assert kept.headers == {"x-invocation-id": str(number)}
        assert bool(kept.body) is (number > 5)
    assert rows(tmp_path, "SELECT bytes <= 30000 FROM usage WHERE tenant_id = 'default'") == [(1,)]


@pytest.mark.parametrize("bound", [StorageLimit(tenant=10 * A_KEY), StorageLimit(all=10 * A_KEY)])
async def test_keys_that_fill_the_room_refuse_another(store: SqlStore, bound: StorageLimit) -> None:
    answers = SqlIdempotencyStore(store.database, bound)
    for number in range(9):
        await answered(answers, a_keyed_request(str(number)), 100)
    await answers.reserve(a_keyed_request("9"), NOW)
    with pytest.raises(RateLimited if bound.tenant else CapacityFull) as refused:
        await answers.reserve(a_keyed_request("10"), NOW)
    assert refused.value.retry_after
    known = await answers.reserve(a_keyed_request("0"), NOW)
    assert isinstance(known, StoredResponse)
    if bound.tenant:
        await answered(answers, a_keyed_request("0", "other"))
    await answers.prune(NOW + 86_400)
    await answered(answers, a_keyed_request("again"))


@pytest.mark.parametrize("flooded", [False, True])
async def test_keys_stay_within_both_bounds(store: SqlStore, tmp_path: Path, flooded: bool) -> None:
    answers = SqlIdempotencyStore(store.database, StorageLimit(tenant=30_000, all=100_000))
    if flooded:
        await fill_with_keys(answers, 30_000)
    for tenant in range(12):
        for number in range(5):
            await answered(answers, a_keyed_request(str(number), f"t{tenant}"))
            ((largest, whole),) = rows(tmp_path, OF_ANSWERS)
            assert largest <= 30_000  # type: ignore[operator]
            assert whole <= 100_000  # type: ignore[operator]
    exact(tmp_path)


async def test_bodies_go_though_others_have_more_keys(store: SqlStore, tmp_path: Path) -> None:
    answers = SqlIdempotencyStore(store.database, StorageLimit(tenant=30_000))
    await fill_with_keys(answers, 30_000)
    for number in range(40):
        await answered(answers, a_keyed_request(str(number), "other"), 400)
        exact(tmp_path)
    change(tmp_path, "UPDATE usage SET bytes = bytes + 5000 WHERE tenant_id = 'flood'")
    # This also works beside a tenant whose responses take too much.
    await answered(answers, a_keyed_request("more", "other"))
    with pytest.raises(RateLimited):
        await answers.reserve(a_keyed_request("more", "flood"), NOW)
    assert rows(tmp_path, "SELECT 1 FROM idempotent_answer WHERE key = 'more'") == [(1,)]


OF_ANSWERS = "SELECT max(bytes), sum(bytes) FROM usage WHERE kind = 'answer'"


async def fill_with_keys(answers: SqlIdempotencyStore, room: int) -> None:
    """Start as many invocations of one tenant at the same time as it can have keys for, and end
    them.
    """
    count = 0
    with suppress(RateLimited):
        while count < 1000:
            await answers.reserve(a_keyed_request(f"{count}", "flood"), NOW)
            count += 1
    assert room // A_KEY - 2 <= count <= room // A_KEY
    for number in range(count):
        request = a_keyed_request(f"{number}", "flood")
        await answers.complete(request, 200, {"x-invocation-id": "i" * 36}, b"x" * 100)


# The audit log and operations ----------------------------------------------------------------


def an_operation(tenant_id: str, operation_id: str, status: str) -> Operation:
    fields = {"operation_id": operation_id, "idempotency_key": operation_id, "status": status}
    return replace(stores.an_operation(NOW), tenant_id=tenant_id, **fields)


async def test_the_trail_and_operations_are_bounded(store: SqlStore, tmp_path: Path) -> None:
    audit, operations = SqlAudit(store.database), SqlOperations(store.database)
    made, entry = ids(30), an_entry(credential="k", request_id="r" * 36)
    for number, row_id in enumerate(made):
        tenant_id = "small" if number % 10 == 0 else "large"
        await audit.append(replace(entry, id=row_id, tenant_id=tenant_id))
        status = "running" if number < 3 else "succeeded"
        await operations.add(an_operation(tenant_id, row_id, status))
    exact(tmp_path)
    for row_id in ids(40):  # tenants without removable rows must not disable the limit for others
        await operations.add(an_operation("busy", row_id, "running"))
    retention = SqlAuditRetention(store.database, StorageLimit(tenant=6000))
    while await retention.prune_some():
        pass
    exact(tmp_path)
    kept = [one.id for one in (await audit.query(AuditQuery(tenant_id="large", limit=100))).items]
    assert 9 <= len(kept) <= 12
    assert kept == [one for number, one in enumerate(made) if number % 10][::-1][: len(kept)]
    assert len((await audit.query(AuditQuery(tenant_id="small", limit=100))).items) == 3
    await restart(store)
    running = [one.operation_id for one in await operations.interrupted()]
    assert running[:3] == made[:3]
    assert len(running) == 43
    assert await operations.get("large", made[3]) is None
    assert await operations.get("large", made[29]) is not None


async def test_operations_with_an_end_go_by_age(store: SqlStore) -> None:
    operations = SqlOperations(store.database)
    made = [f"{first_id(NOW + n)}-7000-8000-000000000000" for n in range(4)]
    for operation_id, status in zip(made, ("running", *["failed"] * 3), strict=True):
        await operations.add(an_operation("t", operation_id, status))
    assert await operations.prune(NOW + 2) == 1
    assert [await operations.get("t", one) is not None for one in made] == [True, False, True, True]
