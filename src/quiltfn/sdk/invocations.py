"""`client.invocations`: the calls of all functions."""

from quiltfn.sdk.filters import CallFilters, parameters_of
from quiltfn.sdk.methods import (
    Listing,
    OfAsyncClient,
    OfClient,
    PagedMethod,
    with_fields_of,
    with_name_and_fields_of,
)
from quiltfn.sdk.named_function import on
from quiltfn.sdk.request import Flow, ask, get, query
from quiltfn.wire import InvocationSummary, InvocationSummaryPage


@with_fields_of(CallFilters)
def list_invocations(filters: CallFilters) -> Listing[InvocationSummaryPage, InvocationSummary]:
    """The calls of all functions, newest first, without their output.

    `source`: what asked for them, such as "schedule". `since`, `until`: accepted at or after the
    one and before the other, as a time or in Unix seconds. A page may be short or empty where few
    of very many calls match.
    """

    def page_after(after: str | None) -> Flow[InvocationSummaryPage]:
        wanted = query(**parameters_of(filters, after))
        return ask(get(f"/api/invocations{wanted}", InvocationSummaryPage))

    return Listing(page_after, lambda page: page.invocations, filters.cursor)


@with_name_and_fields_of(CallFilters)
def list_invocations_of(
    function: str, filters: CallFilters
) -> Listing[InvocationSummaryPage, InvocationSummary]:
    """As `list`, of one function, by its name or id."""

    def page_after(after: str | None) -> Flow[InvocationSummaryPage]:
        rest = parameters_of(filters, after)
        return on(
            function,
            lambda function_id: get(
                f"/api/invocations{query(function_id=function_id, **rest)}", InvocationSummaryPage
            ),
        )

    return Listing(page_after, lambda page: page.invocations, filters.cursor)


class InvocationMethods:
    """What both clients can ask of all calls."""

    list = PagedMethod(list_invocations)
    list_of = PagedMethod(list_invocations_of)


class Invocations(InvocationMethods, OfClient):
    """`Client.invocations`."""


class AsyncInvocations(InvocationMethods, OfAsyncClient):
    """`AsyncClient.invocations`."""
