"""`quiltfn stats`, `series` and `usage`: what calls came to."""

from typing import Annotated

from quiltfn.cli import show, tables
from quiltfn.cli.moments import Period
from quiltfn.cli.options import seconds_of
from quiltfn.cli.output import Output
from quiltfn.cli.parsing import Argument, Option
from quiltfn.cli.session import Connection, NameOrId
from quiltfn.wire.stats import USAGE_STEPS, FunctionStatsPage


def stats(
    name_or_id: Annotated[
        str | None,
        Argument(metavar="NAME_OR_ID", help="One function; without it, all.", completes="function"),
    ] = None,
    since: Annotated[
        str, Option(metavar="AGE", help="How far back, from 1m to 24h, such as 30m.")
    ] = "1h",
    *,
    connection: Connection,
) -> None:
    """Show what the calls of each function came to: how many, how many in error, how long."""
    seconds = seconds_of("--since", since)
    with connection.session(name_or_id) as at:
        if name_or_id is not None:
            function = at.client.functions.get(name_or_id)
            found = at.client.functions.list_stats(window_seconds=seconds)
            mine = [one for one in found if one.function_id == function.id]
            page = FunctionStatsPage(functions=mine, next_cursor=None)
            names = {function.id: function.name}
            at.print(page, show.encoded(page), lambda shown: tables.function_stats(shown, names))
            return
        page = at.show(
            at.client.functions.list_stats(window_seconds=seconds).first(), lambda _: None
        )
        if at.output is Output.TABLE:
            names = {one.id: one.name for one in at.client.functions.list()}
            tables.function_stats(page, names)


def series(
    name_or_id: NameOrId,
    period: Period,
    step: Annotated[
        int | None, Option(metavar="SECONDS", help="Seconds of a row: 10, 60, 300 or 3600.")
    ] = None,
    *,
    connection: Connection,
) -> None:
    """Show what the calls of a function came to over time; an hour by default."""
    start, end = period.bounds()
    with connection.session(name_or_id) as at:
        found = at.client.functions.get_series(name_or_id, start=start, end=end, step_seconds=step)
        at.show(found, tables.series)


def usage(
    period: Period,
    step: Annotated[
        str | None,
        Option(choices=USAGE_STEPS, help="By hours or days of UTC (else day), or all at once."),
    ] = None,
    by: Annotated[
        str | None, Option(choices=("function",), help="function: a row for each function.")
    ] = None,
    *,
    connection: Connection,
) -> None:
    """Show what your calls used: memory times time, processor time; 30 days by default."""
    start, end = period.bounds()
    with connection.session() as at:
        found = at.client.system.get_usage(start=start, end=end, step=step, by=by)
        at.show(found, tables.usage)
