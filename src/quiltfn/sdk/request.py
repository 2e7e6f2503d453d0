"""What a call sends, said once for both clients.

A call is a generator, a `Flow`: it yields requests, is given what the server answered, and returns
the call's result. `Client` and `AsyncClient` send what it yields and differ in nothing else.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct

from quiltfn.sdk.errors import read_error

T = TypeVar("T")

READ_S = 30.0
# A server sends something every 15 s while there are no events.
STREAM_READ_S = 60.0
EVENTS = {"Accept": "text/event-stream"}


class Request(Struct, Generic[T], frozen=True, kw_only=True):
    """One request and how its answer becomes a T.

    `archive`: a file that is its body instead. `streams`: its answer is not read, but handed on in
    chunks. `is_repeatable`: sending it twice does what sending it once does. `takes_key`: it is
    repeatable with an Idempotency-Key, which the client adds.
    """

    method: str
    path: str
    read: Callable[[bytes], T]
    body: bytes | None = None
    headers: Mapping[str, str] = {}
    read_timeout_s: float = READ_S
    archive: Path | None = None
    streams: bool = False
    is_repeatable: bool = False
    takes_key: bool = False

    def understand(self, status: int, headers: Mapping[str, str], body: bytes) -> T:
        """Read an answer. Raises ApiError for a refusal, and for nonsense as msgspec does."""
        if not 200 <= status < 300:
            raise read_error(status, headers, body)
        return self.read(body)


class WithEtag(Request[Any], frozen=True):
    """A request whose answer is also told by its ETag."""

    def understand(self, status: int, headers: Mapping[str, str], body: bytes) -> tuple[Any, str]:
        return super().understand(status, headers, body), headers.get("etag", "")


Flow: TypeAlias = Generator[Request[Any], Any, T]


def ask(request: Request[T]) -> Flow[T]:
    """The flow of one request."""
    answer: T = yield request
    return answer


def get(path: str, shape: type[T]) -> Request[T]:
    return Request(method="GET", path=path, read=as_json(shape), is_repeatable=True)


def get_with_etag(path: str, shape: type[Any]) -> WithEtag:
    return WithEtag(method="GET", path=path, read=as_json(shape), is_repeatable=True)


def post(path: str, shape: type[T], body: object = None, **more: Any) -> Request[T]:
    return Request(method="POST", path=path, read=as_json(shape), body=encoded(body), **more)


def stream(method: str, path: str, body: object = None, **more: Any) -> Request[Any]:
    """A request for events. The client gives the chunks of its answer as they come."""
    headers = {**more.pop("headers", {}), **EVENTS}
    more.setdefault("read_timeout_s", STREAM_READ_S)
    return Request(
        method=method,
        path=path,
        read=bytes,
        body=encoded(body),
        headers=headers,
        streams=True,
        **more,
    )


def put(path: str, shape: type[T], body: object, etag: str | None = None) -> Request[T]:
    """Repeatable, since it says what there is to be; not where it is only for what has that ETag,
    which is another one once it was done.
    """
    return Request(
        method="PUT",
        path=path,
        read=as_json(shape),
        body=encoded(body),
        headers={} if etag is None else {"If-Match": etag},
        is_repeatable=etag is None,
    )


def delete(path: str) -> Request[None]:
    """Repeatable: that there is nothing any more is what was wanted."""
    return Request(method="DELETE", path=path, read=nothing, is_repeatable=True)


def encoded(body: object) -> bytes | None:
    return None if body is None else msgspec.json.encode(body)


def as_json(shape: type[T]) -> Callable[[bytes], T]:
    return msgspec.json.Decoder(shape).decode


def nothing(_body: bytes) -> None:
    return None


def listed(field: str, words: Sequence[str]) -> list[str]:
    """A list of words. Raises TypeError for one word, whose letters would be taken for the list."""
    if isinstance(words, str):
        raise TypeError(f"{field} must be a list of words, not {words!r}")
    return [*words]


def segment(word: str) -> str:
    """One path segment, whatever the word holds: "." and ".." would climb, "" would vanish."""
    if not isinstance(word, str):
        raise TypeError(f"a name or id must be text, not {type(word).__name__}")
    if not word:
        raise ValueError("a name or id must not be empty")
    text = quote(word, safe="")
    return text if text.strip(".") else text.replace(".", "%2E")


def query(**given: str | int | bool | None) -> str:
    """A query string of what is not None."""
    pairs = {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in given.items()
        if value is not None
    }
    return f"?{urlencode(pairs)}" if pairs else ""
