"""Calls sent to a lost node: the sender writes their end, unless another node knows it."""

import asyncio
from typing import Any

import pytest

from manual_clock import ManualClock
from promises import promise
from quiltfn.fleet import lost_calls
from quiltfn.fleet.lost_calls import LostCalls
from quiltfn.model.end_cause import NODE_LOST
from quiltfn.model.errors import StoreUnavailable
from quiltfn.model.invocation import Invocation, Status
from quiltfn.model.member import Member, Presence

pytestmark = promise("N17", "N75")

PATIENCE_S = 10.0


class Records:
    """The part of a journal that is used here. `is_away`: its database does not respond."""

    def __init__(self) -> None:
        self.known: dict[str, Invocation] = {}
        self.is_away = False

    async def outline(self, function_id: str, invocation_id: str) -> Invocation | None:
        assert function_id == "f"
        await asyncio.sleep(0)
        if self.is_away:
            raise StoreUnavailable("it is away")
        return self.known.get(invocation_id)

    def closed(self, record: Invocation) -> None:
        assert record.invocation_id not in self.known  # a final record must not change
        self.known[record.invocation_id] = record


def a_record(name: str, status: Status = Status.INTERRUPTED) -> Invocation:
    return Invocation(
        invocation_id=name,
        tenant_id="t",
        function_id="f",
        function_name="f",
        execution_node_id="b",
        status=status,
        error_message=NODE_LOST.sentence,
    )


def node(epoch: int = 1, presence: Presence = Presence.PRESENT) -> list[Member]:
    return [Member(name="b", epoch=epoch, presence=presence)]


GONE = node(2, Presence.GONE)


class Sender:
    """A node that has sent these invocations to node b. `knows`: whether b knows them; None: b does
    not respond.
    """

    def __init__(self, *names: str, knows: bool | None = False) -> None:
        self.records, self.clock, self.knows = Records(), ManualClock(), knows
        journal: Any = self.records
        self.asked: list[str] = []
        self.calls = LostCalls(journal, self.clock, self.ask, PATIENCE_S)
        self.calls.read(node())
        for name in names:
            self.calls.add("b", a_record(name))

    async def ask(self, name: str, invocation_id: str) -> bool | None:
        self.asked.append(f"{name} {invocation_id}")
        return self.knows

    async def read(self, members: list[Member], after_s: float = 0.0) -> set[str]:
        """Let the node look at the members. Returns the ids of all records after that."""
        self.clock.time += after_s
        self.calls.read(members)
        for _ in range(10):
            await asyncio.sleep(0)
        return set(self.records.known)


@pytest.mark.parametrize("knows", [True, None])
@pytest.mark.parametrize("epoch", [1, 2])
async def test_nothing_is_written_while_a_node_knows_more(knows: bool | None, epoch: int) -> None:
    sender = Sender("1", knows=knows)
    assert await sender.read(node(epoch)) == set()
    for _ in range(4):
        assert await sender.read(node(epoch), PATIENCE_S) == set()
    assert sender.asked == ["b 1"] * 4


async def test_a_call_that_a_node_which_is_there_knows_nothing_of_is_interrupted() -> None:
    sender = Sender("1")
    assert await sender.read(node()) == set()  # the invocation may still be on its way
    assert await sender.read(node(), PATIENCE_S) == {"1"}
    assert sender.asked == ["b 1"]


@pytest.mark.parametrize(("members", "asked"), [(node(), ["b 1"]), (GONE, [])])
async def test_what_was_stored_stays_as_it_is(members: list[Member], asked: list[str]) -> None:
    sender = Sender("1")
    sender.records.known["1"] = a_record("1", Status.SUCCESS)
    for _ in range(2):
        await sender.read(members, PATIENCE_S)
        assert sender.records.known["1"].status is Status.SUCCESS
    assert sender.asked == asked


async def test_a_node_that_does_not_answer_is_asked_once_for_all_its_calls() -> None:
    sender = Sender(*"123", knows=None)
    sender.calls.add("c", a_record("4"))
    assert await sender.read(node(), PATIENCE_S) == {"4"}  # node c is gone
    assert sender.asked == ["b 1"]


async def test_a_mistake_with_one_call_holds_up_no_other(monkeypatch: Any) -> None:
    sender = Sender(*"12")
    closed = sender.records.closed

    def fail_once(record: Invocation) -> None:
        if record.invocation_id == "1":
            raise ValueError
        closed(record)

    monkeypatch.setattr(sender.records, "closed", fail_once)
    assert await sender.read(GONE) == {"2"}


async def test_once_the_node_is_gone_the_call_is_interrupted_once() -> None:
    sender = Sender("1")
    sender.records.is_away = True
    assert await sender.read(GONE) == set()  # the record is written later
    sender.records.is_away = False
    assert await sender.read(GONE) == {"1"}
    assert sender.records.known["1"].error_message == NODE_LOST.sentence
    sender.records.known.clear()
    assert await sender.read(GONE) == set()


async def test_so_many_are_kept(monkeypatch: Any) -> None:
    monkeypatch.setattr(lost_calls, "LOST_MAX", 2)
    assert await Sender(*"123").read(GONE) == {"2", "3"}
