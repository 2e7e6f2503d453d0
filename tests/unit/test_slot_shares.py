"""After a maximum was lowered, every node computes the same number of slots to give back."""

from hypothesis import given
from hypothesis import strategies as st

from quiltfn.model.slots import FunctionSlots

HELD = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 9))


def slots(most: int, held: dict[str, int], wanted: dict[str, int] | None = None) -> FunctionSlots:
    return FunctionSlots("f", most, held, wanted or held)


@given(st.integers(0, 30), HELD)
def test_all_shares_together_are_the_maximum(most: int, held: dict[str, int]) -> None:
    state = slots(most, held)
    shares = {node: state.share_of(node) for node in held}
    assert sum(shares.values()) == min(most, sum(held.values()))
    assert all(0 <= shares[node] <= held[node] for node in held)


@given(st.integers(0, 30), HELD)
def test_nobody_keeps_two_more_than_who_has_to_give(most: int, held: dict[str, int]) -> None:
    state = slots(most, held)
    shares = {node: state.share_of(node) for node in held}
    gives = [shares[node] for node in held if shares[node] < held[node]]
    assert not gives or max(shares.values()) <= min(gives) + 1


def test_those_with_most_give_first_and_others_lack_what_they_asked_for() -> None:
    state = slots(4, {"a": 5, "b": 1, "c": 1})
    assert [state.share_of(node) for node in "abcd"] == [2, 1, 1, 0]
    assert [slots(1, {"a": 1, "b": 1}).share_of(node) for node in "ab"] == [1, 0]
    state = slots(3, {"a": 3, "b": 0}, {"a": 5, "b": 2, "c": 1})
    assert state.wanted_by_others("a") == 3
    assert state.wanted_by_others("b") == 3
    assert state.wanted_by_others("d") == 5
