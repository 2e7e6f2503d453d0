"""`client.invocations`: the invocations of all functions."""

from quiltfn.sdk.filters import CallFilters, parameters_of
from quiltfn.sdk.methods import (
    AnyClient,
    Group,
    Listing,
    PagedMethod,
    with_fields_of,
    with_name_and_fields_of,
)
from quiltfn.sdk.named_function import listing, with_id
from quiltfn.sdk.request import Flow, Request, get, query
from quiltfn.wire import InvocationSummary, InvocationSummaryPage


@with_fields_of(CallFilters)
def list_invocations(filters: CallFilters) -> Listing[InvocationSummaryPage, InvocationSummary]:
    """The invocations of all functions, newest first, without their output.

    `source`: such as "schedule". `since`, `until`: accepted at or after `since` and before `until`,
    each a time or Unix seconds. If only few of very many invocations match, a page may be short or
    empty.
    """
    wanted = parameters_of(filters)
    return listing("/api/invocations", InvocationSummaryPage, lambda page: page.invocations, wanted)


@with_name_and_fields_of(CallFilters)
def list_invocations_of(
    function: str, filters: CallFilters
) -> Listing[InvocationSummaryPage, InvocationSummary]:
    """Like `list`, for one function, by its name or id."""
    wanted = parameters_of(filters)

    def page_after(after: str | None) -> Flow[InvocationSummaryPage]:
        def of(function_id: str) -> Request[InvocationSummaryPage]:
            own = {"function_id": function_id} | wanted | {"cursor": after}
            return get(f"/api/invocations{query(**own)}", InvocationSummaryPage)

        return with_id(function, of)

    return Listing(page_after, lambda page: page.invocations, wanted)


class Invocations(Group[AnyClient]):
    """`client.invocations`."""

    list = PagedMethod(list_invocations)
    list_of = PagedMethod(list_invocations_of)
