"""Turns flows into methods of both clients.

`create = Method(create_function)` in a class makes `client.functions.create(…)` return the result
and `async_client.functions.create(…)` an awaitable of it, each with the flow's parameters and
documentation.
"""

import functools
import operator
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import (
    Annotated,
    Any,
    ClassVar,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    Union,
    get_args,
    get_origin,
    overload,
)

from msgspec import UnsetType

from quiltfn.sdk.errors import UnreadableAnswer
from quiltfn.sdk.events import Reader
from quiltfn.sdk.request import Flow

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")
Page = TypeVar("Page")
Item = TypeVar("Item")
Event = TypeVar("Event")


class Runs(Protocol):
    """The part of a `Client` that a group of methods uses."""

    is_async: ClassVar[Literal[False]]

    def run(self, flow: Flow[T]) -> T: ...


class RunsAsync(Protocol):
    """The part of an `AsyncClient` that a group of methods uses."""

    is_async: ClassVar[Literal[True]]

    async def run(self, flow: Flow[T]) -> T: ...


AnyClient = TypeVar("AnyClient", bound=Runs | RunsAsync, covariant=True)  # noqa: PLC0105


class Group(Generic[AnyClient]):
    """A group of methods of a client, such as `client.functions`."""

    def __init__(self, client: AnyClient) -> None:
        self._client = client


class Member(Generic[P, R]):
    """A function as a member of a group: it becomes a method with its own name."""

    def __init__(self, made: Callable[P, R]) -> None:
        self._made, self._name = made, made.__name__
        self.__doc__ = made.__doc__

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def _bound(self, owner: Group[Any] | None, finish: Callable[[Any, R], Any]) -> Any:
        """The method: returns `finish` of the client and the function's result."""
        if owner is None:
            return self
        client, made, name = owner._client, self._made, self._name

        @functools.wraps(made)
        def method(*args: P.args, **kwargs: P.kwargs) -> Any:
            return finish(client, _called(made, name, args, kwargs))

        return method


class Method(Member[P, Flow[T]]):
    """A flow as a method of both clients."""

    @overload
    def __get__(self, owner: None, kind: type) -> "Method[P, T]": ...

    @overload
    def __get__(self, owner: Group[Runs], kind: type) -> Callable[P, T]: ...

    @overload
    def __get__(self, owner: Group[RunsAsync], kind: type) -> Callable[P, Awaitable[T]]: ...

    def __get__(self, owner: Group[Any] | None, kind: type) -> Any:
        return self._bound(owner, lambda client, flow: client.run(flow))


class Listing(Generic[Page, Item]):
    """How to request the pages of a list, and get the items of a page. `parameters`: of the query,
    with the cursor of the first page. Raises ValueError for a page size below 1.
    """

    def __init__(
        self,
        page_after: Callable[[str | None], Flow[Page]],
        items: Callable[[Page], list[Item]],
        parameters: Mapping[str, Any],
    ) -> None:
        self.page_after, self.items, self.cursor = page_after, items, parameters["cursor"]
        size = parameters["limit"]
        if size is not None and size < 1:
            raise ValueError(f"page_size must be 1 or more, not {size}")


class Pages(Generic[Page, Item]):
    """A list: iterate over its items; pages are fetched when needed."""

    def __init__(self, client: Runs, listing: Listing[Page, Item]) -> None:
        self._client, self._listing = client, listing

    def __iter__(self) -> Iterator[Item]:
        for page in self.pages():
            yield from self._listing.items(page)

    def pages(self) -> Iterator[Page]:
        """The list page by page. `next_cursor` of a page names the next page."""
        cursor = self._listing.cursor
        while True:
            page = self._client.run(self._listing.page_after(cursor))
            yield page
            cursor = cursor_behind(page, cursor)
            if cursor is None:
                return

    def first(self) -> Page:
        """Only the first page."""
        return next(self.pages())


class AsyncPages(Generic[Page, Item]):
    """Like `Pages`, for `async for`."""

    def __init__(self, client: RunsAsync, listing: Listing[Page, Item]) -> None:
        self._client, self._listing = client, listing

    async def __aiter__(self) -> AsyncIterator[Item]:
        async for page in self.pages():
            for item in self._listing.items(page):
                yield item

    async def pages(self) -> AsyncIterator[Page]:
        """The list page by page. `next_cursor` of a page names the next page."""
        cursor = self._listing.cursor
        while True:
            page = await self._client.run(self._listing.page_after(cursor))
            yield page
            cursor = cursor_behind(page, cursor)
            if cursor is None:
                return

    async def first(self) -> Page:
        """Only the first page."""
        return await self._client.run(self._listing.page_after(self._listing.cursor))


def next_cursor(page: object) -> str | None:
    """The cursor of the next page. None: this is the last page."""
    return getattr(page, "next_cursor", None) or None


def cursor_behind(page: object, cursor: str | None) -> str | None:
    """Like `next_cursor`, for the page that `cursor` named. Raises `UnreadableAnswer` if both
    cursors are the same: with a cache that ignores cursors, the list would never end.
    """
    found = next_cursor(page)
    if found is not None and found == cursor:
        raise UnreadableAnswer("the server sent the same page of the list twice")
    return found


def every(
    page_after: Callable[[str | None], Flow[Page]], items: Callable[[Page], list[Item]]
) -> Flow[list[Item]]:
    """All items of a list, fetched page by page."""
    found: list[Item] = []
    cursor: str | None = None
    while True:
        page = yield from page_after(cursor)
        found += items(page)
        cursor = cursor_behind(page, cursor)
        if cursor is None:
            return found


class PagedMethod(Member[P, Listing[Page, Item]]):
    """A listing as a method of both clients."""

    @overload
    def __get__(self, owner: None, kind: type) -> "PagedMethod[P, Page, Item]": ...

    @overload
    def __get__(self, owner: Group[Runs], kind: type) -> Callable[P, Pages[Page, Item]]: ...

    @overload
    def __get__(
        self, owner: Group[RunsAsync], kind: type
    ) -> Callable[P, AsyncPages[Page, Item]]: ...

    def __get__(self, owner: Group[Any] | None, kind: type) -> Any:
        return self._bound(
            owner,
            lambda client, listing: (AsyncPages if client.is_async else Pages)(client, listing),
        )


class StreamMethod(Member[P, Flow[Any]], Generic[P, Event]):
    """A flow that requests events, as a method of both clients that returns an iterator of them."""

    def __init__(self, flow: Callable[P, Flow[Any]], reader: Callable[[], Reader[Event]]) -> None:
        super().__init__(flow)
        self._reader = reader

    @overload
    def __get__(self, owner: None, kind: type) -> "StreamMethod[P, Event]": ...

    @overload
    def __get__(self, owner: Group[Runs], kind: type) -> Callable[P, Iterator[Event]]: ...

    @overload
    def __get__(self, owner: Group[RunsAsync], kind: type) -> Callable[P, AsyncIterator[Event]]: ...

    def __get__(self, owner: Group[Any] | None, kind: type) -> Any:
        return self._bound(
            owner,
            lambda client, flow: (_async_events if client.is_async else _events)(
                client, flow, self._reader()
            ),
        )


def _events(client: Runs, asks: Flow[Any], reader: Reader[Event]) -> Iterator[Event]:
    chunks = client.run(asks)
    try:
        yield from reader.read(chunks)
    finally:
        chunks.close()


async def _async_events(
    client: RunsAsync, asks: Flow[Any], reader: Reader[Event]
) -> AsyncIterator[Event]:
    chunks = await client.run(asks)
    try:
        async for event in reader.read_async(chunks):
            yield event
    finally:
        await chunks.aclose()


def _called(call: Callable[..., T], name: str, args: Any, kwargs: Any) -> T:
    """The result of `call`. Errors about wrong arguments name the method."""
    try:
        return call(*args, **kwargs)
    except TypeError:
        import inspect  # noqa: PLC0415 — only for an error

        signature = inspect.signature(call)
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            takes = ", ".join(signature.parameters)
            raise TypeError(f"{name}() {error}; it takes: {takes}") from None
        raise


class _Taking(Generic[P, T]):
    """A flow with the fields of a schema as its parameters."""

    def __init__(
        self, call: Callable[P, T], flow: Callable[..., T], shape: Callable[..., Any]
    ) -> None:
        functools.update_wrapper(self, flow)
        self._call, self._flow, self._shape = call, flow, shape

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._call(*args, **kwargs)

    @property
    def __signature__(self) -> Any:
        """The signature for `help` and editors: the flow's, including the schema's fields. Computed
        only on demand, since commands never need it.
        """
        import inspect  # noqa: PLC0415 — takes a tenth of a command's time

        signature = inspect.signature(self._flow)
        *others, _ = signature.parameters.values()
        fields = [
            one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=_bare(one.annotation))
            for one in inspect.signature(self._shape).parameters.values()
        ]
        return signature.replace(parameters=[*others, *fields])


def with_fields_of(
    shape: Callable[P, S],
) -> Callable[[Callable[[S], R]], Callable[P, R]]:
    """A decorator: the flow takes the fields of a schema as its parameters."""

    def taking(flow: Callable[[S], R]) -> Callable[P, R]:
        def taken(*args: P.args, **kwargs: P.kwargs) -> R:
            return flow(shape(*args, **kwargs))

        return _Taking(taken, flow, shape)

    return taking


def with_name_and_fields_of(
    shape: Callable[P, S],
) -> Callable[[Callable[[str, S], R]], Callable[Concatenate[str, P], R]]:
    """Like `with_fields_of`, for a flow whose first parameter is a name or id."""

    def taking(flow: Callable[[str, S], R]) -> Callable[Concatenate[str, P], R]:
        def taken(name: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
            return flow(name, shape(*args, **kwargs))

        return _Taking(taken, flow, shape)

    return taking


def _bare(kind: Any) -> Any:
    """A field's type without its description and without UnsetType."""
    if get_origin(kind) is Annotated:
        return get_args(kind)[0]
    parts = [_bare(one) for one in get_args(kind) if one is not UnsetType]
    is_union = get_origin(kind) in (Union, types.UnionType)
    return functools.reduce(operator.or_, parts) if is_union else kind
