"""A call's way past what a call does not need: no router, no task for a body that is there already.

Every request is parsed by the same parser, asked the same questions and answered by the same
endpoint. What is left out is what ASGI has for requests whose body comes later and whose answer
comes in parts: most calls are one packet each way.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from starlette.datastructures import Address
from starlette.requests import Request

from quiltfn.idempotency import Rendered

COPIED_BYTES = 64 * 1024


class Answers(Protocol):
    """What `app.Endpoint` is to a call."""

    async def respond(self, request: Request, body: bytes | None = None) -> Rendered: ...


CallAt = Callable[[bytes], "tuple[Answers, Mapping[str, str]] | None"]


class Heads(dict[str, str]):
    """Headers of which none comes twice, by their names in small letters; what the endpoint asks of
    Starlette's, without a search through all of them for each question.
    """

    def getlist(self, name: str) -> list[str]:
        value = self.get(name)
        return [] if value is None else [value]


class CallRequest(Request):
    """A POST that came whole, as what Starlette's class would find out about it when asked."""

    method = "POST"
    headers: Any = None
    path_params: Any = None
    client: Any = None

    def __init__(
        self, path: str, parameters: Mapping[str, str], headers: Heads, client: Address | None
    ) -> None:
        self.scope = {"type": "http", "path": path, "query_string": b""}
        self.path_params, self.headers, self.client = parameters, headers, client


class DirectCall:
    """A request that came whole. Stands in for uvicorn's cycle: the connection asks it whether the
    answer is out, and tells it when it shall be the last.
    """

    # A lost connection sets it, and nobody waits. One for all, and not the call itself, which would
    # then be a cycle of references that only the collector could free.
    message_event = asyncio.Event()

    def __init__(self, request: CallRequest, endpoint: Answers, keep_alive: bool) -> None:
        self.request, self.endpoint, self.keep_alive = request, endpoint, keep_alive
        self.task: asyncio.Task[None] | None = None
        self.response_complete = False
        self.disconnected = False
        self.more_body = False
        self.body = b""

    def take_body(self) -> bytes:
        """The body, which is not kept here as well."""
        body, self.body = self.body, b""
        return body


def to_bytes(answer: Rendered, begun: bytes) -> bytes:
    """The response; `begun`: its first line and headers that every answer has. A long body has to
    follow it, and is not copied here.
    """
    lines = [f"{name}: {value}\r\n" for name, value in answer.headers.items()]
    if answer.status != 204:
        lines.append(f"content-length: {len(answer.body)}\r\n")
    lines.append("\r\n")
    head = begun + "".join(lines).encode("latin-1")
    return head + answer.body if len(answer.body) <= COPIED_BYTES else head
