"""`quiltfn invocations`: the calls of all functions."""

from functools import partial
from typing import Annotated

from msgspec import Struct

from quiltfn.cli import tables
from quiltfn.cli.moments import Period
from quiltfn.cli.options import Cursor, Limit
from quiltfn.cli.parsing import Option
from quiltfn.cli.session import Connection


class CallOptions(Struct, frozen=True, kw_only=True):
    """Which calls are listed."""

    function: Annotated[
        str | None,
        Option(metavar="NAME_OR_ID", help="Only calls of this function.", completes="function"),
    ] = None
    status: Annotated[str | None, Option(help="Only calls with this status.")] = None
    cold: Annotated[bool | None, Option(("--cold",), off="--warm", help="Only cold starts.")] = None
    slower_than: Annotated[
        int | None, Option(metavar="MS", help="Only calls that took so many milliseconds or more.")
    ] = None
    source: Annotated[
        str | None, Option(help="Only calls that this asked for, such as async or schedule.")
    ] = None
    version: Annotated[
        int | None, Option(metavar="N", least=1, help="Only calls that this version ran.")
    ] = None


def invocations(
    wanted: CallOptions,
    period: Period,
    *,
    limit: Limit = None,
    cursor: Cursor = None,
    connection: Connection,
) -> None:
    """List the calls of all functions, newest first."""
    since, until = period.bounds()
    with connection.session(wanted.function) as at:
        calls, which = at.client.invocations, wanted.function
        find = calls.list if which is None else partial(calls.list_of, which)
        found = find(
            status=wanted.status,
            cold_start=wanted.cold,
            min_duration_ms=wanted.slower_than,
            source=wanted.source,
            version=wanted.version,
            since=since,
            until=until,
            page_size=limit,
            cursor=cursor,
        )
        at.show(found.first(), tables.all_invocations)
