"""Requests and flows, which both clients share.

A method is a generator, a `Flow`: it yields requests, receives the server's responses, and returns
the method's result. `Client` and `AsyncClient` only differ in how they send the requests.
"""

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct

from quiltfn.sdk.decoding import decode
from quiltfn.sdk.errors import read_error

T = TypeVar("T")

READ_S = 30.0
# A server sends a heartbeat every 15 s while there are no events.
STREAM_READ_S = 60.0
EVENTS = {"Accept": "text/event-stream"}


class Request(Struct, Generic[T], frozen=True, kw_only=True):
    """One request, and the conversion of its response to a T.

    `archive`: a file that replaces the body. `streams`: whether the response is passed on in
    chunks. `is_repeatable`: whether sending the request twice has the same effect as sending it
    once. `takes_key`: whether the request is repeatable with an Idempotency-Key, which the client
    adds.
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
        """Read a response. Raises ApiError for an error, and as msgspec does for invalid JSON."""
        if not 200 <= status < 300:
            raise read_error(status, headers, body)
        return self.read(body)


class WithEtag(Request[Any], frozen=True):
    """A request whose result includes the ETag of its response."""

    def understand(self, status: int, headers: Mapping[str, str], body: bytes) -> tuple[Any, str]:
        return super().understand(status, headers, body), headers.get("etag", "")


Flow: TypeAlias = Generator[Request[Any], Any, T]


def ask(request: Request[T]) -> Flow[T]:
    """The flow of one request."""
    answer: T = yield request
    return answer


def get(path: str, shape: type[T], **more: Any) -> Request[T]:
    return Request(method="GET", path=path, read=as_json(shape), is_repeatable=True, **more)


def get_bytes(path: str, headers: Mapping[str, str] = {}) -> Request[bytes]:
    return Request(method="GET", path=path, read=bytes, headers=headers, is_repeatable=True)


def get_with_etag(path: str, shape: type[Any]) -> WithEtag:
    return WithEtag(method="GET", path=path, read=as_json(shape), is_repeatable=True)


def post(path: str, shape: type[T], body: object = None, **more: Any) -> Request[T]:
    return Request(method="POST", path=path, read=as_json(shape), body=encoded(body), **more)


def stream(method: str, path: str, body: object = None, **more: Any) -> Request[Any]:
    """A request for events. The client passes on the chunks of its response as they arrive."""
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
    """A PUT request. It is repeatable because it sets a state; with an ETag it is not, since its
    execution changes the ETag.
    """
    return Request(
        method="PUT",
        path=path,
        read=as_json(shape),
        body=encoded(body),
        headers={} if etag is None else {"If-Match": etag},
        is_repeatable=etag is None,
    )


def change(
    path: str, shape: type[T], changes: object, headers: Mapping[str, str] = {}
) -> Request[T]:
    """A PUT request that only changes the fields in `changes`."""
    read = as_json(shape)
    return Request(method="PUT", path=path, read=read, body=encoded(changes), headers=headers)


def delete(path: str) -> Request[None]:
    """A DELETE request. It is repeatable: if the object no longer exists, the request has
    succeeded.
    """
    return Request(method="DELETE", path=path, read=nothing, is_repeatable=True)


def encoded(body: object) -> bytes | None:
    return None if body is None else msgspec.json.encode(body)


def as_json(shape: type[T]) -> Callable[[bytes], T]:
    return functools.partial(decode, shape=shape)


def nothing(_body: bytes) -> None:
    return None


def listed(field: str, words: Sequence[str]) -> list[str]:
    """A list of words. Raises TypeError for a single string, which Python would take for a list of
    letters.
    """
    if isinstance(words, str):
        raise TypeError(f"{field} must be a list of words, not {words!r}")
    return [*words]


def segment(word: str) -> str:
    """An escaped path segment. Also escapes "." and "..", which would change the path; raises for
    "", which would disappear.
    """
    if not isinstance(word, str):
        raise TypeError(f"a name or id must be text, not {type(word).__name__}")
    if not word:
        raise ValueError("a name or id must not be empty")
    text = quote(word, safe="")
    return text if text.strip(".") else text.replace(".", "%2E")


def query(**given: str | int | bool | None) -> str:
    """A query string of the values that are not None."""
    pairs = {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in given.items()
        if value is not None
    }
    return f"?{urlencode(pairs)}" if pairs else ""
