"""Deliveries on every store: the promises of `ports/deliveries.py`."""

from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from contract.pieces import NOW_MS, NOW_S, a_piece, begun
from contract.stores import (
    a_stored_function,
    an_id,
    done,
    ids,
    not_none,
    pages_of,
    restart,
)
from promises import promise
from quiltfn.model.delivery import DeliveryStatus
from quiltfn.model.end_cause import Exited
from quiltfn.model.errors import CapacityFull, NotFound
from quiltfn.model.function import Function
from quiltfn.model.invocation import WorkOutcome
from quiltfn.model.retention import StorageLimit
from quiltfn.ports import TenantFunctions
from quiltfn.store import SpoolJournal, SqlDeliveries, SqlStore, SqlWork
from quiltfn.store.database import steps


@pytest.fixture
def deliveries(store: SqlStore, queue: SqlWork) -> SqlDeliveries:
    return SqlDeliveries(store.database, queue)


async def ended(journal: SpoolJournal, function: Function, *, destination_id: str) -> str:
    """End an invocation that has a destination; return the invocation's id."""
    running = begun(a_piece(function).record)
    journal.opened(running)
    outcome = WorkOutcome(destination_id=destination_id)
    journal.closed(replace(done(running), outcome=outcome))
    await journal.synced()
    return running.invocation_id


@promise("A46")
async def test_the_commit_of_a_record_makes_its_delivery_once(
    deliveries: SqlDeliveries, journal: SpoolJournal, function: Function
) -> None:
    delivery_id = an_id()
    invocation_id = await ended(journal, function, destination_id=delivery_id)
    (due,) = await deliveries.load()
    assert (due.function_id, due.tenant_id) == (function.id, function.tenant_id)
    (delivery,) = (await deliveries.list(function.id, 10, None, None)).items
    assert (delivery.id, delivery.invocation_id) == (delivery_id, invocation_id)
    assert (delivery.status, delivery.policy_field) == ("waiting", "on_success")
    assert (delivery.body, delivery.attempts) == (b"", 0)
    assert delivery.expires_at_ms - delivery.due_at_ms == 24 * 3600 * 1000


@promise("A90")
async def test_a_listed_one_has_the_cause_of_the_end_that_it_tells_of(
    deliveries: SqlDeliveries, journal: SpoolJournal, function: Function
) -> None:
    running, delivery_id = begun(a_piece(function).record), an_id()
    journal.opened(running)
    cause, outcome = Exited(3, "gone"), WorkOutcome(destination_id=delivery_id)
    journal.closed(replace(done(running, 3), end_cause=cause, outcome=outcome))
    await ended(journal, function, destination_id=an_id())
    shown = (await deliveries.list(function.id, 10, None, None)).items
    assert [one.end_cause for one in shown if one.id == delivery_id] == [cause]
    assert [one.end_cause for one in shown if one.id != delivery_id] == [None]
    again = not_none(await deliveries.retry(function.id, delivery_id, NOW_MS, NOW_MS))
    assert again.end_cause == cause


@promise("A46")
async def test_a_claimed_one_is_nobody_elses_until_the_next_start(
    deliveries: SqlDeliveries, journal: SpoolJournal, function: Function, store: SqlStore
) -> None:
    await ended(journal, function, destination_id=an_id())
    assert await deliveries.claim(function.id, 10, 0) == []
    (delivery,) = await deliveries.claim(function.id, 10, NOW_MS * 2)
    assert delivery.attempts == 1
    assert b'"type":"invocation.success"' in delivery.body
    assert delivery.invocation_id.encode() in delivery.body
    assert await deliveries.claim(function.id, 10, NOW_MS * 2) == []
    assert await deliveries.next_due(function.id) is None
    assert await deliveries.load() == []
    await restart(store)
    assert [due.function_id for due in await deliveries.load()] == [function.id]
    await deliveries.finish(
        replace(delivery, status=DeliveryStatus.DELIVERED)
    )  # the claim is of an earlier start, so it no longer counts
    (again,) = await deliveries.claim(function.id, 10, NOW_MS * 2)
    assert (again.id, again.attempts) == (delivery.id, 2)


async def test_a_try_that_failed_is_due_again_and_one_that_was_not_begun_does_not_count(
    deliveries: SqlDeliveries, journal: SpoolJournal, function: Function
) -> None:
    await ended(journal, function, destination_id=an_id())
    (delivery,) = await deliveries.claim(function.id, 10, NOW_MS * 2)
    await deliveries.release(delivery)
    (delivery,) = await deliveries.claim(function.id, 10, NOW_MS * 2)
    assert delivery.attempts == 1
    later = replace(delivery, due_at_ms=NOW_MS * 2 + 5000, http_status=500, error_message="no")
    await deliveries.finish(later)
    assert not_none(await deliveries.next_due(function.id)).next_due_ms == NOW_MS * 2 + 5000
    (shown,) = (await deliveries.list(function.id, 10, None, DeliveryStatus.WAITING)).items
    assert (shown.http_status, shown.error_message) == (500, "no")


async def test_what_is_claimed_and_not_known_waits_again_and_does_not_count(
    deliveries: SqlDeliveries, journal: SpoolJournal, function: Function
) -> None:
    for _ in range(2):
        await ended(journal, function, destination_id=an_id())
    known, other = await deliveries.claim(function.id, 10, NOW_MS * 2)
    await deliveries.release_others([known.id])
    (again,) = await deliveries.claim(function.id, 10, NOW_MS * 2)
    assert (again.id, again.attempts) == (other.id, 1)
    await deliveries.finish(replace(known, status=DeliveryStatus.DELIVERED))
    await deliveries.release_others([])
    (again,) = await deliveries.claim(function.id, 10, NOW_MS * 2)
    assert (again.id, again.attempts) == (other.id, 1)


async def test_the_end_of_an_earlier_try_changes_nothing_and_a_try_under_way_stays_as_it_is(
    deliveries: SqlDeliveries, journal: SpoolJournal, function: Function
) -> None:
    await ended(journal, function, destination_id=an_id())
    (first,) = await deliveries.claim(function.id, 10, NOW_MS * 2)
    await deliveries.finish(replace(first, http_status=500))
    (second,) = await deliveries.claim(function.id, 10, NOW_MS * 2)
    await deliveries.finish(replace(first, status=DeliveryStatus.DELIVERED))
    asked = not_none(await deliveries.retry(function.id, second.id, 7, 9))
    assert (asked.status, asked.due_at_ms) == ("waiting", second.due_at_ms)
    await deliveries.finish(replace(second, status=DeliveryStatus.DELIVERED))
    (shown,) = (await deliveries.list(function.id, 10, None, None)).items
    assert shown.status == "delivered"


@promise("A47")
async def test_a_function_gets_it_in_the_step_in_which_it_is_delivered(
    deliveries: SqlDeliveries,
    queue: SqlWork,
    journal: SpoolJournal,
    function: Function,
    store: SqlStore,
) -> None:
    target = await a_stored_function(store)
    parent = await ended(journal, function, destination_id=an_id())
    (delivery,) = await deliveries.claim(function.id, 10, NOW_MS * 2)
    piece = a_piece(target)
    piece = replace(
        piece,
        record=replace(piece.record, invocation_id=delivery.id, parent_invocation_id=parent),
    )
    with pytest.raises(CapacityFull):
        await deliveries.accept(delivery, replace(piece, max_queued=0))
    assert (await deliveries.list(function.id, 10, None, None)).items[0].status == "waiting"
    await deliveries.accept(delivery, piece)
    await deliveries.accept(delivery, piece)
    assert (await deliveries.list(function.id, 10, None, None)).items[0].status == "delivered"
    claim = await queue.claim(target.id, 10, NOW_MS, is_begun=False)
    assert [work.record.invocation_id for work in claim.work] == [delivery.id]
    assert await deliveries.depth(parent, 16) == 1
    assert await deliveries.depth(delivery.id, 16) == 2
    assert await deliveries.depth(delivery.id, 1) == 1
    gone = a_piece(replace(function, id=an_id()))
    with pytest.raises(NotFound):
        await deliveries.accept(delivery, gone)


async def test_lists_are_pages_newest_first(
    deliveries: SqlDeliveries, journal: SpoolJournal, function: Function
) -> None:
    made = ids(5)
    for delivery_id in made:
        await ended(journal, function, destination_id=delivery_id)
    pages = await pages_of(lambda cursor: deliveries.list(function.id, 3, cursor, None))
    assert [[one.id for one in page] for page in pages] == [made[:1:-1], made[1::-1]]
    assert (await deliveries.list(an_id(), 3, None, None)).items == []
    tenant = function.tenant_id
    for of, count in (
        (TenantFunctions(tenant), 5),
        (TenantFunctions(tenant, [an_id(), function.id]), 5),
        (TenantFunctions(tenant, []), 0),
        (TenantFunctions("other"), 0),
    ):
        found = await deliveries.list(of, 9, None, None)
        assert [one.id for one in found.items] == made[::-1][:count]
        assert (await deliveries.list(of, 9, None, DeliveryStatus.FAILED)).items == []


async def test_a_status_that_few_have_ends_a_page_early_and_loses_none(
    deliveries: SqlDeliveries,
    journal: SpoolJournal,
    function: Function,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for delivery_id in ids(15):
        await ended(journal, function, destination_id=delivery_id)
    some = await deliveries.claim(function.id, 15, NOW_MS * 2)
    failed = [
        one for n, one in enumerate(sorted(some, key=lambda delivery: delivery.id)) if n % 7 == 0
    ]
    for delivery in failed:
        await deliveries.finish(replace(delivery, status=DeliveryStatus.FAILED, ended_at=NOW_S))
    monkeypatch.setattr(steps, "STEP_ENTRIES", 3)
    monkeypatch.setattr(steps, "STEPS_S", 0.0)

    async def listed_failed(of: str | TenantFunctions, cursor: str | None) -> Any:
        return await deliveries.list(of, 2, cursor, DeliveryStatus.FAILED)

    for of in (function.id, TenantFunctions(function.tenant_id, [an_id(), function.id])):
        pages = await pages_of(partial(listed_failed, of))
        assert [one.id for page in pages for one in page] == [one.id for one in failed[::-1]]
        assert len(pages) > 4


async def test_a_failed_one_is_tried_again_on_request(
    deliveries: SqlDeliveries, journal: SpoolJournal, function: Function
) -> None:
    await ended(journal, function, destination_id=an_id())
    (delivery,) = await deliveries.claim(function.id, 10, NOW_MS * 2)
    failed = replace(delivery, status=DeliveryStatus.FAILED, ended_at=NOW_S)
    await deliveries.finish(failed)
    assert await deliveries.next_due(function.id) is None
    assert await deliveries.retry(an_id(), delivery.id, 7, 9) is None
    again = not_none(await deliveries.retry(function.id, delivery.id, 7, 9))
    assert (again.status, again.due_at_ms, again.expires_at_ms) == ("waiting", 7, 9)
    (delivery,) = await deliveries.claim(function.id, 10, 7)
    assert delivery.body
    await deliveries.finish(
        replace(delivery, status=DeliveryStatus.DELIVERED, body=b"", ended_at=8)
    )
    assert not_none(await deliveries.retry(function.id, delivery.id, 7, 9)).status == "delivered"


async def test_nothing_is_sent_for_a_deleted_function_and_nothing_is_left(
    deliveries: SqlDeliveries, journal: SpoolJournal, function: Function, store: SqlStore
) -> None:
    await ended(journal, function, destination_id=an_id())
    await store.delete(function.id)
    assert await deliveries.claim(function.id, 10, NOW_MS * 2) == []
    await store.wait_swept()
    assert (await deliveries.list(function.id, 10, None, None)).items == []


async def test_what_has_ended_goes_by_age_and_what_is_too_much_goes_oldest_first(
    deliveries: SqlDeliveries,
    queue: SqlWork,
    journal: SpoolJournal,
    function: Function,
    store: SqlStore,
) -> None:
    made = ids(4)
    for delivery_id in made:
        await ended(journal, function, destination_id=delivery_id)
    for each in await deliveries.claim(function.id, 2, NOW_MS * 2):
        await deliveries.finish(replace(each, status=DeliveryStatus.FAILED, ended_at=NOW_S))
    assert await deliveries.prune_some(NOW_S, NOW_S) == 0
    bounded = SqlDeliveries(store.database, queue, StorageLimit(tenant=2200))
    while await bounded.prune_some(None, NOW_S):
        pass
    left = (await deliveries.list(function.id, 10, None, None)).items
    assert [(one.id, one.status) for one in left] == [(made[3], "waiting"), (made[2], "waiting")]
    tight = SqlDeliveries(store.database, queue, StorageLimit(tenant=1100))
    assert await tight.prune_some(None, NOW_S) == 1
    left = (await deliveries.list(function.id, 10, None, None)).items
    assert [(one.id, one.status) for one in left] == [(made[3], "waiting"), (made[2], "failed")]
    # The content of this delivery was removed before.
    again = await deliveries.retry(function.id, made[2], 7, 9)
    assert again is not None
    assert (again.status, again.ended_at) == ("failed", NOW_S)
    assert await deliveries.prune_some(2**40, NOW_S) == 1
    left = (await deliveries.list(function.id, 10, None, None)).items
    assert [one.status for one in left] == ["waiting"]
