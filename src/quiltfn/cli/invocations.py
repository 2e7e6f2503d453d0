"""`quiltfn invocations`: lists invocations of a function, a project, or all functions."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Annotated, Any

from msgspec import Struct

from quiltfn.cli import scope, show, tables
from quiltfn.cli.moments import Period
from quiltfn.cli.options import IsCold, Paging, Status
from quiltfn.cli.parsing import BadParameter, Option
from quiltfn.cli.scope import AllFunctions, NameOrAll
from quiltfn.cli.session import Connection, Session
from quiltfn.sdk import InvocationSummaryPage


class CallOptions(Struct, frozen=True, kw_only=True):
    """Which invocations are listed."""

    function: Annotated[
        str | None,
        Option(metavar="NAME_OR_ID", help="Same as NAME_OR_ID.", completes="function"),
    ] = None
    status: Status = None
    cold: IsCold = None
    slower_than: Annotated[
        int | None, Option(metavar="MS", help="Minimum duration in milliseconds.")
    ] = None
    source: Annotated[
        str | None, Option(help="Source of the invocation, such as async or schedule.")
    ] = None
    version: Annotated[
        int | None, Option(metavar="N", least=1, help="Version that ran the invocation.")
    ] = None
    all_functions: AllFunctions = False


def invocations(
    wanted: CallOptions,
    period: Period,
    paging: Paging,
    name_or_id: NameOrAll = None,
    *,
    connection: Connection,
) -> None:
    """List invocations, newest first: those of one function, of the project in this directory, or
    of all functions.
    """
    since, until = period.bounds()
    if name_or_id is not None and wanted.function is not None:
        raise BadParameter("give a name or --function, not both")
    which = name_or_id or wanted.function
    scope.check(which, wanted.all_functions)
    filters: dict[str, Any] = {
        "status": wanted.status,
        "cold_start": wanted.cold,
        "min_duration_ms": wanted.slower_than,
        "source": wanted.source,
        "version": wanted.version,
        "since": since,
        "until": until,
        **paging.fields(),
    }
    with connection.session(which) as at:
        calls = at.client.invocations
        chosen = None if which else scope.functions(at, all_functions=wanted.all_functions)
        if chosen is not None:
            _of_project(at, chosen, filters)
            return
        find = calls.list if which is None else partial(calls.list_of, which)
        at.show(find(**filters).first(), tables.all_invocations)


def _of_project(at: Session, chosen: Iterable[str], filters: Mapping[str, Any]) -> None:
    """The newest invocations of several functions, from one page of each."""
    if filters["cursor"] is not None:
        raise BadParameter("--cursor needs a function's name or --all-functions")
    list_of, limit = at.client.invocations.list_of, filters["page_size"] or scope.SHOWN
    pages = scope.each(lambda function: list_of(function, **filters).first(), chosen).values()
    found = [record for page in pages for record in page.invocations]
    found.sort(key=lambda record: record.invocation_id, reverse=True)
    newest = InvocationSummaryPage(invocations=found[:limit], next_cursor=None)
    at.print(newest, show.encoded(newest), tables.all_invocations)
    if len(found) > limit or any(page.next_cursor for page in pages):
        show.note("more results: quiltfn invocations NAME lists them in pages")
