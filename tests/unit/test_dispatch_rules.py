"""Whose asynchronous calls are started next, and how many: none waits forever, whatever arrives."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promises import promise
from quiltfn.model.dispatch import (
    SLICE_LEAST,
    SLICE_MOST,
    STARVED_S,
    Load,
    Rota,
    may_start,
    slice_size,
)

pytestmark = promise("W11", "W12")

FUNCTIONS = [(tenant, f"{tenant}{number}") for tenant in "abc" for number in range(3)]
TENANT_OF = {function: tenant for tenant, function in FUNCTIONS}


def load(
    running: int = 0, in_line: int = 0, waited_s: float = 0.0, most: int | None = None
) -> Load:
    return Load(running=running, in_line=in_line, waited_s=waited_s, max_concurrency=most)


LOADS = st.builds(
    load,
    running=st.integers(0, 20),
    in_line=st.integers(0, 3),
    waited_s=st.floats(0, 100),
    most=st.none() | st.integers(1, 10),
)


@given(load=LOADS, headroom=st.integers(-5, 20))
def test_no_more_may_start_than_the_policy_and_the_pool_allow(load: Load, headroom: int) -> None:
    """Exception: a call that has waited for long may always join the pool's queue."""
    count = may_start(load, headroom)
    assert count >= 0
    has_place = load.max_concurrency is None or load.running < load.max_concurrency
    if load.max_concurrency is not None:
        assert count <= max(0, load.max_concurrency - load.running)
    if headroom > 0:
        assert count <= headroom
    elif load.waited_s < STARVED_S or load.in_line:
        assert count == 0, "it takes a place from a caller who waits"
    else:
        assert count <= 1, "more than one joins the line"
    if load.waited_s >= STARVED_S and not load.in_line and has_place:
        assert count >= 1


@given(rate=st.floats(0, 1e6), could=st.integers(0, 10_000))
def test_a_slice_is_bounded_and_covers_what_could_begin(rate: float, could: int) -> None:
    size = slice_size(rate, could)
    assert SLICE_LEAST <= size <= SLICE_MOST
    assert size >= min(could, SLICE_MOST)


# Arrivals, and turns at which some functions have no headroom.
EVENTS = st.lists(
    st.one_of(
        st.sampled_from(FUNCTIONS),
        st.sets(st.sampled_from([function for _, function in FUNCTIONS])),
    ),
    max_size=120,
)


@settings(max_examples=300)
@given(events=EVENTS)
def test_the_ready_wait_a_few_turns_only(events: list[tuple[str, str] | set[str]]) -> None:
    rota, waits = Rota(), Counter[str]()
    ready: dict[str, int] = {}  # by function: for how many turns of other functions it has waited
    for event in [*events, *[set[str]()] * 12]:
        if isinstance(event, tuple):
            rota.add(*event)
            ready.setdefault(event[1], 0)
            continue
        had_it = rota.turn(lambda function_id, blocked=event: function_id not in blocked)  # type: ignore[misc]
        # Functions that had their turn but could not start anything have left the ready queue.
        ready = {one: n for one, n in ready.items() if one in everybody(rota)}
        assert (had_it is None) == (not rota) or had_it in ready
        for function_id in ready:
            ready[function_id] = (
                0 if function_id == had_it else ready[function_id] + (had_it is not None)
            )
            waits[function_id] = max(waits[function_id], ready[function_id])
            # Two functions of the same tenant come before each function, and two tenants before
            # each of those.
            assert ready[function_id] <= 3 * 3, (
                f"{function_id} has waited for {ready[function_id]} turns"
            )


def everybody(rota: Rota) -> set[str]:
    return {one for functions in rota._tenants.values() for one in functions}


@given(counts=st.tuples(st.integers(1, 3), st.integers(1, 3)), turns=st.integers(1, 200))
def test_tenants_have_equal_shares_of_turns(counts: tuple[int, int], turns: int) -> None:
    rota = Rota()
    for tenant, count in zip("ab", counts, strict=True):
        for number in range(count):
            rota.add(tenant, f"{tenant}{number}")
    had = Counter(rota.turn(lambda _: True) for _ in range(turns))
    of_tenant = Counter[str]()
    for function, count in had.items():
        of_tenant[TENANT_OF[str(function)]] += count
    assert abs(of_tenant["a"] - of_tenant["b"]) <= 1
    for tenant, count in zip("ab", counts, strict=True):
        shares = [had[f"{tenant}{number}"] for number in range(count)]
        assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize("adds", [1, 2])
def test_a_function_that_is_there_already_keeps_its_place(adds: int) -> None:
    rota = Rota()
    for function in ("a0", "a1", *["a0"] * adds):
        rota.add("a", function)
    assert [rota.turn(lambda _: True) for _ in range(3)] == ["a0", "a1", "a0"]


def test_a_function_may_leave_the_rota_or_come_back_also_in_its_own_turn() -> None:
    rota = Rota()

    def leaves(function: str) -> bool:
        rota.remove("a", function)
        return False

    def comes_back(function: str) -> bool:
        rota.add("a", function)
        return False

    rota.add("a", "a0")
    rota.remove("a", "a0")
    rota.remove("b", "b0")
    assert rota.turn(lambda _: True) is None
    rota.add("a", "a0")
    assert rota.turn(leaves) is None
    assert not rota
    rota.add("a", "a0")
    assert rota.turn(comes_back) is None
    assert rota.turn(lambda _: True) == "a0"
