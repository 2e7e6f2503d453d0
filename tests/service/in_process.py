"""An HTTP client for the application in its own process, without sockets or parsing."""

import httpx

from quiltfn.api.http.request import Headers, Request
from quiltfn.api.http.route import Application


def request_of(
    method: str, path: str, headers: dict[str, str], body: bytes = b"", client: str = "127.0.0.1"
) -> Request:
    """A request whose body has arrived completely. `headers`: with lowercase names."""
    path, _, query = path.partition("?")
    request = Request(method, path, Headers(headers), query.encode(), client)
    request.feed(body)
    return request


def headers_of(fields: list[tuple[str, str]]) -> Headers:
    """The headers as a connection parses them."""
    headers = Headers()
    for name, value in fields:
        if name.lower() in headers:
            headers.repeat(name.lower(), value)
        else:
            headers[name.lower()] = value
    return headers


class InProcess(httpx.AsyncBaseTransport):
    """A transport for `httpx.AsyncClient`. `client`: the source address of requests."""

    def __init__(self, app: Application, client: str = "127.0.0.1") -> None:
        self._app, self._client = app, client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        given = Request(
            request.method,
            request.url.path,
            headers_of(request.headers.multi_items()),
            request.url.query,
            self._client,
        )
        given.target = request.url.raw_path
        given.feed(await request.aread())
        return await self.answer(given)

    async def answer(self, given: Request) -> httpx.Response:
        """The response to a prepared request, for tests that repeat one: building it takes longer
        than handling it.
        """
        response = await self._app(given)
        body = response.body
        if not isinstance(body, bytes):
            body = b"".join([chunk async for chunk in body])
        shared = {"is_shared": response.is_shared}
        return httpx.Response(
            response.status, headers=response.headers, content=body, extensions=shared
        )
