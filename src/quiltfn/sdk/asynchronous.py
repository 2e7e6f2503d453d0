"""`AsyncClient`. In a separate module because it imports an HTTP library."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar, Literal, TypeVar
from urllib.parse import urlsplit

import httpx

from quiltfn.sdk.client import (
    NONSENSE,
    base_url_of,
    explained,
    headers_of,
    headers_with,
    opened,
    path_of,
    trust_for,
    unreadable,
)
from quiltfn.sdk.errors import ClientError
from quiltfn.sdk.groups import Groups
from quiltfn.sdk.request import Flow, Request
from quiltfn.sdk.retries import Retries
from quiltfn.sdk.transport import CONNECT_S, WRITE_S, AnswerTimeout, NotConnected, is_loopback

T = TypeVar("T")

CHUNK = 256 * 1024


class AsyncClient(Groups["AsyncClient"]):
    """`Client` for asyncio: the same methods, which must be awaited."""

    is_async: ClassVar[Literal[True]] = True

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        cacert: Path | None = None,
        retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
        on_response: Callable[[bytes], None] | None = None,
    ) -> None:
        self.base_url = base_url_of(base_url)
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            headers=headers_with(api_key),
            transport=transport,
            verify=trust_for(self.base_url, cacert) or False,
            # A proxy cannot reach a server on this machine's loopback address.
            trust_env=not is_loopback(urlsplit(self.base_url).hostname or ""),
        )
        self._retries, self._on_response = Retries(retries), on_response
        self.invoke = self.functions.invoke

    def in_tenant(self, tenant: str) -> "AsyncClient":
        """See `Client.in_tenant`."""
        other = self._for_tenant(tenant)
        other.invoke = other.functions.invoke
        return other

    async def run(self, flow: Flow[T]) -> T:
        """See `Client.run`."""
        if self._http.is_closed:
            raise RuntimeError("the client is closed")
        try:
            request = next(flow)
            while True:
                try:
                    answer = await self._send(request)
                except ClientError as error:
                    request = flow.throw(error)
                else:
                    request = flow.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _send(self, request: Request[T]) -> T:
        request, attempt = self._retries.prepared(request), 0
        while True:
            try:
                return await self._exchange(request)
            except ClientError as error:
                if self._retries.is_done(request, error, attempt):
                    return request.read(b"")
                delay = self._retries.delay(request, error, attempt)
                if delay is None:
                    raise
            await asyncio.sleep(delay)
            attempt += 1

    async def _exchange(self, request: Request[T]) -> T:
        if request.streams:
            chunks: Any = self._opened(request)
            await anext(chunks)  # returns once the head has arrived, or raises the error
            return chunks  # type: ignore[no-any-return]
        try:
            with opened(request.archive) as file:
                answer = await self._http.send(self._built(request, file))
            result = request.understand(answer.status_code, answer.headers, answer.content)
        except httpx.RequestError as error:
            raise explained(self.base_url, request, _cause(error)) from error
        except NONSENSE as error:
            raise unreadable(self.base_url, error) from error
        if self._on_response is not None:
            self._on_response(answer.content)
        return result

    async def _opened(self, request: Request[Any]) -> AsyncIterator[bytes]:
        """Yield an empty value once the response has begun, and then its chunks."""
        try:
            answer = await self._http.send(self._built(request, None), stream=True)
            try:
                if not 200 <= answer.status_code < 300:
                    request.understand(answer.status_code, answer.headers, await answer.aread())
                yield b""
                async for chunk in answer.aiter_bytes():
                    yield chunk
            finally:
                await answer.aclose()
        except httpx.RequestError as error:
            raise explained(self.base_url, request, _cause(error)) from error
        except NONSENSE as error:
            raise unreadable(self.base_url, error) from error

    def _built(self, request: Request[T], file: BinaryIO | None) -> httpx.Request:
        return self._http.build_request(
            request.method,
            path_of(request, self._tenant),
            content=request.body if file is None else _chunks(file),
            headers=headers_of(request, {}),
            # Waiting for a free connection of this client's own pool has no time limit.
            timeout=httpx.Timeout(
                connect=CONNECT_S, write=WRITE_S, read=request.read_timeout_s, pool=None
            ),
        )

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


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(file.read, CHUNK):
        yield chunk


def _cause(error: httpx.RequestError) -> Exception:
    """The exception that the standard library would have raised in this case."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, ssl.SSLError):
            return below
        below = below.__cause__ or below.__context__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return NotConnected(str(error))
    if isinstance(error, httpx.ReadTimeout):
        return AnswerTimeout(str(error))
    return OSError(str(error) or type(error).__name__)
