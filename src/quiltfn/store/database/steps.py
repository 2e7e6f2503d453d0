"""Finds the rows of a list that pass filters, newest first, within a time limit.

Few rows may pass the filters. So a page ends early at the time limit, and the next page continues
after the last checked row.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select

# Index entries that one step checks, and the seconds after which no further step begins.
STEP_ENTRIES, STEPS_S = 20_000, 0.1
Filters = Callable[[Any], Sequence[ColumnElement[bool]]]


def matching(
    connection: Connection, rows: Select[Any], filters: Filters, limit: int, before: str
) -> tuple[list[str], str | None]:
    """The ids of up to `limit` rows below the id `before`, and the id after which the list
    continues; None: the list ends. `rows`: selects the column `id`, by which the list is ordered,
    and the columns that `filters` use.
    """
    own = rows.selected_columns
    until, found, at = time.monotonic() + STEPS_S, list[str](), before
    is_filtered = bool(filters(own))
    while True:
        step = rows.where(own.id < at).order_by(own.id.desc())
        most = limit + 1 - len(found)
        if is_filtered:
            some = step.limit(STEP_ENTRIES).subquery()
            wanted = select(some.c.id).where(*filters(some.c)).order_by(some.c.id.desc())
        else:
            wanted = step.with_only_columns(own.id)
        found += connection.execute(wanted.limit(most)).scalars()
        if len(found) > limit:
            return found[:limit], found[limit - 1]
        if not is_filtered:
            return found, None
        looked_at, last = connection.execute(
            select(func.count(), func.min(some.c.id)).select_from(some)
        ).one()
        if looked_at < STEP_ENTRIES:
            return found, None
        if time.monotonic() > until:
            return found, last
        at = last
