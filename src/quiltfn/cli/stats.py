"""`quiltfn stats`, `series` and `usage`: statistics of invocations."""

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
        Argument(metavar="NAME_OR_ID", help="Function (default: all).", completes="function"),
    ] = None,
    since: Annotated[
        str, Option(metavar="AGE", help="Period up to now, from 1m to 24h, such as 30m.")
    ] = "1h",
    *,
    connection: Connection,
) -> None:
    """Show statistics by function: invocations, errors, durations."""
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
        int | None, Option(metavar="SECONDS", help="Seconds per row: 10, 60, 300 or 3600.")
    ] = None,
    *,
    connection: Connection,
) -> None:
    """Show statistics of a function over time (default: the last hour)."""
    start, end = period.bounds()
    with connection.session(name_or_id) as at:
        found = at.client.functions.get_series(name_or_id, start=start, end=end, step_seconds=step)
        at.show(found, tables.series)


def usage(
    period: Period,
    step: Annotated[
        str | None,
        Option(
            choices=USAGE_STEPS,
            help="Period of a row, in UTC: hour, day, or all in one (default: day).",
        ),
    ] = None,
    by: Annotated[
        str | None,
        Option(choices=("function",), help="Grouping: function for one row per function."),
    ] = None,
    *,
    connection: Connection,
) -> None:
    """Show your usage: memory times duration, and CPU time (default: the last 30 days)."""
    start, end = period.bounds()
    with connection.session() as at:
        found = at.client.system.get_usage(start=start, end=end, step=step, by=by)
        at.show(found, tables.usage)
