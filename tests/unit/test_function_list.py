"""Lists of functions: their content, their orders, and cursors that stay correct in each order."""

import asyncio
import random
import time

import pytest
from msgspec.structs import replace

from contract.stores import a_function, a_version, ids
from promises import promise
from quiltfn.functions.catalog import Entry
from quiltfn.functions.function_list import (
    FunctionQuery,
    FunctionSort,
    Order,
    first_of,
    position_from_cursor,
    position_of,
    position_text,
)
from quiltfn.model.cursors import to_cursor
from quiltfn.model.errors import Unprocessable
from quiltfn.model.function import FunctionState
from quiltfn.ports import FunctionCounters

pytestmark = promise("A60")

NAMES = ["beta", "Alpha", "alpha", "gamma", "b", "delta", "Z", "a9"]


def entries_of(count: int = len(NAMES)) -> list[Entry]:
    """Entries of functions, oldest first. Several have equal counters; some were never called."""
    found = []
    for number, function_id in enumerate(ids(count)):
        function = a_function(
            id=function_id, name=NAMES[number % len(NAMES)] + f"-{number:05}"[:number]
        )
        counters = FunctionCounters(
            invocation_count=number % 3,
            last_invoked_at=None if number % 4 == 0 else 1_760_000_000 + number % 5,
        )
        found.append(Entry(function, a_version(function), counters))
    return found


def listed(entries: list[Entry], query: FunctionQuery, count: int = 1000) -> list[Entry]:
    return [entry for _, entry in asyncio.run(first_of(entries, query, count))]


@pytest.mark.parametrize("sort", FunctionSort)
@pytest.mark.parametrize("order", Order)
def test_pages_of_every_order_have_each_function_once(sort: FunctionSort, order: Order) -> None:
    entries = entries_of(23)
    is_reversed = order is Order.DESCENDING
    expected = sorted(entries, key=lambda entry: position_of(entry, sort), reverse=is_reversed)
    seen: list[Entry] = []
    query = FunctionQuery(sort=sort, order=order)
    while True:
        ordered = entries[::-1] if query.is_newest_first else entries
        page = asyncio.run(first_of(ordered, query, 4))
        seen += [entry for _, entry in page]
        if len(page) < 4:
            break
        cursor = to_cursor(position_text(page[-1][0], sort))
        query = replace(query, after=position_from_cursor(cursor, sort))
    assert [one.function.id for one in seen] == [one.function.id for one in expected]


def test_a_page_goes_on_where_the_last_one_ended_though_that_function_is_gone() -> None:
    entries = entries_of()
    query = FunctionQuery(sort=FunctionSort.NAME)
    first = asyncio.run(first_of(entries, query, 3))
    gone = first[-1][1]
    rest = listed([one for one in entries if one is not gone], replace(query, after=first[-1][0]))
    names = sorted((one.function.name for one in entries), key=lambda name: (name.lower(), name))
    assert [one.function.name for one in rest] == names[3:]


def test_those_that_were_never_called_come_last_where_the_last_called_come_first() -> None:
    query = FunctionQuery(sort=FunctionSort.LAST_INVOKED_AT, order=Order.DESCENDING)
    times = [one.counters.last_invoked_at for one in listed(entries_of(), query)]
    called = [one for one in times if one is not None]
    assert called == sorted(called, reverse=True)
    assert times[len(called) :] == [None] * (len(times) - len(called))


def test_a_text_is_looked_for_in_names_and_descriptions_and_filters_hold_together() -> None:
    entries = entries_of(3)
    changes = {"description": "Writes INVOICES", "state": FunctionState.ACTIVE, "cluster_id": "c"}
    about = replace(entries[2].function, **changes)
    entries[2] = Entry(about, entries[2].version, entries[2].counters)
    assert listed(entries, FunctionQuery(text="ALPHA")) == entries[1:]
    assert listed(entries, FunctionQuery(text="invoice")) == [entries[2]]
    assert listed(entries, FunctionQuery(text="%")) == []
    query = FunctionQuery(text="a", state=FunctionState.ACTIVE, cluster_id="c")
    assert listed(entries, query) == [entries[2]]
    for other in ({"cluster_id": "other"}, {"state": FunctionState.PAUSED}, {"text": "beta"}):
        assert listed(entries, replace(query, **other)) == []


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "[]", '["name",1,"a"]', '["invocation_count","1","a"]'),
        *('["invocation_count",1]', '["last_invoked_at",1,"a"]'),
        *('["invocation_count",1.5,"a"]', '["invocation_count",1,"a"]x'),
    ],
)
def test_a_cursor_of_another_list_is_refused(text: str) -> None:
    with pytest.raises(Unprocessable, match="cursor"):
        position_from_cursor(to_cursor(text), FunctionSort.INVOCATION_COUNT)


def test_a_page_of_ten_thousand_functions_takes_a_moment_and_lets_others_in() -> None:
    entries = entries_of(10_000)
    random.Random(1).shuffle(entries)
    turns = 0

    async def page() -> float:
        nonlocal turns

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        beside = asyncio.ensure_future(others())
        began = time.process_time()
        query = FunctionQuery(text="a", sort=FunctionSort.NAME)
        assert len(await first_of(entries, query, 51)) == 51
        took = time.process_time() - began
        beside.cancel()
        return took

    # The page takes some 10 ms; the limit allows for a machine that is busy or slow.
    assert asyncio.run(page()) < 0.1
    assert turns >= 10
