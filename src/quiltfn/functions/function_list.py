"""Filters and sorts lists of functions. It reads the catalog in memory, never the store."""

import asyncio
import heapq
from collections.abc import Callable, Iterable
from enum import StrEnum
from operator import itemgetter

import msgspec

from quiltfn.functions.catalog import Entry
from quiltfn.model.cursors import BEFORE_EVERY_ID, from_cursor, no_cursor, text_of
from quiltfn.model.function import FunctionState

# Number of functions between yields to other tasks; they take a millisecond or two.
AT_A_TIME = 1000
NEVER = -1


class FunctionSort(StrEnum):
    """The sort key of a list of functions."""

    NAME = "name"
    CREATED_AT = "created_at"
    LAST_INVOKED_AT = "last_invoked_at"
    INVOCATION_COUNT = "invocation_count"


class Order(StrEnum):
    """The sort order of a list."""

    ASCENDING = "asc"
    DESCENDING = "desc"


# A function's position in a sorted list: its sort key, and its id, so that no two are equal.
Position = tuple[str | int, str]
_TEXT = tuple[FunctionSort, str | int, str]


class FunctionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The filter of a list. `text`: part of the name or the description, ignoring case. `also`: a
    further condition. `after`: only functions after this position in the order of the list.
    """

    text: str | None = None
    state: FunctionState | None = None
    cluster_id: str | None = None
    also: Callable[[Entry], bool] | None = None
    sort: FunctionSort = FunctionSort.CREATED_AT
    order: Order = Order.ASCENDING
    after: Position | None = None

    @property
    def is_newest_first(self) -> bool:
        """Whether the list begins with the newest function."""
        return self.sort is FunctionSort.CREATED_AT and self.order is Order.DESCENDING

    @property
    def begins_behind(self) -> str:
        """The id after which the list begins, if it is sorted by ascending id."""
        is_by_age = self.sort is FunctionSort.CREATED_AT and self.order is Order.ASCENDING
        return BEFORE_EVERY_ID if self.after is None or not is_by_age else self.after[1]

    def matches(self, entry: Entry) -> bool:
        """Whether the function matches the filter, regardless of `after`."""
        function = entry.function
        return (
            (self.state is None or function.state is self.state)
            and (self.cluster_id is None or function.cluster_id == self.cluster_id)
            and (self.text is None or self._is_named(function.name, function.description))
            and (self.also is None or self.also(entry))
        )

    def _is_named(self, name: str, description: str | None) -> bool:
        text = (self.text or "").lower()
        return text in name.lower() or (description is not None and text in description.lower())

    def is_behind(self, position: Position) -> bool:
        """Whether a position comes after `after`."""
        if self.after is None:
            return True
        is_above = position > self.after
        return (
            is_above if self.order is Order.ASCENDING else position != self.after and not is_above
        )


def position_of(entry: Entry, sort: FunctionSort) -> Position:
    """The function's present position. Functions without invocations come before all others."""
    function, counters = entry.function, entry.counters
    if sort is FunctionSort.NAME:
        return f"{function.name.lower()}\n{function.name}", function.id
    if sort is FunctionSort.CREATED_AT:  # ids are in creation order
        return "", function.id
    if sort is FunctionSort.INVOCATION_COUNT:
        return counters.invocation_count, function.id
    last = counters.last_invoked_at
    return NEVER if last is None else last, function.id


def position_text(position: Position, sort: FunctionSort) -> str:
    """The position as a cursor."""
    if sort is FunctionSort.CREATED_AT:
        return position[1]
    return msgspec.json.encode((sort.value, *position)).decode()


def position_from_cursor(cursor: str, sort: FunctionSort) -> Position:
    """The position at the end of the previous page of this sort. Raises `Unprocessable`."""
    if sort is FunctionSort.CREATED_AT:
        return "", from_cursor(cursor, BEFORE_EVERY_ID)
    try:
        kind, value, last_id = msgspec.json.decode(text_of(cursor), type=_TEXT)
    except (msgspec.DecodeError, UnicodeError):
        raise no_cursor(cursor) from None
    if kind is not sort or isinstance(value, str) != (sort is FunctionSort.NAME):
        raise no_cursor(cursor)
    return value, last_id


async def first_of(
    entries: Iterable[Entry], query: FunctionQuery, count: int
) -> list[tuple[Position, Entry]]:
    """The first functions of the list, at most `count`, with their positions. `entries`: the
    tenant's functions, in the query's order of age. Other tasks run meanwhile.
    """
    is_by_age = query.sort is FunctionSort.CREATED_AT
    first_in = heapq.nlargest if query.order is Order.DESCENDING else heapq.nsmallest
    found: list[tuple[Position, Entry]] = []
    for number, entry in enumerate(entries, 1):
        if query.matches(entry):
            position = position_of(entry, query.sort)
            if query.is_behind(position):
                found.append((position, entry))
        if is_by_age and len(found) == count:
            return found
        if number % AT_A_TIME == 0:
            if not is_by_age:  # sorted in every step, so that no step takes long
                found = first_in(count, found, key=itemgetter(0))
            await asyncio.sleep(0)
    return found if is_by_age else first_in(count, found, key=itemgetter(0))
