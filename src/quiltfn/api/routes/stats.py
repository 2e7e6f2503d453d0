"""The routes for statistics of invocations: by function, over time, and as usage."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Protocol

from quiltfn import wire
from quiltfn.api.http import pages, parse
from quiltfn.api.http.long_json import JsonList
from quiltfn.api.http.parse import UNIX_MAX
from quiltfn.api.http.response import Response
from quiltfn.api.http.route import Parameter, RequestContext, Route, RouteServices
from quiltfn.api.routes.parameters import CURSOR, FUNCTION, MOMENT, READ
from quiltfn.model.cursors import BEFORE_EVERY_ID, from_cursor
from quiltfn.model.errors import NotFound, Unprocessable
from quiltfn.model.stats import (
    DAY_S,
    HOUR_S,
    KEPT_S,
    MINUTE_S,
    STEPS,
    CallStats,
    Stretch,
    floor_to,
    next_step,
)
from quiltfn.ports import Clock
from quiltfn.store.calls.stats import SqlStats
from quiltfn.wire.stats import USAGE_STEPS

WINDOW_MIN_S, WINDOW_MAX_S, WINDOW_DEFAULT_S = MINUTE_S, DAY_S, HOUR_S
# Usage rows for 400 days of hours, and points for eight days of five minutes.
USAGE_STRETCHES_MAX, USAGE_ROWS_MAX, POINTS_MAX = 9600, 10_000, 2400
FUNCTIONS_MAX = 10_000
STEP_S = {"hour": HOUR_S, "day": DAY_S}
# Tolerance, so that a request for the last hour is not refused because a moment has passed.
LATE_S = MINUTE_S


class StatsServices(RouteServices, Protocol):
    """The services for the routes of statistics."""

    clock: Clock
    stats: SqlStats


async def list_function_stats(context: RequestContext[StatsServices]) -> Response:
    """Show recent statistics by function: invocations that ended, errors, cold starts and
    latencies. Functions without invocations are left out. An invocation is counted within 50 ms of
    its end.
    """
    services, query = context.services, context.query
    given = query.get("window", str(WINDOW_DEFAULT_S))
    window = parse.integer(given, "window", WINDOW_MIN_S, WINDOW_MAX_S)
    limit = parse.integer(query.get("limit", str(FUNCTIONS_MAX)), "limit", 1, FUNCTIONS_MAX)
    after = from_cursor(query.get("cursor"), BEFORE_EVERY_ID)
    async with pages.reserved(context):
        since = int(services.clock.unix()) - window
        sums = await services.stats.of_tenant(context.tenant_id, since)

        def entries() -> Iterator[tuple[str, Any]]:
            for function_id in sorted(services.catalog.owned(context.tenant_id, sums)):
                stats = sums[function_id]
                if function_id > after and stats.calls:
                    yield function_id, _function_stats(function_id, stats)

        return await pages.page_response(context, "functions", entries(), limit)


async def get_function_series(context: RequestContext[StatsServices]) -> Response:
    """Show statistics of a function over time, by status, including invocations whose records were
    removed. Periods in which no invocation ended have no point. The default step is the shortest
    that is stored for the whole period and gives at most 2400 points.
    """
    entry, services = context.entry(), context.services
    now = int(services.clock.unix())
    start, end = _span(context, now, HOUR_S)
    step = _step(context, now, start, end)
    start, end = floor_to(step, start), floor_to(step, end - 1) + step
    async with pages.reserved(context):
        found = await services.stats.of_function(
            context.tenant_id, entry.function.id, (start, end), step
        )
        points = JsonList("points", context.services.budgets.turn)
        for at, stats in found:
            if stats.calls:
                await points.add(_point(at, stats))
        times = {"start": start, "end": end, "step_seconds": step}
        return points.response({"function_id": entry.function.id, **times})


async def get_usage(context: RequestContext[StatsServices]) -> Response:
    """Show the tenant's usage, by hour or day (UTC) or for the whole period: invocations that
    ended, by status, GB-seconds, measured CPU time, blocked connections, and accepted asynchronous
    invocations. Deleted functions are included.
    """
    services, query = context.services, context.query
    step = parse.one_of(query.get("step", "day"), "step", USAGE_STEPS, "hour")
    by = query.get("by")
    if by is not None:
        parse.one_of(by, "by", ("function",), "function")
    step_s, now = STEP_S.get(step), int(services.clock.unix())
    start, end = _span(context, now, DAY_S if step == "hour" else 30 * DAY_S)
    unit_s = step_s or HOUR_S  # The whole period starts and ends on the hour.
    start, end = floor_to(unit_s, start), floor_to(unit_s, end - 1) + unit_s
    if (end - start) // unit_s > USAGE_STRETCHES_MAX:
        unit = "hour" if step_s is None else step
        expected = f"at most {USAGE_STRETCHES_MAX} {unit}s before to"
        raise Unprocessable.field("from", expected, start, end - USAGE_STRETCHES_MAX * unit_s)
    async with pages.reserved(context):
        sums = await services.stats.usage(
            context.tenant_id,
            (start, end),
            step_s,
            by_function=by is not None,
            most=USAGE_ROWS_MAX,
        )
        if len(sums) > USAGE_ROWS_MAX:
            expected = f"later, or by left out: there are more than {USAGE_ROWS_MAX} rows"
            raise Unprocessable.field("from", expected, start, end - unit_s)
        total, rows = CallStats(), JsonList("rows", context.services.budgets.turn)
        for key in sorted(sums):
            total.add(sums[key])
            await rows.add(_usage_row(context, key, sums[key]))
        whole = wire.UsageSums(**_used(total))
        return rows.response({"start": start, "end": end, "step": step, "total": whole})


def _span(context: RequestContext[StatsServices], now: int, default_s: int) -> tuple[int, int]:
    """The period that the query names. Raises `Unprocessable`."""
    query = context.query
    end = parse.integer(query.get("to", str(now + 1)), "to", 1, UNIX_MAX)
    start = parse.integer(query.get("from", str(max(0, end - default_s))), "from", 0, UNIX_MAX)
    if start >= end:
        raise Unprocessable.field("from", f"before to, which is {end}", start, max(0, end - 3600))
    return start, end


def _step(context: RequestContext[StatsServices], now: int, start: int, end: int) -> int:
    """The step of a series. Raises `Unprocessable` if the step is not stored for the whole period,
    or gives too many points.
    """

    def fits(step: int) -> bool:
        kept = KEPT_S[step] + (next_step(step) or step) + LATE_S
        return now - start <= kept and end - start <= step * POINTS_MAX

    possible = [step for step in STEPS if fits(step)]
    given = context.query.get("step")
    if given is None:
        if not possible:
            earliest = max(now - KEPT_S[HOUR_S], end - HOUR_S * POINTS_MAX)
            expected = f"{earliest} or later: {POINTS_MAX} points, and as long as it is kept"
            raise Unprocessable.field("from", expected, start, earliest)
        return possible[0]
    step = int(parse.one_of(given, "step", [str(one) for one in STEPS], "60"))
    if step not in possible:
        longer = " or ".join(str(one) for one in possible)
        expected = (
            f"{longer}: shorter ones are not kept for that time, or have too many points"
            if possible
            else f"left out, and from later: at most {POINTS_MAX} points"
        )
        raise Unprocessable.field("step", expected, step, possible[0] if possible else None)
    return step


def _function_stats(function_id: str, stats: CallStats) -> wire.FunctionStats:
    return wire.FunctionStats(function_id=function_id, **_told(stats))


def _point(start: int, stats: CallStats) -> wire.SeriesPoint:
    return wire.SeriesPoint(start=start, statuses=stats.calls, **_told(stats))


def _told(stats: CallStats) -> dict[str, Any]:
    """The fields that lists and series have in common."""
    median, high = stats.percentiles_ms(0.5, 0.99)
    return {
        "calls": stats.count,
        "errors": stats.errors,
        "cold_starts": stats.cold_starts,
        "p50_ms": median,
        "p99_ms": high,
    }


def _usage_row(
    context: RequestContext[StatsServices], key: Stretch, stats: CallStats
) -> wire.UsageRow:
    function_id = key.function_id or None
    name = None
    if function_id is not None:
        with suppress(NotFound):  # the function was deleted
            name = context.services.catalog.by_id(context.tenant_id, function_id).function.name
    return wire.UsageRow(
        start=key.start, function_id=function_id, function_name=name, **_used(stats)
    )


def _used(stats: CallStats) -> dict[str, Any]:
    return {
        "calls": stats.count,
        "errors": stats.errors,
        "statuses": stats.calls,
        "cold_starts": stats.cold_starts,
        "gb_seconds": round(stats.gb_seconds, 6),
        "cpu_seconds": round(stats.cpu_us / 1e6, 6),
        "egress_refused": stats.egress_refused,
        "queued": stats.queued,
    }


# --- the routes ---

WINDOW = Parameter(
    name="window",
    about="period up to now, in seconds",
    schema={"type": "integer", "minimum": WINDOW_MIN_S, "maximum": WINDOW_MAX_S},
    example=3600,
)
STATS_LIMIT = Parameter(
    name="limit",
    about="maximum number of functions in the page",
    schema={"type": "integer", "minimum": 1, "maximum": FUNCTIONS_MAX},
    example=50,
)
FROM = Parameter(
    name="from",
    about="only invocations that ended at or after this time, in Unix seconds",
    schema=MOMENT,
)
TO = Parameter(
    name="to",
    about="only invocations that ended before this time, in Unix seconds (default: the end of the "
    "current second)",
    schema=MOMENT | {"minimum": 1},
)
STATS_STEP = Parameter(
    name="step",
    about="length of a point's period in seconds",
    schema={"enum": [str(one) for one in STEPS]},
    example=60,
)
USAGE_STEP = Parameter(
    name="step",
    about="hour or day (default), in UTC; all: the whole period at once",
    schema={"enum": list(USAGE_STEPS)},
)
BY = Parameter(
    name="by",
    about="function: a row per function (default: all functions together)",
    schema={"enum": ["function"]},
)
ROUTES = [
    Route(
        "GET",
        "/api/functions/stats",
        list_function_stats,
        scope=READ,
        answer=wire.FunctionStatsPage,
        parameters=(WINDOW, STATS_LIMIT, CURSOR),
    ),
    Route(
        "GET",
        FUNCTION + "/series",
        get_function_series,
        scope=READ,
        answer=wire.Series,
        parameters=(FROM, TO, STATS_STEP),
    ),
    Route(
        "GET",
        "/api/usage",
        get_usage,
        scope=READ,
        answer=wire.Usage,
        parameters=(FROM, TO, USAGE_STEP, BY),
    ),
]
