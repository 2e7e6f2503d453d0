"""The two senders. What they send is said in `requests`; they differ in an `await`."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from quiltfn.sdk.errors import ConnectionFailed, UnreadableAnswer
from quiltfn.sdk.requests import Request

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"
CONNECT_S = 5.0
WRITE_S = 30.0
CHUNK = 256 * 1024
NONSENSE = (msgspec.DecodeError, UnicodeDecodeError)


class Client:
    """Talks to a quiltfn server.

    `base_url` and `api_key` default to QUILT_BASE_URL and QUILT_API_KEY. Raises ValueError if
    one of them cannot be used.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = _base_url(base_url)
        self._http = httpx.Client(
            base_url=self.base_url,
            headers=_headers(api_key),
            transport=transport,
            trust_env=not _is_loopback(self.base_url),
        )

    def send(self, request: Request[T]) -> T:
        """Send and read the answer.

        Raises ApiError if the server refuses, ConnectionFailed if no answer comes and
        UnreadableAnswer if what comes is none of quiltfn's.
        """
        try:
            with _opened(request.archive) as file:
                sent = _build(self._http, request, file)
                return _understand(request, self._http.send(sent))
        except httpx.RequestError as error:
            raise _no_answer(self.base_url, request, error) from error
        except NONSENSE as error:
            raise _unreadable(self.base_url, error) from error

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient:
    """`Client`, for asyncio."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.base_url = _base_url(base_url)
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            headers=_headers(api_key),
            transport=transport,
            trust_env=not _is_loopback(self.base_url),
        )

    async def send(self, request: Request[T]) -> T:
        """As `Client.send`."""
        try:
            with _opened(request.archive) as file:
                sent = _build(self._http, request, file and _chunks(file))
                return _understand(request, await self._http.send(sent))
        except httpx.RequestError as error:
            raise _no_answer(self.base_url, request, error) from error
        except NONSENSE as error:
            raise _unreadable(self.base_url, error) from error

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.close()


def _base_url(given: str | None) -> str:
    url = given or os.environ.get("QUILT_BASE_URL") or DEFAULT_URL
    try:
        parts, _ = httpx.URL(url), urlsplit(url).port
    except (httpx.InvalidURL, ValueError):
        parts = httpx.URL("")
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ValueError(f"the server's address must look like {DEFAULT_URL}, not {url!r}")
    return url.rstrip("/")


def _headers(given: str | None) -> dict[str, str]:
    headers = {"Accept": "application/json", "User-Agent": "quiltfn-sdk"}
    key = (given or os.environ.get("QUILT_API_KEY") or "").strip()
    if not (key.isascii() and (key.isprintable() or not key)):
        # Not shown: a mangled key is still most of a key.
        raise ValueError("the API key holds characters no key has; was it copied whole?")
    return {**headers, "X-Api-Key": key} if key else headers


def _is_loopback(url: str) -> bool:
    """A proxy named in the environment cannot reach this machine's own server."""
    host = httpx.URL(url).host
    return host in ("localhost", "::1") or host.startswith("127.")


@contextmanager
def _opened(archive: Path | None) -> Iterator[BinaryIO | None]:
    if archive is None:
        yield None
    else:
        with archive.open("rb") as file:
            yield file


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, CHUNK):
        yield chunk


def _build(
    http: httpx.Client | httpx.AsyncClient,
    request: Request[T],
    file: BinaryIO | AsyncIterator[bytes] | None,
) -> httpx.Request:
    kind = {} if request.body is None else {"Content-Type": "application/json"}
    if request.archive is not None:
        kind["Content-Length"] = str(request.archive.stat().st_size)
    return http.build_request(
        request.method,
        request.path,
        content=request.body if file is None else file,
        headers={**kind, **request.headers},
        # Waiting for a free connection of our own pool is no fault of the server's: no limit.
        timeout=httpx.Timeout(
            connect=CONNECT_S, write=WRITE_S, read=request.read_timeout_s, pool=None
        ),
    )


def _understand(request: Request[T], response: httpx.Response) -> T:
    return request.understand(response.status_code, response.headers, response.content)


def _no_answer(url: str, request: Request[T], error: httpx.RequestError) -> ConnectionFailed:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ConnectionFailed(
            f"no quiltfn server answers at {url}; start one with: quiltfn serve"
        )
    if isinstance(error, httpx.ReadTimeout):
        return ConnectionFailed(
            f"the server at {url} took the request but did not answer within "
            f"{request.read_timeout_s:.0f} s"
        )
    return ConnectionFailed(
        f"the connection to {url} ended before the answer was there: "
        f"{str(error) or type(error).__name__}"
    )


def _unreadable(url: str, error: Exception) -> UnreadableAnswer:
    return UnreadableAnswer(f"what answers at {url} does not speak like quiltfn: {error}")
