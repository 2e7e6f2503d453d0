"""The checker of histories finds a server's mistakes, and nothing in a correct history."""

from collections.abc import Callable
from typing import Any

import pytest

from e2e.history import Call, History, Owned, Record, Seen, judge
from promises import promise
from quiltfn.model.end_cause import NODE_LOST

pytestmark = promise("D27", "N70")


def record(number: int, token: str, **more: Any) -> Record:
    return {
        "invocation_id": f"id-{number:03}",
        "status": "success",
        "started_at": 100 + number,
        "ended_at": 100 + number,
        "stdout": f"{token}\n",
        **more,
    }


def a_history() -> tuple[History, Seen]:
    """Three calls, one with a key and two responses, one without a response; two functions."""
    records = [record(number, f"t{number}") for number in (3, 2, 1)]
    calls = [
        Call("t1", "f", answers=[(1.0, records[2])]),
        Call("t2", "f", key="k2", answers=[(2.0, records[1]), (2.5, records[1])]),
        Call("t3", "f"),
    ]
    functions = [
        Owned("kept", "1", "new", sent=["newer"]),
        Owned("gone", "2", "x", is_deleted=True, asked_to_delete=True),
    ]
    seen = Seen({"f": [dict(one) for one in records]}, {"kept": {"description": "newer"}})
    return History(calls, functions), seen


MISTAKES: dict[str, tuple[Callable[[Seen], object], str]] = {
    "loses a record": (lambda seen: seen.records["f"].pop(1), "lost"),
    "changes a record": (lambda seen: seen.records["f"][2].update(status="failed"), "changed"),
    "runs twice": (lambda seen: seen.records["f"].insert(0, record(4, "t2")), "twice"),
    "never ends": (lambda seen: seen.records["f"][0].update(status="running"), "never_final"),
    "ends before it starts": (lambda seen: seen.records["f"][0].update(ended_at=5), "disorder"),
    "changes the order": (lambda seen: seen.records["f"].reverse(), "disorder"),
    "loses a function": (lambda seen: seen.functions.pop("kept"), "functions"),
    "undoes a change": (
        lambda seen: seen.functions.update(kept={"description": "old"}),
        "functions",
    ),
    "undoes a deletion": (
        lambda seen: seen.functions.update(gone={"description": "x"}),
        "functions",
    ),
}


@pytest.mark.parametrize(("mistake", "found"), MISTAKES.values(), ids=MISTAKES)
def test_mistaken_servers_are_found_out(mistake: Callable[[Seen], object], found: str) -> None:
    history, seen = a_history()
    verdict = judge(history, seen)
    assert verdict.is_clean, verdict.examples
    mistake(seen)
    verdict = judge(history, seen)
    assert getattr(verdict, found) >= 1, verdict
    assert not verdict.is_clean


def test_a_second_execution_is_found_in_what_was_answered_too() -> None:
    history, seen = a_history()
    history.calls[1].answers.append((3.0, record(7, "t2")))
    assert judge(history, seen).twice == 1


def test_a_power_cut_may_cost_the_last_moment_and_no_more() -> None:
    history, seen = a_history()
    seen.records["f"].pop(1)
    late = judge(history, seen, cuts=[(2.4, 2.6)], may_lose_s=0.5)
    assert (late.lost, late.lost_late) == (0, 2)
    early = judge(history, seen, cuts=[(2.4, 2.6)], may_lose_s=0.1)
    assert (early.lost, early.lost_late) == (1, 1)


def test_only_an_end_that_another_node_had_made_up_gives_way_to_the_true_one() -> None:
    history, seen = a_history()
    lost = record(1, "t1", status="interrupted", stdout="", error_message=NODE_LOST.sentence)
    history.calls[0].answers = [(1.0, lost)]
    assert judge(history, seen).is_clean
    history.calls[0].answers = [(1.0, lost | {"error_message": "the server ended"})]
    assert judge(history, seen).changed == 1
    history.calls[0].answers = [(1.0, lost | {"status": "failed"})]
    assert judge(history, seen).changed == 1
