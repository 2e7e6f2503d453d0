"""Budgets of long bodies, responses and output: who gets memory, who waits, what is released."""

import asyncio
import contextlib

import pytest

from promises import promise
from quiltfn.api.http import budgets
from quiltfn.api.http.budgets import (
    MANAGEMENT_BYTES,
    MIB,
    SHORT_BYTES,
    BodyBudget,
    Budgets,
    CallOutputBudget,
    OutputBudget,
    ResponseBudget,
    UploadSlots,
)
from quiltfn.model.errors import CapacityFull, RateLimited

pytestmark = promise("A22")


def test_bodies_of_calls_leave_room_for_others() -> None:
    budget = BodyBudget(100)
    budget.reserve(50, "a", is_call=True)
    budget.reserve(50, "b", is_call=True)
    with pytest.raises(CapacityFull):
        budget.reserve(1, "c", is_call=True)
    budget.reserve(SHORT_BYTES, "c", is_call=False)
    budget.release(50, "a")
    budget.release(50, "b")
    budget.release(SHORT_BYTES, "c")
    assert budget.held == 0


def test_bodies_of_one_tenant_leave_half_to_others() -> None:
    budget = BodyBudget(100)
    budget.reserve(40, "a", is_call=True)
    with pytest.raises(RateLimited):
        budget.reserve(11, "a", is_call=True)
    budget.reserve(50, "b", is_call=True)
    budget.release(40, "a")
    budget.reserve(50, "a", is_call=True)
    with pytest.raises(RateLimited):  # the reserve for other requests has the same rule
        budget.reserve(MANAGEMENT_BYTES // 2 + 1, "a", is_call=False)
    budget.reserve(MANAGEMENT_BYTES // 2, "a", is_call=False)
    budget.reserve(MANAGEMENT_BYTES // 2, "b", is_call=False)


def test_strangers_leave_a_tenant_half_of_what_it_has() -> None:
    budget = BodyBudget(400)
    budget.reserve(100, "a", is_call=True, is_stranger=True)
    with pytest.raises(RateLimited, match="without a credential"):
        budget.reserve(1, "a", is_call=True, is_stranger=True)
    budget.reserve(100, "a", is_call=True)
    with pytest.raises(RateLimited, match="of the tenant's bodies"):
        budget.reserve(1, "a", is_call=True)
    budget.release(100, "a", is_stranger=True)
    budget.reserve(100, "a", is_call=True)  # the tenant can use the memory that strangers don't use
    budget.release(200, "a")
    assert (budget.held, budget._held_of, budget._strangers) == (0, {}, {})


def test_strangers_of_many_tenants_leave_half_of_all() -> None:
    budget = BodyBudget(400)
    for tenant in "ab":
        budget.reserve(100, tenant, is_call=True, is_stranger=True)
    with pytest.raises(RateLimited, match="without a credential"):
        budget.reserve(1, "c", is_call=True, is_stranger=True)
    budget.reserve(200, "c", is_call=True)


async def served(*answers: tuple[str, int]) -> list[str]:
    """The names of these responses, in the order in which they get memory. The first letter of a
    name is its tenant.
    """
    budget, order = ResponseBudget(100), []

    async def answer(name: str, size: int) -> None:
        async with budget.reserve(size, name[0]):
            order.append(name)
            await asyncio.sleep(0.01)

    await asyncio.gather(*(answer(*one) for one in answers))
    return order


async def test_a_long_answer_waits_for_those_before_it() -> None:
    """If shorter responses could overtake, the longest one might never get its memory."""
    answers = [("a1", 60), ("a2", 60), ("a3", 10), ("a4", 500)]
    assert await served(*answers) == ["a1", "a2", "a3", "a4"]


@promise("A24")
@pytest.mark.parametrize(
    ("late", "order"),
    [("b", ["a0", "a1", "b", "a2", "a3"]), ("a", ["a0", "a1", "a2", "a3", "a"])],
)
async def test_one_tenant_s_answers_do_not_precede_another(late: str, order: list[str]) -> None:
    assert await served(*((f"a{n}", 100) for n in range(4)), (late, 100)) == order


async def test_kept_answers_are_loaded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "RESPONSE_WAIT_S", 0.3)
    ours, loaded, now = Budgets(), [], 0

    async def load(tenant_id: str) -> None:
        nonlocal now
        async with ours.stored_response(tenant_id):
            now += 1
            assert now == 1
            await asyncio.sleep(0.1)
            now -= 1
            loaded.append(tenant_id)

    mine = [asyncio.ensure_future(load("a")) for _ in range(8)]
    await asyncio.sleep(0.01)
    await load("b")
    assert len(loaded) <= 3
    ended = await asyncio.gather(*mine, return_exceptions=True)
    assert {type(one) for one in ended} == {type(None), CapacityFull}  # each request ends


async def test_whoever_gives_up_makes_way_for_the_next() -> None:
    budget = ResponseBudget(100)
    budget.add_unsent(50)
    first = asyncio.ensure_future(budget.reserve(60, "a").__aenter__())
    await asyncio.sleep(0)
    second = asyncio.ensure_future(budget.reserve(50, "a").__aenter__())
    await asyncio.sleep(0)
    assert (budget.missing, budget.served) == (10, 0)  # only the first response is counted
    first.cancel()
    await asyncio.wait_for(second, 1)
    assert (budget.missing, budget.served) == (0, 1)


async def test_unread_answers_keep_others_from_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "RESPONSE_WAIT_S", 0.05)
    budget = ResponseBudget(100)
    budget.add_unsent(90)
    with pytest.raises(CapacityFull, match="no memory for the response"):
        async with budget.reserve(20, "a"):
            pass
    assert [budget.missing] == [0]  # A list, because mypy would narrow a plain comparison.
    waits = asyncio.ensure_future(budget.reserve(20, "a").__aenter__())
    await asyncio.sleep(0.01)
    assert budget.missing == 10
    budget.add_unsent(-90)
    await waits


def test_long_output_counts_as_many_mib_as_it_has() -> None:
    budget, notified = OutputBudget(steps=8, places=0), []
    with contextlib.ExitStack() as calls:
        for _ in range(4):
            assert calls.enter_context(CallOutputBudget(budget, "a")).take(300_000, lambda: None)
        waits = calls.enter_context(CallOutputBudget(budget, "a"))
        assert not waits.take(300_000, lambda: notified.append("waits"))
        for _ in range(2):
            assert calls.enter_context(CallOutputBudget(budget, "b")).take(2 * MIB, lambda: None)
        assert notified == []
    assert budget.is_unused


@promise("A24")
def test_one_tenant_that_keeps_what_it_has_keeps_nobody_else_from_long_output() -> None:
    budget = OutputBudget()
    with contextlib.ExitStack() as calls:
        kept = [calls.enter_context(CallOutputBudget(budget, "a")) for _ in range(100)]
        # The tenant's half of the budget.
        assert sum(one.take(7 * MIB, lambda: None) for one in kept) == 2
        # All further calls end, although they wait for each other, and however much output each
        # has.
        ended: list[CallOutputBudget] = []
        going: list[CallOutputBudget] = []

        def write(call: CallOutputBudget) -> None:
            for size in range(max(1, call.wanted), 8):
                if not call.take(size * MIB, lambda: going.append(call)):
                    return
            ended.append(call)
            call.__exit__()

        for number in range(40):
            call = calls.enter_context(CallOutputBudget(budget, "bcd"[number % 3]))
            if call.take(MIB, lambda call=call: going.append(call)):  # type: ignore[misc]
                going.append(call)
        while going:
            write(going.pop(0))
        assert len(set(ended)) == len(ended) == 40
    assert budget.is_unused


@promise("A24")
def test_without_a_place_calls_that_wait_for_each_others_room_would_not_end() -> None:
    budget, notified = OutputBudget(steps=4, places=0), []
    with CallOutputBudget(budget, "a") as first, CallOutputBudget(budget, "a") as other:
        for call in (first, other):
            assert call.take(MIB, lambda: None)
        for call in (first, other):
            assert not call.take(2 * MIB, lambda: notified.append("one of them"))
        assert notified == []


def test_long_output_that_is_given_up_gives_its_room_to_the_next() -> None:
    budget, notified = OutputBudget(steps=2, places=0), []
    with CallOutputBudget(budget, "a") as first:
        assert first.take(MIB, lambda: notified.append("first"))
        with (
            CallOutputBudget(budget, "a") as gave_up,
            CallOutputBudget(budget, "a") as second,
            CallOutputBudget(budget, "a"),
        ):
            assert not gave_up.take(MIB, lambda: notified.append("gave up"))
            assert not second.take(MIB, lambda: notified.append("second"))
            gave_up.__exit__()
            assert notified == []
            first.__exit__()
            assert notified == ["second"]
    assert budget.is_unused


def test_images_arrive_a_few_at_a_time() -> None:
    budget = UploadSlots(1)
    with budget, pytest.raises(CapacityFull), budget:
        pass
    with budget:
        pass
