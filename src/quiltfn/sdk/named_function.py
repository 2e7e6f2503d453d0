"""Resolves a function's name or id.

If the API needs an id and a name was given, the id is looked up first.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

from quiltfn.sdk.errors import NotFoundError
from quiltfn.sdk.methods import Listing
from quiltfn.sdk.request import Flow, Request, ask, get, query, segment
from quiltfn.wire import Function

T = TypeVar("T")
Page = TypeVar("Page")
Item = TypeVar("Item")
Parameters: TypeAlias = Mapping[str, Any]

BASE = "/api/functions"
UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class NotAFunction(ValueError):
    """The text cannot be the name or id of a function."""


def by_id(function_id: str) -> Request[Function]:
    return get(f"{BASE}/{segment(function_id)}", Function)


def by_name(name: str) -> Request[Function]:
    return get(f"{BASE}/by-name/{segment(name)}", Function)


def on(function: str, below: str, request: Callable[[str], Request[T]]) -> Flow[T]:
    """The request for a path, which consists of the function's own path and `below`."""
    return with_id(function, lambda function_id: request(f"{BASE}/{segment(function_id)}{below}"))


def of_one(function: str | None, request: Callable[[str | None], Request[T]]) -> Flow[T]:
    """The request with the id of a function; with None if the request is not about one function."""
    return ask(request(None)) if function is None else with_id(function, request)


def with_id(function: str, request: Callable[[str], Request[T]]) -> Flow[T]:
    """The request with the id of a function, which is looked up if a name is given."""

    def after_looking_up(name: str) -> Flow[T]:
        found = yield from ask(by_name(name))
        return (yield from ask(request(found.id)))

    return either(function, lambda function_id: ask(request(function_id)), after_looking_up)


def either(
    function: str, with_id: Callable[[str], Flow[T]], with_name: Callable[[str], Flow[T]]
) -> Flow[T]:
    """`with_id` or `with_name`, depending on what `function` looks like. Raises TypeError and
    `NotAFunction` for an impossible name.
    """
    if not isinstance(function, str):
        raise TypeError(f"function must be a name or an id, not {type(function).__name__}")
    if not function:
        raise NotAFunction("function must not be empty: it is a name or an id")
    if "/" in function:
        raise NotAFunction(
            f"function must be a name or an id, which have no slash, not {function!r}"
        )
    if not UUID.fullmatch(function):
        return (yield from with_name(function))
    try:
        return (yield from with_id(function))
    except NotFoundError as no_such_id:
        # A name may look like an id. If no function has this name or id, raise the error for the
        # id.
        try:
            return (yield from with_name(function))
        except NotFoundError:
            raise no_such_id from None


def listing(
    path: str,
    shape: type[Page],
    items: Callable[[Page], list[Item]],
    parameters: Parameters,
    function: str | None = None,
) -> Listing[Page, Item]:
    """The list at a path, below the path of `function` if one is given. `parameters`: of the query,
    with the cursor of the first page.
    """

    def page_after(cursor: str | None) -> Flow[Page]:
        wanted = path + query(**{**parameters, "cursor": cursor})
        if function is None:
            return ask(get(wanted, shape))
        return on(function, wanted, lambda whole: get(whole, shape))

    return Listing(page_after, items, parameters)


def of_one_or_all(
    function: str | None,
    noun: str,
    shape: type[Page],
    items: Callable[[Page], list[Item]],
    cluster_id: str | None,
    parameters: Parameters,
) -> Listing[Page, Item]:
    """A list for one function, for all functions of the tenant, or for those with a label."""
    if function is None:
        return listing(f"/api/{noun}", shape, items, {"cluster_id": cluster_id, **parameters})
    if cluster_id is not None:
        raise ValueError("give a function or a cluster_id, not both")
    return listing(f"/{noun}", shape, items, parameters, function)


def calling(function: str, call: Callable[[str, dict[str, str]], Flow[T]]) -> Flow[T]:
    """The request that invokes a function: the path of its route, and query parameters for the
    version that NAME@3 or NAME@ALIAS selects. Raises as `either` does.
    """
    which: dict[str, str] = {}
    if isinstance(function, str) and "@" in function:
        whole = function
        function, _, reference = whole.partition("@")
        if not reference:
            raise NotAFunction(f"function must have a version or an alias after @, not {whole!r}")
        which = {"version" if reference.isdigit() else "alias": reference}
    return either(
        function,
        lambda function_id: call(f"{BASE}/{segment(function_id)}/invoke", which),
        lambda name: call(f"{BASE}/invoke/{segment(name)}", which),
    )


def invocation(invocation_id: str) -> str:
    """The path of an invocation, below that of its function."""
    return f"/invocations/{segment(invocation_id)}"
